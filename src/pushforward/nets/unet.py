"""A U-Net that knows the time: residual blocks on a ladder of resolutions, with shortcuts across.

Each block is GroupNorm, SiLU, convolution, twice, the second norm scaled and shifted by the embedding of time and
condition; attention at the coarse resolutions (Ronneberger et al. 2015; Ho et al. 2020; Dhariwal and Nichol 2021).
Any channels, odd and non-square sizes: a stride-2 convolution rounds up, and the way up returns to the shortcut's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.nets.embeddings import TimeEmbedding


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups, of at least 4 channels where there are as many."""
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return nn.GroupNorm(groups, channels)


def multipliers(height: int, width: int) -> tuple[int, ...]:
    """Channels at each resolution, in units of the width: halve while the short side stays at 4 or more, 4 times at most.

    >>> multipliers(8, 8), multipliers(28, 28), multipliers(64, 64), multipliers(7, 5)
    ((1, 2), (1, 2, 2), (1, 2, 3, 4), (1,))
    """
    short, levels = min(height, width), 1
    most = 4 if short >= 48 else 3
    while short // 2 >= 4 and levels < most:
        short, levels = -(-short // 2), levels + 1
    return {1: (1,), 2: (1, 2), 3: (1, 2, 2), 4: (1, 2, 3, 4)}[levels]


class ResidualBlock(nn.Module):
    """x (B, inputs, H, W), embedding (B, E) -> (B, outputs, H, W). The second convolution starts at 0: the block begins as
    its shortcut."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        return self.shortcut(x) + self.conv2(self.dropout(h))


class Attention(nn.Module):
    """Self-attention over the H W places of a map, added to it: (B, C, H, W) -> (B, C, H, W). Starts as the identity."""

    def __init__(self, channels: int, head: int = 64):
        super().__init__()
        self.heads = channels // head if channels % head == 0 else 1
        self.norm, self.qkv = group_norm(channels), nn.Linear(channels, 3 * channels)
        self.leave = nn.Linear(channels, channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)
        # (B, heads, H W, head) with each head's numbers side by side: what the fused kernels ask for
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(places).chunk(3, 2))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.leave(h.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """A residual block and, where asked for, attention."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, attention: bool):
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, embedding, dropout)
        self.attend = Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attend(self.block(x, embedding))


class UNet(nn.Module):
    """x (B, channels, H, W), t (B,), embedding (B, embedding) or None -> (B, outputs, H, W). The last layer starts at 0.

    Args:
        channels: of the image.
        width: channels at full resolution.
        multipliers: channels at each resolution in units of `width`; as many resolutions as entries.
        depth: residual blocks at each resolution (one more on the way up).
        attention: which resolutions have attention (0 = full); the middle of the coarsest always has it.
        embedding: width of the condition's embedding.
        dropout: in each residual block.
        outputs: channels out (None: as many as in).
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        depth: int = 2,
        attention: Sequence[int] = (),
        embedding: int = 128,
        dropout: float = 0.0,
        outputs: int | None = None,
    ):
        super().__init__()
        sizes = [width * multiplier for multiplier in multipliers]
        coarsest = len(sizes) - 1
        self.time = TimeEmbedding(embedding)
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        shortcuts, size = [width], width  # channels of the maps that the way up takes back, last first
        for level, target in enumerate(sizes):
            for _ in range(depth):
                self.down.append(Stage(size, target, embedding, dropout, level in attention))
                size = target
                shortcuts.append(size)
            if level < coarsest:
                self.down.append(nn.Conv2d(size, size, 3, stride=2, padding=1))
                shortcuts.append(size)
        self.middle = Stage(size, size, embedding, dropout, True)
        self.after = ResidualBlock(size, size, embedding, dropout)
        for level, target in reversed(list(enumerate(sizes))):
            for _ in range(depth + 1):
                self.up.append(Stage(size + shortcuts.pop(), target, embedding, dropout, level in attention))
                size = target
            if level:
                self.up.append(nn.Conv2d(size, size, 3, padding=1))
        self.leave_norm = group_norm(size)
        self.leave = nn.Conv2d(size, outputs or channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], embedding: Tensor | None = None
    ) -> Float[Tensor, "b outputs h w"]:
        embedded = self.time(t, embedding)
        h = self.enter(x)
        shortcuts = [h]
        for layer in self.down:
            h = layer(h, embedded) if isinstance(layer, Stage) else layer(h)
            shortcuts.append(h)
        h = self.after(self.middle(h, embedded), embedded)
        for layer in self.up:
            if isinstance(layer, Stage):
                h = layer(torch.cat([h, shortcuts.pop()], 1), embedded)
            else:
                h = layer(F.interpolate(h, size=shortcuts[-1].shape[-2:], mode="nearest"))
        return self.leave(F.silu(self.leave_norm(h)))
