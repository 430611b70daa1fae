"""What is known of a Gaussian before its rows are seen, and the mean and covariance that follow.

Conjugate prior (normal-inverse-Wishart). nu pseudo-rows of mean m and covariance s I stand beside the n rows x_i of mean x- and
covariance S. As a density over (mu, Sigma),

    mu | Sigma ~ N(m, Sigma / nu),     Sigma ~ IW(nu s I, nu - D - 2)     (improper up to nu = 2 D + 1),

with the log-posterior, up to a constant,

    -(n + nu)/2 log |Sigma| - 1/2 tr[Sigma^-1 (sum_i (x_i - mu)(x_i - mu)^T + nu s I + nu (mu - m)(mu - m)^T)],

whose mode is mu = (n x- + nu m) / (n + nu) and, with c = n nu / (n + nu),

    T = (n S + c (x- - m)(x- - m)^T + nu s I) / (n + nu).

Shrinkage keeps x- and takes T = (1 - rho) S + rho s I with s = tr S / D: the rho of the least expected |T - Sigma|^2, estimated
from the rows without an assumption (Ledoit and Wolf) or for Gaussian rows (the oracle-approximating one of Chen et al.).

All three are an eigen-decomposition of the rows (and one more) whose values move; so k leading directions cost what they
cost without a prior. Of covariances whose other D - k eigenvalues are equal the posterior is highest where the likelihood of
rows with covariance T would be: its k leading eigenvectors and the mean of the rest (Tipping and Bishop 1999).

Gelman et al. 2013, Bayesian Data Analysis, section 3.6; Ledoit and Wolf 2004, J. Multivariate Analysis 88; Chen, Wiesel,
Eldar and Hero 2010, IEEE Trans. Signal Processing 58.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pushforward.models.classical.moments import Moments

Prior = Literal["none", "wishart", "ledoit-wolf", "oas"]


@dataclass
class Estimate:
    """mean (D,), directions (k, D) and the variances `values` (k,) along them, `discarded` in all others (None: there are
    none). `inside` (k,) and `outside`: the mean square of the rows about `mean` along each direction, and in all others
    together; without a prior `values` and (D - k) `discarded`."""

    mean: Tensor
    values: Tensor
    directions: Tensor
    discarded: float | None
    inside: Tensor
    outside: float


def estimate(moments: Moments, k: int, prior: Prior, rows: float, before: Moments) -> Estimate:
    """Mean and k leading directions of a Gaussian for the rows in `moments`.

    rows: nu of the conjugate prior, whose m and s are the mean and the mean variance of the rows in `before`.
    """
    if prior == "none" or (prior == "wishart" and not rows):
        found = moments.principal(k)
        outside = (found.discarded or 0.0) * (len(found.mean) - k)
        return Estimate(found.mean, found.values, found.directions, found.discarded, found.values, outside)
    if prior == "wishart":
        return posterior_mode(moments, k, before.mean(), rows, before.trace() / len(before.shift))
    share = ledoit_wolf(moments) if prior == "ledoit-wolf" else oracle_approximating(moments)
    found, target = moments.principal(k), moments.trace() / len(moments.shift)
    outside = (found.discarded or 0.0) * (len(found.mean) - k)
    discarded = None if found.discarded is None else (1 - share) * found.discarded + share * target
    values = (1 - share) * found.values + share * target
    return Estimate(found.mean, values, found.directions, discarded, found.values, outside)


def posterior_mode(moments: Moments, k: int, m: Float[Tensor, " d"], rows: float, variance: float) -> Estimate:
    """The mode under `rows` pseudo-rows of mean m and covariance `variance` I."""
    n, dimensions = moments.n, len(m)
    apart = moments.mean() - m
    found = moments.principal(k, extra=apart * (rows / (n + rows)) ** 0.5)  # eigenvalues of S + c/n (x- - m)(x- - m)^T
    # The rows' mean square about mu is n S + n (x- - mu)(x- - mu)^T, less than what was decomposed.
    along = (found.directions @ apart).square()
    excess = n * rows / (n + rows) ** 2
    inside = (found.values - excess * along).clamp(min=0)
    outside = (found.discarded or 0.0) * (dimensions - k) - excess * (float(apart.square().sum()) - float(along.sum()))
    weight, ridge = n / (n + rows), rows * variance / (n + rows)
    discarded = None if found.discarded is None else weight * found.discarded + ridge
    mean = m + apart * weight
    return Estimate(mean, weight * found.values + ridge, found.directions, discarded, inside, max(outside, 0.0))


def ledoit_wolf(moments: Moments) -> float:
    """The share rho of s I that Ledoit and Wolf estimate."""
    n, dimensions = moments.n, len(moments.shift)
    square, target = moments.squared_norm(), moments.trace() / dimensions
    apart = square - dimensions * target**2  # |S - s I|^2
    error = (moments.fourth() / n - square) / n  # of S, expected |S - Sigma|^2
    return min(error, apart) / apart if apart > 0 else 1.0


def oracle_approximating(moments: Moments) -> float:
    """The share rho of s I for Gaussian rows."""
    n, dimensions = moments.n, len(moments.shift)
    alpha, target = moments.squared_norm() / dimensions**2, moments.trace() / dimensions
    down = (n + 1) * (alpha - target**2 / dimensions)
    return min((alpha + target**2) / down, 1.0) if down > 0 else 1.0
