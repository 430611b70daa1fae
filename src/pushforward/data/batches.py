"""Splits, and the order in which a run sees them: a function of (seed, step), so that nothing has to be remembered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pushforward.data import conditions
from pushforward.data.spec import DataSpec
from pushforward.data.units import Units, units
from pushforward.errors import UserError
from pushforward.randomness import Rng, SampleRng, UpdateRng, mix


@dataclass
class Batch:
    """Data as a model sees them: x (B, *spec.shape), condition (B,) classes or (B, A) attributes or None, index (B,) in the
    training split (None for other data). step and progress: where the run is, in steps and from 0 to 1."""

    x: Tensor
    condition: Tensor | None = None
    index: Tensor | None = None
    step: int = 0
    progress: float = 1.0

    def __len__(self) -> int:
        return len(self.x)

    def split(self, parts: int) -> list[Batch]:
        """Cut into `parts` micro-batches (gradient accumulation)."""
        if parts == 1:
            return [self]
        chunks = self.x.chunk(parts)  # perhaps fewer than asked for
        conditions = [None] * len(chunks) if self.condition is None else self.condition.chunk(parts)
        indices = [None] * len(chunks) if self.index is None else self.index.chunk(parts)
        return [Batch(*part, self.step, self.progress) for part in zip(chunks, conditions, indices, strict=True)]


@runtime_checkable
class Split(Protocol):
    """Part of a data set: a length and `fetch`, a pure function of indices."""

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """indices (B,) -> codes (B, ...) and conditions (B, ...) or None."""
        ...


@dataclass
class ArraySplit:
    """Codes and conditions held in memory (images as uint8)."""

    codes: Tensor
    condition: Tensor | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        indices = indices.to(self.codes.device)
        return self.codes.index_select(0, indices), None if self.condition is None else self.condition.index_select(0, indices)

    def to(self, device: torch.device) -> ArraySplit:
        return ArraySplit(self.codes.to(device), None if self.condition is None else self.condition.to(device))


@dataclass
class WindowSplit:
    """Every window of `length` consecutive tokens of one long text (tokens (N,)), or of rows of one long series (N, D)."""

    tokens: Tensor
    length: int

    def __len__(self) -> int:
        return len(self.tokens) - self.length + 1

    def fetch(self, indices: Tensor) -> tuple[Tensor, None]:
        at = indices.to(self.tokens.device)[:, None] + torch.arange(self.length, device=self.tokens.device)
        return self.tokens[at], None


@dataclass
class Data:
    """What `load_data` returns: a spec, up to three splits, and where they came from.

    `source` holds the arguments that load the same data again. `log_density`, where the density is known (the 2-D
    toys), maps codes (B, D) to exact nats (B,). `notes` are sentences about what was skipped or inferred.
    """

    spec: DataSpec
    train: Split
    validation: Split | None = None
    test: Split | None = None
    source: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    log_density: Any = None

    def __post_init__(self) -> None:
        known = self.spec.condition
        if known is not None and not known.shape and not conditions.can_be_drawn(known) and len(self.train):
            first = self.train.fetch(torch.zeros(1, dtype=torch.long))[1]
            if first is not None:
                self.spec = dataclasses.replace(self.spec, condition=conditions.completed(known, first))

    @property
    def units(self) -> Units:
        return units(self.spec)

    @property
    def held_out(self) -> Split | None:
        """The split to measure on: test where there is one, else validation."""
        return self.test if self.test is not None and len(self.test) else self.validation

    def replace(self, **changes: Any) -> Data:
        return dataclasses.replace(self, **changes)


STREAM = 2**62  # the length of a split that never ends


class Batches:
    """The batches of a run. `at(step)` is a pure function: data are shuffled anew each epoch, epochs follow on without a
    gap, and process `rank` of `world` takes its own rows of the global batch."""

    def __init__(
        self,
        split: Split,
        spec: DataSpec,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        dequantise: bool = False,
    ):
        if len(split) == 0:
            raise UserError("the training split is empty; give more data or smaller validation and test fractions.")
        self.device = torch.device(device)
        # Data that fit stay on the device, in their own small type.
        if isinstance(split, ArraySplit) and self.device.type == "cuda" and split.codes.nbytes < 4 * 2**30:
            split = split.to(self.device)
        self.split, self.spec, self.units, self.batch_size = split, spec, units(spec), batch_size
        self.seed, self.rank, self.world, self.dequantise = seed, rank, world, dequantise
        self._order: tuple[int, Tensor] | None = None
        in_memory = isinstance(split, (ArraySplit, WindowSplit)) or len(split) >= STREAM
        self._reader = None if in_memory else ThreadPoolExecutor(max_workers=1)
        self._ahead: tuple[int, Future] | None = None

    @property
    def global_size(self) -> int:
        return self.batch_size * self.world

    def _permutation(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, 0xDA7A, epoch))
            self._order = (epoch, torch.randperm(len(self.split), generator=generator))
        return self._order[1]

    def indices(self, step: int) -> Tensor:
        """The data of update `step` on this process."""
        start = step * self.global_size + self.rank * self.batch_size
        if len(self.split) >= STREAM:
            return torch.arange(start, start + self.batch_size)
        epoch, offset = divmod(start, len(self.split))
        if offset + self.batch_size <= len(self.split):
            return self._permutation(epoch)[offset : offset + self.batch_size]
        parts, need = [], self.batch_size
        while need:
            epoch, offset = divmod(start, len(self.split))
            taken = self._permutation(epoch)[offset : offset + need]
            parts.append(taken)
            start, need = start + len(taken), need - len(taken)
        return torch.cat(parts)

    def _read(self, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        index = self.indices(step)
        return (index, *self.split.fetch(index))

    def at(self, step: int) -> Batch:
        """The batch of update `step`, in the model's units, on the device."""
        if self._reader is None:
            index, codes, condition = self._read(step)
        else:  # read the next one while this one trains
            ahead, self._ahead = self._ahead, None
            index, codes, condition = ahead[1].result() if ahead and ahead[0] == step else self._read(step)
            self._ahead = (step + 1, self._reader.submit(self._read, step + 1))
        rng = self._dequantiser(mix(self.seed, 0xDE, step)) if self.dequantise else None
        return self._batch(index, codes, condition, rng)

    @property
    def whole(self) -> int:
        """The data of a pass: all of them, or the first 100,000 of those without an end."""
        return len(self.split) if len(self.split) < STREAM else 100_000

    def passes(self, chunk: int = 8192) -> Iterator[Batch]:
        """The whole split once, in chunks: what closed-form and EM players learn from. Each chunk holds every so many-th datum,
        so that the first one is like all of them, however they are sorted.

        Dequantisation noise is the same in every pass, so that EM sees one fixed data set; every process sees it all, and
        so all of them arrive at the same model.
        """
        chunks = -(-self.whole // chunk)
        for number in range(chunks):
            index = torch.arange(number, self.whole, chunks)
            rng = None
            if self.dequantise:
                generator = torch.Generator(self.device).manual_seed(mix(self.seed, 0xDE0, number))
                rng = UpdateRng(generator)
            yield self._batch(index, *self.split.fetch(index), rng)

    def _dequantiser(self, seed: int) -> Rng:
        return UpdateRng(torch.Generator(self.device).manual_seed(seed), self.rank, self.world)

    def _batch(self, index: Tensor, codes: Tensor, condition: Tensor | None, rng: Rng | None) -> Batch:
        codes = codes.to(self.device, non_blocking=True)
        if condition is not None:
            condition = conditions.to_model(self.spec.condition, condition.to(self.device, non_blocking=True))
        return Batch(self.units.to_model(codes, rng), condition, index)


def take(split: Split, n: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """`n` different data of a split as codes and conditions, chosen by `seed` (all of them where n is None)."""
    size = len(split)
    if size >= STREAM:
        return split.fetch(torch.arange(n or 10_000) + mix(seed) % 2**40)
    if n is None or n >= size:
        return split.fetch(torch.arange(size))
    if size > 10_000_000:
        return split.fetch(SampleRng(seed).randint(size, n))
    return split.fetch(torch.randperm(size, generator=torch.Generator().manual_seed(mix(seed, 0x7A4E)))[:n])


def take_conditions(data: Data, n: int, seed: int = 0) -> Tensor | None:
    """Conditions (codes) of n held-out data, again from the first where there are fewer; None where data have none."""
    found = take(data.held_out or data.train, n, seed)[1]
    return None if found is None else found[torch.arange(n) % len(found)]
