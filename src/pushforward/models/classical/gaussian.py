"""One Gaussian by maximum likelihood (posterior, with a prior), over all directions of the data or its leading ones.

The maximum-likelihood mean and covariance of rows x_1 .. x_n are mu = 1/n sum x_i and Sigma = 1/n sum (x_i - mu)(x_i - mu)^T.
With Sigma = V S V^T and R = V sqrt(S), x = mu + R z pushes z ~ N(0, I) forward to N(mu, Sigma). Keeping the k leading
columns of V gives eigen-images; as a density it is probabilistic PCA, whose maximum likelihood has the same V and S and

    Sigma = V_k (S_k - sigma^2 I) V_k^T + sigma^2 I,     sigma^2 = mean of the D - k discarded eigenvalues.

Its log-density needs no D x D inverse: with y = V_k^T (x - mu) and rest = |x - mu|^2 - |y|^2,

    -2 log p(x) = D log 2 pi + sum_j log S_j + (D - k) log sigma^2 + sum_j y_j^2 / S_j + rest / sigma^2.

What a prior changes is in `priors.py`.

Tipping and Bishop 1999, "Probabilistic principal component analysis", J. R. Statist. Soc. B 61(3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError, nearest
from pushforward.models.classical.classes import by_class, class_count, drawn, given_frequencies
from pushforward.models.classical.moments import Moments
from pushforward.models.classical.priors import Prior, estimate
from pushforward.models.contract import Generator, LogProb, Player, Update, device_of
from pushforward.nets.conditioning import checked_classes
from pushforward.randomness import Rng, as_rng

ENOUGH = 1024  # directions kept where nobody says how many
LARGEST = 2**28  # numbers in the directions of all classes (2 GiB)


class Gaussian(nn.Module):
    """A Gaussian by maximum likelihood or, with a prior, posterior; for data in classes, one a class.

    Without a condition, `sample` and `log_prob` speak of the mixture of the classes by their frequencies, and `encode`,
    `decode` and the eigen-images of one Gaussian fitted to all classes together.

    Args:
        components: how many leading eigen-directions keep a variance of their own (the others share one: probabilistic
            PCA). Default: all of them, up to 1024.
        regularisation: the smallest variance in any direction, so that constant pixels leave a density.
        prior: none (maximum likelihood); wishart, the posterior mode with `prior_rows` more rows, whose mean is that of all
            data and whose covariance is a sphere of their mean variance (normal-inverse-Wishart); ledoit-wolf or oas, a
            covariance drawn towards such a sphere by as much as the rows themselves say.
        prior_rows: pseudo-rows of prior=wishart, not necessarily whole.
    """

    dequantise = True
    frequencies: Tensor
    means: Tensor
    all_values: Tensor
    all_directions: Tensor
    noises: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        components: int | None = None,
        regularisation: float = 1e-6,
        prior: Prior = "none",
        prior_rows: float = 1.0,
    ):
        super().__init__()
        if prior not in get_args(Prior):
            raise UserError(f"prior='{prior}' was given; {nearest(prior, get_args(Prior))}")
        if not 0 <= prior_rows < math.inf:
            raise UserError(f"prior_rows={prior_rows} was given; it is a number of rows, 0 (maximum likelihood) or more.")
        if prior != "wishart" and prior_rows != 1.0:
            raise UserError(f"prior_rows={prior_rows} was given with prior={prior}; only prior=wishart counts in rows.")
        self.prior, self.prior_rows = prior, prior_rows
        self.spec, self.regularisation = spec, regularisation
        self.classes = class_count(spec, "a Gaussian")
        dimensions = spec.dimensions
        if components is not None and not 1 <= components <= dimensions:
            raise UserError(f"components={components} was given; data of {dimensions} numbers have 1 to {dimensions}.")
        if regularisation <= 0:
            raise UserError(f"regularisation={regularisation} was given; it is a variance, above 0.")
        self.components = k = min(dimensions, ENOUGH) if components is None else components
        groups = self.classes + 1 if self.classes > 1 else 1  # the last is of all classes together
        if groups * k * dimensions > LARGEST:
            raise UserError(
                f"{k} eigen-directions of {dimensions} numbers for {self.classes} classes would take "
                f"{groups * k * dimensions * 8 / 2**30:.0f} GiB; set components below {LARGEST // (groups * dimensions) + 1}."
            )
        self.register_buffer("frequencies", given_frequencies(spec, self.classes))
        self.register_buffer("means", torch.zeros(groups, dimensions, dtype=torch.float64))
        self.register_buffer("all_values", torch.ones(groups, k, dtype=torch.float64))
        self.register_buffer("all_directions", torch.eye(k, dimensions, dtype=torch.float64).repeat(groups, 1, 1))
        self.register_buffer("noises", torch.ones(groups, dtype=torch.float64))

    @property
    def directions(self) -> Float[Tensor, "k *shape"]:
        """The leading eigen-directions of all the data, each of length 1 and shaped like a datum: eigen-images."""
        return self.all_directions[-1].view(-1, *self.spec.shape).float()

    @property
    def eigenvalues(self) -> Float[Tensor, " k"]:
        """The variances along `directions`, falling."""
        return self.all_values[-1]

    def players(self) -> list[Player]:
        return [Player("gaussian", self, update=self.fit)]

    @torch.no_grad()
    def fit(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """The maximum of likelihood or posterior in one pass. Term: the mean log-likelihood of the training data given their
        class, in nats."""
        moments: dict[int, Moments] = {}
        shift: Tensor | None = None
        for batch in batches:
            if shift is None:
                shift = batch.x.flatten(1).double().mean(0)
            for c, x in by_class(batch, self.classes):
                moments.setdefault(c, Moments(shift)).add(x)
        if shift is None:
            raise UserError("there are no training data.")
        total = sum(group.n for group in moments.values())
        groups: list[Moments | None] = [moments.get(c) for c in range(self.classes)]
        self.frequencies.copy_(torch.tensor([group.n / total if group else 0.0 for group in groups], dtype=torch.float64))
        if self.classes > 1:
            pooled = Moments(shift)
            for fed in moments.values():
                pooled.merge(fed)
            groups = [*[group or pooled for group in groups], pooled]  # a class without data gets the Gaussian of all
        everyone = groups[-1]
        assert everyone is not None
        likelihood = 0.0
        for i, group in enumerate(groups):
            assert group is not None
            fitted = estimate(group, self.components, self.prior, self.prior_rows, everyone)
            # Raising eigenvalues to a floor is the maximum of the likelihood under that constraint.
            values = fitted.values.clamp(min=self.regularisation)
            noise = values[-1] if fitted.discarded is None else max(fitted.discarded, self.regularisation)
            self.means[i], self.all_directions[i] = fitted.mean, fitted.directions
            self.all_values[i], self.noises[i] = values, noise
            if i < self.classes:
                spread = float((fitted.inside / values).sum()) + fitted.outside / float(noise)
                likelihood += float(self.frequencies[i]) * (float(self._constants()[i]) - 0.5 * spread)
        return Update({"log_likelihood": likelihood}, finished=True)

    def _constants(self) -> Float[Tensor, " groups"]:
        dimensions, k = self.means.shape[1], self.components
        log_det = self.all_values.log().sum(1) + (dimensions - k) * self.noises.log()
        return -0.5 * (dimensions * math.log(2 * math.pi) + log_det)

    def _log_density(self, x: Float[Tensor, "b d"], group: int) -> Float[Tensor, " b"]:
        centred = x - self.means[group]
        y = centred @ self.all_directions[group].T
        rest = (centred - y @ self.all_directions[group]).square().sum(1)  # |.|^2 - |y|^2 would cancel
        return self._constants()[group] - 0.5 * ((y.square() / self.all_values[group]).sum(1) + rest / self.noises[group])

    def log_prob(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> LogProb:
        """Exact log-density in nats; without a condition, of the mixture of the classes by their frequencies."""
        flat = x.flatten(1).double()
        asked = checked_classes(condition, len(x), self.classes)
        if asked is None:
            every = torch.stack([self._log_density(flat, c) for c in range(self.classes)], 1)
            value = torch.logsumexp(every + self.frequencies.log(), 1)
        else:
            value = flat.new_zeros(len(x))
            for c in asked.unique().tolist():
                value[asked == c] = self._log_density(flat[asked == c], c)
        return LogProb(value.to(x.dtype), "exact")

    @torch.no_grad()
    def sample(
        self, n: int, *, condition: Tensor | None = None, generator: Generator = None, noise: bool = True
    ) -> Float[Tensor, "n *shape"]:
        """Draws from the density.

        Args:
            noise: False leaves out what lies outside the kept directions: x = mu + R z, smooth.
        """
        rng = as_rng(generator, device_of(self))
        index = drawn(condition, self.frequencies, n, rng)
        x = self._push(rng.randn(n, self.components).double(), index)
        if noise and self.components < self.means.shape[1]:
            spread = rng.randn(n, self.means.shape[1]).double()
            for c in index.unique().tolist():
                rows, directions = index == c, self.all_directions[c]
                outside = spread[rows] - spread[rows] @ directions.T @ directions
                x[rows] += self.noises[c].sqrt() * outside
        return x.view(n, *self.spec.shape).float()

    def _push(self, z: Float[Tensor, "b k"], index: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        x = z.new_zeros(len(z), self.means.shape[1])
        for c in index.unique().tolist():
            x[index == c] = self.means[c] + (z[index == c] * self.all_values[c].sqrt()) @ self.all_directions[c]
        return x

    def _group(self, condition: Tensor | None, rows: int) -> Int[Tensor, " rows"]:
        asked = checked_classes(condition, rows, self.classes)
        if asked is None:
            asked = torch.full((rows,), len(self.means) - 1)
        return asked.to(self.means.device)

    def encode(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b k"]:
        """The whitened coordinates z = S^(-1/2) V^T (x - mu): standard normal where x is as the model believes."""
        flat, index = x.flatten(1).double(), self._group(condition, len(x))
        z = flat.new_zeros(len(x), self.components)
        for c in index.unique().tolist():
            z[index == c] = (flat[index == c] - self.means[c]) @ self.all_directions[c].T / self.all_values[c].sqrt()
        return z.to(x.dtype)

    def decode(self, z: Float[Tensor, "b k"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """x = mu + R z."""
        x = self._push(z.double(), self._group(condition, len(z)))
        return x.view(len(z), *self.spec.shape).to(z.dtype)

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n k"]:
        """z ~ N(0, I), whatever the condition."""
        return as_rng(generator, device_of(self)).randn(n, self.components)
