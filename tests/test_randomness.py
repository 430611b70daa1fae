"""Randomness as a function: uniform, normal, independent, and the same whatever is drawn beside."""

import numpy as np
import pytest
import torch
from scipy import stats

from pushforward.randomness import SampleRng, UpdateRng, mix, uniforms


def test_rows_do_not_depend_on_their_neighbours():
    whole, part = SampleRng(3), SampleRng(3, first=5)
    for shape in ((20, 4), (20, 2, 3), (20,)):
        a, b = whole.randn(*shape), part.randn(7, *shape[1:])
        assert torch.equal(a[5:12], b)
        assert torch.equal(whole.rand(*shape)[5:12], part.rand(7, *shape[1:]))


def test_the_law_is_right():
    """Kolmogorov-Smirnov at 10^5 draws; the fixed seed makes the outcome fixed. Lags and draws are uncorrelated."""
    rng = SampleRng(11)
    u, z = rng.rand(1000, 100), rng.randn(1000, 100)
    assert (
        stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01 and stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.01
    )
    assert u.min() >= 0 and u.max() < 1
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z, rng.randn(1000, 100))):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 5 / np.sqrt(99_000)


def test_a_million_rows_are_all_different():
    """torch's generators keep 32 bits of a seed, which would give about a hundred equal pairs."""
    first = uniforms(np.arange(1_000_000), 1, mix(7, 0))[:, 0]
    assert len(np.unique(first)) == 1_000_000


def test_seeds_differ():
    assert not torch.equal(SampleRng(1).randn(3, 3), SampleRng(2).randn(3, 3))
    assert not torch.equal(SampleRng(5).randn(3, 3), SampleRng(5 + 2**32).randn(3, 3))


@pytest.mark.parametrize("draw", ["rand", "randn"])
def test_processes_draw_what_one_would(draw):
    def rng(rank, world):
        return UpdateRng(torch.Generator().manual_seed(9), rank, world)

    one = rng(0, 1)
    two = [rng(rank, 2) for rank in range(2)]
    for rows in (6, 4):
        assert torch.equal(getattr(one, draw)(rows, 3), torch.cat([getattr(r, draw)(rows // 2, 3) for r in two]))


def test_categorical_frequencies():
    """Frequencies of 20,000 draws within five standard deviations."""
    p = torch.tensor([0.1, 0.0, 0.6, 0.3])
    drawn = SampleRng(1).categorical(p.expand(20_000, -1)).bincount(minlength=4) / 20_000
    assert ((drawn - p).abs() <= 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_a_shared_draw_is_one_for_all_rows_and_processes():
    two = [UpdateRng(torch.Generator().manual_seed(3), rank, 2) for rank in range(2)]
    assert torch.equal(two[0].shared(4), two[1].shared(4))
    assert torch.equal(SampleRng(3).shared(2, 2), SampleRng(3, first=9).shared(2, 2))


def test_rows_alike():
    """Noise that is common to all data: every row is row `first`."""
    rows = SampleRng(3, first=2, alike=True).randn(5, 4)
    assert torch.equal(rows, SampleRng(3, first=2).randn(1, 4).expand(5, 4))
