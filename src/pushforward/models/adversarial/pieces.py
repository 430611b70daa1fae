"""What the two sides want beside their objective: pieces, each by itself, whose terms a GAN adds up.

A piece sees a turn: the batch, z, and the critic's judgements of data and fakes. It says what it adds to the critic's loss and
to the generator's, and is told when a side has moved. The formulas are in the files that the pieces take them from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.errors import UserError
from pushforward.models.adversarial.critics import Conditioning, Judgement, recognised
from pushforward.models.adversarial.energy import pulling_away
from pushforward.models.adversarial.latent import Latent
from pushforward.models.adversarial.stabilisers import HistoricalAverage, feature_matching
from pushforward.randomness import mix

CRITIC, GENERATOR = 0, 1


@dataclass
class Turn:
    """batch: the data. z (B, width): what the fakes are made of. real, false: the critic's judgements of data and fakes."""

    batch: Batch
    z: Tensor
    real: Judgement
    false: Judgement


class Term(NamedTuple):
    """value: what is added to a side's loss. shown: what the log says of it."""

    value: Tensor
    shown: Tensor


Terms = dict[str, Term]


class Piece(nn.Module):
    """Adds nothing. compares: whether the generator's turn needs the critic's judgement of data, too. moves: whether `after`
    does anything."""

    compares = False
    moves = False

    def critic(self, turn: Turn) -> Terms:
        """Terms of the critic's loss."""
        return {}

    def generator(self, turn: Turn) -> Terms:
        """Terms of the generator's loss."""
        return {}

    def after(self, side: int) -> None:
        """After an update of the critic (0) or of the generator (1)."""


class Features(Piece):
    """The generator's |E f(x) - E f(G(z))|^2 and the mean squared cosine between the features of its fakes.

    matching, apart: their weights; 0: not at all.
    """

    def __init__(self, matching: float, apart: float):
        super().__init__()
        self.matching, self.apart, self.compares = matching, apart, matching > 0

    def generator(self, turn: Turn) -> Terms:
        terms: Terms = {}
        assert turn.false.features is not None
        if self.matching and turn.real.features is not None:
            value = feature_matching(turn.real.features, turn.false.features)
            terms["feature-matching"] = Term(self.matching * value, value)
        if self.apart:
            value = pulling_away(turn.false.features)
            terms["pulling-away"] = Term(self.apart * value, value)
        return terms


class Recognition(Piece):
    """-log p(c | x): of data, for the critic; with a classifier of fakes too, for both sides.

    weight: of the cross-entropy. labelled: share of the data whose class is shown, the same ones always.
    """

    def __init__(self, conditioning: Conditioning, weight: float, labelled: float):
        super().__init__()
        self.fakes, self.weight, self.labelled = conditioning == "classifier", weight, labelled

    def critic(self, turn: Turn) -> Terms:
        assert turn.real.classes is not None
        labels = self.labels(turn.batch)
        value = recognised(turn.real.classes, labels)
        if self.labelled < 1:  # as heavy for each label, however many of them a (micro-)batch happens to have
            value = value * ((labels >= 0).sum() / (self.labelled * len(labels)))
        if self.fakes:
            value = value + self._of_fakes(turn)
        return {"classes": Term(self.weight * value, value)}

    def generator(self, turn: Turn) -> Terms:
        if not self.fakes:
            return {}
        value = self._of_fakes(turn)
        return {"classes": Term(self.weight * value, value)}

    def labels(self, batch: Batch) -> Tensor:
        """The conditions of data; -1 where the label is not to be shown."""
        if batch.condition is None:
            raise UserError("this model was built for data with a condition, and these come without.")
        if self.labelled == 1 or batch.index is None:
            return batch.condition
        shown = [mix(0x1ABE1, index) < self.labelled * 2**63 for index in batch.index.tolist()]
        return torch.where(torch.tensor(shown, device=batch.x.device), batch.condition, -1)

    def _of_fakes(self, turn: Turn) -> Tensor:
        assert turn.false.classes is not None and turn.batch.condition is not None
        return recognised(turn.false.classes, turn.batch.condition)


class Codes(Piece):
    """-log Q(c, u | G(z)) for both sides; shown is the bound on the mutual information, in nats."""

    def __init__(self, latent: Latent, weight: float):
        super().__init__()
        self.latent, self.weight = latent, weight

    def critic(self, turn: Turn) -> Terms:
        assert turn.false.codes is not None
        surprise = self.latent.surprise(turn.z, turn.false.codes)
        return {"information": Term(self.weight * surprise, self.latent.entropy - surprise)}

    generator = critic


class Histories(Piece):
    """|theta - mean of theta so far|^2 of each side's weights.

    weight: of it. sides: what the critic's turn changes, and the generator's.
    """

    moves = True

    def __init__(self, weight: float, sides: tuple[list[nn.Module], list[nn.Module]]):
        super().__init__()
        self.weight = weight
        self.weights = [[p for module in side for p in module.parameters()] for side in sides]
        self.means = nn.ModuleList(HistoricalAverage(parameters) for parameters in self.weights)

    def critic(self, turn: Turn) -> Terms:
        return self._apart(CRITIC)

    def generator(self, turn: Turn) -> Terms:
        return self._apart(GENERATOR)

    def after(self, side: int) -> None:
        mean = self.means[side]
        assert isinstance(mean, HistoricalAverage)
        mean.after_update(self.weights[side])

    def _apart(self, side: int) -> Terms:
        value = self.means[side](self.weights[side])
        return {"historical-averaging": Term(self.weight * value, value)}


def pieces(
    stabilisers: Mapping[str, float],
    conditioning: Conditioning,
    latent: Latent,
    sides: tuple[list[nn.Module], list[nn.Module]],
    *,
    class_weight: float,
    labelled: float,
    information: float,
) -> list[Piece]:
    """Those that a GAN of these choices has."""
    found: list[Piece] = []
    if {"feature-matching", "pulling-away"} & {*stabilisers}:
        found.append(Features(stabilisers.get("feature-matching", 0.0), stabilisers.get("pulling-away", 0.0)))
    if conditioning in ("classifier", "semi-supervised"):
        found.append(Recognition(conditioning, class_weight, labelled))
    if latent.coded and information:
        found.append(Codes(latent, information))
    if "historical-averaging" in stabilisers:
        found.append(Histories(stabilisers["historical-averaging"], sides))
    return found
