"""StyleGAN: a generator whose latent says, layer by layer, in which style an image is made.

z -> w = f(z), and each of L layers of the synthesis sees a style of its own (nets/style.py). With that come

- style mixing: of a share of the fakes in training, the layers from a random one on see the style of another z, so that layers
  do not rely on each other: coarse ones say what the image is of, fine ones how it looks.
- noise: what is left to chance in an image, drawn anew for each sample; `decode` has the same noise for all.
- truncation in W: w <- E[w | c] + psi (w - E[w | c]) gives up diversity for fidelity.
- path length: the generator is to change an image by the same amount a for a step in w of one length, whatever its direction:
  E (|J^T y| - a)^2, y ~ N(0, I), a the running mean, at every fourth step.
- spaces of codes beside Z: W (a style), W+ (a style for each layer).

All the other choices are those of gan.py.

Karras, Laine and Aila 2019, arXiv:1812.04948; Karras et al. 2020 (StyleGAN2), arXiv:1912.04958; Abdal, Qin and Wonka 2019
(W+), arXiv:1904.03189.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.gan import GAN, usual_condition
from pushforward.models.adversarial.networks import chosen
from pushforward.models.adversarial.pieces import CRITIC
from pushforward.models.contract import Generator, Loss, Moment, Player, Space, device_of, evaluating
from pushforward.models.truncation import truncated_codes
from pushforward.nets.conditioning import Between, draw_condition
from pushforward.nets.style import DRAWN, StyleGenerator, path_length
from pushforward.randomness import Rng, SampleRng, as_rng

PATHS_EVERY = 4  # steps between two turns of the path length
PATHS_RATE = 0.01  # of the running mean of the lengths
FIXED = 0x5717E  # the seed of the noise that `decode` has


SETTINGS = (GAN.__doc__ or "").partition("    Args:\n")[2]


class StyleGAN(GAN):
    __doc__ = f"""A style-based generator and a critic, trained against each other.

    Samples, decodes, and mixes styles; codes are z, or w and w+ (`spaces`). The settings are those of a GAN; network_options
    has style_dim, mapping_depth and modulation ("weights": StyleGAN2, "adain": StyleGAN); further stabilisers are style-mixing
    (share of the fakes) and path-length (weight).

    Args:
{SETTINGS}"""

    generator: StyleGenerator

    @staticmethod
    def _network(asked: str, spec: DataSpec) -> str:
        if asked != "style":
            raise UserError(f"network='{asked}' was given; StyleGAN's is 'style'. For others take the model 'gan'.")
        return chosen(asked, spec)

    # The game

    def players(self) -> list[Player]:
        """As of a GAN, and the generator's path length at every fourth step."""
        players = super().players()
        if "path-length" not in self.stabilisers:
            return players
        paths = replace(
            players[-1],
            name="generator path-length",
            loss=self.path_loss,
            optimizer=replace(players[-1].optimizer, clip=0.0),  # as of a penalty with an interval
            every=PATHS_EVERY,
            after_update=self._after_paths,
        )
        return [*players, paths]

    def path_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The path length by itself, four times as heavy, on every other row of the batch (half of it, as in the paper)."""
        condition = None if batch.condition is None else batch.condition[::2]
        z = self.latent.draw(len(batch), rng)[::2]
        w = self.generator.map(z, self._embedding(condition, len(z)))
        noise = [drawn[::2] for drawn in self.generator.draw_noise(len(batch), rng)]
        towards = rng.randn(len(batch), *self.spec.shape)[::2]
        value, lengths = path_length(
            lambda w: self.generator.synthesise(w, noise), self.generator.spread(w), towards, self.generator.mean_length
        )
        weight = self.stabilisers["path-length"] * PATHS_EVERY
        return Loss(weight * value, {"path length": lengths.mean()}, {"lengths": lengths})

    def _after_paths(self, keep: dict[str, Tensor], moment: Moment) -> None:
        self.generator.mean_length.lerp_(keep["lengths"].mean(), PATHS_RATE)

    def _grow(self, side: int, moment: Moment) -> None:
        """The mean styles move, of conditions as frequent as in the data."""
        if side == CRITIC:
            return super()._grow(side, moment)
        condition = None
        if self.generator_embedding and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, DRAWN, moment.rng)
        z = self.latent.draw(DRAWN, moment.rng)
        self.generator.after_update(moment, self._embedding(condition, DRAWN), self._kind(condition), z)

    def _check_what_is_said(self) -> None:
        super()._check_what_is_said()
        if not isinstance(self.generator, StyleGenerator):
            raise UserError(
                "StyleGAN has one generator of its own; leave generators, generator_network and virtual-batch-norm away, or "
                "take the model 'gan'."
            )

    def _kind(self, condition: Tensor | None) -> Tensor | None:
        """The classes, of each of which the mean style is kept."""
        return condition if self.spec.classes and self.generator_embedding else None

    def _embedding(self, condition: Tensor | Between | None, rows: int) -> Tensor | None:
        return self.generator_embedding.of(condition, rows)

    def _generate(self, z: Tensor, condition: Tensor | Between | None, rng: Rng | None = None) -> Tensor:
        """G(z | c), with noise and (in training) mixed styles of rng; without, with the noise that is the same for all."""
        n, mixed = len(z), None
        if rng is not None and self.training and "style-mixing" in self.stabilisers:
            _, crossover = self.generator.draw_mixing(n, rng, self.stabilisers["style-mixing"])
            mixed = (self.latent.draw(n, rng), crossover)
        return self.generator(z, self._embedding(condition, n), self._noise(n, rng), mixed)

    def _noise(self, n: int, rng: Rng | None) -> list[Tensor]:
        if rng is not None:
            return self.generator.draw_noise(n, rng)
        fixed = self.generator.draw_noise(1, SampleRng(FIXED, device=device_of(self)))
        return [drawn.expand(n, -1, -1, -1) for drawn in fixed]

    # What the trained networks can do

    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        truncation: float = 1.0,
        keep: float = 1.0,
    ) -> Float[Tensor, "n *shape"]:
        """n data.

        Args:
            condition: as of a GAN.
            truncation: psi of the styles; 0 is the mean image (of a class), 1 all of them.
            keep: the share of codes z that are kept, those at which the generator is the least steep (models/truncation.py).
        """
        rng = as_rng(generator, device_of(self))
        condition = self._drawn(condition, n, rng)
        z = truncated_codes(self, n, keep=keep, condition=condition, generator=rng, numbers=self.latent.noise)
        with torch.no_grad(), evaluating(self):
            w = self.generator.map(z, self._embedding(condition, n))
            return self.generator.synthesise(
                self.generator.spread(self.generator.truncate(w, truncation, self._kind(condition))), self._noise(n, rng)
            )

    def spaces(self) -> dict[str, Space]:
        """Codes beside z: "w" (n, style_dim), "w+" (n, L, style_dim). A style has the condition in it."""
        return {"w": Space(self.draw_styles, self.decode_styles), "w+": Space(self._draw_spread, self.decode_styles)}

    def draw_styles(
        self, n: int, *, condition: Tensor | None = None, generator: Generator = None
    ) -> Float[Tensor, "n style_dim"]:
        """w = f(z), z drawn; of the condition that is given, else as frequent as in the training set."""
        rng = as_rng(generator, device_of(self))
        condition = self._drawn(condition, n, rng)
        return self.styles(self.latent.draw(n, rng), condition=condition)

    def _draw_spread(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Tensor:
        return self.generator.spread(self.draw_styles(n, condition=condition, generator=generator))

    def styles(self, z: Float[Tensor, "b d"], *, condition: Tensor | None = None) -> Float[Tensor, "b style_dim"]:
        """w = f(z | c); without a condition that of the most frequent class."""
        if condition is None and self.generator_embedding and self.spec.condition is not None:
            condition = usual_condition(self.spec.condition, len(z), z.device)
        with evaluating(self):
            return self.generator.map(z, self._embedding(condition, len(z)))

    def decode_styles(self, w: Tensor, *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """Images of styles w (B, style_dim), or of one for each layer (B, L, style_dim); differentiable. condition: not looked
        at, as a style has it."""
        with evaluating(self):
            return self.generator.synthesise(w if w.dim() == 3 else self.generator.spread(w), self._noise(len(w), None))

    def mix(
        self, coarse: Float[Tensor, "b d"], fine: Float[Tensor, "b d"], crossover: int, *, condition: Tensor | None = None
    ) -> Float[Tensor, "b *shape"]:
        """Images whose layers below the crossover have the styles of the z `coarse`, the others those of `fine`."""
        w = [self.styles(z, condition=condition) for z in (coarse, fine)]
        return self.decode_styles(self.generator.mix(w[0], w[1], crossover))
