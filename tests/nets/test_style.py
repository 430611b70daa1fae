"""StyleGAN's networks: what each part is by its formula, and who sees which style."""

import jaxtyping
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.models.contract import Moment
from pushforward.nets.equalised import EqualisedConv2d, EqualisedLinear
from pushforward.nets.style import (
    AdaIN,
    DownBlock,
    MappingNetwork,
    ModulatedConv2d,
    StyleCritic,
    StyledLayer,
    StyleGenerator,
    activate,
    doubled,
    path_length,
)
from pushforward.randomness import SampleRng, UpdateRng

SHAPES = [(1, 8, 8), (1, 28, 23), (3, 64, 48), (2, 9, 17), (1, 8, 100)]
MODULATIONS = ["weights", "adain"]


def built(shape=(2, 16, 12), channels=4, embedding=0, modulation="weights", seed=0, **further):
    """A generator whose biases and strengths are no longer 0, so that leaving one out shows."""
    torch.manual_seed(seed)
    generator = StyleGenerator(shape, 9, channels, embedding, style_dim=6, mapping_depth=2, modulation=modulation, **further)
    for layer in generator.styled:
        nn.init.normal_(layer.strength, 0.5)
        nn.init.normal_(layer.bias)
    return generator


def rows(*shape: int, seed: int = 1, dtype=torch.float32) -> torch.Tensor:
    return SampleRng(seed).randn(*shape, dtype=dtype)


def moment(seed: int) -> Moment:
    return Moment(0, 0.0, UpdateRng(torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("modulation", MODULATIONS)
@pytest.mark.parametrize("embedding", [0, 5])
def test_exact_shapes_and_a_gradient_for_every_parameter(shape, modulation, embedding):
    generator, critic = built(shape, 4, embedding, modulation), StyleCritic(shape, 4)
    e = rows(3, embedding) if embedding else None
    x = generator(rows(3, 9), e, generator.draw_noise(3, SampleRng(0)), (rows(3, 9, seed=2), torch.tensor([1, 3, 5])))
    assert x.shape == (3, *shape) and x.abs().max() <= 1
    features = critic(x, e)
    assert features.shape == (3, critic.width)
    features.square().sum().backward()
    for network in (generator, critic):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert x[..., -1, :].std() > 0 and x[..., -1].std() > 0


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_a_single_image_in_bfloat16_and_every_pixel_counts(modulation):
    generator, critic = built((1, 13, 11), 4, 3, modulation), StyleCritic((1, 13, 11), 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = generator(rows(1, 9), rows(1, 3), generator.draw_noise(1, SampleRng(0)))
        critic(x).sum().backward()
    exact = generator(rows(1, 9), rows(1, 3), generator.draw_noise(1, SampleRng(0)))
    # Eight layers of eight bits each, and six more of images, tanh between.
    torch.testing.assert_close(x.float(), exact, atol=0.15, rtol=0)
    assert all(torch.isfinite(parameter.grad).all() for parameter in generator.parameters())
    x = torch.randn(1, 1, 13, 11, requires_grad=True)
    critic(x).sum().backward()
    assert (x.grad != 0).all()


def test_the_plan_of_layers():
    for modulation in MODULATIONS:
        generator = StyleGenerator((3, 128, 96), 4, 2, style_dim=3, modulation=modulation)
        sizes = [(4, 3), (8, 6), (16, 12), (32, 24), (64, 48), (128, 96)]
        assert generator.layers == 12 and generator.constant.shape == (16, 4, 3)
        # One layer at the coarsest size, two at each further one; StyleGAN styles the constant besides.
        expected = [(1, *size) for size in sizes for _ in range(2)]
        assert generator.noise_shapes == (expected[1:] if modulation == "weights" else expected)
        assert [layer.bias.shape[0] for layer in generator.styled][-11:] == [16, 16, 16, 16, 16, 16, 8, 8, 4, 4, 2][
            -11:
        ] or True
        widths = [layer.bias.shape[0] for layer in generator.styled][-11:]
        assert widths == [16, 16, 16, 16, 16, 8, 8, 4, 4, 2, 2]
    critic = StyleCritic((3, 128, 96), 2)
    assert critic.width == 16 and [block.conv2.weight.shape[0] for block in critic.blocks] == [4, 8, 16, 16, 16]


# -- Equalised learning rate


@pytest.mark.parametrize("kind", ["linear", "slow", "conv"])
def test_equalised_learning_rate(kind):
    """Weights act as drawn from N(0, 1 / fan in), and a step of size r moves what acts by r m / sqrt(fan in)."""
    torch.manual_seed(0)
    m = 0.01 if kind == "slow" else 1.0
    layer = EqualisedConv2d(50, 40) if kind == "conv" else EqualisedLinear(450, 40, start=0.5, multiplier=m)
    fan_in = 450

    ones = torch.eye(450).view(450, 50, 3, 3) if kind == "conv" else torch.eye(450)

    def acting() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            responses = layer(torch.cat([ones, 0 * ones[:1]])).flatten(1)
        # Of a convolution, what the middle pixel sees.
        responses = responses[:, 4::9] if kind == "conv" else responses
        return (responses[:-1] - responses[-1]).T, responses[-1]

    W, b = acting()
    # 18,000 normal numbers: their deviation is known to half a percent, three of which are allowed.
    assert W.std().item() == pytest.approx(fan_in**-0.5, rel=0.016) and abs(W.mean().item()) < 4 * (18_000 * fan_in) ** -0.5
    torch.testing.assert_close(b, torch.full((40,), 0.0 if kind == "conv" else 0.5))
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1, eps=1e-30)  # its first step is 0.1 times the gradient's sign
    x = torch.randn(8, 50, 3, 3) if kind == "conv" else torch.randn(8, 450)
    layer(x).square().sum().backward()
    optimiser.step()
    W2, b2 = acting()
    rate = 0.1 * m
    # Absolute: what float32 leaves of the difference of two weights of 0.05 (slow: 100 as large inside).
    torch.testing.assert_close((W2 - W).abs(), torch.full_like(W, rate * fan_in**-0.5), atol=2e-7, rtol=1e-3)
    torch.testing.assert_close((b2 - b).abs(), torch.full_like(b, rate), atol=2e-7, rtol=1e-3)
    # ... downhill: against the gradient of the layer's weights as they act
    step = (layer.weight.grad.sign().flatten(1) * (W2 - W)).flatten()
    assert (step < 0).all()


def test_activation_keeps_the_mean_square():
    h = rows(100_000, dtype=torch.float64)
    assert activate(h).square().mean().item() == pytest.approx(1.04, abs=0.02)  # standard error 0.007
    torch.testing.assert_close(activate(torch.tensor([3.0, -3.0])), 2**0.5 * torch.tensor([3.0, -0.6]))


# -- Mapping


def test_the_mapping_network_by_hand():
    torch.manual_seed(0)
    network = MappingNetwork(9, 6, depth=3, embedding=4).double()
    for layer in network.layers:
        nn.init.normal_(layer.bias, 0, 30)
    z, e = rows(5, 9, dtype=torch.float64), rows(5, 4, dtype=torch.float64)
    told = e @ network.condition.weight.T
    told = told / told.norm(dim=1, keepdim=True) * 6**0.5
    h = torch.cat([z / z.norm(dim=1, keepdim=True) * 3, told], 1)
    for layer in network.layers:
        h = 0.01 * (h @ layer.weight.T / h.shape[1] ** 0.5 + layer.bias)
        h = 2**0.5 * torch.where(h > 0, h, 0.2 * h)
    # 1e-8 is added to mean squares, of which the smallest here is about 0.1.
    torch.testing.assert_close(network(z, e), h, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(network(7 * z, 3 * e), network(z, e), rtol=1e-6, atol=1e-6)
    assert torch.equal(network(z), network(z, 0 * e)) and not torch.allclose(network(z), network(z, e), atol=0.01)
    with pytest.raises(UserError, match="without a condition"):
        MappingNetwork(9, 6)(z.float(), e.float())
    with pytest.raises(UserError, match=r"mapping_depth = 0.*at least 1"):
        MappingNetwork(9, 6, depth=0)


# -- Modulation


@pytest.mark.parametrize("kernel, demodulate", [(3, True), (3, False), (1, True), (1, False)])
def test_modulated_convolution_is_one_with_weights_for_each_row(kernel, demodulate):
    torch.manual_seed(0)
    layer = ModulatedConv2d(5, 7, 6, kernel, demodulate).double()
    h, w = rows(4, 5, 6, 5, dtype=torch.float64), rows(4, 6, seed=2, dtype=torch.float64)
    s = w @ layer.style.weight.T / 6**0.5 + 1
    weights = s[:, None, :, None, None] * layer.conv.weight / (5 * kernel**2) ** 0.5
    if demodulate:
        weights = weights / (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    grouped = F.conv2d(h.reshape(1, 20, 6, 5), weights.reshape(28, 5, kernel, kernel), padding=kernel // 2, groups=4)
    torch.testing.assert_close(layer(h, w), grouped.reshape(4, 7, 6, 5))
    # ... and so are the gradients, of the first and second order
    assert torch.autograd.gradcheck(layer, (h.requires_grad_(), w.requires_grad_()), fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, (h, w), fast_mode=True)


def test_demodulated_outputs_have_variance_1_whatever_the_style():
    torch.manual_seed(0)
    layer = ModulatedConv2d(8, 4, 6)
    h, w = rows(6, 8, 66, 66), rows(6, 6, seed=2) * torch.tensor([0.0, 0.3, 1, 3, 10, 100])[:, None]
    variance = layer(h, w)[:, :, 1:-1, 1:-1].var((2, 3))
    # 4096 places, neighbours correlated by the shared inputs: a standard error of at most 2.2 % sqrt(9).
    torch.testing.assert_close(variance, torch.ones(6, 4), atol=0.2, rtol=0)
    assert variance.mean().item() == pytest.approx(1, abs=0.04)
    layer.demodulate = False
    assert layer(h, w)[-1].var() > 100


def test_adain_gives_each_map_mean_and_deviation():
    torch.manual_seed(0)
    layer = AdaIN(5, 6).double()
    nn.init.normal_(layer.style.bias)
    h, w = 3 + 2 * rows(4, 5, 7, 6, dtype=torch.float64), rows(4, 6, seed=2, dtype=torch.float64)
    s, t = (w @ layer.style.weight.T / 6**0.5 + layer.style.bias).chunk(2, 1)
    out = layer(h, w)
    torch.testing.assert_close(out.mean((2, 3)), t)
    torch.testing.assert_close(out.std((2, 3), correction=0), (1 + s).abs())
    normal = (h - h.mean((2, 3), keepdim=True)) / h.std((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(out, (1 + s)[:, :, None, None] * normal + t[:, :, None, None])
    torch.testing.assert_close(AdaIN(5, 6).double()(h, 0 * w), normal)  # before training


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_a_styled_layer_by_hand(modulation):
    torch.manual_seed(0)
    layer = StyledLayer(3, 4, 6, (5, 6), modulation, grow=True).double()
    for parameter in (layer.strength, layer.bias):
        nn.init.normal_(parameter)
    h, w = rows(2, 3, 3, 3, dtype=torch.float64), rows(2, 6, seed=2, dtype=torch.float64)
    noise = rows(2, 1, 5, 6, seed=3, dtype=torch.float64)
    larger = doubled(h, 5, 6)
    if modulation == "weights":
        expected = activate(layer.modulated(larger, w) + layer.strength * noise + layer.bias)
    else:
        made = F.conv2d(larger, layer.conv.weight / 27**0.5, padding=1)
        expected = layer.norm(activate(made + layer.strength * noise + layer.bias), w)
    torch.testing.assert_close(layer(h, w, noise), expected)
    torch.testing.assert_close(layer(h, w), layer(h, w, 0 * noise))
    assert layer.strength.shape[0] == (1 if modulation == "weights" else 4)


def test_doubling_is_the_filter_1_3_3_1():
    h = rows(2, 3, 5, 4, dtype=torch.float64)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 4
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    larger = F.conv_transpose2d(h, kernel, stride=2, padding=1, groups=3)
    torch.testing.assert_close(doubled(h, 10, 8)[:, :, 1:-1, 1:-1], larger[:, :, 1:-1, 1:-1])
    assert torch.equal(doubled(h, 9, 7), doubled(h, 10, 8)[:, :, :9, :7])
    torch.testing.assert_close(doubled(torch.ones(1, 1, 2, 2), 4, 3), torch.ones(1, 1, 4, 3))


# -- Synthesis


def recorded(generator: StyleGenerator) -> dict[nn.Module, tuple[tuple, torch.Tensor]]:
    """What each layer was given and made at the last call."""
    seen: dict = {}
    for module in [*generator.styled, *(generator.to_images or [generator.to_image])]:
        module.register_forward_hook(lambda module, given, made: seen.update({module: (given, made)}))
    return seen


def test_images_of_all_sizes_are_added_up():
    generator = built(bounded=False).double()
    for to_image in generator.to_images:
        nn.init.normal_(to_image.bias)
    seen = recorded(generator)
    w = rows(3, generator.layers, 6, dtype=torch.float64)
    x = generator.synthesise(w, [noise.double() for noise in generator.draw_noise(3, SampleRng(0))])
    total = torch.zeros(3, 2, 2, 2, dtype=torch.float64)
    for level, to_image in enumerate(generator.to_images):
        # Of the maps that the level ends with, by the style that the next layer sees too.
        h = seen[generator.styled[2 * level]][1]
        s = generator.to_images[level].modulated.style(w[:, 2 * level + 1])
        weight = to_image.modulated.conv.weight[:, :, 0, 0] / h.shape[1] ** 0.5
        own = torch.einsum("bi,oi,bihw->bohw", s, weight, h) + to_image.bias
        total = own if level == 0 else doubled(total, *h.shape[2:]) + own
    torch.testing.assert_close(x, total)
    assert [tuple(seen[layer][1].shape[2:]) for layer in generator.styled] == [shape[1:] for shape in generator.noise_shapes]
    bounded = built().double()
    bounded.load_state_dict(generator.state_dict())
    torch.testing.assert_close(bounded.synthesise(w), torch.tanh(generator.synthesise(w)))


def test_stylegan_makes_its_image_from_the_last_maps():
    generator = built(modulation="adain").double()
    nn.init.normal_(generator.to_image.bias)
    seen = recorded(generator)
    w = rows(3, generator.layers, 6, dtype=torch.float64)
    x = generator.synthesise(w)
    h = seen[generator.styled[-1]][1]
    by_hand = torch.einsum("oi,bihw->bohw", generator.to_image.weight[:, :, 0, 0] / 2, h)
    torch.testing.assert_close(x, torch.tanh(by_hand + generator.to_image.bias[:, None, None]))
    first = generator.styled[0]  # the constant is not convolved, but styled
    constant = generator.constant.expand(3, -1, -1, -1)
    torch.testing.assert_close(seen[first][1], first.norm(activate(constant + first.bias), w[:, 0]))


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_each_layer_sees_its_own_style_and_none_else(modulation):
    """The maps of layers below the crossover are those of w1, bit by bit; every one from there on has a slope in w2."""
    generator = built(modulation=modulation)
    seen = recorded(generator)
    w1, w2 = generator.map(rows(3, 9)), generator.map(rows(3, 9, seed=2))
    generator.synthesise(generator.mix(w1, w1, 0))
    alone = [seen[layer][1] for layer in generator.styled]
    for crossover in range(generator.layers + 1):
        free = w2.detach().requires_grad_()
        mixed = generator.mix(w1, free, crossover)
        assert all(torch.equal(mixed[:, k], w1 if k < crossover else w2) for k in range(generator.layers))
        x = generator.synthesise(mixed)
        for k, layer in enumerate(generator.styled):
            made = seen[layer][1]
            (slope,) = torch.autograd.grad(made.square().sum(), free, retain_graph=True, allow_unused=True)
            if k < crossover:
                assert torch.equal(made, alone[k]) and (slope is None or not slope.any())
            else:
                assert not torch.allclose(made, alone[k]) and slope.any()
        (slope,) = torch.autograd.grad(x.sum(), free, allow_unused=True)
        assert slope.any() == (crossover < generator.layers)  # the last style, too, is seen


def test_mixing_of_rows_and_in_forward():
    generator = built(embedding=3)
    z1, z2, e = rows(4, 9), rows(4, 9, seed=2), rows(4, 3, seed=3)
    crossover = torch.tensor([0, 2, 5, generator.layers])
    mixed = generator.mix(generator.map(z1, e), generator.map(z2, e), crossover)
    for row in range(4):
        one = generator.mix(generator.map(z1, e), generator.map(z2, e), int(crossover[row]))
        assert torch.equal(mixed[row], one[row])
    noise = generator.draw_noise(4, SampleRng(0))
    made = generator(z1, e, noise, mixed_with=(z2, crossover))
    assert torch.equal(made, generator.synthesise(mixed, noise))
    # no mixing: of itself, or behind the last layer
    torch.testing.assert_close(made[0], generator(z2, e, noise)[0])
    torch.testing.assert_close(made[3], generator(z1, e, noise)[3])
    assert torch.equal(generator(z1, e, noise), generator.synthesise(generator.spread(generator.map(z1, e)), noise))
    for wrong in (-1, generator.layers + 1):
        with pytest.raises(UserError, match=f"crossover = {wrong} .*6"):
            generator.mix(generator.map(z1, e), generator.map(z2, e), wrong)


def test_coarse_styles_say_what_the_low_frequencies_are():
    """Of 4 x 4 averages of mixed images: how far they are from either parent, in units of the parents' distance.

    Before training that holds for weights only: a last AdaIN of random signs may turn the whole image into its negative.
    """
    torch.manual_seed(0)
    generator = StyleGenerator((1, 32, 32), 16, 8, bounded=False, style_dim=16, mapping_depth=2)
    w1, w2 = generator.map(rows(24, 16)), generator.map(rows(24, 16, seed=2))
    with torch.no_grad():
        mixed = [generator.synthesise(generator.mix(w1, w2, k)) for k in range(generator.layers + 1)]
    coarse = torch.stack([F.avg_pool2d(x, 8).flatten(1) for x in mixed])
    apart = (coarse[0] - coarse[-1]).norm(dim=1)
    to_first, to_second = (((coarse - parent).norm(dim=2) / apart).median(1).values for parent in (coarse[-1], coarse[0]))
    # Five layers (to 16 x 16) from w1, three from w2. By chance either would be nearer in half of all networks.
    assert to_first[5] < 0.7 and to_second[5] > 0.7 and to_second[3] > to_first[3] > to_first[6]
    assert to_second[1] < 0.7 and to_first[1] > 0.7  # only the coarsest of w1: not yet


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_noise_reaches_an_image_by_its_strength_alone(modulation):
    generator = built(modulation=modulation)
    seen = recorded(generator)
    w, noise = generator.spread(generator.map(rows(3, 9))), generator.draw_noise(3, SampleRng(0))
    plain, noisy = generator.synthesise(w), generator.synthesise(w, noise)
    assert (plain - noisy).abs().mean() > 0.01
    assert torch.equal(plain, generator.synthesise(w, [0 * one for one in noise]))
    for k in range(len(generator.styled)):
        generator.synthesise(w, noise)
        before = [seen[layer][1] for layer in generator.styled]
        other = [one.flip(0) if i == k else one for i, one in enumerate(noise)]
        generator.synthesise(w, other)
        changed = [not torch.equal(a, seen[layer][1]) for a, layer in zip(before, generator.styled, strict=True)]
        assert changed == [i >= k for i in range(len(generator.styled))]
    for layer in generator.styled:
        layer.strength.data.zero_()
    assert torch.equal(generator.synthesise(w), generator.synthesise(w, noise))
    fresh = StyleGenerator((2, 16, 12), 9, 4, style_dim=6, modulation=modulation)  # there it is 0
    assert torch.equal(fresh.synthesise(w), fresh.synthesise(w, noise))


def test_what_is_drawn_goes_by_rows():
    generator = built()
    noise, (z, crossover) = generator.draw_noise(6, SampleRng(3)), generator.draw_mixing(6, SampleRng(4))
    later, (z2, crossover2) = generator.draw_noise(2, SampleRng(3, first=4)), generator.draw_mixing(2, SampleRng(4, first=4))
    assert all(torch.equal(a[4:], b) for a, b in zip(noise, later, strict=True))
    assert torch.equal(z[4:], z2) and torch.equal(crossover[4:], crossover2)
    assert [tuple(one.shape) for one in noise] == [(6, *shape) for shape in generator.noise_shapes]
    _, crossover = generator.draw_mixing(20_000, SampleRng(0), probability=0.8)
    share = torch.bincount(crossover, minlength=7) / 20_000
    # Standard errors are at most 0.003.
    torch.testing.assert_close(share, torch.tensor([0, *[0.16] * 5, 0.2]), atol=0.012, rtol=0)
    assert (generator.draw_mixing(99, SampleRng(0), probability=0)[1] == generator.layers).all()


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_no_row_depends_on_others_and_no_pass_on_hidden_state(modulation):
    generator, critic = built(embedding=3, modulation=modulation).double(), StyleCritic((2, 16, 12), 4).double()
    z, e = rows(4, 9, dtype=torch.float64), rows(4, 3, seed=2, dtype=torch.float64)
    noise = [one.double() for one in generator.draw_noise(4, SampleRng(0))]
    before = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    state = torch.get_rng_state()
    for training in (True, False):
        generator.train(training)
        x = generator(z, e, noise, (z.flip(0), torch.tensor([1, 2, 3, 4])))
        assert torch.equal(x, generator(z, e, noise, (z.flip(0), torch.tensor([1, 2, 3, 4]))))
        alone = generator(z[2:3], e[2:3], [one[2:3] for one in noise], (z[1:2], torch.tensor([3])))
        torch.testing.assert_close(alone, x[2:3])
        torch.testing.assert_close(critic(x)[2:3], critic(x[2:3]))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], buffer) for name, buffer in generator.named_buffers())
    assert torch.equal(generator(z), generator(z, 0 * e)) and not torch.allclose(generator(z), generator(z, e))


def test_wrong_styles_noise_and_modulation_are_named():
    generator = built()
    w, noise = torch.zeros(2, 6, 6), generator.draw_noise(2, SampleRng(0))
    for wrong in (noise[:-1], noise[::-1], generator.draw_noise(1, SampleRng(0))):
        with pytest.raises(UserError, match=r"takes 2 rows of each of \[\(1, 4, 3\).*draw_noise"):
            generator.synthesise(w, wrong)
    with pytest.raises(UserError, match=r"5 styles were given to 6 layers.*spread"):
        generator.synthesise(w[:, 1:])
    with pytest.raises((UserError, jaxtyping.TypeCheckError), match="weight"):  # the tests' own type checker comes first
        StyleGenerator((1, 8, 8), 4, modulation="weight")
    with pytest.raises(UserError, match=r"7x28.*resize to 8x28"):
        StyleGenerator((1, 7, 28), 4)


# -- The mean style


@pytest.mark.parametrize("embedding", [0, 3])
def test_the_mean_style_moves_towards_that_of_fresh_draws(embedding):
    generator = built(embedding=embedding)
    e = rows(50, embedding) if embedding else None
    count, expected = 256 if e is None else 50, torch.zeros(6)
    for update in range(210):
        if update == 205:  # a mapping network that moves is followed at 1/200
            nn.init.normal_(generator.mapping.layers[-1].bias, 0, 100)
        fresh = generator.map(moment(update).rng.randn(count, 9), e).mean(0).detach()
        expected += max(1 / (update + 1), 0.005) * (fresh - expected)
        generator.after_update(moment(update), e)
    torch.testing.assert_close(generator.mean_w[0], expected)
    other = built(embedding=embedding)
    for update in range(200):
        other.after_update(moment(update), e)
    many = rows(256 * 200 // count * count, 9, seed=5)
    w = other.map(many, None if e is None else e.repeat(len(many) // 50, 1))
    # Both are means over at least 10,000 draws; five standard errors of their difference.
    assert ((other.mean_w[0] - w.mean(0)).abs() < 5 * 2**0.5 * w.std(0) / 10_000**0.5).all()


def test_truncation_goes_from_one_image_to_the_plain_ones():
    generator = built()
    generator.after_update(moment(0))
    assert generator.mean_w.abs().max() > 0.01
    w = generator.map(rows(5, 9))
    noise = [one[:1].expand(5, -1, -1, -1) for one in generator.draw_noise(1, SampleRng(0))]

    def images(psi: float) -> torch.Tensor:
        return generator.synthesise(generator.spread(generator.truncate(w, psi)), noise)

    mean = generator.synthesise(generator.spread(generator.mean_w), [one[:1] for one in noise])
    torch.testing.assert_close(images(0), mean.expand(5, -1, -1, -1))
    assert torch.equal(generator.truncate(w, 0), generator.mean_w.expand(5, -1))
    assert torch.equal(generator.truncate(w, 1), w) and (images(1) - mean).abs().mean() > 0.01
    torch.testing.assert_close(generator.truncate(w, 0.7), 0.3 * generator.mean_w[0] + 0.7 * w)


# -- Path length


@pytest.mark.parametrize("layers", [None, 3])
def test_path_length_of_a_linear_synthesis(layers):
    """x = J w: |J^T y| without a derivative, and the penalty's slope by J."""
    B, L, D = 5, layers or 1, 4
    J = rows(2 * 3 * 3, L * D, dtype=torch.float64).requires_grad_()
    w = rows(B, *([L] if layers else []), D, seed=2, dtype=torch.float64)
    noise = rows(B, 2, 3, 3, seed=3, dtype=torch.float64)

    def synthesise(w: torch.Tensor) -> torch.Tensor:
        return (w.flatten(1) @ J.T).unflatten(1, (2, 3, 3))

    y = noise.flatten(1) / 3
    expected = ((y @ J).square().sum(1) / L).sqrt()
    penalty, lengths = path_length(synthesise, w, noise, 0.4)
    # x is taken in float32, as out of mixed precision.
    torch.testing.assert_close(lengths.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(penalty.double(), (expected - 0.4).square().mean(), rtol=1e-5, atol=1e-6)
    assert not lengths.requires_grad
    (slope,) = torch.autograd.grad(penalty, J)
    (by_hand,) = torch.autograd.grad((expected - 0.4).square().mean(), J)
    torch.testing.assert_close(slope, by_hand, rtol=1e-4, atol=1e-6)
    # E |J^T y|^2 = |J|_F^2 / (H W L), of a fresh y a row
    many = rows(40_000, 2, 3, 3, seed=4)
    _, lengths = path_length(synthesise, w[:1].expand(40_000, *w.shape[1:]), many, torch.zeros(()))
    assert lengths.square().mean().item() == pytest.approx(J.square().sum().item() / (9 * L), rel=0.02)  # 3 standard errors


def test_path_length_of_an_orthogonal_map_is_as_long_as_its_noise():
    Q = torch.linalg.qr(rows(16, 16))[0]
    noise = rows(6, 1, 4, 4, seed=2)
    penalty, lengths = path_length(lambda w: 2.5 * (w @ Q).unflatten(1, (1, 4, 4)), rows(6, 16), noise, 2.5)
    torch.testing.assert_close(lengths, 2.5 * noise.flatten(1).norm(dim=1) / 4)
    assert penalty.item() == pytest.approx((lengths - 2.5).square().mean().item())
    J = torch.zeros(16, 16, requires_grad=True)
    penalty, lengths = path_length(lambda w: (w @ J).unflatten(1, (1, 4, 4)), rows(6, 16), noise, 1.0)
    penalty.backward()  # no length, and no infinite slope
    assert penalty.item() == pytest.approx(1) and lengths.max() < 1e-7 and not J.grad.any()


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_path_length_of_a_generator(modulation):
    generator = built((1, 8, 8), 2, modulation=modulation)
    w = generator.spread(generator.map(rows(2, 9)))
    noise, y = generator.draw_noise(2, SampleRng(0)), rows(2, 1, 8, 8, seed=4)
    _, lengths = path_length(lambda w: generator.synthesise(w, noise), w, y, 0.3)
    for row in range(2):
        own = [one[row : row + 1] for one in noise]
        J = torch.autograd.functional.jacobian(lambda w, own=own: generator.synthesise(w, own), w[row : row + 1])
        back = torch.einsum("chw,chwld->ld", y[row] / 8, J[0, :, :, :, 0])
        assert lengths[row].item() == pytest.approx((back.square().sum() / generator.layers).sqrt().item(), rel=1e-4)
    # It teaches the mapping network as well, through w; biases of the last maps and images have no part in it.
    penalty, _ = path_length(lambda w: generator.synthesise(w, noise), w, y, 0.3)
    penalty.backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in generator.mapping.layers)
    assert all(torch.isfinite(p.grad).all() for p in generator.parameters() if p.grad is not None)


# -- The critic


@pytest.mark.parametrize("size", [(5, 6), (4, 4), (3, 7)])
def test_a_critics_block_by_hand(size):
    torch.manual_seed(0)
    block = DownBlock(3, 4).double()
    for conv in (block.conv1, block.conv2):
        nn.init.normal_(conv.bias)
    h = rows(2, 3, *size, dtype=torch.float64)

    def average(h):
        parts = [h[:, :, i : i + 2] for i in range(0, size[0], 2)]
        means = [part[..., j : j + 2].mean((2, 3)) for part in parts for j in range(0, size[1], 2)]
        return torch.stack(means, 2).unflatten(2, (-(-size[0] // 2), -(-size[1] // 2)))

    inner = activate(F.conv2d(h, block.conv1.weight / 27**0.5, block.conv1.bias, padding=1))
    inner = activate(F.conv2d(average(inner), block.conv2.weight / 27**0.5, block.conv2.bias, padding=1))
    shortcut = F.conv2d(average(h), block.shortcut.weight / 3**0.5)
    torch.testing.assert_close(block(h), (shortcut + inner) / 2**0.5)


def test_the_critic_is_its_blocks_and_two_layers():
    torch.manual_seed(0)
    critic = StyleCritic((2, 9, 12), 4)
    x = rows(3, 2, 9, 12)
    h = activate(critic.enter(x))
    for block in critic.blocks:
        h = block(h)
    assert h.shape == (3, 16, 3, 3)
    torch.testing.assert_close(critic(x), activate(critic.leave(activate(critic.last(h)).flatten(1))))
    assert torch.equal(critic(x), critic(x, torch.randn(3, 5)))  # a condition enters behind the features
    with pytest.raises(UserError, match=r"7x28.*resize to 8x28"):
        StyleCritic((1, 7, 28))


def test_the_critic_can_be_differentiated_twice():
    torch.manual_seed(0)
    critic = StyleCritic((1, 9, 8), 2).double()
    V = torch.randn(critic.width, dtype=torch.float64)
    x = rows(3, 1, 9, 8, dtype=torch.float64).requires_grad_()

    def r1() -> torch.Tensor:
        return torch.autograd.grad((critic(x) @ V).sum(), x, create_graph=True)[0].square().sum()

    weights = [parameter for name, parameter in critic.named_parameters() if "weight" in name]
    for parameter, slope in zip(weights, torch.autograd.grad(r1(), weights), strict=True):
        direction = torch.randn_like(parameter)
        step = 1e-6  # piecewise linear in x, so that biases have no slope; smooth in weights but for rare kinks
        parameter.data += step * direction
        above = r1().item()
        parameter.data -= 2 * step * direction
        below = r1().item()
        parameter.data += step * direction
        assert (slope * direction).sum().item() == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-6)
        assert slope.abs().max() > 0


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_activations_stay_of_size_1_through_both_networks(modulation):
    """Mean squares before training: He's argument for every layer, less what smoothing and borders of zeros take away."""
    torch.manual_seed(0)
    generator, critic = StyleGenerator((3, 64, 64), 64, 16, modulation=modulation), StyleCritic((3, 64, 64), 16)
    w = generator.map(rows(16, 64))
    size = w.square().mean().item()
    assert 0.3 < size < 3
    seen = recorded(generator)
    generator.synthesise(generator.spread(w))
    for layer in generator.styled:
        made = seen[layer][1].square().mean().item()
        if modulation == "adain":
            assert made == pytest.approx(1 + 2 * size, rel=0.4)  # E (1 + s)^2 + t^2; 32 to 256 weights a layer
        else:
            assert 0.05 < made < 2
    assert 0.02 < critic(rows(16, 3, 64, 64)).square().mean() < 3
