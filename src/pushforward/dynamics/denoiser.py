"""A denoiser: a path, a target and a network that predicts it. It says what is meant at (x_t, t), in any target's terms.

The network's output y is an estimate of E[a x0 + b noise | x_t]. Everything else is a conversion of it: x0 and noise, the
velocity of the probability-flow ODE, the score. What changes a prediction (a condition or a bound given here, guidance.py)
changes the network and keeps the rest, so that it turns a denoiser into a denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.paths import Path, expand
from pushforward.dynamics.targets import Target, convert, determinant, solve, span


@runtime_checkable
class Net(Protocol):
    """Predicts the target y (B, *shape) of x_t (B, *shape) at t (B,), given a condition (B, ...); without one, and in rows
    where `drop` (B,) is true, of all data together."""

    def __call__(self, x_t: Tensor, t: Tensor, /, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Denoiser:
    """path: from data to noise. target: what `net` predicts. log_variance(x_t, t, s): where it is learned, the log of the
    variance (B, *shape) of x_s given x_t, at the condition that is given already."""

    path: Path
    target: Target
    net: Net
    log_variance: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __call__(
        self, x_t: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], condition: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """(E[x0 | x_t], E[noise | x_t])."""
        return solve(self.path, self.target, x_t, self.net(x_t, t, condition=condition), t)

    def predict(
        self, target: Target, x_t: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], condition: Tensor | None = None
    ) -> Float[Tensor, "b *shape"]:
        """The mean of any target given x_t: the network's own output where that is its target, converted elsewhere."""
        y = self.net(x_t, t, condition=condition)
        return y if target == self.target else convert(self.path, self.target, target, x_t, y, t)

    def velocity(
        self, x_t: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], condition: Tensor | None = None
    ) -> Float[Tensor, "b *shape"]:
        """That of the ODE dx/dt = v(x, t), which has the marginals of the path."""
        return self.predict("velocity", x_t, t, condition)

    def score(
        self, x_t: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], condition: Tensor | None = None
    ) -> Float[Tensor, "b *shape"]:
        """grad log p_t(x_t) = -E[noise | x_t] / sigma."""
        return self.predict("score", x_t, t, condition)

    def moved(
        self, y: Float[Tensor, "b *shape"], x_t: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], by: Float[Tensor, "b *shape"]
    ) -> Float[Tensor, "b *shape"]:
        """The network's output y when E[x0 | x_t] is moved `by` something and the noise follows from it, x_t being given."""
        rate = determinant(self.path, self.target, t) / self.path(t)[1]
        # at t = 0 x0 is x_t, and nothing is to be moved
        return y - expand(torch.where(rate.isfinite(), rate, 0.0), x_t) * by

    @property
    def span(self) -> tuple[float, float]:
        """The times (t_min, t_max) between which this target determines x0, noise and velocity."""
        return span(self.path, self.target)

    def given(self, condition: Tensor | None) -> Denoiser:
        """This denoiser with its condition fixed: what solvers take."""
        return replace(self, net=_Given(self.net, condition))


def bounded(denoiser: Denoiser, low: float, high: float) -> Denoiser:
    """With E[x0 | x_t] kept within what the data can be, the noise following from it (Ho et al. 2020): near t = 1, x0 read off
    a noise has its error divided by alpha."""
    return replace(denoiser, net=_Bounded(denoiser, low, high))


@dataclass(frozen=True)
class _Bounded:
    denoiser: Denoiser
    low: float
    high: float

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        y = self.denoiser.net(x_t, t, condition=condition, drop=drop)
        x0, _ = solve(self.denoiser.path, self.denoiser.target, x_t, y, t)
        return self.denoiser.moved(y, x_t, t, x0.clamp(self.low, self.high) - x0)


@dataclass(frozen=True)
class _Given:
    net: Net
    condition: Tensor | None

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        return self.net(x_t, t, condition=self.condition, drop=drop)
