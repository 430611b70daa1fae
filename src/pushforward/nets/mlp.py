"""Multi-layer perceptrons, plain and residual."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}


def mlp(
    inputs: int, outputs: int, hidden: Sequence[int] = (256, 256), activation: str = "silu", dropout: float = 0.0
) -> nn.Sequential:
    """Linear layers with an activation between them: (B, inputs) -> (B, outputs)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Flat(nn.Module):
    """A multi-layer perceptron on x (B, ...) flattened, with an embedding (B, e) beside it -> (B, outputs)."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, dropout: float = 0.0, activation: str = "silu"):
        super().__init__()
        self.body = mlp(inputs, outputs, [width] * depth, activation, dropout)

    @property
    def leave(self) -> nn.Linear:
        """The last layer."""
        layer = self.body[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        x = x.flatten(1)
        return self.body(x if embedding is None else torch.cat([x, embedding], 1))


class ResidualMLP(nn.Module):
    """Pre-norm residual blocks whose norm is shifted and scaled by an embedding (of time, class): what a small
    denoiser, critic or coupling needs. x (B, inputs), embedding (B, embedding) or None -> (B, outputs)."""

    def __init__(self, inputs: int, outputs: int, width: int = 256, depth: int = 3, embedding: int = 0, dropout: float = 0.0):
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=not embedding) for _ in range(depth))
        self.modulations = nn.ModuleList(nn.Linear(embedding, 2 * width) for _ in range(depth if embedding else 0))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, width))
            for _ in range(depth)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.enter(x)
        for i, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=True)):
            u = norm(h)
            if self.modulations:
                scale, shift = self.modulations[i](embedding).chunk(2, -1)
                u = u * (1 + scale) + shift
            h = h + block(u)
        return self.leave(h)
