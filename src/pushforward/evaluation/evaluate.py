"""`evaluate`: one model, one data set, all the measures that apply, each beside its real-against-real floor.

`MEASURES` is the table of them. A measure that applies to such data but cannot be taken (no density, too few data) raises a
UserError, whose sentence goes into the protocol; one that does not apply to such data is not mentioned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pushforward._version import VERSION
from pushforward.artefacts import write_picture
from pushforward.data.batches import STREAM, Data, Split, WindowSplit, take
from pushforward.errors import UserError
from pushforward.evaluation import health
from pushforward.evaluation.case import REFERENCE, Case
from pushforward.evaluation.cost import cost_measures
from pushforward.evaluation.likelihood import likelihood_measures, true_density_measures
from pushforward.evaluation.records import Evaluation
from pushforward.measures import fidelity, transport
from pushforward.measures.features import matrix
from pushforward.measures.measure import Measure
from pushforward.measures.memory import memory_measures, nearest, text_measures
from pushforward.measures.two_sample import LARGEST_FIT as JUDGED
from pushforward.measures.two_sample import class_measures, told_apart, transfer_measures
from pushforward.models.contract import Density, Diagnoses, Samples
from pushforward.pictures.draw import draw_pairs
from pushforward.progress import Stages
from pushforward.randomness import mix

if TYPE_CHECKING:
    from pushforward.training.runs import Run

ORDER = ("fidelity", "transport", "two-sample", "labels", "memory", "likelihood", "codes", "cost")


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
        progress: say what is being done, on the error stream.
        sampling_options: the model's own (steps, guidance, temperature).

    Returns an Evaluation; it is also saved as `metrics.json` in the run's directory. What cannot be measured (too few data, a
    model without a density) is left out with a sentence in `protocol["left_out"]`. Raises UserError where the data are of
    another shape than the run's.
    """
    with Stages(progress, doing="evaluating") as say:
        case = Case(run, data if data is not None else run.load_data(), n, seed, features, say, **sampling_options)
        if case.sampled and not _text(case):
            _ = case.space  # a space that does not exist is an error, not a measure that is left out
        measures = _taken(case, [entry for entry in MEASURES if likelihood or entry.take is not _likelihood])
        findings = _findings(case, measures)
    evaluation = Evaluation(sorted(measures, key=lambda m: ORDER.index(m.group)), case.protocol, findings)
    if run.directory is not None:
        _keep(case, evaluation)
    return evaluation


def _taken(case: Case, entries: list[Entry]) -> list[Measure]:
    """The measures of these entries; the protocol names those that are left out, together where the reason is the same."""
    measures: list[Measure] = []
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        if entry.applies(case):
            case.say(entry.stage)
            try:
                measures.extend(entry.take(case))
            except UserError as error:
                reasons.setdefault(str(error).removesuffix("."), []).append(entry.name)
    case.protocol["left_out"] = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return measures


def _findings(case: Case, measures: list[Measure]) -> list[str]:
    """What a person should look at."""
    found = {measure.name: measure for measure in measures}
    said = health.narrow(found)
    if case.sampled and not _text(case):
        if _classes(case) and len(case.data.train) < STREAM:
            labels = case.data.train.fetch(torch.from_numpy(case.neighbours.place))[1]
            assert labels is not None and case.held[1] is not None and case.data.spec.condition is not None
            said += health.missing_classes(labels.numpy(), case.held[1].numpy(), case.data.spec.condition.names)
        n = min(len(case.values.samples), len(case.values.real))
        apart = [nearest(rows[:n], rows[:n], np.arange(n))[0] for rows in (case.values.samples, case.values.real) if n > 1]
        said += health.alike(*apart) if apart else []
    figures = case.diagnosis if any(measure.group == "codes" for measure in measures) else {}
    said = [*_noted(case.run), *said]
    passes = _passes(case.data.train, case.run.result or {})
    return [*said, *health.copying(found, passes), *health.overfitting(found, passes), *health.unused_codes(figures)]


def _passes(split: Split, result: dict[str, Any]) -> float:
    """How often training saw each datum, or each token of a text that is read in windows; infinity where nobody has counted."""
    seen = result.get("examples", math.inf)
    return seen * split.length / len(split.tokens) if isinstance(split, WindowSplit) else seen / len(split)


def _noted(run: Run) -> list[str]:
    """What was seen while the run was trained; of other weights than the last ones nothing is known."""
    return [] if run.best else list((run.result or {}).get("notes", []))


def _keep(case: Case, evaluation: Evaluation) -> None:
    """Writes the record, and the picture of the samples that are nearest to training data."""
    evaluation.save(case.run.directory / "metrics.json")
    pair = case.protocol.get("nearest")
    if pair is not None and case.spec.kind == "image":
        closest = case.data.train.fetch(torch.tensor(pair["training"]))[0]
        picture = draw_pairs(case.spec, case.samples[0][pair["samples"]], closest, ("sample", "nearest"))
        directory = case.run.directory
        recipe = {
            "pushforward": VERSION,
            "picture": "neighbours",
            "run": str(directory.resolve()),
            "weights": case.run.weights,
            "seed": case.seed,
            "nearest": pair,
        }
        write_picture(picture, directory / "neighbours.png", recipe)


def _text(case: Case) -> bool:
    return case.spec.kind == "tokens"


def _numbers(case: Case) -> bool:
    return not _text(case)


def _flat(case: Case) -> bool:
    return _numbers(case) and case.spec.dimensions <= 4


def _known(case: Case) -> bool:
    return _numbers(case) and case.data.log_density is not None


def _classes(case: Case) -> bool:
    return _numbers(case) and case.data.spec.classes is not None and case.held[1] is not None


def _always(case: Case) -> bool:
    return True


def _runs(case: Case) -> list[Measure]:
    """Runs of 20 characters, or of 8 tokens that say more than a character each."""
    codes, vocabulary, train = case.samples[0], case.spec.vocabulary, case.data.train
    n = min(20 if vocabulary is None or vocabulary.kind == "characters" else 8, codes.shape[1])
    rows = train.tokens[None] if isinstance(train, WindowSplit) else take(train, REFERENCE, mix(case.seed, 5))[0]
    return text_measures(codes.numpy(), case.held[0].cpu().numpy(), rows.cpu().numpy(), n, case.seed)


def _told(case: Case) -> list[Measure]:
    measures = told_apart(*case.features, case.seed, case.space.name)
    if case.space.name != case.values_name:
        measures += told_apart(*case.values, case.seed, case.values_name, "told from real by values")
    return measures


def _labelled(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The training data that classifiers of the labels are fitted on, those in the samples' place first, and their labels."""
    floor, fit = case.floor, case.fit
    assert floor[1] is not None and fit[1] is not None
    rows = np.concatenate([case.values.floor, matrix(case.spec, fit[0][:JUDGED])])
    return rows, np.concatenate([floor[1].numpy(), fit[1][:JUDGED].numpy()])


def _transfer(case: Case) -> list[Measure]:
    asked = case.samples[1]
    if asked is None:
        raise UserError("this model is asked for no class")
    assert case.held[1] is not None
    real = (case.values.real, case.held[1].numpy())
    return transfer_measures(case.values.samples, asked.numpy(), *_labelled(case), *real, case.seed, case.values_name)


def _recognised(case: Case) -> list[Measure]:
    samples, asked = case.values.samples, case.samples[1]
    assert case.held[1] is not None and case.data.spec.condition is not None
    real, names = (case.values.real, case.held[1].numpy()), case.data.spec.condition.names
    found = None if asked is None else asked.numpy()
    return class_measures(samples, found, *_labelled(case), *real, names, case.seed, case.values_name)


def _memory(case: Case) -> list[Measure]:
    found = case.neighbours
    return memory_measures(found.distance, found.usual, case.seed, case.values_name, found.reference)


def _likelihood(case: Case) -> list[Measure]:
    if not isinstance(case.run.model, Density):
        raise UserError("this model has no density")
    held, seen = case.held, take(case.cut.fit, len(case.held[0]), mix(case.seed, 4))
    if case.spec.condition is None:
        held, seen = (held[0], None), (seen[0], None)
    return likelihood_measures(case.run, case.spec, held, seen, case.seed, case.data.log_density)


def _open(case: Case) -> bool:
    return isinstance(case.run.model, Diagnoses)


def _diagnosis(case: Case) -> list[Measure]:
    how = "the model's own account of its codes of held-out data"
    named = {name.replace("_", " "): value for name, value in case.diagnosis.items()}
    # Text has a perplexity of its own.
    named = {f"codebook {name}" if name.startswith("perplexity") else name: value for name, value in named.items()}
    return [Measure(name, value, protocol=how, group="codes") for name, value in named.items()]


def _cost(case: Case) -> list[Measure]:
    drawn = case.drawn if isinstance(case.run.model, Samples) else None
    size, seconds = (drawn.asked, drawn.seconds) if drawn else (0, 0.0)
    return cost_measures(case.run.model, case.run.result or {}, size, seconds)


@dataclass(frozen=True)
class Entry:
    """A line of the table. name: of the measures, where they are left out. stage: what is said meanwhile. applies: whether
    data and models like these have such measures at all. take: takes them, or raises a UserError that says why not."""

    name: str
    stage: str
    applies: Callable[[Case], bool]
    take: Callable[[Case], list[Measure]]


MEASURES = (
    Entry("distinct and copied n-grams", "reading the samples", _text, _runs),
    Entry("Frechet distance", "comparing features", _numbers, lambda c: fidelity.frechet(*c.features, c.seed, c.space.name)),
    Entry("KID", "comparing features", _numbers, lambda c: fidelity.kid(*c.features, c.seed, c.space.name)),
    Entry(
        "precision, recall, density, coverage",
        "comparing features",
        _numbers,
        lambda c: fidelity.balls(*c.features, c.seed, c.space.name),
    ),
    Entry("sliced Wasserstein", "comparing values", _numbers, lambda c: transport.sliced(*c.values, c.seed, c.values_name)),
    Entry("Wasserstein", "comparing values", _flat, lambda c: transport.exact(*c.values, c.seed, c.values_name)),
    Entry("told from real", "telling samples from data", _numbers, _told),
    Entry(
        "samples where data are",
        "comparing values",
        _known,
        lambda c: true_density_measures(c.samples[0], c.held[0], c.data.log_density, c.seed),
    ),
    Entry("train on synthetic", "learning classes from samples", _classes, _transfer),
    Entry("classes recognised", "recognising classes", _classes, _recognised),
    Entry("nearest training distance, suspected copies", "looking for copies", _numbers, _memory),
    Entry("likelihood", "likelihood", _always, _likelihood),
    Entry("codes", "asking about codes", _open, _diagnosis),
    Entry("cost", "cost", _always, _cost),
)
