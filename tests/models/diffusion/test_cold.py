"""Cold diffusion: what each degradation is, what its samplers are exact for, DDIM as a case, and digits restored."""

import itertools
import math

import pytest
import torch
from torch import nn

from pushforward import load_data
from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.operators import CircularBlur, ReflectedBlur, gaussian_kernel
from pushforward.dynamics.paths import PATHS, find_path
from pushforward.dynamics.solvers import generate, time_grid
from pushforward.errors import UserError
from pushforward.models.checking import check_model
from pushforward.models.contract import capabilities
from pushforward.models.diffusion.cold import (
    DEGRADATIONS,
    Blur,
    Cold,
    Degradation,
    Fade,
    Masking,
    Noise,
    Pixelate,
    restored,
)
from pushforward.randomness import SampleRng, UpdateRng

DIGITS = DataSpec("image", (1, 8, 8), condition=Condition("class", 10), levels=17, name="digits")
SHAPES = [(1, 8, 8), (3, 7, 12)]
EXACT = dict(rtol=0, atol=1e-10)  # rounding of float64 in a few sums


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def every():
    return [(name, make(shape, 2), shape) for name, make in DEGRADATIONS.items() for shape in SHAPES]


ALL = pytest.mark.parametrize("degradation, shape", [case[1:] for case in every()], ids=lambda v: type(v).__name__)


def drawn(degradation, rows, dtype=torch.float64):
    given = degradation.drawn(rows, SampleRng(3))
    return None if given is None else given.to(dtype)


@ALL
def test_nothing_is_lost_at_0_and_all_but_the_summary_at_1(degradation, shape):
    x = normal(5, *shape)
    given = drawn(degradation, 5)
    torch.testing.assert_close(degradation(x, times(*[0.0] * 5), given), x, **EXACT)
    end, summary = degradation(x, times(*[1.0] * 5), None), degradation.summary(x)
    assert summary.shape == (5, degradation.known)
    # waves beyond the kept ones have exp(-(2 pi)^2 / 2) of their size, 3e-9
    torch.testing.assert_close(end, end.new_zeros(end.shape) + degradation.spread(summary), rtol=0, atol=1e-7)


@ALL
def test_each_row_has_its_own_time(degradation, shape):
    x, t = normal(3, *shape), times(0.2, 0.9, 0.55)
    given = drawn(degradation, 3)
    for i in range(3):
        alone = degradation(x[i : i + 1], t[i : i + 1], None if given is None else given[i : i + 1])
        torch.testing.assert_close(degradation(x, t, given)[i], alone[0], **EXACT)


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if name != "noise"])
def test_information_only_falls(name):
    # D(., t) is a matrix; M_t^T M_t <= M_s^T M_s for s < t: no direction grows, so D(., t) is a function of D(., s)
    shape = (1, 6, 7)
    degradation = DEGRADATIONS[name](shape, 2)
    units = torch.eye(42, dtype=torch.float64).view(42, *shape)
    grams = []
    for t in torch.linspace(0, 1, 13, dtype=torch.float64):
        matrix = degradation(units, t.expand(42)).flatten(1)
        grams.append(matrix @ matrix.T)
    for less, more in itertools.pairwise(grams):
        assert torch.linalg.eigvalsh(less - more).min() > -1e-10
    for less, more in itertools.pairwise(grams[::3]):
        assert less.trace() > more.trace() + 1e-3  # and something does fall


def test_noise_drowns_the_data_more_and_more():
    # given x0 and z of deviation 1, the signal-to-noise ratio (alpha / sigma)^2 falls
    degradation, t = Noise((2,)), torch.linspace(0.1, 1, 10, dtype=torch.float64)
    one, none = torch.ones(10, 2, dtype=torch.float64), torch.zeros(10, 2, dtype=torch.float64)
    ratio = degradation(one, t, none) / degradation(none, t, one)
    assert (ratio[1:] < ratio[:-1]).all()
    # cos^2 + sin^2 = 1: of unit data the deviation stays 1
    variance = degradation(one, t, none) ** 2 + degradation(none, t, one) ** 2
    torch.testing.assert_close(variance, one, **EXACT)


@pytest.mark.parametrize("circular", [False, True])
def test_blurs_add_their_variances(circular):
    blur, x = Blur((3, 7, 12), circular=circular), normal(4, 3, 7, 12)
    a, b = times(0.3, 1.0, 4.0, 0.0), times(2.0, 0.5, 1.0, 3.0)
    torch.testing.assert_close(blur.blurred(blur.blurred(x, a), b), blur.blurred(x, a + b), **EXACT)
    torch.testing.assert_close(blur.blurred(x, a).mean((2, 3)), x.mean((2, 3)), **EXACT)  # what is dark stays as dark


@pytest.mark.parametrize("circular", [False, True])
def test_a_blur_is_that_of_the_operators(circular):
    # their kernel is cut at 3 sigma, which leaves out 0.27 % of its weight; edges are the same to the pixel
    shape, sigma = (2, 20, 18), 1.5
    x, kernel = normal(3, *shape), gaussian_kernel(sigma)
    theirs = CircularBlur(shape, kernel[:, None] * kernel) if circular else ReflectedBlur(shape, kernel, kernel)
    ours = Blur(shape, circular=circular).blurred(x, times(*[sigma**2] * 3))
    assert (ours - theirs(x)).abs().max() < 0.01
    other = Blur(shape, circular=not circular).blurred(x, times(*[sigma**2] * 3))
    assert (other - theirs(x)).abs().max() > 0.1  # which the other edges are not


def test_sigma_grows_with_the_square_of_t():
    blur, x = Blur((1, 16, 10), coarsest=4), normal(2, 1, 16, 10)
    torch.testing.assert_close(blur(x, times(0.5, 1.0)), blur.blurred(x, times(1.0, 16.0)), **EXACT)


def test_blocks_are_projections_in_each_other():
    shape = (2, 7, 12)  # neither side a multiple of the blocks
    pixelate, x = Pixelate(shape, coarsest=2), normal(3, *shape)
    assert pixelate.levels == 3
    level = lambda j: times(*[j / 3] * 3)  # noqa: E731
    for a in range(4):
        for b in range(4):
            twice = pixelate(pixelate(x, level(a)), level(b))
            torch.testing.assert_close(twice, pixelate(x, level(max(a, b))), **EXACT)
    first = pixelate(x, level(1))
    torch.testing.assert_close(first[:, :, :2, 4:6], x[:, :, :2, 4:6].mean((2, 3), keepdim=True).expand(-1, -1, 2, 2), **EXACT)
    torch.testing.assert_close(first[:, :, 6, :2], x[:, :, 6, :2].mean(2, keepdim=True).expand(-1, -1, 2), **EXACT)
    half = pixelate(x, times(*[0.5] * 3))  # half way between the blocks of 2 and of 4
    torch.testing.assert_close(half, 0.5 * (first + pixelate(x, level(2))), **EXACT)


def test_a_hard_mask_in_a_larger_one_is_the_larger():
    mask, x = Masking((1, 9, 7), soft=0.0), normal(4, 1, 9, 7)
    centre = drawn(mask, 4)
    s, t = times(0.2, 0.3, 0.5, 0.1), times(0.4, 0.8, 0.6, 0.2)
    torch.testing.assert_close(mask(mask(x, s, centre), t, centre), mask(x, t, centre), **EXACT)
    seen = mask.seen(centre, t)
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    # what is hidden is the disc of t times the way to the farthest pixel
    rows, columns = torch.meshgrid(torch.arange(9) + 0.5, torch.arange(7) + 0.5, indexing="ij")
    for i in range(4):
        distance = torch.hypot(rows - 9 * centre[i, 0], columns - 7 * centre[i, 1])
        assert torch.equal(seen[i, 0] > 0, distance > t[i] * distance.max())


def test_a_soft_mask_has_an_edge_of_its_width():
    mask = Masking((1, 1, 41), soft=10.0)
    seen = mask.seen(times(0.5, 0.0)[None], times(0.5))[0, 0, 0]
    # centre at column 0, farthest pixel 40.5 away: radius 0.5 * 40.5 - 0.5 * 10
    expected = ((torch.arange(41, dtype=torch.float64) + 0.5 - 15.25) / 10).clamp(0, 1)
    torch.testing.assert_close(seen, expected, **EXACT)


def test_fades_multiply():
    fade, x = Fade((3,)), normal(2, 3)
    s, t = times(0.2, 0.5), times(0.4, 0.9)
    torch.testing.assert_close(fade(fade(x, s), t), fade(x, 1 - (1 - s) * (1 - t)), **EXACT)


class Drift(Degradation):
    """D(x, t) = x + t e with one e for all data: linear in t."""

    def __init__(self, e):
        self.e = e

    def __call__(self, x, t, given=None):
        return x + t.view(-1, *[1] * (x.dim() - 1)) * self.e


def test_the_improved_sampler_forgives_any_restoration_of_a_drift():
    # the paper's claim of Algorithm 2: D(x, s) = x + s e  =>  x_s = D(x, s), whatever R says
    x, drift = normal(3, 5), Drift(normal(5, seed=1))
    grid = times(1.0, 0.8, 0.3, 0.1, 0.0)
    wrong = lambda x_t, t: 7 * torch.sin(3 * x_t) + t[:, None]  # noqa: E731
    states = restored(wrong, drift, drift(x, times(1.0, 1.0, 1.0)), grid, trajectory=True)
    for state, s in zip(states, grid, strict=True):
        torch.testing.assert_close(state, drift(x, s.expand(3)), **EXACT)
    naive = restored(wrong, drift, drift(x, times(1.0, 1.0, 1.0)), grid, sampler="naive", trajectory=True)
    assert (naive[1] - drift(x, grid[1].expand(3))).abs().max() > 1


def test_an_error_of_the_restoration_counts_by_the_step_alone():
    # D(x, t) = (1 - t) x is x + t e(x), e(x) = -x: x_s is off by (s - t)(e(R) - e(x)) = (t - s)(R - x)
    x, fade = normal(2, 4), Fade((4,))
    off = normal(2, 4, seed=2)
    got = restored(lambda x_t, t: x + off, fade, fade(x, times(0.7, 0.7)), times(0.7, 0.6))
    torch.testing.assert_close(got - fade(x, times(0.6, 0.6)), 0.1 * off, **EXACT)
    got = restored(lambda x_t, t: x + off, fade, fade(x, times(0.7, 0.7)), times(0.7, 0.6), sampler="naive")
    torch.testing.assert_close(got - fade(x, times(0.6, 0.6)), 0.4 * off, **EXACT)  # 1 - s, however short the step


@ALL
@pytest.mark.parametrize("sampler", ["improved", "naive"])
def test_the_right_restoration_is_followed_exactly(degradation, shape, sampler):
    x, grid = normal(3, *shape), times(0.9, 0.6, 0.25, 0.0)
    given = drawn(degradation, 3)
    start = degradation(x, times(0.9, 0.9, 0.9), given)
    known = None if isinstance(degradation, Noise) else given  # noise is read off x_t
    states = restored(lambda x_t, t: x, degradation, start, grid, sampler=sampler, given=known, trajectory=True)
    for state, s in zip(states, grid, strict=True):
        torch.testing.assert_close(state, degradation(x, s.expand(3), given), rtol=0, atol=1e-8)


@pytest.mark.parametrize("path", [name for name in PATHS if float(find_path(name)(times(0.0))[1]) == 0])
@pytest.mark.parametrize("sampler", ["improved", "naive"])
def test_with_noise_the_samplers_are_ddim(path, sampler):
    degradation, z = Noise((4,), path), normal(6, 4)
    grid = time_grid((0.0, 0.95), 7, like=z)
    guess = lambda x_t, t: torch.tanh(2 * x_t) - t[:, None] * x_t  # noqa: E731
    denoiser = Denoiser(degradation.path, "x0", lambda x_t, t, *, condition=None, drop=None: guess(x_t, t))
    theirs = generate(denoiser, z, grid, "ddim", trajectory=True)
    ours = restored(guess, degradation, theirs[0], grid, sampler=sampler, trajectory=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


class Nothing(nn.Module):
    def forward(self, x, t, embedding=None):
        return torch.zeros_like(x)


def test_the_loss_is_the_absolute_error_of_what_is_restored():
    model = Cold(DataSpec("point", (3,)), degradation="fade", net=Nothing())
    x = normal(50, 3).float()
    rng = lambda: UpdateRng(torch.Generator().manual_seed(5))  # noqa: E731
    # R(x_t, t) = x_t = (1 - t) x, off by t |x|
    expected = (rng().rand(50)[:, None] * x.abs()).mean()
    torch.testing.assert_close(model.loss(Batch(x), rng()).total, expected)


def fitted(**settings):
    data = load_data("digits")
    codes, classes = data.train.codes, data.train.condition
    x = data.units.to_model(codes)
    model = Cold(data.spec, **{"width": 32, "depth": 1, **settings})
    first = model.players()[0]
    if model.law is not None:
        assert first.update([Batch(x[:700], classes[:700]), Batch(x[700:], classes[700:])], SampleRng(0)).finished
    return model.eval(), x, classes


@pytest.mark.parametrize("degradation, coarsest", [("blur", 3), ("pixelate", 4)])
def test_samples_begin_at_the_law_of_what_is_left(degradation, coarsest):
    model, x, classes = fitted(degradation=degradation, coarsest=coarsest, symmetry=0.0)
    ends = model.encode(x[classes == 3])
    codes = model.draw_codes(2000, condition=torch.full((2000,), 3), generator=0)
    spread = ends.std(0)
    # standard errors with 2000 and 145 data: at most spread / 12; four of them
    assert ((codes.mean(0) - ends.mean(0)).abs() < spread / 3).all()
    torch.testing.assert_close(codes.flatten(1).T.cov().trace(), ends.flatten(1).T.cov().trace(), rtol=0.15, atol=0)
    # and they are fully degraded images: of their own summary
    again = model.degradation.spread(model.degradation.summary(codes)) if degradation == "pixelate" else codes
    torch.testing.assert_close(again, codes, rtol=0, atol=1e-5)
    other = model.draw_codes(2000, condition=torch.full((2000,), 0), generator=0)
    assert (other.mean(0) - ends.mean(0)).abs().max() > 0.1  # a law for each class


def test_symmetry_is_broken_by_noise_of_its_deviation():
    model, _, _ = fitted(degradation="mask", symmetry=0.05)
    codes = model.draw_codes(500, generator=0)
    assert codes.std().item() == pytest.approx(0.05, rel=0.03)  # 32,000 numbers: standard error 0.4 %
    quiet, _, _ = fitted(degradation="mask", symmetry=0.0)
    assert quiet.draw_codes(3, generator=0).abs().max() == 0


@pytest.mark.parametrize("degradation", list(DEGRADATIONS))
def test_contract(degradation):
    model, _, _ = fitted(degradation=degradation)
    check_model(model, load_data("digits"))
    assert {"samples", "encodes", "decodes", "trajectories"} <= set(capabilities(model))


def test_samples_are_codes_restored_and_trajectories_end_in_them():
    model, _, _ = fitted(degradation="blur", steps=5)
    for p in model.net.parameters():  # networks begin at 0
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    classes = torch.arange(4)
    with torch.no_grad():
        x = model.sample(4, condition=classes, generator=7)
        codes = model.draw_codes(4, condition=classes, generator=7)
        way = model.trajectory(4, frames=3, condition=classes, generator=7)
        assert torch.equal(x, model.decode(codes, condition=classes)) and torch.equal(way[0], codes)
        assert torch.equal(way[-1], x)
        naive = model.sample(4, condition=classes, generator=7, sampler="naive")
        assert (naive - x).abs().max() > 1e-3
        assert (model.sample(4, condition=classes, generator=7, steps=2) - x).abs().max() > 1e-4
        assert (model.decode(codes, condition=classes.flip(0)) - x).abs().max() > 1e-4  # the class is seen


def test_a_point_cloud_has_noise_and_fade():
    model = Cold(DataSpec("point", (2,)), degradation="noise", width=16, depth=1)
    assert model.sample(5, generator=0, steps=3).shape == (5, 2)
    with pytest.raises(UserError, match="is of images"):
        Cold(DataSpec("point", (2,)), degradation="blur")


def test_the_centre_of_a_mask_is_taken():
    model, x, classes = fitted(degradation="hard-mask", steps=4)
    model.predict = lambda x_t, t, *, condition=None, drop=None: x[:2]  # the truth
    centre = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    t = torch.full((2,), 0.5)
    y = model.degradation(x[:2], t, centre)
    torch.testing.assert_close(model.restore(y, 0.5, condition=classes[:2], given=centre), x[:2])
    assert (model.restore(y, 0.5, condition=classes[:2]) - x[:2]).abs().max() > 0.1  # whose centre is elsewhere


@pytest.mark.parametrize("degradation, t, better", [("blur", 0.6, 4.0), ("pixelate", 2 / 3, 18.0), ("mask", 0.5, 1.3)])
def test_digits_are_restored(degradation, t, better):
    # 150 updates, 1 s; measured over three seeds: 4.7, 24 and 1.5 times less squared error, or more
    torch.manual_seed(0)
    data = load_data("digits")
    x, held = data.units.to_model(data.train.codes), data.units.to_model(data.held_out.codes)
    model = Cold(data.spec, degradation=degradation, width=64, depth=2, steps=12)
    optimizer, rng = torch.optim.AdamW(model.net.parameters(), 3e-3), UpdateRng(torch.Generator().manual_seed(0))
    for i in range(150):
        rows = torch.randint(len(x), (96,))
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - i / 150)
        optimizer.zero_grad()
        model.loss(Batch(x[rows], data.train.condition[rows]), rng).total.backward()
        optimizer.step()
    with torch.no_grad():
        y = model.eval().encode(held, t=t)
        error = lambda found: (found - held).square().mean().item()  # noqa: E731
        improved, naive = error(model.restore(y, t)), error(model.restore(y, t, sampler="naive"))
        once = error(model.predict(y, torch.full((len(y),), t)))
    assert better * improved < error(y)
    assert improved < once < naive  # steps help, but not those of Algorithm 1


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"degradation": "blurr"}, "there is no degradation 'blurr'.*blur"),
        ({"coarsest": 0}, "coarsest = 0 was given"),
        ({"coarsest": 9}, "from 1 to the 8"),
        ({"symmetry": -0.1}, "symmetry = -0.1"),
        ({"symmetry": math.nan}, "symmetry = nan"),
        ({"condition_dropout": 1.0}, "condition_dropout is a share"),
        ({"sampler": "improve"}, "there is no sampler 'improve'.*improved"),
        ({"steps": 0}, "steps is the number"),
    ],
)
def test_bad_settings(settings, says):
    with pytest.raises(UserError, match=says):
        Cold(DIGITS, **settings)


def test_bad_input():
    model = Cold(DIGITS, width=8, depth=1, condition_dropout=0.0)
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(UserError, match=r"t = 1.5 was given.*above 0"):
        model.restore(x, 1.5)
    with pytest.raises(UserError, match=r"t = 0.0 was given"):
        model.restore(x, 0.0)
    with pytest.raises(UserError, match=r"t = -0.5 was given"):
        model.encode(x, t=-0.5)
    with pytest.raises(UserError, match=r"shape \(1, 8, 9\) were given"):
        model.restore(torch.zeros(2, 1, 8, 9))
    with pytest.raises(UserError, match="trained with class as condition"):
        model.restore(x)
    with pytest.raises(UserError, match="frames"):
        model.trajectory(2, frames=1)
    with pytest.raises(UserError, match="steps is the number"):
        model.sample(2, steps=0)
    with pytest.raises(UserError, match="there is no sampler"):
        model.sample(2, sampler="best")
