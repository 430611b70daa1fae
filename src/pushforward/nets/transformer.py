"""A decoder-only transformer: logits of the next token given the tokens before it.

Pre-norm blocks, h + attention(norm(h)), then h + perceptron(norm(h)), and GPT-2's initialisation (Radford et al. 2019):
weights N(0, 0.02^2), the projections that write into the residual stream divided by sqrt(2 depth), so that its variance does
not grow with depth. What blocks are made of is chosen:

- positions. learned: a vector for each (GPT-2). sinusoidal: sqrt(width) h + PE, where PE(p, 2i) = sin(p w_i), PE(p, 2i + 1) =
  cos(p w_i) and w_i = 10000^(-2i / width) (Vaswani et al. 2017, arXiv:1706.03762). rotary: none is added; query and key at
  position p are turned by the angles p w_i, i over pairs of a head's channels, so that <R_p q, R_s k> = <q, R_{s-p} k>
  depends on the distance alone (Su et al. 2021, arXiv:2104.09864).
- norm. layer: LayerNorm. rms: x / sqrt(mean x^2 + eps) g (Zhang and Sennrich 2019, arXiv:1910.07467).
- perceptron. gelu: 4 width wide, x Phi(x) between its two matrices. gelu-tanh: by GPT-2's approximation of Phi, which is
  nowhere further away than 5e-4 and, on a CPU, slower. swiglu: W2 (silu(W x) * V x), 8/3 width wide, so that its three matrices
  have as many numbers as the others' two (Shazeer 2020, arXiv:2002.05202).

The keys and values of past positions are kept in a `Cache`, which is the caller's; the modules remember nothing.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError

Positions = Literal["learned", "sinusoidal", "rotary"]
Norm = Literal["layer", "rms"]
Perceptron = Literal["gelu", "gelu-tanh", "swiglu"]

EPS = 1e-5  # of the norms
# Positions up to which PyTorch's fused attention in bfloat16 on a CPU is slower than products and a softmax, forwards and
# backwards: 5 times at 64 positions, twice at 256, hardly at 1024.
LONG = 1024
Turn = tuple[Float[Tensor, "t half"], Float[Tensor, "t half"]]
"""Cosine and sine of the angles by which each position turns pairs of channels."""


class Cache:
    """The keys and values of the positions that a decoder has seen, with room for its whole context.

    A pass with it writes its positions behind the first `length` and moves `length` on. Setting `length` back forgets what
    is behind it; 0 begins anew in the same memory. No gradient goes through it.
    """

    def __init__(self, network: Decoder, rows: int):
        weight = network.tokens.weight
        heads = network.heads
        shape = (network.depth, 2, rows, heads, network.context, weight.shape[1] // heads)
        self.pairs = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.length = 0

    @torch.no_grad()
    def grow(
        self, layer: int, key: Float[Tensor, "b heads t size"], value: Float[Tensor, "b heads t size"]
    ) -> tuple[Float[Tensor, "b heads s size"], Float[Tensor, "b heads s size"]]:
        """Writes the new positions of one block; all keys and values so far."""
        keys, values = self.pairs[layer, 0], self.pairs[layer, 1]
        end = self.length + key.shape[2]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]


def angles(positions: Float[Tensor, " t"], size: int) -> Float[Tensor, "t half"]:
    """p w_i for i = 0 .. size / 2 - 1, w_i = 10000^(-2i / size)."""
    steps = torch.arange(0, size, 2, device=positions.device, dtype=positions.dtype)
    return positions[:, None] * (steps * (-math.log(10000.0) / size)).exp()


def turned(x: Float[Tensor, "b heads t size"], turn: Turn) -> Float[Tensor, "b heads t size"]:
    """x with the pairs of channels (i, i + size / 2) turned by their angles."""
    cosine, sine = turn
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1).to(x.dtype)


def attended(
    query: Float[Tensor, "b heads t size"],
    key: Float[Tensor, "b heads s size"],
    value: Float[Tensor, "b heads s size"],
    dropout: float = 0.0,
    *,
    causal: bool = True,
    there: Bool[Tensor, "b s"] | None = None,
) -> Float[Tensor, "b heads t size"]:
    """softmax(query key^T / sqrt(size)) value, where the t queries are the last of the s positions and see none after them.

    causal=False: every query sees every position, or those that are `there`; all of them in a row where none is.
    """
    new, seen = query.shape[2], key.shape[2]
    mask = None
    if there is not None:
        lowest = torch.finfo(query.dtype).min / 2  # not -inf: a row without a position would be nan
        mask = torch.zeros(there.shape, dtype=query.dtype, device=query.device).masked_fill(~there, lowest)[:, None, None]
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and seen <= LONG:
        if causal:
            mask = torch.full((new, seen), -torch.inf, dtype=query.dtype).triu(1 + seen - new)
        scores = query * query.shape[-1] ** -0.5 @ key.mT
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        return F.dropout(weights, dropout) @ value
    if causal and 1 < new < seen:  # `is_causal` aligns a mask to the upper left; the new positions are the last ones
        mask = torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, is_causal=causal and 1 < new == seen)


class SelfAttention(nn.Module):
    """Causal multi-head self-attention: position i sees the positions up to i and all of the past."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.project = nn.Linear(width, width, bias=bias)

    def forward(
        self, x: Float[Tensor, "b t width"], turn: Turn | None = None, cache: Cache | None = None, layer: int = 0
    ) -> Float[Tensor, "b t width"]:
        """What to add to t new positions, which follow those that block `layer` has in the cache."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if turn is not None:
            query, key = turned(query, turn), turned(key, turn)
        if cache is not None:
            key, value = cache.grow(layer, key, value)
        out = attended(query, key, value, self.dropout if self.training else 0.0)
        return self.project(out.transpose(1, 2).flatten(2))


class Gate(nn.Module):
    """silu(a) * b of the two halves of the channels."""

    def forward(self, x: Float[Tensor, "*b twice"]) -> Float[Tensor, "*b once"]:
        a, b = x.chunk(2, -1)
        return F.silu(a) * b


def make_norm(kind: Norm, width: int, bias: bool = True) -> nn.Module:
    """The norm of this name; an rms norm has no bias."""
    return nn.LayerNorm(width, eps=EPS, bias=bias) if kind == "layer" else nn.RMSNorm(width, eps=EPS)


def make_perceptron(kind: Perceptron, width: int, bias: bool = True) -> nn.Sequential:
    """The perceptron of this name: a linear map, what bends, a linear map."""
    if kind == "swiglu":
        half = round(8 * width / 3)
        return nn.Sequential(nn.Linear(width, 2 * half, bias=bias), Gate(), nn.Linear(half, width, bias=bias))
    bend = nn.GELU(approximate="tanh" if kind == "gelu-tanh" else "none")
    return nn.Sequential(nn.Linear(width, 4 * width, bias=bias), bend, nn.Linear(4 * width, width, bias=bias))


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        *,
        norm: Norm = "layer",
        perceptron: Perceptron = "gelu",
        bias: bool = True,
    ):
        super().__init__()
        self.norm1, self.norm2 = make_norm(norm, width, bias), make_norm(norm, width, bias)
        self.attention = SelfAttention(width, heads, dropout, bias)
        self.perceptron = make_perceptron(perceptron, width, bias)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b t width"], turn: Turn | None = None, cache: Cache | None = None, layer: int = 0
    ) -> Float[Tensor, "b t width"]:
        x = x + self.drop(self.attention(self.norm1(x), turn, cache, layer))
        return x + self.drop(self.perceptron(self.norm2(x)))


class Decoder(nn.Module):
    """Token ids (B, T), after given vectors if any, to the logits of the next token at each position.

    Args:
        vocabulary: how many tokens there are.
        context: the most positions that it can see at once.
        depth: blocks.
        heads: of attention, in each block; must divide the width.
        width: of the residual stream.
        dropout: rate, on the embeddings, the attention weights and what each block adds.
        tied: whether the matrix that reads tokens is also the one that scores them (Press and Wolf 2017).
        positions: how it knows where a token stands; rotary ones need heads of an even width, sinusoidal ones an even width.
        norm: before each part of a block, and at the end.
        perceptron: of each block.
        bias: whether linear maps and layer norms have one.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        *,
        depth: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        tied: bool = True,
        positions: Positions = "rotary",
        norm: Norm = "layer",
        perceptron: Perceptron = "swiglu",
        bias: bool = True,
    ):
        super().__init__()
        if heads < 1 or width < 1 or width % heads:
            raise UserError(f"the width ({width}) must be a positive multiple of the number of heads ({heads}).")
        if depth < 1 or context < 1:
            raise UserError(f"depth and context must be at least 1; {depth} and {context} were given.")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must be in [0, 1); {dropout} was given.")
        size = {"learned": 2, "sinusoidal": width, "rotary": width // heads}[positions]
        if size % 2:
            raise UserError(f"{positions} positions turn pairs of channels, and {size} is odd; choose another width or heads.")
        self.context, self.depth, self.heads, self.kind = context, depth, heads, positions
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, norm=norm, perceptron=perceptron, bias=bias) for _ in range(depth)
        )
        self.norm = make_norm(norm, width, bias)
        # Tied, there is no second module: two names of one tensor would be saved twice.
        self.scores = None if tied else nn.Linear(width, vocabulary, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """GPT-2's initialisation."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name.endswith(("attention.project.weight", "perceptron.2.weight")):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * self.depth))

    def features(
        self, tokens: Int[Tensor, "b t"], *, first: Float[Tensor, "b p width"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "b s width"]:
        """The last hidden layer at p + t new positions, which follow those of the cache and are written into it.

        first: vectors that stand before the tokens (a begin vector, an embedded condition).
        """
        h = self.tokens(tokens)
        if first is not None:
            h = torch.cat([first.to(h.dtype), h], 1)
        start = 0 if cache is None else cache.length
        end = start + h.shape[1]
        if end > self.context:
            raise ValueError(f"{end} positions do not fit a context of {self.context}.")
        h, turn = self._placed(h, start)
        h = self.drop(h)
        for layer, block in enumerate(self.blocks):
            h = block(h, turn, cache, layer)
        if cache is not None:
            cache.length = end
        return self.norm(h)

    def _placed(self, h: Float[Tensor, "b t width"], start: int) -> tuple[Float[Tensor, "b t width"], Turn | None]:
        """h told where it stands, or what turns queries and keys instead."""
        length, width = h.shape[1:]
        if self.positions is not None:
            return h + self.positions.weight[start : start + length], None
        exact = torch.promote_types(h.dtype, torch.float32)  # positions are not whole numbers in half precision
        where = torch.arange(start, start + length, device=h.device, dtype=exact)
        if self.kind == "rotary":
            turns = angles(where, width // self.heads)
            return h, (turns.cos(), turns.sin())
        waves = angles(where, width)
        return h * math.sqrt(width) + torch.stack([waves.sin(), waves.cos()], -1).flatten(1).to(h.dtype), None

    def logits(self, features: Float[Tensor, "*b width"]) -> Float[Tensor, "*b vocabulary"]:
        """The score of every token as the next one."""
        return F.linear(features, self.tokens.weight) if self.scores is None else self.scores(features)

    def forward(
        self, tokens: Int[Tensor, "b t"], *, first: Float[Tensor, "b p width"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "b s vocabulary"]:
        """`logits` of `features`."""
        return self.logits(self.features(tokens, first=first, cache=cache))
