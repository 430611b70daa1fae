"""`pushforward evaluate RUN`: one table of what a run is worth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pushforward.cli.parsing import Parser, peel, plain
from pushforward.errors import UserError

DESCRIPTION = """Measures a run: fidelity, diversity, likelihood, memory, cost, each beside the real-against-real floor with its
interval; writes metrics.json and report.html to the run directory."""


def run(argv: Sequence[str]) -> None:
    words, rest = peel(argv)
    built = Parser("pushforward evaluate RUN", DESCRIPTION)
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    built.add_argument(
        "--n", type=int | None, default=None, help="samples to measure with; by default as many as held-out data"
    )
    built.add_argument("--seed", type=int, default=0, help="of the samples and of every estimate")
    built.add_argument("--features", type=str, default="auto", help="auto, pixels, classifier, encoder or inception")
    built.add_argument("--device", type=str, default="cpu", help="where the model runs")
    given = plain(built.understand(rest))
    if not words:
        raise UserError("which run? Give its directory: pushforward evaluate runs/NAME")
    from pushforward.training.records import read_record

    source = read_record(Path(words[0]))["data"]["source"]
    from pushforward.training.opening import load, open_data

    loaded = load(words[0], device=given["device"])
    data = open_data(**{**source, "source": given["data"]}) if given["data"] else None
    measure_and_report(loaded, data, n=given["n"], seed=given["seed"], features=given["features"])


def measure_and_report(run: Any, data: Any = None, **options: Any) -> None:
    """Evaluates, prints the table and what to look at, and writes the report."""
    from rich.console import Console

    from pushforward.comparison.report import write_report
    from pushforward.evaluation.evaluate import evaluate

    evaluation = evaluate(run, data, **options)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    console.print(evaluation.table(console.width))
    for line in evaluation.remarks():
        console.print(line, markup=False, highlight=False)
    console.print(f"report: {write_report(run.directory)}", soft_wrap=True, markup=False)
