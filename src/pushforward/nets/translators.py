"""Networks that turn an image into another of its size, and the critic that judges images patch by patch; in [-1, 1].

A critic that ends in one logit looks at the whole image. PatchGAN stops earlier: a map of logits, each of which sees a square
of the input and nothing around it, so that the loss is the mean over patches. With convolutions of kernels k_i and strides s_i
the side of that square is, from the last layer (r = 1) to the first,

    r <- (r - 1) s_i + k_i,

16, 34, 70, 142 and 286 pixels for 1 to 5 strided convolutions (4x4, stride 2) before the two of stride 1 that follow.

The U-Net halves an image to a single place and doubles it back, with the features of each size passed across; the residual
translator of Johnson et al. halves it twice and works at a quarter of the size, with reflections at the borders. Both use
instance normalisation, so that no image depends on its neighbours: pix2pix's batch normalisation, in batches of one image, is
the same. Maps of fewer than four places are not normalised: one would become 0, two only their signs. Weights are drawn as in
DCGAN.

Noise is dropout whose masks are an argument: they are drawn by the caller, in training and in sampling alike.

Sizes are halved with rounding up: a convolution sees an odd side with a row of zeros more, the way back cuts it off.

Isola, Zhu, Zhou and Efros 2017 (pix2pix), arXiv:1611.07004; Johnson, Alahi and Fei-Fei 2016, arXiv:1603.08155; Zhu, Park, Isola
and Efros 2017 (CycleGAN), arXiv:1703.10593; Ronneberger, Fischer and Brox 2015 (U-Net), arXiv:1505.04597.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError, nearest
from pushforward.nets.dcgan import initialise
from pushforward.randomness import Rng

SMALLEST, LARGEST = 8, 256
NOISY = 8  # the U-Net drops features out on its way up while their maps have at most this many places a side


def check_size(height: int, width: int) -> None:
    """Raises UserError for images that these networks do not make, with the nearest size."""
    if not (SMALLEST <= height <= LARGEST and SMALLEST <= width <= LARGEST):
        able = [min(max(side, SMALLEST), LARGEST) for side in (height, width)]
        raise UserError(
            f"images of {SMALLEST} to {LARGEST} pixels a side are translated, not {height}x{width}; "
            f"resize to {able[0]}x{able[1]}, the nearest that can be."
        )


def halved(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes of an image that is halved, rounding up, to a single place; the largest first.

    >>> halved(13, 8)
    [(13, 8), (7, 4), (4, 2), (2, 1), (1, 1)]
    """
    plan = [(height, width)]
    while max(plan[-1]) > 1:
        plan.append(((plan[-1][0] + 1) // 2, (plan[-1][1] + 1) // 2))
    return plan


def receptive_field(layers: Sequence[tuple[int, int]]) -> int:
    """The side of the square that one output of convolutions (kernel, stride), first to last, depends on.

    >>> receptive_field([(4, 2), (4, 2), (4, 2), (4, 1), (4, 1)])
    70
    """
    side = 1
    for kernel, stride in reversed(layers):
        side = (side - 1) * stride + kernel
    return side


def norm(kind: str, channels: int, size: tuple[int, int]) -> nn.Module:
    """A normalisation for maps of this size: instance, batch or none; none for fewer than four places."""
    if kind not in ("instance", "batch", "none"):
        raise UserError(f"there is no normalisation '{kind}'; {nearest(kind, ('instance', 'batch', 'none'))}")
    if kind == "none" or size[0] * size[1] < 4:
        return nn.Identity()
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.InstanceNorm2d(channels)


class PatchCritic(nn.Module):
    """Images (B, C, H, W) -> a logit for each patch (B, h, w).

    `receptive_field` is the side of a patch. Under instance normalisation a logit also depends on the rest of the image, but
    through the mean and variance of its features alone.

    Args:
        channels: of what is judged (of pairs: both images').
        size: (H, W).
        width: channels after the first convolution; doubled by each further one, up to eight times.
        layers: strided convolutions; None: as many as make patches no larger than the image, 1 to 3 (the paper: 3 for 256x256).
        norm_kind: "instance", "batch" or "none", after each convolution but the first and the last.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        width: int = 64,
        layers: int | None = None,
        norm_kind: Literal["instance", "batch", "none"] = "instance",
    ):
        super().__init__()
        check_size(*size)
        able = [n for n in range(1, 6) if min(size) // 2**n >= 3]  # the two last convolutions take a row each
        if layers is None:
            layers = max((n for n in able[:3] if receptive_field(self._geometry(n)) <= min(size)), default=1)
        if layers not in able:
            raise UserError(
                f"a critic of {layers} strided convolutions was asked for; of images of {size[0]}x{size[1]} it can have "
                f"1 to {able[-1]}, and then one logit for {receptive_field(self._geometry(able[-1]))} pixels a side."
            )
        geometry = self._geometry(layers)
        self.receptive_field = receptive_field(geometry)
        steps: list[nn.Module] = []
        for level, (kernel, stride) in enumerate(geometry[:-1]):
            size = ((size[0] + 2 - kernel) // stride + 1, (size[1] + 2 - kernel) // stride + 1)
            outputs = width * min(2**level, 8)
            normalise = norm(norm_kind if level else "none", outputs, size)
            bias = isinstance(normalise, nn.Identity)
            steps += [nn.Conv2d(channels, outputs, kernel, stride, 1, bias=bias), normalise, nn.LeakyReLU(0.2)]
            channels = outputs
        self.body = nn.Sequential(*steps, nn.Conv2d(channels, 1, geometry[-1][0], geometry[-1][1], 1))
        initialise(self)

    @staticmethod
    def _geometry(layers: int) -> list[tuple[int, int]]:
        return [*[(4, 2)] * layers, (4, 1), (4, 1)]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h2 w2"]:
        return self.body(x).squeeze(1)


class UNetTranslator(nn.Module):
    """Images (B, inputs, H, W) -> images (B, outputs, H, W) in [-1, 1].

    Args:
        inputs, outputs: channels.
        size: (H, W).
        width: channels at half the size; doubled at each halving, up to eight times.
        dropout: rate in the coarsest maps on the way up: the paper's three, of at most 8x8 places.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], width: int = 64, dropout: float = 0.5):
        super().__init__()
        check_size(*size)
        self.dropout, self.plan = dropout, halved(*size)
        levels = len(self.plan) - 1
        channels = [width * min(2**level, 8) for level in range(levels)]
        self.downs, self.down_norms = nn.ModuleList(), nn.ModuleList()
        self.ups, self.up_norms = nn.ModuleList(), nn.ModuleList()  # from the finest to the coarsest, as the others
        noisy: list[int] = []
        for level in range(levels):
            finer = channels[level - 1] if level else None
            normalise = norm("instance" if level else "none", channels[level], self.plan[level + 1])
            bias = isinstance(normalise, nn.Identity)
            self.downs.append(nn.Conv2d(finer or inputs, channels[level], 4, 2, 1, bias=bias))
            self.down_norms.append(normalise)
            normalise = norm("instance" if level else "none", finer or outputs, self.plan[level])
            bias, joined = isinstance(normalise, nn.Identity), channels[level] * (1 if level == levels - 1 else 2)
            self.ups.append(nn.ConvTranspose2d(joined, finer or outputs, 4, 2, 1, bias=bias))
            self.up_norms.append(normalise)
            if level and max(self.plan[level]) <= NOISY:
                noisy.append(level)
        self.noisy = noisy[::-1] if dropout else []
        self.dropped = [(channels[level - 1], *self.plan[level]) for level in self.noisy]
        initialise(self)

    def forward(self, x: Float[Tensor, "b c h w"], masks: Sequence[Tensor] = ()) -> Float[Tensor, "b c2 h w"]:
        h, across = x, []
        for level, (down, normalise, (height, width)) in enumerate(zip(self.downs, self.down_norms, self.plan, strict=False)):
            h = F.pad(F.leaky_relu(h, 0.2) if level else h, (0, width % 2, 0, height % 2))
            h = normalise(down(h))
            across.append(h)
        factors = dict(zip(self.noisy, masks, strict=False))
        for level in range(len(self.ups) - 1, -1, -1):
            height, width = self.plan[level]
            h = self.up_norms[level](self.ups[level](F.relu(h))[:, :, :height, :width])
            if level in factors:
                h = h * factors[level].to(h.dtype)
            if level:
                h = torch.cat([h, across[level - 1]], 1)
        return torch.tanh(h)


class ResidualTranslator(nn.Module):
    """Images (B, inputs, H, W) -> images (B, outputs, H, W) in [-1, 1]: two halvings, residual blocks, two doublings.

    Args:
        inputs, outputs: channels.
        size: (H, W).
        width: channels at full size, four times as many at a quarter of it.
        blocks: residual blocks; None: the paper's 6 for images of up to 128 pixels a side, 9 for larger ones.
        dropout: rate inside the blocks.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        width: int = 64,
        blocks: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_size(*size)
        self.dropout, plan = dropout, halved(*size)[:3]
        blocks = (6 if max(size) <= 128 else 9) if blocks is None else blocks
        self.enter = nn.Sequential(*_reflected(inputs, width, 7), nn.InstanceNorm2d(width), nn.ReLU())
        for level in (1, 2):
            halve = nn.Conv2d(width * level, 2 * width * level, 3, 2, 1, bias=False)
            self.enter.extend([halve, nn.InstanceNorm2d(2 * width * level), nn.ReLU()])
        inner = 4 * width
        self.first = nn.ModuleList(
            nn.Sequential(*_reflected(inner, inner, 3), nn.InstanceNorm2d(inner), nn.ReLU()) for _ in range(blocks)
        )
        self.second = nn.ModuleList(
            nn.Sequential(*_reflected(inner, inner, 3), nn.InstanceNorm2d(inner)) for _ in range(blocks)
        )
        self.leave = nn.Sequential()
        for level in (2, 1):
            height, breadth = plan[level - 1]
            even = (1 - height % 2, 1 - breadth % 2)  # 7 -> 14, or 13 where it came from 13
            double = nn.ConvTranspose2d(2 * width * level, width * level, 3, 2, 1, output_padding=even, bias=False)
            self.leave.extend([double, nn.InstanceNorm2d(width * level), nn.ReLU()])
        self.leave.extend([*_reflected(width, outputs, 7, bias=True), nn.Tanh()])
        self.dropped = [(inner, *plan[2])] * blocks if dropout else []
        initialise(self)

    def forward(self, x: Float[Tensor, "b c h w"], masks: Sequence[Tensor] = ()) -> Float[Tensor, "b c2 h w"]:
        h = self.enter(x)
        for index, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            inside = first(h)
            h = h + second(inside * masks[index].to(inside.dtype) if masks else inside)
        return self.leave(h)


def _reflected(inputs: int, outputs: int, kernel: int, bias: bool = False) -> list[nn.Module]:
    """A convolution that sees the image mirrored beyond its borders. No bias where a norm follows, which would take it away."""
    return [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel, bias=bias)]


NETWORKS = ("unet", "residual")


def translator(
    network: str, inputs: int, outputs: int, size: tuple[int, int], width: int, blocks: int | None = None, dropout: float = 0.0
) -> UNetTranslator | ResidualTranslator:
    """A translator by name, "unet" or "residual"."""
    if network not in NETWORKS:
        raise UserError(f"there is no network '{network}'; {nearest(network, NETWORKS)}")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout = {dropout} was given; it is a rate, from 0 to below 1.")
    if network == "unet":
        return UNetTranslator(inputs, outputs, size, width, dropout)
    return ResidualTranslator(inputs, outputs, size, width, blocks, dropout)


def dropout_masks(network: nn.Module, rows: int, rng: Rng) -> list[Tensor]:
    """Masks for a translator: 0 at its rate of dropout, else 1 / (1 - rate), each drawn by itself. None for other networks."""
    if not isinstance(network, (UNetTranslator, ResidualTranslator)):
        return []
    kept = 1 - network.dropout
    return [(rng.rand(rows, *shape) < kept).float() / kept for shape in network.dropped]
