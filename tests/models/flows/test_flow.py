"""Flows against what they promise: a density that integrates to 1, exact codes, and the true entropy of known data."""

import math

import pytest
import torch

import pushforward as pf
from pushforward.bijections.linear import Actnorm
from pushforward.data.batches import Batch, take
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.data.toys import log_density
from pushforward.errors import UserError
from pushforward.models.flows.flow import Flow
from pushforward.randomness import UpdateRng, seeded

PLANE = DataSpec("point", (2,), columns=(Column("x", "number"), Column("y", "number")))
CLASSES = Condition("class", 3, frequencies=(0.5, 0.3, 0.2))
KINDS = [
    {"transform": "additive"},
    {"transform": "affine"},
    {"transform": "spline"},
    {"form": "autoregressive"},
    {"form": "autoregressive", "transform": "spline"},
    {"form": "inverse-autoregressive"},
    {"mixing": "orthogonal"},
    {"mixing": "permutation", "actnorm": False},
]


def bent(spec, **settings) -> Flow:
    """A flow that does something: its last layers are not 0."""
    with seeded(0):
        model = Flow(spec, **{"steps": 2, "width": 8, "depth": 1, **settings})
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.double()


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_the_density_integrates_to_one(settings):
    model = bent(PLANE, **settings)
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    mass = model.log_prob(grid).value.exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=2e-3)  # 0.05 apart, a step of the rule, where splines have kinks


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_codes_are_exact(settings):
    spec = DataSpec("point", (5,), condition=CLASSES)
    model = bent(spec, **settings)
    x, c = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 3
    torch.testing.assert_close(model.decode(model.encode(x, condition=c), condition=c), x, rtol=0, atol=1e-8)
    other = model.encode(x, condition=(c + 1) % 3)
    assert not torch.allclose(other, model.encode(x, condition=c)), "the condition is heard"


def test_images_level_by_level():
    spec = DataSpec("image", (3, 8, 12), levels=256)
    model = bent(spec, levels=2, checkerboard=2, mixing="linear", width=4)
    x = torch.rand(3, 3, 8, 12, dtype=torch.float64) * 2 - 1
    z = model.encode(x)
    assert z.shape == (3, 288)
    torch.testing.assert_close(model.decode(z), x, rtol=0, atol=1e-8)
    one = x[:1]
    jacobian = torch.autograd.functional.jacobian(lambda x: model.encode(x).flatten(), one).reshape(288, 288)
    base = -0.5 * z[0].square().sum() - 144 * math.log(2 * math.pi)
    torch.testing.assert_close(model.log_prob(one).value[0], base + torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-7)
    assert model.decode(50 * torch.randn(4, 288).double()).abs().max() < 1.2, "no noise leaves the range of the levels by far"


def test_without_a_class_the_density_is_that_of_all_together():
    model = bent(DataSpec("point", (2,), condition=CLASSES))
    x = torch.randn(4, 2, dtype=torch.float64)
    each = torch.stack([model.log_prob(x, condition=torch.full((4,), k)).value.exp() for k in range(3)])
    expected = (torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[:, None] * each).sum(0).log()
    torch.testing.assert_close(model.log_prob(x).value, expected)


def test_the_loss_is_the_mean_of_minus_log_p():
    model = bent(PLANE)
    x = torch.randn(7, 2, dtype=torch.float64)
    loss = model.loss(Batch(x), UpdateRng(torch.Generator()))
    torch.testing.assert_close(loss.total, -model.log_prob(x).value.mean())


def test_temperature_scales_the_noise():
    model = bent(PLANE).float()
    warm, cold = (model.sample(50, generator=0, temperature=t) for t in (1.0, 0.5))
    torch.testing.assert_close(model.encode(cold), 0.5 * model.encode(warm), rtol=1e-4, atol=1e-4)
    assert torch.equal(model.sample(3, generator=0, temperature=0.0)[0], model.decode(torch.zeros(1, 2))[0])


def test_a_run_comes_near_the_entropy(tmp_path):
    """The mean log-density of new points under the truth is what a model is held to, within 0.25 nats after 300 updates."""
    data = pf.load_data("moons", n=4000)
    model = pf.create("nsf", data.spec, steps=4, width=32)
    run = pf.train(
        model, data, steps=300, batch_size=256, out=str(tmp_path / "a"), tensorboard=False, picture_every=0, precision="fp32"
    )
    x, _ = take(data.held_out, 1000)
    truth = log_density("moons", x).mean()
    found = run.log_prob_codes(x).value.mean()
    assert truth - 0.25 < found < truth + 0.05


@pytest.mark.parametrize(
    ("spec", "settings", "sentence"),
    [
        (DataSpec("point", (1,)), {}, "a coupling needs two numbers"),
        (DataSpec("image", (1, 7, 8), levels=256), {}, "cannot be squeezed: 7 is odd. Load them with size=8x8"),
        (PLANE, {"steps": 0}, "steps = 0"),
    ],
)
def test_bad_input_is_a_sentence(spec, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Flow(spec, **settings)
    with pytest.raises(UserError, match="temperature = -1"):
        Flow(PLANE).sample(2, temperature=-1.0)


def test_a_run_begins_at_the_scales_of_the_data():
    """The first actnorm takes data to mean 0 and deviation 1, as it is told before the first update."""
    model = Flow(PLANE, steps=2, width=8)
    x = 3 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) + 5
    assert model.players()[0].update([Batch(x)], UpdateRng(torch.Generator())).finished
    first = next(part for part in model.bijection.modules() if isinstance(part, Actnorm))
    y = first(x)[0]
    torch.testing.assert_close(y.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(2), rtol=0, atol=1e-5)
