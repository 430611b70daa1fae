"""`pushforward mix RUN`: coarse styles of some images, fine styles of others; or contents of some in the views of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pushforward.cli.editing import begin, conditions_asked, drawing_parser, write
from pushforward.errors import UserError

DESCRIPTION = """Mixes styles: each image of the grid has the coarse styles of its row's image and the fine ones of its
column's, both drawn. --layers says where the change happens: 3, that the layers after the third are the column's; coarse,
middle or fine, that this third of them is; several with commas (coarse,middle,fine) are a grid each. It needs a generator
whose layers have styles of their own: stylegan, stylegan2. Of a model of contents and views (gmv) each row is a content and
each column a view."""


def run(argv: Sequence[str]) -> None:
    built = drawing_parser("mix", DESCRIPTION)
    built.add_argument("--n", type=int, default=6, help="rows, whose coarse styles are taken")
    built.add_argument("--columns", type=int, default=8, help="columns, whose fine styles are taken")
    built.add_argument("--layers", type=str | None, default=None, help="where it changes; by default in the middle")
    built.add_argument("--condition", type=str | None, default=None, help="a class of the rows, or several with commas")
    built.add_argument("--column_condition", type=str | None, default=None, help="of the columns; by default that of the rows")
    given, loaded = begin(built, "mix", argv)
    from pushforward.data.conditions import parse_condition
    from pushforward.editing.codes import decoded
    from pushforward.editing.interpolation import drawn_codes
    from pushforward.editing.mixing import STYLES, layers, mixed, part, viewed
    from pushforward.pictures.grids import captioned, joined, tile_rows, tile_scale

    n, columns = given["n"], given["columns"]
    if columns < 1:
        raise UserError(f"--columns {columns} was given; it must be at least 1.")
    grid = viewed(loaded, n, columns, given["seed"])
    if grid is not None:
        if given["layers"] or given["condition"] or given["column_condition"]:
            raise UserError("this model mixes contents and views, drawn; leave --layers and conditions away.")
        picture = tile_rows([list(row.numpy()) for row in grid], loaded.spec, scale=tile_scale(loaded.spec, columns))
        print(write(loaded, "mix", given, captioned(picture, "a content a row, a view a column")))
        return
    count = layers(loaded)
    asked = given["layers"] or str(count // 2)
    parts = [part(word.strip(), count) for word in asked.split(",")]

    def drawn(size: int, words: list[str] | None, side: int) -> Any:
        return drawn_codes(loaded, size, 2 * given["seed"] + side, parse_condition(loaded.spec, words, size), STYLES)

    own = conditions_asked(loaded.spec, given["condition"], n)
    others = conditions_asked(loaded.spec, given["column_condition"] or given["condition"], columns)
    a, b = drawn(n, own, 0), drawn(columns, others, 1)
    coarse, fine = (decoded(loaded, w[:, None], space=STYLES)[:, 0] for w in (a, b))
    pictures, scale = [], tile_scale(loaded.spec, columns + 1)
    for theirs in parts:
        grid = mixed(loaded, a, b, theirs)
        rows = [[None, *fine.numpy()], *([first.numpy(), *row.numpy()] for first, row in zip(coarse, grid, strict=True))]
        labels, names = (["", *words] if words else None for words in (own, others))
        which = f"layer {theirs[0] + 1}" if len(theirs) == 1 else f"layers {theirs[0] + 1} to {theirs[-1] + 1}"
        picture = tile_rows(rows, loaded.spec, scale=scale, row_labels=labels, column_labels=names)
        pictures.append(captioned(picture, f"{which} of {count} of the column's, the others of the row's"))
    print(write(loaded, "mix", given, joined(pictures)))
