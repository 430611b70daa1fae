"""What a person cannot read off a loss, in words: what is seen, with figures, and what to try.

Each function looks at one thing and returns sentences, none where nothing is wrong. They speak up only where chance is no
explanation (an interval lies apart from the floor's, or an event of less than one in a thousand) *and* the difference is
large, so that silence is usual.

A model that knows more about itself than its samples show may have `diagnose` (see `models.contract.Diagnoses`), which is asked
about held-out data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from pushforward.measures.measure import Measure

RARE = 0.2  # of its share among the data: a class that the samples (nearly) lack
EXPECTED = 10  # data of a class below which its absence may be chance: P(at most 2 | 10) = 0.003, P(at most 1) = 0.0005
FEW = 0.25  # of the units or codes in use
WEAK = 0.01  # nats; a latent unit with less says nothing


def far_below(measure: Measure, part: float) -> bool:
    """Whether a figure lies below its floor, by more than chance and below `part` of it."""
    if measure.floor is None or measure.high is None:
        return False
    lowest = measure.floor if measure.floor_low is None else measure.floor_low
    return measure.high < lowest and measure.value < part * measure.floor


def far_above(measure: Measure, times: float) -> bool:
    """Whether a figure lies above its floor, by more than chance and above `times` of it."""
    if measure.floor is None or measure.low is None:
        return False
    highest = measure.floor if measure.floor_high is None else measure.floor_high
    return measure.low > highest and measure.value > times * measure.floor


def narrow(found: Mapping[str, Measure]) -> list[str]:
    """Samples that leave out much of the data (mode collapse), by coverage and by different runs of tokens."""
    said = []
    coverage, distinct = found.get("coverage"), found.get("distinct 4-grams")
    if coverage is not None and coverage.floor is not None and far_below(coverage, 0.5):
        said.append(
            f"The samples cover {coverage.value:.0%} of the data, where real data cover {coverage.floor:.0%}: much of the data "
            "never comes, or the samples lie apart from them (precision says which). Train longer or with larger batches; for "
            "a GAN try another penalty or minibatch statistics."
        )
    if distinct is not None and distinct.floor is not None and far_below(distinct, 0.5):
        said.append(
            f"The samples repeat themselves: {distinct.value:.0%} of their runs of four tokens are different ones, in real "
            f"data {distinct.floor:.0%}. Sample at a higher temperature, or train longer."
        )
    return said


def missing_classes(found: Int[np.ndarray, "n"], real: Int[np.ndarray, "m"], names: Sequence[str] = ()) -> list[str]:
    """Classes that the data have and the samples (nearly) lack. found: the class that each sample looks most like.

    >>> missing_classes(np.zeros(100, int), np.arange(100) % 2, ("cat", "dog"))[0][:56]
    'The samples (nearly) lack 1 of 2 classes: dog (0 of 50 e'
    """
    size = int(max(found.max(initial=0), real.max(initial=0))) + 1
    counts, expected = np.bincount(found, minlength=size), np.bincount(real, minlength=size) * len(found) / max(1, len(real))
    lacking = np.flatnonzero((expected >= EXPECTED) & (counts < RARE * expected)).tolist()
    if not lacking:
        return []
    said = [f"{names[c] if c < len(names) else c} ({counts[c]} of {expected[c]:.0f} expected)" for c in lacking]
    more = f" and {len(said) - 5} more" if len(said) > 5 else ""
    return [
        f"The samples (nearly) lack {len(lacking)} of {int((expected > 0).sum())} classes: {', '.join(said[:5])}{more}. The "
        "model has collapsed onto the others: train longer, with larger batches, or on classes of equal size."
    ]


def alike(samples: Float[np.ndarray, "n"], real: Float[np.ndarray, "m"]) -> list[str]:
    """Samples that are nearly the same, from the distance of each to its nearest fellow; data likewise, as many of them.

    >>> alike(np.full(50, 0.1), np.ones(50))[0][:33], alike(np.full(50, 0.9), np.ones(50))
    ('The samples resemble each other: ', [])
    """
    usual = float(np.median(real)) if len(real) else 0.0
    if min(len(samples), len(real)) < 20 or usual <= 0 or np.median(samples) >= 0.3 * usual:
        return []
    return [
        f"The samples resemble each other: each has another one at {np.median(samples) / usual:.0%} of the distance that real "
        "data have. Few different ones are drawn (mode collapse), or they lack detail: look at samples.png."
    ]


def blurred(found: Mapping[str, Measure]) -> bool:
    """Whether samples may be close to the data by being smooth: real data are not found among them, or they are told apart.

    Copies of the training data have the recall of real data, and nobody tells them from real ones.
    """
    recall, told = found.get("recall"), found.get("told from real (C2ST)")
    return (recall is not None and far_below(recall, 0.7)) or (told is not None and told.value > 0.75 and far_above(told, 1.25))


def copying(found: Mapping[str, Measure], passes: float = math.inf) -> list[str]:
    """Samples that repeat training data, by distances or by runs of tokens. passes: how often training saw each datum."""
    ratio, copies = found.get("nearest training distance"), found.get("suspected copies")
    if (ratio is not None and far_below(ratio, 0.6)) or (copies is not None and copies.value > 0.1 and far_above(copies, 5)):
        near = f"at {ratio.value:.0%} of the distance that new data have, " if ratio is not None else ""
        share = f"{copies.value:.0%} of them nearer than new data ever are" if copies is not None else "nearer than new data"
        said = f"The samples lie close to training data: {near}{share}."
        copies_then = "look at neighbours.png; try fewer updates, a smaller model or more data"
        if blurred(found):
            return [
                f"{said} They are easily told from real data, so they may be smooth (blurred data lie near everything): train "
                f"longer or with a larger model. Or they are copies: {copies_then}."
            ]
        return [f"{said} They may be copies: {copies_then}."]
    for name, runs in found.items():
        if name.startswith("copied") and runs.value > 0.1 and far_above(runs, 3):
            seen = f"{runs.value:.0%} of the samples' runs ({name}) stand in the training data just so, of held-out data "
            if passes < 1:
                return [
                    f"{seen}{runs.floor:.0%}. {_unseen(passes)}, so what is common comes too often: train longer, or sample at "
                    "a higher temperature."
                ]
            return [f"{seen}{runs.floor:.0%}: learned by heart. Try fewer updates, dropout or more data."]
    return []


def overfitting(found: Mapping[str, Measure], passes: float = math.inf) -> list[str]:
    """A likelihood that knows the training data better than new ones. passes: how often training saw each datum; what it did
    not see, it cannot know by heart."""
    gap, attack = found.get("train-test gap"), found.get("membership attack")
    if gap is None or attack is None or gap.low is None or attack.low is None or gap.low <= 0 or attack.low <= 0.6:
        return []
    apart = (
        f"Training data are {gap.value:.3g} {gap.unit.replace('per datum', '')}likelier than new data, and the likelihood "
        f"tells the two apart (area {attack.value:.2f}, by chance 0.5)"
    )
    if passes < 1:
        return [
            f"{apart}. {_unseen(passes)}, so the new data are of another kind (the end of a text, another source): mix them "
            "before they are split."
        ]
    return [f"{apart}: learned by heart. Try more data, a smaller model, fewer updates, dropout or weight decay."]


def _unseen(passes: float) -> str:
    return f"Training has seen no more than {100 * passes:.2g} % of its data"


def unused_codes(figures: Mapping[str, float]) -> list[str]:
    """What a model's `diagnose` says about its codes: latent units that say nothing, codebook entries that never come.

    >>> unused_codes({"active_units": 14.0, "units": 16.0}), len(unused_codes({"active_units": 0.0, "units": 16.0}))
    ([], 1)
    """
    said = []
    for name, value in figures.items():
        for sort, whole in (("active_units", "units"), ("perplexity", "codes")):
            if name == sort or name.startswith(sort + "_"):
                total = figures.get(whole + name.removeprefix(sort))
                said += _units(value, total) if sort == "active_units" else _codebook(value, total)
        if (name == "kl_per_unit" or name.startswith("kl_per_unit_")) and value < WEAK:
            said.append(
                f"A latent unit holds {value:.2g} nats of a datum on average ({name}): the decoder ignores its codes "
                "(posterior collapse). Try a smaller beta, a warm-up of beta, free bits, or a weaker decoder."
            )
    return said


def _units(active: float, total: float | None) -> list[str]:
    if active < 0.5:
        return ["No latent unit is in use (posterior collapse): try a smaller beta, a warm-up of beta, or free bits."]
    if total and active < FEW * total:
        return [f"{active:.0f} of {total:.0f} latent units are in use: as many would do, or a smaller beta would use more."]
    return []


def _codebook(perplexity: float, total: float | None) -> list[str]:
    if perplexity < 2 or (total and perplexity < FEW * total):
        of = f" of {total:.0f}" if total else ""
        return [
            f"The codebook is used as if it had {perplexity:.3g}{of} entries: the others are dead. Try restarting them, a "
            "lower learning rate, shorter codes, or a smaller codebook."
        ]
    return []
