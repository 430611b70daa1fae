"""Divergences: agreement with scipy and torch.distributions, the conjugates and bounds of the f-GAN table, zeros."""

import decimal
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.spatial.distance
import scipy.special
import torch
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence

from pushforward.distributions.divergences import (
    F_DIVERGENCES,
    LOG2,
    alpha_divergence,
    f_divergence,
    hellinger,
    jensen_shannon,
    kl,
    monte_carlo,
    renyi,
    total_variation,
    variational_bound,
)
from pushforward.distributions.gaussians import gaussian_fisher, gaussian_hellinger, gaussian_kl, gaussian_w2
from pushforward.errors import UserError

ROWS = [*F_DIVERGENCES.values(), *(alpha_divergence(a) for a in (-1.0, -0.5, 0.3, 0.5, 1.5, 2.0, 3.0))]
NAMES = [row.name for row in ROWS]


def simplex(k: int, seed: int) -> torch.Tensor:
    u = torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.02
    return u / u.sum()


def two_gaussians(d: int = 3):
    generator = torch.Generator().manual_seed(5)
    roots = torch.randn(2, d, d, generator=generator, dtype=torch.float64)
    s0, s1 = roots @ roots.mT + 0.3 * torch.eye(d, dtype=torch.float64)
    m0, m1 = torch.randn(2, d, generator=generator, dtype=torch.float64)
    return m0, s0, m1, s1


def test_discrete_divergences_equal_scipy_and_their_definitions():
    p, q = simplex(7, 0), simplex(7, 1)
    P, Q = p.numpy(), q.numpy()
    expected = {
        "kl": scipy.special.rel_entr(P, Q).sum(),
        "reverse-kl": scipy.special.rel_entr(Q, P).sum(),
        "pearson": ((P - Q) ** 2 / Q).sum(),
        "neyman": ((P - Q) ** 2 / P).sum(),
        "squared-hellinger": ((P**0.5 - Q**0.5) ** 2).sum(),
        "jensen-shannon": scipy.spatial.distance.jensenshannon(P, Q) ** 2,
        "gan": 2 * scipy.spatial.distance.jensenshannon(P, Q) ** 2 - math.log(4),
        "total-variation": np.abs(P - Q).sum() / 2,
    }
    assert set(expected) == set(F_DIVERGENCES)
    for name, value in expected.items():
        assert float(f_divergence(name, p, q)) == pytest.approx(value, rel=1e-12), name
    assert float(kl(p, q)) == pytest.approx(float(kl_divergence(Categorical(p), Categorical(q))), rel=1e-12)
    assert float(hellinger(p, q)) ** 2 == pytest.approx(1 - np.sqrt(P * Q).sum(), rel=1e-12)
    assert float(renyi(p, q, 2.0)) == pytest.approx(math.log((P**2 / Q).sum()), rel=1e-12)
    assert float(renyi(p, q, 0.5)) == pytest.approx(-2 * math.log(np.sqrt(P * Q).sum()), rel=1e-12)
    # Renyi's is continuous at 1, with slope of order var(log p/q) / 2
    assert float(renyi(p, q, 1 + 1e-6)) == pytest.approx(float(kl(p, q)), abs=1e-5)
    # and alpha-divergences are the named ones at their points
    for alpha, name, factor in ((2.0, "pearson", 0.5), (-1.0, "neyman", 0.5), (0.5, "squared-hellinger", 2.0)):
        assert float(f_divergence(alpha_divergence(alpha), p, q)) == pytest.approx(factor * expected[name], rel=1e-12)


def test_zeros():
    p, q, far = (torch.tensor(v) for v in ([0.5, 0.5, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]))
    assert float(kl(p, q)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert kl(p, far) == math.inf and kl(far, p) == math.inf and f_divergence("reverse-kl", p, far) == math.inf
    assert f_divergence("pearson", p, far) == math.inf and f_divergence("neyman", p, far) == math.inf
    assert float(jensen_shannon(p, far)) == pytest.approx(math.log(2), rel=1e-12)
    assert float(total_variation(p, far)) == 1 and float(hellinger(p, far)) == pytest.approx(1)
    assert renyi(p, far, 0.5) == math.inf and renyi(p, far, 2.0) == math.inf
    assert float(renyi(far, far, 2.0)) == 0
    assert float(kl(torch.tensor([1.0]), torch.tensor([1.0]))) == 0
    both = jensen_shannon(torch.stack([p, p]), torch.stack([q, far]))
    assert both.shape == (2,) and both[1] == pytest.approx(math.log(2))


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_conjugate_derivative_and_activation_belong_to_f(row):
    """f*(f'(u)) = u f'(u) - f(u) (Fenchel's equality), f*(t) = sup_u u t - f(u) by search, f' by differentiation."""
    u = torch.linspace(0.2137, 5, 25, dtype=torch.float64, requires_grad=True)  # off the kink of total variation
    (derivative,) = torch.autograd.grad(row.f(u).sum(), u)
    t = row.derivative(u.detach())
    torch.testing.assert_close(t, derivative, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(row.conjugate(t), u.detach() * t - row.f(u.detach()), rtol=1e-8, atol=1e-9)
    fine = torch.logspace(-4, 4, 400_001, dtype=torch.float64)
    for point in t[::6]:
        assert float(row.conjugate(point)) == pytest.approx(float((fine * point - row.f(fine)).max()), abs=1e-6)
    assert float(row.f(torch.ones(1, dtype=torch.float64))) == pytest.approx(
        -math.log(4) if row.name == "gan" else 0, abs=1e-12
    )
    v = torch.linspace(-5, 5, 101, dtype=torch.float64)
    kept = row.activation(v)
    assert (kept.diff() > 0).all() and (kept > row.domain[0]).all() and (kept < row.domain[1]).all()
    assert row.conjugate(kept).isfinite().all()
    large = torch.tensor([1e12], dtype=torch.float64)
    if math.isfinite(row.slope):
        assert float(row.f(large) / large) == pytest.approx(row.slope, abs=2e-4)
    else:
        assert float(row.f(large) / large) > 10


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_the_variational_bound_is_below_and_reached(row):
    p, q = simplex(9, 2), simplex(9, 3)
    truth = float(f_divergence(row, p, q))
    best = row.derivative(p / q)
    assert float(variational_bound(row, best, best, p, q)) == pytest.approx(truth, rel=1e-9, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        t = row.activation(torch.randn(9, generator=generator, dtype=torch.float64))
        assert float(variational_bound(row, t, t, p, q)) <= truth + 1e-12


def test_from_draws_the_bound_is_a_mean():
    t = torch.tensor([0.1, 0.2, 0.3])
    weights = torch.full((3,), 1 / 3)
    assert float(variational_bound("kl", t, -t)) == pytest.approx(float(variational_bound("kl", t, -t, weights, weights)))


def test_gaussian_closed_forms():
    m0, s0, m1, s1 = two_gaussians()
    p, q = MultivariateNormal(m0, s0), MultivariateNormal(m1, s1)
    assert float(gaussian_kl(m0, s0, m1, s1)) == pytest.approx(float(kl_divergence(p, q)), rel=1e-10)
    import ot

    assert float(gaussian_w2(m0, s0, m1, s1)) == pytest.approx(
        float(ot.gaussian.bures_wasserstein_distance(m0.numpy(), m1.numpy(), s0.numpy(), s1.numpy())), rel=1e-6
    )
    generator = torch.Generator().manual_seed(1)
    x = m0 + torch.randn(400_000, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(s0).T
    scores = -torch.linalg.solve(s0, (x - m0).T).T + torch.linalg.solve(s1, (x - m1).T).T
    squares = scores.square().sum(1)
    # four standard errors of the mean
    assert float(gaussian_fisher(m0, s0, m1, s1)) == pytest.approx(float(squares.mean()), abs=4 * float(squares.std()) / 632)
    # one dimension by quadrature
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    overlap = (0.5 * (Normal(0.0, 1.0).log_prob(x) + Normal(1.0, 2.0).log_prob(x))).exp()
    ours = gaussian_hellinger(torch.zeros(1), torch.eye(1), torch.ones(1), 4 * torch.eye(1))
    assert float(ours) ** 2 == pytest.approx(1 - float(torch.trapezoid(overlap, x)), abs=1e-7)
    for divergence in (gaussian_kl, gaussian_w2, gaussian_hellinger, gaussian_fisher):
        # a root of a difference of terms near 10 that cancel to 1e-15
        assert float(divergence(m0, s0, m0, s0)) == pytest.approx(0, abs=3e-7)


def test_gaussian_w2_takes_singular_covariances_and_the_others_say_so():
    flat = torch.diag(torch.tensor([1.0, 0.0]))
    zero = torch.zeros(2)
    assert float(gaussian_w2(zero, flat, zero, 0 * flat)) == pytest.approx(1)
    for divergence in (gaussian_kl, gaussian_hellinger, gaussian_fisher):
        with pytest.raises(UserError, match="positive definite"):
            divergence(zero, torch.eye(2), zero, flat)
        skewed = torch.tensor([[1.0, 0.9], [-0.9, 1.0]])  # of which a Cholesky decomposition would read one half
        with pytest.raises(UserError, match="not symmetric"):
            divergence(zero, skewed, zero, torch.eye(2))
    rounded = torch.tensor([[1.0, 0.3], [0.3 + 1e-7, 1.0]])
    assert float(gaussian_kl(zero, rounded, zero, rounded)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_monte_carlo_is_within_its_error_of_the_truth(row):
    """Of two Gaussians on a line, against quadrature; four standard errors.

    Their widths differ by little, so that q^3 / p^2, the variance of the chi-squared ones, has an integral with light tails."""
    p, q = Normal(0.0, 1.0), Normal(0.7, 1.1)
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    ratio, density = (p.log_prob(x) - q.log_prob(x)).exp(), q.log_prob(x).exp()
    truth = float(torch.trapezoid(density * row.f(ratio), x))
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(2, 50_000, 1, generator=generator, dtype=torch.float64)
    value, stderr = monte_carlo(
        row, lambda x: p.log_prob(x)[:, 0], lambda x: q.log_prob(x)[:, 0], draws[0], 0.7 + 1.1 * draws[1]
    )
    assert abs(value - truth) < 4 * stderr and stderr < 0.02 * max(1, truth)


def test_monte_carlo_of_densities_that_are_far_apart():
    """N(0, 1) against N(60, 1), whose log-ratio is 1800 -+ 60 z; four standard errors, 60 / sqrt(2 * 4000) each."""
    draws = torch.randn(2, 4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    args = (lambda x: -(x[:, 0] ** 2) / 2, lambda x: -((x[:, 0] - 60) ** 2) / 2, draws[0], draws[1] + 60)
    for name in ("kl", "reverse-kl"):
        value, stderr = monte_carlo(name, *args)
        assert abs(value - 1800) < 4 * stderr and 0.1 < stderr < 1.5, name
    # the limits of those that are bounded, and infinity where the value itself is beyond float64
    for row in ROWS:
        alpha = float(row.name[6:]) if row.name.startswith("alpha") else None
        limit = {
            "squared-hellinger": 2.0,
            "jensen-shannon": LOG2,
            "gan": 0.0,
            "total-variation": 1.0,
            "alpha=0.3": 1 / 0.3 + 1 / 0.7,
            "alpha=0.5": 4.0,
        }.get(row.name)
        value, stderr = monte_carlo(row, *args)
        if limit is not None:
            assert value == pytest.approx(limit, abs=1e-12) and stderr < 1e-12, row.name
        elif row.name in ("pearson", "neyman") or (alpha is not None and abs(alpha - 0.5) > 1.0):
            assert value == math.inf and stderr == math.inf, row.name


@pytest.mark.parametrize("gap", [-300.0, -150.0, -99.0, 99.0, 150.0, 300.0])
@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_monte_carlo_weighs_every_ratio_by_the_definition(row, gap):
    """2 f(u) / (1 + u) at one ratio, against f in 60 digits where it is finite."""
    with decimal.localcontext(decimal.Context(prec=400)):
        u = decimal.Decimal(gap).exp()
        one = decimal.Decimal(1)
        exact = {
            "kl": lambda: u * u.ln(),
            "reverse-kl": lambda: -u.ln(),
            "pearson": lambda: (u - 1) ** 2,
            "neyman": lambda: (1 - u) ** 2 / u,
            "squared-hellinger": lambda: (u.sqrt() - 1) ** 2,
            "jensen-shannon": lambda: (u * u.ln() - (u + 1) * ((u + 1) / 2).ln()) / 2,
            "gan": lambda: u * u.ln() - (u + 1) * (u + 1).ln(),
            "total-variation": lambda: abs(u - 1) / 2,
        }
        if row.name in exact:
            f = exact[row.name]()
        else:
            a = decimal.Decimal(row.name[6:])
            f = (u**a - one - a * (u - 1)) / (a * (a - 1))
        expected = float(2 * f / (1 + u))
    draws = torch.zeros(2, 1, dtype=torch.float64)
    value, _ = monte_carlo(row, lambda x: gap + x[:, 0], lambda x: x[:, 0], draws, draws)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-30)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_composed_is_the_conjugate_of_the_activation_and_stays_finite(row):
    """Equal where both are well defined, by value and gradient, and finite at the outputs of a confident critic."""
    v = torch.linspace(-6, 6, 121, dtype=torch.float64, requires_grad=True)
    both = row.composed(v), row.conjugate(row.activation(v))
    torch.testing.assert_close(*both, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), v)[0] for value in both), rtol=1e-6, atol=1e-9)
    far = torch.tensor([-40.0, -20.0, 20.0, 40.0], requires_grad=True)
    value = row.composed(far)
    (gradient,) = torch.autograd.grad(value.sum(), far)
    assert value.isfinite().all() and gradient.isfinite().all() and (gradient >= 0).all()  # f* and the activation rise
    assert (value.detach().diff() >= 0).all()


def test_composed_in_numbers():
    v = torch.tensor([-40.0, 40.0], dtype=torch.float64)
    for name, expected in {
        "kl": [math.exp(-41), math.exp(39)],
        "reverse-kl": [-41, 39],
        "pearson": [-1, 440],
        "neyman": [2 - 2 * math.exp(20), 2 - 2 * math.exp(-20)],
        "squared-hellinger": [math.expm1(-40), math.expm1(40)],
        "jensen-shannon": [-LOG2 / 2, 20 - LOG2 / 2],
        "gan": [math.exp(-40), 40],
        "total-variation": [-0.5, 0.5],
    }.items():
        assert F_DIVERGENCES[name].composed(v).tolist() == pytest.approx(expected, rel=1e-12), name


def test_pearsons_conjugate_is_minus_one_below_minus_two():
    """sup over u >= 0 of u t - (u - 1)^2 is at u = 0; half of Pearson's is the alpha-divergence at 2."""
    t = torch.linspace(-7, 4, 23, dtype=torch.float64, requires_grad=True)
    found = F_DIVERGENCES["pearson"].conjugate(t)
    torch.testing.assert_close(found, 2 * alpha_divergence(2.0).conjugate(t / 2))
    assert (found[t < -2] == -1).all() and (torch.autograd.grad(found.sum(), t)[0][t < -2] == 0).all()


def test_monte_carlo_where_one_density_is_zero():
    def log_p(x):  # U(0, 1)
        return torch.where((x >= 0) & (x < 1), 0.0, -math.inf)[:, 0]

    u = torch.rand(40_000, 1, generator=torch.Generator().manual_seed(0))
    shifted = u + 0.25
    args = (log_p, lambda x: log_p(x - 0.25), u, shifted)
    value, stderr = monte_carlo("jensen-shannon", *args)
    assert abs(value - 0.25 * math.log(2)) < 4 * stderr
    value, stderr = monte_carlo("total-variation", *args)
    assert abs(value - 0.25) < 4 * stderr
    assert monte_carlo("kl", *args) == (math.inf, math.inf)


def test_what_is_no_distribution_is_said():
    p = torch.tensor([0.5, 0.5])
    for bad in (torch.tensor([0.5, 0.6]), torch.tensor([1.5, -0.5]), torch.tensor([math.nan, 1.0])):
        with pytest.raises(UserError, match="not a distribution"):
            kl(p, bad)
    with pytest.raises(UserError, match="did you mean neyman"):
        f_divergence("neymann", p, p)
    with pytest.raises(UserError, match="limit"):
        alpha_divergence(1)
    with pytest.raises(UserError, match="above 0"):
        renyi(p, p, -1.0)
