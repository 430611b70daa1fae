"""Score matching: on Gaussians every objective has its minimum at the precision, and is Fisher's divergence less a constant."""

import math

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.contract import Learns, Samples, Scores, Trajectories, capabilities
from pushforward.models.diffusion.score import ScoreMatching, denoising, implicit, sliced
from pushforward.randomness import SampleRng, UpdateRng

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
POINTS = DataSpec("point", (2,))
SIGMA = 0.5


def draws(rows, seed=0):
    """Draws with exactly the mean 0 and this covariance: identities of second moments hold to the last digit."""
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / rows)).T
    return x @ torch.linalg.cholesky(COVARIANCE).T


def signs(probes, rows, seed=1):
    return torch.randint(2, (probes, rows, 2), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def all_signs(rows):
    """Both pairs of directions with equal and unequal signs: v v^T is the identity on average, exactly."""
    return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)[:, None].expand(-1, rows, -1)


@pytest.mark.parametrize("objective", ["implicit", "sliced", "sliced-varied", "denoising"])
def test_the_best_linear_score_is_the_precision(objective):
    """Of s(x) = -A x the loss is quadratic: one step of Newton's from 0 is at its minimum."""
    rows = 4000
    x, noise = draws(rows), torch.randn(rows, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def loss(A):
        def score(x):
            return -x @ A.T

        return {
            "implicit": lambda: implicit(score, x),
            "sliced": lambda: sliced(score, x, all_signs(rows)),
            "sliced-varied": lambda: sliced(score, x, signs(40, rows), reduced=False),
            "denoising": lambda: denoising(score, x, noise, SIGMA),
        }[objective]().mean()

    zero = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(loss(zero), zero, create_graph=True)[0].flatten()
    curvature = torch.stack([torch.autograd.grad(part, zero, retain_graph=True)[0].flatten() for part in slope])
    best = -torch.linalg.solve(curvature, slope.detach()).reshape(2, 2)
    smoothed = COVARIANCE + SIGMA**2 * torch.eye(2) if objective == "denoising" else COVARIANCE
    # exact but for the noise: 4000 rows of it, or 40 directions each
    tolerance = {"implicit": 1e-9, "sliced": 1e-9, "sliced-varied": 0.1, "denoising": 0.06}[objective]
    torch.testing.assert_close(best, torch.linalg.inv(smoothed), rtol=0, atol=tolerance)


def test_the_losses_are_fishers_divergence_less_a_constant():
    x, rows = draws(2000), 2000
    A = torch.tensor([[0.7, -0.3], [0.1, 1.4]], dtype=torch.float64)

    def score(x):
        return -x @ A.T

    precision = torch.linalg.inv(COVARIANCE)
    fisher = 0.5 * (score(x) + x @ precision).square().sum(1).mean()
    constant = 0.5 * precision.trace()  # 1/2 E |grad log p|^2
    torch.testing.assert_close(implicit(score, x).mean() + constant, fisher)
    torch.testing.assert_close(sliced(score, x, all_signs(rows)).mean() + constant, fisher)
    # of the smoothed law; E over the noise: 1/2 E |noise / sigma|^2 less what is known of it
    smoothed = torch.linalg.inv(COVARIANCE + SIGMA**2 * torch.eye(2))
    difference = A - smoothed
    fisher = 0.5 * (difference @ (COVARIANCE + SIGMA**2 * torch.eye(2)) @ difference.T).trace()
    constant = 0.5 * smoothed.trace() - 0.5 * 2 / SIGMA**2
    noise = torch.randn(400, 2000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    each = torch.stack([denoising(score, x, part, SIGMA) for part in noise]).flatten()
    assert abs(float(each.mean() + constant - fisher)) < 4 * float(each.std()) / len(each) ** 0.5


def test_the_terms_of_a_score_that_bends():
    """Row by row, against the Jacobian of a function that is not linear and does not come from an energy."""
    x = draws(5)

    def one(row):
        return torch.stack([row[0] ** 2 * row[1], row[0].sin() + row[1] ** 3])

    def score(x):
        return torch.stack([one(row) for row in x])

    jacobians = torch.stack([torch.func.jacrev(one)(row) for row in x])
    s = score(x)
    torch.testing.assert_close(implicit(score, x), jacobians.diagonal(0, 1, 2).sum(1) + 0.5 * s.square().sum(1))
    v = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bent = torch.einsum("kbi,bij,kbj->b", v, jacobians, v) / 3
    torch.testing.assert_close(sliced(score, x, v), bent + 0.5 * s.square().sum(1))
    seen = torch.einsum("kbi,bi->kb", v, s).square().mean(0)
    torch.testing.assert_close(sliced(score, x, v, reduced=False), bent + 0.5 * seen)


def test_less_varies_in_the_reduced_form():
    x = draws(2000)
    loss = [sliced(lambda x: -3 * x, x, signs(1, 2000), reduced=reduced) for reduced in (True, False)]
    assert float(loss[0].var()) < float(loss[1].var())


class Linear(nn.Module):
    """s(x) = x B^T."""

    def __init__(self, B):
        super().__init__()
        self.B = nn.Parameter(B)

    def forward(self, x, t, embedding=None):
        return x @ self.B.T


def test_an_energy_has_its_slope_as_score():
    """1/2 |x - B x|^2 has the slope (1 - B)^T (1 - B) x."""
    B = torch.tensor([[0.2, 0.5], [-0.3, 0.1]])
    model = ScoreMatching(POINTS, energy=True, net=Linear(B))
    x, t = torch.randn(6, 2), torch.zeros(6)
    left = torch.eye(2) - B
    expected = -x @ (left.T @ left)
    torch.testing.assert_close(model.score(x, t), expected)
    with torch.no_grad():
        torch.testing.assert_close(model.score(x, t), expected)
    model = ScoreMatching(POINTS, objective="denoising", sigma=1.0, energy=True, net=Linear(B))
    model.loss(Batch(x), SampleRng(0)).total.backward()
    noise, plain = SampleRng(0).randn(6, 2), B.clone().requires_grad_()
    left = torch.eye(2) - plain
    (denoising(lambda x: -x @ (left.T @ left), x, noise, 1.0).mean() / 2).backward()
    torch.testing.assert_close(model.net.B.grad, plain.grad)


@pytest.mark.parametrize("objective", ["implicit", "sliced", "denoising"])
def test_the_loss_is_the_objective_of_noisy_data(objective):
    """Through the class: the minimum of the loss over linear scores is the precision of the smoothed law, for all three."""
    model = ScoreMatching(POINTS, objective=objective, sigma=SIGMA, probes=4, net=Linear(torch.zeros(2, 2)))
    x = draws(20_000).float()
    loss = model.loss(Batch(x), SampleRng(0)).total
    slope = torch.autograd.grad(loss, model.net.B, create_graph=True)[0].flatten()
    curvature = torch.stack([torch.autograd.grad(part, model.net.B, retain_graph=True)[0].flatten() for part in slope])
    best = -torch.linalg.solve(curvature, slope.detach()).reshape(2, 2)
    expected = -torch.linalg.inv(COVARIANCE + SIGMA**2 * torch.eye(2)).float()
    torch.testing.assert_close(best, expected, rtol=0, atol=0.04)
    # sigma^2 and the mean over dimensions: at s = 0 denoising is 1/2 |noise|^2 / D
    assert float(loss.detach()) == pytest.approx(0.5 if objective == "denoising" else 0.0, abs=0.01)


def mixture_score(x, sigma):
    """Of 1/2 N((-1, 0), 0.3^2) + 1/2 N((1, 0), 0.3^2) with noise sigma."""
    variance = 0.3**2 + sigma**2
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    shares = (-((x[:, None] - means) ** 2).sum(-1) / (2 * variance)).softmax(1)
    return (shares @ means - x) / variance


def mixture(rows, rng):
    return 0.3 * rng.randn(rows, 2) + torch.stack([2 * rng.rand(rows).round() - 1, torch.zeros(rows)], 1)


@pytest.mark.parametrize("objective, energy", [("sliced", False), ("denoising", True)])
def test_a_small_network_learns_the_score_of_a_mixture(objective, energy):
    model = ScoreMatching(POINTS, objective=objective, sigma=0.3, energy=energy, width=32, depth=2)
    optimiser = torch.optim.Adam(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 250)
    stream = UpdateRng(torch.Generator().manual_seed(0))
    for _ in range(250):
        optimiser.zero_grad()
        model.loss(Batch(mixture(256, stream)), stream).total.backward()
        optimiser.step()
        schedule.step()
    x = mixture(2000, SampleRng(1)) + 0.3 * SampleRng(2).randn(2000, 2)
    truth = mixture_score(x, 0.3)
    error = (model.score(x, torch.zeros(2000)) - truth).square().sum() / truth.square().sum()
    assert float(error) < 0.05  # 0.01 to 0.03; a score of 0 has 1
    if objective == "sliced":
        made = model.sample(500, generator=0, steps=200, step=0.4)
        # half of them by each mode, of the mode's deviation (0.3, less what Tweedie's mean takes from 0.3 and 0.3)
        assert float((made[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.12)
        assert float(made[:, 1].std()) == pytest.approx(0.3 * 0.3 / math.sqrt(0.18), abs=0.05)
        assert float((made[:, 0].abs() - 1).abs().median()) < 0.25


def test_langevin_of_the_right_score_draws_the_smoothed_law_and_tweedie_takes_the_noise():
    precision = torch.linalg.inv(COVARIANCE + SIGMA**2 * torch.eye(2)).float()
    model = ScoreMatching(POINTS, sigma=SIGMA, net=Linear(-precision))
    noisy = model.sample(20_000, generator=3, steps=150, step=0.2, denoise=False)
    # a step h makes the precision P into P (1 - h P / 2): known, and 5 % here
    h = 0.2 * SIGMA**2
    expected = torch.linalg.inv(precision @ (torch.eye(2) - h / 2 * precision))
    torch.testing.assert_close(noisy.T.cov(), expected, rtol=0, atol=0.06)
    clean = model.sample(20_000, generator=3, steps=150, step=0.2)
    torch.testing.assert_close(clean, noisy @ (torch.eye(2) - SIGMA**2 * precision).T, rtol=1e-4, atol=1e-4)
    path = model.trajectory(4, frames=3, generator=3, steps=20)
    torch.testing.assert_close(path[0], SampleRng(3).randn(4, 2))
    torch.testing.assert_close(path[-1], model.sample(4, generator=3, steps=20))
    alone = model.sample(2, generator=SampleRng(3, first=1), steps=20)
    torch.testing.assert_close(alone, model.sample(4, generator=3, steps=20)[1:3])
    alpha, sigma, _, _ = model.path(torch.tensor([0.0, 1.0]))
    assert alpha.tolist() == [1.0, 1.0] and sigma.tolist() == [SIGMA, SIGMA]


@pytest.mark.parametrize("objective, energy", [("sliced", False), ("sliced", True), ("denoising", False)])
def test_images_by_a_u_net_with_classes(objective, energy):
    spec = DataSpec("image", (1, 9, 10), condition=Condition("class", 3), levels=17)
    model = ScoreMatching(spec, objective=objective, energy=energy, network="unet", width=8)
    assert isinstance(model, Scores | Samples) and {"samples", "scores", "trajectories"} <= set(capabilities(model))
    assert isinstance(model, Learns) and isinstance(model, Trajectories)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = Batch(torch.rand(4, 1, 9, 10) * 2 - 1, torch.tensor([0, 1, 2, 0]))
    model.loss(batch, SampleRng(0)).total.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    with torch.no_grad():
        assert model.loss(batch, SampleRng(0)).total.isfinite()
    assert model.sample(2, condition=torch.tensor([1, 2]), generator=0, steps=2, step=0.01).shape == (2, 1, 9, 10)


def test_what_makes_no_sense_is_said():
    with pytest.raises(UserError, match="no objective 'slice'"):
        ScoreMatching(POINTS, objective="slice")
    with pytest.raises(UserError, match="above 0 for 'denoising'"):
        ScoreMatching(POINTS, objective="denoising", sigma=0.0)
    with pytest.raises(UserError, match="take objective='sliced'"):
        ScoreMatching(DataSpec("image", (1, 28, 28), levels=256), objective="implicit")
    with pytest.raises(UserError, match="1 or more; 0"):
        ScoreMatching(POINTS, probes=0)
    with pytest.raises(UserError, match="without a condition"):
        ScoreMatching(POINTS).score(torch.zeros(2, 2), torch.zeros(2), condition=torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match="at least 2 frames"):
        ScoreMatching(POINTS).trajectory(2, frames=1)
