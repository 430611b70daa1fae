"""Eigen-images: where the mean is, how directions are stretched, and that sets stand side by side."""

import numpy as np
import pytest

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.pictures import grids
from pushforward.pictures.eigen import draw_eigen_images, draw_truncations


def test_the_mean_and_stretched_directions():
    spec = DataSpec("image", (1, 2, 3), levels=17)
    directions = np.zeros((2, 1, 2, 3))
    directions[0, 0, 0, 0], directions[1, 0, 1, 2] = 0.01, -5.0
    expected = np.full((3, 1, 2, 3), 128, np.uint8)
    expected[0] = 0
    expected[1, 0, 0, 0], expected[2, 0, 1, 2] = 255, 0
    drawn = draw_eigen_images(spec, -np.ones((1, 2, 3)), directions)
    shown = grids.image_grid(expected, DataSpec("image", (1, 2, 3), levels=256))
    assert np.array_equal(np.asarray(drawn), np.asarray(shown))


@pytest.mark.parametrize("channels", [1, 3])
def test_sets_stand_side_by_side(channels):
    spec = DataSpec("image", (channels, 5, 4), levels=256)
    few, many = np.zeros((12, channels, 5, 4), np.uint8), np.full((12, channels, 5, 4), 255, np.uint8)
    one = draw_truncations(spec, {20: few})
    assert draw_truncations(spec, {20: few, 100: many}).width > 1.9 * one.width


def test_other_data_have_no_eigen_images():
    with pytest.raises(UserError, match="point"):
        draw_eigen_images(DataSpec("point", (2,)), np.zeros(2), np.zeros((1, 2)))
