"""Rectified flow: pairs of a teacher, maps that are known, lines that become straight."""

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.solvers import time_grid
from pushforward.dynamics.straightness import straightness
from pushforward.errors import UserError
from pushforward.models.contract import Learns, Samples, capabilities
from pushforward.models.diffusion import rectified
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.models.diffusion.rectified import HELD_OUT, RectifiedFlow
from pushforward.randomness import SampleRng, UpdateRng

MEAN, SD = 1.5, 0.4
LINE = DataSpec("point", (1,), name="line")
PLANE = DataSpec("point", (2,), name="plane")
DIGITS = DataSpec("image", (1, 4, 4), condition=Condition("class", 3), levels=17, name="digits")


class Learned(nn.Module):
    """The velocity of flow matching between N(MEAN, SD^2) and N(0, 1): of independent pairs."""

    def forward(self, x, t, embedding=None):
        a, s = (1 - t)[:, None], t[:, None]
        return (s - a * SD**2) / (a**2 * SD**2 + s**2) * (x - a * MEAN) - MEAN


class Monotone(nn.Module):
    """That of the pairs x0 = MEAN + SD noise: noise - x0, where noise is read off x_t = (1 - t) x0 + t noise."""

    def __init__(self, from_time=0.0):
        super().__init__()
        self.from_time = from_time

    def forward(self, x, t, embedding=None):
        a, s = (1 - t)[:, None], t[:, None]
        noise = (x - a * MEAN) / (a * SD + s)
        return torch.where(s >= self.from_time, noise - (MEAN + SD * noise), 7.0)


def teacher():
    return Diffusion(LINE, net=Learned(), dropout=0.0)


def taught(model, by):
    model.learn_from(by)
    return model


def test_pairs_are_the_monotone_map():
    """On a line the flow between two Gaussians is their optimal transport, x0 = MEAN + SD noise."""
    x0, noise, condition = taught(RectifiedFlow(LINE, net=Monotone(), pairs=500, pair_steps=128), teacher()).made()
    assert x0.shape == noise.shape == (500 + HELD_OUT, 1) and condition is None
    # Heun's error with 128 steps, h^2 times derivatives of order 10, where the noise is up to 4 deviations away
    assert (x0 - (MEAN + SD * noise)).abs().max() < 2e-3
    assert abs(float(noise.mean())) < 5 / len(noise) ** 0.5 and abs(float(noise.std()) - 1) < 0.1


def test_the_reflowed_velocity_has_no_loss_is_straight_and_samples_in_one_step():
    model = taught(RectifiedFlow(LINE, net=Monotone(), pairs=500, pair_steps=128), teacher())
    batch, rng = Batch(torch.full((400, 1), 9.0)), UpdateRng(torch.Generator().manual_seed(0))  # the data are not looked at
    assert float(model.loss(batch, rng).total.detach()) < 1e-5
    z = torch.randn(100, 1)
    assert torch.allclose(model.decode(z, steps=1, solver="euler"), MEAN + SD * z, atol=1e-5)
    x = model.sample(20_000, generator=0)  # one step is its default
    assert abs(float(x.mean()) - MEAN) < 5 * SD / 20_000**0.5 and abs(float(x.std()) - SD) < 5 * SD / 40_000**0.5
    assert model.diagnose(x[:64])["straightness"] < 1e-10
    # independent pairs leave what no velocity explains, var(noise - x0 | x_t), and trajectories that change their speed
    loose = RectifiedFlow(LINE, net=Learned())
    x0 = MEAN + SD * torch.randn(400, 1)
    assert float(loose.loss(Batch(x0), rng).total.detach()) > 0.1 and loose.diagnose(x0)["straightness"] > 0.02


def test_distillation_looks_at_the_noise_alone():
    model = taught(RectifiedFlow(LINE, net=Monotone(from_time=0.999), pairs=500, pair_steps=128, distil=True), teacher())
    rng, batch = SampleRng(0), Batch(torch.zeros(64, 1))
    assert float(model.loss(batch, rng).total.detach()) < 1e-5
    model.time_sampling = "uniform"
    assert float(model.loss(batch, rng).total.detach()) > 1.0


def test_without_a_teacher_it_is_flow_matching():
    torch.manual_seed(0)
    mine = RectifiedFlow(PLANE, width=16, depth=1)
    theirs = Diffusion(PLANE, width=16, depth=1, dropout=0.0)
    for parameter in mine.parameters():
        parameter.data = torch.randn_like(parameter) / 4
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(32, 2)
    assert torch.equal(mine.loss(Batch(x), SampleRng(1)).total, theirs.loss(Batch(x), SampleRng(1)).total)
    assert isinstance(mine, Learns) and isinstance(mine, Samples) and "decodes" in capabilities(mine)


def test_pairs_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    monkeypatch.setattr(rectified, "HELD_OUT", 8)
    torch.manual_seed(0)
    flow = Diffusion(DIGITS, width=16, depth=1)
    for parameter in flow.parameters():
        parameter.data = torch.randn_like(parameter) / 4
    made = {}
    for size in (64, 7):
        monkeypatch.setattr(rectified, "AT_ONCE", size)
        made[size] = taught(RectifiedFlow(DIGITS, width=8, pairs=20, pair_steps=2), flow).made()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(made[64], made[7], strict=True))
    x0, noise, condition = made[64]
    assert condition.unique().tolist() == [0, 1, 2]
    again = flow.eval().decode(noise, condition=condition, steps=2)
    assert torch.allclose(x0, again, atol=1e-5)  # its pairs are those of its classes, and without dropout


def test_a_pair_keeps_its_condition_and_held_out_pairs_are_kept_apart():
    model = RectifiedFlow(DIGITS, width=8, pairs=50)
    condition = torch.randint(3, (50 + HELD_OUT,))
    x0 = torch.arange(50.0 + HELD_OUT)[:, None, None, None].expand(-1, 1, 4, 4)
    model._taught, model._pairs = [model], (x0, -x0, condition)
    batch = Batch(torch.zeros(200, 1, 4, 4), torch.zeros(200, dtype=torch.long))
    for training, low, high in ((True, 0, 49), (False, 50, 50 + HELD_OUT - 1)):
        a, b, c = model.train(training).pairs(batch, SampleRng(0))
        rows = a[:, 0, 0, 0].long()
        assert torch.equal(a, -b) and torch.equal(c, condition[rows])
        assert int(rows.min()) >= low and int(rows.max()) <= high and len(rows.unique()) > 30


def test_it_begins_as_its_teacher_where_both_are_built_alike():
    torch.manual_seed(0)
    flow = Diffusion(PLANE, width=16, depth=1)
    for parameter in flow.parameters():
        parameter.data = torch.randn_like(parameter)
    alike = taught(RectifiedFlow(PLANE, width=16, depth=1), flow)
    assert all(torch.equal(a, b) for a, b in zip(alike.parameters(), flow.parameters(), strict=True))
    other = RectifiedFlow(PLANE, width=24, depth=1)
    before = [p.clone() for p in other.parameters()]
    taught(other, flow)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), before, strict=True))
    diffusion = Diffusion(PLANE, width=16, depth=1, target="x0")
    diffusion.load_state_dict(flow.state_dict())
    fresh = RectifiedFlow(PLANE, width=16, depth=1)
    before = [p.clone() for p in fresh.parameters()]
    taught(fresh, diffusion)  # x0 is no velocity
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), before, strict=True))


def train(model, x, updates, seed=0):
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    rng = UpdateRng(torch.Generator().manual_seed(seed))
    for step in range(updates):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / updates)
        optimizer.zero_grad()
        model.loss(Batch(x[rng.randint(len(x), 128)]), rng).total.backward()
        optimizer.step()
    return model.eval()


def test_reflow_straightens_a_learned_flow_and_keeps_its_law(monkeypatch):
    """Two narrow blobs: lines of independent pairs cross in the middle, those of a flow's own pairs do not."""
    monkeypatch.setattr(rectified, "HELD_OUT", 8)
    torch.manual_seed(0)
    x = 0.15 * torch.randn(4_000, 2) + torch.tensor([[0.0, 1.0], [0.0, -1.0]]).repeat(2_000, 1)
    first = train(RectifiedFlow(PLANE, width=48, depth=1), x, 200)
    second = taught(RectifiedFlow(PLANE, width=48, depth=1, pairs=1_000), first)
    second = train(second.train(), x, 120)
    bent, straight = (model.diagnose(x[:200])["straightness"] for model in (first, second))
    assert straight < 0.35 * bent
    spread = []
    for model in (first, second):
        one = model.sample(1_000, generator=3, steps=1)
        spread.append(float((one[:, 1].abs() - 1).square().mean()))
    # one step of the first lands near the mean of all data, 0; of the second, in the blobs
    assert spread[1] < 0.15 < 0.5 < spread[0]
    many = second.sample(2_000, generator=3, steps=20)
    assert abs(float((many[:, 1] > 0).float().mean()) - 0.5) < 0.06  # five standard errors
    assert abs(float(many[:, 1].abs().mean()) - 1) < 0.1


def test_what_it_reports_is_the_straightness_of_its_own_trajectories():
    model = RectifiedFlow(LINE, net=Learned())
    noise = model.draw_codes(64, generator=SampleRng(0x57A))
    own = straightness(Learned(), noise, time_grid((0.0, 1.0), 32, like=noise))
    assert model.diagnose(torch.zeros(64, 1))["straightness"] == pytest.approx(float(own.mean()))


def test_bad_input():
    with pytest.raises(UserError, match="learn_from"):
        RectifiedFlow(LINE, teacher="runs/first").players()
    with pytest.raises(UserError, match="learn_from"):
        RectifiedFlow(LINE, distil=True).players()
    with pytest.raises(UserError, match="shape \\(1,\\)"):
        RectifiedFlow(PLANE).learn_from(teacher())
    with pytest.raises(UserError, match="cannot teach"):
        RectifiedFlow(PLANE).learn_from(nn.Linear(2, 2))
    with pytest.raises(UserError, match="at least 1"):
        RectifiedFlow(PLANE, pairs=0)
    # samples need no teacher
    assert RectifiedFlow(LINE, teacher="runs/first", width=8).sample(3).shape == (3, 1)
