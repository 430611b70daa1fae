"""What the best critic of a GAN knows: 2 JS - log 4 at D = p / (p + q); W_1 at Kantorovich and Rubinstein's potential."""

import math

import pytest
import torch
import torch.nn.functional as F

from pushforward.distributions.divergences import jensen_shannon, variational_bound
from pushforward.distributions.transport import kantorovich_rubinstein, transport_plan


def pair(k: int = 8) -> torch.Tensor:
    u = torch.rand(2, k, generator=torch.Generator().manual_seed(7), dtype=torch.float64) + 0.01
    return u / u.sum(1, keepdim=True)


def value(p, q, d):
    """E_p log D + E_q log(1 - D)."""
    return float((p * d.log()).sum() + (q * torch.log1p(-d)).sum())


def test_the_best_discriminator_is_p_over_p_plus_q_and_its_value_two_js_minus_log_four():
    p, q = pair()
    best = p / (p + q)
    identity = 2 * float(jensen_shannon(p, q)) - math.log(4)
    assert value(p, q, best) == pytest.approx(identity, rel=1e-12)
    generator = torch.Generator().manual_seed(0)
    for size in (0.01, 0.1, 1.0):
        for _ in range(20):
            other = torch.sigmoid(torch.logit(best) + size * torch.randn(8, generator=generator, dtype=torch.float64))
            assert value(p, q, other) < identity
    # as a row of the f-GAN table: T = log D, from logits
    t = F.logsigmoid(torch.log(p) - torch.log(q))
    assert float(variational_bound("gan", t, t, p, q)) == pytest.approx(identity, rel=1e-12)


def test_climbing_the_bound_finds_the_best_discriminator():
    p, q = pair()
    logits = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    ascent = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        ascent.zero_grad()
        loss = (p * F.softplus(-logits)).sum() + (q * F.softplus(logits)).sum()
        loss.backward()
        return loss

    ascent.step(closure)
    torch.testing.assert_close(torch.sigmoid(logits).detach(), p / (p + q), rtol=1e-5, atol=1e-6)


def test_kantorovich_and_rubinstein_agree_and_the_plan_runs_along_the_potentials_steepest_lines():
    """Complementary slackness: where the plan moves mass from i to j, f_i - f_j is exactly their distance."""
    p, q = pair()
    places = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    distances = torch.cdist(places, places)
    plan, primal = transport_plan(distances, p, q)
    dual, f = kantorovich_rubinstein(distances, p, q)
    assert float(dual) == pytest.approx(float(primal), rel=1e-9)
    gap = distances - (f[:, None] - f)
    assert float(gap.min()) > -1e-9 and float(gap[plan > 1e-9].abs().max()) < 1e-9
