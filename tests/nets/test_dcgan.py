"""DCGAN's networks make every size exactly, by the paper's rules."""

import pytest
import torch
from torch import nn

from pushforward.errors import UserError
from pushforward.nets.dcgan import DCGANCritic, DCGANGenerator, sizes

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (1, 28, 23), (4, 64, 64), (2, 9, 17), (4, 72, 72), (1, 8, 128)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("embedding", [0, 5])
def test_exact_shapes_and_a_gradient_for_every_parameter(shape, embedding):
    torch.manual_seed(0)
    generator, critic = DCGANGenerator(shape, 6, 4, embedding), DCGANCritic(shape, 4, embedding)
    e = torch.randn(3, embedding) if embedding else None
    x = generator(torch.randn(3, 6), e)
    assert x.shape == (3, *shape) and x.abs().max() <= 1
    features = critic(x, e)
    assert features.shape == (3, critic.width)
    features.square().sum().backward()
    for network in (generator, critic):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    # The last row and column are drawn by the network like the others, not left over by padding.
    assert x[..., -1, :].std() > 0 and x[..., -1].std() > 0


def test_a_single_image_and_every_pixel_counts():
    torch.manual_seed(0)
    critic = DCGANCritic((1, 13, 11), 4).eval()
    x = torch.randn(1, 1, 13, 11, requires_grad=True)
    critic(x).sum().backward()
    assert (x.grad != 0).all()
    assert DCGANGenerator((1, 13, 11), 6, 4)(torch.randn(1, 6)).shape == (1, 1, 13, 11)


def test_rules_of_the_paper():
    shape = (3, 32, 32)
    torch.manual_seed(0)
    generator, critic = DCGANGenerator(shape, 16, 64), DCGANCritic(shape, 64)
    assert generator.channels == [256, 128, 64, 3] and generator.plan == [(4, 4), (8, 8), (16, 16), (32, 32)]
    assert [conv.out_channels for conv in critic.downs] == [64, 128, 256]
    assert all(conv.stride == (2, 2) for conv in (*generator.ups, *critic.downs))
    # Batch norm everywhere but at the generator's output and the critic's input.
    assert [norm.num_features for norm in generator.norms] == [256, 128, 64]
    assert [type(norm) for norm in critic.norms] == [nn.Identity, nn.BatchNorm2d, nn.BatchNorm2d]
    # N(0, 0.02): the deviation of 100,000 draws is within 2 % of it.
    for weight in (generator.ups[0].weight, critic.downs[2].weight, generator.enter.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_channels_stop_at_eight_times_the_width():
    assert DCGANGenerator((3, 128, 128), 4, 2).channels == [16, 16, 8, 4, 2, 3]


@pytest.mark.parametrize("size, able", [((7, 28), "8x28"), ((200, 130), "128x128"), ((4, 300), "8x128")])
def test_a_size_that_cannot_be_made_names_the_nearest(size, able):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}.*resize to {able}"):
        sizes(*size)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_a_critic_without_batch_norm_judges_each_image_by_itself(norm):
    """In training: the first image's logit stays when the others change, unless norms look at the batch."""
    torch.manual_seed(0)
    critic = DCGANCritic((1, 16, 16), width=8, norm=norm).train()
    x = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    y = torch.cat([x[:1], 3 * x[1:]])
    with torch.no_grad():
        moved = (critic(x)[0] - critic(y)[0]).abs().max()
    assert (moved > 1e-3) if norm == "batch" else (moved < 1e-5)
