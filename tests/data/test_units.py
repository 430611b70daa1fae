"""The data's units and the model's: the way back, the Jacobian, the noise."""

import math

import pytest
import torch

from pushforward.data.spec import Column, DataSpec
from pushforward.data.units import units
from pushforward.randomness import SampleRng

NUMBERS = (Column("a", "number", mean=3.0, scale=2.5), Column("b", "number", mean=-1.0, scale=0.2))
MIXED = (
    Column("count", "number", integer=True, mean=4.0, scale=2.0),
    Column("kind", "category", categories=("x", "y", "z")),
    Column("gap", "number", missing=True, mean=1.0, scale=3.0),
)
IMAGES = [DataSpec("image", (1, 2, 3), levels=levels) for levels in (2, 17, 256, 65536)]


PLAIN = [DataSpec("point", (2,), columns=NUMBERS), DataSpec("series", (4, 2), columns=NUMBERS)]


@pytest.mark.parametrize("spec", [*IMAGES, *PLAIN], ids=lambda s: f"{s.kind}{s.levels or ''}")
def test_log_det_is_that_of_the_jacobian(spec):
    """log |det dx/dc| by autograd, in float32."""
    made = units(spec)
    codes = torch.rand(1, *spec.shape) * 2
    jacobian = torch.autograd.functional.jacobian(lambda c: made.to_model(c).flatten(), codes).reshape(spec.dimensions, -1)
    assert made.log_det == pytest.approx(torch.linalg.slogdet(jacobian.double())[1].item(), rel=1e-4)


@pytest.mark.parametrize("spec", IMAGES, ids=lambda s: str(s.levels))
def test_levels_come_back_with_and_without_noise(spec):
    made = units(spec)
    codes = torch.randint(spec.levels, (500, *spec.shape))
    assert torch.equal(made.to_codes(made.to_model(codes)).long(), codes)
    noisy = made.to_model(codes, SampleRng(1))
    noise = (noisy.double() - made.to_model(codes).double()) / made.width
    assert noise.abs().max() <= 0.51 and abs(noise.mean()) < 0.03, "centred on the level"
    assert noise.var().item() == pytest.approx(1 / 12, rel=0.06)
    # float32 has 24 bits: noise at the very edge of a level of 16 bits may round over it
    assert (made.to_codes(noisy).long() == codes).float().mean() > (0.99 if spec.levels > 256 else 0.9999)
    extremes = torch.tensor([0, spec.levels - 1]).reshape(2, 1, 1, 1).expand(2, *spec.shape)
    assert made.to_model(extremes).flatten(1)[:, 0].tolist() == pytest.approx([-1.0, 1.0])


def test_mixed_columns_come_back_and_every_discrete_one_is_noisy():
    made = units(DataSpec("table", (6,), columns=MIXED))
    codes = torch.tensor([[3.0, 2.0, 5.5], [7.0, 0.0, math.nan]]).repeat(2000, 1)
    x = made.to_model(codes, SampleRng(4))
    assert x.shape == (4000, 6)
    back = made.to_codes(x)
    assert torch.equal(back[:, :2], codes[:, :2])
    assert torch.equal(back[:, 2].isnan(), codes[:, 2].isnan())
    there = ~codes[:, 2].isnan()
    torch.testing.assert_close(back[there, 2], codes[there, 2], rtol=1e-5, atol=1e-5)
    clean = made.to_model(codes)
    noise = x - clean
    widths = torch.tensor([0.5, 1, 1, 1, 0, 1.0])  # an integer's step is 1 / scale; a number that is there has no noise
    assert noise[there].var(0).tolist() == pytest.approx((widths**2 / 12).tolist(), rel=0.1)
    assert noise[~there, 4].var().item() == pytest.approx(1 / 12, rel=0.1), "a number that is missing is anywhere"
    assert torch.equal(made.to_codes(clean)[:, :2], codes[:, :2])


def test_a_missing_number_has_no_scale():
    made = units(DataSpec("table", (6,), columns=MIXED))
    found = made.log_dets(torch.tensor([[3.0, 2.0, 5.5], [7.0, 0.0, math.nan]]))
    assert found.tolist() == pytest.approx([-math.log(2.0) - math.log(3.0), -math.log(2.0)])
