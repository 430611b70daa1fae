import math

import pytest
import torch

from pushforward.bijections.elementwise import Additive, Affine, Standardised
from pushforward.errors import UserError

ALL = {"additive": Additive(), "tanh": Affine("tanh"), "sigmoid": Affine("sigmoid"), "standardised": Standardised()}
each = pytest.mark.parametrize("transform", ALL.values(), ids=ALL.keys())


def drawn(transform, *shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    return x, torch.randn(*shape, transform.parameters, generator=generator, dtype=dtype)


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


@pytest.mark.parametrize(
    ("name", "params", "slope", "y"),
    [
        ("additive", [3.0], 1.0, 5.0),
        ("tanh", [1.0, 3.0], math.exp(2 * math.tanh(0.5)), math.exp(2 * math.tanh(0.5)) * 2 + 3),
        ("sigmoid", [4 * math.atanh(0.25), 3.0], sigmoid(3) / sigmoid(2), sigmoid(3) / sigmoid(2) * 2 + 3),
        ("standardised", [1.5, math.log(0.1)], 1 / 0.1, (2 - 1.5) / 0.1),
    ],
)
def test_formulas(name, params, slope, y):
    """At x = 2; a log sigma of log 0.1 comes through its soft bounds as 8 tanh(log 0.1 / 8), which is 2.7 % less."""
    if name == "standardised":
        params[1] = 8 * math.atanh(params[1] / 8)
    found, log_slope = ALL[name].forward(torch.tensor([2.0], dtype=torch.float64), torch.tensor([params], dtype=torch.float64))
    assert found.item() == pytest.approx(y, rel=1e-12)
    assert log_slope.item() == pytest.approx(math.log(slope), rel=1e-12, abs=1e-15)


@each
def test_inverse_and_slope(transform):
    x, params = drawn(transform, 5, 3, 2)
    x.requires_grad_()
    y, log_slope = transform.forward(x, params)
    torch.testing.assert_close(transform.inverse(y, params), x, rtol=0, atol=1e-12)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), rtol=0, atol=1e-12)


@each
def test_parameters_of_0_are_the_identity(transform):
    x, params = drawn(transform, 5, 3, dtype=torch.float32)
    y, log_slope = transform.forward(x, torch.zeros_like(params))
    torch.testing.assert_close(y, x, rtol=1e-6, atol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-6)


@each
def test_half_precision_is_widened(transform):
    x, params = drawn(transform, 5, 3)
    y, log_slope = transform.forward(x.bfloat16(), params.bfloat16())
    assert y.dtype == log_slope.dtype == transform.inverse(y, params.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("name", "low", "high"), [("tanh", -2, 2), ("sigmoid", -2, math.log(sigmoid(6) / sigmoid(2)))])
def test_bounds_of_the_scale(name, low, high):
    params = torch.stack([torch.linspace(-60, 60, 121), torch.zeros(121)], 1)
    log_slope = ALL[name].forward(torch.zeros(121), params)[1]
    torch.testing.assert_close(log_slope[[0, -1]], torch.tensor([float(low), float(high)]), rtol=0, atol=1e-6)
    assert (log_slope.diff() >= 0).all()


def test_standardised_is_the_gaussian():
    """log N(x; mean, sigma^2) = log N(y; 0, 1) + log dy/dx."""
    x, params = drawn(Standardised(), 50)
    mean, log_sigma = Standardised().read(params)
    y, log_slope = Standardised().forward(x, params)
    standard = torch.distributions.Normal(0, 1).log_prob(y) + log_slope
    torch.testing.assert_close(standard, torch.distributions.Normal(mean, log_sigma.exp()).log_prob(x))


def test_an_unknown_scale_is_refused():
    with pytest.raises(UserError, match="must be tanh or sigmoid"):
        Affine("exp")
