"""The residual networks of SNGAN, SAGAN and BigGAN, for images of 8 to 128 pixels a side, of any shape and number of channels.

Blocks add to a shortcut what two 3 x 3 convolutions make of it (U: nearest-neighbour doubling, D: 2 x 2 averages):

    generator   h <- conv1(U h) + conv3(relu(norm(conv3(U relu(norm(h))))))
    critic      h <- D(conv1(h) + conv3(relu(conv3(relu(h)))))

and a critic judges the sum over all places of the last features, h(x). The condition's embedding e reaches the generator
through its norms, class-conditional batch normalisation (A, B a layer's own matrices, so that e = 0 is a plain batch norm),

    norm(h | e) = (1 + A e) batch_norm(h) + B e.

BigGAN cuts z into chunks, the first of which is drawn on at the coarsest size; each block's norms see the next one beside e.
Self-attention lets far places agree: every place adds gamma times an average over all places, gamma = 0 at the beginning.

Sizes are planned as in dcgan.py: halved with rounding up (28 x 23, 14 x 12, 7 x 6); averages over 2 x 2 take what there is
at an odd edge, and doubling is cut, so that every size comes out exactly.

Miyato, Kataoka, Koyama and Yoshida 2018 (SNGAN), arXiv:1802.05957; Miyato and Koyama 2018 (projection, conditional norms),
arXiv:1802.05637; Zhang, Goodfellow, Metaxas and Odena 2019 (self-attention), arXiv:1805.08318; Brock, Donahue and Simonyan
2019 (BigGAN), arXiv:1809.11096.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.dcgan import MOMENTUM, sizes


def attended(plan: list[tuple[int, int]], side: int) -> int:
    """The finest level below the image itself that is at most `side` pixels high and wide.

    >>> attended([(28, 23), (14, 12), (7, 6)], 16)
    1
    """
    for level, size in enumerate(plan[1:], 1):
        if max(size) <= side:
            return level
    able = ", ".join(f"{height}x{width}" for height, width in plan[1:])
    raise UserError(f"attention = {side} is finer than no size of these networks ({able}); give at least {max(plan[-1])}.")


def initialise(network: nn.Module, orthogonal: bool) -> None:
    """Orthogonal weights (BigGAN), or Glorot's (SNGAN), sqrt(2) as wide in 3 x 3 convolutions for the ReLU; biases 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if orthogonal:
                nn.init.orthogonal_(module.weight)
            else:
                wide = isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
                nn.init.xavier_uniform_(module.weight, math.sqrt(2) if wide else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ConditionalNorm(nn.Module):
    """(1 + A e) batch_norm(h) + B e, of h (B, C, H, W) and e (B, embedding); with embedding = 0 the batch norm alone."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, momentum=MOMENTUM)
        self.modulate = nn.Linear(embedding, 2 * channels, bias=False) if embedding else None

    def forward(self, h: Float[Tensor, "b c h w"], e: Float[Tensor, "b e"]) -> Float[Tensor, "b c h w"]:
        h = self.norm(h)
        if self.modulate is None:
            return h
        scale, shift = self.modulate(e)[:, :, None, None].chunk(2, 1)
        return h * (1 + scale) + shift


class UpBlock(nn.Module):
    """h (B, inputs, ...) -> (B, outputs, *size), about twice the size."""

    def __init__(self, inputs: int, outputs: int, embedding: int, size: tuple[int, int]):
        super().__init__()
        self.size = size
        self.norm1, self.norm2 = ConditionalNorm(inputs, embedding), ConditionalNorm(outputs, embedding)
        # No biases: the norms that follow would take them away again.
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def grow(self, h: Tensor) -> Tensor:
        height, width = self.size
        return F.interpolate(h, scale_factor=2, mode="nearest")[:, :, :height, :width]

    def forward(self, h: Float[Tensor, "b i h w"], e: Float[Tensor, "b e"]) -> Float[Tensor, "b o h2 w2"]:
        inner = self.conv1(self.grow(F.relu(self.norm1(h, e))))
        inner = self.conv2(F.relu(self.norm2(inner, e)))
        return self.grow(self.shortcut(h)) + inner  # of one place each: the same before doubling, for a quarter of the work


class DownBlock(nn.Module):
    """h (B, inputs, ...) -> (B, outputs, ...), at half the size, rounded up, where `halve`.

    first: of the image itself, which no ReLU cuts off.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool = True, first: bool = False):
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if halve or inputs != outputs else nn.Identity()

    def average(self, h: Tensor) -> Tensor:
        return F.avg_pool2d(h, 2, ceil_mode=True) if self.halve else h

    def forward(self, h: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        inner = self.conv2(F.relu(self.conv1(h if self.first else F.relu(h))))
        return self.shortcut(self.average(h)) + self.average(inner)


class SelfAttention(nn.Module):
    """h + gamma W_o sum_j softmax_j(<f(h_i), g(h_j)>) v(h_j) over places, the j of half the size (2 x 2 maxima)."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(channels // 8, 1)
        self.query = nn.Conv2d(channels, inner, 1, bias=False)
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, max(channels // 2, 1), 1, bias=False)
        self.leave = nn.Conv2d(max(channels // 2, 1), channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query = self.query(h).flatten(2)
        key, value = (F.max_pool2d(part(h), 2, ceil_mode=True).flatten(2) for part in (self.key, self.value))
        # Not torch's fused attention, which cannot be differentiated twice, as penalties on a critic's slope ask.
        share = torch.softmax(query.mT @ key, -1)
        return h + self.gamma * self.leave((value @ share.mT).unflatten(2, h.shape[2:]))


class ResidualGenerator(nn.Module):
    """z (B, latent_dim), embedding (B, embedding) or None (the same as zeros) -> images (B, C, H, W) in [-1, 1].

    Args:
        shape: (C, H, W) of an image; latent_dim: of z; channels: at the finest size, doubling as sizes halve, up to eight
            times as many; embedding: width of the condition's vector, which the norms see (0: none).
        bounded: False for data that are not in [-1, 1].
        attention: self-attention at the finest size of at most so many pixels a side; None: nowhere.
        hierarchical: whether each block sees its own chunk of z.
        orthogonal: whether weights are drawn orthogonal, as BigGAN's.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        channels: int = 32,
        embedding: int = 0,
        bounded: bool = True,
        *,
        attention: int | None = None,
        hierarchical: bool = False,
        orthogonal: bool = False,
    ):
        super().__init__()
        plan = sizes(*shape[1:])
        blocks = len(plan) - 1
        self.bounded, self.embedding = bounded, embedding
        self.chunks = [latent_dim]
        if hierarchical:
            if latent_dim <= blocks:
                raise UserError(
                    f"z of {latent_dim} numbers cannot be cut into chunks for {blocks} blocks and the start; "
                    f"give latent_dim of at least {blocks + 1}, or hierarchical=False."
                )
            self.chunks = [len(part) for part in torch.arange(latent_dim).tensor_split(blocks + 1)]
        told = [embedding + chunk for chunk in self.chunks[1:]] or [embedding] * blocks
        widths = [channels * min(2**level, 8) for level in range(blocks, -1, -1)]
        self.start = (widths[0], *plan[-1])
        self.enter = nn.Linear(self.chunks[0], math.prod(self.start))
        self.blocks = nn.ModuleList(
            UpBlock(coarse, fine, width, size)
            for (coarse, fine), width, size in zip(pairwise(widths), told, plan[-2::-1], strict=True)
        )
        self.place = None if attention is None else blocks - attended(plan, attention)
        self.attention = None if self.place is None else SelfAttention(widths[self.place])
        self.norm = nn.BatchNorm2d(channels, momentum=MOMENTUM)
        self.leave = nn.Conv2d(channels, shape[0], 3, padding=1)
        initialise(self, orthogonal)

    def forward(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b c h w"]:
        if embedding is None:
            embedding = z.new_zeros(len(z), self.embedding)
        first, *others = z.split(self.chunks, 1)
        h = self.enter(first).unflatten(1, self.start)
        for level, block in enumerate(self.blocks):
            if self.attention is not None and level == self.place:
                h = self.attention(h)
            h = block(h, torch.cat([*others[level : level + 1], embedding.to(z.dtype)], 1))
        x = self.leave(F.relu(self.norm(h)))
        return torch.tanh(x) if self.bounded else x


class ResidualCritic(nn.Module):
    """The trunk of a critic: images (B, C, H, W), embedding (B, embedding) or None -> features h(x) (B, width), summed over all
    places of the last block.

    Args:
        shape: (C, H, W) of an image; channels: after the first block, doubling as sizes halve, up to eight times as many.
        embedding: width of the condition's vector (0: none), which shifts every channel after the first block (where a
            condition is to enter by projection, that is the business of the head).
        attention, orthogonal: as the generator's.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int = 32,
        embedding: int = 0,
        *,
        attention: int | None = None,
        orthogonal: bool = False,
    ):
        super().__init__()
        plan = sizes(*shape[1:])
        widths = [shape[0], *(channels * min(2**level, 8) for level in range(len(plan) - 1))]
        self.width = widths[-1]
        downs = [DownBlock(fine, coarse, first=level == 0) for level, (fine, coarse) in enumerate(pairwise(widths))]
        self.blocks = nn.ModuleList([*downs, DownBlock(self.width, self.width, halve=False)])
        self.place = None if attention is None else attended(plan, attention)
        self.attention = None if self.place is None else SelfAttention(widths[self.place])
        self.shift = nn.Linear(embedding, widths[1], bias=False) if embedding else None
        initialise(self, orthogonal)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b width"]:
        h = x
        for level, block in enumerate(self.blocks):
            if self.attention is not None and level == self.place:
                h = self.attention(h)
            h = block(h)
            if level == 0 and self.shift is not None and embedding is not None:
                h = h + self.shift(embedding.to(h.dtype))[:, :, None, None]
        return F.relu(h).sum((2, 3))
