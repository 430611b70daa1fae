"""VQ-VAE-2: two grids of integer codes, the coarse one (top) for what is large, the fine one (bottom) for the rest.

    h = E(x),   z_top = quantise(E_top(h)),   z_bottom = quantise([h, D_top(z_top)]),   p(x | z_top, z_bottom)

The bottom's encoder sees the top's codes, so that it need not say again what they say. Losses, codebooks and tables of codes
are those of `quantised.py`.

Razavi, van den Oord and Vinyals 2019, "Generating diverse high-fidelity images with VQ-VAE-2", arXiv:1906.00446.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.spec import DataSpec
from pushforward.distributions import likelihoods
from pushforward.distributions.likelihoods import Sigma
from pushforward.errors import UserError
from pushforward.models.variational.quantised import Kind, QuantisedAutoencoder, default_halvings, make_quantiser
from pushforward.nets.quantisers import Quantised
from pushforward.nets.spatial import SpatialDecoder, SpatialEncoder, grids
from pushforward.randomness import Rng


class VQVAE2(QuantisedAutoencoder):
    """An autoencoder of images with two grids of codes, the coarse one (top) for what is large, the fine one for the rest.

    `encode` gives (B, L): the top's codes row by row, then the bottom's (`grids` says their sizes).

    Args:
        spec: What a datum is; it may come in classes, which only the drawing of codes looks at.
        quantiser: ema, gradient, gumbel or fsq, as of VQVAE.
        codes: Entries of each of the two codebooks.
        code_dim: Numbers in an entry.
        levels: Of fsq: the values that each channel takes.
        beta: Weight of the commitment; of gumbel that of the KL.
        decay: Of the moving averages.
        restart: An entry used less than this part of an even share is put where data are; 0: never.
        normalise: Entries on the unit sphere, compared by their angle (ema and gradient).
        halvings: Of an image on the way to its bottom codes, the top has one more; None: 2 for 16 pixels and more, else 1.
        width: Channels of the networks.
        depth: Residual blocks of each of them.
        likelihood: What the decoder's output means: gaussian, logistic, bernoulli, categorical or auto.
        sigma: Of the gaussian likelihood: a number (0.5: twice the squared error), learned, global, column or pixel.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        quantiser: Kind = "ema",
        codes: int = 256,
        code_dim: int = 32,
        levels: tuple[int, ...] = (8, 6, 5),
        beta: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.05,
        normalise: bool = False,
        halvings: int | None = None,
        width: int = 64,
        depth: int = 2,
        likelihood: likelihoods.Name = "gaussian",
        sigma: Sigma | float = 0.5,
    ):
        if not spec.planar:
            raise UserError(f"VQ-VAE-2 has two grids of codes, for images; '{spec.name}' holds {spec.kind}: use vq-vae.")
        halvings = default_halvings(spec) if halvings is None else halvings
        sizes = grids(spec.shape[1], spec.shape[2], halvings + 1)
        made = [make_quantiser(quantiser, codes, code_dim, levels, beta, decay, restart, normalise) for _ in range(2)]
        super().__init__(spec, made, [sizes[-1], sizes[-2]], likelihood, sigma)
        (top, bottom), (channels, *size) = made, spec.shape
        inner = (width, *sizes[-2])
        self.encoder = SpatialEncoder(spec.shape, width, halvings, width, depth)
        self.to_top = SpatialEncoder(inner, top.inputs, 1, width, depth)
        self.from_top = SpatialDecoder(top.outputs, inner, 1, width, depth)
        self.to_bottom = nn.Conv2d(2 * width, bottom.inputs, 1)
        self.upsample = SpatialDecoder(top.outputs, inner, 1, width, 0)
        self.decoder = SpatialDecoder(
            width + bottom.outputs, (self.likelihood.channels * channels, *size), halvings, width, depth
        )

    def quantise(self, x: Float[Tensor, "b *shape"], rng: Rng | None = None, progress: float = 1.0) -> list[Quantised]:
        h = self.encoder(x)
        top = self.quantisers[0](self.to_top(h), rng, progress)
        bottom = self.quantisers[1](self.to_bottom(torch.cat([h, self.from_top(top.codes)], 1)), rng, progress)
        return [top, bottom]

    def output(self, codes: list[Tensor]) -> Float[Tensor, "b k *shape"]:
        top, bottom = codes
        out = self.decoder(torch.cat([self.upsample(top), bottom], 1))
        return out.reshape(len(bottom), self.likelihood.channels, *self.spec.shape)
