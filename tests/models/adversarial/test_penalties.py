"""Penalties: their value and their gradient on critics whose slope is known."""

import torch
from torch import nn

from pushforward.models.adversarial.penalties import r1


def test_r1_is_half_the_mean_squared_slope_at_real_data():
    # l(x) = |x|^2 / 2 has slope x: the penalty is half the mean of |x|^2 over the batch, whatever the fakes are.
    real = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert r1(lambda x: 0.5 * x.square().sum(1), real, real + 100, None).item() == (25 + 1) / 4


def test_r1_sums_over_pixels_and_means_over_the_batch():
    real = torch.randn(6, 3, 4, 5)
    assert r1(lambda x: 2 * x.flatten(1).sum(1), real, None, None).item() == 0.5 * 4 * 3 * 4 * 5


def test_r1_reaches_the_critic_and_not_the_data():
    # For l(x) = w x the penalty is |w|^2 / 2, its gradient w.
    critic, real = nn.Linear(4, 1), torch.randn(8, 4)
    with torch.no_grad():
        before = critic.weight.clone()
    r1(critic, real, None, None).backward()
    torch.testing.assert_close(critic.weight.grad, before)
    assert critic.bias.grad is None or critic.bias.grad.abs().max() == 0
    assert real.grad is None and not real.requires_grad
