"""Images that come as floating-point numbers are images, whatever their number of levels."""

import numpy as np
import pytest

from pushforward.data.fields import looks_like_a_field
from pushforward.data.loading import load_data

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("highest", [16, 255, 1000, 65535])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_numbers_as_floats_are_no_field(highest, dtype):
    """8 bits are not the only ones: scikit-learn's digits go to 16, a camera's numbers to 65535."""
    whole = RNG.integers(0, highest + 1, (20, 3, 4, 5)).astype(dtype)
    whole[0, 0, 0, :2] = 0, highest
    assert not looks_like_a_field(whole)
    assert looks_like_a_field(np.concatenate([whole - 3, whole + 0.25]))  # fractions outside of [-1, 1] are


@pytest.mark.parametrize(("highest", "levels"), [(16, 17), (255, 256)])
def test_whole_numbers_as_floats_load_as_images_with_their_levels(highest, levels):
    whole = RNG.integers(0, highest + 1, (20, 1, 4, 5)).astype(np.float32)
    whole[0, 0, 0, :2] = 0, highest
    spec = load_data(whole).spec
    assert (spec.kind, spec.shape, spec.levels) == ("image", (1, 4, 5), levels)


def test_fractions_of_8_bits_are_not_taken_for_a_field():
    """A resized image: 0 to 255 with digits behind the point, of which loading says what to do."""
    assert not looks_like_a_field(RNG.random((20, 3, 4, 5)) * 250)
