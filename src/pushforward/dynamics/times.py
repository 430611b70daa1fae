"""How t is drawn in training: which times a batch looks at, whatever each error then counts (`weightings`).

A time that is drawn more often counts more, as if it were weighted, at a smaller variance of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.paths import Path, time_of
from pushforward.errors import UserError, nearest
from pushforward.randomness import Rng

Span = tuple[float, float]
Law = Callable[[Path, Span, int, Rng], Tensor]
"""t (B,) within a span, for a path and a number of rows."""


def uniform(path: Path, span: Span, rows: int, rng: Rng) -> Float[Tensor, "b"]:
    """Each by itself."""
    return _within(span, rng.rand(rows))


def stratified(path: Path, span: Span, rows: int, rng: Rng) -> Float[Tensor, "b"]:
    """Uniform, and one in each of `rows` equal parts: u, u + 1 / rows, .. modulo 1. The mean of a smooth loss varies much
    less (Kingma et al. 2021, arXiv:2107.00630, appendix I)."""
    return _within(span, (rng.shared(1) + torch.arange(rows, device=rng.device) / rows) % 1)


@dataclass(frozen=True)
class LogitNormal:
    """log(t / (1 - t)) ~ N(mean, deviation^2): more in the middle (Esser et al. 2024, arXiv:2403.03206)."""

    mean: float = 0.0
    deviation: float = 1.0

    def __call__(self, path: Path, span: Span, rows: int, rng: Rng) -> Float[Tensor, "b"]:
        return _within(span, (self.mean + self.deviation * rng.randn(rows)).sigmoid())


@dataclass(frozen=True)
class LogNormal:
    """log(sigma / alpha) ~ N(mean, deviation^2), whatever the path: where images of deviation 1/2 take shape (Karras et al.
    2022, arXiv:2206.00364)."""

    mean: float = -1.2
    deviation: float = 1.2

    def __call__(self, path: Path, span: Span, rows: int, rng: Rng) -> Float[Tensor, "b"]:
        return time_of(path, (self.mean + self.deviation * rng.randn(rows)).exp()).clamp(*span)


def _within(span: Span, u: Tensor) -> Tensor:
    return span[0] + (span[1] - span[0]) * u


TIME_LAWS: dict[str, Law] = {
    "uniform": uniform,
    "stratified": stratified,
    "logit-normal": LogitNormal(),
    "log-normal": LogNormal(),
}


def find_law(law: str | Law) -> Law:
    """A law of t by name, or the law itself. Raises UserError for an unknown name."""
    if not isinstance(law, str):
        return law
    if law not in TIME_LAWS:
        raise UserError(f"t cannot be drawn by '{law}'; {nearest(law, TIME_LAWS)}")
    return TIME_LAWS[law]


def draw_times(
    law: str | Law, path: Path, rows: int, rng: Rng, *, span: Span = (0.0, 1.0), levels: int | None = None
) -> Float[Tensor, "b"]:
    """t (B,), one for each row, within `span`. levels: T of a diffusion in discrete time: t is one of 1 / T, 2 / T, .. 1."""
    t = find_law(law)(path, span, rows, rng)
    return t if levels is None else ((t * levels).floor() + 1).clamp(max=levels).div(levels).clamp(*span)
