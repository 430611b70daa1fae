"""Pictures made of axes: scatters, histograms, series and training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pushforward.data.spec import Column
from pushforward.pictures.grids import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers tell apart: what a model made, what is real, what else there is.
MODEL, REAL, OTHER = "#0072B2", "#8c8c8c", "#D55E00"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#F0E442")
INCHES, DPI = 11.0, 110  # 1210 pixels wide


def draw_history(history: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Training curves: one panel a term, raw values faint and their moving mean bold, validation over training.

    history: rows such as {"step": 10, "seconds": 1.2, "epoch": 0.4, "critic/loss": 0.3, "validation/loss": 0.4}. At most
    12 terms are drawn; values that are missing or not finite are left out.
    """
    panels = list(_panels(history).items())
    if not panels:
        figure, axes = new_figure(1, 1, 1.2)
        axes[0].axis("off")
        axes[0].text(0.5, 0.5, "nothing was logged", ha="center", va="center", color=REAL, fontsize=12)
        return rendered(figure)
    # A curve of one update says nothing, unless the run had no more.
    panels = [panel for panel in panels if len({step for steps, _ in panel[1].values() for step in steps}) > 1] or panels
    shown = panels[:12]
    columns = min(len(shown), 2 if len(shown) in (2, 4) else 3)
    rows = math.ceil(len(shown) / columns)
    figure, axes = new_figure(rows, columns, 3.4 if rows == 1 else 2.5)
    last = max(step for _, curves in shown for steps, _ in curves.values() for step in steps[-1:])
    for ax, (term, curves) in zip(axes, shown, strict=False):
        _curves(ax, term, curves, last)
    for ax in axes[len(shown) :]:
        ax.axis("off")
    hidden = ", ".join(term for term, _ in panels[12:])
    figure.supxlabel("update" + (shorten(f"   (not shown: {hidden})", 140) if hidden else ""), fontsize=9)
    return rendered(figure)


Curve = tuple[np.ndarray, np.ndarray]  # steps, values


def _panels(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Panels by term, each with its training and validation curves."""
    curves: dict[str, Curve] = {}
    keys = list(dict.fromkeys(key for row in history for key in row))
    for key in keys:
        pairs = [(row["step"], row[key]) for row in history if "step" in row and _number(row.get(key))]
        if pairs and key not in ("step", "seconds", "epoch"):
            steps, values = np.array(pairs, dtype=float).T
            curves[key] = (steps, values)
    training = [key for key in curves if not key.startswith("validation/")]
    panels = {key: {"training": curves[key]} for key in training}
    for key in curves:
        if key.startswith("validation/"):
            term = key.removeprefix("validation/")
            twins = [other for other in training if other == term] or [o for o in training if o.endswith(f"/{term}")]
            if len(twins) == 1:
                panels[twins[0]]["validation"] = curves[key]
            else:
                panels[key] = {"validation": curves[key]}
    # Losses first, rates and speeds last, the rest as it came.
    return dict(sorted(panels.items(), key=lambda panel: (not panel[0].endswith("/loss")) + ("/" not in panel[0])))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _curves(ax: Axes, term: str, curves: Mapping[str, Curve], last: float) -> None:
    bold: dict[str, np.ndarray] = {}
    for name, (steps, values) in curves.items():
        colour = OTHER if name == "validation" else MODEL
        smooth = bold[name] = _moving_mean(values)
        few = len(values) < 3
        if smooth is not values:
            ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        dots: dict[str, Any] = {"marker": "o", "markersize": 4} if few or (name == "validation" and len(values) < 30) else {}
        ax.plot(steps, smooth, color=colour, linewidth=1.8, label=name, zorder=4 if name == "validation" else 3, **dots)
    # A steep beginning would press the rest flat: log where all is positive and spans decades, else the limits follow
    # what comes after the first twentieth.
    every = np.concatenate(list(bold.values()))
    rate = "/" not in term  # the learning rate, the speed: zero is their natural floor
    settled = np.concatenate([b[len(b) // 20 :] for b in bold.values()])
    if rate and every.min() >= 0:
        ax.set_ylim(0, 1.08 * max(values.max() for _, values in curves.values()) or 1)
    elif every.min() > 0 and every.max() / every.min() > 50:
        ax.set_yscale("log")
    else:
        raw = np.concatenate([values[len(values) // 20 :] for _, values in curves.values()])
        low, high = min(settled.min(), np.quantile(raw, 0.01)), max(settled.max(), np.quantile(raw, 0.99))
        if high > low and np.ptp(every) > 2 * (high - low):
            ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    steps = next(iter(curves.values()))[0]
    if len(steps) > 4 and np.median(steps) * 12 < steps[-1] and steps[0] > 0:
        ax.set_xscale("log")  # logged ever more rarely
    else:
        ax.set_xlim(0, last * 1.02 or 1)
    ax.set_title(shorten(term.replace("/", " / ").replace("_", " "), 32), loc="left", fontsize=10, fontweight="bold")
    ends = " · ".join(f"{values[-1]:.4g}" for values in bold.values())
    ax.set_title(ends, loc="right", fontsize=9, color="#555555")
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=8, loc="best")
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.7)


def _moving_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a window of a twentieth of the curve, narrower at the ends; short curves are left as they are."""
    half = len(values) // 40
    if half == 0:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    left = np.minimum(half, i)  # the steep beginning keeps its shape; the end is as smooth as the middle
    right = np.minimum(left, len(values) - 1 - i)
    return (total[i + right + 1] - total[i - left]) / (left + right + 1)


def scatters(panels: Sequence[tuple[str, np.ndarray]], names: Sequence[str], reference: int = 0) -> Image.Image:
    """Scatter plots (n, 2) side by side with equal axes and the same limits, those of panel `reference` with a margin.

    Points are coloured by their density. How many lie outside the limits is said below each panel.
    """
    limits = _limits(panels[reference][1])
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    shape = float(np.clip(np.ptp(limits[1]) / np.ptp(limits[0]), 0.4, 1.2))
    figure, axes = new_figure(rows, columns, min(6.0, INCHES * (0.95 if columns > 1 else 0.75) / columns * shape + 0.5))
    for ax, (title, points) in zip(axes, panels, strict=False):
        points = points[np.isfinite(points).all(1)]
        density = _density(points, limits)
        order = np.argsort(density)
        size = float(np.clip(9000 / max(len(points), 1), 2.5, 24)) * (1 if columns < 3 else 0.5)
        ax.scatter(points[order, 0], points[order, 1], c=density[order], s=size, cmap=_blues(), vmin=0, linewidths=0)
        ax.set_xlim(*limits[0])
        ax.set_ylim(*limits[1])
        ax.set_aspect("equal")
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
        outside = int(((points < limits[:, 0]) | (points > limits[:, 1])).any(1).sum())
        label = names[0] if names else ""
        ax.set_xlabel(f"{label}   ({outside} of {len(points)} outside)" if outside else label, fontsize=9)
        if names:
            ax.set_ylabel(names[1], fontsize=9)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    return rendered(figure)


def _limits(points: np.ndarray) -> np.ndarray:
    """(2, 2): low and high of each axis around the points, with a margin of a tenth of the wider one."""
    points = points[np.isfinite(points).all(1)]
    if len(points) == 0:
        return np.array([[-1.0, 1.0], [-1.0, 1.0]])
    low, high = points.min(0), points.max(0)
    margin = max(0.1 * float((high - low).max()), 1e-6)
    return np.stack([low - margin, high + margin], 1)


def _density(points: np.ndarray, limits: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    bins = 100
    histogram, *_ = np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=[tuple(axis) for axis in limits.tolist()])
    smooth = gaussian_filter(histogram, 2)
    at = ((points - limits[:, 0]) / (limits[:, 1] - limits[:, 0]) * bins).astype(int).clip(0, bins - 1)
    return smooth[at[:, 0], at[:, 1]]


def _blues() -> Any:
    """From blue to yellow, all of it visible on white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.12, 0.85, 256)))


def histograms(columns: Sequence[Column], samples: np.ndarray, real: np.ndarray | None) -> Image.Image:
    """One panel a column (the first 12): samples (n, D) over real (m, D); categories as bars, `missing` as its rate."""
    shown = list(columns)[:12]
    across = min(len(shown), 4)
    figure, axes = new_figure(math.ceil(len(shown) / across), across, 3.2 if len(shown) <= across else 2.5)
    for j, (ax, column) in enumerate(zip(axes, shown, strict=False)):
        both = [(samples[:, j], MODEL, "samples")] + ([(real[:, j], REAL, "data")] if real is not None else [])
        (_bars if column.kind == "category" else _histogram)(ax, column, both)
        ax.set_title(shorten(column.name, 26), loc="left", fontsize=10, fontweight="bold")
        ax.set_ylim(bottom=0)
    if real is not None:
        axes[0].legend(frameon=False, fontsize=8)
    for ax in axes[len(shown) :]:
        ax.axis("off")
    if len(columns) > len(shown):
        figure.supxlabel(f"and {len(columns) - len(shown)} more columns", fontsize=8, color=REAL)
    return rendered(figure)


def _histogram(ax: Axes, column: Column, both: Sequence[tuple[np.ndarray, str, str]]) -> None:
    finite = [values[np.isfinite(values)] for values, _, _ in both]
    reference = finite[-1] if len(finite[-1]) else np.concatenate(finite)
    if len(reference) == 0:
        return
    low, high = reference.min(), reference.max()
    if column.integer and high - low <= 40:
        edges = np.arange(low - 0.5, high + 1)
    else:
        span, bins = (high - low) or 1.0, int(np.clip(1.5 * math.sqrt(len(reference)), 10, 40))
        edges = np.linspace(low - 0.15 * span, high + 0.15 * span, bins + 1)
    for (values, colour, name), kept in zip(both, finite, strict=True):
        weights = np.full(len(kept), 1 / max(len(kept), 1))
        filled: dict[str, Any] = (
            {"histtype": "stepfilled", "alpha": 0.45} if name == "data" else {"histtype": "step", "linewidth": 1.6}
        )
        ax.hist(kept, edges.tolist(), weights=weights, color=colour, label=name, **filled)
        said = [f"{1 - len(kept) / max(len(values), 1):.0%} missing"] if column.missing else []
        outside = ((kept < edges[0]) | (kept > edges[-1])).mean() if len(kept) else 0.0
        said += [f"{100 * outside:.3g}% outside"] if outside else []
        at = 0.97 if name == "samples" else 0.86
        ax.text(0.98, at, ", ".join(said), transform=ax.transAxes, ha="right", va="top", fontsize=8, color=colour)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def _bars(ax: Axes, column: Column, both: Sequence[tuple[np.ndarray, str, str]]) -> None:
    size, width = len(column.categories), 0.8 / len(both)
    rates = [np.bincount(v[np.isfinite(v)].astype(int).clip(0, size - 1), minlength=size) / max(len(v), 1) for v, _, _ in both]
    order = np.argsort(-rates[-1], kind="stable")[:10]  # the most frequent ones
    for k, ((_, colour, name), rate) in enumerate(zip(both, rates, strict=True)):
        offset = (k - (len(both) - 1) / 2) * width
        ax.bar(np.arange(len(order)) + offset, rate[order], width, color=colour, label=name)
    long = len(order) > 4
    names = [shorten(column.categories[i], 12 if long else 36 // len(order)) for i in order]
    ax.set_xticks(range(len(order)), names, rotation=45 if long else 0, ha="right" if long else "center", fontsize=7)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def series_panels(panels: Sequence[tuple[str, np.ndarray]], columns: Sequence[Column], lines: int = 6) -> Image.Image:
    """Several series (n, L, D) a panel: panels across, columns (the first 4) down, the same limits along a row."""
    shown = list(columns)[:4]
    figure, axes = new_figure(len(shown), len(panels), 3.4 if len(shown) == 1 else 2.2)
    for d, column in enumerate(shown):
        row = axes[d * len(panels) : (d + 1) * len(panels)]
        values = np.concatenate([series[:lines, :, d].ravel() for _, series in panels])
        values = values[np.isfinite(values)]
        for ax, (title, series) in zip(row, panels, strict=True):
            for i, one in enumerate(series[:lines]):
                ax.plot(one[:, d], color=SERIES[i % len(SERIES)], linewidth=1.1, alpha=0.9)
            if len(values) and values.max() > values.min():
                margin = 0.05 * (values.max() - values.min())
                ax.set_ylim(values.min() - margin, values.max() + margin)
            if d == 0:
                ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
            if d == len(shown) - 1:
                ax.set_xlabel("step", fontsize=9)
        row[0].set_ylabel(shorten(column.name, 24), fontsize=9)
    return rendered(figure)


def overlaid_series(left: np.ndarray, right: np.ndarray, labels: Sequence[str], columns: Sequence[Column]) -> Image.Image:
    """One panel an item (the first 6): two series (n, L, D) over each other, in the first column."""
    n = min(len(left), 6)
    figure, axes = new_figure(math.ceil(n / 3), min(n, 3), 2.6)
    for i, ax in enumerate(axes[:n]):
        ax.plot(right[i, :, 0], color=REAL, linewidth=2.2, label=labels[1])
        ax.plot(left[i, :, 0], color=MODEL, linewidth=1.2, label=labels[0])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    axes[0].set_ylabel(shorten(columns[0].name, 24) if columns else "", fontsize=9)
    for ax in axes[n:]:
        ax.axis("off")
    return rendered(figure)


def linked_points(left: np.ndarray, right: np.ndarray, labels: Sequence[str], names: Sequence[str]) -> Image.Image:
    """Two sets of points (n, 2), a line from each to its partner."""
    figure, axes = new_figure(1, 1, 6.5)
    ax = axes[0]
    ax.plot(*np.stack([left, right], 1).transpose(2, 1, 0), color="#cccccc", linewidth=0.7, zorder=1)
    ax.scatter(right[:, 0], right[:, 1], s=14, color=REAL, label=labels[1], linewidths=0, zorder=2)
    ax.scatter(left[:, 0], left[:, 1], s=14, color=MODEL, label=labels[0], linewidths=0, zorder=3)
    ax.set_aspect("equal", "datalim")
    if names:
        ax.set_xlabel(names[0], fontsize=9)
        ax.set_ylabel(names[1], fontsize=9)
    ax.legend(frameon=False, fontsize=9)
    return rendered(figure)


def column_against_column(left: np.ndarray, right: np.ndarray, labels: Sequence[str], columns: Sequence[Column]) -> Image.Image:
    """One panel a column (the first 12): the right value over the left one of each item, and the line of equality."""
    shown = list(columns)[:12]
    across = min(len(shown), 4)
    figure, axes = new_figure(math.ceil(len(shown) / across), across, 2.9)
    for j, (ax, column) in enumerate(zip(axes, shown, strict=False)):
        x, y = left[:, j], right[:, j]
        keep = np.isfinite(x) & np.isfinite(y)
        x, y = x[keep], y[keep]
        if column.kind == "category":  # spread a little, so that a cell shows how many it holds
            spread = np.random.default_rng(0).uniform(-0.3, 0.3, (2, len(x)))
            x, y = x + spread[0], y + spread[1]
            names = [shorten(name, 11) for name in column.categories]
            ax.set_xticks(range(len(names)), names, fontsize=7)
            ax.set_yticks(range(len(names)), names, fontsize=7)
        if len(x):
            low, high = min(x.min(), y.min()), max(x.max(), y.max())
            ax.plot([low, high], [low, high], color="#cccccc", linewidth=1, zorder=1)
        ax.scatter(x, y, s=10, color=MODEL, alpha=0.5, linewidths=0, zorder=2)
        ax.set_title(shorten(column.name, 26), loc="left", fontsize=10, fontweight="bold")
        ax.set_xlabel(labels[0], fontsize=8)
        ax.set_ylabel(labels[1], fontsize=8)
    for ax in axes[len(shown) :]:
        ax.axis("off")
    return rendered(figure)


def paths(values: np.ndarray, real: np.ndarray | None, names: Sequence[str]) -> Image.Image:
    """Paths (n, k, 2) in the plane, each with its beginning and end, over the data (m, 2)."""
    figure, axes = new_figure(1, 1, 6.5)
    ax = axes[0]
    if real is not None:
        ax.scatter(real[:, 0], real[:, 1], s=6, color="#cccccc", linewidths=0, zorder=1)
    for i, path in enumerate(values):
        colour = SERIES[i % len(SERIES)]
        ax.plot(path[:, 0], path[:, 1], marker="o", markersize=3, linewidth=1.2, color=colour, zorder=2)
        ax.scatter(path[[0, -1], 0], path[[0, -1], 1], s=36, color=colour, zorder=3)
    ax.set_aspect("equal", "datalim")
    if names:
        ax.set_xlabel(names[0], fontsize=9)
        ax.set_ylabel(names[1], fontsize=9)
    return rendered(figure)


def columns_over_steps(
    values: np.ndarray, columns: Sequence[Column], states: Sequence[str], labels: Sequence[str] | None = None, band: int = 0
) -> Image.Image:
    """One panel a column (the first 12): its value in each of k states, a colour an item.

    values: (n, k, D). states: what the k are called. labels: of the n. band: so many following rows are one item, the second
    of them dashed (what it is to be compared with).
    """
    shown, band, k = list(columns)[:12], max(1, band), values.shape[1]
    across = min(len(shown), 4)
    figure, axes = new_figure(math.ceil(len(shown) / across), across, 2.6)
    fits = max(2, 36 // (1 + max(map(len, states))))  # of their labels, side by side
    ticks = range(0, k, -(-k // fits))
    for j, (ax, column) in enumerate(zip(axes, shown, strict=False)):
        for i, item in enumerate(values[: 8 * band]):
            colour, label = SERIES[i // band % len(SERIES)], labels[i] if labels else None
            if i % band:
                ax.plot(item[:, j], color=colour, label=label, linestyle="--", linewidth=1.0)
            else:
                ax.plot(item[:, j], color=colour, label=label, linewidth=1.4, marker="o", markersize=2.5)
        if column.kind == "category":
            ax.set_yticks(range(len(column.categories)), [shorten(name, 11) for name in column.categories], fontsize=7)
        ax.set_xticks(ticks, [states[i] for i in ticks], fontsize=7)
        ax.set_xlim(-0.3, k - 0.7)
        ax.set_title(shorten(column.name, 26), loc="left", fontsize=10, fontweight="bold")
    handles, names = axes[0].get_legend_handles_labels()
    if labels and band > 1:  # one colour an item: what the line says is all there is to explain
        handles, names = handles[:band], [f"{labels[i]} ({'-' * 2 if i else 'solid'})" for i in range(band)]
    if labels:
        figure.legend(handles, names, loc="outside upper left", ncols=8, frameon=False, fontsize=8)
    for ax in axes[len(shown) :]:
        ax.axis("off")
    return rendered(figure)


def new_figure(rows: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of 1210 pixels' width, and its panels in reading order."""
    from matplotlib.figure import Figure

    width = INCHES if columns > 1 else INCHES * 0.75
    figure = Figure(figsize=(width, rows * height), dpi=DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.02, hspace=0.04)  # type: ignore[call-arg, union-attr]
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#999999")
        ax.tick_params(labelsize=8, color="#999999", labelcolor="#444444")
    return figure, axes


def rendered(figure: Figure) -> Image.Image:
    """The picture of a figure, in memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
