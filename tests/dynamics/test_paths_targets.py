"""Paths, targets and their conversions: identities in float64."""

import math

import pytest
import torch

from pushforward.dynamics.paths import (
    PATHS,
    Cosine,
    Linear,
    Stepwise,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    ZeroTerminal,
    expand,
    interpolate,
    noise_ratio,
    time_of,
)
from pushforward.dynamics.targets import TARGETS, Residual, amplification, coefficients, compose, convert, solve
from pushforward.errors import UserError

SHAPES = [(4, 4), (3,), (1, 5), (4, 2, 4, 3)]  # B equals the width in the first: row-wise products must not turn
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


def draw(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return x0, noise, torch.linspace(0.1, 0.9, shape[0], dtype=torch.float64)


def test_expand_multiplies_rows():
    x, t = torch.ones(3, 3), torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal((expand(t, x) * x)[:, 0], t)
    assert expand(t, torch.ones(3)).shape == (3,)


@pytest.mark.parametrize("t", [torch.tensor(0.5), torch.ones(2), torch.ones(3, 1)])
def test_expand_refuses_other_shapes(t):
    with pytest.raises(ValueError, match="one time for each row"):
        expand(t, torch.ones(3, 3))


@paths
def test_derivatives_are_derivatives(path):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    alpha, sigma, d_alpha, d_sigma = path(t)
    for value, derivative in ((alpha, d_alpha), (sigma, d_sigma)):
        expected = torch.zeros_like(t)  # of a constant alpha
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, expected, rtol=1e-9, atol=1e-9)


@paths
def test_path_runs_from_data_to_noise(path):
    # VP with beta up to 20 keeps exp(-5.03) = 0.0066 of the data at t = 1; the others keep none.
    alpha, sigma, _, _ = path(torch.tensor([0.0, 1.0], dtype=torch.float64))
    if isinstance(path, VarianceExploding):
        assert alpha.tolist() == [1, 1]
        torch.testing.assert_close(sigma, torch.tensor([path.sigma_min, path.sigma_max], dtype=torch.float64))
        return
    assert alpha[0] == 1 and sigma[0] == 0
    assert abs(alpha[1]) < 7e-3 and abs(sigma[1] - 1) < 1e-4


@paths
def test_paths_that_keep_the_variance(path):
    alpha, sigma, _, _ = path(torch.linspace(0, 1, 41, dtype=torch.float64))
    keeps = (alpha**2 + sigma**2 - 1).abs().max() < 1e-12
    assert keeps != isinstance(path, Linear | SubVariancePreserving | VarianceExploding)


@paths
def test_time_of_is_the_inverse_of_the_noise_ratio(path):
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    ratio = noise_ratio(path, t)
    assert bool((ratio.diff() > 0).all())
    torch.testing.assert_close(time_of(path, ratio), t, rtol=0, atol=1e-12)  # the interval is halved 54 times
    torch.testing.assert_close(time_of(path, ratio.float()), t.float(), rtol=0, atol=2e-6)  # digits of float32
    beyond = time_of(path, torch.tensor([0.0, 1e9], dtype=torch.float64))
    assert beyond[0] < 1e-9 and beyond[1] > 1 - 1e-6


def test_ddpms_steps_are_the_published_ones():
    """The products of 1 - beta_k, beta even from 1e-4 to 0.02, at t = k / 1000; nearly the continuous VP path in between."""
    path = Stepwise.linear()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    alpha, sigma, d_alpha, d_sigma = path(t)
    torch.testing.assert_close(alpha**2, (1 - betas).cumprod(0), rtol=1e-10, atol=0)
    torch.testing.assert_close(sigma**2, 1 - (1 - betas).cumprod(0), rtol=1e-10, atol=0)
    smooth = VariancePreserving()(t)
    torch.testing.assert_close(alpha, smooth[0], rtol=0, atol=2e-3)  # O(1 / T)
    # the derivative from the left: beta is constant within a step
    before = path(t - 1e-6)
    torch.testing.assert_close(d_alpha, (alpha - before[0]) / 1e-6, rtol=0, atol=1e-4)
    torch.testing.assert_close(d_sigma, (sigma - before[1]) / 1e-6, rtol=1e-3, atol=1e-4)


def test_steps_of_a_cosine_are_capped():
    path = Stepwise.of(Cosine(), 50)
    assert max(path.betas) == 0.999
    t = torch.arange(50, dtype=torch.float64) / 50
    torch.testing.assert_close(path(t)[0], Cosine()(t)[0], rtol=0, atol=1e-12)
    with pytest.raises(UserError, match="above 0 and below 1"):
        Stepwise((0.5, 1.0))


def test_zero_terminal_leaves_nothing():
    path = ZeroTerminal(Stepwise.linear())
    alpha, sigma, _, _ = path(torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64))
    given, left = (Stepwise.linear()(torch.tensor([t], dtype=torch.float64))[0] for t in (0.4, 1.0))
    assert alpha[0] == 1 and alpha[2] == 0 and sigma[2] == 1
    torch.testing.assert_close(alpha[1:2], (given - left) / (1 - left))


@paths
@pytest.mark.parametrize("deviation", [0.5, 1.3])
def test_edms_residual_has_variance_one_and_is_uncorrelated_with_what_is_seen(path, deviation):
    """Of data N(0, d^2): Var y = 1, Cov(y, x_t) = 0, and x0 = skip x_t + out y with the published skip and out."""
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    alpha, sigma, _, _ = path(t)
    a, b = coefficients(path, Residual(deviation), t)
    torch.testing.assert_close((a * deviation) ** 2 + b**2, torch.ones_like(t))
    torch.testing.assert_close(a * alpha * deviation**2 + b * sigma, torch.zeros_like(t))
    x_t, y = torch.randn(2, 9, 1, dtype=torch.float64)
    x0, _ = solve(path, Residual(deviation), x_t, y, t)
    ratio = sigma / alpha
    skip, out = deviation**2 / (ratio**2 + deviation**2), ratio * deviation / (ratio**2 + deviation**2).sqrt()
    expected = expand(skip, x_t) * x_t / expand(alpha, x_t) + expand(out, y) * y
    torch.testing.assert_close(x0, expected)


@paths
@pytest.mark.parametrize("target", TARGETS)
def test_amplification_is_the_error_of_x0(path, target):
    t, x_t = torch.tensor([0.2, 0.8], dtype=torch.float64), torch.randn(2, 1, dtype=torch.float64)
    a, b = coefficients(path, target, t)
    size = torch.maximum(a.abs(), b.abs())[:, None]
    (there, _), (here, _) = solve(path, target, x_t, 1 + size, t), solve(path, target, x_t, torch.ones_like(size), t)
    torch.testing.assert_close((there - here).abs()[:, 0], amplification(path, target, t))


@paths
@pytest.mark.parametrize("source", TARGETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_solve_gives_data_and_noise_back(path, source, shape):
    x0, noise, t = draw(shape)
    x_t = interpolate(path, x0, noise, t)
    y = compose(path, source, x0, noise, t)
    solved = solve(path, source, x_t, y, t)
    # 1e-9: float64 through a 2x2 solve whose determinant is at least about 0.05 here
    torch.testing.assert_close(solved, (x0, noise), rtol=1e-9, atol=1e-9)
    for target in TARGETS:
        expected = compose(path, target, x0, noise, t)
        torch.testing.assert_close(convert(path, source, target, x_t, y, t), expected, rtol=1e-9, atol=1e-9)


@paths
def test_velocity_is_the_derivative_of_the_line(path):
    x0, noise, t = draw((5, 3))
    _, derivative = torch.func.jvp(lambda s: interpolate(path, x0, noise, s), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(derivative, compose(path, "velocity", x0, noise, t), rtol=1e-9, atol=1e-9)


def test_linear_velocity_is_well_posed_at_both_ends():
    path, t = PATHS["linear"], torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    alpha, sigma, _, _ = path(t)
    a, b = coefficients(path, "velocity", t)
    assert torch.equal(alpha * b - sigma * a, torch.ones_like(t))


@paths
def test_score_and_velocity_obey_the_continuity_equation(path):
    """d p / dt + d (p v) / dx = 0 on a grid, with v made from the score of a mixture's marginal: pins every sign."""
    means = torch.tensor([-1.5, 0.2, 1.0], dtype=torch.float64)
    scales = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    grid = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for moment in (0.1, 0.5, 0.9):
        x = grid.clone().requires_grad_()
        t = torch.full_like(grid, moment).requires_grad_()
        alpha, sigma, _, _ = path(t)
        variance = (alpha[:, None] * scales) ** 2 + sigma[:, None] ** 2
        parts = (
            weights
            * torch.exp(-((x[:, None] - alpha[:, None] * means) ** 2) / (2 * variance))
            / (2 * math.pi * variance).sqrt()
        )
        p = parts.sum(1)
        (score,) = torch.autograd.grad(p.log().sum(), x, create_graph=True)
        v = convert(path, "score", "velocity", x, score, t)
        (dp_dt,) = torch.autograd.grad(p.sum(), t, retain_graph=True)
        (dflux_dx,) = torch.autograd.grad((p * v).sum(), x)
        assert dp_dt.abs().max() > 4e-3  # something flows; the noise of EDM's path is wide here, its density low
        torch.testing.assert_close(dp_dt, -dflux_dx, rtol=1e-8, atol=1e-10)


def test_unknown_target_names_the_nearest():
    with pytest.raises(UserError, match="velocity"):
        coefficients(PATHS["linear"], "velocty", torch.ones(1))
