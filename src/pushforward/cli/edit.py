"""`pushforward edit RUN --attribute Smiling`: adds an attribute to data, or takes it away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pushforward.cli.editing import begin, data_of, items, parser, write_states
from pushforward.errors import UserError

DESCRIPTION = """Edits: moves data along the direction of an attribute, the mean code of the data that have it minus that of
those that have not (learned from the training split). --data and --attributes (or --label) say where attributes are known,
when the run was trained without them. A model that was trained given them is edited by its condition instead: its codes are
decoded under another class, or with the attribute set to each strength."""


def run(argv: Sequence[str]) -> None:
    built = parser("edit", DESCRIPTION)
    built.add_argument("--attribute", type=str | None, default=None, help="its name (or the name or number of a class)")
    built.add_argument("--strengths", type=str, default="", help="how far, with commas; 1 is from mean to mean (or: with it)")
    built.add_argument("--data", type=str | None, default=None, help="data with the attribute; by default the run's own")
    built.add_argument("--attributes", type=str | None, default=None, help="columns of that data that are attributes")
    built.add_argument("--label", type=str | None, default=None, help="the column of that data that is a class")
    given, loaded = begin(built, "edit", argv)
    if given["attribute"] is None:
        raise UserError("which attribute? Give --attribute NAME.")
    import torch

    from pushforward.data.batches import take
    from pushforward.editing.attributes import direction, edit, having, switch

    columns: dict[str, Any] = {key: given[key] for key in ("attributes", "label") if given[key] is not None}
    data = data_of(loaded, given["data"], **columns)
    known, own = data.spec.condition, loaded.spec.condition
    _, some = take(data.train, 4000)
    if some is None:
        raise UserError(f"the data '{data.spec.name}' come without labels or attributes; load them with --attributes.")
    having(some, known, given["attribute"])
    codes, condition, numbers = items(data, given)
    given_it = own is not None and own == known
    usual = {"class": [1.0], "attributes": [0.0, 0.5, 1.0]}[own.kind] if given_it else [-1.0, -0.5, 0.0, 0.5, 1.0]
    strengths = _numbers(given["strengths"]) or usual
    if given_it:
        values = switch(loaded, codes, condition, given["attribute"], strengths)
    else:
        values = edit(loaded, codes, direction(loaded, data, given["attribute"]), strengths)
    values = torch.cat([codes[:, None].to(values.dtype), values], 1)
    labels = ["datum", *[given["attribute"] if given_it and s == 1 else f"{s:+g}" for s in strengths]]
    print(write_states(loaded, "edit", given, values, row_labels=[f"{i}" for i in numbers], column_labels=labels))


def _numbers(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",") if word]
    except ValueError:
        raise UserError(f"--strengths {words} was given; expected numbers with commas, such as -1,0,1.") from None
