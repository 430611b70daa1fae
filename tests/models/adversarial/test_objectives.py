"""Objectives on logits: gradients where the critic is sure, and the value at the optimal critic."""

import math

import pytest
import torch
from torch.distributions import Normal

from pushforward.models.adversarial.objectives import OBJECTIVES, objective


def slope(loss, *logits: float) -> list[float]:
    leaves = [torch.tensor([l], requires_grad=True) for l in logits]
    loss(*leaves).backward()
    return [leaf.grad.item() for leaf in leaves]


# d/dl of -log D = softplus(-l) is -sigmoid(-l); of log(1 - D) = -softplus(l) it is -sigmoid(l). Which is which is the point:
# where the critic is sure of a fake (l = -40), non-saturating pulls with slope -1 and minimax with -exp(-40).
@pytest.mark.parametrize("l", [-40.0, -3.0, 0.0, 3.0, 40.0])
def test_generator_gradients_in_float32(l):
    sigmoid = lambda u: 1 / (1 + math.exp(-u))  # noqa: E731
    assert slope(OBJECTIVES["non-saturating"].generator, l)[0] == pytest.approx(-sigmoid(-l), rel=1e-6)
    assert slope(OBJECTIVES["minimax"].generator, l)[0] == pytest.approx(-sigmoid(l), rel=1e-6)


def test_the_two_are_not_swapped():
    assert slope(OBJECTIVES["non-saturating"].generator, -40.0)[0] == pytest.approx(-1)
    assert abs(slope(OBJECTIVES["minimax"].generator, -40.0)[0]) < 1e-15


@pytest.mark.parametrize("name", OBJECTIVES)
def test_critic_gradients_in_float32(name):
    for real, fake in [(-40.0, 40.0), (40.0, -40.0), (0.0, 0.0), (-2.0, -1.0)]:
        got = slope(OBJECTIVES[name].critic, real, fake)
        assert got == pytest.approx([-1 / (1 + math.exp(real)), 1 / (1 + math.exp(-fake))], rel=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bfloat16_logits_are_reduced_in_float32(name):
    logits = torch.linspace(-40, 40, 999).bfloat16()
    loss = OBJECTIVES[name]
    assert loss.critic(logits, logits).dtype == loss.generator(logits).dtype == torch.float32
    torch.testing.assert_close(loss.generator(logits), loss.generator(logits.double().float()))


def quadrature(p: Normal, q: Normal):
    """A fine grid, and the mean under p or q of a function given on it (trapezoids; the tails beyond 14 are < 1e-30)."""
    x = torch.linspace(-14, 14, 20001, dtype=torch.float64)
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    return log_p, log_q, lambda values, log_density: torch.trapezoid(log_density.exp() * values, x)


P, Q = Normal(torch.tensor(0.0).double(), 1.0), Normal(torch.tensor(1.0).double(), 1.5)


def value(logits, log_p, log_q, mean) -> torch.Tensor:
    """V = -critic loss, as an expectation: the loss of one (real, fake) pair splits into its two halves."""
    critic = OBJECTIVES["minimax"].critic
    zero, half = torch.zeros(1, dtype=torch.float64), math.log(2)
    real = torch.vmap(lambda l: critic(l[None], zero) - half)(logits).double()
    fake = torch.vmap(lambda l: critic(zero, l[None]) - half)(logits).double()
    return -mean(real, log_p) - mean(fake, log_q)


def test_at_the_optimal_critic_the_value_is_twice_jensen_shannon_minus_log_4():
    log_p, log_q, mean = quadrature(P, Q)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    js = 0.5 * mean(log_p - log_m, log_p) + 0.5 * mean(log_q - log_m, log_q)
    best = value(log_p - log_q, log_p, log_q, mean)
    assert best.item() == pytest.approx(2 * js.item() - math.log(4), abs=1e-6)  # logits are taken in float32
    # ... and it is the greatest: any other critic has less.
    for other in (1.1 * (log_p - log_q), log_p - log_q + 0.1, log_q - log_p, torch.zeros_like(log_p)):
        assert value(other, log_p, log_q, mean) < best - 1e-4


def test_the_critic_gradient_is_zero_at_p_over_p_plus_q():
    # The derivative of V by the logit at x is p (1 - D) - q D: sigma(l*) = p / (p + q) makes it vanish at every x.
    log_p, log_q, _ = quadrature(P, Q)
    best = log_p - log_q
    real_slope = torch.func.vmap(torch.func.grad(lambda l: OBJECTIVES["minimax"].critic(l[None], torch.zeros(1))))(best)
    fake_slope = torch.func.vmap(torch.func.grad(lambda l: OBJECTIVES["minimax"].critic(torch.zeros(1), l[None])))(best)
    p, q = log_p.exp(), log_q.exp()
    torch.testing.assert_close(p * real_slope + q * fake_slope, torch.zeros_like(p), atol=1e-7, rtol=0)
    assert (p * real_slope).abs().max() > 0.05  # the two halves cancel; neither is zero


def test_identical_densities_cost_log_4():
    logits = torch.zeros(5)
    assert OBJECTIVES["minimax"].critic(logits, logits).item() == pytest.approx(math.log(4))


def test_an_unknown_objective_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean non-saturating"):
        objective("nonsaturating")
