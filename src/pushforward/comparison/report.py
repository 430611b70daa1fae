"""Pages to read: one run as report.html, several beside each other as comparison.html.

A page is one file: pictures inside it, no scripts, nothing fetched from anywhere.
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from pushforward.artefacts import read_json, read_jsonl, read_yaml, write_bytes
from pushforward.comparison.ranking import leading
from pushforward.comparison.wording import CAPTIONS, KINDS, duration, meaning
from pushforward.errors import UserError
from pushforward.evaluation.records import figure
from pushforward.measures.measure import ARROWS
from pushforward.pictures import draw_history
from pushforward.zoo import ZOO


def write_report(directory: str | Path) -> Path:
    """Writes `report.html` into a run directory and returns its path.

    Shows what there is of run.yaml, metrics.json, history.jsonl and PNGs; any may be missing. Raises UserError where the
    directory does not exist or one of its files is broken.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"there is no run directory '{directory}'; `pushforward train` makes one.")
    record = _mapping(read_yaml(directory / "run.yaml")) if (directory / "run.yaml").exists() else {}
    metrics = _mapping(read_json(directory / "metrics.json")) if (directory / "metrics.json").exists() else {}
    history = read_jsonl(directory / "history.jsonl") if (directory / "history.jsonl").exists() else []
    name = str(_mapping(record.get("model")).get("name") or directory.name)
    spec = _mapping(_mapping(record.get("data")).get("spec"))
    findings = _sentences(metrics.get("findings"))
    notes = [text for text in _notes(record, metrics) if text not in findings]
    page = _environment().get_template("report.html").render(
        title=f"{name} on {spec['name']}" if spec.get("name") else name,
        method=ZOO.get(name),
        facts=[("Data", _data(record)), ("Training", _training(record)), ("Machine", _machine(record))],
        groups=_groups(metrics),
        findings=findings,
        remarks=[*notes, *(f"Left out: {text}" for text in _left_out(metrics)), *_kinds([metrics])],
        protocol=_protocol(metrics),
        pictures=_pictures(directory, history),
        commands=_commands(directory, spec),
        settings=yaml.safe_dump(record, sort_keys=False, allow_unicode=True) if record else "",
        version=record.get("version"),
    )  # fmt: skip
    return write_bytes(directory / "report.html", page.encode(errors="replace"))


def write_comparison(directory: str | Path, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> Path:
    """Writes `comparison.html` into `directory`: one table, models as columns, and their samples side by side.

    rows: one a model: {"name", "directory", "metrics": {"measures": [...], "protocol": {...}}, "samples": path of a PNG or
    None, "result": {...}}. The best figure of a row is bold, and so is every other whose interval meets its interval.
    Likelihoods of different kinds, and figures measured differently, are not ranked against each other. notes: sentences about
    all of them.
    """
    names = [str(row["name"]) for row in rows]
    metrics = [_mapping(row.get("metrics")) for row in rows]
    named = list(zip(names, metrics, strict=True))
    left_out = [f"Left out: {name}: {text}" for name, found in named for text in _left_out(found)]
    page = _environment().get_template("comparison.html").render(
        title=" · ".join(names),
        names=names,
        groups=_compared(metrics),
        results=_results(rows),
        pictures=[
            {"title": name, "source": _embedded(Path(row["samples"]))}
            for name, row in zip(names, rows, strict=True)
            if row.get("samples") and Path(row["samples"]).is_file()
        ],
        directories=[(name, str(row.get("directory") or "")) for name, row in zip(names, rows, strict=True)],
        findings=[*notes, *(f"{name}: {text}" for name, found in named for text in _sentences(found.get("findings")))],
        remarks=[*dict.fromkeys(left_out), *_kinds(metrics)],
    )  # fmt: skip
    return write_bytes(Path(directory) / "comparison.html", page.encode(errors="replace"))


def _environment() -> jinja2.Environment:
    templates = importlib.resources.files(__package__)
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: templates.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _measures(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = metrics.get("measures")
    return [m for m in found if isinstance(m, dict) and m.get("name")] if isinstance(found, list) else []


def _groups(metrics: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The measures of one model, group by group, ready to print."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for m in _measures(metrics):
        low, high, floor = m.get("low"), m.get("high"), m.get("floor")
        floor_low, floor_high = _or(m.get("floor_low"), floor), _or(m.get("floor_high"), floor)
        real = None
        if None not in (low, high, floor):
            real = low <= floor_high and floor_low <= high
        groups.setdefault(m.get("group") or "measures", []).append(
            {
                "name": _label(m),
                "value": _figure(m.get("value")),
                "interval": _interval(low, high),
                "floor": _figure(floor) if floor is not None else "",
                "floor_interval": _interval(m.get("floor_low"), m.get("floor_high")),
                "real": real,
                "strip": _strip(m.get("value"), low, high, floor, floor_low, floor_high),
                "unit": m.get("unit") or "",
                "better": _better(m),
                "meaning": meaning(str(m["name"])),
                "protocol": "; ".join(filter(None, [m.get("protocol"), f"n = {m['n']}" if m.get("n") else ""])),
            }
        )
    return list(groups.items())


def _compared(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of the comparison, group by group. A row is one measure of one kind in one unit."""
    rows: dict[tuple[str, ...], list[dict[str, Any] | None]] = {}
    for column, found in enumerate(metrics):
        for m in _measures(found):
            key = tuple(str(m.get(part) or "") for part in ("group", "name", "kind", "unit"))
            rows.setdefault(key, [None] * len(metrics))[column] = m
    groups: dict[str, list[dict[str, Any]]] = {}
    for (group, name, _, unit), cells in rows.items():
        given = [m for m in cells if m is not None]
        alike = len({(m.get("protocol"), m.get("n")) for m in given}) == 1
        best = leading(cells) if alike else set()
        floor = next((m for m in given if m.get("floor") is not None), None)
        groups.setdefault(group or "measures", []).append(
            {
                "name": _label(given[0]),
                "unit": unit,
                "better": _better(given[0]),
                "meaning": meaning(name),
                "alike": alike or len(given) < 2,
                "cells": [
                    m
                    and {
                        "value": _figure(m.get("value")),
                        "interval": _interval(m.get("low"), m.get("high")),
                        "best": i in best,
                    }
                    for i, m in enumerate(cells)
                ],
                "floor": _figure(floor["floor"]) if floor else "",
                "floor_interval": _interval(floor.get("floor_low"), floor.get("floor_high")) if floor else "",
            }
        )
    return list(groups.items())


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _label(m: Mapping[str, Any]) -> str:
    return f"{m['name']} ({m['kind']})" if m.get("kind") else str(m["name"])


def _better(m: Mapping[str, Any]) -> str:
    better = str(m.get("better") or "")
    return f"{ARROWS[better]} {better}" if better in ARROWS else better


def _figure(value: Any) -> str:
    return figure(value) if isinstance(value, (int, float)) else "–"


def _interval(low: Any, high: Any) -> str:
    return "" if low is None or high is None else f"[{_figure(low)}, {_figure(high)}]"


def _strip(value: Any, low: Any, high: Any, floor: Any, floor_low: Any, floor_high: Any) -> dict[str, float] | None:
    """Where the value, the floor and their intervals lie on a line from 0 to 100; None where there is nothing to compare."""
    if value is None or floor is None:
        return None
    low, high = _or(low, value), _or(high, value)
    ends = [value, low, high, floor, floor_low, floor_high]
    least, most = min(ends), max(ends)
    if most <= least:
        return None

    def at(x: float) -> float:
        return round(4 + 92 * (x - least) / (most - least), 1)

    return {
        "value": at(value),
        "low": at(low),
        "width": round(max(at(high) - at(low), 0.5), 1),
        "floor": at(floor),
        "floor_low": at(floor_low),
        "floor_width": round(max(at(floor_high) - at(floor_low), 0.5), 1),
    }


def _data(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = _mapping(record.get("data"))
    spec, counts, source = _mapping(data.get("spec")), _mapping(data.get("counts")), _mapping(data.get("source"))
    condition, vocabulary = _mapping(spec.get("condition")), _mapping(spec.get("vocabulary"))
    size = " × ".join(str(n) for n in spec.get("shape") or ())
    levels = f"{spec['levels']} ({spec.get('mode') or 'no mode'})" if spec.get("levels") else ""
    names = _listed(condition.get("names") or (), 10)
    rows = [
        ("what", f"{spec['kind']} of shape {size}" if spec.get("kind") else ""),
        ("levels", levels),
        ("columns", _listed([_mapping(c).get("name") for c in spec.get("columns") or ()], 12)),
        ("vocabulary", f"{vocabulary.get('size')} tokens ({vocabulary.get('kind')})" if vocabulary else ""),
        ("condition", f"{condition.get('kind')}, {condition.get('size')}{': ' + names if names else ''}" if condition else ""),
        ("how many", ", ".join(f"{_count(n)} {part}" for part, n in counts.items())),
        ("source", ", ".join(f"{key} = {value}" for key, value in source.items() if value is not None)),
    ]
    return [(key, value) for key, value in rows if value]


def _training(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    training, result = _mapping(record.get("training")), _mapping(record.get("result"))
    rows = [
        ("status", result.get("status")),
        ("updates", _count(result.get("steps"))),
        ("examples seen", _count(result.get("examples"))),
        ("time", duration(result["seconds"]) if isinstance(result.get("seconds"), (int, float)) else ""),
        ("parameters", _count(result.get("parameters") or None)),
        ("precision", result.get("precision")),
    ]
    shown = ("batch_size", "learning_rate", "seed") if result.get("parameters") else ("seed",)  # a closed form sees all data
    rows += [(key.replace("_", " "), training[key]) for key in shown if training.get(key) is not None]
    settings = _mapping(_mapping(record.get("model")).get("settings"))
    rows.append(("model", ", ".join(f"{key} = {value}" for key, value in settings.items())))
    return [(key, str(value)) for key, value in rows if value not in (None, "")]


def _machine(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in _mapping(record.get("environment")).items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        if text not in (None, ""):
            flat.append((str(key), str(text)))
    return flat


def _results(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """How each model was trained, where the measures do not say it."""
    results = [_mapping(row.get("result")) for row in rows]
    table = []
    for key in ("status", "precision"):
        if any(result.get(key) is not None for result in results):
            table.append((key, [str(result.get(key, "–")) for result in results]))
    seconds = [result.get("seconds") for result in results]
    if any(isinstance(s, (int, float)) for s in seconds):
        table.append(("time", [duration(s) if isinstance(s, (int, float)) else "–" for s in seconds]))
    return table


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(_or(value, ""))


def _listed(names: Sequence[Any], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def _sentences(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{key}: {text}" for key, text in value.items()]
    return [str(text) for text in value] if isinstance(value, (list, tuple)) else [str(value)] if value else []


def _left_out(metrics: Mapping[str, Any]) -> list[str]:
    return _sentences(_mapping(metrics.get("protocol")).get("left_out"))


def _kinds(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the kinds of the likelihoods that were measured mean."""
    seen = {m.get("kind") for found in metrics for m in _measures(found)}
    return [f"{text}." for kind, text in KINDS.items() if kind in seen]


def _notes(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    sources = (record.get("data"), record.get("result"), metrics.get("protocol"))
    return list(dict.fromkeys(text for source in sources for text in _sentences(_mapping(source).get("notes"))))


def _protocol(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the measures were taken, all together and each."""
    rows = []
    for key, value in _mapping(metrics.get("protocol")).items():
        if key not in ("left_out", "notes", "nearest") and value not in (None, "", {}, []):
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
            rows.append((key.replace("_", " "), str(text)))
    said = {
        _label(m): "; ".join(filter(None, [m.get("protocol"), f"n = {m['n']}" if m.get("n") else ""]))
        for m in _measures(metrics)
    }
    return [*rows, *((name, text) for name, text in said.items() if text)]


def _pictures(directory: Path, history: Sequence[Any]) -> list[dict[str, str]]:
    """The PNGs of a run, the known ones first; training curves are drawn from the history where they are missing."""
    found = {path.stem: path for path in sorted(directory.glob("*.png"))}
    order = [*(stem for stem in CAPTIONS if stem in found or (stem == "training" and history)), *found]
    pictures = []
    for stem in dict.fromkeys(order):
        title = re.sub(r"[-_]+", " ", stem)
        if stem in found:
            source = _embedded(found[stem])
        else:
            buffer = io.BytesIO()
            draw_history([row for row in history if isinstance(row, dict)]).save(buffer, format="PNG")
            source = _source(buffer.getvalue())
        pictures.append({"title": title, "caption": CAPTIONS.get(stem, ""), "source": source})
    return pictures


def _embedded(path: Path) -> str:
    try:
        return _source(path.read_bytes())
    except OSError as error:
        raise UserError(f"could not read the picture '{path}': {error.strerror}; check its permissions.") from error


def _source(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _commands(directory: Path, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    run = shlex.quote(str(directory))
    ending = {"image": "png", "tokens": "txt", "series": "npz", "field": "npz"}.get(str(spec.get("kind")), "csv")
    if _mapping(spec.get("vocabulary")).get("kind") == "codes":
        ending = "npz"
    commands = [("64 samples", f"pushforward sample {run} -n 64 --seed 7 --out samples.{ending}")]
    condition = _mapping(spec.get("condition"))
    if condition.get("kind") == "class" and condition.get("size"):
        name = str((condition.get("names") or ["0"])[0])
        commands.append(("Of one class", f"pushforward sample {run} -n 64 --condition {shlex.quote(name)} --out one.{ending}"))
    commands.append(("Measure again", f"pushforward evaluate {run}"))
    commands.append(("In Python", f"import pushforward as pf; x = pf.load({str(directory)!r}).sample(64, seed=7)"))
    return commands
