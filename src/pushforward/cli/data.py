"""`pushforward data PATH`: what a data set holds, and what may be wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pushforward.cli.parsing import Parser, peel, plain

DESCRIPTION = """Describes a data set: spec, counts, value ranges, class balance, suspected problems; draws a preview. Takes a
name (digits, ring8, moons, ...), a folder of images, .npz, .csv, .parquet, .txt, or a hub name, with the options of `train`."""


def run(argv: Sequence[str]) -> None:
    from pushforward.cli.train import add_data_options

    words, rest = peel(argv)
    built = Parser("pushforward data PATH", DESCRIPTION)
    built.add_argument("--out", type=str | None, default=None, help="where the preview goes (default: preview-NAME.png)")
    sources = add_data_options(built)
    given = plain(built.understand(rest))
    from pushforward.artefacts import write_picture
    from pushforward.data.batches import take
    from pushforward.data.inspection import describe
    from pushforward.pictures.draw import draw_samples
    from pushforward.training.opening import open_data

    data = open_data(words[0] if words else "digits", **{key: given[key] for key in sources})
    print(describe(data).text())
    n = {"image": 100, "field": 100, "tokens": 4, "series": 12}.get(data.spec.kind, 2000)
    codes, condition = take(data.train, n)
    if data.spec.classes and data.spec.kind == "image" and condition is not None:
        order = condition.argsort(stable=True)
        codes, condition = codes[order], condition[order]
    safe = re.sub(r"[^\w.-]+", "-", data.spec.name)
    path = Path(given["out"] or f"preview-{safe}.png")
    write_picture(draw_samples(data.spec, codes), path, {"data": data.source})
    print(f"preview: {path}")
