"""The number of components by BIC and AIC: the true one of a known mixture, and the criteria of scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.classical import em
from pushforward.models.classical.mixture import GaussianMixture
from pushforward.randomness import UpdateRng


def rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def known(k: int, n: int = 900, seed: int = 0) -> torch.Tensor:
    """Rows of k Gaussians with covariances of their own, their means 6 apart on a circle or line."""
    draw = np.random.default_rng(seed)
    means = (
        3
        / max(math.sin(math.pi / max(k, 2)), 0.5)
        * np.array([[math.cos(2 * math.pi * i / k), math.sin(2 * math.pi * i / k)] for i in range(k)])
    )
    mixes = np.eye(2) + 0.3 * draw.standard_normal((k, 2, 2))
    label = draw.integers(k, size=n)
    return torch.from_numpy(means[label] + np.einsum("nij,nj->ni", mixes[label], draw.standard_normal((n, 2))))


def trained(x: torch.Tensor, condition: torch.Tensor | None = None, steps: int = 50, **settings) -> GaussianMixture:
    spec = DataSpec("point", (x.shape[1],), None if condition is None else Condition("class", int(condition.max()) + 1))
    model = GaussianMixture(spec, **settings)
    (player,) = model.players()
    for step in range(steps):
        if player.update([Batch(x, condition)], rng(step)).finished:
            break
    return model


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_bic_finds_the_true_number(k):
    model = trained(x := known(k), components="bic", restarts=3)
    assert model.used.tolist() == [k]
    assert model.weights[0, k:].eq(0).all() and float(model.weights[0, :k].min()) > 0.3 / k
    fixed = trained(x, components=k, restarts=3)
    assert model.free_parameters == fixed.free_parameters
    assert model.bic(x) == pytest.approx(fixed.bic(x), rel=1e-3)


def test_it_is_the_lowest_of_scikit_learn():
    x = known(3)
    theirs = [Reference(k, n_init=5, random_state=0).fit(x.numpy()).bic(x.numpy()) for k in range(1, 7)]
    ours = trained(x, components="bic", restarts=3, shrinkage=0.0)
    assert int(np.argmin(theirs)) + 1 == int(ours.used[0]) == 3
    assert ours.bic(x) == pytest.approx(min(theirs), rel=1e-3)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "tied", "spherical"])
def test_every_covariance(covariance):
    x = torch.cat([torch.randn(150, 3, generator=torch.Generator().manual_seed(i)).double() + 8 * i for i in range(4)])
    model = trained(x, components="bic", covariance=covariance, restarts=3)
    assert model.used.tolist() == [4]
    drawn = model.sample(500, generator=torch.Generator().manual_seed(0))
    assert float(torch.cdist(drawn, x.float()).amin(1).max()) < 3


def test_aic_takes_no_fewer():
    for seed in range(3):
        x = known(3, n=200, seed=seed)
        assert int(trained(x, components="aic").used[0]) >= int(trained(x, components="bic").used[0])


def test_each_class_has_its_own_number_and_a_rare_one_few():
    x = torch.cat([known(1, 300), known(4, 600) + 20, known(1, 2)])
    y = torch.tensor([0] * 300 + [1] * 600 + [2] * 2)
    model = trained(x, y, components="bic", restarts=3)
    assert model.used[:2].tolist() == [1, 4] and int(model.used[2]) <= 2
    for c in range(3):
        assert model.sample(5, condition=torch.full((5,), c), generator=0).isfinite().all()
    assert model.log_prob(x).value.isfinite().all()


def test_the_number_is_said():
    """In the update's terms, so in history.jsonl and on the live line: of all classes with data together, and none if given."""
    x, y = torch.cat([known(1, 300), known(4, 600) + 20]), torch.tensor([0] * 300 + [1] * 600)
    for condition, classes, found in ((None, None, [5.0]), (y, 3, [1.0, 4.0])):
        spec = DataSpec("point", (2,), None if classes is None else Condition("class", classes))
        for components, said in (("bic", sum(found)), (None, 10.0 if classes is None else 6.0), (2, None)):
            (player,) = GaussianMixture(spec, components=components, most=6, restarts=3).players()
            for step in range(2):
                assert player.update([Batch(x, condition)], rng(step)).terms.get("components") == said


def test_few_rows_are_no_spikes():
    """A spike for each row has the highest likelihood, and no criterion counts what that is worth with new data."""
    for rows, covariance in itertools.product((8, 20, 40), ("full", "diagonal")):
        x, new = torch.randn(1000 + rows, 2, generator=torch.Generator().manual_seed(rows)).double().split([rows, 1000])
        model = trained(x, components="bic", covariance=covariance)
        assert int(model.used[0]) <= max(rows // 10, 1)
        assert float(model.log_prob(new).value.mean()) > -2.84 - 3  # what the truth has, and 3 nats


def test_constant_columns_and_few_rows():
    x = torch.cat([known(2, 40), torch.ones(40, 1)], 1)
    assert trained(x, components="bic").log_prob(x).value.isfinite().all()
    assert trained(x[:1], components="bic").used.tolist() == [1]


def test_state_is_whole():
    """Loaded into a fresh model it is the same mixture, and going on changes nothing that it would not have changed."""
    x = known(3)
    model = trained(x, components="bic", steps=1, tolerance=1e-9)
    again = GaussianMixture(DataSpec("point", (2,)), components="bic", tolerance=1e-9)
    again.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    for one in (model, again):
        (player,) = one.players()
        for step in range(3):
            player.update([Batch(x)], rng(step))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_errors():
    with pytest.raises(Exception, match="bix"):
        GaussianMixture(DataSpec("point", (2,)), components="bix")
    with pytest.raises(UserError, match="at least 1"):
        GaussianMixture(DataSpec("point", (2,)), components="bic", most=0)
    with pytest.raises(UserError, match="at least 1"):
        GaussianMixture(DataSpec("point", (2,)), components=0)


def test_em_runs_until_it_gains_nothing_and_returns_the_likelihood_of_what_it_returns():
    """Against passes made by hand; the likelihood never falls with the passes, and that of the result is its own."""
    x = torch.cat([torch.randn(60, 2, generator=torch.Generator().manual_seed(k)) + 4 * k for k in range(2)]).double()
    begun, prior = em.start(x, 2, "full", 1e-6, None, 1, rng())
    by_hand, likelihoods = begun, []
    for passes in range(1, 6):
        mixture, likelihood = em.run(x, begun, prior, "full", 1e-6, passes, 0.0)
        assert all(torch.equal(getattr(mixture, name), getattr(by_hand, name)) for name in ("weights", "means", "factor"))
        own = torch.logsumexp(em.densities(mixture, "full")(x), 1).sum()
        assert likelihood == pytest.approx(float(own), rel=1e-12)
        sums = em.sums_of(x, em.posterior(by_hand, "full"), 2, "full")
        by_hand = em.reseed(sums, em.maximisation(sums, 1e-6, prior, by_hand), prior)
        likelihoods.append(likelihood)
    assert likelihoods == sorted(likelihoods)
    end, highest = em.run(x, begun, prior, "full", 1e-6, 500, 1e-12)
    more, _ = em.run(x, end, prior, "full", 1e-6, 20, 0.0)
    assert highest >= likelihoods[-1]
    torch.testing.assert_close(more.means, end.means, rtol=0, atol=1e-4)


def test_it_looks_past_numbers_that_are_no_better():
    """Clusters at the corners of a cube of side 8 in four dimensions: BIC rises for a while before it falls, down to 16."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 8.0])] * 4)
    x = corners.repeat(50, 1) + torch.randn(800, 4, generator=torch.Generator().manual_seed(0))
    assert trained(x.double(), components="bic", most=17, covariance="spherical").used.tolist() == [16]
