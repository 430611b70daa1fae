"""Guidance: a denoiser that goes further than it learned, towards a condition or away from something worse.

What a network predicts is moved along the difference of two predictions, or along the slope of a classifier:

    away from y_away               y = y_away + w (y_c - y_away)
    towards a class                score = score + w grad_x log p(c | x_t)
    its deviation brought back     x0 = (1 - phi + phi std(x0_c) / std(x0)) x0

y_away is the prediction without a condition (classifier-free guidance: Ho and Salimans 2022, arXiv:2207.12598), with another
one in its place (a negative condition), or that of a worse model, which has the same faults, only more of them (autoguidance:
Karras et al. 2024, arXiv:2406.02507). Without a condition and with the classifier that goes with the denoiser, the first is the
second, and both are the score of p(x_t) p(c | x_t)^w (Dhariwal and Nichol 2021, arXiv:2105.05233): of class c for w = 1. Both
can be kept to an interval of t, where they do no harm (Kynkaanniemi et al. 2024, arXiv:2404.07724). A large w makes pictures
glaring; the third line gives each the deviation back that it had without (Lin et al. 2024, arXiv:2305.08891, who scale the
network's output; of x0, it means the same for every target).

All of these turn denoisers into denoisers, and mean the same for every target, since x_t is given and conversions are affine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser, Net
from pushforward.dynamics.paths import Path, expand, noise_ratio, time_of
from pushforward.dynamics.targets import LATEST, compose, solve
from pushforward.errors import UserError


@runtime_checkable
class Classifies(Protocol):
    """Knows the classes of noisy data. path: that of its noise. log_posterior: log p(c | x_t) (B,) of conditions c (B, ...),
    differentiable by x_t."""

    @property
    def path(self) -> Path: ...

    def log_posterior(self, condition: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...


def classifier_free(denoiser: Denoiser, scale: float, *, negative: Tensor | None = None, rescale: float = 0.0) -> Denoiser:
    """y_away + scale (y_c - y_away), in one batch; away from no condition or, where there is one (B, ...), from `negative`. One
    evaluation where the scale is 1 or 0. Its condition is to be given.

    rescale: phi, how much of the deviation of x0 is brought back, 0 to 1.
    """
    if checked_scale(scale) == 1.0:
        return denoiser
    pair = _OfConditions(denoiser.net, negative, alone=scale == 0.0)
    return replace(denoiser, net=_Guided(denoiser, pair, scale, checked_rescale(rescale)))


def autoguided(denoiser: Denoiser, worse: Denoiser, scale: float, *, rescale: float = 0.0) -> Denoiser:
    """y_worse + scale (y - y_worse), both at the condition. worse: of the same data, with any path and target. rescale: as of
    `classifier_free`."""
    if checked_scale(scale) == 1.0:
        return denoiser
    return replace(denoiser, net=_Guided(denoiser, _OfModels(denoiser, worse), scale, checked_rescale(rescale)))


def guided_by(
    denoiser: Denoiser, classifier: Classifies, condition: Tensor, scale: float = 1.0, *, rescale: float = 0.0
) -> Denoiser:
    """The score with scale * grad log p(condition | x_t) added to it. The denoiser's own condition, where it has one, is given
    as before. The classifier may have another path: what it sees has as much noise. rescale: as of `classifier_free`.

    Where alpha is 0 at t = 1, x_t says nothing of x0, and x0 moves as it does at t = 0.995.
    """
    net = _ByClassifier(denoiser, classifier, condition, checked_scale(scale), checked_rescale(rescale))
    return replace(denoiser, net=net)


def within(interval: tuple[float, float], guided: Denoiser, plain: Denoiser) -> Denoiser:
    """The guided denoiser at t in [low, high], the plain one of the same path and target at all other times."""
    low, high = interval
    if not 0 <= low < high <= 1:
        raise UserError(
            f"guidance was asked for from t = {low} to t = {high}; an interval begins at 0 (data) or later and ends above "
            "that, at 1 (noise) at most."
        )
    return replace(plain, net=_Within(low, high, guided.net, plain.net))


def as_noisy(path: Path, other: Path, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """(s, k): at s the other path has as much noise for its data, sigma / alpha, as the first at t, and k x_t is its x_s."""
    if path == other:
        return t, torch.ones_like(t)
    s = time_of(other, noise_ratio(path, t))
    alpha, sigma, _, _ = path(t)
    alpha_s, sigma_s, _, _ = other(s)
    return s, (alpha_s + sigma_s) / (alpha + sigma)  # their ratios are one, and no sum is 0


def checked_scale(scale: float) -> float:
    """A scale of guidance that is a number, or a UserError."""
    if not math.isfinite(scale):
        raise UserError(f"guidance is {scale}; it is a finite number: 1 follows the condition as learned, 3 exaggerates it.")
    return scale


def checked_rescale(rescale: float) -> float:
    """A share from 0 to 1, or a UserError."""
    if not 0 <= rescale <= 1:
        raise UserError(f"guidance is to be rescaled by {rescale}; that is a share from 0 (not at all) to 1.")
    return rescale


@runtime_checkable
class _Pair(Protocol):
    """(y_away, y) of what is guided."""

    def __call__(self, x_t: Tensor, t: Tensor, /, condition: Tensor | None, drop: Tensor | None) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class _Guided:
    denoiser: Denoiser
    pair: _Pair
    scale: float
    rescale: float

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        away, towards = self.pair(x_t, t, condition, drop)
        y = away if self.scale == 0.0 else away + self.scale * (towards - away)
        return _rescaled(self.denoiser, x_t, t, towards, y, self.rescale)


def _rescaled(denoiser: Denoiser, x_t: Tensor, t: Tensor, learned: Tensor, y: Tensor, rescale: float) -> Tensor:
    """A guided y whose x0 has, by this share, the deviation of that of the learned y."""
    if not rescale:
        return y
    wanted, x0 = (solve(denoiser.path, denoiser.target, x_t, prediction, t)[0] for prediction in (learned, y))
    ratio = _deviation(wanted) / _deviation(x0)
    factor = rescale * (torch.where(ratio.isfinite(), ratio, 1.0) - 1)
    return denoiser.moved(y, x_t, t, expand(factor, x_t) * x0)


def _deviation(x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """Of the numbers of each row."""
    return x.flatten(1).std(1, unbiased=False)


@dataclass(frozen=True)
class _OfConditions:
    """Of one network, without and with the condition. alone: y_away is all that is looked at."""

    net: Net
    negative: Tensor | None
    alone: bool

    def __call__(self, x_t: Tensor, t: Tensor, /, condition: Tensor | None, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.alone or condition is None:
            y = self.net(x_t, t, condition=self.negative)
            return y, y
        hidden = None if drop is None else torch.cat([drop, drop])
        if self.negative is None:
            first = torch.arange(2 * len(x_t), device=x_t.device) < len(x_t)
            hidden = first if hidden is None else hidden | first
        conditions = torch.cat([condition if self.negative is None else self.negative, condition])
        both = self.net(torch.cat([x_t, x_t]), torch.cat([t, t]), condition=conditions, drop=hidden)
        away, towards = both.chunk(2)
        return away, towards


@dataclass(frozen=True)
class _OfModels:
    denoiser: Denoiser
    worse: Denoiser

    def __call__(self, x_t: Tensor, t: Tensor, /, condition: Tensor | None, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        own, worse = self.denoiser, self.worse
        y = own.net(x_t, t, condition=condition, drop=drop)
        if (own.path, own.target) == (worse.path, worse.target):
            return worse.net(x_t, t, condition=condition, drop=drop), y
        s, k = as_noisy(own.path, worse.path, t)
        s = s.clamp(*worse.span)
        x_s = expand(k, x_t) * x_t
        x0, noise = solve(worse.path, worse.target, x_s, worse.net(x_s, s, condition=condition, drop=drop), s)
        return compose(own.path, own.target, x0, noise, t), y


@dataclass(frozen=True)
class _ByClassifier:
    denoiser: Denoiser
    classifier: Classifies
    condition: Tensor
    scale: float
    rescale: float

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        denoiser, early = self.denoiser, t.clamp(max=LATEST)
        y = denoiser.net(x_t, t, condition=condition, drop=drop)
        s, k = as_noisy(denoiser.path, self.classifier.path, early)
        with torch.enable_grad():
            at = x_t.detach().requires_grad_()
            log_posterior = self.classifier.log_posterior(self.condition, expand(k, at) * at, s)
            (slope,) = torch.autograd.grad(log_posterior.sum(), at)
        # the score moves by scale * slope, so the noise by -sigma times that, and x0, as x_t stays, by sigma^2 / alpha times
        alpha, sigma, _, _ = denoiser.path(early)
        guided = denoiser.moved(y, x_t, t, expand(self.scale * sigma**2 / alpha, x_t) * slope)
        return _rescaled(denoiser, x_t, t, y, guided, self.rescale)


@dataclass(frozen=True)
class _Within:
    low: float
    high: float
    guided: Net
    plain: Net

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        inside = (t >= self.low) & (t <= self.high)
        if bool(inside.all()):
            return self.guided(x_t, t, condition=condition, drop=drop)
        y = self.plain(x_t, t, condition=condition, drop=drop)
        if not bool(inside.any()):
            return y
        return torch.where(expand(inside, y), self.guided(x_t, t, condition=condition, drop=drop), y)
