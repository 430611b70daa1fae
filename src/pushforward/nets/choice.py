"""Which kind of network suits which data: what `network="auto"` means, the same in every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError, nearest

N = TypeVar("N", bound=str)

LEAST = 9  # pixels of the longer side from which convolutions are worth it: 8 x 8 digits are as well off without


def chosen_network(
    asked: N, spec: DataSpec, planar: Sequence[str] = ("conv",), flat: Sequence[str] = ("mlp",), least: int = LEAST
) -> N:
    """The kind of network that was asked for, or for "auto" the one that suits the data.

    That is the first of `planar` for images and fields (C, H, W) whose longer side has `least` numbers or more, and the first
    of `flat` for all else. A kind that the model does not know, and a planar one for other data, is a UserError.

    Args:
        asked: "auto", or a kind.
        spec: what a datum is.
        planar: the kinds that convolve over height and width (or cut them into patches).
        flat: the kinds that take any numbers.
        least: see above.

    >>> chosen_network("auto", DataSpec("image", (1, 28, 28))), chosen_network("auto", DataSpec("point", (2,)))
    ('conv', 'mlp')
    >>> chosen_network("auto", DataSpec("field", (4, 16, 16)), planar=("unet", "dit"))
    'unet'
    """
    able = ("auto", *planar, *flat)
    if asked not in able:
        raise UserError(f"network={asked!r} was given; {nearest(str(asked), able)}")
    if asked in planar and not spec.planar:
        kind = f"{spec.kind} of shape {tuple(spec.shape)}"
        raise UserError(
            f"network={asked!r} is for images and fields (C, H, W), '{spec.name}' holds {kind}; use network={flat[0]!r}."
        )
    if asked != "auto":
        return asked
    return cast(N, planar[0] if spec.planar and max(spec.shape[1:]) >= least else flat[0])
