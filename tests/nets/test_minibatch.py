"""Layers that look at a batch: by hand, against torch's batch norm, and who depends on whom."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.dcgan import DCGANGenerator
from pushforward.nets.minibatch import (
    MinibatchDeviation,
    MinibatchDiscrimination,
    VirtualBatchNorm,
    WithReference,
)
from pushforward.randomness import SampleRng


def test_two_rows_by_hand():
    layer = MinibatchDiscrimination(2, kernels=2, dimensions=2)
    with torch.no_grad():  # M_b = (f_1, f_2) of kernel 1, (f_1 + f_2, 0) of kernel 2
        layer.T.copy_(torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]))
    f = torch.tensor([[0.0, 0.0], [1.0, -0.5]], requires_grad=True)
    out = layer(f)
    closeness = torch.tensor([1 + math.exp(-1.5), 1 + math.exp(-0.5)])  # |1| + |-0.5|; |0.5|
    torch.testing.assert_close(out, torch.cat([f, closeness.expand(2, 2)], 1))
    # o_1 of row 0 rises as row 1 comes nearer: d exp(-|a - b|) / d b = -sign(b - a) exp(-|a - b|), and the same by row 1's o_1.
    out[0, 2].backward()
    torch.testing.assert_close(f.grad[1], math.exp(-1.5) * torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(f.grad[0], -f.grad[1])


def test_closeness_counts_equal_rows():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(6, kernels=7, dimensions=3)
    same = SampleRng(0).randn(1, 6).expand(5, 6)
    torch.testing.assert_close(layer.closeness(same), torch.full((5, 7), 5.0))  # collapsed: all rows
    torch.testing.assert_close(layer.closeness(1e4 * SampleRng(0).randn(5, 6)), torch.ones(5, 7))  # all differ: only itself
    torch.testing.assert_close(layer(same[:1])[:, 6:], torch.ones(1, 7))


def test_fresh_kernels_are_neither_all_near_nor_all_far():
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(200, kernels=50)
    share = (layer.closeness(SampleRng(0).randn(64, 200)) - 1).mean() / 63
    assert 0.15 < share < 0.6  # exp(-distance) of distances about 1


def test_closeness_follows_the_order_of_rows_and_can_be_penalised():
    torch.manual_seed(0)
    layer, f = MinibatchDiscrimination(4, 3, 2).double(), SampleRng(0).randn(5, 4, dtype=torch.float64)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(layer(f[order]), layer(f)[order])
    x = f.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert layer.T.grad.abs().max() > 0  # a penalty on slopes reaches the kernels


@pytest.mark.parametrize("group", [2, 3, 6])
def test_deviation_of_groups_of_neighbours(group):
    h = SampleRng(0).randn(6, 3, 2, 2)
    out = MinibatchDeviation(group)(h)
    assert out.shape == (6, 4, 2, 2) and torch.equal(out[:, :3], h)
    for first in range(0, 6, group):
        rows = slice(first, first + group)
        expected = h[rows].std(0, correction=0).mean()
        torch.testing.assert_close(out[rows, 3], expected.expand(group, 2, 2), atol=1e-6, rtol=1e-5)


def test_deviation_of_equal_rows_is_nothing_with_a_finite_slope():
    h = torch.ones(4, 3, requires_grad=True)
    out = MinibatchDeviation()(h)
    assert out.shape == (4, 4) and (out[:, 3] <= 1.01e-4).all()  # the root of 1e-8
    out[:, 3].sum().backward()
    assert h.grad.isfinite().all()
    torch.testing.assert_close(MinibatchDeviation()(h[:1])[:, 3], torch.full((1,), 1e-4))


def test_a_batch_that_cannot_be_cut_is_one_group():
    h = SampleRng(0).randn(5, 3)
    torch.testing.assert_close(MinibatchDeviation(4).deviation(h), h.std(0, correction=0).mean().expand(5))
    with pytest.raises(UserError, match="at least 2"):
        MinibatchDeviation(1)


@pytest.mark.parametrize("places", [(), (4,), (3, 5)])
def test_each_row_is_normalised_as_if_it_were_in_the_reference(places):
    # torch's batch norm over R + 1 rows, of which the last is the datum
    h = 3 + 2 * SampleRng(0).randn(9, 4, *places)
    norm = VirtualBatchNorm(4, reference=6)
    weight, bias = SampleRng(1).randn(2, 4).unbind()
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    out = norm(h)
    assert out.shape == h.shape
    for i in (6, 7, 8):
        expected = F.batch_norm(torch.cat([h[:6], h[i : i + 1]]), None, None, weight, bias, training=True)[6]
        torch.testing.assert_close(out[i], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[:6], F.batch_norm(h[:6], None, None, weight, bias, training=True), atol=1e-5, rtol=1e-5)


def test_large_means_do_not_cancel():
    # E h^2 - (E h)^2 in float32 would have no digit left at a mean of 10,000 and a deviation of 1
    h = SampleRng(0).randn(9, 2, 8)
    norm = VirtualBatchNorm(2, reference=6)
    torch.testing.assert_close(norm(h + 1e4), norm(h), atol=5e-3, rtol=0)  # 1e4 is known to 1e-3


def generator() -> WithReference:
    torch.manual_seed(0)
    return WithReference(DCGANGenerator((1, 8, 8), 5, 4, 3), SampleRng(9).randn(16, 5))


def test_rows_do_not_depend_on_each_other():
    network, z, embedding = generator(), SampleRng(0).randn(4, 5), SampleRng(1).randn(4, 3)
    out = network(z, embedding)
    assert out.shape == (4, 1, 8, 8)
    z2, embedding2 = z.clone(), embedding.clone()
    z2[1:] += 7
    embedding2[1:] -= 3
    # but for the order of float32 sums
    torch.testing.assert_close(network(z2, embedding2)[0], out[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network(z[2:3], embedding[2:3]), out[2:3], atol=1e-5, rtol=1e-5)
    assert (network(z2, embedding2)[1:] - out[1:]).abs().max() > 1e-3
    slope = torch.autograd.grad(network(z.requires_grad_(), embedding)[0].square().sum(), z)[0]
    assert (slope[1:] == 0).all() and slope[0].abs().min() > 0


def test_the_reference_is_normalised_along_and_is_no_state():
    network, z = generator(), SampleRng(0).randn(4, 5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    embedding = torch.ones(4, 3)
    loss = network(z, embedding).square().sum()
    loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    assert torch.equal(network.eval()(z, embedding), network.train()(z, embedding))  # the same in both modes
    other = generator()
    other.reference.mul_(3)
    assert (other(z, embedding) - network(z, embedding)).abs().max() > 1e-3


def test_norms_keep_the_weights_that_they_had():
    torch.manual_seed(0)
    plain = DCGANGenerator((1, 8, 8), 5, 4)
    before = {name: p.clone() for name, p in plain.named_parameters()}
    network = WithReference(plain, SampleRng(9).randn(16, 5))
    assert {name: p.shape for name, p in network.network.named_parameters()} == {n: p.shape for n, p in before.items()}
    assert all(torch.equal(p, before[name]) for name, p in network.network.named_parameters())
    assert sum(isinstance(m, VirtualBatchNorm) for m in network.modules()) == 2
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_networks_without_norms_are_refused():
    with pytest.raises(UserError, match="no batch norm that a virtual one could replace"):
        WithReference(nn.Sequential(nn.Linear(2, 2)), torch.zeros(4, 2))
    with pytest.raises(UserError, match="empty"):
        WithReference(DCGANGenerator((1, 8, 8), 5, 4), torch.zeros(0, 5))


@pytest.mark.parametrize("name", ["discrimination", "deviation", "virtual"])
def test_mixed_precision(name):
    torch.manual_seed(0)
    layers = {
        "virtual": VirtualBatchNorm(4, 3),
        "discrimination": MinibatchDiscrimination(4, 6, 3),
        "deviation": MinibatchDeviation(),
    }
    layer = layers[name]
    h = SampleRng(0).randn(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(h.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(h), atol=0.05, rtol=0.02)  # eight bits of mantissa
