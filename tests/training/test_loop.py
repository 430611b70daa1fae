"""The loop: players in their turns, randomness as a function, exact resume, values that are not finite."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small import Denoiser, Game, Mean, points
from torch import nn

from pushforward import zoo
from pushforward.data.batches import Batch, Batches
from pushforward.errors import UserError
from pushforward.models.contract import Loss, OptimizerSettings, Player, Update
from pushforward.randomness import UpdateRng, mix, seed_everything
from pushforward.training.averaging import Average
from pushforward.training.checkpoints import STATE, read_tensors
from pushforward.training.loop import Loop
from pushforward.training.opening import load
from pushforward.training.optimizers import KINDS, make_optimizer, rate_at
from pushforward.training.settings import TrainingSettings
from pushforward.training.train import _patience, train

HERE = Path(__file__).parent
QUICK = {"tensorboard": False, "precision": "fp32", "picture_every": 0, "batch_size": 32}


def build(kind, data, **settings):
    torch.manual_seed(0)
    return kind(data.spec, **settings)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_one_player_is_the_hand_written_loop(tmp_path):
    """Same data, noise, optimiser, schedule: the same weights to the bit as a loop written out."""
    data = points()
    run = train(build(Denoiser, data), data, steps=40, seed=3, out=str(tmp_path / "a"), average_half_life=0, clip=0, **QUICK)
    model = build(Denoiser, data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    batches = Batches(data.train, data.spec, 32, seed=3)
    for step in range(40):
        rng = UpdateRng(seed_everything(mix(3, step, 0, 0, 0), torch.device("cpu")))
        optimizer.zero_grad()
        model.loss(batches.at(step), rng).total.backward()
        warmup = min(500, 40 // 50)
        rise = min(1.0, (step + 1) / (warmup + 1))
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 40, dtype=torch.float64)).item())
        optimizer.param_groups[0]["lr"] = 1e-2 * rise * cosine
        optimizer.step()
    for ours, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_players_take_turns_with_the_others_frozen(tmp_path):
    """The critic moves twice a step, its penalty each third step, the maker once; nobody moves another's weights."""
    data = points()
    model = build(Game, data)
    calls = []
    for name in ("critic_loss", "penalty", "maker_loss"):
        original = getattr(model, name)

        def watched(batch, rng, original=original, name=name):
            trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
            calls.append((name, tuple(sorted(trained)), batch.index[:3].tolist()))
            return original(batch, rng)

        setattr(model, name, watched)
    train(model, data, steps=4, out=str(tmp_path / "a"), validate_every=0, **QUICK)
    names = [c[0] for c in calls]
    step0 = ["critic_loss", "critic_loss", "penalty", "maker_loss"]
    step1 = ["critic_loss", "critic_loss", "maker_loss"]
    assert names == step0 + step1 + step1 + step0
    assert all(c[1] == (("maker",) if c[0] == "maker_loss" else ("critic",)) for c in calls)
    assert calls[0][2] != calls[1][2], "each of a turn's updates sees fresh data"
    assert calls[0][2] == calls[3][2], "players share the data of a step"


def test_players_on_one_module_share_an_optimiser(tmp_path):
    data = points()
    train(build(Game, data), data, steps=7, out=str(tmp_path / "a"), validate_every=0, **QUICK)
    tensors, _ = read_tensors(tmp_path / "a" / STATE)
    optimizers = {name.split("/")[1] for name in tensors if name.startswith("optimizer/")}
    assert optimizers == {"critic", "maker"}
    assert tensors["optimizer/critic/0/step"] == 7 * 2 + 3, "two updates a step and a penalty at steps 0, 3, 6"


def test_closed_form_ends_by_itself(tmp_path):
    data = points()
    run = train(build(Mean, data), data, out=str(tmp_path / "a"), **QUICK)
    assert run.result["status"] == "converged" and run.result["steps"] == 1
    torch.testing.assert_close(run.model.mean, data.train.codes.mean(0))


@pytest.mark.parametrize("kind", [Denoiser, Game])
def test_same_seed_same_run_other_seed_other_run(tmp_path, kind):
    data = points()
    runs = [
        train(build(kind, data), data, steps=15, seed=seed, out=str(tmp_path / str(i)), **QUICK)
        for i, seed in enumerate((1, 1, 2))
    ]
    states = [r.model.state_dict() for r in runs]
    assert same(states[0], states[1]) and not same(states[0], states[2])


@pytest.mark.parametrize("kind", [Denoiser, Game])
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path, kind):
    """Interrupted by Ctrl-C at step 13, resumed: bit-identical, dropout, moments, average and all."""
    data = points()
    whole = train(build(kind, data), data, steps=30, out=str(tmp_path / "whole"), **QUICK)
    model = build(kind, data)
    count = {"n": 0}
    player = model.players()[-1]
    original = player.loss

    def interrupting(batch, rng):
        if model.training:
            count["n"] += 1
            if count["n"] == 13:
                os.kill(os.getpid(), signal.SIGINT)
        return original(batch, rng)

    players = model.players()
    players[-1].loss = interrupting
    model.players = lambda: players
    first = train(model, data, steps=30, out=str(tmp_path / "parts"), **QUICK)
    assert first.result["status"] == "interrupted" and first.result["steps"] == 13
    second = train(build(kind, data), data, steps=30, out=str(tmp_path / "parts"), resume=True, **QUICK)
    assert second.result["steps"] == 30
    assert same(whole.model.state_dict(), second.model.state_dict())
    a, b = (read_tensors(tmp_path / d / STATE)[0] for d in ("whole", "parts"))
    assert same(a, b)
    steps = [row["step"] for row in second.history]
    assert steps == sorted(steps)


def test_a_killed_run_ends_bit_identical(tmp_path):
    """SIGKILL in the middle of another process; the resumed run ends as the uninterrupted one."""
    script = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import torch, time; from small import *; from pushforward.training.train import train\n"
        "data = points(); torch.manual_seed(0); model = Denoiser(data.spec)\n"
        "original = model.loss\n"
        "def slow(batch, rng):\n    time.sleep(0.02); return original(batch, rng)\n"
        "players = model.players(); players[0].loss = slow; model.players = lambda: players\n"
        f"train(model, data, steps=400, out={str(tmp_path / 'killed')!r}, checkpoint_every=7, tensorboard=False,"
        " precision='fp32', picture_every=0, batch_size=32, validate_every=0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    state = tmp_path / "killed" / STATE
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if state.exists() and read_tensors(state)[1]["step"] >= 14:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    header = read_tensors(state)[1]
    assert 14 <= header["step"] < 400 and header["step"] % 7 == 0
    data = points()
    options = {**QUICK, "steps": header["step"] + 30, "validate_every": 0}
    # The schedule knows the length of the run, so the uninterrupted one is told the same length from the start.
    partial = load(tmp_path / "killed", model=build(Denoiser, data))
    assert partial.sample(2, seed=0).shape == (2, 2), "a killed run can be sampled from its last checkpoint"
    resumed = train(build(Denoiser, data), data, out=str(tmp_path / "killed"), resume=True, **{**options, "steps": 400})
    whole = train(build(Denoiser, data), data, out=str(tmp_path / "whole"), **{**options, "steps": 400})
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_a_value_that_is_not_finite_is_named_and_rolled_back_once(tmp_path):
    data = points()
    model = build(Denoiser, data, poison_at={20})
    run = train(model, data, steps=30, out=str(tmp_path / "a"), checkpoint_every=6, **{**QUICK, "validate_every": 0})
    assert [row["step"] for row in run.history] == sorted(row["step"] for row in run.history)
    (note,) = run.result["notes"]
    assert "step 19" in note and "'denoiser'" in note and "error" in note and "went back to step 18" in note
    assert run.result["steps"] == 30 and torch.isfinite(run.sample(4, seed=0)).all()


def test_the_second_time_it_stops_with_a_sentence_and_keeps_the_checkpoint(tmp_path):
    data = points()
    model = build(Denoiser, data, poison_at={20, 25})
    with pytest.raises(UserError, match="for the second time"):
        train(model, data, steps=40, out=str(tmp_path / "a"), checkpoint_every=6, **{**QUICK, "validate_every": 0})
    tensors, header = read_tensors(tmp_path / "a" / STATE)
    assert header["step"] == 18 and all(torch.isfinite(v).all() for v in tensors.values())
    assert load(tmp_path / "a", model=build(Denoiser, data)).sample(2, seed=0).isfinite().all()


def test_a_gradient_that_is_not_finite_is_named_by_tensor(tmp_path):
    data = points()
    model = build(Denoiser, data)

    def loss(batch, rng):  # a finite value with an infinite slope
        value = model.net(batch.x).sum() * 0
        return Loss(value.abs().sqrt())

    players = model.players()
    players[0].loss = loss
    model.players = lambda: players
    with pytest.raises(UserError, match=r"its gradient \(the loss itself is finite\), first in the gradient of 'net\.0"):
        train(model, data, steps=4, out=str(tmp_path / "a"), **{**QUICK, "validate_every": 0})


def test_accumulation_is_the_whole_batch(tmp_path):
    """Micro-batches of a loss without noise give the whole batch's update, to float rounding."""
    data = points()
    states = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = Denoiser(data.spec, dropout=0.0)
        model.loss = lambda batch, rng, model=model: type(model).loss(model, batch, _Silent(rng))
        run = train(model, data, steps=10, accumulate=accumulate, out=str(tmp_path / str(accumulate)), **QUICK)
        states.append(run.model.state_dict())
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-4, atol=1e-5)


class _Silent:
    def __init__(self, rng):
        self.rng = rng

    def randn(self, *shape):
        return torch.ones(shape)


def test_average_half_life_in_examples():
    """After a half-life of constant new weights, half of the old is left, at any batch size."""
    for batch in (10, 50):
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        average = Average(model, half_life=1000)
        torch.nn.init.ones_(model.weight)
        for step in range(1000 // batch):
            average.update((step + 1) * batch, batch)
        torch.testing.assert_close(average.values[0], torch.tensor([[0.5]]), rtol=1e-5, atol=1e-6)
        with average.used():
            torch.testing.assert_close(model.weight.data, torch.tensor([[0.5]]), rtol=1e-5, atol=1e-6)
        assert model.weight.item() == 1.0


def test_patience_keeps_the_best_weights(tmp_path):
    """A learning rate that diverges: the run stops early and keeps the weights of its best validation."""
    data = points()
    run = train(
        build(Denoiser, data),
        data,
        steps=400,
        validate_every=5,
        patience=3,
        learning_rate=0.5,
        out=str(tmp_path / "a"),
        **QUICK,
    )
    figures = {r["step"]: r["validation/loss"] for r in run.history if "validation/loss" in r}
    best = min(figures, key=figures.get)
    assert run.result["status"] == "stopped early" and run.result["best_validation"][1] == best
    assert run.result["steps"] == best + 15
    codes = data.validation.codes
    totals = []
    for number, start in enumerate(range(0, len(codes), 32)):  # the loop's own protocol, on the weights that were kept
        part = Batch(codes[start : start + 32])
        with torch.no_grad():
            rng = UpdateRng(seed_everything(mix(0, 0x7A11, number), torch.device("cpu")))
            totals.append(run.model.loss(part, rng).total * len(part))
    assert (sum(totals) / len(codes)).item() == pytest.approx(figures[best], rel=1e-5)
    assert figures[best] < figures[best + 15]
    assert run.result["why"] == (
        f"the validation loss has not improved in 3 validations; the best weights, of step {best}, are kept"
    )


def test_patience_0_never_stops_and_keeps_the_last_weights(tmp_path):
    data, words = points(), {"validate_every": 5, "learning_rate": 0.5, "out": str(tmp_path / "a"), **QUICK}
    early = train(build(Denoiser, data), data, steps=400, patience=3, **words)
    steps = early.result["steps"] + 5
    on = train(build(Denoiser, data), data, steps=steps, patience=0, resume=True, **words)
    assert on.result["status"] == "finished" and on.result["steps"] == steps and "why" not in on.result
    whole = train(build(Denoiser, data), data, steps=steps, **{**words, "out": str(tmp_path / "b")})
    assert "why" not in whole.result and not same(on.model.state_dict(), early.model.state_dict())


class Slow(Denoiser):
    """A batch of held-out data takes 20 ms."""

    def loss(self, batch, rng):
        if not self.training:
            time.sleep(0.02)
        return super().loss(batch, rng)


def validated(run):
    return [row["step"] for row in run.history if "validation/loss" in row]


def test_validation_takes_a_tenth_of_the_time(tmp_path):
    """80 ms each, in 2 s: what 200 ms pay for, and the last. It moves nothing."""
    data = points()
    bounded = train(build(Slow, data), data, budget="2s", out=str(tmp_path / "a"), **QUICK)
    assert 2 <= len(validated(bounded)) <= 4 and validated(bounded)[-1] == bounded.result["steps"]
    for name, more, count in (("b", {"validate_every": 2}, 10), ("c", {"patience": 30}, 20)):
        run = train(build(Slow, data), data, steps=20, out=str(tmp_path / name), **more, **QUICK)
        assert len(validated(run)) == count, "whoever says when, or counts them, gets them"
    never = train(build(Slow, data), data, steps=20, validate_every=0, out=str(tmp_path / "d"), **QUICK)
    thin = train(build(Slow, data), data, steps=20, out=str(tmp_path / "e"), **QUICK)
    assert validated(never) == [] and len(validated(thin)) < 20 and same(never.model.state_dict(), thin.model.state_dict())


def test_the_first_validation_is_foreseen_and_the_last_always_there(tmp_path):
    """Four batches without a gradient are 4/3 of an update, which is a tenth of 14; 47 is no multiple of 2."""
    data = points()
    short = train(build(Denoiser, data), data, steps=13, out=str(tmp_path / "a"), **QUICK)
    assert validated(short) == [13]
    longer = train(build(Denoiser, data), data, steps=47, out=str(tmp_path / "b"), **QUICK)
    assert validated(longer)[0] == 14 and validated(longer)[-1] == 47
    asked = train(build(Denoiser, data), data, steps=47, validate_every=10, out=str(tmp_path / "c"), **QUICK)
    assert validated(asked) == [10, 20, 30, 40]


def test_the_live_line_shows_the_held_out_loss(tmp_path, capsys):
    data = points()
    run = train(build(Denoiser, data), data, steps=20, validate_every=5, log_every=8, out=str(tmp_path / "a"), **QUICK)
    loss = next(row["validation/loss"] for row in run.history if row["step"] == 15 and "validation/loss" in row)
    assert f"held out {loss:.4g}" in capsys.readouterr().err


def test_a_budget_that_ends_a_run_of_steps_says_so(tmp_path, capsys):
    data = points()
    run = train(build(Denoiser, data), data, steps=10**6, budget="1s", out=str(tmp_path / "a"), **QUICK)
    assert run.result["why"] == "the budget of 1s is spent"
    assert "finished: the budget of 1s is spent" in capsys.readouterr().err


def test_a_method_may_want_patience(tmp_path, monkeypatch):
    """Where nothing else is said, there is something to watch, and the run is a new one."""
    monkeypatch.setitem(zoo.ZOO, "made", replace(zoo.ZOO["made"], training={"steps": 6, "patience": 4}))
    data, words = points(), {"out": str(tmp_path / "a"), **QUICK}
    run = train("made", data, **words)
    assert run.record["training"]["patience"] == 4 and run.result["steps"] == 6
    blind = replace(data, validation=None)
    for given, settings, patience in (
        (data, {}, 4),
        (data, {"budget": "5s"}, 4),
        (data, {"patience": 2, "steps": 9}, 2),
        (data, {"patience": 0}, 0),
        (data, {"steps": 9}, None),
        (data, {"epochs": 2.0}, None),
        (data, {"resume": True}, None),
        (data, {"validate_every": 0}, None),
        (blind, {}, None),
    ):
        assert _patience("made", given, TrainingSettings(**settings)) == patience
    assert _patience("denoiser", data, TrainingSettings()) is None


def test_patience_keeps_the_buffers_of_then(tmp_path):
    """A count of updates in a buffer is that of the best validation, not of the end, in an interrupted run too."""
    data = points()

    class Counts(Denoiser):
        def __init__(self, spec):
            super().__init__(spec)
            self.register_buffer("updates", torch.zeros((), dtype=torch.long))

        def players(self):
            (player,) = super().players()
            return [replace(player, after_update=lambda keep, moment: self.updates.add_(1))]

    run = train(
        build(Counts, data), data, steps=400, validate_every=5, patience=3, learning_rate=0.5, out=str(tmp_path / "a"), **QUICK
    )
    assert run.model.updates == run.result["best_validation"][1] == run.result["steps"] - 15


def test_a_closed_form_sees_all_data_at_each_step(tmp_path):
    data = points()
    run = train("gmm", data, steps=3, out=str(tmp_path / "a"), **QUICK)
    assert run.result["examples"] == run.result["steps"] * len(data.train)
    assert run.history[-1]["epoch"] == run.result["steps"]


def test_history_and_record(tmp_path):
    data = points()
    run = train(build(Denoiser, data), data, steps=120, out=str(tmp_path / "a"), **{**QUICK, "tensorboard": True})
    rows = [json.loads(line) for line in (tmp_path / "a" / "history.jsonl").read_text().splitlines()]
    assert (
        rows == run.history
        and {"step", "seconds", "epoch", "denoiser/loss", "denoiser/error"} <= rows[-2].keys() | rows[-1].keys()
    )
    assert list((tmp_path / "a" / "tensorboard").glob("events*"))
    assert run.record["result"]["status"] == "finished" and run.record["environment"]["torch"] == torch.__version__


def test_budget_ends_the_run(tmp_path):
    data = points()
    run = train(build(Denoiser, data), data, budget="1s", out=str(tmp_path / "a"), **QUICK)
    assert run.result["status"] == "finished" and 0.9 < run.result["seconds"] < 3
    assert run.history[-1].get("learning_rate", 0) < 1e-2 * 0.2, "the learning rate has gone down to the end"


@pytest.mark.parametrize("kind", ["Denoiser", "Game"])
def test_two_processes_are_one_with_twice_the_batch(tmp_path, kind):
    script = tmp_path / "job.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import torch, small; from pushforward.training.train import train\n"
        "data = small.points(); torch.manual_seed(0)\n"
        f"model = small.{kind}(data.spec" + (", dropout=0.0" if kind == "Denoiser" else "") + ")\n"
        "train(model, data, steps=12, out=sys.argv[1], batch_size=int(sys.argv[2]), precision='fp32', tensorboard=False,"
        " picture_every=0, validate_every=0)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PUSHFORWARD_TYPECHECK": "0"}
    two = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path / "two", "16"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-2000:]
    one = subprocess.run([sys.executable, script, tmp_path / "one", "32"], env=environment, capture_output=True, text=True)
    assert one.returncode == 0, one.stderr[-2000:]
    a, b = (read_tensors(tmp_path / d / STATE)[0] for d in ("one", "two"))
    assert a.keys() == b.keys()
    for key in a:  # the mean of two halves is the mean of the whole up to float32 rounding, amplified by 12 Adam updates
        torch.testing.assert_close(a[key], b[key], rtol=2e-3, atol=2e-5)


def test_an_update_that_has_finished_retires_and_the_others_play_on(tmp_path):
    """A data-dependent start, then descent: the run ends with the steps asked for, not with the start."""
    data = points()
    model = build(Denoiser, data)
    starts = []

    def start(batches, rng):
        starts.append(sum(len(batch) for batch in batches))
        return Update({"rows": float(starts[-1])}, finished=True)

    learner = model.players()
    model.players = lambda: [Player("start", model, update=start), *learner]
    run = train(model, data, steps=9, out=str(tmp_path / "a"), **QUICK)
    assert starts == [384] and run.result["steps"] == 9 and run.result["status"] == "finished"


def test_what_a_loss_keeps_reaches_after_update_joined(tmp_path):
    data = points()
    model = build(Denoiser, data)
    seen = []
    original = model.loss

    def keeping(batch, rng):
        loss = original(batch, rng)
        loss.keep["x"] = batch.x
        return loss

    players = model.players()
    players[0].loss = keeping
    players[0].after_update = lambda keep, moment: seen.append((keep["x"].clone(), torch.is_grad_enabled()))
    model.players = lambda: players
    train(model, data, steps=3, accumulate=4, out=str(tmp_path / "a"), validate_every=0, **QUICK)
    batches = Batches(data.train, data.spec, 32)
    assert len(seen) == 3 and not seen[0][1]
    assert all(torch.equal(seen[step][0], batches.at(step).x) for step in range(3))


def test_a_loss_knows_where_the_run_is(tmp_path):
    data = points()
    model = build(Denoiser, data)
    seen = []
    original = model.loss
    players = model.players()
    players[0].loss = lambda batch, rng: seen.append((batch.step, batch.progress)) or original(batch, rng)
    model.players = lambda: players
    train(model, data, steps=4, out=str(tmp_path / "a"), validate_every=0, **QUICK)
    assert seen == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimiser_moves_as_its_definition_says(kind, tmp_path):
    """The first step from gradient g at rate r: AdamW and Adam -r sign(g); RMSprop -r g / sqrt((1 - alpha) g^2); SGD -r g."""
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    settings = OptimizerSettings(0.1, kind=kind, betas=(0.9, 0.99))
    optimizer = make_optimizer([weight], settings, torch.device("cpu"))
    before = weight.detach().clone()
    weight.grad = torch.tensor([[0.5, -3.0]])
    optimizer.step()
    g = weight.grad
    expected = {"adamw": g.sign(), "adam": g.sign(), "rmsprop": g.sign() / 0.01**0.5, "sgd": g}[kind]
    torch.testing.assert_close(weight.detach(), before - 0.1 * expected, rtol=1e-4, atol=1e-6)


def test_weight_decay_is_for_matrices():
    layer = torch.nn.Linear(2, 2)
    groups = make_optimizer(list(layer.parameters()), OptimizerSettings(weight_decay=0.1), torch.device("cpu")).param_groups
    assert [(g["weight_decay"], [p.dim() for p in g["params"]]) for g in groups] == [(0.1, [2]), (0.0, [1])]


def test_schedules():
    """Linear rise over the warm-up; then cosine, linear or no fall. A run told only its time warms up by the clock."""
    plain = OptimizerSettings(1.0, warmup=0)
    assert rate_at(plain, 0, 0.0, 100) == 1.0 and rate_at(plain, 50, 0.5, 100) == pytest.approx(0.5)
    assert rate_at(OptimizerSettings(1.0, warmup=0, schedule="linear"), 75, 0.75, 100) == pytest.approx(0.25)
    assert rate_at(OptimizerSettings(1.0, warmup=0, schedule="constant"), 99, 0.99, 100) == 1.0
    assert rate_at(OptimizerSettings(1.0, warmup=9, schedule="constant"), 4, 0.0, 100) == pytest.approx(0.5)
    assert rate_at(OptimizerSettings(1.0, schedule="constant"), 3, 0.01, None) == pytest.approx(0.5)
    for schedule in ("cosine", "linear"):
        low = OptimizerSettings(2.0, warmup=9, schedule=schedule, floor=0.2)
        assert [rate_at(low, 50, f, 100) for f in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.2, 0.4])
        assert rate_at(low, 4, 0.0, 100) == pytest.approx(1.0)


def test_a_runs_learning_rate_keeps_the_ratio_of_the_players(tmp_path):
    data = points()
    model = build(Game, data)
    players = model.players()
    players[2].optimizer = OptimizerSettings(4e-3)
    loop = Loop(
        model, players, Batches(data.train, data.spec, 8), TrainingSettings(learning_rate=1e-4), steps=1, directory=tmp_path
    )
    assert [p.optimizer.learning_rate for p in loop.players] == pytest.approx([1e-4, 1e-4, 4e-4])


def test_players_that_share_some_parameters_are_refused(tmp_path):
    data = points()
    model = build(Game, data)
    both = Player("both", [model.critic, model.maker], model.maker_loss)
    model.players = lambda: [Player("critic", model.critic, model.critic_loss), both]
    with pytest.raises(UserError, match="share some parameters but not all"):
        train(model, data, steps=1, out=str(tmp_path / "a"), **QUICK)


def test_patience_is_refused_where_it_could_watch_nothing(tmp_path):
    data = points()
    with pytest.raises(UserError, match="on held-out data"):
        train(build(Game, data), data, steps=1, patience=2, out=str(tmp_path / "a"), **QUICK)


def test_parameters_of_no_player_do_not_move_or_gather_gradients(tmp_path):
    data = points()
    model = build(Denoiser, data)
    model.teacher = torch.nn.Linear(2, 2)
    original = model.loss

    def taught(batch, rng):
        loss = original(batch, rng)
        return Loss(loss.total + (model.net(batch.x) - model.teacher(batch.x)).square().mean())

    players = model.players()
    players[0].loss = taught
    model.players = lambda: players
    before = model.teacher.weight.detach().clone()
    train(model, data, steps=3, out=str(tmp_path / "a"), validate_every=0, **QUICK)
    assert (
        model.teacher.weight.grad is None and torch.equal(model.teacher.weight, before) and model.teacher.weight.requires_grad
    )


def gradients_of(kind, tmp_path, **settings):
    """The gradient that the first update hands to the optimiser (Adam itself hides any factor)."""
    data = points()
    torch.manual_seed(0)
    model = kind(data.spec, dropout=0.0)
    seen = {}
    if settings.pop("silent", False):
        model.loss = lambda batch, rng, model=model: type(model).loss(model, batch, _Silent(rng))
    loop = Loop(
        model, model.players(), Batches(data.train, data.spec, 30), TrainingSettings(tensorboard=False, **settings),
        steps=1, directory=tmp_path,
    )  # fmt: skip
    optimizer = loop.optimizers["denoiser"]
    step = optimizer.step
    optimizer.step = lambda: (seen.update({i: p.grad.clone() for i, p in enumerate(model.net.parameters())}), step())
    loop.run()
    return seen


def test_clipping_scales_the_gradient_to_the_norm_asked_for(tmp_path):
    free, small = gradients_of(Denoiser, tmp_path, clip=0), gradients_of(Denoiser, tmp_path, clip=0.01)
    norm = torch.cat([g.flatten() for g in free.values()]).norm()
    assert norm > 0.01
    for key in free:
        torch.testing.assert_close(small[key], free[key] * 0.01 / norm, rtol=1e-4, atol=1e-8)
    same_norm = gradients_of(Denoiser, tmp_path, clip=1000.0)
    assert all(torch.equal(same_norm[key], free[key]) for key in free)


def test_accumulated_gradients_are_those_of_the_batch(tmp_path):
    """30 rows in micro-batches of 8, 8, 8 and 6: each counts by its size."""
    whole = gradients_of(Denoiser, tmp_path, clip=0, silent=True)
    parts = gradients_of(Denoiser, tmp_path, clip=0, accumulate=4, silent=True)
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-6)


def test_noise_differs_by_step_player_repeat_and_part(tmp_path):
    data = points()
    model = build(Game, data)
    drawn = []
    for name in ("critic_loss", "maker_loss"):
        original = getattr(model, name)
        setattr(model, name, lambda b, r, original=original: drawn.append(r.randn(2, 2)) or original(b, r))
    train(model, data, steps=2, accumulate=2, out=str(tmp_path / "a"), validate_every=0, **QUICK)
    assert len(drawn) == 12 and len({tuple(x.flatten().tolist()) for x in drawn}) == 12


@pytest.mark.parametrize("steps", [50, 104, 107, 230])
def test_the_strided_average_is_the_average(steps):
    """Against an average moved at every update, weights drifting linearly: within 2 % of the drift of a half-life."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    strided, exact = Average(model, half_life=1000), Average(model, half_life=1000)
    for step in range(steps):
        model.weight.data.fill_(float(step))
        strided.step(step, 32)
        exact.update((step + 1) * 32, 32)
    strided.finish(steps, 32)
    assert abs(strided.values[0].item() - exact.values[0].item()) <= 4.0, "a stride is 8 steps: half of it at most"


def test_a_disk_that_fills_during_training_ends_with_a_sentence(tmp_path, monkeypatch):
    from pushforward.training import log

    data = points()
    original = log.History.add
    writes = {"n": 0}

    def full(self, row):
        writes["n"] += 1
        if writes["n"] > 2:
            monkeypatch.setattr(log, "open", _full, raising=False)
        return original(self, row)

    monkeypatch.setattr(log.History, "add", full)
    with pytest.raises(UserError, match="The last checkpoint is kept"):
        train(build(Denoiser, data), data, steps=30, log_every=1, out=str(tmp_path / "a"), **QUICK)
    assert read_tensors(tmp_path / "a" / STATE)[1]["step"] == 0


def _full(*_, **__):
    raise OSError(28, "No space left on device")


class Late(nn.Module):
    """Half of its parameters are in the loss from the tenth update on, as those of a network that grows."""

    def __init__(self, spec):
        super().__init__()
        self.early, self.late = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        self.name, self.settings, self.moves = "late", {}, []

    def loss(self, batch, rng):
        self.moves.append(self.late.weight.detach().clone())
        return Loss((self.early(batch.x) + (self.late(batch.x) if batch.step >= 10 else 0.0)).mean() + self.early.weight.sum())

    def players(self):
        return [
            Player(
                "late",
                self,
                self.loss,
                optimizer=OptimizerSettings(0.01, betas=(0.0, 0.999), schedule="constant", warmup=0, clip=0.0),
            )
        ]


def test_adam_counts_the_steps_of_what_joins_late_from_there(tmp_path):
    """Its first move is one learning rate, as any first move of Adam's: had ten gradients of zero counted, it would be
    sqrt((1 - b2^11) / (1 - b2)) = 3.3 of them, and 31 after a thousand."""
    data = points()
    model = Late(data.spec)
    train(model, data, steps=13, batch_size=64, out=str(tmp_path / "a"), tensorboard=False, picture_every=0, validate_every=0)
    moves = [(after - before).abs().max().item() for before, after in pairwise(model.moves[-13:])]
    assert moves[:10] == [0.0] * 10 and moves[10] == pytest.approx(0.01, rel=1e-3)
