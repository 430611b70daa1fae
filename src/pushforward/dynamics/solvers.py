"""Solvers: from noise to data (or back) through a denoiser, in stateless steps from a time t to a time s.

All marginals of a path are shared by one ODE and by a family of SDEs, one for each diffusion coefficient g >= 0
(Song et al. 2021, arXiv:2011.13456; Albergo et al. 2023, arXiv:2303.08797):

    dx = v(x, t) dt                                          the probability-flow ODE
    dx = (v(x, t) - g(t)^2 / 2 score(x, t)) dt + g(t) dw     backwards in time, dt < 0

The Runge-Kutta methods follow the ODE in x and t. DDIM and DPM-Solver++ use that its linear part is known: with
lambda = log(alpha / sigma) the ODE is d(x / sigma) = exp(lambda) x0(x, lambda) dlambda, in which only x0 is to be guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.ode import METHODS, Method
from pushforward.dynamics.paths import Path, expand
from pushforward.errors import UserError, nearest
from pushforward.randomness import Rng


@runtime_checkable
class Solver(Protocol):
    """One step of x (B, *shape) from t to s, each (B,).

    `order` of convergence (of the law, where it is random); `evaluations` of the network a step (None: adaptive). rng: what a
    random solver draws from. memory: what the step before gave back (None at the first): what a multistep solver knows.
    """

    @property
    def order(self) -> int: ...

    @property
    def evaluations(self) -> int | None: ...

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]: ...


@dataclass(frozen=True)
class Flow:
    """Follows the probability-flow ODE in x and t by any method."""

    method: Method

    @property
    def order(self) -> int:
        return self.method.order

    @property
    def evaluations(self) -> int | None:
        return self.method.evaluations

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        return self.method.advance(denoiser.velocity, x, t, s), None


@dataclass(frozen=True)
class DDIM:
    """x_s = alpha_s x0 + (sigma_s^2 - c^2)^(1/2) noise + c z, with c^2 = eta^2 times the variance of x_s given x_t and x0.

    eta = 0 is deterministic: Euler's method for x / alpha as a function of sigma / alpha. eta = 1 is ancestral sampling, DDPM's
    with its small variance, on any path (Ho et al. 2020; Song et al. 2021, arXiv:2010.02502).
    """

    eta: float = 0.0
    order: int = 1
    evaluations: int | None = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        x0, noise = denoiser(x, t)
        alpha_t, sigma_t, _, _ = denoiser.path(t)
        alpha_s, sigma_s, _, _ = denoiser.path(s)
        if not self.eta:
            return expand(alpha_s, x) * x0 + expand(sigma_s, x) * noise, None
        # x_t = ratio x_s + noise of variance sigma_t^2 - (ratio sigma_s)^2: Bayes' rule gives x_s given x_t and x0
        ratio = alpha_t / alpha_s
        fresh = self.eta * sigma_s / sigma_t * (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt()
        kept = (sigma_s**2 - fresh**2).clamp(min=0).sqrt()
        z = _needed(rng, self).randn_like(x)
        return expand(alpha_s, x) * x0 + expand(kept, x) * noise + expand(fresh, x) * z, None


def rising_noise(path: Path, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """g(t) = (d sigma^2 / dt)^(1/2): 0 at the data, finite everywhere; the diffusion of the paths that explode variance."""
    _, sigma, _, d_sigma = path(t)
    return (2 * sigma * d_sigma).clamp(min=0).sqrt()


@dataclass(frozen=True)
class EulerMaruyama:
    """The SDE backwards in time with a diffusion coefficient g(path, t) of your choice: all have the same marginals.

    The step to t = 0 goes to x0: what noise it would add, nothing would remove.
    """

    diffusion: Callable[[Path, Tensor], Tensor] = field(default=rising_noise)
    order: int = 1
    evaluations: int | None = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        x0, noise = denoiser(x, t)
        _, sigma, d_alpha, d_sigma = denoiser.path(t)
        g, h = self.diffusion(denoiser.path, t), t - s
        # v = d_alpha x0 + d_sigma noise, score = -noise / sigma
        drift = expand(d_alpha, x) * x0 + expand(d_sigma + g**2 / (2 * sigma), x) * noise
        z = _needed(rng, self).randn_like(x)
        moved = x - expand(h, x) * drift + expand(g * h.clamp(min=0).sqrt(), x) * z
        return torch.where(expand(denoiser.path(s)[1] == 0, x), x0, moved), None


@dataclass(frozen=True)
class DPMSolverPP2M:
    """DPM-Solver++(2M): x0 is extrapolated linearly in lambda from its last two values (Lu et al. 2022, arXiv:2211.01095).

    The first step, and one to t = 0 (lambda = infinity), are of order 1.
    """

    order: int = 2
    evaluations: int | None = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        x0, _ = denoiser(x, t)
        alpha_t, sigma_t, _, _ = denoiser.path(t)
        alpha_s, sigma_s, _, _ = denoiser.path(s)
        now, then = alpha_t.log() - sigma_t.log(), alpha_s.log() - sigma_s.log()
        guess = x0
        if memory is not None:
            before, last = memory
            share = (then - now) / (2 * (now - last))
            guess = x0 + expand(torch.where(share.isfinite(), share, 0.0), x) * (x0 - before)
        moved = expand(sigma_s / sigma_t, x) * x - expand(alpha_s * torch.expm1(now - then), x) * guess
        return moved, (x0, now)


SOLVERS: dict[str, Solver] = {
    **{name: Flow(method) for name, method in METHODS.items()},
    "ddim": DDIM(),
    "ancestral": DDIM(eta=1.0),
    "euler-maruyama": EulerMaruyama(),
    "dpm++2m": DPMSolverPP2M(),
}
SPACINGS = ("uniform", "quadratic")


def find_solver(solver: str | Solver) -> Solver:
    """A solver by name, or the solver itself. Raises UserError for an unknown name."""
    if not isinstance(solver, str):
        return solver
    if solver not in SOLVERS:
        raise UserError(f"there is no solver '{solver}'; {nearest(solver, SOLVERS)}")
    return SOLVERS[solver]


def time_grid(span: tuple[float, float], steps: int, spacing: str = "uniform", like: Tensor | None = None) -> Tensor:
    """steps + 1 times from the noise's end of `span` (t_min, t_max) to the data's, of `like`'s dtype and device.

    spacing: "uniform", or "quadratic": shorter steps towards the data.

    >>> time_grid((0.0, 1.0), 4, "quadratic")
    tensor([1.0000, 0.5625, 0.2500, 0.0625, 0.0000])
    """
    if steps < 1:
        raise UserError(f"steps is the number of the solver's steps, 1 or more; {steps} was given.")
    if spacing not in SPACINGS:
        raise UserError(f"times cannot be spaced '{spacing}'; {nearest(spacing, SPACINGS)}")
    u = (
        torch.linspace(0, 1, steps + 1)
        if like is None
        else torch.linspace(0, 1, steps + 1, dtype=like.dtype, device=like.device)
    )
    u = u if spacing == "uniform" else u**2
    return (span[0] + (span[1] - span[0]) * u).flip(0)


def carry(
    denoiser: Denoiser,
    x: Float[Tensor, "b *shape"],
    times: Float[Tensor, "k"],
    solver: str | Solver = "heun",
    *,
    rng: Rng | None = None,
    trajectory: bool = False,
) -> Tensor:
    """x (B, *shape) from times[0] through all `times` (K,), one step between neighbours: x at times[-1], or with `trajectory`
    x at all times (K, B, *shape). The denoiser's condition is given already."""
    step, rows = find_solver(solver).step, len(x)
    states, memory = [x], None
    for t, s in itertools.pairwise(times):
        x, memory = step(denoiser, x, t.expand(rows), s.expand(rows), rng=rng, memory=memory)
        if trajectory:
            states.append(x)
    return torch.stack(states) if trajectory else x


def generate(
    denoiser: Denoiser,
    noise: Float[Tensor, "b *shape"],
    times: Float[Tensor, "k"],
    solver: str | Solver = "heun",
    *,
    rng: Rng | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Data from standard normal noise: x = sigma noise at times[0], carried along the falling `times`.

    Where noise is left at their end (a target that is ill-posed at the data, a path that explodes variance), the end is
    E[x0 | x] there. As `carry` otherwise.
    """
    rows = len(noise)
    start = expand(denoiser.path(times[:1].expand(rows))[1], noise) * noise
    states = carry(denoiser, start, times, solver, rng=rng, trajectory=trajectory)
    if denoiser.path(times[-1:])[1] == 0:
        return states
    x0, _ = denoiser(states[-1] if trajectory else states, times[-1:].expand(rows))
    return torch.cat([states[:-1], x0[None]]) if trajectory else x0


def _needed(rng: Rng | None, solver: Solver) -> Rng:
    if rng is None:
        raise UserError(
            f"{type(solver).__name__} draws noise at every step and was given no rng; an ODE is followed by ddim or heun."
        )
    return rng
