"""Generative adversarial network: a generator turns noise into data while a critic learns to tell its fakes from real
data, and what the critic has learned is the generator's only teacher.

G pushes z ~ N(0, I) forward to x = G(z). The critic's logit l(x) estimates log p(x) - log q(x), p the data's density and
q the generator's; in turns, with fresh noise each,

    critic     min  E_real[softplus(-l(x))] + E_z[softplus(l(G(z)))]
    generator  min  E_z[softplus(-l(G(z)))]          (non-saturating; objectives.py holds the others)

With a condition c the game is played on pairs (x, c): both networks see an embedding of c, the fakes are made for the
conditions of the real batch (Mirza and Osindero 2014).

Batch norms of the generator keep running statistics, which sampling uses, so that a sample does not depend on those made
beside it. They are updated whenever the generator runs in training: also on the critic's turn, where its weights are the
same. The critic sees real and fake data in separate batches, as in DCGAN.

Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2016, arXiv:1511.06434; Mirza and Osindero 2014, arXiv:1411.1784.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.objectives import objective as objective_of
from pushforward.models.adversarial.penalties import r1 as r1_penalty
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, device_of
from pushforward.nets.conditioning import ConditionEmbedding, condition_rates, draw_condition
from pushforward.nets.dcgan import SMALLEST, DCGANCritic, DCGANGenerator
from pushforward.nets.mlp import mlp
from pushforward.randomness import Rng, as_rng

EMBEDDING = 32  # the width of a condition's vector


def keep_variance(network: nn.Module) -> None:
    """He et al. 2015's draw: activations as wide after a layer as before. With torch's own a generator starts as a point,
    and a point is pulled about as one: it takes long to spread, or ends on a part of the data."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)


class MLPGenerator(nn.Module):
    """z (B, latent_dim), embedding or None -> x (B, *shape), in [-1, 1] where `bounded`."""

    def __init__(self, shape: tuple[int, ...], latent_dim: int, width: int, embedding: int, bounded: bool):
        super().__init__()
        self.shape, self.bounded = tuple(shape), bounded
        self.net = mlp(latent_dim + embedding, int(torch.Size(shape).numel()), (width,) * 3, "relu")
        keep_variance(self.net)

    def forward(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b *shape"]:
        x = self.net(z if embedding is None else torch.cat([z, embedding], 1)).unflatten(1, self.shape)
        return torch.tanh(x) if self.bounded else x


class MLPCritic(nn.Module):
    """x (B, *shape), embedding or None -> logits (B,)."""

    def __init__(self, shape: tuple[int, ...], width: int, embedding: int):
        super().__init__()
        self.net = mlp(int(torch.Size(shape).numel()) + embedding, 1, (width,) * 3, "leaky-relu")
        keep_variance(self.net)

    def forward(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, " b"]:
        x = x.flatten(1)
        return self.net(x if embedding is None else torch.cat([x, embedding.to(x.dtype)], 1)).squeeze(1)


def usual_condition(condition: Condition, n: int, device: torch.device) -> Tensor:
    """The most frequent class, or the attributes that most data have, n times."""
    rates = condition_rates(condition, device)
    if condition.kind == "class":
        return rates.argmax().expand(n)
    return (rates > 0.5).float().expand(n, -1)


class GAN(nn.Module):
    """A generator and a critic, trained against each other.

    Samples and decodes; has no likelihood and no encoder. Images are made in [-1, 1] (tanh). With a class or attributes
    in the data it is conditional on them.

    Args:
        spec: the data.
        latent_dim: dimension of z ~ N(0, I); None: 64 for images, else that of the data, at most 64.
        objective: what the two sides minimise: "non-saturating" or "minimax" (saturates, for study).
        network: "dcgan" (convolutions, images of 8 to 128 pixels a side), "mlp", or "auto": dcgan for images.
        width: channels of the finest convolutions, doubling as sizes halve; an eighth of the units of an MLP's layers.
        critic_steps: updates of the critic for each one of the generator.
        r1: weight of the penalty on the critic's slope at real data (penalties.py); 0: none; None: 0.5 for images, else 0.01.
        learning_rate: of the generator; None: 5e-4 for images, else 1e-3.
        critic_learning_rate: of the critic; None: the generator's.
        generator_network: your own module instead: z (B, latent_dim) -> x (B, *shape); where the data have a
            condition it is called with its embedding (B, 32) as a second argument.
        critic_network: your own module instead: x (B, *shape) -> logits, with the same second argument.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int | None = None,
        objective: str = "non-saturating",
        network: str = "auto",
        width: int = 32,
        critic_steps: int = 1,
        r1: float | None = None,
        learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        generator_network: nn.Module | None = None,
        critic_network: nn.Module | None = None,
    ):
        super().__init__()
        image = spec.kind == "image"
        if latent_dim is None:
            # More noise than the data have dimensions has to be folded away, and blurs points (docs/gan.md has figures).
            latent_dim = 64 if image else min(64, spec.dimensions)
        if r1 is None:
            # The penalty flattens the critic around the data: 0.5 would hide all that is finer than standardised points' scale.
            r1 = 0.5 if image else 0.01
        if learning_rate is None:
            learning_rate = 5e-4 if image else 1e-3
        self.spec, self.latent_dim, self.critic_steps = spec, latent_dim, critic_steps
        self.objective = objective_of(objective)
        self.r1 = r1
        self.learning_rate, self.critic_learning_rate = learning_rate, critic_learning_rate or learning_rate
        self.generator_embedding = ConditionEmbedding(spec.condition, EMBEDDING, ("class", "attributes"))
        self.critic_embedding = ConditionEmbedding(spec.condition, EMBEDDING, ("class", "attributes"))
        embedding = self.critic_embedding.width
        if network not in ("auto", "mlp", "dcgan"):
            raise UserError(f"there is no network '{network}'; valid: auto, mlp, dcgan")
        if network == "dcgan" and not spec.planar:
            raise UserError(f"network='dcgan' makes images, and '{spec.name}' holds {spec.kind}; take network='mlp'.")
        if network == "auto":
            network = "dcgan" if spec.planar and min(spec.shape[1:]) >= SMALLEST else "mlp"
        if generator_network is None:
            generator_network = (
                DCGANGenerator(spec.shape, latent_dim, width, embedding, bounded=image)
                if network == "dcgan"
                else MLPGenerator(spec.shape, latent_dim, 8 * width, embedding, bounded=image)
            )
        if critic_network is None:
            critic_network = (
                DCGANCritic(spec.shape, width, embedding) if network == "dcgan" else MLPCritic(spec.shape, 8 * width, embedding)
            )
        self.generator, self.critic = generator_network, critic_network

    def players(self) -> list[Player]:
        """The critic's turn, then the generator's."""

        def optimizer(learning_rate: float) -> OptimizerSettings:
            return OptimizerSettings(learning_rate, betas=(0.5, 0.999))

        return [
            Player(
                "critic",
                [self.critic, self.critic_embedding],
                self.critic_loss,
                optimizer=optimizer(self.critic_learning_rate),
                repeat=self.critic_steps,
            ),
            Player(
                "generator",
                [self.generator, self.generator_embedding],
                self.generator_loss,
                optimizer=optimizer(self.learning_rate),
            ),
        ]

    def critic_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The critic against fakes that it cannot change, made for the conditions of the batch."""
        with torch.no_grad():
            fake = self._generate(rng.randn(len(batch), self.latent_dim), batch.condition)
        real_logits = self._judge(batch.x, batch.condition)
        fake_logits = self._judge(fake, batch.condition)
        with torch.no_grad():
            terms = {
                "real logit": real_logits.float().mean(),
                "fake logit": fake_logits.float().mean(),
                "accuracy": ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean()) / 2,
            }
        total = self.objective.critic(real_logits, fake_logits)
        if self.r1:
            penalty = r1_penalty(lambda x: self._judge(x, batch.condition), batch.x, fake, rng)
            total, terms["r1"] = total + self.r1 * penalty, penalty.detach()
        return Loss(total, terms)

    def generator_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The generator against the critic as it stands; of the batch only the conditions are used."""
        fake = self._generate(rng.randn(len(batch), self.latent_dim), batch.condition)
        return Loss(self.objective.generator(self._judge(fake, batch.condition)))

    def sample(
        self, n: int, *, condition: Tensor | None = None, generator: Generator = None, truncation: float = 1.0
    ) -> Float[Tensor, "n *shape"]:
        """n data. condition: (n,) classes or (n, A) attributes; None: as frequent as in the training set.
        truncation: scales z; below 1 samples are more typical and less diverse."""
        rng = as_rng(generator, device_of(self))
        if condition is None and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, n, rng)
        with torch.no_grad():
            return self.decode(truncation * rng.randn(n, self.latent_dim), condition=condition)

    def draw_codes(self, n: int, *, generator: Generator = None) -> Float[Tensor, "n d"]:
        """z ~ N(0, I)."""
        return as_rng(generator, device_of(self)).randn(n, self.latent_dim)

    def decode(self, z: Float[Tensor, "b d"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """x = G(z), differentiable, with the running statistics of the batch norms (a row never depends on others).
        A conditional model that is given no condition makes the most frequent class (attributes: what most data have)."""
        if condition is None and self.spec.condition is not None:
            condition = usual_condition(self.spec.condition, len(z), z.device)
        training = self.generator.training
        self.generator.eval()
        try:
            return self._generate(z, condition)
        finally:
            self.generator.train(training)

    def _generate(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.generator(z, *_embedded(self.generator_embedding, condition))

    def _judge(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return self.critic(x, *_embedded(self.critic_embedding, condition))


def _embedded(embedding: ConditionEmbedding, condition: Tensor | None) -> tuple[Tensor, ...]:
    """Nothing, or the condition's vector, for a network's second argument."""
    if not embedding or condition is None:
        return ()
    # `drop` keeps the null vector in the graph: replicated training wants a gradient for every parameter.
    return (embedding(condition, len(condition), torch.zeros(len(condition), dtype=torch.bool, device=condition.device)),)
