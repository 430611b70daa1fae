"""One rule for network="auto", and fields of channels over height and width get convolutions without bounds."""

import pytest
import torch

from pushforward import building
from pushforward.data.batches import Batch
from pushforward.data.spec import Column, DataSpec
from pushforward.errors import UserError
from pushforward.nets.choice import chosen_network
from pushforward.randomness import UpdateRng

CONVOLUTIONS = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
COLUMNS = tuple(Column(f"c{i}", "number") for i in range(4))
FIELD, LINES = DataSpec("field", (4, 16, 16), columns=COLUMNS), DataSpec("field", (4, 16), columns=COLUMNS)


@pytest.mark.parametrize(
    "spec, expected",
    [
        (DataSpec("image", (3, 32, 32)), "unet"),
        (DataSpec("image", (1, 8, 8)), "mlp"),
        (DataSpec("image", (1, 4, 12)), "unet"),
        (FIELD, "unet"),
        (LINES, "mlp"),
        (DataSpec("table", (40,)), "mlp"),
        (DataSpec("series", (16, 16)), "mlp"),
    ],
)
def test_auto_is_one_rule(spec, expected):
    assert chosen_network("auto", spec, ("unet", "dit")) == expected
    assert chosen_network("mlp", spec, ("unet", "dit")) == "mlp"


def test_least_moves_the_border_and_mistakes_are_sentences():
    digits = DataSpec("image", (1, 8, 8))
    assert chosen_network("auto", digits, least=8) == "conv" and chosen_network("conv", digits) == "conv"
    with pytest.raises(UserError, match=r"network='unt' was given; did you mean unet or auto"):
        chosen_network("unt", digits, ("unet",))
    with pytest.raises(UserError, match=r"network='conv' is for images and fields .* use network='mlp'"):
        chosen_network("conv", LINES)


@pytest.mark.parametrize("name", ["vae", "hierarchical-vae", "autoencoder", "glo"])
def test_fields_get_convolutions_without_bounds(name):
    """Convolutions for (4, 16, 16), none for (4, 16), and samples as wide as the decoder likes: a field has no range."""
    torch.manual_seed(0)
    model = building.create(name, FIELD)
    assert any(isinstance(module, CONVOLUTIONS) for module in model.modules())
    assert not any(isinstance(module, CONVOLUTIONS) for module in building.create(name, LINES).modules())
    with torch.no_grad():
        for parameter in [p for key, p in model.named_parameters() if key.split(".")[0] in ("decoder", "generator", "leave")]:
            parameter *= 10
    x = model.sample(4, generator=0)
    assert x.shape == (4, 4, 16, 16) and x.abs().max() > 1.5


@pytest.mark.parametrize("name", ["vae", "hierarchical-vae"])
def test_fields_of_any_size_have_a_density_and_codes(name):
    """A size that is padded, and values that no image has."""
    spec = DataSpec("field", (2, 11, 14), columns=COLUMNS[:2])
    torch.manual_seed(0)
    model, x = building.create(name, spec, width=8), 3 * torch.randn(3, 2, 11, 14)
    model.loss(Batch(x), UpdateRng(torch.Generator().manual_seed(0))).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert model.decode(model.encode(x)).shape == x.shape and model.log_prob(x).value.isfinite().all()
