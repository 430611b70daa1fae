"""The mixture of Gaussians against scikit-learn's, and the theorems of expectation-maximisation."""

import math
import warnings

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.stats import invwishart, multivariate_normal
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture as Reference
from sklearn.svm import SVC

from pushforward.data.batches import ArraySplit, Batch, Batches
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.classical import em, mixture
from pushforward.models.classical.gaussian import Gaussian
from pushforward.models.classical.mixture import GaussianMixture
from pushforward.models.contract import capabilities
from pushforward.randomness import SampleRng, UpdateRng

KINDS = ("full", "diagonal", "tied", "spherical")
NAMES = {"full": "full", "diagonal": "diag", "tied": "tied", "spherical": "spherical"}  # ours to scikit-learn's


def points(d: int, **settings) -> DataSpec:
    return DataSpec("point", (d,), **settings)


def rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def clusters(n: int, d: int = 3, k: int = 3, apart: float = 4.0, seed: int = 0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    means, mixes = apart * draw.standard_normal((k, d)), draw.standard_normal((k, d, d)) / math.sqrt(d) + np.eye(d)
    label = draw.integers(k, size=n)
    return torch.from_numpy(means[label] + np.einsum("nij,nj->ni", mixes[label], draw.standard_normal((n, d))))


def chunks(x: torch.Tensor, condition: torch.Tensor | None = None, size: int = 300) -> list[Batch]:
    parts = range(0, len(x), size)
    return [Batch(x[i : i + size], None if condition is None else condition[i : i + size]) for i in parts]


def trained(model: GaussianMixture, batches: list[Batch], steps: int = 200, seed: int = 0) -> list[float]:
    """Updates until it has converged; the log-posteriors (without a prior: the log-likelihoods)."""
    (player,) = model.players()
    history = []
    for step in range(steps):
        update = player.update(iter(batches), rng(seed + step))
        history.append(update.terms.get("log_posterior", update.terms["log_likelihood"]))
        assert ("log_posterior" in update.terms) == bool(model.prior_rows.any())
        if update.finished:
            break
    return history


def digits() -> tuple[torch.Tensor, torch.Tensor, DataSpec]:
    codes, y = load_digits(return_X_y=True)
    share = tuple((np.bincount(y) / len(y)).tolist())
    spec = DataSpec("image", (1, 8, 8), Condition("class", 10, frequencies=share), levels=17)
    return torch.from_numpy(codes).to(torch.uint8).view(-1, 1, 8, 8), torch.from_numpy(y), spec


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("eigenspace", [None, 2])
@pytest.mark.parametrize("shrinkage", [0.0, 7.0])
def test_objective_never_falls(covariance, eigenspace, shrinkage):
    x = clusters(300, k=5, apart=1.5)
    settings = {"components": 6, "eigenspace": eigenspace, "shrinkage": shrinkage, "tolerance": 0.0}
    model = GaussianMixture(points(3), covariance=covariance, **settings)
    history = np.array(trained(model, chunks(x), steps=40))
    assert len(history) == 40
    assert np.diff(history).min() > -1e-10  # rounding
    assert history[-1] > history[0] + 0.01
    log_prior = em.log_prior(model.mixture(), covariance, model.prior()) / len(x)
    assert float(model.log_prob(x).value.mean()) + log_prior >= history[-1] - 1e-10


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("shrinkage", [0.0, 3.0, None])
def test_objective_never_falls_on_singular_data(covariance, shrinkage):
    """More components than the data carry, in flat directions: the floor is part of the maximum."""
    x = clusters(80, d=2, k=2)
    x = torch.cat([x, x[:, :1], torch.ones(80, 1)], 1)
    model = GaussianMixture(points(4), components=12, covariance=covariance, shrinkage=shrinkage, tolerance=0.0)
    history = np.array(trained(model, chunks(x), steps=60))
    assert np.isfinite(history).all()
    assert np.diff(history).min() > -1e-6  # log-densities of about +20 at variances of 1e-6


@pytest.mark.parametrize("covariance", KINDS)
def test_scikit_learn_at_the_same_start(covariance):
    x, K, steps, floor = clusters(1500, d=4, k=4, apart=2.0), 5, 25, 1e-10
    settings = {"components": K, "regularisation": floor, "shrinkage": 0.0, "tolerance": 0.0}
    model = GaussianMixture(points(4), covariance=covariance, **settings)
    model._begin(rows := mixture.Rows(), chunks(x), rng())
    first = model.mixture()
    centre = model.centre
    if covariance in ("full", "tied"):
        precisions = torch.linalg.inv(first.factor @ first.factor.mT)
    else:
        precisions = first.factor.square().reciprocal().reshape((K, 4) if covariance == "diagonal" else (K,))
    begun = {"weights_init": first.weights.numpy().copy(), "means_init": (first.means + centre).numpy()}
    begun["precisions_init"] = precisions.numpy()
    reference = Reference(K, covariance_type=NAMES[covariance], tol=0.0, reg_covar=floor, max_iter=steps, **begun)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        reference.fit(x.numpy())
    for _ in range(steps):
        model._step((c, y, rows.outside[c]) for c, y in rows.coordinates.items())
    assert float(model.likelihoods[0]) == pytest.approx(reference.lower_bound_, rel=1e-6)
    np.testing.assert_allclose(model.log_prob(x).value, reference.score_samples(x.numpy()), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(model.means[0] + centre, reference.means_, rtol=1e-6, atol=1e-6)
    spread = {"full": 10 * K, "tied": 10, "diagonal": 4 * K, "spherical": K}[covariance]
    assert model.free_parameters == reference._n_parameters() == K * 4 + spread + K - 1
    assert model.bic(x) == pytest.approx(reference.bic(x.numpy()), rel=1e-6)
    assert model.aic(x) == pytest.approx(reference.aic(x.numpy()), rel=1e-6)


def covariances(mixture: em.Mixture, covariance: str, q: int) -> torch.Tensor:
    """Of the components, as matrices (K, q, q)."""
    factor = mixture.factor if covariance in ("full", "tied") else torch.diag_embed(mixture.factor.expand(-1, q))
    return (factor @ factor.mT).expand(len(mixture.weights), q, q)


def projected(S: torch.Tensor, covariance: str) -> torch.Tensor:
    """The nearest covariance of a kind."""
    if covariance in ("full", "tied"):
        return S
    diagonal = S.diagonal()
    return torch.diag(diagonal.mean().expand(len(S)) if covariance == "spherical" else diagonal)


@pytest.mark.parametrize("covariance", KINDS)
def test_one_component_is_the_closed_form(covariance):
    x, nu = clusters(50, d=4), 12.0
    history = trained(model := GaussianMixture(points(4), components=1, covariance=covariance, shrinkage=nu), chunks(x))
    assert len(history) == 2 and bool(model.converged.all())  # the first M step is the maximum; the second gains nothing
    S, n = x.T.cov(correction=0), len(x)
    centre = projected((n * S + nu * torch.diag(S.diagonal())) / (n + nu), covariance)
    truth = (n * projected(S, covariance) + nu * centre) / (n + nu)
    np.testing.assert_allclose(covariances(model.mixture(), covariance, 4)[0], truth, rtol=1e-9, atol=1e-9)


def test_prior_is_the_inverse_wishart():
    """Differences of the log-prior are those of scipy's inverse Wishart, whose mode is Sigma_0."""
    q, nu, draw = 3, 9.5, torch.Generator().manual_seed(0)
    prior = em.Prior(nu, torch.linalg.cholesky(torch.randn(9, q, generator=draw).double().T.cov()))
    centre, ours, truth = (prior.factor @ prior.factor.T).numpy(), [], []
    for _ in range(2):
        each = torch.stack([torch.randn(9, q, generator=draw).double().T.cov() for _ in range(4)])
        mixture = em.Mixture(torch.ones(4) / 4, torch.zeros(4, q).double(), torch.linalg.cholesky(each))
        ours.append(em.log_prior(mixture, "full", prior))
        truth.append(sum(invwishart(nu - q - 1, nu * centre).logpdf(S) for S in each.numpy()))
    assert abs(truth[1] - truth[0]) > 1e-3
    assert ours[1] - ours[0] == pytest.approx(truth[1] - truth[0], rel=1e-9)
    at_mode = em.Mixture(torch.ones(1), torch.zeros(1, q).double(), prior.factor[None])
    assert em.log_prior(at_mode, "full", prior) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("covariance", KINDS)
def test_converges_to_a_stationary_posterior(covariance):
    """The gradient of log-likelihood plus log-prior, written out with dense matrices, vanishes where EM ends."""
    x, nu, q = clusters(60, d=2, k=2, apart=1.5), 5.0, 2
    model = GaussianMixture(points(q), components=2, covariance=covariance, shrinkage=nu, tolerance=1e-15)
    trained(model, chunks(x), steps=3000)
    fitted, y = model.mixture(), x - model.centre
    prior = model.prior().factor
    centre = prior @ prior.T if covariance in ("full", "tied") else torch.diag(prior.expand(q).square())
    means, factor = fitted.means.clone().requires_grad_(), fitted.factor.clone().requires_grad_()
    S = covariances(em.Mixture(fitted.weights, means, factor), covariance, q)
    joint = torch.distributions.MultivariateNormal(means, S).log_prob(y[:, None]) + fitted.weights.log()
    kernel = -0.5 * nu * (S.logdet() + (centre @ torch.linalg.inv(S)).diagonal(dim1=1, dim2=2).sum(1))
    log_prior = kernel[0] if covariance == "tied" else kernel.sum()
    (of_prior,) = torch.autograd.grad(log_prior, factor, retain_graph=True)
    gradients = torch.autograd.grad(torch.logsumexp(joint, 1).sum() + log_prior, (means, factor))
    assert max(float(gradient.tril().abs().max()) for gradient in gradients) < 1e-4
    assert float(of_prior.tril().abs().max()) > 1e-2  # the two parts balance, neither vanishes


@pytest.mark.parametrize("covariance", KINDS)
def test_prior_is_pooled_over_components(covariance):
    x, nu, label = clusters(40, d=3), 6.0, torch.arange(40) % 3
    sums = em.Sums(3, 3, covariance, x.device)
    sums.add(x, lambda block: (torch.nn.functional.one_hot(label, 3).double(), torch.zeros(40)))
    inside = torch.cat([x[label == k] - x[label == k].mean(0) for k in range(3)])
    W = inside.T @ inside / 40
    truth = projected((40 * W + nu * torch.diag(W.diagonal())) / (40 + nu), covariance)
    factor = em.pooled_prior(sums, nu, 1e-6).factor
    found = factor @ factor.T if covariance in ("full", "tied") else torch.diag(factor.expand(3).square())
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-9)


def test_many_rows_have_no_prior():
    x = clusters(240)  # 80 rows a component, 3 dimensions
    trained(free := GaussianMixture(points(3), components=3, shrinkage=0.0), chunks(x))
    trained(default := GaussianMixture(points(3), components=3), chunks(x))
    assert torch.equal(free.factors, default.factors)
    assert [em.default_shrinkage(n, 3, 8, "full") for n in (24, 60, 96)] == [8.0, 4.0, 0.0]
    assert [em.default_shrinkage(n, 3, 8, "tied") for n in (8, 20, 32)] == [8.0, 4.0, 0.0]
    assert em.default_shrinkage(1, 1, 8, "diagonal") == em.default_shrinkage(1, 1, 8, "spherical") == 0.0


def test_bic_finds_the_number_of_components():
    x = clusters(600, d=2, k=3, apart=6.0, seed=2)
    scores = {}
    for K in range(1, 6):
        trained(model := GaussianMixture(points(2), components=K, restarts=2), chunks(x, size=600))
        scores[K] = model.bic(x)
    assert min(scores, key=lambda K: scores[K]) == 3


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("eigenspace", [None, 1, 2])
def test_density_integrates_to_one(covariance, eigenspace):
    x = clusters(400, d=2, k=3, apart=2.0)
    trained(model := GaussianMixture(points(2), components=3, covariance=covariance, eigenspace=eigenspace), chunks(x))
    axis = torch.linspace(-16, 16, 641, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis) + x.mean(0)
    mass = float(model.log_prob(grid).value.exp().sum() * (axis[1] - axis[0]) ** 2)
    assert mass == pytest.approx(1, abs=1e-5)


def test_samples_without_noise_lie_in_the_eigenspace():
    trained(model := GaussianMixture(points(5), components=3, eigenspace=2), chunks(clusters(300, d=5, k=3)))

    def outside(noise: bool) -> torch.Tensor:
        centred = model.sample(50, generator=0, noise=noise).double() - model.centre
        return (centred - centred @ model.basis.T @ model.basis).norm(dim=1)

    assert float(outside(False).max()) < 1e-5 and float(outside(True).min()) > 0.1  # float32


def test_eigenspace_density_is_exact():
    x = clusters(500, d=5, k=3)
    trained(model := GaussianMixture(points(5), components=3, eigenspace=2), chunks(x))
    v, s2 = model.basis, model.noise_variance
    truth = 0.0
    for w, m, L in zip(model.weights[0], model.means[0], model.factors[0], strict=True):
        covariance = v.T @ (L @ L.T) @ v + s2 * (torch.eye(5).double() - v.T @ v)
        truth = truth + float(w) * multivariate_normal(model.centre + m @ v, covariance).pdf(x)
    np.testing.assert_allclose(model.log_prob(x).value, np.log(truth), rtol=1e-9)


def test_whole_eigenspace_is_the_plain_mixture():
    x = clusters(300, d=4)
    trained(turned := GaussianMixture(points(4), components=1, eigenspace=4), chunks(x))
    plain = Gaussian(points(4))
    plain.players()[0].update(chunks(x), rng())
    np.testing.assert_allclose(turned.log_prob(x).value, plain.log_prob(x).value, rtol=1e-9)
    trained(turned := GaussianMixture(points(4), components=3, eigenspace=4), chunks(x))
    trained(whole := GaussianMixture(points(4), components=3), chunks(x))
    np.testing.assert_allclose(turned.log_prob(x).value, whole.log_prob(x).value, rtol=1e-7)  # EM turns with the axes


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("eigenspace", [None, 2])
def test_samples_have_the_density(covariance, eigenspace):
    """The mean and covariance of 100,000 samples are those of the mixture, to 5 standard errors (of a Gaussian's)."""
    x = clusters(500, d=3, k=2, apart=1.0)
    trained(model := GaussianMixture(points(3), components=2, covariance=covariance, eigenspace=eigenspace), chunks(x))
    n, fitted = 100_000, model.mixture()
    factor = fitted.factor if covariance in ("full", "tied") else torch.diag_embed(fitted.factor.expand(2, model.q))
    second = (factor @ factor.mT).expand(2, model.q, model.q) + fitted.means[:, :, None] * fitted.means[:, None]
    mean = fitted.weights @ fitted.means
    truth = (fitted.weights[:, None, None] * second).sum(0) - torch.outer(mean, mean)
    if eigenspace:
        v = model.basis
        mean, truth = mean @ v, v.T @ truth @ v + model.noise_variance * (torch.eye(3).double() - v.T @ v)
    drawn = model.sample(n, generator=torch.Generator().manual_seed(3)).double()
    scale = (truth.square() + torch.outer(truth.diagonal(), truth.diagonal())).sqrt()
    assert float(((drawn.T.cov(correction=0) - truth).abs() / scale).max()) < 5 / math.sqrt(n)
    error = (drawn.mean(0) - model.centre - mean).abs() / truth.diagonal().sqrt()
    assert float(error.max()) < 5 / math.sqrt(n)


@pytest.mark.parametrize(("covariance", "eigenspace"), [("full", None), ("tied", 5), ("spherical", None)])
def test_rows_do_not_depend_on_their_neighbours(covariance, eigenspace):
    codes, y, spec = digits()
    model = GaussianMixture(spec, covariance=covariance, eigenspace=eigenspace)
    trained(model, chunks(codes.float() / 8 - 1, y), steps=2)
    many = model.sample(12, generator=SampleRng(5))
    for k in (0, 4, 11):
        np.testing.assert_allclose(model.sample(1, generator=SampleRng(5, first=k))[0], many[k], atol=1e-6)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("eigenspace", [None, 2])
def test_resumes_from_its_state(stream, eigenspace, monkeypatch):
    """A fresh process goes on where the state was, to the bit, whether the data were kept in memory or not."""
    x, y = clusters(500).float(), torch.arange(500) % 2
    if stream:
        monkeypatch.setattr(mixture, "MEMORY", x.nbytes // 3)
    spec = points(3, condition=Condition("class", 2))
    settings = {"components": 3, "eigenspace": eigenspace, "shrinkage": 5.0, "tolerance": 0.0}
    model, batches = GaussianMixture(spec, **settings), chunks(x, y, 64)
    (player,) = model.players()
    for step in range(3):
        player.update(batches, rng(step))
    assert bool(model.streams) == stream
    again = GaussianMixture(spec, **settings)
    again.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    assert torch.equal(again.log_prob(x).value, model.log_prob(x).value)
    (other,) = again.players()
    for step in range(3, 6):
        terms = player.update(batches, rng(step)).terms
        assert other.update(iter(batches), rng(step + 100)).terms == terms
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_streaming_is_the_same_pass():
    """Kept in memory or read again, one pass is the same sums."""
    x = clusters(500)
    model = GaussianMixture(points(3), components=3, tolerance=0.0)
    trained(model, chunks(x), steps=1)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    (player,) = model.players()
    kept = player.update(chunks(x), rng()).terms["log_likelihood"]
    means = model.means.clone()
    model.load_state_dict(state | {"streams": torch.tensor(True)})
    (player,) = model.players()
    assert player.update(chunks(x, size=7), rng()).terms["log_likelihood"] == pytest.approx(kept, rel=1e-12)
    np.testing.assert_allclose(model.means, means, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_thinned_rows_keep_the_proportions_of_classes(size, monkeypatch):
    """More data than memory, a rare class, batches that hold few of it; every 2^s-th row of each class is kept."""
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(2000, generator=generator) < 0.05).long()
    x = torch.arange(2000.0)[:, None].repeat(1, 3)
    monkeypatch.setattr(mixture, "MEMORY", 2000)
    raw, counts, complete = mixture.keep(chunks(x, y, size), 2)
    assert counts.tolist() == torch.bincount(y).tolist() and not complete
    for c in (0, 1):
        assert torch.equal(raw[c], x[y == c][:: 2 ** round(math.log2(float(counts[c]) / len(raw[c])))])
    assert sum(part.nbytes for part in raw.values()) <= 2000
    # and the model has the true frequencies, and their centre
    model = GaussianMixture(points(3, condition=Condition("class", 2)), components=1)
    trained(model, chunks(x + torch.randn(x.shape, generator=generator), y, size), steps=2)
    torch.testing.assert_close(model.frequencies, torch.bincount(y).double() / 2000)


def test_more_classes_than_memory_has_rows(monkeypatch):
    monkeypatch.setattr(mixture, "MEMORY", 100)
    raw, counts, complete = mixture.keep(chunks(torch.randn(400, 3), torch.arange(400) % 40, 64), 40)
    assert counts.tolist() == [10] * 40 and not complete and all(len(raw[c]) == 1 for c in range(40))


def test_restarts_are_chosen_by_likelihood():
    x = clusters(200, d=2, k=6, apart=3.0, seed=5)

    def reached(restarts: int, seed: int) -> float:
        begun, _ = em.start(x, 6, "full", 1e-6, 0.0, restarts, rng(seed))
        sums = em.Sums(6, 2, "full", x.device)
        sums.add(x, em.posterior(begun, "full"))
        return float(sums.likelihood)

    assert all(reached(4, seed) >= reached(1, seed) for seed in range(3))


def test_the_prior_is_that_of_the_first_start():
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)).double()
    stream, each = rng(), []
    for _ in range(4):
        each.append(em.start(x, 5, "full", 1e-6, 20.0, 1, stream)[1].factor)
    assert not torch.allclose(each[0], each[-1], rtol=1e-2)
    for restarts in (1, 2, 4):
        assert torch.equal(em.start(x, 5, "full", 1e-6, 20.0, restarts, rng())[1].factor, each[0])


@pytest.mark.parametrize("seed", [5, 10, 11])
def test_restarts_are_chosen_by_their_posterior(seed):
    """Under a strong prior, of starts whose order by likelihood is another: the one whose posterior is highest."""
    x, K, nu = clusters(40, d=2, k=6, apart=2.0, seed=seed), 4, 20.0
    stream, prior, found = rng(), None, []
    for _ in range(5):
        centres = em.k_means(x, K, stream)
        label = torch.nn.functional.one_hot(torch.cdist(x, centres).argmin(1), K).double()
        sums = em.sums_of(x, lambda block, label=label: (label, torch.zeros(len(block)).double()), K, "full")
        prior = prior or em.pooled_prior(sums, nu, 1e-6)
        one = em.maximisation(sums, 1e-6, prior)
        for _ in range(em.SHORT):
            sums = em.sums_of(x, em.posterior(one, "full"), K, "full")
            likelihood, log_prior = float(sums.likelihood), em.log_prior(one, "full", prior)
            one = em.maximisation(sums, 1e-6, prior, one)
        found.append((likelihood + log_prior, likelihood, one))
    chosen, by_likelihood = max(found, key=lambda one: one[0]), max(found, key=lambda one: one[1])
    assert chosen is not by_likelihood
    torch.testing.assert_close(em.start(x, K, "full", 1e-6, nu, 5, rng())[0].means, chosen[2].means)


def test_k_means_sees_rows_from_everywhere(monkeypatch):
    """Of sorted clusters, each has a centre, also where only a part of the rows is looked at."""
    monkeypatch.setattr(em, "START_ROWS", 100)
    middles = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]]).double()
    noise = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    centres = em.k_means(middles.repeat_interleave(200, 0) + noise, 3, rng())
    assert float(torch.cdist(middles, centres).amin(1).max()) < 1.0


def test_an_empty_component_stays_where_the_worst_row_is_well_explained():
    """Moved there it would gain the row less than the nat that its weight costs all rows together."""
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).clamp(-2, 2).double()
    one = em.Mixture(torch.tensor([1.0, 0.0]).double(), torch.zeros(2, 1).double(), torch.ones(2, 1, 1).double())
    sums = em.sums_of(x, em.posterior(one, "full"), 2, "full")
    assert em.reseed(sums, one, em.Prior(0.0, torch.eye(1).double())) is one


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("shrinkage", [0.0, 2.0])
def test_empty_components_are_reseeded(covariance, shrinkage):
    x = torch.cat([clusters(200, d=2, k=1), clusters(20, d=2, k=1, seed=1) + 60])
    model = GaussianMixture(points(2), components=2, covariance=covariance, shrinkage=shrinkage, tolerance=0.0)
    trained(model, chunks(x), steps=1)
    model.weights.copy_(torch.tensor([[1.0, 0.0]]))
    model.means.zero_()
    if covariance != "tied":
        model.factors[0, 0] = model.factors[0, 1] * 10
    history = np.array(trained(model, chunks(x), steps=40))
    assert float(model.weights.min()) == pytest.approx(20 / 220, abs=1e-3)  # it has found the 20 that were far away
    assert np.diff(history).min() > -1e-10


@pytest.mark.parametrize("weight", [0.1, 0.3, 0.49])
def test_a_component_with_less_than_a_row_is_not_taken_away(weight):
    """It alone explains an outlier with less than half a row's weight: moved to a worse one, the likelihood would fall."""
    x = torch.cat([torch.randn(38, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([[30.0], [-60.0]])]).double()
    share = weight / len(x)
    for sd in (0.3, 1.0, 3.0):
        for broad in (5.0, 8.0, 12.0, 20.0):
            factors = torch.tensor([[[broad]], [[sd]]]).double()
            one = em.Mixture(torch.tensor([1 - share, share]).double(), torch.tensor([[0.0], [30.0]]).double(), factors)
            sums = em.Sums(2, 1, "full", x.device)
            sums.add(x, em.posterior(one, "full"))
            after = em.Sums(2, 1, "full", x.device)
            after.add(x, em.posterior(em.reseed(sums, one, em.Prior(0.0, torch.eye(1).double())), "full"))
            assert float(after.likelihood) >= float(sums.likelihood) - 1e-9


def test_fewer_rows_than_components():
    x = clusters(5)
    with pytest.raises(UserError, match="components=6"):
        trained(GaussianMixture(points(3), components=6), chunks(x))
    for components, used in ((5, 5), (None, 1)):  # the default is no number that anybody asked for
        trained(model := GaussianMixture(points(3), components=components), chunks(x))
        assert model.log_prob(x).value.isfinite().all() and int(model.used) == used


def held_out(x: torch.Tensor, new: torch.Tensor, **settings) -> float:
    """Mean log-likelihood of new rows, beside that of one Gaussian of maximum likelihood."""
    trained(model := GaussianMixture(points(x.shape[1]), **settings), chunks(x))
    plain = Gaussian(points(x.shape[1]))
    plain.players()[0].update(chunks(x), rng())
    return float((model.log_prob(new).value - plain.log_prob(new).value).mean())


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize(("rows", "used"), [(8, 1), (20, 2), (40, 4), (100, 10)])
def test_few_rows_are_no_spikes(rows, used, covariance):
    """Rows of one Gaussian in two dimensions: by default new data are as likely as under one Gaussian, but for 1.5 nats."""
    for seed in range(3):
        x, new = torch.randn(1000 + rows, 2, generator=torch.Generator().manual_seed(seed)).double().split([rows, 1000])
        trained(model := GaussianMixture(points(2), covariance=covariance), chunks(x))
        assert int(model.used) == used
        assert held_out(x, new, covariance=covariance) > -1.5


@pytest.mark.parametrize(("covariance", "shrinkage"), [("full", None), ("tied", 8.0)])
@pytest.mark.parametrize(("rows", "components"), [(8, 8), (8, 6), (12, 10), (12, 5)])
def test_as_many_components_as_rows_keep_a_width(rows, components, covariance, shrinkage):
    """A number that was asked for is used: the prior that keeps its components from being spikes is no spike itself."""
    x, new = torch.randn(1000 + rows, 2, generator=torch.Generator().manual_seed(1)).double().split([rows, 1000])
    settings = {"covariance": covariance, "components": components, "shrinkage": shrinkage}
    assert held_out(x, new, **settings) > -2.0
    trained(model := GaussianMixture(points(2), **settings), chunks(x))
    assert int(model.used) == components
    S = x.T.cov(correction=0)
    nu = float(model.prior_rows)
    truth = (rows * S + nu * torch.diag(S.diagonal())) / (rows + nu)
    torch.testing.assert_close(model.prior_factors[0] @ model.prior_factors[0].T, truth)


@pytest.mark.parametrize("covariance", KINDS)
def test_rare_and_empty_classes(covariance):
    spec = points(3, condition=Condition("class", 3))
    x, y = clusters(60), torch.tensor([0] * 59 + [1])  # class 2 is empty
    model = GaussianMixture(spec, covariance=covariance)
    trained(model, chunks(x, y))
    assert model.weights[1].tolist() == [1.0, 0.0, 0.0]
    for c in range(3):
        drawn = model.sample(6, condition=torch.full((6,), c), generator=0)
        assert model.log_prob(drawn, condition=torch.tensor([c])).value.isfinite().all()
    assert model.log_prob(x).value.isfinite().all()
    assert bool(model.converged.all())
    assert float((model.sample(50, condition=torch.tensor([1]), generator=0) - x[59]).abs().max()) < 0.006


def test_classes_marginalise():
    codes, y, spec = digits()
    x = codes.double() / 8 - 1
    trained(model := GaussianMixture(spec, eigenspace=20, regularisation=1e-2), chunks(x, y), steps=5)
    joint = torch.stack([model.log_prob(x[:50], condition=torch.tensor([c])).value for c in range(10)], 1)
    marginal = torch.logsumexp(joint + model.frequencies.log(), 1)
    np.testing.assert_allclose(model.log_prob(x[:50]).value, marginal, rtol=1e-12)
    np.testing.assert_allclose(model.log_prob(x[:50], condition=y[:50]).value, joint[torch.arange(50), y[:50]], rtol=1e-12)
    assert float((joint.argmax(1) == y[:50]).float().mean()) > 0.95
    drawn = model.sample(4, condition=torch.tensor([7]), generator=0)
    assert drawn.shape == (4, 1, 8, 8) and drawn.dtype == torch.float32
    assert capabilities(model) == ["samples", "density"]


def test_few_rows_in_many_dimensions_of_digits():
    """Forty rows a component in 64 dimensions: a classifier trained on samples knows real digits that neither has seen, and
    new digits are dense (2.59 bits a dimension as measured; 237 without a prior; one Gaussian for all 2.98)."""
    codes, y, spec = digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    data = Batches(ArraySplit(codes[train], y[train]), spec, 100, dequantise=True)
    trained(model := GaussianMixture(spec), list(data.passes(500)), steps=100)
    assert float(model.prior_rows.min()) > 50
    held = torch.cat([batch.x for batch in Batches(ArraySplit(codes[test]), spec, 100, seed=1, dequantise=True).passes(500)])
    bits = -(float(model.log_prob(held).value.mean()) + data.units.log_det) / 64 / math.log(2)
    assert 2.3 < bits < 2.8
    asked = torch.arange(3000) % 10
    drawn = data.units.to_codes(model.sample(3000, condition=asked, generator=torch.Generator().manual_seed(0)))
    machine = SVC(gamma=1e-3).fit(drawn.flatten(1).numpy(), asked.numpy())
    assert machine.score(codes[test].flatten(1).numpy(), y[test].numpy()) >= 0.97


def test_many_dimensions_live_in_an_eigenspace():
    spec = DataSpec("image", (3, 40, 20))
    model = GaussianMixture(spec, components=2)
    x = torch.randn(120, 3, 40, 20, generator=torch.Generator().manual_seed(0))
    trained(model, chunks(x), steps=3)
    assert model.means.shape == (1, 2, 100)
    assert model.sample(2, generator=0).shape == (2, 3, 40, 20)
    assert model.log_prob(x[:3]).value.isfinite().all()


def test_gradient_of_the_density():
    x = clusters(200, d=2)
    trained(model := GaussianMixture(points(2), components=2), chunks(x), steps=3)
    at = x[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda at: model.log_prob(at).value, at)


def test_floored_cholesky():
    basis = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()).Q
    covariance = basis @ torch.diag(torch.tensor([3.0, 1.0, 1e-9, 0.0]).double()) @ basis.T
    factor = em.floored_cholesky(torch.stack([covariance, torch.eye(4).double()]), 1e-3)
    raised = basis @ torch.diag(torch.tensor([3.0, 1.0, 1e-3, 1e-3]).double()) @ basis.T
    np.testing.assert_allclose(factor[0] @ factor[0].T, raised, atol=1e-12)
    np.testing.assert_allclose(factor[1], torch.eye(4), atol=1e-12)
    assert bool((factor.diagonal(dim1=1, dim2=2) > 0).all()) and not factor.triu(1).any()


def test_errors():
    with pytest.raises((UserError, jaxtyping.TypeCheckError), match="full"):  # the tests' own type checker comes first
        GaussianMixture(points(3), covariance="ful")
    with pytest.raises(UserError, match="shrinkage=-1"):
        GaussianMixture(points(3), shrinkage=-1.0)
    with pytest.raises(UserError, match="label=none"):
        GaussianMixture(points(3, condition=Condition("vector", 4)))
    with pytest.raises(UserError, match="eigenspace=100"):
        GaussianMixture(DataSpec("image", (3, 64, 64)), eigenspace=12288)
    with pytest.raises(UserError, match="come without"):
        trained(GaussianMixture(points(3, condition=Condition("class", 2))), chunks(clusters(9)))
