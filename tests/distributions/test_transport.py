"""Transport distances: agreement with scipy and POT, the known examples exactly, dual equals primal."""

import math

import numpy as np
import ot
import pytest
import scipy.stats
import torch

from pushforward.distributions.divergences import jensen_shannon, kl, total_variation
from pushforward.distributions.transport import (
    histogram_w1,
    kantorovich_rubinstein,
    line_cost,
    max_sliced_wasserstein,
    sinkhorn,
    sliced_wasserstein,
    transport_plan,
    wasserstein_1d,
)
from pushforward.errors import UserError
from pushforward.measures.transport import exact_wasserstein
from pushforward.randomness import SampleRng


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n, m", [(1, 1), (1, 7), (40, 40), (40, 33), (6, 64)])
def test_on_a_line_it_is_scipys_and_pots(n, m):
    x, y = normal(n, seed=1), 0.5 + 2 * normal(m, seed=2)
    p, q = torch.rand(n).double() + 0.1, torch.rand(m).double() + 0.1
    p, q = p / p.sum(), q / q.sum()
    X, Y, P, Q = (t.numpy() for t in (x, y, p, q))
    assert float(wasserstein_1d(x, y)) == pytest.approx(scipy.stats.wasserstein_distance(X, Y), rel=1e-10)
    assert float(wasserstein_1d(x, y, 1, p, q)) == pytest.approx(scipy.stats.wasserstein_distance(X, Y, P, Q), rel=1e-9)
    assert float(line_cost(x, y, 2, p, q)) == pytest.approx(float(ot.emd2_1d(X, Y, P, Q)), rel=1e-9)
    assert float(line_cost(x, y, 2)) == pytest.approx(float(ot.emd2_1d(X, Y)), rel=1e-9)
    columns = line_cost(torch.stack([x, -x], 1), torch.stack([y, y], 1), 1)
    assert columns.shape == (2,) and columns[1] == pytest.approx(float(wasserstein_1d(-x, y)), rel=1e-10)


def test_its_gradient_moves_the_points_apart():
    x, y = normal(9, seed=1).requires_grad_(), normal(4, seed=2)
    torch.autograd.gradcheck(lambda x: line_cost(x, y, 2), x)


def test_the_earth_movers_example_is_exactly_three():
    """mu = 1/4 on [1, 2], 1/4 on [3, 4], 1/2 on [9, 10]; mu' = 1/2 on [5, 7] (density): 4 / 4 + 2 / 4 + 3 / 2."""
    edges, masses = torch.tensor([1.0, 2, 3, 4, 9, 10]), torch.tensor([0.25, 0, 0.25, 0, 0.5])
    assert float(histogram_w1(edges, masses, torch.tensor([5.0, 7.0]), torch.ones(1))) == 3
    # the rectangles as points, by the plan and by the dual
    x, y = torch.tensor([1.5, 3.5, 9.5]), torch.tensor([5.5, 6.5])
    p, q = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([0.5, 0.5])
    assert float(wasserstein_1d(x, y, 1, p, q)) == 3
    plan, cost = transport_plan((x[:, None] - y).abs(), p, q)
    assert float(cost) == 3 and plan.tolist() == [[0.25, 0], [0.25, 0], [0, 0.5]]
    places = torch.cat([x, y])
    value, _ = kantorovich_rubinstein((places[:, None] - places).abs(), torch.cat([p, 0 * q]), torch.cat([0 * p, q]))
    assert float(value) == pytest.approx(3, abs=1e-12)


def test_w1_and_js_disagree_about_who_is_nearer():
    """W 2 > 1.5 while JS (in bits) .20 < .25: mu even on [0, 10], nu = mu moved by 2, gamma = mu with its last quarter moved
    by 6. So far as the supports do not overlap JS knows a mass, and W how far it went."""
    edges = torch.arange(33) / 2
    bins = torch.arange(32)
    mu = (bins < 20) / 20
    nu = ((bins >= 4) & (bins < 24)) / 20
    gamma = ((bins < 15) | (bins >= 27)) / 20
    assert float(histogram_w1(edges, mu, edges, nu)) == pytest.approx(2, rel=1e-6)
    assert float(histogram_w1(edges, mu, edges, gamma)) == pytest.approx(1.5, rel=1e-6)
    bits = 1 / math.log(2)
    assert bits * float(jensen_shannon(mu, nu)) == pytest.approx(0.20, rel=1e-6)
    assert bits * float(jensen_shannon(mu, gamma)) == pytest.approx(0.25, rel=1e-6)


def test_parallel_lines():
    """Arjovsky et al. 2017, example 1: (0, U) and (theta, U) are at W_1 = |theta|, while JS is log 2 for all theta but 0."""
    u = torch.arange(50, dtype=torch.float64) / 50
    for theta in (0.01, 0.5, 1.0):
        line, moved = torch.stack([0 * u, u], 1), torch.stack([0 * u + theta, u], 1)
        assert float(transport_plan(torch.cdist(line, moved))[1]) == pytest.approx(theta, rel=1e-5)
        there, here = torch.cat([torch.ones(50), torch.zeros(50)]) / 50, torch.cat([torch.zeros(50), torch.ones(50)]) / 50
        assert float(jensen_shannon(there, here)) == pytest.approx(math.log(2), rel=1e-6)
        assert kl(there, here) == math.inf and float(total_variation(there, here)) == pytest.approx(1)


def test_histograms_agree_with_fine_points_and_crossings():
    edges_p, p = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.3, 0.7])
    edges_q, q = torch.tensor([-1.0, 0.5, 2.0, 5.0]), torch.tensor([0.5, 0.1, 0.4])
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000

    def points(edges, masses):
        levels = np.concatenate([[0.0], np.cumsum(masses.double().numpy())])
        return torch.from_numpy(np.interp(u.numpy(), levels, edges.double().numpy()))

    # points at midpoints of levels: wrong by O(1 / n)
    expected = float(wasserstein_1d(points(edges_p, p), points(edges_q, q)))
    assert float(histogram_w1(edges_p, p, edges_q, q)) == pytest.approx(expected, abs=2e-5)


def test_plan_dual_and_sinkhorn():
    x, y = normal(12, 2, seed=3), 1 + normal(9, 2, seed=4)
    p, q = torch.rand(12) + 0.1, torch.rand(9) + 0.1
    p, q = p / p.sum(), q / q.sum()  # float32: their sums differ in the eighth digit
    cost = torch.cdist(x, y)
    plan, primal = transport_plan(cost, p, q)
    torch.testing.assert_close(plan.sum(1), p.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(0), q.double(), atol=1e-6, rtol=0)
    places = torch.cat([x, y])
    distances = torch.cdist(places, places)
    dual, f = kantorovich_rubinstein(distances, torch.cat([p, torch.zeros(9)]), torch.cat([torch.zeros(12), q]))
    assert float(dual) == pytest.approx(float(primal), abs=1e-6)
    assert ((f[:, None] - f) <= distances + 1e-7).all()
    costs = [float(sinkhorn(cost, p, q, epsilon=epsilon)[1]) for epsilon in (1.0, 0.1, 0.01)]
    assert costs[0] > costs[1] > costs[2] > float(primal) - 1e-6 and costs[2] == pytest.approx(float(primal), rel=5e-3)
    squared = float(transport_plan(torch.cdist(x, y) ** 2)[1])
    assert squared**0.5 == pytest.approx(exact_wasserstein(x.numpy(), y.numpy()), rel=1e-9)


def test_sliced_distances_of_a_shift():
    """Of x and x + v: sliced |v| / sqrt(d) (the mean of (theta . v)^2), max-sliced |v|, in any direction."""
    x, v = normal(300, 5), torch.tensor([1.0, 2, 0, -2, 0]).double()
    sliced = float(sliced_wasserstein(x, x + v, SampleRng(0), projections=20_000))
    # (theta . v)^2 / |v|^2 has mean 1/d and variance 2 (d - 1) / (d^2 (d + 2)): 0.38 % for 20,000 directions after the root
    assert sliced == pytest.approx(3 / 5**0.5, rel=4 * 0.0038)
    assert float(max_sliced_wasserstein(x, x + v, SampleRng(0))) == pytest.approx(3, rel=1e-6)
    assert float(sliced_wasserstein(x, x, SampleRng(0))) == 0
    assert float(sliced_wasserstein(x[:, :1], x[:, :1] + 2, SampleRng(0))) == pytest.approx(2)
    # the widest direction of two Gaussians that differ in one variance: found without the help of the means
    y = normal(2000, 5, seed=8)
    wide = y * torch.tensor([1.0, 1, 4, 1, 1]).double()
    along = float(line_cost(y[:, 2], wide[:, 2], 2)) ** 0.5
    assert float(max_sliced_wasserstein(y, wide, SampleRng(0))) == pytest.approx(along, rel=0.02)


def test_mistakes_are_said():
    cost = torch.ones(2, 3)
    with pytest.raises(UserError, match="4 masses"):
        transport_plan(cost, torch.ones(4) / 4)
    with pytest.raises(UserError, match="epsilon"):
        sinkhorn(cost, epsilon=0.0)
    with pytest.raises(UserError, match="rising edges"):
        histogram_w1(torch.tensor([1.0, 0.0]), torch.ones(1), torch.tensor([0.0, 1.0]), torch.ones(1))
    with pytest.raises(UserError, match="one each"):
        line_cost(torch.zeros(3), torch.zeros(3), 1, torch.ones(1), torch.ones(1))


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_gradients_at_distance_zero_are_zero(order):
    """A distance has a minimum there, and a kink; 0 is one of its subgradients."""
    for distance in (
        lambda x, y: sliced_wasserstein(x, y, SampleRng(0), order=order),
        lambda x, y: max_sliced_wasserstein(x, y, SampleRng(0), order=order, steps=3),
        lambda x, y: wasserstein_1d(x[:, 0], y[:, 0], order),
    ):
        x = normal(20, 3).requires_grad_()
        value = distance(x, x.detach().clone())
        (gradient,) = torch.autograd.grad(value, x)
        assert float(value.detach()) == 0 and bool((gradient == 0).all())


def test_what_is_trained_inside_is_so_without_gradients_outside():
    x, y = normal(50, 3), normal(50, 3, seed=1) + 1
    expected = float(max_sliced_wasserstein(x, y, SampleRng(0)))
    with torch.no_grad():
        assert float(max_sliced_wasserstein(x, y, SampleRng(0))) == expected


def test_orders_below_one_and_unfinished_sinkhorn_are_refused():
    x, y = normal(7), normal(11, seed=1) + 0.5
    for order in (0.5, 0.0, math.nan):
        with pytest.raises(UserError, match="1 or more"):
            line_cost(x, y, order)
    cost = (x[:, None] - y) ** 2
    with pytest.raises(UserError, match="raise iterations or epsilon"):
        sinkhorn(cost, epsilon=1e-4, iterations=5)
    plan, value = sinkhorn(cost, epsilon=0.05)
    assert float((plan.sum(1) - 1 / 7).abs().sum()) < 1e-3 and float(value) >= float(transport_plan(cost)[1]) - 1e-9
