import pytest
import torch
from check_bijections import check, stirred

from pushforward.bijections.base import Chain
from pushforward.bijections.linear import Actnorm, InvertibleConv1x1, Linear, Orthogonal, Permutation
from pushforward.errors import UserError

SHAPES = [(5,), (4, 3, 2), (3, 7), (1,)]


def data(*shape, rows=4):
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))


def made(size):
    return [Permutation.random(size, seed=3), Actnorm(size), Linear(size), Orthogonal(size)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("which", range(4), ids=["permutation", "actnorm", "linear", "orthogonal"])
def test_bijections(shape, which):
    check(stirred(made(shape[0])[which]), data(*shape))


def test_a_context_changes_nothing():
    check(stirred(Chain(made(4))), data(4), data(2))
    check(stirred(Chain(made(4))), data(4, 2, 2), data(3, 4, 4))


def test_permutations():
    x = torch.arange(6.0).reshape(1, 3, 2)
    torch.testing.assert_close(Permutation.reverse(3)(x)[0], x.flip(1))
    order = [2, 0, 1]
    assert Permutation(order)(x)[0][0, :, 0].tolist() == [4, 0, 2]
    y, log_det = Permutation.random(6, seed=1)(data(6))
    assert not log_det.any() and torch.equal(y.sort(1)[0], data(6).sort(1)[0]) and not torch.equal(y, data(6))
    assert torch.equal(Permutation.random(9, seed=1).order, Permutation.random(9, seed=1).order)
    assert not torch.equal(Permutation.random(9, seed=1).order, Permutation.random(9, seed=2).order)


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3], [0, 2]])
def test_what_is_no_permutation_is_refused(order):
    with pytest.raises(UserError, match="names each of 0 to"):
        Permutation(order)


@pytest.mark.parametrize("shape", [(3,), (3, 8, 6)], ids=str)
def test_actnorm_starts_standardised(shape):
    """Mean 0 and standard deviation 1 of each channel over rows and places, to 1e-5: float32 of 500 numbers and more."""
    actnorm, places = Actnorm(3), (1,) * (len(shape) - 1)
    x = data(*shape, rows=500) * torch.tensor([0.01, 1.0, 50.0]).reshape(-1, *places) + torch.arange(3.0).reshape(-1, *places)
    y = actnorm.start(x)
    axes = [axis for axis in range(y.dim()) if axis != 1]
    torch.testing.assert_close(y.mean(axes), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std(axes, correction=0), torch.ones(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(actnorm(x)[0], y)
    expected = -x.double().std(axes, correction=0).log().sum() * (48 if places else 1)
    torch.testing.assert_close(actnorm(x)[1].double(), expected.expand(500), rtol=1e-5, atol=0)


def test_actnorm_starts_once_also_when_loaded():
    actnorm, other = Actnorm(3), Actnorm(3)
    actnorm.start(data(3, rows=50) * 7 + 1)
    before = {name: value.clone() for name, value in actnorm.state_dict().items()}
    other.load_state_dict(before)
    for each in (actnorm, other):
        y = each.start(data(3, rows=20))
        assert all(torch.equal(value, before[name]) for name, value in each.state_dict().items())
        torch.testing.assert_close(y, each(data(3, rows=20))[0])


def test_actnorm_leaves_a_scale_where_nothing_varies():
    x = data(2, rows=50)
    x[:, 1] = 3.0
    actnorm = Actnorm(2)
    y = actnorm.start(x)
    assert not y[:, 1].any() and actnorm.log_scale[1] == 0
    torch.testing.assert_close(y[:, 0].std(correction=0), torch.tensor(1.0))
    assert torch.isfinite(Actnorm(2).start(x[:1])).all()  # one row


def test_actnorms_in_a_chain_start_one_after_the_other():
    chain = Chain([Actnorm(3), stirred(Linear(3)), Actnorm(3)])
    y = chain.start(data(3, rows=200))
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(chain(data(3, rows=200))[0], y)


def test_linear_starts_at_a_rotation_and_reaches_any_matrix():
    torch.manual_seed(0)
    first, second = Linear(6), Linear(6)
    for layer in (first, second):
        torch.testing.assert_close(layer.weight() @ layer.weight().mT, torch.eye(6), rtol=0, atol=1e-6)
        assert abs(layer.log_det().item()) < 1e-5
    assert not torch.allclose(first.weight(), second.weight())
    x = data(6)
    torch.testing.assert_close(first(x)[0], x @ first.weight().mT)
    target = data(6, rows=6).double()
    permutation, lower, upper = torch.linalg.lu(target)
    layer = Linear(6).double()
    layer.order.copy_(permutation.argmax(1))
    layer.sign.copy_(upper.diagonal().sign())
    for parameter, value in ((layer.lower, lower), (layer.upper, upper), (layer.log_s, upper.diagonal().abs().log())):
        parameter.data.copy_(value)  # with what stands on and beyond the diagonals, which is not looked at
    torch.testing.assert_close(layer.weight(), target)


def test_convolutions_of_1x1():
    """Against torch's convolution, and H W slogdet W."""
    layer = stirred(InvertibleConv1x1(4)).double()
    x = data(4, 5, 3).double()
    y, log_det = layer(x)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, layer.weight()[:, :, None, None]))
    exact = 15 * torch.linalg.slogdet(layer.weight())[1]
    assert abs(exact) > 1
    torch.testing.assert_close(log_det, exact.expand(4), rtol=0, atol=1e-10)


def test_orthogonal_maps_keep_lengths():
    layer = stirred(Orthogonal(5)).double()
    y, log_det = layer(data(5).double())
    torch.testing.assert_close(y.norm(dim=1), data(5).double().norm(dim=1), rtol=1e-12, atol=0)
    assert not log_det.any()
    torch.testing.assert_close(torch.linalg.det(layer.weight()).item(), 1.0)
    assert not torch.allclose(y, data(5).double())


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2)], ids=str)
@pytest.mark.parametrize("which", range(4), ids=["permutation", "actnorm", "linear", "orthogonal"])
def test_autocast_rounds_nothing(shape, which):
    layer = stirred(made(shape[0])[which])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, log_det = layer(data(*shape))
        x = layer.inverse(y)
    assert y.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(y, layer(data(*shape))[0])
    torch.testing.assert_close(x, data(*shape), rtol=0, atol=1e-5)


def test_every_parameter_learns():
    for layer in made(4):
        if list(layer.parameters()):
            y, log_det = stirred(layer)(data(4, 2, 2))
            (y.square().sum() - log_det.sum()).backward()
            assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())
