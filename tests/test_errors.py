"""Checks that are said in a sentence."""

import math

import pytest

from pushforward.errors import UserError, checked_temperature


def test_temperatures():
    assert checked_temperature(0.3) == 0.3 and checked_temperature(2.0) == 2.0 and checked_temperature(0.0, zero=True) == 0.0
    for bad in (-1.0, math.nan, math.inf):
        for zero in (False, True):
            with pytest.raises(UserError, match=f"temperature = {bad} was given; it is finite and {'at' if zero else 'above'}"):
                checked_temperature(bad, zero)
    with pytest.raises(UserError, match="above 0"):
        checked_temperature(0.0)
