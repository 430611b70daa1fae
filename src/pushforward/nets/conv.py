"""Convolutional encoder and decoder for images of any size: DCGAN's strided convolutions, with group normalisation.

Source: Radford et al. 2016, arXiv:1511.06434, with GroupNorm (Wu and He 2018, arXiv:1803.08494) in the place of batch
normalisation, so that no image depends on its neighbours in the batch.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.nets.mlp import mlp

SMALLEST = 8  # an axis is halved while it has this many pixels: what remains has 4 to 7


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with up to 8 groups."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def pyramid(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes of an image as its axes are halved, largest first.

    >>> pyramid(28, 23)
    [(28, 23), (14, 11), (7, 5)]
    >>> pyramid(8, 32)
    [(8, 32), (4, 16), (4, 8), (4, 4)]
    """
    sizes = [(height, width)]
    while max(sizes[-1]) >= SMALLEST:
        sizes.append(tuple(n // 2 if n >= SMALLEST else n for n in sizes[-1]))  # type: ignore[arg-type]
    return sizes


def widths(width: int, stages: int) -> list[int]:
    """The channels at each level of a pyramid with `stages` halvings: doubled at each, up to 4 x width."""
    return [width * min(2**i, 4) for i in range(max(stages, 1))]


class ResidualBlock(nn.Module):
    """h + conv(silu(norm(conv(silu(norm(h)))))), which starts as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        nn.init.zeros_(self.body[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.body[-1].bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        return h + self.body(h)


def geometry(larger: tuple[int, int], smaller: tuple[int, int]) -> dict[str, tuple[int, int] | int]:
    """Kernel and stride of a step between two sizes of a pyramid: 4 and 2 on an axis that is halved, else 3 and 1."""
    halved = [big != small for big, small in zip(larger, smaller, strict=True)]
    return {
        "kernel_size": (4 if halved[0] else 3, 4 if halved[1] else 3),
        "stride": (2 if halved[0] else 1, 2 if halved[1] else 1),
        "padding": 1,
    }


class ConvEncoder(nn.Module):
    """Images (B, *shape), beside them an embedding (B, embedding) or None -> vectors (B, outputs).

    Args:
        shape: channels, height, width of an image; any.
        outputs: the numbers that come out.
        width: channels after the first halving; each further one doubles them, up to four times.
        depth: residual blocks after each halving.
        embedding: the width of what is known beside the image (0: nothing).
        hidden: the width of the layer between the last features and the output.
        dropout: in that layer.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        outputs: int,
        width: int = 32,
        depth: int = 0,
        embedding: int = 0,
        hidden: int = 256,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels, height, length = shape
        sizes = pyramid(height, length)
        layers: list[nn.Module] = []
        for out, larger, smaller in zip(widths(width, len(sizes) - 1), sizes, sizes[1:], strict=False):
            layers += [nn.Conv2d(channels, out, **geometry(larger, smaller))]  # type: ignore[arg-type]
            layers += [ResidualBlock(out) for _ in range(depth)]
            layers += [norm(out), nn.SiLU()]
            channels = out
        self.convolutions = nn.Sequential(*layers)
        features = channels * math.prod(sizes[-1])
        self.head = mlp(features + embedding, outputs, [hidden], dropout=dropout)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b outputs"]:
        h = self.convolutions(x).flatten(1)
        return self.head(h if embedding is None else torch.cat([h, embedding], 1))


class ConvDecoder(nn.Module):
    """The mirror image: vectors (B, inputs), beside them an embedding -> images (B, *shape). Arguments as `ConvEncoder`'s."""

    def __init__(
        self,
        inputs: int,
        shape: tuple[int, ...],
        width: int = 32,
        depth: int = 0,
        embedding: int = 0,
        hidden: int = 256,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels, height, length = shape
        sizes = pyramid(height, length)
        inner = widths(width, len(sizes) - 1)
        self.start = (inner[-1], *sizes[-1])
        self.head = mlp(inputs + embedding, math.prod(self.start), [hidden], dropout=dropout)
        layers: list[nn.Module] = []
        for i in range(len(sizes) - 1, 0, -1):
            out = inner[i - 2] if i > 1 else channels
            larger, smaller = sizes[i - 1], sizes[i]
            shapes = geometry(larger, smaller)
            odd = tuple(n % 2 if n != m else 0 for n, m in zip(larger, smaller, strict=True))  # 23 -> 11 -> 22 + 1
            layers += [ResidualBlock(inner[i - 1]) for _ in range(depth)]
            layers += [norm(inner[i - 1]), nn.SiLU()]
            layers += [nn.ConvTranspose2d(inner[i - 1], out, output_padding=odd, **shapes)]  # type: ignore[arg-type]
        if len(sizes) == 1:
            layers = [norm(inner[0]), nn.SiLU(), nn.Conv2d(inner[0], channels, 3, padding=1)]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b c h w"]:
        h = self.head(z if embedding is None else torch.cat([z, embedding], 1))
        return self.convolutions(h.unflatten(1, self.start))
