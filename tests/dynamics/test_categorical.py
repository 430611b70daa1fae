"""Processes of tokens: closed forms against products of matrices and Bayes' rule by brute force, and the reverse process of a
known law by enumerating all its states, without a draw."""

import itertools

import pytest
import torch
from dynamics.exact_tokens import LAW, L, V, exact_p0, joint, matrix, process, rate_bound, states_of, step_bound, times

from pushforward.dynamics.categorical import SCHEDULES, Process, find_schedule, uniform_law
from pushforward.errors import UserError

NAMES = ["uniform", "absorbing"]
EVERY = pytest.mark.parametrize("name", NAMES)
BOTH = pytest.mark.parametrize("schedule", sorted(SCHEDULES))


@BOTH
def test_schedules_fall_from_one_to_nothing_and_know_their_slope(schedule):
    t = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    alpha, slope = SCHEDULES[schedule](t)
    assert alpha[0] == 1 and alpha[-1] == 0
    torch.testing.assert_close(torch.autograd.grad(alpha.sum(), t)[0], slope.detach(), atol=1e-12, rtol=0)
    assert (alpha.diff() < 0).all()


@EVERY
@BOTH
def test_the_closed_form_is_the_product_of_one_step_matrices(name, schedule):
    made, product = process(name, schedule), torch.eye(V + (name == "absorbing"), dtype=torch.float64)
    grid = torch.linspace(0, 0.9, 10, dtype=torch.float64).tolist()
    for s, t in itertools.pairwise(grid):
        product = product @ matrix(made, s, t)
    x0 = torch.arange(V)[:, None].expand(-1, L)
    closed = made.marginal(made.known(x0, torch.float64), times(0.9, V)).exp()
    for place in range(L):
        torch.testing.assert_close(closed[:, place], product[:V], atol=1e-12, rtol=0)


@EVERY
def test_forgetting_draws_by_the_closed_form(name):
    made, n = process(name, "cosine"), 4_000
    x0, uniforms = torch.full((n, L), 2), (torch.arange(n, dtype=torch.float64)[:, None] + 0.5).expand(-1, L) / n
    x_t = made.forget(x0, times(0.4, n), uniforms)
    share = torch.bincount(x_t[:, 0], minlength=made.law.shape[1]).double() / n
    exact = made.marginal(made.known(x0[:1], torch.float64), times(0.4, 1)).exp()[0, 0]
    torch.testing.assert_close(share, exact, atol=2 / n, rtol=0)  # numbers evenly spaced: a rounding each


@EVERY
def test_posterior_is_bayes_rule(name):
    made, s, t = process(name), 0.3, 0.7
    to_s, on, to_t = matrix(made, 0.0, s), matrix(made, s, t), matrix(made, 0.0, t)
    for x0, x_t in itertools.product(range(V), range(made.law.shape[1])):
        if to_t[x0, x_t] == 0:
            continue
        exact = to_s[x0] * on[:, x_t] / to_t[x0, x_t]
        known = made.known(torch.full((1, L), x0), torch.float64)
        found = made.posterior(torch.full((1, L), x_t), known, times(t, 1), times(s, 1)).exp()
        torch.testing.assert_close(found[0, 0], exact, atol=1e-12, rtol=0)
        assert abs(float(found[0, 1].sum()) - 1) < 1e-12


@EVERY
def test_a_prediction_steps_back_by_the_mean_of_posteriors(name):
    """p(x_s | x_t) = sum_k q(x_s | x_t, k) p(k | x_t), and `denoised` is p(k | x_t)."""
    made, s, t = process(name, "cosine"), 0.2, 0.6
    x_t = states_of(made)
    log_p0 = exact_p0(made, x_t, t)
    given = made.denoised(x_t, log_p0, times(t, len(x_t))).exp()
    q = matrix(made, 0.0, t)
    direct = torch.einsum("ab,ai,bj->ijab", joint(made), q, q)  # p(x0, x_t)
    direct = (direct / direct.sum((2, 3), keepdim=True)).flatten(0, 1)
    torch.testing.assert_close(given, torch.stack([direct.sum(2), direct.sum(1)], 1), atol=1e-12, rtol=0)
    mean = torch.zeros_like(given)
    for k in range(V):
        known = made.known(torch.full_like(x_t, k), torch.float64)
        each = made.posterior(x_t, known, times(t, len(x_t)), times(s, len(x_t))).exp()
        weight = given[..., k : k + 1]
        mean += torch.where(weight > 0, each * weight, 0)
    found = made.posterior(x_t, log_p0, times(t, len(x_t)), times(s, len(x_t))).exp()
    torch.testing.assert_close(found, mean, atol=1e-12, rtol=0)


def recovered(made, steps):
    """The law that ancestral steps end in, by products of transition matrices over all states of both places."""
    x = states_of(made)
    at_end = made.law[0][x[:, 0]] * made.law[1][x[:, 1]]
    for k in range(steps, 0, -1):
        t, s = times(k / steps, len(x)), times((k - 1) / steps, len(x))
        log_p = made.posterior(x, exact_p0(made, x, k / steps), t, s)
        at_end = (at_end[:, None, None] * log_p[:, 0, :, None].exp() * log_p[:, 1, None, :].exp()).sum(0).flatten()
    return at_end.view(made.law.shape[1], -1)


@EVERY
def test_the_reverse_process_ends_in_the_law(name):
    made = process(name)
    far = [0.5 * float((recovered(made, steps) - joint(made)).abs().sum()) for steps in (1, 40, 80, 160)]
    assert far[0] > 0.2  # one step takes the places as independent
    assert far[3] < 0.005
    for coarse, fine in itertools.pairwise(far[1:]):
        assert 1.85 < coarse / fine < 2.15  # order 1: the places move at once


@EVERY
def test_the_bound_in_steps_is_above_and_becomes_tight(name):
    exact, made = -LAW.log(), process(name)
    gaps = []
    for steps in (1, 10, 20, 40):
        gap = step_bound(made, steps) - exact
        assert float((LAW * gap).sum()) > 0
        gaps.append(float((LAW * gap).sum()))
    assert gaps[0] > 0.3 and gaps[3] < 0.02
    for coarse, fine in itertools.pairwise(gaps[1:]):
        assert 1.7 < coarse / fine < 2.3


@EVERY
def test_one_step_bounds_the_law_that_it_samples(name):
    """With one step the bound is -log of the product of what is predicted from nothing."""
    made = process(name)
    torch.testing.assert_close(step_bound(made, 1), -recovered(made, 1)[:V, :V].log(), atol=1e-10, rtol=0)


@EVERY
@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine-squared"])
def test_the_bound_in_continuous_time_is_tight_whatever_the_schedule(name, schedule):
    torch.testing.assert_close(rate_bound(process(name, schedule)), -LAW.log(), atol=2e-4, rtol=0)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine-squared"])
def test_the_absorbing_bound_is_the_mean_over_orders(schedule):
    """Of a network that is wrong: 1/2 over both orders of the chain rule, whatever the schedule; a half where one is masked."""
    made = process("absorbing", schedule)
    generator = torch.Generator().manual_seed(3)
    wrong = torch.randn(V + 1, V + 1, L, V, generator=generator, dtype=torch.float64).log_softmax(-1)
    wrong = torch.nn.functional.pad(wrong, (0, 1), value=-1e9)
    a, b = torch.arange(V)[:, None], torch.arange(V)
    first = wrong[V, V, 0, a] + wrong[a, V, 1, b]
    second = wrong[V, V, 1, b] + wrong[V, b, 0, a]
    torch.testing.assert_close(rate_bound(made, p0=wrong), -(first + second) / 2, atol=1e-6, rtol=0)


@EVERY
def test_rates_are_the_limit_of_steps(name):
    made, t, h = process(name, "cosine"), 0.5, 1e-6
    x_t = states_of(made)
    log_p0, at = exact_p0(made, x_t, t), times(t, len(x_t))
    step = made.posterior(x_t, log_p0, at, at - h).exp()
    step = step.scatter(-1, x_t[..., None], 0.0)
    torch.testing.assert_close(made.rates(x_t, log_p0, at), step / h, atol=1e-4, rtol=1e-4)
    assert (made.rates(x_t, log_p0, at) >= 0).all()


def test_the_absorbing_rate_is_the_cross_entropy_of_what_is_masked():
    made = process("absorbing", "cosine")
    x_t, x0 = torch.tensor([[4, 2]]), torch.tensor([[1, 2]])
    log_p0 = torch.nn.functional.pad(torch.randn(1, L, V, dtype=torch.float64).log_softmax(-1), (0, 1), value=-1e9)
    alpha, slope = made.schedule(torch.tensor(0.3, dtype=torch.float64))
    exact = torch.stack([-slope / (1 - alpha) * -log_p0[0, 0, 1], torch.zeros((), dtype=torch.float64)])
    torch.testing.assert_close(made.rate_bound(x0, x_t, log_p0, times(0.3, 1))[0], exact)


@EVERY
def test_gradients_are_finite_where_predictions_are_extreme(name):
    made = Process(process(name).law.float(), SCHEDULES["linear"])
    logits = (60 * torch.randn(64, L, V, generator=torch.Generator().manual_seed(1))).requires_grad_()
    x0 = torch.randint(V, (64, L), generator=torch.Generator().manual_seed(2))
    t = torch.linspace(1e-5, 1 - 1e-5, 64)
    x_t = made.forget(x0, t, torch.rand(64, L, generator=torch.Generator().manual_seed(3)))
    log_p0 = torch.nn.functional.pad(logits.log_softmax(-1), (0, made.law.shape[1] - V), value=-1e9)
    loss = made.rate_bound(x0, x_t, log_p0, t).sum() + made.step_bound(x0, x_t, log_p0, t, 0.5 * t).sum()
    loss = loss + made.step_bound(x0, x_t, log_p0, t, 0 * t).sum()
    assert loss.isfinite()
    loss.backward()
    assert logits.grad.isfinite().all()


def test_places_with_fewer_tokens_never_hold_others():
    possible = torch.tensor([[True, True, False, False], [True] * 4])
    made = Process(uniform_law(possible).double(), SCHEDULES["linear"])
    x = made.forget(torch.zeros(500, 2, dtype=torch.long), times(1.0, 500), torch.rand(500, 2, dtype=torch.float64))
    assert x[:, 0].max() == 1 and x[:, 1].max() == 3


def test_unknown_schedules_are_named():
    with pytest.raises(UserError, match="did you mean cosine"):
        find_schedule("cosin")
