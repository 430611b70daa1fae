"""Networks by name: what suits the data, and what is asked for."""

import pytest
import torch

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.diffusion.backbone import backbone, choose, is_large
from pushforward.nets.dit import DiT
from pushforward.nets.embeddings import TimedMLP
from pushforward.nets.unet import UNet

POINTS, SMALL, LARGE = DataSpec("point", (3,)), DataSpec("image", (1, 12, 10)), DataSpec("image", (3, 64, 48))


@pytest.mark.parametrize(
    ("network", "spec", "expected"),
    [
        ("auto", POINTS, ("mlp", 256, 256)),
        ("auto", DataSpec("image", (1, 8, 8)), ("mlp", 256, 256)),
        ("auto", SMALL, ("unet", 32, 128)),
        ("auto", LARGE, ("unet", 64, 256)),
        ("dit", SMALL, ("dit", 128, 128)),
        ("dit-B", SMALL, ("dit-B", 768, 768)),
    ],
)
def test_what_suits(network, spec, expected):
    assert choose(network, spec, None) == expected
    assert choose(network, spec, 24)[1:] == (24, 96 if expected[0] == "unet" else 24)


@pytest.mark.parametrize(
    ("network", "spec", "width", "kind"),
    [("mlp", SMALL, 16, TimedMLP), ("unet", SMALL, 8, UNet), ("dit-nano", SMALL, 32, DiT)],
)
def test_each_keeps_the_shape_and_starts_at_zero(network, spec, width, kind):
    name, width, embedding = choose(network, spec, width)
    net = backbone(spec, name, width, 1, embedding, 0.0)
    assert isinstance(net, kind)
    out = net(torch.randn(2, *spec.shape), torch.rand(2), torch.randn(2, embedding))
    assert out.shape == (2, *spec.shape) and not out.any()


def test_channels_in_and_out():
    for network in ("unet", "dit-nano"):
        name, width, embedding = choose(network, SMALL, 32)
        net = backbone(SMALL, name, width, 1, embedding, 0.0, inputs=3, outputs=2)
        assert net(torch.randn(2, 3, 12, 10), torch.rand(2), None).shape == (2, 2, 12, 10)


def test_only_images_are_cut_into_patches():
    with pytest.raises(UserError, match="images"):
        choose("dit", POINTS, None)
    with pytest.raises(UserError, match="dit-XL"):
        choose("dit-xl", SMALL, None)
    assert is_large(LARGE) and not is_large(SMALL) and not is_large(POINTS)
