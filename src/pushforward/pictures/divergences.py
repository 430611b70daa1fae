"""Pictures of distances between distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from pushforward.pictures.plots import MODEL, OTHER, REAL, SERIES, new_figure, rendered

Histogram = tuple[np.ndarray, np.ndarray]  # edges (k + 1), masses (k)


def draw_histograms_apart(panels: Sequence[tuple[str, Histogram, Histogram]]) -> Image.Image:
    """One panel a pair of histograms (edges, masses), drawn as densities over each other."""
    figure, axes = new_figure(1, len(panels), 2.8)
    for ax, (title, p, q) in zip(axes, panels, strict=True):
        for (edges, masses), colour in ((p, REAL), (q, MODEL)):
            ax.stairs(masses / np.diff(edges), edges, fill=True, color=colour, alpha=0.5)
        ax.set_title(title, loc="left", fontsize=9, fontweight="bold")
        ax.set_yticks([])
    return rendered(figure)


def draw_curves(x: np.ndarray, panels: Sequence[tuple[str, str, Mapping[str, np.ndarray]]]) -> Image.Image:
    """One panel (title, label of x, named curves over x) each; curves that are infinite are left out there."""
    figure, axes = new_figure(1, len(panels), 3.2)
    colours = (MODEL, OTHER, *SERIES[2:])
    for ax, (title, label, curves) in zip(axes, panels, strict=True):
        for (name, y), colour in zip(curves.items(), colours, strict=False):
            ax.plot(x, np.where(np.isfinite(y), y, np.nan), label=name, color=colour, linewidth=1.8)
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
        ax.set_xlabel(label, fontsize=9)
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize=8)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    return rendered(figure)
