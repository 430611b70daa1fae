import math

import pytest
import torch
from check_bijections import check, stirred

from pushforward.bijections.base import Chain
from pushforward.bijections.coupling import ImageNetwork, VectorNetwork, coupling, halves
from pushforward.bijections.elementwise import Affine
from pushforward.bijections.linear import Actnorm, Linear
from pushforward.bijections.shapes import Logit, Reshape, Split, Squeeze, flatten
from pushforward.errors import UserError


def data(*shape, rows=3):
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))


def test_squeeze():
    check(Squeeze(), data(2, 4, 6))
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    y, log_det = Squeeze()(x)
    assert y.shape == (1, 8, 2, 2) and not log_det.any()
    for channel in range(2):  # one square of 2x2 is one pixel, its channels side by side
        assert y[0, 4 * channel : 4 * channel + 4, 1, 0].tolist() == x[0, channel, 2:4, 0:2].flatten().tolist()


@pytest.mark.parametrize(
    ("shape", "nearest"),
    [((1, 29, 28), "28x28 or 30x28"), ((1, 28, 29), "28x28 or 28x30"), ((3, 7, 9), "6x8 or 8x10"), ((1, 1, 4), ": 2x4 can")],
)
def test_odd_sizes_are_refused_with_the_nearest(shape, nearest):
    with pytest.raises(UserError, match=nearest):
        Squeeze().shape(shape)
    with pytest.raises(UserError, match=f"{shape[1]}x{shape[2]} cannot be squeezed"):
        Squeeze()(data(*shape))


def test_only_images_are_squeezed():
    with pytest.raises(UserError, match="takes images"):
        Squeeze().shape((4,))


def test_reshaping():
    check(flatten((2, 3, 4)), data(2, 3, 4))
    check(Reshape((6,), (2, 3)), data(6))
    assert torch.equal(flatten((2, 3))(data(2, 3))[0], data(2, 3).flatten(1))
    with pytest.raises(UserError, match=r"6 numbers of shape \(2, 3\) do not fit into shape \(5,\), which has 5"):
        Reshape((2, 3), (5,))


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.05, 0.0, 1.0), (1e-6, 0.0, 1.0), (0.1, -1.0, 1.0), (0.0, 2.0, 5.0)])
def test_logit(alpha, low, high):
    x = low + (high - low) * torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check(Logit(alpha, low, high), x, single=False)  # whose log-determinant changes by x / (1 - x): tested below
    p = alpha + (1 - 2 * alpha) * (x - low) / (high - low)
    torch.testing.assert_close(Logit(alpha, low, high)(x)[0], torch.logit(p))
    single = Logit(alpha, low, high)
    torch.testing.assert_close(single.inverse(single(x.float())[0]), x.float(), rtol=0, atol=1e-6)


def test_the_logit_of_a_uniform_is_logistic():
    """log p(y) = -log |det| is the logistic law's log-density, - y - 2 log(1 + e^-y), where alpha = 0."""
    y, log_det = Logit(0.0)(torch.rand(20, 1, dtype=torch.float64))
    torch.testing.assert_close(-log_det, (-y - 2 * torch.nn.functional.softplus(-y))[:, 0])


def test_logit_at_the_ends():
    ends = torch.tensor([[0.0], [1.0]])
    y, log_det = Logit(1e-6)(ends)
    expected = math.log((1 - 1e-6) / 1e-6)
    torch.testing.assert_close(y, torch.tensor([[-expected], [expected]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(log_det, torch.full((2,), expected), rtol=1e-5, atol=0)
    near = torch.full((1, 1), 1 - 2.0**-20)  # 1 - p in single precision, next to 1
    torch.testing.assert_close(Logit(0.0)(near)[1].double(), Logit(0.0)(near.double())[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.5, 0.0, 1.0), (-0.1, 0.0, 1.0), (0.1, 1.0, 1.0)])
def test_logits_of_nothing_are_refused(alpha, low, high):
    with pytest.raises(UserError, match="alpha is at least 0 and below"):
        Logit(alpha, low, high)


def small(shape, context=0):
    moving = coupling(halves(shape[0]), Affine(), shape, width=8, depth=1, context=context)
    return Chain([Actnorm(shape[0]), Linear(shape[0]), moving])


@pytest.mark.parametrize("learned", [False, True])
def test_split(learned):
    network = ImageNetwork(2, 4, width=8, depth=1) if learned else None
    split = stirred(Split((4, 2, 3), small((2, 2, 3)), network))
    check(split, data(4, 2, 3))
    y = split.double()(data(4, 2, 3).double())[0]
    going, leaving = data(4, 2, 3).double().chunk(2, 1)
    torch.testing.assert_close(y[:, :12], split.then(going)[0].flatten(1))
    assert torch.allclose(y[:, 12:], leaving.flatten(1)) is not learned


@pytest.mark.parametrize("told", ["then", "gaussian"])
def test_the_context_reaches_both_halves(told):
    network = ImageNetwork(2, 4, width=8, depth=1, context=3 if told == "gaussian" else 0)
    split = stirred(Split((4, 2, 3), small((2, 2, 3), 3 if told == "then" else 0), network))
    check(split, data(4, 2, 3), data(3))
    moved = split.double()(data(4, 2, 3).double(), data(3).double())[0] - split(data(4, 2, 3).double(), data(3).double() + 1)[0]
    going, leaving = moved.abs().split(12, 1)
    assert bool(going.any()) is (told == "then") and bool(leaving.any()) is (told == "gaussian")


def test_split_of_odd_channels_and_of_vectors():
    check(stirred(Split((3, 2, 2), flatten((2, 2, 2)), ImageNetwork(2, 2, width=8, depth=1))), data(3, 2, 2))
    check(stirred(Split((5,), small((3,)), VectorNetwork(3, 4, width=8, depth=1))), data(5))
    with pytest.raises(UserError, match="at least 2"):
        Split((1, 2, 2), flatten((1, 2, 2)))


def test_the_gaussian_of_the_half_that_leaves():
    """With the mean and sigma that a network gives, log p(x) = log N(a; 0, 1) + log N(b; mean(a), sigma(a)^2)."""
    network = stirred(ImageNetwork(1, 2, width=8, depth=1)).double()
    split, x = Split((2, 2, 2), flatten((1, 2, 2)), network), data(2, 2, 2).double()
    y, log_det = split(x)
    standard = torch.distributions.Normal(0, 1)
    mean, log_sigma = network(x[:, :1], None).chunk(2, 1)
    log_sigma = 8 * torch.tanh(log_sigma / 8)
    expected = standard.log_prob(x[:, :1]) + torch.distributions.Normal(mean, log_sigma.exp()).log_prob(x[:, 1:])
    torch.testing.assert_close(standard.log_prob(y).sum(1) + log_det, expected.flatten(1).sum(1))


def multi_scale(context=0):
    """Two scales of images of 1x4x4."""

    def network():
        return ImageNetwork(2, 4, width=8, depth=1, context=context, image=bool(context))

    inner = Chain([Squeeze(), small((8, 1, 1)), flatten((8, 1, 1))])
    return Chain([Logit(), Squeeze(), small((4, 2, 2)), Split((4, 2, 2), inner, network())])


def test_multi_scale():
    flow = stirred(multi_scale(), 0.2)
    assert flow.shape((1, 4, 4)) == (16,)
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    check(flow, x)
    context = data(5, 4, 4)
    flow = stirred(multi_scale(context=5), 0.2)
    check(flow, x, context)
    assert not torch.allclose(flow(x, context)[0], flow(x, context + 1)[0])


def test_starting_goes_through_a_split():
    flow, x = stirred(multi_scale(), 0.2), torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = flow.start(x)
    torch.testing.assert_close(y, flow(x)[0])
    assert [bool(part.started) for part in flow.modules() if isinstance(part, Actnorm)] == [True, True]
    split, x = Split((2, 1, 1), Actnorm(1)), data(2, 1, 1, rows=100) * 3
    y = split.start(x)
    torch.testing.assert_close(y, split(x)[0])
    torch.testing.assert_close(y[:, 0].std(correction=0).item(), 1.0, rtol=0, atol=1e-5)


def test_autocast_rounds_nothing_but_networks():
    flow, x = stirred(multi_scale(), 0.2), torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, log_det = flow(x)
        back = flow.inverse(y)
    assert y.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-3)
