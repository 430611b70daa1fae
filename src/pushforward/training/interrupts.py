"""Ctrl-C and SIGTERM end a run after the step at hand, with everything saved."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import torch
import torch.distributed as dist

AGAIN = 1.0  # seconds: torchrun passes a terminal's Ctrl-C on, so that a process hears one press twice


class Interrupts:
    """Within it, the first SIGINT or SIGTERM is kept in `asked` for the loop to see; a second Ctrl-C ends the run at once."""

    def __init__(self) -> None:
        self.asked = 0  # the signal's number
        self._heard = 0.0

    def __enter__(self) -> Interrupts:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python hears signals there alone
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def _hear(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._heard = number, now
        elif number == signal.SIGINT and now - self._heard > AGAIN:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, elapsed: float, device: torch.device, world: int) -> tuple[float, int]:
        """(seconds, signal) that all processes act upon: the first one's clock, and what any of them heard (0: nothing).

        Called once a step by every process, so that all stop at the same one whichever was told to.
        """
        if world == 1:
            return elapsed, self.asked
        mine = [elapsed if dist.get_rank() == 0 else 0.0, float(self.asked)]
        shared = torch.tensor(mine, dtype=torch.float64, device=device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        seconds, asked = shared.tolist()
        return seconds, int(asked)
