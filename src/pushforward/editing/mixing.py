"""Style mixing: an image whose layers see the styles of two, some those of one, the others those of the other.

With w_l(a) the style that layer l = 1 .. L sees in image a (a code of the space "w+"), and S the layers that are the other's,

    x_ij = g(w_1, ..., w_L),      w_l = w_l(b_j) for l in S, else w_l(a_i).

Coarse layers say what an image is of, fine ones how it looks, as far as the generator divides them.

A model whose codes are a content and a view mixes these: x_ij has the content of the row and the view of the column.

Karras, Laine and Aila 2019, arXiv:1812.04948 (Figure 3: S the coarse, the middle or the fine layers); Chen, Denoyer and
Artieres 2018, arXiv:1711.00305.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Num
from torch import Tensor

from pushforward.editing.codes import able, decoded
from pushforward.editing.inversion import space_of
from pushforward.errors import UserError
from pushforward.models.contract import Spaces, Views

if TYPE_CHECKING:
    from pushforward.training.runs import Run

STYLES = "w+"  # the space of codes with a style for each layer
PARTS = ("coarse", "middle", "fine")


def viewed(run: Run, contents: int, views: int, seed: int) -> Num[Tensor, "contents views *shape"] | None:
    """Data (levels): each content, drawn, in each view; None of a model whose codes have no such parts."""
    if not isinstance(run.model, Views) or not run.model.content:
        return None
    x = run.model.views(contents, views, generator=seed)
    return run.units.to_codes(x.flatten(0, 1)).cpu().unflatten(0, (contents, views))


def layers(run: Run) -> int:
    """L, how many styles an image has. Raises UserError for a model whose layers have no styles of their own."""
    able(run)
    if not isinstance(run.model, Spaces) or STYLES not in run.model.spaces():
        raise UserError(
            f"'{run.record['model']['name']}' cannot mix: its layers have no styles of their own. stylegan and stylegan2 can, "
            "and gmv; `pushforward interpolate` shows what lies between two codes of others."
        )
    return space_of(run.model, STYLES).draw(1, generator=0).shape[1]


def part(words: str, count: int) -> range:
    """The layers, of 0 .. count - 1, that words name: "coarse", "middle", "fine" (thirds), or a number, from which on.

    >>> part("3", 6), part("middle", 14)
    (range(3, 6), range(5, 9))
    """
    if words in PARTS:
        bounds = [round(count * k / len(PARTS)) for k in range(len(PARTS) + 1)]
        k = PARTS.index(words)
        return range(bounds[k], bounds[k + 1])
    if not words.isdecimal() or not 1 <= int(words) < count:
        raise UserError(
            f"layers {words} were given; expected a number from 1 to {count - 1} (of {count} layers, those from it on are the "
            f"column's), or {', '.join(PARTS[:-1])} or {PARTS[-1]}."
        )
    return range(int(words), count)


def mixed(run: Run, a: Float[Tensor, "n l d"], b: Float[Tensor, "m l d"], theirs: range) -> Num[Tensor, "n m *shape"]:
    """Images (levels) of the styles a_i, but for those of the layers `theirs`, which are b_j's."""
    codes = a[:, None].repeat(1, len(b), 1, 1)
    codes[:, :, theirs] = b[:, theirs]
    return decoded(run, codes, space=STYLES)
