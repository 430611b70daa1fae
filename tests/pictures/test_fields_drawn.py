"""Pictures of fields and of solvers: everything stands where it belongs, and points the right way."""

import numpy as np
import pytest

from pushforward.data.spec import DataSpec
from pushforward.pictures import grids
from pushforward.pictures.fields import (
    Field,
    draw_by_solver,
    draw_clouds_by_solver,
    draw_denoising,
    draw_fields,
    field_frames,
)

LIMITS = np.array([[-2.0, 2.0], [-2.0, 2.0]])


def field(t=0.5, peak=(1.0, 1.5), velocity=(0.0, 0.0), way=((0.0, 0.0),)):
    across = up = -2 + 4 * (np.arange(20) + 0.5) / 20
    density = np.exp(-8 * ((across[None] - peak[0]) ** 2 + (up[:, None] - peak[1]) ** 2))
    at = np.zeros((1, 1, 2))
    return Field(t, LIMITS, density, at, np.array(velocity).reshape(1, 1, 2), np.array(way)[:, None])


def coloured(pixels, wanted):
    """Mean (row, column), as shares of the picture, of the pixels near a colour."""
    near = np.abs(pixels.astype(int) - wanted).sum(-1) < 80
    assert near.any()
    return np.argwhere(near).mean(0) / pixels.shape[:2]


def test_density_is_drawn_where_it_is():
    (image,) = field_frames([field()])
    row, column = coloured(np.asarray(image), (0, 63, 102))  # the darkest blue
    assert column == pytest.approx((1.0 + 2) / 4, abs=0.03)
    assert row == pytest.approx(0.055 + 0.94 * (2 - 1.5) / 4, abs=0.03)  # below the title; up is up


@pytest.mark.parametrize("velocity, towards", [((3.0, 0.0), (0, -1)), ((0.0, 3.0), (1, 0)), ((0.0, -3.0), (-1, 0))])
def test_arrows_point_where_samples_go(velocity, towards):
    # t falls as samples are drawn: they go against the velocity; rows of a picture count downwards
    still, moving = (np.asarray(field_frames([field(velocity=v, way=((1.9, 1.9),))])[0]) for v in ((0, 0), velocity))
    at = np.argwhere(np.abs(still.astype(int) - moving).sum(-1) > 60).mean(0)
    middle = np.array(still.shape[:2]) * (0.055 / 2 + 0.5, 0.5)
    assert (at - middle) @ towards > 20
    assert abs((at - middle) @ np.array(towards)[::-1]) < 12


def test_ways_end_in_a_dot():
    (image,) = field_frames([field(peak=(-1.5, -1.5), way=((1.5, -1.0), (1.5, 1.5)))])
    pixels = np.asarray(image)
    orange = np.argwhere(pixels[..., 0].astype(int) - pixels[..., 2] > 80)
    rows = np.bincount(orange[:, 0], minlength=pixels.shape[0])
    dot = rows.argmax() / pixels.shape[0]  # wider than the line
    assert dot == pytest.approx(0.055 + 0.94 * 0.5 / 4, abs=0.03)
    assert orange[:, 0].max() / pixels.shape[0] == pytest.approx(0.055 + 0.94 * 3 / 4, abs=0.03)


def test_a_strip_has_a_panel_a_time():
    found = [field(t) for t in (1.0, 0.5, 0.0)]
    strip = draw_fields(found)
    assert strip.width == 1210
    assert len(field_frames(found)) == 3
    # a law of no width is no division by 0
    assert draw_fields([field(velocity=(0, 0))]).width > 500


SPEC = DataSpec("image", (1, 8, 8), levels=256)


def flat(*values):
    return np.stack([np.full((1, 8, 8), value, dtype=np.uint8) for value in values])


def test_solvers_are_rows_and_steps_are_columns():
    cells = {
        (solver, steps): flat(*(base + offset + np.arange(8)))
        for solver, base in (("ddim", 20), ("heun", 120))
        for steps, offset in ((5, 0), (50, 40))
    }
    picture = draw_by_solver(SPEC, cells, {("heun", 50): "Frechet 1.00"})
    pixels = np.asarray(picture)[..., 0].astype(int)
    size, block = 48, 4 * 50 - 2
    left = grids.MARGIN + int(max(grids.font(13, "Bold").getlength(name) for name in ("ddim", "heun"))) + 12
    top, down = grids.MARGIN + 24, 2 * 50 - 2 + 22 + 8
    for r, (solver, base) in enumerate((("ddim", 20), ("heun", 120))):
        for c, offset in enumerate((0, 40)):
            for i in range(8):
                y, x = top + r * down + i // 4 * 50, left + c * (block + 18) + i % 4 * 50
                assert (pixels[y : y + size, x : x + size] == base + offset + i).all(), (solver, c, i)
    plain = np.asarray(draw_by_solver(SPEC, cells))
    assert plain.shape[0] < pixels.shape[0]  # no room for what is not written
    below = pixels[top + down + 98 : top + down + 120]
    assert below[:, left + block + 18 :].min() < 150 and below[:, left : left + block].min() == 255  # one caption


def test_a_cell_that_is_not_there_stays_empty():
    cells = {("ddim", 5): flat(10, 10), ("ddim", 10): flat(10, 10), ("heun", 5): flat(10, 10)}
    pixels = np.asarray(draw_by_solver(SPEC, cells))[..., 0]
    assert (pixels == 10).sum() == 3 * 2 * 48**2


def test_noised_data_stand_over_what_is_expected_of_them():
    x, noised, expected = flat(10, 50), np.stack([flat(20, 21), flat(60, 61)]), np.stack([flat(30, 31), flat(70, 71)])
    pixels = np.asarray(draw_denoising(SPEC, x, noised, expected, (0.2, 0.8)))[..., 0].astype(int)

    def corner(value):  # of a tile: 48 pixels of one value in a line, which letters do not have
        found = pixels == value
        return tuple(int(np.flatnonzero(found.sum(axis) >= 48)[0]) for axis in (1, 0))

    (top, left), step = corner(10), 50  # one tile and the gap
    assert corner(20) == (top, left + step) and corner(21) == (top, left + 2 * step)
    assert corner(30) == (top + step, left + step) and corner(31) == (top + step, left + 2 * step)
    assert corner(50) == (top + 2 * step + grids.BAND, left) and corner(71)[0] == corner(50)[0] + step


def test_clouds_are_seen_in_the_window_of_the_data():
    real = np.random.default_rng(0).uniform(-1, 1, (100, 2))
    cells = {("heun", k): np.full((50, 2), (0.5, 0.5) if k == 5 else (40.0, 40.0)) for k in (5, 10)}
    pixels = np.asarray(draw_clouds_by_solver(cells, real, {("heun", 5): "Frechet 1"})).astype(int)
    row, column = coloured(pixels, (0, 114, 178))
    assert column < 0.5 and row < 0.5  # upper right of the left panel; what is far away is outside the right one
    assert column > 0.27
