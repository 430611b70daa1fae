"""Exponential integrators: solvers that take what is linear in the probability-flow ODE as known.

With lambda = log(alpha / sigma), half the log signal-to-noise ratio, which rises towards the data, the ODE is either of

    d(x / sigma) = e^lambda x0(x, lambda) dlambda,        d(x / alpha) = -e^-lambda noise(x, lambda) dlambda,

in which only x0 or the noise is to be guessed. A step of length h in lambda on which they are constant is DDIM's,
x_s = alpha_s x0 + sigma_s noise; the solvers of a higher order add how they change:

    DPM-Solver-2, -3      the noise, looked up on the way             Lu et al. 2022, arXiv:2206.00927
    DPM-Solver++(2M)      x0, extrapolated from the step before       Lu et al. 2022, arXiv:2211.01095
    UniPC                 the same, and corrected a step later        Zhao et al. 2023, arXiv:2302.04867

At t = 1 of a path where alpha is 0, and at t = 0 where sigma is 0, lambda is infinite: a step from or to there is DDIM's.
That is Euler's method in alpha / sigma and in sigma / alpha, which are finite there, so that such a step is of order 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.paths import Path, expand, time_of
from pushforward.dynamics.stepping import fresh_noise, mixed, noise_source
from pushforward.errors import UserError
from pushforward.randomness import Rng


@dataclass(frozen=True)
class DDIM:
    """x_s = alpha_s x0 + (sigma_s^2 - c^2)^(1/2) noise + c z, with c^2 = eta^2 times the variance of x_s given x_t and x0.

    eta = 0 is deterministic: Euler's method for x / alpha as a function of sigma / alpha. With rising times it is DDIM's
    inversion, from data to their noise. eta = 1 is ancestral sampling, DDPM's with its small variance, on any path (Ho et al.
    2020; Song et al. 2021, arXiv:2010.02502).
    """

    eta: float = 0.0
    order: int = 1
    evaluations: int | None = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta = {self.eta} was given; it is the share of noise drawn anew, from 0 (none, an ODE) to 1.")

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        if self.eta:
            rng = noise_source(self, denoiser.path, t, s, rng)
        x0, noise = denoiser(x, t)
        if not self.eta or rng is None:
            return mixed(denoiser.path, x0, noise, s), None
        alpha, sigma, _, _ = denoiser.path(s)
        fresh = self.eta * fresh_noise(denoiser.path, t, s)
        kept = (sigma**2 - fresh**2).clamp(min=0).sqrt()
        return expand(alpha, x) * x0 + expand(kept, x) * noise + expand(fresh, x) * rng.randn_like(x), None


@dataclass(frozen=True)
class DPMSolver2:
    """DPM-Solver-2: the noise is looked up at the middle of the step in lambda, where DDIM leads."""

    order: int = 2
    evaluations: int | None = 2

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        x0, noise = denoiser(x, t)
        moved = mixed(denoiser.path, x0, noise, s)
        way = _Way(denoiser.path, t, s)
        if not way.finite.any():
            return moved, None
        middle, share = way.at(1 / 2)
        _, change = denoiser(mixed(denoiser.path, x0, noise, middle), middle)
        change = change - noise
        weight = denoiser.path(s)[1] * torch.expm1(way.length) / (2 * share)
        return moved - expand(way.only(weight), x) * change, None


@dataclass(frozen=True)
class DPMSolver3:
    """DPM-Solver-3: the noise is looked up at a third and at two thirds of the step in lambda."""

    order: int = 3
    evaluations: int | None = 3

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        path = denoiser.path
        x0, noise = denoiser(x, t)
        moved = mixed(path, x0, noise, s)
        way = _Way(path, t, s)
        if not way.finite.any():
            return moved, None
        (third, r1), (later, r2) = way.at(1 / 3), way.at(2 / 3)
        _, first = denoiser(mixed(path, x0, noise, third), third)
        weight = path(later)[1] * r2 / r1 * _second(r2 * way.length)
        there = mixed(path, x0, noise, later) - expand(way.only(weight), x) * (first - noise)
        _, second = denoiser(there, later)
        weight = path(s)[1] / r2 * _second(way.length)
        return moved - expand(way.only(weight), x) * (second - noise), None


@dataclass(frozen=True)
class DPMSolverPP2M:
    """DPM-Solver++(2M): x0 is extrapolated linearly in lambda from its last two values. The first step is of order 1."""

    order: int = 2
    evaluations: int | None = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        x0, noise = denoiser(x, t)
        way = _Way(denoiser.path, t, s)
        moved = mixed(denoiser.path, x0, noise, s)
        if memory is not None:
            weight = -denoiser.path(s)[0] * torch.expm1(-way.length) * way.ahead(memory.now)
            moved = moved + expand(way.only(weight), x) * (x0 - memory.x0)
        return moved, _Seen(x0, way.now)


@dataclass(frozen=True)
class DPMSolverPP2MSDE:
    """SDE-DPM-Solver++(2M): DDIM with eta = 1, and x0 extrapolated as in DPM-Solver++(2M)."""

    order: int = 2
    evaluations: int | None = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        rng = noise_source(self, denoiser.path, t, s, rng)
        x0, noise = denoiser(x, t)
        way = _Way(denoiser.path, t, s)
        alpha, sigma, _, _ = denoiser.path(s)
        fresh = -torch.expm1(-2 * way.length)  # of the variance: 1 where the length is infinite
        moved = expand(alpha, x) * x0 + expand(sigma * (1 - fresh).clamp(min=0).sqrt(), x) * noise
        if memory is not None:
            moved = moved + expand(way.only(alpha * fresh * way.ahead(memory.now)), x) * (x0 - memory.x0)
        moved = moved + expand(sigma * fresh.clamp(min=0).sqrt(), x) * rng.randn_like(x)
        return moved, _Seen(x0, way.now)


@dataclass(frozen=True)
class UniPC:
    """UniPC of the second kind, B(h) = e^-h - 1, with two values of x0: the predictor is DPM-Solver++(2M); the value at its
    end, which the next step needs anyhow, corrects the way there to order 3. What ends the trajectory is not corrected."""

    order: int = 3
    evaluations: int | None = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        x0, noise = denoiser(x, t)
        alpha_t, sigma_t, _, _ = denoiser.path(t)
        way = _Way(denoiser.path, t, s)
        if memory is not None:
            at_t = memory.corrected(alpha_t, way.now, x0)
            noise = noise + (at_t - x) / expand(sigma_t, x)
        straight = mixed(denoiser.path, x0, noise, s)
        moved = straight
        if memory is not None:
            weight = -denoiser.path(s)[0] * torch.expm1(-way.length) * way.ahead(memory.now)
            moved = moved + expand(way.only(weight), x) * (x0 - memory.x0)
        before = None if memory is None else _Seen(memory.x0, memory.now)
        return moved, _Predicted(x0, way.now, straight, before)


class _Seen(NamedTuple):
    """x0 at a time of the past, and lambda there."""

    x0: Tensor
    now: Tensor


class _Predicted(NamedTuple):
    """What UniPC's corrector knows of a step: x0 and lambda where it began, where x0 alone led, and what was seen before."""

    x0: Tensor
    now: Tensor
    straight: Tensor
    before: _Seen | None

    def corrected(self, alpha: Tensor, then: Tensor, x0: Tensor) -> Tensor:
        """x at the step's end, by the polynomial through x0 there and at the last one or two times before."""
        change = x0 - self.x0
        length = then - self.now
        scale = torch.expm1(-length)  # B(h)
        if self.before is None:  # the trapezoid rule in alpha / sigma
            return self.straight - expand(_finite(alpha * scale / 2), x0) * change
        r = (self.before.now - self.now) / length
        # the moments of the polynomial: sum_k rho_k r_k^(n - 1) = b_n, with r_2 = 1 at the step's end
        b1 = -1 / length - 1 / scale
        b2 = 2 * ((scale / length + 1) / length - 1 / 2) / scale
        rho = (b2 - b1) / (r - 1)
        back, here = _finite(alpha * scale * rho / r), _finite(alpha * scale * (b1 - rho))
        return self.straight - expand(back, x0) * (self.before.x0 - self.x0) - expand(here, x0) * change


class _Way:
    """A step in lambda: now, then, its length, and in which rows that is finite and not 0."""

    def __init__(self, path: Path, t: Float[Tensor, "b"], s: Float[Tensor, "b"]):
        self.path, self.t = path, t
        self.now, self.then = log_ratio(path, t), log_ratio(path, s)
        self.length = self.then - self.now
        self.finite = self.length.isfinite() & (self.length != 0)

    def only(self, weight: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """A weight where the step is finite, else 0."""
        return _finite(torch.where(self.finite, weight, 0.0))

    def at(self, share: float) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """The time at which a share of the step is done, t where it is infinite; and that share as the time's type has it."""
        wanted = (-self.now - share * self.length).exp()
        time = torch.where(self.finite, time_of(self.path, torch.where(self.finite, wanted, 1.0)), self.t)
        return time, (log_ratio(self.path, time) - self.now) / self.length

    def ahead(self, last: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """From the last time to now, x0 has changed by 1: by how much more at the middle of the step."""
        return self.length / (2 * (self.now - last))


def log_ratio(path: Path, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """lambda = log(alpha / sigma)."""
    alpha, sigma, _, _ = path(t)
    return alpha.log() - sigma.log()


def _second(h: Tensor) -> Tensor:
    """(e^h - 1) / h - 1."""
    return torch.expm1(h) / h - 1


def _finite(weight: Tensor) -> Tensor:
    return torch.where(weight.isfinite(), weight, 0.0)
