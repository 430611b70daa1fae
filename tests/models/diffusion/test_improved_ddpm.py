"""A learned variance: the published interval, the hybrid loss, and the best variance of Gaussian data."""

import math

import pytest
import torch
from dynamics.exact_gaussian import ExactNet
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.bound import log_variances, posterior
from pushforward.dynamics.paths import PATHS
from pushforward.errors import UserError
from pushforward.models.contract import Density, Moment
from pushforward.models.diffusion.improved_ddpm import ImprovedDDPM
from pushforward.randomness import SampleRng

MEAN, VARIANCE = 0.2, 0.36
POINTS = DataSpec("point", (2,))
DIGITS = DataSpec("image", (1, 8, 8), condition=Condition("class", 10), levels=17)


class Table(nn.Module):
    """The exact noise of Gaussian data, scaled, and a variance's share for each level."""

    def __init__(self, path, levels, scale=1.0, share=0.0):
        super().__init__()
        self.exact, self.levels, self.calls = ExactNet(PATHS[path], "noise", MEAN, VARIANCE), levels, 0
        self.scale = nn.Parameter(torch.tensor(scale))
        self.share = nn.Parameter(torch.full((levels,), share, dtype=torch.float64))

    def forward(self, x, t, embedding=None):
        self.calls += 1
        k = (t * self.levels).round().long() - 1
        return torch.cat([self.scale * self.exact(x, t), self.share[k][:, None].to(x).expand_as(x)], 1)


def gaussian(levels=6, path="variance-preserving", net=None, **settings):
    return ImprovedDDPM(POINTS, path=path, levels=levels, net=net or Table(path, levels), **settings)


def data(rows, seed=3):
    return MEAN + VARIANCE**0.5 * SampleRng(seed).randn(rows, 2, dtype=torch.float64).float()


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_the_variance_is_that_of_the_paper():
    """By improved diffusion's own recurrences: the least is beta~, of the first step that of the second, the most is beta."""
    levels = 40
    model = ImprovedDDPM(POINTS, path="ddpm", levels=1000, width=8)
    bars = torch.tensor(PATHS["ddpm"].betas, dtype=torch.float64).neg().add(1).log().cumsum(0).exp()
    k = torch.randint(1, 1001, (levels,), generator=torch.Generator().manual_seed(0))
    k[0] = 1
    beta, bar = torch.tensor(PATHS["ddpm"].betas, dtype=torch.float64), torch.cat([torch.ones(1), bars]).double()
    small = beta[1:] * (1 - bar[1:-1]) / (1 - bar[2:])
    small = torch.cat([small[:1], small])
    output = torch.randn(levels, 2, generator=torch.Generator().manual_seed(1))
    model.net = type("Fixed", (nn.Module,), {"forward": lambda self, x, t, e=None: torch.cat([x, output], 1)})()
    x = torch.randn(levels, 2)
    ours = model.denoiser().log_variance(x, (k / 1000).float(), ((k - 1) / 1000).float())
    share = (output + 1) / 2
    expected = share * beta[k - 1].log()[:, None] + (1 - share) * small[k - 1].log()[:, None]
    # times are in float32: a step of 1e-3 has 4 digits left
    torch.testing.assert_close(ours, expected.float(), rtol=0, atol=1e-3)


def test_the_bound_teaches_the_variance_and_the_simple_loss_the_mean():
    x, slopes = data(64), {}
    for weight in (0.0, 1.0):
        model = gaussian(net=Table("variance-preserving", 6, scale=0.7), bound_weight=weight)
        model.loss(Batch(x), SampleRng(0)).total.backward()
        slopes[weight] = model.net.scale.grad, model.net.share.grad
    torch.testing.assert_close(slopes[0.0][0], slopes[1.0][0])
    assert float(slopes[0.0][0].detach().abs()) > 0.1
    assert not slopes[0.0][1].any() and bool((slopes[1.0][1] != 0).all())


def test_the_loss_is_hybrid():
    model = gaussian(net=Table("variance-preserving", 6, scale=0.7), bound_weight=0.25)
    loss = model.loss(Batch(data(64)), SampleRng(0))
    torch.testing.assert_close(loss.total, loss.terms["simple"] + 0.25 * loss.terms["bound"])


def test_the_learned_variance_is_the_best_one():
    """On Gaussian data the variance of x_s given x_t is known: the posterior's, and what E[x0 | x_t] does not know."""
    model, x = gaussian(), data(4000)
    optimiser = torch.optim.LBFGS([model.net.share], lr=1, max_iter=20, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = model.loss(Batch(x), SampleRng(1)).terms["bound"]
        loss.backward()
        return loss

    optimiser.step(closure)
    k = torch.arange(1, 7, dtype=torch.float64)
    t, s = k / 6, (k - 1) / 6
    alpha, sigma, _, _ = model.path(t)
    step, error = posterior(model.path, t, s), VARIANCE * sigma**2 / (alpha**2 * VARIANCE + sigma**2)
    best = step.small + step.of_x0**2 * error
    ours = model.denoiser().log_variance(torch.zeros(6, 2), t.float(), s.float())[:, 0]
    # 1300 numbers a level: the log of their mean square has an error of 0.04
    torch.testing.assert_close(ours.double().detach(), best.log(), rtol=0, atol=0.1)
    inner = (model.net.share.detach()[1:] + 1) / 2
    assert float(inner.min()) > 0 and float(inner.max()) < 1


def test_samples_of_few_steps_have_the_right_variance():
    """With mean and variance exact, 8 ancestral steps end in E[x0 | x_1] of x_1's exact law; other variances do not."""
    model = gaussian(8)
    k = torch.arange(1, 9, dtype=torch.float64)
    t, s = k / 8, (k - 1) / 8
    alpha, sigma, _, _ = model.path(t)
    step, error = posterior(model.path, t, s), VARIANCE * sigma**2 / (alpha**2 * VARIANCE + sigma**2)
    low, high = log_variances(model.path, t, s)
    model.net.share.data = 2 * ((step.small + step.of_x0**2 * error).log() - low) / (high - low) - 1
    right = VARIANCE - float(error[0])
    for solver, close in (("ancestral", True), ("ancestral-small", False), ("ancestral-large", False)):
        spread = float(model.sample(20_000, generator=0, steps=8, solver=solver).var())
        # standard error 0.0017
        assert (abs(spread - right) < 0.007) == close


@pytest.mark.parametrize(
    "spec, target, path", [(POINTS, "noise", "variance-preserving"), (DIGITS, "x0", "ddpm"), (DIGITS, "v", "cosine")]
)
def test_the_loss_of_all_levels_is_the_bound(spec, target, path):
    """T times the mean over levels, in bits, is the bound's diffusion and reconstruction, whatever the network says."""
    model = randomised(ImprovedDDPM(spec, path=path, levels=5, target=target, width=16, depth=1))
    one = (
        torch.tensor([[0.3, -0.8]]) if spec is POINTS else torch.linspace(-1, 1, 17)[torch.arange(64) % 17].reshape(1, 1, 8, 8)
    )
    x = one.expand(1500, *spec.shape)
    with torch.no_grad():
        terms = [model.loss(Batch(x), SampleRng(i)).terms["bound"] for i in range(4)]
        bits = model.bound(x[:600], terms=None).in_bits(spec.dimensions)
    mine = torch.stack(terms)
    # 6000 draws of a level: their means have this error
    assert float(mine.mean()) == pytest.approx(bits["diffusion"] + bits["reconstruction"], abs=4 * float(mine.std()) / 2 + 0.05)
    assert float(mine.std()) < 0.08 * float(mine.mean().abs())


def test_its_density_is_the_bound_and_of_levels_a_mass():
    model = randomised(ImprovedDDPM(DIGITS, levels=10, width=16, depth=1))
    x = torch.linspace(-1, 1, 17)[torch.randint(17, (3, 1, 8, 8))]
    found, bound = model.log_prob(x, terms=4), model.bound(x, terms=4)
    assert isinstance(model, Density) and model.mass and found.kind == "bound" and found.stderr is not None
    torch.testing.assert_close(found.value, -bound.total - 64 * math.log(2 / 16))
    torch.testing.assert_close(model.log_prob(x + 0.05, terms=4).value, found.value)  # levels are 0.125 wide
    assert not ImprovedDDPM(POINTS, levels=10, width=8).mass
    torch.testing.assert_close(
        model.bound(x[1:], terms=4, generator=SampleRng(0, first=1)).total, bound.total[1:], rtol=1e-3, atol=1e-3
    )


def test_one_evaluation_is_for_mean_and_variance():
    model = gaussian()
    denoiser, x, t = model.denoiser(), torch.zeros(3, 2), torch.full((3,), 0.5)
    _, noise = denoiser(x, t)
    with_variance = denoiser.log_variance(x, t, t - 1 / 6)
    assert model.net.calls == 1 and with_variance.shape == x.shape
    torch.testing.assert_close(noise, model.predict(x, t))
    moved = denoiser.log_variance(x + 1, t, t - 1 / 6)
    assert model.net.calls == 3 and torch.equal(moved, with_variance)  # this one's does not depend on x
    with torch.no_grad():
        denoiser(x, t)
    assert denoiser(x, t)[1].requires_grad  # what was computed without a graph is not given where one is asked for


def test_conditions_and_guidance_keep_the_variance():
    model = randomised(ImprovedDDPM(DIGITS, levels=10, width=16, depth=1))
    x, t, c = torch.randn(3, 1, 8, 8), torch.full((3,), 0.5), torch.tensor([1, 2, 3])
    plain, guided = (model.denoiser(c, scale).log_variance(x, t, t - 0.1) for scale in (1.0, 3.0))
    torch.testing.assert_close(plain, guided)
    assert not torch.allclose(plain, model.denoiser().log_variance(x, t, t - 0.1))
    model.loss(Batch(x, c), SampleRng(0)).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.sample(2, generator=0, steps=3).shape == (2, 1, 8, 8)


def test_levels_of_a_large_loss_are_drawn_more_often():
    model = gaussian(levels=4, time_sampling="loss-aware")
    assert model.chances().tolist() == [0.25] * 4
    player = model.players()[0]
    sizes = torch.tensor([1.0, 2.0, 3.0, 2.0])
    for turn in range(12):  # the last 10 of 12; of the second level each other one is 3 times as large, the sign is nothing
        size = torch.where(torch.arange(4) == 1, 3.0 if turn % 2 else 1.0, 1.0) * sizes * (-1) ** turn
        kept = {"level": torch.arange(1, 5), "loss": 9.0 * size.roll(1) if turn < 2 else size}
        player.after_update(kept, Moment(turn, 0.0, SampleRng(0)))
    sizes[1] *= 5**0.5
    sizes = 8 * sizes / sizes.sum()
    torch.testing.assert_close(model.chances(), 0.999 * sizes.double() / 8 + 0.001 / 4)
    k, weight = model._draw_levels(20_000, SampleRng(0))
    assert (torch.bincount(k, minlength=5)[1:] / 20_000 - sizes / 8).abs().max() < 0.015
    # unbiased: the weighted mean of any function of the level is its plain mean
    assert float((weight * k**2).mean()) == pytest.approx((1 + 4 + 9 + 16) / 4, abs=0.15)
    loss = model.loss(Batch(data(50)), SampleRng(0))
    assert set(loss.keep) == {"level", "loss"} and len(loss.keep["loss"]) == 50
    assert not gaussian().loss(Batch(data(5)), SampleRng(0)).keep and gaussian().players()[0].after_update is None


def test_networks_have_two_outputs():
    spec = DataSpec("image", (2, 9, 11), levels=4)
    for network in ("unet", "mlp"):
        model = ImprovedDDPM(spec, network=network, width=8, levels=10)
        y, v = model.outputs(torch.randn(3, 2, 9, 11), torch.rand(3))
        assert y.shape == v.shape == (3, 2, 9, 11) and bool((v == 0.5).all())  # networks begin at 0
    with pytest.raises(UserError, match="twice as many channels"):
        model = ImprovedDDPM(POINTS, levels=10)
        model.net = type("Same", (nn.Module,), {"forward": lambda self, x, t, e=None: x})()
        model.predict(torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(UserError, match="bound_weight = -1"):
        ImprovedDDPM(POINTS, bound_weight=-1)
