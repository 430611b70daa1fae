"""A diffusion transformer: a trunk of attention blocks that the time and the condition steer, and images through it.

A block, with (s1, c1, g1, s2, c2, g2) = W e + b, which starts at W = 0, b = 0, and norms without weights of their own:

    h <- h + g1 * attention((1 + c1) * norm(h) + s1)
    h <- h + g2 * perceptron((1 + c2) * norm(h) + s2)

so that every block begins as the identity (adaLN-zero: Peebles and Xie 2023, arXiv:2212.09748). Attention sees both ways, its
queries and keys turned by their positions (Su et al. 2021, arXiv:2104.09864): along a sequence, or half of a head's channels by
the row and half by the column of a grid. Between the two, where the trunk was given a context (the tokens of a caption), its
places attend to that: h <- h + cross(h, context), 0 at first (as in Chen et al. 2023, arXiv:2310.00426).

Images are cut into patches of p x p, each a vector; sines and cosines of its row and column are added (Dosovitskiy et al. 2020,
arXiv:2010.11929, with the fixed positions of the paper above).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.cross_attention import CrossAttention
from pushforward.nets.embeddings import TimeEmbedding
from pushforward.nets.transformer import EPS, Turn, angles, attended, make_perceptron, turned

PLACES = 256  # patches that an image is cut into unless another patch is asked for, at most


class Size(TypedDict):
    """Of a trunk."""

    width: int
    depth: int
    heads: int


SIZES: dict[str, Size] = {
    "nano": {"width": 64, "depth": 4, "heads": 2},
    "tiny": {"width": 128, "depth": 6, "heads": 4},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""From S on those of Peebles and Xie; the two before them train on a processor."""


def sequence_turn(length: int, size: int, like: Tensor) -> Turn:
    """What turns heads of `size` channels at the positions 0 .. length - 1."""
    turns = angles(torch.arange(length, device=like.device, dtype=_exact(like)), size)
    return turns.cos(), turns.sin()


def grid_turn(height: int, width: int, size: int, like: Tensor) -> Turn:
    """What turns heads of `size` channels (a multiple of 4) on a grid, row by row: half of the pairs by the row, half by the
    column."""
    rows, columns = (angles(torch.arange(n, device=like.device, dtype=_exact(like)), size // 2) for n in (height, width))
    turns = torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], 1)
    return turns.cos(), turns.sin()


def _exact(like: Tensor) -> torch.dtype:
    """Positions are not whole numbers in half precision."""
    return torch.promote_types(like.dtype, torch.float32)


def modulated(x: Float[Tensor, "b l width"], shift: Tensor, scale: Tensor) -> Float[Tensor, "b l width"]:
    """(1 + scale) * norm(x) + shift of each row, norm over the channels."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale[:, None]) + shift[:, None]


class BothWays(nn.Module):
    """Multi-head self-attention in which every position sees every other."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b l width"], turn: Turn | None = None, mask: Bool[Tensor, "b l"] | None = None
    ) -> Float[Tensor, "b l width"]:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if turn is not None:
            query, key = turned(query, turn), turned(key, turn)
        out = attended(query, key, value, self.dropout if self.training else 0.0, causal=False, there=mask)
        return self.project(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One block of the trunk: (B, L, width) -> (B, L, width)."""

    def __init__(self, width: int, heads: int, embedding: int, dropout: float = 0.0, context: int | None = None):
        super().__init__()
        self.modulation = nn.Linear(embedding, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.attention = BothWays(width, heads, dropout)
        self.cross = None if context is None else CrossAttention(width, context, heads, dropout)
        self.perceptron = make_perceptron("gelu-tanh", width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        h: Float[Tensor, "b l width"],
        e: Float[Tensor, "b embedding"],
        turn: Turn | None = None,
        mask: Bool[Tensor, "b l"] | None = None,
        context: Float[Tensor, "b m wide"] | None = None,
        context_mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b l width"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(e).chunk(6, -1)
        h = h + gate1[:, None] * self.drop(self.attention(modulated(h, shift1, scale1), turn, mask))
        if self.cross is not None and context is not None:
            h = h + self.drop(self.cross(h, context, context_mask))
        return h + gate2[:, None] * self.drop(self.perceptron(modulated(h, shift2, scale2)))


class Trunk(nn.Module):
    """Blocks of attention both ways that an embedding steers: h (B, L, width), e (B, embedding) -> (B, L, width).

    It starts as the identity. `e` is what `TimeEmbedding` gives, a silu behind it.

    Args:
        width: of the stream.
        depth: blocks.
        heads: of attention; the width of each must be even, that it can be turned.
        embedding: width of e.
        dropout: rate, on the attention weights and what each part adds.
        context: width of a context's vectors (None: there is none).
    """

    def __init__(self, width: int, depth: int, heads: int, embedding: int, dropout: float = 0.0, *, context: int | None = None):
        super().__init__()
        if min(width, depth, heads, embedding) < 1:
            raise UserError(
                f"width, depth, heads and embedding must be at least 1; {width}, {depth}, {heads} and {embedding} were given."
            )
        if width % (2 * heads):
            raise UserError(
                f"a head needs an even width, as its positions turn pairs of channels: the width ({width}) must be a "
                f"multiple of twice the heads ({heads})."
            )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must be in [0, 1); {dropout} was given.")
        self.head = width // heads
        self.blocks = nn.ModuleList(Block(width, heads, embedding, dropout, context) for _ in range(depth))

    def forward(
        self,
        h: Float[Tensor, "b l width"],
        e: Float[Tensor, "b embedding"],
        turn: Turn | None = None,
        mask: Bool[Tensor, "b l"] | None = None,
        *,
        context: Float[Tensor, "b m wide"] | None = None,
        context_mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b l width"]:
        """
        Args:
            h: the stream.
            e: time and condition.
            turn: cosine and sine (L, width / heads / 2) by which positions turn (`grid_turn`); None: those of a sequence.
            mask: true where a position may be seen; None: all.
            context: vectors to attend to; None: no block attends to any.
            context_mask: true where the context counts; None: everywhere.
        """
        if turn is None:
            turn = sequence_turn(h.shape[1], self.head, h)
        for block in self.blocks:
            h = block(h, e, turn, mask, context, context_mask)
        return h


def patch_size(height: int, width: int) -> int:
    """The smallest power of 2 that cuts an image into at most 256 patches.

    >>> [patch_size(n, n) for n in (8, 28, 32, 64, 256)]
    [1, 2, 2, 4, 16]
    """
    patch = 1
    while -(-height // patch) * -(-width // patch) > PLACES:
        patch *= 2
    return patch


class DiT(nn.Module):
    """x (B, channels, H, W), t (B,), embedding (B, embedding) or None -> (B, outputs, H, W). The last layer starts at 0.

    Any size: an image is filled up with 0 to whole patches, below and on the right, and cropped again.

    Args:
        shape: (channels, H, W) of the image.
        patch: side of a patch (None: the smallest power of 2 that leaves at most 256 of them).
        width: of the stream; a multiple of four times the heads.
        depth: blocks.
        heads: of attention. `SIZES` has widths, depths and heads that go together.
        embedding: width of the condition's embedding (None: `width`).
        dropout: in each block.
        outputs: channels out (None: as many as the image's).
        inputs: channels in, where an image as condition is behind x (None: as many as the image's).
        context: width of the vectors of a context to attend to (None: there is none).
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        patch: int | None = None,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        embedding: int | None = None,
        dropout: float = 0.0,
        outputs: int | None = None,
        inputs: int | None = None,
        context: int | None = None,
    ):
        super().__init__()
        if len(shape) != 3:
            raise UserError(
                f"a diffusion transformer takes images, (channels, height, width); data of shape {tuple(shape)} are none."
            )
        channels, *size = shape
        self.patch = patch_size(*size) if patch is None else patch
        if self.patch < 1:
            raise UserError(f"a patch is at least 1 pixel wide; {patch} was given.")
        if heads < 1 or width % (4 * heads):
            raise UserError(
                f"half of a head turns by the row and half by the column, each in pairs: the width ({width}) must be a "
                f"multiple of four times the heads ({heads})."
            )
        self.outputs = outputs or channels
        embedding = embedding or width
        self.time = TimeEmbedding(embedding)
        self.enter = nn.Linear((inputs or channels) * self.patch**2, width)
        self.trunk = Trunk(width, depth, heads, embedding, dropout, context=context)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.leave = nn.Linear(width, self.outputs * self.patch**2)
        for layer in (self.modulation, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, "b"],
        embedding: Float[Tensor, "b embedding"] | None = None,
        context: Float[Tensor, "b m wide"] | None = None,
        context_mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b outputs h w"]:
        """context (B, M, context): vectors that each block attends to where `context_mask` (B, M) is true."""
        (height, width), p = x.shape[-2:], self.patch
        x = F.pad(x, (0, -width % p, 0, -height % p))
        rows, columns = x.shape[-2] // p, x.shape[-1] // p
        patches = x.unflatten(3, (columns, p)).unflatten(2, (rows, p)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        e = self.time(t, embedding)
        h = self.enter(patches)
        h = h + _positions(rows, columns, h)
        h = self.trunk(h, e, grid_turn(rows, columns, self.trunk.head, h), context=context, context_mask=context_mask)
        shift, scale = self.modulation(e).chunk(2, -1)
        out = self.leave(modulated(h, shift, scale)).unflatten(1, (rows, columns)).unflatten(3, (self.outputs, p, p))
        return out.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[..., :height, :width]


def _positions(rows: int, columns: int, like: Float[Tensor, "b l width"]) -> Float[Tensor, "l width"]:
    """Sines and cosines of the row and the column of each place of a grid."""
    cosine, sine = grid_turn(rows, columns, like.shape[-1], like)
    return torch.cat([cosine, sine], 1).to(like.dtype)
