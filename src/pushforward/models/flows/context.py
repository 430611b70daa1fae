"""An image as the condition of a flow: features of it, which couplings see beside what they keep (SRFlow's way).

Lugmayr, Danelljan, Van Gool and Timofte 2020, "SRFlow", arXiv:2006.14200.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Shape
from pushforward.bijections.coupling import Block
from pushforward.errors import UserError


class ImageContext(nn.Module):
    """Images (B, C, h, w) -> features (B, features, h, w), which each coupling pools or repeats to its own size.

    Args:
        shape: of the images.
        features: channels that come out.
        width: channels in between, in two residual blocks of convolutions.
    """

    def __init__(self, shape: Shape, features: int, width: int):
        super().__init__()
        self.shape, self.width = shape, features
        self.enter = nn.Conv2d(shape[0], width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, 0) for _ in range(2))
        self.leave = nn.Conv2d(width, features, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features h w"]:
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, None)
        return self.leave(F.silu(h))

    def of(self, condition: Tensor | None, rows: int) -> Tensor | None:
        """The features of rows' images; None without them.

        Raises UserError for images of another shape, or not one for each row.
        """
        if condition is None:
            return None
        if tuple(condition.shape) != (rows, *self.shape):
            raise UserError(
                f"images of shape {tuple(condition.shape)} were given as condition of {rows} rows; this model was trained on "
                f"ones of {self.shape}, channels, height and width, one for each row."
            )
        return self(condition.to(self.leave.weight))
