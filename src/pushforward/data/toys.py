"""Two-dimensional distributions with a known density: each is a map from uniform numbers, x = G(u), and a log p(x).

Where a curve generates the points, x = c(u) + noise, the density is the integral of the noise's density along the curve,
p(x) = int_0^1 q(x - c(u)) du, done by Gauss-Legendre quadrature (its error is far below float32 here). The pinwheel is a
shear of Gaussians whose inverse is found by bisection: p(x) = sum over roots of q(root) / |det|.

ring8 and grid25 are the ring and grid of Che et al. 2017 and PacGAN (Lin et al. 2018); the others are those of
FFJORD (Grathwohl et al. 2019), with its scales.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import log_ndtr, logsumexp, ndtri
from torch import Tensor

from pushforward.data import assembly
from pushforward.data.batches import STREAM, ArraySplit, Data
from pushforward.data.options import Options
from pushforward.data.spec import Column, DataSpec
from pushforward.errors import UserError, nearest
from pushforward.randomness import mix, uniforms

HELD_OUT = 10_000  # fresh draws kept aside to validate and to test on, where the training set is a stream


@dataclass(frozen=True)
class Toy:
    """draws: how many uniforms a point needs. make: (N, draws) in (0, 1) -> (N, 2). log_density: (N, 2) -> nats (N,).
    centres (K, 2) and sd, where the distribution is K equal round Gaussians."""

    draws: int
    make: Callable[[np.ndarray], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]
    centres: np.ndarray | None = None
    sd: float | None = None


def _log_normal(x: np.ndarray, sd: float) -> np.ndarray:
    return -0.5 * ((x / sd) ** 2).sum(-1) - x.shape[-1] * math.log(sd * math.sqrt(2 * math.pi))


def _mixture(centres: np.ndarray, sd: float) -> Toy:
    def make(u: np.ndarray) -> np.ndarray:
        return centres[(u[:, 0] * len(centres)).astype(int)] + sd * ndtri(u[:, 1:])

    def log_density(x: np.ndarray) -> np.ndarray:
        return logsumexp(_log_normal(x[:, None] - centres, sd), axis=1) - math.log(len(centres))

    return Toy(3, make, log_density, centres, sd)


def _curve(path: Callable[[np.ndarray], np.ndarray], sd: float, nodes: int) -> Toy:
    """path(u) is the curve, u ~ U(0, 1), with a round Gaussian around it."""
    u, weights = _legendre(nodes)
    curve = path(u)

    def log_density(x: np.ndarray) -> np.ndarray:
        return logsumexp(_log_normal(x[:, None] - curve, sd), axis=1, b=weights)

    return Toy(3, lambda u: path(u[:, 0]) + sd * ndtri(u[:, 1:]), log_density)


def _legendre(nodes: int, low: float = 0.0, high: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return low + (points + 1) / 2 * (high - low), weights / 2 * (high - low)


def _circle(n: int, radius: float) -> np.ndarray:
    angle = 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def _moon(u: np.ndarray, which: int) -> np.ndarray:
    t = np.pi * u
    moon = [np.cos(t), np.sin(t)] if which == 0 else [1 - np.cos(t), 0.5 - np.sin(t)]
    return 2 * np.stack(moon, -1) + np.array([-1.0, -0.2])


def _moons() -> Toy:
    halves = [_curve(functools.partial(_moon, which=which), 0.2, 128) for which in (0, 1)]

    def make(u: np.ndarray) -> np.ndarray:
        return np.where(u[:, :1] < 0.5, halves[0].make(u[:, 1:]), halves[1].make(u[:, 1:]))

    return Toy(4, make, lambda x: np.logaddexp(halves[0].log_density(x), halves[1].log_density(x)) - math.log(2))


def _roll(u: np.ndarray) -> np.ndarray:
    t = 1.5 * np.pi * (1 + 2 * u)
    return np.stack([t * np.cos(t), t * np.sin(t)], -1) / 5


def _checkerboard() -> Toy:
    def make(u: np.ndarray) -> np.ndarray:
        across = u[:, 0] * 4 - 2
        up = u[:, 1] - 2 * np.floor(u[:, 2] * 2) + np.floor(across) % 2
        return 2 * np.stack([across, up], -1)

    def log_density(x: np.ndarray) -> np.ndarray:
        inside = (np.abs(x) < 4).all(-1) & ((np.floor(x / 2).sum(-1) % 2) == 0)
        return np.where(inside, -math.log(32), -np.inf)

    return Toy(3, make, log_density)


def _spirals(box: float = 0.5 / 3, sd: float = 0.1) -> Toy:
    """Two arms, each blurred by a uniform box on its outer side and a Gaussian; the box and Gaussian in closed form."""

    def arm(root: np.ndarray) -> np.ndarray:
        t = 3 * np.pi * root
        return np.stack([-np.cos(t) * t, np.sin(t) * t], -1) / 3

    def make(u: np.ndarray) -> np.ndarray:
        sign = np.where(u[:, :1] < 0.5, 1.0, -1.0)
        return sign * (arm(np.sqrt(u[:, 1])) + box * u[:, 2:4]) + sd * ndtri(u[:, 4:])

    root, weights = _legendre(512)
    curve, density = arm(root), weights * 2 * root  # u = root^2, du = 2 root d(root)

    def one(x: np.ndarray) -> np.ndarray:
        centred = np.abs(x[:, None] - curve - box / 2)
        # nodes whose share is below e^-40 of the nearest one's are left out before the costly part
        energy = 0.5 * ((np.maximum(centred - box / 2, 0) / sd) ** 2).sum(-1)
        row, node = np.nonzero(energy < energy.min(1, keepdims=True) + 45)
        near, far = (box / 2 - centred[row, node]) / sd, (-box / 2 - centred[row, node]) / sd
        upper = log_ndtr(near)
        log_blur = (upper + np.log1p(-np.exp(log_ndtr(far) - upper)) - math.log(box)).sum(-1) + np.log(density[node])
        starts = np.searchsorted(row, np.arange(len(x)))
        highest = np.maximum.reduceat(log_blur, starts)
        return highest + np.log(np.add.reduceat(np.exp(log_blur - highest[row]), starts))

    return Toy(6, make, lambda x: np.logaddexp(one(x), one(-x)) - math.log(2))


def _pinwheel(blades: int = 5, radial: float = 0.3, tangential: float = 0.1, rate: float = 0.25) -> Toy:
    """A blade is f ~ N((1, 0), diag(radial^2, tangential^2)), turned by -(its angle + rate exp(f_0)), times 2.

    The Jacobian of the turn is 1 + f_1 rate exp(f_0); the roots f_0 of f_0 = |x| cos(arg x + angle + rate exp(f_0)) give
    back every f that lands on x.
    """
    base = 2 * np.pi * np.arange(blades) / blades

    def make(u: np.ndarray) -> np.ndarray:
        f = ndtri(u[:, 1:]) * [radial, tangential] + [1.0, 0.0]
        angle = base[(u[:, 0] * blades).astype(int)] + rate * np.exp(f[:, 0])
        cos, sin = np.cos(angle), np.sin(angle)
        return 2 * np.stack([f[:, 0] * cos + f[:, 1] * sin, -f[:, 0] * sin + f[:, 1] * cos], -1)

    grid = np.linspace(1 - 8 * radial, 1 + 8 * radial, 321)

    def log_density(x: np.ndarray) -> np.ndarray:
        radius, angle = np.hypot(x[:, 0], x[:, 1]) / 2, np.arctan2(x[:, 1], x[:, 0])
        phase = angle[:, None] + base  # (N, blades)

        def gap(f0: np.ndarray, radius: np.ndarray, phase: np.ndarray) -> np.ndarray:
            return f0 - radius * np.cos(phase + rate * np.exp(f0))

        sign = gap(grid, radius[:, None, None], phase[..., None]) > 0
        row, blade, at = np.nonzero(sign[..., 1:] != sign[..., :-1])
        low, high, r, p = grid[at], grid[at + 1], radius[row], phase[row, blade]
        up = sign[row, blade, at + 1]
        for _ in range(50):
            middle = (low + high) / 2
            right = (gap(middle, r, p) > 0) == up
            high, low = np.where(right, middle, high), np.where(right, low, middle)
        f0 = (low + high) / 2
        f1 = r * np.sin(p + rate * np.exp(f0))
        log_q = -0.5 * ((f0 - 1) / radial) ** 2 - 0.5 * (f1 / tangential) ** 2 - math.log(2 * np.pi * radial * tangential)
        log_q = log_q - np.log(np.abs(1 + f1 * rate * np.exp(f0)) + 1e-300) - math.log(4 * blades)
        out = np.full(len(x), -np.inf)
        np.logaddexp.at(out, row, log_q)
        return out

    return Toy(3, make, log_density)


_GRID = np.stack(np.meshgrid(np.arange(-4.0, 5.0, 2.0), np.arange(-4.0, 5.0, 2.0), indexing="ij"), -1).reshape(-1, 2)
_MAKERS: dict[str, Callable[[], Toy]] = {
    "ring8": lambda: _mixture(_circle(8, 1.0), 0.01),
    "grid25": lambda: _mixture(_GRID, 0.05),
    "eight-gaussians": lambda: _mixture(_circle(8, 4 / 1.414), 0.5 / 1.414),
    "moons": _moons,
    "checkerboard": _checkerboard,
    "swiss-roll": lambda: _curve(_roll, 0.2, 512),
    "spirals": _spirals,
    "pinwheel": _pinwheel,
}
NAMES = tuple(_MAKERS)


@functools.cache
def toy(name: str) -> Toy:
    """The distribution of that name."""
    if name not in _MAKERS:
        raise UserError(f"'{name}' is not a toy distribution; {nearest(name, NAMES)}")
    return _MAKERS[name]()


def mode_centres(name: str) -> Tensor:
    """Where the modes are (K, 2), in the data's units, for counting which ones a model found.

    >>> mode_centres("ring8").shape, mode_sd("ring8")
    (torch.Size([8, 2]), 0.01)
    """
    centres = toy(name).centres
    if centres is None:
        known = [other for other in NAMES if toy(other).centres is not None]
        raise UserError(f"'{name}' has no separate modes to count; {', '.join(known)} have.")
    return torch.as_tensor(centres, dtype=torch.float32)


def mode_sd(name: str) -> float:
    """The standard deviation of each mode."""
    mode_centres(name)
    return float(toy(name).sd or 0.0)


def log_density(name: str, codes: Tensor, chunk: int = 2048) -> Tensor:
    """Exact log-density in nats, codes (B, 2) in the data's units -> (B,) in float64."""
    x = codes.detach().cpu().double().numpy()
    parts = [toy(name).log_density(x[at : at + chunk]) for at in range(0, len(x), chunk)]
    return torch.as_tensor(np.concatenate(parts) if parts else np.empty(0), device=codes.device)


@dataclass
class ToyStream:
    """A split that never ends: point i is a function of (key, i)."""

    name: str
    key: int

    def __len__(self) -> int:
        return STREAM

    def fetch(self, indices: Tensor) -> tuple[Tensor, None]:
        made = toy(self.name)
        points = made.make(uniforms(indices.long().cpu(), made.draws, self.key).numpy())
        return torch.as_tensor(points, dtype=torch.float32, device=indices.device), None


@functools.cache
def columns(name: str) -> tuple[Column, ...]:
    """The coordinates, with the mean and deviation by which they are standardised."""
    points = ToyStream(name, mix(0xC01)).fetch(torch.arange(2**17))[0].double()
    means, scales = points.mean(0).tolist(), points.std(0).tolist()
    return tuple(
        Column(f"x{j}", "number", mean=round(mean, 3), scale=round(scale, 3))
        for j, (mean, scale) in enumerate(zip(means, scales, strict=True))
    )


def load_toy(name: str, options: Options) -> Data:
    """A toy as an endless stream with held-out draws beside it, or as `n` points that are split like any set."""
    options.forbid(f"the points of '{name}'", "label", "attributes", "caption", "image", "target_image", "size", "mode")
    options.forbid(f"the points of '{name}'", "columns", "categories", "numbers", "series", "context", "test_source", "kind")
    notes: list[str] = []
    splits: dict[str, Any] = {"train": ToyStream(name, mix(options.seed, 1))}
    n = options.n if options.limit is None else min(options.limit, options.n or options.limit)
    if n is None:
        for number, part in enumerate(("validation", "test"), start=2):
            draws = ToyStream(name, mix(options.seed, number)).fetch(torch.arange(HELD_OUT))[0]
            splits[part] = ArraySplit(draws)
    else:
        points = splits["train"].fetch(torch.arange(n))[0]
        splits = assembly.divide({"train": ArraySplit(points)}, options, notes)
    spec = DataSpec("point", (2,), columns=columns(name), name=name)
    return assembly.assemble(spec, splits, notes, log_density=functools.partial(log_density, name))
