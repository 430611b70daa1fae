"""Planar, radial and Sylvester maps: determinants of the papers, inverses, and parameters that would fold space."""

import math

import pytest
import torch
from check_bijections import check, check_gradients_of_inverse, jacobian

from pushforward.bijections.base import Bijection, Inverted
from pushforward.bijections.planar import Planar, Radial, Sylvester
from pushforward.errors import UserError

KINDS = {
    "planar": Planar,
    "radial": Radial,
    "sylvester-1": lambda d, context=0: Sylvester(d, 1, context),
    "sylvester": lambda d, context=0: Sylvester(d, 3, context),
    "sylvester-all": lambda d, context=0: Sylvester(d, d, context),
}


def built(kind: str, context: int = 0, scale: float = 1.0) -> Bijection:
    """With parameters as after some training."""
    torch.manual_seed(0)
    bijection = KINDS[kind](4, context=context)
    with torch.no_grad():
        for parameter in bijection.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return bijection


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_bijections_either_way(kind, context):
    beside = numbers(4, context, seed=1) if context else None
    check(built(kind, context), numbers(4, 4), beside)
    check(Inverted(built(kind, context)), numbers(4, 4), beside)


@pytest.mark.parametrize("kind", KINDS)
def test_they_start_at_the_identity_and_can_leave_it(kind):
    bijection, x = KINDS[kind](4, context=2), numbers(6, 4)
    y, log_det = bijection(x, numbers(6, 2))
    torch.testing.assert_close(y, x, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_det, torch.zeros(6), rtol=0, atol=1e-6)
    (y * numbers(6, 4, seed=3)).sum().backward()
    for parameter in bijection.parameters():
        assert parameter.grad.abs().max() > 1e-3


def test_the_planar_determinant_is_the_papers():
    """1 + u.psi, psi = tanh'(w.x + b) w (eq. 11, 12), with u as moved: along w alone."""
    bijection, x = built("planar").double(), numbers(5, 4).double()
    w, u, b = bijection.parameters_of.free.detach().split([4, 4, 1])
    moved = u + (math.log1p(math.exp(float(w @ u) + math.log(math.expm1(0.999)))) + 1e-3 - 1 - w @ u) * w / (w @ w)
    psi = (1 - torch.tanh(x @ w + b) ** 2)[:, None] * w
    y, log_det = bijection(x)
    torch.testing.assert_close(y, x + moved * torch.tanh(x @ w + b)[:, None])
    torch.testing.assert_close(log_det, (1 + psi @ moved).abs().log())


def test_a_planar_map_without_a_direction_is_a_shift():
    bijection, x = built("planar"), numbers(5, 4)
    with torch.no_grad():
        bijection.parameters_of.free[:4] = 0
    y, log_det = bijection(x)
    u, b = bijection.parameters_of.free.detach()[4:].split([4, 1])
    torch.testing.assert_close(y, x + torch.tanh(b) * u)
    assert log_det.abs().max() < 1e-7
    torch.testing.assert_close(bijection.inverse(y), x)


def test_the_radial_map_is_the_papers():
    bijection, x = built("radial").double(), numbers(5, 4).double()
    centre, raw = bijection.parameters_of.free.detach().split([4, 2])
    alpha, both = (1e-3 + torch.log1p((raw + math.log(math.expm1(0.999))).exp())).tolist()
    beta, r = both - alpha, (x - centre).norm(dim=1)
    assert abs(beta) > 0.1
    y, log_det = bijection(x)
    torch.testing.assert_close(y, x + beta * (x - centre) / (alpha + r)[:, None])
    h = 1 / (alpha + r)
    torch.testing.assert_close(log_det, 3 * (1 + beta * h).log() + (1 + beta * h - beta * r * h**2).log())  # h' = -h^2
    # at its centre itself nothing breaks
    x = centre[None].clone().requires_grad_()
    y, log_det = bijection(x)
    (gradient,) = torch.autograd.grad(y.sum() + log_det.sum(), x)
    assert torch.equal(y, x) and gradient.isfinite().all()
    torch.testing.assert_close(log_det.item(), 4 * math.log(both / alpha))
    assert torch.equal(bijection.inverse(y), x)


def test_the_sylvester_determinant_is_sylvesters():
    """det(I_m + diag(tanh') R~ R) (theorem 1), with Q orthonormal and m = 1 planar."""
    bijection, x = built("sylvester").double(), numbers(5, 4).double()
    q, outer, inner, b = (v[0] for v in bijection.read(x, None))
    torch.testing.assert_close(q.T @ q, torch.eye(3).double())
    a = x @ q @ inner.T + b
    y, log_det = bijection(x)
    torch.testing.assert_close(y, x + torch.tanh(a) @ outer.T @ q.T)
    middle = torch.eye(3).double() + (1 - torch.tanh(a) ** 2)[:, :, None] * (inner @ outer)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(middle)[1])
    assert inner.tril(-1).abs().max() == outer.tril(-1).abs().max() == 0
    assert inner.triu(1).abs().max() > 0.1 and outer.triu(1).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [10.0, 1e3])
@pytest.mark.parametrize("kind", KINDS)
def test_no_parameters_fold_space(kind, scale, dtype):
    """det > 0 for parameters that would make it negative, or 0 by rounding, were they taken as they are."""
    least = 4 * math.log(1e-3 / max(1.0, 4 * scale))
    for seed in range(20):
        bijection = built(kind).to(dtype)
        with torch.no_grad():
            free = bijection.parameters_of.free
            free.copy_(scale * numbers(len(free), seed=seed).to(dtype))
            if kind == "planar":
                free[4:8] = -free[:4].abs() * free[:4].sign()  # w.u far below -1
                free[8] = 0
            elif kind != "radial" and scale > 10:
                free[-bijection.directions :] = 0  # so that tanh' is 1 at x = 0
        x = numbers(50, 4, seed=100 + seed).to(dtype)
        x[0] = 0
        y, log_det = bijection(x)
        assert log_det.isfinite().all() and log_det.min() > least
        if dtype == torch.float64 and scale == 10:
            found = torch.stack([torch.linalg.det(jacobian(lambda row, b=bijection: b(row)[0], x[i])) for i in range(5)])
            assert (found > 0).all()
            torch.testing.assert_close(found.log(), log_det[:5], rtol=0, atol=1e-5)
            assert (bijection.inverse(y) - x).abs().max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_through_inverses(kind):
    """By the implicit function theorem, for parameters, context and y."""
    bijection, y, c = built(kind, 3).double(), numbers(2, 4).double(), numbers(2, 3, seed=1).double()
    check_gradients_of_inverse(bijection, y, c, numbers(2, 4, seed=2).double(), 1e-9)


def test_under_autocast_the_numbers_stay_single():
    for kind in KINDS:
        bijection, x, c = built(kind, 3), numbers(8, 4), numbers(8, 3, seed=1)
        with torch.autocast("cpu", torch.bfloat16):
            y, log_det = bijection(x, c)
            back = bijection.inverse(y, c)
        assert y.dtype == log_det.dtype == torch.float32
        torch.testing.assert_close(back, x, rtol=0, atol=1e-4)  # parameters are rounded to 2^-9, but alike both ways


def test_what_is_refused():
    for kind in KINDS:
        with pytest.raises(UserError, match="context"):
            built(kind, 3)(numbers(2, 4))
        with pytest.raises(UserError, match="4 numbers"):
            built(kind)(numbers(2, 5))
        torch.testing.assert_close(built(kind)(numbers(2, 4), numbers(2, 7))[0], built(kind)(numbers(2, 4))[0])
    for directions in (0, 5):
        with pytest.raises(UserError, match="1 to 4"):
            Sylvester(4, directions)
