"""Straightness: 0 for lines at one speed, and known integrals for others."""

import math

import torch

from pushforward.dynamics.straightness import straightness

TIMES = torch.linspace(1, 0, 201, dtype=torch.float64)


def test_lines_at_one_speed_are_straight():
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    speeds = torch.randn_like(x)
    assert straightness(lambda x, t: speeds, x, TIMES).abs().max() < 1e-20


def test_lines_that_slow_down_are_not():
    """v = c(x) t with its mean c / 2: int (t - 1/2)^2 |c|^2 = |c|^2 / 12."""
    x = torch.randn(4, 3, dtype=torch.float64)
    c = torch.randn_like(x)
    got = straightness(lambda x, t: c * t[:, None], x, TIMES)
    assert torch.allclose(got, c.square().sum(1) / 12, rtol=1e-4)  # the trapezoid rule's error is h^2 / 2


def test_half_a_turn():
    """A circle of radius 1 walked by half a turn in unit time: speed pi, displacement 2, so S = pi^2 - 4."""
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    turn = torch.tensor([[0.0, math.pi], [-math.pi, 0.0]], dtype=torch.float64)
    got = straightness(lambda x, t: x @ turn, x, TIMES, "rk4")
    assert abs(float(got) - (math.pi**2 - 4)) < 1e-3
    assert abs(float(straightness(lambda x, t: x @ turn, x, TIMES.flip(0), "rk4")) - float(got)) < 1e-9
    # over a shorter span the arc is straighter: a quarter turn in half the time, mean velocity 2 sqrt 2
    half = straightness(lambda x, t: x @ turn, x, TIMES[:101], "rk4")
    assert abs(float(half) - (math.pi**2 - 8)) < 1e-3
