"""What the figures of a watched run (watch.py) mean, in words: what is seen, and what to try.

Each function looks at one thing in the rows of history.jsonl and returns sentences, none where nothing is wrong. As in
evaluation/health.py they speak up only where chance is no explanation and the difference is large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

ALIKE = 0.3  # of the distance that data have to their nearest fellows
TWICE = 2.0  # squared distances, as Frechet's is one
OVERFITTED = 0.5  # deviations of the critic's logits between data that it was trained on and new ones
APART = 3.0  # deviations between real and fake logits: hardly any lie on the wrong side
VANISHED = 0.01  # of the generator's gradient at the beginning

Row = Mapping[str, float]


def collapsed(row: Row, kinds: int = 0, name: str = "modes") -> list[str]:
    """Samples that are nearly the same, or that lack modes or classes of the data, of which there are `kinds`
    (with none of them they are no data yet, or no more).

    >>> collapsed({"watch/diversity": 0.02, "watch/modes": 1}, 8)[0][:86]
    'The samples have collapsed: each has another one at 2 % of the distance that data have'
    >>> collapsed({"watch/diversity": 0.9, "watch/modes": 8}, 8)
    []
    """
    diversity, modes = row.get("watch/diversity", 1.0), row.get("watch/modes", kinds)
    alike = f"each has another one at {100 * diversity:.2g} % of the distance that data have"
    lacking = f"they (nearly) lack {kinds - modes:.0f} of {kinds} {name}"
    seen = [sentence for sentence, true in ((alike, diversity < ALIKE), (lacking, 0 < modes < kinds)) if true]
    if not seen:
        return []
    return [
        f"The samples have collapsed: {', and '.join(seen)}. After few updates that passes: train "
        "longer. Else try a penalty on the critic's slope (R1, or one around the data), packing, several generators, larger "
        "batches, or a lower learning rate of the generator."
    ]


def oscillating(rows: Sequence[Row], floor: float) -> list[str]:
    """A distance to the data that fell and rose again. floor: that of real data in the samples' place.

    The end is the median of the last three rows, so that one bad moment is not enough.
    """
    distances = [row["watch/distance"] for row in rows]
    if len(distances) < 4:
        return []
    end, best = float(np.median(distances[-3:])), int(np.argmin(distances))
    if end**2 < TWICE * distances[best] ** 2 or end < 2 * floor:
        return []
    return [
        f"The samples were better before: the distance to data was {distances[best]:.3g} at step {rows[best]['step']:.0f} "
        f"and is {end:.3g} at the end (that of real data is {floor:.3g}). The players go round in circles: try lower learning "
        "rates, a longer half-life of the averaged weights, or a stronger penalty on the critic's slope."
    ]


def overfitting_critic(row: Row, error: float) -> list[str]:
    """A critic that knows its training data by heart. error: the standard error of the gap."""
    gap = row.get("watch/critic gap", 0.0)
    if gap < max(OVERFITTED, 4 * error):
        return []
    return [
        f"The critic knows its training data by heart: it rates them {gap:.2g} deviations above new ones, so what it teaches "
        "is to copy. Try more data, augmentation of what the critic sees, a smaller critic, or fewer updates."
    ]


def critic_far_ahead(row: Row, history: Sequence[Row]) -> list[str]:
    """A critic that tells all fakes from data and leaves the generator (the player of that name) no gradient."""
    norms = [found["generator/gradient"] for found in history if "generator/gradient" in found]
    margin, quarter = row.get("watch/critic margin", 0.0), len(norms) // 4
    if margin < APART or not quarter:
        return []
    before, now = float(np.median(norms[:quarter])), float(np.median(norms[-quarter:]))
    if now >= VANISHED * before:
        return []
    return [
        f"The critic is far ahead: real and fake logits lie {margin:.2g} deviations apart, and the generator's gradient has "
        f"fallen from {before:.2g} to {now:.2g}. Try an objective that does not saturate, a penalty on the critic's slope, or "
        "a lower learning rate of the critic."
    ]
