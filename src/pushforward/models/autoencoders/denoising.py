"""Denoising autoencoder: give the clean datum back from a noisy one, and learn the score of the smoothed data on the way.

Of all r, E |r(x + sigma eps) - x|^2 is least for the posterior mean r(y) = E[x | y], and by Tweedie's formula

    (r(y) - y) / sigma^2 = grad_y log p_sigma(y),        p_sigma = p * N(0, sigma^2 I),

so the residual of a well-trained denoising autoencoder is the score of the data smoothed by its noise. Codes are those of clean
data, and samples are drawn as any autoencoder's.

Vincent et al. 2008, "Extracting and composing robust features with denoising autoencoders", ICML; Alain and Bengio 2014, "What
regularized auto-encoders learn from the data-generating distribution", arXiv:1211.4246.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.autoencoders.autoencoder import DensityCodec
from pushforward.models.autoencoders.codec import Error, Network, squared_error
from pushforward.models.autoencoders.codes import Codes
from pushforward.models.contract import Loss
from pushforward.randomness import Rng


class DenoisingAutoencoder(DensityCodec):
    """A denoising autoencoder of images or vectors, with its score and a density of its codes.

    Args:
        spec: What a datum is.
        noise: sigma, the standard deviation of the noise in the model's units (images are in [-1, 1], columns standardised).
        latent_dim: Numbers in a code; None: 16, or as many as the data have. More than the data have are sensible here: the
            noise forbids to copy.
        network: auto (conv for images and fields (C, H, W) larger than 8 x 8, else mlp), linear, mlp or conv.
        width: Width of the mlp's layers, or channels of the conv's first stage; None: 256 or 32.
        depth: Hidden layers of the mlp, or residual blocks per stage of the conv; None: 2 or 0.
        error: What a reconstruction is judged by: l2 (of which alone the residual is a score), l1, or bernoulli.
        codes: Where codes are drawn from: gaussian (one), class-gaussians (one a class) or gmm (a mixture).
        components: Gaussians in the mixture.
        encoder: Your own module x (B, *shape) -> (B, latent_dim); the embedding of attributes (B, 64) is its second argument.
        decoder: Your own module z (B, latent_dim) -> as many numbers as a datum has; second argument likewise.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        noise: float = 0.25,
        latent_dim: int | None = None,
        network: Network = "auto",
        width: int | None = None,
        depth: int | None = None,
        error: Error = "l2",
        codes: Codes = "gmm",
        components: int = 10,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        super().__init__(spec, latent_dim, network, width, depth, error, encoder, decoder, codes=codes, components=components)
        if noise <= 0:
            raise UserError(
                f"noise={noise} was given; it is a standard deviation above 0 (`autoencoder` learns without noise)."
            )
        self.noise = noise

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The error of clean data decoded from noisy ones. Term `mse`: the mean squared error a number."""
        x, eps = batch.x, rng.randn_like(batch.x)
        embedding = self.training_embedding(batch.condition, len(batch), rng)
        z = self.codes_of(x + self.noise * eps, embedding)
        output = self.output(z, embedding)
        mse = squared_error(self.data_of(output.detach()), x).mean() / self.spec.dimensions
        return Loss(self.reconstruction_loss(output, x).mean(), {"mse": mse}, {"codes": z})

    def denoise(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """E[clean | noisy] for the noise that it was trained with."""
        return self.decode(self.encode(x, condition=condition), condition=condition)

    def score_at_noise(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """grad log p_sigma(x) = (r(x) - x) / sigma^2 of the data smoothed by the one sigma = `noise`."""
        return (self.denoise(x, condition=condition) - x) / self.noise**2
