"""A variational diffusion model: the bound on the likelihood in continuous time is the loss, and the path is learned too.

The path keeps the variance, alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma), where gamma(t) = -log snr(t) is a monotone
network: gamma = gamma_0 + (gamma_1 - gamma_0) h(t) with h from 0 to 1. With E[noise | x_t] predicted by a network that is told
gamma,

    -log p(x0) <= KL(q(x_1 | x0) || N(0, sigma_1^2)) - E log p(x0 | x_0+) + 1/2 E_t gamma'(t) |noise - noise_theta|^2.

Its last part depends on gamma by the ends alone. So gamma_0 and gamma_1 are learned by the bound; and h, which changes nothing
but the variance of what is seen of it at one t, is learned to make that small. For a loss l of a row at its t,

    d/dh E l^2 = E 2 l dl/dh,

which is the gradient of the bound, times 2 l, where it enters h: one pass backwards is enough.

Kingma, Salimans, Poole and Ho 2021, arXiv:2107.00630.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.bound import log_decoded, prior_term
from pushforward.dynamics.paths import Coefficients, expand
from pushforward.dynamics.times import draw_times
from pushforward.errors import UserError
from pushforward.models.contract import Loss
from pushforward.models.diffusion.backbone import backbone, choose
from pushforward.models.diffusion.bounded import BoundedDiffusion
from pushforward.randomness import Rng

LEAST = 0.01  # noise on data that are continuous, before training; on images an eighth of a level
LAST = 5.0  # gamma at the noise, before training
WIDTH = 64  # units of the schedule's network
FREQUENCIES = (7, 8)  # of the Fourier features of pixels, in octaves


class LearnedPath(nn.Module):
    """A path whose -log snr is learned: t -> (alpha, sigma, d_alpha, d_sigma), monotone whatever the parameters.

    h(t) = (f(t) - f(0)) / (f(1) - f(0)),  f(t) = e^a t + sum_i e^(c_i) sigmoid(e^(b_i) t + d_i).
    """

    def __init__(self, first: float, last: float = LAST, width: int = WIDTH):
        super().__init__()
        if not first < last:
            raise UserError(f"gamma rises from the data to the noise; {first} and {last} were given.")
        self.first, self.last = nn.Parameter(torch.tensor(first)), nn.Parameter(torch.tensor(last))
        self.straight = nn.Parameter(torch.zeros(()))
        # bends at places all over (0, 1), together as steep as a tenth of the straight part
        self.steepness = nn.Parameter(torch.full((width,), math.log(10.0)))
        self.place = nn.Parameter(-10 * torch.linspace(0, 1, width))
        self.height = nn.Parameter(torch.full((width,), math.log(0.1 / width)))

    def shares(self, t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """(h, dh/dt): how much of the way of gamma is done at t."""

        def bends(t: Tensor) -> tuple[Tensor, Tensor]:
            slope, steep, height = (part.to(t).exp() for part in (self.straight, self.steepness, self.height))
            bend = (steep * t[:, None] + self.place.to(t)).sigmoid()
            # sums, since products of matrices may be in half precision
            return slope * t + (bend * height).sum(1), slope + (bend * (1 - bend) * height * steep).sum(1)

        value, rate = bends(t)
        start, end = bends(t.new_tensor([0.0, 1.0]))[0]
        return (value - start) / (end - start), rate / (end - start)

    def gamma(self, h: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """-log snr where this share of its way is done."""
        first, last = self.first.to(h), self.last.to(h)
        return first + (last - first) * h

    def forward(self, t: Float[Tensor, "b"]) -> Coefficients:
        h, rate = self.shares(t)
        gamma, slope = self.gamma(h), (self.last - self.first).to(t) * rate
        alpha, sigma = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
        return alpha, sigma, -0.5 * alpha * sigma**2 * slope, 0.5 * sigma * alpha**2 * slope


class VDM(BoundedDiffusion):
    """A diffusion trained by its likelihood, in continuous time, on a path that is learned; log_prob is the variational bound.

    Args:
        spec: what a datum and its condition are.
        fourier_features: whether the network sees sines of the pixels, too: what tells levels that are near from each other.
        network: as `Diffusion` knows them.
        width: units of the MLP's layers, or channels of the U-Net at full resolution (None: 256; 32 up to 32x32, else 64).
        depth: residual blocks of the MLP, or of the U-Net at each resolution (None: 3; 1 up to 32x32, else 2).
        dropout: rate inside the residual blocks.
        condition_dropout: share of rows trained without their condition, needed for guidance and unconditional use.
        net: your own network, any module called net(x_t, t, embedding), with gamma as t, shifted and scaled; or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        solver: which samples are drawn by where none is named.
        steps: of that solver.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        fourier_features: bool = False,
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
        if net is None and fourier_features:
            net = WithSines(spec, network, width, depth, dropout)
        super().__init__(
            spec,
            path="variance-preserving",
            target="noise",
            weighting="likelihood",
            time_sampling="stratified",
            network=network,
            width=width,
            depth=depth,
            dropout=dropout,
            condition_dropout=condition_dropout,
            net=net,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            solver=solver,
            steps=steps,
        )
        least = 2 / ((spec.levels or 256) - 1) / 8 if spec.kind == "image" else LEAST
        self.first = 2 * math.log(least)  # gamma at the data, before training: -14 of 256 levels
        self.path: LearnedPath = LearnedPath(self.first)
        self.span, self.explodes = (0.0, 1.0), False

    def predict(
        self,
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        *,
        condition: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Float[Tensor, "b *shape"]:
        """As of `Diffusion`, by a network that is told gamma(t)."""
        return self._told(x_t, self.path.gamma(self.path.shares(t)[0]), condition, drop)

    def _told(self, x_t: Tensor, gamma: Tensor, condition: Tensor | None, drop: Tensor | None) -> Tensor:
        return self._output(x_t, (gamma - self.first) / (LAST - self.first), condition, drop)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The bound in bits per dimension, a mean over rows, and its three parts."""
        x0, rows = batch.x, len(batch)
        t = draw_times(self.time_sampling, self.path, rows, rng)
        drop = self.embed.hidden(rows, self.condition_dropout, rng)
        h, rate = self.path.shares(t)
        gamma, slope = self.path.gamma(h), (self.path.last - self.path.first) * rate
        noise = rng.randn_like(x0)
        x_t = expand((-gamma).sigmoid().sqrt(), x0) * x0 + expand(gamma.sigmoid().sqrt(), x0) * noise
        predicted = self._told(x_t, gamma, batch.condition, drop).float()
        diffusion = 0.5 * slope * (noise - predicted).square().flatten(1).sum(1) / self._bit
        if h.requires_grad:
            for part in (h, rate):  # the schedule between its ends goes down E l^2, all else down E l
                part.register_hook(lambda gradient: 2 * diffusion.detach() * gradient)
        decoded = x0 + (self.path.first / 2).exp() * rng.randn_like(x0)
        levels = (self.spec.levels or 256) if self.spec.kind == "image" else None
        reconstruction = -log_decoded(x0, decoded, self.path.first, levels) / self._bit
        prior = prior_term(self.path, x0, 1.0) / self._bit
        parts = {"diffusion": diffusion.mean(), "reconstruction": reconstruction.mean(), "prior": prior.mean()}
        ends = {"gamma at the data": self.path.first.detach(), "gamma at the noise": self.path.last.detach()}
        return Loss(parts["diffusion"] + parts["reconstruction"] + parts["prior"], {**parts, **ends})

    @torch.no_grad()
    def _ends(self) -> tuple[float, float]:
        return super()._ends()

    @property
    def _bit(self) -> float:
        """Nats of a datum in a bit per dimension."""
        return self.spec.dimensions * math.log(2)


class WithSines(nn.Module):
    """A network of pixels that sees sin and cos of 2^n pi x beside x."""

    def __init__(self, spec: DataSpec, network: str, width: int | None, depth: int | None, dropout: float):
        super().__init__()
        kind, width, embedding = choose(network, spec, width)
        if kind == "mlp":
            raise UserError("fourier_features are of pixels, seen by convolutions or patches; take network='unet' with them.")
        channels = spec.shape[0]
        seen = channels * (1 + 2 * len(FREQUENCIES))
        self.net = backbone(spec, kind, width, depth, embedding, dropout, inputs=seen, outputs=channels)

    def forward(self, x: Tensor, t: Tensor, embedding: Tensor | None = None) -> Tensor:
        angles = [2**n * math.pi * x for n in FREQUENCIES]
        return self.net(torch.cat([x, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], 1), t, embedding)
