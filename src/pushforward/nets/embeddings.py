"""Embeddings of time and of coordinates, and the MLP that takes a time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.nets.mlp import ResidualMLP


def sinusoidal(
    t: Float[Tensor, "b"], width: int, *, scale: float = 1000.0, period: float = 10_000.0
) -> Float[Tensor, "b width"]:
    """[cos(w_i scale t), sin(w_i scale t)], w_i geometric from 1 down to 1 / period (Vaswani et al. 2017; Ho et al. 2020).

    t in [0, 1] is scaled to DDPM's 0..1000. `width` must be even.
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))  # 1000 t has no room in bf16
    half = width // 2
    frequencies = torch.exp(-math.log(period) / half * torch.arange(half, device=t.device, dtype=t.dtype))
    angles = scale * t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


class TimeEmbedding(nn.Module):
    """t (B,) and a condition's embedding (B, width) or None -> (B, width), for the modulation of a network's layers."""

    def __init__(self, width: int, frequencies: int = 128):
        super().__init__()
        self.frequencies = frequencies
        self.enter = nn.Linear(frequencies, width)
        self.leave = nn.Linear(width, width)

    def forward(self, t: Float[Tensor, "b"], embedding: Float[Tensor, "b width"] | None = None) -> Float[Tensor, "b width"]:
        h = self.leave(nn.functional.silu(self.enter(sinusoidal(t, self.frequencies))))
        return nn.functional.silu(h if embedding is None else h + embedding)


class TimedMLP(nn.Module):
    """A residual MLP on flattened data: x (B, *shape), t (B,), embedding (B, embedding) or None -> (B, *shape).

    The last layer starts at 0, so that the first prediction is 0 everywhere.
    """

    def __init__(self, dimensions: int, width: int = 256, depth: int = 3, embedding: int = 256, dropout: float = 0.0):
        super().__init__()
        self.time = TimeEmbedding(embedding)
        self.net = ResidualMLP(dimensions, dimensions, width, depth, embedding, dropout)
        nn.init.zeros_(self.net.leave[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net.leave[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], embedding: Tensor | None = None) -> Tensor:
        return self.net(x.flatten(1), self.time(t, embedding)).reshape(x.shape)
