"""Runs that are taken up again: what they keep, what may change, and when there is nothing left to do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pushforward.data.batches import Data, take
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.training import checkpoints
from pushforward.training.log import read_history
from pushforward.training.records import plain_settings, read_record
from pushforward.training.settings import TrainingSettings, seconds


@dataclass
class Begun:
    """A run that is taken up again, as it was left."""

    directory: Path
    record: dict[str, Any]
    tensors: dict[str, Tensor]
    header: dict[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Begun:
        return cls(directory, read_record(directory), *checkpoints.read_tensors(directory / checkpoints.STATE))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of its history up to its checkpoint."""
        path = self.directory / "history.jsonl"
        return [row for row in read_history(path) if row["step"] <= self.header["step"]] if path.exists() else []

    def refuse_another(self, name: str, model: nn.Module, data: Data, settings: TrainingSettings) -> None:
        """What a run is cannot change in its middle."""
        rule = "a run keeps what it began with, so leave that as it was, or begin another run with another --out"
        record = self.record
        if name != record["model"]["name"]:
            raise UserError(f"{self.directory} is a run of '{record['model']['name']}', '{name}' was given; {rule}.")
        stored, given = record["model"]["settings"], plain_settings(getattr(model, "settings", {}))
        for key in stored.keys() & given.keys():
            if stored[key] != given[key]:
                raise UserError(f"{key} = {given[key]} was given, but the run in {self.directory} has {stored[key]}; {rule}.")
        seed = record["training"]["seed"]
        if settings.seed != seed:
            raise UserError(f"seed = {settings.seed} was given, but the run in {self.directory} has {seed}; {rule}.")
        spec, print_now = DataSpec.from_dict(record["data"]["spec"]), fingerprint(data)
        other = [f.name for f in fields(spec) if f.name != "name" and getattr(spec, f.name) != getattr(data.spec, f.name)]
        if other or record["data"].get("fingerprint", print_now) != print_now:
            what = f"they differ in their {', '.join(other)}" if other else "their values are others"
            raise UserError(f"the data given are not those that the run in {self.directory} was trained on ({what}); {rule}.")

    def refuse_another_batch(self, size: int) -> None:
        before = self.header.get("global_batch")
        if before != size:
            raise UserError(
                f"the run in {self.directory} was trained with {before} data an update, now it would be {size}; resume with "
                f"the same --batch-size and number of processes."
            )

    def over(self, steps: int | None, settings: TrainingSettings) -> bool:
        """Whether it has ended and no more is asked for; fewer steps than it has made are refused."""
        status, step, before = self.record.get("result", {}).get("status"), self.header["step"], self.record["training"]
        ended = status in ("finished", "converged", "stopped early") and (self.directory / checkpoints.WEIGHTS).exists()
        enough = steps is not None and steps <= step
        if settings.budget is not None and self.header["elapsed"] >= seconds(settings.budget):
            enough = True
        if status == "stopped early" and (steps, settings.patience) == (before.get("steps"), before.get("patience")):
            enough = True
        if ended and (enough or status == "converged"):
            return True
        if steps is not None and steps < step:
            raise UserError(
                f"steps = {steps} was given, but the run in {self.directory} stands at step {step} already; give more steps, "
                f"or leave them away to go on as it was planned."
            )
        return False

    @property
    def longer(self) -> str:
        """What to ask for, to have it go on after its end."""
        early = self.record["result"]["status"] == "stopped early"
        return "a larger --patience (0 never stops)" if early else "more --steps or a longer --budget"

    def changes(self, settings: TrainingSettings) -> str:
        """What is asked for otherwise than before, in words."""
        before, now = self.record["training"], settings.to_dict()
        skip = {"out", "resume", "device", "batch_size", "precision", "epochs"}
        changed = [f"{k} = {v} (it was {before.get(k)})" for k, v in now.items() if k not in skip and v != before.get(k)]
        return f"going on from step {self.header['step']}" + (f" with {', '.join(changed)}" if changed else "")


def fingerprint(data: Data) -> str:
    """What tells these training data from others: a hash of how many they are and of 64 of them."""
    codes, condition = take(data.train, 64)
    digest = hashlib.sha256(str(len(data.train)).encode())
    for tensor in (codes, condition):
        if tensor is not None:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
