"""Grids of times, beside the formulas of those who proposed them."""

import math

import pytest
import torch

from pushforward.dynamics.paths import PATHS, noise_ratio
from pushforward.dynamics.spacings import SPACINGS, time_grid
from pushforward.errors import UserError

WHOLE = (0.0, 1.0)
DOUBLE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("span", [WHOLE, (1e-3, 0.995)], ids=["whole", "inner"])
def test_every_grid_falls_between_the_ends(path, spacing, span):
    for steps in (1, 2, 10, 50):
        times = time_grid(span, steps, spacing, path=path)
        assert times.shape == (steps + 1,) and times.dtype == torch.float32
        assert times[-1] == torch.tensor(span[0]) and times[0] <= span[1]
        assert times[0] == torch.tensor(span[1]) or spacing == "leading"
        assert (times.diff() <= 0).all() and (times.diff() < 0).sum() >= steps - 1


def test_even_grids():
    torch.testing.assert_close(time_grid((0.2, 0.9), 2), torch.tensor([0.9, 0.55, 0.2]))
    torch.testing.assert_close(time_grid(WHOLE, 3, "quadratic"), torch.tensor([1, 4 / 9, 1 / 9, 0]))
    assert time_grid(WHOLE, 7, like=DOUBLE).dtype == torch.float64


def test_karras_levels_are_edms():
    """sigma_i = (80^(1/7) + i / (N - 1) (0.002^(1/7) - 80^(1/7)))^7, then 0, where sigma / alpha ends at 0; on their own path,
    which ends at 0.002, that is the last level."""
    n, rho = 10, 7
    levels = [(80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(n)]
    truth = torch.tensor(levels, dtype=torch.float64)
    own = noise_ratio(PATHS["edm"], time_grid(WHOLE, n - 1, "karras", DOUBLE, path=PATHS["edm"]))
    torch.testing.assert_close(own, truth, rtol=1e-9, atol=0)
    line = noise_ratio(PATHS["linear"], time_grid(WHOLE, n, "karras", DOUBLE, path=PATHS["linear"]))
    torch.testing.assert_close(line[1:-1], truth[1:], rtol=1e-9, atol=0)  # in place of 80 there is t = 1, all noise
    assert line[0] == math.inf and line[-1] == 0


def test_log_snr_levels_are_a_geometric_sequence():
    path = PATHS["variance-preserving"]
    ratios = noise_ratio(path, time_grid((0.01, 0.9), 8, "log-snr", DOUBLE, path=path))
    torch.testing.assert_close(ratios.log().diff(), ratios.log().diff()[:1].expand(8), rtol=1e-9, atol=0)


def test_grids_of_a_diffusion_in_steps():
    """As in diffusers, whose k = 0 .. 999 is t = (k + 1) / 1000."""
    leading, trailing = (time_grid(WHOLE, 4, name, DOUBLE) * 1000 for name in ("leading", "trailing"))
    torch.testing.assert_close(leading, torch.tensor([751.0, 501, 251, 1, 0], dtype=torch.float64))
    torch.testing.assert_close(trailing, torch.tensor([1000.0, 750, 500, 250, 0], dtype=torch.float64))
    thirds = time_grid(WHOLE, 3, "trailing", DOUBLE) * 1000
    torch.testing.assert_close(thirds, torch.tensor([1000.0, 667, 333, 0], dtype=torch.float64))
    torch.testing.assert_close(time_grid(WHOLE, 2, "leading", levels=4), torch.tensor([0.75, 0.25, 0.0]))


def test_grids_that_cannot_be_are_refused():
    for steps in (0, -3):
        with pytest.raises(UserError, match=f"1 or more; {steps} was given"):
            time_grid(WHOLE, steps)
    with pytest.raises(UserError, match="quadratic"):
        time_grid(WHOLE, 3, "quadratc")
    with pytest.raises(UserError, match="give the path"):
        time_grid(WHOLE, 3, "karras")
    with pytest.raises(UserError, match="among the 10 of"):
        time_grid(WHOLE, 11, "trailing", levels=10)
