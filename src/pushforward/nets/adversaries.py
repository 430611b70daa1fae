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
    """The trunk of a critic: x (B, *shape), embedding or None -> features (B, width)."""

    def __init__(self, shape: tuple[int, ...], width: int, embedding: int):
        super().__init__()
        self.width = width
        layers = mlp(int(torch.Size(shape).numel()) + embedding, 1, (width,) * 3, "leaky-relu")
        self.net = layers[:-1]  # the last layer is a head
        keep_variance(self.net)

    def forward(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b width"]:
        x = x.flatten(1)
        return self.net(x if embedding is None else torch.cat([x, embedding.to(x.dtype)], 1))


class SeveralGenerators(nn.Module):
    """Generators side by side, of which z says by a one-hot code which one a row is of: z (B, latent_dim) -> x (B, *shape).

    G is continuous, so that one generator joins modes of the data that lie apart by bridges; several need none.

    Args:
        generators: of the same inputs and outputs. code: where in z (its first and last place + 1) the one-hot code is, which
            the generators do not see.
    """

    def __init__(self, generators: list[nn.Module], code: tuple[int, int]):
        super().__init__()
        self.each = nn.ModuleList(generators)
        self.code = code

    def forward(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b *shape"]:
        first, last = self.code
        chosen = z[:, first:last].argmax(1)
        z = torch.cat([z[:, :first], z[:, last:]], 1)
        order, parts = [], []
        for number, generator in enumerate(self.each):
            rows = (chosen == number).nonzero().squeeze(1)
            if len(rows):
                parts.append(generator(z[rows], *(() if embedding is None else (embedding[rows],))))
                order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]
