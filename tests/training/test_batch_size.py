"""`--batch-size auto`: doubles while that pays, stops where it does not, and leaves the model as it was."""

import time

import torch
from small import points

from pushforward.data.batches import Batches
from pushforward.models.contract import Loss, Player
from pushforward.training.batch_size import largest_worthwhile
from pushforward.training.train import train

CPU = torch.device("cpu")


def found(seconds, monkeypatch, limit=4096):
    """The size for a loss that takes seconds(rows), on a clock that only this loss moves."""
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    data = points(n=2048)
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def loss(batch, rng):
        clock["now"] += seconds(len(batch))
        return Loss(net(batch.x).square().mean())

    size = largest_worthwhile([Player("p", net, loss)], lambda n: Batches(data.train, data.spec, n), CPU, limit=limit)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    return size


def test_it_doubles_while_examples_per_second_grow(monkeypatch):
    assert found(lambda rows: 0.01, monkeypatch) == 512, "an eighth of 4,096 data is the most"


def test_it_stays_small_where_a_batch_costs_as_much_as_its_rows(monkeypatch):
    assert found(lambda rows: rows * 5e-4, monkeypatch) == 32


def test_it_stops_in_between(monkeypatch):
    """Free up to 128 rows, proportional from there."""
    assert found(lambda rows: 0.02 * max(1.0, rows / 128), monkeypatch) == 128


def test_a_run_records_what_was_found(tmp_path):
    from small import Denoiser

    data = points()
    options = {"tensorboard": False, "picture_every": 0, "precision": "fp32"}
    run = train(Denoiser(data.spec), data, steps=2, batch_size="auto", out=str(tmp_path / "a"), **options)
    assert run.record["training"]["batch_size"] in (32, 64)
