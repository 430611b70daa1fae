"""The toys' densities integrate to 1, agree with their samples, and their streams are functions of the index."""

import numpy as np
import pytest
import torch

from pushforward.data import toys
from pushforward.data.batches import STREAM
from pushforward.data.loading import load_data
from pushforward.errors import UserError

WIDE = [name for name in toys.NAMES if name not in ("ring8", "grid25")]


def grid(half: float, n: int) -> tuple[torch.Tensor, float]:
    """Midpoints of a square, and the area of a cell."""
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 * half - half
    return torch.cartesian_prod(axis, axis), (2 * half / n) ** 2


@pytest.mark.parametrize("name", WIDE)
def test_density_integrates_to_one(name):
    # midpoint rule: spectrally accurate for smooth densities that vanish at the border; exact for the checkerboard,
    # whose squares are whole cells. The pinwheel's folds lie beyond 14 standard deviations of most of its mass.
    points, area = grid(5.0 if name != "checkerboard" else 4.0, 160)
    mass = toys.log_density(name, points).exp().sum() * area
    assert abs(float(mass) - 1) < 1e-4


@pytest.mark.parametrize("name", ["ring8", "grid25"])
def test_narrow_density_integrates_to_one_over_a_mode(name):
    centre, sd, modes = toys.mode_centres(name)[3].double(), toys.mode_sd(name), len(toys.mode_centres(name))
    points, area = grid(8 * sd, 160)
    mass = toys.log_density(name, points + centre).exp().sum() * area
    assert abs(float(mass) * modes - 1) < 1e-6


@pytest.mark.parametrize("name", toys.NAMES)
def test_samples_agree_with_density(name):
    """On coarse cells the samples' frequencies are the density's mass: chi-square over degrees of freedom near 1."""
    n, cells, fine = 40_000, 16, 10
    half = {"ring8": 1.1, "grid25": 4.3, "checkerboard": 4.0}.get(name, 5.0)
    x = toys.ToyStream(name, 12345).fetch(torch.arange(n))[0].numpy()
    if name in ("ring8", "grid25"):  # too narrow for a grid: compare mean log-density with the entropy of the mixture
        entropy = np.log(len(toys.mode_centres(name))) + np.log(2 * np.pi * np.e * toys.mode_sd(name) ** 2)
        assert abs(float(toys.log_density(name, torch.from_numpy(x)).mean()) + entropy) < 5 / np.sqrt(n)  # variance 1
        return
    points, area = grid(half, cells * fine)
    mass = (toys.log_density(name, points).exp() * area).reshape(cells, fine, cells, fine).sum((1, 3)).numpy()
    counts = np.histogram2d(x[:, 0], x[:, 1], bins=cells, range=[[-half, half]] * 2)[0]
    used = mass * n > 10
    chi2 = ((counts - mass * n)[used] ** 2 / (mass * n)[used]).mean()
    assert counts[mass * n < 1e-9].sum() == 0
    assert chi2 < 1 + 5 * np.sqrt(2 / used.sum())  # five standard deviations of a reduced chi-square


@pytest.mark.parametrize("name", toys.NAMES)
def test_stream_is_a_function_of_indices(name):
    data = load_data(name, seed=3)
    assert len(data.train) == STREAM and len(data.test) == 10_000
    index = torch.tensor([5, 2**50, 0, 5])
    x, condition = data.train.fetch(index)
    assert condition is None and x.dtype == torch.float32 and torch.equal(x[0], x[3])
    assert torch.equal(x[1:2], data.train.fetch(index[1:2])[0])
    assert torch.equal(x, load_data(name, seed=3).train.fetch(index)[0])
    assert not torch.equal(x, load_data(name, seed=4).train.fetch(index)[0])
    assert torch.isfinite(data.log_density(data.test.codes)).all()
    model = data.units.to_model(data.test.codes)
    assert model.mean(0).abs().max() < 0.06 and (model.std(0) - 1).abs().max() < 0.06  # 10,000 draws: 6 standard errors


def test_fixed_set_and_modes():
    data = load_data("grid25", n=1000, test=0.3)
    assert (len(data.train), len(data.validation), len(data.test)) == (600, 100, 300)
    assert data.source == {"source": "grid25", "n": 1000, "validation": 0.1, "test": 0.3, "seed": 0}
    centres = toys.mode_centres("grid25")
    nearest = torch.cdist(data.train.codes, centres).min(1)
    assert nearest.values.max() < 0.05 * 6 and len(nearest.indices.unique()) == 25
    with pytest.raises(UserError, match="no separate modes"):
        toys.mode_centres("moons")
    with pytest.raises(UserError, match="means nothing for the points of 'moons'"):
        load_data("moons", size=8)
