"""Generative adversarial network: a generator turns noise into data while a critic learns to tell its fakes from real
data, and what the critic has learned is the generator's only teacher.

G pushes z forward to x = G(z). The critic's logit l(x) estimates log p(x) - log q(x), p the data's density and q the
generator's; in turns, with fresh noise each,

    critic     min  E_real[softplus(-l(x))] + E_z[softplus(l(G(z)))]
    generator  min  E_z[softplus(-l(G(z)))]          (non-saturating; objectives.py holds the others)

The choices are independent of each other, each a small file of its own:

    games.py                   what both sides want of the critic's outputs
    penalties.py               what bounds the critic's slope (each penalty in the critic's loss, or at every k-th step as a
                               player of its own that shares the critic's optimiser)
    networks.py                the pairs of networks
    stabilisers.py             what is done to the game so that it settles or does not collapse
    critics.py                 what the critic says beside its logit, and how a condition reaches it
    pieces.py                  what both sides want beside the objective: classes, codes, features, histories
    views.py                   how data and fakes are shown to the critic: augmented, noisy, diffused
    latent.py                  what z is made of: noise, InfoGAN's codes, which of several generators
    contents.py                pairs of one content, from which z learns what a datum is of and how it is seen

With a condition c the game is played on pairs (x, c): the fakes of an update are made for the conditions of the real batch
(Mirza and Osindero 2014). The critic sees real data and fakes in separate batches, as in DCGAN.

Batch norms of the generator keep running statistics, which sampling uses, so that a sample does not depend on those made
beside it. They are updated whenever the generator runs in training: also on the critic's turn, where its weights are the
same.

Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2016, arXiv:1511.06434; Mirza and Osindero 2014, arXiv:1411.1784.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.contents import PAIR, check_content, on_pairs, pairs_of
from pushforward.models.adversarial.critics import (
    CONDITIONS,
    EMBEDDING,
    Conditioning,
    Critic,
    Judgement,
    Told,
    check_conditioning,
)
from pushforward.models.adversarial.energy import Equilibrium
from pushforward.models.adversarial.games import game
from pushforward.models.adversarial.latent import Latent
from pushforward.models.adversarial.networks import NETWORKS, Asked, built, check_slope, chosen, chosen_norm
from pushforward.models.adversarial.objectives import critic_terms
from pushforward.models.adversarial.penalties import Penalty, checked_name, lazy_players
from pushforward.models.adversarial.penalties import regulariser as regulariser_of
from pushforward.models.adversarial.pieces import CRITIC, GENERATOR, Piece, Turn, pieces
from pushforward.models.adversarial.stabilisers import flip_labels, smooth_labels
from pushforward.models.adversarial.stabilisers import stabilisers as stabilisers_of
from pushforward.models.adversarial.views import View
from pushforward.models.contract import Generator, Loss, Moment, OptimizerSettings, Player, device_of, evaluating
from pushforward.models.truncation import truncated_codes
from pushforward.nets.adversaries import SeveralGenerators
from pushforward.nets.conditioning import Between, ConditionEmbedding, condition_rates, draw_condition, not_given
from pushforward.nets.lipschitz import follow, slope, spectral
from pushforward.nets.minibatch import WithReference
from pushforward.randomness import Rng, SampleRng, as_rng

SLOPE_EVERY = 32  # steps between two measured slopes


def usual_condition(condition: Condition, n: int, device: torch.device) -> Tensor:
    """The most frequent class, or the attributes that most data have, n times. Raises UserError for captions."""
    if condition.kind == "text":
        raise not_given(condition)
    rates = condition_rates(condition, device)
    if condition.kind == "class":
        return rates.argmax().expand(n)
    return (rates > 0.5).float().expand(n, -1)


class GAN(nn.Module):
    """A generator and a critic, trained against each other.

    Samples and decodes; has no likelihood and no encoder. Images are made in [-1, 1] (tanh). With a condition in the data
    (classes, attributes, numbers, captions) it is conditional on it.

    Args:
        spec: the data.
        latent_dim: numbers of noise in z; None: 64 for images, else as many as the data have, at most 64.
        objective: what the two sides minimise: "non-saturating", "minimax" (saturates, for study), "relativistic",
            "least-squares", "least-squares-centred", "hinge", "wasserstein", or an f-divergence: "f-kl", "f-reverse-kl",
            "f-pearson", "f-neyman", "f-squared-hellinger", "f-jensen-shannon", "f-total-variation"; of critics that are
            autoencoders "energy" (EBGAN) or "equilibrium" (BEGAN).
        objective_options: its numbers: a, b, c of "least-squares"; margin of "energy"; gamma and rate of "equilibrium".
        network: "auto" (dcgan for images, else mlp), "mlp", "dcgan", "residual", "self-attention", "biggan",
            "progressive"; "orthonormal" and "autoencoder" are critics beside the generator of "auto".
        network_options: further ones: complete of "progressive" (the share of the run after which it has grown), hidden of
            "autoencoder" (numbers in a code).
        width: channels of the finest convolutions, doubling as sizes halve; an eighth of the units of an MLP's layers.
        critic_steps: updates of the critic for each one of the generator.
        regulariser: of the critic's slope, a name, several, or name -> weight or name -> {weight, every}: with every = 16 a
            penalty is taken at each 16th step, 16 times as heavy. Names: r1, r2, gradient-penalty, one-sided-penalty,
            zero-centred, dragan, spectral, clipping, none; None: gradient-penalty with "wasserstein", else r1.
            Without a weight r1 and r2 have 0.5 for images, else 0.01.
        critic_norm: of dcgan's critic: "batch" (as in its paper), "layer", "none", or "auto": none with spectral norm, layer
            where a penalty speaks of the slope of one datum alone (all but r1), which batch norm does not leave it, else batch.
        stabilisers: names, or name -> strength: feature-matching, label-smoothing, noisy-labels, historical-averaging,
            instance-noise, packing, minibatch-discrimination, minibatch-deviation, virtual-batch-norm, augmentation,
            adaptive-augmentation, diffusion, pulling-away.
        conditioning: how a condition reaches the critic: "concatenation" to what it sees, "projection" onto its features,
            "classifier" (it says the class of real data and fakes, and both sides want that right), "semi-supervised" (it
            has a class more, "fake"; the generator knows of no class), "none" (nobody looks at the condition). None:
            "concatenation"; of residual, growing and style-based networks "projection"; with a content "none".
        class_weight: of the classifier's cross-entropy.
        labelled: share of the data whose label a classifier or a semi-supervised critic is shown, the same ones always.
        mismatched: whether data beside another datum's condition are shown as fakes, too, as many as of the others.
        interpolated: share of the generator's rows whose condition is somewhere between their own and another row's.
        categorical: values of each categorical code in z, such as [10] (InfoGAN).
        continuous: codes in z that are uniform on [-1, 1].
        information: weight of the codes' -log Q, which the critic and the generator both lower.
        content: how many numbers of z, the first ones, say what a datum is of, the others how it is seen: the critic judges
            pairs of one content, which data of one class are (contents.py). 0: none do, and it judges each datum by itself.
        generators: how many; of several each has its own share of z, and the critic says by `information` whose a fake is.
        learning_rate: of the generator; None: 5e-4 for images, else 1e-3.
        critic_learning_rate: of the critic; None: the generator's.
        optimizer: of both: adamw (without weight decay: Adam), adam, rmsprop (its alpha is the second of betas), sgd.
        betas: its decays of the moving averages of gradients and of their squares.
        schedule: how learning rates fall: cosine, linear, constant.
        generator_network: your own module instead: z (B, latent_dim) -> x (B, *shape); where the data have a
            condition it is called with its embedding (B, 32) as a second argument.
        critic_network: your own module instead: x (B, *shape) -> logits (B,) or, with an attribute `width`, features
            (B, width), with the same second argument where the condition is concatenated.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int | None = None,
        objective: str = "non-saturating",
        objective_options: dict[str, float] | None = None,
        network: str = "auto",
        network_options: dict[str, int | float | str] | None = None,
        width: int = 32,
        critic_steps: int = 1,
        regulariser: str | list[str] | dict[str, float | dict[str, float]] | None = None,
        critic_norm: Literal["auto", "batch", "layer", "none"] = "auto",
        stabilisers: str | list[str] | dict[str, float] | None = None,
        conditioning: Conditioning | None = None,
        class_weight: float = 1.0,
        labelled: float = 1.0,
        mismatched: bool = False,
        interpolated: float = 0.0,
        categorical: tuple[int, ...] = (),
        continuous: int = 0,
        information: float = 1.0,
        content: int = 0,
        generators: int = 1,
        learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        optimizer: Literal["adamw", "adam", "rmsprop", "sgd"] = "adamw",
        betas: tuple[float, float] = (0.5, 0.999),
        schedule: Literal["cosine", "linear", "constant"] = "cosine",
        generator_network: nn.Module | None = None,
        critic_network: nn.Module | None = None,
    ):
        super().__init__()
        image, own_critic = spec.kind == "image", critic_network is not None
        if latent_dim is None:
            # More noise than the data have dimensions has to be folded away, and blurs points (docs/gan.md has figures).
            latent_dim = 64 if image else min(64, spec.dimensions)
        if learning_rate is None:
            learning_rate = 5e-4 if image else 1e-3
        if min(generators, critic_steps) < 1:
            raise UserError(f"generators = {generators} and critic_steps = {critic_steps} were given; both are at least 1.")
        self.spec, self.critic_steps = spec, critic_steps
        self.optimizer, self.betas, self.schedule = optimizer, betas, schedule
        self.learning_rate = learning_rate
        self.critic_learning_rate = learning_rate if critic_learning_rate is None else critic_learning_rate
        self.class_weight, self.labelled, self.information = class_weight, labelled, information
        self.mismatched, self.interpolated = mismatched, interpolated

        # Choices, and whether they go together
        network = self._network(network, spec)
        pair = NETWORKS[network]
        asked_for = conditioning is not None
        if conditioning is None:
            conditioning = "none" if content else pair.conditioning
        self.conditioning = conditioning
        self.objective = game(objective, objective_options, pair.energies and critic_network is None)
        names = [checked_name("stabilisers", stabilisers)] if isinstance(stabilisers, str) else stabilisers or []
        self.stabilisers = stabilisers_of(names, objective, spec)
        if not pair.styled and (styled := {"style-mixing", "path-length"} & {*self.stabilisers}):
            raise UserError(f"{' and '.join(sorted(styled))} want a style-based generator; take the model 'stylegan'.")
        if "label-smoothing" in self.stabilisers:
            if objective_options:
                raise UserError("label-smoothing sets the targets that objective_options sets, too; leave one of them away.")
            self.objective = smooth_labels(objective, self.stabilisers["label-smoothing"])
        if regulariser is None:
            usual = "gradient-penalty" if self.objective.lipschitz else "r1"
            regulariser = "none" if pair.lipschitz or pair.energies else usual
        # The penalty flattens the critic around the data: 0.5 would hide all that is finer than standardised points' scale.
        self.regulariser = regulariser_of(regulariser, fine=0.5 if image else 0.01)
        said = [name for name in self.stabilisers if name.startswith("minibatch")]
        said += ["conditioning='projection'"] if conditioning == "projection" and spec.condition else []
        check_slope(self.regulariser, objective, self.objective.lipschitz, "own" if own_critic else network, said)
        norm = chosen_norm(critic_norm, network, self.regulariser.alone, self.regulariser.spectral)
        several = (generators,) if generators > 1 else ()
        self.latent = Latent(latent_dim, (*several, *categorical), continuous, content)
        self.latent_dim, self.content = self.latent.width, content
        check_conditioning(conditioning, spec, "packing" in self.stabilisers, asked_for)
        if content:
            check_content(spec, conditioning, self.stabilisers, generators, bool(categorical) or continuous > 0)

        # Networks
        condition = spec.condition
        known = condition if conditioning not in ("semi-supervised", "none") else None
        vocabulary = spec.vocabulary.size if spec.vocabulary else 0
        kinds = ("class", "attributes") if pair.styled else CONDITIONS  # the average style is over conditions, too
        self.generator_embedding = ConditionEmbedding(known, EMBEDDING, kinds, vocabulary)
        self.view = View(self.stabilisers, self.objective.boundary)
        told = Told(condition, conditioning, timed=self.view.diffusion is not None, vocabulary=vocabulary)
        packs = PAIR if content else int(self.stabilisers.get("packing", 1))
        asked = Asked(
            spec, self.latent_dim - sum(several), width, self.generator_embedding.width, packs * told.width, packs, norm,
            absolute=objective == "equilibrium",
            options=network_options or {},
        )  # fmt: skip
        if generator_network is None or critic_network is None:
            each, trunk = built(network, asked, generators)
            if generator_network is None:
                generator_network = SeveralGenerators(each, (latent_dim, latent_dim + generators)) if several else each[0]
            critic_network = trunk if critic_network is None else critic_network
        if "virtual-batch-norm" in self.stabilisers:
            if several:
                raise UserError("virtual-batch-norm has one reference for one generator; leave it out with several.")
            reference = self.latent.draw(int(self.stabilisers["virtual-batch-norm"]), SampleRng(0))
            generator_network = WithReference(generator_network, reference)
        self.generator = generator_network
        self.critic = Critic(
            critic_network,
            told,
            packs=packs,
            classes=condition.size if condition and conditioning in ("classifier", "semi-supervised") else 0,
            codes=self.latent.heads if self.latent.coded and information else 0,
            layers={name: int(size) for name, size in self.stabilisers.items() if name.startswith("minibatch")},
            orthonormal=pair.lipschitz and not own_critic,
            bounded=self.regulariser.spectral,
        )
        self._check_what_is_said()
        if self.regulariser.spectral:
            spectral(self.critic)
        self.pieces = nn.ModuleList(
            pieces(
                self.stabilisers, conditioning, self.latent, self._sides,
                class_weight=class_weight, labelled=labelled, information=information,
            )
        )  # fmt: skip

    @staticmethod
    def _network(asked: str, spec: DataSpec) -> str:
        if asked in NETWORKS and NETWORKS[asked].styled:
            raise UserError(
                "network='style' comes with mixed styles, noise and truncation of its own; take the model 'stylegan'."
            )
        return chosen(asked, spec)

    def _check_what_is_said(self) -> None:
        """Raises UserError where what both sides are told, or say, does not go together."""
        if self.latent.coded and self.information and "packing" in self.stabilisers:
            raise UserError("a pack of several data has no code of its own; leave packing out, or the codes of z.")
        recognised = self.conditioning in ("classifier", "semi-supervised")
        for name, given, usual, needs in (
            ("class_weight", self.class_weight, 1.0, recognised),
            ("labelled", self.labelled, 1.0, recognised and self.spec.classes),
            ("information", self.information, 1.0, self.latent.coded),
        ):
            if given != usual and not needs:
                what = "codes in z" if name == "information" else "a critic that says classes (classifier, semi-supervised)"
                raise UserError(f"{name} = {given} was given without {what}; leave it away.")
        if not 0 < self.labelled <= 1:
            raise UserError(f"labelled = {self.labelled} was given; it is a share of the data, above 0 and at most 1.")
        if (self.mismatched or self.interpolated) and not self.critic.told.condition:
            raise UserError("mismatched and interpolated want data with a condition that the critic is told (concatenation).")
        if self.mismatched and "packing" in self.stabilisers:
            raise UserError("a pack of several data has no condition of its own; leave packing or mismatched away.")
        if self.mismatched and self.objective.paired:
            raise UserError("a relativistic objective compares pairs of data and fakes; leave mismatched away.")
        if not 0 <= self.interpolated <= 1:
            raise UserError(f"interpolated = {self.interpolated} was given; it is a share of the rows, from 0 to 1.")
        if min(self.information, self.class_weight) < 0:
            raise UserError(
                f"information = {self.information} and class_weight = {self.class_weight} were given; weights are at least 0."
            )
        if not self.critic.featured and {"feature-matching", "pulling-away"} & {*self.stabilisers}:
            raise UserError("feature-matching and pulling-away look at a critic's features, and this one says logits alone.")

    @property
    def unconditional(self) -> bool:
        """Whether the generator knows of no condition."""
        return not self.generator_embedding

    # The game

    @property
    def _sides(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """What the critic's turn changes, and the generator's."""
        return [self.critic], [self.generator, self.generator_embedding]

    def players(self) -> list[Player]:
        """The critic's turn, that of each penalty which has an interval, and the generator's."""
        critics, generators = self._sides

        def optimizer(learning_rate: float) -> OptimizerSettings:
            return OptimizerSettings(learning_rate, betas=self.betas, kind=self.optimizer, schedule=self.schedule)

        critic = Player(
            "critic",
            critics,
            self.critic_loss,
            optimizer=optimizer(self.critic_learning_rate),
            repeat=self.critic_steps,
            after_update=self._after_critic if self._moves(0) else None,
            validates=False,
        )
        bound = self._after_penalty if self.regulariser.clip or self.regulariser.spectral else None
        lazy = lazy_players(replace(critic, after_update=bound), self.regulariser, self.penalty_loss)
        generator = Player(
            "generator",
            generators,
            self.generator_loss,
            optimizer=optimizer(self.learning_rate),
            after_update=self._after_generator if self._moves(1) else None,
            validates=False,
        )
        return [critic, *lazy, generator]

    @on_pairs
    def critic_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The critic against fakes that it cannot change, made for the conditions of the batch."""
        z = self.latent.draw_pairs(len(batch), rng)
        with torch.no_grad():
            fake = self._generate(z, batch.condition, rng)
        t = self.view.times(len(batch), rng)
        x, fake = (self.view(data, t, batch.progress, rng) for data in (batch.x, fake))
        real, false = (self.critic(data, batch.condition, t) for data in (x, fake))
        right, wrong = real.logit, false.logit
        terms = critic_terms(right, wrong, self.objective.boundary)
        keep = {"real": right, "fake": wrong} if self._adapts else {}
        if "noisy-labels" in self.stabilisers:
            right, wrong = flip_labels(right, wrong, self.stabilisers["noisy-labels"], rng)
        if self.mismatched and batch.condition is not None:
            others = batch.condition.roll(1, 0)
            differ = (others != batch.condition).view(len(batch), -1).any(1)
            if differ.any():
                beside = self.critic(x[differ], others[differ], None if t is None else t[differ])
                wrong = torch.cat([wrong, beside.logit])
        total = self.objective.critic(right, wrong)
        if isinstance(self.objective, Equilibrium):
            terms |= {"k": self.objective.k.clone(), "measure": self.objective.measure(right, wrong).detach()}
        total = total + self._added(CRITIC, Turn(batch, z, real, false), terms)
        logit = partial(self._logit, condition=batch.condition, t=t)
        for penalty in self.regulariser.penalties:
            if penalty.every == 1:
                value = penalty.function(logit, x, fake, rng)
                total, terms[penalty.name] = total + penalty.weight * value, value.detach()
        if batch.step % SLOPE_EVERY == 0:
            terms["slope"] = slope(logit, x)[0]
        return Loss(total, terms, keep)

    @on_pairs
    def penalty_loss(self, penalty: Penalty, batch: Batch, rng: Rng) -> Loss:
        """One penalty by itself, as heavy as it would be over the steps on which it is not taken."""
        with torch.no_grad():
            fake = self._generate(self.latent.draw_pairs(len(batch), rng), batch.condition, rng)
        t = self.view.times(len(batch), rng)
        x, fake = (self.view(data, t, batch.progress, rng) for data in (batch.x, fake))
        value = penalty.function(partial(self._logit, condition=batch.condition, t=t), x, fake, rng)
        return Loss(penalty.weight * penalty.every * value, {penalty.name: value.detach()})

    @on_pairs
    def generator_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The generator against the critic as it stands, with fakes for the conditions of the batch (or between two)."""
        z, condition = self.latent.draw_pairs(len(batch), rng), self._wanted(batch, rng)
        t = self.view.times(len(batch), rng)
        fake = self.view(self._generate(z, condition, rng), t, batch.progress, rng)
        false = self.critic(fake, condition, t)
        real = Judgement(false.logit.new_empty(0))  # not looked at
        if self.objective.paired or any(piece.compares for piece in self.pieces):
            x = self.view(batch.x, t, batch.progress, rng)
            with torch.no_grad():
                real = self.critic(x, batch.condition, t)
        share = 1 - self.stabilisers.get("feature-matching", 0.0)  # which takes the objective's place
        terms = dict[str, Tensor]()
        total = share * self.objective.generator(real.logit, false.logit)
        return Loss(total + self._added(GENERATOR, Turn(batch, z, real, false), terms), terms)

    def _added(self, side: int, turn: Turn, terms: dict[str, Tensor]) -> Tensor | float:
        """What all pieces add to a side's loss; their terms are put to the others."""
        total: Tensor | float = 0.0
        for piece in self.pieces:
            assert isinstance(piece, Piece)
            for name, (value, shown) in (piece.critic if side == CRITIC else piece.generator)(turn).items():
                total, terms[name] = total + value, shown.detach()
        return total

    def _wanted(self, batch: Batch, rng: Rng) -> Tensor | Between | None:
        """The conditions that the generator's fakes are made for."""
        if not self.interpolated or batch.condition is None:
            return batch.condition
        weight = rng.rand(len(batch)) * (rng.rand(len(batch)) < self.interpolated)
        return Between(batch.condition, batch.condition.roll(1, 0), weight)

    @property
    def _adapts(self) -> bool:
        """Whether something moves with what the critic says."""
        return self.view.adapts or isinstance(self.objective, Equilibrium)

    def _moves(self, side: int) -> bool:
        """Whether there is something to be done after a side's updates."""
        own = side == CRITIC and (self._adapts or self.regulariser.clip is not None or self.regulariser.spectral)
        return own or any(piece.moves for piece in self.pieces) or any(_growing(network) for network in self._sides[side])

    def _after_critic(self, keep: dict[str, Tensor], moment: Moment) -> None:
        """What moves with the critic's updates: its slope's bound, how hard it is made for it, what pieces remember."""
        self._after_penalty(keep, moment)
        if self._adapts:
            self.view.after_update(keep["real"].repeat_interleave(self.critic.packs))  # of each datum in a pack
            if isinstance(self.objective, Equilibrium):
                self.objective.after_update(keep["real"], keep["fake"])
        self._after(CRITIC, moment)

    def _after_penalty(self, keep: dict[str, Tensor], moment: Moment) -> None:
        if self.regulariser.spectral:
            follow(self.critic)
        if (largest := self.regulariser.clip) is not None:
            for parameter in self.critic.parameters():
                parameter.clamp_(-largest, largest)

    def _after_generator(self, keep: dict[str, Tensor], moment: Moment) -> None:
        self._after(GENERATOR, moment)

    def _after(self, side: int, moment: Moment) -> None:
        for piece in self.pieces:
            assert isinstance(piece, Piece)
            piece.after(side)
        self._grow(side, moment)

    def _grow(self, side: int, moment: Moment) -> None:
        """Networks that change with the run are told where it is."""
        for network in self._sides[side]:
            for part in _growing(network):
                part.after_update(moment)

    def _generate(self, z: Tensor, condition: Tensor | Between | None, rng: Rng | None = None) -> Tensor:
        """G(z | c). rng: of what is random beside z; None: nothing is."""
        e = self.generator_embedding.of(condition, len(z))
        return self.generator(z) if e is None else self.generator(z, e)

    def _logit(self, x: Tensor, condition: Tensor | None, t: Tensor | None) -> Tensor:
        return self.critic(x, condition, t).logit

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
            condition: (n,) classes, (n, A) attributes or (n, L) captions; None: as frequent as in the training set.
            truncation: scales the noise of z; below 1 samples are more typical and less diverse.
            keep: the share of codes z that are kept, those at which the generator is the least steep: the others are bridges
                between separate pieces of the data (models/truncation.py).
        """
        rng = as_rng(generator, device_of(self))
        condition = self._drawn(condition, n, rng)
        z = truncated_codes(self, n, keep=keep, condition=condition, generator=rng, numbers=self.latent.noise)
        with torch.no_grad(), evaluating(self):
            return self._generate(self.latent.truncated(z, truncation), condition, rng)

    def _drawn(self, condition: Tensor | None, n: int, rng: Rng) -> Tensor | None:
        """The condition that was given, or one that is drawn."""
        if condition is None and self.generator_embedding and self.spec.condition is not None:
            return draw_condition(self.spec.condition, n, rng)
        return condition

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n d"]:
        """z, of N(0, I) and codes where there are any."""
        return self.latent.draw(n, as_rng(generator, device_of(self)))

    def decode(self, z: Float[Tensor, "b d"], *, condition: Tensor | Between | None = None) -> Float[Tensor, "b *shape"]:
        """x = G(z), differentiable, with the running statistics of the batch norms (a row never depends on others).
        A conditional model that is given no condition makes the most frequent class (attributes: what most data have);
        captions have to be given."""
        if condition is None and self.generator_embedding and self.spec.condition is not None:
            condition = usual_condition(self.spec.condition, len(z), z.device)
        with evaluating(self):
            return self._generate(z, condition)

    def views(
        self,
        contents: int | Float[Tensor, "rows d"],
        views: int | Float[Tensor, "columns d"],
        *,
        generator: Generator = None,
    ) -> Float[Tensor, "rows columns *shape"]:
        """Each content in each view: data of a row are of one content, those of a column are seen alike. How many of each, or
        codes z to take them from. Row i and column j are the same however many there are."""
        if not self.content:
            raise UserError("this model's z tells no content from a view; train one with content=16, say.")
        counts = [of for of in (contents, views) if isinstance(of, int)]
        if any(count < 1 for count in counts):
            raise UserError(f"{contents} contents in {views} views were asked for; there is at least 1 of each.")
        rng = as_rng(generator, device_of(self))
        rows, columns = (self.latent.draw(of, rng) if isinstance(of, int) else of for of in (contents, views))
        each = self.latent.joined(rows.repeat_interleave(len(columns), 0), columns.repeat(len(rows), 1))
        with torch.no_grad():
            return self.decode(each).unflatten(0, (len(rows), len(columns)))

    def judge(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, " b2"]:
        """The critic's logits of data as they are; where it judges packs, one for each pack of neighbours, and with a content
        one for each of pairs of a class, if the classes are given."""
        if self.content and condition is not None:
            x = x[pairs_of(condition, SampleRng(0, device=x.device))[0].flatten()]
        with evaluating(self):
            return self.critic(x, condition, self._no_noise(x)).logit

    def classify(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b c"]:
        """Logits of the classes (or attributes) of x, by a critic with conditioning "classifier" or "semi-supervised"."""
        with evaluating(self):
            classes = self.critic(x, None, self._no_noise(x)).classes
        if classes is None:
            raise UserError(
                f"conditioning='{self.conditioning}' has no classes to say; take 'classifier' or 'semi-supervised'."
            )
        return classes

    def read_codes(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b heads"]:
        """What Q reads in x: logits of each categorical code, then means and log-deviations of the continuous ones."""
        with evaluating(self):
            codes = self.critic(x, condition, self._no_noise(x)).codes
        if codes is None:
            raise UserError("z has no codes that could be read; give categorical=[10], say, or continuous=2.")
        return codes

    def _no_noise(self, x: Tensor) -> Tensor | None:
        return None if self.view.diffusion is None else torch.zeros(len(x), device=x.device)

    @torch.no_grad()
    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """class_accuracy: of the critic's classes, on data x."""
        if condition is None or "classes" not in self.critic.heads:
            return {}
        said = self.classify(x)
        right = said.argmax(1) == condition if condition.dim() == 1 else (said > 0) == (condition > 0.5)
        return {"class_accuracy": float(right.float().mean())}


def _growing(network: nn.Module) -> list[Any]:
    """Its parts that change with the run (a stage, a moving average) and want to be told where it is."""
    return [part for part in network.modules() if hasattr(part, "after_update")]
