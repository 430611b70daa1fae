"""A learned path: monotone, without a say between its ends, and learned as the paper does: the ends by the bound, the rest by
the variance."""

import math

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.paths import Path
from pushforward.errors import UserError
from pushforward.models.contract import Density, Scores, capabilities
from pushforward.models.diffusion.vdm import LAST, VDM, LearnedPath
from pushforward.randomness import SampleRng

MEAN, VARIANCE = 0.2, 0.36
POINTS = DataSpec("point", (2,))
DIGITS = DataSpec("image", (1, 8, 8), condition=Condition("class", 10), levels=17)


class ExactNoise(nn.Module):
    """E[noise | x_t] of data N(MEAN, VARIANCE), at the gamma that a network is told, times a scale."""

    def __init__(self, first):
        super().__init__()
        self.first, self.scale = first, nn.Parameter(torch.ones(()))

    def forward(self, x, told, embedding=None):
        gamma = (self.first + (LAST - self.first) * told)[:, None]
        alpha, sigma = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
        return self.scale * sigma * (x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)


def bent(seed, path):
    """Another schedule between the same ends."""
    generator = torch.Generator().manual_seed(seed)
    for part, size in ((path.steepness, 1.0), (path.place, 2.0), (path.height, 3.0), (path.straight, 1.0)):
        part.data += size * torch.randn(part.shape, generator=generator)
    return path


def exact(seed=None):
    model = VDM(POINTS, net=ExactNoise(2 * math.log(0.01)))
    if seed is not None:
        bent(seed, model.path)
    return model


def data(rows, seed=3):
    return MEAN + VARIANCE**0.5 * SampleRng(seed).randn(rows, 2)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_path_rises_between_its_ends_with_the_slopes_that_it_says(seed):
    path = LearnedPath(-9.0).double()
    path = path if seed is None else bent(seed, path)
    t = torch.linspace(0, 1, 201, dtype=torch.float64, requires_grad=True)
    alpha, sigma, d_alpha, d_sigma = path(t)
    assert isinstance(path, Path)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    for value, slope in ((alpha, d_alpha), (sigma, d_sigma)):
        torch.testing.assert_close(slope, torch.autograd.grad(value.sum(), t, retain_graph=True)[0])
    gamma = 2 * (sigma.log() - alpha.log())
    assert bool((gamma.diff() > 0).all())
    assert float(gamma[0].detach()) == pytest.approx(-9) and float(gamma[-1].detach()) == pytest.approx(LAST)
    if seed is not None:  # it is a bent one
        assert float((gamma - torch.linspace(-9, LAST, 201)).abs().max().detach()) > 0.5


def expected_bits():
    """Of exact noise, a dimension: the KL of the last noise, the entropy of the first, and the integral between."""
    first, last = math.exp(-2 * math.log(0.01)), math.exp(-LAST)  # snr
    diffusion = 0.5 * math.log((1 + VARIANCE * first) / (1 + VARIANCE * last))
    return {
        "diffusion": diffusion / math.log(2),
        "reconstruction": 0.5 * math.log(2 * math.pi * math.e / first) / math.log(2),
        "prior": 0.5 * last * (MEAN**2 + VARIANCE) / math.log(2),
    }


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_bound_does_not_know_the_schedule_between_its_ends(seed):
    """The theorem, of the loss and of `bound`, which both are the closed form whatever the schedule."""
    model = exact(seed)
    with torch.no_grad():
        losses = [model.loss(Batch(data(6000, seed=i)), SampleRng(i + 10)) for i in range(6)]
    for name, truth in expected_bits().items():
        each = torch.stack([loss.terms[name] for loss in losses])
        assert abs(float(each.mean()) - truth) < 4 * float(each.std()) / 6**0.5 + 2e-3, name
    total = torch.stack([loss.total for loss in losses])
    torch.testing.assert_close(total, torch.stack([sum(loss.terms[name] for name in expected_bits()) for loss in losses]))
    # the bound is the entropy but for the prior: 0.003 nats of two dimensions
    entropy = 0.5 * math.log(2 * math.pi * math.e * VARIANCE) / math.log(2)
    assert float(total.mean()) == pytest.approx(entropy, abs=0.03)
    x = data(4000)
    bound = model.bound(x, terms=4)
    gap = (bound.total + torch.distributions.Normal(MEAN, VARIANCE**0.5).log_prob(x).sum(1)) / 2 / math.log(2)
    assert abs(float(gap.mean()) - 0.002) < 4 * float(gap.std()) / 4000**0.5 < 0.15
    # told the snr alone, on draws that are the same: any schedule has the same numbers
    torch.testing.assert_close(bound.total, exact().bound(x, terms=4).total, rtol=0, atol=0.1)


def plain_loss(model, x, rng):
    """The bound of each row in nats per datum, written out: (diffusion, the rest)."""
    rows, path = len(x), model.path
    t = (rng.shared(1) + torch.arange(rows) / rows) % 1
    h, rate = path.shares(t)
    gamma = path.first + (path.last - path.first) * h
    noise = rng.randn_like(x)
    x_t = (-gamma).sigmoid().sqrt()[:, None] * x + gamma.sigmoid().sqrt()[:, None] * noise
    off = noise - model.net(x_t, (gamma - model.first) / (LAST - model.first))
    diffusion = 0.5 * (path.last - path.first) * rate * off.square().sum(1)
    decoder = torch.distributions.Normal(x + (path.first / 2).exp() * rng.randn_like(x), (path.first / 2).exp())
    return diffusion, -decoder.log_prob(x).sum(1) + 0.5 * (-path.last).exp() * x.square().sum(1)


def test_the_ends_learn_the_bound_and_the_rest_its_variance():
    """The slopes by one backward pass are those of the mean of l for network and ends, and of the mean of l^2 for all else."""
    x, bit = data(64), 2 * math.log(2)
    model = exact(seed=0)
    model.net.scale.data.fill_(0.7)
    inner = ("straight", "steepness", "place", "height")
    model.loss(Batch(x), SampleRng(1)).total.backward()
    diffusion, rest = plain_loss(model, x, SampleRng(1))
    outer = [model.path.first, model.path.last, model.net.scale]
    truth = torch.autograd.grad((diffusion + rest).mean() / bit, outer, retain_graph=True)
    for parameter, slope in zip(outer, truth, strict=True):
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-3, atol=1e-5)
    truth = torch.autograd.grad(((diffusion / bit) ** 2).mean(), [getattr(model.path, name) for name in inner])
    for name, slope in zip(inner, truth, strict=True):
        torch.testing.assert_close(getattr(model.path, name).grad, slope, rtol=1e-3, atol=1e-4)
    assert all(bool(slope.any()) for slope in truth)


def test_the_schedule_that_is_learned_has_less_variance():
    model = exact(seed=1)
    optimiser = torch.optim.Adam([model.path.straight, model.path.steepness, model.path.place, model.path.height], 0.05)

    def spread():
        with torch.no_grad():
            return float(plain_loss(model, data(4000), SampleRng(9))[0].var())

    before = spread()
    for i in range(60):
        optimiser.zero_grad()
        model.loss(Batch(data(256, seed=i)), SampleRng(i)).total.backward()
        optimiser.step()
    assert spread() < 0.6 * before
    assert float(model.path.first.detach()) == pytest.approx(2 * math.log(0.01)) and float(model.path.last.detach()) == LAST


def test_levels_have_a_mass_and_it_is_a_model_like_others():
    model = VDM(DIGITS, width=16, depth=1).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    x, c = torch.linspace(-1, 1, 17)[torch.randint(17, (4, 1, 8, 8))], torch.tensor([1, 2, 3, 4])
    assert isinstance(model, Density | Scores) and model.mass and not VDM(POINTS, width=8).mass
    assert {"samples", "density", "scores", "encodes", "decodes"} <= set(capabilities(model))
    found, bound = model.log_prob(x, condition=c, terms=3), model.bound(x, condition=c, terms=3)
    assert found.kind == "bound"
    torch.testing.assert_close(found.value, -bound.total - 64 * math.log(2 / 16))
    # an eighth of a level of noise hides hardly a level: -E log P(|noise| < 4 deviations), given a noise of its own
    loss = model.loss(Batch(x, c), SampleRng(0))
    assert 0 <= float(loss.terms["reconstruction"].detach()) < 0.02 and float(bound.reconstruction.min()) >= 0
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.sample(2, generator=0, steps=3).shape == (2, 1, 8, 8)
    z = model.encode(x, condition=c, steps=4)
    assert z.shape == x.shape and bool(z.isfinite().all())


def test_sines_of_pixels():
    spec = DataSpec("image", (2, 9, 10), levels=256)
    model = VDM(spec, fourier_features=True, width=8)
    seen = []
    model.net.net.forward = lambda x, t, e: seen.append(x) or x[:, :2]
    x = torch.rand(3, 2, 9, 10)
    model.predict(x, torch.rand(3))
    torch.testing.assert_close(seen[0][:, :2], x)
    torch.testing.assert_close(seen[0][:, 2:4], (128 * math.pi * x).sin(), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[0][:, 8:], (256 * math.pi * x).cos(), atol=1e-3, rtol=0)
    with pytest.raises(UserError, match="take network='unet'"):
        VDM(DIGITS, fourier_features=True)
    with pytest.raises(UserError, match="gamma rises"):
        LearnedPath(6.0)
