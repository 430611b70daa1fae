"""Progressive growing: the two networks of a GAN that begin with the coarsest image and take on one finer level after another.

Levels are counted from the coarsest, 0 ... L, each about twice as fine as the one before. Where a network stands is one
number, its `stage` = k + alpha: levels 0 ... k are all there, and level k + 1 fades in with weight alpha. With h_j the features
at level j, colour_j a 1 x 1 convolution between features and colours, U nearest-neighbour enlarging, D_j averages over blocks,

    generator   x = U[(1 - alpha) U colour_k(h_k) + alpha colour_(k+1)(h_(k+1))]
    critic      h_k = (1 - alpha) colour_k(D_k x) + alpha block_k(colour_(k+1)(D_(k+1) x)).

The generator always gives images of full size, constant on blocks as long as it has not grown, and the critic always takes
images of full size and looks at their averages over blocks: the resolution of a stage is the networks' own affair. A slope of
the critic by x is that by full images at every stage, so that a penalty on it keeps its meaning. (Karras et al. also mix the
data that a growing critic sees with their coarser version; here the critic's weight alpha alone hides their finer detail.)

The stage follows the progress of the run (`stage_at`); levels that it has not reached are not computed, which makes early
updates cheap. Their parameters have no gradient until then, and Adam counts their steps from there.

Layers have an equalised learning rate; the generator's features have a length of 1 at each place (as a root mean square over
channels), which keeps the two networks from driving each other's signals up. No row depends on others.

Sizes are planned as in dcgan.py: halved with rounding up (28 x 23, 14 x 12, 7 x 6). Blocks at an odd edge are what there is of
them, and enlarged images are cut, so that every size comes out exactly.

Karras, Aila, Laine and Lehtinen 2018, "Progressive growing of GANs for improved quality, stability, and variation",
arXiv:1710.10196.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.dcgan import sizes
from pushforward.nets.equalised import EqualisedConv2d, EqualisedLinear

RELU = math.sqrt(2)  # the gain of layers ahead of a ReLU


def stage_at(progress: float, finest: int, complete: float = 0.6) -> float:
    """k + alpha after this share of a run, for levels 0 ... finest: level k stays alone for as long as level k + 1 then takes
    to fade in, and the finest is complete at the share `complete` of the run.

    >>> [round(stage_at(progress, 2), 2) for progress in (0.0, 0.15, 0.225, 0.3, 0.45, 0.525, 0.6, 1.0)]
    [0.0, 0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0]
    """
    if progress >= complete:
        return float(finest)
    alpha, k = math.modf(finest * progress / complete)
    return k + max(0.0, 2 * alpha - 1)


def unit_length(h: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *places"]:
    """Features divided by their root mean square over channels, at each place by itself."""
    return h * torch.rsqrt(h.square().mean(1, keepdim=True) + 1e-8)


def averaged(x: Float[Tensor, "b c h w"], halvings: int) -> Float[Tensor, "b c h2 w2"]:
    """Means over blocks of 2^halvings pixels a side, at an odd edge over what there is of a block."""
    return F.avg_pool2d(x, 2**halvings, ceil_mode=True) if halvings else x


def enlarged(x: Float[Tensor, "b c h w"], doublings: int, size: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Each pixel as a block of 2^doublings a side, cut to `size`."""
    return F.interpolate(x, scale_factor=2.0**doublings, mode="nearest")[:, :, : size[0], : size[1]] if doublings else x


@runtime_checkable
class Progressing(Protocol):
    """What says how far a run is: `progress`, from 0 to 1."""

    @property
    def progress(self) -> float: ...


class Growing(nn.Module):
    """What both networks have in common: sizes and channels of their levels, coarsest first, and where they stand. Abstract.

    complete: the share of the run after which the finest level is complete, above 0 and at most 1.
    """

    stage: Tensor

    def __init__(self, shape: tuple[int, ...], channels: int, embedding: int, complete: float):
        super().__init__()
        if not 0 < complete <= 1:
            raise UserError(f"complete = {complete} was given, which is a share of the run; give a number above 0, at most 1.")
        self.plan = sizes(*shape[1:])[::-1]
        self.finest = len(self.plan) - 1
        self.channels = [channels * min(2**halvings, 8) for halvings in range(self.finest, -1, -1)]
        self.embedding, self.complete = embedding, complete
        self.register_buffer("stage", torch.zeros((), dtype=torch.float32))
        # The same number where the host need not wait for a device to read it
        self._standing = 0.0
        self.register_load_state_dict_post_hook(lambda network, keys: network.stand_at(network.stage.item()))

    def stand_at(self, stage: float) -> None:
        """Sets the stage, from 0 to `finest`."""
        if not 0 <= stage <= self.finest:
            raise UserError(f"stage = {stage} was given to a network with levels 0 to {self.finest}.")
        self._standing = torch.tensor(stage, dtype=torch.float32).item()  # as it will be when loaded again
        self.stage.fill_(self._standing)

    def after_update(self, moment: Progressing) -> None:
        """Goes to where the schedule says."""
        self.stand_at(stage_at(moment.progress, self.finest, self.complete))

    def standing(self) -> tuple[int, float]:
        """k and alpha."""
        alpha, k = math.modf(self._standing)
        return int(k), alpha

    def beside(self, h: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None) -> Float[Tensor, "b d2"]:
        """h with the condition's vector, or with zeros where there is none."""
        if embedding is None:
            embedding = h.new_zeros(len(h), self.embedding)
        return torch.cat([h, embedding.to(h.dtype)], 1)


class FinerBlock(nn.Module):
    """Features (B, inputs, ...) -> (B, outputs, *size), about twice the size."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]):
        super().__init__()
        self.size = size
        self.conv1, self.conv2 = EqualisedConv2d(inputs, outputs, gain=RELU), EqualisedConv2d(outputs, outputs, gain=RELU)

    def forward(self, h: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        h = unit_length(F.leaky_relu(self.conv1(enlarged(h, 1, self.size)), 0.2))
        return unit_length(F.leaky_relu(self.conv2(h), 0.2))


class CoarserBlock(nn.Module):
    """Features (B, inputs, ...) -> (B, outputs, ...), at half the size, rounded up."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.conv2 = EqualisedConv2d(inputs, inputs, gain=RELU), EqualisedConv2d(inputs, outputs, gain=RELU)

    def forward(self, h: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        return averaged(F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(h), 0.2)), 0.2), 1)


class ProgressiveGenerator(Growing):
    """z (B, latent_dim), embedding (B, embedding) or None (the same as zeros) -> images (B, C, H, W) in [-1, 1].

    Only the direction of z counts: it is scaled to the length of its most likely draw, sqrt(latent_dim).

    Args:
        shape: (C, H, W) of an image; latent_dim: of z; channels: at the finest size, doubling as sizes halve, up to eight
            times as many; embedding: width of the condition's vector, which is concatenated with z (0: none).
        bounded: False for data that are not in [-1, 1].
        complete: the share of the run after which the finest level is complete.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        channels: int = 32,
        embedding: int = 0,
        bounded: bool = True,
        *,
        complete: float = 0.6,
    ):
        super().__init__(shape, channels, embedding, complete)
        self.bounded = bounded
        self.start = (self.channels[0], *self.plan[0])
        # A quarter as wide: the norm that follows takes the rest away, but for the pace at which this layer learns.
        self.enter = EqualisedLinear(latent_dim + embedding, math.prod(self.start), gain=RELU / 4)
        self.first = EqualisedConv2d(self.channels[0], self.channels[0], gain=RELU)
        self.blocks = nn.ModuleList(
            FinerBlock(coarse, fine, size) for (coarse, fine), size in zip(pairwise(self.channels), self.plan[1:], strict=True)
        )
        self.colours = nn.ModuleList(EqualisedConv2d(c, shape[0], 1) for c in self.channels)

    def forward(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b c h w"]:
        k, alpha = self.standing()
        h = self.enter(self.beside(unit_length(z), embedding)).unflatten(1, self.start)
        h = unit_length(F.leaky_relu(h, 0.2))
        h = unit_length(F.leaky_relu(self.first(h), 0.2))
        for block in self.blocks[:k]:
            h = block(h)
        x = self.image(h, k)
        if alpha:
            x = torch.lerp(enlarged(x, 1, self.plan[k + 1]), self.image(self.blocks[k](h), k + 1), alpha)
            k += 1
        return enlarged(x, self.finest - k, self.plan[-1])

    def image(self, h: Float[Tensor, "b i h w"], level: int) -> Float[Tensor, "b c h w"]:
        """What the features at a level show."""
        x = self.colours[level](h)
        return torch.tanh(x) if self.bounded else x


class ProgressiveCritic(Growing):
    """The trunk of a critic: images (B, C, H, W), embedding (B, embedding) or None (the same as zeros) -> features (B, width).

    Args:
        shape: (C, H, W) of an image; channels: at the finest size, doubling as sizes halve, up to eight times as many;
            embedding: width of the condition's vector, which is concatenated with the coarsest features (0: none).
        complete: the share of the run after which the finest level is complete; the generator's.
    """

    def __init__(self, shape: tuple[int, ...], channels: int = 32, embedding: int = 0, *, complete: float = 0.6):
        super().__init__(shape, channels, embedding, complete)
        self.width = self.channels[0]
        self.colours = nn.ModuleList(EqualisedConv2d(shape[0], c, 1, gain=RELU) for c in self.channels)
        self.blocks = nn.ModuleList(CoarserBlock(fine, coarse) for coarse, fine in pairwise(self.channels))
        self.last = EqualisedConv2d(self.width, self.width, gain=RELU)
        self.leave = EqualisedLinear(self.width * math.prod(self.plan[0]) + embedding, self.width, gain=RELU)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b width"]:
        k, alpha = self.standing()
        h = self.seen(x, k)
        if alpha:
            h = torch.lerp(h, self.blocks[k](self.seen(x, k + 1)), alpha)
        for block in reversed(self.blocks[:k]):
            h = block(h)
        h = F.leaky_relu(self.last(h), 0.2).flatten(1)
        return F.leaky_relu(self.leave(self.beside(h, embedding)), 0.2)

    def seen(self, x: Float[Tensor, "b c h w"], level: int) -> Float[Tensor, "b i h2 w2"]:
        """The first features of an image at a level's size."""
        return F.leaky_relu(self.colours[level](averaged(x, self.finest - level)), 0.2)
