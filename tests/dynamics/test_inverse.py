"""Inverse problems on Gaussian data, where the posterior is known in closed form."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.inverse import (
    DDNM,
    DDRM,
    DPS,
    METHODS,
    PiGDM,
    Problem,
    RePaint,
    find_method,
    noised,
    pigdm,
    posterior_samples,
    travels,
)
from pushforward.dynamics.operators import (
    JPEG,
    CircularBlur,
    Composition,
    DownSample,
    Grey,
    ReflectedBlur,
    gaussian_kernel,
    hidden_box,
)
from pushforward.dynamics.paths import Cosine, Linear, Path, Trigonometric, VariancePreserving
from pushforward.dynamics.solvers import DDIM, carry, time_grid
from pushforward.dynamics.targets import compose
from pushforward.errors import UserError
from pushforward.randomness import SampleRng, UpdateRng

SHAPE = (2, 2, 4)
SIZE = 16
PATHS = {"linear": Linear(), "vp": VariancePreserving(), "cosine": Cosine(), "trigonometric": Trigonometric()}


@dataclass(frozen=True)
class GaussianNet:
    """E[y | x_t] of data N(mean, covariance), over all numbers of an image."""

    path: Path
    target: str
    mean: Tensor
    covariance: Tensor

    def __call__(self, x_t, t, *, condition=None, drop=None):
        alpha, sigma, _, _ = self.path(t)
        identity = torch.eye(len(self.mean), dtype=x_t.dtype)
        whole = alpha[0] ** 2 * self.covariance + sigma[0] ** 2 * identity  # rows share their time
        residual = torch.linalg.solve(whole, (x_t.flatten(1) - alpha[0] * self.mean).T).T
        x0 = self.mean + alpha[0] * residual @ self.covariance
        return compose(self.path, self.target, x0.view_as(x_t), (sigma[0] * residual).view_as(x_t), t)


def denoiser_of(path, mean, covariance, target="velocity"):
    return Denoiser(path, target, GaussianNet(path, target, mean, covariance))


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def matrix(operator):
    size = torch.Size(operator.shape).numel()
    return operator(torch.eye(size, dtype=torch.float64).view(size, *operator.shape)).flatten(1).T


def posterior(a, y, noise, mean, covariance):
    """Mean and covariance of x given A x + noise z = y."""
    gain = covariance @ a.T @ torch.linalg.pinv(a @ covariance @ a.T + noise**2 * torch.eye(len(a), dtype=a.dtype), rtol=1e-9)
    return mean + gain @ (y.flatten() - a @ mean), covariance - gain @ a @ covariance


OPERATORS = {
    "mask": hidden_box(SHAPE, 0, 1, 1, 2),
    "down-sample": DownSample(SHAPE, 2),
    "grey": Grey(SHAPE),
    "blur": CircularBlur(SHAPE, gaussian_kernel(0.4)[None, :3] / gaussian_kernel(0.4)[:3].sum()),
    "blur, grey": Composition(ReflectedBlur(SHAPE, torch.tensor([1.0]), torch.tensor([0.1, 0.7, 0.2])), Grey(SHAPE)),
}
VARIANCE = 0.6


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_pigdm_is_exact_for_isotropic_gaussian_data(path, name, noise):
    """E[x0 | x_t, y] of x = N(mean, v I), of which x_t and y are two noisy views: Bayes' rule for both at once."""
    operator, mean = OPERATORS[name], drawn(SIZE, seed=1)
    a, covariance = matrix(operator), VARIANCE * torch.eye(SIZE, dtype=torch.float64)
    y, x_t = drawn(1, *operator.measured, seed=2), drawn(3, *SHAPE, seed=3)
    y = operator(drawn(1, *SHAPE, seed=2)) if not noise else y  # one that can be
    given = pigdm(denoiser_of(path, mean, covariance), Problem(operator, y.expand(3, -1, -1, -1), noise), VARIANCE)
    at, within = posterior(a, y, noise, mean, covariance)
    for t in (0.02, 0.4, 0.97):
        times = torch.full((3,), t, dtype=torch.float64)
        alpha, sigma = (float(c[0]) for c in path(times)[:2])
        whole = alpha**2 * within + sigma**2 * torch.eye(SIZE, dtype=torch.float64)
        expected = at + alpha * torch.linalg.solve(whole, (x_t.flatten(1) - alpha * at).T).T @ within
        x0, found = given(x_t, times)
        torch.testing.assert_close(x0.flatten(1), expected, rtol=0, atol=1e-8)
        torch.testing.assert_close(alpha * x0 + sigma * found, x_t)


@pytest.mark.parametrize(("path", "name", "noise"), [("linear", "mask", 0.0), ("vp", "blur, grey", 0.3)])
def test_pigdm_draws_from_the_posterior_of_gaussian_data(path, name, noise):
    """The ODE is affine in its start, whose law is known: mean and covariance of its end without drawing anything. RK4 in 40
    steps; what remains besides is that it ends at t = 0.001, where x0 is read off."""
    path, operator, mean = PATHS[path], OPERATORS[name], drawn(SIZE, seed=1)
    a, identity = matrix(operator), torch.eye(SIZE, dtype=torch.float64)
    y = operator(drawn(1, *SHAPE, seed=2)) + noise * drawn(1, *operator.measured, seed=4)
    m, s = posterior(a, y, noise, mean, VARIANCE * identity)
    problem = Problem(operator, y.expand(SIZE + 1, -1, -1, -1), noise)
    given = pigdm(denoiser_of(path, mean, VARIANCE * identity), problem, VARIANCE)
    times = time_grid((given.span[0], 0.995), 40, "quadratic", like=y)
    starts = torch.cat([torch.zeros(1, SIZE, dtype=torch.float64), identity]).view(-1, *SHAPE)
    ends = carry(given, starts, times, "rk4")
    ends = given(ends, times[-1:].expand(SIZE + 1))[0].flatten(1)
    offset, slope = ends[0], (ends[1:] - ends[0]).T
    alpha, sigma = (float(c[0]) for c in path(times[:1])[:2])
    torch.testing.assert_close(slope @ (alpha * m) + offset, m, rtol=0, atol=1e-4)
    reached = slope @ (alpha**2 * s + sigma**2 * identity) @ slope.T
    torch.testing.assert_close(reached, s, rtol=0, atol=1e-3)


def test_pigdm_on_average_at_random():
    """Ancestral steps in the same denoiser: means and covariances over 2000 draws, 150 steps of order 1."""
    operator, path = hidden_box((1, 1, 4), 0, 0, 1, 2), Linear()
    y = operator(torch.tensor([9.0, 9.0, 1.0, -0.5]).double().view(1, 1, 1, 4)).expand(2000, -1, -1, -1)
    covariance = VARIANCE * torch.eye(4, dtype=torch.float64)
    problem = Problem(operator, y, 0.5)
    m, s = posterior(matrix(operator), y[0], 0.5, torch.full((4,), 0.2).double(), covariance)
    # A A^T is 1 in two directions and 0 in two, whose y is 0 and says nothing
    denoiser = denoiser_of(path, torch.full((4,), 0.2).double(), covariance)
    x = posterior_samples(denoiser, PiGDM(problem, VARIANCE), rng=SampleRng(0), steps=150).flatten(1)
    # four standard errors: 4 * 0.77 / 45, and 4 * 0.6 * 2^(1/2) / 45
    torch.testing.assert_close(x.mean(0), m, rtol=0, atol=0.07)
    torch.testing.assert_close(x.T.cov(), s, rtol=0, atol=0.075)


def spread():
    """A covariance that is not isotropic."""
    root = drawn(SIZE, SIZE, seed=5) / SIZE**0.5
    return root @ root.T + 0.05 * torch.eye(SIZE, dtype=torch.float64)


@pytest.mark.parametrize("method", ["ddnm", "ddrm", "repaint"])
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("target", ["velocity", "noise"])
def test_without_noise_what_is_measured_is_kept(method, name, target):
    operator = OPERATORS[name]
    y = operator(drawn(2, *SHAPE, seed=2))
    denoiser = denoiser_of(PATHS["cosine"], torch.zeros(SIZE, dtype=torch.float64), spread(), target)
    x = posterior_samples(denoiser, find_method(method)(Problem(operator, y)), rng=SampleRng(1), steps=20)
    torch.testing.assert_close(operator(x), y, rtol=0, atol=1e-9)
    hidden = x - operator.pseudo_inverse(operator(x))
    assert name == "blur" or hidden.flatten(1).norm(dim=1).min() > 0.1  # the rest is drawn; this blur hides nothing


class Fixed(UpdateRng):
    """Draws what it is told."""

    def __init__(self, z):
        super().__init__(torch.Generator())
        self.z = iter(z)

    def randn_like(self, x):
        return next(self.z)


def coordinates(operator, y):
    """V (n, n), singular values (n,), 0 where A is, and U^T y (b, n) with 0 there."""
    u, values, vt = torch.linalg.svd(matrix(operator), full_matrices=True)
    whole = torch.zeros(SIZE, dtype=torch.float64)
    whole[: len(values)] = values.where(values > 1e-9, torch.zeros_like(values))
    seen = torch.zeros(len(y), SIZE, dtype=torch.float64)
    seen[:, : len(u)] = (y.flatten(1) @ u)[:, :SIZE]
    return vt.T, whole, seen * (whole > 0)


def instant(path, t):
    """(times (2,), alpha, sigma)."""
    times = torch.full((2,), t, dtype=torch.float64)
    return times, float(path(times)[0][0]), float(path(times)[1][0])


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.4, 3.0])
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("t", "s"), [(0.8, 0.7), (0.3, 0.25), (0.05, 0.0)])
def test_a_step_of_ddnm_is_the_papers_in_singular_coordinates(name, noise, t, s):
    """Equations 17 and 19 of Wang et al., with their a_t the weight of x0 in the mean of x_s given x0 and x_t, their sigma_t
    its standard deviation, Lambda and Phi as in equations 45 to 48."""
    operator, path = OPERATORS[name], PATHS["vp"]
    y = operator(drawn(2, *SHAPE, seed=2)) + noise * drawn(2, *operator.measured, seed=6)
    x, z = drawn(2, *SHAPE, seed=3), drawn(2, *SHAPE, seed=4)
    y = operator(operator.pseudo_inverse(y))  # a mask's y is 0 where nothing is measured
    denoiser = denoiser_of(path, torch.zeros(SIZE, dtype=torch.float64), spread())
    (t, alpha_t, sigma_t), (s, alpha_s, sigma_s) = instant(path, t), instant(path, s)
    found, _ = DDNM(Problem(operator, y, noise)).step(denoiser, x, t, s, rng=Fixed([z]))

    ratio = alpha_t / alpha_s
    between = sigma_t**2 - ratio**2 * sigma_s**2
    weight_x0, weight_x = alpha_s * between / sigma_t**2, ratio * sigma_s**2 / sigma_t**2
    fresh = sigma_s * between**0.5 / sigma_t
    v, d, seen = coordinates(operator, y)
    x0 = denoiser(x, t)[0].flatten(1) @ v
    share, left = torch.ones(SIZE).double(), torch.full((SIZE,), fresh).double()
    for i in range(SIZE):
        if d[i] > 0 and noise:
            brought = weight_x0 * noise / float(d[i])
            share[i] = 1.0 if fresh >= brought else fresh / brought
            left[i] = max(fresh**2 - (share[i] * brought) ** 2, 0) ** 0.5
    gap = torch.where(d > 0, seen / d.clamp(min=1e-9) - x0, 0.0)
    expected = weight_x0 * (x0 + share * gap) + weight_x * x.flatten(1) @ v + left * (z.flatten(1) @ v)
    torch.testing.assert_close(found.flatten(1), expected @ v.T, rtol=0, atol=1e-7)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("t", "s"), [(0.8, 0.7), (0.3, 0.25), (0.05, 0.0)])
def test_a_step_of_ddrm_is_the_papers_in_singular_coordinates(name, noise, t, s):
    """Equations 7 and 8 of Kawar et al., who write x for our x / alpha and sigma for our sigma / alpha."""
    operator, path, eta, eta_b = OPERATORS[name], PATHS["linear"], 0.6, 0.9
    y = operator(drawn(2, *SHAPE, seed=2) + noise * drawn(2, *SHAPE, seed=6))
    x, z = drawn(2, *SHAPE, seed=3), drawn(2, *SHAPE, seed=4)
    denoiser = denoiser_of(path, torch.zeros(SIZE, dtype=torch.float64), spread())
    (t, alpha_t, sigma_t), (s, alpha_s, sigma_s) = instant(path, t), instant(path, s)
    found, _ = DDRM(Problem(operator, y, noise), eta, eta_b).step(denoiser, x, t, s, rng=Fixed([z]))

    v, d, seen = coordinates(operator, y)
    x0, now, drawn_z = denoiser(x, t)[0].flatten(1) @ v, x.flatten(1) @ v / alpha_t, z.flatten(1) @ v
    before, after = sigma_t / alpha_t, sigma_s / alpha_s
    expected = torch.empty_like(x0)
    for i in range(SIZE):
        level = noise / float(d[i]) if d[i] > 0 else float("inf")
        direct = seen[:, i] / d[i]
        if d[i] == 0:
            mean, deviation = x0[:, i] + (1 - eta**2) ** 0.5 * after * (now[:, i] - x0[:, i]) / before, eta * after
        elif after < level:
            mean, deviation = x0[:, i] + (1 - eta**2) ** 0.5 * after * (direct - x0[:, i]) / level, eta * after
        else:
            mean, deviation = (1 - eta_b) * x0[:, i] + eta_b * direct, (after**2 - level**2 * eta_b**2) ** 0.5
        expected[:, i] = mean + deviation * drawn_z[:, i]
    torch.testing.assert_close(found.flatten(1), alpha_s * expected @ v.T, rtol=0, atol=1e-7)


def test_a_step_of_dps_descends_the_residual():
    """Of Gaussian data J = d x0 / d x_t = alpha C (alpha^2 C + sigma^2 I)^-1 is known."""
    operator, path, covariance = OPERATORS["blur, grey"], Linear(), spread()
    y, x, z = operator(drawn(2, *SHAPE, seed=2)), drawn(2, *SHAPE, seed=3), drawn(2, *SHAPE, seed=4)
    denoiser = denoiser_of(path, torch.zeros(SIZE, dtype=torch.float64), covariance)
    (t, alpha, sigma), (s, _, _) = instant(path, 0.5), instant(path, 0.45)
    found, _ = DPS(Problem(operator, y), scale=0.7).step(denoiser, x, t, s, rng=Fixed([z]))
    plain, _ = DDIM(1.0).step(denoiser, x, t, s, rng=Fixed([z]))
    jacobian = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(SIZE, dtype=torch.float64))
    residual = (y - operator(denoiser(x, t)[0])).flatten(1)
    downhill = residual / residual.norm(dim=1, keepdim=True) @ matrix(operator) @ jacobian
    torch.testing.assert_close((found - plain).flatten(1), 0.7 * downhill, rtol=0, atol=1e-10)


def test_dps_comes_to_what_is_measured_by_small_steps():
    operator = OPERATORS["down-sample"]
    y = operator(drawn(8, *SHAPE, seed=2))
    denoiser = denoiser_of(Linear(), torch.zeros(SIZE, dtype=torch.float64), spread())
    far = []
    for scale in (0.0, 0.02, 0.1):
        x = posterior_samples(denoiser, DPS(Problem(operator, y), scale), rng=SampleRng(0), steps=100)
        far.append((operator(x) - y).flatten(1).norm(dim=1).mean().item())
    assert far[1] < 0.85 * far[0] and far[2] < 0.1 * far[0], far


def test_a_step_of_repaint_puts_what_is_known_in_its_place():
    operator, path = OPERATORS["down-sample"], Linear()
    y, x, z, other = operator(drawn(2, *SHAPE, seed=2)), *(drawn(2, *SHAPE, seed=seed) for seed in (3, 4, 5))
    denoiser = denoiser_of(path, torch.zeros(SIZE, dtype=torch.float64), spread())
    (t, _, _), (s, alpha, sigma) = instant(path, 0.5), instant(path, 0.4)
    found, _ = RePaint(Problem(operator, y)).step(denoiser, x, t, s, rng=Fixed([z, other]))
    plain, _ = DDIM(1.0).step(denoiser, x, t, s, rng=Fixed([z]))
    torch.testing.assert_close(operator(found), alpha * y + sigma * operator(other))
    torch.testing.assert_close(
        found - operator.pseudo_inverse(operator(found)), plain - operator.pseudo_inverse(operator(plain))
    )


def test_going_back_brings_repaint_to_the_conditional_law():
    """x_2 given x_1 = 1 of two numbers of correlation 0.8: N(0.8, 0.36). Its mean comes near with each return; its variance
    with shorter steps, of which each return repeats the error. Errors of 2000 draws: 0.013 and 0.011."""
    operator, correlated = hidden_box((1, 1, 2), 0, 1, 1, 1), torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    y = operator(torch.ones(2000, 1, 1, 2, dtype=torch.float64))
    denoiser = denoiser_of(Trigonometric(), torch.zeros(2).double(), correlated)
    mean, variance = {}, {}
    for steps, resamplings in ((20, 1), (20, 4), (20, 12), (80, 12)):
        method = RePaint(Problem(operator, y))
        x = posterior_samples(denoiser, method, rng=SampleRng(0), steps=steps, resamplings=resamplings)[:, 0, 0]
        torch.testing.assert_close(x[:, 0], torch.ones(2000).double())
        mean[steps, resamplings], variance[steps, resamplings] = x[:, 1].mean().item() - 0.8, x[:, 1].var().item() - 0.36
    assert mean[20, 1] < -0.2 and abs(mean[20, 4]) < 0.5 * abs(mean[20, 1]) and abs(mean[20, 12]) < 0.06, mean
    assert abs(mean[80, 12]) < 0.06 and abs(variance[80, 12]) < 0.5 * abs(variance[20, 12]), (mean, variance)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_noise_added_on_the_way_back_is_that_of_the_path(path):
    (t, alpha_t, sigma_t), (s, alpha_s, sigma_s) = instant(path, 0.2), instant(path, 0.6)
    x = torch.full((2, 1), 3.0, dtype=torch.float64)
    moved = noised(path, x, t, s, Fixed([torch.zeros_like(x)]))
    added = noised(path, x, t, s, Fixed([torch.ones_like(x)])) - moved
    torch.testing.assert_close(moved, alpha_s / alpha_t * x)
    # x_t = alpha_t x0 + sigma_t noise, and what is added, make up sigma_s
    torch.testing.assert_close((alpha_s / alpha_t * sigma_t) ** 2 + added**2, torch.full_like(x, sigma_s**2))


def test_times_that_go_back():
    down = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    assert travels(down).tolist() == down.tolist()
    there = travels(down, jump=2, resamplings=3)
    torch.testing.assert_close(there, torch.tensor([1, 0.8, 0.5, 1, 0.8, 0.5, 1, 0.8, 0.5, 0.2, 0, 0.5, 0.2, 0, 0.5, 0.2, 0.0]))


@pytest.mark.parametrize("method", METHODS)
def test_a_row_depends_on_itself_alone(method):
    operator = OPERATORS["mask"]
    y = operator(drawn(3, *SHAPE, seed=2))
    denoiser = denoiser_of(VariancePreserving(), torch.zeros(SIZE, dtype=torch.float64), spread())
    both = [
        posterior_samples(denoiser, METHODS[method](Problem(operator, rows)), rng=SampleRng(4, first=first), steps=5)
        for rows, first in ((y, 0), (y[1:2], 1))
    ]
    torch.testing.assert_close(both[0][1:2], both[1])


def test_pigdm_keeps_x0_within_bounds():
    operator = OPERATORS["mask"]
    y = operator(torch.full((2, *SHAPE), 3.0, dtype=torch.float64))
    denoiser = denoiser_of(Linear(), torch.zeros(SIZE, dtype=torch.float64), spread())
    (t, _, _), (s, _, _) = instant(Linear(), 0.9), instant(Linear(), 0.0)
    free, held = (
        PiGDM(Problem(operator, y, bounds=bounds)).step(denoiser, drawn(2, *SHAPE), t, s, rng=SampleRng(0))[0]
        for bounds in (None, (-0.5, 1.0))
    )
    assert free.max() > 1.1 and free.min() < -0.6
    torch.testing.assert_close(held, free.clamp(-0.5, 1.0))


@pytest.mark.parametrize("method", METHODS)
def test_what_a_picture_shows_in_its_hole_is_nothing(method):
    y = drawn(2, *SHAPE, seed=2)
    denoiser = denoiser_of(VariancePreserving(), torch.zeros(SIZE, dtype=torch.float64), spread())
    both = [
        posterior_samples(denoiser, METHODS[method](Problem(OPERATORS["mask"], given)), rng=SampleRng(4), steps=4)
        for given in (y, OPERATORS["mask"](y))
    ]
    torch.testing.assert_close(both[0], both[1])


@pytest.mark.parametrize("method", ["pigdm", "ddnm", "ddrm", "dps"])
def test_jpeg_is_brought_nearer_to_what_its_file_says(method):
    operator = JPEG((1, 8, 8), 5)
    smooth = torch.exp(-((torch.arange(64).double()[:, None] - torch.arange(64)) / 8).square())
    denoiser = denoiser_of(Linear(), torch.zeros(64, dtype=torch.float64), 0.1 * smooth + 0.001 * torch.eye(64).double())
    y = operator(0.3 * torch.linspace(-1, 1, 64).double().view(1, 1, 8, 8))
    options = {"scale": 0.05} if method == "dps" else {}
    x = posterior_samples(denoiser, METHODS[method](Problem(operator, y), **options), rng=SampleRng(0), steps=50)
    free = posterior_samples(denoiser, DPS(Problem(operator, y), scale=0.0), rng=SampleRng(0), steps=50)
    assert (operator(x) - y).norm() < 0.3 * (operator(free) - y).norm()


ANY = denoiser_of(Linear(), torch.zeros(SIZE), torch.eye(SIZE))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda problem: Problem(problem.operator, problem.y, -0.1), "0 or more"),
        (lambda problem: Problem(problem.operator, problem.y, float("nan")), "0 or more"),
        (lambda problem: Problem(problem.operator, torch.zeros(1, *SHAPE)), "measurements of shape (2, 2, 4) were given"),
        (lambda problem: DPS(problem, scale=-1.0), "scale = -1.0"),
        (lambda problem: DDRM(problem, eta=1.5), "eta = 1.5"),
        (lambda problem: RePaint(Problem(problem.operator, problem.y, 0.1)), "take ddnm or pigdm"),
        (lambda problem: pigdm(ANY, problem, 0.0), "above 0"),
        (lambda problem: find_method("pigmd"), "did you mean pigdm?"),
        (lambda problem: travels(torch.ones(3), 0), "1 or more"),
        (lambda problem: posterior_samples(ANY, DPS(problem), rng=SampleRng(0), resamplings=2), "does not go back in time"),
        (lambda problem: DDNM(problem).step(ANY, problem.y, torch.ones(1), torch.zeros(1)), "no rng"),
    ],
)
def test_what_cannot_be_is_said(make, words):
    operator = DownSample(SHAPE, 2)
    with pytest.raises(UserError) as error:
        make(Problem(operator, torch.zeros(1, *operator.measured)))
    assert words in str(error.value)
