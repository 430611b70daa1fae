"""Bisection where the distribution function is none: both ends of the bracket are looked for in vain."""

import pytest
import torch

from pushforward.distributions.inverse_cdf import bisect
from pushforward.errors import UserError


def test_a_function_that_does_not_rise_from_0_to_1_is_an_error():
    low, high = (torch.tensor([u], dtype=torch.float64) for u in (0.3, 0.7))

    def upper(x: torch.Tensor) -> torch.Tensor:
        return 0.5 + 0.5 * (x > 0)

    with pytest.raises(UserError, match=r"never falls below 0\.3"):
        bisect(upper, low)
    with pytest.raises(UserError, match=r"never reaches 0\.7"):
        bisect(lambda x: 0.5 * (x > 0), high)
    assert abs(float(bisect(upper, high))) < 1e-300  # what it does reach is found
