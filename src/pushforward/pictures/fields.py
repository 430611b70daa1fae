"""Pictures of what carries noise to data: a field and a density in the plane over time, images at fixed times, and samples by
solver and number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from pushforward.data.spec import DataSpec
from pushforward.pictures import grids
from pushforward.pictures.plots import DPI, INCHES, MODEL, OTHER, new_figure, rendered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = 5.2  # inches of a frame of the animation
SPARSE = 2  # in a strip of small panels, one arrow of so many a side


@dataclass(frozen=True)
class Field:
    """A law in the plane at a time t, and what moves it.

    limits (2, 2): low and high of both axes. density (H, W): at the middles of cells, rows from low to high. at, velocity
    (k, k, 2): of the flow, in growing t. ways (j, n, 2): of n samples from noise to where they are now.
    """

    t: float
    limits: np.ndarray
    density: np.ndarray
    at: np.ndarray
    velocity: np.ndarray
    ways: np.ndarray


def draw_fields(fields: Sequence[Field]) -> Image.Image:
    """Panels side by side, from noise to data: density, arrows where samples go, and the ways of a few."""
    figure, axes = new_figure(1, len(fields), INCHES / len(fields) + 0.45)
    for k, (ax, field) in enumerate(zip(axes, fields, strict=True)):
        _panel(ax, field, SPARSE)
        ax.set_title(_title(field, k == 0, k == len(fields) - 1), loc="left", fontsize=10, fontweight="bold")
    figure.supxlabel(
        "colour: density of $x_t$     arrows: where samples go     lines: the ways of some", fontsize=8.5, color="#555555"
    )
    return rendered(figure)


def field_frames(fields: Sequence[Field]) -> list[Image.Image]:
    """The same as frames of an animation."""
    from matplotlib.figure import Figure

    frames = []
    for k, field in enumerate(fields):
        figure = Figure(figsize=(PANEL, PANEL + 0.3), dpi=DPI, layout="constrained", facecolor="white")
        ax = figure.add_subplot()
        _panel(ax, field, 1)
        ax.set_title(_title(field, k == 0, k == len(fields) - 1), loc="left", fontsize=11, fontweight="bold")
        frames.append(rendered(figure))
    return frames


def _title(field: Field, first: bool, last: bool) -> str:
    return f"t = {field.t:.2f}" + (", noise" if first else ", data" if last else "")


def _panel(ax: Axes, field: Field, sparse: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    extent = (*field.limits[0].tolist(), *field.limits[1].tolist())
    paint = LinearSegmentedColormap.from_list("density", ["#ffffff", "#b9d6ea", "#5ea3d0", MODEL, "#003f66"])
    # A law on curves has peaks a hundred times its bulk: let a few cells be darker than dark.
    top = float(np.quantile(field.density[field.density > 0.01 * field.density.max()], 0.98))
    ax.imshow(field.density, origin="lower", extent=extent, cmap=paint, vmin=0, vmax=top, interpolation="bicubic")
    middle = (len(field.at) - 1) % sparse
    at, arrows = field.at[middle::sparse, middle::sparse], -field.velocity[middle::sparse, middle::sparse]
    length = np.linalg.norm(arrows, axis=-1, keepdims=True)
    # Speeds differ by orders of magnitude: what is slow is short, what is fast is no longer than the way to its neighbour.
    usual = np.median(length) + 1e-12
    gap = float(np.ptp(field.limits[0])) / len(at)
    arrows = 0.85 * gap * arrows / np.sqrt(length**2 + usual**2)
    # Where a law never goes, its field says nothing of it.
    counts = field.density.shape
    cells = [((at[..., a] - low) / (high - low) * counts[1 - a]).astype(int) for a, (low, high) in enumerate(field.limits)]
    known = field.density[cells[1].clip(0, counts[0] - 1), cells[0].clip(0, counts[1] - 1)] > 1e-3 * top
    colours = np.where(known[..., None], [0.3, 0.3, 0.3, 0.85], [0.6, 0.6, 0.6, 0.45]).reshape(-1, 4)
    head: dict[str, Any] = {"width": 0.0045, "headwidth": 4, "headlength": 4.5, "headaxislength": 4}
    flat = (*at.reshape(-1, 2).T, *arrows.reshape(-1, 2).T)
    ax.quiver(*flat, angles="xy", scale_units="xy", scale=1, color=colours, **head)
    for way in field.ways.swapaxes(0, 1):
        ax.plot(way[:, 0], way[:, 1], color=OTHER, linewidth=1.0, alpha=0.75, solid_capstyle="round")
    now = field.ways[-1]
    ax.scatter(now[:, 0], now[:, 1], s=14 if sparse > 1 else 26, color=OTHER, edgecolors="white", linewidths=0.6, zorder=3)
    ax.set_xlim(*field.limits[0])
    ax.set_ylim(*field.limits[1])
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[["top", "right", "left", "bottom"]].set_visible(True)
    ax.spines[["top", "right", "left", "bottom"]].set_color("#cccccc")


def draw_denoising(spec: DataSpec, x: Any, noised: Any, guessed: Any, times: Sequence[float]) -> Image.Image:
    """Images, each in two rows: with the noise of some times, and what a model expects of them; the image itself on the left.

    x: codes (n, C, H, W). noised, guessed: codes (n, k, C, H, W). times: k.
    """
    x, noised, guessed = (np.asarray(values) for values in (x, noised, guessed))
    scale = grids.tile_scale(spec, 1 + noised.shape[1])
    rows: list[list[np.ndarray | None]] = []
    for i in range(len(x)):
        rows += [[x[i], *noised[i]], [None, *guessed[i]]]
    labels = ["data", *[f"t = {t:.1f}" if spec.shape[2] * scale >= 48 else f"{t:.1f}" for t in times]]
    return grids.tile_rows(
        rows, spec, scale=scale, row_labels=["noised", "expected data"] * len(x), column_labels=labels, band=2
    )


def draw_by_solver(
    spec: DataSpec,
    cells: Mapping[tuple[str, int], Any],
    captions: Mapping[tuple[str, int], str] | None = None,
    across: int = 4,
) -> Image.Image:
    """Images by solver (rows) and number of steps (columns), those of one place of all cells from one noise.

    cells: (solver, steps) to codes (m, C, H, W). captions: what is written below a cell. across: images a row of a cell.
    """
    solvers, steps = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    first = np.asarray(next(iter(cells.values())))
    across = min(across, len(first))
    _, height, width = spec.shape
    scale = grids.tile_scale(spec, len(steps) * across + 4)
    down = -(-len(first) // across)
    wide, tall = across * (width * scale + grids.GAP) - grids.GAP, down * (height * scale + grids.GAP) - grids.GAP
    space, below = 18, 22 if captions else 8
    left = grids.MARGIN + int(max(grids.font(13, "Bold").getlength(str(solver)) for solver in solvers)) + 12
    top = grids.MARGIN + 24
    size = (
        left + len(steps) * (wide + space) - space + grids.MARGIN,
        top + len(solvers) * (tall + below + 8) + grids.MARGIN - 8,
    )
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for c, count in enumerate(steps):
        x = left + c * (wide + space)
        draw.text((x + wide / 2, grids.MARGIN + 8), f"{count} steps", grids.INK, grids.font(13, "Bold"), anchor="mm")
        for r, solver in enumerate(solvers):
            y = top + r * (tall + below + 8)
            if c == 0:
                draw.text((left - 12, y + tall / 2), str(solver), grids.INK, grids.font(13, "Bold"), anchor="rm")
            if (solver, count) not in cells:
                continue
            images = list(np.asarray(cells[solver, count]))
            rows = [images[k : k + across] for k in range(0, len(images), across)]
            inner = grids.tile_rows(rows, spec, scale=scale)
            m = grids.MARGIN
            picture.paste(inner.crop((m, m, inner.width - m, inner.height - m)), (x, y))
            if captions and (solver, count) in captions:
                draw.text((x + wide / 2, y + tall + 11), captions[solver, count], grids.FAINT, grids.font(12), anchor="mm")
    return picture


def draw_clouds_by_solver(
    cells: Mapping[tuple[str, int], Any], real: Any, captions: Mapping[tuple[str, int], str] | None = None
) -> Image.Image:
    """Points by solver (rows) and number of steps (columns), in the window of `real` data (m, 2).

    cells: (solver, steps) to points (n, 2). captions: what is written below a panel.
    """
    solvers, steps = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    real = np.asarray(real, dtype=float)
    low, high = real.min(0), real.max(0)
    margin = 0.12 * float((high - low).max())
    low, high = low - margin, high + margin
    shape = float(np.clip((high - low)[1] / (high - low)[0], 0.4, 1.0))
    figure, axes = new_figure(len(solvers), len(steps), min(INCHES / len(steps), 2.7) * shape + (0.3 if captions else 0.1))
    for k, ax in enumerate(axes):
        solver, count = solvers[k // len(steps)], steps[k % len(steps)]
        points = np.asarray(cells[solver, count], dtype=float)
        ax.scatter(points[:, 0], points[:, 1], s=3, color=MODEL, alpha=0.45, linewidths=0)
        ax.set_xlim(low[0], high[0])
        ax.set_ylim(low[1], high[1])
        ax.set_aspect("equal")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["top", "right", "left", "bottom"]].set_visible(True)
        ax.spines[["top", "right", "left", "bottom"]].set_color("#cccccc")
        if k < len(steps):
            ax.set_title(f"{count} steps", fontsize=10, fontweight="bold")
        if k % len(steps) == 0:
            ax.set_ylabel(str(solver), fontsize=10, fontweight="bold")
        if captions:
            ax.set_xlabel(captions.get((solver, count), ""), fontsize=8, color="#555555")
    return rendered(figure)
