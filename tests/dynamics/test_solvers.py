"""Solvers on Gaussian data, where every marginal and every flow is known in closed form."""

import math

import pytest
import torch
from dynamics.exact_gaussian import exact, marginal

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.ode import Euler, integrate
from pushforward.dynamics.paths import PATHS, VariancePreserving
from pushforward.dynamics.solvers import (
    DDIM,
    SOLVERS,
    DPMSolverPP2M,
    EulerMaruyama,
    carry,
    find_solver,
    generate,
    rising_noise,
    time_grid,
)
from pushforward.dynamics.targets import TARGETS
from pushforward.errors import UserError
from pushforward.randomness import Rng, SampleRng

DETERMINISTIC = ["euler", "heun", "rk4", "ddim", "dpm++2m"]
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
MEAN = 0.7


class Pulse(Rng):
    """Row i is given 1 at draw i and 0 else: with a linear solver its end is the weight of that draw."""

    def __init__(self):
        self.device, self.draws = torch.device("cpu"), 0

    def randn(self, *shape, dtype=torch.float32):
        z = torch.zeros(shape, dtype=dtype)
        z[self.draws] = 1
        self.draws += 1
        return z

    def rand(self, *shape, dtype=torch.float32):
        raise NotImplementedError

    def shared(self, *shape):
        raise NotImplementedError


def law(denoiser, times, solver, variance):
    """The exact variance (a float) of what a random solver makes of N(0, variance): no draws are needed where all is linear."""
    rows = torch.zeros(len(times) + 1, 1, dtype=torch.float64)
    rows[-1] = 1  # its draws are 0
    weights = carry(denoiser, rows, times, solver, rng=Pulse())
    return float((weights[:-1] ** 2).sum() + variance * weights[-1] ** 2)


@paths
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SOLVERS)
def test_the_law_is_right_for_every_path_target_and_solver(path, target, name):
    """float32, the whole way to t = 0: every row finite, mean and variance right."""
    denoiser, n = exact(path, target, MEAN), 2000
    noise = torch.special.ndtri((torch.arange(n) + 0.5) / n)[:, None]  # its mean is 0 and its variance 1 within 2e-3
    steps = {"dopri5": 1, "rk4": 12, "heun": 20, "dpm++2m": 30}.get(name, 60)
    x = generate(denoiser, noise, time_grid(denoiser.span, steps, "quadratic"), name, rng=SampleRng(0))
    assert x.isfinite().all()
    # Deterministic: what 60 steps of order 1 leave, and sigma at t_min (0.01 at most). At random: 5 standard errors on top.
    drawn = 0.0 if find_solver(name) not in (DDIM(1.0), EulerMaruyama()) else 5 / math.sqrt(n)
    assert abs(x.mean() - MEAN) < 0.02 + 0.5 * drawn
    assert abs(x.var() / 0.25 - 1) < 0.06 + math.sqrt(2) * drawn


@paths
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_deterministic_solvers(path, name):
    variances = torch.tensor([0.05, 0.25, 2.0], dtype=torch.float64)  # several: the error of one may cross 0
    denoiser = exact(path, "v", MEAN, variances)
    x = torch.tensor([[-1.0, 0.4, 2.0]], dtype=torch.float64)
    (m, v), (m_end, v_end) = marginal(path, 0.9, MEAN, variances), marginal(path, 0.1, MEAN, variances)
    truth = m_end + (v_end / v).sqrt() * (x - m)
    errors = []
    for steps in (16, 32, 64) if name == "rk4" else (32, 64, 128):
        got = carry(denoiser, x, torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64), name)
        errors.append((got - truth).norm())
    order = SOLVERS[name].order
    assert abs(math.log2(errors[1] / errors[2]) - order) < 0.2, errors  # the next term of the error is O(h) relative
    assert math.log2(errors[0] / errors[1]) > order - 0.4


@paths
@pytest.mark.parametrize(
    "solver",
    [
        DDIM(eta=1.0),
        DDIM(eta=0.5),
        EulerMaruyama(),
        EulerMaruyama(lambda path, t: torch.full_like(t, 0.7)),
        EulerMaruyama(lambda path, t: 2 * rising_noise(path, t)),
    ],
    ids=["ancestral", "eta 0.5", "rising", "constant", "twice"],
)
def test_order_and_law_of_random_solvers(path, solver):
    """Any diffusion coefficient, and any eta, keep the marginals: the variance converges to theirs, with the order declared."""
    denoiser = exact(path, "v")
    (_, v), (_, truth) = marginal(path, 0.9), marginal(path, 0.1)
    errors = [
        law(denoiser, torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64), solver, float(v)) / float(truth) - 1
        for steps in (60, 120, 240)
    ]
    assert abs(errors[-1]) < 0.03
    assert abs(math.log2(errors[1] / errors[2]) - solver.order) < 0.15, errors


def test_no_diffusion_is_the_ode():
    denoiser, times = exact(PATHS["linear"], "velocity"), torch.linspace(0.9, 0.1, 9, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64)
    still = EulerMaruyama(lambda path, t: torch.zeros_like(t))
    torch.testing.assert_close(carry(denoiser, x, times, still, rng=SampleRng(0)), carry(denoiser, x, times, "euler"))


def test_any_diffusion_has_the_right_mean():
    denoiser, times = exact(PATHS["cosine"], "noise", MEAN), torch.linspace(0.9, 0.1, 201, dtype=torch.float64)
    start, end = marginal(PATHS["cosine"], 0.9, MEAN)[0], marginal(PATHS["cosine"], 0.1, MEAN)[0]

    class Still(Pulse):
        def randn(self, *shape, dtype=torch.float32):
            return torch.zeros(shape, dtype=dtype)

    for solver in (DDIM(1.0), EulerMaruyama()):
        got = carry(denoiser, start.reshape(1, 1), times, solver, rng=Still())
        assert abs(got - end) < 8e-3  # order 1, 200 steps


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_of_one_datum_is_exact_in_any_number_of_steps(eta):
    """Where x0 is known there is nothing to discretise: at every time the law is N(alpha x0, sigma^2)."""
    for path in PATHS.values():
        denoiser = exact(path, "v", 0.0, 0.0)
        for times in ([0.9, 0.1], [0.9, 0.6, 0.2]):
            grid = torch.tensor(times, dtype=torch.float64)
            truth = marginal(path, times[-1], 0.0, 0.0)[1]
            assert abs(law(denoiser, grid, DDIM(eta), float(marginal(path, 0.9, 0.0, 0.0)[1])) - truth) < 1e-12


@paths
def test_ddim_is_eulers_method_in_its_own_variables(path):
    """eta = 0 follows d(x / alpha) = noise d(sigma / alpha) by Euler's method; on Gaussian data each step is a factor."""
    denoiser, times = exact(path, "noise"), torch.linspace(0.9, 0.1, 8, dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64)
    got = carry(denoiser, x, times, "ddim")
    alpha, sigma, _, _ = path(times)
    moments = dict(zip((sigma / alpha).tolist(), times, strict=True))

    def noise(y, kappa):
        t = moments[kappa[0].item()].expand(len(y))
        return denoiser(y * path(t)[0][:, None], t)[1]

    own = integrate(noise, x / alpha[0], sigma / alpha, Euler()) * alpha[-1]
    torch.testing.assert_close(got, own, rtol=1e-12, atol=1e-12)
    factors = (0.25 * alpha[:-1] * alpha[1:] + sigma[:-1] * sigma[1:]) / (0.25 * alpha[:-1] ** 2 + sigma[:-1] ** 2)
    torch.testing.assert_close(got, x * factors.prod(), rtol=1e-12, atol=1e-12)


def test_ddim_with_eta_1_is_ddpm():
    """Ho et al. 2020, equation 7: the posterior's mean and variance, in their own symbols."""
    path, one = VariancePreserving(), torch.ones(1, dtype=torch.float64)
    denoiser = exact(path, "noise", MEAN)
    alpha_bar, before = path(0.6 * one)[0] ** 2, path(0.5 * one)[0] ** 2
    beta = 1 - alpha_bar / before
    x, t, s = torch.tensor([[1.3]], dtype=torch.float64), 0.6 * one, 0.5 * one
    x0, _ = denoiser(x, t)
    mean = before.sqrt() * beta / (1 - alpha_bar) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar) * x
    scale = ((1 - before) / (1 - alpha_bar) * beta).sqrt()
    z = SampleRng(3).randn_like(x)
    got, _ = DDIM(1.0).step(denoiser, x, t, s, rng=SampleRng(3))
    torch.testing.assert_close(got, mean + scale * z)


def test_dpm_solver_starts_as_ddim_and_then_remembers():
    path = PATHS["linear"]
    denoiser, x = exact(path, "velocity"), torch.randn(3, 2, dtype=torch.float64)
    ends = torch.tensor([0.8, 0.5], dtype=torch.float64)
    torch.testing.assert_close(carry(denoiser, x, ends, "dpm++2m"), carry(denoiser, x, ends, "ddim"))
    times, solver = torch.linspace(0.9, 0.1, 9, dtype=torch.float64), DPMSolverPP2M()
    once = carry(denoiser, x, times, solver)
    assert torch.equal(once, carry(denoiser, x, times, solver))  # nothing stays behind
    assert (once - carry(denoiser, x, times, "ddim")).abs().max() > 1e-3


@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_are_as_declared(name):
    inner, calls = exact(PATHS["linear"], "v"), []

    def counted(x_t, t, *, condition=None, drop=None):
        calls.append(t)
        return inner.net(x_t, t, condition=condition, drop=drop)

    t = torch.full((3,), 0.5)
    SOLVERS[name].step(Denoiser(inner.path, "v", counted), torch.ones(3, 1), t, t - 0.1, rng=SampleRng(0))
    assert SOLVERS[name].evaluations in (None, len(calls))


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"dopri5"}))
def test_each_row_may_have_its_own_times(name):
    denoiser, x = exact(PATHS["cosine"], "v"), torch.randn(3, 3, dtype=torch.float64)  # B equals the width
    t, s = torch.tensor([0.9, 0.6, 0.5]).double(), torch.tensor([0.8, 0.1, 0.4]).double()
    together, _ = SOLVERS[name].step(denoiser, x, t, s, rng=SampleRng(0))
    for i in range(3):
        alone, _ = SOLVERS[name].step(denoiser, x[i : i + 1], t[i : i + 1], s[i : i + 1], rng=SampleRng(0, first=i))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_trajectory_holds_every_time_and_ends_in_the_data():
    for target in ("velocity", "x0"):
        denoiser = exact(PATHS["linear"], target, MEAN)
        noise, times = torch.randn(3, 2, dtype=torch.float64), time_grid(denoiser.span, 5).double()
        states = generate(denoiser, noise, times, "heun", trajectory=True)
        assert states.shape == (6, 3, 2)
        assert torch.equal(states[0], noise)
        assert torch.equal(states[-1], generate(denoiser, noise, times, "heun"))


def test_noise_starts_as_large_as_it_is_at_the_first_time():
    denoiser = exact(PATHS["linear"], "noise")
    assert denoiser.span == (0.0, 0.995)
    states = generate(denoiser, torch.ones(2, 1), time_grid(denoiser.span, 3), "ddim", trajectory=True)
    torch.testing.assert_close(states[0], torch.full((2, 1), 0.995))


def test_time_grids():
    torch.testing.assert_close(time_grid((0.2, 0.9), 2), torch.tensor([0.9, 0.55, 0.2]))
    assert time_grid((0.0, 1.0), 7, like=torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(UserError, match="1 or more"):
        time_grid((0.0, 1.0), 0)
    with pytest.raises(UserError, match="quadratic"):
        time_grid((0.0, 1.0), 3, "quadratc")


def test_solver_by_name_or_itself():
    assert find_solver("ancestral") == DDIM(1.0) and find_solver(DDIM(0.2)) == DDIM(0.2)
    with pytest.raises(UserError, match="heun"):
        find_solver("huen")
    for solver in ("ancestral", "euler-maruyama"):
        with pytest.raises(UserError, match="no rng"):
            carry(exact(PATHS["linear"], "v"), torch.ones(1, 1), torch.tensor([0.5, 0.4]), solver)
