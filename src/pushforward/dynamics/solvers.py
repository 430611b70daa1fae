"""From noise to data, or back, along a path, by any solver: their table, and what takes their steps.

A solver is a stateless step from a time t to a time s (dynamics/stepping.py). The Runge-Kutta methods follow the
probability-flow ODE in x and t; exponential integrators in what is not linear in it; random solvers follow an SDE that has the
same marginals. Every one goes along every path on which sigma / alpha rises with t.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.exponential import DDIM, DPMSolver2, DPMSolver3, DPMSolverPP2M, DPMSolverPP2MSDE, UniPC
from pushforward.dynamics.ode import METHODS
from pushforward.dynamics.paths import expand
from pushforward.dynamics.spacings import SPACINGS as SPACINGS
from pushforward.dynamics.spacings import time_grid as time_grid
from pushforward.dynamics.stepping import Flow, Solver
from pushforward.dynamics.stochastic import EDM, Ancestral, AnnealedLangevin, Churn, EulerMaruyama, PredictorCorrector
from pushforward.dynamics.stochastic import rising_noise as rising_noise
from pushforward.errors import UserError, nearest
from pushforward.randomness import Rng

SOLVERS: dict[str, Solver] = {
    **{name: Flow(method) for name, method in METHODS.items()},
    "ddim": DDIM(),
    "dpm-2": DPMSolver2(),
    "dpm-3": DPMSolver3(),
    "dpm++2m": DPMSolverPP2M(),
    "unipc": UniPC(),
    "edm": EDM(),
    "ancestral": Ancestral(),
    "ancestral-small": Ancestral(0.0),
    "ancestral-large": Ancestral(1.0),
    "euler-maruyama": EulerMaruyama(),
    "dpm++2m-sde": DPMSolverPP2MSDE(),
    "edm-churn": EDM(Churn()),
    "predictor-corrector": PredictorCorrector(),
    "annealed-langevin": AnnealedLangevin(),
}


def find_solver(solver: str | Solver) -> Solver:
    """A solver by name, or the solver itself. Raises UserError for an unknown name."""
    if not isinstance(solver, str):
        return solver
    if solver not in SOLVERS:
        raise UserError(f"there is no solver '{solver}'; {nearest(solver, SOLVERS)}")
    return SOLVERS[solver]


def carry(
    denoiser: Denoiser,
    x: Float[Tensor, "b *shape"],
    times: Float[Tensor, "k"],
    solver: str | Solver = "heun",
    *,
    rng: Rng | None = None,
    trajectory: bool = False,
) -> Tensor:
    """x (B, *shape) from times[0] through all `times` (K,), one step between neighbours: x at times[-1], or with `trajectory`
    x at all times (K, B, *shape). The denoiser's condition is given already."""
    step, rows = find_solver(solver).step, len(x)
    states, memory = [x], None
    for t, s in itertools.pairwise(times):
        x, memory = step(denoiser, x, t.expand(rows), s.expand(rows), rng=rng, memory=memory)
        if trajectory:
            states.append(x)
    return torch.stack(states) if trajectory else x


def generate(
    denoiser: Denoiser,
    noise: Float[Tensor, "b *shape"],
    times: Float[Tensor, "k"],
    solver: str | Solver = "heun",
    *,
    rng: Rng | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Data from standard normal noise: x = sigma noise at times[0], carried along the falling `times`.

    Where noise is left at their end (a target that is ill-posed at the data, a path that explodes variance), the end is
    E[x0 | x] there. As `carry` otherwise.
    """
    rows = len(noise)
    start = expand(denoiser.path(times[:1].expand(rows))[1], noise) * noise
    states = carry(denoiser, start, times, solver, rng=rng, trajectory=trajectory)
    if denoiser.path(times[-1:])[1] == 0:
        return states
    x0, _ = denoiser(states[-1] if trajectory else states, times[-1:].expand(rows))
    return torch.cat([states[:-1], x0[None]]) if trajectory else x0


def encode(
    denoiser: Denoiser, x: Float[Tensor, "b *shape"], times: Float[Tensor, "k"], solver: str | Solver = "ddim"
) -> Float[Tensor, "b *shape"]:
    """The noise that data come from: alpha x at times[0], carried along the rising `times`, divided by sigma at their end.

    The solver is one without randomness; "ddim" is DDIM's inversion. `generate` by the same solver and times leads back, up to
    the error of both. Raises UserError where times do not rise, and for a random solver.
    """
    if not bool((times.diff() >= 0).all()):
        raise UserError("codes are found along rising times, from data to noise; turn them round (times.flip(0)).")
    start, end = denoiser.path(times[:1].expand(len(x))), denoiser.path(times[-1:].expand(len(x)))
    return carry(denoiser, expand(start[0], x) * x, times, solver) / expand(end[1], x)
