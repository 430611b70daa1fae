"""Layers with an equalised learning rate: weights are drawn from N(0, 1 / m^2) and scaled where they are used,

    y = m (gain / sqrt(inputs of one output) W x + b).

Activations are as wide as with a draw of that width, but an optimiser whose steps do not depend on a gradient's size (Adam)
moves each layer by the same share of its weights, however many inputs it has, and m times as fast as one of multiplier 1.

Karras, Aila, Laine and Lehtinen 2018, arXiv:1710.10196; Karras, Laine and Aila 2019 (the multiplier), arXiv:1812.04948.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class EqualisedLinear(nn.Module):
    """x (B, inputs) -> (B, outputs).

    Args:
        gain: sqrt(2) ahead of a (leaky) ReLU that has none itself. start: what the biases are at the beginning, None: no bias.
        multiplier: m, of the learning rate.
    """

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0, start: float | None = 0.0, multiplier: float = 1.0):
        super().__init__()
        self.multiplier, self.scale = multiplier, multiplier * gain / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = None if start is None else nn.Parameter(torch.full((outputs,), start / multiplier))

    def forward(self, x: Float[Tensor, "*b inputs"]) -> Float[Tensor, "*b outputs"]:
        return F.linear(x, self.scale * self.weight, None if self.bias is None else self.multiplier * self.bias)


class EqualisedConv2d(nn.Module):
    """h (B, inputs, H, W) -> (B, outputs, H, W), with an odd kernel and zeros around. gain: as of `EqualisedLinear`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, gain: float = 1.0, bias: bool = True):
        super().__init__()
        self.padding, self.scale = kernel // 2, gain / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, h: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h w"]:
        return F.conv2d(h, self.scale * self.weight, self.bias, padding=self.padding)
