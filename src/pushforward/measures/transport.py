"""How far the samples have to be moved to become the data.

Sliced Wasserstein distance (Rabin et al. 2012; Bonneel et al. 2015): on a line the cheapest transport sorts both sides, so
W2 is exact there; SW2^2 = E_theta W2^2(theta . x, theta . y) is its mean over random directions on the unit sphere. Two
Gaussians shifted by v in d dimensions are at |v| / sqrt(d). Exact W2 solves the assignment (POT's network simplex), for a
few hundred points.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from pushforward.distributions.kernels import squared_distances
from pushforward.distributions.transport import line_cost, transport_plan
from pushforward.errors import UserError
from pushforward.measures.intervals import half_interval
from pushforward.measures.measure import Measure, paired
from pushforward.randomness import mix

PROJECTIONS = 256
EXACT = 400


def directions(dimensions: int, projections: int = PROJECTIONS, seed: int = 0) -> Float[np.ndarray, "d p"]:
    """Random unit vectors, a function of the seed (in one dimension there is only one). By numpy's generator, as in all figures
    that are on record: other directions would move them."""
    theta = np.random.default_rng(mix(seed, 0x51CE, dimensions)).standard_normal((dimensions, projections))
    return theta / np.linalg.norm(theta, axis=0) if dimensions > 1 else np.ones((1, 1))


def exact_wasserstein(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """The 2-Wasserstein distance of two small sets, in the units of x, by POT's exact solver (O(n^3))."""
    if len(x) + len(y) > 10_000:
        raise UserError(f"exact transport of {len(x)} onto {len(y)} points takes too long; give at most 5,000 each.")
    return float(transport_plan(squared_distances(torch.from_numpy(x), torch.from_numpy(y)))[1].sqrt())


def sliced_wasserstein(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], seed: int = 0) -> float:
    """The sliced 2-Wasserstein distance of two sets, in the units of x."""
    theta = directions(x.shape[1], PROJECTIONS, seed)
    return float(line_cost(torch.from_numpy(x @ theta), torch.from_numpy(y @ theta), 2).mean().sqrt())


def sliced(samples: np.ndarray, train: np.ndarray, real: np.ndarray, seed: int, space: str) -> list[Measure]:
    """The sliced Wasserstein distance of `samples` to `real`, beside that of `train`."""
    theta = directions(real.shape[1], PROJECTIONS, seed)
    flat = torch.from_numpy(real @ theta)

    def interval(x: np.ndarray) -> tuple[float, float, float]:
        projected = torch.from_numpy(x @ theta)

        def distance(i: np.ndarray, j: np.ndarray) -> float:
            return float(line_cost(projected[i], flat[j], 2).mean().sqrt())

        value = distance(np.arange(len(x)), np.arange(len(real)))
        return value, *half_interval(distance, (len(x), len(real)), value, seed, low=0.0)

    how = f"{theta.shape[1]} random directions, W2 exact on each, {space}"
    return [paired("sliced Wasserstein", interval(samples), interval(train), "lower", space, len(samples), how, "transport")]


def exact(samples: np.ndarray, train: np.ndarray, real: np.ndarray, seed: int, space: str) -> list[Measure]:
    """Exact W2 of a few hundred `samples` to `real`, beside that of `train`: in few dimensions only, as it needs n ~ exp(d)."""

    def interval(x: np.ndarray) -> tuple[float, float, float]:
        x, y = x[:EXACT], real[:EXACT]
        value = exact_wasserstein(x, y)
        sizes = (len(x), len(y))
        return value, *half_interval(lambda i, j: exact_wasserstein(x[i], y[j]), sizes, value, seed, times=12, low=0.0)

    n = min(EXACT, len(samples))
    how = f"exact optimal transport of {n} points, {space}"
    return [paired("Wasserstein", interval(samples), interval(train), "lower", space, n, how, "transport")]
