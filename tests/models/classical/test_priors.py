"""The Gaussian with a prior: the mode of its posterior found by ascent, and scikit-learn's shrunk covariances."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.stats import invwishart, multivariate_normal
from sklearn.covariance import OAS, LedoitWolf
from sklearn.datasets import load_digits

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.classical.gaussian import Gaussian
from pushforward.models.classical.moments import Moments
from pushforward.models.classical.priors import ledoit_wolf, oracle_approximating, posterior_mode
from pushforward.randomness import SampleRng


def correlated(n: int, d: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3 * rng.standard_normal(d))


def summed(x: torch.Tensor, chunk: int = 7) -> Moments:
    """With a shift that is not the mean."""
    moments = Moments(x[0] + 0.5)
    for part in x.split(chunk):
        moments.add(part)
    return moments


def fitted(x: torch.Tensor, condition: torch.Tensor | None = None, **settings) -> Gaussian:
    known = None if condition is None else Condition("class", int(condition.max()) + 1)
    model = Gaussian(DataSpec("point", (x.shape[1],), known), **settings)
    (player,) = model.players()
    update = player.update([Batch(x, condition)], SampleRng(0))
    value = float(model.log_prob(x, condition=condition).value.mean())
    assert update.terms["log_likelihood"] == pytest.approx(value, rel=1e-9, abs=1e-9)
    return model


def log_posterior(x, mean, covariance, m, nu, s):
    """Log-likelihood and log-prior, written out with dense matrices, without constants."""
    n, d = x.shape
    inverse = torch.linalg.inv(covariance)
    scatter = (x - mean).T @ (x - mean) + nu * s * torch.eye(d).double() + nu * torch.outer(mean - m, mean - m)
    return -0.5 * (n + nu) * covariance.logdet() - 0.5 * (inverse * scatter).sum()


@pytest.mark.parametrize(("n", "d"), [(30, 4), (3, 5)])
def test_mode_is_found_by_ascent(n, d):
    """Newton-like ascent from elsewhere of the log-posterior, written out, ends where the formula says."""
    x, nu, s = correlated(n, d), 6.5, 0.7
    m = x.mean(0) + torch.linspace(-2, 2, d).double()
    found = posterior_mode(summed(x), d, m, nu, s)
    mean = torch.zeros(d, dtype=torch.float64, requires_grad=True)
    root = torch.eye(d, dtype=torch.float64, requires_grad=True)
    ascent = torch.optim.LBFGS(
        [mean, root], max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        ascent.zero_grad()
        value = -log_posterior(x, mean, root @ root.T + 1e-12 * torch.eye(d).double(), m, nu, s)
        value.backward()
        return value

    ascent.step(loss)
    covariance = found.directions.T @ torch.diag(found.values) @ found.directions
    np.testing.assert_allclose(found.mean, mean.detach(), atol=1e-5)
    np.testing.assert_allclose(covariance, (root @ root.T).detach(), atol=1e-5)


def test_prior_is_the_normal_inverse_wishart():
    """Differences of the log-posterior are those of scipy's densities, prior times likelihood."""
    x, nu, s, d = correlated(20, 3), 9.0, 0.8, 3
    m, ours, truth = x[0], [], []
    for seed in (1, 2):
        other = correlated(30, d, seed)
        mean, covariance = other.mean(0), other.T.cov()
        ours.append(float(log_posterior(x, mean, covariance, m, nu, s)))
        prior = multivariate_normal(m, covariance / nu).logpdf(mean)
        prior += invwishart(nu - d - 2, nu * s * np.eye(d)).logpdf(covariance.numpy())
        truth.append(prior + multivariate_normal(mean, covariance).logpdf(x).sum())
    assert abs(truth[1] - truth[0]) > 1
    assert ours[1] - ours[0] == pytest.approx(truth[1] - truth[0], rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_leading_directions_are_a_maximum_of_the_posterior(k):
    """Among covariances whose other eigenvalues are equal: turned a little, or with other variances, it is lower."""
    x, nu, s, d = correlated(12, 4), 5.0, 0.5, 4
    m = x.mean(0) + 1
    found = posterior_mode(summed(x), k, m, nu, s)
    noise = 0.0 if found.discarded is None else found.discarded

    def posterior(mean, values, directions, noise):
        inside = directions.T @ torch.diag(values - noise) @ directions
        return float(log_posterior(x, mean, inside + noise * torch.eye(d).double(), m, nu, s))

    best = posterior(found.mean, found.values, found.directions, noise)
    for factor in (0.98, 1.02):
        assert posterior(found.mean, found.values * factor, found.directions, noise) < best
        assert posterior(found.mean * factor, found.values, found.directions, noise) < best
        assert noise == 0 or posterior(found.mean, found.values, found.directions, noise * factor) < best
    step = 0.03 * torch.ones(d, d, dtype=torch.float64).triu(1)
    turn = torch.linalg.matrix_exp(step - step.T)
    assert posterior(found.mean, found.values, found.directions @ turn, noise) < best


@pytest.mark.parametrize(("n", "d"), [(300, 6), (8, 20), (20, 20)])
def test_shrinkage_of_scikit_learn(n, d):
    x = correlated(n, d)
    for ours, theirs in ((ledoit_wolf, LedoitWolf), (oracle_approximating, OAS)):
        assert ours(summed(x)) == pytest.approx(theirs().fit(x.numpy()).shrinkage_, rel=1e-8)
    for prior, theirs in (("ledoit-wolf", LedoitWolf), ("oas", OAS)):
        truth = theirs().fit(x.numpy())
        model = fitted(x, prior=prior)
        np.testing.assert_allclose(
            model.log_prob(x).value, multivariate_normal(x.mean(0), truth.covariance_).logpdf(x), rtol=1e-8
        )


@pytest.mark.parametrize("prior", ["wishart", "ledoit-wolf", "oas"])
@pytest.mark.parametrize("n", [6, 40])
def test_with_leading_directions(prior, n):
    """The k leading directions of the shrunk covariance, the others sharing the mean of its other eigenvalues."""
    x, k = correlated(n, 9), 3
    whole, part = fitted(x, prior=prior), fitted(x, prior=prior, components=k)
    np.testing.assert_allclose(part.eigenvalues, whole.eigenvalues[:k], rtol=1e-9)
    np.testing.assert_allclose(float(part.noises[0]), float(whole.eigenvalues[k:].mean()), rtol=1e-9)
    assert float(whole.eigenvalues.min()) > 1e-3  # no direction is flat


def test_classes_are_drawn_to_the_mean_of_all():
    x, nu = correlated(40, 5), 10.0
    y = (torch.arange(40) >= 30).long()
    x[y == 1] += 4
    model = fitted(x, y, prior="wishart", prior_rows=nu)
    for c in range(2):
        own = x[y == c]
        n, mean = len(own), own.mean(0)
        np.testing.assert_allclose(model.means[c], (n * mean + nu * x.mean(0)) / (n + nu), rtol=1e-9)
        apart, s = mean - x.mean(0), float(x.T.cov(correction=0).trace()) / 5
        truth = n * own.T.cov(correction=0) + n * nu / (n + nu) * torch.outer(apart, apart) + nu * s * torch.eye(5).double()
        covariance = model.all_directions[c].T @ torch.diag(model.all_values[c]) @ model.all_directions[c]
        np.testing.assert_allclose(covariance, truth / (n + nu), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(model.means[2], x.mean(0), rtol=1e-12)


def test_no_rows_are_maximum_likelihood():
    x = correlated(30, 4)
    free, none = fitted(x), fitted(x, prior="wishart", prior_rows=0.0)
    np.testing.assert_allclose(free.log_prob(x).value, none.log_prob(x).value, rtol=1e-12)


def test_one_row_and_constant_columns():
    x = correlated(9, 4)
    x[:, 2] = 1.0
    for prior in ("wishart", "ledoit-wolf", "oas"):
        for rows in (x, x[:1], x[:1].expand(5, 4)):
            model = fitted(rows, prior=prior)
            assert model.sample(3, generator=0).isfinite().all() and model.log_prob(x).value.isfinite().all()


def test_new_digits_are_denser():
    """120 digits in 64 dimensions: every prior does better on new ones than maximum likelihood."""
    codes = torch.from_numpy(load_digits().data)
    noise = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)).double()
    x = ((codes + noise) / 8 - 1)[torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))]

    def bits(**settings) -> float:
        return -float(fitted(x[:120], **settings).log_prob(x[120:]).value.mean()) / 64 / math.log(2)

    free = bits()
    assert max(bits(prior=prior) for prior in ("wishart", "ledoit-wolf", "oas")) < free - 0.1


def test_errors():
    with pytest.raises((UserError, jaxtyping.TypeCheckError), match="wishar"):
        Gaussian(DataSpec("point", (3,)), prior="wishar")
    with pytest.raises(UserError, match="prior_rows=-1"):
        Gaussian(DataSpec("point", (3,)), prior="wishart", prior_rows=-1.0)
    with pytest.raises(UserError, match="only prior=wishart"):
        Gaussian(DataSpec("point", (3,)), prior="oas", prior_rows=4.0)
