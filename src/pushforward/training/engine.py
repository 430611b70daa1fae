"""Devices and processes: a thin layer over PyTorch's own distributed engine.

Started by `torchrun`, every process trains the same model on its own rows of each batch. What is wrapped by
`DistributedDataParallel` is a player's *loss*, not a network: so any method of a network may be called, gradients are
averaged by DDP and never by hand, and each player is synchronised in its own turn only.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pushforward.data.batches import Batch
from pushforward.errors import UserError
from pushforward.models.contract import Loss, Player, device_of
from pushforward.randomness import Rng


def resolve_device(name: str = "auto") -> torch.device:
    """The device that a name means; one that is not there is an error."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device = '{name}' was given; valid: auto, cpu, cuda, cuda:N, mps.") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device = '{name}' was asked for, but PyTorch sees no CUDA GPU here; use --device cpu.")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"device = '{name}' was asked for, but there are only {torch.cuda.device_count()} GPUs.")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device = 'mps' was asked for, but there is no Apple GPU here; use --device cpu.")
    return device


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """(rank, world) of this process; joins the group that torchrun started, if it did, and leaves it afterwards."""
    if dist.is_available() and dist.is_initialized():
        yield dist.get_rank(), dist.get_world_size()
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield dist.get_rank(), dist.get_world_size()
        finally:
            gc.collect()  # wrappers in circles hold the group, whose threads would then outlive it, and abort the process
            dist.destroy_process_group()
    else:
        yield 0, 1


def replicate(model: nn.Module) -> nn.Module:
    """Gives every process the tensors of the first, and batch norms the statistics of all (on CUDA, where PyTorch can; on
    CPUs each process normalises by its own rows, so there two processes are not quite one with twice the batch)."""
    if device_of(model).type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    return model


def agreed(value: float, device: torch.device, world: int) -> float:
    """A number as the first process has it (clocks differ; decisions must not)."""
    if world == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return shared.item()


class _Turn(nn.Module):
    """A loss as the forward pass of the modules that it trains, which is the form that DDP wraps."""

    def __init__(self, modules: list[nn.Module]):
        super().__init__()
        self.trained = nn.ModuleList(modules)

    def forward(self, loss: Callable[[Batch, Rng], Loss], batch: Batch, rng: Rng) -> tuple[Tensor, dict, dict]:
        found = loss(batch, rng)
        return found.total, {name: t.detach() for name, t in found.terms.items()}, found.keep


class Synchroniser:
    """Losses whose backward pass averages gradients over the processes: one DDP wrapper for each set of parameters."""

    def __init__(self, world: int):
        self.world = world
        self.wrapped: dict[frozenset[int], DistributedDataParallel] = {}

    def loss(self, player: Player) -> tuple[Callable[[Batch, Rng], Loss], Callable[[], Any]]:
        """The player's loss, and a context in which gradients are not averaged (all micro-batches but the last)."""
        assert player.loss is not None
        if self.world == 1:
            return player.loss, contextlib.nullcontext
        key = frozenset(id(p) for p in player.parameters())
        if key not in self.wrapped:
            # A penalty, or a network that grows, may leave parameters out: they have no gradient, as in a single process.
            self.wrapped[key] = DistributedDataParallel(_Turn(player.roots()), find_unused_parameters=True)
        wrapped, own = self.wrapped[key], player.loss
        return lambda batch, rng: Loss(*wrapped(own, batch, rng)), wrapped.no_sync

    def gathered(self, keep: dict[str, Tensor]) -> dict[str, Tensor]:
        """The kept rows of all processes, in the order of the global batch."""
        if self.world == 1:
            return keep
        joined = {}
        for name in sorted(keep):
            parts = [torch.empty_like(keep[name]) for _ in range(self.world)]
            dist.all_gather(parts, keep[name].contiguous())
            joined[name] = torch.cat(parts)
        return joined
