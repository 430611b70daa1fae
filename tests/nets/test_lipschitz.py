"""Spectral norms, orthonormal layers and GroupSort bound slopes by what they are, and a critic made of them finds W1."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from pushforward.errors import UserError
from pushforward.nets.lipschitz import (
    GroupSort,
    OrthonormalConv2d,
    OrthonormalCritic,
    OrthonormalLinear,
    SpectralNorm,
    cayley,
    follow,
    slope,
    spectral,
)

LAYERS = [
    nn.Linear(7, 5),
    nn.Conv1d(3, 6, 5),
    nn.Conv2d(4, 8, 3, stride=2, groups=2),
    nn.Conv3d(2, 3, (1, 2, 3)),
    nn.ConvTranspose1d(4, 3, 2),
    nn.ConvTranspose2d(5, 3, 4, stride=2),
    nn.ConvTranspose3d(2, 4, 2),
]


def largest(layer):
    """The largest singular value of a layer's weights as (outputs, rest), by a decomposition."""
    weight = layer.weight.detach()
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        weight = weight.transpose(0, 1)
    return torch.linalg.svdvals(weight.reshape(len(weight), -1))[0].item()


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_the_largest_singular_value_of_every_layer_is_1(layer):
    torch.manual_seed(1)
    network = nn.Sequential(nn.ReLU(), nn.Sequential(copy.deepcopy(layer)))
    network[1][0].weight.data = 3 * torch.randn_like(layer.weight)
    spectral(network)
    for _ in range(300):  # its error falls as (second / first singular value)^600
        network[1][0].weight  # noqa: B018
    assert largest(network[1][0]) == pytest.approx(1.0, abs=1e-4)


def test_it_follows_torchs_own_step_by_step_while_weights_move():
    torch.manual_seed(0)
    ours = nn.Conv2d(3, 6, 3)
    theirs = parametrizations.spectral_norm(copy.deepcopy(ours))
    spectral(ours)
    norm, reference = ours.parametrizations.weight[0], theirs.parametrizations.weight[0]
    norm.u.copy_(reference._u), norm.v.copy_(reference._v)
    for _ in range(3):
        follow(ours)  # theirs does so in each pass
        torch.testing.assert_close(ours.weight, theirs.weight)
        move = torch.randn(6, 3, 3, 3)
        for layer in (ours, theirs):
            layer.parametrizations.weight.original.data += move


def test_the_gradient_is_the_papers():
    # With G the gradient by W / sigma: (G - <G, W / sigma> u v^T) / sigma (the paper's equation 12).
    torch.manual_seed(0)
    layer = spectral(nn.Linear(4, 3).double()).eval()
    norm, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    g = torch.randn(3, 4, dtype=torch.float64)
    (layer.weight * g).sum().backward()
    sigma = norm.u @ weight @ norm.v
    torch.testing.assert_close(weight.grad, (g - (g * weight / sigma).sum() * torch.outer(norm.u, norm.v)) / sigma)


def test_it_is_differentiated_twice_as_penalties_ask():
    torch.manual_seed(0)
    network = spectral(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))).double().eval()
    names = [name for name, _ in network.named_parameters()]

    def squared_slope(*parameters):
        x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3).requires_grad_()
        output = functional_call(network, dict(zip(names, parameters, strict=True)), x).sum()
        return torch.autograd.grad(output, x, create_graph=True)[0].square().sum()

    assert torch.autograd.gradcheck(squared_slope, [p.detach().clone().requires_grad_() for p in network.parameters()])


@pytest.mark.parametrize("kernel, stride, most", [(3, 1, 3.0), (4, 2, 2.0), (2, 2, 1.0)])
def test_a_spectral_convolution_is_steeper_by_as_many_patches_as_see_a_pixel(kernel, stride, most):
    # The bound sqrt(ceil(kernel / stride)) for each axis is reached by a kernel of ones, on an image of ones.
    layer = nn.Conv2d(1, 1, kernel, stride, (kernel - stride) // 2, bias=False, padding_mode="circular")
    nn.init.ones_(layer.weight)
    x = torch.ones(1, 1, 12, 12)
    assert (spectral(layer)(x).norm() / x.norm()).item() == pytest.approx(most, rel=1e-5)


def test_u_and_v_follow_the_weights_when_they_are_told_to_and_never_in_a_pass():
    torch.manual_seed(0)
    network = spectral(nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)))
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter)  # u and v are far from where they belong
    x, before = torch.randn(4, 30), copy.deepcopy(dict(network.named_buffers()))
    assert len(before) == 4
    for mode in (False, True):
        first = network.train(mode)(x)
        assert torch.equal(first, network(x))
        assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    follow(network)
    assert not any(torch.equal(value, before[name]) for name, value in network.named_buffers())
    for _ in range(300):
        follow(network)
    for layer in (network[0], network[2]):
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-3)


def test_state_brings_the_same_function_back():
    torch.manual_seed(0)
    network, other = (spectral(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 1))) for _ in range(2))
    network(torch.randn(5, 2, 4, 4))
    other.load_state_dict(network.state_dict())
    x = torch.randn(5, 2, 4, 4)
    assert torch.equal(network.eval()(x), other.eval()(x)) and torch.equal(copy.deepcopy(network)(x), network(x))


def test_replicated_training_with_a_penalty_has_the_gradients_of_one_process():
    # Real, fake and a slope in one loss.
    torch.manual_seed(0)
    network = spectral(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)))
    twin = copy.deepcopy(network)
    real, fake = torch.randn(4, 3), torch.randn(4, 3)

    class Turn(nn.Module):
        def __init__(self, critic):
            super().__init__()
            self.critic = critic

        def forward(self):
            x = real.clone().requires_grad_()
            output = self.critic(x).sum()
            (gradient,) = torch.autograd.grad(output, x, create_graph=True)
            return self.critic(fake).mean() - output / 4 + gradient.square().sum()

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        nn.parallel.DistributedDataParallel(Turn(network))().backward()
    finally:
        torch.distributed.destroy_process_group()
    Turn(twin)().backward()
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_norm_is_not_rounded_within_autocast():
    torch.manual_seed(0)
    layer, orthonormal = spectral(nn.Linear(60, 50)), OrthonormalLinear(20, 30)
    exact = layer.eval().weight, orthonormal.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, exact[0]) and torch.equal(orthonormal.weight, exact[1])
        assert layer(torch.randn(2, 60)).dtype == torch.bfloat16
        assert OrthonormalConv2d(2, 3)(torch.randn(2, 2, 5, 5).bfloat16()).dtype == torch.float32


def test_slopes_within_autocast_exceed_1_by_rounding_only():
    # Weights are rounded to 8 bits, at random: each layer is off by at most 2^-8, eight of rotations by 0.2 % as measured.
    torch.manual_seed(0)
    critic, x = with_head(OrthonormalCritic((64,), 64, depth=8)), torch.randn(100, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mean, most = slope(critic, x)
    assert mean.item() == pytest.approx(1, abs=5e-3) and most.item() == pytest.approx(1, abs=5e-3)


def test_what_is_parametrised_stays_and_zeros_are_refused():
    network = spectral(spectral(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))))
    assert [type(p) for p in network[0].parametrizations.weight] == [SpectralNorm]
    assert not parametrize.is_parametrized(network[1])
    network = nn.Sequential(nn.ReLU(), nn.Linear(3, 3))
    nn.init.zeros_(network[1].weight)
    with pytest.raises(UserError, match="layer '1' are all 0"):
        spectral(network)


@pytest.mark.parametrize("n, k", [(5, 5), (9, 4), (4, 9), (1, 6), (6, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_cayley_makes_any_matrix_orthonormal(n, k, dtype):
    q = cayley(10 * torch.randn(3, n, k, dtype=dtype))
    few = q.mH @ q if n >= k else q @ q.mH
    torch.testing.assert_close(few, torch.eye(min(n, k), dtype=dtype).expand_as(few))


def test_cayley_reaches_other_matrices_than_the_identity_and_passes_gradients():
    raw = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cayley, raw)
    # A known one: a = -tan(angle / 2) in the corner turns the plane by that angle.
    turn = cayley(torch.tensor([[0.0, -math.tan(0.3)], [0.0, 0.0]], dtype=torch.float64))
    expected = [[math.cos(0.6), math.sin(0.6)], [-math.sin(0.6), math.cos(0.6)]]
    torch.testing.assert_close(turn, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("inputs, outputs, stride", [(3, 3, 1), (3, 5, 1), (5, 3, 1), (1, 4, 2), (2, 6, 2), (1, 9, 3)])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (2, 9)])
def test_an_orthonormal_convolution_keeps_norms(inputs, outputs, stride, size):
    torch.manual_seed(0)
    layer = OrthonormalConv2d(inputs, outputs, 3, stride).double()
    layer.bias.data.zero_()
    x = torch.randn(2, inputs, *size, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.shape == (2, outputs, *(math.ceil(n / stride) for n in size))
    if outputs >= inputs * stride**2:
        torch.testing.assert_close(y.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    else:  # the rows are orthonormal; what lies in the zeros beside an image is cut off
        weight = torch.randn_like(y)
        (gradient,) = torch.autograd.grad((weight * y).sum(), x)
        kept = gradient.flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)
        whole = all(n % stride == 0 for n in size)
        assert (kept - 1).abs().max() < 1e-12 if whole else (kept <= 1 + 1e-12).all()


def test_an_orthonormal_convolution_is_one():
    layer = OrthonormalConv2d(2, 3).double()
    x = torch.randn(1, 2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x.roll((2, -3), (2, 3))), layer(x).roll((2, -3), (2, 3)))
    # To first order in small weights the kernel is the given one, round its centre, and no other place is reached.
    with torch.no_grad():
        layer.raw.mul_(1e-3), layer.bias.zero_()
        for size in ((7, 9), (12, 6)):
            point = torch.zeros(1, 2, *size, dtype=torch.float64)
            point[0, 1, 3, 3] = 1.0
            moved = layer(point) - F.pad(point, (0, 0, 0, 0, 0, 1))
            near = moved[..., 2:5, 2:5].clone()
            moved[..., 2:5, 2:5] = 0
            assert moved.abs().max() < 1e-5
            u = layer.raw[:2]
            skew = (u - u.flip(2, 3).transpose(0, 1))[:, 1]
            expected = -2 * torch.cat([skew, layer.raw[2:, 1]])
            torch.testing.assert_close(near[0], expected, atol=1e-5, rtol=0)  # second order: 4e-6


def test_group_sort_sorts_groups():
    x = torch.randn(3, 12, 2)
    for group in (2, 3, 12):
        expected = x.view(3, 12 // group, group, 2).sort(2).values.reshape(3, 12, 2)
        assert torch.equal(GroupSort(group)(x), expected)
    with pytest.raises(UserError, match=r"12 units .* groups of 5"):
        GroupSort(5)(x)
    with pytest.raises(UserError, match="nothing to sort"):
        GroupSort(1)


@pytest.mark.parametrize("group", [2, 4])
def test_group_sort_keeps_norms_of_data_and_gradients_at_ties_too(group):
    x = torch.randn(5, 8, dtype=torch.float64)
    x[0] = 1.0
    x.requires_grad_()
    y, weight = GroupSort(group)(x), torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    (gradient,) = torch.autograd.grad((weight * y).sum(), x)
    torch.testing.assert_close(gradient.sort(1).values, weight.sort(1).values)  # a permutation


def with_head(trunk: OrthonormalCritic) -> nn.Module:
    return nn.Sequential(trunk, OrthonormalLinear(trunk.width, 1), nn.Flatten(0))


@pytest.mark.parametrize("group", [2, 8])
def test_the_orthonormal_critic_has_slope_1_at_most_whatever_its_weights(group):
    torch.manual_seed(0)
    trunk = OrthonormalCritic((3, 2), 16, embedding=4, group=group).double()
    head = OrthonormalLinear(16, 1).double()
    critic = nn.ModuleList([trunk, head])
    for scale in (0.0, 0.1, 1.0, 30.0):
        for parameter in critic.parameters():
            parameter.data = scale * torch.randn_like(parameter)
        for spread in (0.01, 1.0, 100.0):
            x, y = spread * torch.randn(2, 500, 3, 2, dtype=torch.float64)
            e = torch.randn(500, 4, dtype=torch.float64)
            mean, most = slope(lambda x, e=e: head(trunk(x, e)).squeeze(1), x)
            assert 0 < mean <= most + 1e-9 <= 1 + 2e-9
            assert (
                (head(trunk(x, e)) - head(trunk(y, e))).squeeze(1).abs() <= (1 + 1e-9) * (x - y).flatten(1).norm(dim=1)
            ).all()
    with pytest.raises(UserError, match="width 15"):
        OrthonormalCritic((3,), 15)


def test_square_layers_lose_no_slope():
    # With as many units as data have dimensions every layer is a rotation, and the slope is that of the last: exactly 1.
    torch.manual_seed(0)
    mean, most = slope(with_head(OrthonormalCritic((10,), 10, depth=6)).double(), torch.randn(100, 10, dtype=torch.float64))
    assert mean.item() == pytest.approx(1, abs=1e-12) and most.item() == pytest.approx(1, abs=1e-12)


def test_slope_is_the_length_of_the_gradient_and_leaves_none_behind():
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    weight = nn.Parameter(torch.ones(()))
    with torch.no_grad():
        mean, most = slope(lambda x: weight * x.square().sum(1) / 2, x)
    assert (mean.item(), most.item()) == (3.0, 5.0) and not mean.requires_grad
    assert weight.grad is None and not x.requires_grad
    assert slope(lambda x: x.square().flatten(1).sum(1), torch.ones(2, 3, 2).bfloat16())[0].dtype == torch.float32


# The best plan moves the whole by m, or scales it: W1 = |m|, and |s - 1| E|x| = |s - 1| sqrt(pi / 2) in the plane.
SHIFT = torch.tensor([1.2, -0.9, 0.0, 2.0])
GAUSSIANS = {
    "moved": (4, lambda z: z + SHIFT, 2.5),
    "scaled": (2, lambda z: 3 * z, 2 * math.sqrt(math.pi / 2)),
}


@pytest.mark.parametrize("case", GAUSSIANS)
def test_w1_between_known_gaussians_within_5_percent(case):
    dimensions, push, truth = GAUSSIANS[case]
    torch.manual_seed(0)
    critic = with_head(OrthonormalCritic((dimensions,), 32))
    optimizer = torch.optim.Adam(critic.parameters(), 0.01)
    for _ in range(200):
        difference = critic(push(torch.randn(128, dimensions))).mean() - critic(torch.randn(128, dimensions)).mean()
        optimizer.zero_grad()
        (-difference).backward()
        optimizer.step()
    with torch.no_grad():  # on 100,000 new points: a standard error below 1 %
        real, fake = push(torch.randn(100_000, dimensions)), torch.randn(100_000, dimensions)
        found = (critic(real).mean() - critic(fake).mean()).item()
    assert found == pytest.approx(truth, rel=0.05)
    mean, most = slope(critic, torch.cat([real, fake]))
    assert mean > 0.9 and most <= 1 + 1e-5
