"""Pictures made of pixels and letters: grids of images, and texts. No plotting library, every pixel where it is put."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

MARGIN, GAP, BAND = 12, 2, 14  # pixels: around a picture, between tiles, between bands of rows
WIDTH = 1200  # a comfortable width of a whole picture
TILE = 48  # small images are enlarged to about this
INK, FAINT = (34, 34, 34), (110, 110, 110)
CHECKER, LIGHT, DARK = 8, 255, 225  # the board behind what is transparent: cell size, two greys


def to_rgb(codes: Any, levels: int | None) -> np.ndarray:
    """Levels (..., C, H, W) as uint8 (..., H, W, 3), and alpha as a fourth channel where C is 2 or 4."""
    codes = np.moveaxis(np.asarray(codes), -3, -1).astype(np.float64)
    pixels = np.rint(np.clip(codes / ((levels or 256) - 1), 0, 1) * 255).astype(np.uint8)
    channels = pixels.shape[-1]
    if channels in (1, 2):
        return np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], -1)
    if channels in (3, 4):
        return pixels
    return np.repeat(pixels.mean(-1, keepdims=True).round().astype(np.uint8), 3, -1)  # many bands: their mean


def single_image(codes: Any, spec: DataSpec) -> Image.Image:
    """One datum (C, H, W) as a picture file holds it: its own pixels, 8 or 16 bits, 1 to 4 channels, nothing around it."""
    levels, pixels = spec.levels or 256, np.asarray(codes)
    if not 1 <= len(pixels) <= 4:
        raise UserError(f"pictures have 1 to 4 channels, these data have {len(pixels)}; write an .npz instead.")
    if levels > 256 and len(pixels) == 1:
        return Image.fromarray(pixels[0].astype(np.uint16))
    eight = np.rint(pixels.astype(np.float64) * 255 / (levels - 1)).astype(np.uint8)
    return Image.fromarray(eight[0] if len(eight) == 1 else np.ascontiguousarray(eight.transpose(1, 2, 0)))


def image_grid(
    codes: Any,
    spec: DataSpec,
    *,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Images in rows, enlarged by whole factors without smoothing; alpha over a light checkerboard.

    codes: integer levels (n, C, H, W). columns: images a row (default: a wide rectangle). row_labels: drawn left of
    each row. scale: pixels of the picture per pixel of the data (default: small images to about 48 pixels).
    """
    codes = np.asarray(codes)
    scale = scale or tile_scale(spec)
    columns = columns or wide_columns(len(codes), codes.shape[-1] * scale)
    rows = [list(codes[start : start + columns]) for start in range(0, len(codes), columns)]
    return tile_rows(rows, spec, scale=scale, row_labels=row_labels)


def tile_rows(
    rows: Sequence[Sequence[np.ndarray | None]],
    spec: DataSpec,
    *,
    scale: int,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    band: int = 0,
) -> Image.Image:
    """Rows of images (C, H, W), with None for an empty place and more space after every `band` rows."""
    _, height, width = spec.shape
    height, width, count = height * scale, width * scale, max((len(row) for row in rows), default=0)
    labels = [shorten(str(label), 28) for label in row_labels or ()]
    left = MARGIN + (int(max(font().getlength(label) for label in labels)) + 10 if labels else 0)
    top = MARGIN + (22 if column_labels else 0)

    def y(row: int) -> int:
        return top + row * (height + GAP) + (row // band * BAND if band else 0)

    size = (left + count * (width + GAP) - GAP + MARGIN, y(max(len(rows) - 1, 0)) + height + MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            if tile is not None:
                picture.paste(_tile(tile, spec, scale), (left + c * (width + GAP), y(r)))
    for r, label in enumerate(labels):
        draw.text((left - 10, y(r) + height / 2), label, INK, font(), anchor="rm")
    for c, label in enumerate(column_labels or ()):
        draw.text((left + c * (width + GAP) + width / 2, MARGIN + 6), label, INK, font(), anchor="mm")
    return picture


def _tile(codes: np.ndarray, spec: DataSpec, scale: int) -> Image.Image:
    pixels = to_rgb(codes, spec.levels).repeat(scale, 0).repeat(scale, 1)
    if pixels.shape[-1] == 4:
        height, width = pixels.shape[:2]
        board = np.add.outer(np.arange(height) // CHECKER, np.arange(width) // CHECKER) % 2
        back = np.where(board, DARK, LIGHT)[..., None]
        alpha = pixels[..., 3:] / 255.0
        pixels = np.rint(pixels[..., :3] * alpha + back * (1 - alpha)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def tile_scale(spec: DataSpec, columns: int = 1) -> int:
    """The whole factor that makes a tile about 48 pixels, or less where `columns` of them would be too wide."""
    _, height, width = spec.shape
    comfortable = max(1, math.floor(TILE / max(height, width) + 0.5))
    return max(1, min(comfortable, (WIDTH // columns - GAP) // width))


def wide_columns(n: int, width: int) -> int:
    """Images a row: at most 16, at most what fits, and with full rows where a divisor of n lies near sqrt(2 n)."""
    most = max(1, min(16, (WIDTH + GAP) // (width + GAP), n))
    wanted = min(most, math.sqrt(2 * n))
    full = [c for c in range(1, most + 1) if n % c == 0 and wanted / 1.5 <= c <= wanted * 1.5]
    return min(full, key=lambda c: (abs(math.log(c / wanted)), -c)) if full else max(1, round(wanted))


def captioned(image: Image.Image, caption: str) -> Image.Image:
    """The picture under a line of bold text."""
    width = max(image.width, int(font(15, "Bold").getlength(caption)) + 2 * MARGIN)
    out = Image.new("RGB", (width, image.height + 26), "white")
    ImageDraw.Draw(out).text((MARGIN, 22), caption, INK, font(15, "Bold"), anchor="ls")
    out.paste(image, (0, 26))
    return out


def joined(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures beside each other where they fit, else below each other."""
    across = sum(image.width for image in images) <= WIDTH + 200
    width = sum(i.width for i in images) if across else max(i.width for i in images)
    height = max(i.height for i in images) if across else sum(i.height for i in images)
    out, at = Image.new("RGB", (width, height), "white"), 0
    for image in images:
        out.paste(image, (at, 0) if across else (0, at))
        at += image.width if across else image.height
    return out


def text_columns(columns: Sequence[tuple[str, Sequence[str]]], *, lines: int = 12) -> Image.Image:
    """Texts in monospace, wrapped, in captioned columns; of each text at most `lines` lines."""
    letters = int((WIDTH - MARGIN * (len(columns) + 1)) / len(columns) / font(13, "Mono").getlength("m")) - 2
    step, letter = 18, font(13, "Mono").getlength("m")
    blocks = [[wrapped(text, letters, lines) for text in texts] for _, texts in columns]
    height = max((sum(len(block) * step + 18 for block in column) for column in blocks), default=0)
    out = Image.new("RGB", (WIDTH, height + 30 + MARGIN), "white")
    draw = ImageDraw.Draw(out)
    for c, (caption, _) in enumerate(columns):
        x = round(MARGIN + c * (WIDTH - MARGIN) / len(columns))
        draw.text((x, 22), caption, INK, font(15, "Bold"), anchor="ls")
        y = 38
        for block in blocks[c]:
            draw.line([(x + 1, y - 1), (x + 1, y + len(block) * step - 4)], (200, 200, 200), 2)
            for line in block:
                draw.text((x + letter + 2, y), line, INK, font(13, "Mono"))
                y += step
            y += 18
    return out


def text_table(columns: Mapping[str, Sequence[Any]]) -> Image.Image:
    """Values in rows of monospace under the names of their columns; what finds no room on the right is counted."""
    letter = font(13, "Mono").getlength("m")
    room = int((WIDTH - 2 * MARGIN) / letter)
    cells = {name: [_cell(value) for value in values] for name, values in columns.items()}
    most = max(8, room // max(1, len(cells)) - 2)
    widths = {name: min(most, max(map(len, [name, *values]))) for name, values in cells.items()}
    shown: list[str] = []
    used = 0
    for name, width in widths.items():
        used += width + 2
        if used > room - 12 and len(cells) > len(shown) + 1:
            break
        shown.append(name)
    step, n = 18, max((len(values) for values in cells.values()), default=0)
    out = Image.new("RGB", (WIDTH, 2 * MARGIN + step * (n + 1) + 4), "white")
    draw = ImageDraw.Draw(out)
    x = float(MARGIN)
    for name in shown:
        wide = widths[name] * letter
        number = all(isinstance(value, (int, float)) for value in columns[name])
        for row, text in enumerate([name, *cells[name]]):
            at = (x + wide if number else x, MARGIN + step * row + 4 * (row > 0))
            draw.text(at, shorten(text, widths[name]), INK if row else FAINT, font(13, "Mono"), anchor="ra" if number else "la")
        x += wide + 2 * letter
    if len(shown) < len(cells):
        draw.text((x, MARGIN), f"and {len(cells) - len(shown)} more", FAINT, font(13, "Mono"))
    draw.line([(MARGIN, MARGIN + step), (WIDTH - MARGIN, MARGIN + step)], (200, 200, 200), 1)
    return out


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.5g}"
    return str(value)


def wrapped(text: str, letters: int, lines: int) -> list[str]:
    """Text as printable lines of at most so many letters; what is cut off is said by an ellipsis."""
    text = "".join(c if c.isprintable() or c == "\n" else "·" for c in text.expandtabs(4).replace("\r\n", "\n"))
    out: list[str] = []
    for line in text.split("\n"):
        out += textwrap.wrap(line, letters, drop_whitespace=False, replace_whitespace=False) or [""]
    return out if len(out) <= lines else [*out[: lines - 1], "…"]


def shorten(text: str, letters: int) -> str:
    """At most so many letters, with an ellipsis where some are missing."""
    return text if len(text) <= letters else text[: letters - 1] + "…"


@functools.lru_cache(maxsize=16)
def font(size: int = 13, face: str = "") -> FreeTypeFont:
    """DejaVu Sans ("", "Bold", "Mono"), as matplotlib brings it, so that pictures are the same on every machine."""
    import matplotlib
    from PIL import ImageFont

    name = {"": "DejaVuSans", "Bold": "DejaVuSans-Bold", "Mono": "DejaVuSansMono"}[face]
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)
