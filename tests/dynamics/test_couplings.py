"""Couplings: optimal transport within a batch, against all permutations; the entropic plan, between it and independence."""

import itertools

import ot
import pytest
import torch

from pushforward.dynamics.couplings import MANY, Sinkhorn, assignment, find_coupling, independent, optimal_transport
from pushforward.errors import UserError
from pushforward.randomness import SampleRng


def cost(x, y):
    return float((x - y).square().sum())


def test_transport_is_the_best_of_all_permutations():
    x, y = torch.randn(6, 1, 2, 2), torch.randn(6, 1, 2, 2)
    best = min(cost(x, y[list(order)]) for order in itertools.permutations(range(6)))
    made = optimal_transport(x, y)
    assert abs(cost(x, made) - best) < 1e-4 < cost(x, y) - best
    assert torch.equal(made, y[assignment(x, y)])


@pytest.mark.parametrize("rows, dimensions", [(MANY - 1, 2), (MANY, 2), (MANY + 80, 7), (MANY + 8, 100)])
def test_transport_costs_what_the_exact_plan_costs(rows, dimensions):
    """On either side of where prices are guessed first; far from 0, where differences lose digits."""
    x, y = torch.randn(rows, dimensions) + 30, 3 * torch.randn(rows, dimensions)
    best = ot.emd2([], [], torch.cdist(x.double(), y.double()).square().numpy()) * rows
    assert cost(x.double(), optimal_transport(x, y).double()) == pytest.approx(best, rel=1e-6)


def test_the_noise_stays_the_same_set():
    x, y = torch.randn(100, 3), torch.randn(100, 3)
    assert torch.equal(optimal_transport(x, y).sort(0).values[:, 0], y.sort(0).values[:, 0])
    assert independent(x, y) is y


def test_classes_keep_their_own_noise():
    x, y, classes = torch.randn(60, 2), torch.randn(60, 2), torch.arange(60) % 3
    x[:, 0] += 5 * classes  # across classes, transport would sort the noise by class
    made = optimal_transport(x, y, classes)
    for c in range(3):
        mine = classes == c
        assert torch.equal(made[mine], optimal_transport(x[mine], y[mine]))
    attributes = torch.stack([classes == 0, classes == 1], 1).float()
    assert torch.equal(optimal_transport(x, y, attributes), made)
    drawn = Sinkhorn()(x, y, classes, SampleRng(0))
    assert all((drawn[classes == c][:, None] == y[classes == c]).all(-1).any(1).all() for c in range(3))


def test_the_entropic_plan_has_both_marginals_and_lies_between_the_ends():
    x, y = torch.randn(50, 2, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64) + 2
    costs, mass = torch.cdist(x, y).square(), torch.full((50,), 1 / 50, dtype=torch.float64)
    best, all_ways = cost(x, optimal_transport(x, y)) / 50, float(costs.mean())
    spent = []
    for regulariser in (0.01, 0.03, 0.3, 3, 300):
        plan = Sinkhorn(regulariser).plan(x, y)
        assert torch.allclose(plan.sum(1), mass, atol=1e-6) and torch.allclose(plan.sum(0), mass, atol=1e-6)
        spent.append(float((plan * costs).sum()))
    assert spent == sorted(spent)
    # the entropy of a plan on 50 x 50 is at most log 50 nats above that of a permutation: what r may add to the cost
    assert best - 1e-6 <= spent[0] <= best + 0.01 * all_ways * 4
    assert spent[-1] == pytest.approx(all_ways, rel=0.01)


def test_the_entropic_plan_solves_its_own_problem():
    """P = diag(u) exp(-|x - y|^2 / (r mean)) diag(v): the log of it is a sum of a row's and a column's number."""
    x, y = torch.randn(7, 3), torch.randn(7, 3)
    costs = torch.cdist(x.double(), y.double()).square()
    left = Sinkhorn(0.4).plan(x, y).log() + costs / (0.4 * costs.mean())
    left = left - left.mean(1, keepdim=True)
    assert (left - left.mean(0)).abs().max() < 1e-9


def test_a_row_draws_its_noise_by_its_row_of_the_plan(monkeypatch):
    x, y = torch.randn(5, 1), torch.randn(5, 1)
    coupling = Sinkhorn(0.5)
    plan = coupling.plan(x, y)
    monkeypatch.setattr(Sinkhorn, "plan", lambda self, a, b: plan if torch.equal(a, x) else plan.T)  # the same each time
    drawn = torch.cat([coupling(x, y, None, SampleRng(seed)) for seed in range(2_000)], 1)
    found = (drawn[:, :, None] == y[:, 0]).double().mean(1)
    expected = plan * 5
    # five standard errors of 2,000 draws; and the plan is not uniform
    assert (found - expected).abs().max() < 5 * 0.5 / 2_000**0.5
    assert (found - 0.2).abs().max() > 0.1
    assert torch.equal(coupling(x, y, None, SampleRng(3)), coupling(x, y, None, SampleRng(3)))


def test_equal_points_and_empty_classes_do_no_harm():
    x = torch.zeros(MANY, 2)
    assert Sinkhorn()(x, x, None, SampleRng(0)).shape == (MANY, 2)
    assert torch.equal(optimal_transport(x, x), x)


def test_far_outliers_do_no_harm():
    """Costs from 0 to 10^8: the kernel of the guessed prices is 0 nearly everywhere."""
    x, y = torch.randn(MANY + 10, 2, dtype=torch.float64), torch.randn(MANY + 10, 2, dtype=torch.float64)
    x[0], y[1], y[2] = 1e4, -1e4, 3e3
    best = ot.emd2([], [], torch.cdist(x, y).square().numpy()) * len(x)
    assert cost(x, optimal_transport(x, y)) == pytest.approx(best, rel=1e-9)


def test_bad_input():
    with pytest.raises(UserError, match="optimal-transport"):
        find_coupling("optimal-transprot")
    with pytest.raises(UserError, match="above 0"):
        Sinkhorn(0.0)
    with pytest.raises(UserError, match="rng"):
        Sinkhorn()(torch.zeros(2, 1), torch.zeros(2, 1))
