"""Every method has the order that it declares, forwards and backwards in time."""

import math

import pytest
import torch

from pushforward.dynamics.ode import METHODS, DormandPrince5, Euler, find_method, integrate
from pushforward.errors import UserError

A = torch.tensor([[-0.5, 2.0], [-2.0, -0.3]], dtype=torch.float64)
START = torch.tensor([[1.0, 0.0], [0.3, -2.0], [0.5, 0.5]], dtype=torch.float64)


def velocity(x, t):
    """dx/dt = A x + (cos 3t, t): linear, so solved exactly by the matrix exponential of the augmented system."""
    return x @ A.T + torch.stack([torch.cos(3 * t), t], 1)


def exact(x, t, s):
    # state (x1, x2, cos 3t, sin 3t, t, 1)
    G = torch.zeros(6, 6, dtype=torch.float64)
    G[:2, :2], G[0, 2], G[1, 4] = A, 1, 1
    G[2, 3], G[3, 2], G[4, 5] = -3, 3, 1
    at = torch.tensor([math.cos(3 * t), math.sin(3 * t), t, 1], dtype=torch.float64)
    state = torch.cat([x, at.expand(len(x), 4)], 1)
    return (state @ torch.linalg.matrix_exp(G * (s - t)).T)[:, :2]


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_order(name, order, ends):
    truth = exact(START, *ends)
    counts = [16, 32, 64, 128]
    errors = torch.stack(
        [(integrate(velocity, START, torch.linspace(*ends, n + 1, dtype=torch.float64), name) - truth).norm() for n in counts]
    )
    slopes = torch.log2(errors[:-1] / errors[1:])
    assert METHODS[name].order == order
    assert abs(slopes[-1] - order) < 0.1, slopes  # 0.1: the next term of the error is O(h) relative, h = 1/64


def test_evaluations_are_as_declared():
    start, end = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for method in METHODS.values():
        times = []

        def counted(x, t, times=times):
            times.append(t)
            return velocity(x, t)

        method.advance(counted, START, start, end)
        assert method.evaluations in (None, len(times))


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
def test_dopri5_keeps_its_tolerance(ends):
    truth = exact(START, *ends)
    times = torch.tensor(ends, dtype=torch.float64)
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        x = integrate(velocity, START, times, DormandPrince5(rtol=tolerance, atol=tolerance))
        errors.append((x - truth).abs().max().item())
        # local errors of a few steps, amplified by the flow (by e^0.5 at most here)
        assert errors[-1] < 20 * tolerance
    assert errors[0] > errors[2]


def test_trajectory_holds_every_time():
    times = torch.linspace(1, 0, 5, dtype=torch.float64)
    states = integrate(velocity, START, times, "heun", trajectory=True)
    assert states.shape == (5, 3, 2)
    assert torch.equal(states[0], START)
    assert torch.equal(states[-1], integrate(velocity, START, times, "heun"))
    torch.testing.assert_close(states[2], integrate(velocity, START, times[:3], "heun"))


def test_each_row_may_have_its_own_times():
    t, s = torch.tensor([0.0, 0.2, 0.5]).double(), torch.tensor([0.1, 0.6, 0.4]).double()
    together = METHODS["rk4"].advance(velocity, START, t, s)
    for i in range(3):
        alone = METHODS["rk4"].advance(velocity, START[i : i + 1], t[i : i + 1], s[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_method_by_name_or_itself():
    assert find_method("euler") == Euler() and find_method(Euler()) == Euler()
    with pytest.raises(UserError, match="heun"):
        find_method("huen")
