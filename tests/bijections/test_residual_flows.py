"""Residual maps: contractions, their inverses, and determinants that are estimated without bias."""

import math

import pytest
import torch
from check_bijections import check, check_gradients_of_inverse, jacobian

from pushforward.bijections import residual
from pushforward.bijections.base import Inverted
from pushforward.bijections.estimates import drawing
from pushforward.bijections.residual import LipSwish, Residual, exact, fixed_point, roulette
from pushforward.distributions.likelihoods import keys_of
from pushforward.errors import UserError
from pushforward.nets.lipschitz import follow
from pushforward.randomness import SampleRng, uniforms


def built(shape: tuple[int, ...] = (4,), context: int = 0, hidden: tuple[int, ...] = (16, 16)) -> Residual:
    """With weights as after some training: a slope near 0.9 where it can be."""
    torch.manual_seed(0)
    bijection = Residual(shape, hidden, context)
    with torch.no_grad():
        bijection.g.scale.mul_(torch.randn_like(bijection.g.scale).sign())
        for parameter in bijection.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for _ in range(50):
        follow(bijection)
    return bijection


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("shape", [(4,), (1,), (2, 3, 3)])
def test_it_is_a_bijection_either_way(shape, context):
    beside = numbers(3, context, seed=1) if context else None
    check(built(shape, context), numbers(3, *shape), beside)
    if shape == (4,):
        check(Inverted(built(shape, context)), numbers(3, *shape), beside)


@pytest.mark.parametrize("shape", [(4,), (2, 4, 4)])
def test_it_is_a_contraction_whatever_the_weights(shape):
    bijection = built(shape, 3).double()
    c = numbers(1, 3, seed=1).double()
    slopes = [
        torch.linalg.matrix_norm(jacobian(lambda row: bijection.g(row, c), x), 2) for x in 2 * numbers(30, *shape).double()
    ]
    assert 0.05 < max(slopes) < 0.9
    x = torch.linspace(-20, 20, 4001).double().requires_grad_()
    for raw in (-3.0, 0.5, 4.0):
        swish = LipSwish(4).double()
        swish.raw.data.fill_(raw)
        (slope,) = torch.autograd.grad(swish(x).sum(), x)
        assert 0.99 < slope.abs().max() < 1 or raw == -3.0
        assert slope.abs().max() < 1


def test_it_starts_far_from_a_line():
    """At random weights g bends space: J is not the same everywhere."""
    torch.manual_seed(0)
    bijection, x = Residual((4,), (64, 64)), 2 * numbers(20, 4)
    J = torch.stack([jacobian(lambda row: bijection.g(row), row) for row in x])
    spread = (J - J.mean(0)).norm(dim=(1, 2)).mean() / J.norm(dim=(1, 2)).mean()
    assert spread > 0.6


def series(rows: int, terms: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """g = tanh(A x) with eigenvalues of J up to 0.8 and complex ones: A, one x in many rows, g of it, the estimates."""
    turn = torch.tensor([[0.0, 0.3, -0.2], [-0.3, 0.0, 0.4], [0.2, -0.4, 0.0]]).double()
    A = (0.8 * torch.matrix_exp(turn)).requires_grad_()
    x = torch.tensor([[0.1, -0.4, 0.3]]).double().expand(rows, -1).clone().requires_grad_()
    g = torch.tanh(x @ A.T)
    uniform = 1 - torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return A, x, g, roulette(g, x, numbers(rows, 3, seed=seed + 1).double(), uniform, terms, graph=True)


@pytest.mark.parametrize("terms", [0, 1, 2, 5])
def test_the_estimate_has_no_bias(terms):
    """Within 4 standard errors of the exact log-determinant, which a series cut there misses by many."""
    rows = 100_000
    A, x, _, value = series(rows, terms, seed=10 * terms)
    J = jacobian(lambda row: torch.tanh(row @ A.T), x[0].detach())
    truth = torch.linalg.slogdet(torch.eye(3).double() + J)[1]
    error = value.std() / math.sqrt(rows)
    assert (value.mean() - truth).abs() < 4 * error
    power, cut = torch.eye(3).double(), 0.0
    for k in range(1, terms + 1):
        power = power @ J
        cut += (-1) ** (k + 1) / k * power.trace()
    assert terms > 2 or (cut - truth).abs() > 15 * error


def test_the_gradient_has_no_bias():
    """That of the weights and of x, against that of the exact determinant."""
    groups, found = 100, []
    for i in range(groups):
        A, x, _, value = series(500, 2, seed=1000 + 2 * i)
        by_A, by_x = torch.autograd.grad(value.mean(), [A, x])
        found.append(torch.cat([by_A.flatten(), by_x.sum(0)]))
    A, x, g, _ = series(1, 2, seed=0)
    truth = torch.cat([v.flatten() for v in torch.autograd.grad(exact(g, x, True).sum(), [A, x])])
    error = torch.stack(found).std(0) / math.sqrt(groups)
    assert ((torch.stack(found).mean(0) - truth).abs() < 4 * error).all()
    assert (truth.abs() / error).median() > 5  # most are far from 0: a wrong sign would be seen


def test_noise_is_the_rngs_or_a_function_of_the_datum(monkeypatch):
    monkeypatch.setattr(residual, "EXACT", {True: 0, False: 0})
    bijection, x = built().double(), numbers(6, 4).double()

    def drawn(seed):
        with drawing(bijection, SampleRng(seed)):
            return bijection(x)[1]

    for bijection.training in (True, False):
        one, other = drawn(0), drawn(1)
        assert torch.equal(drawn(0), one) and (one != other).all()
        torch.manual_seed(1)
        assert torch.equal(drawn(0), one), "the global state has no say"
        with drawing(bijection, SampleRng(0)):
            again = bijection(bijection(x)[0] * 0 + x)[1]
        assert (again != one).all(), "two determinants in a row have draws of their own"
    bijection.eval()
    y, log_det = bijection(x)
    assert torch.equal(bijection(x)[1], log_det)
    torch.testing.assert_close(bijection(x[2:3])[1], log_det[2:3])  # whatever is beside it
    monkeypatch.undo()
    truth = bijection(x)[1]
    assert 1e-3 < (log_det - truth).abs().max() < 1.5 and torch.equal(bijection(x)[0], y)
    with torch.no_grad():
        torch.testing.assert_close(bijection(x)[1], truth.detach())
        assert not bijection(x)[0].requires_grad


@pytest.mark.parametrize("dimensions", [4, 20])
def test_log_likelihoods_can_be_trained(dimensions):
    """Gradients reach all weights, in few dimensions and many; the exact ones are those of differences."""
    bijection, x = built((dimensions,), 3).train().double(), numbers(5, dimensions).double()
    c = numbers(5, 3).double()
    y, log_det = bijection(x, c)
    (log_det.sum() - 0.5 * y.square().sum()).backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for p in bijection.parameters() if p is not bijection.g.layers[-1].bias
    )
    if dimensions == 4:
        weight, step = bijection.g.scale, 1e-5
        weight.grad = None
        bijection(x, c)[1].sum().backward()
        with torch.no_grad():
            weight[1] += step
            above = bijection(x, c)[1].sum()
            weight[1] -= 2 * step
            below = bijection(x, c)[1].sum()
        assert weight.grad[1].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-6)


def test_gradients_pass_through_the_inverse():
    bijection, y, c = built(context=3).double(), numbers(2, 4).double(), numbers(2, 3, seed=1).double()
    check_gradients_of_inverse(bijection, y, c, numbers(2, 4, seed=2).double(), 1e-10)


def test_under_autocast_the_numbers_stay_single():
    bijection, x = built().eval(), numbers(8, 4)
    plain = bijection(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = bijection(x)
        back = bijection.inverse(y)
    assert torch.equal(y, plain[0]) and torch.equal(log_det, plain[1])
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


def test_what_is_refused():
    with pytest.raises(UserError, match="vectors"):
        Residual((4, 4))
    with pytest.raises(UserError, match="hidden"):
        Residual((4,), ())
    with pytest.raises(UserError, match="context"):
        built(context=3)(numbers(2, 4))
    with pytest.raises(UserError, match="follow"):
        fixed_point(lambda x: 1.1 * x + 1, torch.zeros(3))


def test_the_number_of_terms_is_independent_of_the_probe():
    """Their uniform numbers come of another key than the normal ones do."""
    x, bijection = torch.randn(4, 20), built((20,))
    keys = keys_of(x)
    assert not torch.equal(bijection.uniform(x), 1 - uniforms(keys, 1, 0)[:, 0])
    assert not torch.equal(bijection.uniform(x), uniforms(keys, 1, 0)[:, 0])
