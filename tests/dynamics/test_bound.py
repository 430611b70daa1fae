"""The variational bound where every law is Gaussian: the reverse chain's own density, the entropy, and the closed sums."""

import dataclasses
import itertools
import math

import pytest
import torch
from dynamics.exact_gaussian import exact

from pushforward.distributions.gaussians import gaussian_kl
from pushforward.dynamics.bound import (
    continuous_bound,
    diffusion_term,
    discrete_bound,
    discretised_gaussian,
    interval_mass,
    log_variances,
    posterior,
    rounded,
)
from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.paths import PATHS, Linear, Stepwise, VarianceExploding, VariancePreserving, expand
from pushforward.dynamics.solvers import DDIM
from pushforward.dynamics.targets import compose
from pushforward.errors import UserError
from pushforward.randomness import SampleRng

MEAN, VARIANCE = 0.3, 0.25
ENTROPY = 0.5 * math.log(2 * math.pi * math.e * VARIANCE)


def grid(steps, last=0.0):
    return torch.linspace(1, last, steps + 1, dtype=torch.float64)


def gaussian_data(rows, dimensions=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return MEAN + VARIANCE**0.5 * torch.randn(rows, dimensions, generator=generator, dtype=torch.float64)


def expected(path, times, variance, learned=None):
    """E over data N(MEAN, VARIANCE), a dimension: the bound of the exact denoiser, each term in closed form."""
    m, v = MEAN, VARIANCE
    alpha, sigma, _, _ = path(times)
    second = m**2 + v
    prior = 0.5 * float((alpha[0] / sigma[0]) ** 2) * second
    terms = []
    clean = float(sigma[-1]) == 0
    for k in range(len(times) - 1 - clean):
        a_t, s_t, a_s, s_s = alpha[k], sigma[k], alpha[k + 1], sigma[k + 1]
        beta = s_t**2 - (a_t / a_s * s_s) ** 2
        small = beta * (s_s / s_t) ** 2
        error = v * s_t**2 / (a_t**2 * v + s_t**2)  # of E[x0 | x_t]
        p = {"small": small, "large": beta * (a_s**2 + s_s**2) / (a_t**2 + s_t**2)}.get(variance)
        p = small + (a_s * beta / s_t**2) ** 2 * error if p is None else p
        terms.append(0.5 * (small / p - 1 - (small / p).log() + (a_s * beta / s_t**2) ** 2 * error / p))
    a, s = alpha[-1 - clean], sigma[-1 - clean]
    decoder = s**2 / (a**2 + s**2)
    error = v * s**2 / (a**2 * v + s**2)
    if variance == "exact":
        decoder = error
    reconstruction = 0.5 * (math.log(2 * math.pi) + decoder.log() + error / decoder)
    return prior, torch.stack(terms) if terms else torch.zeros(0, dtype=torch.float64), float(reconstruction)


@dataclasses.dataclass(frozen=True)
class ExactVariance:
    """The variance of x_s given x_t of data N(MEAN, VARIANCE): the posterior's and that of E[x0 | x_t], which is the best."""

    path: object
    factor: float = 1.0

    def __call__(self, x_t, t, s):
        step = posterior(self.path, t, s)
        alpha, sigma, _, _ = self.path(t.double())
        error = VARIANCE * sigma**2 / (alpha**2 * VARIANCE + sigma**2)
        return expand((self.factor * (step.small + step.of_x0**2 * error)).log(), x_t).expand_as(x_t)


@pytest.mark.parametrize("variance", ["small", "large", "exact"])
@pytest.mark.parametrize("path", [VariancePreserving(), Linear(), VarianceExploding(0.05, 5.0)], ids=["vp", "line", "ve"])
def test_every_term_is_the_closed_one(path, variance):
    denoiser = exact(path, "x0", MEAN, VARIANCE)
    if variance == "exact":
        if path(torch.zeros(1))[1] > 0:
            pytest.skip("a path that leaves noise on the data has no step to them")
        denoiser = dataclasses.replace(denoiser, log_variance=ExactVariance(path))
    times, x = grid(6), gaussian_data(4000)
    kind = "small" if variance == "exact" else variance
    bound = discrete_bound(denoiser, x, times, rng=SampleRng(0), variance=kind)
    prior, diffusion, reconstruction = expected(path, times, variance)
    assert bound.diffusion.shape == (len(diffusion), 4000) and torch.equal(bound.times, times[: len(diffusion)])

    def agrees(ours, truth):
        ours = ours / 2  # a dimension
        assert abs(float(ours.mean()) - float(truth)) < 4.5 * float(ours.std()) / 4000**0.5 + 1e-12

    agrees(bound.prior, prior)
    agrees(bound.reconstruction, reconstruction)
    for ours, truth in zip(bound.diffusion, diffusion, strict=True):
        agrees(ours, truth)
    assert bool((bound.prior >= 0).all()) and bool((bound.diffusion > 0).all())


class Fixed(SampleRng):
    """Noise that is one number everywhere."""

    def __init__(self, value):
        super().__init__(0)
        self.value = value

    def randn_like(self, x):
        return torch.full_like(x, self.value)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_term_is_the_divergence_of_two_gaussians(variance):
    """Term by term against the general formula of the divergence, with the moments that the solver's own step has."""
    path = VariancePreserving()
    denoiser = exact(path, "x0", MEAN, VARIANCE)
    t, s = torch.tensor([0.6], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    x0, x_t = torch.tensor([[0.4, -0.2]], dtype=torch.float64), torch.tensor([[1.0, 0.1]], dtype=torch.float64)
    known = Denoiser(path, "x0", lambda x_t, t, condition=None, drop=None: x0)

    def moments(of):  # x_s is linear in the noise that the ancestral step draws
        at = [DDIM(eta=1.0).step(of, x_t, t, s, rng=Fixed(z))[0] for z in (0.0, 1.0)]
        return at[0][0], (at[1] - at[0])[0] ** 2

    (mean_q, variance_q), (mean_p, variance_p) = moments(known), moments(denoiser)
    step = posterior(path, t, s)
    torch.testing.assert_close(variance_q, step.small.expand(2))
    torch.testing.assert_close(mean_q, (step.of_x0 * x0 + step.of_x_t * x_t)[0])
    variance_p = variance_p if variance == "small" else step.large.expand(2)
    truth = gaussian_kl(mean_q, variance_q.diag(), mean_p, variance_p.diag())

    torch.testing.assert_close(diffusion_term(denoiser, x0, x_t, t, s, variance)[0], truth)
    alpha, sigma, _, _ = path(t)
    if variance == "large":  # that of a variance-preserving path is the forward step's beta
        torch.testing.assert_close(step.large, sigma**2 - (alpha / path(s)[0] * path(s)[1]) ** 2)


def test_the_gap_to_the_entropy_shrinks_as_one_over_the_steps():
    """The variance that is best leaves the prior's part alone: the reverse chain has the data's law. The large one leaves
    O(1 / T); the small one as much as ever, since the last steps halve the noise however many they are."""
    path = VariancePreserving()

    def gap(steps, variance):
        _, diffusion, reconstruction = expected(path, grid(steps), variance)
        return float(diffusion.sum()) + reconstruction - ENTROPY

    alpha, sigma, _, _ = path(torch.ones(1, dtype=torch.float64))
    # KL of the last marginal from N(0, sigma^2), less the prior's term, which has the data's variance in it
    ratio = float(alpha / sigma) ** 2
    for steps in (20, 100):
        assert gap(steps, "exact") == pytest.approx(-0.5 * math.log1p(VARIANCE * ratio), abs=1e-9)
    large, small = ([gap(steps, variance) for steps in (200, 400, 800)] for variance in ("large", "small"))
    assert all(1.7 < before / after < 2.3 for before, after in itertools.pairwise(large)) and large[-1] > 0
    assert small[0] > small[-1] > 0.28  # per dimension, half of Euler's constant


@pytest.mark.parametrize("path", ["variance-preserving", "cosine", "linear", "ddpm"])
def test_a_thousand_steps_are_near_the_density(path):
    path = PATHS[path]
    denoiser = exact(path, "v", MEAN, VARIANCE)
    x = gaussian_data(600, 2, seed=1)
    bound = discrete_bound(denoiser, x, grid(1000), rng=SampleRng(1), terms=40, draws=4)
    log_prob = torch.distributions.Normal(MEAN, VARIANCE**0.5).log_prob(x).sum(1)
    gap = bound.total + log_prob  # the entropy's own noise is in both
    error = float(gap.std()) / 600**0.5
    truth = 2 * (sum(float(torch.as_tensor(p).sum()) for p in expected(path, grid(1000), "large")) - ENTROPY)
    assert 0 < truth < 0.02  # nats of 2 dimensions
    assert abs(float(gap.mean()) - truth) < 4 * error and error < 0.06


def test_a_subset_of_the_terms_is_unbiased_and_its_error_known():
    path = VariancePreserving()
    denoiser, times = exact(path, "x0", MEAN, VARIANCE), grid(30)
    x = gaussian_data(1, 3).expand(6000, 3)  # one datum, many draws
    whole = discrete_bound(denoiser, x, times, rng=SampleRng(0))
    part = discrete_bound(denoiser, x, times, rng=SampleRng(1), terms=3, draws=4)
    deviation = (whole.total.var() + part.total.var()).sqrt() / 6000**0.5
    assert abs(float(whole.total.mean() - part.total.mean())) < 4 * float(deviation)
    by_time = (whole.diffusion.var(1) + part.diffusion.var(1)).sqrt() / 6000**0.5
    assert bool(((whole.diffusion.mean(1) - part.diffusion.mean(1)).abs() < 4.5 * by_time).all())
    # the variance of a mean of 4 draws, whose estimates average to it
    assert float(part.stderr.square().mean()) == pytest.approx(float(part.total.var()), rel=0.1)
    few, one = (discrete_bound(denoiser, x, times, rng=SampleRng(1), terms=k).total.std() for k in (8, 1))
    assert float(few) < 0.6 * float(one)


def test_rows_are_what_they_are_alone():
    denoiser, x = exact(Linear(), "velocity", MEAN, VARIANCE), gaussian_data(5)
    for measure in (
        lambda x, rng: discrete_bound(denoiser, x, grid(9), rng=rng, terms=4),
        lambda x, rng: continuous_bound(denoiser, x, rng=rng, terms=4),
    ):
        every, two = measure(x, SampleRng(3)), measure(x[2:4], SampleRng(3, first=2))
        torch.testing.assert_close(every.total[2:4], two.total)


@pytest.mark.parametrize("path", ["variance-preserving", "linear", "edm", "trigonometric"])
def test_continuous_time_is_the_entropy(path):
    path = PATHS[path]
    denoiser = exact(path, "x0" if path == PATHS["edm"] else "v", MEAN, VARIANCE)
    x = gaussian_data(3000, 2, seed=2)
    bound = continuous_bound(denoiser, x, rng=SampleRng(0), terms=16)
    low, high = denoiser.span
    a, s, _, _ = path(torch.tensor([max(low, 1e-3) if float(path(torch.zeros(1))[1]) == 0 else low, high]).double())
    first, last = float(a[0] / s[0]) ** 2, float(a[1] / s[1]) ** 2
    # 1/2 int v / (1 + snr v) dsnr
    diffusion = 0.5 * math.log((1 + VARIANCE * first) / (1 + VARIANCE * last))
    assert abs(float(bound.diffusion.sum(0).mean()) / 2 - diffusion) < 4 * float(bound.diffusion.sum(0).std()) / 2 / 3000**0.5
    log_prob = torch.distributions.Normal(MEAN, VARIANCE**0.5).log_prob(x).sum(1)
    gap = bound.total + log_prob
    # what is lost: the prior, and a decoder of variance 1 / (1 + snr) where v / (1 + v snr) is right, of order 1 / snr
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 3000**0.5 + 2 * 0.5 * last * (MEAN**2 + VARIANCE) + 1e-3
    assert bool((bound.times.diff() < 0).all()) and float(bound.times[0]) == pytest.approx(high, abs=1e-6)


def test_steps_that_are_many_are_continuous_time():
    path = Linear()
    denoiser, x = exact(path, "velocity", MEAN, VARIANCE), gaussian_data(2000)
    ends = discrete_bound(denoiser, x, grid(2000, last=0.0), rng=SampleRng(0), terms=12)
    limit = continuous_bound(denoiser, x, rng=SampleRng(1), terms=12)
    # the last noise is that of t = 0.0005 and of 0.001: the reconstruction gains what the diffusion pays
    error = float((ends.total - limit.total).std()) / 2000**0.5
    assert abs(float((ends.total - limit.total).mean())) < 4 * error + 4e-3


def test_masses_of_levels_sum_to_one():
    levels = torch.linspace(-1, 1, 17, dtype=torch.float64)[:, None].expand(17, 4)
    mean = torch.tensor([0.0, 0.9, -3.0, 5.0], dtype=torch.float64).expand(17, 4)
    for deviation in (1e-3, 0.1, 1.0, 50.0):
        log_variance = torch.full((1, 1), 2 * math.log(deviation), dtype=torch.float64)
        masses = discretised_gaussian(levels, mean, log_variance, 17)
        torch.testing.assert_close(masses.exp().sum(0), torch.ones(4, dtype=torch.float64))
    inner = discretised_gaussian(levels[3:5], mean[3:5], torch.zeros(1, 1, dtype=torch.float64), 17)
    law = torch.distributions.Normal(mean[3:5], 1.0)
    torch.testing.assert_close(inner.exp(), law.cdf(levels[3:5] + 1 / 16) - law.cdf(levels[3:5] - 1 / 16))


def test_masses_in_the_tails_have_all_their_digits():
    low = torch.tensor([8.0, -9.0, 40.0, -torch.inf, 3.0], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([9.0, -8.0, 41.0, -2.0, torch.inf], dtype=torch.float64)
    # scipy.stats.norm.logsf and logcdf, with log1p(-exp(difference))
    from scipy.stats import norm

    truth = [norm.logsf(8) + math.log1p(-math.exp(norm.logsf(9) - norm.logsf(8)))] * 2
    truth += [norm.logsf(40) + math.log1p(-math.exp(norm.logsf(41) - norm.logsf(40))), norm.logcdf(-2), norm.logsf(3)]
    ours = interval_mass(low, high)
    torch.testing.assert_close(ours, torch.tensor(truth, dtype=torch.float64))
    mean = torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    discretised_gaussian(x, mean, torch.zeros(1, 1, dtype=torch.float64), 5).sum().backward()
    assert bool(mean.grad.isfinite().all()) and float(mean.grad.sum()) == pytest.approx(0, abs=1e-12)


@dataclasses.dataclass(frozen=True)
class UniformLevels:
    """E[x0 | x_t] where every number is one of L levels, each as likely."""

    path: object
    levels: int

    def __call__(self, x_t, t, *, condition=None, drop=None):
        at = torch.linspace(-1, 1, self.levels, dtype=x_t.dtype)
        alpha, sigma, _, _ = (expand(c, x_t)[..., None] for c in self.path(t))
        logits = -0.5 * ((x_t[..., None] - alpha * at) / sigma) ** 2
        x0 = (logits.softmax(-1) * at).sum(-1)
        return compose(self.path, "x0", x0, x0, t)


@pytest.mark.parametrize("levels, bits", [(2, 1.0), (256, 8.0)])
def test_images_of_uniform_levels_cost_the_bits_of_a_level(levels, bits):
    path = VariancePreserving()
    denoiser = Denoiser(path, "x0", UniformLevels(path, levels))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(levels, (40, 1, 6, 6), generator=generator)
    x = 2.0 * codes.double() / (levels - 1) - 1
    variance = "large" if levels > 2 else "small"  # at the last noise, 0.005, 256 levels are nearly a density
    steps = discrete_bound(denoiser, x, grid(4000), rng=SampleRng(0), levels=levels, terms=40, variance=variance).in_bits(36)
    limit = continuous_bound(denoiser, x, rng=SampleRng(1), levels=levels, terms=40).in_bits(36)
    assert limit["total"] == pytest.approx(sum(limit[name] for name in ("prior", "diffusion", "reconstruction")))
    # 40 x 36 numbers with 80 looks each: 0.02 bits; the sum of 4000 steps lies above its integral by 0.02
    assert steps["total"] == pytest.approx(bits, abs=0.06) and limit["total"] == pytest.approx(bits, abs=0.06)


def test_images_are_rounded_to_their_levels():
    levels = torch.linspace(-1, 1, 17)[:, None]
    noise = (torch.rand(17, 1) - 0.5) * 0.999 * 2 / 16
    torch.testing.assert_close(rounded(levels + noise, 17), levels)
    assert rounded(noise, None) is noise


def test_the_interval_of_learned_variances_is_the_published_one():
    """log beta and the clipped log beta~ of improved diffusion, by its own recurrences on its cosine schedule."""
    steps = 50
    path = Stepwise.of(PATHS["cosine"], steps)
    betas = torch.tensor(path.betas, dtype=torch.float64)
    bars = (1 - betas).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    small = betas * (1 - before) / (1 - bars)
    clipped = torch.cat([small[1:2], small[1:]]).log()
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    low, high = log_variances(path, t, t - 1 / steps)
    torch.testing.assert_close(low, clipped, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(high, betas.log(), rtol=1e-9, atol=1e-9)


def test_what_makes_no_sense_is_said():
    denoiser, x = exact(Linear(), "velocity"), gaussian_data(3)
    with pytest.raises(UserError, match="at least 2 draws"):
        discrete_bound(denoiser, x, grid(4), rng=SampleRng(0), draws=1)
    with pytest.raises(UserError, match="1 or more; 0"):
        continuous_bound(denoiser, x, rng=SampleRng(0), terms=0)
    with pytest.raises(UserError, match="fall from noise to data"):
        discrete_bound(denoiser, x, grid(4).flip(0), rng=SampleRng(0))
    with pytest.raises(UserError, match="variance is 'learned'"):
        discrete_bound(denoiser, x, grid(4), rng=SampleRng(0), variance="learned")
