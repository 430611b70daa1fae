"""What columns draw and show: integers are logistic, and a gap that is likely is shown as one."""

import math

import pytest
import torch

from pushforward.data.spec import Column, DataSpec
from pushforward.distributions.columns import Columns
from pushforward.distributions.likelihoods import SCALES
from pushforward.randomness import UpdateRng


def test_integers_are_drawn_from_a_logistic_and_numbers_from_a_gaussian():
    """100 000 draws, standardised by the learned scale. Variances: pi^2 / 3 (standard error 0.6 %) and 1. Half of a logistic
    is within log 3 of its middle; of a Gaussian with the same variance it is 0.455 (standard error 0.0016)."""
    spec = DataSpec("table", (2,), columns=(Column("age", "number", integer=True, scale=10.0), Column("height", "number")))
    columns = Columns(spec)
    scale = torch.tensor([0.5, 2.0])
    with torch.no_grad():
        columns.raw.copy_(SCALES * torch.atanh(scale.log() / SCALES))
        middle = torch.tensor([3.0, -1.0])
        drawn = columns.sample(middle.expand(100_000, 1, 2), UpdateRng(torch.Generator().manual_seed(0)))
    standard = (drawn - middle) / scale
    integer, number = standard.double().var(0).tolist()
    assert integer == pytest.approx(math.pi**2 / 3, rel=4 * 0.006)
    assert number == pytest.approx(1.0, rel=4 * 0.0045)
    assert float((standard[:, 0].abs() < math.log(3)).float().mean()) == pytest.approx(0.5, abs=4 * 0.0016)


def test_a_likely_gap_is_shown_as_one():
    """The mean of a flag is its probability less a half: above 0 where the logit is, as `to_codes` reads it."""
    spec = DataSpec("table", (2,), columns=(Column("income", "number", missing=True),))
    shown = Columns(spec).mean(torch.tensor([[[1.5, 5.0]], [[1.5, -5.0]], [[1.5, 0.0]]]))
    high = 1 / (1 + math.exp(-5)) - 0.5
    torch.testing.assert_close(shown, torch.tensor([[1.5, high], [1.5, -high], [1.5, 0.0]]))
