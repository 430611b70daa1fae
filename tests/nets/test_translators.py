"""Translators keep every size, judge patches of the stated side, and treat each image by itself."""

import pytest
import torch
from torch import nn

from pushforward.errors import UserError
from pushforward.nets.translators import (
    PatchCritic,
    ResidualTranslator,
    UNetTranslator,
    dropout_masks,
    halved,
    norm,
    receptive_field,
    translator,
)
from pushforward.randomness import SampleRng

SIZES = [(8, 8), (16, 16), (17, 16), (28, 23), (13, 50), (64, 64), (16, 100), (31, 9)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("network", ["unet", "residual"])
def test_every_size_comes_out_and_every_parameter_and_pixel_counts(network, size):
    torch.manual_seed(0)
    net = translator(network, 2, 3, size, 4, blocks=2, dropout=0.5)
    x = (SampleRng(0).rand(2, 2, *size) * 2 - 1).requires_grad_()
    made = net(x, dropout_masks(net, 2, SampleRng(1)))
    assert made.shape == (2, 3, *size) and made.abs().max() <= 1
    made.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert (x.grad != 0).all()
    # The last row and column are drawn like the others, not left over by padding.
    assert made[..., -1, :].std() > 0 and made[..., -1].std() > 0


@pytest.mark.parametrize("size", SIZES)
def test_the_critic_gives_a_map_of_logits_that_sees_every_pixel(size):
    torch.manual_seed(0)
    critic = PatchCritic(2, size, 4)
    x = SampleRng(0).randn(1, 2, *size).requires_grad_()
    logits = critic(x)
    assert logits.dim() == 3 and logits.shape[0] == 1
    logits.square().sum().backward()
    assert (x.grad != 0).all()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in critic.parameters())


def seen(critic: PatchCritic, side: int) -> tuple[int, int]:
    """The height and width of what the middle logit of a square image depends on, by its gradient."""
    x = SampleRng(0).randn(1, 1, side, side, dtype=torch.float64).requires_grad_()
    logits = critic.double()(x)
    logits[0, logits.shape[1] // 2, logits.shape[2] // 2].backward()
    rows, columns = x.grad[0, 0].nonzero(as_tuple=True)
    return int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)


@pytest.mark.parametrize("layers, side", [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_a_logit_depends_on_a_square_of_the_stated_side(layers, side):
    # 16, 70 and 286 are the paper's sizes; around the middle of an image twice as large, no border cuts the square.
    torch.manual_seed(0)
    critic = PatchCritic(1, (min(2 * side, 256),) * 2, 2, layers, norm_kind="none")
    assert critic.receptive_field == side
    assert seen(critic, min(2 * side, 256)) == (side, side)


def test_running_statistics_keep_a_patch_to_itself_and_instance_norms_do_not():
    torch.manual_seed(0)
    assert seen(PatchCritic(1, (64, 64), 2, 1, norm_kind="batch").eval(), 64) == (16, 16)
    assert seen(PatchCritic(1, (64, 64), 2, 1, norm_kind="instance"), 64) == (64, 64)


def test_receptive_fields_of_the_paper():
    assert [receptive_field([*[(4, 2)] * n, (4, 1), (4, 1)]) for n in (1, 2, 3, 5)] == [16, 34, 70, 286]
    assert receptive_field([(1, 1)]) == 1  # its PixelGAN
    assert receptive_field([(7, 1), (3, 2)]) == 9  # a stride counts for the layers after it


@pytest.mark.parametrize("side, layers", [(8, 1), (16, 1), (33, 1), (34, 2), (64, 2), (70, 3), (256, 3)])
def test_patches_are_no_larger_than_the_image_and_at_most_the_papers_70(side, layers):
    assert PatchCritic(3, (side, 2 * side if side < 128 else side), 2).receptive_field == [16, 34, 70][layers - 1]


def test_the_papers_networks_at_256():
    # Of an eighth of the paper's channels, but for the last.
    critic, unet, residual = (
        PatchCritic(6, (256, 256), 8),
        UNetTranslator(3, 3, (256, 256), 8),
        ResidualTranslator(3, 3, (256, 256)),
    )
    assert [m.out_channels for m in critic.modules() if isinstance(m, nn.Conv2d)] == [8, 16, 32, 64, 1]
    assert [down.out_channels for down in unet.downs] == [8, 16, 32, 64, 64, 64, 64, 64]
    assert [up.in_channels for up in unet.ups] == [16, 32, 64, 128, 128, 128, 128, 64]
    assert unet.dropped == [(64, 2, 2), (64, 4, 4), (64, 8, 8)]  # CD512-CD512-CD512
    assert [unet.plan[0], unet.plan[-1]] == [(256, 256), (1, 1)]
    assert len(residual.first) == 9 and residual.first[0][1].in_channels == 256
    # The count of the authors' code, less the biases before norms, which this has not.
    assert sum(p.numel() for p in residual.parameters()) == 11_378_179 - (64 + 128 + 256 + 9 * 2 * 256 + 128 + 64)


@pytest.mark.parametrize("network", ["unet", "residual"])
def test_an_image_does_not_depend_on_its_neighbours(network):
    torch.manual_seed(0)
    net = translator(network, 1, 1, (16, 12), 4, blocks=2, dropout=0.5)
    x = SampleRng(0).randn(5, 1, 16, 12)
    together = net(x, dropout_masks(net, 5, SampleRng(3)))
    alone = net(x[4:], dropout_masks(net, 1, SampleRng(3, first=4)))
    # Equal but for the order of float32 sums, which may depend on the batch size.
    torch.testing.assert_close(together[4:], alone, atol=1e-5, rtol=1e-5)
    other = net(x[4:], dropout_masks(net, 1, SampleRng(3, first=0)))
    assert (other - alone).abs().max() > 1e-3  # the noise is its own, and matters


def test_masks_keep_the_mean():
    net = UNetTranslator(1, 1, (16, 16), 8, dropout=0.25)
    masks = dropout_masks(net, 400, SampleRng(0))
    assert [tuple(mask.shape[1:]) for mask in masks] == net.dropped and len(masks) == 3
    for mask in masks:
        # 400 x 128 draws or more of 0 and 4/3: standard error of the mean sqrt(1/3 / 51200) = 0.0026.
        assert mask.unique().tolist() == pytest.approx([0, 4 / 3])
        assert mask.mean().item() == pytest.approx(1.0, abs=0.01)
    assert UNetTranslator(1, 1, (16, 16), 8, dropout=0.0).dropped == []
    assert dropout_masks(nn.Identity(), 3, SampleRng(0)) == []


def test_zero_masks_cut_the_way_up_but_not_across():
    # With all masks 0 what is coarser than the finest masked map cannot reach the output, and the skips still can.
    torch.manual_seed(0)
    net = UNetTranslator(1, 1, (32, 32), 4)
    x = SampleRng(0).randn(1, 1, 32, 32)
    silent = [torch.zeros(1, *shape) for shape in net.dropped]
    before = net(x, silent)
    with torch.no_grad():
        net.downs[-1].weight.add_(1.0)  # the innermost convolution
    assert torch.equal(net(x, silent), before)
    assert not torch.equal(net(x), before)
    assert not torch.equal(net(-x, silent), before)


def test_an_odd_image_is_one_with_a_row_and_column_of_zeros_whose_output_is_cut_off():
    torch.manual_seed(0)
    odd = UNetTranslator(1, 1, (15, 15), 4)
    even = UNetTranslator(1, 1, (16, 16), 4)
    even.load_state_dict(odd.state_dict())
    x = SampleRng(0).randn(2, 1, 15, 15)
    torch.testing.assert_close(odd(x), even(nn.functional.pad(x, (0, 1, 0, 1)))[..., :15, :15])


@pytest.mark.parametrize("network", ["unet", "residual"])
def test_outputs_are_images_however_large_the_weights_are(network):
    net = translator(network, 1, 1, (8, 8), 4, blocks=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(100)
    made = net(SampleRng(0).randn(2, 1, 8, 8))
    assert 0.9 < made.abs().max() <= 1


def test_small_maps_are_not_normalised():
    assert isinstance(norm("instance", 3, (2, 2)), nn.InstanceNorm2d) and isinstance(norm("batch", 3, (4, 1)), nn.BatchNorm2d)
    assert all(isinstance(norm("instance", 3, size), nn.Identity) for size in ((1, 1), (1, 2), (3, 1)))


def test_a_residual_block_adds_to_what_it_is_given():
    torch.manual_seed(0)
    net = ResidualTranslator(1, 1, (16, 16), 4, blocks=1)
    x = SampleRng(0).randn(2, 1, 16, 16)
    h = net.enter(x)
    torch.testing.assert_close(net(x), net.leave(h + net.second[0](net.first[0](h))))
    for second in net.second:
        nn.init.zeros_(second[1].weight)
    torch.testing.assert_close(net(x), net.leave(net.enter(x)))


def test_the_borders_of_a_residual_translator_are_mirrors():
    # Mirrored at all borders, a constant image stays constant through a padded convolution; zeros would show as a frame.
    net = ResidualTranslator(1, 1, (16, 16), 4, blocks=1)
    flat = torch.full((1, 1, 16, 16), 0.7)
    for layers in (net.enter[:2], net.leave[-3:-1]):
        x = flat.expand(1, layers[1].in_channels, 16, 16)
        made = layers(x)
        assert made.shape[-2:] == (16, 16) and (made - made[..., :1, :1]).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(8, 8), (16, 13)])
@pytest.mark.parametrize("network", ["unet", "residual"])
def test_mixed_precision(network, size):
    torch.manual_seed(0)
    net, critic = translator(network, 1, 1, size, 4, blocks=1), PatchCritic(1, size, 4)
    x = SampleRng(0).rand(1, 1, *size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = net(x)
        assert critic(made).isfinite().all()
    # bfloat16 has three digits; a few layers and norms multiply its error.
    torch.testing.assert_close(made.float(), net(x), atol=0.1, rtol=0)


def test_sizes_are_halved_to_one_place():
    assert halved(256, 256) == [(2**k, 2**k) for k in range(8, -1, -1)]
    assert halved(9, 31) == [(9, 31), (5, 16), (3, 8), (2, 4), (1, 2), (1, 1)]


@pytest.mark.parametrize(
    "build, sentence",
    [
        (lambda: UNetTranslator(1, 1, (300, 200)), "not 300x200; resize to 256x200"),
        (lambda: ResidualTranslator(1, 1, (7, 28)), "resize to 8x28"),
        (lambda: PatchCritic(1, (4, 300)), "resize to 8x256"),
        (lambda: PatchCritic(1, (16, 64), layers=3), r"images of 16x64 it can have 1 to 2, and then one logit for 34"),
        (lambda: PatchCritic(1, (16, 16), layers=0), "1 to 2"),
        (lambda: norm("instnce", 1, (16, 16)), "did you mean instance"),
        (lambda: translator("unte", 1, 1, (16, 16), 4), "did you mean unet"),
        (lambda: translator("unet", 1, 1, (16, 16), 4, dropout=1.0), "it is a rate"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(build, sentence):
    with pytest.raises(UserError, match=sentence):
        build()
