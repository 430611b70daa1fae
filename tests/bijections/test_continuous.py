"""Continuous flows against linear velocities, whose flow is a matrix exponential, and against autograd's Jacobian."""

import math

import pytest
import torch
from check_bijections import check, jacobian, stirred

from pushforward.bijections import continuous
from pushforward.bijections.base import Chain
from pushforward.bijections.continuous import ADAPTIVE, Continuous, Velocity
from pushforward.bijections.estimates import drawing, estimates
from pushforward.dynamics.ode import DormandPrince5
from pushforward.errors import UserError
from pushforward.randomness import SampleRng

TIGHT = DormandPrince5(1e-11, 1e-11)
A = torch.tensor([[0.6, -1.0, 0.2], [0.8, -0.3, 0.1], [-0.4, 0.5, 0.9]]).double()


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def built(shape=(3,), context=0, method=TIGHT, size=0.2) -> Continuous:
    torch.manual_seed(0)
    return stirred(Continuous(shape, Velocity(shape, 6, 2, context), method=method), size).double().eval()


class Rotating(torch.nn.Module):
    """v = r(t) A x, with a rate r(t) = 2 t whose integral is 1."""

    def forward(self, x, t, context=None):
        return 2 * t[:, None] * (x @ A.T)


@pytest.mark.parametrize(("shape", "context"), [((3,), 0), ((1,), 3), ((1, 2, 2), 3)])
def test_it_is_a_bijection(shape, context):
    beside = numbers(2, context, seed=1) if context else None
    check(built(shape, context), numbers(2, *shape), beside, single=False)  # single precision knows no 1e-11


def test_a_linear_velocity_is_a_matrix_exponential():
    """Of data N(0, S) with S = exp(A)^-1 exp(A)^-T the density is known; exact to the solver's 1e-5."""
    bijection, x = Continuous((3,), Rotating()).eval(), numbers(50, 3)
    y, log_det = bijection(x)
    turn = torch.matrix_exp(A)
    torch.testing.assert_close(y, x @ turn.T, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_det, A.trace().expand(50), rtol=0, atol=1e-4)
    inverse = turn.inverse()
    truth = torch.distributions.MultivariateNormal(torch.zeros(3).double(), inverse @ inverse.T).log_prob(x)
    found = -0.5 * y.square().sum(1) - 1.5 * math.log(2 * math.pi) + log_det
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-3)
    bijection.train()  # Runge-Kutta's error at 6 steps
    torch.testing.assert_close(bijection(x)[0], x @ turn.T, rtol=0, atol=0.01)
    torch.testing.assert_close(bijection(x)[1], log_det, rtol=0, atol=1e-6)  # a quadrature of degree 1


def test_codes_come_back_in_single_precision():
    bijection, x = built(method=ADAPTIVE, size=0.6).float(), numbers(40, 3).float()
    with torch.no_grad():
        y, log_det = bijection(x)
        assert y.dtype == log_det.dtype == torch.float32
        torch.testing.assert_close(bijection.inverse(y), x, rtol=0, atol=1e-4)
        assert (y - x).abs().mean() > 0.1, "it does something"


@pytest.mark.parametrize("training", [False, True])
def test_hutchinsons_estimate_has_no_bias(monkeypatch, training):
    bijection, x = built(method=DormandPrince5(), size=0.6), numbers(1, 3)
    bijection.train(training)
    truth = bijection(x)[1].item()
    monkeypatch.setattr(continuous, "EXACT", {True: 2, False: 2})
    assert estimates(Chain([bijection]))
    with drawing(bijection, SampleRng(0)), torch.no_grad():
        draws = bijection(x.expand(4000, 3))[1]
    error = draws.std().item() / math.sqrt(4000)
    assert abs(draws.mean().item() - truth) < 4 * error < 0.2 * abs(truth)
    assert torch.equal(bijection(x)[1], bijection(x)[1]), "without an rng a function of the datum"


@pytest.mark.parametrize("exact", [0, 16])
def test_gradients_of_the_density_are_those_of_differences(monkeypatch, exact):
    """Through the solver and the divergence, by a weight of the first layer and by x, exact or with given probes."""
    monkeypatch.setattr(continuous, "EXACT", {True: exact, False: exact})
    bijection, x = built(context=2).train(), numbers(4, 3).requires_grad_()
    c, weight, step = numbers(4, 2, seed=1), bijection.velocity.layers[0].layer.weight, 1e-5

    def nats():
        with drawing(bijection, SampleRng(3)):
            y, log_det = bijection(x, c)
        return (log_det - 0.5 * y.square().sum(1)).sum()

    by_weight, by_x = torch.autograd.grad(nats(), [weight, x])
    for tensor, found in ((weight, by_weight), (x, by_x)):
        with torch.no_grad():
            tensor[1, 2] += step
            above = nats()
            tensor[1, 2] -= 2 * step
            below = nats()
            tensor[1, 2] += step
        assert found[1, 2].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-6)


def test_it_starts_as_the_identity():
    x = numbers(5, 2, 4, 4).float()
    y, log_det = Continuous((2, 4, 4), Velocity((2, 4, 4))).eval()(x)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-5)
    assert not log_det.any()


def test_a_velocity_hears_of_time_and_context():
    velocity, x, c = built(context=2).velocity, numbers(4, 3), numbers(4, 2, seed=1)
    t = torch.zeros(4).double()
    assert not torch.allclose(velocity(x, t, c), velocity(x, t + 1, c))
    assert not torch.allclose(velocity(x, t, c), velocity(x, t, c + 1))
    rows = jacobian(lambda rows: velocity(rows[0].reshape(4, 3), t, c)[None], x)
    assert not rows.reshape(4, 3, 4, 3)[0, :, 1].any(), "a row does not look at others"


def test_under_autocast_the_numbers_stay_single():
    bijection, x = built(method=DormandPrince5()).float(), numbers(8, 3).float()
    plain = bijection(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = bijection(x)
    assert torch.equal(y, plain[0]) and torch.equal(log_det, plain[1])


def test_what_is_refused():
    with pytest.raises(UserError, match="vectors"):
        Velocity((4, 4))
    with pytest.raises(UserError, match="0 steps"):
        Continuous((3,), Rotating(), steps=0)
    with pytest.raises(UserError, match="context"):
        built(context=2)(numbers(2, 3))
