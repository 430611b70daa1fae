"""Training a run: from a model, data and settings to a directory with weights, record and pictures.

A run that is taken up again keeps what it is (model, data, seed, batch size) and may change how it goes on (how long, its
learning rate, where); whatever else is asked for is refused before anything is written.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pushforward import building, zoo
from pushforward._version import VERSION
from pushforward.artefacts import write_yaml
from pushforward.data import conditions
from pushforward.data.batches import STREAM, Batch, Batches, Data, Split, take
from pushforward.data.spec import DataSpec
from pushforward.data.units import units
from pushforward.errors import UserError, nearest
from pushforward.models.contract import Learns, Player, Taught
from pushforward.randomness import SampleRng, UpdateRng, mix, seed_everything, seeded
from pushforward.training import checkpoints, engine
from pushforward.training.gallery import draw_run, sample_picture
from pushforward.training.interrupts import Interrupts
from pushforward.training.lock import locked, refuse_if_running
from pushforward.training.log import Display
from pushforward.training.loop import Loop, Outcome
from pushforward.training.opening import open_data
from pushforward.training.precision import Pace, choose_pace, hardware, threads
from pushforward.training.records import FORMAT, is_yours, kept_settings, latest, plain_settings, read_record
from pushforward.training.resuming import Begun, fingerprint
from pushforward.training.runs import Run
from pushforward.training.settings import TrainingSettings
from pushforward.training.validation import Modes
from pushforward.training.watch import Watch, watch_for


def train(model: str | nn.Module, data: Any = "digits", **settings: Any) -> Run:
    """Trains a model and returns its run: `pf.train("flow-matching", "digits", steps=2000)`.

    model: a name of the zoo, or a module (of `pf.create`, or your own that passes `pf.check_model`). data: what `load_data`
    takes or returned, or "codes:RUN". settings: those of `TrainingSettings` (steps, epochs, budget, batch_size, seed, device,
    precision, resume, out, ...); a resumed run goes on with its own where none is given. Every process that torchrun started
    must call it alike.
    """
    valid = TrainingSettings.__dataclass_fields__
    for name in settings:
        if name not in valid:
            raise UserError(f"there is no training setting '{name}'; {nearest(name, valid)}")
    given = TrainingSettings(**settings)
    device = engine.resolve_device(given.device)
    data = data if isinstance(data, Data) else open_data(data)
    name = model if isinstance(model, str) else name_of(model)
    own: dict[str, Any] = {}
    if given.resume:
        directory = run_directory(name, data.spec.name, given)
        record = read_record(directory)
        kept = {key: value for key, value in kept_settings(record, settings).items() if key in valid}
        given = TrainingSettings(**{**kept, **settings, "out": str(directory)})
        own = record["model"]["settings"]
    if isinstance(model, str):
        if any(map(is_yours, own.values())):
            raise UserError(
                f"the run in {given.out} has parts of your own; resume it with the model itself: pf.train(model, ...)."
            )
        model = build(model, data.spec, own, given.seed)
    if not isinstance(model, Learns):
        raise UserError(f"{type(model).__name__} has no players() and so cannot be trained; see `pf.check_model`.")
    if isinstance(model, Taught) and model.teacher is not None:
        model.learn_from(_taught_by(model.teacher))
    with (
        engine.processes(device) as (rank, world),
        _directory(name, data.spec.name, given, device, rank, world) as directory,
    ):
        return _train(model, data, given, directory, device, rank, world)


def _taught_by(teacher: str) -> nn.Module:
    """The model of a run that teaches another."""
    from pushforward.training.opening import load

    if not (Path(teacher) / "run.yaml").is_file():
        raise UserError(f"teacher = {teacher} was given, which is no run: give the directory of one trained on these data.")
    return load(teacher).model


def name_of(model: nn.Module) -> str:
    """A model's name in the zoo, or that of its class."""
    return getattr(model, "name", type(model).__name__)


def build(name: str, spec: DataSpec, settings: dict[str, Any], seed: int) -> nn.Module:
    """The model of a run by name: its first weights are a function of `seed`, however the run was started."""
    with seeded(mix(seed, 0x1417)):
        return building.create(name, spec, **settings)


def run_directory(name: str, data_name: str, settings: TrainingSettings) -> Path:
    """Where a run goes: `out`, else runs/MODEL-DATA, with a number behind where that is taken; resumed, the newest of them."""
    if settings.out is not None:
        return Path(settings.out)
    if settings.resume:
        return latest(name, data_name)
    first = Path("runs") / f"{name}-{data_name}"
    path, number = first, 1
    while path.exists() and any(path.iterdir()):
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


@contextlib.contextmanager
def _directory(
    name: str, data_name: str, settings: TrainingSettings, device: torch.device, rank: int, world: int
) -> Iterator[Path]:
    """The run's directory, looked at and locked by the first process; all processes get it, or its refusal."""
    with contextlib.ExitStack() as stack:
        found: list[Any] = [None, ""]
        if rank == 0:
            try:
                directory = run_directory(name, data_name, settings)
                refuse_if_running(directory)
                _refuse_unfit(directory, settings.resume)  # before the lock, which makes the directory
                stack.enter_context(locked(directory))
                _refuse_unfit(directory, settings.resume)  # another process may have come and gone
                found = [str(directory), ""]
            except UserError as error:
                found = [None, str(error)]
        if world > 1:
            dist.broadcast_object_list(found, 0, device=device)
        if found[0] is None:
            raise UserError(found[1])
        yield Path(found[0])


def _refuse_unfit(directory: Path, resume: bool) -> None:
    there = (directory / checkpoints.STATE).exists()
    if there and not resume:
        raise UserError(f"{directory} holds a run already; choose another --out, or go on with it by --resume.")
    if resume and not there:
        raise UserError(f"there is nothing to resume in {directory}: it has no checkpoint; leave --resume away to begin.")


def _train(
    model: nn.Module, data: Data, settings: TrainingSettings, directory: Path, device: torch.device, rank: int, world: int
) -> Run:
    name, begun = name_of(model), None
    settings = replace(settings, patience=_patience(name, data, settings))
    if settings.resume:
        begun = Begun.read(directory)
        begun.refuse_another(name, model, data, settings)
    model.to(device)
    if world > 1:
        model = engine.replicate(model)
    players = cast(Learns, model).players()
    dequantise = bool(getattr(model, "dequantise", False))
    display = Display(f"{name} on {data.spec.name}", None, None, quiet=rank > 0)

    def make_batches(size: int) -> Batches:
        return Batches(
            data.train, data.spec, size, seed=settings.seed, rank=rank, world=world, device=device, dequantise=dequantise
        )

    size = settings.batch_size or _defaults(name).get("batch_size", 128)
    if size == "auto":
        size = _measured_batch_size(begun, players, make_batches, device, len(data.train), display)
    batches = make_batches(int(size))
    steps = display.total = _steps(name, players, len(data.train), batches.global_size, settings)
    if begun:
        begun.refuse_another_batch(batches.global_size)
        if begun.over(steps, settings):
            display.say(f"already finished, in {begun.header['step']} steps; for more, give {begun.longer}")
            return _as_it_ended(model, data, begun)
    pace = _pace(model, players, batches, device, name, settings, begun.header if begun else {})
    pace = replace(pace, precision="bf16" if engine.agreed(float(pace.precision == "bf16"), device, world) else "fp32")
    run = Run(model, data.spec, directory, _record(model, name, data, settings, int(size), steps, pace, device, world), data)

    def picture(step: int) -> None:
        sample_picture(run, directory / "progress" / f"step-{step:07d}.png", step)

    watch = watch_for(run, data, players) if rank == 0 and settings.validate_every != 0 else None
    loop = Loop(
        model,
        players,
        batches,
        settings,
        steps=steps,
        pace=pace,
        validation=_validation(data, device, dequantise, batches.batch_size, settings),
        directory=directory,
        display=display,
        picture=picture if rank == 0 else None,
        watch=watch,
        rank=rank,
        world=world,
    )
    if begun:
        loop.load(begun.tensors, begun.header)  # refuses another model's weights before anything is written
        display.say(begun.changes(replace(settings, steps=steps)))
        for sentence in watch.at_resume(begun.rows) if watch else []:
            display.say(sentence)
    if rank == 0:
        write_yaml(directory / "run.yaml", run.record)
    try:
        with threads(pace.threads):
            outcome = loop.run()
    except UserError:
        if rank == 0 and begun is None and loop.step == 0 and not loop.failures:
            _forget(directory)
        raise
    if outcome.why:
        display.say(f"{outcome.status}: {outcome.why}")
    if watch:
        said = watch.sentences(loop.history)
        outcome.notes += said
        for sentence in said:
            display.say(sentence)
    run.record["result"] = _result(outcome, loop, watch)
    if rank == 0:
        with Interrupts():  # what is left takes seconds, and a run without it would have to be resumed
            _keep(run)
    return run


def _forget(directory: Path) -> None:
    """Takes away what a run wrote that was refused before its first step: the corrected command may have the place."""
    for path in (*directory.glob("*.yaml"), directory / "history.jsonl", *directory.glob(".*.tmp")):
        path.unlink(missing_ok=True)
    for folder in ("last", "tensorboard"):
        shutil.rmtree(directory / folder, ignore_errors=True)


def _defaults(name: str) -> dict[str, Any]:
    """How long (steps, patience), and with how many data an update, a method of the zoo is trained where nothing else is
    said."""
    return zoo.ZOO[name].training if name in zoo.ZOO else {}


def _patience(name: str, data: Data, settings: TrainingSettings) -> int | None:
    """As asked for. Else as the method wants it, where there is something to watch: steps or epochs that were asked for are
    all made, and a run that is taken up again keeps its own."""
    watched = data.validation is not None and len(data.validation) > 0 and settings.validate_every != 0
    said = settings.steps is not None or settings.epochs is not None or settings.resume
    return settings.patience if settings.patience is not None or said or not watched else _defaults(name).get("patience")


def _measured_batch_size(
    begun: Begun | None,
    players: list[Player],
    make_batches: Callable[[int], Batches],
    device: torch.device,
    limit: int,
    display: Display,
) -> int:
    """The largest batch size that pays; of a run that is taken up again, as it was measured then."""
    if begun:
        return begun.record["training"]["batch_size"]
    from pushforward.training.batch_size import largest_worthwhile

    size = largest_worthwhile(players, make_batches, device, limit=limit)
    display.say(f"batch size {size} (measured)")
    return size


def _steps(name: str, players: list[Player], examples: int, batch: int, settings: TrainingSettings) -> int | None:
    """How many steps the run has; None where only its time is known."""
    if settings.steps is not None:
        return settings.steps
    if all(player.loss is None for player in players):
        return _defaults(name).get("steps", 100)  # closed form and EM end by themselves
    if settings.epochs is not None:
        if examples >= STREAM:
            raise UserError("epochs were asked for, but this data never ends; give --steps or --budget, or load n data.")
        return max(1, round(settings.epochs * examples / (max(player.repeat for player in players) * batch)))
    return None if settings.budget is not None else _defaults(name).get("steps", 10_000)


def _as_it_ended(model: nn.Module, data: Data, begun: Begun) -> Run:
    """A run that has nothing left to do."""
    tensors, _ = checkpoints.read_tensors(begun.directory / checkpoints.WEIGHTS)
    checkpoints.load_weights(model, tensors, str(begun.directory))
    return Run(model.eval(), data.spec, begun.directory, begun.record, data)


def _keep(run: Run) -> None:
    """Writes what a run that has ended leaves behind."""
    weights = run.directory / checkpoints.WEIGHTS
    checkpoints.write_tensors(weights, run.model.state_dict(), {"model": run.record["model"]["name"], "format": FORMAT})
    write_yaml(run.directory / "run.yaml", run.record)
    draw_run(run)


def _result(outcome: Outcome, loop: Loop, watch: Watch | None) -> dict[str, Any]:
    """How the training ended, for run.yaml."""
    return {
        "status": outcome.status,
        **({"why": outcome.why} if outcome.why else {}),
        **({"signal": outcome.signal} if outcome.signal else {}),
        "steps": outcome.steps,
        "examples": outcome.examples,
        "seconds": round(outcome.seconds, 2),
        "parameters": sum(p.numel() for p in loop.model.parameters()),
        "precision": loop.precision,
        "best_validation": list(loop.validation.best) if loop.validation.best else None,
        **({"best": {"figure": watch.best[0], "step": watch.best[1]}} if watch and watch.best else {}),
        "notes": outcome.notes,
    }


def _pace(
    model: nn.Module,
    players: list[Player],
    batches: Batches,
    device: torch.device,
    name: str,
    settings: TrainingSettings,
    header: dict[str, Any],
) -> Pace:
    """The precision and threads of this run: as asked for, as its checkpoint has them, or measured."""
    if header:
        asked = settings.precision if settings.precision != "auto" else header["precision"]
        return Pace(asked, header["threads"])
    learners = [player for player in players if player.loss is not None]
    if settings.precision != "auto" or not learners:
        return Pace("fp32" if settings.precision == "auto" else settings.precision)
    batch = batches.at(0)

    def losses() -> list[Tensor]:
        rng = UpdateRng(seed_everything(0, device))
        return [player.loss(batch, rng).total for player in learners]  # type: ignore[misc]

    identity = {"model": name, "settings": plain_settings(getattr(model, "settings", {})), "shape": list(batch.x.shape)}
    Modes(model).train()
    return choose_pace(model, losses, device, identity)


def _validation(data: Data, device: torch.device, dequantise: bool, size: int, settings: TrainingSettings) -> Any:
    """Up to 1,024 held-out data in fixed batches, or None."""
    split: Split | None = data.validation if data.validation is not None and len(data.validation) else None
    if split is None or settings.validate_every == 0:
        if settings.patience:
            raise UserError("patience needs a validation split; load the data with validation=0.1, say.")
        return None
    codes, condition = take(split, 1024, seed=0)
    kept: list[Batch] = []

    def batches() -> Iterator[Batch]:
        if not kept:
            for start in range(0, len(codes), size):
                rng = SampleRng(0x7A1, first=start, device=device) if dequantise else None
                part = None
                if condition is not None:
                    part = conditions.to_model(data.spec.condition, condition[start : start + size].to(device))
                kept.append(Batch(units(data.spec).to_model(codes[start : start + size].to(device), rng), part))
        return iter(kept)

    return batches


def _record(
    model: nn.Module, name: str, data: Data, settings: TrainingSettings, size: int, steps: int | None, pace: Pace,
    device: torch.device, world: int,
) -> dict[str, Any]:  # fmt: skip
    """run.yaml: everything that is needed to sample without code and to train the same again."""
    counts = {
        part: min(len(split), STREAM) if len(split) < STREAM else "endless"
        for part, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
        if split is not None
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": {"name": name, "settings": plain_settings(getattr(model, "settings", {}))},
        "data": {
            "source": data.source,
            "spec": data.spec.to_dict(),
            "counts": counts,
            "notes": data.notes,
            "fingerprint": fingerprint(data),
        },
        "training": {**settings.to_dict(), "batch_size": size, "steps": steps, "precision": pace.precision},
        "pace": asdict(pace),
        "result": {"status": "training"},
        "environment": {
            "began": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": str(device),
            "hardware": hardware(device),
            "processes": world,
            "platform": sys.platform,
        },
    }
