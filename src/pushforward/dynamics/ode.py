"""Methods for dx/dt = velocity(x, t): stateless steps from a time t to a time s, either way, with a declared order.

velocity(x, t) takes x (B, *shape) and t (B,). A step of order p is wrong by O(h^(p+1)), a whole trajectory by O(h^p).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.paths import expand
from pushforward.errors import UserError, nearest

Velocity = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Method(Protocol):
    """One step from t to s, each (B,). `order` of convergence; `evaluations` of the velocity a step (None: adaptive)."""

    @property
    def order(self) -> int: ...

    @property
    def evaluations(self) -> int | None: ...

    def advance(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Euler:
    """x + h v(x, t)."""

    order: int = 1
    evaluations: int | None = 1

    def advance(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x + expand(s - t, x) * velocity(x, t)


@dataclass(frozen=True)
class Heun:
    """The explicit trapezoid rule: Euler's step, then the mean of the velocities at both ends."""

    order: int = 2
    evaluations: int | None = 2

    def advance(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = expand(s - t, x)
        start = velocity(x, t)
        return x + h * (start + velocity(x + h * start, s)) / 2


@dataclass(frozen=True)
class RungeKutta4:
    """The classical Runge-Kutta method."""

    order: int = 4
    evaluations: int | None = 4

    def advance(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h, middle = expand(s - t, x), (t + s) / 2
        k1 = velocity(x, t)
        k2 = velocity(x + h * k1 / 2, middle)
        k3 = velocity(x + h * k2 / 2, middle)
        k4 = velocity(x + h * k3, s)
        return x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6


@dataclass(frozen=True)
class DormandPrince5:
    """Dormand and Prince's adaptive method of order 5, from torchdiffeq. It chooses its own steps between t and s, for the
    whole batch at once: a row's result depends on its neighbours within the tolerances. All rows share t and s."""

    rtol: float = 1e-5
    atol: float = 1e-5
    order: int = 5
    evaluations: int | None = None

    def advance(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        from torchdiffeq import odeint

        ends = torch.stack([t[0], s[0]])
        return odeint(
            lambda time, state: velocity(state, time.expand(len(state))),
            x,
            ends,
            rtol=self.rtol,
            atol=self.atol,
            method="dopri5",
            options={"step_t": ends[1:]},  # the last step ends there: beyond it a velocity may not exist
        )[-1]


METHODS: dict[str, Method] = {"euler": Euler(), "heun": Heun(), "rk4": RungeKutta4(), "dopri5": DormandPrince5()}


def find_method(method: str | Method) -> Method:
    """A method by name, or the method itself. Raises UserError for an unknown name."""
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise UserError(f"an ODE cannot be followed by '{method}'; {nearest(method, METHODS)}")
    return METHODS[method]


def integrate(
    velocity: Velocity,
    x: Float[Tensor, "b *shape"],
    times: Float[Tensor, "k"],
    method: str | Method = "heun",
    *,
    trajectory: bool = False,
) -> Tensor:
    """Carries x (B, *shape) from times[0] through all `times` (K,), rising or falling, one step between neighbours.

    Returns x at times[-1], or with `trajectory` x at all times (K, B, *shape).

    >>> x = torch.ones(1, 1, dtype=torch.float64)
    >>> integrate(lambda x, t: -x, x, torch.linspace(0, 1, 101, dtype=x.dtype), "rk4")  # 1/e
    tensor([[0.3679]], dtype=torch.float64)
    """
    advance, rows = find_method(method).advance, len(x)
    states = [x]
    for t, s in itertools.pairwise(times):
        x = advance(velocity, x, t.expand(rows), s.expand(rows))
        if trajectory:
            states.append(x)
    return torch.stack(states) if trajectory else x
