"""Runs are safe: one process a directory, what a resumed run keeps, signals, and directories that go away."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small import Denoiser, Mean, points

from pushforward.artefacts import read_recipe
from pushforward.building import create
from pushforward.data.batches import ArraySplit, Data
from pushforward.data.loading import load_data
from pushforward.errors import UserError
from pushforward.models.contract import Loss
from pushforward.training import loop as loops
from pushforward.training.checkpoints import STATE, WEIGHTS, fingerprint, read_tensors
from pushforward.training.lock import LOCK, locked, refuse_if_running
from pushforward.training.opening import load
from pushforward.training.records import latest
from pushforward.training.train import train

HERE = Path(__file__).parent
QUICK = {"tensorboard": False, "precision": "fp32", "picture_every": 0, "batch_size": 32}


def build(kind, data, **settings):
    torch.manual_seed(0)
    return kind(data.spec, **settings)


@pytest.fixture
def data():
    return points()


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def watched(model, seen):
    """The model, with its player's loss seen before each update."""
    players = model.players()
    original = players[0].loss
    players[0].loss = lambda batch, rng: seen(batch) or original(batch, rng)
    model.players = lambda: players
    return model


def start(tmp_path, extra="", name="job.py", pause=0.02, options="steps=2000"):
    """A script that trains slowly in DIRECTORY (its argument)."""
    script = tmp_path / name
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import os, time, torch; from small import *; from pushforward.training.train import train\n"
        "data = points(); torch.manual_seed(0); model = Denoiser(data.spec)\n"
        "players = model.players(); original = players[0].loss\n"
        f"def slow(batch, rng):\n    time.sleep({pause})\n    {extra or 'pass'}\n    return original(batch, rng)\n"
        "players[0].loss = slow; model.players = lambda: players\n"
        f"run = train(model, data, {options}, out=sys.argv[1], tensorboard=False, precision='fp32', picture_every=0,"
        " batch_size=32, validate_every=0)\n"
        "print('ended', run.result['status'], run.result['steps'], flush=True)\n"
    )
    return script


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PUSHFORWARD_TYPECHECK": "0"}


def test_a_second_process_is_refused_until_the_first_is_dead(data, tmp_path):
    out = tmp_path / "run"
    first = subprocess.Popen([sys.executable, start(tmp_path), out], env=ENVIRONMENT)
    try:
        wait_for(lambda: (out / STATE).exists())
        for resume in (False, True):
            with pytest.raises(UserError, match=rf"process {first.pid} on .+ is training in .*run") as refused:
                train(build(Denoiser, data), data, steps=3, out=str(out), resume=resume, **QUICK)
            assert os.uname().nodename in str(refused.value)
    finally:
        first.kill()
        first.wait()
    assert (out / LOCK).exists(), "a killed process leaves its file behind, but not its lock"
    run = train(build(Denoiser, data), data, steps=3, out=str(out), resume=True, **{**QUICK, "validate_every": 0})
    assert run.result["status"] == "finished" and not (out / LOCK).exists()


def test_the_lock_is_for_one_holder_and_leaves_no_trace(tmp_path):
    with locked(tmp_path / "a"):
        with pytest.raises(UserError, match=f"process {os.getpid()} on"):
            refuse_if_running(tmp_path / "a")
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), locked(tmp_path / "a"):
            pass
    assert not (tmp_path / "a").exists(), "made by the lock, and empty"
    refuse_if_running(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with locked(tmp_path / "b"):
        shutil.rmtree(tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.fixture
def ended(data, tmp_path):
    """A run of 20 steps that has finished."""
    return train(build(Denoiser, data), data, steps=20, seed=3, out=str(tmp_path / "run"), **QUICK)


REFUSED = {
    "another batch size": ({"batch_size": 64, "steps": 30}, "trained with 32 data an update, now it would be 64"),
    "another seed": ({"seed": 4, "steps": 30}, "seed = 4 was given, but the run in .* has 3"),
    "other data": ({"steps": 30}, "the data given are not those .*their values are others"),
    "data of another form": ({"steps": 30}, "the data given are not those .*differ in their columns"),
    "another setting of the model": ({"steps": 30}, "width = 64 was given, but the run in .* has 32"),
    "another model": ({"steps": 30}, "is a run of 'denoiser', 'mean' was given"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_run_is_cannot_change_in_its_middle(case, ended, data, tmp_path):
    """Each refused with a sentence, before anything is written."""
    record = tmp_path / "run" / "run.yaml"
    record.write_text(record.read_text().replace("settings: {}", "settings: {width: 32}"))
    settings, sentence = REFUSED[case]
    model, given = build(Denoiser, data), data
    model.settings = {"width": 64 if case == "another setting of the model" else 32}
    if case == "other data":
        given = points(seed=1)
    if case == "data of another form":
        columns = tuple(column.__class__("c" + column.name, "number") for column in data.spec.columns)
        given = Data(data.spec.__class__("point", (2,), columns=columns, name="points"), data.train, data.validation)
    if case == "another model":
        model = build(Mean, data)
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match=sentence):
        train(model, given, out=str(tmp_path / "run"), resume=True, **{**QUICK, "seed": 3, **settings})
    assert contents(tmp_path / "run") == before


def test_a_resumed_run_goes_on_with_its_own_settings(ended, data, tmp_path, capsys):
    """Nothing but the length is said: seed, batch size and precision are the run's; a change is honoured and said."""
    out = str(tmp_path / "run")
    run = train(build(Denoiser, data), data, out=out, resume=True, steps=25, learning_rate=1e-4)
    told = run.record["training"]
    assert (run.result["steps"], told["seed"], told["batch_size"], told["learning_rate"]) == (25, 3, 32, 1e-4)
    said = capsys.readouterr().err
    assert "going on from step 20 with steps = 25 (it was 20), learning_rate = 0.0001 (it was None)" in said
    assert train(build(Denoiser, data), data, out=out, resume=True, budget="2m", steps=27).record["training"]["budget"] == "2m"


def test_a_run_that_has_finished_says_so(ended, data, tmp_path, capsys):
    before = contents(tmp_path / "run")
    for settings in ({}, {"steps": 20}, {"steps": 5}):
        run = train(build(Denoiser, data), data, out=str(tmp_path / "run"), resume=True, **settings)
        assert "already finished, in 20 steps" in capsys.readouterr().err
        assert run.result == ended.result and torch.equal(run.sample(3, seed=0), ended.sample(3, seed=0))
    assert contents(tmp_path / "run") == before


def test_closed_form_has_nothing_to_resume(data, tmp_path, capsys):
    out = str(tmp_path / "run")
    train(build(Mean, data), data, out=out, **QUICK)
    run = train(build(Mean, data), data, out=out, resume=True)
    assert run.result["steps"] == 1 and "already finished" in capsys.readouterr().err
    torch.testing.assert_close(run.model.mean, data.train.codes.mean(0))


def test_a_budget_that_is_spent_is_an_end_and_a_longer_one_is_not(data, tmp_path, capsys):
    out = str(tmp_path / "run")
    first = train(build(Denoiser, data), data, budget="0.3s", out=out, **QUICK)
    again = train(build(Denoiser, data), data, out=out, resume=True)
    assert again.result == first.result and "already finished" in capsys.readouterr().err
    longer = train(build(Denoiser, data), data, out=out, resume=True, budget="0.6s")
    assert longer.result["steps"] > first.result["steps"]
    by_steps = train(build(Denoiser, data), data, out=out, resume=True, steps=longer.result["steps"] + 5)
    assert by_steps.result["steps"] == longer.result["steps"] + 5, "steps replace the budget"


def interrupt_at(step, monkeypatch):
    original = loops.Loop._one_step

    def stopping(self, window):
        original(self, window)
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loops.Loop, "_one_step", stopping)


def test_fewer_steps_than_an_unfinished_run_has_made_are_refused(data, tmp_path, monkeypatch):
    out = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt_at(12, patch)
        assert train(build(Denoiser, data), data, steps=30, out=out, **QUICK).result["status"] == "interrupted"
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match=r"steps = 7 was given, but the run in .* stands at step 12 already"):
        train(build(Denoiser, data), data, steps=7, out=out, resume=True)
    assert contents(tmp_path / "run") == before
    done = train(build(Denoiser, data), data, steps=12, out=out, resume=True)
    assert (done.result["status"], done.result["steps"]) == ("finished", 12)


@pytest.mark.parametrize("when", ["checkpoint", "picture", "end"])
def test_a_directory_that_goes_away_is_an_error_and_stays_away(when, data, tmp_path):
    out = tmp_path / "run"

    def remove(batch):
        if batch.step == 5:
            shutil.rmtree(out)

    model = watched(build(Denoiser, data), remove)
    every = {"checkpoint_every": 7} if when == "checkpoint" else {"picture_every": 7} if when == "picture" else {}
    with pytest.raises(UserError, match=r"the run directory .*run is gone"):
        train(model, data, steps=9, out=str(out), log_every=1000, **{**QUICK, "validate_every": 0, **every})
    assert not out.exists()


def test_pictures_of_a_run_under_way_name_no_weights(ended, data, tmp_path):
    """model.safetensors is of the run's first part while it goes on; neither pictures nor `load` take it for the present."""
    out, stale = tmp_path / "run", fingerprint(tmp_path / "run" / WEIGHTS)
    seen = {}

    def look(batch):
        if batch.step == 29:
            seen["weights"], seen["steps"] = (
                load(out, model=build(Denoiser, data)).weights,
                read_tensors(out / STATE)[1]["step"],
            )

    model = watched(build(Denoiser, data), look)
    train(model, data, out=str(out), resume=True, steps=30, checkpoint_every=4, picture_every=5)
    assert seen["steps"] == 28 and seen["weights"] != stale
    recipe = read_recipe(out / "progress" / "step-0000025.png")
    assert "weights" not in recipe and recipe["step"] == 25 and recipe["picture"] == "progress"
    assert read_recipe(out / "samples.png")["weights"] == fingerprint(out / WEIGHTS) != stale


def test_the_newest_run_of_a_model_is_found(data, tmp_path, monkeypatch):
    """Of this model, whatever other names begin with its name; by the time of its checkpoint, not by its number."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train(build(Denoiser, data), data, steps=2, **QUICK)
    train(build(Mean, data), data, out="runs/denoiser-of-another-kind", **QUICK)
    first, second = Path("runs/denoiser-points"), Path("runs/denoiser-points-2")
    assert latest("denoiser", "points") == second and latest() == Path("runs/denoiser-of-another-kind")
    os.utime(first / STATE)
    assert latest("denoiser") == first
    run = train(build(Denoiser, data), data, resume=True, steps=4)
    assert run.directory == first and run.result["steps"] == 4
    with pytest.raises(UserError, match="no run of 'game' in runs/"):
        latest("game")


def test_epochs_are_passes_over_the_training_set(data, tmp_path):
    """384 data, 32 an update: 24 updates are two epochs, which each datum is in exactly twice; a turn of two updates, half."""
    counts = torch.zeros(384)

    def count(batch):
        counts.index_add_(0, batch.index, torch.ones(len(batch.index)))

    run = train(
        watched(build(Denoiser, data), count), data, epochs=2, out=str(tmp_path / "a"), **{**QUICK, "validate_every": 0}
    )
    assert run.result["steps"] == 24 and torch.equal(counts, torch.full((384,), 2.0))
    model = build(Denoiser, data)
    players = model.players()
    players[0].repeat = 2
    model.players = lambda: players
    assert train(model, data, epochs=2, out=str(tmp_path / "b"), **QUICK).result["steps"] == 12


def test_the_validation_loss_is_of_the_validation_split(data, tmp_path):
    """A loss that is the mean of x: far from the training set's on the validation split."""
    shifted = Data(data.spec, data.train, ArraySplit(data.validation.codes + 100.0), source=data.source)
    model = build(Denoiser, shifted)
    modes = []

    def loss(batch, rng):
        modes.append((model.training, round(batch.x.mean().item())))
        return Loss(batch.x.mean() + 0 * sum(p.sum() for p in model.parameters()))

    players = model.players()
    players[0].loss = loss
    model.players = lambda: players
    run = train(model, shifted, steps=3, validate_every=3, out=str(tmp_path / "a"), **QUICK)
    (found,) = (row["validation/loss"] for row in run.history if "validation/loss" in row)
    assert found == pytest.approx(shifted.validation.codes.mean().item(), rel=1e-5)
    assert all(training and mean < 5 for training, mean in modes[:3])
    assert len(modes) == 3 + 128 // 32 and all(not training and mean > 95 for training, mean in modes[3:])


@pytest.mark.parametrize("precision, expected", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast_is_on_inside_the_loss(precision, expected, data, tmp_path):
    """Matrix products are computed in it, in training and validation; weights and gradients stay float32."""
    model = build(Denoiser, data)
    seen = {True: set(), False: set()}

    def loss(batch, rng):
        product = batch.x @ model.net[0].weight.T
        seen[model.training].add(product.dtype)
        return Loss(product.float().square().mean())

    players = model.players()
    players[0].loss = loss
    model.players = lambda: players
    train(model, data, steps=2, validate_every=2, out=str(tmp_path / "a"), **{**QUICK, "precision": precision})
    assert seen == {True: {expected}, False: {expected}}
    tensors, header = read_tensors(tmp_path / "a" / STATE)
    assert header["precision"] == precision and {t.dtype for n, t in tensors.items() if n.startswith("model/")} == {
        torch.float32
    }


def test_a_signal_in_one_process_of_two_stops_both_at_one_step(tmp_path):
    """The second process alone hears SIGTERM: both end, at the same step, with everything saved."""
    signals = "if os.environ['RANK'] == '1' and batch.step == 20: os.kill(os.getpid(), 15)"
    script, out = start(tmp_path, signals, pause=0.001, options="steps=100000"), tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, out]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.findall(r"ended (\w+) (\d+)", done.stdout) == [("interrupted", "21")] * 2
    assert read_tensors(out / STATE)[1]["step"] == 21
    assert yaml.safe_load((out / "run.yaml").read_text())["result"]["status"] == "interrupted"


def test_what_is_refused_at_the_first_step_leaves_the_place_free(tmp_path):
    """Five rows have no ten components; the corrected command may use the same directory."""
    data = load_data(np.random.default_rng(0).normal(size=(9, 2)), validation=0, test=0)
    out = str(tmp_path / "run")
    with pytest.raises(UserError, match="components=20"):
        train(create("gmm", data.spec, components=20), data, out=out)
    assert not (tmp_path / "run").exists()
    assert train(create("gmm", data.spec, components=2), data, out=out).result["steps"] > 0
