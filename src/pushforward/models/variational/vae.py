"""Variational autoencoder: a decoder p(x | z) of latent z ~ N(0, I), and an encoder q(z | x) that makes it learnable.

log p(x) = log of the integral of p(x | z) p(z) cannot be computed, but for any q it is at least the ELBO,

    E_{q(z|x)}[log p(x | z)] - KL(q(z | x) || N(0, I)),        q(z | x) = N(mean(x), diag(sigma(x)^2)) as a rule,

which encoder and decoder climb together; the gap is KL(q(z | x) || p(z | x)). The gradient passes through the draw
z = mean + sigma eps (reparametrisation). What a decoder's output means is the likelihood's business
(`distributions/likelihoods.py`), which distributions q may be is the posterior's (`posteriors.py`), and which bound is climbed
is the loss's (`elbo.py`).

Sources: Kingma and Welling 2014, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082; Sohn et al. 2015 (with a condition);
Higgins et al. 2017 (beta); Bowman et al. 2016, arXiv:1511.06349 (warm-up of the KL); Burda et al. 2016, arXiv:1509.00519
(the importance-weighted bound; black and white images drawn anew at each update; active units).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.distributions import likelihoods
from pushforward.distributions.likelihoods import Bernoulli, Sigma, fixed_binary
from pushforward.models.contract import Player, Update, device_of
from pushforward.models.variational import elbo, posteriors
from pushforward.models.variational.base import Variational
from pushforward.nets.choice import chosen_network
from pushforward.nets.conv import ConvDecoder, ConvEncoder
from pushforward.nets.mlp import Flat
from pushforward.randomness import EVALUATION_SEED, Rng, SampleRng

MOVES = 0.01  # a moving unit's posterior mean has more variance than this over data (Burda et al. 2016: "active")
SHOWN = 16  # latent units whose KL `diagnose` gives one by one


class VAE(Variational):
    """A variational autoencoder for images, fields and vectors, with or without a condition.

    Args:
        spec: What a datum is.
        latent_dim: Numbers in a code z.
        likelihood: What the decoder's output means: auto (logistic for images, categorical for vectors with categories,
            integers or gaps, gaussian else), bernoulli, gaussian, logistic, categorical.
        binarise: Of the bernoulli likelihood: draw black and white images from the grey levels anew at each update, instead of
            reading the levels as probabilities.
        posterior: What q(z | x) can be: gaussian (diagonal), full (any Gaussian), iaf (inverse autoregressive flow), planar,
            radial or sylvester (flows of few directions or centres).
        network: auto (conv for images and fields (C, H, W) larger than 8 x 8, mlp else), mlp or conv.
        width: Width of the mlp's layers, or channels of the conv's first stage; None: 256 or 32.
        depth: Hidden layers of the mlp, or residual blocks per stage of the conv; None: 2 or 0.
        activation: Of the mlp: silu, tanh, relu, gelu, softplus or leaky-relu.
        dropout: Rate at which hidden units are dropped; None: 0.1 for the mlp on images, else 0.
        beta: Weight of the KL (1: a bound on the likelihood; more: fewer and more independent latents).
        beta_warmup: Updates over which that weight grows from 0; half of the run where that is shorter.
        free_bits: Nats that each latent unit may use without paying for them, so that none is switched off early.
        draws: Draws of z per datum and update.
        objective: elbo, or iwae (the importance-weighted bound with `draws` draws).
        sigma: Of the gaussian likelihood: a number, learned, global, column or pixel.
        condition_dropout: Rate at which conditions are hidden in training, which teaches what to do without one.
        encoder: Your own module x (B, *shape) -> (B, 2 latent_dim), mean and log sigma (other posteriors ask for more:
            `posterior.outputs`); called with the condition's embedding (B, 64) as second argument where the data have a
            condition.
        decoder: Your own module z (B, latent_dim) -> (B, k, *shape) in any shape, k numbers per number of x
            (`likelihood.channels`: 2 for logistic and sigma="pixel", else 1); second argument likewise.
    """

    started: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int = 16,
        likelihood: likelihoods.Name = "auto",
        binarise: bool = False,
        posterior: posteriors.Name = "gaussian",
        network: Literal["auto", "mlp", "conv"] = "auto",
        width: int | None = None,
        depth: int | None = None,
        activation: Literal["silu", "tanh", "relu", "gelu", "softplus", "leaky-relu"] = "silu",
        dropout: float | None = None,
        beta: float = 1.0,
        beta_warmup: int = 0,
        free_bits: float = 0.0,
        draws: int = 1,
        objective: Literal["elbo", "iwae"] = "elbo",
        sigma: Sigma | float = "learned",
        condition_dropout: float = 0.1,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ):
        bound = elbo.objective(objective, beta, draws, beta_warmup, free_bits)
        super().__init__(spec, likelihood, binarise, sigma, bound, beta_warmup, condition_dropout)
        self.latent_dim = self.noise_size = latent_dim
        self.posterior = posteriors.posterior(posterior, latent_dim)
        beside = self.embed.width
        network = chosen_network(network, spec)
        said, outputs = self.posterior.outputs, self.likelihood.channels
        if dropout is None:  # images are few for what an mlp could learn by heart; vectors are not
            dropout = 0.1 if spec.kind == "image" and network == "mlp" else 0.0
        self.ink = self.begins = False
        # strided convolutions share their weights over the image and bear larger steps
        self.learning_rate = 2e-3 if network == "conv" else 1e-3
        if network == "conv":
            width, depth = 32 if width is None else width, 0 if depth is None else depth
            channels, *size = spec.shape
            self.encoder = encoder or ConvEncoder(spec.shape, said, width, depth, beside, dropout=dropout)
            self.decoder = decoder or ConvDecoder(
                latent_dim, (outputs * channels, *size), width, depth, beside, dropout=dropout
            )
        else:
            width, depth = 256 if width is None else width, 2 if depth is None else depth
            layers = (width, depth, dropout, activation)
            # black as 0: MNIST's nats after 22 000 updates are 92, with black as -1 (every weight of a pixel at once) 104
            self.ink = encoder is None and isinstance(self.likelihood, Bernoulli)
            self.encoder = encoder or Flat(spec.dimensions + beside, said, *layers)
            self.decoder = decoder or Flat(latent_dim + beside, outputs * spec.dimensions, *layers)
            self.begins = decoder is None and isinstance(self.likelihood, Bernoulli)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def players(self) -> list[Player]:
        """Encoder and decoder together; before their first update an mlp that says black or white is told the mean image."""
        return [Player("start", self.decoder, update=self.begin), *super().players()] if self.begins else super().players()

    def begin(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """Lets the decoder's last bias say the mean of the data: black borders are then black from the first update, not after
        thousands in which they drown what there is to see. MNIST's nats after 12 000 updates are 92 with it, 96 without."""
        if self.started:  # a trained model, trained further
            return Update({}, finished=True)
        white, count = torch.zeros(self.spec.shape, device=device_of(self)), 0
        for batch in batches:
            white += (batch.x + 1).sum(0) / 2
            count += len(batch)
        assert isinstance(self.decoder, Flat)
        self.decoder.leave.bias.copy_(torch.logit(white / count, eps=1e-3).flatten())
        self.started.fill_(True)
        return Update({}, finished=True)

    def infer(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None) -> Float[Tensor, "b o"]:
        """What the encoder says of x: the numbers that `posterior` reads."""
        if self.ink:
            x = (x + 1) / 2
        return self.encoder(x) if embedding is None else self.encoder(x, embedding)

    def weigh(
        self,
        x: Float[Tensor, "b *shape"],
        noise: Float[Tensor, "b k d"],
        embedding: Float[Tensor, "b e"] | None,
        closed: bool = False,
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b j d"]]:
        """log p(x | z) of the draws that `noise` makes, and log q(z | x) - log p(z) by latent unit (its mean if `closed`)."""
        said, draws = self.infer(x, embedding), noise.shape[1]
        z, log_slope = self.posterior.draw(said, noise)
        kl = self.posterior.kl(said) if closed else None
        ratio = 0.5 * (z.square() - noise.square()) - log_slope if kl is None else kl[:, None]
        if draws > 1:
            x = x.repeat_interleave(draws, 0)
            embedding = None if embedding is None else embedding.repeat_interleave(draws, 0)
        return self.log_likelihood(x, z.flatten(0, 1), embedding).view(-1, draws), ratio

    def parameters_of(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None) -> Float[Tensor, "b k *shape"]:
        """What the decoder says of x: the likelihood's parameters."""
        out = self.decoder(z) if embedding is None else self.decoder(z, embedding)
        return out.reshape(len(z), self.likelihood.channels, *self.spec.shape)

    def log_likelihood(
        self, x: Float[Tensor, "b *shape"], z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None
    ) -> Float[Tensor, " b"]:
        """log p(x | z) in nats per datum, in the model's units."""
        return self.likelihood.log_prob(self.parameters_of(z, embedding), x)

    def encode(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b d"]:
        """The posterior's mean (of a flow: where it sends its base's mean)."""
        return self.posterior.mean(self.infer(x, self.embed(condition, len(x))))

    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """How the latent units are used by data x, at least a hundred or so: which have collapsed onto the prior.

        active_units of units: those that say more than 0.01 nats of a datum; moving_units: those whose posterior mean has a
        variance above 0.01 over x (the measure of Burda et al. 2016). kl: nats that all of them say of a datum, kl_per_unit: on
        average over the units; kl_of_unit_i: of each, the largest 16 first.
        """
        embedding = self.embed(condition, len(x))
        x = fixed_binary(x) if self.binarise else x
        with torch.no_grad():
            moves = self.posterior.mean(self.infer(x, embedding)).var(0, correction=0) > MOVES
            said = elbo.use_of_units(self, x, SampleRng(EVALUATION_SEED, device=device_of(self)), embedding, 16)
        figures = {"active_units": float((said > elbo.WEAK).sum()), "units": float(self.latent_dim)}
        figures |= {"moving_units": float(moves.sum()), "kl": float(said.sum()), "kl_per_unit": float(said.mean())}
        largest = said.argsort(descending=True)[:SHOWN].tolist()
        return figures | {f"kl_of_unit_{i}": float(said[i]) for i in largest}
