"""Rational-quadratic splines: the paper's equations, autograd, and the ends of the numbers."""

import numpy as np
import pytest
import torch

from pushforward.bijections.splines import LEAST, LIMIT, SHARE, RationalQuadraticSpline
from pushforward.errors import UserError


def drawn(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def between(low: float, high: float, *shape: int, seed: int = 1) -> torch.Tensor:
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * uniform


def paper(x: float, params: np.ndarray, bins: int, bound: float) -> tuple[float, float, np.ndarray]:
    """Eq. 4, eq. 5 and the knots (2, K + 1), one number at a time."""

    def knots(raw: np.ndarray) -> np.ndarray:
        share = np.exp(raw - raw.max())
        share = SHARE + (1 - bins * SHARE) * share / share.sum()
        return bound * (2 * np.concatenate([[0], np.cumsum(share)]) - 1)

    at, to = knots(params[:bins]), knots(params[bins : 2 * bins])
    bent = LIMIT * np.tanh(params[2 * bins :] / LIMIT)
    d = np.concatenate([[1], LEAST + np.log1p(np.exp(bent + np.log(np.expm1(1 - LEAST)))), [1]])
    if abs(x) >= bound:
        return x, 1.0, np.stack([at, to])
    k = int(np.searchsorted(at, x, side="right")) - 1
    s = (to[k + 1] - to[k]) / (at[k + 1] - at[k])
    xi = (x - at[k]) / (at[k + 1] - at[k])
    below = s + (d[k + 1] + d[k] - 2 * s) * xi * (1 - xi)
    y = to[k] + (to[k + 1] - to[k]) * (s * xi**2 + d[k] * xi * (1 - xi)) / below
    slope = s**2 * (d[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + d[k] * (1 - xi) ** 2) / below**2
    return float(y), float(slope), np.stack([at, to])


@pytest.mark.parametrize("bins, bound, scale", [(8, 5.0, 1.0), (8, 3.0, 4.0), (2, 1.0, 1.0), (20, 10.0, 2.0)])
def test_it_is_the_papers(bins, bound, scale):
    spline = RationalQuadraticSpline(bins, bound)
    params = drawn(200, spline.parameters, scale=scale)
    x = between(-1.2 * bound, 1.2 * bound, 200)
    y, log_slope = spline.forward(x, params)
    expected = [paper(float(x[i]), params[i].numpy(), bins, bound) for i in range(200)]
    np.testing.assert_allclose(y.numpy(), [e[0] for e in expected], atol=1e-11)
    np.testing.assert_allclose(log_slope.numpy(), np.log([e[1] for e in expected]), atol=1e-9)
    for i in range(20):  # knots go to knots
        at, to = torch.tensor(expected[i][2])
        found, _ = spline.forward(at, params[i].expand(bins + 1, -1))
        torch.testing.assert_close(found, to, rtol=0, atol=1e-12)
        torch.testing.assert_close(spline.inverse(to, params[i].expand(bins + 1, -1)), at, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_slopes_are_autograds_and_the_inverse_undoes_it(scale):
    spline = RationalQuadraticSpline()
    params = drawn(50, 40, spline.parameters, scale=scale)
    x = between(-6, 6, 50, 40).requires_grad_()
    y, log_slope = spline.forward(x, params)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.log(), log_slope, rtol=0, atol=1e-9)
    # As near as slopes let it: what is lost in y, 1e-13, is slope times as much in x.
    assert ((spline.inverse(y, params) - x).abs() * slope.clamp(max=1)).max() < 1e-13


def test_the_inverses_gradients_are_the_forwards():
    """dx/dy = 1 / f'(x), and the parameters' by the implicit function theorem: - df/dparams / f'(x)."""
    spline = RationalQuadraticSpline()
    params, x = drawn(30, spline.parameters).requires_grad_(), between(-6, 6, 30)
    y, log_slope = spline.forward(x, params)
    by_params = torch.autograd.grad(y.sum(), params)[0]
    y = y.detach().requires_grad_()
    found = torch.autograd.grad(spline.inverse(y, params).sum(), [y, params])
    slope = log_slope.detach().exp()
    torch.testing.assert_close(found[0], 1 / slope, rtol=1e-8, atol=0)
    torch.testing.assert_close(found[1], -by_params / slope[:, None], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_rises_without_steps(dtype):
    spline = RationalQuadraticSpline(8, 2.0)
    x = torch.linspace(-2.2, 2.2, 20_001, dtype=torch.float64)
    for i in range(5):
        params = drawn(spline.parameters, scale=2.0, seed=i).expand(len(x), -1)
        y, log_slope = (v.double() for v in spline.forward(x.to(dtype), params.to(dtype)))
        rises = y.diff()
        # Single precision knows corners of bins to about 1e-6.
        assert rises.min() > (0 if dtype == torch.float64 else -2e-6)
        at_most = torch.maximum(log_slope[1:], log_slope[:-1]).exp() * x.diff()
        assert (rises <= 1.5 * at_most + 2e-6).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_at_the_ends_and_beyond_it_is_the_identity_with_slope_1(dtype):
    spline = RationalQuadraticSpline(6, 3.0)
    x = torch.tensor([-torch.inf, -1e30, -3.001, -3, 3, 3.001, 1e30, torch.inf], dtype=dtype)
    params = drawn(8, spline.parameters).to(dtype).requires_grad_()
    y, log_slope = spline.forward(x, params)
    epsilon = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(y, x, rtol=0, atol=epsilon)
    torch.testing.assert_close(log_slope, torch.zeros_like(log_slope), rtol=0, atol=30 * epsilon)
    torch.testing.assert_close(spline.inverse(x, params), x, rtol=0, atol=epsilon)
    gradient = torch.autograd.grad(log_slope.sum() + y[1:-1].sum(), params)[0]
    assert gradient.isfinite().all()
    assert (gradient[[0, 1, 2, 5, 6, 7]] == 0).all()
    # one derivative on both sides of an end
    near = torch.tensor([-3 - 1e-7, -3 + 1e-7, 3 - 1e-7, 3 + 1e-7], dtype=torch.float64)
    slopes = spline.forward(near, drawn(1, spline.parameters).expand(4, -1))[1]
    torch.testing.assert_close(slopes, torch.zeros_like(slopes), rtol=0, atol=1e-4)


def test_parameters_of_0_are_the_identity():
    x = between(-7, 7, 1000)
    for bins in (2, 8, 500):
        spline = RationalQuadraticSpline(bins)
        y, log_slope = spline.forward(x, torch.zeros(1000, spline.parameters, dtype=torch.float64))
        torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_slope, torch.zeros_like(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e2, 1e30])
def test_huge_parameters_bend_but_do_not_break(scale):
    """In single precision: finite, close to double, the inverse right where slopes let it be; gradients finite."""
    spline = RationalQuadraticSpline()
    params = drawn(4000, spline.parameters, scale=scale).float()
    x = between(-6, 6, 4000).float().requires_grad_()
    params.requires_grad_()
    y, log_slope = spline.forward(x, params)
    double = spline.forward(x.double(), params.double())
    torch.testing.assert_close(y.double(), double[0], rtol=0, atol=2e-3)
    # Where slopes change a thousandfold within a bin of 0.01, of which single precision knows the corner to 1e-6.
    torch.testing.assert_close(log_slope.double(), double[1], rtol=0, atol=3e-2)
    back = spline.inverse(y, params)
    assert ((back - x).abs() * log_slope.exp().clamp(max=1)).max() < 2e-3
    for gradient in torch.autograd.grad(y.sum() + log_slope.sum() + back.sum(), [x, params]):
        assert gradient.isfinite().all()


def test_half_precision_is_only_what_the_parameters_come_in():
    spline = RationalQuadraticSpline()
    params, x = drawn(100, spline.parameters).bfloat16(), between(-6, 6, 100).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, log_slope = spline.forward(x, params)
        back = spline.inverse(y, params)
    assert y.dtype == log_slope.dtype == back.dtype == torch.float32
    for found, expected in zip((y, log_slope), spline.forward(x, params.float()), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert ((back - x).abs() * log_slope.exp().clamp(max=1)).max() < 1e-5


def test_layouts_do_not_matter():
    """Parameters last in memory or not, any number of axes, and no numbers at all."""
    spline = RationalQuadraticSpline()
    params, x = drawn(5, 4, 3, spline.parameters), between(-6, 6, 5, 4, 3)
    expected = spline.forward(x, params)
    moved = params.movedim(-1, 1).contiguous().movedim(1, -1)
    for found in (spline.forward(x, moved), [v.view_as(x) for v in spline.forward(x.flatten(), params.flatten(0, 2))]):
        torch.testing.assert_close(list(found), list(expected), rtol=0, atol=1e-14)
    assert spline.forward(x[0, 0, 0], params[0, 0, 0])[0] == expected[0][0, 0, 0]
    assert spline.forward(x[:0], params[:0])[0].shape == (0, 4, 3)


@pytest.mark.parametrize(
    "bins, bound, about", [(1, 5.0, "2 to 500"), (501, 5.0, "2 to 500"), (8, 0.0, "positive"), (8, torch.inf, "positive")]
)
def test_splines_that_cannot_be(bins, bound, about):
    with pytest.raises(UserError, match=about):
        RationalQuadraticSpline(bins, bound)


def test_the_inverse_cancels_nothing_where_slopes_rise_a_thousandfold():
    """Either root's formula alone would lose 3 digits more in single precision."""
    spline, x = RationalQuadraticSpline(2), torch.linspace(-5, 5, 10_001)
    for height in (0.0, 6.0, -6.0):
        y, log_slope = spline.forward(x, torch.tensor([0.0, 0.0, height, 0.0, 1000.0]).expand(len(x), -1))
        back = spline.inverse(y, torch.tensor([0.0, 0.0, height, 0.0, 1000.0]).expand(len(x), -1))
        assert ((back - x).abs() * log_slope.exp().clamp(max=1)).max() < 3e-5
