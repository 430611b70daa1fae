"""What an evaluation says: figures with intervals, each beside the same figure of real data against real data."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pushforward.artefacts import read_json, write_json
from pushforward.errors import UserError, nearest
from pushforward.measures.measure import Measure

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDE = 110  # characters of a terminal that has room for every column


class Procedure(TypedDict, total=False):
    """How the measures were taken, as `metrics.json` keeps it.

    n: how many samples they rest on (0: there were none). features: name, hash and dimensions of the feature space, None
    where none was needed. nearest: the samples that are closest to a training datum, which datum that is, and how far.
    left_out: "MEASURES: why". notes: sentences about what else to know.
    """

    seed: int
    data: str
    n: int
    reference: str
    floor: str
    conditions: str
    features: dict[str, Any] | None
    intervals: str
    sampling_options: dict[str, Any]
    nearest: dict[str, list[Any]]
    left_out: list[str]
    notes: list[str]


@dataclass
class Evaluation:
    """The measures of one model, the protocol that they were taken by (sizes, seeds, features, what was left out), and what to
    look at, in sentences: none where nothing is wrong."""

    measures: list[Measure]
    protocol: Procedure = field(default_factory=Procedure)
    findings: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Measure:
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise UserError(f"there is no measure '{name}' here; {nearest(name, [m.name for m in self.measures])}")

    def __contains__(self, name: object) -> bool:
        return any(measure.name == name for measure in self.measures)

    def to_dict(self) -> dict[str, Any]:
        measures = [dataclasses.asdict(measure) for measure in self.measures]
        return {"measures": measures, "protocol": self.protocol, "findings": self.findings}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """The inverse of `to_dict`.

        >>> evaluation = Evaluation([Measure("KID", 0.01, 0.0, 0.02, better="lower")], {"n": 10})
        >>> Evaluation.from_dict(evaluation.to_dict()) == evaluation
        True
        """
        measures = [Measure(**measure) for measure in values["measures"]]
        return cls(measures, Procedure(**values["protocol"]), list(values.get("findings", [])))

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
        try:
            return cls.from_dict(read_json(path))
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is no record of an evaluation ({error}); `pushforward evaluate` writes it anew.") from None

    def __str__(self) -> str:
        return "\n".join([as_text(self.table()), *self.remarks()])

    def remarks(self) -> list[str]:
        """What to look at, as a list for the terminal; empty where nothing is wrong."""
        return ["What to look at:", *(f"- {sentence}" for sentence in self.findings)] if self.findings else []

    def table(self, width: int = 120) -> Table:
        """The figures as a table for a terminal of `width` characters: value, interval, floor, unit and which way is better.

        Where that is too narrow for all columns, unit and direction stand with the measure's name.
        """
        said = ["= : no difference from real data was found"]
        said += [f"left out: {sentence}" for sentence in self.protocol.get("left_out", [])]
        wide = width >= WIDE
        table = figures_table("evaluation", "\n".join(said))
        named = [
            m.titled if wide else " ".join(filter(None, (m.arrow, m.titled, m.unit and f"({m.unit})"))) for m in self.measures
        ]
        table.add_column("measure", min_width=longest_word(named))
        for heading in ("value", "95 %", "real data"):
            table.add_column(heading, justify="right", no_wrap=True)
        if wide:
            for heading, words in (("unit", [m.unit for m in self.measures]), ("better", [m.better for m in self.measures])):
                table.add_column(heading, min_width=longest_word(words))
        group = None
        for name, measure in zip(named, self.measures, strict=True):
            if group is not None and measure.group != group:
                table.add_section()
            group = measure.group
            interval = "" if measure.low is None else f"{figure(measure.low)} … {figure(measure.high)}"
            floor = "" if measure.floor is None else figure(measure.floor) + (" =" if measure.real else "")
            table.add_row(name, figure(measure.value), interval, floor, *((measure.unit, measure.better) if wide else ()))
        return table


def figures_table(title: str | None, caption: str | None = None) -> Table:
    """An empty table for figures: rules between the groups, none between the columns, which would cost width."""
    from rich import box
    from rich.table import Table

    return Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))


def longest_word(texts: Iterable[str]) -> int:
    """How wide a column must be, so that no word is cut."""
    return max((len(word) for text in texts for word in text.split()), default=0)


def as_text(table: RenderableType, width: int = 120) -> str:
    """A table as plain text, at most `width` characters wide."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
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
