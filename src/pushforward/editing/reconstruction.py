"""How far data are from what their codes give back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Num
from torch import Tensor

if TYPE_CHECKING:
    from pushforward.training.runs import Run


@dataclass
class Errors:
    """squared (n,): mean squared error of each datum in the model's units. psnr (n,): of images, in dB. same: share of the
    levels, categories or tokens that come back as they were; None for data without."""

    squared: Float[Tensor, " n"]
    psnr: Float[Tensor, " n"] | None
    same: float | None

    def lines(self) -> list[str]:
        """In words."""
        n = len(self.squared)
        error = self.squared.std(unbiased=n > 1).item() / math.sqrt(n) if n > 1 else 0.0
        said = [f"mean squared error {self.squared.mean().item():.4g} +- {error:.2g} (model units, {n} data)"]
        if self.psnr is not None:
            said.append(f"PSNR {self.psnr.mean().item():.2f} dB (mean over images)")
        if self.same is not None:
            said.append(f"{100 * self.same:.1f} % of the values come back exactly")
        return said


def errors(run: Run, x: Num[Tensor, "n *shape"], again: Num[Tensor, "n *shape"]) -> Errors:
    """Of data and their reconstructions, both in levels.

    psnr = 10 log10((L - 1)^2 / mean squared difference of levels), L the number of levels.
    """
    difference = run.units.to_model(x).float() - run.units.to_model(again).float()
    squared = difference.flatten(1).square().mean(1)
    psnr = None
    if run.spec.kind == "image":  # the model's units are 2 wide: (L - 1)^2 levels are 4
        psnr = 10 * torch.log10(4.0 / squared.clamp(min=1e-10))
    same = (x == again).float().mean().item() if run.units.discrete else None
    return Errors(squared, psnr, same)
