"""What is added to the critic's loss to keep the game stable: pure functions (critic, real, fake, rng) -> scalar.

R1 is half the mean squared slope of the critic at real data. Without it the alternating game may circle round its fixed
point for ever, or leave it, where data lie on a thin set; with it training converges locally, for any weight > 0.

Mescheder, Geiger and Nowozin 2018, "Which training methods for GANs do actually converge?", arXiv:1801.04406.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.randomness import Rng

Critic = Callable[[Tensor], Tensor]  # data -> logits


def r1(critic: Critic, real: Float[Tensor, "b *shape"], fake: Tensor | None, rng: Rng | None) -> Float[Tensor, ""]:
    """1/2 E_real |grad_x l(x)|^2."""
    real = real.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(critic(real).float().sum(), real, create_graph=True)
    return 0.5 * slope.float().flatten(1).square().sum(1).mean()
