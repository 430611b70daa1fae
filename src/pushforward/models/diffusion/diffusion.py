"""Diffusion and flow matching: learns, by regression, what is data and what is noise in a mixture of both, and samples by going
from noise to data along that.

Data and noise are joined by a path x_t = alpha(t) x0 + sigma(t) noise, t in [0, 1], 0 = data, 1 = noise. A network learns a
target y = a(t) x0 + b(t) noise by least squares, so its mean given x_t:

    L = E_{t, x0, noise} w(t) | y_theta(x_t, t, c) - y |^2.

By the 2x2 system of x_t and y this gives E[x0 | x_t] and E[noise | x_t], whatever y is, and so the velocity
v(x, t) = alpha' E[x0 | x_t = x] + sigma' E[noise | x_t = x]. It obeys the continuity equation d p_t / dt + div(p_t v) = 0 with
the law p_t of x_t: who follows dx/dt = v from noise at t = 1 to t = 0 ends in the data's law. The score is
-E[noise | x_t] / sigma, with which the same holds for SDEs. For a class c, some rows are trained with no class, so that
y_null + w (y_c - y_null) guides samples towards it (Ho and Salimans 2022, arXiv:2207.12598). Along the ODE
d log p / dt = -div v, which gives codes and densities.

The straight path with y = noise - x0, its velocity, is flow matching (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023,
arXiv:2209.03003; Albergo and Vanden-Eijnden 2023, arXiv:2209.15571); a diffusion's with y = noise is DDPM (Ho et al. 2020,
arXiv:2006.11239); all are one family (Song et al. 2021, arXiv:2011.13456; Kingma et al. 2021, arXiv:2107.00630).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.conditions import can_be_drawn
from pushforward.data.spec import DataSpec
from pushforward.dynamics.bound import Bound, continuous_bound, discrete_bound
from pushforward.dynamics.couplings import find_coupling
from pushforward.dynamics.denoiser import Denoiser, bounded
from pushforward.dynamics.guidance import classifier_free
from pushforward.dynamics.likelihood import log_prob_along
from pushforward.dynamics.ode import find_method, integrate
from pushforward.dynamics.paths import expand, find_path, interpolate
from pushforward.dynamics.solvers import DDIM, Flow, Solver, find_solver, generate, time_grid
from pushforward.dynamics.sources import Draw, Normal, find_source
from pushforward.dynamics.spacings import MOST_LEVELS, check_grid
from pushforward.dynamics.targets import EARLIEST, Residual, Target, amplification, compose, find_target, span
from pushforward.dynamics.times import Law, draw_times, find_law
from pushforward.dynamics.weightings import check_weighting, weights
from pushforward.errors import UserError
from pushforward.models.contract import Generator, LogProb, Loss, OptimizerSettings, Player, device_of
from pushforward.models.diffusion.backbone import backbone, choose
from pushforward.models.diffusion.guiding import Guiding, Negative
from pushforward.nets.conditioning import ConditionEmbedding, draw_condition
from pushforward.randomness import Rng, as_rng

EXACT_DIVERGENCE = 64  # dimensions up to which the divergence is summed exactly
MOST_NOISE = 1.5  # deviation of the noise above which x_t is scaled before a network sees it
UNSEEN = 10.0  # times as large as the target's error is x0's where x0 of images is kept within what images can be


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn; `Diffusion.sample` says what each means."""

    steps: int
    solver: str | Solver
    spacing: str
    guiding: Guiding


class Diffusion(nn.Module):
    """Diffusion or flow matching, with classifier-free guidance where the data have a condition.

    Args:
        spec: what a datum and its condition are.
        path: from data to noise: "linear", "trigonometric", "foellmer"; of diffusions "variance-preserving", "cosine",
            "sigmoid", "ddpm" (the published steps), "ddpm-zero-terminal", "sub-variance-preserving", "variance-exploding" and
            "edm" (of a smaller noise at first, and a larger at last).
        levels: T of a diffusion in discrete time, trained at t = 1 / T, 2 / T, .. 1 only; None: at any t.
        target: what the network predicts: "velocity", "v", "noise", "x0", "score", or "edm", what a linear guess of x0 leaves.
        weighting: of the squared error over t: "uniform", "min-snr", "truncated-snr", "sigmoid", "likelihood", or a target,
            whose error then counts.
        coupling: which noise goes with which datum: "independent", or within a batch (and a class) "optimal-transport", or
            "sinkhorn" (between the two).
        source: what the noise is: "normal"; of flows between two laws the name of a toy (with points of two coordinates), or
            draws in the model's units, a function (n, rng) -> (n, *spec.shape).
        time_sampling: how t is drawn in training: "uniform", "stratified" (spread evenly over a batch), "logit-normal" (more in
            the middle), "log-normal" (EDM's: where sigma / alpha is about 0.3).
        network: "mlp" (vectors, tiny images), "unet" (images), a transformer of patches ("dit-nano", "dit-tiny", "dit-S",
            "dit-B", "dit-L", "dit-XL"), or "auto": "unet" for images larger than 8x8, else "mlp".
        width: units of the MLP's layers, or channels of the U-Net at full resolution (None: 256; 32 up to 32x32, else 64).
        depth: residual blocks of the MLP, or of the U-Net at each resolution (None: 3; 1 up to 32x32, else 2).
        dropout: rate inside the residual blocks.
        condition_dropout: share of rows trained without their condition, needed for guidance and unconditional use.
        net: your own network, any module called net(x_t, t, embedding), embedding as wide as the default network's, or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        solver: which samples are drawn by where none is named; `sample` says which there are.
        steps: of that solver.
        spacing: of those steps.
    """

    samples_in_half = True  # what solvers add up stays in full precision; the network alone is in half

    def __init__(
        self,
        spec: DataSpec,
        *,
        path: str = "linear",
        levels: int | None = None,
        target: str = "velocity",
        weighting: str = "uniform",
        coupling: str = "independent",
        source: str | Draw = "normal",
        time_sampling: str = "uniform",
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.1,
        condition_dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        solver: str = "heun",
        steps: int = 32,
        spacing: str = "uniform",
    ):
        super().__init__()
        self.spec, self.condition_dropout = spec, condition_dropout
        self.time_sampling: str | Law = time_sampling
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        check_weighting(weighting)
        find_law(time_sampling)
        find_solver(solver)
        if levels is not None and levels < 1:
            raise UserError(f"levels is the number of a diffusion's steps in training, 1 or more; {levels} was given.")
        self.levels, self.drawn = levels, Sampling(steps, solver, spacing, Guiding())
        check_grid(steps, spacing, levels or MOST_LEVELS)
        find_coupling(coupling)
        if coupling != "independent" and spec.condition is not None and spec.condition.kind == "vector":
            raise UserError(
                "no two data share a vector as condition, so noise cannot be matched within; use coupling='independent'."
            )
        if not 0 <= condition_dropout < 1:
            raise UserError(f"condition_dropout is a share from 0 up to (not including) 1; {condition_dropout} was given.")
        find_target(target)
        self.path, self.coupling = find_path(path), coupling
        self.source = find_source(source, spec)
        self._check_source(path)
        # standardised numbers have a deviation of 1; images, in [-1, 1], of about 1/2
        self.deviation = 0.5 if spec.planar else 1.0
        residual = Residual(self.deviation)
        self.target: Target = residual if target == "edm" else target
        self.weighting: Target = residual if weighting == "edm" else weighting
        self.span = span(self.path, self.target)
        ends = torch.tensor(self.span, dtype=torch.float64)
        self.explodes = bool(self.path(ends)[1][1] > MOST_NOISE)
        self.blind = bool(amplification(self.path, self.target, ends)[1] > UNSEEN)
        kind, width, embedding = choose(network, spec, width)
        self.embed = ConditionEmbedding(spec.condition, embedding)
        self.net = backbone(spec, kind, width, depth, embedding, dropout) if net is None else net

    def predict(
        self,
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        *,
        condition: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Float[Tensor, "b *shape"]:
        """The target's mean given x_t, t and each row's condition; without one, and in rows where `drop` (B,) is true, of all
        data together."""
        return self._output(x_t, t, condition, drop)

    def _output(self, x_t: Tensor, t: Tensor, condition: Tensor | None, drop: Tensor | None) -> Tensor:
        """All that the network says, which may be more than the target's mean."""
        if self.explodes:  # a network wants numbers of about 1
            alpha, sigma, _, _ = self.path(t)
            x_t = x_t / expand(((self.deviation * alpha) ** 2 + sigma**2).sqrt(), x_t)
        return self.net(x_t, t, self.embed(condition, len(x_t), drop))

    def denoiser(
        self, condition: Tensor | None = None, guidance: float = 1.0, *, negative: Tensor | None = None, rescale: float = 0.0
    ) -> Denoiser:
        """What solvers and conversions take: this model at its condition, guided (`dynamics/guidance.py`)."""
        learned = Denoiser(self.path, self.target, self.predict)
        return classifier_free(learned, guidance, negative=negative, rescale=rescale).given(condition)

    def _generator(self, denoiser: Denoiser) -> Denoiser:
        """What samples come from: x0 of images stays in [-1, 1] where the target loses sight of it in noise."""
        return bounded(denoiser, -1.0, 1.0) if self.spec.kind == "image" and self.blind else denoiser

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The weighted squared error of the target, a mean over rows and dimensions."""
        rows = len(batch)
        t = draw_times(self.time_sampling, self.path, rows, rng, span=self.span, levels=self.levels)
        x0, noise, condition = self.pairs(batch, rng)
        drop = self.embed.hidden(rows, self.condition_dropout, rng)
        y = compose(self.path, self.target, x0, noise, t)
        predicted = self.predict(interpolate(self.path, x0, noise, t), t, condition=condition, drop=drop)
        errors = (predicted.float() - y.float()) ** 2
        if self.weighting != "uniform":
            errors = expand(weights(self.path, self.target, self.weighting, t), errors) * errors
        return Loss(errors.mean())

    def pairs(self, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor, Tensor | None]:
        """What a flow is learned from: data, the noise that goes with each, and their condition."""
        noise = self.source.draw(len(batch), rng).to(batch.x)
        return batch.x, find_coupling(self.coupling)(batch.x, noise, batch.condition, rng), batch.condition

    def players(self) -> list[Player]:
        settings = OptimizerSettings(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        name = self.target if isinstance(self.target, str) else "edm"
        return [Player(name, self, self.loss, optimizer=settings)]

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int | None = None,
        solver: str | Solver | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        negative: Negative = None,
        worse: Any = None,
        classifier: Any = None,
        spacing: str | None = None,
    ) -> Tensor:
        """Draws x (n, *spec.shape): noise carried from t = 1 to t = 0. What is None is as the model was built to be sampled.

        Args:
            n: how many.
            condition: classes (n,) or attributes (n, A); None draws them as frequent as in the data.
            generator: an Rng, a torch.Generator or a seed.
            steps: of the solver.
            solver: of an ODE "euler", "heun", "rk4", "dopri5" (adaptive), "ddim", "edm", and for few steps "dpm++2m", "unipc",
                "dpm-2", "dpm-3"; at random "ancestral" ("-small", "-large"), "euler-maruyama", "dpm++2m-sde", "edm-churn",
                "predictor-corrector", "annealed-langevin".
            guidance: 1 follows the condition as learned, more exaggerates it, 0 ignores it.
            guidance_interval: of t, outside of which nothing is guided; [0.1, 0.8], say, spares what is nearly noise or data.
            guidance_rescale: how much of the contrast that guidance adds to pictures is taken back, 0 to 1.
            negative: a condition, a class say, that all samples go away from, instead of from none.
            worse: the run of a model trained for less, or smaller, on the same data, to go away from instead.
            classifier: the run of a noisy-classifier, whose slope, times guidance, leads to the condition instead.
            spacing: of the steps: "uniform"; "quadratic" (shorter towards the data); by the noise "log-snr", "karras"; of a
                diffusion in T steps "leading", "trailing".
        """
        guiding = {"guidance_interval": guidance_interval, "guidance_rescale": guidance_rescale, "negative": negative}
        chosen = self._chosen(steps, solver, spacing, guidance=guidance, worse=worse, classifier=classifier, **guiding)
        return self._drawn(n, condition, generator, chosen)

    def _chosen(
        self, steps: int | None = None, solver: str | Solver | None = None, spacing: str | None = None, **guiding: Any
    ) -> Sampling:
        """How to sample, with what the model was built with in the place of None."""
        built, steps = self.drawn, self.drawn.steps if steps is None else steps
        return Sampling(steps, solver or built.solver, spacing or built.spacing, Guiding(**guiding))

    @torch.no_grad()
    def trajectory(
        self, n: int, *, frames: int = 8, condition: Tensor | None = None, generator: Generator = None, **options: Any
    ) -> Tensor:
        """The way of `sample` from noise to data: (frames, n, *spec.shape), evenly spaced in steps. options: as of `sample`."""
        if frames < 2:
            raise UserError(f"a trajectory has at least 2 frames, its noise and its datum; {frames} were asked for.")
        chosen = self._chosen(**options)
        chosen = replace(chosen, steps=max(chosen.steps, frames - 1))
        states = self._drawn(n, condition, generator, chosen, trajectory=True)
        return states[torch.linspace(0, chosen.steps, frames).round().long().to(states.device)]

    def _drawn(
        self, n: int, condition: Tensor | None, generator: Generator, chosen: Sampling, trajectory: bool = False
    ) -> Tensor:
        chosen.guiding.check(self)
        solver = find_solver(chosen.solver)
        if not (isinstance(solver, Flow) or solver == DDIM()):
            self._check_score(f"what the solver {chosen.solver} does")
        rng, classifier = as_rng(generator, device_of(self)), chosen.guiding.classifier
        if classifier is not None:
            self._check_score("a classifier")
        noise = self.draw_codes(n, generator=rng)
        known = self.spec.condition or getattr(classifier, "spec", self.spec).condition
        if condition is None and known is not None and can_be_drawn(known):
            condition = draw_condition(known, n, rng)
        mine = None if self.spec.condition is None and classifier is not None else self._checked(condition, n)
        denoiser = self._generator(chosen.guiding.guided(self, mine, condition, n))
        levels = self.levels or MOST_LEVELS
        times = time_grid(self.span, chosen.steps, chosen.spacing, like=noise, path=self.path, levels=levels)
        return generate(denoiser, noise, times, solver, rng=rng, trajectory=trajectory)

    def score(self, x: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], *, condition: Tensor | None = None) -> Tensor:
        """grad_x log p_t(x) = -E[noise | x_t = x] / sigma. Below t = 0.001 that of t = 0.001: it grows like 1 / sigma."""
        self._check_score("this")
        t = t.clamp(min=EARLIEST, max=self.span[1])
        return self.denoiser(self._checked(condition, len(x))).score(x, t)

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Tensor:
        """Noise (n, *spec.shape), standard normal where no other source was given: x at t = 1, in deviations of the path's."""
        return self.source.draw(n, as_rng(generator, device_of(self)))

    def encode(
        self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, steps: int = 32, solver: str = "heun"
    ) -> Float[Tensor, "b *shape"]:
        """Data to the noise that they come from, by the ODE followed backwards (no condition: of all data together). solver: of
        an ODE in x and t: "euler", "heun", "rk4", "dopri5"."""
        denoiser = self.denoiser(self._checked(condition, len(x)))
        times = time_grid(self.span, steps, like=x).flip(0)
        shrunk, grown = self._ends()
        return integrate(denoiser.velocity, shrunk * x, times, find_method(solver)) / grown

    def decode(
        self, z: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, steps: int = 32, solver: str = "heun"
    ) -> Float[Tensor, "b *shape"]:
        """Noise to data: the inverse of `encode`, and differentiable."""
        denoiser = self._generator(self.denoiser(self._checked(condition, len(z))))
        return generate(denoiser, z, time_grid(self.span, steps, like=z), Flow(find_method(solver)))

    def log_prob(
        self,
        x: Float[Tensor, "b *shape"],
        *,
        condition: Tensor | None = None,
        steps: int = 12,
        solver: str = "rk4",
        probes: int = 8,
        generator: Generator = 0,
        method: str = "ode",
    ) -> LogProb:
        """log p(x) = log N(z; 0, I) + int_0^1 div v(x_t, t) dt along the ODE from x to its noise z (Chen et al. 2018), nats.

        Up to 64 dimensions the divergence is exact and stderr 0; beyond it is Hutchinson's estimate with `probes` random
        signs (at least 2), fixed by `generator`, and stderr their spread. The ODE is solved in `steps` steps, shorter near the
        data where the velocity bends most; their error is not in stderr (on digits 0.15 nats of 30 with 8 steps, 0.01 with 16).
        Where the target is ill-posed at the data, it is the density of data with the noise of t = 0.001.
        Without a condition: the density of all data together, which condition_dropout taught.

        method: "ode", or "bound": below log p(x), by `bound` with its own numbers of terms and draws, of the levels of images.
        """
        if method not in ("ode", "bound"):
            raise UserError(f"a log-density is found by 'ode' or by 'bound'; method='{method}' was given.")
        if method == "bound":
            return as_log_prob(self.bound(x, condition=condition, generator=generator), self.spec)
        dimensions, (shrunk, grown) = self.spec.dimensions, self._ends()
        value, stderr = log_prob_along(
            self.denoiser(self._checked(condition, len(x))).velocity,
            shrunk * x,
            time_grid(self.span, steps, "quadratic", like=x).flip(0),
            base=lambda z: self.source.log_prob(z / grown) - dimensions * math.log(grown),
            method=solver,
            probes=probes if dimensions > EXACT_DIVERGENCE else None,
            rng=as_rng(generator, x.device),
        )
        return LogProb(value + dimensions * math.log(shrunk), "estimate", stderr)

    @torch.no_grad()
    def bound(
        self,
        x: Float[Tensor, "b *shape"],
        *,
        condition: Tensor | None = None,
        steps: int | None = None,
        variance: str | None = None,
        terms: int | None = 32,
        draws: int = 2,
        generator: Generator = 0,
    ) -> Bound:
        """The variational bound on -log p(x), term by term, nats per datum (`dynamics/bound.py`); of images, their levels'.

        Args:
            x: data; images are rounded to their levels.
            condition: as of `log_prob`.
            steps: of ancestral sampling; None: as many as the model has levels, or without levels the limit of many.
            variance: of those steps where the model has learned none: "small", "large", or None: what suits the data.
            terms: how many times each draw looks at; None (with steps): all of them.
            draws: of the noise, at least 2.
            generator: what fixes them.
        """
        self._check_score("the bound")
        levels = (self.spec.levels or 256) if self.spec.kind == "image" else None
        denoiser = self._generator(self.denoiser(self._checked(condition, len(x))))
        rng = as_rng(generator, x.device)
        steps = self.levels if steps is None else steps
        if steps is None:
            return continuous_bound(denoiser, x, rng=rng, levels=levels, terms=terms or 32, draws=draws)
        times = time_grid((0.0, 1.0), steps, like=x.double()).clamp(max=self.span[1]).unique_consecutive()
        return discrete_bound(denoiser, x, times, rng=rng, levels=levels, variance=variance, terms=terms, draws=draws)

    def _check_source(self, path: str) -> None:
        """Raises UserError where a law other than the normal meets a path that does not end at it."""
        alpha, sigma, _, _ = self.path(torch.ones(1, dtype=torch.float64))
        if not isinstance(self.source, Normal) and (float(alpha) > 0.02 or abs(float(sigma) - 1) > 0.02):
            raise UserError(f"the path '{path}' ends at normal noise alone; to begin elsewhere, take path='linear'.")

    def _check_score(self, what: str) -> None:
        """Raises UserError where the noise is not normal, so that it says no score."""
        if not isinstance(self.source, Normal):
            raise UserError(
                f"this flow does not begin at normal noise, and so knows no score, which {what} is made of; follow its ODE, by "
                "euler, heun, rk4, dopri5 or ddim."
            )

    def _ends(self) -> tuple[float, float]:
        """alpha at the first time of the span, 1 but for a target ill-posed at the data, and sigma at the last."""
        ends = torch.tensor(self.span, dtype=torch.float64)
        alpha, sigma, _, _ = self.path(ends)
        return float(alpha[0]), float(sigma[1])

    def _checked(self, condition: Tensor | None, rows: int) -> Tensor | None:
        """The condition on the model's device, if it fits the rows and the data's condition."""
        known = self.spec.condition
        if condition is None:
            if known is not None and not self.condition_dropout:
                raise UserError("this model was trained with condition_dropout=0, so it needs a condition; give one.")
            return None
        if known is None:
            raise UserError("a condition was given, but this model was trained on data without one; leave it out.")
        condition = torch.as_tensor(condition, device=device_of(self))
        shape = (rows,) if known.kind == "class" else (rows, *(known.shape or (known.size,)))
        if tuple(condition.shape) != shape:
            raise UserError(f"the condition has shape {tuple(condition.shape)}; for {rows} rows it must be {shape}.")
        if known.kind == "class" and rows and not 0 <= int(condition.min()) <= int(condition.max()) < known.size:
            raise UserError(f"classes are 0 to {known.size - 1}; {int(condition.min())} to {int(condition.max())} were given.")
        return condition


def as_log_prob(bound: Bound, spec: DataSpec) -> LogProb:
    """A variational bound as one on the log-density: of levels, which have masses, that which is constant over each."""
    width = 2 / ((spec.levels or 256) - 1) if spec.kind == "image" else 1.0
    return LogProb(-bound.total - spec.dimensions * math.log(width), "bound", bound.stderr)
