"""`--batch-size auto`: the largest batch that still pays and fits in memory, found by trying."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable

import torch

from pushforward.data.batches import Batches
from pushforward.models.contract import Player
from pushforward.randomness import UpdateRng, seed_everything

PAYS = 1.15  # doubling must raise the throughput by this much


def largest_worthwhile(
    players: list[Player], make_batches: Callable[[int], Batches], device: torch.device, limit: int, first: int = 32
) -> int:
    """Doubles from `first` while examples per second still grow, memory lasts and a batch is at most an eighth of the data."""
    buffers = [b for player in players for module in player.roots() for b in module.buffers()]
    before_trying = [b.clone() for b in buffers]
    best, best_rate, size = first, 0.0, first
    while size <= max(first, min(limit // 8, 8192)):
        before = _memory(device)
        try:
            rate = _rate(players, make_batches(size), device)
        except (torch.OutOfMemoryError, MemoryError):
            break
        if rate < best_rate * PAYS:
            break
        best, best_rate = size, rate
        if _memory(device) + 2 * (_memory(device) - before) > 0.8 * _available(device):
            break
        size *= 2
    for player in players:
        for parameter in player.parameters():
            parameter.grad = None
    with torch.no_grad():
        for buffer, value in zip(buffers, before_trying, strict=True):
            buffer.copy_(value)
    return best


def _rate(players: list[Player], batches: Batches, device: torch.device) -> float:
    """Examples per second of forward and backward passes of every player."""
    batch, best = batches.at(0), float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for player in players:
            if player.loss is not None:
                player.loss(batch, UpdateRng(seed_everything(0, device))).total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return len(batch) / best


def _memory(device: torch.device) -> float:
    """Largest number of bytes in use so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _available(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
