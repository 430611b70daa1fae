"""Images of any size and colour mode to one shape: opened, looked at, turned, converted, resized, decoded."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pushforward.errors import UserError

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1}
_MODES = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA", "I": "I;16", "I;16B": "I;16", "I;16L": "I;16", "I;16N": "I;16"}
_CHUNK = 64
# What Pillow's decoders raise on files that are damaged, cut short or of no kind they know.
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Plan:
    """What every image becomes. crop: cover the size and cut out the centre; else stretch."""

    mode: str
    height: int
    width: int
    crop: bool = True

    @property
    def levels(self) -> int:
        return 65536 if self.mode == "I;16" else 256

    @property
    def shape(self) -> tuple[int, int, int]:
        return CHANNELS[self.mode], self.height, self.width

    @property
    def nbytes(self) -> int:
        return CHANNELS[self.mode] * self.height * self.width * (4 if self.mode == "I;16" else 1)


class NotAlike(Exception):
    """Images that were taken to have one size and mode do not."""


@dataclass
class Records:
    """Encoded images: how many, the i-th ones as bytes or paths (None where there is none), and what to call them."""

    n: int
    raw: Callable[[Sequence[int]], list[bytes | str | None]]
    name: Callable[[int], str]


def folder_records(paths: Sequence[Path], root: Path) -> Records:
    return Records(len(paths), lambda rows: [str(paths[i]) for i in rows], lambda i: os.path.relpath(paths[i], root))


def colour_mode(image: Image.Image) -> str:
    """The mode an image is kept in, from its header: palettes are looked through, other colour spaces become RGB."""
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    if image.mode == "F":
        raise ValueError("images of floating-point numbers are not read; save them as 16-bit or give them as an .npz array")
    return image.mode if image.mode in CHANNELS else _MODES.get(image.mode, "RGB")


def _open(raw: bytes | str | None) -> Image.Image:
    if raw is None:
        raise ValueError("no image is there")
    return Image.open(raw if isinstance(raw, str) else io.BytesIO(raw))


def _turned(image: Image.Image) -> bool:
    """Whether the file says that the image is to be turned (EXIF orientation)."""
    return ("exif" in image.info or image.format == "TIFF") and image.getexif().get(0x0112, 1) != 1


def _size(image: Image.Image) -> tuple[int, int]:
    """(height, width) as the image is meant to be seen."""
    width, height = image.size
    return (width, height) if _turned(image) and image.getexif().get(0x0112, 1) >= 5 else (height, width)


def read_header(raw: bytes | str | None) -> tuple[str, int, int] | Exception:
    """(mode, height, width) without decoding, or what is wrong."""
    try:
        with _open(raw) as image:
            return (colour_mode(image), *_size(image))
    except PermissionError:
        raise
    except _UNREADABLE as error:
        return error


def convert(image: Image.Image, mode: str) -> Image.Image:
    """To a colour mode: transparency that is dropped is laid over white; 16 bits keep their upper 8."""
    have = colour_mode(image)
    if have == "I;16" and mode != "I;16":
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    elif have != "I;16" and mode == "I;16":
        grey = np.asarray(convert(image, "L")).astype(np.uint16) * 257
        return Image.fromarray(grey)
    elif have in ("LA", "RGBA") and mode in ("L", "RGB"):
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image.convert("RGBA"))
        image = over
    return image if image.mode == mode or mode == "I;16" else image.convert(mode)


def render(image: Image.Image, plan: Plan) -> np.ndarray:
    """One image as the plan wants it: (C, H, W), uint8 (int32 for 16 bits)."""
    image = convert(image, plan.mode)
    if plan.mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.float32))
    if image.size != (plan.width, plan.height):
        box = None
        if plan.crop:
            scale = min(image.width / plan.width, image.height / plan.height)
            # Rounding may put a border a hair outside of the image, which Pillow refuses.
            dx = max(0.0, (image.width - scale * plan.width) / 2)
            dy = max(0.0, (image.height - scale * plan.height) / 2)
            box = (dx, dy, image.width - dx, image.height - dy)
        image = image.resize((plan.width, plan.height), Image.Resampling.LANCZOS, box=box)
    array = np.asarray(image)
    if plan.mode == "I;16":
        array = np.rint(array).clip(0, 65535).astype(np.int32)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _decode(raw: bytes | str | None, plan: Plan, alike: bool) -> np.ndarray | Exception:
    try:
        with _open(raw) as image:
            if alike and (colour_mode(image), *_size(image)) != (plan.mode, plan.height, plan.width):
                raise NotAlike
            return render(ImageOps.exif_transpose(image) if _turned(image) else image, plan)
    except (PermissionError, NotAlike):
        raise
    except _UNREADABLE as error:
        return error


def parallel(function: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
    """function(item) of each, by several threads where there are many."""
    if len(items) < 2 * _CHUNK:
        return [function(item) for item in items]
    chunks = [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return [result for part in pool.map(lambda chunk: [function(item) for item in chunk], chunks) for result in part]


def decode(records: Records, rows: Sequence[int], plan: Plan, alike: bool = False) -> tuple[Tensor, dict[int, Exception]]:
    """Codes (len(rows), C, H, W), zero where the image could not be read, and what was wrong by position.

    alike: raise `NotAlike` at the first image that would have to be changed to fit the plan.
    """
    codes = np.zeros((len(rows), *plan.shape), np.int32 if plan.levels > 256 else np.uint8)
    wrong: dict[int, Exception] = {}
    for start in range(0, len(rows), 4096):
        raws = records.raw(rows[start : start + 4096])
        for at, result in enumerate(parallel(lambda raw: _decode(raw, plan, alike), raws), start):
            if isinstance(result, Exception):
                wrong[at] = result
            else:
                codes[at] = result
    return torch.from_numpy(codes), wrong


@dataclass
class LazyImages:
    """A split whose images are decoded when they are fetched; `rows` are its images among the records."""

    records: Records
    rows: Tensor
    plan: Plan
    condition: Tensor | LazyImages | None = field(default=None)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Tensor) -> LazyImages:
        condition = self.condition
        if condition is not None:
            condition = condition.select(rows) if isinstance(condition, LazyImages) else condition[rows]
        return LazyImages(self.records, self.rows[rows], self.plan, condition)

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        indices = indices.cpu()
        rows = self.rows[indices].tolist()
        codes, wrong = decode(self.records, rows, self.plan)
        for at, error in wrong.items():
            raise UserError(f"the image {self.records.name(rows[at])} cannot be read ({error}); remove it from the data.")
        if isinstance(self.condition, LazyImages):
            return codes, self.condition.fetch(indices)[0]
        return codes, None if self.condition is None else self.condition[indices]


def rearrange(codes: np.ndarray, mode: str, plan: Plan, levels: int) -> Tensor:
    """Codes (N, C, H, W) of a mode as the plan wants them."""
    out = np.empty((len(codes), *plan.shape), np.int32 if plan.levels > 256 else np.uint8)
    for i, code in enumerate(codes):
        array = code[0] if len(code) == 1 else np.ascontiguousarray(code.transpose(1, 2, 0))
        array = array.astype(np.uint16 if mode == "I;16" else np.uint8)
        out[i] = render(Image.fromarray(array), plan)
    return torch.from_numpy(out.clip(0, levels - 1) if levels < 256 else out)
