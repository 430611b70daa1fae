"""The density of an autoencoder's codes, which makes it a generative model: one Gaussian, one a class, or a mixture.

An autoencoder alone has no distribution to draw codes from; one that is fitted to the codes of the training data once encoder
and decoder are trained (ex-post density estimation) gives better samples than many a variational autoencoder's prior. Codes
are standardised by their measured mean and scale, so that the mixture's start and its smallest variance mean the same for
codes of any size. Until then codes are drawn from independent normals that follow the codes seen in training, for pictures on
the way.

A class can be asked even of a density that knows none. With a Gaussian p(z | c) beside it for each class, p(c | z) is Bayes'
rule, and p(z | c), proportional to p(z) p(c | z), is drawn from by importance resampling: of `CANDIDATES` codes z ~ p(z) one is
taken with probability proportional to p(c | z) (Rubin 1988).

Ghosh et al. 2020, "From variational to deterministic autoencoders", arXiv:1903.12436.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Column, DataSpec
from pushforward.errors import UserError, nearest
from pushforward.models.classical.classes import checked
from pushforward.models.classical.gaussian import Gaussian
from pushforward.models.classical.mixture import GaussianMixture
from pushforward.models.contract import Update
from pushforward.randomness import Rng

Codes = Literal["gaussian", "class-gaussians", "gmm"]

CANDIDATES = 64  # among which a class of a tenth of the data is missing once in a thousand times
SMALLEST = 1e-4  # variance of a standardised code
FOLLOW = 0.02  # the weight of a batch in the statistics that follow the training


class CodeDensity(nn.Module):
    """p(z), fitted to codes (B, d) of the training data.

    Args:
        spec: Of the data that the codes are of.
        latent_dim: Numbers in a code.
        kind: gaussian, class-gaussians or gmm.
        components: Gaussians in the mixture.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: DataSpec, latent_dim: int, kind: Codes = "gmm", components: int = 10):
        super().__init__()
        if kind not in get_args(Codes):
            raise UserError(f"codes={kind!r} was given; {nearest(str(kind), get_args(Codes))}")
        if kind == "class-gaussians" and not spec.classes:
            raise UserError(f"codes='class-gaussians' needs data in classes, and '{spec.name}' has none; use gaussian or gmm.")
        self.kind, self.components = kind, components
        columns = tuple(Column(f"z{i}", "number") for i in range(latent_dim))
        self.plain = DataSpec("point", (latent_dim,), columns=columns, name=f"codes of {spec.name}")
        self.classed = replace(self.plain, condition=spec.condition) if spec.classes else None
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))
        self._build()

    def _build(self) -> None:
        self.density: Gaussian | GaussianMixture
        self.by_class: Gaussian | None = None
        if self.kind == "gmm":
            self.density = GaussianMixture(self.plain, components=self.components, regularisation=SMALLEST)
        elif self.kind == "gaussian" or self.classed is None:
            self.density = Gaussian(self.plain, regularisation=SMALLEST)
        else:
            self.density = Gaussian(self.classed, regularisation=SMALLEST)
        if self.classed is not None and self.kind != "class-gaussians":
            self.by_class = Gaussian(self.classed, regularisation=SMALLEST)

    @torch.no_grad()
    def follow(self, z: Float[Tensor, "b d"]) -> None:
        """Moves mean and scale towards those of a training batch."""
        z = z.float()
        spread = (z - self.mean).square().mean(0)  # about the old mean: one datum says something too
        self.mean.lerp_(z.mean(0), FOLLOW)
        self.scale.copy_(self.scale.square().lerp(spread, FOLLOW).sqrt())

    def fitting(self, encode: Callable[[Batch], Tensor]) -> Callable[[Iterable[Batch], Rng], Update]:
        """The update of a player at the end. encode: the codes (B, d) of a batch of training data."""
        encoded: list[Batch] = []
        update: list[Callable[[Iterable[Batch], Rng], Update]] = []

        def turn(batches: Iterable[Batch], rng: Rng) -> Update:
            if not update:
                encoded.extend(Batch(encode(batch).float(), batch.condition) for batch in batches)
                self._standardise(encoded)
                if self.by_class is not None:
                    self.by_class.fit(encoded, rng)
                player = self.density.players()[0]
                assert player.update is not None
                update.append(player.update)
            found = update[0](encoded, rng)
            if found.finished:
                encoded.clear()
                update.clear()
            return found

        return turn

    def _standardise(self, encoded: list[Batch]) -> None:
        """Measures mean and scale, standardises the codes, and begins anew, whatever was fitted before."""
        z = torch.cat([batch.x for batch in encoded])
        device = self.mean.device
        self._build()
        self.to(device)
        self.mean.copy_(z.mean(0))
        spread = z.std(0, unbiased=False)
        self.scale.copy_(
            torch.where(spread > 1e-6 * spread.max().clamp(min=1e-30), spread, 1.0)
        )  # dead units stay at their mean
        for batch in encoded:
            batch.x = (batch.x - self.mean) / self.scale

    @torch.no_grad()
    def sample(self, n: int, condition: Tensor | None, rng: Rng) -> Float[Tensor, "n d"]:
        """n codes, of the classes (n,) that are asked for, if any."""
        if self.kind == "class-gaussians" or condition is None or self.classed is None:
            z = self.density.sample(n, condition=condition, generator=rng)
        else:
            z = self._resampled(n, condition, rng)
        return self.mean + self.scale * z

    def _resampled(self, n: int, condition: Tensor, rng: Rng) -> Float[Tensor, "n d"]:
        assert self.by_class is not None and self.classed is not None
        c = checked(condition.to(self.mean.device), n, self.by_class.classes)
        z = torch.stack([self.density.sample(n, generator=rng) for _ in range(CANDIDATES)], 1)
        flat, asked = z.flatten(0, 1), c.repeat_interleave(CANDIDATES) if c is not None else None
        log_ratio = self.by_class.log_prob(flat, condition=asked).value - self.by_class.log_prob(flat).value
        chosen = rng.categorical(log_ratio.view(n, CANDIDATES).double().softmax(1))
        return z[torch.arange(n, device=z.device), chosen]
