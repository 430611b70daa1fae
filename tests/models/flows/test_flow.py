"""Flows against what they promise: a density that integrates to 1, exact codes, and the true entropy of known data."""

import math

import pytest
import torch

import pushforward as pf
from pushforward.bijections import continuous, residual
from pushforward.bijections.continuous import Continuous
from pushforward.bijections.linear import Actnorm, Linear, Orthogonal, Permutation
from pushforward.bijections.shapes import Squeeze
from pushforward.data.batches import Batch, take
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.data.toys import log_density
from pushforward.dynamics.ode import DormandPrince5
from pushforward.errors import UserError
from pushforward.models.contract import Moment, capabilities
from pushforward.models.flows.flow import Flow, held
from pushforward.models.flows.srflow import SRFlow
from pushforward.nets.lipschitz import follow
from pushforward.randomness import SampleRng, UpdateRng, seeded

PLANE = DataSpec("point", (2,), columns=(Column("x", "number"), Column("y", "number")))
IMAGES = DataSpec("image", (1, 8, 8), levels=17)
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
    {"form": "residual"},
    {"form": "continuous"},
]
MOMENT = Moment(0, 0.0, SampleRng(0))
TIGHT = DormandPrince5(1e-9, 1e-9)


def bent(spec, **settings) -> Flow:
    """A flow that does something: its last layers are not 0."""
    with seeded(0):
        model = Flow(spec, **{"steps": 2, "width": 8, "depth": 1, **settings})
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    for part in model.bijection.modules():
        if isinstance(part, Continuous):
            part.method = TIGHT
    for _ in range(20):
        model.after_update({}, MOMENT)
    return model.double().eval()


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_the_density_integrates_to_one(settings):
    model = bent(PLANE, **settings)
    axis = torch.linspace(-15, 15, 601 if "form" not in settings or "auto" in settings["form"] else 151, dtype=torch.float64)
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


@pytest.mark.parametrize("form", ["residual", "continuous"])
def test_images_level_by_level_without_couplings(form):
    """Exact in eval mode: 16 and 8 numbers a level."""
    spec = DataSpec("image", (1, 4, 4), levels=16)
    model = bent(spec, form=form, width=4, steps=1)
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64) * 2 - 1
    z = model.encode(x)
    torch.testing.assert_close(model.decode(z), x, rtol=0, atol=1e-7)
    found = model.log_prob(x)
    assert found.kind == "exact"
    jacobian = torch.autograd.functional.jacobian(lambda x: model.encode(x).flatten(), x).reshape(16, 16)
    base = -0.5 * z[0].square().sum() - 8 * math.log(2 * math.pi)
    torch.testing.assert_close(found.value[0], base + torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["residual", "continuous"])
def test_in_many_dimensions_a_density_is_an_estimate(monkeypatch, form):
    """Its mean and standard error, against the exact density; noise is the update's."""
    model, x = bent(DataSpec("point", (4,)), form=form), torch.randn(3, 4, dtype=torch.float64)
    truth = model.log_prob(x).value
    for module in (residual, continuous):
        monkeypatch.setattr(module, "EXACT", {True: 0, False: 0})
    for part in model.bijection.modules():
        if isinstance(part, Continuous):
            part.method = DormandPrince5()
    found = model.log_prob(x, draws=100)
    assert found.kind == "estimate" and (found.stderr > 1e-4).all()
    assert ((found.value - truth).abs() < 4 * found.stderr).all()
    few = model.log_prob(x, draws=25)
    assert ((few.stderr / found.stderr - 2).abs() < 0.9).all(), "a standard error, of the mean"
    with pytest.raises(UserError, match="draws = 1"):
        model.log_prob(x, draws=1)
    model.train()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(7 + len(losses))
        losses.append(model.loss(Batch(x), SampleRng(seed)).total)
    assert losses[0] == losses[1] != losses[2]


def test_residual_maps_follow_their_weights():
    """After weights have changed by far the flow can still be inverted, as after_update has been called."""
    model = bent(PLANE, form="residual")
    player = model.players()[1]
    for parameter in model.bijection.parameters():
        parameter.data += 2 * torch.randn(parameter.shape, dtype=torch.float64)
    for _ in range(50):
        player.after_update({}, MOMENT)
    x = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["residual", "continuous"])
def test_residual_and_continuous_flows_learn(name):
    """Two moons: N(0, I) is at 2.84 nats on standardised data, the best Gaussian at 2.7, the truth at 1.8."""
    data = pf.load_data("moons", n=2000)
    x, _ = take(data.train, 256)
    x = data.units.to_model(x)
    with seeded(0):
        model = Flow(data.spec, form=name, steps=3 if name == "residual" else 1, width=32, depth=2)
    model.train()
    start, player = model.players()
    rng = UpdateRng(torch.Generator().manual_seed(0))
    start.update([Batch(x)], rng)
    optimizer = torch.optim.Adam(player.parameters(), 1e-2)
    for _ in range(100):
        loss = player.loss(Batch(x), rng).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_update({}, MOMENT)
    model.eval()
    held = data.units.to_model(take(data.held_out, 200)[0])
    assert -model.log_prob(held).value.mean() < 2.55
    torch.testing.assert_close(model.decode(model.encode(held)), held, rtol=0, atol=1e-4)


PAIRS = DataSpec("image", (1, 8, 8), levels=17, condition=Condition("image", 16, shape=(1, 4, 4), levels=17))


@pytest.mark.parametrize("levels", [1, 2])
def test_couplings_hear_of_an_image(levels):
    model = bent(PAIRS, width=4, levels=levels)
    x, y = (torch.rand(2, 1, side, side).double() * 2 - 1 for side in (8, 4))
    z = model.encode(x, condition=y)
    torch.testing.assert_close(model.decode(z, condition=y), x, rtol=0, atol=1e-8)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.encode(x, condition=y[:1]).flatten(), x[:1]).reshape(64, 64)
    base = -0.5 * z[0].square().sum() - 32 * math.log(2 * math.pi)
    found = model.log_prob(x, condition=y).value
    torch.testing.assert_close(found[0], base + torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-7)
    other = y.clone()
    other[0, 0, 0, 0] += 1
    moved = (model.encode(x, condition=other) - z).abs()
    assert (moved[0] > 1e-12).any() and not moved[1].any()
    for sentence, condition in (("cannot be drawn", None), (r"\(2, 1, 8, 8\) was given", x)):
        with pytest.raises(UserError, match=sentence):
            model.log_prob(x, condition=condition)
    with pytest.raises(UserError, match="not image"):
        Flow(PAIRS, form="autoregressive")


def test_a_flow_learns_what_an_image_tells():
    """Digits given a noisy copy: far fewer nats than without it."""
    data = pf.load_data("digits")
    x = data.units.to_model(take(data.train, 500)[0], SampleRng(0))
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    nats = []
    for condition in (Condition("image", 64, shape=(1, 8, 8), levels=17), None):
        with seeded(0):
            model = Flow(DataSpec("image", (1, 8, 8), levels=17, condition=condition), steps=2, levels=1, width=16, depth=1)
        told = None if condition is None else noisy
        model.players()[0].update([Batch(x, told)], UpdateRng(torch.Generator()))
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(60):
            loss = model.loss(Batch(x[:128], None if told is None else told[:128]), SampleRng(0)).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        nats.append(-model.log_prob(x[300:], condition=None if told is None else told[300:]).value.mean().item())
    assert nats[0] < nats[1] - 15


def test_super_resolution():
    with seeded(0):
        model = SRFlow(PAIRS, steps=1, width=8, depth=1)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    assert "translates" in capabilities(model) and "translates" not in capabilities(Flow(PLANE))
    y = torch.rand(3, 1, 4, 4) * 2 - 1
    made = model.translate(y, generator=3, temperature=0.5)
    assert torch.equal(made, model.sample(3, condition=y, generator=3, temperature=0.5)) and made.shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match="leave the condition away"):
        model.translate(y, condition=y)
    with pytest.raises(UserError, match="no pairs"):
        SRFlow(DataSpec("image", (1, 8, 8), levels=17))


@pytest.mark.parametrize(
    ("spec", "settings", "sentence"),
    [
        (DataSpec("point", (1,)), {}, "a coupling needs two numbers"),
        (DataSpec("image", (1, 7, 8), levels=256), {}, "cannot be squeezed: 7 is odd. Load them with size=8x8"),
        (DataSpec("image", (1, 7, 8), levels=256), {"form": "residual"}, "cannot be squeezed: 7 is odd"),
        (DataSpec("image", (1, 6, 12), levels=256), {"levels": 2}, "6x12 can be halved 1 time: give levels=1"),
        (DataSpec("tokens", (5,)), {}, "holds tokens; take gpt"),
        (PLANE, {"steps": 0}, "steps = 0"),
        (PLANE, {"levels": 0}, "levels = 0"),
    ],
)
def test_bad_input_is_a_sentence(spec, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Flow(spec, **settings)


@pytest.mark.parametrize(
    ("spec", "x", "sentence"),
    [
        (PLANE, [[0.0, math.nan]], "not finite were given, first in row 0"),
        (PLANE, [[0.0, 0.0], [math.inf, 0.0]], "first in row 1"),
        (PLANE, [[0.0, 0.0], [1e25, 0.0]], "1 of 2 data have no finite density or code .* row 1, with numbers up to 1e.25"),
        (PLANE, [[0.0, 0.0, 0.0]], "shape .3,. were given; this flow was built for .2,."),
        (DataSpec("image", (1, 2, 2), levels=256), [[[[0.0, 200.0], [0.0, 0.0]]]], "values from 0 to 200 were given"),
    ],
)
def test_wild_data_are_refused_in_a_sentence(spec, x, sentence):
    model = bent(spec, levels=1).float()
    with pytest.raises(UserError, match=sentence):
        model.log_prob(torch.tensor(x))
    if "finite density" not in sentence:
        with pytest.raises(UserError, match=sentence):
            model.encode(torch.tensor(x))


def test_a_temperature_below_0_and_a_missing_class_are_refused():
    with pytest.raises(UserError, match="temperature = -1"):
        Flow(PLANE).sample(2, temperature=-1.0)
    with pytest.raises(UserError, match="trained with class as condition; give one for each of the 2 rows"):
        Flow(DataSpec("point", (2,), condition=CLASSES)).encode(torch.zeros(2, 2))


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec("series", (6, 2)),
        DataSpec("field", (3, 4)),
        DataSpec("field", (2, 4, 4)),
        DataSpec("field", (2, 3, 5)),
        DataSpec("image", (1, 6, 6), levels=17),
    ],
    ids=lambda spec: f"{spec.kind}-{spec.shape}",
)
def test_series_fields_and_images_of_any_even_size(spec):
    model = bent(spec)
    x = torch.rand(3, *spec.shape, dtype=torch.float64) - 0.5
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=1e-8)
    assert any(isinstance(part, Squeeze) for part in model.modules()) == (spec.shape in [(2, 4, 4), (1, 6, 6)])
    assert model.float().sample(2, generator=0).shape == (2, *spec.shape)


def test_dead_pixels_and_single_rows_do_not_make_scales_infinite():
    model, x = Flow(PLANE, steps=1, width=8), torch.randn(50, 2)
    x[:, 1] = 3.0
    for rows in (x, x[:1]):
        model = Flow(PLANE, steps=1, width=8)
        model.players()[0].update([Batch(rows)], UpdateRng(torch.Generator()))
        first = next(part for part in model.bijection.modules() if isinstance(part, Actnorm))
        assert first.log_scale.abs().max() < 3 and first.log_scale[1] == 0 and model.log_prob(x).value.isfinite().all()


def test_a_run_begins_at_the_scales_of_the_data():
    """The first actnorm takes data to mean 0 and deviation 1, as it is told before the first update."""
    model = Flow(PLANE, steps=2, width=8)
    x = 3 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) + 5
    assert model.players()[0].update([Batch(x)], UpdateRng(torch.Generator())).finished
    first = next(part for part in model.bijection.modules() if isinstance(part, Actnorm))
    y = first(x)[0]
    torch.testing.assert_close(y.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("spec", [PLANE, IMAGES], ids=["vectors", "images"])
@pytest.mark.parametrize(("mixing", "kind"), [("linear", Linear), ("orthogonal", Orthogonal), ("permutation", Permutation)])
def test_what_mixes_is_what_was_asked_for(spec, mixing, kind):
    model = Flow(spec, mixing=mixing, steps=3, width=8)
    found = {type(part) for part in model.bijection.modules()} & {Linear, Orthogonal, Permutation}
    assert found == {kind}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"form": "continuous", "transform": "spline"}, "transform = spline"),
        ({"form": "residual", "mixing": "linear"}, "mixing = linear"),
        ({"bins": 99}, "bins = 99"),
        ({"bound": 3.0}, "bound = 3.0"),
        ({"levels": 3}, "levels = 3"),
        ({"form": "autoregressive", "checkerboard": 2}, "checkerboard = 2"),
        ({"alpha": 0.1}, "alpha = 0.1"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(settings, sentence):
    with pytest.raises(UserError, match=f"{sentence} was given, which means nothing"):
        Flow(PLANE, **settings)


@pytest.mark.parametrize("settings", [{"form": "residual"}, {"form": "continuous", "steps": 1}])
def test_densities_and_codes_do_not_depend_on_the_mode(settings):
    """Solvers and series are short in training, which is no business of who asks for a density."""
    spec = DataSpec("point", (20,), columns=tuple(Column(str(j), "number") for j in range(20)))
    torch.manual_seed(0)
    model = Flow(spec, width=16, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    follow(model.bijection)
    x = torch.randn(4, 20)
    with torch.no_grad():
        training = [model.train().log_prob(x), model.encode(x), model.decode(x)]
        found = [model.eval().log_prob(x), model.encode(x), model.decode(x)]
    assert training[0].kind == found[0].kind == "exact" and torch.equal(training[0].value, found[0].value)
    assert torch.equal(training[1], found[1]) and torch.equal(training[2], found[2])


@pytest.mark.parametrize("mixing", ["reverse", "permutation", "none", "linear"])
@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("steps", [2, 4])
def test_every_number_is_moved(mixing, size, steps):
    """What is only ever kept is affine in x: its row of the Jacobian is the same everywhere."""
    spec = DataSpec("point", (size,), columns=tuple(Column(str(j), "number") for j in range(size)))
    model = bent(spec, mixing=mixing, steps=steps)
    x = torch.randn(6, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda row: model.encode(row[None])[0], row) for row in x])
    assert (jacobians.std(0).amax(1) > 1e-6).all()


def test_an_estimate_of_all_classes_is_that_of_each_where_they_are_alike(monkeypatch):
    """The logsumexp of noisy log-densities is too large: the mean over draws comes first, of the same noise for all classes."""
    monkeypatch.setitem(residual.EXACT, False, 8)
    spec = DataSpec("point", (20,), Condition("class", 10), columns=tuple(Column(str(j), "number") for j in range(20)))
    model = bent(spec, form="residual", steps=4, width=32)
    with torch.no_grad():
        model.embed.embed.weight.copy_(model.embed.embed.weight[:1].expand(10, -1))
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        together, one = model.log_prob(x), model.log_prob(x, condition=torch.zeros(5, dtype=torch.long), generator=1)
    assert together.kind == one.kind == "estimate"
    torch.testing.assert_close(together.stderr, one.stderr, rtol=2.0, atol=0)  # 8 draws each
    assert ((together.value - one.value).abs() < 5 * (together.stderr**2 + one.stderr**2).sqrt()).all()


def test_in_training_far_codes_pull_as_those_ten_deviations_off():
    """The value is the density's, the gradient -z up to 10 and no more."""
    z = torch.tensor([[3.0, -9.0], [40.0, -2e3]], dtype=torch.float64, requires_grad=True)
    value = held(z)
    torch.testing.assert_close(value, torch.distributions.Normal(0.0, 1.0).log_prob(z.detach()).sum(1))
    value.sum().backward()
    torch.testing.assert_close(z.grad, torch.tensor([[-3.0, 9.0], [-10.0, 10.0]], dtype=torch.float64))
