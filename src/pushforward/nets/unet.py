"""A U-Net that knows the time: residual blocks on a ladder of resolutions, with shortcuts across.

Each block is GroupNorm, SiLU, convolution, twice, the second norm scaled and shifted by the embedding of time and
condition; attention at the coarse resolutions (Ronneberger et al. 2015; Ho et al. 2020; Dhariwal and Nichol 2021).
Any channels, odd and non-square sizes: a stride-2 convolution rounds up, and the way up returns to the shortcut's size.
An image as condition goes in behind x (Saharia et al. 2021, arXiv:2111.05826), a context by attention beside the places' own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.cross_attention import CrossAttention
from pushforward.nets.embeddings import TimeEmbedding
from pushforward.nets.transformer import attended


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups, of at least 4 channels where there are as many."""
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return nn.GroupNorm(groups, channels)


def modulated(
    norm: nn.GroupNorm, x: Float[Tensor, "b c h w"], scale: Float[Tensor, "b c"], shift: Float[Tensor, "b c"]
) -> Float[Tensor, "b c h w"]:
    """(1 + scale) * norm(x) + shift in one pass: the rows beside each other as channels of one, with groups of their own."""
    rows, channels = scale.shape
    if not rows:  # torch has no norm over no groups
        return x
    beside, groups = x.reshape(1, rows * channels, *x.shape[2:]), rows * norm.num_groups
    weight, bias = norm.weight * (1 + scale), norm.bias * (1 + scale) + shift
    return F.group_norm(beside, groups, weight.flatten(), bias.flatten(), norm.eps).reshape(x.shape)


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
        scale, shift = self.modulation(embedding).chunk(2, 1)
        h = F.silu(modulated(self.norm2, h, scale, shift))
        return self.shortcut(x) + self.conv2(self.dropout(h))


class Attention(nn.Module):
    """Self-attention over the H W places of a map, added to it: (B, C, H, W) -> (B, C, H, W). Starts as the identity.

    Heads are `head` channels wide, or there is one where that does not divide the channels.
    """

    def __init__(self, channels: int, head: int = 64):
        super().__init__()
        self.heads = head_count(channels, head)
        self.norm, self.qkv = group_norm(channels), nn.Linear(channels, 3 * channels)
        self.leave = nn.Linear(channels, channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)
        # (B, heads, H W, head) with each head's numbers side by side: what the fused kernels ask for
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(places).chunk(3, 2))
        h = attended(q, k, v, causal=False)
        return x + self.leave(h.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)


def head_count(channels: int, head: int) -> int:
    """Heads of attention of this width."""
    return channels // head if channels % head == 0 else 1


class Context(nn.Module):
    """What the places of a map take from vectors (B, M, context), added to it: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, context: int, head: int = 64):
        super().__init__()
        self.attend = CrossAttention(channels, context, head_count(channels, head))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + self.attend(x.flatten(2).transpose(1, 2), context, mask).transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """A residual block and, where asked for, attention: to the map itself and to a context."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, dropout: float, attention: bool, head: int, context: int | None
    ):
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, embedding, dropout)
        self.attend = Attention(outputs, head) if attention else nn.Identity()
        self.context = Context(outputs, context, head) if attention and context is not None else None

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x = self.attend(self.block(x, embedding))
        return x if self.context is None or context is None else self.context(x, context, mask)


class Doubled(nn.Conv2d):
    """Each place repeated 2 x 2, then a 3 x 3 convolution: (B, C, H, W) -> (B, C, 2 H, 2 W).

    Repeated places are multiplied by sums of the same weights: it is a transposed convolution with a kernel of 4 x 4, which has
    4/9 of the products. Along a side, out[2 i + d - 1] takes from x[i] w[2 - d] + w[3 - d], d = 0 .. 3.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.flip(2, 3).transpose(0, 1)
        kernel = F.pad(kernel, (0, 1)) + F.pad(kernel, (1, 0))
        kernel = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class UNet(nn.Module):
    """x (B, inputs, H, W), t (B,), embedding (B, embedding) or None -> (B, outputs, H, W). The last layer starts at 0.

    Args:
        channels: of the image.
        width: channels at full resolution.
        multipliers: channels at each resolution in units of `width`; as many resolutions as entries.
        depth: residual blocks at each resolution (one more on the way up).
        attention: which resolutions have attention (0 = full); the middle of the coarsest always has it.
        embedding: width of the condition's embedding.
        dropout: in each residual block.
        outputs: channels out (None: as many as the image's; twice as many for a learned variance).
        inputs: channels in (None: as many as the image's; more where an image as condition is behind x).
        head: width of the heads of attention (where it does not divide the channels, there is one head).
        context: width of the vectors of a context, to attend to wherever there is attention (None: there is none).
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
        inputs: int | None = None,
        head: int = 64,
        context: int | None = None,
    ):
        super().__init__()
        if min(channels, width, depth, embedding, head) < 1 or not multipliers or min(multipliers) < 1:
            raise UserError(
                "channels, width, depth, embedding and head must be at least 1, as must be every one of the multipliers; "
                f"{channels}, {width}, {depth}, {embedding}, {head} and {tuple(multipliers)} were given."
            )
        sizes = [width * multiplier for multiplier in multipliers]
        coarsest = len(sizes) - 1

        def stage(inputs: int, outputs: int, attends: bool) -> Stage:
            return Stage(inputs, outputs, embedding, dropout, attends, head, context)

        self.time = TimeEmbedding(embedding)
        self.enter = nn.Conv2d(inputs or channels, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        shortcuts, size = [width], width  # channels of the maps that the way up takes back, last first
        for level, target in enumerate(sizes):
            for _ in range(depth):
                self.down.append(stage(size, target, level in attention))
                size = target
                shortcuts.append(size)
            if level < coarsest:
                self.down.append(nn.Conv2d(size, size, 3, stride=2, padding=1))
                shortcuts.append(size)
        self.middle = stage(size, size, True)
        self.after = ResidualBlock(size, size, embedding, dropout)
        for level, target in reversed(list(enumerate(sizes))):
            for _ in range(depth + 1):
                self.up.append(stage(size + shortcuts.pop(), target, level in attention))
                size = target
            if level:
                self.up.append(Doubled(size))
        self.leave_norm = group_norm(size)
        self.leave = nn.Conv2d(size, outputs or channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, "b"],
        embedding: Tensor | None = None,
        context: Float[Tensor, "b m wide"] | None = None,
        context_mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b outputs h w"]:
        """context (B, M, context): vectors to attend to where `context_mask` (B, M) is true (None: everywhere)."""
        embedded = self.time(t, embedding)
        h = self.enter(x)
        shortcuts = [h]
        for layer in self.down:
            h = layer(h, embedded, context, context_mask) if isinstance(layer, Stage) else layer(h)
            shortcuts.append(h)
        h = self.after(self.middle(h, embedded, context, context_mask), embedded)
        for layer in self.up:
            if isinstance(layer, Stage):
                h = layer(torch.cat([h, shortcuts.pop()], 1), embedded, context, context_mask)
            else:  # an odd side was rounded up on the way down
                height, width = shortcuts[-1].shape[-2:]
                h = layer(h)[..., :height, :width]
        return self.leave(F.silu(self.leave_norm(h)))
