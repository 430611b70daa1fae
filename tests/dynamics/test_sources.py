"""Laws at t = 1 other than the normal."""

import pytest
import torch

from pushforward.data import toys
from pushforward.data.spec import DataSpec
from pushforward.dynamics.sources import Rows, find_source
from pushforward.errors import UserError
from pushforward.randomness import SampleRng

POINTS = DataSpec("point", (2,), name="points")


def test_a_toy_is_standardised_as_data_are_and_drawn_row_by_row():
    source = find_source("eight-gaussians", POINTS)
    z = source.draw(20_000, SampleRng(0))
    # five standard errors of 20,000 draws; the columns are rounded to three places of 2
    assert z.mean(0).abs().max() < 5 / 20_000**0.5 and (z.std(0) - 1).abs().max() < 0.02
    assert torch.equal(source.draw(3, SampleRng(0, first=5)), z[5:8])
    # whole blobs: distances from the nearest centre are those of a round Gaussian
    own = z * torch.tensor([c.scale for c in toys.columns("eight-gaussians")])
    near = torch.cdist(own, toys.mode_centres("eight-gaussians")).min(1).values.square().mean()
    assert abs(float(near) - 2 * toys.mode_sd("eight-gaussians") ** 2) < 0.01


def test_the_density_of_a_toy_integrates_to_one():
    axis = torch.linspace(-4, 4, 120, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mass = find_source("eight-gaussians", POINTS).log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(mass) - 1) < 1e-3


def test_the_normal_is_the_rows_own_noise():
    source = find_source("normal", DataSpec("image", (1, 4, 3)))
    assert torch.equal(source.draw(5, SampleRng(2)), SampleRng(2).randn(5, 1, 4, 3))
    assert float(source.log_prob(torch.zeros(1, 2))) == pytest.approx(-1.8379, abs=1e-4)


def test_samples_and_functions():
    rows = torch.arange(12.0).reshape(6, 2)
    drawn = find_source(Rows(rows), POINTS).draw(3_000, SampleRng(1))
    counts = (drawn[:, None] == rows).all(-1).sum(0)
    assert counts.sum() == 3_000 and (counts - 500).abs().max() < 5 * (3_000 * 5 / 36) ** 0.5
    ones = find_source(lambda n, rng: torch.ones(n, 2), POINTS)
    assert torch.equal(ones.draw(2, SampleRng(0)), torch.ones(2, 2))
    with pytest.raises(UserError, match="draws alone"):
        ones.log_prob(torch.ones(2, 2))


def test_bad_input():
    with pytest.raises(UserError, match="moons"):
        find_source("moon", POINTS)
    with pytest.raises(UserError, match="two numbers"):
        find_source("moons", DataSpec("point", (3,)))
    with pytest.raises(UserError, match="such rows"):
        find_source(Rows(torch.zeros(4, 3)), POINTS)
