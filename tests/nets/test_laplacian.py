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


@pytest.mark.parametrize("height, width", [(32, 32), (33, 47), (46, 39)])
def test_a_slope_is_no_detail(height, width):
    """Smaller and larger images lie on each other: of a ramp, bands hold nothing but what the border's pixels miss."""
    across, down = torch.arange(width, dtype=torch.float64), torch.arange(height, dtype=torch.float64)
    x = (0.7 * across - 0.3 * down[:, None])[None, None]
    finest, second, *_ = laplacian_pyramid(x)
    assert finest[..., 4:-4, 4:-4].abs().max() < 1e-9 and second[..., 6:-6, 6:-6].abs().max() < 1e-9


def test_the_finest_band_of_a_wave_is_what_blurring_takes():
    """Two blurs of variance 1 take 1 - (1 - w^2 / 2)^2, about w^2, of a wave's height, w = 2 pi / 32."""
    x = torch.cos(torch.arange(64, dtype=torch.float64) * 2 * torch.pi / 32).expand(1, 1, 64, 64)
    height = float(laplacian_pyramid(x)[0][..., 8:-8].square().mean().sqrt() / x[..., 8:-8].square().mean().sqrt())
    assert height == pytest.approx((2 * torch.pi / 32) ** 2, rel=0.05)


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
