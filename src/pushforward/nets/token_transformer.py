"""A transformer over tokens at places, some of which may be masked or wrong: what stood there, from what stands everywhere."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.distributions.alphabets import Alphabet
from pushforward.errors import UserError
from pushforward.nets.dit import Trunk, grid_turn, modulated
from pushforward.nets.embeddings import TimeEmbedding
from pushforward.nets.transformer import Turn


class TokenTransformer(nn.Module):
    """A transformer that sees both ways: tokens (B, L), t (B,), embedding (B, width) or None -> logits (B, L, K).

    Tokens of grids are turned by row and column, others by their position; each place has a learned vector beside, as masks are
    all alike. All logits are 0 at first.

    Args:
        alphabet: what tokens there are at each place.
        states: how many tokens go in, a mask among them.
        width: of the stream; on a grid a multiple of four times the heads, else of twice.
        depth: blocks.
        heads: of attention.
        dropout: in each block.
    """

    def __init__(self, alphabet: Alphabet, states: int, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.grid, self.states, self.own = alphabet.grid, states, alphabet.own
        if self.grid and (heads < 1 or width % (4 * heads)):
            raise UserError(f"on a grid the width ({width}) must be a multiple of four times the heads ({heads}).")
        kinds = alphabet.places if self.own else 1
        self.embed = nn.Embedding(kinds * states, width)
        self.where = nn.Parameter(0.1 * torch.randn(alphabet.places, width))
        self.time = TimeEmbedding(width)
        self.trunk = Trunk(width, depth, heads, width, dropout)
        self.modulation = nn.Linear(width, 2 * width)
        self.weight = nn.Parameter(torch.zeros(kinds, alphabet.size, width))
        self.bias = nn.Parameter(torch.zeros(kinds, alphabet.size))
        nn.init.normal_(self.embed.weight, std=0.5)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, tokens: Int[Tensor, "b l"], t: Float[Tensor, "b"], embedding: Float[Tensor, "b width"] | None = None
    ) -> Float[Tensor, "b l k"]:
        if self.own:
            tokens = tokens + self.states * torch.arange(tokens.shape[1], device=tokens.device)
        h, e = self.embed(tokens) + self.where, self.time(t, embedding)
        h = self.trunk(h, e, self._turn(h))
        h = modulated(h, *self.modulation(e).chunk(2, -1))
        if self.own:
            return torch.einsum("blw,lkw->blk", h, self.weight) + self.bias
        return nn.functional.linear(h, self.weight[0], self.bias[0])

    def _turn(self, like: Tensor) -> Turn | None:
        if not self.grid:
            return None
        channels, height, width = self.grid
        cosine, sine = grid_turn(height, width, self.trunk.head, like)
        return cosine.repeat(channels, 1), sine.repeat(channels, 1)
