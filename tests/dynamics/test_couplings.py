"""Couplings: optimal transport within a batch, against all permutations."""

import itertools

import torch

from pushforward.dynamics.couplings import assignment, independent, optimal_transport


def cost(x, y):
    return float((x - y).square().sum())


def test_transport_is_the_best_of_all_permutations():
    x, y = torch.randn(6, 1, 2, 2), torch.randn(6, 1, 2, 2)
    best = min(cost(x, y[list(order)]) for order in itertools.permutations(range(6)))
    made = optimal_transport(x, y)
    assert abs(cost(x, made) - best) < 1e-4 < cost(x, y) - best
    assert torch.equal(made, y[assignment(x, y)])


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
