"""Sliced-Wasserstein autoencoder: codes are pressed to a known prior, so that nothing has to be fitted to them afterwards.

    |D(E(x)) - x|^2 + weight d SW_2^2(E(x_1) .. E(x_B), z_1 .. z_B),        z ~ prior,

with SW_2^2 the mean over random directions of the squared 2-Wasserstein distance of the shadows, which on a line is
exact and cheap: sort both and compare. No critic is trained, as in an adversarial autoencoder, and no kernel chosen, as in a
Wasserstein autoencoder with MMD. Two sets of B draws of one prior are not at distance 0 themselves: that floor is what the
distance of the codes can fall to.

With a condition c, encoder and decoder are told it, and the distance is that of (E(x), c) from (z, c): it vanishes only where
codes are independent of the condition, so that any may be decoded with any.

Kolouri et al. 2018, "Sliced-Wasserstein auto-encoder", arXiv:1804.01947.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.distributions.transport import line_cost, unit_directions
from pushforward.errors import UserError, nearest
from pushforward.models.autoencoders.codec import Codec, Error, Network, squared_error
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, device_of
from pushforward.nets.conditioning import draw_condition
from pushforward.randomness import Rng, as_rng

Prior = Literal["normal", "ball", "sphere"]


def prior_codes(prior: Prior, n: int, dimensions: int, rng: Rng) -> Float[Tensor, "n d"]:
    """Draws of N(0, I), or uniform in the ball or on the sphere of radius sqrt(d), whose numbers are of order 1 as well."""
    z = rng.randn(n, dimensions)
    if prior == "normal":
        return z
    z = dimensions**0.5 * z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return z * rng.rand(n, 1) ** (1 / dimensions) if prior == "ball" else z


class SlicedWassersteinAE(Codec):
    """A sliced-Wasserstein autoencoder of images or vectors.

    Args:
        spec: What a datum is.
        latent_dim: Numbers in a code; None: 16, or as many as the data have.
        prior: Where codes are drawn from: normal (N(0, I)), ball or sphere (uniform, of radius sqrt(latent_dim)).
        weight: Of the sliced distance; 1 weighs it as much as the squared error summed over a datum.
        projections: Random directions of an update.
        network: auto (conv for images and fields (C, H, W) larger than 8 x 8, else mlp), linear, mlp or conv.
        width: Width of the mlp's layers, or channels of the conv's first stage; None: 256 or 32.
        depth: Hidden layers of the mlp, or residual blocks per stage of the conv; None: 2 or 0.
        error: What a reconstruction is judged by: l2, l1, or bernoulli (cross-entropy, for images).
        encoder: Your own module x (B, *shape) -> (B, latent_dim); that of the condition (B, 64) is its second argument.
        decoder: Your own module z (B, latent_dim) -> as many numbers as a datum has; second argument likewise.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int | None = None,
        prior: Prior = "normal",
        weight: float = 10.0,
        projections: int = 64,
        network: Network = "auto",
        width: int | None = None,
        depth: int | None = None,
        error: Error = "l2",
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        super().__init__(spec, latent_dim, network, width, depth, error, encoder, decoder, tells_class=True)
        if prior not in get_args(Prior):
            raise UserError(f"prior={prior!r} was given; {nearest(str(prior), get_args(Prior))}")
        if weight < 0 or projections < 1:
            raise UserError(f"weight={weight} is 0 or more and projections={projections} at least 1.")
        self.prior, self.weight, self.projections = prior, weight, projections

    def beside(self, condition: Tensor | None) -> list[Tensor]:
        """The condition as numbers (B, k) to stand beside the codes."""
        if not self.embed or condition is None:
            return []
        return [F.one_hot(condition, self.spec.classes).float() if self.spec.classes else condition.float()]

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Reconstruction and distance to the prior. Terms: `mse`, the mean squared error a number; `sliced`, SW_2^2."""
        x, prior = batch.x, prior_codes(self.prior, len(batch), self.latent_dim, rng)
        embedding = self.training_embedding(batch.condition, len(batch), rng)
        z = self.codes_of(x, embedding)
        output, given = self.output(z, embedding), self.beside(batch.condition)
        codes, drawn = torch.cat([z.float(), *given], 1), torch.cat([prior, *given], 1)
        theta = unit_directions(codes.shape[1], self.projections, rng)
        # times the dimensions: the squared length of a shift, whatever the number of directions it may lie in
        sliced = codes.shape[1] * line_cost(codes @ theta, drawn @ theta, order=2).mean()
        mse = squared_error(self.data_of(output.detach()), x).mean() / self.spec.dimensions
        total = self.reconstruction_loss(output, x).mean() + self.weight * sliced
        return Loss(total, {"mse": mse, "sliced": sliced})

    def players(self) -> list[Player]:
        """One: encoder and decoder together."""
        return [Player("autoencoder", self, loss=self.loss, optimizer=OptimizerSettings(learning_rate=self.learning_rate))]

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n d"]:
        """Codes from the prior, whatever the condition."""
        return prior_codes(self.prior, n, self.latent_dim, as_rng(generator, device_of(self)))

    def sample(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n *shape"]:
        """Decodes codes from the prior."""
        rng = as_rng(generator, device_of(self))
        z = prior_codes(self.prior, n, self.latent_dim, rng)
        if condition is None and self.embed and self.spec.condition:
            condition = draw_condition(self.spec.condition, n, rng)
        return self.decode(z, condition=condition)
