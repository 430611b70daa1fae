"""Diffusion-GAN: the critic sees data and fakes that are diffused, each to a time of its own, and is told that time.

    y = alpha(t) x + sigma(t) d n,  n ~ N(0, I),    t = 0 with probability 1/2, else of density 2 t / T^2 on [0, T]

with alpha and sigma of the VP path, t in [0, 1], 0 = data (of 1000 steps the k-th is t = k / 1000), and d the noise's
deviation. At each t diffused data and fakes have one law only if data and fakes have. The more noise the more they overlap, so
that the critic has a slope that says something wherever fakes are. A generator's gradient passes through, times alpha.

T moves with what the critic knows (`AdaptiveProbability`): with r = E[sign(l(y, t))] over real data it rises while r is above a
target, and falls while it is below. New, noisier times are the likeliest: the paper's "priority".

Wang, Zheng, He, Chen and Zhou 2023, "Diffusion-GAN: training GANs with diffusion", arXiv:2206.02262.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.dynamics.paths import VariancePreserving, expand
from pushforward.errors import UserError
from pushforward.nets.augmentation import AdaptiveProbability
from pushforward.randomness import Rng

UNTOUCHED = 0.5  # share of rows with t = 0


class AdaptiveDiffusion(nn.Module):
    """What is done to the critic's input, and how much of it. Buffers change in `after_update` alone.

    Args:
        target: of r = E[sign(l(y, t) - boundary)] over real data: how sure of them the critic may be.
        images: real data that the critic sees while T would rise from `smallest` to `largest`.
        smallest, largest: bounds of T, in (0, 1]; it begins at the first.
        deviation: d, that of the noise in the data's units. At t = 1 alpha = 0.0066: the larger d, the sooner all looks alike.
        boundary: the output above which the critic says "real" (`Objective.boundary`).
    """

    def __init__(
        self,
        target: float = 0.6,
        images: int = 100_000,
        smallest: float = 0.01,
        largest: float = 1.0,
        deviation: float = 0.05,
        boundary: float = 0.0,
    ):
        super().__init__()
        if not 0 < smallest <= largest <= 1:
            raise UserError(
                f"T was to go from {smallest} to {largest}; give two times above 0 and at most 1, such as 0.01 and 1."
            )
        if not (deviation > 0 and math.isfinite(deviation)):
            raise UserError(f"deviation = {deviation} was given; the noise has a deviation above 0, such as 0.05.")
        self.smallest, self.largest, self.deviation = smallest, largest, deviation
        self.share = AdaptiveProbability(target, images, 1.0, boundary)

    @property
    def reach(self) -> Float[Tensor, ""]:
        """T, the largest time that is drawn."""
        return self.smallest + self.share.p * (self.largest - self.smallest)

    def draw(self, rows: int, rng: Rng) -> Float[Tensor, "b"]:
        """A time for each row. As much is drawn whatever T is, so that T moves nothing else that is random in an update."""
        diffused, u = rng.rand(rows) >= UNTOUCHED, rng.rand(rows)
        return torch.where(diffused, self.reach * u.sqrt(), 0.0)

    def diffuse(self, x: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], rng: Rng) -> Float[Tensor, "b *shape"]:
        """y = alpha(t) x + sigma(t) d n, of x's dtype; x itself at t = 0."""
        alpha, sigma, _, _ = VariancePreserving()(t)
        noise = rng.randn_like(x)
        return expand(alpha.to(x.dtype), x) * x + expand((self.deviation * sigma).to(x.dtype), x) * noise

    def after_update(self, real: Float[Tensor, " n"]) -> None:
        """real: the critic's outputs for the diffused real data of an update. Nothing waits for the device."""
        self.share.after_update(real)
