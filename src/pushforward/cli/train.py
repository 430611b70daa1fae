"""`pushforward train MODEL --data ANY`: the main job."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pushforward import building
from pushforward.cli.parsing import Parser, in_the_shell, peel, plain, speaking_shell
from pushforward.data.hub_names import ask
from pushforward.data.loading import BUILT_IN, foreseen, load_data
from pushforward.errors import UserError
from pushforward.progress import import_torch
from pushforward.training.lock import refuse_if_running
from pushforward.training.records import CODES, kept_settings, latest, read_record
from pushforward.training.settings import TrainingSettings

DESCRIPTION = """Learns a distribution from data: trains the model, samples it, measures it beside the real-against-real floor,
and writes a run directory with pictures and a report. Without --data it learns scikit-learn's handwritten digits.
The model's own options are --model.NAME; `pushforward models MODEL` explains them."""


def add_data_options(built: Parser) -> list[str]:
    """Adds the options of `load_data`; returns their names."""
    return built.add_function_arguments(load_data, as_group=True, skip={"source", "seed"})


def add_model_options(built: Parser, name: str) -> None:
    """Adds the model's own options as --model.NAME; networks of the user's can be given in Python only."""
    model_class = building.method(name).load()
    modules = {p.name for p in building.options(name).values() if "Module" in str(p.annotation)}
    built.add_class_arguments(model_class, "model", skip={"spec", *modules}, fail_untyped=False)
    built.set_defaults({f"model.{key}": value for key, value in building.method(name).settings.items()})


def run(argv: Sequence[str]) -> int:
    """Returns the exit status."""
    words, rest = peel(argv)
    recipe = _recipe(rest)
    name = words[0] if words else _option(rest, "--name") or recipe.get("name")
    helping = any(word in ("-h", "--help") for word in rest)
    if "--resume" in rest or _option(rest, "--resume") == "true" or recipe.get("resume"):
        name, rest = _resumed(name, rest)
    if name is not None:
        building.method(name)
    built = Parser(f"pushforward train {name or 'MODEL'}", DESCRIPTION)
    built.add_argument("--config", action="config", help="a recipe: yaml with any of these options; later options override it")
    built.add_argument("--name", type=str | None, default=name, help="the model (or as the first word)")
    built.add_argument("--data", type=str, default="digits", help="a name, a folder, .npz, .csv, .parquet, .txt, a hub name")
    built.add_argument("--evaluate", type=bool, default=True, help="measure the run when it has ended, and write the report")
    training = built.add_class_arguments(TrainingSettings, as_group=True)
    sources = add_data_options(built)
    if name and (helping or recipe.get("model") or any(w.startswith(("--model.", "--print")) for w in rest)):
        import_torch()
        add_model_options(built, name)
    if name and any(w.startswith("--print") for w in rest):
        timed = any(recipe.get(key) or _option(rest, f"--{key}") for key in ("epochs", "budget"))  # then no number of steps
        usual = {key: value for key, value in building.method(name).training.items() if key in training}
        said = any(recipe.get(key) or _option(rest, f"--{key}") for key in ("steps", "epochs"))
        if said or "0" in (_option(rest, "--validation"), _option(rest, "--validate-every")):
            usual.pop("patience", None)  # all of them are made, or there is nothing to watch
        built.set_defaults({key: value for key, value in usual.items() if key != "steps" or not timed})
    given = plain(built.understand(rest, lambda: [f"--model.{key}" for key in building.options(name)] if name else []))
    name = given.get("name")
    if name is None:
        raise UserError("which model? Give its name first: pushforward train gan ... (`pushforward models` lists them)")
    settings = {key: given[key] for key in training}
    with speaking_shell(lambda: _spelled([*training, *sources])):
        TrainingSettings(**settings)  # mistakes show before torch and the data are loaded
        if settings["out"] and _first():
            refuse_if_running(Path(settings["out"]))
        if not given["data"].startswith(CODES):
            kind = foreseen(given["data"])
            if kind is not None and not given["kind"]:
                building.check_kind(name, kind, given["data"])
            elif kind is None and not Path(given["data"]).expanduser().exists():  # it may be one of the hub's
                ask(given["data"], list(BUILT_IN))
    with speaking_shell(lambda: _spelled([*training, *sources], building.options(name))):
        return train_and_report(
            name, given["data"], {key: given[key] for key in sources}, given.get("model") or {}, settings, given["evaluate"]
        )


def _spelled(names: Collection[str], own: Collection[str] = ()) -> dict[str, str]:
    """The options of these settings, and of the model's own. What is a setting of both (steps of a flow) is left as it is said,
    for it may be either."""
    spelled = {key: f"--{key.replace('_', '-')}" for key in names} | {key: f"--model.{key.replace('_', '-')}" for key in own}
    return {key: option for key, option in spelled.items() if not (key in own and key in names)}


def _first() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


def train_and_report(
    name: str, source: str, sources: dict[str, Any], model_settings: dict[str, Any], settings: dict[str, Any], measure: bool
) -> int:
    """Loads, trains, draws, measures and reports."""
    import_torch()
    from pushforward.training.engine import resolve_device
    from pushforward.training.opening import open_data

    resolve_device(settings["device"])
    building.check_settings(name, model_settings)
    data = open_data(source, **sources)
    if _first():
        for note in data.notes:
            print(f"data: {in_the_shell(note, _spelled(sources))}", file=sys.stderr)
    from pushforward.training.train import build, train

    before = read_record(Path(settings["out"])).get("result") if settings["resume"] else None
    run = train(build(name, data.spec, model_settings, settings["seed"]), data, **settings)
    ended = run.result
    status = 128 + ended["signal"] if ended.get("signal") else 0
    if not _first():
        return status
    if ended == before:
        print(f"already {ended['status']}: {ended['steps']} steps; everything is in {run.directory}")
        return 0
    if measure and ended.get("signal") != signal.SIGTERM:  # whoever sends it does not wait long
        from pushforward.cli.evaluate import measure_and_report

        measure_and_report(run, data)
    why = f" ({ended['why']})" if ended.get("why") else ""
    print(f"{ended['status']}{why}: {ended['steps']} steps in {ended['seconds']:.0f} s; everything is in {run.directory}")
    if status:
        print(f"go on with: pushforward train --resume --out {run.directory}")
    return status


def _recipe(rest: Sequence[str]) -> dict[str, Any]:
    """The recipe that --config names, for the model's name alone; jsonargparse reads the rest."""
    path = _option(rest, "--config")
    if path is None:
        return {}
    from pushforward.artefacts import read_yaml

    found = read_yaml(Path(path))
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a recipe: it should be yaml with lines such as 'name: vae' and 'steps: 1000'.")
    return found


def _option(rest: Sequence[str], option: str) -> str | None:
    for i, word in enumerate(rest):
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
        if word == option and i + 1 < len(rest):
            return rest[i + 1]
    return None


def _resumed(name: str | None, rest: Sequence[str]) -> tuple[str, list[str]]:
    """`train --resume`: model, data and settings as run.yaml has them; what is given besides overrides."""
    directory = _option(rest, "--out") or latest(name)
    record = read_record(Path(directory))
    if name not in (None, record["model"]["name"]):
        raise UserError(f"{directory} is a run of '{record['model']['name']}', not of '{name}'; name the right --out.")
    source = dict(record["data"]["source"])
    if str(source.get("source", "<")).startswith("<"):
        raise UserError(f"the run in {directory} was trained on data in memory; resume it from Python, with the data.")
    source.pop("seed", None)
    kept = {"data": source.pop("source"), "seed": record["training"]["seed"], **source}
    kept |= {f"model.{key}": value for key, value in record["model"]["settings"].items()}
    for key, value in kept.items():  # what a run is cannot change in its middle; how long it goes on can
        asked = _option(rest, f"--{key}") or _option(rest, f"--{key.replace('_', '-')}")
        same = key == "data" and isinstance(value, str) and Path(asked or "").resolve() == Path(value).resolve()
        if asked is not None and asked != _word(value) and not same:
            raise UserError(f"--{key.replace('_', '-')} {asked} was given, but {directory} has {_word(value)}; leave it away.")
    given = {key for key in record["training"] if _option(rest, f"--{key}") or _option(rest, f"--{key.replace('_', '-')}")}
    kept |= kept_settings(record, given - {"batch_size"})  # another batch size is refused where it is known
    words = [f"--{key}={_word(value)}" for key, value in kept.items() if value is not None or key.startswith("model.")]
    return record["model"]["name"], [f"--out={directory}", *words, *rest]


def _word(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)
