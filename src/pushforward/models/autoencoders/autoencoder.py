"""Autoencoder: an encoder z = E(x), a decoder D(z) that gives the data back from the narrow code, and a density of the codes.

What is minimised is

    |D(E(x)) - x|^2 + code_penalty / 2 |z|^2 + decoder_penalty |J_D(z)|_F^2  or  decoder_penalty |theta_D|^2,

the penalties being those of the regularised autoencoder: codes stay near 0 and the decoder smooth, which is what the noise of a
variational autoencoder does by chance. |J|_F^2 = E |J^T v|^2 for v ~ N(0, I), of which one draw is taken. Samples decode codes
drawn from a density that is fitted to the codes of the training data once encoder and decoder are trained (`codes.py`).

With linear encoder and decoder the optimum spans the leading principal directions (Baldi and Hornik 1989).

Hinton and Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks", Science 313; Ghosh et al. 2020, "From
variational to deterministic autoencoders", arXiv:1903.12436.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.autoencoders.codec import Codec, Error, Network, squared_error
from pushforward.models.autoencoders.codes import CodeDensity, Codes
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, device_of
from pushforward.nets.conditioning import draw_condition
from pushforward.randomness import Rng, as_rng


class DensityCodec(Codec):
    """A codec whose codes are drawn from a density fitted to them. Abstract: a method says its `loss`."""

    def __init__(self, *codec, codes: Codes, components: int):
        super().__init__(*codec)
        self.codes = CodeDensity(self.spec, self.latent_dim, codes, components)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """What encoder and decoder want small; keeps the `codes`."""
        raise NotImplementedError

    def players(self) -> list[Player]:
        """Encoder and decoder together, and at the end the density of their codes."""
        networks = [self.encoder, self.decoder, self.embed]
        fit = self.codes.fitting(lambda batch: self.encode(batch.x, condition=self._told(batch.condition)))
        return [
            Player(
                "autoencoder",
                networks,
                loss=self.loss,
                optimizer=OptimizerSettings(learning_rate=self.learning_rate),
                after_update=lambda keep, moment: self.codes.follow(keep["codes"]),
            ),
            Player("codes", self.codes, update=fit, at_end=True),
        ]

    def _told(self, condition: Tensor | None) -> Tensor | None:
        """What encoder and decoder are told of a condition."""
        return condition if self.embed else None

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n d"]:
        """Codes drawn from their density, of the classes (n,) that are asked for, if any."""
        return self.codes.sample(n, None if self.embed else condition, as_rng(generator, device_of(self)))

    def sample(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n *shape"]:
        """Decodes codes drawn from their density, of the classes (n,) that are asked for, if any."""
        rng = as_rng(generator, device_of(self))
        if condition is None and self.embed and self.spec.condition:
            condition = draw_condition(self.spec.condition, n, rng)
        return self.decode(self.draw_codes(n, condition=condition, generator=rng), condition=condition)


class Autoencoder(DensityCodec):
    """An autoencoder of images or vectors, plain or regularised, with a density of its codes.

    Args:
        spec: What a datum is.
        latent_dim: Numbers in a code; None: 16, or as many as the data have. More than the data have are allowed (not for
            network=linear), but without a penalty they learn nothing but to copy.
        network: auto (conv for images and fields (C, H, W) larger than 8 x 8, else mlp), linear, mlp or conv.
        width: Width of the mlp's layers, or channels of the conv's first stage; None: 256 or 32.
        depth: Hidden layers of the mlp, or residual blocks per stage of the conv; None: 2 or 0.
        error: What a reconstruction is judged by: l2, l1, or bernoulli (cross-entropy, for images).
        codes: Where codes are drawn from: gaussian (one), class-gaussians (one a class) or gmm (a mixture).
        components: Gaussians in the mixture.
        code_penalty: Weight of half the squared length of a code.
        decoder_penalty: Weight of what keeps the decoder smooth.
        smoothness: What that is: weights (their squares, RAE-L2) or gradient (the decoder's Jacobian, RAE-GP).
        encoder: Your own module x (B, *shape) -> (B, latent_dim); the embedding of attributes (B, 64) is its second argument.
        decoder: Your own module z (B, latent_dim) -> as many numbers as a datum has; second argument likewise.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int | None = None,
        network: Network = "auto",
        width: int | None = None,
        depth: int | None = None,
        error: Error = "l2",
        codes: Codes = "gmm",
        components: int = 10,
        code_penalty: float = 0.0,
        decoder_penalty: float = 0.0,
        smoothness: Literal["weights", "gradient"] = "weights",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        super().__init__(spec, latent_dim, network, width, depth, error, encoder, decoder, codes=codes, components=components)
        if min(code_penalty, decoder_penalty) < 0:
            raise UserError("code_penalty and decoder_penalty are weights, 0 or more.")
        if smoothness not in ("weights", "gradient"):
            raise UserError(f"smoothness is weights or gradient, not {smoothness!r}.")
        self.code_penalty, self.decoder_penalty, self.smoothness = code_penalty, decoder_penalty, smoothness

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Reconstruction and penalties, summed over the numbers of a datum. Term `mse`: the mean squared error a number."""
        x, embedding = batch.x, self.training_embedding(batch.condition, len(batch), rng)
        z = self.codes_of(x, embedding)
        output = self.output(z, embedding)
        total = self.reconstruction_loss(output, x).mean()
        terms = {"mse": squared_error(self.data_of(output.detach()), x).mean() / self.spec.dimensions}
        if self.code_penalty:
            terms["code"] = z.float().square().sum(1).mean()
            total = total + self.code_penalty / 2 * terms["code"]
        if self.decoder_penalty:
            if self.smoothness == "weights":
                terms["decoder"] = torch.stack([p.float().square().sum() for p in self.decoder.parameters()]).sum()
            else:
                terms["decoder"] = self.jacobian_norm(z, embedding, rng)
            total = total + self.decoder_penalty * terms["decoder"]
        return Loss(total, terms, {"codes": z})

    def jacobian_norm(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None, rng: Rng) -> Float[Tensor, ""]:
        """An unbiased estimate of the mean |J_D(z)|_F^2: |J^T v|^2 for one v ~ N(0, I) a datum."""
        v = rng.randn(len(z), *self.spec.shape)
        with torch.enable_grad():  # in validation too
            z = z if z.requires_grad else z.detach().requires_grad_()
            data = self.data_of(self.output(z, embedding)).float()
            (pulled,) = torch.autograd.grad((data * v).sum(), z, create_graph=True)
        return pulled.float().square().sum(1).mean()
