"""The data's own units and the model's, and the way between them.

Data are stored as *codes*: integers for images (their levels) and tokens, numbers for points and series, numbers and
category numbers (NaN where missing) for tables. A model works on x = `to_model(codes)`; a person gets and gives
*values*: `present(codes)` and `parse(values)`.

For densities, `log_det` is log |dx/dc| per datum in nats, so that log p(data) = log p_model(x) + log_det. For integer
codes that is the density of the dequantised code c + u, u ~ U[-1/2, 1/2), whose mean log is a lower bound on the
log-probability of the integer (Theis et al. 2016); `to_model(codes, rng)` adds that u.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.data.spec import DataSpec, Vocabulary
from pushforward.errors import UserError
from pushforward.randomness import Rng


def units(spec: DataSpec) -> Units:
    """The units of a data spec."""
    return {"image": ImageUnits, "tokens": TokenUnits, "series": TableUnits, "point": TableUnits, "table": TableUnits}[
        spec.kind
    ](spec)


class Units:
    """Between codes, the model's x and a person's values. Stateless: everything is in the spec."""

    log_det: float = 0.0

    def __init__(self, spec: DataSpec):
        self.spec = spec

    def to_model(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        """codes (B, ...) -> x (B, *spec.shape); with an `rng`, integer codes are dequantised."""
        raise NotImplementedError

    def to_codes(self, x: Tensor) -> Tensor:
        """x (B, *spec.shape) -> codes, rounded and clipped to what the data can be."""
        raise NotImplementedError

    def log_dets(self, codes: Tensor) -> float | Tensor:
        """log |dx/dc| of each of these codes (B,), where it is not the same for all."""
        return self.log_det

    @property
    def discrete(self) -> bool:
        """Whether data of this kind need dequantisation noise to have a density: levels, integers, categories, gaps."""
        return False

    def present(self, codes: Tensor) -> Any:
        """codes -> what a person gets: uint8 or uint16 images (B, C, H, W), a DataFrame, an array, strings."""
        return codes

    def parse(self, values: Any) -> Tensor:
        """The inverse of `present`: what a person gives -> codes."""
        return torch.as_tensor(np.asarray(values) if not isinstance(values, Tensor) else values)


class ImageUnits(Units):
    """Levels 0 .. L-1 to [-1, 1]: x = 2 c / (L - 1) - 1, so a level is 2 / (L - 1) wide."""

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        self.width = 2.0 / ((spec.levels or 256) - 1)
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
        levels = self.spec.levels or 256
        codes = ((x.float() + 1.0) / self.width).round().clamp(0, levels - 1)
        return codes.to(torch.uint8 if levels <= 256 else torch.int32)

    def parse(self, values: Any) -> Tensor:
        codes = super().parse(values)
        if codes.dim() == len(self.spec.shape):
            codes = codes[None]
        if tuple(codes.shape[1:]) != tuple(self.spec.shape):
            channels, height, width = self.spec.shape
            if tuple(codes.shape[1:]) == (height, width, channels):
                codes = codes.permute(0, 3, 1, 2)
            elif channels == 1 and tuple(codes.shape[1:]) == (height, width):
                codes = codes[:, None]
            else:
                raise UserError(
                    f"images of shape {tuple(codes.shape[1:])} were given, this model knows (channels, height, width) = "
                    f"{tuple(self.spec.shape)}; resize them or convert their colour mode first."
                )
        if codes.is_floating_point() and not torch.equal(codes, codes.round()):
            raise UserError("images are given in their own integer levels (0 to 255 for 8 bits), not as fractions.")
        return codes


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
        self.layout = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6).T.contiguous().unbind(0)
        self.plain = all(c.kind == "number" and not c.missing and not c.integer for c in spec.columns)

    def to_model(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        source, mean, scale, noise_scale, category, flag = self._layout(codes.device)
        codes = codes.to(torch.float32)
        if self.plain:
            return (codes - mean) / scale
        codes = codes[..., source.long()]
        absent = torch.isnan(codes)
        noise = torch.zeros_like(codes) if rng is None else rng.rand_like(codes) - 0.5
        x = (codes - mean) / scale + noise * noise_scale
        x = torch.where(absent, noise, x)  # a number that is not there: anywhere in the middle
        x = torch.where(flag > 0, absent.float() - 0.5 + noise, x)
        return torch.where(category >= 0, (codes == category).float() + noise, x)

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
        x, out, at = x.float(), [], 0
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
                code = x[..., at : at + len(column.categories)].argmax(-1).float()
                at += len(column.categories)
            out.append(code)
        return torch.stack(out, -1)

    def present(self, codes: Tensor) -> Any:
        if self.spec.kind != "table":
            return codes
        import pandas as pd

        frame = {}
        for j, column in enumerate(self.spec.columns):
            values = codes[:, j].cpu().numpy()
            if column.kind == "category":
                names = [None if name == "(missing)" else name for name in column.categories]
                frame[column.name] = np.asarray(names, dtype=object)[values.astype(int)]
            elif column.integer and not column.missing:
                frame[column.name] = values.astype(np.int64)
            else:
                frame[column.name] = values.astype(np.float64)
        return pd.DataFrame(frame)

    def parse(self, values: Any) -> Tensor:
        if hasattr(values, "columns") and self.spec.columns:
            missing = [column.name for column in self.spec.columns if column.name not in values.columns]
            if missing:
                raise UserError(f"the table lacks the column(s) {', '.join(missing)} that the model was trained on.")
            parts = []
            for column in self.spec.columns:
                cells = values[column.name].astype(object).where(values[column.name].notna(), None).tolist()
                if column.kind == "category":
                    known = {name: i for i, name in enumerate(column.categories)}
                    strings = [_category(cell, known) for cell in cells]
                    unknown = sorted({s for s in strings if s not in known})
                    if unknown:
                        raise UserError(
                            f"column '{column.name}' holds {unknown[0]!r}, which was not in the training data; "
                            f"known: {', '.join(column.categories[:8])}."
                        )
                    parts.append(torch.tensor([known[s] for s in strings], dtype=torch.float32))
                else:
                    numbers = [math.nan if cell is None or str(cell).strip() in ("", "?") else cell for cell in cells]
                    try:
                        parts.append(torch.from_numpy(np.asarray(numbers, dtype=np.float32)))
                    except (TypeError, ValueError) as error:
                        raise UserError(f"column '{column.name}' should hold numbers: {error}.") from None
            return torch.stack(parts, -1)
        codes = super().parse(values).float()
        shape = (len(self.spec.columns),) if self.spec.kind != "series" else self.spec.shape
        if codes.dim() == len(shape):
            codes = codes[None]
        if tuple(codes.shape[1:]) != tuple(shape):
            raise UserError(f"data of shape {tuple(codes.shape[1:])} were given, this model knows {tuple(shape)}.")
        return codes


def _category(cell: Any, known: dict[str, int]) -> str:
    """The name of a category as the model knows it: nothing is "(missing)", and 3 may have become 3.0 on its way here."""
    name = "(missing)" if cell is None else str(cell)
    if name in known:
        return name
    if name.strip() in ("", "?"):
        return "(missing)"
    return name.removesuffix(".0") if name.removesuffix(".0") in known else name


class TokenUnits(Units):
    """Token ids are the model's units already; a person sees strings (or ids where there is no vocabulary)."""

    def to_model(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        return codes.long()

    def to_codes(self, x: Tensor) -> Tensor:
        return x.long()

    def present(self, codes: Tensor) -> Any:
        if self.spec.vocabulary is None:
            return codes
        return [decode_text(self.spec.vocabulary, row.tolist()) for row in codes]

    def parse(self, values: Any) -> Tensor:
        if isinstance(values, str):
            values = [values]
        if isinstance(values, (list, tuple)) and values and isinstance(values[0], str):
            if self.spec.vocabulary is None:
                raise UserError("strings were given, but this model knows token ids only.")
            rows = [encode_text(self.spec.vocabulary, text) for text in values]
            if len({len(row) for row in rows}) > 1:
                raise UserError("texts of different lengths were given together; give texts of one length, or one at a time.")
            return torch.tensor(rows)
        return super().parse(values).long()


def encode_text(vocabulary: Vocabulary, text: str) -> list[int]:
    """Text to token ids. An unknown character is an error that names it."""
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
    """Token ids to text."""
    if vocabulary.kind == "characters":
        return "".join(vocabulary.tokens[i] for i in ids)
    return _tokenizer(vocabulary.tokenizer).decode(ids)


@functools.lru_cache(maxsize=8)
def _tokenizer(json: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json)
