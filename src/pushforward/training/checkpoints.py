"""Checkpoints: one safetensors file, replaced in one move, so that a run killed at any moment finds a whole one.

`last/state.safetensors` holds the weights, their average, the optimisers' moments and, in its header, the few numbers that
say where the run stands. Random states need no storing: all randomness is a function of the step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from pushforward.artefacts import write_bytes
from pushforward.errors import UserError
from pushforward.training.records import STATE, WEIGHTS, require


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Writes a safetensors file of a run atomically. A full disk, a missing permission or a run directory that is gone is a
    UserError; the old file stays."""
    require(path.parents[len(STATE.parts) - 1] if path.parts[-len(STATE.parts) :] == STATE.parts else path.parent)
    own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(own, metadata={"pushforward": json.dumps(header)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of `write_tensors`. A broken file is a UserError."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("pushforward", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"there is no {path}; was the run stopped before it saved anything?") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error}); restore it or train again.") from error


def weights_file(directory: Path, status: str | None) -> Path:
    """The file with the newest averaged weights of a run: while it trains (or was killed at that) its last checkpoint, though
    an earlier part of the run may have left its final weights beside it."""
    final, state = directory / WEIGHTS, directory / STATE
    return state if not final.exists() or (status == "training" and state.exists()) else final


def fingerprint(path: Path) -> str:
    """The first 12 hexadecimal digits of a file's SHA-256: which weights made a sample."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Puts weights into a model; ones of another model are a UserError that says how they differ."""
    own = model.state_dict()
    wrong = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    missing, extra = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    if wrong or missing or extra:
        example = next(iter(sorted(wrong) or sorted(missing) or sorted(extra)))
        raise UserError(
            f"the weights in {where} belong to another model or to other settings: {len(missing)} tensors are missing, "
            f"{len(extra)} unknown, {len(wrong)} of another shape (such as '{example}'). Load them with the settings "
            f"that they were trained with."
        )
    model.load_state_dict(tensors)


def pack(model: nn.Module, average: dict[str, Tensor], optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """Everything that a run changes, as one flat dictionary of tensors."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.items()}
    for player, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer/{player}/{index}/{key}"] = torch.as_tensor(value)
    return tensors


def section(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under `prefix/`, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + "/")}


def unpack_optimizers(tensors: dict[str, Tensor], optimizers: Mapping[str, Optimizer]) -> None:
    """Gives each optimiser its moments back; one that had none yet starts with none."""
    for player, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in section(tensors, f"optimizer/{player}").items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
