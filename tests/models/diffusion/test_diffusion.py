"""Diffusion and flow matching: the theorems where the answer is known in closed form, guidance, and the contract."""

import math

import numpy
import pytest
import torch
from dynamics.exact_gaussian import ExactNet
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.ode import integrate
from pushforward.dynamics.paths import PATHS
from pushforward.dynamics.solvers import SOLVERS
from pushforward.dynamics.targets import TARGETS
from pushforward.dynamics.weightings import weights
from pushforward.errors import UserError
from pushforward.models.contract import Decodes, Density, Encodes, Learns, Samples, Scores, Trajectories, capabilities
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.nets.conditioning import draw_condition
from pushforward.randomness import SampleRng, UpdateRng

DIGITS = DataSpec("image", (1, 8, 8), condition=Condition("class", 10), levels=17, name="digits")
SHAPES = [(1, 8, 8), (3, 9, 16), (4, 12, 11), (2, 4, 4)]


def stream(seed):
    return torch.Generator().manual_seed(seed)


class GaussianVelocity(nn.Module):
    """The exact marginal velocity of data N(mean, covariance): E[noise - x0 | x_t] is linear in x_t."""

    def __init__(self, mean, covariance):
        super().__init__()
        self.mean, self.covariance = mean, covariance

    def forward(self, x, t, embedding=None):
        a, s = 1 - t[0], t[0]  # the solvers give all rows one time
        eye = torch.eye(len(self.mean), dtype=x.dtype)
        marginal = a**2 * self.covariance + s**2 * eye
        gain = torch.linalg.solve(marginal, s * eye - a * self.covariance)  # symmetric matrices that commute
        return (x.flatten(1) - a * self.mean) @ gain.T.reshape(len(self.mean), -1) - self.mean


def gaussian(dimensions, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64) / dimensions**0.5
    covariance = (root @ root.T + 0.2 * torch.eye(dimensions)).to(dtype)
    mean = torch.randn(dimensions, generator=generator, dtype=torch.float64).to(dtype)
    model = Diffusion(DataSpec("point", (dimensions,)), net=GaussianVelocity(mean, covariance))
    return model, torch.distributions.MultivariateNormal(mean, covariance)


def randomised(model):
    """Networks start at 0; give them something to say."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model.eval()


def digits(**settings):
    return randomised(Diffusion(DIGITS, **{"width": 32, "depth": 1, **settings}))


@pytest.mark.parametrize("solver, steps", [("heun", 64), ("rk4", 16), ("dopri5", 1)])
def test_exact_velocity_samples_the_gaussian(solver, steps):
    model, law = gaussian(3)
    x = model.sample(20_000, generator=stream(0), solver=solver, steps=steps)
    # standard errors of means and covariances with 20,000 rows are below 0.012 and 0.025 here; five of them
    assert (x.mean(0) - law.mean).abs().max() < 5 * 0.012
    assert (x.T.cov() - law.covariance_matrix).abs().max() < 5 * 0.025


def test_density_of_the_gaussian_by_the_exact_divergence():
    model, law = gaussian(4, torch.float64)
    x = law.sample((50,))
    got = model.log_prob(x, solver="rk4", steps=32)
    assert got.kind == "estimate" and torch.equal(got.stderr, torch.zeros(50))
    assert (got.value - law.log_prob(x)).abs().max() < 1e-3  # the requirement; float32 sums and rk4 leave about 1e-5


def test_density_of_the_gaussian_by_hutchinson():
    model, law = gaussian(80)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = law.sample((40,))
    got = model.log_prob(x, solver="rk4", steps=24, probes=16)
    deviations = (got.value - law.log_prob(x)) / got.stderr
    assert got.stderr.min() > 0.05
    # 40 deviations in units of an error estimated from 16 probes: Student's t with 15 degrees of freedom
    assert abs(deviations.mean()) < 4 * 1.07 / math.sqrt(40) and 0.6 < deviations.std() < 1.6
    again = model.log_prob(x[10:12], solver="rk4", steps=24, probes=16, generator=SampleRng(0, first=10))
    torch.testing.assert_close(again.value, got.value[10:12], rtol=1e-4, atol=1e-2)  # float32, other matrix sizes


def test_density_of_any_network_integrates_to_one():
    torch.manual_seed(3)
    model = randomised(Diffusion(DataSpec("point", (1,)), width=16, depth=1)).double()
    x = torch.linspace(-9, 9, 1201, dtype=torch.float64)[:, None]
    p = model.log_prob(x, steps=24, solver="rk4").value.double().exp()
    assert abs(torch.trapezoid(p, x[:, 0]) - 1) < 1e-3  # grid and solver errors; a wrong sign gives tenths
    assert (p - torch.exp(-(x[:, 0] ** 2) / 2) / (2 * math.pi) ** 0.5).abs().max() > 0.02  # and it is not just its base


@pytest.mark.parametrize("moment", [0.05, 0.5, 0.95])
def test_score_is_the_gradient_of_the_log_density(moment):
    model, law = gaussian(3, torch.float64)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    a, s = 1 - moment, moment
    marginal = torch.distributions.MultivariateNormal(
        a * law.mean, a**2 * law.covariance_matrix + s**2 * torch.eye(3, dtype=torch.float64)
    )
    (expected,) = torch.autograd.grad(marginal.log_prob(x).sum(), x)
    got = model.score(x.detach(), torch.full((6,), moment, dtype=torch.float64))
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_score_is_finite_at_the_data():
    assert digits().score(torch.rand(2, 1, 8, 8), torch.zeros(2)).isfinite().all()


class Tiny(nn.Module):
    """v = theta . features(x, t), so that its expected gradients are plain integrals."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.3, -0.2, 0.5, 0.1, -0.4], dtype=torch.float64))

    def features(self, x, t):
        return torch.stack([torch.ones_like(x), x, t, x * t, torch.sin(2 * x)], -1)

    def forward(self, x, t, embedding=None):
        return (self.features(x[:, 0], t) @ self.theta)[:, None]


def test_conditional_and_marginal_flow_matching_have_equal_gradients():
    """Lipman et al. 2023, theorem 2, on three data points: the model's loss by Monte Carlo against the regression of the
    marginal velocity (posterior mean over the data points) by quadrature over t and x."""
    data, net = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64), Tiny()
    model = Diffusion(DataSpec("point", (1,)), net=net)

    n = 600_000
    total = model.loss(Batch(data.repeat(n // 3)[:, None]), UpdateRng(stream(0))).total
    (conditional,) = torch.autograd.grad(total, net.theta)

    nodes, weights = (torch.tensor(u) for u in numpy.polynomial.legendre.leggauss(60))
    t, dt = ((nodes + 1) / 2)[:, None], (weights / 2)[:, None]
    # noise is integrated per data point, on a grid that follows it: x = (1 - t) x0 + t e
    e = torch.linspace(-8, 8, 801, dtype=torch.float64)
    density = torch.exp(-(e**2) / 2) / math.sqrt(2 * math.pi) * (e[1] - e[0])
    marginal = torch.zeros(5, dtype=torch.float64)
    for x0 in data:
        x = (1 - t) * x0 + t * e
        noises = (x[..., None] - (1 - t)[..., None] * data) / t[..., None]
        posterior = torch.softmax(-(noises**2) / 2, -1)  # all have the same t, the same prior
        u = (posterior * (noises - data)).sum(-1)
        features = net.features(x, t.expand_as(x))
        error = 2 * (features @ net.theta.detach() - u)[..., None] * features
        marginal += (error * (density * dt)[..., None]).sum((0, 1)) / 3
    # The gradient of one row has a standard deviation of at most about 7; 600,000 rows leave 0.01. Five of them.
    assert (conditional - marginal).abs().max() < 0.05
    assert marginal.abs().max() > 0.5


def test_loss_is_the_mean_square_distance_to_noise_minus_data():
    class Data(nn.Module):
        def forward(self, x, t, embedding=None):
            return x * 0 + 2.0

    model = Diffusion(DataSpec("point", (4,)), net=Data())
    x = torch.randn(4, 4)  # B equals the width
    rng = UpdateRng(stream(5))
    rng.rand(4)
    noise = rng.randn(4, 4)
    got = model.loss(Batch(x), UpdateRng(stream(5))).total
    torch.testing.assert_close(got, ((2.0 - (noise - x)) ** 2).mean())


def test_times_are_drawn_as_asked():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, t, embedding=None):
            seen.append(t)
            return x

    for name in ("uniform", "logit-normal"):
        model = Diffusion(DataSpec("point", (1,)), net=Spy(), time_sampling=name)
        model.loss(Batch(torch.zeros(20_000, 1)), UpdateRng(stream(0)))
    uniform, logit_normal = seen
    grid = torch.linspace(0.05, 0.95, 19)
    # largest distance of distribution functions: Kolmogorov-Smirnov at 20,000 draws, 0.0138 with probability 0.001
    for t, law in ((uniform, grid), (logit_normal, torch.special.ndtr(torch.logit(grid)))):
        assert ((t[:, None] <= grid).float().mean(0) - law).abs().max() < 0.0138


def test_codes_and_data_are_each_others_inverse():
    model = digits()
    z, condition = model.draw_codes(3, generator=0), torch.tensor([1, 2, 3])
    x = model.decode(z, condition=condition, steps=32, solver="rk4")
    assert (x - z).abs().max() > 0.05
    torch.testing.assert_close(model.encode(x, condition=condition, steps=32, solver="rk4"), z, rtol=1e-4, atol=1e-4)


def test_sample_is_decode_of_its_codes_and_the_end_of_its_trajectory():
    model, condition = digits(), torch.tensor([1, 2, 3])
    z = model.draw_codes(3, generator=SampleRng(4))
    x = model.sample(3, condition=condition, generator=SampleRng(4), steps=5)
    torch.testing.assert_close(x, model.decode(z, condition=condition, steps=5))
    frames = model.trajectory(3, frames=4, condition=condition, generator=SampleRng(4), steps=5)
    assert frames.shape == (4, 3, 1, 8, 8)
    assert torch.equal(frames[0], z) and torch.equal(frames[-1], x)
    assert model.trajectory(2, frames=9, generator=1, steps=3).shape == (9, 2, 1, 8, 8)


def test_guidance_extrapolates_from_no_condition():
    model = digits()
    x, t, condition = torch.randn(4, 1, 8, 8), torch.rand(4), torch.tensor([0, 3, 3, 9])
    with torch.no_grad():
        conditional, null = model.predict(x, t, condition=condition), model.predict(x, t)
        assert (conditional - null).abs().max() > 1e-2
        assert torch.equal(model.denoiser(condition, 1.0).velocity(x, t), conditional)
        assert torch.equal(model.denoiser(condition, 0.0).velocity(x, t), null)
        guided = model.denoiser(condition, 2.5).velocity(x, t)
        torch.testing.assert_close(guided, null + 2.5 * (conditional - null), rtol=1e-4, atol=1e-4)
        free = model.sample(4, condition=condition, generator=3, guidance=0.0, steps=3)
    torch.testing.assert_close(free, model.decode(model.draw_codes(4, generator=SampleRng(3)), steps=3))


def test_condition_dropout_replaces_rows_by_the_null_embedding():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, t, embedding=None):
            seen.append(embedding)
            return x

    model = Diffusion(DIGITS, net=Spy(), condition_dropout=0.3)
    model.embed.null.data.fill_(7.0)
    rows, classes = 5000, torch.arange(5000) % 10
    model.loss(Batch(torch.zeros(rows, 1, 8, 8), classes), UpdateRng(stream(0)))
    dropped = (seen[0] == 7.0).all(1)
    # five standard deviations of a share of 5000
    assert abs(dropped.float().mean() - 0.3) < 5 * math.sqrt(0.21 / rows)
    assert torch.equal(seen[0][~dropped], model.embed.embed(classes[~dropped]))


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"dopri5"}))
def test_sample_rows_do_not_depend_on_n(solver):
    model = digits()
    options = {"steps": 4, "solver": solver, "guidance": 1.5}
    many = model.sample(6, generator=SampleRng(9), **options)
    few = model.sample(3, generator=SampleRng(9, first=2), **options)
    torch.testing.assert_close(few, many[2:5], rtol=1e-4, atol=1e-4)  # float32, matrix products of other sizes
    assert (many[0] - many[1]).abs().max() > 0.1


def test_conditions_are_drawn_as_frequent_as_in_the_data():
    rng = SampleRng(0)
    rates = (0.1, 0.6, 0.3)
    drawn = draw_condition(Condition("class", 3, frequencies=rates), 4000, rng)
    assert ((drawn[:, None] == torch.arange(3)).float().mean(0) - torch.tensor(rates)).abs().max() < 5 * 0.5 / 4000**0.5
    drawn = draw_condition(Condition("class", 4), 4000, rng)
    assert ((drawn[:, None] == torch.arange(4)).float().mean(0) - 0.25).abs().max() < 5 * 0.5 / 4000**0.5
    drawn = draw_condition(Condition("attributes", 3, frequencies=rates), 4000, rng)
    assert (drawn.mean(0) - torch.tensor(rates)).abs().max() < 5 * 0.5 / 4000**0.5
    with pytest.raises(UserError, match="cannot be drawn"):
        draw_condition(Condition("vector", 3), 5, rng)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("network", ["auto", "mlp", "unet"])
def test_images_of_any_shape(shape, network):
    spec = DataSpec("image", shape, condition=Condition("attributes", 3))
    model = randomised(Diffusion(spec, network=network, width=16, depth=1))
    batch = Batch(torch.rand(1, *shape), torch.ones(1, 3))
    loss = model.loss(batch, UpdateRng(stream(0))).total
    loss.backward()
    assert loss.isfinite() and loss.shape == ()
    assert model.sample(2, generator=0, steps=1).shape == (2, *shape)
    assert model.log_prob(batch.x, condition=batch.condition, steps=1).value.shape == (1,)


@pytest.mark.parametrize(
    "spec", [DataSpec("table", (5,)), DataSpec("series", (6, 2)), DataSpec("point", (2,), Condition("vector", 3))]
)
def test_vectors(spec):
    model = Diffusion(spec, width=16, depth=1)
    condition = None if spec.condition is None else torch.randn(4, 3)
    batch = Batch(torch.randn(4, *spec.shape), condition)
    assert model.loss(batch, UpdateRng(stream(0))).total.isfinite()
    assert model.sample(4, condition=condition, generator=0, steps=2).shape == (4, *spec.shape)


def test_bf16_autocast_gives_a_float32_loss():
    model = digits()
    batch = Batch(torch.rand(4, 1, 8, 8), torch.arange(4))
    with torch.autocast("cpu", torch.bfloat16):
        low = model.loss(batch, UpdateRng(stream(0))).total
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, model.loss(batch, UpdateRng(stream(0))).total, rtol=0.02, atol=0.02)


def test_capabilities():
    model = digits()
    for capability in (Samples, Density, Encodes, Decodes, Scores, Trajectories, Learns):
        assert isinstance(model, capability)
    assert (
        capabilities(model) == capabilities(Diffusion) == ["samples", "density", "encodes", "decodes", "scores", "trajectories"]
    )


def test_learns_two_classes():
    """Two Gaussians, one a class: after 200 updates each class's samples have its mean and scale."""
    torch.manual_seed(0)
    spec = DataSpec("point", (2,), condition=Condition("class", 2, frequencies=(0.5, 0.5)))
    model = Diffusion(spec, width=32, depth=1, dropout=0.0)
    centres = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
    (player,) = model.players()
    optimizer = torch.optim.AdamW(player.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    generator = stream(0)
    for _ in range(200):
        classes = torch.randint(2, (128,), generator=generator)
        x = centres[classes] + 0.3 * torch.randn(128, 2, generator=generator)
        optimizer.zero_grad()
        player.loss(Batch(x, classes), UpdateRng(generator)).total.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    classes = torch.arange(2).repeat(1000)
    x = model.sample(2000, condition=classes, generator=stream(1), steps=16)
    for c in range(2):
        # 1000 draws leave 0.01; the rest is what a short training leaves
        assert (x[classes == c].mean(0) - centres[c]).abs().max() < 0.1
        assert (x[classes == c].std(0) - 0.3).abs().max() < 0.08
    scattered = model.sample(1000, generator=stream(2), guidance=0.0, steps=16)
    assert 0.3 < (scattered[:, 0] > 0).float().mean() < 0.7  # without the class, both


@pytest.mark.parametrize(
    "action, words",
    [
        (lambda: digits().sample(2, steps=0), "steps"),
        (lambda: digits().sample(2, solver="huen"), "heun"),
        (lambda: digits().sample(2, condition=torch.tensor([1])), "shape"),
        (lambda: digits().sample(2, condition=torch.tensor([1, 10])), "0 to 9"),
        (lambda: digits(condition_dropout=0.0).sample(2, guidance=2.0), "condition_dropout=0"),
        (lambda: digits(condition_dropout=0.0).log_prob(torch.zeros(1, 1, 8, 8)), "needs a condition"),
        (lambda: digits().trajectory(2, frames=1), "2 frames"),
        (lambda: Diffusion(DataSpec("point", (70,))).log_prob(torch.zeros(1, 70), probes=1), "2 probes"),
        (lambda: Diffusion(DataSpec("point", (2,))).sample(2, guidance=2.0), "without a condition"),
        (lambda: Diffusion(DataSpec("point", (2,))).sample(2, condition=torch.zeros(2)), "leave it out"),
        (lambda: Diffusion(DataSpec("point", (2,)), network="unet"), "mlp"),
        (lambda: Diffusion(DIGITS, network="unett"), "unet"),
        (lambda: Diffusion(DIGITS, time_sampling="uniforn"), "uniform"),
        (lambda: Diffusion(DIGITS, path="cosin"), "cosine"),
        (lambda: Diffusion(DIGITS, target="velocty"), "velocity"),
        (lambda: Diffusion(DIGITS, weighting="min_snr"), "min-snr"),
        (lambda: Diffusion(DIGITS, coupling="optimal"), "optimal-transport"),
        (lambda: Diffusion(DataSpec("point", (2,), Condition("vector", 3)), coupling="optimal-transport"), "independent"),
        (lambda: digits().encode(torch.zeros(1, 1, 8, 8), solver="ancestral"), "heun"),
        (lambda: digits().sample(2, spacing="quadratc"), "quadratic"),
        (lambda: Diffusion(DIGITS, condition_dropout=1.0), "condition_dropout"),
    ],
)
def test_mistakes_are_sentences(action, words):
    with pytest.raises(UserError, match=words):
        action()


def test_condition_dropout_zero_still_samples_its_classes():
    assert digits(condition_dropout=0.0).sample(2, generator=0, steps=1).shape == (2, 1, 8, 8)


def test_decode_is_differentiable():
    model = digits()
    z = model.draw_codes(2, generator=0).requires_grad_()
    model.decode(z, steps=2).square().sum().backward()
    assert z.grad.abs().sum() > 0


def test_exact_ode_maps_are_the_gaussians_transport():
    """The flow of a Gaussian's exact velocity: z -> mean + covariance^(1/2) z (the eigenvectors do not turn)."""
    model, law = gaussian(3, torch.float64)
    z = torch.randn(5, 3, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(law.covariance_matrix)
    root = vectors @ values.sqrt().diag() @ vectors.T
    x = integrate(model.denoiser().velocity, z, torch.linspace(1, 0, 65, dtype=torch.float64), "rk4")
    torch.testing.assert_close(x, law.mean + z @ root.T, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def cosine_noise():
    """A small noise predictor on the cosine path, after 400 updates on the digits, and the digits."""
    from sklearn.datasets import load_digits

    real = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    classes = torch.tensor(load_digits().target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Diffusion(DIGITS, path="cosine", target="noise", width=128, depth=2, dropout=0.0)
        (player,) = model.players()
        optimizer = torch.optim.AdamW(player.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
        generator = stream(0)
        for _ in range(400):
            rows = torch.randint(len(real), (128,), generator=generator)
            optimizer.zero_grad()
            player.loss(Batch(real[rows], classes[rows]), UpdateRng(generator)).total.backward()
            optimizer.step()
            schedule.step()
    return model.eval(), real


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_on_the_cosine_path_samples_with_every_solver(cosine_noise, solver):
    model, real = cosine_noise
    x = model.sample(200, generator=0, solver=solver, steps=1 if solver == "dopri5" else 20)
    assert x.isfinite().all()

    def far(samples):
        return torch.cdist(samples.flatten(1), real.flatten(1)).amin(1).median()

    # noise is about 11 from the nearest digit; digits are 2 from each other
    assert far(x) < 0.5 * far(torch.randn(200, 64, generator=stream(1)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_path_and_target(path, target):
    model = digits(path=path, target=target)
    batch = Batch(torch.rand(6, 1, 8, 8), torch.arange(6))
    loss = model.loss(batch, UpdateRng(stream(0))).total
    assert loss.isfinite()
    z = model.encode(batch.x, condition=batch.condition, steps=8)
    assert torch.cat([z, model.sample(6, generator=0, steps=3), model.score(batch.x, torch.linspace(0, 1, 6))]).isfinite().all()


# every path with a target that is ill-posed at its data, or at its noise, and every target once
PAIRS = [*((path, target) for path in PATHS for target in ("x0", "noise")), *(("cosine", target) for target in TARGETS)]


@pytest.mark.parametrize(("path", "target"), sorted(set(PAIRS)))
def test_density_and_codes_of_the_gaussian_for_every_path_and_target(path, target):
    """The ends of an ill-posed target's span are accounted for: codes come back, densities are those of the data."""
    law = torch.distributions.Normal(torch.tensor(0.3, dtype=torch.float64), 0.5)
    model = Diffusion(DataSpec("point", (2,)), path=path, target=target)
    model.predict = ExactNet(model.path, model.target, 0.3, 0.25)  # a function in the place of the network's
    x = torch.tensor([[0.3, 0.3], [-0.5, 0.9], [1.2, 0.0]], dtype=torch.float64)
    got = model.log_prob(x, steps=40)
    # what is left is the data's noise at t_min, sigma^2 / variance = 4e-4 of the density's scale on the VP path, times |x|^2
    assert (got.value - law.log_prob(x).sum(1)).abs().max() < 0.02
    z = (x - 0.3) / 0.5
    codes = model.encode(x, steps=100, solver="rk4")
    assert (codes - z).abs().max() < 0.02  # the mean at t_max, 0.5 % of the data's
    assert (model.decode(codes, steps=100, solver="rk4") - x).abs().max() < 0.01


@pytest.mark.parametrize("weighting", ["min-snr", "noise", "velocity"])
def test_weighted_losses_are_of_the_same_errors(weighting):
    """A loss is the weighted mean of the rows' errors: checked against its rows one by one."""
    model = digits(path="cosine", target="v", weighting=weighting, condition_dropout=0.0)
    plain = digits(path="cosine", target="v", condition_dropout=0.0)
    plain.load_state_dict(model.state_dict())
    batch = Batch(torch.rand(1, 1, 8, 8), torch.zeros(1).long())
    t = model.span[0] + (model.span[1] - model.span[0]) * UpdateRng(stream(3)).rand(1)
    w = weights(model.path, "v", weighting, t)
    weighted, alone = (m.loss(batch, UpdateRng(stream(3))).total for m in (model, plain))
    torch.testing.assert_close(weighted, w[0] * alone)


@pytest.mark.parametrize("spec", [DataSpec("point", (2,)), DIGITS])
def test_edms_weighting_is_of_data_of_this_deviation(spec):
    """Of its own target it is 1; of x0's error 1 / out^2 = (d^2 + sigma^2) / (d sigma)^2, d = 1 of standardised numbers."""
    t, d = torch.tensor([0.2, 0.5]), 1.0 if spec.kind == "point" else 0.5
    own = Diffusion(spec, path="edm", target="edm", weighting="edm")
    assert torch.equal(weights(own.path, own.target, own.weighting, t), torch.ones(2))
    other = Diffusion(spec, path="edm", target="x0", weighting="edm")
    sigma = other.path(t)[1]
    expected = (d**2 + sigma**2) / (d * sigma) ** 2
    torch.testing.assert_close(weights(other.path, other.target, other.weighting, t), expected)


def test_optimal_transport_makes_the_target_less_noisy():
    class Zero(nn.Module):
        def forward(self, x, t, embedding=None):
            return 0 * x

    batch = Batch(torch.randn(64, 2))
    losses = [
        Diffusion(DataSpec("point", (2,)), net=Zero(), coupling=coupling).loss(batch, UpdateRng(stream(0))).total
        for coupling in ("independent", "optimal-transport")
    ]
    assert losses[1] < 0.3 * losses[0]  # mean |noise - x0|^2: 2 a dimension if independent, near 0 if matched
