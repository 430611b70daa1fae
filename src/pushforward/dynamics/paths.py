"""Paths from data to noise: x_t = alpha(t) x0 + sigma(t) noise, t in [0, 1], 0 = data, 1 = noise.

A path is a callable t -> (alpha, sigma, d_alpha, d_sigma), each of t's shape; d_alpha and d_sigma are derivatives by t.
Everything else (targets, conversions, scores, velocities) follows from these four numbers.
"""

from __future__ import annotations

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


PATHS: dict[str, Path] = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "variance-preserving": VariancePreserving(),
    "cosine": Cosine(),
}


def find_path(name: str) -> Path:
    """A path by name. Raises UserError for an unknown one."""
    if name not in PATHS:
        raise UserError(f"there is no path '{name}'; {nearest(name, PATHS)}")
    return PATHS[name]
