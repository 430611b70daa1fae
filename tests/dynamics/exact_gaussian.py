"""The exact denoiser of Gaussian data, for any path and target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.paths import Path, expand
from pushforward.dynamics.targets import compose


@dataclass(frozen=True)
class ExactNet:
    """E[y | x_t] for data N(mean, variance), one for all dimensions or one each; a condition (B,) is the mean."""

    path: Path
    target: str
    mean: float
    variance: float | Tensor

    def __call__(self, x_t, t, *, condition=None, drop=None):
        alpha, sigma, _, _ = (expand(c, x_t) for c in self.path(t))
        mean = self.mean if condition is None else expand(condition if drop is None else condition.where(~drop, 0.0), x_t)
        residual = (x_t - alpha * mean) / (alpha**2 * self.variance + sigma**2)
        return compose(self.path, self.target, mean + alpha * self.variance * residual, sigma * residual, t)


def exact(path, target, mean=0.0, variance=0.25):
    return Denoiser(path, target, ExactNet(path, target, mean, variance))


def marginal(path, t, mean=0.0, variance=0.25):
    """Mean and variance of x_t."""
    alpha, sigma, _, _ = path(torch.as_tensor(t, dtype=torch.float64))
    return alpha * mean, alpha**2 * variance + sigma**2
