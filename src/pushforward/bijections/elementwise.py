"""Increasing maps of a number to a number whose parameters a network chooses: what couplings and autoregressive flows apply.

    additive        y = x + t                                                            slope 1
    affine          y = s x + t,            log s = 2 tanh(a / 2)       (tanh)           s in (0.14, 7.4)
                                            s = sigmoid(a' + 2) / sigmoid(2) (sigmoid)   s in (0.14, 1.14),  a' = 4 tanh(a / 4)
    standardised    y = (x - mean) / sigma

A network speaks of K numbers for each x, in the last axis of its parameters (*shape of x, K). With all of them 0 each map is
the identity, so that a network whose last layer is 0 starts a flow there. The bounds of s keep long chains within the range
of single precision, both ways: RealNVP has a learned multiple of the tanh; Glow the sigmoid, here divided by its value at 0.

Sources: Dinh et al. 2015, "NICE", arXiv:1410.8516 (additive); Dinh et al. 2017, "Density estimation using Real NVP",
arXiv:1605.08803 (tanh); Kingma and Dhariwal 2018, "Glow", arXiv:1807.03039 (sigmoid; standardised, where it splits).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pushforward.distributions.likelihoods import soft_clamp, wide
from pushforward.errors import UserError

LOG_SCALE = 2.0  # the tanh's log s stays within +-2
OPEN = 2.0  # what Glow adds to a before the sigmoid
LOG_SIGMA = 8.0  # log sigma stays within +-8


class Elementwise:
    """x -> y, number by number, and back, in single precision at least, whatever that of the parameters.

    It has no state: `parameters` is how many numbers it asks of a network for each x.
    """

    parameters: int

    def forward(self, x: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> tuple[Float[Tensor, "*x"], Float[Tensor, "*x"]]:
        """y, and log dy/dx of each number."""
        raise NotImplementedError

    def inverse(self, y: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> Float[Tensor, "*x"]:
        """x."""
        raise NotImplementedError


class Additive(Elementwise):
    """y = x + t: volumes stay."""

    parameters = 1

    def forward(self, x: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> tuple[Float[Tensor, "*x"], Float[Tensor, "*x"]]:
        y = wide(x) + wide(params[..., 0])
        return y, torch.zeros_like(y)

    def inverse(self, y: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> Float[Tensor, "*x"]:
        return wide(y) - wide(params[..., 0])


class Affine(Elementwise):
    """y = s x + t.

    Args:
        scale: what bounds s: "tanh" (RealNVP) or "sigmoid" (Glow).
    """

    parameters = 2

    def __init__(self, scale: str = "tanh"):
        if scale not in ("tanh", "sigmoid"):
            raise UserError(f"scale = '{scale}' was given for an affine map; it must be tanh or sigmoid.")
        self.scale = scale

    def read(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """log s and t."""
        a, t = wide(params).unbind(-1)
        if self.scale == "tanh":
            return soft_clamp(a, -LOG_SCALE, LOG_SCALE), t
        return F.logsigmoid(soft_clamp(a, -2 * OPEN, 2 * OPEN) + OPEN) + math.log1p(math.exp(-OPEN)), t

    def forward(self, x: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> tuple[Float[Tensor, "*x"], Float[Tensor, "*x"]]:
        log_s, t = self.read(params)
        return log_s.exp() * x + t, log_s

    def inverse(self, y: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> Float[Tensor, "*x"]:
        log_s, t = self.read(params)
        return (y - t) * (-log_s).exp()


class Standardised(Elementwise):
    """y = (x - mean) / sigma: standard normal where x is N(mean, sigma^2)."""

    parameters = 2

    def read(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and log sigma."""
        mean, log_sigma = wide(params).unbind(-1)
        return mean, soft_clamp(log_sigma, -LOG_SIGMA, LOG_SIGMA)

    def forward(self, x: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> tuple[Float[Tensor, "*x"], Float[Tensor, "*x"]]:
        mean, log_sigma = self.read(params)
        log_slope = -log_sigma
        return (x - mean) * log_slope.exp(), log_slope

    def inverse(self, y: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> Float[Tensor, "*x"]:
        mean, log_sigma = self.read(params)
        return mean + log_sigma.exp() * y
