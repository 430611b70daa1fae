"""`pushforward outliers RUN`: the data that a model finds strangest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pushforward.cli.editing import begin, chosen_split, data_of, parser, recipe, write

By = Literal["auto", "likelihood", "reconstruction"]
DESCRIPTION = """Finds outliers: scores held-out data (or --data) by the likelihood or by the reconstruction error, draws the
strangest and the most ordinary, and writes all scores to a table. With --against the score also has to tell those data from
the first: the AUROC is the probability that it does, 0.5 being chance."""


def run(argv: Sequence[str]) -> None:
    built = parser("outliers", DESCRIPTION)
    built.add_argument("--by", type=By, default="auto", help="auto: the reconstruction where codes are few")
    built.add_argument("--data", type=str | None, default=None, help="data to look through, instead of the run's own")
    built.add_argument("--against", type=str | None, default=None, help="data that should be found strange")
    built.add_argument("--most", type=int, default=2000, help="data that are looked through, at most")
    built.set_defaults({"n": 16})
    given, loaded = begin(built, "outliers", argv)
    import pandas as pd
    import torch

    from pushforward.artefacts import write_table
    from pushforward.data.batches import take
    from pushforward.editing.outliers import auroc, outlier_scores, rule
    from pushforward.pictures.draw import draw_samples
    from pushforward.pictures.grids import captioned, joined

    by = rule(loaded, given["by"])
    data = data_of(loaded, given["data"])
    split = chosen_split(data, given)
    numbers = torch.arange(min(len(split), given["most"]))
    codes, condition = split.fetch(numbers)
    asked = condition if loaded.spec.condition is not None and data.spec.condition == loaded.spec.condition else None
    scores = outlier_scores(loaded, codes, by=by, condition=asked)
    order = scores.argsort(descending=True)
    n = min(given["n"], max(1, len(codes) // 2))
    halves = [("strangest", order[:n]), ("most ordinary", order.flip(0)[:n])]
    picture = joined([captioned(draw_samples(loaded.spec, codes[rows]), title) for title, rows in halves])
    path = write(loaded, "outliers", given, picture)
    table = pd.DataFrame({"item": order.numpy(), "score": scores[order].numpy()})
    if condition is not None and condition.dim() == 1:
        table["class"] = condition[order].numpy()
    written = write_table(Path(path).with_suffix(".csv"), table, recipe(loaded, "outliers", given))
    print(f"{path}\n{written}: {len(codes)} data by {by}, the strangest first")
    if given["against"]:
        other = data_of(loaded, given["against"])
        theirs, _ = take(other.held_out or other.train, given["most"], seed=given["seed"])
        strange = outlier_scores(loaded, theirs, by=by)
        ordinary = scores if asked is None else outlier_scores(loaded, codes, by=by)
        print(f"AUROC against '{other.spec.name}': {auroc(ordinary, strange):.3f} ({len(theirs)} data)")
