"""A mixture of Gaussians, p(x) = sum_k w_k N(x; mu_k, Sigma_k), fitted by expectation-maximisation.

Each update is one E and one M step over all the training data (`em.py`); the first begins with k-means++. Where data are
few, the covariances have a prior (`shrinkage`) and what EM climbs is the posterior. With
`eigenspace` = q the mixture lives in the q leading eigen-directions V of the data, y = V^T (x - centre), and what is
outside is noise of one variance, as in probabilistic PCA, so that the density of x is still exact:

    log p(x) = log sum_k w_k N(y; mu_k, Sigma_k) - (D - q)/2 log(2 pi sigma^2) - (|x - centre|^2 - |y|^2) / (2 sigma^2).

Dempster, Laird and Rubin 1977, J. R. Statist. Soc. B 39(1); Tipping and Bishop 1999, J. R. Statist. Soc. B 61(3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError, nearest
from pushforward.models.classical import em
from pushforward.models.classical.classes import by_class, class_count, drawn, given_frequencies
from pushforward.models.classical.em import Covariance, Mixture
from pushforward.models.classical.moments import Moments
from pushforward.models.classical.selection import Criterion, free_numbers, price, selected
from pushforward.models.contract import Generator, LogProb, Player, Update, device_of
from pushforward.nets.conditioning import checked_classes
from pushforward.randomness import Rng, as_rng

MEMORY = 2 * 2**30  # bytes of training data that are kept between updates
WHOLE = 1024  # full and tied covariances of more dimensions than this live in an eigenspace
EIGENSPACE = 100  # of so many, where nobody says how many
LARGEST = 2**28  # numbers in the covariances of all components (2 GiB)


@dataclass
class Rows:
    """Training rows kept between updates: `coordinates` (n, q) and the summed log-density outside the eigenspace, class
    by class. `complete`: all of them."""

    coordinates: dict[int, Tensor] = field(default_factory=dict)
    outside: dict[int, float] = field(default_factory=dict)
    complete: bool = False


class GaussianMixture(nn.Module):
    """A mixture of Gaussians by expectation-maximisation; for data in classes, one mixture a class.

    Args:
        components: Gaussians in a mixture; bic or aic tries 1, 2, 3, ... and keeps the number that this criterion prefers,
            in each class its own. Default: 10, or 3 in each class. Where no number is given, a tenth of the rows is the most.
        most: components that are tried at most, with components=bic or aic.
        covariance: full, diagonal, tied (one full covariance for all components of a class) or spherical.
        eigenspace: how many leading eigen-directions the mixture lives in, with one noise variance outside. Default: all,
            or 100 of them where full or tied covariances would have more than 1024 dimensions.
        restarts: starts by k-means++ that are compared by their likelihood after a few passes.
        regularisation: the smallest variance in any direction.
        shrinkage: pseudo-rows of the covariance that the components of a class have in common, added to each component's own
            rows so that few rows leave no direction flat; 0 is maximum likelihood. Default, for full and tied covariances:
            as many as dimensions, falling to 0 where a component has four times as many rows; otherwise 0.
        tolerance: EM has converged when an update gains less than this many nats a datum of the log-posterior.
    """

    dequantise = True
    frequencies: Tensor
    used: Tensor
    weights: Tensor
    means: Tensor
    factors: Tensor
    prior_rows: Tensor
    prior_factors: Tensor
    centre: Tensor
    basis: Tensor | None
    noise_variance: Tensor
    likelihoods: Tensor
    log_priors: Tensor
    converged: Tensor
    started: Tensor
    streams: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        components: int | Criterion | None = None,
        most: int = 16,
        covariance: Covariance = "full",
        eigenspace: int | None = None,
        restarts: int = 1,
        regularisation: float = 1e-6,
        shrinkage: float | None = None,
        tolerance: float = 1e-3,
    ):
        super().__init__()
        if covariance not in get_args(Covariance):
            raise UserError(f"covariance='{covariance}' was given; {nearest(covariance, get_args(Covariance))}")
        if regularisation <= 0:
            raise UserError(f"regularisation={regularisation} was given; it is a variance, above 0.")
        if shrinkage is not None and not 0 <= shrinkage < math.inf:
            raise UserError(f"shrinkage={shrinkage} was given; it is a number of rows, 0 (maximum likelihood) or more.")
        if isinstance(components, str) and components not in get_args(Criterion):
            raise UserError(f"components='{components}' was given; a number was expected, or bic or aic.")
        self.criterion: Criterion | None = components if isinstance(components, str) else None
        self.given = isinstance(components, int)  # else no more components than the rows support
        self.at_most = not self.given  # fewer where the rows are: nobody asked for this very number
        most = (
            most if isinstance(components, str) else components or (10 if class_count(spec, "a Gaussian mixture") == 1 else 3)
        )
        if min(restarts, most) < 1 or components == 0:
            raise UserError("components, most and restarts are at least 1.")
        self.spec, self.covariance, self.restarts = spec, covariance, restarts
        self.regularisation, self.shrinkage, self.tolerance = regularisation, shrinkage, tolerance
        self.classes = classes = class_count(spec, "a Gaussian mixture")
        dimensions, square = spec.dimensions, covariance in ("full", "tied")
        if eigenspace is None and square and dimensions > WHOLE:
            eigenspace = EIGENSPACE
        if eigenspace is not None and not 1 <= eigenspace <= dimensions:
            raise UserError(
                f"eigenspace={eigenspace} was given; data of {dimensions} numbers have 1 to {dimensions} directions."
            )
        self.components = K = most
        self.eigenspace, self.q = eigenspace, (q := eigenspace or dimensions)
        shape = {"full": (K, q, q), "tied": (q, q), "diagonal": (K, q), "spherical": (K, 1)}[covariance]
        if classes * math.prod(shape) > LARGEST:
            raise UserError(
                f"{covariance} covariances of {classes * K} components in {q} dimensions would take "
                f"{classes * math.prod(shape) * 8 / 2**30:.0f} GiB; set eigenspace=100, or covariance=diagonal."
            )
        unit = torch.eye(q, dtype=torch.float64).expand(shape) if square else torch.ones(shape, dtype=torch.float64)
        self.register_buffer("frequencies", given_frequencies(spec, classes))
        self.register_buffer("used", torch.full((classes,), K))  # components of each class; the others have weight 0
        self.register_buffer("weights", torch.full((classes, K), 1 / K, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(classes, K, q, dtype=torch.float64))
        self.register_buffer("factors", unit.repeat(classes, *[1] * len(shape)))
        self.register_buffer("prior_rows", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("prior_factors", self.factors.clone() if covariance == "tied" else self.factors[:, 0].clone())
        self.register_buffer("centre", torch.zeros(dimensions, dtype=torch.float64))
        self.register_buffer("basis", None if eigenspace is None else torch.eye(q, dimensions, dtype=torch.float64))
        self.register_buffer("noise_variance", torch.ones((), dtype=torch.float64))
        self.register_buffer("likelihoods", torch.full((classes,), -torch.inf, dtype=torch.float64))
        self.register_buffer("log_priors", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("converged", torch.zeros(classes, dtype=torch.bool))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("streams", torch.zeros((), dtype=torch.bool))  # the data are more than MEMORY

    def mixture(self, c: int = 0) -> Mixture:
        """The mixture of a class, in coordinates (`coordinates`)."""
        K = int(self.used[c])
        return Mixture(
            self.weights[c, :K], self.means[c, :K], self.factors[c] if self.covariance == "tied" else self.factors[c, :K]
        )

    def prior(self, c: int = 0) -> em.Prior:
        """The prior on the covariances of a class."""
        return em.Prior(float(self.prior_rows[c]), self.prior_factors[c])

    def coordinates(self, x: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b q"], Float[Tensor, " b"]]:
        """Where flattened x are in the mixture's space, and their log-density outside of it."""
        centred = x.double() - self.centre
        if self.basis is None:
            return centred, centred.new_zeros(len(x))
        y = centred @ self.basis.T
        left = x.shape[1] - self.q
        if not left:
            return y, y.new_zeros(len(x))
        rest = (centred - y @ self.basis).square().sum(1)  # |.|^2 - |y|^2 would cancel
        return y, -0.5 * (left * (2 * math.pi * self.noise_variance).log() + rest / self.noise_variance)

    def players(self) -> list[Player]:
        rows = Rows()
        return [Player("em", self, update=lambda batches, rng: self._update(rows, batches, rng))]

    @torch.no_grad()
    def _update(self, rows: Rows, batches: Iterable[Batch], rng: Rng) -> Update:
        """One E and M step. Terms: the mean log-likelihood of the data given their class before it, in nats; where the
        covariances have a prior also the log-posterior, in nats a datum, which is what never falls and what must converge;
        where no number of components was given, how many there are, in all classes with data together."""
        if not self.started:
            self._begin(rows, batches, rng)
        elif not rows.complete and not self.streams:  # resumed
            self._locate(rows, keep(batches, self.classes)[0])
            rows.complete = True
        if rows.coordinates:
            self._step((c, y, rows.outside[c]) for c, y in rows.coordinates.items())
            if not rows.complete:
                rows.coordinates.clear()  # a part of the data, which served for the start only
        else:
            self._step(
                (c, y, float(outside.sum()))
                for batch in batches
                for c, x in by_class(batch, self.classes)
                for y, outside in [self.coordinates(x)]
            )
        seen = self.frequencies > 0
        likelihood = float((self.frequencies[seen] * self.likelihoods[seen]).sum())
        terms = {"log_likelihood": likelihood}
        if self.prior_rows.any():
            terms["log_posterior"] = likelihood + float((self.frequencies[seen] * self.log_priors[seen]).sum())
        if not self.given:
            terms["components"] = float(self.used[seen].sum())
        return Update(terms, finished=bool(self.converged.all()))

    def _begin(self, rows: Rows, batches: Iterable[Batch], rng: Rng) -> None:
        """The centre, the eigenspace and the first mixture of each class."""
        raw, counts, rows.complete = keep(batches, self.classes)
        if not self.at_most and counts.max() < self.components:
            where = "a class has at most" if self.classes > 1 else "the training data have"
            raise UserError(
                f"components={self.components} was asked for, and {where} {int(counts.max())} rows; "
                "set components to no more than the rows (--model.components)."
            )
        self.frequencies.copy_(counts / counts.sum())
        first = next(iter(raw.values()))
        if self.basis is None:
            means = torch.stack([raw[c].mean(0, dtype=torch.float64) for c in raw])
            self.centre.copy_(self.frequencies[list(raw)] @ means)
        else:
            moments = Moments(first[:1000].double().mean(0))
            for x in raw.values():
                moments.add(x)
            principal = moments.principal(self.q)
            self.centre.copy_(principal.mean)
            self.basis.copy_(principal.directions)
            self.noise_variance.fill_(max(principal.discarded or 0.0, self.regularisation))
        self._locate(rows, raw)
        everything: Tensor | None = None
        for c in range(self.classes):
            y = rows.coordinates.get(c)
            if y is None:  # a class without data gets one Gaussian of all data
                everything = torch.cat(list(rows.coordinates.values())) if everything is None else everything
                begun, prior = em.start(everything, 1, self.covariance, self.regularisation, self.shrinkage, 1, rng)
                self.converged[c] = True
            elif self.criterion is not None:
                begun, prior = selected(
                    y,
                    self.criterion,
                    self.components,
                    self.covariance,
                    self.regularisation,
                    self.shrinkage,
                    self.restarts,
                    self.tolerance,
                    rng,
                )
                self.used[c] = len(begun.weights)
            else:
                K = min(self.components, len(y) if self.given else em.supported(len(y)))
                begun, prior = em.start(y, K, self.covariance, self.regularisation, self.shrinkage, self.restarts, rng)
                self.used[c] = K
            self.prior_rows[c], self.prior_factors[c] = prior.rows, prior.factor
            self._store(c, em.padded(begun, self.components, self.covariance))
        self.started.fill_(True)
        self.streams.fill_(not rows.complete)

    def _locate(self, rows: Rows, raw: dict[int, Tensor]) -> None:
        for c in sorted(raw):
            x = raw.pop(c)
            parts = [self.coordinates(block) for block in x.split(8192)]
            rows.coordinates[c] = torch.cat([y.to(x.dtype) for y, _ in parts])
            rows.outside[c] = sum(float(outside.sum()) for _, outside in parts)

    def _step(self, chunks: Iterable[tuple[int, Tensor, float]]) -> None:
        """E and M for the classes that have not converged. chunks: class, coordinates, log-density outside."""
        weigh: dict[int, em.Weigh] = {}
        sums: dict[int, em.Sums] = {}
        outside: dict[int, float] = {}
        active = (~self.converged).tolist()
        for c, y, rest in chunks:
            if not active[c]:
                continue
            if c not in sums:
                weigh[c] = em.posterior(self.mixture(c), self.covariance)
                sums[c] = em.Sums(int(self.used[c]), self.q, self.covariance, y.device)
            sums[c].add(y, weigh[c])
            outside[c] = outside.get(c, 0.0) + rest
        for c, total in sums.items():
            before, prior = self.mixture(c), self.prior(c)
            likelihood = (float(total.likelihood) + outside[c]) / total.rows
            log_prior = em.log_prior(before, self.covariance, prior) / total.rows
            gain = likelihood + log_prior - float(self.likelihoods[c] + self.log_priors[c])
            self.converged[c] = abs(gain) < self.tolerance
            self.likelihoods[c], self.log_priors[c] = likelihood, log_prior
            after = em.maximisation(total, self.regularisation, prior, before)
            self._store(c, em.padded(em.reseed(total, after, prior), self.components, self.covariance))

    def _store(self, c: int, mixture: Mixture) -> None:
        self.weights[c], self.means[c], self.factors[c] = mixture.weights, mixture.means, mixture.factor

    def log_prob(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> LogProb:
        """Exact log-density in nats; without a condition, of the mixture of the classes by their frequencies."""
        y, outside = self.coordinates(x.flatten(1))
        asked = checked_classes(condition, len(x), self.classes)

        def within(c: int, y: Tensor) -> Tensor:
            density = em.densities(self.mixture(c), self.covariance)
            parts = [torch.logsumexp(density(block), 1) for block in em.blocks(y, self.components)]
            return torch.cat(parts)

        if asked is None:
            every = torch.stack([within(c, y) for c in range(self.classes)], 1)
            value = torch.logsumexp(every + self.frequencies.log(), 1)
        else:
            value = y.new_zeros(len(y))
            for c in asked.unique().tolist():
                value[asked == c] = within(c, y[asked == c])
        return LogProb((value + outside).to(x.dtype), "exact")

    @torch.no_grad()
    def sample(
        self, n: int, *, condition: Tensor | None = None, generator: Generator = None, noise: bool = True
    ) -> Float[Tensor, "n *shape"]:
        """Draws from the density.

        Args:
            noise: False leaves out what lies outside the eigenspace.
        """
        rng = as_rng(generator, device_of(self))
        c = drawn(condition, self.frequencies, n, rng)
        k = rng.categorical(self.weights[c])
        z = rng.randn(n, self.q, dtype=torch.float64)
        if self.covariance in ("full", "tied"):
            y = torch.empty_like(z)
            one = c if self.covariance == "tied" else c * self.components + k
            for i in one.unique().tolist():
                factor = self.factors.view(-1, self.q, self.q)[i]
                y[one == i] = z[one == i] @ factor.T
        else:
            y = self.factors[c, k] * z
        y = self.means[c, k] + y
        if self.basis is None:
            x = self.centre + y
        else:
            x = self.centre + y @ self.basis
            if noise:
                spread = rng.randn(n, len(self.centre), dtype=torch.float64)
                x = x + self.noise_variance.sqrt() * (spread - spread @ self.basis.T @ self.basis)
        return x.view(n, *self.spec.shape).float()

    @property
    def free_parameters(self) -> int:
        """How many numbers the data determine."""
        q, dimensions = self.q, self.spec.dimensions
        count = sum(free_numbers(K, q, self.covariance) for K in self.used.tolist()) + self.classes - 1
        if q < dimensions:  # the subspace, the centre outside of it, and the noise
            rotations = q * (q - 1) // 2 if self.covariance in ("diagonal", "spherical") else 0  # else in the covariance
            count += q * (dimensions - q) + rotations + (dimensions - q) + 1
        return count

    def bic(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> float:
        """Schwarz's criterion, free_parameters log n - 2 log-likelihood of the training data x: lower is better."""
        return self.free_parameters * price("bic", len(x)) - 2 * float(
            self.log_prob(x, condition=condition).value.double().sum()
        )

    def aic(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> float:
        """Akaike's criterion, 2 free_parameters - 2 log-likelihood of the training data x: lower is better."""
        return self.free_parameters * price("aic", len(x)) - 2 * float(
            self.log_prob(x, condition=condition).value.double().sum()
        )


def keep(batches: Iterable[Batch], classes: int) -> tuple[dict[int, Tensor], Float[Tensor, " classes"], bool]:
    """The rows of one pass, flattened, class by class; how many each class has in the whole pass; and whether all are kept:
    where they are more than MEMORY, every second, fourth, ... row of each class (one row a class at least)."""
    kept: dict[int, list[Tensor]] = {}
    counts = torch.zeros(classes, dtype=torch.float64)
    size, stride = 0, 1
    for batch in batches:
        for c, x in by_class(batch, classes):
            # of all rows of the class, numbered through the batches, those whose number the stride divides
            part = x[-int(counts[c]) % stride :: stride]
            counts[c] += len(x)
            if len(part):
                kept.setdefault(c, []).append(part if stride == 1 else part.clone())
                size += part.nbytes
        while size > MEMORY and stride < counts.max():
            stride *= 2
            kept = {c: [torch.cat(parts)[::2].clone()] for c, parts in kept.items()}
            size = sum(x.nbytes for parts in kept.values() for x in parts)
    return {c: torch.cat(kept[c]) for c in sorted(kept)}, counts, stride == 1
