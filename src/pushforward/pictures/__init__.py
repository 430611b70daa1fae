"""Pictures of data, samples and training: legible on their own, the same on every machine."""

from pushforward.pictures.draw import draw_pairs, draw_samples, draw_trajectory
from pushforward.pictures.grids import image_grid
from pushforward.pictures.plots import draw_history

__all__ = ["draw_history", "draw_pairs", "draw_samples", "draw_trajectory", "image_grid"]
