"""The data's own units and the model's, and the way between them.

Data are stored as *codes*: integers for images (their levels) and tokens, numbers for points, series and fields, numbers and
category numbers (NaN where missing) for tables. A model works on x = `to_model(codes)`; a person gets and gives
*values*: `present(codes)` and `parse(values)`.

For densities, `log_det` is log |dx/dc| per datum in nats, so that log p(data) = log p_model(x) + log_det. For integer
codes that is the density of the dequantised code c + u, u ~ U[-1/2, 1/2), whose mean log is a lower bound on the
log-probability of the integer (Theis et al. 2016); `to_model(codes, rng)` adds that u.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.data.base_units import Units, numbers, refuse_infinite
from pushforward.data.spec import DataSpec, Vocabulary
from pushforward.data.table_units import TableUnits, code_dtype
from pushforward.errors import UserError
from pushforward.randomness import Rng


def units(spec: DataSpec) -> Units:
    """The units of a data spec."""
    kinds = {"image": ImageUnits, "tokens": TokenUnits, "field": FieldUnits}
    return kinds.get(spec.kind, TableUnits)(spec)


class ImageUnits(Units):
    """Levels 0 .. L-1 to [-1, 1]: x = 2 c / (L - 1) - 1, so a level is 2 / (L - 1) wide."""

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        self.levels = spec.levels or 256
        self.width = 2.0 / (self.levels - 1)
        self.log_det = spec.dimensions * math.log(self.width)

    def to_model(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        x = codes.to(torch.float32)
        if rng is not None:
            x = x + (rng.rand_like(x) - 0.5)
        return x * self.width - 1.0

    @property
    def discrete(self) -> bool:
        return True

    def to_codes(self, x: Tensor) -> Tensor:
        codes = ((x.float() + 1.0) / self.width).round().clamp(0, self.levels - 1)
        return codes.to(torch.uint8 if self.levels <= 256 else torch.int32)

    def parse(self, values: Any) -> Tensor:
        codes = numbers(values)
        shape = tuple(self.spec.shape)
        channels, height, width = shape
        given = tuple(codes.shape)
        if given in (shape, (height, width, channels)) or (channels == 1 and given == (height, width)):
            codes = codes[None]
        given = tuple(codes.shape[1:])
        if given != shape and given == (height, width, channels):
            codes = codes.permute(0, 3, 1, 2)
        elif given != shape and channels == 1 and given == (height, width):
            codes = codes[:, None]
        elif given != shape:
            raise UserError(
                f"images of shape {given} were given, this model knows (channels, height, width) = {shape}; resize them or "
                "convert their colour mode first."
            )
        refuse_infinite(codes)
        top = self.levels - 1
        low, high = float(codes.min()), float(codes.max())
        if codes.is_floating_point() and not torch.equal(codes, codes.round()):
            how = f"x * {top}" if low >= 0 and high <= 1 else f"(x + 1) / 2 * {top}" if low >= -1 and high <= 1 else "x"
            raise UserError(
                f"fractions from {low:.4g} to {high:.4g} were given as images; this model knows integer levels 0 to {top}: "
                f"give ({how}).round()."
            )
        if low < 0 or high > top:
            raise UserError(
                f"levels from {low:g} to {high:g} were given; this model's images have integer levels 0 to {top}: rescale them."
            )
        return codes.to(torch.uint8 if self.levels <= 256 else torch.int32)


class FieldUnits(Units):
    """Numbers (C, H, W) or (C, L), standardised by channel; those far from 0 in float64, as columns of tables are."""

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        self.dtype, places = code_dtype(spec.columns), (len(spec.columns), *(1,) * (len(spec.shape) - 1))
        self.mean = torch.tensor([column.mean for column in spec.columns], dtype=self.dtype).reshape(places)
        self.scale = torch.tensor([column.scale for column in spec.columns], dtype=self.dtype).reshape(places)
        self.log_det = -spec.dimensions / spec.shape[0] * sum(math.log(column.scale) for column in spec.columns)

    def to_model(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        self.mean, self.scale = self.mean.to(codes.device), self.scale.to(codes.device)
        return ((codes.to(self.dtype) - self.mean) / self.scale).float()

    def to_codes(self, x: Tensor) -> Tensor:
        self.mean, self.scale = self.mean.to(x.device), self.scale.to(x.device)
        return x.to(self.dtype) * self.scale + self.mean

    def parse(self, values: Any) -> Tensor:
        codes = numbers(values).to(self.dtype)
        codes = codes[None] if codes.dim() == len(self.spec.shape) else codes
        if tuple(codes.shape[1:]) != tuple(self.spec.shape):
            raise UserError(
                f"fields of shape {tuple(codes.shape[1:])} were given, this model knows (channels, ...) = {self.spec.shape}."
            )
        refuse_infinite(codes)
        return codes


class TokenUnits(Units):
    """Token ids are the model's units already; a person sees strings, or ids where they stand for nothing else: (B, L), or
    (B, H, W) where they came as grids."""

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        self.grid = spec.vocabulary.grid if spec.vocabulary else ()
        self.written = spec.vocabulary is not None and spec.vocabulary.kind != "codes"

    def to_model(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        return codes.long()

    def to_codes(self, x: Tensor) -> Tensor:
        return x.long()

    def present(self, codes: Tensor) -> Any:
        if self.spec.vocabulary is not None and self.written:
            return [decode_text(self.spec.vocabulary, row.tolist()) for row in codes]
        whole = self.grid and codes.shape[1] == math.prod(self.grid)
        return codes.reshape(len(codes), *self.grid) if whole else codes

    def parse(self, values: Any) -> Tensor:
        if isinstance(values, np.ndarray) and values.dtype.kind in "UO":
            values = values.tolist()
        if isinstance(values, str):
            values = [values]
        if isinstance(values, (list, tuple)) and values and isinstance(values[0], str):
            return self._texts(values)
        ids = numbers(values)
        if self.grid and tuple(ids.shape[-2:]) == self.grid:
            ids = ids.flatten(-2)
        ids = ids[None] if ids.dim() == 1 else ids
        if ids.dim() != 2:
            shapes = f"(n, {', '.join(map(str, self.grid))})" if self.grid else "(n, length)"
            raise UserError(f"token ids of shape {tuple(ids.shape)} were given; {shapes} was expected.")
        refuse_infinite(ids)
        size = self.spec.vocabulary.size if self.spec.vocabulary else None
        known = f"integers 0 to {size - 1}" if size else "integers from 0 on"
        wrong = (ids != ids.round()) | (ids < 0)
        wrong = wrong if size is None else wrong | (ids >= size)
        if wrong.any():
            raise UserError(f"{ids[wrong][0].item():g} was given as a token; this model's tokens are {known}.")
        return ids.long()

    def _texts(self, values: Sequence[Any]) -> Tensor:
        if self.spec.vocabulary is None or not self.written:
            raise UserError("texts were given, but this model knows token ids only: give an array of integers.")
        odd = [text for text in values if not isinstance(text, str)]
        if odd:
            raise UserError(f"{odd[0]!r} was given among texts; give texts only, or token ids only.")
        rows = [encode_text(self.spec.vocabulary, text) for text in values]
        if len({len(row) for row in rows}) > 1:
            raise UserError("texts of different lengths were given together; give texts of one length, or one at a time.")
        return torch.tensor(rows, dtype=torch.long)


def encode_text(vocabulary: Vocabulary, text: str) -> list[int]:
    """Text to token ids. An unknown character is an error that names it."""
    if vocabulary.kind == "codes":
        raise UserError(f"the text {text[:40]!r} was given, but these data are codes, integers 0 to {vocabulary.size - 1}.")
    if vocabulary.kind == "characters":
        table = {token: i for i, token in enumerate(vocabulary.tokens)}
        unknown = sorted(set(text) - table.keys())
        if unknown:
            raise UserError(
                f"the character {unknown[0]!r} is not among the {vocabulary.size} that the model was trained on; remove it."
            )
        return [table[character] for character in text]
    return _tokenizer(vocabulary.tokenizer).encode(text).ids


def decode_text(vocabulary: Vocabulary, ids: list[int]) -> str:
    """Token ids to text (codes to their numbers)."""
    if vocabulary.kind == "codes":
        return " ".join(map(str, ids))
    if vocabulary.kind == "characters":
        return "".join(vocabulary.tokens[i] for i in ids)
    return _tokenizer(vocabulary.tokenizer).decode(ids)


@functools.lru_cache(maxsize=8)
def _tokenizer(json: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json)
