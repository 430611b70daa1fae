"""Consistency models: on Gaussian data the function is known, the loss of it is none, and both ways of learning lead to it."""

import itertools
import math

import pytest
import torch
from dynamics.exact_gaussian import ExactNet
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.paths import expand, find_path, noise_ratio
from pushforward.errors import UserError
from pushforward.models.contract import Decodes, Learns, Samples, Trajectories
from pushforward.models.diffusion.consistency import HUBER, Consistency, grid, heun
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.randomness import SampleRng, UpdateRng

MEAN, SD = 0.7, 0.4
SPEC = DataSpec("point", (2,), name="plane")
PATHS = ("edm", "linear", "variance-preserving")
LABELLED = DataSpec("point", (2,), condition=Condition("class", 3), name="classes")


class ExactF(nn.Module):
    """F of the exact f: along the ODE of data N(MEAN, SD^2), x / alpha - MEAN goes as (SD^2 + (sigma / alpha)^2)^(1/2)."""

    def __init__(self, path, factor=1.0):
        super().__init__()
        self.path, self.factor = find_path(path), factor

    def forward(self, x, t, embedding=None):
        alpha, sigma, _, _ = (expand(c, x) for c in self.path(t))
        scale = (sigma**2 + alpha**2).sqrt()  # the deviation that a model of points takes for granted is 1
        least = max(float(noise_ratio(self.path, torch.zeros(1, dtype=torch.float64))), 0.002)
        u, r = x * scale / alpha, sigma / alpha
        f = MEAN + (u - MEAN) * ((SD**2 + least**2) / (SD**2 + r**2)).sqrt() * self.factor
        skip, out = 1 / ((r - least) ** 2 + 1), (r - least) / (r**2 + 1).sqrt()
        return torch.where(out.abs() > 1e-9, (f - skip * u) / out, 0.0)


class ExactDiffusion(nn.Module):
    """E[y | x_t] of that data; a model whose noise explodes sees x_t scaled."""

    def __init__(self, path, target):
        super().__init__()
        self.path, self.exact = find_path(path), ExactNet(find_path(path), target, MEAN, SD**2)
        self.explodes = path == "edm"

    def forward(self, x, t, embedding=None):
        alpha, sigma, _, _ = self.path(t)
        return self.exact(x * expand((sigma**2 + alpha**2).sqrt(), x) if self.explodes else x, t)


def exact(path, factor=1.0, **settings):
    return Consistency(SPEC, path=path, net=ExactF(path, factor), **settings).double()


def teacher(path, target="x0"):
    return Diffusion(SPEC, path=path, target=target, net=ExactDiffusion(path, target))


def data(rows, dtype=torch.float32):
    return MEAN + SD * torch.randn(rows, 2, dtype=dtype)


def stream(seed):
    return UpdateRng(torch.Generator().manual_seed(seed))


def randomised(model):
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) / 4
    return model


@pytest.mark.parametrize("path", PATHS)
def test_at_the_first_time_it_is_the_datum_whatever_the_network(path):
    model = randomised(Consistency(SPEC, path=path, width=16, depth=1)).double()
    t = model._grid(5, torch.zeros(1, dtype=torch.float64))[0][0].expand(50)
    x = torch.randn(50, 2, dtype=torch.float64)
    alpha, sigma, _, _ = model.path(t)
    assert torch.allclose(model.consistency(x, t), x / alpha[:, None], atol=1e-9)
    assert float(sigma[0]) <= 0.011 and abs(float(alpha[0]) - 1) <= 0.002
    assert (model.consistency(x, t + 0.7) - x).abs().max() > 0.1


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_function_has_no_loss_beside_an_exact_teacher(path):
    """Its values are the same all along the ODE, but for the error of one step of Heun's method."""
    losses = {}
    for intervals in (20, 80):
        for factor in (1.0, 1.05):
            model = exact(path, factor, levels=intervals, most_levels=intervals)
            model.learn_from(teacher(path))
            losses[intervals, factor] = float(model.loss(Batch(data(500, torch.float64)), stream(0)).total.detach())
    assert losses[80, 1.0] < 2e-4 and losses[20, 1.0] < 0.02
    assert losses[20, 1.0] > 10 * losses[80, 1.0]  # h^3: by 64 in the limit
    assert losses[80, 1.05] > 5 * losses[80, 1.0]


@pytest.mark.parametrize("path", PATHS)
def test_samples_of_the_exact_function(path):
    model, n = exact(path).float(), 20_000
    for steps in (1, 2, 4):
        x = model.sample(n, generator=5, steps=steps)
        assert (x.mean(0) - MEAN).abs().max() < 5 * SD / n**0.5 + 0.01  # 1 / 80 of the data's mean is missing in noise
        assert (x.std(0) - SD).abs().max() < 5 * SD / (2 * n) ** 0.5 + 0.002
    z = model.draw_codes(4, generator=1)
    assert torch.equal(model.decode(z), model.sample(4, generator=1))
    assert torch.equal(model.sample(4, generator=1, steps=3)[2:], model.sample(2, generator=SampleRng(1, first=2), steps=3))


def test_later_jumps_mend_the_first():
    """f that says MEAN wherever there is much noise: one jump has no spread, two have most of it."""

    class Far(ExactF):
        def forward(self, x, t, embedding=None):
            return torch.where(t[:, None] > 0.9, ExactF.forward(Guess("edm", 0.0), x, t), super().forward(x, t))

    class Guess(ExactF):
        pass

    model = Consistency(SPEC, net=Far("edm"))
    assert float(model.sample(500, generator=0).std()) < 1e-3
    assert abs(float(model.sample(5_000, generator=0, steps=2).std()) - SD) < 0.03
    states = model.trajectory(100, frames=3, generator=0, steps=2)
    assert states.shape == (3, 100, 2) and torch.equal(states[2], model.sample(100, generator=0, steps=2))
    assert torch.equal(states[0], model.draw_codes(100, generator=0))


def test_the_grid_is_that_of_the_paper():
    """Karras et al.'s equation 5 with rho = 7 from 0.002 to 80."""
    times, ratios = grid(find_path("edm"), 0.002, 80.0, 17)
    n = torch.arange(18, dtype=torch.float64)
    expected = (0.002 ** (1 / 7) + n / 17 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    assert torch.allclose(ratios, expected)
    assert torch.allclose(noise_ratio(find_path("edm"), times), expected, rtol=1e-9)
    assert float(times[0]) < 1e-9 and float(times[-1]) > 1 - 1e-9


def test_the_curriculum_doubles_at_equal_distances():
    """Song and Dhariwal's N(k) = min(s0 2^floor(k / K'), s1), K' = floor(K / (log2(s1 / s0) + 1)): of 10 and 1280, 8 parts."""
    model = Consistency(SPEC, width=8, depth=1)
    assert [model.intervals(k / 8 + 0.01) for k in range(8)] == [10 * 2**k for k in range(8)]
    assert model.intervals(0.0) == 10 and model.intervals(0.999) == model.intervals(1.0) == 1280
    assert Consistency(SPEC, levels=18, most_levels=18, width=8).intervals(0.5) == 18


def test_the_loss_of_consistency_training_by_hand():
    """w d of a network of zeros, f = c_skip x_t, with the rng's own numbers, times by the log-normal's share of intervals."""
    model = Consistency(SPEC, net=nn.Module(), levels=10, most_levels=10)
    model.net.forward = lambda x, t, embedding=None: torch.zeros_like(x)
    x0, rows = data(3_000), 3_000
    times, ratios = grid(model.path, 0.002, 80.0, 10)
    middle = torch.distributions.Normal(-1.1 + math.log(2), 2.0)  # data of deviation 1 in the place of 1 / 2
    shares = middle.cdf(ratios[1:].log()) - middle.cdf(ratios[:-1].log())
    rng = SampleRng(0)
    n, noise = rng.categorical(shares.expand(rows, -1)), rng.randn_like(x0)
    late, early = ratios[n + 1, None], ratios[n, None]
    f = [(x0 + r * noise) / ((r - 0.002) ** 2 + 1) for r in (late, early)]
    c = HUBER * 2**0.5
    d = ((f[0] - f[1]).square().sum(1) + c**2).sqrt() - c
    expected = (d / (late - early)[:, 0]).mean()
    assert float(model.loss(Batch(x0, progress=0.0), SampleRng(0)).total.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert len(n.unique()) == 10 and len(times) == 11


def test_no_gradient_flows_through_what_is_compared_with():
    model = randomised(Consistency(SPEC, width=16, depth=1, levels=4, most_levels=4))
    passes = []
    inner = model.net.forward

    def watched(x, t, e=None):
        passes.append(torch.is_grad_enabled())
        return inner(x, t, e)

    model.net.forward = watched
    model.loss(Batch(data(8)), stream(0)).total.backward()
    assert passes == [False, True]


def test_both_sides_drop_the_same_units():
    """At adjacent times of a very fine grid they differ only by what dropout does, unless that is the same."""
    model = randomised(Consistency(SPEC, width=64, depth=1, dropout=0.5, levels=10, most_levels=10_000)).train()
    same = float(model.loss(Batch(data(64), progress=1.0), stream(0)).total.detach())
    model.dropout = 0.0  # the mask is then not shared
    assert same < 0.2 * float(model.loss(Batch(data(64), progress=1.0), stream(0)).total.detach())


def test_the_average_follows():
    model = randomised(Consistency(SPEC, width=8, depth=1, target_decay=0.9))
    (player,) = model.players()
    assert all(not p.requires_grad for p in model.followers.parameters())
    leaders = [*model.embed.parameters(), *model.net.parameters()]
    before = [p.clone() for p in model.followers.parameters()]
    player.after_update({}, None)
    for old, new, leader in zip(before, model.followers.parameters(), leaders, strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * leader)
    assert {id(p) for p in player.parameters()} == {id(p) for p in leaders}
    # and it is what the loss compares with
    batch = Batch(data(64))
    here = float(model.loss(batch, SampleRng(0)).total.detach())
    for parameter in model.followers.parameters():
        parameter.zero_()
    assert float(model.loss(batch, SampleRng(0)).total.detach()) != pytest.approx(here, rel=0.05)


def test_a_hidden_condition_is_hidden_from_the_teacher_too():
    seen = []

    class Net(nn.Module):
        def forward(self, x, t, embedding=None):
            seen.append(embedding)
            return torch.zeros_like(x)

    flow = randomised(Diffusion(LABELLED, path="edm", target="x0", net=Net(), width=16))
    model = Consistency(LABELLED, width=16, depth=1, condition_dropout=0.5, levels=4, most_levels=4)
    model.learn_from(flow)
    condition = torch.arange(60) % 3
    model.loss(Batch(data(60), condition), SampleRng(0))
    drop = torch.stack([(row == flow.embed(None, 1)[0]).all() for row in seen[0]])
    assert 15 < int(drop.sum()) < 45  # five standard deviations of a half of 60
    assert torch.equal(seen[0][~drop], flow.embed(condition, 60)[~drop])
    other = Diffusion(LABELLED, path="edm", condition_dropout=0.0, width=8)
    model.learn_from(other)
    assert model.condition_dropout == 0.0  # such a teacher knows no data without a class


def test_it_begins_as_a_teacher_of_residuals():
    flow = randomised(Diffusion(SPEC, path="edm", target="edm", width=16, depth=1))
    model = Consistency(SPEC, width=16, depth=1, target_decay=0.5)
    model.learn_from(flow)
    for network in (model.net, model.followers[1]):
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), flow.net.parameters(), strict=True))
    # where much noise is, both say the same of x0: c_skip and c_out differ by 0.002
    x, t = 30 * torch.randn(20, 2), torch.full((20,), 0.9)
    assert torch.allclose(model.consistency(x, t), flow.denoiser()(x, t)[0], atol=1e-2)
    fresh = Consistency(SPEC, width=16, depth=1)
    fresh.learn_from(randomised(Diffusion(SPEC, path="edm", target="x0", width=16, depth=1)))
    assert not any(torch.equal(a, b) for a, b in zip(fresh.net.parameters(), flow.net.parameters(), strict=True))


def test_heun_in_the_ratio_is_of_order_two():
    model, x = teacher("edm").double(), 3 * torch.randn(50, 2, dtype=torch.float64)
    times = grid(model.path, 0.002, 80.0, 10)[0][2:8]  # where sigma is 0.05 to 14
    u = ExactF("edm")
    spread = SD**2
    errors = []
    for parts in (8, 16):
        y, r = x, noise_ratio(model.path, times)
        between = grid(model.path, float(r[0]), float(r[-1]), parts)[0].flip(0)
        for t, s in itertools.pairwise(between):
            y = heun(model.denoiser(), y, t.expand(50), s.expand(50))
        expected = MEAN + (x - MEAN) * ((spread + r[0] ** 2) / (spread + r[-1] ** 2)).sqrt()
        errors.append(float((y - expected).abs().max()))
    assert 3.2 < errors[0] / errors[1] < 5 and u.factor == 1.0


def train(model, updates, rate):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    (player,) = model.players()
    for step in range(updates):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / updates)
        optimizer.zero_grad()
        player.loss(Batch(data(128), progress=step / updates), stream(step)).total.backward()
        optimizer.step()
        if player.after_update:
            player.after_update({}, None)
    return model.eval()


def test_distilled_from_an_exact_teacher_it_is_the_exact_function():
    torch.manual_seed(0)
    model = Consistency(SPEC, width=64, depth=1, levels=20, most_levels=20, target_decay=0.9)
    model.learn_from(teacher("edm"))
    model = train(model, 200, 5e-3)
    z, goal = torch.randn(500, 2), exact("edm").float()
    with torch.no_grad():
        assert (model.decode(z) - goal.decode(z)).square().mean().sqrt() < 0.25 * SD
    x = model.sample(4_000, generator=0)
    assert (x.mean(0) - MEAN).abs().max() < 0.15 * SD and (x.std(0) - SD).abs().max() < 0.25 * SD


def test_trained_on_data_alone_it_comes_near():
    """In 300 updates: of one jump the greater part (who says the mean always is wrong by SD), of two the law."""
    torch.manual_seed(0)
    model = train(Consistency(SPEC, width=64, depth=1, levels=5, most_levels=40), 300, 6e-3)
    z, goal = torch.randn(500, 2), exact("edm").float()
    with torch.no_grad():
        assert (model.decode(z) - goal.decode(z)).square().mean().sqrt() < 0.75 * SD
    x = model.sample(4_000, generator=0, steps=2)
    assert (x.mean(0) - MEAN).abs().max() < 0.5 * SD and (x.std(0) - SD).abs().max() < 0.3 * SD


def test_it_samples_saves_and_says_what_is_wrong(tmp_path):
    model = randomised(Consistency(LABELLED, width=8, depth=1))
    assert isinstance(model, (Learns, Samples)) and isinstance(model, Decodes) and isinstance(model, Trajectories)
    assert model.sample(5).shape == (5, 2)
    ones = torch.ones(4, dtype=torch.long)
    a = model.sample(4, condition=ones, generator=0)
    assert torch.equal(a, model.sample(4, condition=ones, generator=0))
    assert not torch.equal(a, model.sample(4, condition=0 * ones, generator=0))
    with pytest.raises(UserError, match="steps"):
        model.sample(3, steps=0)
    with pytest.raises(UserError, match="frames"):
        model.trajectory(3, frames=1)
    with pytest.raises(UserError, match="path='linear'"):
        Consistency(SPEC).learn_from(Diffusion(SPEC, width=8, depth=1))
    with pytest.raises(UserError, match="data"):
        Consistency(SPEC).learn_from(Diffusion(LABELLED, path="edm", width=8, depth=1))
    with pytest.raises(UserError, match="cannot teach"):
        Consistency(SPEC).learn_from(nn.Linear(2, 2))
    with pytest.raises(UserError, match="learn_from"):
        Consistency(SPEC, teacher="runs/edm").players()
    with pytest.raises(UserError, match="levels"):
        Consistency(SPEC, levels=20, most_levels=10)
    with pytest.raises(UserError, match="target_decay"):
        Consistency(SPEC, target_decay=1.0)
    images = randomised(Consistency(DataSpec("image", (1, 4, 4), levels=17), width=8, depth=1)).sample(50)
    assert float(images.abs().max()) <= 1.0
