"""`pushforward edit RUN --attribute Smiling`: adds an attribute to data, or takes it away."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pushforward.cli.editing import add_inversion, add_space, begin, data_of, items, parser, write_states
from pushforward.errors import UserError

DESCRIPTION = """Edits: moves data along the direction of an attribute, the mean code of the data that have it minus that of
those that have not (learned from the training split; from 500 of it where codes must be found by descent, as those of a GAN).
--data and --attributes (or --label) say where attributes are known, when the run was trained without them. A decoder that is
told the class or the attributes is edited by that instead: codes are decoded under another class, or with the attribute set to
each strength; in w and w+ of a StyleGAN a code has its class in it, and is moved."""


def run(argv: Sequence[str]) -> None:
    built = parser("edit", DESCRIPTION)
    built.add_argument("--attribute", type=str | None, default=None, help="its name (or the name or number of a class)")
    built.add_argument(
        "--strengths",
        type=str,
        default="",
        help="how far (--strengths=-1,0,1); 1 is from mean to mean, or: with it",
    )
    built.add_argument("--data", type=str | None, default=None, help="data with the attribute; by default the run's own")
    built.add_argument("--attributes", type=str | None, default=None, help="columns of that data that are attributes")
    built.add_argument("--label", type=str | None, default=None, help="the column of that data that is a class")
    add_inversion(built)
    add_space(built)
    given, loaded = begin(built, "edit", argv)
    if given["attribute"] is None:
        elsewhere = any(given[key] for key in ("data", "label", "attributes"))
        raise UserError(f"which attribute? Give --attribute NAME{'' if elsewhere else offered(loaded.spec.condition)}.")
    asked = _numbers(given["strengths"])
    import torch

    from pushforward.data.batches import take
    from pushforward.editing.attributes import direction, having, moved, switched, told
    from pushforward.editing.codes import able, alike, found

    space = given["space"]
    able(loaded, space)
    columns: dict[str, Any] = {key: given[key] for key in ("attributes", "label") if given[key] is not None}
    data = data_of(loaded, given["data"], **columns)
    known, own = data.spec.condition, loaded.spec.condition
    _, some = take(data.train, 4000)
    if some is None:
        raise UserError(f"the data '{data.spec.name}' come without labels or attributes; give --label or --attributes.")
    having(some, known, given["attribute"])
    codes, condition, numbers = items(data, given)
    same = alike(own, known)
    start = found(loaded, codes, condition if same else None, given["inversion_steps"], space)
    if same and told(loaded, codes, condition, space):
        strengths = asked or {"class": [0.0, 1.0], "attributes": [0.0, 0.5, 1.0]}[own.kind]
        values = switched(loaded, start.z, condition, given["attribute"], strengths)
        names = {0.0: "again", 1.0: given["attribute"]} if own.kind == "class" else {}
    else:
        if same and space == "z":
            print(
                f"the decoder of '{loaded.record['model']['name']}' is not told the {own.kind}: its codes are moved instead, "
                "along the difference of their means.",
                file=sys.stderr,
            )
        strengths = asked or [-1.0, -0.5, 0.0, 0.5, 1.0]
        along = direction(loaded, data, given["attribute"], inversion_steps=given["inversion_steps"], space=space)
        values = moved(loaded, start.z, along, strengths, condition if same else None, space)
        names = {0.0: "again"}
    values = torch.cat([codes[:, None].to(values.dtype), values], 1)
    labels = ["datum", *[names.get(strength, f"{strength:+g}") for strength in strengths]]
    print(write_states(loaded, "edit", given, values, row_labels=[f"{i}" for i in numbers], column_labels=labels))
    if start.line():
        print(start.line())


def offered(known: Any) -> str:
    """The classes or attributes of a run, ten at most, to end a sentence; nothing where it has none."""
    if known is None or known.kind not in ("class", "attributes"):
        return ""
    names = list(known.names) or [str(k) for k in range(known.size)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"; the {'classes' if known.kind == 'class' else 'attributes'} are {', '.join(names[:10])}{more}"


def _numbers(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",") if word]
    except ValueError:
        raise UserError(f"--strengths {words} was given; expected numbers with commas, such as --strengths=-1,0,1.") from None
