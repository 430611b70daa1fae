"""Precision is measured, not assumed: a few updates in float32 and in bfloat16 on this hardware, the faster is kept.

On a CPU with AMX a U-Net gains about 2x in bf16 and a tiny MLP loses; on a GPU nearly everything gains. What was measured
is remembered, so that the same run chooses the same again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.artefacts import write_json

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


def choose_precision(
    model: nn.Module, losses: Callable[[], list[Tensor]], device: torch.device, identity: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """("fp32" or "bf16", what was measured). `losses()` computes every player's loss on one batch; `identity` says what
    is being trained, as the key under which the choice is remembered. Leaves weights and buffers as they were."""
    if device.type == "mps":
        return "fp32", {}
    key = json.dumps({**identity, "hardware": hardware(device), "torch": torch.__version__}, sort_keys=True, default=str)
    path = cache_directory() / "precision" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = json.loads(path.read_text())
        return known["precision"], {**known, "remembered": True}
    measured: dict[str, Any] = {}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        measured["fp32"], exact = _time(losses, device, "fp32")
        precision = "fp32"
        if measured["fp32"] > TINY or device.type == "cuda":
            measured["bf16"], rounded = _time(losses, device, "bf16")
            faithful = bool(torch.isfinite(rounded) and (rounded - exact).abs() <= 0.05 * exact.abs() + 0.05)
            precision = "bf16" if faithful and measured["bf16"] * WORTH < measured["fp32"] else "fp32"
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for parameter in model.parameters():
            parameter.grad = None
    measured["precision"] = precision
    with contextlib.suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measured)
    return precision, measured


def _time(losses: Callable[[], list[Tensor]], device: torch.device, precision: str) -> tuple[float, Tensor]:
    """Median seconds of forward and backward passes, and the loss."""
    durations, total = [], torch.zeros(())
    for trial in range(6):
        start = time.perf_counter()
        with autocast(device, precision):
            values = losses()
        for value in values:
            value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - start)
        total = torch.stack([value.detach().float() for value in values]).sum()
        if trial >= 2 and sum(durations) > 4.0:
            break
    return sorted(durations[1:])[len(durations[1:]) // 2], total
