"""One way to draw a condition as the data have it, and one to turn any condition into a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pushforward.data.spec import Condition
from pushforward.errors import UserError
from pushforward.randomness import Rng


def condition_rates(condition: Condition, device: torch.device | str = "cpu") -> Tensor:
    """p(class), or the rate of each attribute, in the training set (size,); equal (a half) where the data do not say."""
    equal = 1.0 / condition.size if condition.kind == "class" else 0.5
    return torch.tensor(condition.frequencies or (equal,) * condition.size, dtype=torch.float64, device=device)


def draw_condition(condition: Condition, n: int, rng: Rng) -> Tensor:
    """n conditions as frequent as in the training set: classes (n,), or attributes (n, A), each by its own rate."""
    if condition.kind == "class":
        return rng.categorical(condition_rates(condition, rng.device).expand(n, -1))
    if condition.kind == "attributes":
        return (rng.rand(n, condition.size) < condition_rates(condition, rng.device)).float()
    raise UserError(f"this model needs its condition, and a {condition.kind} cannot be drawn at random; give one.")


class ConditionEmbedding(nn.Module):
    """Embeds a condition as a vector (B, width); None, and rows where `drop` is true, get one learned null vector.

    Classes are looked up; attributes (0/1) and vectors go through a linear map.
    """

    def __init__(self, condition: Condition, width: int):
        super().__init__()
        if condition.kind not in ("class", "attributes", "vector"):
            raise UserError(f"this model takes a class, attributes or a vector as condition, not {condition.kind}.")
        self.kind, self.width = condition.kind, width
        self.embed = nn.Embedding(condition.size, width) if condition.kind == "class" else nn.Linear(condition.size, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, condition: Tensor | None, rows: int, drop: Tensor | None = None) -> Tensor:
        """condition (B,) or (B, A) or None -> (rows, width)."""
        if condition is None:
            return self.null.expand(rows, self.width)
        embedded = self.embed(condition if self.kind == "class" else condition.to(self.null.dtype))
        return embedded if drop is None else torch.where(drop[:, None], self.null, embedded)
