"""What autoencoders have in common: an encoder, a decoder, what is known beside a datum, and the error of a reconstruction.

Where codes have a density for each class, the decoder need not be told it; attributes and vectors, which no density of codes
knows, are given to encoder and decoder as an embedding.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError, nearest
from pushforward.nets.choice import chosen_network
from pushforward.nets.conditioning import ConditionEmbedding
from pushforward.nets.conv import ConvDecoder, ConvEncoder
from pushforward.nets.mlp import Flat
from pushforward.randomness import Rng

Network = Literal["auto", "linear", "mlp", "conv"]
Error = Literal["l2", "l1", "bernoulli"]
FLAT = ("mlp", "linear")  # networks for any data

HIDDEN = 0.1  # rate at which attributes are hidden in training, which teaches what to do without
ACTIVE = 1e-2  # a unit is active whose variance is more than this share of the largest
RATES = {"linear": 5e-2, "mlp": 1e-3, "conv": 2e-3}


def chosen_latent(latent_dim: int | None, spec: DataSpec, network: Network = "mlp") -> int:
    """Numbers in a code: as asked, or 16, or as many as the data have where those are fewer."""
    if latent_dim is None:
        return min(16, spec.dimensions)
    if latent_dim < 1:
        raise UserError(f"latent_dim={latent_dim} was given; a code has at least one number.")
    if network == "linear" and latent_dim > spec.dimensions:
        raise UserError(
            f"latent_dim={latent_dim} was given, and the data have {spec.dimensions} numbers, more than which a linear "
            "autoencoder has no use for; give at most as many, or network='mlp'."
        )
    return latent_dim


def make_decoder(
    spec: DataSpec, inputs: int, network: Network, width: int | None = None, depth: int | None = None, beside: int = 0
) -> nn.Module:
    """Codes (B, inputs), beside them an embedding (B, beside) -> numbers of the data, in any shape."""
    if network == "conv":
        return ConvDecoder(inputs, spec.shape, 32 if width is None else width, depth or 0, beside)
    hidden = 0 if network == "linear" else 2 if depth is None else depth
    return Flat(inputs + beside, spec.dimensions, 256 if width is None else width, hidden)


def make_encoder(
    spec: DataSpec, outputs: int, network: Network, width: int | None = None, depth: int | None = None, beside: int = 0
) -> nn.Module:
    """The mirror image: data (B, *shape) -> (B, outputs)."""
    if network == "conv":
        return ConvEncoder(spec.shape, outputs, 32 if width is None else width, depth or 0, beside)
    hidden = 0 if network == "linear" else 2 if depth is None else depth
    return Flat(spec.dimensions + beside, outputs, 256 if width is None else width, hidden)


def squared_error(x: Float[Tensor, "b *shape"], y: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
    """|x - y|^2 of each datum, in the model's units squared."""
    return (x.float() - y.float()).square().flatten(1).sum(1)


class Codec(nn.Module):
    """Encoder and decoder of one code (B, latent_dim). Abstract: what is trained, and where codes are drawn from, is the
    method's.

    Args:
        spec: What a datum is.
        latent_dim: Numbers in a code; None: 16, or as many as the data have.
        network: auto (conv for images and fields (C, H, W) larger than 8 x 8, else mlp), linear, mlp or conv.
        width: Width of the mlp's layers, or channels of the conv's first stage; None: 256 or 32.
        depth: Hidden layers of the mlp, or residual blocks per stage of the conv; None: 2 or 0.
        error: What a reconstruction is judged by: l2, l1, or bernoulli (cross-entropy, for images).
        encoder: Your own module x (B, *shape) -> (B, latent_dim); the embedding of attributes (B, 64) is its second argument.
        decoder: Your own module z (B, latent_dim) -> as many numbers as a datum has; second argument likewise.
        tells_class: Whether encoder and decoder are told a class, too.
    """

    def __init__(
        self,
        spec: DataSpec,
        latent_dim: int | None,
        network: Network,
        width: int | None,
        depth: int | None,
        error: Error = "l2",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        tells_class: bool = False,
    ):
        super().__init__()
        network = chosen_network(network, spec, flat=FLAT)
        if error not in get_args(Error):
            raise UserError(f"error={error!r} was given; {nearest(str(error), get_args(Error))}")
        if error == "bernoulli" and spec.kind != "image":
            raise UserError(
                f"error='bernoulli' reads numbers as probabilities; '{spec.name}' holds {spec.kind}: use error='l2'."
            )
        self.spec, self.error, self.learning_rate = spec, error, RATES[network]
        self.latent_dim = chosen_latent(latent_dim, spec, network)
        known = spec.condition if tells_class or not spec.classes else None
        self.embed = ConditionEmbedding(known, 64)
        beside = self.embed.width
        self.encoder = encoder or make_encoder(spec, self.latent_dim, network, width, depth, beside)
        self.decoder = decoder or make_decoder(spec, self.latent_dim, network, width, depth, beside)

    def embedding(self, condition: Tensor | None, rows: int, drop: Tensor | None = None) -> Float[Tensor, "b e"] | None:
        """Attributes as a vector; None where encoder and decoder are told nothing: a class is its codes' density's matter."""
        told = condition if self.embed or self.spec.condition is None else None
        return self.embed(told, rows, drop)

    def training_embedding(self, condition: Tensor | None, rows: int, rng: Rng) -> Float[Tensor, "b e"] | None:
        """The same in training, where some are hidden."""
        return self.embedding(condition, rows, self.embed.hidden(rows, HIDDEN, rng))

    def codes_of(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None) -> Float[Tensor, "b d"]:
        return self.encoder(x) if embedding is None else self.encoder(x, embedding)

    def output(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None) -> Float[Tensor, "b *shape"]:
        """What the decoder gives: numbers of the data, or logits of them where the error is `bernoulli`."""
        out = self.decoder(z) if embedding is None else self.decoder(z, embedding)
        return out.reshape(len(z), *self.spec.shape)

    def data_of(self, output: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """The data that an output means."""
        return 2 * torch.sigmoid(output) - 1 if self.error == "bernoulli" else output

    def reconstruction_loss(self, output: Float[Tensor, "b *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        """The error of each datum, summed over its numbers."""
        if self.error == "bernoulli":
            each = F.binary_cross_entropy_with_logits(output.float(), (x.float() + 1) / 2, reduction="none")
        elif self.error == "l1":
            each = (output.float() - x.float()).abs()
        else:
            return squared_error(output, x)
        return each.flatten(1).sum(1)

    def encode(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b d"]:
        """The code of each datum."""
        return self.codes_of(x, self.embedding(condition, len(x)))

    def decode(self, z: Float[Tensor, "b d"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """The datum of each code."""
        return self.data_of(self.output(z, self.embedding(condition, len(z))))

    def reconstruction_error(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, " b"]:
        """|decode(encode(x)) - x|^2 of each datum: large for what is unlike the training data, so a score of outliers."""
        return squared_error(self.decode(self.encode(x, condition=condition), condition=condition), x)

    @torch.no_grad()
    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """Which units of the code vary over x, and the mean squared error of the reconstructions."""
        z = self.encode(x, condition=condition).float()
        error = self.reconstruction_error(x, condition=condition).mean() / self.spec.dimensions
        return spread(z) | {"mean_squared_error": float(error)}


def spread(z: Float[Tensor, "b d"]) -> dict[str, float]:
    """How the units of codes vary over data: how many do, of how many, and the least and largest standard deviation."""
    variance = z.var(0, unbiased=False)
    active = (variance > ACTIVE * variance.max()).sum()
    return {
        "active_units": float(active),
        "units": float(z.shape[1]),
        "code_std_min": float(variance.min().sqrt()),
        "code_std_max": float(variance.max().sqrt()),
    }
