"""Log-determinants that are estimated: what their noise is drawn from.

A trace is the mean of v^T J v over v of unit covariance (Hutchinson). What estimates a log-determinant so asks for its noise
here: within `drawing(bijection, rng)` it comes from that rng, so that an update's is a function of (seed, step) and several
draws of a density differ; otherwise it is a function of the datum.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from pushforward.bijections.base import Bijection
from pushforward.distributions.likelihoods import keys_of
from pushforward.randomness import Rng, normals, uniforms


class Estimated(Bijection):
    """A bijection whose log-determinant is exact in few dimensions, and in more an estimate without bias."""

    rng: Rng | None = None

    def estimates(self) -> bool:
        """Whether its log-determinants are estimates, in this mode (training or eval)."""
        raise NotImplementedError

    def normal(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """Standard normal numbers beside x."""
        if self.rng is not None:
            return self.rng.randn_like(x)
        return normals(keys_of(x), math.prod(x.shape[1:]), 0).to(x.dtype).view_as(x)

    def uniform(self, x: Float[Tensor, "b *shape"], alike: bool = False) -> Float[Tensor, " r"]:
        """A uniform number in (0, 1] for each row of x, or with `alike` one for all of them."""
        if self.rng is None:
            return uniforms(keys_of(x[:1] if alike else x), 1, 1)[:, 0]
        return 1 - (self.rng.shared(1) if alike else self.rng.rand(len(x)))


@contextlib.contextmanager
def drawing(bijection: Bijection, rng: Rng) -> Iterator[None]:
    """Within it, whatever log-determinants `bijection` estimates draw their noise from `rng`."""
    parts = [part for part in bijection.modules() if isinstance(part, Estimated)]
    for part in parts:
        part.rng = rng
    try:
        yield
    finally:
        for part in parts:
            part.rng = None


def estimates(bijection: Bijection) -> bool:
    """Whether any part of it estimates, in this mode."""
    return any(part.estimates() for part in bijection.modules() if isinstance(part, Estimated))
