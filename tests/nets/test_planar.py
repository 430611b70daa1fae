"""Fields of channels over height and width get convolutions, and none is squeezed into an image's range."""

import pytest
import torch

from pushforward import building
from pushforward.data.spec import Column, DataSpec

COLUMNS = tuple(Column(f"c{i}", "number") for i in range(4))


@pytest.mark.parametrize("name, network", [("gan", "dcgan"), ("flow-matching", "unet")])
def test_fields_get_convolutions_without_bounds(name, network):
    spec = DataSpec("field", (4, 16, 16), columns=COLUMNS)
    torch.manual_seed(0)
    model = building.create(name, spec)
    assert any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    x = model.sample(4, generator=0)
    assert x.shape == (4, 4, 16, 16)
    if name == "gan":
        with torch.no_grad():
            model.generator.ups[-1].weight *= 200
        assert model.sample(4, generator=0).abs().max() > 1.5
    lines = DataSpec("field", (4, 16), columns=COLUMNS)
    assert not any(isinstance(module, torch.nn.Conv2d) for module in building.create(name, lines).modules())
    with pytest.raises(ValueError, match="mlp"):
        building.create(name, lines, network=network)
