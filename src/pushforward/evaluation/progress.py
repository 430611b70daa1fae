"""A line that says what is being done, once it has taken more than two seconds; in a log, one line a stage."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PATIENCE = 2.0


class Stages:
    """`with Stages(shown) as say: say("sampling", 0.2)`; on the error stream, and gone when done."""

    def __init__(self, shown: bool = True):
        self.shown, self._since = shown, time.monotonic()
        self._progress: Progress | None = None
        self._last = ""

    def __call__(self, what: str, fraction: float) -> None:
        if not self.shown or time.monotonic() - self._since < PATIENCE:
            return
        if not sys.stderr.isatty():
            if what != self._last:
                print(f"evaluating: {what} ...", file=sys.stderr, flush=True)
            self._last = what
            return
        if self._progress is None:
            columns = (TextColumn("evaluating: {task.description}"), BarColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(what, total=1.0)
            self._progress.start()
        self._progress.update(self._task, description=what, completed=fraction)

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
