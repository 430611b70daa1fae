"""Sampling in one dimension by inverting the distribution function: x = F^-1(u), u uniform on (0, 1).

Exact where a quantile function exists (`torch.distributions` have `icdf`); else F is inverted by bisection, to the last bit
of float64; else, where only a density up to a constant is known, it is tabulated as a piecewise linear function whose F is
piecewise quadratic, and that is inverted in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from pushforward.errors import UserError
from pushforward.randomness import Rng


def uniforms(rng: Rng, n: int) -> Float[Tensor, " n"]:
    """Uniform numbers in the open interval (0, 1), float64 with 53 random bits: a float32 has no quantile beyond 5.4 sd."""
    return rng.rand(n, dtype=torch.float64).clamp(min=2.0**-54)


def bisect(
    cdf: Callable[[Tensor], Tensor], u: Float[Tensor, " n"], low: float = -1.0, high: float = 1.0
) -> Float[Tensor, " n"]:
    """The smallest x with cdf(x) >= u, for a distribution function that never falls; jumps are allowed.

    low, high: where to look first; the bracket doubles until it holds x. Raises UserError where it never does.

    >>> bisect(lambda x: 1 - torch.exp(-x.clamp(min=0)), torch.tensor([0.5], dtype=torch.float64))  # log 2
    tensor([0.6931], dtype=torch.float64)
    """
    u = u.double()
    below, above = torch.full_like(u, low), torch.full_like(u, high)
    for _ in range(64):
        outside = cdf(below) >= u
        if not bool(outside.any()):
            break
        below = torch.where(outside, below - (above - below), below)
    else:
        raise UserError(f"the distribution function never falls below {float(u.min()):.6g}; it must rise from 0 to 1.")
    for _ in range(64):
        outside = cdf(above) < u
        if not bool(outside.any()):
            break
        above = torch.where(outside, above + (above - below), above)
    else:
        raise UserError(f"the distribution function never reaches {float(u.max()):.6g}; it must rise from 0 to 1.")
    for _ in range(1200):  # at most: the bracket halves until no float64 lies between its ends
        middle = below + (above - below) / 2
        if bool(((middle <= below) | (middle >= above)).all()):
            break
        right = cdf(middle) >= u
        below, above = torch.where(right, below, middle), torch.where(right, middle, above)
    return above


@dataclass(frozen=True)
class Tabulated:
    """The density that is piecewise linear through `density` (>= 0, normalised here) at the rising `nodes`, and 0 outside.

    From any density p(x), normalised or not, at nodes a distance h apart, it is wrong by O(h^2 p'').
    """

    nodes: Float[Tensor, " k"]
    density: Float[Tensor, " k"]

    def __post_init__(self) -> None:
        nodes, density = self.nodes.double(), self.density.double()
        if not bool((nodes.diff() > 0).all()) or not bool(((density >= 0) & density.isfinite()).all()) or density.max() == 0:
            raise UserError("a tabulated density needs rising nodes and values that are finite, >= 0 and not all 0.")
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "density", density / torch.trapezoid(density, nodes))

    @classmethod
    def of(cls, log_density: Callable[[Tensor], Tensor], low: float, high: float, nodes: int = 4001) -> Tabulated:
        """From a log-density, normalised or not, on [low, high]."""
        x = torch.linspace(low, high, nodes, dtype=torch.float64)
        log_p = log_density(x).double()
        return cls(x, torch.exp(log_p - log_p.max()))

    @property
    def cumulative(self) -> Float[Tensor, " k"]:
        """F at the nodes, from 0 to 1."""
        steps = (self.density[1:] + self.density[:-1]) / 2 * self.nodes.diff()
        total = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        return total / total[-1]

    def cdf(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """F(x)."""
        x = x.double().clamp(self.nodes[0], self.nodes[-1])
        i = self._cell(self.nodes, x)
        into = x - self.nodes[i]
        return self.cumulative[i] + into * (self.density[i] + self._slope[i] * into / 2)

    def icdf(self, u: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """F^-1(u): in a cell F rises by p_i s + slope s^2 / 2, so s = 2 r / (p_i + sqrt(p_i^2 + 2 slope r))."""
        cumulative = self.cumulative
        i = self._cell(cumulative, u.double())
        rest, start = u.double() - cumulative[i], self.density[i]
        root = (start**2 + 2 * self._slope[i] * rest).clamp(min=0).sqrt()
        into = 2 * rest / (start + root).clamp(min=1e-300)
        return self.nodes[i] + torch.minimum(into.clamp(min=0), self.nodes.diff()[i])

    @property
    def _slope(self) -> Tensor:
        return self.density.diff() / self.nodes.diff()

    @staticmethod
    def _cell(edges: Tensor, x: Tensor) -> Tensor:
        return (torch.searchsorted(edges, x.contiguous(), right=True) - 1).clamp(0, len(edges) - 2)


def quantile(distribution: Distribution | Tabulated, u: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """F^-1(u) of a distribution of one dimension: its own `icdf`, or by bisection of its `cdf`.

    Raises UserError where it has neither.
    """
    if isinstance(distribution, Tabulated):
        return distribution.icdf(u)
    try:
        return distribution.icdf(u)
    except NotImplementedError:
        pass
    support = distribution.support

    def cdf(x: Tensor) -> Tensor:
        inside = support.check(x)  # type: ignore[union-attr]
        start = float(getattr(support, "lower_bound", 0.0))
        return torch.where(inside, distribution.cdf(torch.where(inside, x, start + 0.5)), (x > start).to(x.dtype))

    try:
        return bisect(cdf, u)
    except NotImplementedError as error:
        raise UserError(
            f"{type(distribution).__name__} has neither a quantile nor a distribution function; tabulate its density "
            "(Tabulated.of(distribution.log_prob, low, high))."
        ) from error


def draw(distribution: Distribution | Tabulated, n: int, rng: Rng) -> Float[Tensor, " n"]:
    """n draws (float64) by inverting the distribution function; row i is a function of row i's uniform number."""
    return quantile(distribution, uniforms(rng, n))
