"""The density of an autoencoder's codes, which makes it a generative model: one Gaussian, one a class, or a mixture.

An autoencoder alone has no distribution to draw codes from; one that is fitted to the codes of the training data once encoder
and decoder are trained (ex-post density estimation) gives better samples than many a variational autoencoder's prior. Codes
are standardised by their measured mean and scale, so that the mixture's start and its smallest variance mean the same for
codes of any size. Until then codes are drawn from independent normals that follow the codes seen in training, for pictures on
the way.

A class can be asked even of a density that knows none. With a Gaussian p(z | c) beside it for each class, p(c | z) is Bayes'
rule, and p(z | c), proportional to p(z) p(c | z), is drawn from by importance resampling: of candidates z ~ p(z) one is
taken with probability proportional to p(c | z) (Rubin 1988). They are `TURNS` times as many as data for one of the class, so
that hardly ever none of them is, even where p(z) has a few times less of the class than the data; they come in rounds, of
which each keeps one.

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
from pushforward.models.classical.gaussian import Gaussian
from pushforward.models.classical.mixture import GaussianMixture
from pushforward.models.contract import Update
from pushforward.nets.conditioning import checked_classes
from pushforward.randomness import Rng, SampleRng, mix

Codes = Literal["gaussian", "class-gaussians", "gmm"]

CANDIDATES = 160  # a round, for each code
TURNS = 14  # exp(-TURNS) is how often all miss a class; where p(z) has a third of it, exp(-TURNS / 3), once in a hundred times
BLOCK = 64  # codes whose candidates are drawn together
ROUNDS = 1024  # at most: for a class of one in 12,000 data
SMALLEST = 1e-4  # variance of a standardised code
FOLLOW = 0.02  # the weight of a batch in the statistics that follow the training


class CodeDensity(nn.Module):
    """p(z), fitted to codes (B, d) of the training data.

    Args:
        spec: Of the data that the codes are of.
        latent_dim: Numbers in a code.
        kind: gaussian, class-gaussians or gmm.
        components: Gaussians in the mixture, fewer where there are fewer codes.
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
            self.density.at_most = True  # after a whole training, few rows are no reason to fail
        elif self.kind == "gaussian" or self.classed is None:
            self.density = Gaussian(self.plain, regularisation=SMALLEST)
        else:
            self.density = self._by_class(self.classed)
        if self.classed is not None and self.kind != "class-gaussians":
            self.by_class = self._by_class(self.classed)

    def _by_class(self, spec: DataSpec) -> Gaussian:
        """A Gaussian a class, drawn towards a sphere as its rows ask: at maximum likelihood that of a class with fewer rows
        than a code has numbers is flat, and what lies nearest to its plane is of any class."""
        return Gaussian(spec, regularisation=SMALLEST, prior="ledoit-wolf")

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
        z = torch.cat([batch.x for batch in encoded]).double()
        device = self.mean.device
        self._build()
        self.to(device)
        self.mean.copy_(z.mean(0))
        spread = z.std(0, unbiased=False)
        largest = spread.max().clamp(min=1e-4)
        # A dead unit stays at its mean: its variance is SMALLEST of a scale that is small beside the others', yet no zero to
        # divide by where another model standardises its codes.
        self.scale.copy_(torch.where(spread > 1e-6 * spread.max(), spread, 0.01 * largest))
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
        c = checked_classes(condition.to(self.mean.device), n, self.by_class.classes)
        assert c is not None
        wanted = (TURNS / CANDIDATES / self.by_class.frequencies[c]).ceil()
        rounds = torch.where(wanted.isinf(), 1, wanted.clamp(max=ROUNDS)).long()  # a class without data has everyone's codes
        key, parts = float(rng.shared(1)), []
        for top in range(0, n, BLOCK):
            some = slice(top, top + BLOCK)
            parts.append(self._chosen(c[some], rounds[some], _aside(rng, key, top)))
        return torch.cat(parts) if parts else self.mean.new_zeros(0, len(self.mean))

    def _chosen(self, c: Tensor, rounds: Tensor, rng: Rng) -> Float[Tensor, "b d"]:
        """Of rounds (b,) times CANDIDATES codes, one of each class (b,): what a round keeps replaces what those before it
        kept with probability as the sums of their weights."""
        assert self.by_class is not None
        n, asked = len(c), c.repeat_interleave(CANDIDATES)
        kept, before = (
            self.mean.new_zeros(n, len(self.mean)),
            torch.full((n,), -torch.inf, dtype=torch.float64, device=c.device),
        )
        for done in range(int(rounds.max())):
            z = self.density.sample(n * CANDIDATES, generator=_Candidates(rng))
            log_ratio = self.by_class.log_prob(z, condition=asked).value - self.by_class.log_prob(z).value
            log_weights = log_ratio.view(n, CANDIDATES).double()
            now = log_weights.logsumexp(1)
            chosen = rng.categorical((log_weights - now[:, None]).exp())
            total = torch.logaddexp(before, now)
            replaced = (rng.rand(n) <= (now - total).exp()) & (done < rounds)
            one = z.view(n, CANDIDATES, -1)[torch.arange(n, device=z.device), chosen]
            kept, before = torch.where(replaced[:, None], one, kept), total
        return kept


class _Candidates(Rng):
    """A stream of CANDIDATES rows for each row of another."""

    def __init__(self, rng: Rng):
        self.rng, self.device = rng, rng.device

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.rng.rand(shape[0] // CANDIDATES, CANDIDATES, *shape[1:], dtype=dtype).flatten(0, 1)

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.rng.randn(shape[0] // CANDIDATES, CANDIDATES, *shape[1:], dtype=dtype).flatten(0, 1)

    def shared(self, *shape: int) -> Tensor:
        return self.rng.shared(*shape)


def _aside(rng: Rng, key: float, top: int) -> Rng:
    """A stream for the rows from `top` on, of which any number of draws leaves those of `rng` as they were: how many there are
    depends on the rarest class in a block, and no sample may depend on its neighbours."""
    if not isinstance(rng, SampleRng):
        return rng
    return SampleRng(mix(rng.seed, int(key * 2**24)), rng.first + (0 if rng.alike else top), rng.device, rng.alike)
