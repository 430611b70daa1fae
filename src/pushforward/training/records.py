"""run.yaml: the record of a run, read and checked without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pushforward.artefacts import read_yaml
from pushforward.errors import UserError, nearest

FORMAT = 1


def read_record(directory: Path) -> dict[str, Any]:
    """run.yaml of a run directory, checked."""
    if not directory.exists():
        near = nearest(directory.name, [p.name for p in directory.parent.glob("*") if (p / "run.yaml").exists()] or ["(none)"])
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
