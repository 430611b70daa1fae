"""The Gaussian against scikit-learn's PCA and scipy's density; its samples, directions and edge cases."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.classical.gaussian import Gaussian
from pushforward.models.classical.moments import Moments, leading
from pushforward.models.contract import capabilities
from pushforward.randomness import SampleRng


def points(d: int, **settings) -> DataSpec:
    return DataSpec("point", (d,), **settings)


def fitted(model: Gaussian, x: torch.Tensor, condition: torch.Tensor | None = None, chunk: int = 100) -> Gaussian:
    parts = range(0, len(x), chunk)
    batches = (Batch(x[i : i + chunk], None if condition is None else condition[i : i + chunk]) for i in parts)
    (player,) = model.players()
    update = player.update(batches, SampleRng(0))
    assert update.finished
    value = model.log_prob(x, condition=condition).value.mean()
    assert update.terms["log_likelihood"] == pytest.approx(float(value), rel=1e-9, abs=1e-9)
    return model


def correlated(n: int, d: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3 * rng.standard_normal(d))


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x / 8 - 1).view(-1, 1, 8, 8), torch.from_numpy(y)


@pytest.mark.parametrize(("n", "d"), [(500, 12), (30, 80), (80, 80)])
def test_pca_of_scikit_learn(n, d):
    x, k = correlated(n, d), 5
    model = fitted(Gaussian(points(d), components=k), x)
    pca = PCA(k, svd_solver="full").fit(x.numpy())
    unbiased = (n - 1) / n  # scikit-learn divides by n - 1, maximum likelihood by n
    np.testing.assert_allclose(model.eigenvalues, pca.explained_variance_ * unbiased, rtol=1e-9)
    np.testing.assert_allclose(float(model.noises[0]), pca.noise_variance_ * unbiased * _rank_share(n, d, k), rtol=1e-9)
    overlap = torch.linalg.svdvals(model.all_directions[0] @ torch.from_numpy(pca.components_).T)
    np.testing.assert_allclose(overlap, 1, atol=1e-10)


def _rank_share(n: int, d: int, k: int) -> float:
    """scikit-learn averages the discarded eigenvalues over min(n, d) - k of them, zeros beyond the rank left out."""
    return (min(n, d) - k) / (d - k)


def test_score_of_probabilistic_pca():
    x = digits()[0].flatten(1)
    model = fitted(Gaussian(points(64), components=20), x)
    pca = PCA(20, svd_solver="full").fit(x.numpy())
    assert float(model.log_prob(x).value.mean()) == pytest.approx(pca.score(x.numpy()), rel=1e-4)


def test_density_of_scipy():
    x = correlated(400, 6)
    model = fitted(Gaussian(points(6)), x)
    truth = multivariate_normal(x.mean(0), np.cov(x.T, bias=True))
    np.testing.assert_allclose(model.log_prob(x).value, truth.logpdf(x), rtol=1e-10)
    part = fitted(Gaussian(points(6), components=2), x)
    v, s = part.all_directions[0], part.eigenvalues
    covariance = v.T @ torch.diag(s - part.noises[0]) @ v + part.noises[0] * torch.eye(6).double()
    np.testing.assert_allclose(part.log_prob(x).value, multivariate_normal(x.mean(0), covariance).logpdf(x), rtol=1e-10)


def test_probabilistic_pca_is_a_maximum():
    """Turning the directions or changing the noise only lowers the likelihood of the training data."""
    x = correlated(300, 5)
    model = fitted(Gaussian(points(5), components=2), x)
    best = float(model.log_prob(x).value.mean())
    for factor in (0.97, 1.03):
        model.noises *= factor
        assert float(model.log_prob(x).value.mean()) < best
        model.noises /= factor
    turn = torch.linalg.matrix_exp(0.02 * torch.triu(torch.ones(5, 5, dtype=torch.float64), 1).sub(torch.ones(5, 5).tril(-1)))
    model.all_directions.copy_(model.all_directions @ turn)
    assert float(model.log_prob(x).value.mean()) < best


@pytest.mark.parametrize("components", [None, 1])
def test_density_integrates_to_one(components):
    model = fitted(Gaussian(points(2), components=components), correlated(200, 2))
    reach = 8 * float(model.eigenvalues[0].sqrt())
    axis = torch.linspace(-reach, reach, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis) + model.means[0]
    mass = float(model.log_prob(grid).value.exp().sum() * (axis[1] - axis[0]) ** 2)
    assert mass == pytest.approx(1, abs=1e-6)  # the trapezoid rule is exact to all digits for a Gaussian well inside


@pytest.mark.parametrize("components", [None, 2])
def test_samples_have_the_covariance(components):
    """The covariance of n samples has the standard error (S_ij^2 + S_ii S_jj)^(1/2) / n^(1/2): 5 of them at both sizes."""
    model = fitted(Gaussian(points(4), components=components), correlated(500, 4))
    v, noise = model.all_directions[0], model.noises[0]
    truth = v.T @ torch.diag(model.eigenvalues) @ v + noise * (torch.eye(4).double() - v.T @ v)
    for n in (1_000, 100_000):
        x = model.sample(n, generator=torch.Generator().manual_seed(1)).double()
        error = (x.T.cov(correction=0) - truth).abs()
        scale = (truth.square() + torch.outer(truth.diagonal(), truth.diagonal())).sqrt()
        assert float((error / scale).max()) < 5 / math.sqrt(n)
        assert float(((x.mean(0) - model.means[0]) / truth.diagonal().sqrt()).abs().max()) < 5 / math.sqrt(n)


def test_codes():
    x = correlated(300, 6).float()
    model = fitted(Gaussian(points(6), components=3), x.double())
    z = model.encode(x)
    np.testing.assert_allclose(z.T.cov(correction=0), torch.eye(3), atol=1e-4)
    np.testing.assert_allclose(model.encode(model.decode(z)), z, atol=1e-4)
    whole = fitted(Gaussian(points(6)), x.double())
    np.testing.assert_allclose(whole.decode(whole.encode(x)), x, atol=1e-4)
    smooth = model.sample(5, generator=3, noise=False)
    np.testing.assert_allclose(model.decode(model.draw_codes(5, generator=3)), smooth, atol=1e-5)
    assert capabilities(model) == ["samples", "density", "encodes", "decodes"]
    assert model.directions.shape == (3, 6)


def test_rows_do_not_depend_on_their_neighbours():
    x, y = digits()
    spec = DataSpec("image", (1, 8, 8), Condition("class", 10), levels=17)
    model = fitted(Gaussian(spec, components=7), x, y)
    many = model.sample(12, generator=SampleRng(5))
    for k in (0, 4, 11):
        np.testing.assert_allclose(model.sample(1, generator=SampleRng(5, first=k))[0], many[k], atol=1e-6)


def test_classes():
    x, y = digits()
    spec = DataSpec("image", (1, 8, 8), Condition("class", 10), levels=17)
    model = fitted(Gaussian(spec, components=30), x, y)
    one = fitted(Gaussian(DataSpec("image", (1, 8, 8)), components=30), x[y == 3])
    np.testing.assert_allclose(model.log_prob(x[:9], condition=torch.tensor([3])).value, one.log_prob(x[:9]).value, rtol=1e-9)
    pooled = fitted(Gaussian(DataSpec("image", (1, 8, 8)), components=30), x)
    np.testing.assert_allclose(model.eigenvalues, pooled.eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(model.encode(x[:5]), pooled.encode(x[:5]), atol=1e-8)
    joint = torch.stack([model.log_prob(x[:9], condition=torch.tensor([c])).value for c in range(10)], 1)
    share = torch.bincount(y).double() / len(y)
    np.testing.assert_allclose(model.log_prob(x[:9]).value, torch.logsumexp(joint + share.log(), 1), rtol=1e-12)
    asked = torch.arange(10)
    guessed = torch.stack(
        [
            model.log_prob(model.sample(10, condition=asked, generator=0).double(), condition=torch.tensor([c])).value
            for c in range(10)
        ]
    ).argmax(0)
    assert torch.equal(guessed, asked)  # a sample of a class is likeliest under that class


def test_few_rows_and_empty_classes():
    spec = points(40, condition=Condition("class", 3))
    x, y = correlated(12, 40), torch.tensor([0] * 11 + [1])
    model = fitted(Gaussian(spec), x, y)  # class 0 spans 10 of 40 directions, class 1 is one row, class 2 has none
    for c in range(3):
        drawn = model.sample(4, condition=torch.full((4,), c), generator=0)
        assert drawn.isfinite().all()
        assert model.log_prob(drawn, condition=torch.tensor([c])).value.isfinite().all()
    np.testing.assert_allclose(drawn.shape, (4, 40))
    one = model.sample(500, condition=torch.tensor([1]), generator=torch.Generator().manual_seed(0)).double()
    np.testing.assert_allclose((one - x[11]).square().mean(), 1e-6, rtol=0.05)  # the floor; 20,000 numbers: 1 % error
    for directions in model.all_directions:
        np.testing.assert_allclose(directions @ directions.T, torch.eye(40), atol=1e-12)
    assert model.sample(300, generator=1).isfinite().all()
    assert model.log_prob(x).value.isfinite().all()


def test_constant_pixels():
    x, _ = digits()  # the first pixel of every digit is 0
    model = fitted(Gaussian(DataSpec("image", (1, 8, 8))), x)
    assert float(model.all_values.min()) == 1e-6
    assert model.log_prob(x.float()).value.isfinite().all()
    x = model.sample(100, generator=0)
    assert float((x[:, 0, 0, 0] + 1).abs().max()) < 0.006  # six times the floor's standard deviation


def test_state_round_trip():
    x = correlated(50, 5)
    model = fitted(Gaussian(points(5), components=2), x)
    again = Gaussian(points(5), components=2)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.log_prob(x).value, model.log_prob(x).value)
    assert torch.equal(again.sample(3, generator=1), model.sample(3, generator=1))


def test_merged_moments():
    x = correlated(60, 10)
    whole, parts = Moments(x[0]), [Moments(x[0]) for _ in range(3)]
    whole.add(x)
    for part, rows in zip(parts, x.split([5, 50, 5]), strict=True):
        part.add(rows)
    for order in ([0, 1, 2], [1, 0, 2], [0, 2, 1]):
        merged = Moments(x[0])
        for i in order:
            merged.merge(parts[i])
        assert merged.n == 60
        np.testing.assert_allclose(merged.principal(4).values, whole.principal(4).values, rtol=1e-10)


def test_power_iteration_finds_the_leading_directions():
    x = correlated(200, 60)
    covariance = x.T.cov(correction=0)
    values, columns = leading(lambda block: covariance @ block, 60, 5, covariance)
    truth, vectors = torch.linalg.eigh(covariance)
    np.testing.assert_allclose(values, truth.flip(0)[:5], rtol=1e-7)
    np.testing.assert_allclose(torch.linalg.svdvals(columns.T @ vectors[:, -5:]), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5, 7), (4, 6, 6), (20, 3)])
def test_any_shape(shape):
    spec = DataSpec("image" if shape[0] < 5 else "series", shape)
    x = torch.randn(9, *shape, generator=torch.Generator().manual_seed(0))
    (player,) = (model := Gaussian(spec)).players()
    player.update([Batch(x)], SampleRng(0))
    assert model.sample(1, generator=0).shape == (1, *shape)
    assert model.log_prob(x[:1]).value.dtype == torch.float32
    assert model.directions.shape[1:] == shape


def test_gradient_of_the_density():
    model = fitted(Gaussian(points(3)), correlated(100, 3))
    x = correlated(4, 3, seed=1).requires_grad_()
    (score,) = torch.autograd.grad(model.log_prob(x).value.sum(), x)
    covariance = model.all_directions[0].T @ torch.diag(model.eigenvalues) @ model.all_directions[0]
    np.testing.assert_allclose(score, -torch.linalg.solve(covariance, (x.detach() - model.means[0]).T).T, rtol=1e-8)


def test_errors():
    with pytest.raises(UserError, match="label=none"):
        Gaussian(points(3, condition=Condition("attributes", 4)))
    with pytest.raises(UserError, match="1 to 3"):
        Gaussian(points(3), components=4)
    with pytest.raises(UserError, match="without classes"):
        Gaussian(points(3)).sample(2, condition=torch.tensor([1, 2]))
    with pytest.raises(UserError, match="numbered 0 to 1"):
        Gaussian(points(3, condition=Condition("class", 2))).sample(2, condition=torch.tensor([1, 2]))


@pytest.mark.parametrize("components", [1, 20, 60])
def test_reconstruction_error_is_the_discarded_spectrum(components):
    x = digits()[0]
    model = fitted(Gaussian(DataSpec("image", (1, 8, 8)), components=components), x)
    error = float((model.decode(model.encode(x)) - x).square().flatten(1).sum(1).mean())
    values = np.linalg.eigvalsh(np.cov(x.flatten(1).numpy().T, bias=True))[::-1]
    assert error == pytest.approx(values[components:].sum(), rel=1e-6, abs=1e-12)
