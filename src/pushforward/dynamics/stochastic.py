"""Solvers that draw noise at every step: ancestral sampling, the SDEs, Langevin dynamics. All have the law of x_s in mind, not
where one x_t goes, and forget errors of the way that an ODE would carry along.

    Ancestral             p(x_s | x_t, x0) with x0 guessed              Ho et al. 2020, arXiv:2006.11239
    Euler-Maruyama        the SDE of any diffusion coefficient          Song et al. 2021, arXiv:2011.13456
    EDM                   noise is added, then Heun's method            Karras et al. 2022, arXiv:2206.00364
    predictor-corrector   any solver, then Langevin steps at s          Song et al. 2021
    annealed Langevin     Langevin steps at s alone                     Song and Ermon 2019, arXiv:1907.05600
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.paths import Path, expand, noise_ratio, time_of
from pushforward.dynamics.stepping import Solver, fresh_noise, mixed, noise_source
from pushforward.errors import UserError
from pushforward.randomness import Rng

MOST_CHURN = 2**0.5 - 1  # of the noise that there is, as the authors of EDM have it


@dataclass(frozen=True)
class Ancestral:
    """DDPM's step: the mean of x_s given x_t and x0, as DDIM with eta = 1 has it, and a noise.

    Its variance is that of x_s given x_t where data are N(x0, deviation^2): with beta the variance that x_t has from x_s,
    beta (d^2 alpha_s^2 + sigma_s^2) / (d^2 alpha_t^2 + sigma_t^2). deviation 0 is DDPM's small variance, right for one datum;
    1 the large one, beta itself on a path that preserves variance, right for standard normal data. None: learned, where the
    denoiser has `log_variance` (Nichol and Dhariwal 2021, arXiv:2102.09672), else small. The step to t = 0 draws nothing.
    """

    deviation: float | None = None
    order: int = 1
    evaluations: int | None = 1

    def __post_init__(self) -> None:
        if self.deviation is not None and not 0 <= self.deviation < float("inf"):
            raise UserError(f"deviation = {self.deviation} was given; it is that of the data, 0 (small variance) or more.")

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        rng = noise_source(self, denoiser.path, t, s, rng)
        x0, noise = denoiser(x, t)
        alpha, sigma, _, _ = denoiser.path(s)
        small = fresh_noise(denoiser.path, t, s)
        mean = expand(alpha, x) * x0 + expand((sigma**2 - small**2).clamp(min=0).sqrt(), x) * noise
        deviation = self._deviation(denoiser, x, t, s)
        return mean + torch.where(expand(sigma == 0, x), 0.0, deviation) * rng.randn_like(x), None

    def _deviation(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if self.deviation is None and denoiser.log_variance is not None:
            return (denoiser.log_variance(x, t, s) / 2).exp()
        alpha_t, sigma_t, _, _ = denoiser.path(t)
        alpha_s, sigma_s, _, _ = denoiser.path(s)
        d = self.deviation or 0.0
        beta = (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2).clamp(min=0)
        variance = beta * ((d * alpha_s) ** 2 + sigma_s**2) / ((d * alpha_t) ** 2 + sigma_t**2)
        return expand(variance.sqrt(), x)


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
        rng = noise_source(self, denoiser.path, t, s, rng)
        x0, noise = denoiser(x, t)
        _, sigma, d_alpha, d_sigma = denoiser.path(t)
        g, h = self.diffusion(denoiser.path, t), t - s
        # v = d_alpha x0 + d_sigma noise, score = -noise / sigma
        drift = expand(d_alpha, x) * x0 + expand(d_sigma + g**2 / (2 * sigma), x) * noise
        moved = x - expand(h, x) * drift + expand(g * h.clamp(min=0).sqrt(), x) * rng.randn_like(x)
        return torch.where(expand(denoiser.path(s)[1] == 0, x), x0, moved), None


@dataclass(frozen=True)
class Churn:
    """gamma, by which share the noise ratio is raised before a step from one ratio to another: to the power `rate` of their
    quotient, so that rate = 1 goes back by as much as the step goes ahead, however many steps there are; between the ratios
    `low` and `high` alone."""

    rate: float = 1.0
    low: float = 0.0
    high: float = float("inf")

    def __call__(self, now: Float[Tensor, "b"], then: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        gamma = torch.expm1(self.rate * (now.log() - then.log()))
        return torch.where((now >= self.low) & (now <= self.high), gamma, 0.0).nan_to_num(nan=0.0)


@dataclass(frozen=True)
class EDM:
    """Heun's method for x / alpha as a function of the noise ratio sigma / alpha, after adding noise: EDM's algorithm 2, on any
    path. A step from or to an infinite or zero ratio is Euler's.

    Adding noise keeps the law exactly, so that with noise as without it is of order 2.

    churn(ratio_t, ratio_s) -> gamma: by which share the ratio is raised first, at most 2^(1/2) - 1 and never beyond the path's
    own; None: an ODE. The authors' is S_churn / steps within [S_min, S_max]. noise: S_noise, the deviation of what is added.
    """

    churn: Callable[[Tensor, Tensor], Tensor] | None = None
    noise: float = 1.0
    order: int = 2
    evaluations: int | None = 2

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        path = denoiser.path
        if self.churn is not None:
            rng = noise_source(self, path, t, s, rng)
            now = noise_ratio(path, t)
            gamma = self.churn(now, noise_ratio(path, s)).clamp(0, MOST_CHURN)
            raised = torch.maximum(time_of(path, (1 + gamma) * now).clamp(max=denoiser.span[1]), t)
            x, t = noised(path, x, t, raised, rng, self.noise), raised
        x0, noise = denoiser(x, t)
        moved = mixed(path, x0, noise, s)
        alpha, sigma, _, _ = path(s)
        now = noise_ratio(path, t)
        curved = now.isfinite() & (now > 0) & (sigma > 0)
        if not curved.any():
            return moved, None
        _, there = denoiser(torch.where(expand(curved, x), moved, x), torch.where(curved, s, t))
        weight = torch.where(curved, (sigma - alpha * now) / 2, 0.0)
        return moved + expand(weight, x) * (there - noise), None


@dataclass(frozen=True)
class PredictorCorrector:
    """A step of the predictor, then `corrections` Langevin steps at s of size 2 (snr sigma)^2, whose law of rest is nearly that
    of x_s: they mend the law, whatever the predictor did to it.

    The authors' size has |z| / |score|, means over a batch, in the place of sigma, which that is in many dimensions.
    """

    predictor: Solver = field(default=Ancestral())
    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.corrections < 1 or not 0 < self.snr < 0.7:
            raise UserError(
                f"corrections = {self.corrections} and snr = {self.snr} were given; corrections is a number of steps, 1 or "
                "more, and snr is above 0 and below 0.7: larger steps push away from the data."
            )

    @property
    def order(self) -> int:
        return self.predictor.order

    @property
    def evaluations(self) -> int | None:
        return None if self.predictor.evaluations is None else self.predictor.evaluations + self.corrections

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        rng = noise_source(self, denoiser.path, t, s, rng)
        x, memory = self.predictor.step(denoiser, x, t, s, rng=rng, memory=memory)
        return _langevin(denoiser, x, s, 2 * self.snr**2, self.corrections, rng), memory


@dataclass(frozen=True)
class AnnealedLangevin:
    """x_t as it is, and from there `repeats` Langevin steps of size `size` sigma_s^2 at s, in all paths as where variance
    explodes. The step to t = 0 goes to x0.

    Slow, and biased by the size of its steps: to compare with, or for a score without a path.
    """

    size: float = 0.1
    repeats: int = 5
    order: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1 or not 0 < self.size < 1:
            raise UserError(
                f"size = {self.size} and repeats = {self.repeats} were given; size is a share of sigma^2, above 0 and below 1, "
                "and repeats a number of steps, 1 or more."
            )

    @property
    def evaluations(self) -> int | None:
        return self.repeats

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        rng = noise_source(self, denoiser.path, t, s, rng)
        clean = denoiser.path(s)[1] == 0
        walked = _langevin(denoiser, x, s, self.size, self.repeats, rng)
        if not clean.any():
            return walked, None
        x0, _ = denoiser(x, t)
        return torch.where(expand(clean, x), x0, walked), None


def noised(
    path: Path, x: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], s: Float[Tensor, "b"], rng: Rng, scale: float = 1.0
) -> Tensor:
    """x_s from x_t of an earlier time t <= s: x alpha_s / alpha_t and the noise that lies between, times `scale`."""
    alpha_t, sigma_t, _, _ = path(t)
    alpha_s, sigma_s, _, _ = path(s)
    ratio = torch.where(s == t, 1.0, alpha_s / alpha_t)  # where alpha is 0, too
    between = (sigma_s**2 - (ratio * sigma_t) ** 2).clamp(min=0).sqrt()
    return expand(ratio, x) * x + expand(scale * between, x) * rng.randn_like(x)


def _langevin(denoiser: Denoiser, x: Tensor, t: Tensor, size: float, steps: int, rng: Rng) -> Tensor:
    """`steps` of x + h score + (2 h)^(1/2) z at t, h = size sigma^2: none where sigma is 0."""
    sigma = denoiser.path(t)[1]
    clean = sigma == 0
    if clean.all():
        return x
    drift, spread = expand(size * sigma, x), expand((2 * size) ** 0.5 * sigma, x)
    for _ in range(steps):
        _, noise = denoiser(x, t)  # score = -noise / sigma
        x = torch.where(expand(clean, x), x, x - drift * noise + spread * rng.randn_like(x))
    return x
