"""`evaluate`: one model, one data set, all the measures that apply, each beside its real-against-real floor.

Held-out data are the reference. For the floor, as many training data take the samples' place: what a perfect model would
get at this n. They are taken from a third of the training data that the feature network is not fitted on; a network knows
the data that it was fitted on too well to compare them with new ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pushforward.artefacts import write_picture
from pushforward.data.batches import STREAM, ArraySplit, Data, Split, WindowSplit, take
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.evaluation.cost import cost_measures
from pushforward.evaluation.features import LARGEST_FIT, feature_space, matrix
from pushforward.evaluation.fidelity import fidelity_measures
from pushforward.evaluation.likelihood import likelihood_measures, true_density_measures
from pushforward.evaluation.memory import memory_measures, nearest, text_measures
from pushforward.evaluation.progress import Stages
from pushforward.evaluation.records import Evaluation, Measure
from pushforward.evaluation.transport import transport_measures
from pushforward.evaluation.two_sample import LARGEST_FIT as JUDGED
from pushforward.evaluation.two_sample import label_measures, told_apart
from pushforward.models.contract import Density, Samples
from pushforward.pictures.draw import draw_pairs
from pushforward.randomness import mix

if TYPE_CHECKING:
    from pushforward.training.runs import Run

LARGEST = 2000
REFERENCE = 50_000  # training data that samples are compared with, one by one
FIGURES = 2**27  # and how many numbers these may be
PICTURED = 16


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


def evaluate(
    run: Run,
    data: Data | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
    features: str = "auto",
    likelihood: bool = True,
    progress: bool = True,
    **sampling_options: Any,
) -> Evaluation:
    """Measures a run: fidelity, diversity, transport, two-sample tests, memory, likelihood and cost, with intervals and floors.

    Args:
        run: a trained run (from `train` or `load`).
        data: what to measure against; None: the data that the run was trained on.
        n: how many samples and held-out data; None: as many as are held out, at most 2,000.
        seed: of the samples, of the choice of data and of every resampling.
        features: the space of fidelity and of the two-sample test: "auto", "pixels", "classifier", "encoder" or "inception".
        likelihood: also the log-likelihood, where the model has one.
        progress: say what is being done, once it takes more than two seconds.
        sampling_options: the model's own (steps, guidance, temperature).

    Returns an Evaluation; it is also saved as `metrics.json` in the run's directory. What cannot be measured on these data
    (too few of them, no labels) is left out with a sentence in `protocol["left_out"]`. Raises UserError where the data are
    of another shape than the run's.
    """
    data = data if data is not None else run.load_data()
    spec: DataSpec = run.spec
    if data.spec.kind != spec.kind or tuple(data.spec.shape) != tuple(spec.shape):
        raise UserError(
            f"the run knows {spec.kind} of shape {tuple(spec.shape)}, these data are {data.spec.kind} of shape "
            f"{tuple(data.spec.shape)}; give data like those it was trained on."
        )
    notes: list[str] = []
    measures: list[Measure] = []
    left_out: list[str] = []

    def attempt(what: str, build: Callable[[], list[Measure]]) -> None:
        try:
            measures.extend(build())
        except UserError as error:
            left_out.append(f"{what}: {error}")

    cut = sides(data, notes)
    size = min(len(cut.held), LARGEST) if n is None else n
    if size < 1:
        raise UserError(f"n = {n} samples were asked for; give at least 1.")
    held_codes, held_condition = take(cut.held, size, mix(seed, 1))
    protocol: dict[str, Any] = {
        "seed": seed,
        "data": data.spec.name,
        "reference": f"{len(held_codes)} held-out data",
        "floor": "training data in the samples' place",
        "intervals": "95 %; shares by Wilson, means by bootstrap, the rest by half-sampling",
        "sampling_options": {name: _plain(value) for name, value in sampling_options.items()},
        "left_out": left_out,
        "notes": notes,
    }
    with Stages(progress) as say:
        if isinstance(run.model, Samples):
            # Asked for as the held-out data are labelled, so that both have the same mix of classes.
            asked = held_condition if spec.condition is not None else None
            if asked is not None and size > len(asked):
                asked = asked[torch.arange(size) % len(asked)]
            say("sampling", 0.1)
            began = time.perf_counter()
            codes = run.sample_codes(size, condition=asked, seed=seed, **sampling_options)
            if codes.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            codes, asked, lost = _sound(spec, codes.cpu(), asked)
            if lost:
                notes.append(f"{lost} of {size} samples were not finite and are left out of every measure")
            protocol["n"] = len(codes)
            protocol["conditions"] = "none" if asked is None else "those of the held-out data"
            if len(codes) == 0:
                left_out.append("all measures of samples: not one sample is finite")
            elif spec.kind == "tokens":
                attempt("text", lambda: _text(spec, codes, held_codes, data.train, seed))
            else:
                _compare(spec, data, cut, (codes, asked), (held_codes, held_condition), features, seed, attempt, say, protocol)
        else:
            left_out.append("all measures of samples: this model does not sample")
            size, seconds = 0, 0.0
        if likelihood and isinstance(run.model, Density):
            say("likelihood", 0.9)
            seen = take(cut.fit, len(held_codes), mix(seed, 4))
            held = (held_codes, held_condition)
            if spec.condition is None:
                held, seen = (held_codes, None), (seen[0], None)
            attempt("likelihood", lambda: likelihood_measures(run, spec, held, seen, seed, data.log_density))
    measures.extend(m for m in cost_measures(run.model, run.result or {}, size, seconds) if size or m.name != "sampling speed")
    order = ("fidelity", "transport", "two-sample", "labels", "memory", "likelihood", "cost")
    evaluation = Evaluation(sorted(measures, key=lambda m: order.index(m.group)), protocol)
    if run.directory is not None:
        evaluation.save(run.directory / "metrics.json")
        if "nearest" in protocol and spec.kind == "image":
            pair = protocol["nearest"]
            closest = data.train.fetch(torch.tensor(pair["training"]))[0]
            picture = draw_pairs(spec, codes[pair["samples"]], closest, ("sample", "nearest"))
            write_picture(picture, run.directory / "neighbours.png", {"seed": seed, "nearest": pair})
    return evaluation


def _compare(
    spec: DataSpec,
    data: Data,
    cut: Sides,
    samples: tuple[Tensor, Tensor | None],
    held: tuple[Tensor, Tensor | None],
    features: str,
    seed: int,
    attempt: Callable[[str, Callable[[], list[Measure]]], None],
    say: Stages,
    protocol: dict[str, Any],
) -> None:
    """All the measures of samples that are not text."""
    codes, asked = samples
    n = len(codes)
    fit = take(cut.fit, max(n, LARGEST_FIT), 0) if len(cut.fit) < STREAM else take(cut.fit, n, mix(seed, 2))
    floor = take(cut.floor, n, mix(seed, 3))
    if len(floor[0]) < n and len(cut.fit) < STREAM:  # the third is too small: the rest comes from the others
        more = n - len(floor[0])
        floor = _join(floor, (fit[0][:more], None if fit[1] is None else fit[1][:more]))
    space = feature_space(data.spec, *fit, features, say)
    say("comparing features", 0.3)
    f_samples, f_train, f_real = (space.extract(c) for c in (codes, floor[0], held[0]))
    protocol["features"] = {"name": space.name, "hash": space.hash, "dimensions": f_real.shape[1]}
    protocol["floor"] = f"{len(floor[0])} training data in the samples' place"
    for build in fidelity_measures(f_samples, f_train, f_real, seed, space.name):
        attempt("fidelity", build)
    say("comparing values", 0.5)
    values = "pixels in [-1, 1]" if spec.kind == "image" else "standardised values"
    x_samples, x_train, x_real = (matrix(spec, c) for c in (codes, floor[0], held[0]))
    for build in transport_measures(x_samples, x_train, x_real, seed, values):
        attempt("transport", build)
    say("telling samples from data", 0.6)
    attempt("told from real (C2ST)", lambda: told_apart(f_samples, f_train, f_real, seed, space.name))
    if space.name != values:
        name = "told from real by values"
        attempt(name, lambda: told_apart(x_samples, x_train, x_real, seed, values, name))
    if data.log_density is not None:
        attempt("true density", lambda: true_density_measures(codes, held[0], data.log_density, seed))
    classes = data.spec.condition is not None and data.spec.condition.kind == "class"
    if classes and floor[1] is not None and fit[1] is not None and held[1] is not None:
        say("recognising classes", 0.7)
        labels = np.concatenate([floor[1].numpy(), fit[1][:JUDGED].numpy()])
        rows = np.concatenate([x_train, matrix(spec, fit[0][:JUDGED])])
        names = data.spec.condition.names if data.spec.condition else ()
        found = None if asked is None else asked.numpy()
        for build in label_measures(x_samples, found, rows, labels, x_real, held[1].numpy(), names, seed, values):
            attempt("labels", build)
    if len(data.train) < STREAM:
        say("looking for copies", 0.8)
        attempt("memory", lambda: _memory(spec, data.train, cut, x_samples, x_real, seed, values, protocol))


def _memory(
    spec: DataSpec,
    train: Split,
    cut: Sides,
    samples: np.ndarray,
    real: np.ndarray,
    seed: int,
    values: str,
    protocol: dict[str, Any],
) -> list[Measure]:
    """Nearest training data of samples and of held-out data, and which samples to look at."""
    most = min(len(train), REFERENCE, max(1, FIGURES // spec.dimensions))
    indices = torch.arange(len(train))
    if most < len(train):
        indices = torch.randperm(len(train), generator=torch.Generator().manual_seed(mix(seed, 5)))[:most]
    reference = np.concatenate([matrix(spec, train.fetch(part)[0]).astype(np.float32) for part in indices.split(4096)])
    own = None
    if cut.own is not None:
        # The reference is part of the training data: each row of it is compared with all the others.
        place = torch.full((len(train),), -1)
        place[indices] = torch.arange(len(indices))
        chosen = take(ArraySplit(cut.own), len(real), mix(seed, 1))[0]  # as the held-out data were chosen
        own = place[chosen].numpy()
    distance, index = nearest(samples, reference)
    usual, _ = nearest(real, reference, own)
    closest = np.argsort(distance, kind="stable")[:PICTURED]
    protocol["nearest"] = {
        "samples": closest.tolist(),
        "training": indices[index[closest]].tolist(),
        "distance": [round(float(d), 6) for d in distance[closest]],
    }
    return memory_measures(distance, usual, seed, values, most)


def _text(spec: DataSpec, codes: Tensor, held: Tensor, train: Split, seed: int) -> list[Measure]:
    """Runs of 20 characters, or of 8 tokens of several characters."""
    n = 20 if spec.vocabulary is None or spec.vocabulary.kind == "characters" else 8
    n = min(n, codes.shape[1])
    rows = train.tokens[None] if isinstance(train, WindowSplit) else take(train, REFERENCE, mix(seed, 5))[0]
    return text_measures(codes.numpy(), held.cpu().numpy(), rows.cpu().numpy(), n, seed)


def _sound(spec: DataSpec, codes: Tensor, asked: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
    """Samples without those that hold an infinite number, or none where a number has to be; and how many these were."""
    if not codes.is_floating_point():
        return codes, asked, 0
    bad = codes.isinf()
    may_lack = torch.tensor([column.missing for column in spec.columns]) if spec.columns else torch.tensor([False])
    bad |= codes.isnan() & ~may_lack
    keep = ~bad.flatten(1).any(1)
    return codes[keep], None if asked is None else asked[keep], int((~keep).sum())


def _join(a: tuple[Tensor, Tensor | None], b: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    condition = None if a[1] is None or b[1] is None else torch.cat([a[1], b[1]])
    return torch.cat([a[0], b[0]]), condition


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
