"""The codes of a trained model as data: what the second stage of a two-stage model learns.

A codec (an autoencoder, a flow, anything that `Encodes`) maps x to z; any model of the library learns p(z) from these data,
and decoding its samples gives samples of x. Codes are standardised as any data are, by the statistics of the training split:
the measured shift and scale of latent diffusion (Rombach et al. 2022, arXiv:2112.10752) are in their spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.data import conditions, fields
from pushforward.data.batches import ArraySplit, Data, Split
from pushforward.data.spec import Condition, DataSpec, Vocabulary
from pushforward.errors import UserError
from pushforward.models.contract import Encodes, device_of
from pushforward.progress import along
from pushforward.training.records import CODES
from pushforward.training.runs import Run

MEMORY = 2 * 2**30  # bytes of codes held in memory; of larger sets they are computed as they are asked for
MEASURED = 2**15  # data whose codes are measured where not all are in memory


@dataclass
class EncodedSplit:
    """A split whose data are encoded when they are fetched."""

    run: Run
    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        codes, condition = self.split.fetch(indices)
        z = _encoded(self.run, codes, condition)
        return z if z.is_floating_point() else z.flatten(1), condition  # a model of tokens reads a grid row by row


def codes_of(run: Run, data: Data | None = None) -> Data:
    """The codes z = encode(x) of all splits as new `Data`, with the conditions that the data have.

    Codes (B, C, H, W) and (B, C, L) are fields, vectors (B, D) points, integers (B, L) and (B, H, W) tokens of kind "codes".
    They are a function of the run's weights alone. `run.decode` takes what a model of them samples.

    Args:
        run: of a model that encodes.
        data: other data of the same kind and shape; None: those that the run was trained on.

    Raises UserError for a model that does not encode, for data that it does not know or that are gone, and for codes that are
    not finite.
    """
    if not isinstance(run.model, Encodes):
        raise UserError(f"'{run.record['model']['name']}' cannot encode; `pushforward models` lists who can.")
    data = run.load_data() if data is None else data
    if (data.spec.kind, tuple(data.spec.shape)) != (run.spec.kind, tuple(run.spec.shape)):
        raise UserError(
            f"the run knows {run.spec.kind} of shape {tuple(run.spec.shape)}, these data are {data.spec.kind} of shape "
            f"{tuple(data.spec.shape)}."
        )
    notes: list[str] = []
    given = {part: getattr(data, part) for part in ("train", "validation", "test")}
    first = _encoded(run, *data.train.fetch(torch.arange(1)))
    total = sum(len(split) for split in given.values() if split is not None)
    fits = total * first[0].numel() * 4 <= MEMORY
    make = _in_memory if fits else EncodedSplit
    splits: dict[str, Any] = {part: make(run, split) if split else None for part, split in given.items()}
    if fits:
        train = splits["train"].codes
    else:
        notes.append("the codes are computed as they are needed, not held in memory.")
        at = torch.linspace(0, min(len(data.train), 2**31) - 1, min(len(data.train), MEASURED), dtype=torch.float64).long()
        train = _encoded(run, *data.train.fetch(at))
    if not bool(train.isfinite().all()):
        raise UserError(f"the codes of {run.directory} are not finite; was its training sound?")
    held = {part: split.codes for part, split in splits.items() if isinstance(split, ArraySplit)} or {"train": train}
    spec = _spec(f"{run.spec.name}-codes", held, notes, data.spec, getattr(run.model, "code_count", None))
    if fits and spec.vocabulary and spec.kind == "tokens":
        for part, codes in held.items():
            splits[part].codes = fields.token_codes(codes.numpy(), spec.vocabulary.size)
    source = {"source": f"{CODES}{run.directory.resolve()}"}
    return Data(spec, splits["train"], splits["validation"], splits["test"], source, notes)


def _spec(name: str, held: dict[str, Tensor], notes: list[str], of: DataSpec, size: int | None) -> DataSpec:
    """What these codes are. size: of integer codes, how many there can be; None: as many as are seen."""
    train = held["train"]
    condition: Condition | None = of.condition
    captions: Vocabulary | None = of.vocabulary if condition is not None and condition.kind == "text" else None
    if not train.is_floating_point():
        if train.dim() not in (2, 3):
            raise UserError(f"integer codes of shape {tuple(train.shape[1:])} were found; (L,) or (H, W) were expected.")
        if captions is not None:
            raise UserError("integer codes of data with captions cannot be learned yet; load the data with label='none'.")
        arrays = {part: codes.numpy() for part, codes in held.items()}
        return fields.token_spec(arrays, name, notes, size, condition=condition)
    if train.dim() == 2:
        return fields.point_spec(train.numpy(), name, notes, condition=condition, vocabulary=captions)
    if train.dim() not in (3, 4):
        raise UserError(f"codes of shape {tuple(train.shape[1:])} were found; (D,), (C, L) or (C, H, W) were expected.")
    return fields.field_spec(train.numpy(), name, notes, condition=condition, vocabulary=captions)


def _in_memory(run: Run, split: Split) -> ArraySplit:
    """All the codes of a split."""
    size, codes, kept = _batch(run), [], []
    for start in along(range(0, len(split), size), "encoding"):
        part, condition = split.fetch(torch.arange(start, min(start + size, len(split))))
        codes.append(_encoded(run, part, condition))
        kept.append(condition)
    together = None if kept[0] is None else torch.cat([condition for condition in kept if condition is not None])
    return ArraySplit(torch.cat(codes), together)


def _batch(run: Run) -> int:
    """Data encoded at a time."""
    return max(1, min(256, 2**22 // max(1, run.spec.dimensions)))


def _encoded(run: Run, codes: Tensor, condition: Tensor | None) -> Tensor:
    """z (B, ...) of data in their codes, on the CPU: float32 or integers."""
    device, parts, size = device_of(run.model), [], _batch(run)
    assert isinstance(run.model, Encodes)
    for start in range(0, len(codes), size):
        x = run.units.to_model(codes[start : start + size].to(device))
        asked = None
        if condition is not None:
            asked = conditions.to_model(run.spec.condition, condition[start : start + size].to(device))
        with torch.no_grad():  # here, as another thread may be reading
            z = run.model.encode(x, condition=asked).cpu()
        parts.append(z.float() if z.is_floating_point() else z)
    return torch.cat(parts)
