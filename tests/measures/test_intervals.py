"""95 % intervals hold the truth about 95 % of the time (bounds: four binomial standard errors below)."""

import numpy as np

from pushforward.measures.intervals import bootstrap_mean, half_interval, halves, wilson


def test_bootstrap_covers_the_mean():
    """A percentile bootstrap of 60 data covers 94 %; 300 trials: 0.94 - 4 * 0.0137 > 0.88."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_mean(rng.normal(3.0, 2.0, 60), seed=trial, times=300)
        hits += low <= 3.0 <= high
    assert 0.88 <= hits / 300 <= 0.995


def test_halves_have_the_spread_of_the_whole():
    """For a mean the interval from halves is that of the normal law: standard error sigma / sqrt(n), to 10 % over 40 sets."""
    rng = np.random.default_rng(1)
    reach = []
    for trial in range(40):
        x = rng.normal(0.0, 1.0, 100)
        low, high = half_interval(lambda i, x=x: float(x[i].mean()), (100,), 0.0, trial)
        reach.append((high - low) / 2)
    assert abs(np.mean(reach) / (2.07 * 0.1) - 1) < 0.1


def test_halves_cover_the_mean():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(300):
        x = rng.exponential(1.0, 80)
        low, high = half_interval(lambda i, x=x: float(x[i].mean()), (80,), float(x.mean()), trial)
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 300 <= 0.995


def test_no_half_holds_a_datum_twice():
    for first, second in halves((11, 20), seed=3):
        assert len(set(first.tolist())) == len(first) == 5
        assert len(set(second.tolist())) == len(second) == 10


def test_wilson_is_between_0_and_1_and_covers():
    assert wilson(0.0, 10)[0] == 0.0 and 0 < wilson(0.0, 10)[1] < 0.4
    assert wilson(1.0, 10)[1] == 1.0
    rng = np.random.default_rng(4)
    shares = rng.binomial(50, 0.05, 1000) / 50
    covered = np.mean([low <= 0.05 <= high for low, high in (wilson(float(s), 50) for s in shares)])
    assert covered >= 0.92
