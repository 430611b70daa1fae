"""Every pixel of a grid is where it should be and has the value that it should."""

import numpy as np
import pytest

from pushforward.data.spec import DataSpec
from pushforward.pictures.grids import (
    CHECKER,
    DARK,
    GAP,
    LIGHT,
    MARGIN,
    image_grid,
    single_image,
    tile_scale,
    to_rgb,
    wide_columns,
    wrapped,
)


def codes(n: int, shape: tuple[int, int, int], levels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels, (n, *shape))


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (3, 9, 4)])
def test_pixels_are_exact_and_in_place(levels, shape):
    spec, x, scale, columns = DataSpec("image", shape, levels=levels), codes(7, shape, levels), 3, 3
    picture = np.asarray(image_grid(x, spec, columns=columns, scale=scale)).astype(int)
    _, height, width = shape
    assert picture.shape == (
        2 * MARGIN + 3 * height * scale + 2 * GAP,
        2 * MARGIN + 3 * width * scale + 2 * GAP,
        3,
    )
    seen = np.zeros(picture.shape[:2], dtype=bool)
    for i, image in enumerate(x):
        top = MARGIN + (i // columns) * (height * scale + GAP)
        left = MARGIN + (i % columns) * (width * scale + GAP)
        place = np.s_[top : top + height * scale, left : left + width * scale]
        # The nearest of 256 levels: exact for 2 and 256, and 17 and 65536 rounded to half a level.
        wanted = np.broadcast_to(image.transpose(1, 2, 0), (height, width, 3)) * (255 / (levels - 1))
        error = np.abs(picture[place] - wanted.repeat(scale, 0).repeat(scale, 1))
        assert error.max() <= (1e-9 if levels in (2, 256) else 0.5)
        seen[place] = True
    assert (picture[~seen] == 255).all()  # white between and around, and where the eighth and ninth would be


def test_known_levels():
    assert to_rgb(np.array([[[0, 4, 8, 16]]]), 17)[0, :, 0].tolist() == [0, 64, 128, 255]
    assert to_rgb(np.array([[[0, 257, 32768, 65535]]]), 65536)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_composited_over_the_board(channels):
    x = np.zeros((3, channels, 16, 16), dtype=int)
    x[:, :-1] = 100
    x[:, -1] = np.array([0, 255, 51])[:, None, None]  # clear, opaque, a fifth
    picture = np.asarray(image_grid(x, DataSpec("image", (channels, 16, 16), levels=256), columns=3, scale=1)).astype(int)
    clear, opaque, fifth = (picture[MARGIN : MARGIN + 16, MARGIN + k * (16 + GAP) :][:, :16] for k in range(3))
    assert (opaque == 100).all()
    assert clear[0, 0].tolist() == [LIGHT] * 3 and clear[0, CHECKER].tolist() == [DARK] * 3
    assert fifth[0, 0, 0] == round(20 + 0.8 * LIGHT) and fifth[0, CHECKER, 0] == round(20 + 0.8 * DARK)


def test_labels_stand_left_and_move_the_images():
    spec, x = DataSpec("image", (1, 8, 8), levels=17), codes(4, (1, 8, 8), 17)
    bare = np.asarray(image_grid(x, spec, columns=2, scale=5))
    labelled = np.asarray(image_grid(x, spec, columns=2, scale=5, row_labels=["zero", "one"]))
    more = labelled.shape[1] - bare.shape[1]
    assert more > 20
    assert np.array_equal(labelled[:, more + MARGIN :], bare[:, MARGIN:])
    assert labelled[:, :more].min() < 100


@pytest.mark.parametrize(("side", "scale"), [(8, 6), (16, 3), (28, 2), (32, 2), (64, 1), (512, 1)])
def test_comfortable_sizes(side, scale):
    assert tile_scale(DataSpec("image", (1, side, side))) == scale
    for n in (1, 2, 7, 36, 64, 100):
        columns = wide_columns(n, side * scale)
        assert 1 <= columns <= min(n, 16) and columns * side * scale <= 1200 + side


def test_wide_columns_fill_rows():
    assert [wide_columns(n, 48) for n in (64, 100, 36, 10)] == [16, 10, 9, 5]


def test_wrapped_keeps_the_text():
    assert wrapped("to be\nor not\tto be\x00", 8, 9) == ["to be", "or not  ", "to be·"]
    assert wrapped("a\n" * 20, 8, 3) == ["a", "a", "…"]


def test_a_single_image_is_its_own_pixels():
    """What is written for one datum reads back as the datum: 8 bits in 1 to 4 channels, and 16 bits."""
    rng = np.random.default_rng(0)
    for channels, mode in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")):
        codes = rng.integers(0, 256, (channels, 5, 7))
        image = single_image(codes, DataSpec("image", (channels, 5, 7), levels=256))
        back = np.asarray(image)
        assert image.mode == mode and np.array_equal(back if channels == 1 else back.transpose(2, 0, 1), codes.squeeze())
    deep = rng.integers(0, 65536, (1, 5, 7))
    assert np.array_equal(np.asarray(single_image(deep, DataSpec("image", (1, 5, 7), levels=65536))), deep[0])
