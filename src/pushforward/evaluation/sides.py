"""The parts that the data are cut into for an evaluation, so that nothing is compared with what it was fitted on.

Held-out data are the reference. For the floor, as many training data take the samples' place: what a perfect model would
get at this n. They are taken from a third of the training data that the feature network is not fitted on; a network knows
the data that it was fitted on too well to compare them with new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.data.batches import STREAM, Data, Split
from pushforward.errors import UserError
from pushforward.randomness import mix


@dataclass
class Rows:
    """Some rows of a split, as a split."""

    split: Split
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.split.fetch(self.indices[indices])


@dataclass
class Sides:
    """The parts of the data. fit: for what is fitted. floor: takes the samples' place. held: the reference; `own`: where
    its rows are in the training split, if it had to be taken from there."""

    fit: Split
    floor: Split
    held: Split
    own: Tensor | None = None


def sides(data: Data, notes: list[str]) -> Sides:
    """Cuts the data for an evaluation, always in the same way."""
    train, held, own = data.train, data.held_out, None
    if len(train) >= STREAM:
        return Sides(train, train, held if held is not None and len(held) else train)
    if len(train) < 2:
        raise UserError(f"'{data.spec.name}' has {len(train)} training data; an evaluation needs some to compare with.")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(mix(0xF100, len(train))))
    if held is None or not len(held):
        notes.append("no data were held out: one half of the training data, which the model has seen, is the reference")
        own, order = order[: len(order) // 2], order[len(order) // 2 :]
        held = Rows(train, own)
    third = max(1, len(order) // 3)
    return Sides(Rows(train, order[third:]), Rows(train, order[:third]), held, own)
