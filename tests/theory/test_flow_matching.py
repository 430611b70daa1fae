"""Flow matching and conditional flow matching have one gradient (Lipman et al. 2023, theorem 2; Tong et al. 2024, theorem 3.2).

On finite laws of data and noise everything is a sum: the marginal velocity at a point x is the mean of noise - x0 over those
pairs whose line is at x at that time, and both losses are sums over all pairs.
"""

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.paths import PATHS, interpolate
from pushforward.dynamics.targets import compose
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.randomness import SampleRng

SUPPORT = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()

    def forward(self, x, t, embedding=None):
        return self.layers(torch.cat([x, t[:, None]], 1))


def pairs(coupling):
    """All (x0, noise) with their probabilities."""
    i, j = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    mass = coupling.flatten() / coupling.sum()
    some = mass > 0
    return SUPPORT[i.flatten()[some], None], SUPPORT[j.flatten()[some], None] / 2 - 1, mass[some]


def couplings():
    generator = torch.Generator().manual_seed(3)
    rates = torch.rand(4, generator=generator, dtype=torch.float64)
    return {
        "independent": rates[:, None].expand(4, 4),
        "any": torch.rand(4, 4, generator=generator, dtype=torch.float64),
        "a permutation": torch.eye(4, dtype=torch.float64)[[2, 0, 3, 1]],
    }


def marginal(x_t, y, mass):
    """E[y | x_t] by enumeration, at each pair's own x_t."""
    here = (x_t - x_t.T).abs() < 1e-9
    weights = here * mass
    return (weights @ y) / weights.sum(1, keepdim=True)


def gradient(net, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)])


@pytest.mark.parametrize("name", ["independent", "any", "a permutation"])
@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_equal_gradients(path, name):
    torch.manual_seed(0)
    net, (x0, noise, mass) = Net(), pairs(couplings()[name])
    whole = {"marginal": 0.0, "conditional": 0.0}
    spread = 0.0
    for time in (0.0, 0.25, 1 / 3, 0.5, 2 / 3, 1.0):  # on a line, pairs meet at all of these
        t = torch.full((len(mass),), time, dtype=torch.float64)
        x_t, y = interpolate(PATHS[path], x0, noise, t), compose(PATHS[path], "velocity", x0, noise, t)
        v, mean = net(x_t, t), marginal(x_t, y, mass)
        whole["conditional"] = whole["conditional"] + (mass @ (v - y).square()).sum()
        whole["marginal"] = whole["marginal"] + (mass @ (v - mean).square()).sum()
        spread += float((mass @ (y - mean).square()).sum())
    assert torch.allclose(gradient(net, whole["conditional"]), gradient(net, whole["marginal"]), rtol=1e-10, atol=1e-12)
    # the losses differ by the variance that no velocity explains
    assert float(whole["conditional"] - whole["marginal"]) == pytest.approx(spread, rel=1e-10)
    assert spread > 0.1 or name == "a permutation"


def test_the_loss_of_the_library_has_that_gradient():
    """Its draws of pairs and times are independent and even, so that its mean over many rows is the marginal's gradient."""
    torch.manual_seed(0)
    net, rows = Net(), 200_000
    noise = SUPPORT[:, None].float() / 2 - 1
    model = Diffusion(DataSpec("point", (1,)), net=net, source=lambda n, rng: noise[rng.randint(4, n)])
    x0 = SUPPORT[SampleRng(1).randint(4, rows), None]
    got = gradient(net, model.loss(Batch(x0), SampleRng(0)).total)
    data, ends, mass = pairs(torch.ones(4, 4, dtype=torch.float64))
    expected, nodes = 0.0, 400
    for time in (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes:
        t = time.expand(16)
        x_t, y = interpolate(PATHS["linear"], data, ends, t), compose(PATHS["linear"], "velocity", data, ends, t)
        expected = expected + (mass @ (net(x_t, t) - marginal(x_t, y, mass)).square()).sum() / nodes
    expected = gradient(net, expected)
    # gradients of a row deviate by about 10, so by 0.02 in the mean of 200,000; five of them
    assert (got - expected).abs().max() < 0.1 < expected.abs().max() / 10
