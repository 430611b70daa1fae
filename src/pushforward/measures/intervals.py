"""How sure a figure is: 95 % intervals by resampling.

Three kinds. A mean over data gets the bootstrap (Efron 1979). A share gets Wilson's score interval (Wilson 1927). A figure
that depends on neighbours or on duplicates gets half-sampling: the statistic on random halves drawn *without* replacement
(the delete-half jackknife; Shao and Wu 1989). A half has twice the variance of the whole, of which drawing from a finite
whole takes back one half, so the spread over halves is the standard error of the whole, and no datum ever appears twice,
which would fool every nearest-neighbour measure. Where a figure is biased at finite n (Frechet distance, sliced
Wasserstein) only the spread is used: the interval is around the figure at full size. Near the floor, where such a figure is
degenerate (KID, Frechet distance between equal laws), the interval comes out up to twice too wide: "like real" is then said
more readily than at 95 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from pushforward.randomness import mix

RESAMPLES = 24


def halves(sizes: Sequence[int], seed: int, times: int = RESAMPLES) -> list[tuple[np.ndarray, ...]]:
    """`times` random halves: for each of the `sizes` the indices of max(2, size // 2) different rows."""
    rng = np.random.default_rng(mix(seed, 0x4A1F, *sizes))
    return [tuple(rng.permutation(size)[: max(2, size // 2)] for size in sizes) for _ in range(times)]


def around(
    value: float, replicates: Float[np.ndarray, "times"], low: float = -np.inf, high: float = np.inf
) -> tuple[float, float]:
    """value +- t * the replicates' standard deviation, kept within [low, high]."""
    reach = stats.t.ppf(0.975, len(replicates) - 1) * float(np.std(replicates, ddof=1))
    return max(low, value - reach), min(high, value + reach)


def half_interval(
    statistic: Callable[..., float],
    sizes: Sequence[int],
    value: float,
    seed: int,
    times: int = RESAMPLES,
    low: float = -np.inf,
    high: float = np.inf,
) -> tuple[float, float]:
    """The 95 % interval of `value` from `statistic(*indices)` on random halves of sets of these `sizes`."""
    replicates = np.array([statistic(*indices) for indices in halves(sizes, seed, times)])
    return around(value, replicates, low, high)


def bootstrap_mean(values: Float[np.ndarray, "n"], seed: int, times: int = 1000) -> tuple[float, float]:
    """The 95 % percentile interval of a mean.

    >>> low, high = bootstrap_mean(np.arange(100.0), seed=0)
    >>> low < 49.5 < high
    True
    """
    rng = np.random.default_rng(mix(seed, 0xB007, len(values)))
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(times)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of n independent trials.

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return 0.0 if share == 0 else float(centre - reach), 1.0 if share == 1 else float(centre + reach)
