"""Does the model repeat its training data?

For each sample the distance to its nearest training datum is compared with what held-out real data get. A model that
generalises is as far from its training data as held-out data are (a ratio near 1); one that copies is nearer. A sample that
is nearer than all but 1 % of held-out data are is a suspected copy; of held-out data 1 % are so by construction (the test of
Meehan et al. 2020, arXiv:2004.05675, in its simplest form). Texts, and other rows of tokens, are
compared by their runs of n tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from pushforward.errors import UserError
from pushforward.measures.intervals import half_interval, wilson
from pushforward.measures.measure import Measure, paired

SUSPECT = 0.01


def nearest(
    x: Float[np.ndarray, "n d"],
    reference: Float[np.ndarray, "m d"],
    own: Int[np.ndarray, "n"] | None = None,
    chunk: int = 1024,
) -> tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """The distance to and the index of each row's nearest row of `reference`, leaving out row own[i] for row i.

    >>> distance, index = nearest(np.array([[0.9]]), np.array([[0.0], [1.0]]))
    >>> round(float(distance[0]), 3), int(index[0])
    (0.1, 1)
    """
    dtype = np.float32 if reference.size > 1e7 else np.float64
    centre = reference.mean(0)
    queries = (x - centre).astype(dtype)
    best = np.full(len(x), np.inf)
    index = np.zeros(len(x), dtype=np.int64)
    for start in range(0, len(reference), chunk):
        part = (reference[start : start + chunk] - centre).astype(dtype)
        distance = (queries**2).sum(1)[:, None] + (part**2).sum(1)[None] - 2 * queries @ part.T
        if own is not None:
            inside = np.flatnonzero((own >= start) & (own < start + len(part)))
            distance[inside, own[inside] - start] = np.inf
        closest = distance.argmin(1)
        value = distance[np.arange(len(x)), closest]
        better = value < best
        best[better], index[better] = value[better], closest[better] + start
    # The expansion above loses the small distances that matter here: once more, exactly.
    return np.linalg.norm(x - reference[index], axis=1), index


def memory_measures(samples: np.ndarray, real: np.ndarray, seed: int, space: str, reference: int) -> list[Measure]:
    """From the distances to the nearest of `reference` training data, of samples (n,) and of held-out data (m,)."""
    how = f"distance to the nearest of {reference} training data, {space}"
    measures, n = [], len(samples)
    usual = float(np.median(real))
    if usual > 0:
        ratio = float(np.median(samples)) / usual

        def quotient(i: np.ndarray, j: np.ndarray) -> float:
            return float(np.median(samples[i]) / max(np.median(real[j]), 1e-3 * usual))

        reach = half_interval(quotient, (n, len(real)), ratio, seed, low=0.0)
        spread = half_interval(lambda i: float(np.median(real[i])) / usual, (len(real),), 1.0, seed, low=0.0)
        nearer = f"median {how}; below 1: nearer to the training data than new data are"
        unit = "of held-out's median"
        measures.append(
            paired("nearest training distance", (ratio, *reach), (1.0, *spread), "near 1", unit, n, nearer, "memory")
        )
    threshold = np.quantile(real, SUSPECT, method="lower")

    def copies(distances: np.ndarray) -> tuple[float, float, float]:
        share = float((distances <= threshold).mean())
        return share, *wilson(share, len(distances))

    nearest_of_all = f"share nearer than the 1 % quantile of held-out data; {how}"
    measures.append(
        paired("suspected copies", copies(samples), copies(real), "near the floor", "share", n, nearest_of_all, "memory")
    )
    return measures


def runs_of(tokens: Int[np.ndarray, "rows length"], n: int) -> np.ndarray:
    """The hashes of all runs of `n` tokens in each row: (rows, length - n + 1), 64 bits each."""
    tokens = tokens.astype(np.uint64) + np.uint64(1)
    width = tokens.shape[1] - n + 1
    out = np.zeros((len(tokens), max(0, width)), dtype=np.uint64)
    for j in range(n if width > 0 else 0):
        out = out * np.uint64(0x9E3779B97F4A7C15) + tokens[:, j : j + width]
        out ^= out >> np.uint64(29)
    return out


def text_measures(samples: np.ndarray, real: np.ndarray, train: np.ndarray, n: int, seed: int) -> list[Measure]:
    """Runs of n tokens that stand in the training text, and different runs of 4 tokens: samples (n, L) beside held-out
    windows (n, L). `train`: rows of tokens, one row for one long text."""
    if min(samples.shape[1], real.shape[1]) < max(n, 4):
        raise UserError(f"{samples.shape[1]} tokens are too short for runs of {max(n, 4)}.")
    known = np.unique(runs_of(train, n))

    def copied(rows: np.ndarray) -> float:
        return float(np.isin(runs_of(rows, n), known).mean())

    def distinct(rows: np.ndarray) -> float:
        runs = runs_of(rows, 4).ravel()
        return len(np.unique(runs)) / len(runs)

    def interval(statistic: Callable[[np.ndarray], float], rows: np.ndarray) -> tuple[float, float, float]:
        value = statistic(rows)
        return value, *half_interval(lambda i: statistic(rows[i]), (len(rows),), value, seed, low=0.0, high=1.0)

    def both(name: str, statistic: Callable[[np.ndarray], float], how: str, group: str) -> Measure:
        ours, floor = interval(statistic, samples), interval(statistic, real)
        return paired(name, ours, floor, "near the floor", "share", len(samples), how, group)

    how = f"share of runs of {n} tokens that stand in the training data just so; beside it held-out data"
    distinct_how = "share of different ones among all runs of 4 tokens; beside it held-out data"
    return [
        both("distinct 4-grams", distinct, distinct_how, "fidelity"),
        both(f"copied {n}-grams", copied, how, "memory"),
    ]
