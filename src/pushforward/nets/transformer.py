"""A decoder-only transformer: logits of the next token given the tokens before it.

Pre-norm blocks of causal self-attention and a GELU perceptron, learned absolute positions, and GPT-2's initialisation
(Radford et al. 2019): weights N(0, 0.02^2), the projections that write into the residual stream divided by sqrt(2 depth),
so that its variance does not grow with depth. The keys and values of past positions (the KV cache) are a value that is
passed in and returned; the modules remember nothing, so that one past can be continued in several ways.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError

Past = tuple[Tensor, Tensor]
"""The keys and values of one block, each (B, heads, positions, width / heads)."""

Cache = tuple[Past, ...]
"""One `Past` a block."""


class SelfAttention(nn.Module):
    """Causal multi-head self-attention: position i sees the positions up to i and all of the past."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b t width"], past: Past | None = None) -> tuple[Float[Tensor, "b t width"], Past]:
        """x: t new positions that follow those of `past` -> what to add to them, and the past that includes them."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        new, seen = query.shape[2], key.shape[2]
        mask = None
        if 1 < new < seen:  # `is_causal` aligns a rectangular mask to the upper left; the new positions are the last ones
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        out = F.scaled_dot_product_attention(
            query, key, value, mask, dropout_p=self.dropout if self.training else 0.0, is_causal=new == seen
        )
        return self.project(out.transpose(1, 2).flatten(2)), (key, value)


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b t width"], past: Past | None = None) -> tuple[Float[Tensor, "b t width"], Past]:
        attended, past = self.attention(self.norm1(x), past)
        x = x + self.drop(attended)
        return x + self.drop(self.perceptron(self.norm2(x))), past


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
    ):
        super().__init__()
        if heads < 1 or width < 1 or width % heads:
            raise UserError(f"the width ({width}) must be a positive multiple of the number of heads ({heads}).")
        if depth < 1 or context < 1:
            raise UserError(f"depth and context must be at least 1; {depth} and {context} were given.")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must be in [0, 1); {dropout} was given.")
        self.context, self.depth = context, depth
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
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
    ) -> tuple[Float[Tensor, "b s width"], Cache]:
        """The last hidden layer at p + t new positions, which follow those of the cache, and the cache with them.

        first: vectors that stand before the tokens (a begin vector, an embedded condition).
        """
        h = self.tokens(tokens)
        if first is not None:
            h = torch.cat([first.to(h.dtype), h], 1)
        start = 0 if cache is None else cache[0][0].shape[2]
        if start + h.shape[1] > self.context:
            raise ValueError(f"{start + h.shape[1]} positions do not fit a context of {self.context}.")
        h = self.drop(h + self.positions.weight[start : start + h.shape[1]])
        grown = []
        for i, block in enumerate(self.blocks):
            h, past = block(h, None if cache is None else cache[i])
            grown.append(past)
        return self.norm(h), tuple(grown)

    def logits(self, features: Float[Tensor, "*b width"]) -> Float[Tensor, "*b vocabulary"]:
        """The score of every token as the next one."""
        return F.linear(features, self.tokens.weight) if self.scores is None else self.scores(features)

    def forward(
        self, tokens: Int[Tensor, "b t"], *, first: Float[Tensor, "b p width"] | None = None, cache: Cache | None = None
    ) -> tuple[Float[Tensor, "b s vocabulary"], Cache]:
        """`logits` of `features`, and the cache."""
        features, cache = self.features(tokens, first=first, cache=cache)
        return self.logits(features), cache
