"""`check_model` finds each broken promise: small models, each deliberately broken in one way."""

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.data.batches import ArraySplit, Data
from pushforward.data.spec import Condition, DataSpec
from pushforward.models.contract import LogProb, Loss, Player, device_of
from pushforward.randomness import as_rng


class Whole(nn.Module):
    """Keeps every promise: an affine map of noise with a batch norm, a density, codes."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        self.net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, batch, rng):
        return Loss((self.net(rng.randn(*batch.x.shape)) - batch.x).square().mean())

    def players(self):
        return [Player("net", self.net, self.loss)]

    def sample(self, n, *, condition=None, generator=None):
        return self.net(as_rng(generator, device_of(self)).randn(n, 2))

    def log_prob(self, x, *, condition=None):
        return LogProb(-x.square().sum(1) / 2, "exact")

    def encode(self, x, *, condition=None):
        return 2 * x

    def decode(self, z, *, condition=None):
        return z / 2

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator, device_of(self)).randn(n, 2)

    def translate(self, x, *, condition=None, generator=None):
        return -x + as_rng(generator, device_of(self)).randn(len(x), 2)

    def diagnose(self, x, *, condition=None):
        return {"active_units": 2.0, "units": 2.0}


class WrongShape(Whole):
    def sample(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 3)


class OwnNoise(Whole):
    def sample(self, n, *, condition=None, generator=None):
        return torch.randn(n, 2)


class DependsOnN(Whole):
    def sample(self, n, *, condition=None, generator=None):
        return super().sample(n, generator=generator) + n


class IgnoresTheSeed(Whole):
    def sample(self, n, *, condition=None, generator=None):
        return torch.zeros(n, 2)


class NoKeyword(Whole):
    def sample(self, n, generator=None):
        return super().sample(n, generator=generator)


class NoGradient(Whole):
    def loss(self, batch, rng):
        return Loss(self.net[3].bias.sum() * 0 + batch.x.mean())


class LossOwnNoise(Whole):
    def loss(self, batch, rng):
        return Loss((self.net(torch.randn(batch.x.shape)) - batch.x).square().mean())


class LossOfRows(Whole):
    def loss(self, batch, rng):
        return Loss((self.net(batch.x) - batch.x).square().mean(1))


class LossWithMemory(Whole):
    def loss(self, batch, rng):
        self.seen += len(batch)
        return super().loss(batch, rng)


class ForeignParameters(Whole):
    def players(self):
        return [Player("net", [self.net, nn.Linear(2, 2)], self.loss)]


class NameClash(Whole):
    def players(self):
        return [Player("net", self.net, self.loss), Player("net", self.net, self.loss)]


class WrongDensityShape(Whole):
    def log_prob(self, x, *, condition=None):
        return LogProb(-x.square() / 2, "exact")


class NotANumber(Whole):
    def log_prob(self, x, *, condition=None):
        return LogProb(x.sum(1) * torch.nan, "exact")


class NoError(Whole):
    def log_prob(self, x, *, condition=None):
        return LogProb(-x.square().sum(1), "estimate")


class EncodesWithoutCondition(Whole):
    def encode(self, x):
        return x


class DecodesWithoutCondition(Whole):
    def decode(self, z):
        return z


class TranslatesByChance(Whole):
    def translate(self, x, *, condition=None, generator=None):
        return -x + torch.randn_like(x)


class TranslatesTogether(Whole):
    def translate(self, x, *, condition=None, generator=None):
        return x.mean(0) - x


class TranslatesByPlace(Whole):
    """Noise of its own for each row, but counted from the first of those that are given."""

    def translate(self, x, *, condition=None, generator=None):
        return x + torch.linspace(-1, 1, len(x))[:, None] * (len(x) > 1)


class TranslatesTheFirst(Whole):
    def translate(self, x, *, condition=None, generator=None):
        return x[:1]


class TranslatesWithoutGenerator(Whole):
    def translate(self, x, *, condition=None):
        return x


class DiagnosesTensors(Whole):
    def diagnose(self, x, *, condition=None):
        return {"units": x.square().mean()}


class DiagnosesNothingKnown(Whole):
    def diagnose(self, x, *, condition=None):
        return {"kl_per_unit": float("nan")}


class DiagnosesAList(Whole):
    def diagnose(self, x, *, condition=None):
        return [1.0]


class DiagnosesWithoutCondition(Whole):
    def diagnose(self, x):
        return {}


class OddAttribute(Whole):
    dequantise = "yes"


class Nothing(nn.Module):
    pass


BROKEN = {
    WrongShape: r"shape \(3, 3\), expected \(3, 2\)",
    OwnNoise: "two samples with one seed differ",
    DependsOnN: "depends on how many",
    IgnoresTheSeed: "two seeds are the same",
    NoKeyword: "must take `condition` as a keyword",
    NoGradient: "no gradient with respect to its own modules",
    LossOwnNoise: "not a function of batch and rng",
    LossOfRows: r"the loss returned shape \(6,\)",
    LossWithMemory: "its loss changes seen;",
    ForeignParameters: "parameters that are not the model's",
    NameClash: "two players have one name",
    WrongDensityShape: r"log_prob returned shape \(6, 2\), expected \(6,\)",
    NotANumber: "not finite",
    NoError: "needs its standard error",
    EncodesWithoutCondition: "encode must take `condition`",
    DecodesWithoutCondition: "decode must take `condition`",
    TranslatesByChance: "two translations with one seed differ",
    TranslatesTogether: "depends on what is translated beside it",
    TranslatesByPlace: "depends on what is translated beside it",
    TranslatesTheFirst: r"translate returned shape \(1, 2\), expected \(6, 2\)",
    TranslatesWithoutGenerator: "translate must take `generator`",
    DiagnosesTensors: r"'units' the value tensor",
    DiagnosesNothingKnown: "'kl_per_unit' the value nan",
    DiagnosesAList: "diagnose returned list",
    DiagnosesWithoutCondition: "diagnose must take `condition`",
    OddAttribute: "`dequantise` is 'yes'",
    Nothing: "none of the methods",
}


@pytest.fixture(scope="module")
def data():
    return pf.load_data("moons", n=100)


def test_a_whole_model_passes_and_stays_as_it_was(data):
    model = Whole(data.spec)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = pf.check_model(model, data)
    assert report.ok and len(report.passed) == 7, str(report)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Colours(nn.Module):
    """A colour image of a grey one: its translation takes what the data are conditioned on, and no condition."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def translate(self, x, *, condition=None, generator=None):
        assert condition is None
        return (x + 0.1 * as_rng(generator).randn(len(x), 3, 1, 1)).clamp(-1, 1)


class StaysGrey(Colours):
    def translate(self, x, *, condition=None, generator=None):
        return x


@pytest.fixture(scope="module")
def pairs():
    """Colour images (3, 2, 4), each given a grey one."""
    spec = DataSpec("image", (3, 2, 4), condition=Condition("image", 8, shape=(1, 2, 4), levels=256), levels=256, mode="RGB")
    draws = torch.Generator().manual_seed(0)
    grey = torch.randint(256, (12, 1, 2, 4), generator=draws).to(torch.uint8)
    split = ArraySplit(grey.expand(-1, 3, -1, -1).contiguous(), grey)
    return Data(spec, split, split, split, {"source": "<array>"}, [])


def test_a_translation_between_pairs_is_given_the_other_image(pairs):
    assert pf.check_model(Colours(pairs.spec), pairs).capabilities == ["translates"]
    with pytest.raises(pf.UserError, match=r"translate returned shape \(6, 1, 2, 4\), expected \(6, 3, 2, 4\)"):
        pf.check_model(StaysGrey(pairs.spec), pairs)


class Langevin(Whole):
    def sample(self, n, *, condition=None, generator=None):
        x = super().sample(n, generator=generator)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return x + 0.1 * torch.autograd.grad(self.log_prob(x).value.sum(), x)[0]


def test_a_sampler_may_differentiate(data, tmp_path):
    model = Langevin(data.spec)
    assert pf.check_model(model, data).ok
    quick = {"steps": 2, "tensorboard": False, "precision": "fp32", "picture_every": 1}
    assert pf.train(model, data, out=str(tmp_path / "run"), **quick).sample(3, seed=0).shape == (3, 2)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda c: c.__name__)
def test_a_broken_promise_is_found(broken, data):
    """It alone: the promises that are kept are not blamed."""
    model = broken() if broken is Nothing else broken(data.spec)
    with pytest.raises(pf.UserError, match=BROKEN[broken]):
        pf.check_model(model, data)
    assert len(pf.check_model(model, data, strict=False).failures) == 1
