"""Bounds on the probabilities of levels: against enumeration and quadrature, and bits per dimension that are right."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pushforward.bijections.base import Bijection
from pushforward.bijections.linear import no_change
from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.evaluation.likelihood import likelihood_measures
from pushforward.models.contract import LogProb
from pushforward.models.flows.dequantisation import Dequantiser
from pushforward.models.flows.flow import Flow
from pushforward.randomness import SampleRng, UpdateRng, seeded
from pushforward.training.runs import Run

PAIR = DataSpec("image", (1, 1, 2), levels=3)  # 9 images
LEVEL = 1.0  # between them
ALL = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 2).reshape(9, 1, 1, 2).double()


def built(size=0.05, spec=PAIR, **settings) -> Flow:
    with seeded(0):
        model = Flow(spec, form="autoregressive", steps=2, width=8, depth=1, dequantisation="variational", **settings)
        for parameter in model.bijection.parameters():
            parameter.data += 0.03 * torch.randn_like(parameter)  # smooth, that the rule below integrates it
        for parameter in model.dequantiser.parameters():
            parameter.data += size * torch.randn_like(parameter)
    return model.double().eval()


def draws_of(model: Flow, draws: int, seed: int) -> torch.Tensor:
    """log p(x + u) - log q(u | x) of all images, (draws, 9)."""
    with torch.no_grad():
        return model.drawn_density(ALL.repeat(draws, 1, 1, 1), None, SampleRng(seed)).reshape(draws, 9)


def masses(model: Flow) -> torch.Tensor:
    """log P of each of the nine images: the integral of the density over its square, by Gauss and Legendre's rule."""
    nodes, weights = (torch.as_tensor(part) for part in np.polynomial.legendre.leggauss(40))
    points = torch.cartesian_prod(nodes, nodes).reshape(-1, 1, 1, 2) * LEVEL / 2
    area = (weights[:, None] * weights).flatten() * LEVEL**2 / 4
    with torch.no_grad():
        return torch.stack([(model.density(x + points, None).exp() * area).sum().log() for x in ALL])


def test_importance_weights_have_the_mass_as_their_mean_and_logs_stay_below():
    model, draws = built(), 8000
    truth, logs = masses(model), draws_of(model, draws, 0) + 2 * math.log(LEVEL)
    weights = logs.exp()
    error = weights.std(0) / math.sqrt(draws)
    assert ((weights.mean(0) - truth.exp()).abs() < 4 * error).all() and (error < 0.03 * truth.exp()).all()
    assert (truth - logs.mean(0) > 0.02).all(), "a bound: Jensen's gap, and q is not the best"
    few, many = (model.log_prob(ALL, draws=k) for k in (1, 400))
    assert few.kind == many.kind == "bound"
    torch.testing.assert_close(many.value + 2 * math.log(LEVEL), truth, rtol=0, atol=0.15)  # 4 standard errors


@pytest.mark.parametrize("spec", [PAIR, DataSpec("image", (2, 4, 6), levels=256)])
def test_noise_is_uniform_at_first(spec):
    with seeded(0):
        dequantiser = Dequantiser(spec, 8, 1).double()
    x = torch.zeros(500, *spec.shape).double()
    y, entropy = dequantiser(x, SampleRng(0))
    assert entropy.abs().max() < 1e-10
    noise = SampleRng(0).randn_like(x)
    level = 2 / (spec.levels - 1)
    torch.testing.assert_close(y, level * (torch.special.ndtr(noise) - 0.5))  # in its place
    assert y.abs().max() < level / 2 and abs(y.mean()) < 0.05 * level
    assert y.std().item() == pytest.approx(level / math.sqrt(12), rel=0.05)


class Given(SampleRng):
    """Draws these numbers."""

    def __init__(self, noise):
        super().__init__(0)
        self.noise = noise

    def randn_like(self, x):
        return self.noise


@pytest.mark.parametrize("spec", [PAIR, DataSpec("image", (1, 2, 4), levels=5)])
def test_the_entropy_is_that_of_the_noise(spec):
    """-log q from the Jacobian of u by eps, and u hears of x."""
    with seeded(0):
        dequantiser = Dequantiser(spec, 8, 1).double()
        for parameter in dequantiser.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    d, x = spec.dimensions, torch.rand(1, *spec.shape).double()
    noise = SampleRng(0).randn_like(x)

    def u(eps):
        return dequantiser(x, Given(eps.reshape(noise.shape)))[0].flatten() / dequantiser.level

    slope = torch.autograd.functional.jacobian(u, noise.flatten())
    log_q = -0.5 * noise.square().sum() - d / 2 * math.log(2 * math.pi) - torch.linalg.slogdet(slope)[1]
    torch.testing.assert_close(-dequantiser(x, SampleRng(0))[1][0], log_q, rtol=0, atol=1e-9)
    other = dequantiser(x + 1, SampleRng(0))[0] - 1
    assert not torch.allclose(other, dequantiser(x, SampleRng(0))[0]), "q hears of x"


def test_learned_noise_is_worth_it():
    """With the density held fixed, q alone closes most of the gap that uniform noise leaves."""
    model = built(size=0.0)
    truth = masses(model)
    optimizer = torch.optim.Adam(model.dequantiser.parameters(), 1e-2)

    def gap():
        return (truth - 2 * math.log(LEVEL) - draws_of(model, 300, 9).mean(0)).mean().item()

    uniform, rng = gap(), UpdateRng(torch.Generator().manual_seed(0))
    for _ in range(100):
        loss = model.loss(Batch(ALL.repeat(8, 1, 1, 1)), rng).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0 < gap() < 0.5 * uniform


def test_classes_have_one_bound_together():
    spec = DataSpec("image", (1, 1, 2), levels=3, condition=Condition("class", 2, frequencies=(0.7, 0.3)))
    model = built(spec=spec)
    each = [model.log_prob(ALL, condition=torch.full((9,), k), draws=1).value for k in range(2)]
    expected = torch.logaddexp(each[0] + math.log(0.7), each[1] + math.log(0.3))  # with the same noise
    torch.testing.assert_close(model.log_prob(ALL, draws=1).value, expected)


def test_what_it_says_of_itself():
    assert Flow(PAIR, form="autoregressive").dequantise and not Flow(PAIR, form="autoregressive").mass
    assert built().mass and not built().dequantise
    with pytest.raises(UserError, match="holds point data: take dequantisation='uniform'"):
        Flow(DataSpec("point", (2,)), dequantisation="variational")
    with pytest.raises(UserError, match="draws = 0"):
        built().log_prob(ALL, draws=0)


class Even(Bijection):
    """[-1 - w/2, 1 + w/2] -> N(0, I): the flow of a uniform law, w a level."""

    def __init__(self, half: float):
        super().__init__()
        self.half = half

    def forward(self, x, context=None):
        x = x.flatten(1).double()
        z = torch.special.ndtri((x / self.half + 1) / 2)
        log_det = (0.5 * z.square() + 0.5 * math.log(2 * math.pi) - math.log(2 * self.half)).sum(1)
        return z, log_det + no_change(x)


class Masses(torch.nn.Module):
    """Each level alike, as a model of masses says it."""

    mass = True

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def log_prob(self, x, *, condition=None):
        level = 2 / (self.spec.levels - 1)
        nats = -self.spec.dimensions * (math.log(self.spec.levels) + math.log(level))
        return LogProb(torch.full((len(x),), nats, dtype=torch.float64), "exact")


@pytest.mark.parametrize("how", ["uniform", "variational", "mass"])
def test_a_uniform_guess_among_256_levels_costs_8_bits(how):
    spec = DataSpec("image", (1, 4, 4), levels=256)
    if how == "mass":
        model = Masses(spec)
    else:
        model = Flow(spec, steps=1, width=8, dequantisation=how).eval()
        model.bijection = Even(1 + 1 / 255)
    run = Run(model, spec, Path("."), {"model": {"name": how}})
    x = torch.randint(256, (64, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = {measure.name: measure for measure in likelihood_measures(run, spec, (x, None), (x, None), 0)}
    bits = found["bits per dimension"]
    assert bits.value == pytest.approx(8, abs=2e-4)  # single precision
    assert bits.kind == ("exact" if how == "mass" else "bound")
