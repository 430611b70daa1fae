"""Generative adversarial network: a generator turns noise into data while a critic learns to tell its fakes from real
data, and what the critic has learned is the generator's only teacher.

G pushes z ~ N(0, I) forward to x = G(z). The critic's logit l(x) estimates log p(x) - log q(x), p the data's density and
q the generator's; in turns, with fresh noise each,

    critic     min  E_real[softplus(-l(x))] + E_z[softplus(l(G(z)))]
    generator  min  E_z[softplus(-l(G(z)))]          (non-saturating; objectives.py holds the others)

The choices are independent of each other: an objective (what both sides want of the critic's outputs), penalties on the
critic's slope (penalties.py; each in the critic's loss, or at every k-th step as a player of its own that shares the
critic's optimiser), networks, optimiser, and clipping of the critic's weights (Arjovsky et al. 2017).

With a condition c the game is played on pairs (x, c): both networks see an embedding of c, the fakes are made for the
conditions of the real batch (Mirza and Osindero 2014).

Batch norms of the generator keep running statistics, which sampling uses, so that a sample does not depend on those made
beside it. They are updated whenever the generator runs in training: also on the critic's turn, where its weights are the
same. The critic sees real and fake data in separate batches, as in DCGAN.

Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2016, arXiv:1511.06434; Mirza and Osindero 2014, arXiv:1411.1784.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.objectives import objective as objective_of
from pushforward.models.adversarial.penalties import Penalty
from pushforward.models.adversarial.penalties import penalties as penalties_of
from pushforward.models.contract import Generator, Loss, Moment, OptimizerSettings, Player, device_of
from pushforward.nets.adversaries import MLPCritic, MLPGenerator
from pushforward.nets.conditioning import ConditionEmbedding, condition_rates, draw_condition
from pushforward.nets.dcgan import SMALLEST, DCGANCritic, DCGANGenerator
from pushforward.randomness import Rng, as_rng

EMBEDDING = 32  # the width of a condition's vector


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
        objective: what the two sides minimise: "non-saturating", "minimax" (saturates, for study), "relativistic",
            "least-squares", "least-squares-centred", "hinge", "wasserstein", or an f-divergence: "f-kl", "f-reverse-kl",
            "f-pearson", "f-neyman", "f-squared-hellinger", "f-jensen-shannon", "f-total-variation".
        network: "dcgan" (convolutions, images of 8 to 128 pixels a side), "mlp", or "auto": dcgan for images.
        width: channels of the finest convolutions, doubling as sizes halve; an eighth of the units of an MLP's layers.
        critic_steps: updates of the critic for each one of the generator.
        penalties: on the critic's slope, name -> weight or name -> {weight, every}: with every = 16 it is taken at each 16th
            step, 16 times as heavy. Names: r1, r2, gradient-penalty, one-sided-penalty, zero-centred, dragan; {}: none;
            None: {r1: 0.5} for images, else {r1: 0.01}.
        critic_norm: of dcgan's critic: "batch" (as in its paper), "layer", "none", or "auto": layer where a penalty speaks of
            the slope of one datum alone (all but r1), which a critic with batch norm does not have, else batch.
        weight_clip: the critic's weights are held within +- this after each of its updates (WGAN: 0.01); None: not at all.
        learning_rate: of the generator; None: 5e-4 for images, else 1e-3.
        critic_learning_rate: of the critic; None: the generator's.
        optimizer: of both: adamw (without weight decay: Adam), adam, rmsprop (its alpha is the second of betas), sgd.
        betas: its decays of the moving averages of gradients and of their squares.
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
        penalties: dict[str, float | dict[str, float]] | None = None,
        critic_norm: Literal["auto", "batch", "layer", "none"] = "auto",
        weight_clip: float | None = None,
        learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        optimizer: Literal["adamw", "adam", "rmsprop", "sgd"] = "adamw",
        betas: tuple[float, float] = (0.5, 0.999),
        generator_network: nn.Module | None = None,
        critic_network: nn.Module | None = None,
    ):
        super().__init__()
        image = spec.kind == "image"
        if latent_dim is None:
            # More noise than the data have dimensions has to be folded away, and blurs points (docs/gan.md has figures).
            latent_dim = 64 if image else min(64, spec.dimensions)
        if penalties is None:
            # The penalty flattens the critic around the data: 0.5 would hide all that is finer than standardised points' scale.
            penalties = {"r1": 0.5 if image else 0.01}
        if learning_rate is None:
            learning_rate = 5e-4 if image else 1e-3
        self.spec, self.latent_dim, self.critic_steps = spec, latent_dim, critic_steps
        self.objective = objective_of(objective)
        self.penalties, self.weight_clip = penalties_of(penalties), weight_clip
        if weight_clip is not None and not weight_clip > 0:
            raise UserError(f"weight_clip = {weight_clip} leaves the critic nothing; give a number above 0, such as 0.01.")
        if self.objective.lipschitz and not (self.penalties or weight_clip or critic_network):
            raise UserError(
                f"objective='{objective}' has no minimum while the critic's slope is free; "
                "add penalties={'gradient-penalty': 10} or weight_clip=0.01."
            )
        self.optimizer, self.betas = optimizer, betas
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
        norm = self._chosen_norm(critic_norm, network)
        if generator_network is None:
            generator_network = (
                DCGANGenerator(spec.shape, latent_dim, width, embedding, bounded=image)
                if network == "dcgan"
                else MLPGenerator(spec.shape, latent_dim, 8 * width, embedding, bounded=image)
            )
        if critic_network is None:
            critic_network = (
                DCGANCritic(spec.shape, width, embedding, norm)
                if network == "dcgan"
                else MLPCritic(spec.shape, 8 * width, embedding)
            )
        self.generator, self.critic = generator_network, critic_network

    def _chosen_norm(self, asked: str, network: str) -> str:
        alone = [penalty.name for penalty in self.penalties if penalty.name != "r1"]
        if asked == "auto":
            return "layer" if alone else "batch"
        if network != "dcgan":
            raise UserError(
                f"critic_norm='{asked}' was given with network='{network}', whose critic has no norms; leave it away."
            )
        if asked == "batch" and alone:
            raise UserError(
                f"penalties on {alone[0]} speak of the slope of each datum by itself, which a critic with critic_norm='batch' "
                "does not have; take 'layer' or 'none'."
            )
        return asked

    def players(self) -> list[Player]:
        """The critic's turn, that of each penalty which has an interval, and the generator's."""

        def optimizer(learning_rate: float) -> OptimizerSettings:
            return OptimizerSettings(learning_rate, betas=self.betas, kind=self.optimizer)

        critic = Player(
            "critic",
            [self.critic, self.critic_embedding],
            self.critic_loss,
            optimizer=optimizer(self.critic_learning_rate),
            repeat=self.critic_steps,
            after_update=None if self.weight_clip is None else partial(self._clip_weights, self.weight_clip),
            validates=False,
        )
        lazy = [
            replace(critic, name=f"critic {penalty.name}", loss=partial(self.penalty_loss, penalty), every=penalty.every)
            for penalty in self.penalties
            if penalty.every > 1
        ]
        generator = Player(
            "generator",
            [self.generator, self.generator_embedding],
            self.generator_loss,
            optimizer=optimizer(self.learning_rate),
            validates=False,
        )
        return [critic, *lazy, generator]

    def critic_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The critic against fakes that it cannot change, made for the conditions of the batch."""
        fake = self._fakes(batch, rng)
        real_logits = self._judge(batch.x, batch.condition)
        fake_logits = self._judge(fake, batch.condition)
        terms = {"real logit": real_logits.detach().float().mean(), "fake logit": fake_logits.detach().float().mean()}
        if (boundary := self.objective.boundary) is not None:
            right = (real_logits > boundary).float().mean() + (fake_logits < boundary).float().mean()
            terms["accuracy"] = right / 2
        total = self.objective.critic(real_logits, fake_logits)
        for penalty in self.penalties:
            if penalty.every == 1:
                value = self._penalised(penalty, batch, fake, rng)
                total, terms[penalty.name] = total + penalty.weight * value, value.detach()
        return Loss(total, terms)

    def penalty_loss(self, penalty: Penalty, batch: Batch, rng: Rng) -> Loss:
        """One penalty by itself, as heavy as it would be over the steps on which it is not taken."""
        value = self._penalised(penalty, batch, self._fakes(batch, rng), rng)
        return Loss(penalty.weight * penalty.every * value, {penalty.name: value.detach()})

    def generator_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The generator against the critic as it stands, with fakes for the conditions of the batch."""
        fake = self._judge(self._generate(rng.randn(len(batch), self.latent_dim), batch.condition), batch.condition)
        real = fake.new_empty(0)  # not looked at
        if self.objective.paired:
            with torch.no_grad():
                real = self._judge(batch.x, batch.condition)
        return Loss(self.objective.generator(real, fake))

    def _fakes(self, batch: Batch, rng: Rng) -> Tensor:
        with torch.no_grad():
            return self._generate(rng.randn(len(batch), self.latent_dim), batch.condition)

    def _penalised(self, penalty: Penalty, batch: Batch, fake: Tensor, rng: Rng) -> Tensor:
        return penalty.function(lambda x: self._judge(x, batch.condition), batch.x, fake, rng)

    def _clip_weights(self, largest: float, keep: dict[str, Tensor], moment: Moment) -> None:
        for parameter in (*self.critic.parameters(), *self.critic_embedding.parameters()):
            parameter.clamp_(-largest, largest)

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

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n d"]:
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
