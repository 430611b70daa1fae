"""Paths, targets and their conversions: identities in float64."""

import math

import pytest
import torch

from pushforward.dynamics.paths import PATHS, expand, interpolate
from pushforward.dynamics.targets import TARGETS, coefficients, compose, convert, solve
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
        (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(derivative, expected, rtol=1e-9, atol=1e-9)


@paths
def test_path_runs_from_data_to_noise(path):
    # VP with beta up to 20 keeps exp(-5.03) = 0.0066 of the data at t = 1; the others keep none.
    alpha, sigma, _, _ = path(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert alpha[0] == 1 and sigma[0] == 0
    assert abs(alpha[1]) < 7e-3 and abs(sigma[1] - 1) < 1e-4


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
        assert dp_dt.abs().max() > 1e-2  # something flows
        torch.testing.assert_close(dp_dt, -dflux_dx, rtol=1e-8, atol=1e-10)


def test_unknown_target_names_the_nearest():
    with pytest.raises(UserError, match="velocity"):
        coefficients(PATHS["linear"], "velocty", torch.ones(1))
