"""Run directories and run.yaml, their record: found, read and checked without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pushforward.artefacts import read_yaml
from pushforward.errors import UserError, nearest

FORMAT = 1
CODES = "codes:"  # before a run's directory: the source that is its codes
STATE = Path("last") / "state.safetensors"
WEIGHTS = Path("model.safetensors")
BEST = Path("best.safetensors")
LENGTHS = ("steps", "epochs", "budget")
YOURS = "<your "


def read_record(directory: Path) -> dict[str, Any]:
    """run.yaml of a run directory, checked."""
    if not directory.exists():
        beside = [path.parent.name for path in directory.parent.glob("*/run.yaml")]
        near = nearest(directory.name, beside) if beside else "there are no runs here yet (`pushforward train` makes one)."
        raise UserError(f"there is no run directory {directory}; {near}")
    path = directory / "run.yaml"
    if not path.exists():
        raise UserError(f"{directory} is not a run directory (it has no run.yaml); `pushforward train` makes one.")
    record = read_yaml(path)
    if not isinstance(record, dict) or record.get("format") is None:
        raise UserError(f"{path} is not a run's record; it may be half-written. Restore it or train again.")
    if record["format"] != FORMAT:
        raise UserError(
            f"{path} has format {record['format']}, this version of pushforward reads {FORMAT}; "
            f"use the version that wrote it ({record.get('version', 'unknown')})."
        )
    absent = [f"{a}.{b}" for a, b in (("model", "name"), ("model", "settings"), ("data", "spec"), ("data", "source"))
              if not isinstance(record.get(a), dict) or b not in record[a]]  # fmt: skip
    if absent:
        raise UserError(f"{path} is half-written: it lacks {', '.join(absent)}. Train again.")
    return record


def require(directory: Path) -> None:
    """A UserError where a run's directory is gone: it is never made anew in the middle of a run."""
    if not directory.is_dir():
        raise UserError(
            f"the run directory {directory} is gone (deleted or moved while it was in use), and what was to be written there "
            f"is lost; put it back and go on with --resume, or train again."
        )


def latest(name: str | None = None, data: str | None = None) -> Path:
    """The newest directory in runs/ with something to resume: of this model, on data of this name, where they are given."""
    found = []
    for state in Path("runs").glob(f"*/{STATE}"):
        directory = state.parent.parent
        try:
            record = read_record(directory)
        except UserError:
            continue
        if name in (None, record["model"]["name"]) and data in (None, record["data"]["spec"].get("name")):
            found.append((state.stat().st_mtime_ns, directory))
    if not found:
        what = f"no run of '{name}'" if name else "no run"
        raise UserError(f"there is nothing to resume: {what} in runs/. Name its directory: --resume --out DIR.")
    return max(found)[1]


def kept_settings(record: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """The training settings that a resumed run goes on with where nothing else is `given`. How long is one thing, said in
    steps, epochs or time: given in one way, it replaces all three."""
    replaced = {"out", "resume", "precision", *given}  # the precision is the checkpoint's: a roll-back may have changed it
    if replaced & set(LENGTHS):
        replaced |= set(LENGTHS)
    return {key: value for key, value in record["training"].items() if key not in replaced and value is not None}


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings for yaml; what is not plain (a network of the user's) is named only, at any depth."""
    return {str(key): _plain(value) for key, value in settings.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return plain_settings(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    return f"{YOURS}{type(value).__name__}>"


def is_yours(value: Any) -> bool:
    """Whether a setting from run.yaml holds, at any depth, what only its user has."""
    if isinstance(value, dict):
        return any(map(is_yours, value.values()))
    if isinstance(value, list):
        return any(map(is_yours, value))
    return isinstance(value, str) and value.startswith(YOURS)
