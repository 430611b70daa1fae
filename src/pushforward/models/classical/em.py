"""Expectation-maximisation for Gaussian mixtures, as functions: densities, sums, maximisation, starts.

For rows x_1 .. x_n and components k with weight w_k, mean mu_k, covariance Sigma_k, one pass computes

    E:  r_nk = w_k N(x_n; mu_k, Sigma_k) / sum_j w_j N(x_n; mu_j, Sigma_j)
    M:  N_k = sum_n r_nk,  w_k = N_k / n,  mu_k = sum_n r_nk x_n / N_k,  Sigma_k = sum_n r_nk x_n x_n^T / N_k - mu_k mu_k^T

and the log-likelihood never falls. With a prior of nu pseudo-rows around a covariance Sigma_0, each Sigma_k with density
proportional to |Sigma|^(-nu/2) exp(-nu/2 tr(Sigma_0 Sigma^-1)) - the inverse Wishart with scale nu Sigma_0 and nu - q - 1
degrees of freedom, whose mode is Sigma_0 (improper up to nu = 2 q) - the M step is, with S_k the covariance above,

    Sigma_k = (N_k S_k + nu Sigma_0) / (N_k + nu)

and what never falls is the log-posterior, log-likelihood - nu sum_k KL(N(0, Sigma_0) || N(0, Sigma_k)) up to a constant.
Diagonal and spherical covariances take the diagonal of Sigma_0 or its mean; a tied one is a single Sigma with n for N_k.
Sigma_0 is fixed at the start of EM, from k-means (`pooled_prior`).

Each Sigma is held by a `factor`: the lower Cholesky factor L (full: one a component, (K, q, q); tied: one for all, (q, q)),
or the standard deviations (diagonal (K, q); spherical (K, 1)).

Dempster, Laird and Rubin 1977, "Maximum likelihood from incomplete data via the EM algorithm", J. R. Statist. Soc. B 39(1).
The prior: Fraley and Raftery 2007, "Bayesian regularization for normal mixture estimation", J. Classification 24.
k-means++: Arthur and Vassilvitskii 2007. The choice among short runs: Biernacki, Celeux and Govaert 2003.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.distributions.kernels import squared_distances
from pushforward.randomness import Rng

Covariance = Literal["full", "diagonal", "tied", "spherical"]

BLOCK = 2**20  # numbers in the largest temporary of a pass: it should stay in a core's cache
START_ROWS = 50_000  # k-means sees at most so many rows
LLOYD = 10  # iterations
DEAD = 1e-10  # rows of a component that has none
SHORT = 10  # EM passes after which restarts are compared
OWN = 10  # rows for each component, where nobody says how many components

# A block x (B, q) -> responsibilities (B, K) and log-densities (B,)
Weigh = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class Mixture:
    """weights (K,), means (K, q), factor: see above."""

    weights: Tensor
    means: Tensor
    factor: Tensor


@dataclass
class Prior:
    """nu pseudo-rows of covariance Sigma_0 at the mean of each component; `factor` is that of Sigma_0, for one component."""

    rows: float
    factor: Tensor


class Sums:
    """What a pass adds up over the rows of a mixture: their number and log-likelihood, sum r (K,), sum r x (K, q),
    sum r x x^T (its diagonal where that is enough), and the row that is explained worst, with its log-density."""

    def __init__(self, components: int, q: int, covariance: Covariance, device: torch.device):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        shape = {"full": (q, components * q), "tied": (q, q)}.get(covariance, (components, q))
        self.covariance, self.components, self.rows = covariance, components, 0
        self.likelihood, self.weight, self.first = zeros(), zeros(components), zeros(components, q)
        self.second, self.worst, self.lowest = zeros(*shape), zeros(q), zeros() + torch.inf

    def add(self, chunk: Float[Tensor, "n q"], weigh: Weigh) -> None:
        """Takes in some more rows, each weighed."""
        for x in blocks(chunk, self.components):
            r, log_density = weigh(x)
            low, at = log_density.min(0)
            self.worst = torch.where(low < self.lowest, x[at], self.worst)
            self.lowest = torch.minimum(low, self.lowest)
            self.rows += len(x)
            self.likelihood += log_density.sum()
            self.weight += r.sum(0)
            self.first.addmm_(r.T, x)
            if self.covariance == "full":  # all components by one matrix product
                self.second.addmm_(x.T, (r[:, :, None] * x[:, None, :]).view(len(x), -1))
            elif self.covariance == "tied":
                self.second.addmm_(x.T, x)
            else:
                self.second.addmm_(r.T, x.square())


def sums_of(x: Float[Tensor, "n q"], weigh: Weigh, components: int, covariance: Covariance) -> Sums:
    """One pass over rows that are all in memory."""
    sums = Sums(components, x.shape[1], covariance, x.device)
    sums.add(x, weigh)
    return sums


def run(
    x: Float[Tensor, "n q"], mixture: Mixture, prior: Prior, covariance: Covariance, floor: float, passes: int, tolerance: float
) -> tuple[Mixture, float]:
    """The mixture where EM ends, and its log-likelihood of all rows together.

    Ends where a pass changes the log-posterior by less than `tolerance` nats a row, or after `passes` (1 or more), the last of
    which only measures.
    """
    before, likelihood = -math.inf, -math.inf
    for left in reversed(range(passes)):
        sums = sums_of(x, posterior(mixture, covariance), len(mixture.weights), covariance)
        likelihood = float(sums.likelihood)
        objective = (likelihood + log_prior(mixture, covariance, prior)) / len(x)
        if not left or abs(objective - before) < tolerance:
            break
        before = objective
        mixture = reseed(sums, maximisation(sums, floor, prior, mixture), prior)
    return mixture, likelihood


def blocks(x: Tensor, components: int) -> Iterator[Tensor]:
    """Rows (n, q) in pieces of which (rows, components, q) fits in the cache, in float64."""
    rows = min(max(BLOCK // (components * x.shape[1]), 16), 8192)
    return (block.double() for block in x.split(rows))


def component_densities(mixture: Mixture, covariance: Covariance) -> Callable[[Tensor], Tensor]:
    """The function x (B, q) -> log N(x; mu_k, Sigma_k) (B, K); what does not depend on x is computed once."""
    means, factor = mixture.means, mixture.factor
    components, q = means.shape
    if covariance in ("full", "tied"):
        inverse = torch.linalg.solve_triangular(factor, torch.eye(q, dtype=factor.dtype, device=factor.device), upper=False)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    else:
        log_det = factor.log().sum(-1) * (q // factor.shape[1])
    constant = -0.5 * q * math.log(2 * math.pi) - log_det

    if covariance == "full":
        # |L^-1 (x - mu)|^2 for all components by one matrix product
        columns = inverse.permute(2, 0, 1).reshape(q, components * q)
        offset = torch.einsum("kij,kj->ki", inverse, means).reshape(-1)
        return lambda x: constant - 0.5 * torch.addmm(-offset, x, columns).view(-1, components, q).square().sum(-1)
    if covariance == "tied":
        centres = means @ inverse.T
        return lambda x: constant - 0.5 * squared_distances(x @ inverse.T, centres)
    precision = factor.square().reciprocal().expand(components, q)
    scaled, norm = means * precision, (means.square() * precision).sum(1)
    return lambda x: constant - 0.5 * (x.square() @ precision.T - 2 * x @ scaled.T + norm)


def densities(mixture: Mixture, covariance: Covariance) -> Callable[[Tensor], Tensor]:
    """The function x (B, q) -> log w_k N(x; mu_k, Sigma_k) (B, K)."""
    inner, log_weights = component_densities(mixture, covariance), mixture.weights.log()
    return lambda x: inner(x) + log_weights


def posterior(mixture: Mixture, covariance: Covariance) -> Weigh:
    """The E step as a function of a block of rows."""
    density = densities(mixture, covariance)

    def weigh(x: Tensor) -> tuple[Tensor, Tensor]:
        joint = density(x)
        total = torch.logsumexp(joint, 1)
        return (joint - total[:, None]).exp_(), total

    return weigh


def maximisation(sums: Sums, floor: float, prior: Prior, before: Mixture | None = None) -> Mixture:
    """The M step under the prior and the constraint that no variance is below `floor`: the maximum raises eigenvalues to
    the floor, so that the objective still never falls. A component without data keeps the place that it had `before`,
    and, without a prior, its covariance."""
    covariance, q, nu = sums.covariance, sums.first.shape[1], prior.rows
    dead = sums.weight < DEAD
    weight = torch.where(dead, 0.0, sums.weight)
    means = sums.first / torch.where(dead, 1.0, weight)[:, None]
    count = torch.where(dead & (nu == 0), 1.0, weight + nu)
    if covariance == "full":
        second = sums.second.view(q, -1, q).permute(1, 0, 2) - weight[:, None, None] * means[:, :, None] * means[:, None, :]
        second = second + nu * (prior.factor @ prior.factor.mT)
        factor = floored_cholesky(second / count[:, None, None], floor)
    elif covariance == "tied":
        second = sums.second - (means.T * weight) @ means + nu * (prior.factor @ prior.factor.mT)
        factor = floored_cholesky(second / (sums.rows + nu), floor)
    else:
        variance = sums.second - weight[:, None] * means.square()
        if covariance == "spherical":
            variance = variance.mean(1, keepdim=True)
        factor = ((variance + nu * prior.factor.square()) / count[:, None]).clamp(min=floor).sqrt()
    if before is not None:
        means = torch.where(dead[:, None], before.means, means)
        if covariance != "tied" and nu == 0:
            factor = torch.where(dead.view(-1, *[1] * (factor.dim() - 1)), before.factor, factor)
    return Mixture(sums.weight / sums.rows, means, factor)


def supported(rows: int) -> int:
    """How many components so many rows are given, where nobody says how many: with fewer than ten rows each, new data are less
    likely by nats.

    >>> [supported(rows) for rows in (1, 19, 20, 1000)]
    [1, 1, 2, 100]
    """
    return max(rows // OWN, 1)


def default_shrinkage(rows: int, components: int, q: int, covariance: Covariance) -> float:
    """Pseudo-rows for a full or tied covariance by how many rows N it is made of: q up to N = q, none from N = 4 q, between
    them (4 q - N) / 3. None for diagonal and spherical ones.

    >>> [default_shrinkage(rows, 2, 10, "full") for rows in (4, 20, 50, 80)]
    [10.0, 10.0, 5.0, 0.0]
    """
    if covariance in ("diagonal", "spherical"):
        return 0.0
    own = rows if covariance == "tied" else rows / components
    return min(float(q), max(0.0, (4 * q - own) / 3))


def pooled_prior(sums: Sums, rows: float, floor: float) -> Prior:
    """The prior whose Sigma_0 is what the components of a clustering (its sums) have in common: their pooled covariance W,
    shrunk in its turn to its diagonal by as many pseudo-rows, Sigma_0 = (n W + nu diag W) / (n + nu).

    A cluster of one row has no covariance, and of few rows k-means makes clusters that are much too narrow: with fewer than
    three rows for each of K clusters, or n - K < q, W is the covariance of all rows instead.
    """
    q, n, clusters = sums.first.shape[1], sums.rows, int((sums.weight > 0).sum())
    means = sums.first / sums.weight.clamp(min=1e-10)[:, None]
    if n - clusters < max(q, 2 * clusters):
        means = (sums.first.sum(0) / n).expand_as(means)
    if sums.covariance in ("full", "tied"):
        pooled = (sums.second.view(q, -1, q).sum(1) - sums.first.T @ means) / n
        diagonal = torch.diag(pooled.diagonal())
        return Prior(rows, floored_cholesky((n * pooled + rows * diagonal) / (n + rows), floor))
    variance = (sums.second - sums.first * means).sum(0) / n
    if sums.covariance == "spherical":
        variance = variance.mean(0, keepdim=True)
    return Prior(rows, variance.clamp(min=floor).sqrt())


def log_prior(mixture: Mixture, covariance: Covariance, prior: Prior) -> float:
    """-nu sum_k KL(N(0, Sigma_0) || N(0, Sigma_k)): at most 0, where every Sigma_k is Sigma_0."""
    if not prior.rows:
        return 0.0
    q, ours, theirs = mixture.means.shape[1], mixture.factor, prior.factor
    if covariance in ("full", "tied"):
        ratio = torch.linalg.solve_triangular(ours, theirs, upper=False)
        trace = ratio.square().sum((-2, -1))
        log_det = ratio.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    else:
        ratio = (theirs / ours).expand(len(ours), q)
        trace, log_det = ratio.square().sum(1), ratio.log().sum(1)
    return -prior.rows * float((0.5 * (trace - q) - log_det).sum())


def floored_cholesky(covariance: Float[Tensor, "*k q q"], floor: float) -> Float[Tensor, "*k q q"]:
    """The Cholesky factor of the covariance with its eigenvalues raised to at least `floor`."""
    covariance = 0.5 * (covariance + covariance.mT)
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    if not bool(torch.linalg.cholesky_ex(covariance - floor * identity).info.any()):
        return torch.linalg.cholesky(covariance)
    values, vectors = torch.linalg.eigh(covariance)
    root = values.clamp(min=floor).sqrt()[..., :, None] * vectors.mT  # covariance = root^T root, and root = Q L^T
    upper = torch.linalg.qr(root).R
    return upper.mT * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


def reseed(sums: Sums, mixture: Mixture, prior: Prior) -> Mixture:
    """Moves one component without a row (dead to `maximisation`) to the row that is explained worst, with the prior's
    covariance or, without a prior, the average of the others, and the weight of one row, where that certainly does
    not lower the likelihood.

    Taking 1/n of the weight from the others lowers n log-densities by log(1 - 1/n) each, at most; the row itself gains
    log(1 + N(0; 0, Sigma) / ((n - 1) p(row))).
    """
    covariance, n, empty = sums.covariance, sums.rows, mixture.weights * sums.rows < DEAD
    if n <= len(empty) or not bool(empty.any()) or bool(empty.all()):
        return mixture
    k = int(empty.int().argmax())
    if covariance == "tied":
        factor = mixture.factor
        peak = component_densities(mixture, covariance)(mixture.means[k][None])[0, k]
    else:
        share = mixture.weights.view(-1, *[1] * (mixture.factor.dim() - 1))
        if prior.rows:
            spread = prior.factor
        elif covariance == "full":
            spread = torch.linalg.cholesky((share * (mixture.factor @ mixture.factor.mT)).sum(0))
        else:
            spread = (share * mixture.factor.square()).sum(0).sqrt()
        factor = mixture.factor.clone()
        factor[k] = spread
        moved = Mixture(mixture.weights, mixture.means, factor)
        peak = component_densities(moved, covariance)(mixture.means[k][None])[0, k]
    now = torch.logsumexp(densities(mixture, covariance)(sums.worst[None]), 1)[0]
    gain = n * math.log1p(-1 / n) + torch.nn.functional.softplus(peak - math.log(n - 1) - now)
    if not bool(gain > 0):
        return mixture
    weights, means = mixture.weights * (1 - 1 / n), mixture.means.clone()
    weights[k], means[k] = weights[k] + 1 / n, sums.worst
    return Mixture(weights, means, factor)


def k_means(x: Float[Tensor, "n q"], components: int, rng: Rng) -> Float[Tensor, "k q"]:
    """Greedy k-means++: each next centre is a row drawn with probability as its squared distance to the centres so far;
    of a few such rows, the one that leaves the least distance. Then a few of Lloyd's iterations."""
    x = x[:: -(-len(x) // START_ROWS)].double()
    trials = 2 + int(math.log(components))
    first = int(rng.randint(len(x), 1))
    centres = [x[first]]
    nearest = squared_distances(x, x[first][None])[:, 0]
    for _ in range(components - 1):
        reach = nearest.cumsum(0)
        at = torch.searchsorted(reach, rng.rand(trials, dtype=torch.float64) * reach[-1]).clamp(max=len(x) - 1)
        distances = torch.minimum(squared_distances(x, x[at]), nearest[:, None])
        best = int(distances.sum(0).argmin())
        nearest = distances[:, best]
        centres.append(x[at[best]])
    found = torch.stack(centres)
    for _ in range(LLOYD):
        label = squared_distances(x, found).argmin(1)
        count = torch.bincount(label, minlength=components)
        total = torch.zeros_like(found).index_add_(0, label, x)
        found = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], found)
    return found


def start(
    x: Tensor, components: int, covariance: Covariance, floor: float, shrinkage: float | None, restarts: int, rng: Rng
) -> tuple[Mixture, Prior]:
    """A first mixture for rows (n, q) from k-means, the most probable of `restarts` after a few passes each, and the prior of
    `shrinkage` pseudo-rows (None: `default_shrinkage`) around the first of these clusterings.

    With fewer rows than components, the components that are too many get weight 0.
    """
    used = min(components, len(x))
    nu = default_shrinkage(len(x), used, x.shape[1], covariance) if shrinkage is None else shrinkage

    best: tuple[float, Mixture] | None = None
    prior: Prior | None = None
    for _ in range(restarts):
        centres = k_means(x, used, rng)

        def nearest(block: Tensor, centres: Tensor = centres) -> tuple[Tensor, Tensor]:
            distances = squared_distances(block, centres)
            return torch.nn.functional.one_hot(distances.argmin(1), used).double(), -distances.amin(1)

        sums = sums_of(x, nearest, used, covariance)
        prior = prior or pooled_prior(sums, nu, floor)
        mixture, objective = maximisation(sums, floor, prior), 0.0
        for _ in range(SHORT if restarts > 1 else 0):
            sums = sums_of(x, posterior(mixture, covariance), used, covariance)
            objective = float(sums.likelihood) + log_prior(mixture, covariance, prior)
            mixture = maximisation(sums, floor, prior, mixture)
        if best is None or objective > best[0]:
            best = objective, mixture
    assert best is not None and prior is not None
    return padded(best[1], components, covariance), prior


def padded(mixture: Mixture, components: int, covariance: Covariance) -> Mixture:
    """The same mixture with more components, of weight 0."""
    extra = components - len(mixture.weights)
    if not extra:
        return mixture

    def repeated(value: Tensor) -> Tensor:
        return torch.cat([value, value[:1].expand(extra, *value.shape[1:])])

    factor = mixture.factor if covariance == "tied" else repeated(mixture.factor)
    return Mixture(torch.cat([mixture.weights, mixture.weights.new_zeros(extra)]), repeated(mixture.means), factor)
