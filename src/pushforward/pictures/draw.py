"""What a datum looks like: pictures of samples, trajectories and pairs for every kind of data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pushforward.data.spec import Column, DataSpec
from pushforward.pictures import grids, plots

ROWS = 24  # of images in a picture by class
TILES = 64  # fields in one picture


def draw_samples(
    spec: DataSpec, codes: Any, *, condition: Any = None, real: Any = None, title: str | None = None
) -> Image.Image:
    """Samples, beside or over real data where they are given.

    codes, real: (n, ...) in the data's own codes. condition: classes (n,); images of each class then share a row.
    title: written above.
    """
    codes = _array(codes)
    truth = None if real is None else _array(real)
    if spec.kind == "field":  # large sets of other kinds share one plot; of tiles a page is enough
        codes, truth = codes[:TILES], None if truth is None else truth[:TILES]
        condition = None if condition is None else condition[:TILES]
    seen, (codes, *rest) = _pictured(spec, [codes] if truth is None else [codes, truth])
    spec, truth = seen, rest[0] if rest else None
    if spec.kind == "image":
        picture = _image_samples(spec, codes, None if condition is None else _array(condition), truth)
    elif spec.kind == "tokens":
        picture = grids.text_columns(
            [("samples", _texts(spec, codes[:8]))] + ([] if truth is None else [("data", _texts(spec, truth[:8]))])
        )
    elif spec.kind == "series":
        panels = [("samples", codes)] if truth is None else [("data", truth), ("samples", codes)]
        picture = plots.series_panels(panels, _columns(spec, codes.shape[-1]))
    elif _planar(spec, codes):
        panels = [("samples", codes)] if truth is None else [("data", truth), ("samples", codes)]
        picture = plots.scatters(panels, _names(spec, 2))
    else:
        picture = plots.histograms(_columns(spec, codes.shape[-1]), codes, truth)
    return grids.captioned(picture, title) if title else picture


def _image_samples(spec: DataSpec, codes: np.ndarray, condition: np.ndarray | None, real: np.ndarray | None) -> Image.Image:
    # A row a class says most while the classes are few enough to be seen at once.
    if condition is not None and condition.ndim == 1 and spec.classes and spec.classes <= 20:
        names = (spec.condition and spec.condition.names) or tuple(str(k) for k in range(spec.classes))
        present = [k for k in range(spec.classes) if (condition == k).any()]
        width = spec.shape[2] * grids.tile_scale(spec)
        most = max(1, min(16, grids.WIDTH // (width + grids.GAP)))
        rows, labels = [], []
        for k in present:
            own = codes[condition == k][: most * max(1, ROWS // len(present))]
            rows += [list(own[start : start + most]) for start in range(0, len(own), most)]
            labels += [names[k], *[""] * ((len(own) - 1) // most)]
        picture = grids.tile_rows(rows, spec, scale=grids.tile_scale(spec), row_labels=labels)
    else:
        picture = grids.image_grid(codes, spec)
    if real is None:
        return picture
    return grids.joined(
        [grids.captioned(picture, "samples"), grids.captioned(grids.image_grid(real[: len(codes)], spec), "data")]
    )


def draw_trajectory(spec: DataSpec, codes: Any, times: Sequence[float]) -> Image.Image:
    """Noise turning into data. codes: (K, n, ...), from noise to data; times: K values of t, 1 = noise, 0 = data."""
    spec, (codes, _) = _pictured(spec, [_array(codes), _array(codes[-1])])
    labels = [f"t = {float(t):.2f}" for t in times]
    if spec.kind == "image":
        rows = [list(codes[:, i]) for i in range(min(codes.shape[1], 8))]
        room = grids.WIDTH // (len(codes) * spec.shape[2])  # columns as wide as their labels, where they fit
        scale = max(1, min(room, max(grids.tile_scale(spec), -(-60 // spec.shape[2]))))
        if spec.shape[2] * scale < 60:
            labels = [f"{float(t):.2f}" for t in times]
        return grids.tile_rows(rows, spec, scale=scale, column_labels=labels)
    if spec.kind == "tokens":
        return grids.text_columns(
            [
                (
                    "one sample, from noise to data",
                    [f"{label}\n{text}" for label, text in zip(labels, _texts(spec, codes[:, 0]), strict=True)],
                )
            ],
            lines=8,
        )
    keep = np.unique(np.linspace(0, len(codes) - 1, min(len(codes), 8 if spec.kind != "series" else 4)).round().astype(int))
    frames = [(labels[k], codes[k]) for k in keep]
    if spec.kind == "series":
        return plots.series_panels(frames, _columns(spec, codes.shape[-1]), lines=4)
    if codes.shape[-1] == 1:  # along a line: its histogram at each time
        columns = [Column(label, "number") for label, _ in frames]
        return plots.histograms(columns, np.concatenate([frame for _, frame in frames], 1), None)
    # The limits hold the data, and the noise as well where it is wider.
    frames = [(label, frame[:, :2]) for label, frame in frames]
    spans = [np.ptp(frame[np.isfinite(frame).all(1)], axis=0).max(initial=0.0) for _, frame in frames]
    return plots.scatters(frames, _names(spec, 2), reference=int(np.argmax(spans)))


def draw_pairs(spec: DataSpec, left: Any, right: Any, labels: Sequence[str]) -> Image.Image:
    """Item by item two sets side by side: samples and their nearest training data, or data and their reconstructions.

    left: codes (n, ...). right: codes (n, ...), or (n, k, ...) for k partners each (drawn for images; the first one
    otherwise). labels: of left and right.
    """
    spec, (left, right) = _pictured(spec, [_array(left), _array(right)])
    several = right if right.ndim > left.ndim else right[:, None]
    if spec.kind == "image":
        scale = grids.tile_scale(spec)
        most = max(1, min(16, grids.WIDTH // (spec.shape[2] * scale + grids.GAP)))
        across = math.ceil(len(left) / math.ceil(len(left) / most))  # bands of one length
        rows, names = [], []
        for start in range(0, len(left), across):
            part = slice(start, start + across)
            rows += [list(left[part]), *(list(several[part, k]) for k in range(several.shape[1]))]
            names += [labels[0], labels[1], *[""] * (several.shape[1] - 1)]
        return grids.tile_rows(rows, spec, scale=scale, row_labels=names, band=1 + several.shape[1])
    right = several[:, 0]
    if spec.kind == "tokens":
        return grids.text_columns([(labels[0], _texts(spec, left[:8])), (labels[1], _texts(spec, right[:8]))])
    if spec.kind == "series":
        return plots.overlaid_series(left, right, labels, _columns(spec, left.shape[-1]))
    if _planar(spec, left):
        return plots.linked_points(left, right, labels, _names(spec, 2))
    return plots.column_against_column(left, right, labels, _columns(spec, left.shape[-1]))


def draw_rows(spec: DataSpec, codes: Any, beside: Mapping[str, Sequence[Any]]) -> Image.Image:
    """Single data that are to be told apart: rows of tables and of points as rows of text, all else as samples.

    codes: (n, ...). beside: further columns of the text, by name.
    """
    codes = _array(codes)
    if spec.kind not in ("table", "point"):
        return draw_samples(spec, codes)
    columns: dict[str, Sequence[Any]] = dict(beside)
    for j, column in enumerate(_columns(spec, codes.shape[-1])):
        values = codes[:, j].tolist()
        if column.kind == "category":
            values = [column.categories[int(value)] for value in values]
        elif column.integer:
            values = [int(value) if math.isfinite(value) else value for value in values]
        columns[f"{column.name} (data)" if column.name in beside else column.name] = values
    return grids.text_table(columns)


def draw_strips(
    spec: DataSpec,
    values: Any,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    band: int = 0,
    real: Any = None,
) -> Image.Image:
    """Items in several states. values: codes (n, k, ...). Images: a row an item; points: a path each over `real` data (m, ...);
    series: a panel a state; tables: a line an item for each column; texts: a column a state.
    band: so many rows belong together."""
    first = _array(values)
    spec, (codes,) = _pictured(spec, [first])
    k = codes.shape[1]
    if spec.kind == "image":
        scale = grids.tile_scale(spec, k)
        short = spec.shape[2] * scale
        labels = [label if len(label) * 8 < short else "" for label in column_labels or ()]
        return grids.tile_rows(
            [list(row) for row in codes],
            spec,
            scale=scale,
            row_labels=row_labels,
            column_labels=labels if any(labels) else None,
            band=band,
        )
    states = list(column_labels or [f"{j + 1}" for j in range(k)])
    if spec.kind == "tokens":
        return grids.text_columns([(state, _texts(spec, codes[:, j])) for j, state in enumerate(states[:4])])
    if spec.kind == "series":
        keep = np.unique(np.linspace(0, k - 1, min(k, 5)).round().astype(int))
        return plots.series_panels([(states[j], codes[:, j]) for j in keep], _columns(spec, codes.shape[-1]), lines=4)
    if _planar(spec, codes):
        return plots.paths(codes, None if real is None else _array(real), _names(spec, 2))
    return plots.columns_over_steps(codes, _columns(spec, codes.shape[-1]), states, row_labels, band)


def draw_frames(spec: DataSpec, values: Any, columns: int | None = None) -> list[Image.Image]:
    """The frames of an animation: all items in their first state, all in their second, ... values: codes (n, k, ...)."""
    shown, (codes,) = _pictured(spec, [_array(values)])
    if shown.kind == "image":
        return [grids.image_grid(codes[:, j], shown, columns=columns) for j in range(codes.shape[1])]
    if _planar(shown, codes):
        limits = codes.reshape(-1, codes.shape[-1])
        return [plots.paths(codes[:, : j + 1], limits, _names(shown, 2)) for j in range(codes.shape[1])]
    return [draw_strips(spec, _array(values)[:, j : j + 1]) for j in range(codes.shape[1])]


def _pictured(spec: DataSpec, sets: list[np.ndarray]) -> tuple[DataSpec, list[np.ndarray]]:
    """Fields (..., C, H, W) as images of their first three channels (of the mean of fewer), fields (..., C, L) as series, and
    grids of codes as grey images: a spec to draw by, and the sets in it. The range of a field is that of the last set."""
    grid = spec.vocabulary.grid if spec.vocabulary else ()
    if spec.kind == "tokens" and spec.vocabulary and len(grid) == 2:
        as_image = DataSpec("image", (1, *grid), levels=max(2, spec.vocabulary.size), condition=spec.condition, name=spec.name)
        return as_image, [values.reshape(*values.shape[:-1], 1, *grid) for values in sets]
    if spec.kind != "field":
        return spec, sets
    if len(spec.shape) == 2:
        as_series = DataSpec("series", spec.shape[::-1], columns=spec.columns, name=spec.name)
        return as_series, [values.swapaxes(-1, -2) for values in sets]
    if spec.shape[0] >= 3:
        shown = [values[..., :3, :, :] for values in sets]
    else:
        shown = [values.mean(-3, keepdims=True) for values in sets]
    channels = np.moveaxis(shown[-1], -3, 0).reshape(shown[-1].shape[-3], -1)
    # A few extremes would leave all the rest one grey.
    low, high = (np.nanquantile(np.where(np.isfinite(channels), channels, np.nan), q, axis=1) for q in (0.005, 0.995))
    low, span = low[:, None, None], np.maximum(high - low, 1e-12)[:, None, None]
    levels = [np.rint(np.clip(np.nan_to_num((values - low) / span), 0, 1) * 255).astype(np.uint8) for values in shown]
    shape = (len(channels), *spec.shape[1:])
    return DataSpec("image", shape, levels=256, condition=spec.condition, name=spec.name), levels


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _planar(spec: DataSpec, codes: np.ndarray) -> bool:
    return codes.shape[-1] == 2 and all(column.kind == "number" for column in spec.columns)


def _columns(spec: DataSpec, size: int) -> Sequence[Column]:
    return spec.columns or [Column(f"x{j + 1}", "number") for j in range(size)]


def _names(spec: DataSpec, size: int) -> list[str]:
    """Names of axes; columns that are only numbered need none."""
    names = [column.name for column in spec.columns[:size]]
    return [] if all(re.fullmatch(r"x?_?\d+", name) for name in names) else names


def _texts(spec: DataSpec, codes: np.ndarray) -> list[str]:
    if spec.vocabulary is None:
        return [" ".join(str(token) for token in row) for row in codes]
    from pushforward.data.units import decode_text

    return [decode_text(spec.vocabulary, row.tolist()) for row in codes]
