"""Runs: train a model, keep it in a directory, and ask it for samples, densities and codes in the data's own units."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pushforward import zoo
from pushforward._version import VERSION
from pushforward.artefacts import write_yaml
from pushforward.data import conditions
from pushforward.data.batches import STREAM, Batch, Batches, Data, Split, take
from pushforward.data.conditions import parse_condition
from pushforward.data.loading import load_data
from pushforward.data.spec import DataSpec
from pushforward.data.units import Units, units
from pushforward.errors import UserError, nearest
from pushforward.models.contract import Decodes, Density, Encodes, Learns, LogProb, Player, Samples, device_of
from pushforward.randomness import SampleRng, UpdateRng, mix, seed_everything, seeded
from pushforward.training import checkpoints, engine
from pushforward.training.gallery import draw_run, sample_picture
from pushforward.training.log import Display, read_history
from pushforward.training.loop import Loop
from pushforward.training.precision import Pace, choose_pace, hardware, threads
from pushforward.training.records import FORMAT, read_record
from pushforward.training.settings import TrainingSettings


class Run:
    """A trained model with its data contract: what `pf.train` and `pf.load` return.

    model: the network with averaged weights, in eval mode. directory: where it is kept. record: what run.yaml says.
    history: the rows of history.jsonl.
    """

    def __init__(self, model: nn.Module, spec: DataSpec, directory: Path, record: dict[str, Any], data: Data | None = None):
        self.model, self.spec, self.directory, self.record = model, spec, Path(directory), record
        self._data = data

    def __repr__(self) -> str:
        result = self.record.get("result", {})
        return f"Run({self.record['model']['name']} on {self.spec.name}, {result.get('steps', 0)} steps, {self.directory})"

    @property
    def units(self) -> Units:
        """Between the data's own units and the model's."""
        return units(self.spec)

    @property
    def result(self) -> dict[str, Any]:
        """How the training ended: status, steps, examples, seconds."""
        return self.record.get("result", {})

    @property
    def history(self) -> list[dict[str, Any]]:
        path = self.directory / "history.jsonl"
        return read_history(path) if path.exists() else []

    @property
    def weights(self) -> str:
        """Fingerprint of the weights that this run samples with."""
        path = self.directory / checkpoints.WEIGHTS
        return checkpoints.fingerprint(path if path.exists() else self.directory / checkpoints.STATE)

    @property
    def data(self) -> Data | None:
        """The data, where they can be had: None for a run loaded from its directory that was trained on data in memory."""
        try:
            return self.load_data()
        except UserError:
            return None

    def load_data(self) -> Data:
        """The data that the run was trained on, loaded again from where they came."""
        if self._data is None:
            source = self.record["data"]["source"]
            if str(source.get("source", "<")).startswith("<"):
                raise UserError(f"the run in {self.directory} was trained on data in memory; give the data again.")
            self._data = load_data(**source)
        return self._data

    def sample(
        self, n: int, *, condition: Any = None, seed: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """n samples in the data's own units: images (n, C, H, W) in their levels, a DataFrame, an array, strings.

        condition: a class (name or number) for all of them, or one each; attributes as a dict of names, or a row each;
        texts; paired images in their levels.
        seed: sample i is a function of (seed, i), whatever n and the batch size; None: fresh ones. options: the model's own
        (steps, guidance, temperature, ...); an unknown one is an error that names them.
        """
        return self.units.present(self.sample_codes(n, condition=condition, seed=seed, batch_size=batch_size, **options))

    def sample_codes(
        self, n: int, *, condition: Any = None, seed: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Tensor:
        """As `sample`, but as codes (n, ...): levels, token ids, table rows with category numbers."""
        if n < 1:
            raise UserError(f"n = {n} samples were asked for; it must be at least 1.")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size = {batch_size} was given; it must be at least 1.")
        model = self._able(Samples, "sample")
        valid = sampling_options(type(self.model))
        for name in options:
            if name not in valid:
                raise UserError(f"'{self.record['model']['name']}' has no sampling option '{name}'; {nearest(name, valid)}")
        seed = int(torch.randint(2**62, ()).item()) if seed is None else seed
        device, wanted = device_of(self.model), parse_condition(self.spec, condition, n)
        size = batch_size or max(1, min(1024, 2**22 // max(1, self.spec.dimensions)))
        codes = []
        with torch.no_grad():  # not inference_mode: some samplers differentiate on their way
            for start in range(0, n, size):
                count = min(size, n - start)
                part = self._condition(wanted, slice(start, start + count))
                rng = SampleRng(seed, first=start, device=device)
                codes.append(self.units.to_codes(model.sample(count, condition=part, generator=rng, **options)).cpu())
        return torch.cat(codes)

    def log_prob(self, x: Any, *, condition: Any = None, **options: Any) -> LogProb:
        """Log-density of data in nats per datum, in the data's own units: for integer data the log-probability."""
        codes = self.units.parse(x)
        return self.log_prob_codes(codes, condition=parse_condition(self.spec, condition, len(codes)), **options)

    def log_prob_codes(
        self, codes: Tensor, *, condition: Tensor | None = None, batch_size: int = 256, noise_draws: int = 8, **options: Any
    ) -> LogProb:
        """As `log_prob`, of codes. Without a condition it is the density of all data together.

        Levels, integers, categories and gaps have no density: they are dequantised, which makes an exact log-density a bound
        on the log-probability, the mean over `noise_draws` draws (one for a costly estimate) that are the same for all data, so
        that it is a function of the datum alone. Models of the levels themselves (`mass`) need none of this.
        """
        model = self._able(Density, "say how likely data are")
        noisy = self.units.discrete and not getattr(self.model, "mass", False)
        device, draws, kind = device_of(self.model), [], "exact"
        for draw in range(noise_draws if noisy else 1):
            values, errors = [], []
            for start in range(0, len(codes), batch_size):
                part = codes[start : start + batch_size].to(device)
                rng = SampleRng(0xDE, first=draw, device=device, alike=True) if noisy else None
                asked = self._condition(condition, slice(start, start + batch_size))
                with torch.no_grad():
                    found = model.log_prob(self.units.to_model(part, rng), condition=asked, **options)
                values.append((found.value + self.units.log_dets(part)).cpu())
                errors.append(torch.zeros(len(part)) if found.stderr is None else found.stderr.cpu())
                kind = found.kind
            draws.append(torch.cat(values))
            if kind == "estimate":
                break
        if kind == "exact" and noisy:
            kind = "bound"
        return LogProb(torch.stack(draws).mean(0), kind, torch.cat(errors) if kind == "estimate" else None)  # type: ignore[arg-type]

    def encode(self, x: Any, *, condition: Any = None, **options: Any) -> Tensor:
        """Codes z (n, ...) of data in their own units."""
        model = self._able(Encodes, "encode")
        with torch.no_grad():
            x, wanted = self._model_input(x, condition)
            return model.encode(x, condition=wanted, **options).cpu()

    def decode(self, z: Tensor, *, condition: Any = None, **options: Any) -> Any:
        """Data, in their own units, of codes z (n, ...)."""
        model = self._able(Decodes, "decode")
        wanted = parse_condition(self.spec, condition, len(z))
        device = device_of(self.model)
        with torch.no_grad():
            x = model.decode(z.to(device), condition=self._condition(wanted), **options)
        return self.units.present(self.units.to_codes(x).cpu())

    def reconstruct(self, x: Any, *, condition: Any = None) -> Any:
        """decode(encode(x))."""
        return self.decode(self.encode(x, condition=condition), condition=condition)

    def _model_input(self, x: Any, condition: Any) -> tuple[Tensor, Tensor | None]:
        codes, device = self.units.parse(x), device_of(self.model)
        wanted = parse_condition(self.spec, condition, len(codes))
        return self.units.to_model(codes.to(device)), self._condition(wanted)

    def _condition(self, codes: Tensor | None, rows: slice = slice(None)) -> Tensor | None:
        """Conditions as the model sees them, on its device."""
        if codes is None:
            return None
        return conditions.to_model(self.spec.condition, codes[rows].to(device_of(self.model)))

    def _able(self, protocol: Any, verb: str) -> Any:
        if not isinstance(self.model, protocol):
            raise UserError(f"'{self.record['model']['name']}' cannot {verb}; `pushforward models` lists who can.")
        return self.model


def sampling_options(model_class: type) -> list[str]:
    """The names of a model's own sampling options."""
    import inspect

    names = inspect.signature(model_class.sample).parameters  # type: ignore[attr-defined]
    return [name for name in names if name not in ("self", "n", "condition", "generator")]


def load(directory: str | Path, *, device: str = "cpu", model: nn.Module | None = None, **settings: Any) -> Run:
    """Opens a run directory. Needs no code beside the library, except for networks of your own: give those again, as the
    settings they were (`pf.load(path, encoder=mine)`), or the whole model as `model=`.

    Raises UserError for a directory that is not there, is no run, is half-written, or comes from another version.
    """
    directory = Path(directory)
    record = read_record(directory)
    try:
        spec = DataSpec.from_dict(record["data"]["spec"])
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{directory / 'run.yaml'} does not describe its data ({error}); it may be damaged.") from None
    target = engine.resolve_device(device)
    if model is None:
        given = {**record["model"]["settings"], **settings}
        foreign = [key for key, value in given.items() if _is_yours(value)]
        if foreign or record["model"]["name"] not in zoo.ZOO:
            what = ", ".join(f"{key}=..." for key in foreign or ["model"])
            raise UserError(f"the run in {directory} has parts of your own; give them again: pf.load(path, {what}).")
        model = zoo.create(record["model"]["name"], spec, **given)
    weights, state = directory / checkpoints.WEIGHTS, directory / checkpoints.STATE
    if weights.exists():
        tensors, _ = checkpoints.read_tensors(weights)
    else:  # a run that is under way, or was killed: the average of its last checkpoint
        saved, _ = checkpoints.read_tensors(state)
        tensors = {**checkpoints.section(saved, "model"), **checkpoints.section(saved, "average")}
    checkpoints.load_weights(model, tensors, str(directory))
    return Run(model.to(target).eval(), spec, directory, record)


def train(model: str | nn.Module, data: Any = "digits", **settings: Any) -> Run:
    """Trains a model and returns its run: `pf.train("flow-matching", "digits", steps=2000)`.

    model: a name of the zoo, or a module (of `pf.create`, or your own that passes `pf.check_model`). data: what `load_data`
    takes or returned. settings: those of `TrainingSettings` (steps, epochs, budget, batch_size, seed, device, precision,
    resume, out, ...). Every process that torchrun started must call it alike.
    """
    valid = TrainingSettings.__dataclass_fields__
    for name in settings:
        if name not in valid:
            raise UserError(f"there is no training setting '{name}'; {nearest(name, valid)}")
    given = TrainingSettings(**settings)
    device = engine.resolve_device(given.device)
    data = data if isinstance(data, Data) else load_data(data)
    if isinstance(model, str):
        model = build(model, data.spec, _stored_settings(model, data, given), given.seed)
    if not isinstance(model, Learns):
        raise UserError(f"{type(model).__name__} has no players() and so cannot be trained; see `pf.check_model`.")
    with engine.processes(device) as (rank, world):
        return _train(model, data, given, device, rank, world)


def _stored_settings(name: str, data: Data, given: TrainingSettings) -> dict[str, Any]:
    """A run that is taken up again keeps the model that it began with."""
    if not given.resume:
        return {}
    directory = run_directory(name, data.spec.name, given)
    stored = read_record(directory)["model"]["settings"]
    if any(map(_is_yours, stored.values())):
        raise UserError(f"the run in {directory} has parts of your own; resume it with the model itself: pf.train(model, ...).")
    return stored


def build(name: str, spec: DataSpec, settings: dict[str, Any], seed: int) -> nn.Module:
    """The model of a run by name: its first weights are a function of `seed`, however the run was started."""
    with seeded(mix(seed, 0x1417)):
        return zoo.create(name, spec, **settings)


def run_directory(name: str, data_name: str, settings: TrainingSettings) -> Path:
    """Where a run goes: `out`, else runs/MODEL-DATA, with a number behind where that is taken."""
    if settings.out is not None:
        return Path(settings.out)
    first = Path("runs") / f"{name}-{data_name}"
    path, number = first, 1
    while not settings.resume and path.exists() and any(path.iterdir()):
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


def _train(model: nn.Module, data: Data, settings: TrainingSettings, device: torch.device, rank: int, world: int) -> Run:
    name = getattr(model, "name", type(model).__name__)
    directory = run_directory(name, data.spec.name, settings)
    if not settings.resume and (directory / checkpoints.STATE).exists() and rank == 0:
        raise UserError(f"{directory} holds a run already; choose another --out, or go on with it by --resume.")
    if settings.resume and not (directory / checkpoints.STATE).exists():
        raise UserError(f"there is nothing to resume in {directory}: it has no checkpoint; leave --resume away to begin.")
    defaults = zoo.ZOO[name].training if name in zoo.ZOO else {}
    model.to(device)
    if world > 1:
        model = engine.replicate(model)
    players = cast(Learns, model).players()
    dequantise = bool(getattr(model, "dequantise", False))

    def make_batches(size: int) -> Batches:
        return Batches(
            data.train, data.spec, size, seed=settings.seed, rank=rank, world=world, device=device, dequantise=dequantise
        )

    size = settings.batch_size or defaults.get("batch_size", 128)
    display = Display(f"{name} on {data.spec.name}", None, None, quiet=rank > 0)
    if size == "auto":
        from pushforward.training.batch_size import largest_worthwhile

        size = largest_worthwhile(players, make_batches, device, limit=len(data.train))
        display.say(f"batch size {size} (measured)")
    batches = make_batches(int(size))
    steps = settings.steps
    if steps is None and settings.epochs is not None:
        if len(data.train) >= STREAM:
            raise UserError("epochs were asked for, but this data never ends; give --steps or --budget, or load n data.")
        every_step = max(player.repeat for player in players) * batches.global_size
        steps = max(1, round(settings.epochs * len(data.train) / every_step))
    if steps is None and settings.budget is None:
        steps = defaults.get("steps", 10_000)
    if all(player.loss is None for player in players) and settings.steps is None:
        steps = defaults.get("steps", 100)  # closed form and EM end by themselves
    display.total = steps
    header: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    if settings.resume:
        tensors, header = checkpoints.read_tensors(directory / checkpoints.STATE)
        if header.get("global_batch") != batches.global_size:
            raise UserError(
                f"the run in {directory} was trained with {header.get('global_batch')} data an update, now it would be "
                f"{batches.global_size}; resume with the same --batch-size and number of processes."
            )
    pace = _pace(model, players, batches, device, name, settings, header)
    pace = replace(pace, precision="bf16" if engine.agreed(float(pace.precision == "bf16"), device, world) else "fp32")
    record = _record(model, name, data, settings, int(size), steps, pace, device, world)
    if rank == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"could not make the run directory {directory}: {error.strerror}; choose another --out.") from None
    run = Run(model, data.spec, directory, record, data)

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
        picture=(lambda step: sample_picture(run, directory / "progress" / f"step-{step:07d}.png")) if rank == 0 else None,
        rank=rank,
        world=world,
    )
    if settings.resume:
        loop.load(tensors, header)  # refuses another model's weights before anything is written
    if rank == 0:
        write_yaml(directory / "run.yaml", record)
    with threads(pace.threads):
        outcome = loop.run()
    record["result"] = {
        "status": outcome.status,
        "steps": outcome.steps,
        "examples": outcome.examples,
        "seconds": round(outcome.seconds, 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": loop.precision,
        "best_validation": list(loop.best) if loop.best else None,
        "notes": outcome.notes,
    }
    if rank == 0:
        checkpoints.write_tensors(directory / checkpoints.WEIGHTS, model.state_dict(), {"model": name, "format": FORMAT})
        write_yaml(directory / "run.yaml", record)
        draw_run(run)
    return run


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

    identity = {"model": name, "settings": _plain_settings(model), "shape": list(batch.x.shape)}
    model.train()
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


YOURS = "<your "


def _plain_settings(model: nn.Module) -> dict[str, Any]:
    """A model's settings for yaml; what is not plain (a network of the user's) is named only, at any depth."""
    return {str(key): _plain(value) for key, value in getattr(model, "settings", {}).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    return f"{YOURS}{type(value).__name__}>"


def _is_yours(value: Any) -> bool:
    """Whether a setting from run.yaml holds, at any depth, what only its user has."""
    if isinstance(value, dict):
        return any(map(_is_yours, value.values()))
    if isinstance(value, list):
        return any(map(_is_yours, value))
    return isinstance(value, str) and value.startswith(YOURS)


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
        "model": {"name": name, "settings": _plain_settings(model)},
        "data": {"source": data.source, "spec": data.spec.to_dict(), "counts": counts, "notes": data.notes},
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
