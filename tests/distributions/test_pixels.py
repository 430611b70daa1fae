"""Laws of a pixel: masses that sum to one and are what they are called, and levels drawn by them."""

import itertools
import math

import pytest
import torch
from scipy.special import expit, log_softmax

from pushforward.distributions.pixels import Bernoulli, Categorical, LogisticMixture
from pushforward.errors import UserError

LAWS = [
    Bernoulli(1),
    Bernoulli(3),
    Categorical(1, 5),
    Categorical(2, 4),
    LogisticMixture(1, 5, mixtures=3),
    LogisticMixture(2, 4, mixtures=3),
    LogisticMixture(3, 3, mixtures=2),
]


def everything(law):
    """All levels of one pixel: (L^C, C, 1, 1)."""
    return torch.tensor(list(itertools.product(range(law.levels), repeat=law.channels)))[:, :, None, None]


def outputs(law, rows, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(1, law.groups * law.outputs, 1, 1, generator=generator).double().expand(rows, -1, -1, -1)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_masses_sum_to_one(law):
    x = everything(law)
    mass = law.log_mass(outputs(law, len(x), 2.0), x).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-12) and mass.std() > 1e-3


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_an_image_is_the_product_of_its_pixels(law):
    said = torch.randn(2, law.groups * law.outputs, 2, 3).double()
    x = torch.randint(law.levels, (2, law.channels, 2, 3))
    each = sum(
        law.log_mass(said[:, :, r : r + 1, c : c + 1], x[:, :, r : r + 1, c : c + 1]) for r in range(2) for c in range(3)
    )
    torch.testing.assert_close(law.log_mass(said, x), each, rtol=1e-12, atol=0)


def test_the_mixture_is_differences_of_cdfs():
    """Numbers as the paper has them, in numpy: alpha of R in G, beta of R and gamma of G in B."""
    law, m, levels = LogisticMixture(3, 6, mixtures=2), 2, 6
    said = 1.5 * torch.randn(1, law.outputs, generator=torch.Generator().manual_seed(3)).double()
    logits, means, scales, couplings = (part[0].numpy() for part in said.split([m, 3 * m, 3 * m, 3 * m], 1))
    x, width = everything(law), 2 / (levels - 1)
    _, log_scales = law.component.location_and_log_scale(torch.tensor(scales).repeat(2, 1).T[None].transpose(1, 2))
    log_scales = log_scales[0].numpy().reshape(m, 3)
    found = law.log_mass(said[:, :, None, None].expand(len(x), -1, -1, -1), x).exp()
    for levels_of, value in zip(x[:, :, 0, 0].tolist(), found.tolist(), strict=True):
        r, g, b = (level * width - 1 for level in levels_of)
        total = 0.0
        for k in range(m):
            alpha, beta, gamma = torch.tensor(couplings[3 * k : 3 * k + 3]).tanh().tolist()
            mu = means[3 * k : 3 * k + 3]
            part = float(torch.tensor(log_softmax(logits)[k]).exp())
            for c, (value_of, mean) in enumerate(((r, mu[0]), (g, mu[1] + alpha * r), (b, mu[2] + beta * r + gamma * g))):
                s = float(torch.tensor(log_scales[k, c]).exp())
                upper = 1.0 if levels_of[c] == levels - 1 else expit((value_of + width / 2 - mean) / s)
                lower = 0.0 if levels_of[c] == 0 else expit((value_of - width / 2 - mean) / s)
                part *= upper - lower
            total += part
        assert value == pytest.approx(total, rel=1e-9, abs=1e-14)


def test_gradients_are_finite_at_extreme_outputs():
    for law in LAWS:
        for size in (1e2, 1e4):
            said = (outputs(law, 1, size).float()).clone().requires_grad_()
            value = law.log_mass(said, torch.full((1, law.channels, 1, 1), law.levels - 1))
            (slope,) = torch.autograd.grad(value.sum(), said)
            assert value.isfinite().all() and slope.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("law", LAWS[:4], ids=str)
def test_levels_are_drawn_by_their_masses(law, temperature):
    """Uniform numbers on a fine even grid: each level has its share of them, to one of the grid's steps."""
    steps, said = 4000, outputs(law, 1)[:, :, 0, 0]
    grid = ((torch.arange(steps) + 0.5) / steps)[:, None]
    for channel in range(law.channels):
        part = said[:, channel * law.outputs : (channel + 1) * law.outputs]
        drawn = law.draw(channel, part.expand(steps, -1), torch.zeros(steps, law.channels).long(), grid, temperature)
        logits = torch.cat([torch.zeros(1, 1).double(), part], 1) if isinstance(law, Bernoulli) else part
        share = drawn.bincount(minlength=law.levels) / steps
        torch.testing.assert_close(share.double(), (logits / temperature).softmax(1)[0], rtol=0, atol=1.5 / steps)


@pytest.mark.parametrize("law", LAWS[4:], ids=str)
def test_logistic_levels_are_drawn_by_their_masses(law):
    """Channel by channel, each given those before; total variation of 40,000 draws from L^C <= 27 cells, whose mean is at most
    sqrt(27 / (2 pi 40,000)) = 0.0104, and which exceeds it by 0.01 with probability exp(-2 * 40,000 * 0.0001) < 0.001."""
    n, said = 40_000, outputs(law, 1, 1.5, seed=1)[:, :, 0, 0]
    uniforms = torch.rand(n, law.channels, law.draws, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(n, law.channels, dtype=torch.long)
    for channel in range(law.channels):
        x[:, channel] = law.draw(channel, said.expand(n, -1), x, uniforms[:, channel])
    cells = everything(law)
    expected = law.log_mass(said[:, :, None, None].expand(len(cells), -1, -1, -1), cells).exp()
    index = (x * law.levels ** torch.arange(law.channels - 1, -1, -1)).sum(1)
    share = index.bincount(minlength=len(cells)) / n
    assert 0.5 * (share - expected).abs().sum() < 0.0204


def test_the_temperature_of_logistics():
    """One component: the scale is multiplied, so that quantiles move away from the mean in proportion."""
    law = LogisticMixture(1, 20_001, mixtures=1)
    said = torch.tensor([[0.0, 0.1, -1.0]]).double()
    for quantile in (0.3, 0.8):
        uniforms, zero = torch.tensor([[0.5, quantile]]).double(), torch.zeros(1, 1).long()
        warm, cold = (law.draw(0, said, zero, uniforms, t).item() * law.component.width - 1 for t in (1.0, 0.5))
        assert (warm - 0.1) == pytest.approx(2 * (cold - 0.1), abs=3e-4)  # levels are 1e-4 wide
        assert (warm > 0.1) == (quantile > 0.5)


def test_bad_settings():
    with pytest.raises(UserError, match="3 or more"):
        LogisticMixture(1, 2)
    with pytest.raises(UserError, match="1 component"):
        LogisticMixture(1, 8, mixtures=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_temperature_sharpens_the_choice_of_components(temperature):
    """Two narrow components far apart: shares go as 0.7^(1/T) and 0.3^(1/T). 20,000 draws: within 4 errors of 0.35 %."""
    law = LogisticMixture(1, 256, 2)
    outputs = torch.tensor([[math.log(0.7), math.log(0.3), -0.8, 0.8, -4.0, -4.0]]).expand(20_000, -1)
    uniforms = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0))
    drawn = law.draw(0, outputs, torch.zeros(20_000, 1, dtype=torch.long), uniforms, temperature)
    low, high = 0.7 ** (1 / temperature), 0.3 ** (1 / temperature)
    assert abs((drawn < 128).float().mean().item() - low / (low + high)) < 0.014
