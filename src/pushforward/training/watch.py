"""Watching models whose losses say nothing about held-out data: the two sides of a game say who is ahead, not how good the
samples are.

At the cadence of a validation, under averaged weights, a fixed number of samples with one fixed seed is drawn and compared
with data:

    distance       to held-out data; the best checkpoint is where it is least. Of images the root of the Frechet distance in a
                   space that nobody has to train (measures/features.py, `coarse_space`): it costs nothing, and figures are
                   the same on every machine. Of all else the sliced Wasserstein distance, in own units
    diversity      median distance of a sample to its nearest fellow, over that of data: near 0 after a mode collapse
    modes          how many modes (of a mixture that is known) or classes (recognised by the nearest training datum) come with
                   at least a fifth of their share
    critic gap     mean logit on training data minus that on held-out data, in deviations of a logit: above 0 the critic
                   knows its data by heart (the discriminator's "overfitting heuristic" of Karras et al. 2020, arXiv:2006.06676)
    critic margin  mean logit on held-out data minus that on samples, in deviations

The last two are for models that can be asked for their critic's opinion (`Judges`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pushforward.data import conditions
from pushforward.data.batches import Data, take
from pushforward.data.toys import NAMES, toy
from pushforward.data.units import units
from pushforward.errors import UserError
from pushforward.measures.features import FeatureSpace, coarse_space, matrix, values_name
from pushforward.measures.fidelity import frechet_distance
from pushforward.measures.memory import nearest
from pushforward.measures.transport import sliced_wasserstein
from pushforward.models.contract import Judges, Player, Samples, Views, device_of, takes_condition
from pushforward.randomness import SampleRng, mix
from pushforward.training import checkpoints, health
from pushforward.training.records import BEST
from pushforward.training.runs import Run
from pushforward.training.validation import validating

SAMPLES = 1000
NEARER = 0.9  # of the last distance: what a best moment is worth telling of
FEWEST = 128  # where data are so large that fewer are drawn
NUMBERS = 2**24  # that the samples may be
JUDGED = 128  # data that are judged at once, at most
LABELLED = 2000  # training data that classes are recognised by
RARE = 0.2  # of its share: a mode that (nearly) never comes
EXPECTED = 10  # samples of a mode below which its absence may be chance
RECOGNISED = 0.6  # of held-out data, below which classes are not counted
SEED = 0x3A7C4


@dataclass
class Kinds:
    """The kinds that data come in. shares (K,): how frequent they are, known from so many data. find: codes (n, ...) and their
    features (n, d) -> the kind of each (n,), -1 where it is of none. name: what they are called."""

    name: str
    shares: np.ndarray
    known: float
    find: Callable[[Tensor, np.ndarray], np.ndarray]

    def counted(self, n: int) -> np.ndarray:
        """Those that would be missed among n samples, (K,): the others may fail to come by chance."""
        return self.shares * min(n, self.known) >= EXPECTED

    def present(self, codes: Tensor, rows: np.ndarray) -> int:
        """How many of those that are counted come with at least a fifth of their share."""
        found = self.find(codes, rows)
        counts = np.bincount(found[found >= 0], minlength=len(self.shares))
        return int((self.counted(len(codes)) & (counts >= RARE * self.shares * len(codes))).sum())


@dataclass
class Reference:
    """What samples are compared with. train, held: codes and conditions; rows: features of the held-out data. usual: the
    median distance of data to their nearest fellow. floor: the distance of training data in the samples' place."""

    train: tuple[Tensor, Tensor | None]
    held: tuple[Tensor, Tensor | None]
    rows: np.ndarray
    usual: float
    floor: float
    kinds: Kinds | None


class Watch:
    """Looks at the samples of a run under way. `watch(step)` returns the figures by name, and keeps the weights of the moment
    in best.safetensors where their distance is the least so far (`best`: the distance and the step). Figures are a function
    of the weights and the data. Of samples that are not finite nothing is said.
    """

    def __init__(self, run: Run, data: Data):
        self.run, self.data, self.spec = run, data, run.spec
        self.size = max(FEWEST, min(SAMPLES, NUMBERS // self.spec.dimensions))
        self.best: tuple[float, int] | None = None
        if (path := run.directory / BEST).exists():
            try:
                header = checkpoints.read_tensors(path)[1]
                self.best = header["figure"], header["step"]
            except (UserError, KeyError):
                raise UserError(f"{path} is damaged; delete it, and the run goes on and keeps another.") from None

    def __call__(self, step: int) -> dict[str, float]:
        reference = self.reference
        codes, asked = self._drawn(reference.held[1])
        if not len(codes):
            return {}
        rows = self.space.extract(codes)
        found = {"distance": self._distance(rows, reference.rows)}
        if reference.usual > 0:
            found["diversity"] = _spacing(rows[: len(reference.train[0])]) / reference.usual
        if reference.kinds:
            found["modes"] = reference.kinds.present(codes, rows)
        if isinstance(self.run.model, Judges):
            found |= self._opinion(codes, asked)
        if self.best is None or found["distance"] < self.best[0]:
            self.best = found["distance"], step
            header = {"figure": found["distance"], "step": step}
            checkpoints.write_tensors(self.run.directory / BEST, self.run.model.state_dict(), header)
        return found

    def sentences(self, history: Sequence[Mapping[str, Any]]) -> list[str]:
        """What the rows of history.jsonl say at the end of a run."""
        rows = [row for row in history if "watch/distance" in row]
        if not rows:
            return []
        said = self._collapsed(rows[-1]) + health.oscillating(rows, self.reference.floor)
        said += health.overfitting_critic(rows[-1], self.error) + health.critic_far_ahead(rows[-1], history)
        if said and self._better(rows):
            said.append(f"{self._kept()}; `pushforward sample {self.run.directory} --best` draws from it.")
        return said

    def _better(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the best moment is worth to be drawn from: clearly nearer to data than the last, and with as many modes."""
        last = rows[-1]
        if not self.best or self.best[0] > NEARER * last["watch/distance"]:
            return False
        modes = next((row.get("watch/modes") for row in rows if row["step"] == self.best[1]), None)
        return modes is None or modes >= last.get("watch/modes", 0)

    def at_resume(self, history: Sequence[Mapping[str, Any]]) -> list[str]:
        """What to know about a run that is taken up again."""
        rows = [row for row in history if "watch/distance" in row]
        said = self._collapsed(rows[-1]) if rows else []
        if said and self.best:
            said.append(f"{self._kept()}. A collapsed generator seldom recovers.")
        return said

    def _collapsed(self, row: Mapping[str, Any]) -> list[str]:
        kinds = self.reference.kinds
        return health.collapsed(row, int(kinds.counted(self.size).sum()), kinds.name) if kinds else health.collapsed(row)

    def _kept(self) -> str:
        assert self.best
        return f"The best checkpoint ({BEST}: distance {self.best[0]:.3g}, at step {self.best[1]}) is kept beside the last"

    @property
    def error(self) -> float:
        """The standard error of the critic's gap."""
        reference = self.reference
        return math.sqrt(1 / len(reference.train[0]) + 1 / len(reference.held[0]))

    @cached_property
    def space(self) -> FeatureSpace:
        """Where samples and data are compared."""
        if self.spec.kind == "image":
            return coarse_space(self.spec)
        return FeatureSpace(values_name(self.spec), "", lambda codes: matrix(self.spec, codes))

    def _distance(self, x: np.ndarray, y: np.ndarray) -> float:
        """Gaussian moments say much of images and nothing of the modes of points. On MNIST, over the moments of a training, the
        Frechet distance ranks them as that in fitted features does (rank correlation 0.96; sliced Wasserstein 0.81)."""
        return math.sqrt(max(0.0, frechet_distance(x, y))) if self.spec.kind == "image" else sliced_wasserstein(x, y)

    @cached_property
    def reference(self) -> Reference:
        """Made at the first look. Never of the test split: what chooses a checkpoint has seen its data."""
        split = self.data.validation if self.data.validation is not None and len(self.data.validation) else self.data.train
        train, held = take(self.data.train, self.size, SEED), take(split, self.size, mix(SEED, 1))
        seen, rows = self.space.extract(train[0]), self.space.extract(held[0])
        usual, floor = _spacing(seen), self._distance(seen, rows)
        return Reference(train, held, rows, usual, floor, self._kinds(held, rows))

    def _kinds(self, held: tuple[Tensor, Tensor | None], rows: np.ndarray) -> Kinds | None:
        """The modes of a toy that is a mixture, or classes that can be recognised; None where there is nothing to count."""
        if self.data.log_density is not None and self.spec.name in NAMES and toy(self.spec.name).centres is not None:
            return _mixture_kinds(self.spec.name)
        codes, labels = take(self.data.train, LABELLED, mix(SEED, 2))
        if not self.spec.classes or labels is None or held[1] is None:
            return None
        known, named = self.space.extract(codes), labels.numpy()

        def recognise(codes: Tensor, rows: np.ndarray) -> np.ndarray:
            return named[nearest(rows, known)[1]]

        found = recognise(held[0], rows)
        if (found == held[1].numpy()).mean() < RECOGNISED:
            return None
        # The shares as they are recognised, so that its mistakes are in both.
        return Kinds("classes", np.bincount(found, minlength=self.spec.classes) / len(found), len(found), recognise)

    @torch.no_grad()
    def _drawn(self, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Codes of samples, and what they were asked for: as held-out data are labelled. None where one is not finite."""
        model, device = cast(Any, self.run.model), device_of(self.run.model)
        known = condition is not None and takes_condition(self.run.model, self.spec)
        rows, asked = self.size, None
        if known and condition is not None and self.spec.condition is not None:
            if self.spec.condition.kind not in ("class", "attributes"):
                rows = min(rows, len(condition))  # one each: two outputs for one image are alike, and no collapse
            asked = condition[torch.arange(rows) % len(condition)]
        codes, size = [], max(1, min(512, 2**22 // self.spec.dimensions))
        for start in range(0, rows, size):
            count = min(size, rows - start)
            given = self._given(asked, slice(start, start + count))
            x = model.sample(count, condition=given, generator=SampleRng(SEED, first=start, device=device))
            if not bool(torch.isfinite(x).all()):
                return torch.empty(0), None
            codes.append(units(self.spec).to_codes(x).cpu())
        return torch.cat(codes), asked

    def _opinion(self, codes: Tensor, asked: Tensor | None) -> dict[str, float]:
        """What the critic makes of training data and new ones, and of samples. All are judged in batches of one size, as a
        critic may look at its batch."""
        train, held = self.reference.train, self.reference.held
        rows = min(JUDGED, len(train[0]), len(held[0]), len(codes))
        seen, new, fake = (self._judged(*part, rows) for part in (train, held, (codes, asked)))
        model = self.run.model
        pairs = isinstance(model, Views) and model.content  # samples are of a content each, and no pairs that it could judge
        found = {} if pairs else {"critic margin": _apart(new, fake)}
        if self.data.validation is not None and len(self.data.validation):
            found = {"critic gap": _apart(seen, new), **found}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    @torch.no_grad()
    def _judged(self, codes: Tensor, condition: Tensor | None, rows: int) -> Tensor:
        """Logits, by `rows` data at once; the last that are fewer are left out."""
        model, device, logits = self.run.model, device_of(self.run.model), []
        assert isinstance(model, Judges)
        for start in range(0, len(codes) - rows + 1, rows):
            part = slice(start, start + rows)
            x = units(self.spec).to_model(codes[part].to(device))
            logits.append(model.judge(x, condition=self._given(condition, part)).float().flatten().cpu())
        return torch.cat(logits)

    def _given(self, condition: Tensor | None, rows: slice) -> Tensor | None:
        """Conditions as the model sees them, where it sees any."""
        if condition is None or self.spec.condition is None:
            return None
        return conditions.to_model(self.spec.condition, condition[rows].to(device_of(self.run.model)))


def watch_for(run: Run, data: Data, players: list[Player]) -> Watch | None:
    """A watch for a model that samples numbers and none of whose losses says how it does. None for all others, and for those
    that learn something more at the end, without which samples would mislead."""
    silent = any(player.loss is not None for player in players) and not validating(players)
    if not silent or any(player.at_end for player in players) or not isinstance(run.model, Samples):
        return None
    return None if run.spec.kind == "tokens" or len(data.train) < 2 else Watch(run, data)


def _spacing(rows: np.ndarray) -> float:
    """The median distance of a row to its nearest fellow."""
    return float(np.median(nearest(rows, rows, np.arange(len(rows)))[0]))


def _apart(above: Tensor, below: Tensor) -> float:
    """The difference of two means in the deviation within the two sets."""
    within = ((above.var() + below.var()) / 2).sqrt()
    return float((above.mean() - below.mean()) / within)


def _mixture_kinds(name: str) -> Kinds:
    """Each mode reaches three of its deviations, or a quarter of the way to the next where that is more."""
    mixture = toy(name)
    centres = mixture.centres
    assert centres is not None and mixture.sd is not None
    between = nearest(centres, centres, np.arange(len(centres)))[0].min()
    reach = max(3 * mixture.sd, between / 4)

    def find(codes: Tensor, rows: np.ndarray) -> np.ndarray:
        distance, index = nearest(codes.double().numpy(), centres)
        return np.where(distance <= reach, index, -1)

    return Kinds("modes", np.full(len(centres), 1 / len(centres)), math.inf, find)
