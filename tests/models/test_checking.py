"""`check_model` finds each broken promise: small models, each deliberately broken in one way."""

import pytest
import torch
from torch import nn

import pushforward as pf
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

    def draw_codes(self, n, *, generator=None):
        return as_rng(generator, device_of(self)).randn(n, 2)


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
    assert report.ok and len(report.passed) == 5, str(report)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


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
