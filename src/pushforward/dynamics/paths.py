"""Paths from data to noise: x_t = alpha(t) x0 + sigma(t) noise, t in [0, 1], 0 = data, 1 = noise.

A path is a callable t -> (alpha, sigma, d_alpha, d_sigma), each of t's shape; d_alpha and d_sigma are derivatives by t.
Everything else (targets, conversions, scores, velocities) follows from these four numbers. sigma / alpha rises all the way, so
that a path is known by how fast it does, up to a scale of x_t: a solver of one path solves all (Karras et al. 2022,
arXiv:2206.00364; Kingma et al. 2021, arXiv:2107.00630).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.errors import UserError, nearest

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]


@runtime_checkable
class Path(Protocol):
    """t -> (alpha, sigma, d_alpha, d_sigma)."""

    def __call__(self, t: Tensor) -> Coefficients: ...


def expand(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) shaped (B, 1, ..., 1) so that it multiplies x (B, *shape) row by row. The only place where t meets x.

    >>> expand(torch.tensor([1.0, 2.0]), torch.ones(2, 2)) * torch.ones(2, 2)
    tensor([[1., 1.],
            [2., 2.]])
    """
    if t.shape != x.shape[:1]:
        raise ValueError(f"one time for each row is needed: t has shape {tuple(t.shape)}, x {tuple(x.shape)}.")
    return t.reshape(-1, *[1] * (x.dim() - 1))


def interpolate(
    path: Path, x0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], t: Float[Tensor, "b"]
) -> Float[Tensor, "b *shape"]:
    """x_t = alpha x0 + sigma noise."""
    alpha, sigma, _, _ = path(t)
    return expand(alpha, x0) * x0 + expand(sigma, noise) * noise


@dataclass(frozen=True)
class Linear:
    """The straight path of flow matching: x_t = (1 - t) x0 + t noise (Lipman et al. 2023; Liu et al. 2023)."""

    def __call__(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return 1 - t, t, -one, one


@dataclass(frozen=True)
class Trigonometric:
    """x_t = cos(pi t / 2) x0 + sin(pi t / 2) noise: keeps the variance, turns at constant speed (Albergo et al. 2023)."""

    def __call__(self, t: Tensor) -> Coefficients:
        angle = math.pi / 2
        # cos(pi t / 2) as a sine: exactly 0 at t = 1
        alpha, sigma = (angle * (1 - t)).sin(), (angle * t).sin()
        return alpha, sigma, -angle * sigma, angle * alpha


@dataclass(frozen=True)
class VariancePreserving:
    """The VP diffusion dx = -beta x / 2 dt + sqrt(beta) dw with beta linear in t (Ho et al. 2020; Song et al. 2021):
    alpha = exp(-1/2 int_0^t beta), sigma^2 = 1 - alpha^2. d_sigma is infinite at t = 0."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Tensor) -> Coefficients:
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        alpha, sigma = log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
        return alpha, sigma, -0.5 * beta * alpha, 0.5 * beta * alpha**2 / sigma


@dataclass(frozen=True)
class Cosine:
    """The VP diffusion whose alpha falls like a cosine: alpha = cos((t + s) / (1 + s) pi / 2) / cos(s / (1 + s) pi / 2), 0 at
    t = 1 (Nichol and Dhariwal 2021, arXiv:2102.09672). The offset s keeps it from being too slow near the data."""

    offset: float = 0.008

    def __call__(self, t: Tensor) -> Coefficients:
        rate = math.pi / 2 / (1 + self.offset)
        start = rate * self.offset
        alpha = (rate * (1 - t)).sin() / math.cos(start)
        d_alpha = -rate * (rate * (1 - t)).cos() / math.cos(start)
        # 1 - alpha^2 = sin(angle - start) sin(angle + start) / cos(start)^2: no digits are lost near the data
        sigma = ((rate * t).sin() * (rate * t + 2 * start).sin()).clamp(min=0).sqrt() / math.cos(start)
        return alpha, sigma, d_alpha, -alpha * d_alpha / sigma


@dataclass(frozen=True)
class SubVariancePreserving:
    """The sub-VP diffusion: alpha of the VP diffusion, but sigma = 1 - alpha^2, never above its sigma (Song et al. 2021,
    arXiv:2011.13456)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Tensor) -> Coefficients:
        alpha, sigma, d_alpha, _ = VariancePreserving(self.beta_min, self.beta_max)(t)
        return alpha, sigma**2, d_alpha, -2 * alpha * d_alpha


@dataclass(frozen=True)
class VarianceExploding:
    """Noise on data that keep their size: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t (Song and Ermon 2019,
    arXiv:1907.05600; Karras et al. 2022). At t = 0 a noise of sigma_min, which cannot be seen, is left."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __call__(self, t: Tensor) -> Coefficients:
        rate = math.log(self.sigma_max / self.sigma_min)
        sigma = self.sigma_min * (rate * t).exp()
        return torch.ones_like(t), sigma, torch.zeros_like(t), rate * sigma


@dataclass(frozen=True)
class Foellmer:
    """Foellmer's flow: alpha = 1 - t, sigma^2 = 1 - alpha^2, the line of which the variance is kept (Dai et al. 2023,
    arXiv:2309.03490). d_sigma is infinite at t = 0."""

    def __call__(self, t: Tensor) -> Coefficients:
        sigma = (t * (2 - t)).sqrt()
        return 1 - t, sigma, -torch.ones_like(t), (1 - t) / sigma


@dataclass(frozen=True)
class Sigmoid:
    """The VP diffusion whose alpha^2 falls like a logistic function from 1 to 0: S(u) = 1 / (1 + e^(-u / tau)), u from start to
    end, shifted and scaled (Jabri et al. 2022, arXiv:2212.11972). d_alpha is infinite at t = 1, d_sigma at t = 0."""

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __call__(self, t: Tensor) -> Coefficients:
        first, last = (1 / (1 + math.exp(-u / self.tau)) for u in (self.start, self.end))
        now = ((self.start + (self.end - self.start) * t) / self.tau).sigmoid()
        # exact 0 and 1 at the ends, where rounding would leave a root of a negative number
        alpha, sigma = ((share / (last - first)).clamp(min=0).sqrt() for share in (last - now, now - first))
        rate = (self.end - self.start) / self.tau * now * (1 - now) / (last - first)
        return alpha, sigma, -rate / (2 * alpha), rate / (2 * sigma)


@dataclass(frozen=True)
class Stepwise:
    """A diffusion in T steps, x_k = sqrt(1 - beta_k) x_(k-1) + sqrt(beta_k) noise, made continuous: x_k is at t = k / T, and in
    between log alpha is a line, which is a VP diffusion of constant beta. d_sigma is infinite at t = 0.

    Args:
        betas: beta_1 .. beta_T, above 0 and below 1.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise UserError("the steps of a diffusion are variances above 0 and below 1, one or more.")

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Stepwise:
        """DDPM's: beta rises evenly (Ho et al. 2020, arXiv:2006.11239)."""
        return cls(tuple(first + (last - first) * i / max(steps - 1, 1) for i in range(steps)))

    @classmethod
    def of(cls, path: Path, steps: int = 1000, most: float = 0.999) -> Stepwise:
        """Steps of a VP path, no beta above `most` (Nichol and Dhariwal 2021, of the cosine)."""
        alpha, _, _, _ = path(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
        return cls(tuple((1 - (alpha[1:] / alpha[:-1]) ** 2).clamp(max=most).tolist()))

    def __call__(self, t: Tensor) -> Coefficients:
        logs = _log_alphas(self.betas).to(t)
        steps = len(self.betas)
        # time k / T belongs to step k: where slopes differ, the derivative is that from the left
        step = (t * steps).ceil().long().clamp(1, steps)
        slope = logs[step] - logs[step - 1]
        log_alpha = logs[step] + (t * steps - step) * slope
        alpha, sigma = log_alpha.exp(), torch.expm1(2 * log_alpha).abs().sqrt()
        d_alpha = steps * slope * alpha
        return alpha, sigma, d_alpha, -alpha * d_alpha / sigma


@functools.lru_cache(maxsize=16)
def _log_alphas(betas: tuple[float, ...]) -> Tensor:
    """log alpha at t = 0, 1 / T, .. 1."""
    return torch.cat(
        [torch.zeros(1, dtype=torch.float64), 0.5 * torch.log1p(-torch.tensor(betas, dtype=torch.float64)).cumsum(0)]
    )


@dataclass(frozen=True)
class ZeroTerminal:
    """A VP path that leaves nothing of the data at t = 1: alpha is shifted and scaled to be 0 there and 1 at t = 0 (Lin et al.
    2024, arXiv:2305.08891). Without it samples keep the mean brightness of the data."""

    path: Path

    @functools.cached_property
    def left(self) -> float:
        """alpha of the given path at t = 1."""
        return float(self.path(torch.ones(1, dtype=torch.float64))[0])

    def __call__(self, t: Tensor) -> Coefficients:
        given, _, slope, _ = self.path(t)
        alpha = ((given - self.left) / (1 - self.left)).clamp(min=0)
        d_alpha = slope / (1 - self.left)
        sigma = ((1 - alpha) * (1 + alpha)).clamp(min=0).sqrt()
        return alpha, sigma, d_alpha, -alpha * d_alpha / sigma


PATHS: dict[str, Path] = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "foellmer": Foellmer(),
    "variance-preserving": VariancePreserving(),
    "sub-variance-preserving": SubVariancePreserving(),
    "variance-exploding": VarianceExploding(),
    "edm": VarianceExploding(0.002, 80.0),
    "cosine": Cosine(),
    "sigmoid": Sigmoid(),
    "ddpm": Stepwise.linear(),
    "ddpm-zero-terminal": ZeroTerminal(Stepwise.linear()),
}


def find_path(name: str) -> Path:
    """A path by name. Raises UserError for an unknown one."""
    if name not in PATHS:
        raise UserError(f"there is no path '{name}'; {nearest(name, PATHS)}")
    return PATHS[name]


def noise_ratio(path: Path, t: Tensor) -> Tensor:
    """sigma / alpha, which rises along the path: 0, or nearly, at the data."""
    alpha, sigma, _, _ = path(t)
    return sigma / alpha


@torch.no_grad()
def time_of(path: Path, ratio: Tensor) -> Tensor:
    """The time t in [0, 1] at which sigma / alpha is `ratio`; the nearest end where it never is. By halving the interval, as
    exactly as `ratio`'s type has digits.

    >>> time_of(Linear(), torch.tensor([1.0, 3.0]))
    tensor([0.5000, 0.7500])
    """
    low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
    for _ in range(26 if ratio.dtype == torch.float32 else 54):
        middle = (low + high) / 2
        above = noise_ratio(path, middle) > ratio
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2
