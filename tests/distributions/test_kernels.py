"""Kernel discrepancies: KID's value, an unbiased mean, closed forms of Gaussians, energy distance against scipy."""

import math

import pytest
import scipy.stats
import torch

from pushforward.distributions.kernels import (
    energy_distance,
    median_bandwidth,
    mmd2,
    mmd2_of_subsets,
    polynomial,
    rational_quadratic,
    rbf,
    squared_distances,
)
from pushforward.errors import UserError

KERNELS = [rbf(1.0), rbf(0.5, 1.0, 2.0), rational_quadratic(0.2, 0.5, 1.0, 2.0, 5.0), polynomial()]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_subsets_from_the_kernel_of_all():
    kernel, x, y = polynomial(), normal(9, 3, seed=1), 0.5 + normal(7, 3, seed=2)
    rows = torch.tensor([[1.0] * 9, [0, 1, 1, 0, 0, 0, 1, 0, 1]]).double()
    columns = torch.tensor([[1.0] * 7, [1, 0, 1, 0, 1, 0, 0]]).double()
    found = mmd2_of_subsets(kernel(x, x), kernel(y, y), kernel(x, y), rows, columns)
    expected = [float(mmd2(x[i.bool()], y[j.bool()], kernel)) for i, j in zip(rows, columns, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-10)


def test_kernels_at_a_distance_of_two():
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0]])
    assert float(rbf(1.0, 2.0)(x, y)) == pytest.approx((math.exp(-2) + math.exp(-0.5)) / 2)
    assert float(rational_quadratic(1.0, 2.0)(x, y)) == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert float(rational_quadratic(1.0, scale=2.0)(x, y)) == pytest.approx(1 / 1.5)
    assert float(polynomial(2, 0.5)(x, y)) == 1  # (1 / 2 + 1 / 2)^2


@pytest.mark.parametrize("kernel", KERNELS)
def test_definitions_by_loops(kernel):
    x, y = normal(6, 3, seed=1), 1 + normal(4, 3, seed=2)

    def k(a, b):
        return float(kernel(a[None], b[None]))

    cross = sum(k(a, b) for a in x for b in y) / 24
    biased = sum(k(a, b) for a in x for b in x) / 36 + sum(k(a, b) for a in y for b in y) / 16 - 2 * cross
    apart = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / 30
    apart += sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / 12
    assert float(mmd2(x, y, kernel, unbiased=False)) == pytest.approx(biased, rel=1e-9)
    assert float(mmd2(x, y, kernel)) == pytest.approx(apart - 2 * cross, rel=1e-9)
    assert float(mmd2(x, x, kernel, unbiased=False)) == pytest.approx(0, abs=1e-9) and biased > 0


def test_the_gaussian_kernel_on_gaussians_in_closed_form():
    """E k(x, y) for x - y ~ N(mu, v I): (1 + v / s^2)^(-d/2) exp(-|mu|^2 / (2 (s^2 + v))). Mean of 400 estimates, 4 errors."""
    s, d, shift = 1.5, 2, 1.0

    def expected(mu: float, v: float) -> float:
        return (1 + v / s**2) ** (-d / 2) * math.exp(-(mu**2) / (2 * (s**2 + v)))

    truth = 2 * expected(0, 2) - 2 * expected(shift, 2)
    x, y = normal(400, 20, d, seed=3), normal(400, 20, d, seed=4)
    y[..., 0] += shift
    found = torch.stack([mmd2(a, b, rbf(s)) for a, b in zip(x, y, strict=True)])
    assert abs(float(found.mean()) - truth) < 4 * float(found.std()) / 20
    # with its diagonal an estimate is too large by (2/n)(1 - E k)
    biased = torch.stack([mmd2(a, b, rbf(s), unbiased=False) for a, b in zip(x, y, strict=True)])
    assert float((biased - found).mean()) == pytest.approx(2 / 20 * (1 - expected(0, 2)), rel=0.05)


def test_energy_distance_is_scipys():
    x, y = normal(50, seed=1), 0.3 + normal(31, seed=2)
    scipys = scipy.stats.energy_distance(x.numpy(), y.numpy()) ** 2
    assert float(energy_distance(x[:, None], y[:, None], unbiased=False)) == pytest.approx(scipys, rel=1e-9)
    far = 1e6 + x[:, None]
    assert float(energy_distance(far, far + 1, unbiased=False)) == pytest.approx(
        float(energy_distance(x[:, None], x[:, None] + 1, unbiased=False)), rel=1e-6
    )


def test_bandwidth_and_mistakes():
    x = torch.tensor([[0.0], [1.0]])
    assert median_bandwidth(x, x + 2) == 1.0  # distances 1 1 1 2 2 3, the lower median of six
    with pytest.raises(UserError, match="coincide"):
        median_bandwidth(0 * x, 0 * x)
    with pytest.raises(UserError, match="two on each side"):
        mmd2(x[:1], x, rbf(1.0))
    with pytest.raises(UserError, match="bandwidth"):
        rbf()
    with pytest.raises(UserError, match="above 0"):
        rational_quadratic(-1.0)


def test_squared_distances_of_distant_clusters_in_float32():
    """Half a unit within clusters that are 10,000 apart: the terms of the expansion are of 1e8, of which float32 keeps 8."""
    x = torch.tensor([[0.0, 0.0], [1e4, 0.0], [1e4, 0.5]])
    found = squared_distances(x, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.cdist(x.double(), x.double()) ** 2, rtol=1e-6, atol=1e-6)
