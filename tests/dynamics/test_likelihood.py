"""Densities along an ODE, against linear fields whose flow and determinant are known."""

import pytest
import torch

from pushforward.dynamics.likelihood import divergences, log_prob_along, standard_normal
from pushforward.errors import UserError
from pushforward.randomness import SampleRng

TIMES = torch.linspace(0, 1, 17, dtype=torch.float64)


def linear(dimensions):
    A = torch.randn(dimensions, dimensions, dtype=torch.float64) / dimensions**0.5
    x = torch.randn(7, dimensions, dtype=torch.float64)
    truth = standard_normal(x @ torch.linalg.matrix_exp(A).T) + A.trace()
    return (lambda x, t: x @ A.T), x, truth


def test_divergences_are_traces():
    torch.manual_seed(0)
    A = torch.randn(5, 5, dtype=torch.float64)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    v = (x @ A.T) ** 2
    trace = torch.stack([torch.func.jacrev(lambda u: (A @ u) ** 2)(row).trace() for row in x.detach()])
    torch.testing.assert_close(divergences(v, x, None)[:, 0], trace)
    signs = torch.where(torch.rand(20_000, 3, 5) < 0.5, -1.0, 1.0).double()
    products = torch.stack([torch.func.jacrev(lambda u: (A @ u) ** 2)(row) for row in x.detach()])
    expected = torch.einsum("kbi,bij,kbj->bk", signs, products, signs)
    torch.testing.assert_close(divergences((x @ A.T) ** 2, x, signs[:50]), expected[:, :50])
    assert ((expected.mean(1) - trace) / expected.std(1) * 20_000**0.5).abs().max() < 4


def test_exact_density_of_a_linear_flow():
    velocity, x, truth = linear(4)
    value, stderr = log_prob_along(velocity, x, TIMES)
    # Runge-Kutta's error of 16 steps is 1e-6; the base is summed in float32
    torch.testing.assert_close(value.double(), truth, rtol=0, atol=2e-5)
    assert torch.equal(stderr, torch.zeros(7))


def test_hutchinson_is_unbiased_and_knows_its_error():
    velocity, x, truth = linear(30)
    value, stderr = log_prob_along(velocity, x, TIMES, probes=200, rng=SampleRng(0))
    assert ((value - truth) / stderr).abs().max() < 4 and stderr.min() > 0.01
    other, _ = log_prob_along(velocity, x[2:4], TIMES, probes=200, rng=SampleRng(0, first=2))
    torch.testing.assert_close(other, value[2:4], rtol=1e-4, atol=1e-4)


def test_any_base_and_any_shape():
    velocity, x, truth = linear(4)

    def field(x, t):
        return velocity(x.flatten(1), t).reshape(x.shape)

    value, _ = log_prob_along(field, x.reshape(7, 1, 2, 2), TIMES, base=lambda z: standard_normal(z) + 3)
    torch.testing.assert_close(value.double(), truth + 3, rtol=0, atol=2e-5)


def test_no_gradient_is_needed_around_it_nor_kept():
    velocity, x, truth = linear(3)
    with torch.no_grad():
        value, _ = log_prob_along(velocity, x, TIMES)
    assert not value.requires_grad
    torch.testing.assert_close(value.double(), truth, rtol=0, atol=2e-5)


def test_mistakes_are_sentences():
    velocity, x, _ = linear(3)
    with pytest.raises(UserError, match="2 probes"):
        log_prob_along(velocity, x, TIMES, probes=1, rng=SampleRng(0))
    with pytest.raises(UserError, match="rng"):
        log_prob_along(velocity, x, TIMES, probes=2)
