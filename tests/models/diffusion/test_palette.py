"""Palette: what the network is shown, images given images in closed form, restoration learned, and the contract."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.loading import load_data
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.measurements import parse_operator
from pushforward.errors import UserError
from pushforward.models.checking import check_model
from pushforward.models.contract import Translates, capabilities
from pushforward.models.diffusion.palette import Beside, GivenImage, Palette
from pushforward.randomness import SampleRng, UpdateRng

PAIRS = DataSpec("image", (1, 6, 6), condition=Condition("image", 2, shape=(2, 6, 6), levels=256), levels=256, name="pairs")
ALONE = DataSpec("image", (3, 8, 8), levels=256, name="alone")


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def images(rows, *shape, seed=0):
    return torch.rand(rows, *shape, generator=stream(seed)) * 2 - 1


def small(spec=PAIRS, **settings):
    """Networks start at 0; give them something to say."""
    model, generator = Palette(spec, **{"width": 8, **settings}), stream(1)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


class Spy(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels, self.seen = channels, []

    def forward(self, x, t, embedding):
        assert embedding is None
        self.seen.append(x)
        return torch.zeros_like(x[:, : self.channels])


def test_the_network_sees_the_image_behind_x():
    spy = Spy(1)
    model = Palette(PAIRS, net=spy, condition_dropout=0.25)
    rows = 2000
    given = images(rows, 2, 6, 6)
    model.loss(Batch(images(rows, 1, 6, 6, seed=1), given), UpdateRng(stream()))
    behind = spy.seen[0][:, 1:]
    hidden = (behind == 0).flatten(1).all(1)
    assert torch.equal(behind[~hidden], given[~hidden])
    assert abs(hidden.float().mean() - 0.25) < 5 * (0.25 * 0.75 / rows) ** 0.5
    x, t = images(3, 1, 6, 6), torch.rand(3)
    model.predict(x, t)
    assert torch.equal(spy.seen[1], torch.cat([x, torch.zeros(3, 2, 6, 6)], 1))


def test_only_x_is_scaled_where_the_noise_is_large():
    spy = Spy(1)
    model = Palette(PAIRS, net=spy, path="edm", target="edm")
    x, given = images(4, 1, 6, 6), images(4, 2, 6, 6, seed=1)
    model.predict(x, torch.ones(4), condition=given)
    assert torch.equal(spy.seen[0][:, 1:], given)
    assert spy.seen[0][:, :1].abs().max() < 0.1 * x.abs().max()


@pytest.mark.parametrize("words", ["mask:centre", "down-sample:2", "grey", "blur:1", "jpeg:10", "grey+down-sample:2"])
def test_a_corruption_makes_what_is_given(words):
    spy = Spy(3)
    model = Palette(ALONE, corruption=words, net=spy, condition_dropout=0.0)
    x = images(5, 3, 8, 8)
    model.loss(Batch(x, None), UpdateRng(stream()))
    operator = parse_operator(words, (3, 8, 8))
    given = operator.picture(operator(x))
    assert given.shape == x.shape and (given - x).abs().max() > 0.05
    torch.testing.assert_close(spy.seen[0][:, 3:], given)
    spy.seen.clear()
    model.translate(given, steps=1, solver="euler")
    torch.testing.assert_close(spy.seen[0][:, 3:], given)


def test_what_is_shown_in_a_hole_is_not_looked_at():
    model = small(ALONE, corruption="mask:centre")
    x = images(2, 3, 8, 8)
    painted = x.clone()
    painted[:, :, 2:6, 2:6] = 1.0
    made = [model.translate(y, generator=SampleRng(0), steps=2) for y in (x, painted)]
    assert torch.equal(*made)


def test_given_images_take_the_size_of_the_data():
    embed = GivenImage((1, 4, 4), (3, 8, 6))
    constant = torch.full((2, 1, 4, 4), 0.3)
    torch.testing.assert_close(embed(constant, 2), torch.full((2, 1, 8, 6), 0.3))
    same = GivenImage((1, 8, 6), (3, 8, 6))
    given = images(2, 1, 8, 6)
    assert torch.equal(same(given, 2), given)
    assert torch.equal(same(given, 2, torch.tensor([True, False])), torch.stack([torch.zeros(1, 8, 6), given[1]]))


class Sum(nn.Module):
    """The velocity of x = the first given channel / 2 + noise of deviation 0.3: linear in x_t and y, whose mean is 0 unseen."""

    def forward(self, x, t, embedding):
        x_t, mean = x[:, :1], x[:, 1:2] / 2
        a, s = (1 - t)[:, None, None, None], t[:, None, None, None]
        residual = (x_t - a * mean) / (0.09 * a**2 + s**2)
        return s * residual - (mean + 0.09 * a * residual)


def test_samples_have_the_law_of_their_image():
    model, given = Palette(PAIRS, net=Sum()), images(1, 2, 6, 6).expand(2000, -1, -1, -1)
    x = model.translate(given, generator=0, steps=16)
    error = x - given[:, :1] / 2
    # errors of a mean and a deviation of 2,000: 0.0067 and 0.0047; 5 of them for the largest of 36 pixels, and 16 steps
    assert error.mean(0).abs().max() < 0.035 and (error.std(0) - 0.3).abs().max() < 0.035
    assert torch.equal(x, model.sample(2000, condition=given, generator=0, steps=16))
    away = model.sample(2000, condition=given, generator=0, steps=16, guidance=2.0)
    # guidance 2 doubles what the image adds to the velocity, which is linear in it
    assert (away.mean(0) - given[0, :1]).abs().max() < 0.05


def test_it_learns_to_enlarge():
    torch.manual_seed(0)
    spec = DataSpec("image", (1, 8, 8), levels=17, name="digits")
    data = load_data("digits")
    codes, _ = data.train.fetch(torch.arange(1024))
    x = data.units.to_model(codes)
    model = Palette(spec, corruption="down-sample:2", width=8, dropout=0.0, condition_dropout=0.0)
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=5e-3), UpdateRng(stream())
    for step in range(150):
        rows = torch.arange(32) + 32 * (step % 30)
        optimizer.zero_grad()
        model.loss(Batch(x[rows], None), rng).total.backward()
        optimizer.step()
    model.eval()
    held = x[960:]
    shown = model.operator.picture(model.operator(held))
    made = torch.stack([model.translate(shown, generator=seed, steps=6) for seed in range(3)]).mean(0)
    # 0.125, of squares of 2 x 2 pixels 0.202; who does not look at them is beyond 0.3, the variance of the data
    assert ((made - held) ** 2).mean() < 0.75 * ((shown - held) ** 2).mean()


def test_the_contract(tmp_path):
    for i in range(12):
        for kind, value in (("given", i), ("wanted", 100 + i)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / kind / f"{i}.png")
    pairs = load_data(tmp_path, target_image="wanted")
    alone = load_data(tmp_path / "wanted")
    settings = {"width": 8, "steps": 3}
    reports = [
        check_model(Palette(pairs.spec, **settings), pairs, batch=3),
        check_model(Palette(alone.spec, corruption="down-sample:2", **settings), alone, batch=3),
    ]
    assert all(report.ok and "translates" in report.capabilities for report in reports)
    assert isinstance(small(), Translates) and "translates" in capabilities(Palette)


def test_rows_do_not_depend_on_their_neighbours():
    model, given = small(), images(5, 2, 6, 6)
    many = model.translate(given, generator=SampleRng(3), steps=2)
    few = model.translate(given[2:4], generator=SampleRng(3, first=2), steps=2)
    torch.testing.assert_close(few, many[2:4], rtol=1e-4, atol=1e-5)
    assert (model.translate(given, generator=SampleRng(4), steps=2) - many).abs().max() > 0.1
    flipped = model.translate(given.flip(0), generator=SampleRng(3), steps=2)
    assert (flipped - many)[:2].abs().max() > 1e-2  # it looks at what it is given
    free = model.sample(5, generator=SampleRng(3), steps=2)  # without an image: of all data
    assert free.shape == (5, 1, 6, 6) and (free - many).abs().max() > 1e-2


@pytest.mark.parametrize(
    "spec, settings, said",
    [
        (ALONE, {}, "come without a condition; load pairs"),
        (DataSpec("image", (1, 8, 8), condition=Condition("class", 3), name="n"), {}, "of kind class; load pairs"),
        (DataSpec("image", (1, 8, 8), condition=Condition("class", 3)), {"corruption": "blur:1"}, "label=none"),
        (DataSpec("point", (2,)), {"corruption": "blur:1"}, "holds point data"),
        (ALONE, {"corruption": "smear:2"}, "there is no operator 'smear'"),
        (ALONE, {"corruption": "down-sample:3"}, "3"),
        (PAIRS, {"network": "mlp"}, "network='mlp' sees no places"),
        (PAIRS, {"network": "conv"}, "network='conv'"),
    ],
)
def test_what_cannot_be_built_is_said(spec, settings, said):
    with pytest.raises(UserError, match=said):
        Palette(spec, **settings)


def test_what_cannot_be_translated_is_said():
    model = small()
    with pytest.raises(UserError, match=r"must be \(3, 2, 6, 6\)"):
        model.translate(images(3, 1, 6, 6))
    with pytest.raises(UserError, match="leave the condition away"):
        model.translate(images(3, 2, 6, 6), condition=torch.zeros(3))
    with pytest.raises(UserError, match="needs a condition"):
        small(condition_dropout=0.0).sample(2)
    assert isinstance(model.net, Beside)
