"""How straight a flow is: what one step of Euler's method would miss."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.ode import Method, Velocity, find_method
from pushforward.dynamics.paths import expand


def straightness(
    velocity: Velocity, x: Float[Tensor, "b *shape"], times: Float[Tensor, "k"], method: str | Method = "heun"
) -> Float[Tensor, "b"]:
    """S = 1/T int |v(x_t, t) - (x_end - x_begin) / T|^2 dt along each trajectory through `times` (K,), T long: how far the
    velocity is from constant, 0 where trajectories are straight lines walked at one speed (Liu et al. 2023, arXiv:2209.03003).
    The integral by the trapezoid rule.

    >>> straightness(lambda x, t: t[:, None], torch.zeros(1, 1), torch.linspace(1, 0, 101))  # var(t) = 1 / 12
    tensor([0.0834])
    """
    advance, rows = find_method(method).advance, len(x)
    begin, velocities = x, [velocity(x, times[0].expand(rows))]
    for t, s in itertools.pairwise(times):
        x = advance(velocity, x, t.expand(rows), s.expand(rows))
        velocities.append(velocity(x, s.expand(rows)))
    length = (times[-1] - times[0]).expand(rows)
    mean = (x - begin) / expand(length, x)
    missed = torch.stack([(v - mean).flatten(1).square().sum(1) for v in velocities])
    return torch.trapezoid(missed, times, dim=0) / length
