"""Pictures of samplers of known densities: where the points go, and what their law is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from pushforward.pictures.plots import INCHES, MODEL, OTHER, REAL, new_figure, rendered


def draw_clouds(
    panels: Sequence[tuple[str, np.ndarray]], log_density: Callable[[np.ndarray], np.ndarray] | None = None, columns: int = 3
) -> Image.Image:
    """Points (n, 2) in panels with the same limits, those of the first with a margin, over the density's contours.

    log_density: (B, 2) -> (B,), normalised or not. How many points lie outside is said below each panel.
    """
    first = panels[0][1]
    centre, half = (first.min(0) + first.max(0)) / 2, 0.58 * float(np.ptp(first, axis=0).max())
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, INCHES / columns + 0.25)
    for ax, (title, points) in zip(axes, panels, strict=False):
        if log_density is not None:
            across, up = (np.linspace(c - half, c + half, 161) for c in centre)
            grid = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2)
            heights = log_density(grid).reshape(161, 161)
            levels = heights.max() - np.array([8.0, 4.5, 2.0, 0.5])
            ax.contour(across, up, heights, levels=levels, colors=REAL, linewidths=0.7, linestyles="solid")
        ax.scatter(
            points[:, 0], points[:, 1], s=float(np.clip(4000 / len(points), 1.5, 20)), color=MODEL, alpha=0.5, linewidths=0
        )
        ax.set_xlim(centre[0] - half, centre[0] + half)
        ax.set_ylim(centre[1] - half, centre[1] + half)
        ax.set_aspect("equal")
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
        outside = int((np.abs(points - centre) > half).any(1).sum())
        if outside:
            ax.set_xlabel(f"{outside} of {len(points)} outside", fontsize=9)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    return rendered(figure)


def draw_laws(
    panels: Sequence[tuple[str, np.ndarray]], density: Callable[[np.ndarray], np.ndarray], low: float, high: float
) -> Image.Image:
    """Histograms of points on a line (n,), each over the density (B,) -> (B,) that they should have."""
    figure, axes = new_figure(1, len(panels), 3.2)
    x = np.linspace(low, high, 401)
    for ax, (title, points) in zip(axes, panels, strict=True):
        counts, edges = np.histogram(points, bins=60, range=(low, high))
        ax.stairs(counts / len(points) / np.diff(edges), edges, fill=True, color=MODEL, alpha=0.45)
        ax.plot(x, density(x), color=OTHER, linewidth=1.8)
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
        ax.set_yticks([])
        ax.set_ylim(0, 1.25 * float(density(x).max()))
    return rendered(figure)
