"""Langevin dynamics: drawing from a density of which only the score, grad log p, is known.

    dx = grad log p(x) dt + sqrt(2) dW                           has p as its stationary law, so that small steps of it,
    x <- x + h grad log p(x) + sqrt(2 h) noise                   (ULA; h is `step`, alpha / 2 in some papers)

draw from nearly p. A step h is stable where h < 2 / the largest curvature of -log p; of N(0, 1) it makes N(0, 1 / (1 - h / 2)).
Metropolis' acceptance takes the bias away (MALA; Roberts and Tweedie 1996): move with probability

    min(1, p(x') q(x | x') / (p(x) q(x' | x))),   q(x' | x) = N(x'; x + h grad log p(x), 2 h).

Either takes exponentially long to cross from one mode to a far other. Annealed Langevin dynamics (Song and Ermon 2019,
arXiv:1907.05600) runs it on p * N(0, sigma^2) for falling sigma: the modes first are one, and share out their mass as it parts.

Chains are rows: independent, each a function of the rng's row of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.paths import expand
from pushforward.errors import UserError
from pushforward.progress import along
from pushforward.randomness import Rng

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Chains:
    """x: where the chains (B, *shape) are. trajectory: where they were (K, B, *shape), start and end included, if asked for.
    acceptance: the share of moves accepted by each chain (B,), of MALA."""

    x: Tensor
    trajectory: Tensor | None = None
    acceptance: Tensor | None = None


@torch.no_grad()
def langevin(
    score: Score, x: Float[Tensor, "b *shape"], rng: Rng, *, step: float, steps: int, record: int | None = None
) -> Chains:
    """`steps` unadjusted steps of size `step` from x. record: keep every so-many-th state.

    Raises UserError where a chain has run away to infinity: the step was too large.
    """
    _checked(step, steps)
    kept = [x]
    for i in along(range(steps), "Langevin"):
        x = x + step * score(x) + (2 * step) ** 0.5 * rng.randn_like(x)
        if record and ((i + 1) % record == 0 or i + 1 == steps):
            kept.append(x)
    return Chains(_finite(x, step), torch.stack(kept) if record else None)


def geometric_ladder(largest: float, smallest: float, levels: int) -> list[float]:
    """Noise levels from the largest to the smallest, each the same fraction of the one before.

    >>> [round(sigma, 6) for sigma in geometric_ladder(10, 0.1, 3)]
    [10.0, 1.0, 0.1]
    """
    if not 0 < smallest <= largest or levels < 2:
        raise UserError(
            f"a ladder of {levels} levels from {largest} to {smallest} was asked for; give 2 or more, falling, above 0."
        )
    return [largest * (smallest / largest) ** (i / (levels - 1)) for i in range(levels)]


@torch.no_grad()
def annealed_langevin(
    score: Callable[[Tensor, float], Tensor],
    x: Float[Tensor, "b *shape"],
    rng: Rng,
    *,
    sigmas: Sequence[float],
    step: float = 0.1,
    steps: int = 100,
    record: bool = False,
) -> Chains:
    """`steps` steps at each of the falling noise levels: score(x, sigma) is that of p * N(0, sigma^2).

    The step at a level is `step` sigma^2, so that its ratio of signal to noise is that of every level (the paper's epsilon is
    2 step sigmas[-1]^2). record: keep the start and the end of each level. The last law is p * N(0, sigmas[-1]^2).
    """
    _checked(step, steps)
    levels = [float(sigma) for sigma in sigmas]
    if not levels or min(levels) <= 0 or any(a < b for a, b in itertools.pairwise(levels)):
        raise UserError(f"noise levels {levels} were given; they fall, and are above 0 (see geometric_ladder).")
    kept = [x]
    for i in along(range(len(levels) * steps), "annealed Langevin"):
        sigma = levels[i // steps]
        h = step * sigma**2
        x = x + h * score(x, sigma) + (2 * h) ** 0.5 * rng.randn_like(x)
        if record and (i + 1) % steps == 0:
            kept.append(x)
    return Chains(_finite(x, step), torch.stack(kept) if record else None)


@torch.no_grad()
def mala(
    log_prob: Callable[[Tensor], Tensor],
    score: Score,
    x: Float[Tensor, "b *shape"],
    rng: Rng,
    *,
    step: float,
    steps: int,
    record: int | None = None,
) -> Chains:
    """Metropolis-adjusted Langevin: its law is exactly p, at any step. log_prob: (B, *shape) -> (B,), up to a constant.

    An acceptance near 0.57 is most efficient in many dimensions (Roberts and Rosenthal 1998). Raises UserError where the start
    has no density.
    """
    _checked(step, steps)
    value, slope = log_prob(x), score(x)
    if not bool(value.isfinite().all()):
        raise UserError("a chain starts where the density is 0 or not a number; start inside the support.")
    kept, accepted = [x], torch.zeros(len(x), device=x.device)
    for i in along(range(steps), "MALA"):
        noise, coin = rng.randn_like(x), rng.rand(len(x))
        proposal = x + step * slope + (2 * step) ** 0.5 * noise
        new_value, new_slope = log_prob(proposal), score(proposal)
        back = (x - proposal - step * new_slope).flatten(1).square().sum(1) / (4 * step)
        there = noise.flatten(1).square().sum(1) / 2
        # A NaN (a proposal beyond all numbers) compares false: rejected.
        move = coin.log() < new_value - value - back + there
        x = torch.where(expand(move, x), proposal, x)
        slope = torch.where(expand(move, x), new_slope, slope)
        value = torch.where(move, new_value, value)
        accepted += move
        if record and ((i + 1) % record == 0 or i + 1 == steps):
            kept.append(x)
    return Chains(x, torch.stack(kept) if record else None, accepted / steps)


def _checked(step: float, steps: int) -> None:
    if step <= 0 or steps < 1:
        raise UserError(f"step={step} and steps={steps} were given; Langevin dynamics needs both above 0.")


def _finite(x: Tensor, step: float) -> Tensor:
    lost = int((~x.flatten(1).isfinite().all(1)).sum())
    if lost:
        raise UserError(f"{lost} of {len(x)} chains ran away to infinity: step={step} is too large for this score; halve it.")
    return x
