"""A critic whose output is how well an autoencoder gives x back: the energy E(x), low where data are, enters as l(x) = -E(x).

    norm 2   E(x) = sqrt(mean_i (x - Dec(Enc(x)))_i^2)     EBGAN
    norm 1   E(x) = mean_i |x - Dec(Enc(x))|_i             BEGAN

Means over the numbers of x, where the papers sum: a margin then means the same at any size of image.

Zhao, Mathieu and LeCun 2017 (EBGAN), arXiv:1609.03126; Berthelot, Schumm and Metz 2017 (BEGAN), arXiv:1703.10717.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.nets.choice import LEAST
from pushforward.nets.conv import ConvDecoder, ConvEncoder
from pushforward.nets.mlp import Flat


class AutoencoderCritic(nn.Module):
    """x (B, *shape), embedding (B, embedding) or None (the same as zeros) -> logits -E(x) (B,).

    Args:
        shape: of x: convolutions where it is (C, H, W) with a side of 9 pixels or more, else perceptrons.
        width: channels of the first convolution, or width of the perceptrons' layers.
        embedding: width of the condition's vector, which encoder and decoder both see (0: none).
        hidden: numbers in a code.
        norm: of the error: 2 (root mean square) or 1 (mean absolute).
    """

    def __init__(self, shape: tuple[int, ...], width: int = 32, embedding: int = 0, hidden: int = 64, norm: int = 2):
        super().__init__()
        if norm not in (1, 2):
            raise UserError(f"norm = {norm} was given; an energy is the mean absolute error (1) or the root mean square (2).")
        self.shape, self.embedding, self.norm = tuple(shape), embedding, norm
        self.encoder: nn.Module
        self.decoder: nn.Module
        if len(shape) == 3 and max(shape[1:]) >= LEAST:
            self.encoder = ConvEncoder(self.shape, hidden, width, embedding=embedding)
            self.decoder = ConvDecoder(hidden, self.shape, width, embedding=embedding)
        else:
            numbers = math.prod(shape)
            self.encoder = Flat(numbers + embedding, hidden, width, depth=2)
            self.decoder = Flat(hidden + embedding, numbers, width, depth=2)

    def forward(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, " b"]:
        return self.judged(x, embedding)[0]

    def judged(
        self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None = None
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b hidden"]]:
        """Logits, and the codes that they come from (which a pulling-away term is taken of)."""
        if embedding is None and self.embedding:
            embedding = x.new_zeros(len(x), self.embedding)
        codes = self.encoder(x, embedding)
        error = (x - self.decoder(codes, embedding).view_as(x)).float().flatten(1)
        if self.norm == 1:
            return -error.abs().mean(1), codes
        # Its gradient is 0 where the error is, that of a bare root infinite
        return -torch.linalg.vector_norm(error, dim=1) / math.sqrt(error.shape[1]), codes
