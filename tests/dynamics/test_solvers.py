"""Solvers on Gaussian data, where every marginal and every flow is known in closed form."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from dynamics.exact_gaussian import exact, marginal

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.exponential import DDIM, DPMSolverPP2M, DPMSolverPP2MSDE
from pushforward.dynamics.langevin import annealed_langevin, langevin
from pushforward.dynamics.ode import METHODS, Euler, integrate
from pushforward.dynamics.paths import PATHS, VarianceExploding, VariancePreserving, noise_ratio
from pushforward.dynamics.solvers import SOLVERS, carry, encode, find_solver, generate
from pushforward.dynamics.spacings import time_grid
from pushforward.dynamics.stochastic import (
    EDM,
    Ancestral,
    AnnealedLangevin,
    Churn,
    EulerMaruyama,
    PredictorCorrector,
    rising_noise,
)
from pushforward.dynamics.targets import TARGETS
from pushforward.errors import UserError
from pushforward.randomness import Rng, SampleRng

DETERMINISTIC = ["euler", "heun", "rk4", "ddim", "dpm-2", "dpm-3", "dpm++2m", "unipc", "edm"]
RANDOM = sorted(set(SOLVERS) - {*DETERMINISTIC, "dopri5"})
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
THREE = ("linear", "sub-variance-preserving", "variance-exploding")
WASTEFUL = [("variance-exploding", "euler"), ("variance-exploding", "heun")]
three_paths = pytest.mark.parametrize("path", [PATHS[name] for name in THREE], ids=THREE)
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


class Still(Pulse):
    def randn(self, *shape, dtype=torch.float32):
        return torch.zeros(shape, dtype=dtype)


def law(denoiser, times, solver, variance, draws=1):
    """The exact variance (a float) of what a random solver makes of N(0, variance), by `draws` a step: where all is linear none
    need be drawn."""
    rows = torch.zeros(draws * len(times) + 1, 1, dtype=torch.float64)
    rows[-1] = 1  # its draws are 0
    weights = carry(denoiser, rows, times, solver, rng=Pulse())
    return float((weights[:-1] ** 2).sum() + variance * weights[-1] ** 2)


# every solver on three paths, and four on all; Runge-Kutta methods in t are wasteful where variance explodes
COMBINATIONS = [
    (path, name)
    for path in PATHS
    for name in SOLVERS
    if name in ("edm", "ddim", "unipc", "ancestral") or (path in THREE and (path, name) not in WASTEFUL)
]


@pytest.mark.parametrize("path, name", COMBINATIONS)
def test_the_law_is_right_for_every_path_and_solver(path, name):
    """float32, the whole way to t = 0, solvers with every target: every row finite, mean and variance right."""
    target = list(TARGETS)[(list(PATHS).index(path) + list(SOLVERS).index(name)) % len(TARGETS)]
    denoiser, n = exact(PATHS[path], target, MEAN), 2000
    noise = torch.special.ndtri((torch.arange(n) + 0.5) / n)[:, None]  # its mean is 0 and its variance 1 within 2e-3
    solver = find_solver(name)
    steps = {"dopri5": 1, "rk4": 12, "dpm-3": 12}.get(name, 40 if solver.order == 1 else 24)
    if path in ("variance-exploding", "edm") and name != "dopri5":
        steps *= 2  # sigma falls by 4 or 5 powers of ten
    x = generate(denoiser, noise, time_grid(denoiser.span, steps, "quadratic"), name, rng=SampleRng(0))
    assert x.isfinite().all()
    # 5 standard errors where it is random; what the steps leave; sigma at t_min (0.01 at most)
    drawn = 5 / math.sqrt(n) if name in RANDOM else 0.0
    bias = {"annealed-langevin": 0.4}.get(name, 0.12 if solver.order == 1 else 0.07)
    assert abs(x.mean() - MEAN) < 0.02 + bias / 2 + 0.5 * drawn
    assert abs(x.var() / 0.25 - 1) < bias + math.sqrt(2) * drawn


def test_noise_ratios_are_the_better_variable_where_variance_explodes():
    """EDM's 18 steps: its levels and Heun's method in them, against even steps and against Heun's method in t."""
    denoiser, noise = exact(PATHS["edm"], "edm", MEAN), torch.tensor([[-1.0], [1.0]], dtype=torch.float64)

    def error(solver, spacing):
        x = generate(denoiser, noise, time_grid((0.0, 1.0), 18, spacing, noise, path=denoiser.path), solver)
        return float(((x[1] - x[0]) / 2 / 0.5 - 1).abs())

    assert error("edm", "karras") < 0.06
    assert error("heun", "karras") > 2 * error("edm", "karras") and error("edm", "quadratic") > 2 * error("edm", "karras")
    assert abs(error("edm", "log-snr") - error("edm", "uniform")) < 1e-6  # on this path t is the logarithm
    assert error("dpm-3", "log-snr") < 1e-3


def slope(errors, steps):
    return math.log(errors[0] / errors[1]) / math.log(steps[1] / steps[0])


@three_paths
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_deterministic_solvers(path, name):
    variances = torch.tensor([0.05, 0.25, 2.0], dtype=torch.float64)  # several: the error of one may cross 0
    denoiser = exact(path, "v", MEAN, variances)
    x = torch.tensor([[-1.0, 0.4, 2.0]], dtype=torch.float64)
    (m, v), (m_end, v_end) = marginal(path, 0.9, MEAN, variances), marginal(path, 0.1, MEAN, variances)
    truth = m_end + (v_end / v).sqrt() * (x - m)
    steps = (20, 40) if SOLVERS[name].order > 2 else (24, 48)
    errors = [
        float((carry(denoiser, x, torch.linspace(0.9, 0.1, n + 1, dtype=torch.float64), name) - truth).norm()) for n in steps
    ]
    # the next term of the error is O(h) relative
    assert abs(slope(errors, steps) - SOLVERS[name].order) < 0.5, errors


@dataclass(frozen=True)
class MixtureNet:
    """E[x0 | x_t] for data sum_k w_k N(mean_k, deviation^2) on a line."""

    path: object
    weights: tuple = (0.3, 0.7)
    means: tuple = (-1.0, 0.8)
    deviation: float = 0.4

    def components(self, t):
        alpha, sigma, _, _ = (c[:, None] for c in self.path(t))
        return alpha, torch.tensor(self.means).to(t), ((alpha * self.deviation) ** 2 + sigma**2)

    def __call__(self, x_t, t, *, condition=None, drop=None):
        alpha, means, variance = self.components(t)
        residual = x_t - alpha * means
        share = (torch.tensor(self.weights).to(t).log() - residual**2 / (2 * variance)).softmax(1)
        return (share * (means + alpha * self.deviation**2 * residual / variance)).sum(1, keepdim=True)

    def cdf(self, x_t, t):
        alpha, means, variance = self.components(t)
        each = torch.special.ndtr((x_t - alpha * means) / variance.sqrt())
        return (torch.tensor(self.weights).to(t) * each).sum(1, keepdim=True)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_on_a_mixture(name):
    """On a line the flow keeps the order of points, so that it maps quantiles to quantiles."""
    path = PATHS["cosine"]
    net = MixtureNet(path)
    x = torch.tensor([[-1.4], [-0.3], [0.2], [1.5]], dtype=torch.float64)
    start, end = (torch.full((4,), t, dtype=torch.float64) for t in (0.95, 0.1))
    low, high = torch.full_like(x, -9), torch.full_like(x, 9)
    for _ in range(60):
        middle = (low + high) / 2
        above = net.cdf(middle, end) > net.cdf(x, start)
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    steps = (20, 40) if SOLVERS[name].order > 1 else (40, 80)
    errors = []
    for n in steps:
        times = torch.linspace(0.95, 0.1, n + 1, dtype=torch.float64)
        errors.append(float((carry(Denoiser(path, "x0", net), x, times, name) - low).norm()))
    assert errors[1] < 0.03
    assert abs(slope(errors, steps) - SOLVERS[name].order) < 0.4, errors


@three_paths
@pytest.mark.parametrize(
    "solver",
    [
        DDIM(eta=0.5),
        Ancestral(0.0),
        Ancestral(1.0),
        DPMSolverPP2MSDE(),
        EDM(Churn()),
        EulerMaruyama(),
        EulerMaruyama(lambda path, t: torch.full_like(t, 0.7)),
        EulerMaruyama(lambda path, t: 2 * rising_noise(path, t)),
    ],
    ids=["eta 0.5", "small", "large", "dpm++2m-sde", "edm", "rising", "constant", "twice"],
)
def test_order_and_law_of_random_solvers(path, solver):
    """Any diffusion coefficient, and any eta, keep the marginals: the variance converges to theirs, with the order declared."""
    denoiser = exact(path, "v")
    (_, v), (_, truth) = marginal(path, 0.9), marginal(path, 0.1)
    errors = [
        law(denoiser, torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64), solver, float(v)) / float(truth) - 1
        for steps in ((60, 120) if isinstance(solver, EulerMaruyama) else (30, 60))
    ]
    assert abs(errors[-1]) < 0.2
    found = math.log2(errors[0] / errors[1])
    assert found > solver.order - 0.2, errors  # where variance explodes the first term of Euler-Maruyama's nearly vanishes
    assert found < solver.order + 0.25 or isinstance(solver, EulerMaruyama), errors


@paths
def test_ancestral_sampling_is_exact_where_its_variance_is_that_of_the_data(path):
    """Of N(0, d^2), p(x_s | x_t) has the variance of deviation d: nothing is left to discretise, nor where it is learned."""
    denoiser = exact(path, "v")  # d = 1 / 2

    def learned(x_t, t, s):
        (_, of_t), (_, of_s) = marginal(path, t), marginal(path, s)
        together = path(t)[0] / path(s)[0] * of_s
        return (of_s - together**2 / of_t).log()[:, None].expand_as(x_t)

    knowing = replace(denoiser, log_variance=learned)
    for times in ([0.9, 0.1], [0.9, 0.6, 0.2]):
        grid, (_, start), (_, end) = torch.tensor(times, dtype=torch.float64), marginal(path, 0.9), marginal(path, times[-1])
        assert abs(law(denoiser, grid, Ancestral(0.5), float(start)) / end - 1) < 1e-9
        assert abs(law(knowing, grid, Ancestral(), float(start)) / end - 1) < 1e-9
        assert law(knowing, grid, Ancestral(0.0), float(start)) == pytest.approx(law(denoiser, grid, DDIM(1.0), float(start)))
        assert law(denoiser, grid, Ancestral(0.0), float(start)) < end
        assert law(denoiser, grid, Ancestral(), float(start)) == law(denoiser, grid, Ancestral(0.0), float(start))
        assert law(knowing, grid, Ancestral(1.0), float(start)) > end


def test_edm_is_algorithm_2_in_its_own_words():
    """Karras et al. 2022: x / alpha and sigma / alpha of any path are their x and t; the same numbers, noise and all."""
    path, steps, s_churn, s_noise = PATHS["cosine"], 6, 2.0, 1.1
    denoiser = exact(path, "noise", MEAN)
    times = torch.cat([torch.linspace(0.9, 0.1, steps), torch.zeros(1)]).double()
    start = torch.randn(3, 2, dtype=torch.float64)
    got = carry(denoiser, start, times, EDM(lambda now, then: torch.full_like(now, s_churn / steps), s_noise), rng=SampleRng(5))

    def slope_at(y, level):  # (y - D(y)) / level
        residual = (y - MEAN) / (0.25 + level**2)
        return (y - (MEAN + 0.25 * residual)) / level

    rng, levels, y = SampleRng(5), noise_ratio(path, times), start / path(times)[0][0]
    for now, then in itertools.pairwise(levels):
        raised = now * (1 + min(s_churn / steps, 2**0.5 - 1))
        y = y + (raised**2 - now**2).sqrt() * s_noise * rng.randn_like(y)
        d = slope_at(y, raised)
        there = y + (then - raised) * d
        y = there if then == 0 else y + (then - raised) * (d + slope_at(there, then)) / 2
    torch.testing.assert_close(got, y, rtol=1e-9, atol=1e-9)


def test_churn_is_bounded_by_the_path_and_by_its_interval():
    path, x = PATHS["edm"], torch.randn(2, 1, dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    late = torch.full((2,), 0.994, dtype=torch.float64)
    inner, seen = exact(PATHS["linear"], "noise"), []

    def watched(x_t, t, *, condition=None, drop=None):
        seen.append(float(t.max()))
        return inner.net(x_t, t)

    EDM(Churn()).step(replace(inner, net=watched), x, late, late - 0.1, rng=SampleRng(0))
    assert seen[0] == inner.span[1] == 0.995  # beyond, a noise says nothing of x0
    high = EDM(Churn()).step(exact(path, "v"), x, one, 0.9 * one, rng=SampleRng(0))[0]
    torch.testing.assert_close(high, EDM().step(exact(path, "v"), x, one, 0.9 * one)[0])  # no noise beyond t = 1
    ratios, gammas = torch.tensor([[0.01, 0.5, 60.0], [0.0, 0.21, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(Churn(2.0, 0.05, 50.0)(ratios, ratios / 1.1), gammas)
    assert torch.equal(Churn()(torch.tensor([float("inf")]), torch.tensor([float("inf")])), torch.zeros(1))


def test_the_corrector_is_langevin_dynamics():
    path, t = PATHS["cosine"], torch.full((4,), 0.6, dtype=torch.float64)
    denoiser, x, s = exact(path, "v", MEAN), torch.randn(4, 2, dtype=torch.float64), t - 0.2
    rng = SampleRng(2)
    moved, _ = Ancestral(0.0).step(denoiser, x, t, s, rng=rng)
    size = 2 * (0.3 * float(path(s)[1][0])) ** 2
    chains = langevin(lambda y: denoiser.score(y, s), moved, rng, step=size, steps=2)
    got, _ = PredictorCorrector(Ancestral(0.0), corrections=2, snr=0.3).step(denoiser, x, t, s, rng=SampleRng(2))
    torch.testing.assert_close(got, chains.x)


def test_corrections_mend_the_law_of_a_coarse_predictor():
    denoiser, times = exact(PATHS["variance-exploding"], "v"), torch.linspace(0.9, 0.1, 41, dtype=torch.float64)
    (_, start), (_, end) = marginal(denoiser.path, 0.9), marginal(denoiser.path, 0.1)
    errors = [abs(law(denoiser, times, Ancestral(), float(start)) / end - 1)]
    for corrections in (1, 3):
        solver = PredictorCorrector(corrections=corrections)
        errors.append(abs(law(denoiser, times, solver, float(start), draws=1 + corrections) / end - 1))
    assert errors[2] < 0.85 * errors[1] < 0.85 * 0.9 * errors[0]


def test_annealed_langevin_on_a_path_is_that_of_song_and_ermon():
    path = VarianceExploding(0.1, 10.0)
    denoiser, times = exact(path, "score", MEAN), torch.linspace(1, 0, 7, dtype=torch.float64)
    x = 10 * torch.randn(5, 2, dtype=torch.float64)

    def score(y, sigma):
        return (MEAN - y) / (0.25 + sigma**2)

    sigmas = [float(sigma) for sigma in path(times[1:])[1]]
    chains = annealed_langevin(score, x, SampleRng(1), sigmas=sigmas, step=0.2, steps=3)
    got = carry(denoiser, x, times, AnnealedLangevin(0.2, 3), rng=SampleRng(1))
    torch.testing.assert_close(got, chains.x)


def test_no_diffusion_is_the_ode():
    denoiser, times = exact(PATHS["linear"], "velocity"), torch.linspace(0.9, 0.1, 9, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64)
    still = EulerMaruyama(lambda path, t: torch.zeros_like(t))
    torch.testing.assert_close(carry(denoiser, x, times, still, rng=SampleRng(0)), carry(denoiser, x, times, "euler"))


def test_any_diffusion_has_the_right_mean():
    denoiser, times = exact(PATHS["cosine"], "noise", MEAN), torch.linspace(0.9, 0.1, 101, dtype=torch.float64)
    start, end = marginal(PATHS["cosine"], 0.9, MEAN)[0], marginal(PATHS["cosine"], 0.1, MEAN)[0]

    for solver in (DDIM(1.0), EulerMaruyama()):
        got = carry(denoiser, start.reshape(1, 1), times, solver, rng=Still())
        assert abs(got - end) < 0.016  # order 1, 100 steps


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


@pytest.mark.parametrize("name", DETERMINISTIC + RANDOM)
def test_each_row_may_have_its_own_times(name):
    denoiser, x = exact(PATHS["cosine"], "v"), torch.randn(3, 3, dtype=torch.float64)  # B equals the width
    t, s = torch.tensor([0.9, 0.6, 0.5]).double(), torch.tensor([0.8, 0.1, 0.4]).double()
    together, _ = SOLVERS[name].step(denoiser, x, t, s, rng=SampleRng(0))
    for i in range(3):
        alone, _ = SOLVERS[name].step(denoiser, x[i : i + 1], t[i : i + 1], s[i : i + 1], rng=SampleRng(0, first=i))
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - set(METHODS)))
def test_a_step_to_the_data_needs_nothing_of_the_network_there(name):
    """A network of x0 says nothing of the noise at t = 0: rows that go there are as finite as those beside them."""
    denoiser, x = exact(PATHS["linear"], "x0", MEAN), torch.randn(2, 3, dtype=torch.float64)
    t, s = torch.tensor([0.9, 0.6]).double(), torch.tensor([0.8, 0.0]).double()
    both, _ = SOLVERS[name].step(denoiser, x, t, s, rng=SampleRng(0))
    alone, _ = SOLVERS[name].step(denoiser, x[1:], t[1:], s[1:], rng=SampleRng(0, first=1))
    other, _ = SOLVERS[name].step(denoiser, x[:1], t[:1], s[:1], rng=SampleRng(0))
    torch.testing.assert_close(both, torch.cat([other, alone]))
    assert both.isfinite().all()


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


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "heun", "edm"])
def test_data_are_encoded_by_going_back(solver):
    """The inversion of the ODE, from t = 0 where sigma is 0 to t = 1 where alpha is: (x0 - mean) / deviation."""
    denoiser = exact(PATHS["linear"], "velocity", MEAN)
    x = torch.tensor([[-0.5, 0.4], [0.8, 1.9]], dtype=torch.float64)
    rising = torch.linspace(0, 1, 101, dtype=torch.float64)
    z = encode(denoiser, x, rising, solver)
    order = SOLVERS[solver].order
    assert (z - (x - MEAN) / 0.5).abs().max() < (0.04 if order == 1 else 4e-3)
    assert (generate(denoiser, z, rising.flip(0), solver) - x).abs().max() < (0.04 if order == 1 else 4e-3)
    inner, ends = torch.linspace(0.2, 0.8, 101, dtype=torch.float64), torch.tensor([0.2, 0.8], dtype=torch.float64)
    m, v = marginal(denoiser.path, ends, MEAN)
    truth = (m[1] + (v[1] / v[0]).sqrt() * (0.8 * x - m[0])) / 0.8  # alpha is 0.8 at the one end, sigma at the other
    assert (encode(denoiser, x, inner, solver) - truth).abs().max() < (0.02 if order == 1 else 1e-3)
    with pytest.raises(UserError, match="rising times"):
        encode(denoiser, x, rising.flip(0), solver)


@pytest.mark.parametrize("name", DETERMINISTIC + RANDOM)
def test_a_step_of_no_length_changes_nothing(name):
    """Grids may repeat a time. Langevin steps alone move."""
    denoiser, t = exact(PATHS["cosine"], "v"), torch.tensor([0.7, 0.5, 0.5, 0.4], dtype=torch.float64)
    x = torch.randn(3, 2, dtype=torch.float64)
    once = carry(denoiser, x, t[[0, 1, 3]], name, rng=Still())
    twice = carry(denoiser, x, t, name, rng=Still())
    assert twice.isfinite().all()
    if SOLVERS[name].evaluations == 1 and name not in ("dpm++2m", "unipc", "dpm++2m-sde"):
        torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("name", RANDOM)
def test_random_solvers_go_from_more_noise_to_less(name):
    denoiser, x = exact(PATHS["linear"], "v"), torch.ones(2, 1)
    with pytest.raises(UserError, match=r"from t = 0\.4 to 0\.5 .* rises .* admit euler, heun"):
        carry(denoiser, x, torch.tensor([0.4, 0.5]), name, rng=SampleRng(0))
    with pytest.raises(UserError, match="no rng"):
        carry(denoiser, x, torch.tensor([0.5, 0.4]), name)

    def turning(t):  # a path that is cleanest in the middle
        return 1 - (2 * t - 1) ** 2 / 2, (2 * t - 1).abs() / 2 + 0.1, 2 - 4 * t, (2 * t - 1).sign()

    with pytest.raises(UserError, match=r"path or times like that admit euler, heun, rk4, dopri5 and ddim"):
        carry(replace(denoiser, path=turning), x, torch.tensor([0.3, 0.2]), name, rng=SampleRng(0))


def test_settings_that_make_no_sense_are_refused():
    for build, words in [
        (lambda: DDIM(1.5), "from 0 "),
        (lambda: Ancestral(-1.0), "0 \\(small variance\\) or more"),
        (lambda: PredictorCorrector(corrections=0), "1 or more"),
        (lambda: PredictorCorrector(snr=0.8), "below 0.7"),
        (lambda: AnnealedLangevin(size=0.0), "above 0"),
        (lambda: AnnealedLangevin(repeats=0), "1 or more"),
    ]:
        with pytest.raises(UserError, match=words):
            build()


def test_solver_by_name_or_itself():
    assert find_solver("ancestral") == Ancestral() and find_solver(DDIM(0.2)) == DDIM(0.2)
    with pytest.raises(UserError, match="heun"):
        find_solver("huen")
