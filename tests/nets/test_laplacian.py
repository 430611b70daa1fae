"""The Laplacian pyramid is another way to write an image, and its distance weighs every scale alike."""

import pytest
import torch

from pushforward.nets.pyramid import enlarged, laplacian_error, laplacian_pyramid


@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (2, 3, 17, 40), (1, 2, 3, 9), (5, 4, 1, 1)])
def test_its_bands_add_up_to_the_image(shape):
    x = torch.randn(shape, dtype=torch.float64)
    *bands, image = laplacian_pyramid(x)
    for band in reversed(bands):
        image = enlarged(image, band) + band
    torch.testing.assert_close(image, x)


def test_a_constant_has_no_details():
    x = torch.full((1, 1, 16, 16), 0.7, dtype=torch.float64)
    *bands, rest = laplacian_pyramid(x)
    assert all(float(band.abs().max()) < 1e-12 for band in bands)
    torch.testing.assert_close(rest, torch.full_like(rest, 0.7))


def test_a_shift_of_all_pixels_costs_the_area_times_itself():
    """All of it is in the coarsest image, whose 4^j weight makes up for the pixels that it lacks."""
    x = torch.rand(3, 2, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(laplacian_error(x + 0.5, x), torch.full((3,), 0.5 * 2 * 16 * 16, dtype=torch.float64))


def test_a_blurred_edge_costs_more_than_by_its_pixels():
    """What GLO wants of it: of two errors with one sum of absolute values, that in one place costs less than a wide one, and
    noise, whose scales cancel, less than either."""
    zero = torch.zeros(1, 1, 16, 16)
    spot, wide = zero.clone(), torch.full_like(zero, 1 / 256)
    spot[..., 8, 8] = 1.0
    board = wide * (1 - 2 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2))
    costs = [float(laplacian_error(x, zero)) for x in (board, wide, spot)]
    assert costs[0] == pytest.approx(1.0, rel=0.35) and costs[1] == pytest.approx(1.0)
    assert costs[2] > 1.5
