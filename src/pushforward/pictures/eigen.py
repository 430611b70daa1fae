"""What a Gaussian knows: its mean and leading eigen-directions as pictures, and samples with few directions beside many."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.pictures import grids


def draw_eigen_images(spec: DataSpec, mean: Any, directions: Any) -> Image.Image:
    """The mean (C, H, W) in the model's units, [-1, 1], and after it directions (k, C, H, W): 0 is the middle grey, and each is
    stretched until its largest entry is black or white."""
    if spec.kind != "image":
        raise UserError(f"eigen-images were asked for of {spec.kind} data; only images have them.")
    mean, directions = np.asarray(mean, np.float64), np.asarray(directions, np.float64)
    scale = np.abs(directions).reshape(len(directions), -1).max(1).clip(1e-12)
    every = np.concatenate([mean[None], directions / scale[:, None, None, None]])
    levels = np.rint((every.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return grids.image_grid(levels, dataclasses.replace(spec, levels=256))


def draw_truncations(spec: DataSpec, samples: Mapping[int, Any]) -> Image.Image:
    """Samples with so many directions (codes (n, C, H, W) by number), the sets side by side."""
    parts = [grids.captioned(grids.image_grid(np.asarray(s), spec, columns=6), f"{k} directions") for k, s in samples.items()]
    return grids.joined(parts)
