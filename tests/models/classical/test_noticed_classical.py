"""Counts of free numbers by hand, where EM under a prior stops, and the largest share that shrinkage takes."""

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf as reference

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.models.classical import em
from pushforward.models.classical.mixture import GaussianMixture
from pushforward.models.classical.moments import Moments
from pushforward.models.classical.priors import ledoit_wolf
from pushforward.models.classical.selection import free_numbers
from pushforward.randomness import UpdateRng


@pytest.mark.parametrize(
    ("covariance", "one", "three"),
    [
        ("full", 4 + 10, 12 + 30 + 2),  # 4 variances and 6 covariances each
        ("diagonal", 4 + 4, 12 + 12 + 2),
        ("tied", 4 + 10, 12 + 10 + 2),
        ("spherical", 4 + 1, 12 + 3 + 2),
    ],
)
def test_free_numbers_of_each_covariance(covariance, one, three):
    """In 4 dimensions: means, variances and the weights but one, counted on paper."""
    assert free_numbers(1, 4, covariance) == one and free_numbers(3, 4, covariance) == three


@pytest.mark.parametrize(("covariance", "tolerance"), [("full", 6e-3), ("diagonal", 1e-3)])
def test_em_under_a_prior_climbs_the_posterior_and_stops_where_that_stands(covariance, tolerance):
    """The log-posterior by torch's KL never falls, pass by pass, and EM ends at the first that gains less than the tolerance:
    by the likelihood alone, which turns on the way, it would end elsewhere."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.standard_normal((40, 3)) * [1, 2, 0.5] + 1.5 * draw.integers(0, 2, (40, 1)))
    rows, sigma = 30.0, torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    prior = em.Prior(rows, torch.diag(sigma) if covariance == "full" else sigma)
    begun, _ = em.start(x, 2, covariance, 1e-6, 0.0, 1, UpdateRng(torch.Generator().manual_seed(0)))

    def spread(factor: torch.Tensor) -> torch.distributions.MultivariateNormal:
        lower = factor if covariance == "full" else torch.diag_embed(factor)
        return torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), scale_tril=lower)

    likelihoods, objectives, mixtures = [], [], []
    mixture, likelihood = em.run(x, begun, prior, covariance, 1e-6, 1, 0.0)
    for _ in range(25):
        away = sum(float(torch.distributions.kl_divergence(spread(prior.factor), spread(each))) for each in mixture.factor)
        likelihoods.append(likelihood / len(x))
        objectives.append((likelihood - rows * away) / len(x))
        mixtures.append(mixture)
        mixture, likelihood = em.run(x, mixture, prior, covariance, 1e-6, 2, 0.0)  # one more pass
    assert np.diff(objectives).min() > -1e-12

    def ends(values: list[float]) -> int:
        return next(i for i in range(1, len(values)) if abs(values[i] - values[i - 1]) < tolerance)

    assert ends(objectives) != ends(likelihoods)
    found, _ = em.run(x, begun, prior, covariance, 1e-6, 60, tolerance)
    torch.testing.assert_close(found.means, mixtures[ends(objectives)].means, rtol=0, atol=0)
    torch.testing.assert_close(found.factor, mixtures[ends(objectives)].factor, rtol=0, atol=0)


@pytest.mark.parametrize(("covariance", "tolerance"), [("full", 1.8e-3), ("diagonal", 3e-3)])
def test_a_mixture_has_converged_where_its_posterior_stands(covariance, tolerance):
    """As the model learns, update by update: the first gain of less than the tolerance is the posterior's."""
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.standard_normal((40, 3)) * [1, 2, 0.5] + 1.5 * draw.integers(0, 2, (40, 1)))
    model = GaussianMixture(
        DataSpec("point", (3,)), components=4, covariance=covariance, shrinkage=30.0, tolerance=tolerance, regularisation=1e-6
    )
    (player,) = model.players()
    updates = []
    while not updates or not updates[-1].finished:
        updates.append(player.update([Batch(x)], UpdateRng(torch.Generator().manual_seed(0))))
        assert len(updates) < 100
    gains = np.diff([update.terms["log_posterior"] for update in updates])
    likelihoods = np.diff([update.terms["log_likelihood"] for update in updates])
    assert gains.min() > -1e-12 and gains[-1] < tolerance and (gains[:-1] >= tolerance).all()
    assert abs(likelihoods[-1]) >= tolerance or (abs(likelihoods[:-1]) < tolerance).any(), "nothing is tested: the rules agree"


def test_the_share_of_a_round_covariance_is_at_most_one():
    """Three rows nearly at the corners of a triangle with equal sides: S is nearly s I, its error as estimated is more than its
    distance from there, and rho is all of it."""
    angles = 2 * math.pi * np.arange(3) / 3
    x = np.stack([np.cos(angles), np.sin(angles)], 1) + np.array([[0.05, 0.0], [0.0, -0.03], [0.02, 0.04]])
    moments = Moments(torch.from_numpy(x[0] + 0.5))
    moments.add(torch.from_numpy(x))
    y = x - x.mean(0)
    S = y.T @ y / 3
    error = (np.square(y).sum(1) ** 2).mean() / 3 - np.square(S).sum() / 3
    assert error > 2 * np.square(S - np.trace(S) / 2 * np.eye(2)).sum()
    assert ledoit_wolf(moments) == pytest.approx(reference(x)[1], abs=1e-12) == pytest.approx(1.0, abs=1e-12)
