"""What an invertible map is here, and how several are one.

    y = f(x),    x = f^-1(y),    log |det df/dx|,        log p_x(x) = log p_y(f(x)) + log |det df/dx|.

f goes from data towards noise (`forward`), its inverse makes data (`inverse`). Of a chain f = f_K o ... o f_1 the
log-determinants add up. They are in nats, one for each row, and in single precision at least, whatever autocast does inside.

A context beside x (a condition's vector, features of an image) is handed to all parts of a chain; those that look at none
ignore it. Whatever f does with a context, it is a bijection of x for each.

Tabak and Turner 2013; Rezende and Mohamed 2015, arXiv:1505.05770; Papamakarios et al. 2021, arXiv:1912.02762.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Shape = tuple[int, ...]


class Bijection(nn.Module):
    """x (B, *shape) <-> y (B, *shape of y), with log |det dy/dx| (B,)."""

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        """y = f(x) and its log-determinant at x."""
        raise NotImplementedError

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        """x = f^-1(y)."""
        raise NotImplementedError

    def shape(self, shape: Shape) -> Shape:
        """Of y, for x of this shape (without rows)."""
        return shape

    @torch.no_grad()
    def start(self, x: Float[Tensor, "b *x"], context: Tensor | None = None) -> Float[Tensor, "b *y"]:
        """f(x), where what depends on the first data (actnorm) takes them for these."""
        return self(x, context)[0]


class Chain(Bijection):
    """f_K o ... o f_1: the first one given is applied first."""

    def __init__(self, parts: Iterable[Bijection]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        total = torch.zeros(len(x), device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        for part in self.parts:
            x, log_det = part(x, context)
            total = total + log_det
        return x, total

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        for part in reversed(self.parts):
            assert isinstance(part, Bijection)
            y = part.inverse(y, context)
        return y

    def shape(self, shape: Shape) -> Shape:
        for part in self.parts:
            assert isinstance(part, Bijection)
            shape = part.shape(shape)
        return shape

    @torch.no_grad()
    def start(self, x: Float[Tensor, "b *x"], context: Tensor | None = None) -> Float[Tensor, "b *y"]:
        for part in self.parts:
            assert isinstance(part, Bijection)
            x = part.start(x, context)
        return x


class Inverted(Bijection):
    """The other way round: forward is what inverse was. The log-determinant is that of f at f^-1(y), negated."""

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        y = self.bijection.inverse(x, context)
        return y, -self.bijection(y, context)[1]

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        return self.bijection(y, context)[0]
