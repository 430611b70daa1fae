"""The residual networks make every size exactly, and their parts are what the papers say."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.lipschitz import follow, spectral
from pushforward.nets.residual_gan import (
    ConditionalNorm,
    DownBlock,
    ResidualCritic,
    ResidualGenerator,
    SelfAttention,
    UpBlock,
    attended,
)

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (1, 28, 23), (4, 64, 48), (2, 9, 17), (1, 8, 100)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("embedding, everything", [(0, False), (5, False), (0, True), (5, True)])
def test_exact_shapes_and_a_gradient_for_every_parameter(shape, embedding, everything):
    torch.manual_seed(0)
    further = {"attention": max(shape[1:]), "orthogonal": True} if everything else {}
    generator = ResidualGenerator(shape, 9, 4, embedding, hierarchical=everything, **further)
    critic = ResidualCritic(shape, 4, embedding, **further)
    for network in (generator, critic):
        if everything:
            network.attention.gamma.data.fill_(0.5)  # at 0 its maps would have gradients of 0
    e = torch.randn(3, embedding) if embedding else None
    x = generator(torch.randn(3, 9), e)
    assert x.shape == (3, *shape) and x.abs().max() <= 1
    features = critic(x, e)
    assert features.shape == (3, critic.width)
    features.square().sum().backward()
    for network in (generator, critic):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    # The last row and column are drawn by the network like the others, not left over by padding.
    assert x[..., -1, :].std() > 0 and x[..., -1].std() > 0


def test_a_single_image_in_bfloat16_and_every_pixel_counts():
    torch.manual_seed(0)
    shape = (1, 13, 11)
    generator = ResidualGenerator(shape, 6, 4, 3, hierarchical=True, attention=7)
    critic = ResidualCritic(shape, 4, 3, attention=7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = generator(torch.randn(1, 6), torch.randn(1, 3))
        critic(x, torch.randn(1, 3)).sum().backward()
    assert x.shape == (1, *shape) and torch.isfinite(generator.enter.weight.grad).all()
    x = torch.randn(1, *shape, requires_grad=True)
    critic.eval()(x).sum().backward()
    assert (x.grad != 0).all()


def test_the_end_of_the_generator_and_its_bounds():
    z = torch.randn(4, 6)
    torch.manual_seed(0)
    free = ResidualGenerator((1, 8, 8), 6, 4, bounded=False)
    torch.manual_seed(0)
    bounded = ResidualGenerator((1, 8, 8), 6, 4)
    seen = []
    free.blocks[-1].register_forward_hook(lambda _, i, o: seen.append(o))
    torch.testing.assert_close(torch.tanh(free(z)), bounded(z))
    torch.testing.assert_close(free(z), free.leave(free.norm(seen[-1]).clamp(min=0)))
    with pytest.raises(UserError, match=r"7x28.*resize to 8x28"):
        ResidualCritic((1, 7, 28))


def test_channels_double_up_to_eight_times():
    generator, critic = ResidualGenerator((3, 128, 128), 4, 2), ResidualCritic((3, 128, 128), 2)
    assert [block.conv1.out_channels for block in generator.blocks] == [16, 16, 8, 4, 2]
    assert generator.start == (16, 4, 4)
    assert [block.conv1.out_channels for block in critic.blocks] == [2, 4, 8, 16, 16, 16] and critic.width == 16
    # No ReLU on the image itself, all sizes but the last halved.
    assert [(block.first, block.halve) for block in critic.blocks] == [(True, True), *[(False, True)] * 4, (False, False)]


def test_an_embedding_of_zero_is_a_plain_batch_norm():
    torch.manual_seed(0)
    norm, plain = ConditionalNorm(6, 4), nn.BatchNorm2d(6, momentum=0.02)
    for parameter, other in zip(norm.norm.parameters(), plain.parameters(), strict=True):
        other.data = parameter.data = torch.randn(6)
    h = torch.randn(5, 6, 3, 2)
    torch.testing.assert_close(norm(h, torch.zeros(5, 4)), plain(h))
    torch.testing.assert_close(norm.eval()(h, torch.zeros(5, 4)), plain.eval()(h))
    # Any other: each row its own affine map of that, (1 + A e) . + B e.
    e = torch.randn(5, 4)
    a, b = norm.modulate.weight.chunk(2)
    expected = torch.stack([(1 + a @ e[i])[:, None, None] * plain(h)[i] + (b @ e[i])[:, None, None] for i in range(5)])
    torch.testing.assert_close(norm(h, e), expected)


def test_a_generator_without_its_embedding_has_one_of_zero():
    generator = ResidualGenerator((1, 8, 8), 6, 4, 3, hierarchical=True).eval()
    z = torch.randn(2, 6)
    assert torch.equal(generator(z), generator(z, torch.zeros(2, 3)))
    assert not torch.allclose(generator(z), generator(z, torch.ones(2, 3)))


def test_features_are_sums_over_places():
    critic = ResidualCritic((2, 8, 8), 2)
    critic.blocks = nn.ModuleList([nn.Identity()])
    x = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(critic(x), x.clamp(min=0).sum((2, 3)))


@pytest.mark.parametrize("size", [(5, 6), (1, 4), (4, 1)])
def test_a_critics_block_halves_with_what_there_is(size):
    torch.manual_seed(0)
    block = DownBlock(3, 4).double()
    h = torch.randn(2, 3, *size, dtype=torch.float64)

    def average(h):
        rows = [h[:, :, i : i + 2] for i in range(0, size[0], 2)]
        means = [row[..., j : j + 2].mean((2, 3)) for row in rows for j in range(0, size[1], 2)]
        return torch.stack(means, 2).unflatten(2, (-(-size[0] // 2), -(-size[1] // 2)))

    inner = block.conv2(block.conv1(h.clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(block(h), average(block.shortcut(h) + inner))
    first = DownBlock(3, 4, first=True)
    first.load_state_dict(block.state_dict())
    first.double()
    torch.testing.assert_close(first(h), average(block.shortcut(h) + block.conv2(block.conv1(h).clamp(min=0))))


def test_a_generators_block_doubles_and_cuts():
    torch.manual_seed(0)
    block = UpBlock(3, 4, 2, (5, 6)).double()
    h, e = torch.randn(2, 3, 3, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)

    def double(h):
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5, :6]

    inner = block.conv1(double(block.norm1(h, e).clamp(min=0)))
    inner = block.conv2(block.norm2(inner, e).clamp(min=0))
    torch.testing.assert_close(block(h, e), block.shortcut(double(h)) + inner)


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (1, 2)])
def test_attention_starts_as_the_identity_and_averages_over_places(size):
    torch.manual_seed(0)
    attention = SelfAttention(16).double()
    h = torch.randn(2, 16, *size, dtype=torch.float64)
    assert torch.equal(attention(h), h)
    attention.gamma.data.fill_(0.7)
    query = attention.query(h).flatten(2).mT
    key, value = (F.max_pool2d(m(h), 2, ceil_mode=True).flatten(2).mT for m in (attention.key, attention.value))
    mean = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    expected = h + 0.7 * attention.leave(mean.mT.unflatten(2, size))
    torch.testing.assert_close(attention(h), expected)
    h.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda h: attention(h).square().sum(), h, fast_mode=True)


def test_attention_is_where_it_was_asked_for():
    seen = {}
    for kind in (ResidualGenerator, ResidualCritic):
        network = kind((1, 64, 47), 8, attention=20)
        network.attention.register_forward_hook(lambda _, i, o, kind=kind: seen.update({kind: i[0].shape[2:]}))
        network(torch.randn(2, 8) if kind is ResidualGenerator else torch.randn(2, 1, 64, 47))
    assert set(seen.values()) == {(16, 12)} and len(seen) == 2
    assert attended([(32, 32), (16, 16), (8, 8), (4, 4)], 4) == 3
    with pytest.raises(UserError, match=r"attention = 3 .*16x16, 8x8, 4x4.*at least 4"):
        ResidualCritic((1, 32, 32), 4, attention=3)


def test_a_hierarchical_latent_reaches_each_block_by_its_own_chunk():
    torch.manual_seed(0)
    generator = ResidualGenerator((1, 32, 32), 11, 4, hierarchical=True).eval()
    assert generator.chunks == [3, 3, 3, 2]
    inputs = []
    for block in generator.blocks:
        block.register_forward_hook(lambda _, i, o: inputs.append((i[0], o)))
    z = torch.randn(2, 11)
    generator(z)
    before, changed = inputs.copy(), z.clone()
    changed[:, 6:9] += 1  # the chunk of the second block
    inputs.clear()
    generator(changed)
    assert torch.equal(before[0][1], inputs[0][1]) and torch.equal(before[1][0], inputs[1][0])
    assert not torch.allclose(before[1][1], inputs[1][1])
    with pytest.raises(UserError, match=r"z of 3 numbers .* 3 blocks .* at least 4"):
        ResidualGenerator((1, 32, 32), 3, 4, hierarchical=True)


def test_orthogonal_weights():
    generator, critic = (
        ResidualGenerator((3, 16, 16), 8, 4, 2, orthogonal=True),
        ResidualCritic((3, 16, 16), 4, 2, orthogonal=True),
    )
    for network in (generator, critic):
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                assert torch.linalg.svdvals(module.weight.flatten(1)).sub(1).abs().max() < 1e-5
    # Glorot's else: uniform of deviation sqrt(2 / (fan in + fan out)), sqrt(2) as wide in 3 x 3 convolutions
    block = ResidualCritic((3, 16, 16), 32).blocks[1]
    assert block.conv2.weight.std().item() == pytest.approx((2 * 2 / (9 * 128)) ** 0.5, rel=0.02)
    assert block.shortcut.weight.std().item() == pytest.approx((2 / 96) ** 0.5, rel=0.05)


def test_spectral_normalisation_of_the_critic():
    torch.manual_seed(0)
    critic = spectral(ResidualCritic((3, 16, 16), 4, 2, attention=8))
    for _ in range(200):
        follow(critic)
    layers = [module for module in critic.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 8 + 4 + 1  # two blocks of three, one of two, attention, the condition's shift
    for layer in layers:
        # Of 13 layers some have two singular values so close that 200 power iterations have not told them apart.
        assert torch.linalg.svdvals(layer.weight.flatten(1))[0].item() == pytest.approx(1, abs=1e-2)
