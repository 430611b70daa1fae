"""Attention to a context: what places take from vectors that stand beside them, such as the tokens of a caption.

    softmax(Q norm(x) (K norm(c))^T / sqrt(size)) V norm(c), mapped by a W that starts at 0

so that a network begins as it would be without (as in Rombach et al. 2021, arXiv:2112.10752, but for the start).
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.transformer import EPS, attended


class CrossAttention(nn.Module):
    """What places (B, L, width) take from a context (B, M, context): 0 at first, and in a row whose context is all masked.

    mask (B, M) is true where the context counts; None: everywhere.
    """

    def __init__(self, width: int, context: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if context < 1:
            raise UserError(f"the vectors of a context have at least one number; {context} were given.")
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(context, eps=EPS)
        self.query, self.pairs = nn.Linear(width, width), nn.Linear(context, 2 * width)
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(
        self, x: Float[Tensor, "b l width"], context: Float[Tensor, "b m wide"], mask: Bool[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b l width"]:
        query = self.query(F.layer_norm(x, x.shape[-1:], eps=EPS)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.pairs(self.norm(context)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = attended(query, key, value, self.dropout if self.training else 0.0, causal=False, there=mask)
        out = self.project(out.transpose(1, 2).flatten(2))
        return out if mask is None else out * mask.any(1)[:, None, None]
