"""`pushforward interpolate RUN`: what lies between two data, in the model's codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from pushforward.cli.editing import add_inversion, add_space, begin, chosen_split, data_of, named, parser, some_of, write_states
from pushforward.errors import UserError

Path = Literal["auto", "straight", "spherical"]
LOOKED = 5000  # data among which partners of the same class are looked for
DESCRIPTION = """Interpolates: takes pairs of held-out data (or, with --sampled, pairs of codes that the model draws), and
decodes the codes on the way from one to the other. --items 0,5,12,7 are the pairs 0 to 5 and 12 to 7; without it there are --n
pairs by chance, both ends of one class where the model knows classes. --condition A --end-condition B draws codes that stay as
they are while A turns into B: classes or captions of a GAN. --average draws the average of the data themselves under each row,
which an interpolation must beat. --out FILE.gif makes an animation."""


def run(argv: Sequence[str]) -> None:
    built = parser("interpolate", DESCRIPTION)
    built.add_argument("--steps", type=int, default=9, help="states from one end to the other, both included")
    built.add_argument("--path", type=Path, default="auto", help="auto: an arc where codes are normal, else a line")
    built.add_argument("--sampled", type=bool, default=False, help="between codes that the model draws: needs no encoder")
    built.add_argument("--average", type=bool, default=False, help="also the average of the data themselves")
    built.add_argument("--condition", type=str | None, default=None, help="a class, or a caption, of all that is made")
    built.add_argument("--end_condition", type=str | None, default=None, help="what --condition turns into on the way")
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    add_inversion(built)
    add_space(built)
    given, loaded = begin(built, "interpolate", argv)
    import torch

    from pushforward.data.batches import take
    from pushforward.editing.codes import able, inversion_line, inverted
    from pushforward.editing.interpolation import averages, interpolate, interpolate_conditions, interpolate_samples
    from pushforward.editing.reconstruction import errors

    steps, path, condition, said = given["steps"], given["path"], given["condition"], ""
    space = given["space"]
    able(loaded, space)
    if given["end_condition"] is not None:
        if condition is None or given["average"] or given["items"] or given["data"]:
            raise UserError("--end-condition goes with --condition, between codes that the model draws; no data are looked at.")
        if space != "z":
            raise UserError(f"a code in {space} has its condition in it, which cannot move by itself; leave --space away.")
        values = interpolate_conditions(loaded, given["n"], condition, given["end_condition"], steps=steps, seed=given["seed"])
    elif given["sampled"]:
        if given["average"]:
            raise UserError("--average is of data; leave it or --sampled away.")
        values = interpolate_samples(
            loaded, given["n"], steps=steps, path=path, condition=condition, seed=given["seed"], space=space
        )
    else:
        data = data_of(loaded, given["data"])
        first, last = pairs(data, given)
        (start, own), (end, theirs) = (chosen_split(data, given).fetch(torch.tensor(which)) for which in (first, last))
        if condition is not None or loaded.spec.condition is None or own is None:
            theirs = None
        else:
            condition = own
            if loaded.spec.classes and not given["items"]:
                end, theirs = partners(data, given, first, own)
            elif loaded.spec.classes and not torch.equal(own, theirs):
                print("not all pairs are of one class: codes are decoded under the class of the first.", file=sys.stderr)
        values = interpolate(
            loaded, start, end, steps=steps, path=path, condition=condition, end_condition=theirs,
            inversion_steps=given["inversion_steps"], space=space,
        )  # fmt: skip
        if inverted(loaded, space):
            ends = errors(loaded, torch.cat([start, end]), torch.cat([values[:, 0], values[:, -1]]))
            said = inversion_line(ends.squared, given["inversion_steps"], space)
        if given["average"]:
            values = torch.stack([values, averages(start, end, steps, loaded.spec.columns).to(values.dtype)], 1).flatten(0, 1)
    known = loaded.data
    real = None if known is None or loaded.spec.kind == "tokens" else take(known.train, 2000)[0]
    labels = [f"{step / (steps - 1):.2f}" for step in range(steps)]
    rows = ["model", "average"] * (len(values) // 2) if given["average"] else None
    band = 2 if given["average"] else 0
    print(write_states(loaded, "interpolate", given, values, column_labels=labels, row_labels=rows, real=real, band=band))
    if said:
        print(said)


def pairs(data: Any, given: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The numbers of the data at the beginnings and at the ends: --items by twos, or --n pairs by chance, whose data are all
    different while there are 2 n (else they come again, in other pairs where there are any)."""
    chosen, n, size = named(data, given), given["n"], len(chosen_split(data, given))
    if len(chosen) % 2:
        raise UserError(
            f"--items {given['items']} was given, an odd count; give pairs, such as 0,5,12,7 for 0 to 5 and 12 to 7."
        )
    if chosen:
        first, last = chosen[::2], chosen[1::2]
        same = [a for a, b in zip(first, last, strict=True) if a == b]
        if same:
            raise UserError(f"--items {given['items']} pairs item {same[0]} with itself; give pairs of two different data.")
        return first, last
    if size < 2:
        raise UserError(f"the {given['split']} data are a single datum: there is no pair. Give more of them (--data).")
    if size >= 2 * n:
        both = some_of(size, 2 * n, given["seed"])
        return both[:n], both[n:]
    order = some_of(size, size, given["seed"])
    steps = [1 + (n - 1 + i // size) % (size - 1) for i in range(n)]  # never 0, so nothing meets itself
    return [order[i % size] for i in range(n)], [order[(i + step) % size] for i, step in enumerate(steps)]


def partners(data: Any, given: dict[str, Any], first: list[int], classes: Any) -> tuple[Any, Any]:
    """For each of these data (their numbers and classes) another one of the same class, or of any where there is none."""
    import torch

    split = chosen_split(data, given)
    numbers = torch.tensor(some_of(len(split), LOOKED, given["seed"] + 1))
    pool, theirs = split.fetch(numbers)
    found, alone = [], []
    for i, (number, k) in enumerate(zip(first, classes.tolist(), strict=True)):
        others = torch.nonzero(numbers != number)[:, 0]
        same = others[theirs[others] == k]
        if not len(same):
            alone.append(number)
        choice = same if len(same) else others
        found.append(int(choice[i % len(choice)]))
    if alone:
        which = f"item{'s' if len(alone) > 1 else ''} {', '.join(map(str, alone))}"
        print(
            f"among {len(numbers)} {given['split']} data no other is of the class of {which}: the other end is of another "
            "class, and decoded under that of the first.",
            file=sys.stderr,
        )
    return pool[found], theirs[found]
