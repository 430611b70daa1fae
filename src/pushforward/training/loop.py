"""The one loop. It takes players, knows nothing of what they play, and moves each of them in its turn.

A step is one turn of every player that is due. A turn: thaw the player's parameters and freeze the others; compute the
player's loss on the step's data with noise that is a function of (seed, step, player); go down its gradient.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pushforward.data.batches import Batch, Batches
from pushforward.errors import UserError
from pushforward.models.contract import Loss, Moment, Player, Update
from pushforward.randomness import UpdateRng, mix, seed_everything
from pushforward.training import checkpoints, engine
from pushforward.training.averaging import Average
from pushforward.training.guard import Guard, NotFinite
from pushforward.training.interrupts import Interrupts
from pushforward.training.log import Display, History, Trackers, Window
from pushforward.training.optimizers import make_optimizers, rate_at
from pushforward.training.precision import Pace, autocast
from pushforward.training.settings import TrainingSettings, seconds
from pushforward.training.validation import Modes, Validation

LOOKING = 0.05  # of the time of a run, at most, is for watching it
VALIDATING = 0.1  # likewise, for validation losses that nothing hangs on
_FORWARD = 1 / 3  # of an update's time, for the loss alone
_LAST_TURNS = 1000  # of a player at the end that never says it has finished


@dataclass
class Outcome:
    """How a run ended: finished, interrupted (by the signal of this number: Ctrl-C, SIGTERM), converged (closed form, EM) or
    stopped early (patience). why: in words, where it was not the last step."""

    status: str = "finished"
    why: str = ""
    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    signal: int = 0


class _Turn:
    """A player with everything that is fixed for its turns: parameters to train and to freeze, wrapped loss, settings."""

    def __init__(self, player: Player, index: int, everyone: list[nn.Parameter], synchroniser: engine.Synchroniser):
        self.player, self.index = player, index
        self.parameters = player.parameters()
        own = {id(p) for p in self.parameters}
        self.frozen = [p for p in everyone if id(p) not in own]
        self.loss, self.no_sync = synchroniser.loss(player)


class Loop:
    """Moves the players of one model from `step` to the end of the run.

    directory: of checkpoints and history, written by the first process alone. picture: called with the step, under averaged
    weights, whenever a sample picture is due. watch: likewise, where no loss says how a run does; its figures are logged. It is
    left out while it would take more than a twentieth of the time, a validation while it would take more than a tenth; neither
    where `validate_every` says when, and no validation that patience counts, for a run must not hang on the clock.
    """

    def __init__(
        self,
        model: nn.Module,
        players: list[Player],
        batches: Batches,
        settings: TrainingSettings,
        *,
        steps: int | None,
        pace: Pace = Pace(),
        validation: Callable[[], list[Batch]] | None = None,
        directory: Path,
        display: Display | None = None,
        picture: Callable[[int], None] | None = None,
        watch: Callable[[int], dict[str, float]] | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self.model, self.players, self.batches, self.settings = model, players, batches, settings
        self.steps, self.precision, self.threads, self.directory = steps, pace.precision, pace.threads, directory
        self.budget = seconds(settings.budget) if settings.budget else None
        self.history: list[dict[str, Any]] = []
        self.rank, self.world, self.device = rank, world, batches.device
        self.display = display or Display("", steps, self.budget, quiet=True)
        self.last = [player for player in players if player.at_end]
        self.picture = None if self.last else picture  # without what these learn samples would mislead
        self.players = players = [_scaled(player, players, settings) for player in players if not player.at_end]
        self.watch = watch
        self.watched: dict[str, float] = {}  # the latest figures
        self.looks: list[float] = []  # how many seconds each look took
        self.looked = 0  # the step of the last one
        self.validations: list[float] = []  # how many seconds each took
        self.validated = 0
        self.modes = Modes(model)
        self.optimizers = make_optimizers(players, self.device)
        # Whatever no player owns (a teacher, a codec) is frozen too.
        learned = [p for player in players if player.loss is not None for p in player.parameters()]
        self.everyone = list(dict.fromkeys([*learned, *(p for p in model.parameters() if p.requires_grad)]))
        self.guard = Guard(model, settings.clip, self.device, world)
        self.synchroniser = engine.Synchroniser(world)
        self.turns = {
            player.name: _Turn(player, index, self.everyone, self.synchroniser)
            for index, player in enumerate(players)
            if player.loss is not None
        }
        self.validation = Validation(players, validation, settings.seed, self.device)
        if settings.patience and not self.validation.players:
            raise UserError("patience watches the loss on held-out data, of which this model's says nothing; leave it away.")
        self.retired: set[str] = set()
        self.average = Average(model, settings.average_half_life)
        self.repeats = max((player.repeat for player in players), default=1)
        self.step, self.saved_step, self.elapsed, self.failures = 0, 0, 0.0, 0
        self.best: dict[str, Tensor] = {}  # averaged weights and buffers of the best validation, where patience asks for them
        self._stop = "" if players else "converged"  # nothing to train: all there is to learn is learned at the end
        self._passed: dict[int, int] = {}
        self._thawed: str | None = None

    def run(self) -> Outcome:
        """Trains to the end, or to Ctrl-C, and leaves the averaged (or best) weights in the model."""
        outcome = Outcome()
        first = self.rank == 0
        history = self.log = History(self.directory / "history.jsonl" if first else None, self.step)
        trackers = Trackers(
            self.directory, self.settings.tensorboard and first, self.settings.wandb if first else None, self.settings.to_dict()
        )
        window = Window()
        self.modes.train()
        if self.step == 0:
            self.save()  # a full disk or a missing permission shows now, not after an hour
        self._began = time.monotonic() - self.elapsed
        saved, logged, logged_step = time.monotonic(), time.monotonic(), self.step
        pictured = self.elapsed
        try:
            with Interrupts() as interrupts:
                while not self._stop and (self.steps is None or self.step < self.steps):
                    elapsed = time.monotonic() - self._began
                    self.elapsed, outcome.signal = interrupts.agreed(elapsed, self.device, self.world)
                    if outcome.signal:
                        self._stop = "interrupted"
                        break
                    if self.budget and self.elapsed >= self.budget:
                        if self.steps is not None:
                            outcome.why = f"the budget of {self.settings.budget} is spent"
                        break
                    try:
                        self._one_step(window)
                    except NotFinite as error:
                        self._roll_back(error, outcome)
                        window = Window()
                        continue
                    self.step += 1
                    now = time.monotonic()
                    if self.step % self.settings.log_every == 0 or now - logged > 2.0 or self.step == 1 or self._stop:
                        rate = (self.step - logged_step) / max(now - logged, 1e-9)
                        row = self._row(window.read(), rate)
                        history.add(row)
                        trackers.add(row)
                        self.display.show(self.step, self._fraction(), rate, self.elapsed, _figures(row), self.watched)
                        logged, logged_step = now, self.step
                    if self._due(self.settings.validate_every, 20):
                        if self._worth_validating() and self._validate(history, trackers):
                            self._stop = "stopped early"
                        if self._worth_a_look():
                            self._look(history, trackers)
                    # what the last players learn is not there yet, and samples without it would mislead
                    if (
                        self.picture
                        and not self.last
                        and self._due(self.settings.picture_every, 6)
                        and self._affordable(pictured)
                    ):
                        pictured = self.elapsed
                        with self.average.used(), self.modes.evaluating():
                            self.picture(self.step)
                    every = self.settings.checkpoint_every
                    if (every and self.step % every == 0) or (not every and now - saved > 60):
                        self.save()
                        saved = time.monotonic()
            self.guard.settle()
            self.elapsed = time.monotonic() - self._began
            if window.terms:
                history.add(self._row(window.read(), self.step / max(self.elapsed, 1e-9)))
            self.save()
            if self.watch and not outcome.signal and self.looked < self.step:
                self._look(history, trackers)
            if self._may_skip and not outcome.signal and self.validated < self.step:
                self._validate(history, trackers)
        finally:
            trackers.close()
            self.display.close()
            for parameter in self.everyone:
                parameter.requires_grad_(True)
        self.average.finish(self.step, self.examples_per_step)  # after the checkpoint: a resumed run must not see it
        if self.best and self.settings.patience:
            self.average.load(self.best)
            with torch.no_grad():
                for name, buffer in self.model.named_buffers():
                    buffer.copy_(self.best[f"buffer/{name}"])
        self.average._exchange()  # the model keeps the averaged weights
        self.model.eval()
        if outcome.signal != signal.SIGTERM:  # whoever sends it does not wait long; a resumed run takes these turns
            self._last_turns()
        outcome.status = self._stop or "finished"
        if self._stop == "stopped early":
            assert self.validation.best is not None
            outcome.why = (
                f"the validation loss has not improved in {self.validation.waited} validations; the best weights, of step "
                f"{self.validation.best[1]}, are kept"
            )
        outcome.steps, outcome.seconds, outcome.examples = self.step, self.elapsed, self.seen
        self.history = history.rows
        return outcome

    @property
    def seen(self) -> int:
        """Examples seen so far, over all processes: a step takes as many batches as its most active player, or all data where
        the players learn in closed form."""
        return self.step * self.examples_per_step

    @property
    def examples_per_step(self) -> int:
        return self.repeats * self.batches.global_size if self.turns else self.batches.whole

    def _one_step(self, window: Window) -> None:
        fetched: dict[int, Batch] = {}
        for index, player in enumerate(self.players):
            if self.step % player.every or player.name in self.retired:
                continue
            if player.update is not None:
                update = self._update(player, self.step, index)
                window.add(player.name, {name: torch.tensor(value) for name, value in update.terms.items()})
                self.average.adopt(player.parameters())
                if update.finished:
                    self.retired.add(player.name)
                    if len(self.retired) == len(self.players):
                        self._stop = "converged"
                continue
            for repeat in range(player.repeat):
                if repeat not in fetched:  # players share the data of a step
                    fetched[repeat] = self.batches.at(self.step * self.repeats + repeat)
                    fetched[repeat].step, fetched[repeat].progress = self.step, self._fraction()
                window.add(player.name, self._turn(self.turns[player.name], fetched[repeat], repeat))
        if self.turns:
            self.average.step(self.step, self.examples_per_step)

    def _update(self, player: Player, *at: int) -> Update:
        assert player.update is not None
        generator = seed_everything(mix(self.settings.seed, *at), self.device)
        with torch.no_grad():
            return player.update(self.batches.passes(), UpdateRng(generator))

    def _last_turns(self) -> None:
        """The players who learn from the trained model. Every process sees all data, so that all arrive at the same."""
        for index, player in enumerate(self.last):
            self.display.say(f"{player.name} learns from the trained model")
            for number in range(_LAST_TURNS):
                update = self._update(player, self.step, len(self.players) + index, number)
                self.log.add({"step": self.step, **{f"{player.name}/{name}": value for name, value in update.terms.items()}})
                if update.finished:
                    break

    def _turn(self, turn: _Turn, batch: Batch, repeat: int) -> dict[str, Tensor]:
        """One update of a player; its loss, the terms of this and the norm of the gradient."""
        player = turn.player
        if self._thawed != player.name:
            for parameter in turn.frozen:
                parameter.requires_grad_(False)
            for parameter in turn.parameters:
                parameter.requires_grad_(True)
            self._thawed = player.name
        for parameter in turn.parameters:
            parameter.grad = None
        if self.settings.accumulate == 1:
            loss = self._backward(turn, batch, repeat)
        else:
            parts, found = batch.split(self.settings.accumulate), []
            for number, part in enumerate(parts):
                with nullcontext() if number == len(parts) - 1 else turn.no_sync():
                    share = len(part) / len(batch)
                    found.append((share, self._backward(turn, part, repeat, number, share)))
            loss = _weighted(found)
        norm = self.guard.clip(self.step, player, turn.parameters, loss)
        optimizer = self.optimizers[player.name]
        rate = rate_at(player.optimizer, self.step, self._fraction(), self.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        if player.after_update is not None:
            with torch.no_grad():
                keep = self.synchroniser.gathered({name: rows.detach() for name, rows in loss.keep.items()})
                player.after_update(keep, self._moment(turn, repeat))
        return {"loss": loss.total, **loss.terms, "gradient": norm}

    def _moment(self, turn: _Turn, repeat: int) -> Moment:
        generator = torch.Generator(self.device).manual_seed(mix(self.settings.seed, self.step, turn.index, repeat, 0xAF7E5))
        return Moment(self.step, self._fraction(), UpdateRng(generator))

    def _backward(self, turn: _Turn, part: Batch, repeat: int, number: int = 0, share: float = 1.0) -> Loss:
        generator = seed_everything(mix(self.settings.seed, self.step, turn.index, repeat, number), self.device)
        with autocast(self.device, self.precision):
            loss = turn.loss(part, UpdateRng(generator, self.rank, self.world))
        (loss.total if share == 1.0 else loss.total * share).backward()
        return loss

    def _fraction(self) -> float:
        """How far the run is, from 0 to 1."""
        by_steps = self.step / self.steps if self.steps else 0.0
        return min(1.0, max(by_steps, self.elapsed / self.budget if self.budget else 0.0))

    def _roll_back(self, error: NotFinite, outcome: Outcome) -> None:
        """Once: back to the last good state, in full precision. Twice: stop."""
        self.failures += 1
        if self.failures > 1:
            raise UserError(
                f"{error}, for the second time. The last good checkpoint (step {self.saved_step}) is kept in "
                f"{self.directory}; try a smaller --learning-rate, or look at the data with `pushforward data`."
            )
        before = self.precision
        self.load(*checkpoints.read_tensors(self.directory / checkpoints.STATE))
        self.failures, self.precision = 1, "fp32"
        self.log.cut(self.step)
        note = f"{error}; went back to step {self.step}, and on in full precision" + (
            "" if before == "fp32" else f" (was {before})"
        )
        outcome.notes.append(note)
        self.display.say(note)

    @property
    def distinct(self) -> dict[str, Optimizer]:
        """Each optimiser once, under the name of its first player."""
        owners: dict[int, str] = {}
        for name, optimizer in self.optimizers.items():
            owners.setdefault(id(optimizer), name)
        return {name: self.optimizers[name] for name in owners.values()}

    def header(self) -> dict[str, Any]:
        """The few numbers that say where the run stands."""
        return {
            "step": self.step,
            "elapsed": self.elapsed,
            "precision": self.precision,
            "threads": self.threads,
            "retired": sorted(self.retired),
            "failures": self.failures,
            "best": self.validation.best,
            "waited": self.validation.waited,
            "global_batch": self.batches.global_size,
        }

    def save(self) -> None:
        """Writes the state that `load` takes up again, atomically."""
        self.guard.settle()
        if self.rank == 0:
            tensors = checkpoints.pack(self.model, self.average.state(), self.distinct)
            tensors |= {f"best/{name}": value for name, value in self.best.items()}
            checkpoints.write_tensors(self.directory / checkpoints.STATE, tensors, self.header())
        self.saved_step = self.step

    def load(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Takes up a saved state."""
        checkpoints.load_weights(self.model, checkpoints.section(tensors, "model"), "the checkpoint")
        self.average.load(checkpoints.section(tensors, "average"))
        checkpoints.unpack_optimizers(tensors, self.distinct)
        self.best = checkpoints.section(tensors, "best")
        self.step = self.saved_step = header["step"]
        self.elapsed, self.precision, self.failures = header["elapsed"], header["precision"], header["failures"]
        self.validation.best = (header["best"][0], header["best"][1]) if header["best"] else None
        self.validation.waited, self.retired = header["waited"], set(header["retired"])

    def _row(self, terms: dict[str, float], rate: float) -> dict[str, Any]:
        row: dict[str, Any] = {
            "step": self.step,
            "seconds": round(self.elapsed, 3),
            "epoch": round(self.seen / len(self.batches.split), 4),
            "steps_per_second": round(rate, 3),
            **terms,
        }
        if self.turns:
            row["learning_rate"] = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        return row

    def _due(self, every: int | None, times: int) -> bool:
        """Every so many steps; None: so many times in a run, by the clock where only its time is known."""
        if every == 0:
            return False
        if every is not None:
            return self.step % every == 0
        if self.steps is not None:
            return self.step % max(1, self.steps // times) == 0
        due, self._passed[times] = self._passed.get(times, 0), int(self._fraction() * times)
        return self._passed[times] > due

    def _affordable(self, last: float) -> bool:
        """Pictures on the way come at least ten seconds apart."""
        return self.elapsed - last > 10 or self.settings.picture_every is not None

    def _worth_a_look(self) -> bool:
        """Whether the watch takes at most a twentieth of the time, or was asked for at this step."""
        spent = sum(self.looks) + min(self.looks, default=0.0)  # the least: the first one has more to do
        return self.watch is not None and (self.settings.validate_every is not None or spent <= LOOKING * self.elapsed)

    @property
    def _may_skip(self) -> bool:
        """Whether nothing hangs on when validations come."""
        return self.settings.validate_every is None and not self.settings.patience

    def _worth_validating(self) -> bool:
        """Whether validations take at most a tenth of the time, or come when they were asked for or are counted. What the first
        one will take is told from the time of an update."""
        if not self.validation or not self._may_skip:
            return bool(self.validation)
        first = _FORWARD * self.validation.size * self.elapsed / max(1, self.step * self.repeats)
        return sum(self.validations) + min(self.validations, default=first) <= VALIDATING * self.elapsed

    def _look(self, history: History, trackers: Trackers) -> None:
        """Logs what the watch sees of the averaged weights."""
        assert self.watch is not None
        began = time.monotonic()
        with self.average.used(), self.modes.evaluating():
            found = self.watch(self.step)
        self.looks.append(time.monotonic() - began)
        self.watched, self.looked = found, self.step
        if found:
            row = {"step": self.step, "seconds": round(self.elapsed, 3)} | {f"watch/{name}": v for name, v in found.items()}
            history.add(row)
            trackers.add(row)

    def _validate(self, history: History, trackers: Trackers) -> bool:
        """Logs the validation losses of the averaged weights; true when patience is at its end."""
        if not self.validation:
            return False
        began = time.monotonic()
        with self.average.used(), self.modes.evaluating(), autocast(self.device, self.precision):
            found = self.validation.measure()
        found = {name: engine.agreed(value, self.device, self.world) for name, value in found.items()}
        self.validations.append(engine.agreed(time.monotonic() - began, self.device, self.world))
        self.validated, self.watched = self.step, {"held out": found["validation/loss"]}
        row = {"step": self.step, "seconds": round(self.elapsed, 3), **found}
        history.add(row)
        trackers.add(row)
        patience = self.settings.patience or 0
        if self.validation.improves(found["validation/loss"], self.step) and patience:
            buffers = {f"buffer/{name}": v for name, v in self.model.named_buffers()}
            self.best = {name: v.clone() for name, v in (self.average.state() | buffers).items()}
        return 0 < patience <= self.validation.waited


def _weighted(parts: list[tuple[float, Loss]]) -> Loss:
    """The loss of a batch from those of its micro-batches, weighted by their sizes."""
    total = torch.stack([share * loss.total.detach() for share, loss in parts]).sum()
    names = parts[0][1].terms
    terms = {name: torch.stack([s * loss.terms[name].detach() for s, loss in parts]).sum() for name in names}
    return Loss(total, terms, {name: torch.cat([loss.keep[name].detach() for _, loss in parts]) for name in parts[0][1].keep})


def _scaled(player: Player, players: list[Player], settings: TrainingSettings) -> Player:
    """The player with the run's learning rate: the first player's is as asked, the others keep their ratio to it."""
    if settings.learning_rate is None or player.loss is None:
        return player
    first = next(p for p in players if p.loss is not None).optimizer.learning_rate
    rate = settings.learning_rate * player.optimizer.learning_rate / first
    return replace(player, optimizer=replace(player.optimizer, learning_rate=rate))


def _figures(row: dict[str, Any]) -> dict[str, float]:
    """What the live line shows: losses first."""
    terms = {name: value for name, value in row.items() if "/" in name}
    return dict(sorted(terms.items(), key=lambda item: not item[0].endswith("/loss")))
