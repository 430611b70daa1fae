"""Invertible residual maps: y = x + g(x), a bijection wherever g is a contraction.

g = c tanh(a) s(x), c = 0.9, with a network s of slope <= 1: layers whose largest singular value is 1 and LipSwish,
x sigmoid(beta x) / 1.1, between them. The inverse is the fixed point of x <- y - g(x), which is approached by a factor of 0.9
or better each time.

With J the Jacobian of g and v ~ N(0, I), the determinant of I + J > 0 is a series (Hutchinson's trace)

    log det(I + J) = sum_{k>=1} (-1)^(k+1) tr(J^k) / k = E sum_{k=1}^{n} (-1)^(k+1) / k  v^T J^k v / P(N >= k),

whose number of terms n is drawn too: the first `terms` surely, each other with probability 1/2 after the one before ("Russian
roulette"). That has no bias, wherever a fixed number of terms would. The gradient is estimated alike, by
d log det(I + J) = tr((I + J)^-1 dJ) = E sum_{k>=0} (-1)^k v^T J^k dJ v / P(N >= k), so that no powers of J are kept.

In few dimensions the determinant is exact. Otherwise it is an estimate, in training with 2 sure terms, in eval mode with 20.
Its noise is that of `estimates.drawing`, and without it a function of x: train within it, or each datum keeps its noise.

Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen 2019, "Invertible residual networks", arXiv:1811.00995; Chen, Behrmann,
Duvenaud and Jacobsen 2019, "Residual flows for invertible generative modeling", arXiv:1906.02735.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.estimates import Estimated
from pushforward.distributions.likelihoods import total, wide
from pushforward.errors import UserError
from pushforward.nets.lipschitz import OrthonormalConv2d, follow, spectral

SLOPE = 0.9  # c
TERMS = {True: 2, False: 20}  # sure terms of the series: in training, in eval mode
EXACT = {True: 16, False: 256}  # numbers of x up to which the determinant is exact, likewise
MORE = 0.5  # the probability of one more term
ITERATIONS = 1000  # of the inverse


class LipSwish(nn.Module):
    """x sigmoid(beta x) / 1.1: of slope <= 1, and smooth, as the determinant's gradient wants it; beta > 0 is learned.

    Args:
        width: of the layer. Where it keeps norms its units are about 1 / sqrt(width): beta starts as the inverse of that, or
            all of them would be where it is a line of slope 0.45.
    """

    def __init__(self, width: int):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(math.sqrt(width)))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(F.softplus(self.raw) * x) / 1.1


class Contraction(nn.Module):
    """x (B, *shape) -> g(x) (B, *shape) of slope below 0.9 in x, whatever the context (B, context).

    Args:
        shape: (d,), for linear layers under spectral normalisation (which `follow` is to keep up after each update); or (C, H,
            W), for convolutions on a torus that keep norms.
        hidden: units, or channels, of the hidden layers; at least one. context: width of the context, 0: none.
    """

    def __init__(self, shape: tuple[int, ...], hidden: Sequence[int] = (128, 128), context: int = 0):
        super().__init__()
        if len(shape) not in (1, 3):
            raise UserError(f"data of shape {shape} were given to a residual map; it takes vectors (d,) and images (C, H, W).")
        if not hidden:
            raise UserError("a residual map without a hidden layer would be linear; give hidden = (128, 128), say.")
        layer = nn.Linear if len(shape) == 1 else OrthonormalConv2d
        widths = itertools.pairwise((shape[0], *hidden, shape[0]))
        self.layers = nn.ModuleList(layer(inputs, outputs) for inputs, outputs in widths)
        self.activations = nn.ModuleList(LipSwish(width) for width in hidden)
        spectral(self.layers)
        for _ in range(30):  # until the estimates of the singular values have settled
            follow(self.layers)
        self.told = nn.Linear(context, hidden[0]) if context else None
        self.scale = nn.Parameter(torch.ones(shape[0], *(1 for _ in shape[1:])))

    def forward(self, x: Float[Tensor, "b *shape"], context: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        h = self.layers[0](x)
        if self.told is not None:
            if context is None:
                raise UserError("a residual map that was built for a context was given none; hand it one beside x.")
            h = h + self.told(context).reshape(*h.shape[:2], *(1 for _ in h.shape[2:]))
        for activation, layer in zip(self.activations, self.layers[1:], strict=True):
            h = layer(activation(h))
        return SLOPE * torch.tanh(self.scale) * h


class Residual(Estimated):
    """x (B, *shape) <-> x + g(x).

    Args:
        shape, hidden, context: of g, see `Contraction`.

    Raises UserError where the inverse is not found: then g is no contraction.
    """

    def __init__(self, shape: tuple[int, ...], hidden: Sequence[int] = (128, 128), context: int = 0):
        super().__init__()
        self.g = Contraction(shape, hidden, context)
        self.dimensions = math.prod(shape)

    def estimates(self) -> bool:
        return self.dimensions > EXACT[self.training]

    def forward(
        self, x: Float[Tensor, "b *shape"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, " b"]]:
        wanted, x = torch.is_grad_enabled(), wide(x)
        with (
            torch.enable_grad(),
            torch.autocast(x.device.type, enabled=False),
        ):  # J is autograd's whatever mode the caller is in
            if not (wanted and x.requires_grad):
                x = x.detach().requires_grad_()
            g = self.g(x, context)
            if self.estimates():
                # In training one number of terms for all rows, which so need as few as one of them.
                noise = self.normal(x), self.uniform(x, alike=self.training)
                log_det = roulette(g, x, *noise, TERMS[self.training], wanted)
            else:
                log_det = exact(g, x, wanted)
            y = x + g
        return (y, log_det) if wanted else (y.detach(), log_det.detach())

    def inverse(self, y: Float[Tensor, "b *shape"], context: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        y = wide(y)
        with torch.autocast(y.device.type, enabled=False):
            with torch.no_grad():
                x = fixed_point(lambda x: y - self.g(x, context), y)
            if not torch.is_grad_enabled():
                return x
            at = x.requires_grad_()
            g = self.g(at, context)
            x = y - self.g(at.detach(), context)

        def solved(pull: Tensor) -> Tensor:
            """(I + J)^-T pull: what the fixed point's gradient is, beside that of one step."""
            return fixed_point(lambda w: pull - torch.autograd.grad(g, at, w, retain_graph=True)[0], pull)

        if x.requires_grad:
            x.register_hook(solved)
        return x.view_as(x)  # whose own gradient, which a determinant behind it is made of, is not solved for


def fixed_point(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """x with x = step(x), to rounding."""
    x, rounding = start, 16 * torch.finfo(start.dtype).eps
    for _ in range(ITERATIONS):
        x, before = step(x), x
        rows = before.abs().flatten(1) if before.dim() > 1 else before.abs()[:, None]
        size = rows.amax(1).clamp_min(1)  # a convolution rounds as the largest number of its row does
        if bool(((x - before).abs().reshape(rows.shape).amax(1) <= rounding * size).all()):
            return x
    raise UserError(
        f"the inverse of a residual map was not found within {ITERATIONS} steps: its slope is above 1; call "
        "nets.lipschitz.follow after each update of its weights, and look for numbers that are not finite."
    )


def exact(g: Tensor, x: Tensor, graph: bool) -> Float[Tensor, " b"]:
    """log det(I + dg/dx) of each row."""
    d = math.prod(x.shape[1:])
    one = torch.eye(d, dtype=x.dtype, device=x.device)
    axes = one.reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
    rows = torch.autograd.grad(g, x, axes, is_grads_batched=True, create_graph=graph, retain_graph=True)[0]
    return torch.linalg.slogdet(one + rows.flatten(2).transpose(0, 1))[1]


def roulette(g: Tensor, x: Tensor, v: Tensor, uniform: Float[Tensor, " r"], terms: int, graph: bool) -> Float[Tensor, " b"]:
    """An estimate of log det(I + dg/dx) of each row without bias, and with it of its gradient."""
    more = (uniform.log() / math.log(MORE)).floor()  # P(more >= j) = MORE^j
    power = weighted = v
    value = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for k in range(1, terms + int(more.max()) + 1):
        (power,) = torch.autograd.grad(g, x, power, retain_graph=True)
        surely = max(0, k - terms)
        weight = ((more >= surely) * MORE**-surely * (-1) ** k).to(x.dtype)
        value = value - weight / k * total(power * v)
        weighted = weighted + weight.reshape(-1, *(1 for _ in x.shape[1:])) * power
    if not graph:
        return value
    (gradient,) = torch.autograd.grad(g, x, weighted, create_graph=True)
    carrier = total(gradient * v)
    return value + carrier - carrier.detach()
