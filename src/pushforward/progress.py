"""A line that says what is being done and for how long, so that nothing slow is silent; in a log, one for each stage."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 2.0  # seconds before a loop says anything

Item = TypeVar("Item")


class Stages:
    """`with Stages(doing="evaluating") as say: say("sampling")`; on the error stream, and gone when done; where that is no
    terminal, each new stage on a line of its own.

    A stage that knows how far it is says so: say("fitting", 0.4). shown: False is silent. patience: seconds before the first
    word.
    """

    def __init__(self, shown: bool = True, *, doing: str = "", patience: float = 0.0):
        self.shown, self._doing, self._stage, self._said = shown, f"{doing}: " if doing else "", "", ""
        self._progress: Progress | None = None
        self._from = time.monotonic() + patience

    def __call__(self, what: str, fraction: float | None = None) -> None:
        if not self.shown or time.monotonic() < self._from:
            return
        if not sys.stderr.isatty():
            if what != self._said:
                print(f"{self._doing}{what} ...", file=sys.stderr, flush=True)
            self._said = what
            return
        said = what if fraction is None else f"{what}, {fraction:.0%}"
        if said == self._said:
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn(self._doing + "{task.description}"), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(what)
            self._progress.start()
        if what != self._stage:
            self._progress.reset(self._task)  # the time is that of the stage
        self._stage, self._said = what, said
        self._progress.update(self._task, description=said)

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()


def import_torch() -> None:
    """Imports torch, which takes seconds, and says so."""
    if "torch" not in sys.modules:
        with Stages() as say:
            say("loading PyTorch")
            importlib.import_module("torch")


def along(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items, one by one; says what is being done with them, and how far it is, from its third second on.

    >>> list(along(range(3), "counting"))
    [0, 1, 2]
    """
    with Stages(patience=PATIENCE) as say:
        for i, item in enumerate(items):
            say(what, i / len(items))
            yield item
