"""Linear bijections: one matrix for the numbers of a vector, or for the channels at each pixel of an image alike.

    permutation     y_i = x_{p(i)}                                             log |det| = 0
    actnorm         y = exp(log s) x + t                                       sum log s
    linear          y = W x,   W = P L (U + diag(sign exp(log |s|)))           sum log |s|
    orthogonal      y = Q x,   Q = (I - A) (I + A)^-1,   A = V - V^T           0

Each acts on the first axis of a datum (d,) or (C, H, W); where there are places behind it, each of the H W adds its
log-determinant. P is a fixed permutation, L lower triangular with ones on its diagonal, U strictly upper triangular: for a
log-determinant of C additions rather than C^3. Actnorm's s and t start such that the first data leave with mean 0 and standard
deviation 1; they are learned from there.

Sources: Kingma and Dhariwal 2018, "Glow", arXiv:1807.03039 (actnorm, the LU form, which as convolution has kernels of 1x1);
Tomczak and Welling 2016, arXiv:1611.09630 (orthogonal maps in flows); Helfrich et al. 2018, arXiv:1707.09520 (Cayley's form).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Bijection
from pushforward.distributions.likelihoods import wide
from pushforward.errors import UserError
from pushforward.nets.lipschitz import cayley

FLAT = 1e-6  # a feature whose standard deviation is below this does not vary: it is centred, not scaled


def places(x: Tensor) -> int:
    """How many places a datum has behind its first axis."""
    return math.prod(x.shape[2:])


def no_change(x: Tensor) -> Float[Tensor, " b"]:
    """The log-determinants of what changes no volume: 0 for each row."""
    return torch.zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


class Permutation(Bijection):
    """y_i = x_{order[i]} along the first axis of a datum.

    >>> Permutation([2, 0, 1])(torch.tensor([[10.0, 11.0, 12.0]]))[0]
    tensor([[12., 10., 11.]])

    Raises UserError where the order does not name each of 0 .. d-1 once.
    """

    order: Tensor

    def __init__(self, order: Sequence[int]):
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise UserError(f"the order {list(order)} was given; a permutation names each of 0 to {len(order) - 1} once.")
        self.register_buffer("order", torch.tensor(list(order), dtype=torch.int64))

    @classmethod
    def random(cls, size: int, seed: int) -> Permutation:
        """One of the size! orders, as a function of the seed."""
        return cls(torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist())

    @classmethod
    def reverse(cls, size: int) -> Permutation:
        """Last first."""
        return cls(range(size - 1, -1, -1))

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        return x.index_select(1, self.order), no_change(x)

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        return y.index_select(1, self.order.argsort())


class Actnorm(Bijection):
    """y = exp(log s) x + t, one s and t for each feature or channel.

    `start(x)` takes them from x, once: what was started, or loaded after it was, stays. A feature that does not vary has
    s = 1.

    Args:
        size: features, or channels.
    """

    started: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.shift = nn.Parameter(torch.zeros(size))
        self.register_buffer("started", torch.tensor(False))

    def spread(self, parameter: Tensor, x: Tensor) -> Tensor:
        """A parameter (size,) as it stands beside x."""
        return parameter.reshape(-1, *(1,) * (x.dim() - 2))

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        y = self.spread(self.log_scale.exp(), x) * wide(x) + self.spread(self.shift, x)
        return y, (places(x) * self.log_scale.sum()).expand(len(x))

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        return (wide(y) - self.spread(self.shift, y)) * self.spread((-self.log_scale).exp(), y)

    @torch.no_grad()
    def start(self, x: Float[Tensor, "b *x"], context: Tensor | None = None) -> Float[Tensor, "b *y"]:
        if not self.started:
            axes = [axis for axis in range(x.dim()) if axis != 1]
            sd, mean = torch.std_mean(x.double(), axes, correction=0)
            scale = torch.where(sd < FLAT, 1.0, 1.0 / sd.clamp(min=FLAT))
            self.log_scale.copy_(scale.log())
            self.shift.copy_(-mean * scale)
            self.started.fill_(True)
        return self(x, context)[0]


class Matrix(Bijection):
    """y = W x along the first axis of a datum."""

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        with torch.autocast(x.device.type, enabled=False):  # rounded to half precision no inverse would undo it
            y = (self.weight() @ wide(x).flatten(2)) if x.dim() > 2 else wide(x) @ self.weight().mT
        return y.reshape(x.shape), (places(x) * self.log_det()).expand(len(x))

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        with torch.autocast(y.device.type, enabled=False):
            x = self.solve(wide(y).flatten(2)) if y.dim() > 2 else self.solve(wide(y).mT).mT
        return x.reshape(y.shape)

    def weight(self) -> Float[Tensor, "d d"]:
        """W."""
        raise NotImplementedError

    def log_det(self) -> Float[Tensor, ""]:
        """log |det W|."""
        raise NotImplementedError

    def solve(self, y: Float[Tensor, "*b d n"]) -> Float[Tensor, "*b d n"]:
        """W^-1 y, for columns."""
        raise NotImplementedError


class Linear(Matrix):
    """y = P L (U + diag(s)) x: any invertible matrix in its LU form. It starts at a random rotation; P and the signs of s stay.

    Args:
        size: features, or channels (then it is Glow's invertible convolution with kernels of 1x1).
    """

    order: Tensor
    sign: Tensor

    def __init__(self, size: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("order", permutation.argmax(1))  # row i of P L is row order[i] of L
        self.register_buffer("sign", upper.diagonal().sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_s = nn.Parameter(upper.diagonal().abs().log().float())

    def triangles(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(s)."""
        one = torch.eye(len(self.log_s), dtype=self.log_s.dtype, device=self.log_s.device)
        return self.lower.tril(-1) + one, self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())

    def weight(self) -> Float[Tensor, "d d"]:
        lower, upper = self.triangles()
        return (lower @ upper)[self.order]

    def log_det(self) -> Float[Tensor, ""]:
        return self.log_s.sum()

    def solve(self, y: Float[Tensor, "*b d n"]) -> Float[Tensor, "*b d n"]:
        lower, upper = self.triangles()
        y = y.index_select(-2, self.order.argsort())
        y = torch.linalg.solve_triangular(lower, y, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, y, upper=True)


InvertibleConv1x1 = Linear  # of (C, H, W): at each pixel its channels are multiplied by W


class Orthogonal(Matrix):
    """y = Q x, |y| = |x|: any rotation but those that turn a direction by half a turn, by Cayley's form. It starts at random.

    Args:
        size: features, or channels.
    """

    def __init__(self, size: int):
        super().__init__()
        self.raw = nn.Parameter(torch.randn(size, size) / math.sqrt(size))

    def weight(self) -> Float[Tensor, "d d"]:
        return cayley(self.raw)

    def log_det(self) -> Float[Tensor, ""]:
        return self.raw.new_zeros(())

    def solve(self, y: Float[Tensor, "*b d n"]) -> Float[Tensor, "*b d n"]:
        return self.weight().mT @ y
