"""What an evaluation says: figures with intervals, each beside the same figure of real data against real data."""

from __future__ import annotations

import dataclasses
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pushforward.artefacts import read_json, write_json
from pushforward.errors import UserError, nearest

if TYPE_CHECKING:
    from rich.table import Table

Better = Literal["lower", "higher", "near 0.5", "near 0", "near 1", "near the floor", ""]


@dataclass
class Measure:
    """One figure.

    value, low, high: the figure and its 95 % interval. floor, floor_low, floor_high: the same figure where training data
    take the samples' place (what a perfect model would get), or None where there is no such thing. better: which way is
    good. kind: of a likelihood ("exact", "bound", "estimate"). n: how many data it rests on. protocol: how, in a sentence.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_low: float | None = None
    floor_high: float | None = None
    unit: str = ""
    better: Better = ""
    kind: str | None = None
    n: int = 0
    protocol: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "floor", "floor_low", "floor_high"):
            figure = getattr(self, name)
            if figure is not None:
                setattr(self, name, float(figure))
                if not math.isfinite(figure):
                    raise UserError(f"'{self.name}' came out as {figure}, which is no figure to report.")

    @property
    def real(self) -> bool | None:
        """Whether the figure's interval meets the floor's: no difference from real data was found at this n."""
        if self.low is None or self.high is None or self.floor is None:
            return None
        floor_low = self.floor if self.floor_low is None else self.floor_low
        floor_high = self.floor if self.floor_high is None else self.floor_high
        return self.low <= floor_high and floor_low <= self.high


@dataclass
class Evaluation:
    """The measures of one model, and the protocol that they were taken by (sizes, seeds, features, what was left out)."""

    measures: list[Measure]
    protocol: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Measure:
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise UserError(f"there is no measure '{name}' here; {nearest(name, [m.name for m in self.measures])}")

    def __contains__(self, name: object) -> bool:
        return any(measure.name == name for measure in self.measures)

    def to_dict(self) -> dict[str, Any]:
        return {"measures": [dataclasses.asdict(measure) for measure in self.measures], "protocol": self.protocol}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """The inverse of `to_dict`.

        >>> evaluation = Evaluation([Measure("KID", 0.01, 0.0, 0.02, better="lower")], {"n": 10})
        >>> Evaluation.from_dict(evaluation.to_dict()) == evaluation
        True
        """
        return cls([Measure(**measure) for measure in values["measures"]], dict(values["protocol"]))

    def save(self, path: str | Path) -> Path:
        """Writes json, whole or not at all. `path` is a file, or a directory (then `metrics.json` in it)."""
        path = Path(path)
        path = path / "metrics.json" if path.is_dir() else path
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Reads what `save` wrote. Raises UserError where there is none."""
        path = Path(path)
        path = path / "metrics.json" if path.is_dir() else path
        if not path.exists():
            raise UserError(f"there is no {path}; `pushforward evaluate` writes it.")
        return cls.from_dict(read_json(path))

    def __str__(self) -> str:
        return as_text(self.table())

    def table(self) -> Table:
        """The figures as a table for the terminal: value, interval, floor, unit and which way is better."""
        from rich.table import Table

        said = ["= : no difference from real data was found", *self.protocol.get("left_out", [])]
        table = Table(title="evaluation", caption="\n".join(said), caption_justify="left")
        for heading in ("measure", "value", "95 %", "real data", "unit", "better"):
            table.add_column(heading, justify="right" if heading in ("value", "95 %", "real data") else "left")
        group = None
        for measure in self.measures:
            if group is not None and measure.group != group:
                table.add_section()
            group = measure.group
            name = f"{measure.name} ({measure.kind})" if measure.kind else measure.name
            interval = "" if measure.low is None else f"{figure(measure.low)} … {figure(measure.high)}"
            floor = "" if measure.floor is None else figure(measure.floor) + (" =" if measure.real else "")
            table.add_row(name, figure(measure.value), interval, floor, measure.unit, measure.better)
        return table


def as_text(table: Table) -> str:
    """A table as plain text, 120 columns wide."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=120, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def figure(value: float | None) -> str:
    """A number in three or four significant digits.

    >>> figure(0.0123456), figure(1234567.0), figure(0.0), figure(97.25)
    ('0.01235', '1,234,567', '0', '97.25')
    """
    if value is None:
        return ""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def paired(
    name: str,
    ours: tuple[float, float, float],
    floor: tuple[float, float, float],
    better: Better,
    unit: str,
    n: int,
    protocol: str,
    group: str,
) -> Measure:
    """A measure of (value, low, high) beside the floor's (value, low, high)."""
    return Measure(name, *ours, *floor, unit=unit, better=better, n=n, protocol=protocol, group=group)
