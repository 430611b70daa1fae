"""What a flow begins from at t = 1: standard normal noise, or any law that can be drawn from.

Flow matching asks nothing of the law at its end but draws: with s ~ source and x_t = alpha x0 + sigma s the velocity
alpha' E[x0 | x_t] + sigma' E[s | x_t] carries the one law to the other (Albergo et al. 2023, arXiv:2303.08797; Tong et al.
2024, arXiv:2302.00482). What is Gaussian of it is the score alone, -E[noise | x_t] / sigma, and with it all SDEs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.data import toys
from pushforward.data.spec import DataSpec
from pushforward.dynamics.likelihood import standard_normal
from pushforward.errors import UserError, nearest
from pushforward.randomness import Rng

Draw = Callable[[int, Rng], Any]
"""n draws (n, *shape), a tensor, from an rng: row i from its row i."""


@runtime_checkable
class Source(Protocol):
    """A law at t = 1, in the model's units."""

    def draw(self, n: int, rng: Rng) -> Tensor: ...

    def log_prob(self, z: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Normal:
    """N(0, I), of any shape."""

    shape: tuple[int, ...]

    def draw(self, n: int, rng: Rng) -> Tensor:
        return rng.randn(n, *self.shape)

    def log_prob(self, z: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
        return standard_normal(z)


@dataclass(frozen=True)
class Toy:
    """A two-dimensional law of `data/toys.py`, each coordinate standardised as that of data is."""

    name: str

    def draw(self, n: int, rng: Rng) -> Float[Tensor, "n 2"]:
        made = toys.toy(self.name)
        u = rng.rand(n, made.draws, dtype=torch.float64).clamp(min=2.0**-53)  # a normal is drawn by its inverse CDF
        mean, scale = self._units(u)
        return ((torch.as_tensor(made.make(u.cpu().numpy())).to(u) - mean) / scale).float()

    def log_prob(self, z: Float[Tensor, "b 2"]) -> Float[Tensor, "b"]:
        mean, scale = self._units(z)
        return toys.log_density(self.name, z * scale + mean).to(z) + scale.log().sum()

    def _units(self, like: Tensor) -> tuple[Tensor, Tensor]:
        columns = toys.columns(self.name)
        return torch.tensor([c.mean for c in columns]).to(like), torch.tensor([c.scale for c in columns]).to(like)


@dataclass(frozen=True)
class Drawn:
    """A law known by draws alone."""

    drawing: Draw

    def draw(self, n: int, rng: Rng) -> Tensor:
        return self.drawing(n, rng)

    def log_prob(self, z: Tensor) -> Tensor:
        raise UserError("this flow begins at a law that is known by draws alone; without a density of it there is no log_prob.")


@dataclass(frozen=True)
class Rows:
    """A sample (N, *shape) drawn from with replacement."""

    rows: Tensor

    def __call__(self, n: int, rng: Rng) -> Tensor:
        return self.rows.to(rng.device)[rng.randint(len(self.rows), n)]


def find_source(source: str | Draw, spec: DataSpec) -> Source:
    """The law at t = 1 of a flow to data of this spec: "normal", the name of a toy (of points of two coordinates), or draws
    (n, rng) -> (n, *spec.shape) in the model's units, `Rows` of a sample, say. Raises UserError for what is none of these."""
    if not isinstance(source, str):
        if isinstance(source, Rows) and (not len(source.rows) or tuple(source.rows.shape[1:]) != tuple(spec.shape)):
            raise UserError(
                f"a source of shape {tuple(source.rows.shape)} was given for data of shape {tuple(spec.shape)}; give such rows."
            )
        if not callable(source):
            raise UserError(f"a flow begins at a law by name or by a function (n, rng) -> x, not at a {type(source).__name__}.")
        return Drawn(source)
    if source == "normal":
        return Normal(tuple(spec.shape))
    if source not in toys.NAMES:
        raise UserError(f"a flow cannot begin at '{source}'; {nearest(source, ('normal', *toys.NAMES))}")
    if tuple(spec.shape) != (2,):
        raise UserError(
            f"'{source}' is a law of two numbers, '{spec.name}' has shape {tuple(spec.shape)}; leave source at 'normal'."
        )
    return Toy(source)
