"""A condition as the vector that encoder and decoder are given: classes, attributes and vectors embedded, images convolved."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pushforward.data.spec import Condition
from pushforward.nets.conditioning import ConditionEmbedding
from pushforward.nets.conv import ConvEncoder


class ImageEmbedding(nn.Module):
    """A paired image (B, C, H, W) in [-1, 1] to a vector (B, width); None and rows to `drop` get a learned null vector."""

    def __init__(self, shape: tuple[int, ...], width: int):
        super().__init__()
        self.width = width
        self.body = ConvEncoder(shape, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, condition: Tensor | None, rows: int, drop: Tensor | None = None) -> Tensor:
        if condition is None:
            return self.null.expand(rows, self.width)
        embedded = self.body(condition)
        return embedded if drop is None else torch.where(drop[:, None], self.null, embedded)


def condition_vector(condition: Condition, width: int) -> ConditionEmbedding | ImageEmbedding:
    """The module (condition or None, rows, drop) -> (rows, width); an image gets four times the width."""
    if condition.kind == "image":
        return ImageEmbedding(condition.shape, 4 * width)
    return ConditionEmbedding(condition, width)
