"""Continuous flows: a bijection that follows a velocity from data at t = 0 to noise at t = 1.

    dx/dt = v(x, t, context),        y = x(1),        log |det dy/dx| = int_0^1 div v(x(t), t) dt

(the instantaneous change of variables, Chen et al. 2018). Any smooth v will do; the inverse follows it from t = 1 to 0. In few
dimensions the divergence is exact, otherwise Hutchinson's estimate with one probe of random signs, the same all along the
way, so that the integral is of one function of t (Grathwohl et al. 2019).

In training the ODE is solved in a few Runge-Kutta steps of fixed size, through which gradients go back exactly; in eval mode by
an adaptive method, whose tolerance is the error of what is called exact.

Chen, Rubanova, Bettencourt and Duvenaud 2018, "Neural ordinary differential equations", arXiv:1806.07366; Grathwohl, Chen,
Bettencourt, Sutskever and Duvenaud 2019, "FFJORD", arXiv:1810.01367.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Shape
from pushforward.bijections.coupling import silent
from pushforward.bijections.estimates import Estimated
from pushforward.distributions.likelihoods import wide
from pushforward.dynamics.likelihood import divergences
from pushforward.dynamics.ode import DormandPrince5, Method, RungeKutta4, integrate
from pushforward.errors import UserError

EXACT = {True: 16, False: 64}  # numbers of x up to which the divergence is exact: in training, in eval mode
STEPS = 6  # of Runge-Kutta, in training
ADAPTIVE = DormandPrince5(rtol=1e-6, atol=1e-6)  # in eval mode: codes come back to 1e-4 in single precision


class ConcatSquash(nn.Module):
    """h -> (W h + b) sigmoid(gate) + shift, where gate and shift are linear in (t, context): FFJORD's layer.

    Args:
        layer: W and b: nn.Linear, or a convolution.
        outputs: units or channels of it.
        context: numbers beside t; 0: none.
    """

    def __init__(self, layer: nn.Module, outputs: int, context: int):
        super().__init__()
        self.layer, self.told = layer, nn.Linear(1 + context, 2 * outputs)

    def forward(self, h: Tensor, known: Float[Tensor, "b e"]) -> Tensor:
        gate, shift = self.told(known).reshape(*known.shape[:1], -1, *(1 for _ in h.shape[2:])).chunk(2, 1)
        return self.layer(h) * torch.sigmoid(gate) + shift


class Velocity(nn.Module):
    """x (B, *shape), t (B,), context (B, e) or None -> v (B, *shape): smooth, and 0 at first, so that the flow is the identity.

    Linear layers for vectors (d,), convolutions of 3x3 for images (C, H, W), with SiLU between them.

    Args:
        shape: of x. width: units, or channels. depth: hidden layers. context: numbers of the context; 0: none.
    """

    def __init__(self, shape: Shape, width: int = 64, depth: int = 3, context: int = 0):
        super().__init__()
        if len(shape) not in (1, 3):
            raise UserError(f"data of shape {shape} were given to a velocity; it takes vectors (d,) and images (C, H, W).")
        self.context = context
        widths = itertools.pairwise((shape[0], *(width,) * depth, shape[0]))
        layers = [
            nn.Linear(inputs, outputs) if len(shape) == 1 else nn.Conv2d(inputs, outputs, 3, padding=1)
            for inputs, outputs in widths
        ]
        self.layers = nn.ModuleList(
            ConcatSquash(layer, outputs, context) for layer, outputs in zip(layers, (*(width,) * depth, shape[0]), strict=True)
        )
        last = self.layers[-1]
        assert isinstance(last, ConcatSquash)
        silent(layers[-1])
        silent(last.told)

    def forward(
        self, x: Float[Tensor, "b *shape"], t: Float[Tensor, " b"], context: Tensor | None = None
    ) -> Float[Tensor, "b *shape"]:
        if self.context and context is None:
            raise UserError("a velocity that was built for a context was given none; hand it one beside x.")
        known = t[:, None].to(x.dtype)
        if self.context and context is not None:
            known = torch.cat([known, context.to(x.dtype)], 1)
        for layer in self.layers[:-1]:
            x = F.silu(layer(x, known))
        return self.layers[-1](x, known)


class Continuous(Estimated):
    """x (B, *shape) <-> where dx/dt = v(x, t, context) takes it from t = 0 to t = 1.

    Args:
        shape: of x.
        velocity: v(x, t, context), any module; twice differentiable.
        steps: of fixed size, in training.
        method: of the ODE in eval mode.
    """

    def __init__(self, shape: Shape, velocity: nn.Module, steps: int = STEPS, method: Method = ADAPTIVE):
        super().__init__()
        if steps < 1:
            raise UserError(f"a continuous flow of {steps} steps was asked for; it takes at least 1.")
        self.velocity, self.steps, self.method = velocity, steps, method
        self.dimensions = math.prod(shape)

    def estimates(self) -> bool:
        return self.dimensions > EXACT[self.training]

    def forward(
        self, x: Float[Tensor, "b *shape"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, " b"]]:
        x, wanted, d = wide(x), torch.is_grad_enabled(), self.dimensions
        probes = self.normal(x).sign().flatten(1)[None] if self.estimates() else None

        def rates(state: Tensor, t: Tensor) -> Tensor:
            with torch.enable_grad():  # the divergence is autograd's whatever mode the caller is in
                at = state[:, :d] if wanted and state.requires_grad else state[:, :d].detach().requires_grad_()
                v = self.velocity(at.reshape(x.shape), t, context).flatten(1)
                rate = torch.cat([v, divergences(v, at, probes, graph=wanted)], 1)
            return rate if wanted else rate.detach()

        state = self.follow(rates, torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1), 0.0, 1.0)
        return state[:, :d].reshape(x.shape), state[:, d]

    def inverse(self, y: Float[Tensor, "b *shape"], context: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        return self.follow(lambda x, t: self.velocity(x, t, context), wide(y), 1.0, 0.0)

    def follow(self, rates: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: float, end: float) -> Tensor:
        """Where `rates` take x from one time to the other."""
        times = torch.linspace(start, end, (self.steps if self.training else 1) + 1, dtype=x.dtype, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            return integrate(rates, x, times, RungeKutta4() if self.training else self.method)
