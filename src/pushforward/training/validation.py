"""Validation: the loss of the averaged weights on held-out data, and whether it still improves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.models.contract import Player
from pushforward.randomness import UpdateRng, mix, seed_everything


def frozen_parts(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that have parameters of which none requires a gradient: a codec, a teacher, a text encoder."""
    found = []
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            found.append(module)
    return found


class Modes:
    """Train and eval mode of a model, whose frozen parts (asked for once, before any turn) are in eval mode always."""

    def __init__(self, model: nn.Module):
        self.model, self.frozen = model, frozen_parts(model)

    def train(self) -> None:
        self.model.train()
        for part in self.frozen:
            part.eval()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it the model is in eval mode."""
        self.model.eval()
        try:
            yield
        finally:
            self.train()


def validating(players: list[Player]) -> list[Player]:
    """Those players whose loss says something on held-out data."""
    learners = [player for player in players if player.loss is not None]
    return [player for player in learners if player.validates or (player.validates is None and len(learners) == 1)]


class Validation:
    """The losses of those players whose loss says something on held-out data.

    best: the least loss of the first of them, and the step; waited: validations since. batches: None for a run without.
    """

    def __init__(self, players: list[Player], batches: Callable[[], list[Batch]] | None, seed: int, device: torch.device):
        self.players = validating(players)
        self.batches, self.seed, self.device = batches, seed, device
        self.best: tuple[float, int] | None = None
        self.waited = 0

    def __bool__(self) -> bool:
        return self.batches is not None and bool(self.players)

    @property
    def size(self) -> int:
        """How many batches a validation takes."""
        return sum(1 for _ in self.batches()) if self.batches is not None else 0

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The mean loss of each player; the noise is the same at each call."""
        assert self.batches is not None
        totals: dict[str, list[Tensor]] = {player.name: [] for player in self.players}
        count = 0
        for number, batch in enumerate(self.batches()):
            count += len(batch)
            for player in self.players:
                assert player.loss is not None
                generator = seed_everything(mix(self.seed, 0x7A11, number), self.device)
                totals[player.name].append(player.loss(batch, UpdateRng(generator)).total.float() * len(batch))
        means = {name: torch.stack(values).sum().item() / count for name, values in totals.items()}
        return {"validation/loss" if name == self.players[0].name else f"validation/{name}": v for name, v in means.items()}

    def improves(self, value: float, step: int) -> bool:
        """Whether this loss is the least so far; counts those since the last that was."""
        if self.best is None or value < self.best[0]:
            self.best, self.waited = (value, step), 0
            return True
        self.waited += 1
        return False
