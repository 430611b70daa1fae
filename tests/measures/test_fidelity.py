"""Distances between sets, against closed forms and against the packages whose definitions they follow."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy import linalg
from sklearn.metrics.pairwise import polynomial_kernel

from pushforward.data.spec import DataSpec
from pushforward.distributions.gaussians import gaussian_w2
from pushforward.distributions.kernels import mmd2, polynomial
from pushforward.distributions.transport import line_cost
from pushforward.errors import UserError
from pushforward.measures.features import coarse_space
from pushforward.measures.fidelity import (
    frechet_distance,
    kernel_interval,
    neighbourhood_intervals,
    neighbourhoods,
)
from pushforward.measures.transport import directions, exact_wasserstein, sliced, sliced_wasserstein


def gaussian(n, d, seed, scale=1.0, shift=0.0):
    return shift + scale * np.random.default_rng(seed).standard_normal((n, d))


def moments(x):
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def frechet_from_moments(*moments):
    return float(gaussian_w2(*map(torch.from_numpy, moments))) ** 2


def kernel_distance(x, y):
    return float(mmd2(torch.from_numpy(x), torch.from_numpy(y), polynomial(3, 1.0)))


def test_frechet_distance_of_commuting_gaussians_is_the_closed_form():
    """Diagonal covariances commute: |m - m'|^2 + sum (s - s')^2."""
    s, t = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 1.0])
    m = np.array([1.0, -2.0, 0.5])
    expected = (m**2).sum() + ((s - t) ** 2).sum()
    assert frechet_from_moments(m, np.diag(s**2), 0 * m, np.diag(t**2)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("n", "d"), [(500, 20), (40, 3), (300, 1)])
def test_frechet_distance_is_scipys_formula(n, d):
    rng = np.random.default_rng(1)
    x = gaussian(n, d, 2) @ rng.standard_normal((d, d))
    y = gaussian(n + 17, d, 3) @ rng.standard_normal((d, d)) + 0.3
    (mean_x, cov_x), (mean_y, cov_y) = moments(x), moments(y)
    root = linalg.sqrtm(cov_x @ cov_y).real
    expected = ((mean_x - mean_y) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)
    assert frechet_from_moments(mean_x, cov_x, mean_y, cov_y) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_with_fewer_data_than_features():
    """Singular covariances, where a matrix square root is at its worst; moments and data agree."""
    x, y = gaussian(12, 50, 4), gaussian(15, 50, 5, shift=0.1)
    assert frechet_distance(x, y) == pytest.approx(frechet_from_moments(*moments(x), *moments(y)), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)


def test_kernel_distance_is_the_published_estimator():
    """Binkowski's unbiased MMD^2 with scikit-learn's cubic kernel (gamma 1/d, coef0 1)."""
    x, y = gaussian(60, 7, 6), gaussian(45, 7, 7, scale=1.3, shift=0.2)
    xx, yy, xy = (polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y)))
    off = ~np.eye(60, dtype=bool), ~np.eye(45, dtype=bool)
    assert kernel_distance(x, y) == pytest.approx(xx[off[0]].mean() + yy[off[1]].mean() - 2 * xy.mean(), rel=1e-10)


def test_kernel_distance_is_unbiased():
    """The mean over 400 pairs of sets of one distribution is 0 within four standard errors, though half are negative."""
    draws = np.array([kernel_distance(gaussian(20, 4, 2 * i), gaussian(20, 4, 2 * i + 1)) for i in range(400)])
    assert abs(draws.mean()) < 4 * draws.std() / 20
    assert 0.3 < (draws < 0).mean() < 0.8


def test_kernel_interval_holds_zero_for_two_halves_and_not_for_a_shift():
    held = [kernel_interval(gaussian(200, 8, 100 + i), gaussian(200, 8, 200 + i), i) for i in range(20)]
    assert sum(low <= 0 <= high for _, low, high in held) >= 18
    value, low, high = kernel_interval(gaussian(200, 8, 1, shift=0.5), gaussian(200, 8, 2), 0)
    assert 0 < low < value < high


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbourhoods_equal_prdc(k, capsys):
    real, fake = gaussian(120, 6, 8), gaussian(90, 6, 9, scale=0.8, shift=0.3)
    expected = compute_prdc(real, fake, nearest_k=k)
    ours = neighbourhoods(real, fake, k)
    assert all(ours[name] > 0 for name in ours)
    assert ours == pytest.approx(expected, abs=1e-6)


def test_precision_and_recall_are_those_of_torch_fidelity():
    """Its definition: the k + 1st smallest distance with the point itself counted, k = 3."""
    real, fake = gaussian(80, 5, 10), gaussian(70, 5, 11, scale=0.7)
    a, b = torch.from_numpy(real), torch.from_numpy(fake)
    radius_a, radius_b = (torch.cdist(z, z).kthvalue(4).values for z in (a, b))
    between = torch.cdist(a, b)
    ours = neighbourhoods(real, fake, 3)
    assert ours["precision"] == pytest.approx((between <= radius_a[:, None]).any(0).double().mean().item())
    assert ours["recall"] == pytest.approx((between <= radius_b).any(1).double().mean().item())


def test_neighbourhoods_tell_a_dropped_mode_from_a_spread():
    real = np.concatenate([gaussian(100, 2, 12), gaussian(100, 2, 13, shift=20)])
    collapsed = neighbourhoods(real, gaussian(200, 2, 14))
    assert collapsed["precision"] > 0.9 and collapsed["recall"] < 0.6 and collapsed["coverage"] < 0.6
    spread = neighbourhoods(real, gaussian(200, 2, 15, scale=30))
    assert spread["precision"] < 0.2


def test_neighbourhood_intervals_surround_their_figures_and_say_when_there_are_too_few():
    real, fake = gaussian(150, 4, 16), gaussian(150, 4, 17)
    for value, low, high in neighbourhood_intervals(real, fake, 0).values():
        assert low <= value <= high
    with pytest.raises(UserError, match="at least 12"):
        neighbourhood_intervals(real[:8], fake[:8], 0)


def test_sliced_wasserstein_of_a_shift_is_its_length_over_root_d():
    """A shift by v moves theta . x by theta . v; (theta . v)^2 / |v|^2 has mean 1/d and variance 2 (d - 1) / (d^2 (d + 2)):
    the root of the mean of 256 is off by 3.4 %. Four of those."""
    x = gaussian(50, 5, 20)
    [measure] = sliced(x + np.array([3.0, 0, 0, -4.0, 0]), x, x, 0, "values")
    assert measure.value == pytest.approx(5 / np.sqrt(5), rel=0.14)
    assert measure.floor == 0
    [line] = sliced(x[:, :1] + 2.0, x[:, :1], x[:, :1], 0, "values")
    assert line.value == pytest.approx(2.0)


def test_sliced_wasserstein_sorts_along_each_direction_whatever_the_sizes():
    """By hand: a point of n stands 45 times, a point of m 30 times, and equal numbers are sorted."""
    x, y = gaussian(30, 4, 31), gaussian(45, 4, 32, shift=0.5)
    theta = directions(4, seed=7)
    shadows = [np.sort(np.repeat(z @ theta, times, 0), 0) for z, times in ((x, 45), (y, 30))]
    [measure] = sliced(x, x, y, 7, "values")
    assert measure.value == pytest.approx(np.sqrt(((shadows[0] - shadows[1]) ** 2).mean()), rel=1e-12)


def test_kernel_interval_is_around_the_discrepancy_of_all():
    x, y = gaussian(60, 7, 6), gaussian(45, 7, 7, scale=1.3, shift=0.2)
    assert kernel_interval(x, y, 0)[0] == pytest.approx(kernel_distance(x, y), rel=1e-12)


def test_exact_wasserstein_in_one_dimension_is_sorting():
    x, y = gaussian(30, 1, 23), gaussian(30, 1, 24, shift=1)
    assert exact_wasserstein(x, y) == pytest.approx(
        float(line_cost(torch.from_numpy(x), torch.from_numpy(y), 2)) ** 0.5, rel=1e-9
    )
    z = gaussian(30, 3, 25)
    assert exact_wasserstein(z, z + np.array([1.0, 2.0, 2.0])) == pytest.approx(3.0, rel=1e-9)


def test_directions_are_units_and_a_function_of_the_seed():
    theta = directions(7, 32, seed=3)
    np.testing.assert_allclose(np.linalg.norm(theta, axis=0), 1)
    np.testing.assert_array_equal(theta, directions(7, 32, seed=3))
    assert not np.array_equal(theta, directions(7, 32, seed=4))


def test_the_coarse_space_tells_what_its_means_do_not():
    """A checkerboard has no mean over any cell of 8 x 8; the roughness is its amplitude; a grey image has none."""
    spec = DataSpec("image", (1, 32, 32), levels=256, mode="L")
    board = (torch.arange(32)[:, None] + torch.arange(32)[None]) % 2
    codes = torch.stack([torch.full((1, 32, 32), 100), (100 + 20 * (2 * board - 1))[None]]).to(torch.uint8)
    plain, rough = torch.from_numpy(coarse_space(spec).extract(codes))
    assert plain.shape == (8 * 8 + 4 * 4,) and torch.allclose(plain[:64], rough[:64], atol=1e-6)
    assert torch.allclose(plain[64:], torch.zeros(16, dtype=torch.float64), atol=1e-6)
    # In the middle a pixel stands 20 levels above a mean of 9 that is 20 / 9 the same way.
    inner = 4.0 * (20 - 20 / 9) * 2 / 255
    assert torch.allclose(rough[64:].reshape(4, 4)[1:3, 1:3], torch.full((2, 2), inner, dtype=torch.float64), atol=1e-5)


def test_sliced_wasserstein_of_a_shift():
    """Two sets a shift v apart: |v| / sqrt(d), in expectation over directions (3 % at 256 of them)."""
    x = np.random.default_rng(0).standard_normal((300, 4))
    assert sliced_wasserstein(x, x + np.array([3.0, 0, 0, 4])) == pytest.approx(5 / 2, rel=0.06)
    assert sliced_wasserstein(x, x) == 0
