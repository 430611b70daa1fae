import math

import pytest
import torch
from check_bijections import check, stirred

from pushforward.bijections.base import Chain
from pushforward.bijections.coupling import Checkerboard, Coupling, ImageNetwork, VectorNetwork, alternating, coupling, halves
from pushforward.bijections.elementwise import Additive, Affine
from pushforward.bijections.shapes import Squeeze
from pushforward.errors import UserError

TRANSFORMS = {"additive": Additive(), "tanh": Affine("tanh"), "sigmoid": Affine("sigmoid")}
PARTITIONS = {
    "halves": (halves, (4,)),
    "odd-halves": (halves, (5,)),
    "alternating": (alternating, (5,)),
    "two": (alternating, (2,)),
    "channels": (halves, (3, 2, 3)),
    "checkerboard": (Checkerboard, (8, 2, 3)),
    "square": (Checkerboard, (4, 1, 1)),
}


def data(*shape, rows=3):
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))


def parted(name, swapped=False):
    make, shape = PARTITIONS[name]
    return make(shape[0], swapped), shape


def built(name, transform, swapped=False, **options):
    partition, shape = parted(name, swapped)
    return coupling(partition, TRANSFORMS[transform], shape, width=8, depth=1, **options), shape


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", PARTITIONS)
def test_bijections(name, transform, swapped):
    layer, shape = built(name, transform, swapped)
    check(stirred(layer), data(*shape))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", PARTITIONS)
def test_with_a_vector_beside(name, transform):
    layer, shape = built(name, transform, context=6)
    check(stirred(layer), data(*shape), data(6))
    layer = layer.float()
    assert not torch.allclose(layer(data(*shape), data(6))[0], layer(data(*shape), data(6) + 1)[0])


@pytest.mark.parametrize("size", [(2, 3), (4, 6), (1, 1), (5, 7)])
def test_with_an_image_of_any_size_beside(size):
    layer, shape = built("channels", "tanh", context=2, image=True)
    check(stirred(layer), data(*shape), data(2, *size))
    layer = layer.float()
    assert not torch.allclose(layer(data(*shape), data(2, *size))[0], layer(data(*shape), data(2, *size) + 1)[0])


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", PARTITIONS)
def test_couplings_start_as_the_identity(name, transform):
    layer, shape = built(name, transform, context=6)
    y, log_det = layer(data(*shape), data(6))
    torch.testing.assert_close(y, data(*shape), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(log_det, torch.zeros(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PARTITIONS)
def test_additive_couplings_keep_volumes(name):
    layer, shape = built(name, "additive")
    y, log_det = stirred(layer)(data(*shape))
    assert not log_det.any() and not torch.allclose(y, data(*shape))


@pytest.mark.parametrize("name", PARTITIONS)
def test_what_is_kept_stays_and_swapped_it_is_the_rest(name):
    changed = []
    for swapped in (False, True):
        layer, shape = built(name, "tanh", swapped)
        changed.append((stirred(layer)(data(*shape))[0] != data(*shape)).all(0))
    assert torch.equal(changed[0], ~changed[1]) and changed[0].any() and changed[1].any()


def test_which_are_kept():
    def moved(partition, shape):
        return (partition.together(torch.zeros(1, *shape), partition.apart(torch.ones(1, *shape))[1]) != 0)[0].int().tolist()

    assert moved(halves(5), (5,)) == [0, 0, 0, 1, 1]
    assert moved(halves(5, swapped=True), (5,)) == [1, 1, 1, 0, 0]
    assert moved(alternating(5), (5,)) == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("swapped", [False, True])
def test_checkerboards_are_of_pixels(swapped):
    """Seen before the squeeze: all channels of the pixels with i + j odd are moved, or of those with i + j even."""
    squeeze, x = Squeeze(), torch.zeros(1, 3, 4, 6)
    partition = Checkerboard(12, swapped)
    squeezed = squeeze(x)[0]
    y = squeeze.inverse(partition.together(squeezed, partition.apart(squeezed)[1] + 1))
    colour = (torch.arange(4)[:, None] + torch.arange(6)) % 2
    assert torch.equal(y, (1 - colour if swapped else colour).expand_as(y).float())


def test_a_network_speaks_of_each_number_in_its_place():
    """One that says 10 c + 100 i + j for the c-th of what is moved moves that number by as much."""

    class Places(torch.nn.Module):
        def forward(self, x, context=None):
            c, h, w = x.shape[1:]
            places = 10 * torch.arange(c)[:, None, None] + 100 * torch.arange(h)[:, None] + torch.arange(w)
            return places.expand(x.shape).float()

    x = torch.zeros(2, 8, 3, 4)
    for swapped, moving in ((False, [1, 2, 5, 6]), (True, [0, 3, 4, 7])):
        y = Coupling(Checkerboard(8, swapped), Places(), Additive())(x)[0]
        expected = torch.zeros_like(x)
        expected[:, moving] = Places()(x[:, :4])
        torch.testing.assert_close(y, expected)


def test_parameters_of_a_number_stand_side_by_side():
    class Said(torch.nn.Module):
        def forward(self, x, context=None):
            return torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(len(x), 4)  # a and t of one number, then of the other

    y, log_det = Coupling(halves(4), Said(), Affine())(torch.ones(1, 4))
    s = math.exp(2 * math.tanh(1.0))
    torch.testing.assert_close(y, torch.tensor([[1.0, 1.0, 2.0, s + 3]]))
    torch.testing.assert_close(log_det, torch.tensor([math.log(s)]))


@pytest.mark.parametrize("make", [halves, alternating])
def test_one_number_is_refused(make):
    with pytest.raises(UserError, match=r"1 feature or channels was asked for.* at least 2"):
        make(1)


@pytest.mark.parametrize("size", [0, 1, 3, 6])
def test_a_checkerboard_of_what_was_not_squeezed_is_refused(size):
    with pytest.raises(UserError, match=f"of {size} channels was asked for; it is of squeezed images"):
        Checkerboard(size)


@pytest.mark.parametrize("name", ["alternating", "channels", "checkerboard"])
def test_log_determinants_are_single_within_autocast(name):
    layer, shape = built(name, "tanh")
    stirred(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, log_det = layer(data(*shape))
        back = layer.inverse(y)
    assert y.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(back, data(*shape), rtol=0, atol=1e-5)  # the network says the same both ways


@pytest.mark.parametrize("scale", ["tanh", "sigmoid"])
def test_64_layers_stay_finite(scale):
    """Also with weights far larger than any start has: their scales are bounded."""
    torch.manual_seed(0)
    chain = Chain([coupling(alternating(6, bool(i % 2)), Affine(scale), (6,), width=16, depth=1) for i in range(64)])
    with torch.no_grad():
        for part in chain.parts:
            part.network.leave[-1].weight.normal_(std=1.0)
    x = data(6, rows=256).requires_grad_()
    y, log_det = chain(x)
    (y.square().sum() / 1e6 - log_det.sum()).backward()
    assert y.isfinite().all() and log_det.isfinite().all() and x.grad.isfinite().all() and log_det.abs().max() > 1
    assert all(parameter.grad.isfinite().all() for parameter in chain.parameters() if parameter.grad is not None)
    z = data(6, rows=256)
    assert chain.inverse(z).isfinite().all()


def test_64_gentle_layers_come_back():
    torch.manual_seed(0)
    chain = Chain([coupling(alternating(6, bool(i % 2)), Affine(), (6,), width=16, depth=1) for i in range(64)])
    with torch.no_grad():
        for part in chain.parts:
            part.network.leave[-1].weight.normal_(std=0.03)
    x = data(6, rows=256)
    y = chain(x)[0]
    assert (y - x).abs().max() > 1
    torch.testing.assert_close(chain.inverse(y), x, rtol=0, atol=1e-4)


def test_couplings_learn_a_bent_gaussian():
    """x1 ~ N(0, 1), x2 | x1 ~ N(x1^2, 0.3^2): an entropy of log(2 pi e) + log 0.3 = 1.634 nats, which one coupling can reach.
    Within 0.05: 400 updates."""
    torch.manual_seed(0)
    layer = Chain([coupling(halves(2), Affine(), (2,), width=32, depth=1)])
    optimizer, standard = torch.optim.Adam(layer.parameters(), 5e-3), torch.distributions.Normal(0, 1)

    def loss(rows):
        first = torch.randn(rows, 1)
        y, log_det = layer(torch.cat([first, first**2 + 0.3 * torch.randn(rows, 1)], 1))
        return -(standard.log_prob(y).sum(1) + log_det).mean()

    for _ in range(400):
        optimizer.zero_grad()
        loss(256).backward()
        optimizer.step()
    entropy = math.log(2 * math.pi * math.e) + math.log(0.3)
    with torch.no_grad():
        assert entropy - 0.03 < loss(20000).item() < entropy + 0.05


def test_networks_take_their_context():
    assert VectorNetwork(3, 5, width=8, context=2)(data(3), data(2)).shape == (3, 5)
    assert ImageNetwork(3, 5, width=8, context=2)(data(3, 4, 5), data(2)).shape == (3, 5, 4, 5)
    assert ImageNetwork(3, 5, width=8, context=2, image=True)(data(3, 4, 5), data(2, 8, 10)).shape == (3, 5, 4, 5)
    assert not ImageNetwork(3, 5, width=8)(data(3, 4, 5)).any() and not VectorNetwork(3, 5, width=8)(data(3)).any()


def test_an_image_beside_is_averaged_or_repeated():
    """To the size of x, whatever its own: means over what a pixel covers, and the pixel it lies in."""
    network = stirred(ImageNetwork(3, 5, width=8, context=2, image=True)).double()
    x, fine, coarse = data(3, 4, 6).double(), data(2, 8, 18).double(), data(2, 2, 3).double()
    means = fine.unflatten(3, (6, 3)).unflatten(2, (4, 2)).mean((3, 5))
    torch.testing.assert_close(network(x, fine), network(x, means), rtol=0, atol=1e-10)
    repeated = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(network(x, coarse), network(x, repeated), rtol=0, atol=1e-10)
    assert (network(x, fine) - network(x, means.flip(3))).abs().max() > 0.01
