"""Grids of times, from noise to data: where the steps of a solver begin and end.

uniform      in t
quadratic    t is the square of an even grid
log-snr      even in log(sigma / alpha)                                 Lu et al. 2022, arXiv:2206.00927
karras       even in (sigma / alpha)^(1 / 7)                            Karras et al. 2022, arXiv:2206.00364
leading      of a diffusion in T steps: every (T // steps)-th, from 1   Lin et al. 2024, arXiv:2305.08891, table 2
trailing     every (T / steps)-th, back from T
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.paths import Path, noise_ratio, time_of
from pushforward.errors import UserError, nearest

SPACINGS = ("uniform", "quadratic", "log-snr", "karras", "leading", "trailing")
BY_RATIO = ("log-snr", "karras")
LEAST_RATIO, MOST_RATIO = 0.002, 80.0  # EDM's: of less noise data of size 1 show nothing, of more they leave nothing
RHO = 7.0
MOST_LEVELS = 1000  # T of a diffusion, where none is named


def check_grid(steps: int, spacing: str, levels: int = MOST_LEVELS) -> None:
    """Raises UserError for a number of steps, or a spacing, that there is not."""
    if steps < 1:
        raise UserError(f"steps is the number of the solver's steps, 1 or more; {steps} was given.")
    if spacing not in SPACINGS:
        raise UserError(f"times cannot be spaced '{spacing}'; {nearest(spacing, SPACINGS)}")
    if spacing in ("leading", "trailing") and steps > levels:
        raise UserError(
            f"{steps} steps cannot be chosen among the {levels} of a diffusion; give {levels} or fewer, or other times."
        )


def time_grid(
    span: tuple[float, float],
    steps: int,
    spacing: str = "uniform",
    like: Tensor | None = None,
    *,
    path: Path | None = None,
    levels: int = MOST_LEVELS,
) -> Tensor:
    """steps + 1 times from the noise's end of `span` (t_min, t_max) to the data's, of `like`'s dtype and device.

    Args:
        span: (t_min, t_max), as `Denoiser.span`.
        steps: 1 or more.
        spacing: "uniform"; "quadratic": shorter steps towards the data; "log-snr" and "karras": even in the logarithm, or the
            seventh root, of the path's noise ratio; "leading" and "trailing": the times of a diffusion in T steps, k / T.
        like: a tensor of the wanted type; None: float32.
        path: of which the noise ratio is, needed for "log-snr" and "karras".
        levels: T, of "leading" and "trailing".

    >>> time_grid((0.0, 1.0), 4, "quadratic")
    tensor([1.0000, 0.5625, 0.2500, 0.0625, 0.0000])
    >>> time_grid((0.0, 1.0), 4, "leading", levels=1000)
    tensor([0.7510, 0.5010, 0.2510, 0.0010, 0.0000])
    """
    check_grid(steps, spacing, levels)
    low, high = span
    if spacing in BY_RATIO:
        if path is None:
            raise UserError(f"spacing '{spacing}' goes by the noise ratio of a path; give the path.")
        times = _by_ratio(path, span, steps, RHO if spacing == "karras" else None)
    elif spacing in ("leading", "trailing"):
        k = torch.arange(steps, dtype=torch.float64)
        numbers = k * (levels // steps) + 1 if spacing == "leading" else ((k + 1) * levels / steps).round()
        times = torch.cat([torch.zeros(1, dtype=torch.float64), numbers / levels]).clamp(low, high).flip(0)
    else:
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        times = (low + (high - low) * (u if spacing == "uniform" else u**2)).flip(0)
    return times.float() if like is None else times.to(like)


def _by_ratio(path: Path, span: tuple[float, float], steps: int, rho: float | None) -> Float[Tensor, "k"]:
    """Between the ratios of the span's ends, as far as they are within EDM's; the ends themselves at the ends."""
    ends = torch.tensor(span, dtype=torch.float64)
    least, most = noise_ratio(path, ends).tolist()
    # towards data without any noise the last step is from the least ratio to none
    open_ended = least < LEAST_RATIO and steps > 1
    bounds = torch.tensor([min(most, MOST_RATIO), max(least, LEAST_RATIO)], dtype=torch.float64)
    u = torch.linspace(0, 1, steps if open_ended else steps + 1, dtype=torch.float64)
    if rho is None:
        ratios = (bounds[0].log() + u * (bounds[1] / bounds[0]).log()).exp()
    else:
        first, last = bounds ** (1 / rho)
        ratios = (first + u * (last - first)) ** rho
    inner = time_of(path, ratios[1:] if open_ended else ratios[1:-1])
    return torch.cat([ends[1:], inner, ends[:1]])
