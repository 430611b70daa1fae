"""Bijections of shapes and ranges: squeezing and flattening, the logit of what is bounded, and scales.

    squeeze     (C, H, W) -> (4 C, H/2, W/2): each square of 2x2 pixels becomes one pixel          log |det| = 0
    logit       p = alpha + (1 - 2 alpha) u,  u = (x - low) / (high - low),  y = log p / (1 - p)
                log dy/dx = log (1 - 2 alpha) / (high - low) - log p - log (1 - p)
    split       x = (a, b) by channels,  y = (g(a), b)   or   (g(a), (b - mean(a)) / sigma(a))

Multi-scale flows squeeze and split by turns: half of the channels are done, the others go on through g, the rest of the flow.
The Gaussian that a split may learn of the half that leaves, given the half that goes on, is Glow's prior of it, moved into the
bijection: standardised, that half has the base N(0, I) as everything else has. So y of a whole flow is one vector.

Sources: Dinh et al. 2017, "Density estimation using Real NVP", arXiv:1605.08803; Kingma and Dhariwal 2018, "Glow",
arXiv:1807.03039; of the logit Papamakarios et al. 2017, arXiv:1705.07057.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Bijection, Shape
from pushforward.bijections.coupling import Coupling, halves
from pushforward.bijections.elementwise import Standardised
from pushforward.bijections.linear import no_change
from pushforward.distributions.likelihoods import total, wide
from pushforward.errors import UserError


class Squeeze(Bijection):
    """Space to depth: (C, H, W) -> (4 C, H/2, W/2). Raises UserError for odd sizes."""

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        self.shape(tuple(x.shape[1:]))
        return F.pixel_unshuffle(x, 2), no_change(x)

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        return F.pixel_shuffle(y, 2)

    def shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise UserError(f"data of shape {shape} cannot be squeezed; it takes images (channels, height, width).")
        channels, height, width = shape
        if height % 2 or width % 2:
            smaller, larger = ((height - height % 2, width - width % 2), (height + height % 2, width + width % 2))
            nearest = [f"{h}x{w}" for h, w in (smaller, larger) if h and w]
            raise UserError(
                f"images of {height}x{width} cannot be squeezed, which halves both sizes; crop, pad or resize them: "
                f"{' or '.join(nearest)} can be, and with L squeezes sizes that 2^L divides."
            )
        return 4 * channels, height // 2, width // 2


class Reshape(Bijection):
    """The same numbers in another shape.

    Args:
        given: the shape of x.
        made: the shape of y; as many numbers.
    """

    def __init__(self, given: Shape, made: Shape):
        super().__init__()
        if math.prod(given) != math.prod(made):
            raise UserError(
                f"{math.prod(given)} numbers of shape {given} do not fit into shape {made}, which has {math.prod(made)}."
            )
        self.given, self.made = given, made

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        return x.reshape(len(x), *self.made), no_change(x)

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        return y.reshape(len(y), *self.given)

    def shape(self, shape: Shape) -> Shape:
        return self.made


def flatten(shape: Shape) -> Reshape:
    """Data of this shape as vectors."""
    return Reshape(shape, (math.prod(shape),))


class Logit(Bijection):
    """[low, high] -> the real line, number by number.

    Args:
        alpha: keeps the ends finite: they go to -+logit(1 - alpha). 0 only for what never reaches them.
        low, high: the range of x.
    """

    def __init__(self, alpha: float = 0.05, low: float = 0.0, high: float = 1.0):
        super().__init__()
        if not (0 <= alpha < 0.5 and low < high):
            raise UserError(
                f"a logit with alpha = {alpha} of numbers from {low} to {high} was asked for; alpha is at least 0 and below "
                "0.5, and low below high."
            )
        self.alpha, self.low, self.high = alpha, low, high

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        x, rise = wide(x), (1 - 2 * self.alpha) / (self.high - self.low)
        log_p = (self.alpha + rise * (x - self.low)).log()
        log_q = (self.alpha + rise * (self.high - x)).log()  # of 1 - p, which near 1 would cancel
        return log_p - log_q, total(math.log(rise) - log_p - log_q)

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        rise = (1 - 2 * self.alpha) / (self.high - self.low)
        return self.low + (torch.sigmoid(wide(y)) - self.alpha) / rise


class Split(Bijection):
    """(C, ...) -> (d,): the first half of the channels goes on through `then`, flattened; behind it stands the other half.

    Args:
        shape: of x.
        then: what the first half (one more where C is odd) goes through.
        network: where given, half x and context -> mean and log sigma (side by side) of each number of the other half, which
            leaves standardised by them, as `coupling.ImageNetwork` makes them.
    """

    def __init__(self, shape: Shape, then: Bijection, network: nn.Module | None = None):
        super().__init__()
        self.partition = halves(shape[0])
        self.going, self.leaving = ((size, *shape[1:]) for size in (self.partition.seen, self.partition.spoken))
        self.then, self.made = then, then.shape(self.going)
        self.gaussian = None if network is None else Coupling(self.partition, network, Standardised())

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        x, before = (x, no_change(x)) if self.gaussian is None else self.gaussian(x, context)
        going, leaving = self.partition.apart(x)
        gone, log_det = self.then(going, context)
        return torch.cat([gone.flatten(1), leaving.flatten(1)], 1), before + log_det

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        gone, left = y.split([math.prod(self.made), math.prod(self.leaving)], 1)
        going = self.then.inverse(gone.reshape(len(y), *self.made), context)
        x = torch.cat([going, left.reshape(len(y), *self.leaving)], 1)
        return x if self.gaussian is None else self.gaussian.inverse(x, context)

    def shape(self, shape: Shape) -> Shape:
        return (math.prod(self.made) + math.prod(self.leaving),)

    @torch.no_grad()
    def start(self, x: Float[Tensor, "b *x"], context: Tensor | None = None) -> Float[Tensor, "b *y"]:
        x = x if self.gaussian is None else self.gaussian.start(x, context)
        going, leaving = self.partition.apart(x)
        return torch.cat([self.then.start(going, context).flatten(1), leaving.flatten(1)], 1)
