"""`pushforward outliers RUN`: the data that a model finds strangest."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pushforward.cli.editing import add_inversion, begin, data_of, parser, recipe, write
from pushforward.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

By = Literal["auto", "likelihood", "reconstruction", "residual"]
Splits = Literal["auto", "held-out", "train", "all"]
MOST, INVERTED = 10_000, 1000  # data that are looked through; where codes are found by descent
DESCRIPTION = """Finds outliers: scores held-out data (or all of --data) by the likelihood, by the reconstruction error or, of a
GAN, by what it cannot make of them (the residual: AnoGAN), draws the strangest and the most ordinary, and writes all scores to
a table, each with its split, its number there (--items of the other verbs) and its values. With --against the score also has
to tell those data from the first: the AUROC is the probability that it does, 0.5 being chance."""


def run(argv: Sequence[str]) -> None:
    built = parser("outliers", DESCRIPTION, Splits, "auto")
    built.add_argument("--by", type=By, default="auto", help="auto: the reconstruction where codes are few, a GAN's residual")
    built.add_argument("--data", type=str | None, default=None, help="data to look through (all splits), instead of the run's")
    built.add_argument("--against", type=str | None, default=None, help="data that should be found strange (all splits)")
    built.add_argument(
        "--most",
        type=int | None,
        default=None,
        help=f"data that are looked through, at most; beyond, by chance (default: {MOST}, or {INVERTED} by the residual)",
    )
    add_inversion(built)
    built.set_defaults({"n": 16})
    given, loaded = begin(built, "outliers", argv)
    if given["most"] is not None and given["most"] < 1:
        raise UserError(f"--most {given['most']} was given; it must be at least 1.")
    from pushforward.artefacts import write_table
    from pushforward.editing.codes import alike
    from pushforward.editing.outliers import auroc, outlier_scores, residuals, rule, weakness
    from pushforward.pictures.draw import draw_rows
    from pushforward.pictures.grids import captioned, joined

    by = rule(loaded, given["by"])
    other = data_of(loaded, given["against"]) if given["against"] else None
    data = data_of(loaded, given["data"])
    if weakness(loaded, by):
        print(weakness(loaded, by), file=sys.stderr)
    split = given["split"] if given["split"] != "auto" else "all" if given["data"] else "held-out"
    most, steps, said = given["most"] or (INVERTED if by == "residual" else MOST), given["inversion_steps"], ""
    found = gathered(data, split, most, given["seed"])
    asked = found.condition if alike(loaded.spec.condition, data.spec.condition) else None
    if by == "residual":
        left = residuals(loaded, found.codes, condition=asked, steps=steps)
        scores, said = left.score, left.line()
    else:
        scores = outlier_scores(loaded, found.codes, by=by, condition=asked)
    order = scores.argsort(descending=True)
    n = min(given["n"], max(1, len(order) // 2))
    halves = [("strangest", order[:n]), ("most ordinary", order.flip(0)[:n])]
    pictures = []
    for title, rows in halves:
        beside = {"item": [" ".join(map(str, found.places[i])) for i in rows.tolist()], "score": scores[rows].tolist()}
        pictures.append(captioned(draw_rows(loaded.spec, found.codes[rows], beside), title))
    picture = joined(pictures)
    path = write(loaded, "outliers", given, picture)
    table = listed(loaded, data, found, scores, order)
    written = write_table(Path(path).with_suffix(".csv"), table, recipe(loaded, "outliers", given))
    print(f"{path}\n{written}: {found.words} by {by}, the strangest first")
    if said:
        print(said)
    if other is not None:
        theirs = gathered(other, "all", most, given["seed"])
        strange = outlier_scores(loaded, theirs.codes, by=by, inversion_steps=steps)
        ordinary = scores if asked is None else outlier_scores(loaded, found.codes, by=by, inversion_steps=steps)
        print(f"AUROC against '{other.spec.name}': {auroc(ordinary, strange):.3f} ({theirs.words})")


@dataclass
class Found:
    """Data to score, where each stands (split, number in it), and how many of how many they are."""

    codes: Tensor
    condition: Tensor | None
    places: list[tuple[str, int]]
    words: str


def gathered(data: Any, split: str, most: int, seed: int) -> Found:
    """The data of a split, or of all, but no more than `most`, chosen by the seed where there are more."""
    import torch

    held = "test" if data.test is not None and len(data.test) else "validation"
    names = {"all": ("train", "validation", "test"), "held-out": (held,), "train": ("train",)}[split]
    splits = {name: getattr(data, name) for name in names if getattr(data, name) is not None} or {"train": data.train}
    sizes = {name: len(part) for name, part in splits.items()}
    total = min(sum(sizes.values()), 2**40)
    if total > most:
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.randperm(total, generator=generator)[:most] if total < 2**24 else torch.arange(most)
        numbers = numbers.sort().values
    else:
        numbers = torch.arange(total)
    codes, conditions, places, first, parts = [], [], [], 0, []
    for name, part in splits.items():
        inside = numbers[(numbers >= first) & (numbers < first + sizes[name])] - first
        first += sizes[name]
        if len(inside):
            x, condition = part.fetch(inside)
            codes.append(x)
            conditions.append(condition)
            places += [(name, i) for i in inside.tolist()]
            parts.append(f"{len(inside)} {name}" if len(inside) == sizes[name] else f"{len(inside)} of {sizes[name]} {name}")
    together = None if conditions[0] is None else torch.cat(conditions)
    return Found(torch.cat(codes), together, places, f"{len(places)} data ({', '.join(parts)})")


def listed(run: Any, data: Any, found: Found, scores: Tensor, order: Tensor) -> pd.DataFrame:
    """The scores as a table: where each datum stands, its class, and its values or its file's name."""
    import pandas as pd

    from pushforward.data.table_units import as_table

    places = [found.places[i] for i in order.tolist()]
    table = pd.DataFrame(places, columns=["split", "item"])
    table["score"] = scores[order].numpy()
    known = data.spec.condition
    if found.condition is not None and known is not None and known.kind == "class":
        names = known.names or [str(k) for k in range(known.size)]
        table["class"] = [names[k] for k in found.condition[order].tolist()]
    values = run.units.present(found.codes[order])
    if run.spec.kind == "point" and run.spec.columns:
        values = as_table(run.spec.columns, values)
    if isinstance(values, pd.DataFrame):
        taken = {name: f"{name} (data)" for name in values.columns if name in table.columns}
        return pd.concat([table, values.rename(columns=taken)], axis=1)
    if isinstance(values, list):
        table["text"] = values
    splits = {name: getattr(data, name) for name, _ in places}
    if all(hasattr(part, "records") for part in splits.values()):
        table["file"] = [splits[name].records.name(int(splits[name].rows[i])) for name, i in places]
    return table
