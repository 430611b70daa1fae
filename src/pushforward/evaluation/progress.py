"""A line that says what is being done and for how long, so that nothing slow is silent; in a log, one line in all."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Stages:
    """`with Stages(shown) as say: say("sampling")`; on the error stream, and gone when done.

    A stage that knows how far it is says so: say("fitting", 0.4).
    """

    def __init__(self, shown: bool = True):
        self.shown, self._stage, self._said = shown, "", False
        self._progress: Progress | None = None

    def __call__(self, what: str, fraction: float | None = None) -> None:
        if not self.shown:
            return
        if not sys.stderr.isatty():
            if not self._said:
                print(f"evaluating: {what} ...", file=sys.stderr, flush=True)
            self._said = True
            return
        if self._progress is None:
            columns = (SpinnerColumn(), TextColumn("evaluating: {task.description}"), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(what)
            self._progress.start()
        said = what if fraction is None else f"{what}, {fraction:.0%}"
        if what != self._stage:
            self._progress.reset(self._task)  # the time is that of the stage
        self._stage = what
        self._progress.update(self._task, description=said)

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
