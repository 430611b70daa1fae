"""Variational dequantisation: which noise within its level a datum is given is learned.

A model p of continuous x gives a level x, with noise u in [0, 1)^D and levels w apart, the probability

    P(x) = w^D int p(x + w (u - 1/2)) du >= w^D exp E_{q(u|x)} [log p(x + w (u - 1/2)) - log q(u | x)].

Uniform q gives the usual bound. Here u = Phi(g(eps; x)), eps ~ N(0, I), with Phi the normal distribution function and g a few
couplings that hear of x, the identity at first: then q is uniform. By the change of variables

    log q(u | x) = log N(eps; 0, I) - log |det dg/deps| - log N(g(eps; x); 0, I).

Ho, Chen, Srinivas, Duan and Abbeel 2019, "Flow++", arXiv:1902.00275.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Chain, Inverted
from pushforward.bijections.shapes import Squeeze, flatten
from pushforward.data.spec import DataSpec
from pushforward.dynamics.likelihood import standard_normal
from pushforward.errors import UserError
from pushforward.models.flows.context import ImageContext
from pushforward.models.flows.steps import Plan, can_be_squeezed, image_steps, vector_steps
from pushforward.randomness import Rng

FEATURES = 16  # channels that say of x what g has to know


class Dequantiser(nn.Module):
    """Images x of levels -> x + w (u - 1/2), u ~ q(u | x), and -log q(u | x) in nats.

    Args:
        spec: of images.
        width, depth: of the couplings' networks.

    Raises UserError for data without levels, or of one number.
    """

    def __init__(self, spec: DataSpec, width: int, depth: int):
        super().__init__()
        if spec.kind != "image" or not spec.levels:
            raise UserError(
                f"dequantisation='variational' is for images, whose numbers have levels; '{spec.name}' holds {spec.kind} data: "
                "take dequantisation='uniform'."
            )
        if spec.dimensions < 2:
            raise UserError("an image of one number cannot be dequantised by couplings; take dequantisation='uniform'.")
        shape = tuple(spec.shape)
        self.level = 2.0 / (spec.levels - 1)
        self.planar = can_be_squeezed(shape, 1)
        self.features: nn.Module | None = ImageContext(shape, FEATURES, width) if self.planar else None
        plan = Plan(
            "coupling", "affine", "none", 2, False, width, depth,
            context=FEATURES if self.planar else math.prod(shape), image=self.planar,
        )  # fmt: skip
        if self.planar:
            channels, height, breadth = shape
            laid_out = Chain([Squeeze(), flatten((4 * channels, height // 2, breadth // 2))])
            self.g = Chain([image_steps(shape, plan, 1, checkerboard=2), Inverted(laid_out)])
        else:
            self.g = Chain([flatten(shape), vector_steps(math.prod(shape), plan), Inverted(flatten(shape))])

    def forward(self, x: Float[Tensor, "b *shape"], rng: Rng) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, " b"]]:
        """What the density is asked of, and -log q(u | x): together log P(x) - D log w, on average at most."""
        context = x.flatten(1) if self.features is None else self.features(x)
        noise = rng.randn_like(x)
        y, log_det = self.g(noise, context)
        log_q = standard_normal(noise) - log_det - standard_normal(y)
        dequantised = x + self.level * (torch.special.ndtr(y) - 0.5)
        return dequantised, -log_q
