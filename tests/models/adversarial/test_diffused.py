"""Diffusion-GAN's piece: what it does to the critic's input, and when it does more of it."""

import math

import pytest
import torch

from pushforward.errors import UserError
from pushforward.models.adversarial.diffused import AdaptiveDiffusion
from pushforward.randomness import SampleRng, UpdateRng, seeded


def build(**settings) -> AdaptiveDiffusion:
    with seeded(0):
        return AdaptiveDiffusion(**settings)


def update_rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("t", [0.01, 0.2, 0.6, 1.0])
def test_diffused_data_have_the_variance_of_the_path(t):
    # alpha^2 var + (1 - alpha^2) d^2, with DDPM's product of 1 - beta, beta from 1e-4 to 2e-2 in 1000 steps.
    n, deviation = 200_000, 0.7
    module = build(deviation=deviation)
    x = 2 + 0.5 * SampleRng(1).randn(n, 1)
    y = module.diffuse(x, torch.full((n,), t), SampleRng(2))
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    kept = (1 - beta).cumprod(0)[round(t * 1000) - 1]
    # A variance of 0.5 has a standard error of 0.0016 here; the product differs from exp(-integral) by less than 0.002.
    assert y.var().item() == pytest.approx((kept * 0.25 + (1 - kept) * deviation**2).item(), abs=0.006)
    assert y.mean().item() == pytest.approx(2 * kept.sqrt().item(), abs=0.01)
    slope = torch.cov(torch.cat([x, y], 1).T)
    assert (slope[0, 1] / slope[0, 0]).item() == pytest.approx(kept.sqrt().item(), abs=0.02)


def test_at_time_0_nothing_is_done():
    x = SampleRng(0).randn(5, 3, 4, 4)
    assert torch.equal(build().diffuse(x, torch.zeros(5), SampleRng(1)), x)
    half = build().diffuse(x.bfloat16(), torch.full((5,), 0.5), SampleRng(1))
    assert half.dtype == torch.bfloat16


def test_rows_are_diffused_to_their_own_time():
    x, t = torch.ones(4, 4), torch.tensor([0.0, 0.3, 0.0, 1.0])
    y = build().diffuse(x, t, SampleRng(1))
    assert torch.equal(y[[0, 2]], x[[0, 2]])
    # exp(-0.25 19.9 t^2 - 0.05 t) of the datum is left, beside noise of deviation 0.05: within 5 of these
    torch.testing.assert_close(y[1], torch.full((4,), math.exp(-0.25 * 19.9 * 0.09 - 0.015)), rtol=0, atol=0.25)
    torch.testing.assert_close(y[3], torch.full((4,), 0.0066), rtol=0, atol=0.25)
    assert y[3].std() > 0.005


def test_the_gradient_passes_to_the_generator_times_alpha():
    x, t = SampleRng(0).randn(3, 2).requires_grad_(), torch.tensor([0.0, 0.4, 1.0])
    (build().diffuse(x, t, SampleRng(1)) * torch.tensor([1.0, -2.0])).sum().backward()
    alpha = torch.exp(-0.25 * 19.9 * t**2 - 0.05 * t)
    torch.testing.assert_close(x.grad, alpha[:, None] * torch.tensor([1.0, -2.0]))


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_half_of_the_times_are_0_and_the_others_are_mostly_the_new_ones(p):
    module = build(smallest=0.1, largest=0.9)
    module.share.p.fill_(p)
    n, reach = 100_000, 0.1 + 0.8 * p
    assert module.reach.item() == pytest.approx(reach)
    t = module.draw(n, update_rng())
    diffused = t[t > 0]
    # standard errors are below 0.002
    assert len(diffused) / n == pytest.approx(0.5, abs=0.01)
    assert diffused.max().item() == pytest.approx(reach, rel=1e-3) and t.min() == 0
    # P(t < u T) = u^2
    for u in (0.25, 0.5, 0.9):
        assert (diffused < u * reach).float().mean().item() == pytest.approx(u**2, abs=0.01)


def test_times_of_a_row_do_not_depend_on_the_reach():
    module = build()
    before = module.draw(100, SampleRng(3)), SampleRng(3)
    module.share.p.fill_(1.0)
    rng = SampleRng(3)
    torch.testing.assert_close(module.draw(100, rng), before[0] / 0.01)
    before[1].rand(100), before[1].rand(100)
    assert torch.equal(rng.rand(5), before[1].rand(5))  # as much was drawn


def test_the_reach_rises_under_a_sure_critic_and_falls_under_one_at_a_loss():
    module = build(images=10_000)
    reached = [module.reach.item()]
    for _ in range(12):
        module.after_update(torch.full((500,), 3.0))
        reached.append(module.reach.item())
    # 500 of 10,000 data a time: steps of 0.05 of the way from 0.01 to 1
    assert reached == pytest.approx([0.01 + 0.99 * 0.05 * k for k in range(13)], abs=1e-5)
    for _ in range(30):
        module.after_update(torch.tensor([1.0, -1.0]).repeat(250))  # r = 0 < 0.6
        reached.append(module.reach.item())
    falling = torch.tensor(reached[12:])
    assert (falling.diff() <= 0).all() and falling[1] < falling[0]
    assert falling[-1].item() == pytest.approx(0.01)
    for _ in range(50):
        module.after_update(torch.full((500,), 3.0))
    assert module.reach.item() == pytest.approx(1.0)


def test_the_boundary_and_the_target_decide_what_sure_is():
    outputs = torch.tensor([0.7] * 9 + [0.2]).repeat(100)  # 9 of 10 above 0.5: r = 0.8; all above 0: r = 1
    for settings, sign in (
        ({"boundary": 0.5, "target": 0.7}, 1),
        ({"boundary": 0.5, "target": 0.9}, -1),
        ({"boundary": 0.0, "target": 0.9}, 1),
    ):
        module = build(images=10_000, **settings)
        module.share.p.fill_(0.5)
        module.after_update(outputs)
        assert module.share.p.item() == pytest.approx(0.5 + sign * 0.1), settings


def test_only_an_update_changes_buffers():
    module = build()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    x = SampleRng(0).randn(300, 2)
    t = module.draw(300, SampleRng(1))
    module.diffuse(x, t, SampleRng(2))
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    module.after_update(torch.ones(300))
    assert not torch.equal(module.share.p, before["share.p"])
    other = build()
    other.load_state_dict(module.state_dict())
    assert other.reach == module.reach > 0.01


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"smallest": 0.0}, "T was to go from 0.0 to 1.0"),
        ({"smallest": 0.5, "largest": 0.4}, "T was to go from 0.5 to 0.4"),
        ({"largest": 1.2}, "at most 1"),
        ({"deviation": 0.0}, "deviation = 0.0"),
        ({"target": 1.0}, "target=1.0"),
        ({"images": 0}, "images"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(**settings)
