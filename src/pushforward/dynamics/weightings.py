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
from pushforward.dynamics.targets import EARLIEST, TARGETS, Target, determinant
from pushforward.errors import UserError, nearest

WEIGHTINGS = ("uniform", "min-snr", "truncated-snr", "sigmoid", "likelihood", *TARGETS)
MOST_SNR = 5.0  # Hang et al.'s gamma
SHIFT = 2.0  # Hoogeboom et al.'s bias of the logistic weighting


def check_weighting(weighting: str) -> None:
    """Raises UserError for an unknown one."""
    if weighting not in WEIGHTINGS:
        raise UserError(f"there is no weighting '{weighting}'; {nearest(weighting, WEIGHTINGS)}")


def weights(path: Path, target: Target, weighting: Target, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The weight (B,) of the squared error of a network that predicts `target`. t stays within the target's span.

    weighting: by the ratio of signal to noise, snr = alpha^2 / sigma^2:

    - "uniform": 1, whatever the target.
    - a target, or its name: that target's error, unweighted: "noise" is DDPM's simple loss, "velocity" that of flow matching,
      "edm" Karras et al.'s.
    - "min-snr": min(snr, 5) of x0's error (Hang et al. 2023, arXiv:2303.09556).
    - "truncated-snr": max(snr, 1) of x0's error (Salimans and Ho 2022, arXiv:2202.00512).
    - "sigmoid": 1 / (1 + snr e^-2) of the noise's error (Hoogeboom et al. 2024, arXiv:2410.19324).
    - "likelihood": -1/2 d snr / dt of x0's error: the mean over t is then the variational bound's part, in nats a dimension
      (Kingma et al. 2021, arXiv:2107.00630; Song et al. 2021, arXiv:2101.09258). It grows without end towards the data: below
      t = 0.001 that of t = 0.001.

    >>> from pushforward.dynamics.paths import Linear
    >>> weights(Linear(), "noise", "velocity", torch.tensor([0.5]))  # noise is (1 - t) times the velocity, given x_t
    tensor([4.])
    """
    if isinstance(weighting, str):
        check_weighting(weighting)
    if weighting in ("uniform", target):
        return torch.ones_like(t)
    if not isinstance(weighting, str) or weighting in TARGETS:
        return (determinant(path, weighting, t) / determinant(path, target, t)) ** 2
    # The weight of x0's error times (sigma / determinant)^2 is that of the target's; the noise's is snr times x0's.
    if weighting == "likelihood":
        t = t.clamp(min=EARLIEST)
        alpha, sigma, d_alpha, d_sigma = path(t)
        return alpha * (alpha * d_sigma - sigma * d_alpha) / sigma / determinant(path, target, t) ** 2
    alpha, sigma, _, _ = path(t)
    snr = (alpha / sigma).square()
    of_x0 = {
        "min-snr": lambda: snr.clamp(max=MOST_SNR),
        "truncated-snr": lambda: snr.clamp(min=1.0),
        "sigmoid": lambda: snr * (SHIFT - snr.log()).sigmoid(),
    }[weighting]()
    return of_x0 * (sigma / determinant(path, target, t)) ** 2
