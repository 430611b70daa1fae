"""What a run says while it trains: a live line, history.jsonl, TensorBoard, Weights & Biases.

Terms stay on the device between two log lines; nothing here waits for it in between.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.artefacts import write_bytes
from pushforward.errors import UserError
from pushforward.training.records import require


class History:
    """The lines of history.jsonl: one dictionary of numbers each. A resumed run drops what lies after its checkpoint."""

    def __init__(self, path: Path | None, step: int = 0):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path is not None:
            if step and path.exists():
                self.rows = read_history(path)
            self.cut(step)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.path:
            try:
                with open(self.path, "a") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                require(self.path.parent)
                raise UserError(f"could not write {self.path}: {error.strerror}. The last checkpoint is kept.") from None

    def cut(self, step: int) -> None:
        """Drops the rows after `step`."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        if self.path:
            write_bytes(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a history.jsonl; a last line cut short by a kill, and whatever is no row, is left out."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class Window:
    """The terms since the last log line, unread, so that logging costs no synchronisation."""

    def __init__(self) -> None:
        self.terms: dict[str, list[Tensor]] = {}

    def add(self, player: str, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.terms.setdefault(f"{player}/{name}", []).append(value.detach())

    def read(self) -> dict[str, float]:
        """Means over the window; empties it."""
        means = {name: torch.stack([v.float() for v in values]).mean().item() for name, values in self.terms.items()}
        self.terms.clear()
        return means


class Display:
    """One live line on a terminal; elsewhere the first line, one every ten seconds and the last, so that a log file stays
    readable and a short run is not silent."""

    def __init__(self, title: str, total: int | None, seconds: float | None, quiet: bool = False):
        self.total, self.seconds, self.quiet, self.title = total, seconds, quiet, title
        self.spoke: float | None = None
        self.unsaid = ""
        self.progress: Any = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self.progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=False)
            self.task = self.progress.add_task(title, total=1000, text="starting")
            self.progress.start()

    def show(
        self,
        step: int,
        fraction: float,
        rate: float,
        elapsed: float,
        values: dict[str, float],
        watched: dict[str, float] | None = None,
    ) -> None:
        """values: of the losses, the first to be shown first. watched: all of them are shown."""
        if self.quiet:
            return
        left = elapsed * (1 - fraction) / fraction if fraction > 0 else None
        shown = "  ".join(
            f"{name.removesuffix('/loss')} {value:.4g}" for name, value in list(values.items())[: 2 if watched else 3]
        )
        shown += "".join(f"  {name} {value:.4g}" for name, value in (watched or {}).items())
        of = f"/{self.total}" if self.total else ""
        text = f"step {step}{of}  {rate:.3g} steps/s  {shown}"
        if self.progress:
            self.progress.update(self.task, completed=1000 * fraction, text=f"{text}  {clock(left)} left")
        elif self.spoke is None or time.monotonic() - self.spoke > 10:
            self.spoke, self.unsaid = time.monotonic(), ""
            print(f"{self.title}: {text}  {clock(left)} left", file=sys.stderr, flush=True)
        else:
            self.unsaid = text

    def say(self, sentence: str) -> None:
        if not self.quiet:
            (self.progress.console.print if self.progress else lambda s: print(s, file=sys.stderr, flush=True))(sentence)

    def close(self) -> None:
        """The last figures, where they were not shown yet."""
        if self.progress:
            self.progress.stop()
        elif self.unsaid:
            print(f"{self.title}: {self.unsaid}", file=sys.stderr, flush=True)
            self.unsaid = ""


def clock(seconds: float | None) -> str:
    """A duration as people read it.

    >>> clock(75), clock(3700), clock(None)
    ('1:15', '1:01:40', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Trackers:
    """TensorBoard and Weights & Biases, where they were asked for. Both write from threads of their own."""

    def __init__(self, directory: Path | None, tensorboard: bool, wandb: str | None, config: dict[str, Any]):
        self.writer: Any = None
        self.wandb: Any = None
        self.wanted = directory / "tensorboard" if tensorboard and directory else None
        if wandb:
            try:
                import wandb as service
            except ImportError:
                raise UserError("--wandb needs the package: pip install 'pushforward[wandb]'.") from None
            self.wandb = service.init(project=wandb, dir=directory, config=config)

    def add(self, row: dict[str, Any]) -> None:
        if self.wanted and self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.wanted))
        if self.writer:
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "step":
                    self.writer.add_scalar(name, value, row["step"])
        if self.wandb:
            self.wandb.log(row, step=row["step"])

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        if self.wandb:
            self.wandb.finish()
