"""Score matching: learns grad log p of data from draws of them alone, and samples by Langevin dynamics.

A network s is to be near the score of p, in Fisher's divergence 1/2 E |s(x) - grad log p(x)|^2. Three losses are that, less a
constant C that does not depend on s, and ask nothing of p but draws:

    implicit     E [tr grad s(x) + 1/2 |s(x)|^2]                    by parts; C = 1/2 E |grad log p|^2     (Hyvarinen 2005)
    sliced       E [v^T grad s(x) v + 1/2 |s(x)|^2]                 E v v^T = I, the same in expectation   (Song et al. 2019)
    denoising    E 1/2 |s(x + sigma e) + e / sigma|^2               the score of x + sigma e, e ~ N(0, I)  (Vincent 2011)

The divergence of the first is D products with a Jacobian; a sliced one is one product for each random direction v. What is
learned is the score of p * N(0, sigma^2) by all three, so that data on a grid or a surface have one. Steps of Langevin's draw
from that law, and E[x0 | x] = x + sigma^2 s(x) takes the noise away (Tweedie). It takes them long to cross from one mode to a
far other, which many noises at once (`Diffusion`) do not.

Song, Garg, Shi and Ermon 2019, arXiv:1905.07088; Vincent 2011; Hyvarinen 2005.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.langevin import langevin
from pushforward.dynamics.likelihood import divergences
from pushforward.dynamics.paths import Coefficients
from pushforward.errors import UserError, nearest
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, device_of
from pushforward.models.diffusion.backbone import backbone, choose
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, draw_condition
from pushforward.randomness import Rng, as_rng

Score = Callable[[Tensor], Tensor]

OBJECTIVES = ("implicit", "sliced", "denoising")
EXACT_DIVERGENCE = 128  # dimensions up to which the implicit loss is affordable


def implicit(score: Score, x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
    """tr grad s + 1/2 |s|^2 of each row."""
    at = x.detach().flatten(1).requires_grad_()
    s = score(at.reshape(x.shape)).flatten(1)
    return divergences(s, at, None, graph=True)[:, 0] + 0.5 * s.square().sum(1)


def sliced(
    score: Score, x: Float[Tensor, "b *shape"], probes: Float[Tensor, "k b d"], reduced: bool = True
) -> Float[Tensor, " b"]:
    """v^T grad s v + 1/2 |s|^2 of each row, a mean over probes v (K, B, D) of unit covariance; not reduced: with 1/2
    (v^T s)^2, which varies more."""
    at = x.detach().flatten(1).requires_grad_()
    s = score(at.reshape(x.shape)).flatten(1)
    size = s.square().sum(1) if reduced else torch.einsum("kbd,bd->kb", probes, s).square().mean(0)
    return divergences(s, at, probes, graph=True).mean(1) + 0.5 * size


def denoising(
    score: Score, x: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], sigma: float
) -> Float[Tensor, " b"]:
    """1/2 |s(x + sigma noise) + noise / sigma|^2 of each row."""
    return 0.5 * (score(x + sigma * noise) + noise / sigma).flatten(1).square().sum(1)


@dataclass(frozen=True)
class OneNoise:
    """The path that is one noise at all times: alpha = 1, sigma fixed."""

    sigma: float

    def __call__(self, t: Tensor) -> Coefficients:
        one, none = torch.ones_like(t), torch.zeros_like(t)
        return one, self.sigma * one, none, none


class ScoreMatching(nn.Module):
    """The score of data with a little noise, learned without a path from noise to data.

    Args:
        spec: what a datum and its condition are.
        objective: "sliced", "implicit" (of up to 128 dimensions) or "denoising".
        sigma: of the noise that data are given, in the model's units; 0 (none) where they have a density.
        probes: random directions for each datum, of "sliced".
        energy: whether the score is minus the slope of an energy 1/2 |x - net(x)|^2, so that it is the slope of something.
        network: "mlp" (vectors, tiny images), "unet" (images), or "auto": "unet" for images larger than 8x8, else "mlp".
        width: units of the MLP's layers, or channels of the U-Net at full resolution (None: 256; 32 up to 32x32, else 64).
        depth: residual blocks of the MLP, or of the U-Net at each resolution (None: 3; 1 up to 32x32, else 2).
        condition_dropout: share of rows trained without their condition, needed for samples without one.
        net: your own network, any module called net(x, t, embedding), t all 0; or None.
        learning_rate: of AdamW.
        step: of Langevin's dynamics, in units of sigma^2 (of 0.01 where that is 0): below 2, beyond which it runs away.
        steps: of Langevin's dynamics.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        objective: str = "sliced",
        sigma: float = 0.1,
        probes: int = 1,
        energy: bool = False,
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        condition_dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 1e-3,
        step: float = 0.3,
        steps: int = 1000,
    ):
        super().__init__()
        if objective not in OBJECTIVES:
            raise UserError(f"there is no objective '{objective}' of score matching; {nearest(objective, OBJECTIVES)}")
        if objective == "implicit" and spec.dimensions > EXACT_DIVERGENCE:
            raise UserError(
                f"objective='implicit' takes a product with the Jacobian for each of the {spec.dimensions} dimensions; up to "
                f"{EXACT_DIVERGENCE} are affordable: take objective='sliced', the same with one."
            )
        if not sigma >= 0 or (objective == "denoising" and sigma == 0):
            raise UserError(f"sigma = {sigma} was given, the deviation of a noise; give 0.1, say (above 0 for 'denoising').")
        if probes < 1:
            raise UserError(f"probes are random directions, 1 or more; {probes} was given.")
        if not 0 <= condition_dropout < 1:
            raise UserError(f"condition_dropout is a share from 0 up to (not including) 1; {condition_dropout} was given.")
        self.spec, self.objective, self.sigma, self.probes, self.energy = spec, objective, sigma, probes, energy
        self.condition_dropout, self.learning_rate, self.step, self.steps = condition_dropout, learning_rate, step, steps
        self.path = OneNoise(sigma)
        kind, width, embedding = choose(network, spec, width)
        self.embed = ConditionEmbedding(spec.condition, embedding)
        self.net = backbone(spec, kind, width, depth, embedding, 0.0) if net is None else net

    def _score(self, x: Tensor, condition: Tensor | None, drop: Tensor | None = None) -> Tensor:
        """s(x), which can be differentiated by x."""
        embedding, t = self.embed(condition, len(x), drop), torch.zeros_like(x.flatten(1)[:, 0])
        if not self.energy:
            return self.net(x, t, embedding)
        kept = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            energy = 0.5 * (at - self.net(at, t, embedding)).square().sum()
            return -torch.autograd.grad(energy, at, create_graph=kept)[0]

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The objective, a mean over rows, by dimension; times sigma^2 where that is not 0, so that its size is about 1."""
        x, drop = batch.x, self.embed.hidden(len(batch), self.condition_dropout, rng)
        noise = rng.randn_like(x)

        def score(x: Tensor) -> Tensor:
            return self._score(x, batch.condition, drop).float()

        # the fused kernels of attention have no derivative of their derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            if self.objective == "denoising":
                each = denoising(score, x, noise, self.sigma)
            elif self.objective == "implicit":
                each = implicit(score, x + self.sigma * noise)
            else:
                coins = rng.rand(len(x), self.probes, self.spec.dimensions)
                each = sliced(score, x + self.sigma * noise, torch.where(coins < 0.5, -1.0, 1.0).to(x).transpose(0, 1))
        return Loss((self.sigma**2 or 1.0) * each.mean() / self.spec.dimensions)

    def players(self) -> list[Player]:
        return [Player(self.objective, self, self.loss, optimizer=OptimizerSettings(learning_rate=self.learning_rate))]

    def score(
        self, x: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], *, condition: Tensor | None = None
    ) -> Float[Tensor, "b *shape"]:
        """grad log of the density of data with noise sigma, whatever t: there is one noise."""
        return self._score(x, self._checked(condition, len(x)))

    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int | None = None,
        step: float | None = None,
        denoise: bool = True,
    ) -> Tensor:
        """x (n, *spec.shape): standard normal noise after `steps` of Langevin's dynamics (None: as the model was built).

        Args:
            n: how many.
            condition: classes (n,) or attributes (n, A); None draws them as frequent as in the data.
            generator: an Rng, a torch.Generator or a seed.
            steps: of the dynamics.
            step: their size, in units of sigma^2.
            denoise: whether the noise sigma is taken away at the end.
        """
        x, score = self._drawn(n, condition, generator, steps, step, None)
        return (x[-1] + self.sigma**2 * score(x[-1])).detach() if denoise else x[-1]

    def trajectory(
        self, n: int, *, frames: int = 8, condition: Tensor | None = None, generator: Generator = None, steps: int | None = None
    ) -> Tensor:
        """The chains of `sample` from their start, and in the last frame without noise: (frames, n, *spec.shape)."""
        if frames < 2:
            raise UserError(f"a trajectory has at least 2 frames, its noise and its datum; {frames} were asked for.")
        steps = max(self.steps if steps is None else steps, frames - 1)
        x, score = self._drawn(n, condition, generator, steps, None, max(1, steps // (frames - 1)))
        shown = x[torch.linspace(0, len(x) - 1, frames).round().long().to(x.device)]
        return torch.cat([shown[:-1], (shown[-1] + self.sigma**2 * score(shown[-1])).detach()[None]])

    def _drawn(
        self,
        n: int,
        condition: Tensor | None,
        generator: Generator,
        steps: int | None,
        step: float | None,
        record: int | None,
    ) -> tuple[Tensor, Score]:
        """The states (K, n, *spec.shape) of chains, and the score that they followed."""
        rng = as_rng(generator, device_of(self))
        start = rng.randn(n, *self.spec.shape)
        if condition is None and self.spec.condition is not None and self.spec.condition.kind != "vector":
            condition = draw_condition(self.spec.condition, n, rng)
        known = self._checked(condition, n)

        @torch.no_grad()
        def score(x: Tensor) -> Tensor:
            return self._score(x, known)

        size = (self.step if step is None else step) * (self.sigma**2 or 0.01)
        chains = langevin(score, start, rng, step=size, steps=self.steps if steps is None else steps, record=record)
        return chains.x[None] if chains.trajectory is None else chains.trajectory, score

    def _checked(self, condition: Tensor | None, rows: int) -> Tensor | None:
        return checked_condition(self.spec.condition, condition, rows, device_of(self), needed=not self.condition_dropout)
