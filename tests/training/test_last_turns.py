"""Players at the end: what is learned from the trained model, and not before."""

import pytest
import torch
from small import Denoiser, points

from pushforward.models.contract import Player, Update
from pushforward.training.checkpoints import STATE, read_tensors, section
from pushforward.training.train import train

QUICK = {"tensorboard": False, "precision": "fp32", "picture_every": 0, "batch_size": 32}


def with_last(data, needs=3):
    """A model whose last player copies the weights that it sees, and ends at its third turn."""
    torch.manual_seed(0)
    model, seen = Denoiser(data.spec), []

    def update(batches, rng):
        assert not model.training and sum(len(batch) for batch in batches) == 384
        seen.append((model.net[0].weight.detach().clone(), rng.randn(1, 2)))
        return Update({"turn": float(len(seen))}, finished=len(seen) == needs)

    learner = model.players()
    model.players = lambda: [Player("codes", model, update=update, at_end=True), *learner]
    return model, seen


def test_the_last_player_sees_the_averaged_weights_of_the_whole_run(tmp_path):
    data = points()
    model, seen = with_last(data)
    run = train(model, data, steps=20, out=str(tmp_path / "a"), **QUICK)
    assert run.result["steps"] == 20 and len(seen) == 3
    tensors, _ = read_tensors(run.directory / STATE)
    last = section(tensors, "model")["net.0.weight"]
    for weight, _ in seen:
        assert torch.equal(weight, run.model.net[0].weight)  # what the run keeps
        assert not torch.equal(weight, last)  # and not the last weights
    assert not torch.equal(seen[0][1], seen[1][1])  # each turn its own noise
    assert [row["codes/turn"] for row in run.history if "codes/turn" in row] == [1.0, 2.0, 3.0]


def test_its_noise_is_a_function_of_the_seed(tmp_path):
    data = points()
    noises = []
    for name in "ab":
        model, seen = with_last(data, needs=1)
        train(model, data, steps=5, seed=7, out=str(tmp_path / name), **QUICK)
        noises.append(seen[0][1])
    assert torch.equal(*noises)


def test_a_model_of_nothing_else_trains_in_no_steps(tmp_path):
    data = points()
    model, seen = with_last(data)
    last = model.players()[0]
    model.players = lambda: [last]
    run = train(model, data, steps=20, out=str(tmp_path / "a"), **QUICK)
    assert len(seen) == 3 and run.result["steps"] == 0 and run.result["status"] == "converged"


def test_who_descends_a_gradient_cannot_play_at_the_end():
    net = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="at the end"):
        Player("a", net, loss=lambda batch, rng: None, at_end=True)
