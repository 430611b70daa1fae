"""Captions as vectors: a small convolutional network over token ids.

    h = conv_5(tokens[id] + positions),   h' = h + conv_3(silu(norm(h))),   e = W (sum_i norm(h'_i) / sqrt(L)) + b

Convolutions see words (in their order) where tokens are characters, phrases where they are pieces of words, and positions
say where in the caption. A caption is filled up with token 0. What stands there is 0 ahead of each convolution, as is what is
beyond the end, and the sum is over the caption's own L tokens: e is a function of the caption alone, however far it was filled
up. Layer norms are of each token by itself. The sum is divided by sqrt(L), not L: L vectors without a common direction add up
to sqrt(L) times one, so that an untrained e is as large as the vector of a class, however long captions are.

Convolutions over characters as in Zhang et al. 2015, arXiv:1509.01626, without pooling; dilated as in Yu and Koltun 2016,
arXiv:1511.07122.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError

TOKEN, CHANNELS = 32, 48  # numbers of a token, and of what stands around it: 11 tokens in all


def around(h: Float[Tensor, "b l c"], reach: int, dilation: int = 1) -> Float[Tensor, "b l _"]:
    """At each token the vectors of k = 2 reach + 1, those -reach ... reach times `dilation` away, beside each other; 0 beyond
    the ends. A linear map of these is a convolution, faster than torch's for so few channels on a processor.

    >>> around(torch.tensor([[[1.0], [2.0], [3.0]]]), 1).tolist()
    [[[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]]
    """
    length, padded = h.shape[1], F.pad(h, (0, 0, reach * dilation, reach * dilation))
    return torch.cat([padded[:, start * dilation :][:, :length] for start in range(2 * reach + 1)], 2)


class TextEncoder(nn.Module):
    """Token ids (B, L), filled up with 0 -> vectors (B, width). A caption without a token is a vector, too: b.

    Args:
        vocabulary_size: how many tokens there are, 0 (which stands for none) among them.
        length: the most tokens of a caption.
        width: numbers of the vector.
    """

    def __init__(self, vocabulary_size: int, length: int, width: int):
        super().__init__()
        if min(vocabulary_size - 1, length, width) < 1:
            raise UserError(
                f"captions of at most {length} out of {vocabulary_size} tokens as {width} numbers were asked for; there must "
                "be at least one of each, beside token 0."
            )
        self.tokens = nn.Embedding(vocabulary_size, TOKEN)
        self.positions = nn.Parameter(0.1 * torch.randn(length, TOKEN))
        self.near = nn.Linear(5 * TOKEN, CHANNELS)
        self.far = nn.Linear(3 * CHANNELS, CHANNELS)
        self.norms = nn.ModuleList([nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)])
        self.last = nn.Linear(CHANNELS, width)
        nn.init.normal_(self.last.weight, std=1 / math.sqrt(CHANNELS))

    def forward(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b width"]:
        if ids.shape[1] > len(self.positions):
            raise UserError(f"captions of {ids.shape[1]} tokens were given; this network reads {len(self.positions)}.")
        there = (ids != 0)[..., None]
        h = (self.tokens(ids) + self.positions[: ids.shape[1]]) * there
        h = self.near(around(h, 2))
        h = h + self.far(around(F.silu(self.norms[0](h)) * there, 1, dilation=3))
        return self.last((self.norms[1](h) * there).sum(1) / there.sum(1).clamp(min=1).sqrt())
