"""Randomness as a function: uniform, normal, independent, and the same whatever is drawn beside."""

import time

import numpy as np
import pytest
import torch
from scipy import stats

from pushforward.randomness import SampleRng, UpdateRng, chosen, mix, normals, uniforms

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_depend_on_their_neighbours(dtype):
    """To the last bit, whatever block, vector lane or thread a number is made in; the last shape is more than a block."""
    whole, part = SampleRng(3), SampleRng(3, first=5)
    for shape in ((20, 4), (20, 2, 3), (20,), (20, 3, 7, 11), (20, 1, 97, 89), (20, 20_011), (13, 140_001)):
        a, b = whole.randn(*shape, dtype=dtype), part.randn(7, *shape[1:], dtype=dtype)
        assert a.dtype == dtype and torch.equal(a[5:12], b)
        assert torch.equal(whole.rand(*shape, dtype=dtype)[5:12], part.rand(7, *shape[1:], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fewer_draws_are_the_first_of_more(dtype):
    """So a text is the same however long it goes on."""
    for draws in (1, 6, 7, 12):
        for law in (uniforms, normals):
            assert torch.equal(law(torch.arange(5), draws, 3, dtype), law(torch.arange(5), 13, 3, dtype)[:, :draws])


def test_one_thread_or_two():
    def drawn():
        return normals(torch.arange(40), 12_289, 7)

    before, threads = drawn(), torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(before, drawn())
    finally:
        torch.set_num_threads(threads)


def reference(index, word, key):
    """SplitMix64 with Python's integers."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def scramble(state):
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        return state ^ (state >> 31)

    return scramble((scramble((index * golden + key) & mask) + (word + 1) * golden) & mask)


@pytest.mark.parametrize("key", [0, mix(3), (1 << 64) - 5])
def test_the_words_are_those_of_splitmix(key):
    """Wrapping int64 arithmetic gives the unsigned words, and what is made of them is as the docstrings say."""
    indices = torch.tensor([0, 1, 77, 2**40, -3])
    words = [[reference(i % 2**64, k, key) for k in range(5)] for i in indices.tolist()]
    exact = torch.tensor([[((w >> 11) + 0.5) * 2.0**-53 for w in row] for row in words], dtype=torch.float64)
    assert torch.equal(uniforms(indices, 5, key), exact)
    torch.testing.assert_close(
        normals(indices, 5, key, torch.float64), torch.as_tensor(stats.norm.ppf(exact)), rtol=1e-12, atol=1e-13
    )
    low, high = (np.array([[w >> shift & 0xFFFFFFFF for w in row] for row in words]) for shift in (0, 32))
    coarse = np.stack([low >> 8 | 1, high >> 8 | 1], 2).reshape(5, 10) * 2.0**-24
    assert (uniforms(indices, 10, key, torch.float32).double().numpy() == coarse).all()
    radius, angle = np.sqrt(-2 * np.log(((low & 0x7FFFFFFF) + 0.5) / 2**31)), 2 * np.pi * high / 2**32
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2).reshape(5, 10)
    # float32 angles of up to pi are off by 1e-7, radii near 0 by the square root of 2^-24
    assert np.abs(normals(indices, 10, key).numpy() - both).max() < 2e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_law_is_right(dtype):
    """Kolmogorov-Smirnov at 10^5 draws; the fixed seed makes the outcome fixed. Lags and draws are uncorrelated, and so are
    the squares, which would tell of the radius that two normals have in common."""
    rng = SampleRng(11)
    u, z = rng.rand(1000, 100, dtype=dtype), rng.randn(1000, 100, dtype=dtype)
    assert (
        stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01 and stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.01
    )
    assert u.min() > 0 and u.max() < 1
    pairs = ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z, rng.randn(1000, 100, dtype=dtype)), (z[:, ::2], z[:, 1::2]))
    for a, b in pairs:
        for f in (torch.Tensor.clone, torch.square, torch.abs):
            assert abs(np.corrcoef(f(a).flatten(), f(b).flatten())[0, 1]) < 5 / np.sqrt(a.numel())


def test_moments_and_tails():
    """Moments of 4 million draws within five standard errors, and the share beyond 3, 4 and 5 likewise."""
    z = SampleRng(2).randn(1000, 4_000).double()
    n = z.numel()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        assert abs(float((z**power).mean()) - expected) < 5 * (variance / n) ** 0.5
    for far in (3.0, 4.0, 5.0):
        share = 2 * stats.norm.sf(far)
        assert abs(float((z.abs() > far).double().mean()) - share) < 5 * (share / n) ** 0.5


def test_nearly_as_fast_as_torch():
    """A ratio of times of this machine, best of several, so that its load matters little."""

    def best(draw):
        times = []
        for _ in range(15):
            start = time.perf_counter()
            draw()
            times.append(time.perf_counter() - start)
        return min(times)

    shape = (64, 3, 64, 64)
    assert best(lambda: SampleRng(1).randn(*shape)) < 3 * best(lambda: torch.randn(*shape))


def test_half_precision_is_drawn_in_float32():
    """And rounded then; float64 is drawn as such."""
    rng = SampleRng(4)
    assert rng.rand_like(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert torch.equal(SampleRng(5).randn_like(torch.zeros(2, 3).bfloat16()), SampleRng(5).randn(2, 3).bfloat16())


def test_many_rows_are_all_different():
    """torch's generators keep 32 bits of a seed, which would give about a hundred equal pairs of a million."""
    first = uniforms(torch.arange(1_000_000), 1, mix(7, 0))[:, 0]
    assert len(first.unique()) == 1_000_000
    rows = SampleRng(7).randn(300_000, 2)
    assert len(rows.view(torch.int64).unique()) == 300_000


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


def test_a_uniform_number_chooses_by_weight():
    """Exactly as often as the weights say, never what has none (at the ends too), whatever the weights' sum and shape."""
    weights, uniform = torch.tensor([0.0, 10.0, 0.0, 6.0, 4.0, 0.0]), (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert chosen(weights, uniform).bincount(minlength=6).tolist() == [0, 500, 0, 300, 200, 0]
    assert chosen(weights, torch.tensor([0.0, 0.49, 0.5, 1 - 2**-24])).tolist() == [1, 1, 3, 4]
    assert chosen(weights, torch.tensor(0.5)).item() == 3
    some, at = torch.rand(2, 3, 4), torch.rand(2, 3)
    each = [chosen(w, u).item() for w, u in zip(some.flatten(0, 1), at.flatten(), strict=True)]
    assert chosen(some, at).flatten().tolist() == each
    # float32 counts to 2^24 ones and no further
    last = torch.tensor((2**24 + 3.5) / (2**24 + 64), dtype=torch.float64)
    assert chosen(torch.ones(1).expand(2**24 + 64), last).item() == 2**24 + 3


def test_a_shared_draw_is_one_for_all_rows_and_processes():
    two = [UpdateRng(torch.Generator().manual_seed(3), rank, 2) for rank in range(2)]
    assert torch.equal(two[0].shared(4), two[1].shared(4))
    assert torch.equal(SampleRng(3).shared(2, 2), SampleRng(3, first=9).shared(2, 2))


def test_rows_alike():
    """Noise that is common to all data: every row is row `first`."""
    rows = SampleRng(3, first=2, alike=True).randn(5, 4)
    assert torch.equal(rows, SampleRng(3, first=2).randn(1, 4).expand(5, 4))


@pytest.mark.parametrize("law", ["rand", "randn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_longer_draw_begins_alike(law, dtype):
    """So that a text of 20 tokens begins with that of 12."""
    short, long = (getattr(SampleRng(5), law)(7, size, dtype=dtype) for size in (11, 20))
    assert torch.equal(short, long[:, :11])
