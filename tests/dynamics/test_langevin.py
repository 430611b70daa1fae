"""Langevin samplers: their stationary laws by calculation, Metropolis' invariance, rows on their own."""

import math

import pytest
import scipy.stats
import torch

from pushforward.distributions.known import Banana, Mixture, Ring
from pushforward.dynamics.langevin import annealed_langevin, geometric_ladder, langevin, mala
from pushforward.errors import UserError
from pushforward.randomness import SampleRng, UpdateRng

CHAINS = 4000
ON_A_LINE = Mixture.round([0.3, 0.7], [[-1.0], [1.5]], [0.5, 0.8])  # near enough for chains to cross


def normal_score(x):
    return -x


def normal_log_prob(x):
    return -x.flatten(1).square().sum(1) / 2


def updates(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def close_to_variance(x: torch.Tensor, variance: float) -> bool:
    """Of a Gaussian: the sample variance has relative standard error sqrt(2 / n); four of them."""
    return abs(float(x.double().square().mean()) / variance - 1) < 4 * (2 / x.numel()) ** 0.5


@pytest.mark.parametrize("step", [0.1, 0.5, 1.2])
def test_the_bias_of_ula_is_what_calculation_says_and_mala_has_none(step):
    """x' = (1 - h) x + sqrt(2 h) z is an autoregression of variance 2 h / (1 - (1 - h)^2) = 1 / (1 - h / 2)."""
    start = torch.zeros(CHAINS, 1)
    steps = math.ceil(8 / step) + 10
    ula = langevin(normal_score, start, updates(1), step=step, steps=steps).x
    assert close_to_variance(ula, 1 / (1 - step / 2))
    exact = mala(normal_log_prob, normal_score, start, updates(2), step=step, steps=2 * steps).x
    assert close_to_variance(exact, 1.0)
    assert scipy.stats.kstest(exact[:, 0].numpy(), "norm").pvalue > 1e-3
    if step >= 0.5:  # where the bias shows
        assert not close_to_variance(ula, 1.0) and scipy.stats.kstest(ula[:, 0].numpy(), "norm").pvalue < 1e-3


@pytest.mark.parametrize("density", [ON_A_LINE, Ring(3.0, 0.6), Banana(1.0, 0.4)], ids=["mixture", "ring", "banana"])
@pytest.mark.parametrize("step", [0.05, 0.6])
def test_mala_leaves_the_law_as_it_is(density, step):
    """Started in the law it stays in it, at a step where a third or more of the moves are refused, too."""
    start = density.sample(CHAINS, SampleRng(0))
    chains = mala(density.log_prob, density.score, start, updates(), step=step, steps=60)
    fresh = density.sample(CHAINS, SampleRng(1))
    assert not torch.equal(chains.x, start)
    for column in range(start.shape[1]):
        assert scipy.stats.ks_2samp(chains.x[:, column].numpy(), fresh[:, column].numpy()).pvalue > 1e-3
    if step == 0.6:
        assert float(chains.acceptance.mean()) < 0.9
        if isinstance(density, Banana):  # whose score grows like x^3: unadjusted steps run away
            with pytest.raises(UserError, match="ran away"):
                langevin(density.score, start, updates(), step=step, steps=60)
        else:
            biased = langevin(density.score, start, updates(), step=step, steps=60).x
            many = density.sample(10 * CHAINS, SampleRng(1))  # beside so few as `fresh` are the bias can go unseen
            assert scipy.stats.ks_2samp(biased[:, 0].numpy(), many[:, 0].numpy()).pvalue < 1e-3


def test_mala_comes_to_a_mixtures_law_from_elsewhere():
    chains = mala(ON_A_LINE.log_prob, ON_A_LINE.score, torch.zeros(CHAINS, 1), updates(), step=0.3, steps=300)
    law = ON_A_LINE.sample(CHAINS, SampleRng(1))
    assert scipy.stats.ks_2samp(chains.x[:, 0].numpy(), law[:, 0].numpy()).pvalue > 1e-3


def test_acceptance_nears_one_with_small_steps():
    """On N(0, 1) in equilibrium the mean refusal is of order h^(3/2)."""
    start = torch.randn(CHAINS, 1)
    rates = [
        1 - float(mala(normal_log_prob, normal_score, start, updates(), step=h, steps=50).acceptance.mean())
        for h in (0.4, 0.1, 0.001)
    ]
    assert rates[2] < 1e-3
    assert rates[0] / rates[1] == pytest.approx(4**1.5, rel=0.25)


def test_mala_of_images_and_of_bounded_supports():
    """Any shape; and a proposal without density is refused: uniform on the unit square stays uniform."""

    def log_prob(x):
        inside = ((x >= 0) & (x <= 1)).flatten(1).all(1)
        return torch.where(inside, 0.0, -math.inf)

    start = torch.rand(CHAINS, 1, 2, 1)
    chains = mala(log_prob, torch.zeros_like, start, updates(), step=0.05, steps=50)
    assert chains.x.shape == start.shape and scipy.stats.kstest(chains.x[:, 0, 1, 0].numpy(), "uniform").pvalue > 1e-3
    with pytest.raises(UserError, match="inside the support"):
        mala(log_prob, torch.zeros_like, start + 2, updates(), step=0.05, steps=5)


def test_annealed_ends_in_the_law_of_the_last_level():
    """Of N(0, 0.7^2) the law at the end is N(0, 0.7^2 + 0.3^2), up to a step of 0.05 * 0.09."""

    def score(x, sigma):
        return -x / (0.7**2 + sigma**2)

    start = 5 * torch.rand(CHAINS, 1)
    x = annealed_langevin(score, start, updates(), sigmas=geometric_ladder(3, 0.3, 8), step=0.05, steps=150).x
    h = 0.05 * 0.3**2
    assert close_to_variance(x, 0.58 / (1 - h / 1.16))
    assert abs(float(x.mean())) < 4 * (0.58 / CHAINS) ** 0.5


def test_the_step_of_a_level_is_in_units_of_its_noise():
    """At one level of sigma = 2 a step of 0.1 is h = 0.4, which makes N(0, 1 / (1 - h / 2)) of N(0, 1)."""
    x = annealed_langevin(lambda x, sigma: -x, torch.zeros(CHAINS, 1), updates(), sigmas=[2.0], step=0.1, steps=40).x
    assert close_to_variance(x, 1.25)


def run(name: str, x: torch.Tensor, rng: SampleRng, steps: int = 7) -> torch.Tensor:
    if name == "langevin":
        return langevin(normal_score, x, rng, step=0.2, steps=steps).x
    if name == "mala":
        return mala(normal_log_prob, normal_score, x, rng, step=0.9, steps=steps).x
    return annealed_langevin(lambda x, s: -x / (1 + s**2), x, rng, sigmas=[2.0, 1.0], step=0.1, steps=steps).x


@pytest.mark.parametrize("name", ["langevin", "mala", "annealed"])
def test_a_row_does_not_depend_on_the_others(name):
    x = torch.randn(12, 3, 2)
    every = run(name, x, SampleRng(4))
    torch.testing.assert_close(run(name, x[5:6], SampleRng(4, first=5)), every[5:6], rtol=0, atol=0)
    torch.testing.assert_close(run(name, x[:3], SampleRng(4)), every[:3], rtol=0, atol=0)


def test_trajectories_begin_and_end_where_the_chains_do():
    x = torch.randn(5, 2)
    plain = langevin(normal_score, x, SampleRng(0), step=0.1, steps=10, record=4)
    assert plain.trajectory.shape == (4, 5, 2)  # 0, 4, 8, 10
    torch.testing.assert_close(plain.trajectory[0], x)
    torch.testing.assert_close(plain.trajectory[-1], plain.x)
    torch.testing.assert_close(plain.trajectory[1], langevin(normal_score, x, SampleRng(0), step=0.1, steps=4).x)
    adjusted = mala(normal_log_prob, normal_score, x, SampleRng(0), step=0.1, steps=10, record=5)
    assert adjusted.trajectory.shape == (3, 5, 2) and adjusted.acceptance.shape == (5,)
    ladder = annealed_langevin(lambda x, s: -x, x, SampleRng(0), sigmas=[1.0, 0.5], steps=3, record=True)
    assert ladder.trajectory.shape == (3, 5, 2)
    torch.testing.assert_close(ladder.trajectory[-1], ladder.x)
    assert langevin(normal_score, x, SampleRng(0), step=0.1, steps=1).trajectory is None


def test_mistakes_are_said():
    x = torch.ones(3, 1)
    with pytest.raises(UserError, match="ran away to infinity: step=3"):
        langevin(normal_score, x, updates(), step=3.0, steps=2000)
    for arguments in ({"step": -0.1, "steps": 5}, {"step": 0.1, "steps": 0}):
        with pytest.raises(UserError, match="above 0"):
            langevin(normal_score, x, updates(), **arguments)
    for sigmas in ([], [0.1, 1.0], [1.0, 0.0]):
        with pytest.raises(UserError, match="noise levels"):
            annealed_langevin(lambda x, s: -x, x, updates(), sigmas=sigmas)
    with pytest.raises(UserError, match="ladder"):
        geometric_ladder(0.1, 1.0, 5)
