"""`pushforward reconstruct RUN`: data beside what their codes give back."""

from __future__ import annotations

from collections.abc import Sequence

from pushforward.cli.editing import add_inversion, add_space, begin, data_of, items, parser, write

DESCRIPTION = """Reconstructs: encodes data and decodes the codes, draws both, and says how far they are apart. Codes of a model
that does not encode (a GAN) are found by descent, which is said."""


def run(argv: Sequence[str]) -> None:
    built = parser("reconstruct", DESCRIPTION)
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    add_inversion(built)
    add_space(built)
    built.set_defaults({"n": 16})
    given, loaded = begin(built, "reconstruct", argv)
    from pushforward.editing.codes import able, decoded, found, inverted
    from pushforward.editing.reconstruction import errors
    from pushforward.pictures.draw import draw_pairs

    space = given["space"]
    able(loaded, space)
    data = data_of(loaded, given["data"])
    codes, condition, _ = items(data, given)
    asked = condition if loaded.spec.condition is not None else None
    if inverted(loaded, space):
        nearest = found(loaded, codes, asked, given["inversion_steps"], space)
        again, said = decoded(loaded, nearest.z[:, None], asked, space)[:, 0], nearest.line()
    else:  # also such as have codes of which there is nothing to say but what they decode to
        again, said = loaded.units.parse(loaded.reconstruct(codes, condition=asked)), ""
    print(write(loaded, "reconstruct", given, draw_pairs(loaded.spec, codes, again, ("data", "again"))))
    for line in [*([said] if said else []), *errors(loaded, codes, again).lines()]:
        print(line)
