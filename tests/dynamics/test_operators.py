"""Operators: adjoint, pseudo-inverse and spectrum against the matrix that each is; scipy's blurs, Pillow's JPEG."""

import io
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from pushforward.dynamics.operators import (
    JPEG,
    CircularBlur,
    Composition,
    DownSample,
    Grey,
    Mask,
    ReflectedBlur,
    gaussian_kernel,
    hidden_box,
    hidden_half,
    hidden_pixels,
    motion_kernel,
)
from pushforward.errors import UserError

SHAPE = (3, 8, 6)


def outer(sigma):
    return gaussian_kernel(sigma)[:, None] * gaussian_kernel(sigma)


def ones_of_a_kind(shape=SHAPE):
    """Every linear operator, none of whose singular values but 0 is cut off."""
    half = DownSample(shape, 2)
    yield "box", hidden_box(shape, 1, 2, 3, 3)
    yield "pixels", hidden_pixels(shape, 0.4, seed=3)
    yield "half", hidden_half(shape, "left")
    yield "down-sample", half
    yield "grey", Grey(shape)
    yield "circular", CircularBlur(shape, outer(0.5))
    yield "motion", CircularBlur(shape, motion_kernel(2.5, 30.0))
    yield "circular, of no symmetry", CircularBlur(shape, torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.7, 0.15], [0.0, 0.05, 0.0]]))
    yield "reflected", ReflectedBlur(shape, gaussian_kernel(0.5), gaussian_kernel(0.6))
    yield "reflected, of no symmetry", ReflectedBlur(shape, torch.tensor([0.1, 0.7, 0.2]), torch.tensor([0.0, 0.8, 0.2]))
    yield "grey, down-sample", Composition(Grey(shape), DownSample((1, *shape[1:]), 2))
    yield "down-sample, mask", Composition(half, hidden_box(half.measured, 0, 0, 2, 2))
    blur = ReflectedBlur(shape, gaussian_kernel(0.6), gaussian_kernel(0.6))
    yield "blur, down-sample", Composition(blur, half)
    yield "blur, mask", Composition(blur, hidden_box(shape, 2, 2, 3, 3))
    yield "three", Composition(Composition(Grey(shape), DownSample((1, 8, 6), 2)), hidden_box((1, 4, 3), 0, 0, 2, 2))


OPERATORS = dict(ones_of_a_kind())


def matrix(operator):
    """A (m, n), column by column."""
    size = math.prod(operator.shape)
    return operator(torch.eye(size, dtype=torch.float64).view(size, *operator.shape)).flatten(1).T


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_pseudo_inverse_and_spectrum_are_those_of_the_matrix(name):
    operator = OPERATORS[name]
    a = matrix(operator)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *operator.shape, dtype=torch.float64, generator=generator)
    y = torch.randn(2, *operator.measured, dtype=torch.float64, generator=generator)
    assert operator(x).shape == y.shape and operator.picture(y).shape == x.shape
    # rounding in float64; the pseudo-inverse divides by singular values of 0.1 and more
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), y.flatten(1) @ a, rtol=0, atol=1e-12)
    pinv = torch.linalg.pinv(a, rtol=1e-2)
    torch.testing.assert_close(operator.pseudo_inverse(y).flatten(1), y.flatten(1) @ pinv.T, rtol=0, atol=1e-9)
    torch.testing.assert_close(operator(operator.pseudo_inverse(operator(x))), operator(x), rtol=0, atol=1e-9)
    scale = torch.tensor([0.3, 2.0], dtype=torch.float64).view(2, 1, 1, 1)  # its own for each row
    found = operator.spectral(lambda e: 1 / (scale * e + 0.1), y)
    gram = a @ a.T
    identity = torch.eye(len(a), dtype=torch.float64)
    both = zip(scale.flatten(), y.flatten(1), strict=True)
    expected = torch.stack([torch.linalg.solve(s * gram + 0.1 * identity, row) for s, row in both])
    torch.testing.assert_close(found.flatten(1), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name", sorted(OPERATORS.keys() - {"box", "pixels", "half", "three", "down-sample, mask", "blur, mask"})
)
def test_a_flat_image_is_measured_as_it_is(name):
    operator = OPERATORS[name]
    flat = torch.full((1, *operator.shape), 0.7, dtype=torch.float64)
    torch.testing.assert_close(operator(flat), torch.full((1, *operator.measured), 0.7, dtype=torch.float64))
    torch.testing.assert_close(operator.picture(operator(flat)), flat)


def test_masks_hide_what_they_say():
    box = hidden_box((2, 4, 5), 1, 2, 2, 3)
    expected = torch.ones(2, 4, 5)
    expected[:, 1:3, 2:5] = 0
    torch.testing.assert_close(box(torch.ones(1, 2, 4, 5))[0], expected)
    assert hidden_half((1, 5, 4), "bottom").known[0, :, 0].tolist() == [True, True, False, False, False]
    assert hidden_half((1, 5, 4), "top").known[0, :, 0].tolist() == [False, False, False, True, True]
    assert hidden_half((1, 4, 5), "left").known[0, 0].tolist() == [False, False, False, True, True]
    assert hidden_half((1, 4, 5), "right").known[0, 0].tolist() == [True, True, False, False, False]
    pixels = hidden_pixels((3, 10, 10), 0.3, seed=1).known
    assert (~pixels[0]).sum() == 30 and (pixels == pixels[:1]).all()
    assert (pixels == hidden_pixels((3, 10, 10), 0.3, seed=1).known).all()
    assert (pixels != hidden_pixels((3, 10, 10), 0.3, seed=2).known).any()


@pytest.mark.parametrize("boundary", ["wrap", "reflect"])
def test_blurs_are_scipys(boundary):
    """scipy's "reflect" repeats the edge pixel, as ours; its `convolve` turns the kernel round, as a blur does."""
    x = torch.randn(1, 1, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, columns = torch.tensor([0.1, 0.6, 0.3]).double(), torch.tensor([0.2, 0.1, 0.4, 0.1, 0.2]).double()
    kernel = rows[:, None] * columns
    ours = CircularBlur((1, 9, 8), kernel) if boundary == "wrap" else ReflectedBlur((1, 9, 8), rows, columns)
    theirs = scipy.ndimage.convolve(x[0, 0].numpy(), kernel.numpy(), mode=boundary)
    np.testing.assert_allclose(ours(x)[0, 0].numpy(), theirs, atol=1e-12)


def test_kernels_have_the_width_and_the_direction_that_they_say():
    kernel = gaussian_kernel(1.5)
    at = torch.arange(len(kernel)).double() - len(kernel) // 2
    assert kernel.sum().item() == pytest.approx(1) and (kernel * at).sum().item() == pytest.approx(0)
    assert (kernel * at**2).sum().sqrt().item() == pytest.approx(1.5, rel=0.02)  # cut at 3 sigma
    for angle in (0.0, 30.0, 90.0, 135.0):
        kernel = motion_kernel(9.0, angle)
        at = torch.arange(len(kernel)).double() - len(kernel) // 2
        up, right = -at[:, None], at[None]
        xx, yy, xy = ((kernel * part).sum() for part in (right**2 + 0 * up, up**2 + 0 * right, up * right))
        assert kernel.sum().item() == pytest.approx(1)
        # the covariance of a line: its principal direction is the angle, its length^2 / 12 and what pixels add
        direction = math.degrees(0.5 * math.atan2(2 * xy, xx - yy)) % 180
        assert direction == pytest.approx(angle, abs=0.5)
        assert (xx + yy).item() == pytest.approx(64 / 12, abs=0.5)


@pytest.mark.parametrize("name", ["circular", "reflected"])
def test_directions_that_a_blur_hides_are_left_alone(name):
    """A^+ A is then the projection on those that it shows: symmetric, idempotent, and within the image's own size."""
    wide = gaussian_kernel(1.6)[1:-1]
    shape = (1, 12, 12)
    operator = CircularBlur(shape, wide[:, None] * wide / wide.sum() ** 2) if name == "circular" else None
    operator = operator or ReflectedBlur(shape, wide / wide.sum(), wide / wide.sum())
    units = torch.eye(144, dtype=torch.float64).view(144, *shape)
    projection = operator.pseudo_inverse(operator(units)).flatten(1)
    torch.testing.assert_close(projection, projection.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(projection @ projection, projection, rtol=0, atol=1e-10)
    assert 10 < projection.trace() < 130
    assert torch.linalg.matrix_norm(operator.pseudo_inverse(units).flatten(1), 2) < 100.001  # 1 / SMALLEST^(1/2)


@pytest.mark.parametrize(
    ("channels", "quality", "share"), [(1, 10, 0.04), (1, 50, 0.07), (3, 10, 0.1), (3, 50, 0.2), (3, 90, 0.4)]
)
def test_jpeg_is_pillows(channels, quality, share):
    """libjpeg rounds the levels that it gives out, by 0.25 on average, and works in whole numbers: colours are rounded before
    the cosines, which now and then turns a coefficient to the next multiple. Beside what JPEG loses, both are little."""
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(
        torch.randn(1, channels, 6, 8, generator=generator) * 0.3, size=(32, 48), mode="bicubic"
    )
    levels = (((x + 0.05 * torch.randn(x.shape, generator=generator)).clamp(-0.95, 0.95) + 1) * 127.5).round()
    file = io.BytesIO()
    pixels = levels[0].byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "JPEG", quality=quality, subsampling=0)
    theirs = torch.from_numpy(np.array(Image.open(file))).float().view(32, 48, channels).permute(2, 0, 1)
    jpeg = JPEG((channels, 32, 48), quality)
    ours = ((jpeg(levels / 127.5 - 1)[0] + 1) * 127.5).clamp(0, 255)
    assert (ours - theirs).abs().mean() < share * (theirs - levels[0]).abs().mean()
    if channels == 1:
        assert (ours - theirs).abs().max() < 0.6
    y = jpeg(levels.double() / 127.5 - 1)
    torch.testing.assert_close(jpeg(jpeg.pseudo_inverse(y)), y, rtol=0, atol=1e-9)


def test_jpeg_after_a_linear_operator_has_the_spectrum_of_that():
    first = DownSample((3, 16, 16), 2)
    both = Composition(first, JPEG((3, 8, 8), 30))
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = both(x)
    torch.testing.assert_close(both.pseudo_inverse(y), first.pseudo_inverse(y))
    torch.testing.assert_close(both(both.pseudo_inverse(y)), y, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mask(torch.ones(1, 4, 4, dtype=torch.bool)), "hides nothing"),
        (lambda: Mask(torch.zeros(1, 4, 4, dtype=torch.bool)), "hides all"),
        (lambda: hidden_box((1, 8, 8), 4, 4, 5, 2), "not within an image of 8 x 8"),
        (lambda: hidden_box((16,), 4, 4, 5, 2), "operators measure images"),
        (lambda: hidden_pixels((1, 8, 8), 1.0), "between 0 and 1"),
        (lambda: DownSample((1, 8, 6), 4), "8 x 6 pixels; give a factor of at least 2 that divides both"),
        (lambda: DownSample((1, 8, 6), 1), "at least 2"),
        (lambda: Grey((1, 8, 8)), "grey already"),
        (lambda: Grey((3, 8, 8), (0.5, 0.5)), "one for each"),
        (lambda: gaussian_kernel(-1.0), "above 0"),
        (lambda: motion_kernel(0.5), "above 1"),
        (lambda: CircularBlur((1, 5, 5), torch.ones(7, 7) / 49), "does not fit images of 5 x 5"),
        (lambda: CircularBlur((1, 5, 5), torch.ones(2, 2) / 4), "odd"),
        (lambda: ReflectedBlur((1, 5, 5), torch.ones(4) / 4, torch.ones(1)), "odd"),
        (lambda: ReflectedBlur((1, 3, 3), torch.ones(7) / 7, torch.ones(1)), "does not fit"),
        (lambda: JPEG((3, 8, 8), 0), "from 1 to 100"),
        (lambda: JPEG((3, 12, 8), 50), "blocks of 8 x 8"),
        (lambda: Composition(JPEG((1, 8, 8), 50), DownSample((1, 8, 8), 2)), "let it be the last"),
        (lambda: Composition(DownSample((1, 8, 8), 2), Mask(torch.eye(8, dtype=torch.bool)[None])), "gives (1, 4, 4)"),
        (lambda: Composition(CircularBlur((1, 80, 80), torch.ones(1, 1)), hidden_half((1, 80, 80), "top")), "6400 measured"),
        (lambda: DownSample((1, 8, 8), 2)(torch.zeros(1, 3, 8, 8)), "images of shape (3, 8, 8) were given to downsample"),
    ],
)
def test_what_does_not_fit_is_said(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert words in str(error.value)
