"""Penalties: their value and their gradient on critics whose slope is known."""

import pytest
import torch
from torch import nn

from pushforward.errors import UserError
from pushforward.models.adversarial.penalties import (
    PENALTIES,
    between,
    dragan,
    gradient_penalty,
    r1,
    r2,
    regulariser,
    squared_slope,
)
from pushforward.randomness import SampleRng

REAL = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
FAKE = torch.tensor([[0.0, 2.0], [6.0, 8.0]])


def bowl(x):
    """l(x) = |x|^2 / 2, whose slope is x."""
    return 0.5 * x.square().flatten(1).sum(1)


def linear(slope: float):
    """l(x) = slope times the mean coordinate times sqrt(dimensions): |grad l| = slope everywhere."""
    return lambda x: slope * x.flatten(1).sum(1) / x[0].numel() ** 0.5


def test_r1_is_half_the_mean_squared_slope_at_real_data():
    # The slope of the bowl is x: the penalty is half the mean of |x|^2 over the batch, whatever the fakes are.
    assert r1(bowl, REAL, REAL + 100, SampleRng(0)).item() == (25 + 1) / 4


def test_r2_is_the_same_at_fakes():
    assert r2(bowl, REAL, FAKE, SampleRng(0)).item() == (4 + 100) / 4


# Of a critic with slope s everywhere: the place does not matter, and every penalty is a function of s.
SLOPES = {
    "r1": lambda s: s**2 / 2,
    "r2": lambda s: s**2 / 2,
    "gradient-penalty": lambda s: (s - 1) ** 2,
    "one-sided-penalty": lambda s: max(s - 1, 0) ** 2,
    "zero-centred": lambda s: s**2,
    "dragan": lambda s: (s - 1) ** 2,
}


@pytest.mark.parametrize("slope", [0.0, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (1, 2)])
def test_a_linear_critic_has_the_penalty_of_its_slope(name, slope, shape):
    real, fake = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).unbind()
    value = PENALTIES[name](linear(slope), real, fake, SampleRng(1)).item()
    assert value == pytest.approx(SLOPES[name](slope), abs=1e-5)


def test_places_between_lie_on_the_lines_one_share_a_row():
    rng = SampleRng(4)
    share = SampleRng(4).rand(2)
    torch.testing.assert_close(between(REAL, FAKE, rng), share[:, None] * REAL + (1 - share[:, None]) * FAKE)
    assert between(torch.zeros(5, 3, 4, 4), torch.ones(5, 3, 4, 4), SampleRng(0)).flatten(1).std(1).max() == 0


@pytest.mark.parametrize("name", ["gradient-penalty", "one-sided-penalty", "zero-centred"])
def test_slopes_are_taken_between_data_and_fakes(name):
    lengths = between(REAL, FAKE, SampleRng(4)).norm(dim=1)  # the slope of the bowl
    expected = {
        "gradient-penalty": (lengths - 1).square(),
        "one-sided-penalty": (lengths - 1).clamp(min=0).square(),
        "zero-centred": lengths.square(),
    }[name].mean()
    torch.testing.assert_close(PENALTIES[name](bowl, REAL, FAKE, SampleRng(4)), expected)


def test_dragan_looks_around_the_data():
    # l = |x|^2 / 2 at x + half a deviation of noise, whatever the fakes are.
    near = REAL + 0.5 * REAL.std(correction=0) * SampleRng(4).randn(2, 2)
    expected = (near.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(dragan(bowl, REAL, FAKE + 50, SampleRng(4)), expected)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_reaches_the_critic_and_not_the_data(name):
    # For l(x) = w x of slope |w|: d/dw of |w|^2 / 2 is w, of (|w| - 1)^2 it is 2 (|w| - 1) w / |w|.
    critic, real = nn.Linear(4, 1), torch.randn(8, 4)
    with torch.no_grad():
        w = critic.weight.mul_(2 / critic.weight.norm()).clone()
    PENALTIES[name](critic, real, torch.randn(8, 4), SampleRng(0)).backward()
    factor = {"r1": 1.0, "r2": 1.0, "zero-centred": 2.0}.get(name, 1.0)  # 2 (2 - 1) / 2 = 1
    torch.testing.assert_close(critic.weight.grad, factor * w)
    assert critic.bias.grad is None or critic.bias.grad.abs().max() == 0
    assert real.grad is None and not real.requires_grad


@pytest.mark.parametrize("name", PENALTIES)
def test_a_critic_without_slope_has_a_finite_gradient(name):
    # |grad l| has a corner at 0, where a critic of zero weights is.
    critic = nn.Linear(4, 1)
    nn.init.zeros_(critic.weight)
    PENALTIES[name](critic, torch.randn(8, 4), torch.randn(8, 4), SampleRng(0)).backward()
    assert critic.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", PENALTIES)
def test_mixed_precision(name):
    # Fakes of a generator under autocast are bfloat16 (three digits), data are float32.
    values = [PENALTIES[name](bowl, REAL, FAKE.to(kind), SampleRng(0)) for kind in (torch.float32, torch.bfloat16)]
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(*values, rtol=1e-2, atol=0)


def test_the_penalised_wasserstein_critic_is_as_steep_as_theory_says():
    # Between N(0, I) and N(d, I), W1 = |d|. Of linear critics of slope s in the direction of d, -s |d| + w (s - 1)^2 is least
    # at s = 1 + |d| / (2 w): 10 % too steep at |d| = 2 and weight 10.
    critic = nn.Linear(2, 1, bias=False)
    draws = SampleRng(0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    real = draws.randn(4096, 2)
    real = real - real.mean(0)
    fake = real + torch.tensor([0.0, -2.0])
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        (critic(fake).mean() - critic(real).mean() + 10 * gradient_penalty(critic, real, fake, draws)).backward()
        optimizer.step()
    torch.testing.assert_close(critic.weight.detach(), torch.tensor([[0.0, 1.1]]), atol=2e-3, rtol=0)


def test_settings_become_penalties():
    lazy = {"gradient-penalty": {"weight": 10.0, "every": 4.0}}
    found = regulariser({"r1": 0.5, **lazy, "r2": 0.0}).penalties
    assert [(p.name, p.weight, p.every) for p in found] == [("r1", 0.5, 1), ("gradient-penalty", 10.0, 4)]
    assert not regulariser({}) and not regulariser("none") and regulariser("none").penalties == ()
    both = regulariser(["spectral", "r1"])
    assert both.spectral and both.clip is None and [p.name for p in both.penalties] == ["r1"]
    assert both.alone == ["spectral"] and regulariser("r1").alone == [] and regulariser(["r2", "r1"]).alone == ["r2"]
    assert regulariser({"clipping": 0.03}).clip == 0.03


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ("gradient", "there is no regulariser 'gradient'; did you mean gradient-penalty"),
        ({"r1": -1.0}, "give a number >= 0"),
        ({"r1": float("nan")}, "give a number >= 0"),
        ({"r1": {"every": 4}}, "give a weight, or"),
        ({"r1": {"weight": 1, "evry": 4}}, "give a weight, or"),
        ({"r1": {"weight": 1, "every": 0}}, "at least 1"),
        ({"r1": {"weight": 1, "every": 1.5}}, "at least 1"),
        ({"clipping": 0.0}, "leaves the critic nothing"),
        ({"spectral": 2.0}, "has no strength"),
        (["spectral", "clipping"], "take one"),
        (["none", "r1"], "leave it or them away"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        regulariser(settings)


def test_a_critic_without_a_gradient_is_named():
    with pytest.raises(UserError, match="have no gradient by x"):
        squared_slope(lambda x: x.detach().sum(1), torch.ones(2, 3))
