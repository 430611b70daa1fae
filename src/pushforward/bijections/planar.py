"""Maps that bend space along few directions: small flows for posteriors, whose parameters an encoder may give for each datum.

    planar      y = x + u tanh(w.x + b)                     det = 1 + w.u tanh'(w.x + b)
    radial      y = x + beta (x - c) / (alpha + r)          det = (1 + beta h)^(d-1) (1 + alpha beta h^2)
                r = |x - c|, h = 1 / (alpha + r)
    sylvester   y = x + Q R tanh(R~ Q^T x + b)              det = prod_i (1 + R_ii R~_ii tanh'_i)

with Q (d, m) of orthonormal columns, R and R~ upper triangular; m = 1 is planar. They are bijections where w.u > -1,
beta > -alpha, R_ii R~_ii > -1. So u is moved along w to w.u' = softplus(w.u + .54) - 1, alpha = softplus(.), beta = softplus(.)
- alpha, and the diagonals of R and R~ lie in (-1, 1). Q is made by Cayley's transform (the paper's are iterated or of
reflections). In the paper w.u' = softplus(w.u) - 1; with the .54 u = 0 is the identity. All three start there; whatever their
parameters, their slopes stay above LEAST, as single precision would round some to 0.

A radial map has its inverse in closed form. Along w, and along each direction of Q from the last to the first, the others are
increasing maps a + c tanh(a + k) of one number, inverted by bisection; gradients pass through by a step of Newton's at the end.

Rezende and Mohamed 2015, "Variational inference with normalizing flows", arXiv:1505.05770 (planar, radial); van den Berg,
Hasenclever, Tomczak and Welling 2018, "Sylvester normalizing flows", arXiv:1803.05649.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Bijection
from pushforward.distributions.likelihoods import wide
from pushforward.errors import UserError
from pushforward.nets.lipschitz import cayley

LEAST = 1e-3  # of what is to be positive
ONE = math.log(math.expm1(1 - LEAST))  # positive(0) = 1


def positive(x: Tensor) -> Tensor:
    return LEAST + F.softplus(x + ONE)


def sech2(x: Tensor) -> Tensor:
    """tanh'."""
    return 1 - torch.tanh(x).square()


def bent(t: Tensor, scale: Tensor, inner: Tensor, shift: Tensor) -> Tensor:
    """The v with v + scale tanh(inner v + shift) = t, number by number: increasing in v where scale inner > -1."""
    with torch.no_grad():
        low, high = t - scale.abs(), t + scale.abs()
        for _ in range(64 if t.dtype == torch.float64 else 32):
            middle = (low + high) / 2
            above = middle + scale * torch.tanh(inner * middle + shift) > t
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        v = (low + high) / 2
        slope = 1 + scale * inner * sech2(inner * v + shift)
    return v - (v + scale * torch.tanh(inner * v + shift) - t) / slope


class Parameters(nn.Module):
    """Numbers (1 or B, numbers) for x (B, inputs): learned ones, and to them a linear function of the context, where there is
    one. That is 0 at first."""

    def __init__(self, inputs: int, start: Float[Tensor, " numbers"], context: int):
        super().__init__()
        self.inputs = inputs
        self.free = nn.Parameter(start)
        self.told = nn.Linear(context, len(start), bias=False) if context else None
        if self.told is not None:
            nn.init.zeros_(self.told.weight)

    def forward(self, x: Float[Tensor, "b d"], context: Tensor | None) -> Float[Tensor, "r numbers"]:
        if x.shape[1:] != (self.inputs,):
            raise UserError(
                f"data of shape {tuple(x.shape[1:])} were given to a map of vectors of {self.inputs} numbers; flatten them, or "
                "build it for as many."
            )
        if self.told is None:
            return wide(self.free[None])
        if context is None:
            raise UserError("a map that was built for a context was given none; hand it one beside x.")
        return wide(self.free + self.told(context.to(self.free.dtype)))


class Planar(Bijection):
    """x (B, d) -> x + u tanh(w.x + b): space is stretched or pressed across one hyperplane.

    Args:
        inputs: d. context: width of the context (B, context) that w, u and b may depend on, 0: none.
    """

    def __init__(self, inputs: int, context: int = 0):
        super().__init__()
        self.inputs = inputs
        start = torch.cat([torch.randn(inputs) / math.sqrt(inputs), torch.zeros(inputs + 1)])
        self.parameters_of = Parameters(inputs, start, context)

    def read(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w, u' (1 or B, d), b and w.u' (1 or B)."""
        w, u, b = self.parameters_of(x, context).split([self.inputs, self.inputs, 1], 1)
        along = (w * u).sum(1, keepdim=True)
        moved = positive(along) - 1
        u = u + (moved - along) * w / w.square().sum(1, keepdim=True).clamp_min(1e-30)
        return w, u, b.squeeze(1), moved.squeeze(1)

    def forward(
        self, x: Float[Tensor, "b d"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        w, u, b, along = self.read(x, context)
        x = wide(x)
        a = (x * w).sum(1) + b
        return x + u * torch.tanh(a)[:, None], torch.log1p(along * sech2(a))

    def inverse(self, y: Float[Tensor, "b d"], context: Tensor | None = None) -> Float[Tensor, "b d"]:
        w, u, b, along = self.read(y, context)
        y = wide(y)
        a = bent((y * w).sum(1), along, torch.ones_like(along), b) + b
        return y - u * torch.tanh(a)[:, None]


class Radial(Bijection):
    """x (B, d) -> x + beta (x - c) / (alpha + |x - c|): space is drawn to a point c, or pushed from it.

    Args:
        inputs: d. context: width of the context (B, context) that c, alpha and beta may depend on, 0: none.
    """

    def __init__(self, inputs: int, context: int = 0):
        super().__init__()
        self.inputs = inputs
        self.parameters_of = Parameters(inputs, torch.cat([torch.randn(inputs), torch.zeros(2)]), context)

    def read(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """c (1 or B, d), alpha and alpha + beta (1 or B, 1)."""
        centre, alpha, both = self.parameters_of(x, context).split([self.inputs, 1, 1], 1)
        return centre, positive(alpha), positive(both)

    def forward(
        self, x: Float[Tensor, "b d"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        centre, alpha, both = self.read(x, context)
        away = wide(x) - centre
        r = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        h = 1 / (alpha + r)
        stretch = (both + r) * h  # 1 + beta h, a quotient of what is positive
        along = h**2 * (r**2 + 2 * alpha * r + alpha * both)  # 1 + alpha beta h^2, likewise
        return centre + stretch * away, ((self.inputs - 1) * stretch.log() + along.log()).squeeze(1)

    def inverse(self, y: Float[Tensor, "b d"], context: Tensor | None = None) -> Float[Tensor, "b d"]:
        centre, alpha, both = self.read(y, context)
        away = wide(y) - centre
        # r (both + r) = |y - c| (alpha + r), of whose two roots one is positive
        distance = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        p, q = both - distance, distance * alpha
        root = (p**2 + 4 * q).sqrt()
        r = torch.where(p > 0, 2 * q, root - p) / torch.where(p > 0, p + root, torch.full_like(p, 2))
        return centre + away * (alpha + r) / (both + r)


class Sylvester(Bijection):
    """x (B, d) -> x + Q R tanh(R~ Q^T x + b): m planar maps at once, whose directions are orthonormal.

    Args:
        inputs: d. directions: m, at most d. context: width of the context (B, context) that Q, R, R~ and b may depend on, 0:
            none.

    Raises UserError for more directions than numbers, and for none.
    """

    def __init__(self, inputs: int, directions: int = 4, context: int = 0):
        super().__init__()
        if not 1 <= directions <= inputs:
            raise UserError(f"{directions} orthonormal directions among {inputs} numbers were asked for; give 1 to {inputs}.")
        self.inputs, self.directions = inputs, directions
        d, m = inputs, directions
        start = torch.cat([torch.randn(d * m + m * m) / math.sqrt(m), torch.zeros(m * m + m)])
        self.parameters_of = Parameters(inputs, start, context)

    def read(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q (1 or B, d, m), R and R~ (1 or B, m, m), b (1 or B, m)."""
        d, m = self.inputs, self.directions
        q, inner, outer, b = self.parameters_of(x, context).split([d * m, m * m, m * m, m], 1)
        inner, outer = (
            v.triu(1) + torch.diag_embed((1 - LEAST) * v.diagonal(dim1=1, dim2=2).tanh())
            for v in (inner.unflatten(1, (m, m)), outer.unflatten(1, (m, m)))
        )
        return cayley(q.unflatten(1, (d, m))), outer, inner, b

    def forward(
        self, x: Float[Tensor, "b d"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        with torch.autocast(x.device.type, enabled=False):
            q, outer, inner, b = self.read(x, context)
            x = wide(x)
            a = (inner @ (q.mT @ x[..., None])).squeeze(2) + b
            y = x + (q @ (outer @ torch.tanh(a)[..., None])).squeeze(2)
            both = outer.diagonal(dim1=1, dim2=2) * inner.diagonal(dim1=1, dim2=2)
            return y, torch.log1p(both * sech2(a)).sum(1)

    def inverse(self, y: Float[Tensor, "b d"], context: Tensor | None = None) -> Float[Tensor, "b d"]:
        with torch.autocast(y.device.type, enabled=False):
            q, outer, inner, b = self.read(y, context)
            y = wide(y)
            t = (q.mT @ y[..., None]).squeeze(2)
            v, h = torch.zeros_like(t), torch.zeros_like(t)
            for i in reversed(range(self.directions)):  # number i is bent by itself and moved by those after it
                shift = (inner[:, i] * v).sum(1) + b[:, i]
                moved = t[:, i] - (outer[:, i] * h).sum(1)
                found = bent(moved, outer[:, i, i].expand_as(moved), inner[:, i, i].expand_as(moved), shift)
                v = v.select_scatter(found, 1, i)
                h = h.select_scatter(torch.tanh(inner[:, i, i] * found + shift), 1, i)
            return y - (q @ (outer @ h[..., None])).squeeze(2)
