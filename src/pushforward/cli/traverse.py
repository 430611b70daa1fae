"""`pushforward traverse RUN`: what each unit of the code stands for."""

from __future__ import annotations

from collections.abc import Sequence

from pushforward.cli.editing import add_inversion, begin, data_of, items, parser, write_states
from pushforward.errors import UserError

DESCRIPTION = """Traverses: takes one datum's code and moves one of its units at a time, a row a unit, from --span standard
deviations below the mean to as many above. Without --units the units that change the datum most are shown first."""


def run(argv: Sequence[str]) -> None:
    built = parser("traverse", DESCRIPTION)
    built.add_argument("--steps", type=int, default=9, help="states of each unit")
    built.add_argument("--span", type=float, default=2.5, help="how far, in standard deviations of the unit")
    built.add_argument("--units", type=str | None, default=None, help="which, with commas; by default the --n most telling")
    built.add_argument("--sampled", type=bool, default=False, help="begin with a code that the model draws: needs no encoder")
    built.add_argument("--condition", type=str | None, default=None, help="a class (name or number) for what --sampled draws")
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    add_inversion(built)
    given, loaded = begin(built, "traverse", argv)
    import torch

    from pushforward.data.conditions import parse_condition
    from pushforward.editing.codes import able, found
    from pushforward.editing.interpolation import drawn_codes
    from pushforward.editing.traversals import traverse

    units = None
    if given["units"]:
        try:
            units = [int(word) for word in given["units"].split(",")]
        except ValueError:
            raise UserError(f"--units {given['units']} was given; expected numbers with commas, such as 0,5,12.") from None
    able(loaded)
    if given["condition"] is not None and not given["sampled"]:
        raise UserError("--condition is of a code that the model draws: give --sampled as well (a datum has its own).")
    asked, data, said = None, None, ""
    if given["sampled"]:
        asked = parse_condition(loaded.spec, given["condition"], 1)
        z = drawn_codes(loaded, 1, given["seed"], asked)[0]
    else:
        data = data_of(loaded, given["data"])
        codes, condition, _ = items(data, given, 1)
        asked = condition if loaded.spec.condition is not None else None
        start = found(loaded, codes, asked, given["inversion_steps"])
        z, said = start.z[0], start.line()
    made = traverse(
        loaded,
        z,
        units=units,
        count=given["n"],
        steps=given["steps"],
        span=given["span"],
        condition=asked,
        data=data,
    )
    rows = [f"unit {unit}" for unit in made.units]
    labels = [f"{t:+.1f}" for t in torch.linspace(-given["span"], given["span"], given["steps"]).tolist()]
    print(write_states(loaded, "traverse", given, made.values, row_labels=rows, column_labels=labels))
    if said:
        print(said)
    for unit, change in zip(made.units, made.change.tolist(), strict=True):
        print(f"unit {unit:>4}: changes the datum by {change:.3f} (root mean square, model units)")
