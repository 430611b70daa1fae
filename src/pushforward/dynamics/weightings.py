"""How much a time counts in the regression: a weight on the squared error of the network's output.

Every target's error is a multiple of every other's: with determinant alpha b - sigma a, the error of y is -determinant / sigma
times that of x0. So a weighting is stated in the terms of any target and means the same whatever the network predicts:
a network of the noise under the weighting "velocity" has the loss of flow matching.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.paths import Path
from pushforward.dynamics.targets import TARGETS, determinant
from pushforward.errors import UserError, nearest

WEIGHTINGS = ("uniform", "min-snr", *TARGETS)
MOST_SNR = 5.0  # Hang et al.'s gamma


def check_weighting(weighting: str) -> None:
    """Raises UserError for an unknown one."""
    if weighting not in WEIGHTINGS:
        raise UserError(f"there is no weighting '{weighting}'; {nearest(weighting, WEIGHTINGS)}")


def weights(path: Path, target: str, weighting: str, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The weight (B,) of the squared error of a network that predicts `target`.

    weighting: "uniform": 1. "min-snr": min(alpha^2 / sigma^2, 5) of x0's error (Hang et al. 2023, arXiv:2303.09556). A target's
    name: that target's error, unweighted ("noise" is DDPM's simple loss). t stays within the target's span.

    >>> from pushforward.dynamics.paths import Linear
    >>> weights(Linear(), "noise", "velocity", torch.tensor([0.5]))  # noise is (1 - t) times the velocity, given x_t
    tensor([4.])
    """
    check_weighting(weighting)
    if weighting in ("uniform", target):
        return torch.ones_like(t)
    own = determinant(path, target, t)
    if weighting != "min-snr":
        return (determinant(path, weighting, t) / own) ** 2
    alpha, sigma, _, _ = path(t)
    return (alpha / sigma).square().clamp(max=MOST_SNR) * (sigma / own) ** 2
