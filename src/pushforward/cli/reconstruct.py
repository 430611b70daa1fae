"""`pushforward reconstruct RUN`: data beside what their codes give back."""

from __future__ import annotations

from collections.abc import Sequence

from pushforward.cli.editing import begin, data_of, items, parser, write

DESCRIPTION = """Reconstructs: encodes data and decodes the codes, draws both, and says how far they are apart."""


def run(argv: Sequence[str]) -> None:
    built = parser("reconstruct", DESCRIPTION)
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    built.set_defaults({"n": 16})
    given, loaded = begin(built, "reconstruct", argv)
    from pushforward.editing.codes import able
    from pushforward.editing.reconstruction import errors
    from pushforward.pictures.draw import draw_pairs

    able(loaded)
    data = data_of(loaded, given["data"])
    codes, condition, _ = items(data, given)
    asked = condition if loaded.spec.condition is not None else None
    again = loaded.units.parse(loaded.reconstruct(codes, condition=asked))
    print(write(loaded, "reconstruct", given, draw_pairs(loaded.spec, codes, again, ("data", "again"))))
    for line in errors(loaded, codes, again).lines():
        print(line)
