"""What a solver is: a stateless step of x from a time t to a time s, with a declared order; and what steps share.

All marginals of a path are shared by one ODE and by a family of SDEs, one for each diffusion coefficient g >= 0
(Song et al. 2021, arXiv:2011.13456; Albergo et al. 2023, arXiv:2303.08797):

    dx = v(x, t) dt                                          the probability-flow ODE
    dx = (v(x, t) - g(t)^2 / 2 score(x, t)) dt + g(t) dw     backwards in time, dt < 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.ode import METHODS, Method
from pushforward.dynamics.paths import Path, expand, noise_ratio
from pushforward.errors import UserError
from pushforward.randomness import Rng


@runtime_checkable
class Solver(Protocol):
    """One step of x (B, *shape) from t to s, each (B,).

    `order` of convergence (of the law, where it is random); `evaluations` of the network a step (None: adaptive). rng: what a
    random solver draws from. memory: what the step before gave back (None at the first): what a multistep solver knows.
    """

    @property
    def order(self) -> int: ...

    @property
    def evaluations(self) -> int | None: ...

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]: ...


@dataclass(frozen=True)
class Flow:
    """Follows the probability-flow ODE in x and t by any method."""

    method: Method

    @property
    def order(self) -> int:
        return self.method.order

    @property
    def evaluations(self) -> int | None:
        return self.method.evaluations

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        return self.method.advance(denoiser.velocity, x, t, s), None


def mixed(path: Path, x0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], s: Float[Tensor, "b"]) -> Tensor:
    """alpha_s x0 + sigma_s noise: the step to s that is exact while x0 and noise stay what they are."""
    alpha, sigma, _, _ = path(s)
    return expand(alpha, x0) * x0 + expand(sigma, x0) * noise


def fresh_noise(path: Path, t: Float[Tensor, "b"], s: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The standard deviation of x_s given x_t and x0: by Bayes' rule, as x_t = ratio x_s + noise of variance
    sigma_t^2 - (ratio sigma_s)^2."""
    alpha_t, sigma_t, _, _ = path(t)
    alpha_s, sigma_s, _, _ = path(s)
    ratio = alpha_t / alpha_s
    return sigma_s / sigma_t * (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt()


def noise_source(solver: Solver, path: Path, t: Float[Tensor, "b"], s: Float[Tensor, "b"], rng: Rng | None) -> Rng:
    """What a random solver draws from. Raises UserError where there is nothing, or where the step is not from more noise to
    less: that is for the times that rise, and for paths whose sigma / alpha does not fall with t."""
    if rng is None:
        raise UserError(
            f"{type(solver).__name__} draws noise at every step and was given no rng; an ODE is followed by ddim or heun."
        )
    now, then = noise_ratio(path, t), noise_ratio(path, s)
    rising = then > now * (1 + 1e-4)  # beyond rounding
    if bool(rising.any()):
        row = int(rising.int().argmax())
        raise UserError(
            f"{type(solver).__name__} goes from more noise to less, but from t = {float(t[row]):.4g} to {float(s[row]):.4g} "
            f"sigma / alpha rises from {float(now[row]):.4g} to {float(then[row]):.4g}; a path or times like that admit "
            f"{', '.join(METHODS)} and ddim."
        )
    return rng
