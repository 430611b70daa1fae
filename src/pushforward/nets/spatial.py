"""Fully convolutional encoder and decoder between images of any size and smaller grids of vectors, with residual blocks.

As in van den Oord et al. 2017, arXiv:1711.00937: strided convolutions, then residual blocks at the smallest size, and the
mirror image; with group normalisation, so that no image depends on its neighbours in the batch.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.nets.conv import ResidualBlock, geometry, norm

SMALLEST = 4  # an axis is halved while it has this many pixels


def grids(height: int, width: int, halvings: int) -> list[tuple[int, int]]:
    """The sizes of an image that is halved so many times, largest first; an axis of less than 4 pixels stays.

    Raises UserError where there is nothing left to halve.

    >>> grids(29, 64, 2)
    [(29, 64), (14, 32), (7, 16)]
    """
    sizes = [(height, width)]
    for _ in range(halvings):
        if max(sizes[-1]) < SMALLEST:
            raise UserError(
                f"{halvings} halvings of images of {height}x{width} were asked for; axes of at least {SMALLEST} pixels are "
                f"halved, so that at most {len(sizes) - 1} can be done."
            )
        above, along = (n // 2 if n >= SMALLEST else n for n in sizes[-1])
        sizes.append((above, along))
    return sizes


def _widths(width: int, halvings: int) -> list[int]:
    """Channels after each halving: `width` at the end, half of it before."""
    return [width if i == halvings - 1 else max(width // 2, 1) for i in range(halvings)]


class SpatialEncoder(nn.Module):
    """Images (B, C, H, W) -> (B, outputs, h, w), the last of `grids(H, W, halvings)`.

    Args:
        shape: channels, height, width of an image; any.
        outputs: channels that come out.
        halvings: strided convolutions.
        width: channels at the smallest size (half as many before).
        depth: residual blocks there.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, halvings: int = 2, width: int = 64, depth: int = 2):
        super().__init__()
        channels, height, length = shape
        sizes = grids(height, length, halvings)
        layers: list[nn.Module] = []
        for out, larger, smaller in zip(_widths(width, halvings), sizes, sizes[1:], strict=False):
            layers += [nn.Conv2d(channels, out, **geometry(larger, smaller)), nn.SiLU()]  # type: ignore[arg-type]
            channels = out
        layers += [nn.Conv2d(channels, width, 3, padding=1), *(ResidualBlock(width) for _ in range(depth))]
        self.body = nn.Sequential(*layers, norm(width), nn.SiLU(), nn.Conv2d(width, outputs, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        return self.body(x)


class SpatialDecoder(nn.Module):
    """The mirror image: (B, inputs, h, w) -> images (B, C, H, W). Arguments as `SpatialEncoder`'s."""

    def __init__(self, inputs: int, shape: tuple[int, ...], halvings: int = 2, width: int = 64, depth: int = 2):
        super().__init__()
        channels, height, length = shape
        sizes, inner = grids(height, length, halvings), _widths(width, halvings)
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1), *(ResidualBlock(width) for _ in range(depth))]
        layers += [norm(width), nn.SiLU()]
        for i in range(halvings, 0, -1):
            larger, smaller = sizes[i - 1], sizes[i]
            odd = tuple(n % 2 if n != m else 0 for n, m in zip(larger, smaller, strict=True))  # 29 -> 14 -> 28 + 1
            out = inner[i - 2] if i > 1 else channels
            shapes = geometry(larger, smaller)
            layers += [nn.ConvTranspose2d(inner[i - 1], out, output_padding=odd, **shapes)]  # type: ignore[arg-type]
            layers += [nn.SiLU()] if i > 1 else []
        if not halvings:
            layers += [nn.Conv2d(width, channels, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.body(z)
