"""Inverse problems y = A x + noise z with a denoiser as the prior of x: solvers whose samples are consistent with y.

The score of p(x_t | y) is that of p(x_t) and the gradient of log p(y | x_t), for which only E[x0 | x_t] = x0(x_t) and its
derivative J = d x0 / d x_t are to be had. With r the residual y - A x0, and x_t = alpha x0 + sigma noise on any path:

    DPS      a step of ancestral sampling, then x_s - scale grad_{x_t} |r|         Chung et al. 2023, arXiv:2209.14687
    Pi-GDM   p(x0 | x_t) = N(x0, r_t^2 I), so that                                 Song et al. 2023 (ICLR)
             grad log p(y | x_t) = J^T A^T (r_t^2 A A^T + noise^2 I)^-1 r
    DDNM     x0 <- x0 + A^+ r: A^+ y and the null space of x0                      Wang et al. 2022, arXiv:2212.00490
    DDRM     the same coordinate by coordinate of A's singular vectors, each with  Kawar et al. 2022, arXiv:2201.11793
             as much of y as its noise allows at time s
    RePaint  what is known at time s is y with the noise of s, the rest is drawn;  Lugmayr et al. 2022, arXiv:2201.09865
             going back and down again makes both agree. For down-sampling: ILVR   Choi et al. 2021, arXiv:2108.02938

Pi-GDM is exact for isotropic Gaussian data of variance v, where r_t^2 = v sigma^2 / (v alpha^2 + sigma^2) is the variance of
x0 given x_t; v = 1 is the paper's choice. (Its further factor r_t^2 on the gradient is no part of the score and left out.)
RePaint draws the known part at a time s on its own, though y leaves it correlated with the rest: however often it goes back,
that is right only in the limit of small s, where what is known is no longer noisy; and each return repeats the error of a step,
an ancestral one's too small variance, so that more returns ask for shorter steps.

All are ancestral or DDIM steps (dynamics/solvers.py) with another x0, and evaluate the denoiser at the beginning of a step
alone: `times` may end at 0 whatever the target is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser, bounded
from pushforward.dynamics.operators import Operator, inverse
from pushforward.dynamics.paths import expand
from pushforward.dynamics.solvers import DDIM, Solver, generate, time_grid
from pushforward.dynamics.stepping import fresh_noise
from pushforward.dynamics.stochastic import noised
from pushforward.dynamics.targets import LATEST
from pushforward.errors import UserError, nearest
from pushforward.randomness import Rng


@dataclass(frozen=True)
class Problem:
    """y (B, *operator.measured) = A x + noise z, z standard normal: rows of y are problems of their own. bounds: what x is
    within, where that is known."""

    operator: Operator
    y: Float[Tensor, "b c h w"]
    noise: float = 0.0
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise UserError(f"noise = {self.noise} was given; it is the standard deviation of what y is off by, 0 or more.")
        if tuple(self.y.shape[1:]) != self.operator.measured:
            raise UserError(
                f"measurements of shape {tuple(self.y.shape[1:])} were given; of images of shape {self.operator.shape}, "
                f"{self.operator} gives (channels, height, width) = {self.operator.measured}."
            )

    def residual(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """y - A x, of what is measured."""
        return self.operator.kept(self.y) - self.operator(x)

    def precision(self, eigenvalues: Tensor, variance: Tensor) -> Tensor:
        """1 / (variance e + noise^2) of eigenvalues e of A A^T."""
        return 1 / (variance * eigenvalues + self.noise**2) if self.noise else inverse(eigenvalues) / variance

    def inverse(self, eigenvalues: Tensor) -> Tensor:
        """1 / e, 0 where A says nothing. That is as of the pseudo-inverse; where y has a noise, which limits what small
        eigenvalues do, it is where e is 0 but for rounding."""
        return inverse(eigenvalues, torch.finfo(eigenvalues.dtype).eps) if self.noise else inverse(eigenvalues)


def pulled_back(
    denoiser: Denoiser,
    x_t: Float[Tensor, "b c h w"],
    t: Float[Tensor, "b"],
    covector: Callable[[Tensor], Tensor],
    condition: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(x0, J^T covector(x0)), J = d x0 / d x_t, by one pass backwards through the network."""
    with torch.enable_grad():
        at = x_t.detach().requires_grad_()
        x0, _ = denoiser(at, t, condition)
        (pulled,) = torch.autograd.grad(x0, at, covector(x0.detach()))
    return x0.detach(), pulled


def pigdm(denoiser: Denoiser, problem: Problem, variance: float = 1.0) -> Denoiser:
    """The denoiser of x0 given y as well, by Pi-GDM: x0 + sigma^2 / alpha grad log p(y | x_t). variance: of the data, v.

    Not at t = 0, and not where alpha is 0: no x_t says anything of x0 there.
    """
    if not 0 < variance < float("inf"):
        raise UserError(f"variance = {variance} was given; it is that of the data, above 0 (1 for images in [-1, 1]).")
    return replace(denoiser, target="x0", net=_PiGDM(denoiser, problem, variance))


@dataclass(frozen=True)
class _PiGDM:
    denoiser: Denoiser
    problem: Problem
    variance: float

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        alpha, sigma, _, _ = (expand(c, x_t) for c in self.denoiser.path(t))
        spread = self.variance * sigma**2 / (self.variance * alpha**2 + sigma**2)
        operator, precision = self.problem.operator, self.problem.precision

        def weighted(x0: Tensor) -> Tensor:
            return operator.adjoint(operator.spectral(lambda e: precision(e, spread), self.problem.residual(x0)))

        x0, gradient = pulled_back(self.denoiser, x_t, t, weighted, condition)
        return x0 + sigma**2 / alpha * gradient


@dataclass(frozen=True)
class PiGDM:
    """Pi-GDM followed by DDIM with eta, x0 given y kept within the problem's bounds: where t is near 1, what a network's J is
    off by is divided by alpha."""

    problem: Problem
    variance: float = 1.0
    eta: float = 1.0
    order: int = 1
    evaluations: int | None = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        given = pigdm(denoiser, self.problem, self.variance)
        given = bounded(given, *self.problem.bounds) if self.problem.bounds else given
        return DDIM(self.eta).step(given, x, t, s, rng=rng)


@dataclass(frozen=True)
class DPS:
    """An ancestral step (DDIM with eta), and from there `scale` along -grad_{x_t} |y - A x0|: as the authors have it, whatever
    the noise is."""

    problem: Problem
    scale: float = 1.0
    eta: float = 1.0
    order: int = 1
    evaluations: int | None = 1

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise UserError(f"scale = {self.scale} was given; it is the length of a step towards y, 0 or more.")

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        x0, gradient = pulled_back(denoiser, x, t, self._downhill)
        moved, _ = DDIM(self.eta).step(replace(denoiser, target="x0", net=_Constant(x0)), x, t, s, rng=rng)
        return moved - self.scale * gradient, None

    def _downhill(self, x0: Tensor) -> Tensor:
        """grad_{x0} |y - A x0|."""
        residual = self.problem.residual(x0)
        length = residual.flatten(1).norm(dim=1).clamp(min=torch.finfo(x0.dtype).tiny)
        return -self.problem.operator.adjoint(residual / expand(length, residual))


@dataclass(frozen=True)
class _Constant:
    """A network that was evaluated already."""

    x0: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        return self.x0


@dataclass(frozen=True)
class DDNM:
    """DDNM, for noisy y DDNM+: x0 + L A^+ (y - A x0), L as much of 1 in each singular direction as keeps the noise that y
    brings to x_s below what the step draws, which is less by that. Without noise A x = y in the end, wherever A^+ reaches.

    A step back in time (`travels`) adds the noise that lies between.
    """

    problem: Problem
    eta: float = 1.0
    order: int = 1
    evaluations: int | None = 1

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        rng = _needed(rng, self)
        if bool((s > t).all()):
            return noised(denoiser.path, x, t, s, rng), None
        operator, level = self.problem.operator, self.problem.noise
        x0, _ = denoiser(x, t)
        alpha_t, sigma_t, _, _ = (expand(c, x) for c in denoiser.path(t))
        alpha_s, sigma_s, _, _ = (expand(c, x) for c in denoiser.path(s))
        fresh = self.eta * expand(fresh_noise(denoiser.path, t, s), x)
        kept = (sigma_s**2 - fresh**2).clamp(min=0).sqrt()
        through = alpha_s - kept * alpha_t / sigma_t  # d x_s / d x0, x_t as it is

        def share(e: Tensor) -> Tensor:  # of A^+ = A^T (A A^T)^+
            whole = self.problem.inverse(e)
            return whole * (fresh * e.sqrt() / (through * level)).clamp(max=1) if level else whole

        x0 = x0 + operator.adjoint(operator.spectral(share, self.problem.residual(x0)))
        z = rng.randn_like(x)
        if level:

            def less(e: Tensor) -> Tensor:  # of the noise that is drawn: what y brings already, in singular directions
                brought = (through * level * share(e)) ** 2 * e
                left = (1 - brought / fresh.square().clamp(min=torch.finfo(x.dtype).tiny)).clamp(min=0).sqrt()
                return self.problem.inverse(e) * (left - 1)

            z = z + operator.adjoint(operator.spectral(less, operator(z)))
        return alpha_s * x0 + kept * (x - alpha_t * x0) / sigma_t + fresh * z, None


@dataclass(frozen=True)
class DDRM:
    """DDRM on any path, in units x / alpha where noise has the level sigma / alpha. In the singular directions whose y is less
    noisy than time s is, x_s is (1 - eta_b) x0 + eta_b y with the noise that lacks; in noisier ones it goes from x0 towards y
    by (1 - eta^2)^(1/2) of the level in units of y's noise; where A is 0 it is DDIM with eta."""

    problem: Problem
    eta: float = 0.85
    eta_b: float = 1.0
    order: int = 1
    evaluations: int | None = 1

    def __post_init__(self) -> None:
        for name, value in (("eta", self.eta), ("eta_b", self.eta_b)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} = {value} was given; it is from 0 to 1.")

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        rng = _needed(rng, self)
        operator, noise, kept = self.problem.operator, self.problem.noise, (1 - self.eta**2) ** 0.5
        x0, found = denoiser(x, t)
        alpha, sigma, _, _ = (expand(c, x) for c in denoiser.path(s))
        level = sigma / alpha
        residual, z = self.problem.residual(x0), rng.randn_like(x)
        free = x0 + level * (kept * found + self.eta * z)

        def quieter(e: Tensor) -> Tensor:  # 1 where y's own noise, over the singular value, is at most the level
            return (noise**2 <= level**2 * e).to(e)

        def towards(e: Tensor) -> Tensor:
            noisy = kept * level * e.sqrt() / noise if noise else torch.zeros_like(e)
            return self.problem.inverse(e) * torch.where(quieter(e) > 0, self.eta_b, noisy)

        def drawn(e: Tensor) -> Tensor:
            clear = (level**2 - (self.eta_b * noise) ** 2 * self.problem.inverse(e)).clamp(min=0).sqrt()
            return self.problem.inverse(e) * torch.where(quieter(e) > 0, clear, self.eta * level)

        seen = x0 + operator.adjoint(operator.spectral(towards, residual) + operator.spectral(drawn, operator(z)))
        # in the singular directions what is seen, in the null space what is free
        across = free - x0
        within = operator.adjoint(operator.spectral(self.problem.inverse, operator(across)))
        return alpha * (seen + across - within), None


@dataclass(frozen=True)
class RePaint:
    """An ancestral step, then what is known is put in its place: A^+ (alpha_s y + sigma_s A z). y is without noise. Steps
    back in time (`travels`), which add the noise that lies between, let the rest come to terms with it."""

    problem: Problem
    eta: float = 1.0
    order: int = 1
    evaluations: int | None = 1

    def __post_init__(self) -> None:
        if self.problem.noise:
            raise UserError(
                f"noise = {self.problem.noise} was given to RePaint, which keeps what is known as it is; take ddnm or pigdm."
            )

    def step(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, *, rng: Rng | None = None, memory: Any = None
    ) -> tuple[Tensor, Any]:
        rng = _needed(rng, self)
        if bool((s > t).all()):
            return noised(denoiser.path, x, t, s, rng), None
        drawn, _ = DDIM(self.eta).step(denoiser, x, t, s, rng=rng)
        alpha, sigma, _, _ = (expand(c, x) for c in denoiser.path(s))
        operator = self.problem.operator
        known = alpha * self.problem.y + operator(sigma * rng.randn_like(x))
        return drawn + operator.pseudo_inverse(known - operator(drawn)), None


def travels(times: Float[Tensor, "k"], jump: int = 1, resamplings: int = 1) -> Float[Tensor, "n"]:
    """Times that go down by `jump` of the given steps, back up, and down again, `resamplings` times down in all.

    >>> travels(torch.tensor([1.0, 0.5, 0.0]), resamplings=2)
    tensor([1.0000, 0.5000, 1.0000, 0.5000, 0.0000, 0.5000, 0.0000])
    """
    if jump < 1 or resamplings < 1:
        raise UserError(f"jump = {jump} and resamplings = {resamplings} were given; both are whole numbers, 1 or more.")
    way = [times[:1]]
    for start in range(0, len(times) - 1, jump):
        down = times[start + 1 : start + jump + 1]
        way += [down, *[times[start : start + 1], down] * (resamplings - 1)]
    return torch.cat(way)


Method = PiGDM | DPS | DDNM | DDRM | RePaint
METHODS: dict[str, type[Method]] = {"pigdm": PiGDM, "ddnm": DDNM, "ddrm": DDRM, "dps": DPS, "repaint": RePaint}


def find_method(method: str) -> type[Method]:
    """A method by name. Raises UserError for an unknown one."""
    if method not in METHODS:
        raise UserError(f"there is no method '{method}'; {nearest(method, METHODS)}")
    return METHODS[method]


@torch.no_grad()
def posterior_samples(
    denoiser: Denoiser, method: Method, *, rng: Rng, steps: int = 100, jump: int = 1, resamplings: int = 1
) -> Float[Tensor, "n c h w"]:
    """One x for each row of the method's problem: from noise at t = LATEST, or before where the denoiser's target ends, in
    `steps` steps down to 0. jump, resamplings: as of `travels`, of the methods that go back in time."""
    if (jump, resamplings) != (1, 1) and not isinstance(method, DDNM | RePaint):
        raise UserError(f"jump and resamplings are for repaint and ddnm; {type(method).__name__} does not go back in time.")
    y = method.problem.y
    times = travels(time_grid((0.0, min(denoiser.span[1], LATEST)), steps, like=y), jump, resamplings)
    noise = rng.randn(len(y), *method.problem.operator.shape, dtype=y.dtype)
    return generate(denoiser, noise, times, method, rng=rng)


def _needed(rng: Rng | None, solver: Solver) -> Rng:
    if rng is None:
        raise UserError(f"{type(solver).__name__} draws noise at every step and was given no rng; give one.")
    return rng
