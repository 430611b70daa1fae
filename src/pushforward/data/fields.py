"""Arrays that are no pictures: fields (numbers without levels, such as an autoencoder's codes), points, and token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pushforward.data import assembly
from pushforward.data.batches import ArraySplit, Data
from pushforward.data.options import Options
from pushforward.data.spec import Column, DataSpec, Vocabulary
from pushforward.errors import UserError

LARGEST_VOCABULARY = 2**20


def looks_like_a_field(array: np.ndarray) -> bool:
    """Whether an array (N, C, H, W) of fractions can be no images: too many channels, or values outside of [-1, 1] that are
    not those of 8 bits either.

    >>> looks_like_a_field(np.linspace(-4, 4, 72).reshape(2, 4, 3, 3)), looks_like_a_field(np.full((2, 3, 4, 4), 0.5))
    (True, False)
    """
    if array.ndim != 4 or array.dtype.kind != "f" or not array.size:
        return False
    if not {array.shape[1], array.shape[3]} & {1, 2, 3, 4}:
        return True
    low, high = float(array.min()), float(array.max())
    eight_bits = low >= 0 and 16 < high <= 255
    return (low < -1 or high > 1) and not eight_bits and not np.array_equal(array, np.rint(array))


def field_spec(train: np.ndarray, name: str, notes: list[str], **more: Any) -> DataSpec:
    """The spec of fields (N, C, H, W) or (N, C, L): mean and scale of each channel over all data and places."""
    columns = []
    for channel in range(train.shape[1]):
        values = train[:, channel].reshape(-1)
        columns.append(assembly.column_of_numbers(f"channel {channel}", values, values[:1], notes))
    return DataSpec("field", tuple(train.shape[1:]), columns=tuple(columns), name=name, **more)


def point_spec(train: np.ndarray, name: str, notes: list[str], everything: np.ndarray | None = None, **more: Any) -> DataSpec:
    """The spec of points (N, D); what is whole in `everything` is taken as integers where that is an array of them."""
    everything = train if everything is None else everything
    whole = everything.dtype.kind in "iub"
    columns: tuple[Column, ...] = tuple(
        assembly.column_of_numbers(f"x{j}", train[:, j], everything[:, j].astype(np.float64), notes, whole)
        for j in range(everything.shape[1])
    )
    return DataSpec("point", (len(columns),), columns=columns, name=name, **more)


def token_spec(arrays: dict[str, np.ndarray], name: str, notes: list[str], size: int | None = None, **more: Any) -> DataSpec:
    """The spec of integers (N, L), or of grids of them (N, H, W): `size` different ones, by default up to the highest."""
    low = min(int(array.min()) for array in arrays.values() if array.size)
    high = max(int(array.max()) for array in arrays.values() if array.size)
    if low < 0 or high >= (size or LARGEST_VOCABULARY):
        raise UserError(f"tokens from {low} to {high} were given; integers 0 to {(size or LARGEST_VOCABULARY) - 1} are known.")
    shape = next(iter(arrays.values())).shape[1:]
    vocabulary = Vocabulary("codes", size or high + 1, grid=tuple(shape) if len(shape) == 2 else ())
    if size is None:
        notes.append(f"the tokens are taken as {high + 1} different ones, 0 to {high}.")
    return DataSpec("tokens", (int(np.prod(shape)),), vocabulary=vocabulary, name=name, **more)


def token_codes(array: np.ndarray, size: int) -> torch.Tensor:
    """Tokens (N, L) in the smallest type that holds them, grids read row by row."""
    kind = np.uint8 if size <= 2**8 else np.int16 if size <= 2**15 else np.int32
    return torch.from_numpy(np.ascontiguousarray(array.reshape(len(array), -1)).astype(kind))


def load_long_sequence(array: np.ndarray, options: Options, name: str, notes: list[str]) -> Data:
    """`Data` from one long sequence of token ids (N,): every window of `options.context` of them."""
    spec = token_spec({"train": array[None]}, name, notes)
    length = options.context or assembly.CONTEXT
    ids = torch.from_numpy(array.astype(np.int32))[: options.limit]
    splits = assembly.windows(ids, length, options, notes, "tokens")
    return assembly.assemble(DataSpec("tokens", (length,), vocabulary=spec.vocabulary, name=name), splits, notes)


def check_tokens(array: np.ndarray, what: str) -> None:
    """Token ids are whole numbers, one a place."""
    if array.dtype.kind not in "iub" or array.ndim not in (1, 2, 3):
        raise UserError(
            f"{what} of {array.dtype} and shape {array.shape} was given with kind='tokens'; integers (N, length), grids "
            "(N, height, width) or one long sequence (N,) were expected."
        )


def field_splits(data: dict[str, np.ndarray], what: str, notes: list[str], asked: bool) -> dict[str, Any]:
    """Splits of fields from arrays (N, C, H, W) or (N, C, L)."""
    shape = data["train"].shape
    if len(shape) not in (3, 4):
        raise UserError(
            f"{what} has shape {shape}; fields are (N, channels, height, width) or (N, channels, length): reshape it, or read "
            "it with kind='point'."
        )
    if not asked:
        notes.append(
            f"fractions of shape {shape[1:]} are taken as a field of {shape[1]} channels (channels first; kind=... to choose)."
        )
    return {part: ArraySplit(torch.from_numpy(assembly.exact(array))) for part, array in data.items()}
