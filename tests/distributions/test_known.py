"""Known densities and inversion: they integrate to 1, scores are their gradients, draws have their law."""

import math

import pytest
import scipy.stats
import torch
from torch.distributions import Categorical, Gamma, MixtureSameFamily, MultivariateNormal, Normal, StudentT

from pushforward.data import toys
from pushforward.distributions.inverse_cdf import Tabulated, bisect, draw, quantile, uniforms
from pushforward.distributions.known import Banana, Mixture, Ring, mixture_of_toy, two_far_modes
from pushforward.errors import UserError
from pushforward.randomness import SampleRng, UpdateRng


def skewed() -> Mixture:
    covariances = torch.tensor([[[1.0, 0.6], [0.6, 0.8]], [[0.3, -0.1], [-0.1, 0.5]]])
    return Mixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0, 0.5], [2.0, -1.0]]), covariances)


DENSITIES = {
    "mixture": skewed(),
    "far modes": two_far_modes(),
    "ring": Ring(3.0, 0.4),
    "disc": Ring(0.0, 1.0),
    "banana": Banana(),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_it_integrates_to_one_and_its_score_is_its_gradient(name):
    density = DENSITIES[name]
    axis = torch.linspace(-12, 30, 1401, dtype=torch.float64)
    across = torch.linspace(-14, 14, 1401, dtype=torch.float64)
    grid = torch.cartesian_prod(across, axis)
    mass = density.log_prob(grid).exp().sum() * (across[1] - across[0]) * (axis[1] - axis[0])
    assert float(mass) == pytest.approx(1, abs=1e-4)  # the disc's kink at the origin has an error of h^2
    x = density.sample(50, SampleRng(0)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    torch.testing.assert_close(density.score(x.detach()), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_have_the_law_and_rows_do_not_depend_on_n(name):
    density = DENSITIES[name]
    x = density.sample(4000, SampleRng(3))
    torch.testing.assert_close(density.sample(5, SampleRng(3, first=7)), x[7:12])
    assert x.dtype == torch.float32
    # E score = 0 and E x.score = -d (integration by parts), within four standard errors
    x = x.double()
    score = density.score(x)
    for statistic in (score[:, 0], score[:, 1], (x * score).sum(1) + 2):
        assert abs(float(statistic.mean())) < 4 * float(statistic.std()) / 4000**0.5


def test_a_mixture_is_torchs():
    mixture = skewed()
    parts = MultivariateNormal(mixture.means, mixture.covariances)
    x = torch.randn(30, 2).double()
    torchs = MixtureSameFamily(Categorical(mixture.weights), parts)
    torch.testing.assert_close(mixture.log_prob(x), torchs.log_prob(x))
    noised = mixture.noised(1.3)
    z = mixture.sample(20_000, SampleRng(0)).double() + 1.3 * torch.randn(20_000, 2)
    likelihood = noised.log_prob(z)
    entropy = noised.log_prob(noised.sample(20_000, SampleRng(1)).double())
    assert abs(float(likelihood.mean() - entropy.mean())) < 4 * float(likelihood.std()) * (2 / 20_000) ** 0.5
    with pytest.raises(UserError, match="positive definite"):
        Mixture(torch.ones(1), torch.zeros(1, 2), torch.zeros(1, 2, 2))
    with pytest.raises(UserError, match="probabilities"):
        Mixture.round([0.5, 0.6], [[0.0], [1.0]], 1.0)


@pytest.mark.parametrize("name", ["ring8", "grid25", "eight-gaussians"])
def test_toys_made_of_gaussians_have_the_toys_density(name):
    mixture = mixture_of_toy(name)
    x = mixture.sample(200, SampleRng(0)).double()
    torch.testing.assert_close(mixture.log_prob(x), toys.log_density(name, x), rtol=1e-4, atol=2e-3)  # centres are float32
    with pytest.raises(UserError, match="no separate modes"):
        mixture_of_toy("moons")


def test_uniforms_are_open_and_fine():
    u = uniforms(UpdateRng(torch.Generator().manual_seed(0)), 100_000)
    assert u.dtype == torch.float64 and u.min() > 0 and u.max() < 1 and len(u.unique()) == len(u)
    assert scipy.stats.kstest(u.numpy(), "uniform").pvalue > 1e-3


def test_bisection_inverts_to_the_last_bits():
    u = uniforms(SampleRng(0), 500)
    far = Normal(torch.tensor(1e3).double(), torch.tensor(2.0).double())
    torch.testing.assert_close(bisect(far.cdf, u), far.icdf(u), rtol=1e-12, atol=1e-9)
    steps = bisect(lambda x: (x >= 2).double() * 0.25 + (x >= 5).double() * 0.75, u)
    assert set(steps.tolist()) == {2.0, 5.0} and ((steps == 2) == (u <= 0.25)).all()
    with pytest.raises(UserError, match="rise from 0 to 1"):
        bisect(lambda x: 0.3 * torch.sigmoid(x), torch.tensor([0.5]).double())


@pytest.mark.parametrize(
    "law, reference",
    [
        (Normal(1.0, 2.0), scipy.stats.norm(1, 2)),  # its own quantile
        (Gamma(2.0, 3.0), scipy.stats.gamma(2, scale=1 / 3)),  # bisection, of a bounded support
    ],
)
def test_quantiles_are_scipys(law, reference):
    u = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.9, 0.99999]).double()
    torch.testing.assert_close(quantile(law, u), torch.from_numpy(reference.ppf(u.numpy())), rtol=1e-4, atol=1e-6)
    x = draw(law, 5000, SampleRng(2))
    assert scipy.stats.kstest(x.numpy(), reference.cdf).pvalue > 1e-3
    torch.testing.assert_close(draw(law, 3, SampleRng(2, first=10)), x[10:13])


def test_a_mixture_on_a_line_by_bisection():
    law = MixtureSameFamily(Categorical(torch.tensor([0.2, 0.8])), Normal(torch.tensor([-5.0, 5.0]), torch.ones(2)))
    x = draw(law, 5000, SampleRng(1))
    assert abs(float((x < 0).double().mean()) - 0.2) < 4 * (0.16 / 5000) ** 0.5
    assert scipy.stats.kstest(x.numpy(), lambda x: law.cdf(torch.from_numpy(x)).numpy()).pvalue > 1e-3
    with pytest.raises(UserError, match="tabulate"):
        quantile(StudentT(3.0), torch.tensor([0.5]).double())


def test_tabulated_inverts_exactly_and_converges():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    table = Tabulated(torch.tensor([0.0, 1.0, 1.5, 4.0]), torch.tensor([0.0, 2.0, 0.0, 1.0]))
    torch.testing.assert_close(table.cdf(table.icdf(u)), u, rtol=0, atol=1e-12)
    assert table.icdf(u).diff().min() >= 0 and float(table.icdf(u)[-1]) == 4
    errors = [
        float(
            (Tabulated.of(lambda x: -(x**2) / 2, -9, 9, nodes).icdf(u[100:-100]) - Normal(0.0, 1.0).icdf(u[100:-100]))
            .abs()
            .max()
        )
        for nodes in (51, 101, 201)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3) and errors[1] / errors[2] == pytest.approx(4, rel=0.3)
    with pytest.raises(UserError, match="rising nodes"):
        Tabulated(torch.tensor([0.0, 0.0]), torch.ones(2))
    assert math.isfinite(float(table.icdf(torch.zeros(1).double())))
