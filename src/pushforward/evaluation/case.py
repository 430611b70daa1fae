"""What the measures of one evaluation look at, each part made when the first measure asks for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pushforward.data import conditions
from pushforward.data.batches import STREAM, ArraySplit, Data, take
from pushforward.data.spec import DataSpec
from pushforward.data.units import units
from pushforward.errors import UserError
from pushforward.evaluation.records import Procedure
from pushforward.evaluation.sides import sides
from pushforward.measures.features import LARGEST_FIT, FeatureSpace, feature_space, matrix, values_name
from pushforward.measures.memory import nearest
from pushforward.models.contract import Diagnoses, Samples, device_of, takes_condition
from pushforward.progress import Stages
from pushforward.randomness import mix

if TYPE_CHECKING:
    from pushforward.training.runs import Run

LARGEST = 2000
REFERENCE = 50_000  # training data that samples are compared with, one by one
FIGURES = 2**27  # and how many numbers these may be
PICTURED = 16
DIAGNOSED = 512  # held-out data that a model is asked about

Rows = tuple[Tensor, Tensor | None]  # codes (n, ...) and their conditions


class Compared(NamedTuple):
    """Rows (n, d) of three sets: the samples, the training data in their place, the held-out data."""

    samples: np.ndarray
    floor: np.ndarray
    real: np.ndarray


@dataclass
class Drawn:
    """Samples that are numbers, what they were asked for, how many were drawn, and in how many seconds."""

    codes: Tensor
    condition: Tensor | None
    asked: int
    seconds: float


@dataclass
class Neighbours:
    """The nearest of `reference` training data: distance (n,) from each sample and its place (n,) in the training split;
    usual (m,): the distances from held-out data."""

    distance: np.ndarray
    place: np.ndarray
    usual: np.ndarray
    reference: int


class Case:
    """One run, one data set, one seed: `held` (codes, conditions) are the reference; `protocol` says how all was done."""

    def __init__(
        self,
        run: Run,
        data: Data,
        n: int | None = None,
        seed: int = 0,
        features: str = "auto",
        say: Stages | None = None,
        **sampling_options: Any,
    ):
        self.run, self.data, self.seed, self.say = run, data, seed, say or Stages(False)
        self.spec: DataSpec = run.spec
        if data.spec.kind != self.spec.kind or tuple(data.spec.shape) != tuple(self.spec.shape):
            raise UserError(
                f"the run knows {self.spec.kind} of shape {tuple(self.spec.shape)}, these data are {data.spec.kind} of shape "
                f"{tuple(data.spec.shape)}; give data like those it was trained on."
            )
        self.space_name, self.sampling_options, notes = features, sampling_options, list[str]()
        self.cut = sides(data, notes)
        self.size = min(len(self.cut.held), LARGEST) if n is None else n
        if self.size < 1:
            raise UserError(f"n = {n} samples were asked for; give at least 1.")
        self.held: Rows = take(self.cut.held, self.size, mix(seed, 1))
        self.protocol: Procedure = {
            "seed": seed,
            "data": data.spec.name,
            "n": 0,
            "reference": f"{len(self.held[0])} held-out data",
            "floor": "training data in the samples' place",
            "conditions": "none",
            "features": None,
            "intervals": "95 %; shares by Wilson, means by bootstrap, the rest by half-sampling",
            "sampling_options": {name: _plain(value) for name, value in sampling_options.items()},
            "left_out": [],
            "notes": notes,
        }

    @property
    def sampled(self) -> bool:
        """Whether there are samples to compare at all."""
        return isinstance(self.run.model, Samples) and len(self.drawn.codes) > 0

    @cached_property
    def drawn(self) -> Drawn:
        """As many samples as held-out data, asked for as those are labelled, so that both have the same mix of classes."""
        asked = self.held[1] if takes_condition(self.run.model, self.spec) else None
        if asked is not None and self.size > len(asked):
            asked = asked[torch.arange(self.size) % len(asked)]
        self.say("sampling")
        began = time.perf_counter()
        codes = self.run.sample_codes(self.size, condition=asked, seed=self.seed, **self.sampling_options)
        if codes.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        codes, asked, lost = _sound(self.spec, codes.cpu(), asked)
        if lost:
            self.protocol["notes"].append(f"{lost} of {self.size} samples were not finite and are left out of every measure")
        self.protocol["n"] = len(codes)
        self.protocol["conditions"] = "none" if asked is None else "those of the held-out data"
        return Drawn(codes, asked, self.size, seconds)

    @property
    def samples(self) -> Rows:
        """The samples and what they were asked for. Raises UserError where there are none."""
        if not isinstance(self.run.model, Samples):
            raise UserError("this model does not sample")
        if not len(self.drawn.codes):
            raise UserError("not one sample is finite")
        return self.drawn.codes, self.drawn.condition

    @cached_property
    def fit(self) -> Rows:
        """Training data that something may be fitted on."""
        n = len(self.samples[0])
        if len(self.cut.fit) < STREAM:
            return take(self.cut.fit, max(n, LARGEST_FIT), 0)
        return take(self.cut.fit, n, mix(self.seed, 2))

    @cached_property
    def floor(self) -> Rows:
        """Training data in the samples' place, as many as these where there are as many."""
        n = len(self.samples[0])
        codes, condition = take(self.cut.floor, n, mix(self.seed, 3))
        if len(codes) < n and len(self.cut.fit) < STREAM:  # the third is too small: the rest comes from the others
            more = n - len(codes)
            condition = None if condition is None or self.fit[1] is None else torch.cat([condition, self.fit[1][:more]])
            codes = torch.cat([codes, self.fit[0][:more]])
        self.protocol["floor"] = f"{len(codes)} training data in the samples' place"
        return codes, condition

    @cached_property
    def space(self) -> FeatureSpace:
        """Where features are compared. Raises UserError for a space that these data have no use for."""
        return feature_space(self.data.spec, *self.fit, self.space_name, self.say)

    @cached_property
    def features(self) -> Compared:
        """The three sets in the feature space."""
        found = Compared(*(self.space.extract(codes) for codes in (self.samples[0], self.floor[0], self.held[0])))
        self.protocol["features"] = {"name": self.space.name, "hash": self.space.hash, "dimensions": found.real.shape[1]}
        return found

    @cached_property
    def values(self) -> Compared:
        """The three sets in the model's own units."""
        return Compared(*(matrix(self.spec, codes) for codes in (self.samples[0], self.floor[0], self.held[0])))

    @property
    def values_name(self) -> str:
        return values_name(self.spec)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The training data nearest to samples and to held-out data; names in the protocol which samples to look at."""
        train, seed = self.data.train, self.seed
        if len(train) >= STREAM:
            raise UserError("these data never end, so there is no training set to copy")
        most = min(len(train), REFERENCE, max(1, FIGURES // self.spec.dimensions))
        indices = torch.arange(len(train))
        if most < len(train):
            indices = torch.randperm(len(train), generator=torch.Generator().manual_seed(mix(seed, 5)))[:most]
        rows = [matrix(self.spec, train.fetch(part)[0]).astype(np.float32) for part in indices.split(4096)]
        reference, own = np.concatenate(rows), None
        if self.cut.own is not None:
            # The held-out data are part of the training data: each of them is compared with all the others.
            place = torch.full((len(train),), -1)
            place[indices] = torch.arange(len(indices))
            chosen = take(ArraySplit(self.cut.own), len(self.held[0]), mix(seed, 1))[0]  # as the held-out data were chosen
            own = place[chosen].numpy()
        distance, index = nearest(self.values.samples, reference)
        usual, _ = nearest(self.values.real, reference, own)
        closest = np.argsort(distance, kind="stable")[:PICTURED]
        self.protocol["nearest"] = {
            "samples": closest.tolist(),
            "training": indices[index[closest]].tolist(),
            "distance": [round(float(d), 6) for d in distance[closest]],
        }
        return Neighbours(distance, indices[index].numpy(), usual, most)

    @cached_property
    def diagnosis(self) -> dict[str, float]:
        """What the model says of its codes of held-out data; nothing where it says nothing."""
        model, (codes, condition) = self.run.model, self.held
        if not isinstance(model, Diagnoses):
            return {}
        device, asked = device_of(self.run.model), None
        if self.spec.condition is not None and condition is not None:
            asked = conditions.to_model(self.spec.condition, condition[:DIAGNOSED].to(device))
        with torch.no_grad():
            return model.diagnose(units(self.spec).to_model(codes[:DIAGNOSED].to(device)), condition=asked)


def _sound(spec: DataSpec, codes: Tensor, asked: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
    """Samples without those that hold an infinite number, or none where a number has to be; and how many these were."""
    if not codes.is_floating_point():
        return codes, asked, 0
    bad = codes.isnan()
    if spec.kind != "field" and spec.columns:  # of a field the columns are channels
        bad &= ~torch.tensor([column.missing for column in spec.columns])
    bad |= codes.isinf()
    keep = ~bad.flatten(1).any(1)
    return codes[keep], None if asked is None else asked[keep], int((~keep).sum())


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
