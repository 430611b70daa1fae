"""The two networks of an adversarial game for data that are no images: multi-layer perceptrons."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.nets.mlp import mlp


def keep_variance(network: nn.Module) -> None:
    """He et al. 2015's draw: activations as wide after a layer as before. With torch's own a generator starts as a point,
    and a point is pulled about as one: it takes long to spread, or ends on a part of the data."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)


class MLPGenerator(nn.Module):
    """z (B, latent_dim), embedding or None -> x (B, *shape), in [-1, 1] where `bounded`."""

    def __init__(self, shape: tuple[int, ...], latent_dim: int, width: int, embedding: int, bounded: bool):
        super().__init__()
        self.shape, self.bounded = tuple(shape), bounded
        self.net = mlp(latent_dim + embedding, int(torch.Size(shape).numel()), (width,) * 3, "relu")
        keep_variance(self.net)

    def forward(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b *shape"]:
        x = self.net(z if embedding is None else torch.cat([z, embedding], 1)).unflatten(1, self.shape)
        return torch.tanh(x) if self.bounded else x


class MLPCritic(nn.Module):
    """x (B, *shape), embedding or None -> logits (B,)."""

    def __init__(self, shape: tuple[int, ...], width: int, embedding: int):
        super().__init__()
        self.net = mlp(int(torch.Size(shape).numel()) + embedding, 1, (width,) * 3, "leaky-relu")
        keep_variance(self.net)

    def forward(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, " b"]:
        x = x.flatten(1)
        return self.net(x if embedding is None else torch.cat([x, embedding.to(x.dtype)], 1)).squeeze(1)
