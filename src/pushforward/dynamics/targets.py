"""What a network may predict, and exact conversions between all of it.

A target is a pair of coefficients: y = a x0 + b noise. With x_t = alpha x0 + sigma noise, (x_t, y) determine (x0, noise)
by one 2x2 system of determinant alpha b - sigma a: where that is 0 the target says nothing that x_t does not say already
(x0 at t = 0, noise where alpha = 0), and the conversion is infinite there. Since the system is linear and x_t is given,
the same conversions hold for conditional means given x_t, which is what a network learns (Salimans and Ho 2022;
Lipman et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.paths import Coefficients, Path, expand
from pushforward.errors import UserError, nearest

EARLIEST = 1e-3  # below it, what a score or a noise says of x0 (or x0 of the noise) drowns in rounding
LATEST = 0.995  # what is left of the data then, 0.5 % on a line, is what DDPM leaves at its end

Target = str | Callable[[Coefficients], tuple[Tensor, Tensor]]
"""A target by name, or (a, b) as a function of a path's coefficients."""


@dataclass(frozen=True)
class Residual:
    """EDM's F: what remains of x0, of standard deviation d, when the best guess linear in x_t is taken away, scaled to a
    variance of 1 (Karras et al. 2022, arXiv:2206.00364). With V = alpha^2 d^2 + sigma^2, the variance of x_t,

        y = (sigma / d x0 - alpha d noise) / sqrt(V),    x0 = (alpha d^2 x_t + sigma d sqrt(V) y) / V:

    of x0 where there is much noise, of the noise where there is little, and never ill-posed. With d = 1 it is -v of a VP path.
    """

    deviation: float = 0.5

    def __call__(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        alpha, sigma, _, _ = c
        d, scale = self.deviation, ((self.deviation * alpha) ** 2 + sigma**2).sqrt()
        return sigma / (d * scale), -alpha * d / scale


TARGETS: dict[str, Callable[[Coefficients], tuple[Tensor, Tensor]]] = {
    "x0": lambda c: (torch.ones_like(c[0]), torch.zeros_like(c[0])),
    "noise": lambda c: (torch.zeros_like(c[0]), torch.ones_like(c[0])),
    "score": lambda c: (torch.zeros_like(c[0]), -1 / c[1]),
    "v": lambda c: (-c[1], c[0]),
    "velocity": lambda c: (c[2], c[3]),
    "edm": Residual(),
}


def find_target(target: Target) -> Callable[[Coefficients], tuple[Tensor, Tensor]]:
    """A target by name, or the target itself. Raises UserError for an unknown name."""
    if not isinstance(target, str):
        return target
    if target not in TARGETS:
        raise UserError(f"there is no target '{target}'; {nearest(target, TARGETS)}")
    return TARGETS[target]


def coefficients(path: Path, target: Target, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """(a, b) of y = a x0 + b noise. Raises UserError for an unknown target."""
    return find_target(target)(path(t))


def determinant(path: Path, target: Target, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """alpha b - sigma a of the 2x2 system: 0 where the target is ill-posed."""
    alpha, sigma, _, _ = path(t)
    a, b = coefficients(path, target, t)
    return alpha * b - sigma * a


def span(path: Path, target: Target) -> tuple[float, float]:
    """The times (t_min, t_max) between which the target determines x0, noise and velocity, for training and sampling.

    That is (0, 1) but where the target is ill-posed, or a coefficient infinite, at an end: EARLIEST and LATEST then.

    >>> from pushforward.dynamics.paths import Linear
    >>> span(Linear(), "velocity"), span(Linear(), "x0"), span(Linear(), "noise")
    ((0.0, 1.0), (0.001, 1.0), (0.0, 0.995))
    """
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    numbers = torch.stack([*path(ends), *coefficients(path, target, ends)])
    size = numbers[4:].abs().amax(0)
    well = numbers.isfinite().all(0) & (determinant(path, target, ends).abs() > 1e-3 * size)
    return 0.0 if well[0] else EARLIEST, 1.0 if well[1] else LATEST


def amplification(path: Path, target: Target, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """How many times as large the error of x0 is as that of the target it is read off, in units of the target's size."""
    _, sigma, _, _ = path(t)
    a, b = coefficients(path, target, t)
    return sigma * torch.maximum(a.abs(), b.abs()) / determinant(path, target, t).abs()


def compose(
    path: Path, target: Target, x0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], t: Float[Tensor, "b"]
) -> Float[Tensor, "b *shape"]:
    """The target of known x0 and noise: y = a x0 + b noise."""
    a, b = coefficients(path, target, t)
    return expand(a, x0) * x0 + expand(b, noise) * noise


def solve(
    path: Path, target: Target, x_t: Float[Tensor, "b *shape"], y: Float[Tensor, "b *shape"], t: Float[Tensor, "b"]
) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
    """(x0, noise) from x_t and the target y."""
    alpha, sigma, _, _ = path(t)
    a, b = coefficients(path, target, t)
    whole = alpha * b - sigma * a
    x0 = expand(b / whole, x_t) * x_t - expand(sigma / whole, y) * y
    noise = expand(alpha / whole, y) * y - expand(a / whole, x_t) * x_t
    return x0, noise


def convert(
    path: Path,
    source: Target,
    target: Target,
    x_t: Float[Tensor, "b *shape"],
    y: Float[Tensor, "b *shape"],
    t: Float[Tensor, "b"],
) -> Float[Tensor, "b *shape"]:
    """The target `target` from the target `source`, at x_t: the velocity from the score, the noise from v, and so on."""
    x0, noise = solve(path, source, x_t, y, t)
    return compose(path, target, x0, noise, t)
