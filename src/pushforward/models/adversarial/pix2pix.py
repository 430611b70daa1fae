"""pix2pix: learns from pairs to turn an image into another (a map out of an aerial photograph), with a critic of patches that
says whether an output looks real beside its input.

Data are pairs of a given image x (the condition) and its output y. G makes y from x and noise z, D sees both images:

    G* = arg min_G max_D  E[log D(x, y)] + E[log(1 - D(x, G(x, z)))] + lambda E |y - G(x, z)|_1,    lambda = 100,

the L1 norm per number of y, the game in its non-saturating form (objectives.py holds the others). L1 alone is met best by the
median of all outputs that an input may have, which is blurred wherever these differ; the critic knows that no output looks so.
It judges squares of at most 70 pixels (nets/translators.py): L1 has the large in hand, and a patch shows what is sharp.

z is dropout in the coarsest maps of the generator, as in the paper, in training and in sampling: its masks come from the
generator of random numbers, row by row. Instance normalisation stands for the paper's batch normalisation with batches of one
image. The paper halves the critic's loss; Adam does not see the difference.

Isola, Zhu, Zhou and Efros 2017, "Image-to-image translation with conditional adversarial networks", arXiv:1611.07004.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.objectives import critic_terms
from pushforward.models.adversarial.objectives import objective as objective_of
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, device_of
from pushforward.nets.conditioning import draw_condition
from pushforward.nets.translators import PatchCritic, dropout_masks, translator
from pushforward.randomness import Rng, SampleRng, as_rng


class Pix2Pix(nn.Module):
    """A translator of images and a critic of pairs, trained against each other on paired images in [-1, 1].

    Translates, and samples given images; it has no likelihood. Without a condition there is nothing to sample.

    Args:
        spec: the data: images, each with an image of the same height and width as its condition.
        l1_weight: of the mean absolute error of the output.
        adversarial: weight of the critic's verdict in the generator's loss; 0: no critic, the baseline of L1 alone.
        objective: of the game: "non-saturating", "least-squares", "hinge", or another that needs no bound on the critic's
            slope.
        network: of the generator: "unet" or "residual".
        width: channels of the finest maps of both networks (the paper: 64).
        blocks: residual blocks (network="residual"); None: 6 up to 128 pixels a side, else 9.
        dropout: rate in the generator, in training and sampling; 0: one output for each input.
        critic_layers: strided convolutions of the critic: 1 to 5 for patches of 16, 34, 70, 142, 286 pixels; None: the most, up
            to 3, whose patches are no larger than the image.
        learning_rate: of both sides.
        betas: Adam's decays.
        generator_network: your own module instead: given images (B, *condition.shape) -> (B, *shape), without noise.
        critic_network: your own module instead: both images one above the other (B, channels of both, H, W) -> logits.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        l1_weight: float = 100.0,
        adversarial: float = 1.0,
        objective: str = "non-saturating",
        network: Literal["unet", "residual"] = "unet",
        width: int = 32,
        blocks: int | None = None,
        dropout: float = 0.5,
        critic_layers: int | None = None,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        generator_network: nn.Module | None = None,
        critic_network: nn.Module | None = None,
    ):
        super().__init__()
        given = spec.condition
        if spec.kind != "image" or given is None or given.kind != "image" or len(given.shape) != 3:
            comes = f"with {given.kind} as condition" if given else "without a condition"
            raise UserError(
                f"pix2pix learns images that are given images, and '{spec.name}' holds {spec.kind} {comes}; load pairs "
                "(--image X --target-image Y, two columns or two sub-folders), or take cyclegan for two classes without pairs."
            )
        height, breadth = spec.shape[1:]
        if given.shape[1:] != (height, breadth):
            raise UserError(
                f"the images of a pair have one size; the given ones of '{spec.name}' are {given.shape[1]}x{given.shape[2]} "
                f"and their outputs {height}x{breadth}: load them with size={height}x{breadth}."
            )
        if min(l1_weight, adversarial) < 0 or l1_weight + adversarial == 0:
            raise UserError(
                f"l1_weight = {l1_weight} and adversarial = {adversarial} were given; they are >= 0, and one of them above 0."
            )
        self.spec, self.source = spec, given
        self.l1_weight, self.adversarial = l1_weight, adversarial
        self.objective = objective_of(objective)
        if self.objective.lipschitz and adversarial and critic_network is None:
            raise UserError(
                f"objective='{objective}' has no minimum while the critic's slope is free, and this critic's is; "
                "take 'non-saturating', 'least-squares' or 'hinge'."
            )
        self.optimizer = OptimizerSettings(learning_rate, betas=betas, kind="adam", schedule="constant", warmup=0)
        channels = given.shape[0]
        if generator_network is None:
            generator_network = translator(network, channels, spec.shape[0], (height, breadth), width, blocks, dropout)
        if critic_network is None and adversarial:
            critic_network = PatchCritic(channels + spec.shape[0], (height, breadth), width, critic_layers)
        self.generator = generator_network
        self.critic = critic_network if adversarial else None

    def players(self) -> list[Player]:
        """The critic's turn, where there is one, and the generator's."""
        generator = Player("generator", self.generator, self.generator_loss, optimizer=self.optimizer)
        if self.critic is None:
            return [generator]
        generator.validates = False
        critic = Player("critic", self.critic, self.critic_loss, optimizer=self.optimizer, validates=False)
        return [critic, generator]

    def critic_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The critic of pairs against outputs for the batch's inputs, that it cannot change."""
        given = self._given(batch)
        with torch.no_grad():
            fake = self._generate(given, rng)
        real_logits, fake_logits = self._judge(given, batch.x), self._judge(given, fake)
        terms = critic_terms(real_logits, fake_logits, self.objective.boundary)
        return Loss(self.objective.critic(real_logits, fake_logits), terms)

    def generator_loss(self, batch: Batch, rng: Rng) -> Loss:
        """L1 to the outputs of the batch, and the critic's verdict on pairs with their inputs. Terms: l1 (a mean per number, in
        the model's units, of images 2 from black to white), adversarial."""
        given = self._given(batch)
        fake = self._generate(given, rng)
        l1 = (fake.float() - batch.x.float()).abs().mean()
        total, terms = self.l1_weight * l1, {"l1": l1.detach()}
        if self.critic is not None:
            fake_logits = self._judge(given, fake)
            real_logits = fake_logits.new_empty(0)  # not looked at
            if self.objective.paired:
                with torch.no_grad():
                    real_logits = self._judge(given, batch.x)
            adversarial = self.objective.generator(real_logits, fake_logits)
            total, terms["adversarial"] = total + self.adversarial * adversarial, adversarial.detach()
        return Loss(total, terms)

    def sample(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n *shape"]:
        """Outputs for n given images (n, C, H, W). Raises UserError without them: an image cannot be drawn at random."""
        rng = as_rng(generator, device_of(self))
        given = draw_condition(self.source, n, rng) if condition is None else condition
        if len(given) != n:
            raise UserError(f"{len(given)} images were given for {n} samples; give one for each.")
        return self._translated(given, rng)

    def translate(
        self, x: Float[Tensor, "b *given"], *, condition: Tensor | None = None, generator: Generator = None
    ) -> Float[Tensor, "b *shape"]:
        """Outputs for images x like those that the data are given. The same as `sample` with x as the condition."""
        if condition is not None:
            raise UserError("x is all that pix2pix is conditioned on; leave the condition away.")
        return self._translated(x, as_rng(generator, device_of(self)))

    @torch.no_grad()
    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """l1: the mean absolute error of a number of the outputs for `condition`, in the model's units, with one noise."""
        if condition is None:
            return {}
        made = self._translated(condition, SampleRng(0, device=x.device))
        return {"l1": float((made.float() - x.float()).abs().mean())}

    @torch.no_grad()
    def _translated(self, given: Tensor, rng: Rng) -> Tensor:
        if tuple(given.shape[1:]) != self.source.shape:
            raise UserError(
                f"images of shape {tuple(given.shape[1:])} were given; this model translates {self.source.shape}, "
                "channels, height and width."
            )
        return self._generate(given.to(device_of(self)), rng).float()

    def _given(self, batch: Batch) -> Tensor:
        if batch.condition is None:
            raise UserError("pix2pix was built for pairs, and these data come without their given images.")
        return batch.condition

    def _generate(self, given: Tensor, rng: Rng) -> Tensor:
        masks = dropout_masks(self.generator, len(given), rng)
        return self.generator(given, masks) if masks else self.generator(given)

    def _judge(self, given: Tensor, output: Tensor) -> Tensor:
        assert self.critic is not None
        return self.critic(torch.cat([given, output.to(given.dtype)], 1))
