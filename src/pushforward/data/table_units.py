"""Columns of numbers and categories, as tables, points and series have them, in a model's units and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pushforward.data.base_units import Units, numbers, refuse_infinite
from pushforward.data.spec import Column, DataSpec
from pushforward.errors import UserError
from pushforward.randomness import Rng

if TYPE_CHECKING:
    import pandas as pd


def code_dtype(columns: Iterable[Column]) -> torch.dtype:
    """What rows of these columns are kept in: float32, or float64 where its 24 bits would not do.

    A mean of a thousand scales (times since 1970, say) leaves float32 fewer than 14 bits for what varies; integers are exact
    to 2^24, which 64 scales, for the sake of long tails, are to stay within.

    >>> code_dtype([Column("time", "number", mean=1.7e9, scale=1e3)]), code_dtype([Column("x", "number", mean=3.0)])
    (torch.float64, torch.float32)
    """

    def far(c: Column) -> bool:
        large = c.integer and abs(c.mean) + 64 * c.scale > 2**24
        return c.kind == "number" and (large or abs(c.mean) > 1000 * c.scale)

    return torch.float64 if any(map(far, columns)) else torch.float32


class TableUnits(Units):
    """Numbers standardised by column; categories as one-hot columns, with a column for 'missing' where there was any.

    A category's one-hot is dequantised like an image's level: y = onehot + u with u ~ U[-1/2, 1/2) per column. The boxes
    of different categories do not meet and argmax y gives the category back, so the density bounds its probability
    (the argument of Hoogeboom et al. 2021, "Argmax flows", with a uniform q).
    """

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        steps = spec.shape[0] if spec.kind == "series" else 1
        self.log_det = -steps * sum(math.log(column.scale) for column in spec.columns if column.kind == "number")
        # One row for each column of x: column of codes, mean, scale, scale of dequantisation noise, category or -1, is flag.
        rows: list[tuple[float, ...]] = []
        for j, column in enumerate(spec.columns):
            if column.kind == "number":
                rows.append((j, column.mean, column.scale, column.integer / column.scale, -1, 0))
                rows += [(j, 0.0, 1.0, 1.0, -1, 1)] * column.missing
            else:
                rows += [(j, 0.0, 1.0, 1.0, k, 0) for k in range(len(column.categories))]
        # Columns far from 0 are centred in float64: float32 would lose their digits before the mean is taken off.
        self.dtype = code_dtype(spec.columns)
        self.layout = torch.tensor(rows, dtype=self.dtype).reshape(-1, 6).T.contiguous().unbind(0)
        self.plain = all(c.kind == "number" and not c.missing and not c.integer for c in spec.columns)

    def to_model(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        source, mean, scale, noise_scale, category, flag = self._layout(codes.device)
        codes = codes.to(self.dtype)
        if self.plain:
            return ((codes - mean) / scale).float()
        codes = codes[..., source.long()]
        absent = torch.isnan(codes)
        noise = torch.zeros_like(codes) if rng is None else rng.rand_like(codes) - 0.5
        x = (codes - mean) / scale + noise * noise_scale
        x = torch.where(absent, noise, x)  # a number that is not there: anywhere in the middle
        x = torch.where(flag > 0, absent.to(self.dtype) - 0.5 + noise, x)
        return torch.where(category >= 0, (codes == category) + noise, x).float()

    def _layout(self, device: torch.device) -> tuple[Tensor, ...]:
        if self.layout[0].device != device:
            self.layout = tuple(row.to(device) for row in self.layout)
        return self.layout

    def log_dets(self, codes: Tensor) -> float | Tensor:
        """A number that is missing has no scale: its box is of the model's units."""
        if not any(column.missing for column in self.spec.columns):
            return self.log_det
        scales = [math.log(column.scale) if column.kind == "number" else 0.0 for column in self.spec.columns]
        present = (~torch.isnan(codes)).to(torch.float32)
        return -(present * torch.tensor(scales, device=codes.device)).flatten(1).sum(1)

    @property
    def discrete(self) -> bool:
        return any(column.integer or column.missing or column.kind == "category" for column in self.spec.columns)

    def to_codes(self, x: Tensor) -> Tensor:
        x, out, at = x.to(self.dtype), [], 0
        if self.plain:
            _, mean, scale, *_ = self._layout(x.device)
            return x * scale + mean
        for column in self.spec.columns:
            if column.kind == "number":
                code = x[..., at] * column.scale + column.mean
                if column.integer:
                    code = code.round()
                at += 1
                if column.missing:
                    code = torch.where(x[..., at] > 0, torch.nan, code)
                    at += 1
            else:
                code = x[..., at : at + len(column.categories)].argmax(-1).to(self.dtype)
                at += len(column.categories)
            out.append(code)
        return torch.stack(out, -1)

    def present(self, codes: Tensor) -> Any:
        return as_table(self.spec.columns, codes.double()) if self.spec.kind == "table" else codes

    def parse(self, values: Any) -> Tensor:
        framed = hasattr(values, "columns") and self.spec.columns
        codes = self._framed(values) if framed else numbers(values).to(self.dtype)
        shape = (*self.spec.shape[:-1], len(self.spec.columns))
        if codes.dim() == len(shape):
            codes = codes[None] if self.spec.kind == "series" or not framed else codes
        if codes.dim() == 1:
            codes = codes[None]
        if tuple(codes.shape[1:]) != shape:
            names = ", ".join(column.name for column in self.spec.columns[:8])
            raise UserError(
                f"data of shape {tuple(codes.shape[1:])} were given, this model knows {shape}: the columns {names}"
                f"{', ...' if len(self.spec.columns) > 8 else ''}."
            )
        for j, column in enumerate(self.spec.columns):
            _check_column(column, codes[..., j])
        return codes

    def _framed(self, frame: Any) -> Tensor:
        """The columns of a DataFrame, by name, as codes (rows, columns)."""
        lacking = [column.name for column in self.spec.columns if column.name not in frame.columns]
        if lacking:
            raise UserError(f"the table lacks the column(s) {', '.join(lacking)} that the model was trained on.")
        if not len(frame):
            raise UserError("a table without rows was given; give at least one.")
        parts = []
        for column in self.spec.columns:
            cells = frame[column.name].astype(object).where(frame[column.name].notna(), None).tolist()
            if column.kind == "category":
                known = {name: i for i, name in enumerate(column.categories)}
                strings = [_category(cell, known) for cell in cells]
                unknown = sorted({s for s in strings if s not in known})
                if unknown:
                    raise UserError(
                        f"column '{column.name}' holds {unknown[0]!r}, which was not in the training data; "
                        f"known: {', '.join(column.categories[:8])}."
                    )
                parts.append(torch.tensor([known[s] for s in strings], dtype=self.dtype))
            else:
                cells = [math.nan if cell is None or str(cell).strip() in ("", "?") else cell for cell in cells]
                try:
                    parts.append(torch.from_numpy(np.asarray(cells, dtype=np.float64)).to(self.dtype))
                except (TypeError, ValueError) as error:
                    raise UserError(f"column '{column.name}' should hold numbers: {error}.") from None
        return torch.stack(parts, -1)


def as_table(columns: Iterable[Column], codes: Tensor) -> pd.DataFrame:
    """Rows of codes (n, columns) as a table: names of categories, and whole numbers as such, with gaps (Int64) or without."""
    import pandas as pd

    frame: dict[str, Any] = {}
    for j, column in enumerate(columns):
        values = codes[:, j].cpu().numpy()
        if column.kind == "category":
            names = [None if name == "(missing)" else name for name in column.categories]
            frame[column.name] = np.asarray(names, dtype=object)[values.astype(int)]
        elif column.integer and column.missing:
            frame[column.name] = pd.array(values.astype(np.float64), dtype="Int64")
        elif column.integer:
            frame[column.name] = values.astype(np.int64)
        else:
            frame[column.name] = values
    return pd.DataFrame(frame)


def _check_column(column: Column, values: Tensor) -> None:
    """The codes of one column are what it can hold, or a sentence."""
    refuse_infinite(values, missing_may_be=True)
    present = values[~values.isnan()]
    if len(present) < values.numel() and (column.kind == "category" or not column.missing):
        raise UserError(
            f"column '{column.name}' has {values.numel() - len(present)} missing value(s) (NaN), but had none in the training "
            "data; fill them or leave these rows out."
        )
    whole = column.integer or column.kind == "category"
    if whole and not torch.equal(present, present.round()):
        fraction = float(present[present != present.round()][0])
        raise UserError(
            f"column '{column.name}' holds {fraction:g}, but only "
            f"{'whole numbers' if column.integer else 'numbers of categories'} in the training data; round it."
        )
    if column.kind == "category" and not bool(((present >= 0) & (present < len(column.categories))).all()):
        wrong = float(present[(present < 0) | (present >= len(column.categories))][0])
        raise UserError(
            f"column '{column.name}' holds category {wrong:g}; its categories are 0 to {len(column.categories) - 1} "
            f"({', '.join(column.categories[:8])}): a DataFrame may give them by name."
        )


def _category(cell: Any, known: dict[str, int]) -> str:
    """The name of a category as the model knows it: nothing is "(missing)", and 3 may have become 3.0 on its way here."""
    name = "(missing)" if cell is None else str(cell)
    if name in known:
        return name
    if name.strip() in ("", "?"):
        return "(missing)"
    return name.removesuffix(".0") if name.removesuffix(".0") in known else name
