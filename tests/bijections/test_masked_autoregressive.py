"""Autoregressive bijections: triangular Jacobians, inverses in d steps and in one, and what they are refused for."""

import pytest
import torch
from check_bijections import check, jacobian
from torch.nn import functional as F

from pushforward.bijections.autoregressive import OPEN, Gated, MaskedAutoregressive
from pushforward.bijections.base import Inverted
from pushforward.bijections.elementwise import Affine
from pushforward.bijections.splines import RationalQuadraticSpline
from pushforward.errors import UserError

TRANSFORMS = {"gated": Gated(), "affine": Affine(), "spline": RationalQuadraticSpline(5, 3.0)}


def built(transform: str, inputs: int = 5, context: int = 0, hidden: tuple[int, ...] = (16, 12)) -> MaskedAutoregressive:
    """With weights as after some training."""
    torch.manual_seed(0)
    bijection = MaskedAutoregressive(inputs, TRANSFORMS[transform], hidden, context)
    with torch.no_grad():
        for parameter in bijection.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return bijection


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_it_is_a_bijection_either_way(transform, context):
    beside = numbers(4, context, seed=1) if context else None
    check(built(transform, context=context), numbers(4, 5), beside)
    check(Inverted(built(transform, context=context)), numbers(4, 5), beside)


@pytest.mark.parametrize("inputs, hidden", [(1, (4,)), (6, (4,)), (3, (8, 2, 9))])
def test_layers_of_any_width(inputs, hidden):
    """Also narrower than d, where some degrees have no unit."""
    check(built("affine", inputs, hidden=hidden), numbers(3, inputs))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_jacobian_is_triangular_with_the_slopes_on_its_diagonal(transform):
    bijection, x = built(transform).double(), numbers(3, 5).double()
    y, log_slopes = bijection.slopes(x)
    for i in range(3):
        found = jacobian(lambda row: bijection(row)[0], x[i])
        assert (found.triu(1) == 0).all() and (found.tril(-1)[1:].abs().sum(1) > 0).all()
        torch.testing.assert_close(found.diagonal().log(), log_slopes[i], rtol=0, atol=1e-9)
    torch.testing.assert_close(bijection(x)[1], log_slopes.sum(1))
    torch.testing.assert_close(bijection(x)[0], y)


@pytest.mark.parametrize("context", [0, 3])
def test_unrolling_is_d_passes(context):
    """Number by number, each with a pass of the whole network."""
    bijection, y = built("spline", context=context).double(), numbers(6, 5).double()
    beside = numbers(6, context, seed=1).double() if context else None
    x = torch.zeros_like(y)
    for i in range(5):
        x[:, i] = bijection.transform.inverse(y[:, i], bijection.net(x, beside)[:, :, i])
    torch.testing.assert_close(bijection.inverse(y, beside), x, rtol=0, atol=1e-12)


def test_gradients_pass_through_the_inverse():
    """By the implicit function theorem: d f(x, theta) = 0 along x = f^-1(y, theta)."""
    bijection, y = built("gated").double(), numbers(2, 5).double()
    weights = list(bijection.parameters())
    x = bijection.inverse(y.requires_grad_())
    pull = numbers(2, 5, seed=2).double()
    found = torch.autograd.grad((x * pull).sum(), [y, *weights])
    x = x.detach()
    solved = torch.stack([torch.linalg.solve(jacobian(lambda row: bijection(row)[0], x[i]).T, pull[i]) for i in range(2)])
    torch.testing.assert_close(found[0], solved, rtol=0, atol=1e-10)
    expected = torch.autograd.grad(-(bijection(x)[0] * solved).sum(), weights)
    torch.testing.assert_close(found[1:], expected, rtol=0, atol=1e-9)


def test_it_starts_at_the_identity():
    x, c = numbers(20, 4), numbers(20, 3, seed=1)
    for transform in (Affine(), RationalQuadraticSpline()):
        y, log_det = MaskedAutoregressive(4, transform, (16,), 3)(x, c)
        torch.testing.assert_close(y, x, rtol=0, atol=2e-6)
        torch.testing.assert_close(log_det, torch.zeros(20), rtol=0, atol=1e-5)
    y, log_det = MaskedAutoregressive(4, Gated(), (16,), 3)(x, c)
    torch.testing.assert_close(y, x * torch.sigmoid(torch.tensor(OPEN)))
    torch.testing.assert_close(log_det, 4 * F.logsigmoid(torch.tensor(OPEN)).expand(20))


def test_under_autocast_the_numbers_stay_single():
    bijection, x = built("spline", context=3), numbers(8, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = bijection(x, numbers(8, 3, seed=1))
        back = bijection.inverse(y, numbers(8, 3, seed=1))
    assert y.dtype == log_det.dtype == back.dtype == torch.float32


def test_contexts():
    bijection, x = built("affine", context=3), numbers(4, 5)
    with pytest.raises(UserError, match="context"):
        bijection(x)
    with pytest.raises(UserError, match="context"):
        bijection.inverse(x)
    alone = built("affine")
    torch.testing.assert_close(alone(x, numbers(4, 2))[0], alone(x)[0])  # those of other parts of a chain
    torch.testing.assert_close(alone.inverse(x, numbers(4, 2)), alone.inverse(x))
    with pytest.raises(UserError, match="5 numbers"):
        alone(numbers(4, 6))
    with pytest.raises(UserError, match=r"\(4,\)"):
        alone.inverse(numbers(4, 4))
