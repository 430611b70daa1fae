"""Improved DDPM: a diffusion in discrete time that learns the variance of its steps too, and so a better likelihood.

The network has two outputs, the noise and v, with which the variance of x_s given x_t is between the least and the most that it
can be, on a logarithmic scale:

    log variance = v log beta + (1 - v) log beta~,    beta~ = beta sigma_s^2 / sigma_t^2.

The noise says nothing of the variance, so a part of the variational bound is learned beside it,

    L_hybrid = L_simple + lambda L_vlb,    L_simple = E |noise - noise_theta|^2,    L_vlb = T E_t L_t in bits per dimension,

L_t being the bound's term of step t; its gradient does not go through the mean, which L_simple learns. A step of many levels at
once has the variance that the same formula gives. With time_sampling="loss-aware" level t is drawn as often as its loss is
large, p_t ~ E[L_t^2]^(1/2) over its last 10 losses, and counts 1 / p_t.

Nichol and Dhariwal 2021, arXiv:2102.09672. The path of cosines is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.bound import diffusion_term, log_variances, reconstruction_term
from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.paths import Path, expand, interpolate
from pushforward.dynamics.targets import compose
from pushforward.dynamics.times import draw_times
from pushforward.errors import UserError
from pushforward.models.contract import Loss, Moment, Player
from pushforward.models.diffusion.backbone import backbone, choose
from pushforward.models.diffusion.bounded import BoundedDiffusion
from pushforward.nets.embeddings import TimeEmbedding
from pushforward.nets.mlp import ResidualMLP
from pushforward.randomness import Rng

HISTORY = 10  # losses of a level that say how often it is drawn
EVEN = 1e-3  # share of the draws that are even over levels


class ImprovedDDPM(BoundedDiffusion):
    """A diffusion that has learned the variance of its steps; its log_prob is the variational bound.

    Args:
        spec: what a datum and its condition are.
        path: a diffusion's path, by name, as `Diffusion` knows them.
        levels: T, steps of the diffusion in training.
        target: what the network's first output predicts.
        bound_weight: lambda, of the bound in the loss.
        time_sampling: how levels are drawn in training: as `Diffusion` knows it, or "loss-aware".
        network: as `Diffusion` knows them.
        width: units of the MLP's layers, or channels of the U-Net at full resolution (None: 256; 32 up to 32x32, else 64).
        depth: residual blocks of the MLP, or of the U-Net at each resolution (None: 3; 1 up to 32x32, else 2).
        dropout: rate inside the residual blocks.
        condition_dropout: share of rows trained without their condition, needed for guidance and unconditional use.
        net: your own network, called net(x_t, t, embedding), with twice as many channels out as in; or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        solver: which samples are drawn by where none is named.
        steps: of that solver.
    """

    losses: Tensor
    seen: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        path: str = "cosine",
        levels: int = 1000,
        target: str = "noise",
        bound_weight: float = 1e-3,
        time_sampling: str = "uniform",
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.1,
        condition_dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        solver: str = "ancestral",
        steps: int = 100,
    ):
        if not bound_weight >= 0:
            raise UserError(f"bound_weight = {bound_weight} was given, the bound's share of the loss; give 0.001, say.")
        aware = time_sampling == "loss-aware"
        super().__init__(
            spec,
            path=path,
            levels=levels,
            target=target,
            time_sampling="uniform" if aware else time_sampling,
            network=network,
            width=width,
            depth=depth,
            dropout=dropout,
            condition_dropout=condition_dropout,
            net=_twofold(spec, network, width, depth, dropout) if net is None else net,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            solver=solver,
            steps=steps,
        )
        self.bound_weight, self.aware = bound_weight, aware
        if aware:
            self.register_buffer("losses", torch.zeros(levels, HISTORY))
            self.register_buffer("seen", torch.zeros(levels, dtype=torch.int64))

    def outputs(
        self,
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        *,
        condition: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """(the target's mean, v): v is 0 at the least variance and 1 at the most."""
        both = self._output(x_t, t, condition, drop)
        if both.shape[1] != 2 * x_t.shape[1]:
            raise UserError(
                f"the network made {tuple(both.shape[1:])} of {tuple(x_t.shape[1:])}; one that learns variances has twice as "
                "many channels out as in."
            )
        y, v = both.chunk(2, 1)
        return y, (v + 1) / 2

    def predict(
        self,
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        *,
        condition: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Float[Tensor, "b *shape"]:
        return self.outputs(x_t, t, condition=condition, drop=drop)[0]

    def denoiser(self, condition: Tensor | None = None, guidance: float = 1.0, **options: Any) -> Denoiser:
        """As of `Diffusion`, with the variance that is learned for the condition, which no guidance changes."""
        learned, once = super().denoiser(condition, guidance, **options), _Once(self.outputs, condition)
        learned = replace(learned, log_variance=Interpolated(self.path, lambda x_t, t: once.both(x_t, t)[1]))
        return replace(learned, net=once) if guidance == 1.0 else learned

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """L_hybrid, a mean over rows; beside it both of its parts."""
        rows, steps = len(batch), self.levels or 1
        k, weight = self._draw_levels(rows, rng)
        t, s = ((step.double() / steps).clamp(max=self.span[1]) for step in (k, k - 1))
        now, noise = t.to(batch.x), rng.randn_like(batch.x)
        drop = self.embed.hidden(rows, self.condition_dropout, rng)
        x_t = interpolate(self.path, batch.x, noise, now)
        y, v = (out.float() for out in self.outputs(x_t, now, condition=batch.condition, drop=drop))
        truth = compose(self.path, self.target, batch.x, noise, now)
        simple = (y - truth.float()).square().flatten(1).mean(1)
        fixed = Denoiser(self.path, self.target, _Known(y.detach()), Interpolated(self.path, lambda x_t, t: v))
        bits = self._term(fixed, batch.x, x_t, t, s, k == 1) / (self.spec.dimensions * math.log(2))
        each = simple + self.bound_weight * steps * bits
        terms = {"simple": (weight * simple).mean(), "bound": steps * (weight * bits).mean()}
        return Loss((weight * each).mean(), terms, {"level": k, "loss": each.detach()} if self.aware else {})

    def _term(self, denoiser: Denoiser, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, first: Tensor) -> Float[Tensor, " b"]:
        """The bound's term (B,) of each row's step, nats. Of the first, to the data, it is the reconstruction; steps beyond the
        span, where t and s are the same, have none."""
        levels = (self.spec.levels or 256) if self.spec.kind == "image" else None
        inner = torch.where(first | (s >= t), t / 2, s)  # a step of any length where it is not used
        kl = torch.where(s < t, diffusion_term(denoiser, x0, x_t, t, inner), 0.0)
        return torch.where(first, reconstruction_term(denoiser, x0, x_t, t, levels), kl)

    def _draw_levels(self, rows: int, rng: Rng) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
        """A level from 1 to T for each row, and how much it counts."""
        steps = self.levels or 1
        if not self.aware:
            t = draw_times(self.time_sampling, self.path, rows, rng, levels=steps)
            return (t * steps).round().long(), torch.ones_like(t)
        chances = self.chances()
        k = torch.searchsorted(chances.cumsum(0), rng.rand(rows, dtype=torch.float64)).clamp(max=steps - 1)
        return k + 1, (1 / (steps * chances[k])).float()

    def chances(self) -> Float[Tensor, " t"]:
        """How often each level is drawn: as the root of its mean squared loss, once 10 losses of each have been seen."""
        even = torch.full_like(self.losses[:, 0], 1 / len(self.losses), dtype=torch.float64)
        if bool((self.seen < HISTORY).any()):
            return even
        size = self.losses.double().square().mean(1).sqrt()
        return (1 - EVEN) * size / size.sum() + EVEN * even

    @torch.no_grad()
    def _remember(self, kept: dict[str, Tensor], moment: Moment) -> None:
        for k, loss in zip((kept["level"] - 1).tolist(), kept["loss"], strict=True):
            self.losses[k, self.seen[k] % HISTORY] = loss
            self.seen[k] += 1

    def players(self) -> list[Player]:
        return [replace(player, after_update=self._remember if self.aware else None) for player in super().players()]


@dataclass
class _Once:
    """A model's outputs at a condition. What a step asks for at one x_t and t, the mean and the variance, is computed once."""

    outputs: Callable[..., tuple[Tensor, Tensor]]
    condition: Tensor | None
    last: tuple[Tensor, Tensor, bool, tuple[Tensor, Tensor]] | None = None

    def both(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        graph = torch.is_grad_enabled()
        if self.last is None or self.last[0] is not x_t or self.last[1] is not t or self.last[2] != graph:
            self.last = x_t, t, graph, self.outputs(x_t, t, condition=self.condition)
        return self.last[3]

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        return self.both(x_t, t)[0]


@dataclass(frozen=True)
class Interpolated:
    """The log-variance of x_s given x_t: share log large + (1 - share) log small. share(x_t, t): (B, *shape)."""

    path: Path
    share: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        v = self.share(x_t, t)
        small, large = (expand(log.to(v), v) for log in log_variances(self.path, t, s))
        return v * large + (1 - v) * small


@dataclass(frozen=True)
class _Known:
    """A network's output that is there already."""

    y: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        return self.y


class TwofoldMLP(nn.Module):
    """A residual MLP on flattened data with two numbers out for each: (B, C, ...), t (B,), embedding -> (B, 2 C, ...)."""

    def __init__(self, dimensions: int, width: int, depth: int, embedding: int, dropout: float):
        super().__init__()
        self.time = TimeEmbedding(embedding)
        self.net = ResidualMLP(dimensions, 2 * dimensions, width, depth, embedding, dropout)
        nn.init.zeros_(self.net.leave[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net.leave[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, embedding: Tensor | None = None) -> Tensor:
        return self.net(x.flatten(1), self.time(t, embedding)).reshape(len(x), 2 * x.shape[1], *x.shape[2:])


def _twofold(spec: DataSpec, network: str, width: int | None, depth: int | None, dropout: float) -> nn.Module:
    kind, width, embedding = choose(network, spec, width)
    if kind == "mlp":
        return TwofoldMLP(spec.dimensions, width, depth or 3, embedding, dropout)
    return backbone(spec, kind, width, depth, embedding, dropout, outputs=2 * spec.shape[0])
