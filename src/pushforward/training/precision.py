"""Precision is measured, not assumed: a few updates in float32 and in bfloat16 on this hardware, the faster is kept.

On a CPU with AMX a U-Net gains about 2x in bf16 and a tiny MLP loses; on a GPU nearly everything gains. The number of CPU
threads is measured too: a small network gains nothing from a second one, and waits for it whenever the machine is shared.
What was measured is remembered, so that the same run chooses the same again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.artefacts import write_json

THREADS_WORTH = 1.3  # all threads must be this much faster than one; a shared machine takes such a gain away at once
SMALL = 0.1  # seconds: longer updates keep all threads unmeasured
WORTH = 1.1  # bf16 must be this much faster; below that the noise of timing decides, and float32 is the safer choice
TINY = 2e-3  # seconds: an update shorter than this is dominated by overhead, which autocast only adds to


def autocast(device: torch.device, precision: str) -> Any:
    """A context that computes in this precision."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def cache_directory() -> Path:
    """Where measurements and features are remembered: $PUSHFORWARD_CACHE, else ~/.cache/pushforward."""
    return Path(os.environ.get("PUSHFORWARD_CACHE") or Path.home() / ".cache" / "pushforward")


def hardware(device: torch.device) -> str:
    """This device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {torch.get_num_threads()} threads"
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Pace:
    """How to compute: "fp32" or "bf16", on how many CPU threads; and the seconds an update that were measured."""

    precision: str = "fp32"
    threads: int | None = None
    measured: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Within it, PyTorch computes on so many CPU threads (None: as many as before)."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_pace(model: nn.Module, losses: Callable[[], list[Tensor]], device: torch.device, identity: dict[str, Any]) -> Pace:
    """Times updates. `losses()` computes every player's loss on one batch; `identity` says what is being trained, as the
    key under which the choice is remembered. Leaves weights and buffers as they were."""
    if device.type == "mps":
        return Pace()
    key = json.dumps({**identity, "hardware": hardware(device), "torch": torch.__version__}, sort_keys=True, default=str)
    path = cache_directory() / "pace" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Pace(**json.loads(path.read_text()))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        pace = _measured(losses, device)
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for parameter in model.parameters():
            parameter.grad = None
    with contextlib.suppress(OSError, ValueError):  # without a cache it is measured again
        write_json(path, asdict(pace))
    return pace


def _measured(losses: Callable[[], list[Tensor]], device: torch.device) -> Pace:
    every = torch.get_num_threads() if device.type == "cpu" else None
    seconds, exact = _time(losses, device, "fp32")
    measured = {"fp32": seconds}
    if every and every > 1 and seconds < SMALL:
        with threads(1):
            measured["fp32, one thread"], _ = _time(losses, device, "fp32")
        if measured["fp32, one thread"] < seconds * THREADS_WORTH:
            every, seconds = 1, measured["fp32, one thread"]
    precision = "fp32"
    if seconds > TINY or device.type == "cuda":
        with threads(every):
            measured["bf16"], rounded = _time(losses, device, "bf16")
        faithful = bool(torch.isfinite(rounded) and (rounded - exact).abs() <= 0.05 * exact.abs() + 0.05)
        precision = "bf16" if faithful and measured["bf16"] * WORTH < seconds else "fp32"
    return Pace(precision, every, measured)


def _time(losses: Callable[[], list[Tensor]], device: torch.device, precision: str) -> tuple[float, Tensor]:
    """Median seconds of forward and backward passes, and the loss."""
    durations: list[float] = []
    total = torch.zeros(())
    for trial in range(8):
        start = time.perf_counter()
        with autocast(device, precision):
            values = losses()
        for value in values:
            value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - start)
        total = torch.stack([value.detach().float() for value in values]).sum()
        if trial >= 2 and sum(durations) > 2.0:
            break
    return sorted(durations[1:])[len(durations[1:]) // 2], total
