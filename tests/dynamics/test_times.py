"""How t is drawn: laws against their closed forms."""

import math

import pytest
import torch

from pushforward.dynamics.paths import PATHS, noise_ratio
from pushforward.dynamics.times import TIME_LAWS, LogNormal, draw_times, find_law
from pushforward.errors import UserError
from pushforward.randomness import SampleRng

ROWS = 20_000
ERROR = 5 / math.sqrt(ROWS)  # five standard errors of a mean of variance 1


def test_uniform_fills_the_span():
    t = draw_times("uniform", PATHS["linear"], ROWS, SampleRng(0), span=(0.2, 0.6))
    assert 0.2 <= t.min() < 0.201 and 0.599 < t.max() <= 0.6
    assert abs(t.mean() - 0.4) < 0.4 / math.sqrt(12) * ERROR


def test_stratified_has_one_time_in_each_part():
    t = draw_times("stratified", PATHS["linear"], 16, SampleRng(3))
    assert (t.sort().values * 16).floor().tolist() == list(range(16))
    torch.testing.assert_close(t.sort().values.diff(), torch.full((15,), 1 / 16))
    other = draw_times("stratified", PATHS["linear"], 16, SampleRng(4))
    assert not torch.equal(t, other)


def test_logit_normal():
    logits = draw_times("logit-normal", PATHS["linear"], ROWS, SampleRng(0)).logit()
    assert abs(logits.mean()) < ERROR and abs(logits.std() - 1) < ERROR


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_log_normal_is_a_law_of_the_noise_ratio_whatever_the_path(path):
    """Quantiles: unlike moments they do not feel the ends of the path."""
    t = draw_times("log-normal", path, ROWS, SampleRng(0))
    logs = noise_ratio(path, t.double()).log()
    # density of a normal at its quartiles 0.318 / sd; the error of a quantile is sqrt(p (1 - p) / n) / density
    error = 5 * math.sqrt(0.1875 / ROWS) / (0.318 / 1.2)
    for share, score in ((0.25, -0.6745), (0.5, 0.0), (0.75, 0.6745)):
        assert abs(logs.quantile(share) - (-1.2 + 1.2 * score)) < error


def test_levels_are_the_times_of_a_discrete_diffusion():
    t = draw_times("uniform", PATHS["ddpm"], ROWS, SampleRng(0), levels=10)
    assert t.unique().tolist() == pytest.approx([k / 10 for k in range(1, 11)])
    counts = (t * 10).round().long().bincount()[1:]
    assert (counts - ROWS / 10).abs().max() < 5 * math.sqrt(ROWS * 0.09)
    below = draw_times("uniform", PATHS["linear"], 500, SampleRng(0), span=(0.0, 0.995), levels=10)
    assert below.max() == pytest.approx(0.995)  # where t = 1 says nothing


def test_unknown_laws_and_own_ones():
    with pytest.raises(UserError, match="log-normal"):
        find_law("lognormal")
    assert find_law(LogNormal(0.0, 0.1)) == LogNormal(0.0, 0.1)
    assert set(TIME_LAWS) == {"uniform", "stratified", "logit-normal", "log-normal"}
