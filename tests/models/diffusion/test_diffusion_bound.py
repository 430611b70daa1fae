"""The bound of any model of diffusion: below the density that its ODE finds, and near it where the network is exact."""

import math

import pytest
import torch
from dynamics.exact_gaussian import ExactNet
from torch import nn

from pushforward.data.spec import DataSpec
from pushforward.dynamics.paths import PATHS
from pushforward.errors import UserError
from pushforward.models.diffusion.diffusion import Diffusion

POINTS = DataSpec("point", (2,))
LEVELS = DataSpec("image", (1, 4, 4), levels=5)


class Exact(nn.Module):
    """The target's mean for data N(0.3, 0.5)."""

    def __init__(self, path, target):
        super().__init__()
        self.of = ExactNet(PATHS[path], target, 0.3, 0.5)

    def forward(self, x, t, embedding=None):
        return self.of(x, t)


def exact(path, target, **settings):
    return Diffusion(POINTS, path=path, target=target, net=Exact(path, target), **settings)


@pytest.mark.parametrize(
    "path, target, settings",
    [
        ("linear", "velocity", {}),
        ("variance-preserving", "noise", {"levels": 1000}),
        ("cosine", "v", {"levels": 500}),
        ("linear", "x0", {"levels": 400}),
    ],
)
def test_the_bound_is_below_the_density_and_near_it(path, target, settings):
    model = exact(path, target, **settings)
    x = 0.3 + 0.5**0.5 * torch.randn(1500, 2, generator=torch.Generator().manual_seed(0))
    found = model.log_prob(x, method="bound")
    assert found.kind == "bound"
    truth = torch.distributions.Normal(0.3, 0.5**0.5).log_prob(x).sum(1)
    gap = truth - found.value
    error = float(gap.std()) / 1500**0.5
    # nats of two dimensions: of the steps, and of what is left of the data in the noise
    assert -4 * error < float(gap.mean()) < 4 * error + 0.02 and error < 0.05
    assert float(found.stderr.square().mean().sqrt()) < 3


def test_steps_and_terms_are_those_asked_for():
    model, x = exact("variance-preserving", "noise", levels=20), torch.zeros(3, 2)
    assert len(model.bound(x).times) == 19 and len(model.bound(x, steps=7, terms=None).times) == 6
    torch.testing.assert_close(model.bound(x).times, torch.arange(20, 1, -1) / 20)
    assert len(exact("linear", "velocity").bound(x, terms=5).times) == 5
    few, many = (float(model.bound(torch.zeros(2000, 2), steps=steps, terms=8).total.mean()) for steps in (4, 400))
    assert few > many + 0.05
    again = model.bound(x[:1], generator=5).total
    torch.testing.assert_close(model.bound(x, generator=5).total[:1], again)


def test_of_levels_it_is_a_mass():
    model = Diffusion(LEVELS, path="ddpm", target="noise", levels=10, width=16, depth=1).eval()
    x = torch.linspace(-1, 1, 5)[torch.randint(5, (4, 1, 4, 4))]
    bound, found = model.bound(x), model.log_prob(x, method="bound")
    torch.testing.assert_close(found.value, -bound.total - 16 * math.log(2 / 4))
    assert bool((bound.reconstruction >= 0).all()) and bool((bound.diffusion >= 0).all()) and bool((bound.prior > 0).all())
    torch.testing.assert_close(model.bound(x + 0.2).total, bound.total)


def test_what_makes_no_sense_is_said():
    model, x = exact("linear", "velocity"), torch.zeros(2, 2)
    with pytest.raises(UserError, match="by 'ode' or by 'bound'"):
        model.log_prob(x, method="elbo")
    with pytest.raises(UserError, match="at least 2 draws"):
        model.bound(x, draws=1)
    with pytest.raises(UserError, match="number of the solver's steps"):
        model.bound(x, steps=0)
