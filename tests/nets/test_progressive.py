"""Progressive growing: what a stage can show and see, how one becomes the next, and layers with an equalised learning rate."""

import copy
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.equalised import EqualisedConv2d, EqualisedLinear
from pushforward.nets.progressive import (
    ProgressiveCritic,
    ProgressiveGenerator,
    averaged,
    enlarged,
    stage_at,
    unit_length,
)

SHAPES = [(1, 28, 23), (3, 32, 32), (2, 9, 17), (1, 8, 128)]


def generator_of(shape, **options):
    return ProgressiveGenerator(shape, 6, 4, **options).double().eval()


def critic_of(shape, **options):
    return ProgressiveCritic(shape, 4, **options).double().eval()


def at(network, stage: float):
    network.stand_at(stage)
    return network


def coarser(x: torch.Tensor, level: int, network) -> torch.Tensor:
    """x with every pixel replaced by the mean of its block at a level, block by block."""
    side = 2 ** (network.finest - level)
    x = x.clone()
    for top in range(0, x.shape[2], side):
        for left in range(0, x.shape[3], side):
            block = x[:, :, top : top + side, left : left + side]
            block[:] = block.mean((2, 3), keepdim=True)
    return x


# Sizes


@pytest.mark.parametrize("shape", SHAPES)
def test_levels_have_the_planned_sizes_and_both_networks_are_of_full_size_at_every_stage(shape):
    generator, critic = generator_of(shape, embedding=5), critic_of(shape, embedding=5)
    assert generator.plan == critic.plan and generator.plan[-1] == shape[1:]
    assert critic.channels[-1] == 4 and critic.width == critic.channels[0] == 4 * min(2**critic.finest, 8)
    z, e = torch.randn(3, 6).double(), torch.randn(3, 5).double()
    for stage in [s / 2 for s in range(2 * generator.finest + 1)]:
        x = at(generator, stage)(z, e)
        assert x.shape == (3, *shape) and x.abs().max() <= 1
        assert at(critic, stage)(x, e).shape == (3, critic.width)


@pytest.mark.parametrize("shape", SHAPES)
def test_averages_and_enlarging_are_over_the_same_blocks(shape):
    """Also at odd edges, where a block is what there is of it; a mean of equal numbers is exact to the last bit but one."""
    critic = critic_of(shape)
    x = torch.randn(2, *shape).double()
    for level, size in enumerate(critic.plan):
        halvings = critic.finest - level
        assert averaged(x, halvings).shape[2:] == size
        torch.testing.assert_close(enlarged(averaged(x, halvings), halvings, shape[1:]), coarser(x, level, critic))


# The generator


@pytest.mark.parametrize("shape", SHAPES)
def test_a_generator_shows_no_more_than_its_stage(shape):
    generator = generator_of(shape)
    z = torch.randn(3, 6).double()
    for level in range(generator.finest + 1):
        x = at(generator, level)(z)
        torch.testing.assert_close(coarser(x, level, generator), x)
        if level:  # and no less
            assert (coarser(x, level - 1, generator) - x).abs().max() > 1e-3
            fading = at(generator, level - 0.5)(z)
            torch.testing.assert_close(coarser(fading, level, generator), fading)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fading_image_is_the_mixture_of_the_two_stages(shape):
    """x(k + alpha) = (1 - alpha) x(k) + alpha x(k + 1): continuous at both ends."""
    generator = generator_of(shape)
    z = torch.randn(3, 6).double()
    for k in range(generator.finest):
        before, after = at(generator, k)(z), at(generator, k + 1)(z)
        for alpha in (0.0, 2.0**-10, 0.25, 1 - 2.0**-10):  # exact in the float32 of the stage
            torch.testing.assert_close(at(generator, k + alpha)(z), (1 - alpha) * before + alpha * after)


def test_features_have_length_one_and_only_the_direction_of_z_counts():
    h = 7 * torch.randn(3, 5, 2, 2).double()
    length = unit_length(h).square().mean(1)
    torch.testing.assert_close(length, torch.ones_like(length))
    torch.testing.assert_close(unit_length(h), h / (h.square().sum(1, keepdim=True) / 5).sqrt())
    generator = at(generator_of((1, 28, 23)), 2)
    z = torch.randn(3, 6).double()
    torch.testing.assert_close(generator(3 * z), generator(z), rtol=1e-6, atol=1e-7)  # but for the 1e-8 under the root
    assert (generator(-z) - generator(z)).abs().max() > 0.1


def test_a_generator_is_made_of_these_layers():
    """The first two levels by hand: norms after every layer with features, colours without."""
    generator = at(generator_of((1, 32, 32), embedding=5), 1)
    z, e = torch.randn(3, 6).double(), torch.randn(3, 5).double()

    def normed(h):
        h = torch.where(h > 0, h, 0.2 * h)
        return h / h.square().mean(1, keepdim=True).sqrt()

    direction = z / z.square().mean(1, keepdim=True).sqrt()
    h = normed(generator.enter(torch.cat([direction, e], 1)).view(3, 32, 4, 4))
    h = normed(generator.first(h))
    block = generator.blocks[0]
    h = normed(block.conv2(normed(block.conv1(h.repeat_interleave(2, 2).repeat_interleave(2, 3)))))
    x = torch.tanh(generator.colours[1](h)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(generator(z, e), x, rtol=1e-5, atol=1e-5)  # but for the 1e-8 under the root


# The critic


@pytest.mark.parametrize("shape", SHAPES)
def test_a_critic_sees_block_means_of_its_stage_and_nothing_else(shape):
    critic = critic_of(shape)
    x = torch.randn(2, *shape).double()
    for level in range(critic.finest + 1):
        for stage in {level, max(level - 0.5, 0)}:  # a level that fades in is seen
            at(critic, stage)
            f = critic(x)
            torch.testing.assert_close(critic(coarser(x, math.ceil(stage), critic)), f)
            if level and math.ceil(stage) == level:
                assert (critic(coarser(x, level - 1, critic)) - f).abs().max() > 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fading_critic_mixes_the_features_of_both_ways(shape):
    """h_k = (1 - alpha) colour_k(D_k x) + alpha block_k(colour_(k+1)(D_(k+1) x)): by hand for k = 0; continuous ends."""
    critic = critic_of(shape)
    x = torch.randn(2, *shape).double()
    L = critic.finest

    def act(h):
        return torch.where(h > 0, h, 0.2 * h)

    def colour(level):
        return act(critic.colours[level](averaged(x, L - level)))

    def finer():
        return averaged(act(critic.blocks[0].conv2(act(critic.blocks[0].conv1(colour(1))))), 1)

    def rest(h):
        return act(critic.leave(act(critic.last(h)).flatten(1)))

    for alpha in (0.0, 0.25, 0.75):
        h = (1 - alpha) * colour(0) + alpha * finer()
        torch.testing.assert_close(at(critic, alpha)(x), rest(h))
    torch.testing.assert_close(at(critic, 1)(x), rest(finer()))
    for k in range(L + 1):
        f = at(critic, k)(x)
        for stage in {max(k - 2.0**-18, 0), min(k + 2.0**-18, L)}:
            assert (at(critic, stage)(x) - f).abs().max() < 1e-4


def test_a_slope_by_full_images_keeps_its_meaning():
    """Along images of the stage's resolution, a critic's slope by x is its slope by the images themselves: the gradient is
    constant on blocks, and moving down it changes f by its squared length."""
    critic = at(critic_of((1, 16, 16)), 1)
    x = torch.randn(1, 1, 16, 16).double().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x)
    torch.testing.assert_close(coarser(slope, 1, critic), slope)
    step = 1e-6 * slope
    change = (critic(x + step).sum() - critic(x - step).sum()) / 2e-6
    torch.testing.assert_close(change, slope.square().sum(), rtol=1e-5, atol=0)


# Both


@pytest.mark.parametrize("stage", [0.0, 0.5, 1.0, 1.75, 2.0])
def test_rows_are_independent_and_the_condition_is_heard(stage):
    shape = (1, 28, 23)
    generator, critic = at(generator_of(shape, embedding=5), stage).train(), at(critic_of(shape, embedding=5), stage).train()
    z, e, x = torch.randn(4, 6).double(), torch.randn(4, 5).double(), torch.randn(4, *shape).double()
    for network, rows in ((generator, z), (critic, x)):
        whole = network(rows, e)
        for row in range(4):
            torch.testing.assert_close(network(rows[row : row + 1], e[row : row + 1]), whole[row : row + 1])
        assert (network(rows, e.flip(0)) - whole).flatten(1).abs().amax(1).min() > 1e-4
        torch.testing.assert_close(network(rows), network(rows, torch.zeros_like(e)))


@pytest.mark.parametrize("stage", [0.0, 1.5, 2.0])
def test_a_critic_is_twice_differentiable(stage):
    """R1 of a step: d |grad_x f|^2 / dw against differences of it, along a random direction of all weights."""
    critic = at(critic_of((1, 10, 9)), stage)
    x = torch.randn(2, 1, 10, 9).double().requires_grad_()
    parameters = list(critic.parameters())

    def penalty():
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return slope.square().sum()

    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    directions = [torch.randn_like(p) for p in parameters]
    predicted = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    values = []
    with torch.no_grad():
        for h in (1e-6, -2e-6):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(h * direction)
            with torch.enable_grad():
                values.append(penalty().item())
    torch.testing.assert_close(predicted.item(), (values[0] - values[1]) / 2e-6, rtol=1e-4, atol=0)


@pytest.mark.parametrize("make", [generator_of, critic_of])
def test_only_levels_that_a_stage_has_reached_are_computed_and_trained(make):
    """Parameters beyond have no gradient, for which the loop takes zeros; at the end all have one."""
    network = make((1, 28, 23))
    given = torch.randn(3, 6).double() if make is generator_of else torch.randn(3, 1, 28, 23).double()
    for stage, colours, blocks in ((0, {0}, set()), (0.5, {0, 1}, {0}), (1, {1}, {0}), (1.5, {1, 2}, {0, 1}), (2, {2}, {0, 1})):
        network.zero_grad()
        at(network, stage)(given).square().sum().backward()
        touched = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        for part, levels in (("colours", colours), ("blocks", blocks)):
            assert {int(name.split(".")[1]) for name in touched if name.startswith(part)} == levels
        assert all(p.grad is None or p.grad.abs().max() > 0 for p in network.parameters())


# The schedule


@pytest.mark.parametrize("complete", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("finest", [1, 2, 5])
def test_the_schedule_rises_without_a_jump_and_rests_half_of_the_time_at_each_level(finest, complete):
    grid = [i / 12_000 for i in range(12_001)]
    stages = [stage_at(progress, finest, complete) for progress in grid]
    rises = [b - a for a, b in pairwise(stages)]
    assert stages[0] == 0 and stages[-1] == finest and min(rises) >= 0
    assert max(rises) <= 1.001 * 2 * finest / complete / 12_000  # alpha from 0 to 1 in half a phase
    for k in range(finest):
        stable = sum(abs(stage - k) < 1e-9 for stage in stages) / 12_000
        fading = sum(k + 1e-9 < stage < k + 1 - 1e-9 for stage in stages) / 12_000
        assert stable == pytest.approx(complete / finest / 2, abs=3e-4)  # two points of the grid
        assert fading == pytest.approx(complete / finest / 2, abs=3e-4)
    assert stage_at(complete, finest, complete) == finest > stage_at(complete - 1e-3, finest, complete)


def test_a_network_moves_after_updates_and_is_found_again_where_it_stood():
    generator, critic = ProgressiveGenerator((1, 28, 23), 6, 4), ProgressiveCritic((1, 28, 23), 4, complete=1.0)
    assert generator.stage == critic.stage == 0
    for network, expected in ((generator, 0.4), (critic, 0.0)):
        network.after_update(SimpleNamespace(progress=0.21))
        assert network.stage.item() == pytest.approx(expected, abs=1e-6)
    z = torch.randn(2, 6)
    again = ProgressiveGenerator((1, 28, 23), 6, 4)
    torch.nn.ModuleList([again]).load_state_dict(torch.nn.ModuleList([generator]).state_dict())  # as a part of a model
    twin = copy.deepcopy(generator)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    assert torch.equal(again(z), generator(z)) and torch.equal(twin(z), generator(z))
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())  # a pass changes nothing
    generator.after_update(SimpleNamespace(progress=1.0))
    assert generator.stage == 2 and twin.stage < 1
    assert not torch.equal(generator(z), again(z)) and torch.equal(twin(z), again(z))


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match=r"complete = 0.*above 0"):
        ProgressiveGenerator((1, 8, 8), 6, 4, complete=0)
    with pytest.raises(UserError, match=r"complete = 1\.5"):
        ProgressiveCritic((1, 8, 8), 4, complete=1.5)
    with pytest.raises(UserError, match=r"stage = 2\.5.*0 to 2"):
        ProgressiveCritic((1, 8, 8), 4).stand_at(2.5)


# Equalised layers


def test_equalised_layers_scale_weights_of_size_one():
    """y = gain / sqrt(fan in) w x + b by torch's own layers, and the draw N(0, 1) (the deviation of 73,728 draws to 1 %)."""
    linear, conv = EqualisedLinear(50, 7, gain=math.sqrt(2)), EqualisedConv2d(64, 128, gain=0.5)
    x, images = torch.randn(4, 50), torch.randn(2, 64, 5, 6)
    assert conv.weight.std().item() == pytest.approx(1, abs=0.01) and abs(conv.weight.mean().item()) < 0.02
    assert not linear.bias.any() and not conv.bias.any()
    torch.nn.init.normal_(linear.bias), torch.nn.init.normal_(conv.bias)
    torch.testing.assert_close(linear(x), x @ linear.weight.T * (2 / 50) ** 0.5 + linear.bias)
    expected = F.conv2d(images, conv.weight, padding=1) * 0.5 / 576**0.5 + conv.bias[:, None, None]
    torch.testing.assert_close(conv(images), expected, rtol=1e-4, atol=1e-5)


def test_activations_stay_as_wide_from_layer_to_layer():
    """sqrt(2) makes up for a ReLU: E relu(y)^2 = E x^2. Ten layers of 512, with a deviation of about sqrt(5 / 512) a layer."""
    h = torch.randn(64, 512)
    for _ in range(10):
        h = F.relu(EqualisedLinear(512, 512, gain=math.sqrt(2))(h))
    assert h.square().mean().item() == pytest.approx(1, rel=0.5)


def test_adam_moves_every_layer_by_the_same_share_of_its_function():
    """One update of a rate of 0.01 changes every weight by 0.01, where they are of size 1, whatever the fan-in."""
    for inputs in (4, 4096):
        layer = EqualisedLinear(inputs, 8, gain=math.sqrt(2))
        before = layer.weight.detach().clone()
        optimizer = torch.optim.Adam([layer.weight], lr=0.01)
        layer(torch.randn(16, inputs)).square().sum().backward()
        optimizer.step()
        moved = (layer.weight.detach() - before).square().mean().sqrt() / before.square().mean().sqrt()
        assert moved.item() == pytest.approx(0.01, rel=0.35)  # 32 weights in the smaller layer
