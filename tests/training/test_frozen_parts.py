"""What requires no gradient stays as it is: a codec under a latent model, a teacher, a text encoder."""

import torch
from small import Game, points
from torch import nn

from pushforward.models.contract import Loss, OptimizerSettings, Player
from pushforward.training.averaging import Average
from pushforward.training.checkpoints import STATE, read_tensors, section
from pushforward.training.train import train

QUICK = {"tensorboard": False, "precision": "fp32", "picture_every": 0, "batch_size": 32}


class OnTop(nn.Module):
    """A small network on the codes of a frozen one, which has a batch norm and dropout."""

    def __init__(self, spec, whole):
        super().__init__()
        self.codec = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).requires_grad_(False)
        self.net = nn.Linear(8, 2)
        self.spec, self.whole, self.modes = spec, whole, []
        self.name, self.settings = "on-top", {}

    def loss(self, batch, rng):
        self.modes.append((self.codec.training, self.net.training))
        return Loss((self.net(self.codec(batch.x)) - batch.x).square().mean())

    def players(self):
        return [Player("net", self if self.whole else self.net, self.loss, optimizer=OptimizerSettings(1e-2))]


def test_a_frozen_part_does_not_move(tmp_path):
    data = points()
    for whole in (True, False):
        torch.manual_seed(0)
        model = OnTop(data.spec, whole)
        before = {name: value.clone() for name, value in model.codec.state_dict().items()}
        net = model.net.weight.detach().clone()
        run = train(model, data, steps=30, out=str(tmp_path / f"{whole}"), **QUICK)
        assert all(torch.equal(value, before[name]) for name, value in model.codec.state_dict().items())
        assert not torch.equal(net, model.net.weight)
        assert not any(parameter.requires_grad for parameter in model.codec.parameters())
        assert all(parameter.requires_grad for parameter in model.net.parameters())
        learning = [modes for modes in model.modes if modes[1]]
        assert len(learning) >= 30 and all(modes == (False, True) for modes in learning)
        tensors, _ = read_tensors(run.directory / STATE)
        assert set(section(tensors, "average")) == {"net.weight", "net.bias"}  # and nothing is kept twice


def test_averages_are_of_what_is_learned():
    model = OnTop(None, True)
    assert sum(value.numel() for value in Average(model).values) == sum(p.numel() for p in model.net.parameters())


def test_each_player_whose_loss_says_something_is_validated(tmp_path):
    """Two regressions are both validated, patience watches the first; a game's players are not."""
    data = points()
    torch.manual_seed(0)
    model = nn.Module()
    model.a, model.b = nn.Linear(2, 2), nn.Linear(2, 2)
    model.name, model.settings, model.spec = "two", {}, data.spec

    def regression(net):
        return lambda batch, rng: Loss((net(batch.x) - batch.x).square().mean())

    model.players = lambda: [Player(n, net, regression(net), validates=True) for n, net in (("a", model.a), ("b", model.b))]
    run = train(model, data, steps=20, validate_every=10, out=str(tmp_path / "two"), **QUICK)
    rows = [row for row in run.history if "validation/loss" in row]
    assert len(rows) == 2 and all("validation/b" in row for row in rows)
    x = data.units.to_model(data.validation.codes)
    expected = (model.b(x) - x).square().mean().item()
    assert abs(rows[-1]["validation/b"] - expected) < 0.05 * expected + 1e-3
    run = train(Game(data.spec), data, steps=6, validate_every=2, out=str(tmp_path / "game"), **QUICK)
    assert not any("validation/loss" in row for row in run.history)
