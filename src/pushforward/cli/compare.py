"""`pushforward compare MODEL MODEL ... --data ANY --budget 5m`: several models under one budget, one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pushforward import building
from pushforward.cli.parsing import Parser, peel, plain
from pushforward.cli.train import add_data_options
from pushforward.errors import UserError

DESCRIPTION = """Trains several models on the same data under one budget, measures each beside the same floor, and writes one
table and one page."""


def run(argv: Sequence[str]) -> None:
    names, rest = peel(argv, many=True)
    built = Parser("pushforward compare MODEL MODEL ...", DESCRIPTION)
    built.add_argument("--data", type=str, default="digits", help="as for `train`")
    built.add_argument("--budget", type=str | None, default=None, help="training time of each: 60s, 5m")
    built.add_argument("--steps", type=int | None, default=None, help="steps of each, instead of a time")
    built.add_argument("--out", type=str | None, default=None, help="directory of the runs and the page")
    built.add_argument("--seed", type=int, default=0, help="of everything")
    built.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda")
    sources = add_data_options(built)
    given = plain(built.understand(rest))
    for name in names:
        building.method(name)
    if len(names) < 2:
        raise UserError("compare needs two models or more, such as gmm vae gan (`pushforward models` lists them).")
    from rich.console import Console

    from pushforward.comparison.compare import compare
    from pushforward.training.opening import open_data

    data = open_data(given["data"], **{key: given[key] for key in sources})
    found = compare(
        names, data, budget=given["budget"], steps=given["steps"], out=given["out"], seed=given["seed"], device=given["device"]
    )
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140)
    console.print(found.table(console.width))
    for note in found.notes():
        console.print(note, markup=False)
    console.print(f"page: {found.page}", soft_wrap=True, markup=False)
