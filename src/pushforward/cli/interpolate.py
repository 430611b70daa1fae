"""`pushforward interpolate RUN`: what lies between two data, in the model's codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pushforward.cli.editing import begin, data_of, items, parser, write_states
from pushforward.errors import UserError

Path = Literal["auto", "straight", "spherical"]
DESCRIPTION = """Interpolates: takes pairs of held-out data (or, with --sampled, pairs of codes that the model draws), and
decodes the codes on the way from one to the other. Where the model knows classes, both ends are of one class. --average
draws the average of the data themselves under each row, which an interpolation must beat. --out FILE.gif makes an animation."""


def run(argv: Sequence[str]) -> None:
    built = parser("interpolate", DESCRIPTION)
    built.add_argument("--steps", type=int, default=9, help="states from one end to the other, both included")
    built.add_argument("--path", type=Path, default="auto", help="auto: an arc where codes are normal, else a line")
    built.add_argument("--sampled", type=bool, default=False, help="between codes that the model draws: needs no encoder")
    built.add_argument("--average", type=bool, default=False, help="also the average of the data themselves")
    built.add_argument("--condition", type=str | None, default=None, help="a class (name or number) of all that is made")
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    given, loaded = begin(built, "interpolate", argv)
    import torch

    from pushforward.data.batches import take
    from pushforward.editing.interpolation import averages, interpolate, interpolate_samples

    n, steps, path, condition = given["n"], given["steps"], given["path"], given["condition"]
    if given["sampled"]:
        if given["average"]:
            raise UserError("--average is of data; leave it or --sampled away.")
        values = interpolate_samples(loaded, n, steps=steps, path=path, condition=condition, seed=given["seed"])
    else:
        data = data_of(loaded, given["data"])
        codes, conditions, _ = items(data, given, 2 * n)
        start, end, theirs = codes[:n], codes[n:], None
        if condition is None and loaded.spec.condition is not None and conditions is not None:
            condition, theirs = conditions[:n], conditions[n:]
            if loaded.spec.classes:
                end, theirs = partners(data, given, condition)
        values = interpolate(loaded, start, end, steps=steps, path=path, condition=condition, end_condition=theirs)
        if given["average"]:
            values = torch.stack([values, averages(start, end, steps, loaded.spec.columns).to(values.dtype)], 1).flatten(0, 1)
    known = loaded.data
    real = None if known is None or loaded.spec.kind == "tokens" else take(known.train, 2000)[0]
    labels = [f"{step / (steps - 1):.2f}" for step in range(steps)]
    rows = ["model", "average"] * n if given["average"] else None
    band = 2 if given["average"] else 0
    print(write_states(loaded, "interpolate", given, values, column_labels=labels, row_labels=rows, real=real, band=band))


def partners(data: Any, given: dict[str, Any], classes: Any) -> tuple[Any, Any]:
    """For each of these classes another datum of the same class."""
    import torch

    from pushforward.cli.editing import chosen_split
    from pushforward.data.batches import take

    pool, theirs = take(chosen_split(data, given), 5000, seed=given["seed"] + 1)
    assert theirs is not None
    found = []
    for i, k in enumerate(classes.tolist()):
        same = torch.nonzero(theirs == k)[:, 0]
        found.append(int(same[i % len(same)]) if len(same) else 0)
    return pool[found], theirs[found]
