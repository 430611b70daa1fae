"""Optimisers by name: `OptimizerSettings` says which, this file makes it. One for each set of parameters."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pushforward.errors import UserError, nearest
from pushforward.models.contract import OptimizerSettings, Player

KINDS = ("adamw", "adam", "rmsprop", "sgd")


def make_optimizer(parameters: list[nn.Parameter], settings: OptimizerSettings, device: torch.device) -> Optimizer:
    """The optimiser of a player, fused where PyTorch has it so. Weight decay is for matrices; biases and norms go without
    (as in GPT-2's training)."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if not settings.weight_decay:
        groups = [{"params": parameters, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    fused: dict[str, Any] = {"fused": True} if device.type in ("cpu", "cuda") else {}
    rate = settings.learning_rate
    match settings.kind:
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, betas=settings.betas, eps=settings.eps, **fused)
        case "adam":
            return torch.optim.Adam(groups, lr=rate, betas=settings.betas, eps=settings.eps, **fused)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, alpha=settings.betas[1], eps=settings.eps, momentum=settings.momentum)
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, **fused)
    raise UserError(f"there is no optimiser '{settings.kind}'; {nearest(settings.kind, KINDS)}")


def make_optimizers(players: list[Player], device: torch.device) -> dict[str, Optimizer]:
    """Every learning player's optimiser by the player's name. Players on the same parameters (a lazy penalty) share one, so
    they must want the same; players whose parameters merely overlap cannot both keep moments of them."""
    made: dict[str, Optimizer] = {}
    known: list[tuple[set[int], Player]] = []
    for player in players:
        if player.loss is None:
            continue
        parameters = player.parameters()
        if not parameters:
            raise UserError(f"player '{player.name}' has a loss but nothing to train; give its modules parameters.")
        ids = {id(p) for p in parameters}
        twin = next((other for theirs, other in known if theirs == ids), None)
        overlap = next((other for theirs, other in known if theirs & ids and theirs != ids), None)
        if overlap is not None:
            raise UserError(f"players '{overlap.name}' and '{player.name}' share some parameters but not all; part them.")
        if twin is not None and replace(twin.optimizer, clip=None) != replace(player.optimizer, clip=None):
            raise UserError(f"players '{twin.name}' and '{player.name}' train the same parameters by different optimisers.")
        made[player.name] = made[twin.name] if twin else make_optimizer(parameters, player.optimizer, device)
        known.append((ids, player))
    return made


def rate_at(settings: OptimizerSettings, step: int, fraction: float, steps: int | None) -> float:
    """The learning rate of update `step`, at `fraction` of the run: a linear rise, then the schedule, which ends at `floor`."""
    if settings.warmup < 1:  # a share of the run, at most 500 updates; by the clock where only a time is known
        if steps is None:
            rise = min(1.0, fraction / settings.warmup) if settings.warmup else 1.0
        else:
            rise = min(1.0, (step + 1) / (min(500, int(settings.warmup * steps)) + 1))
    else:
        rise = min(1.0, (step + 1) / (settings.warmup + 1))
    match settings.schedule:
        case "constant":
            fall = 1.0
        case "linear":
            fall = 1.0 - fraction
        case _:
            fall = 0.5 * (1 + math.cos(math.pi * fraction))
    return settings.learning_rate * rise * (settings.floor + (1.0 - settings.floor) * fall)
