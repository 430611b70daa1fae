"""Are the samples like the data, and are all the data there? Distances between two sets of features.

Frechet distance: that of two Gaussians with the sets' moments, |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) (Heusel et al. 2017,
arXiv:1706.08500). tr (S S')^(1/2) is the sum of the singular values of R R'^T for any R^T R = S, so with the triangular R
of a QR decomposition no covariance is formed and no matrix root is taken.

Kernel distance (KID): the unbiased squared maximum mean discrepancy under k(x, y) = (x . y / d + 1)^3 (Binkowski et al.
2018, arXiv:1801.01401), over all pairs at once instead of an average over subsets.

Precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): the share of samples inside some real datum's ball, whose
radius is the distance to its k-th neighbour; and the share of real data inside some sample's ball. Density and coverage
(Naeem et al. 2020, arXiv:2002.09797): how many real balls hold a sample, over k; and the share of real balls that hold one.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.distributions.gaussians import squared_w2
from pushforward.distributions.kernels import mmd2_of_subsets, polynomial, squared_distances
from pushforward.errors import UserError
from pushforward.measures.intervals import RESAMPLES, around, half_interval, halves
from pushforward.measures.measure import Measure, paired

NEIGHBOURS = 5


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """The Frechet distance of two sets of features: 0 for the same Gaussian, lower is better.

    Its expectation on finite sets is too large by about c / n: compare it at one n only, and with the floor.
    """
    if min(len(x), len(y)) < 2:
        raise UserError("a Frechet distance needs at least two data on each side.")

    (mean_x, root_x), (mean_y, root_y) = (_moments(torch.from_numpy(z)) for z in (x, y))
    return float(squared_w2(mean_x, root_x, mean_y, root_y))


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and R with R^T R = the covariance, which is not formed."""
    mean = z.mean(0)
    return mean, torch.linalg.qr((z - mean) / (len(z) - 1) ** 0.5, mode="r").R


def kernel_interval(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], seed: int) -> tuple[float, float, float]:
    """KID and its 95 % interval; the kernels are computed once for all halves."""
    if min(len(x), len(y)) < 2:
        raise UserError("a kernel distance needs at least two data on each side.")
    rows, columns = np.ones((1 + RESAMPLES, len(x))), np.ones((1 + RESAMPLES, len(y)))  # the first: all of them
    for i, (half_x, half_y) in enumerate(halves((len(x), len(y)), seed), 1):
        rows[i], columns[i] = np.isin(np.arange(len(x)), half_x), np.isin(np.arange(len(y)), half_y)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    kernel = polynomial(3, 1.0)
    grams = kernel(a, a), kernel(b, b), kernel(a, b)
    value, *replicates = mmd2_of_subsets(*grams, torch.from_numpy(rows), torch.from_numpy(columns)).tolist()
    return (value, *around(value, np.array(replicates)))


def neighbourhoods(real: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], k: int = NEIGHBOURS) -> dict[str, float]:
    """precision, recall, density and coverage of `samples` against `real`, with balls that reach the k-th neighbour.

    Raises UserError where a set has no k-th neighbour.
    """
    return dict(zip(NEIGHBOURHOODS, _neighbourhoods(*_pairs(real, samples, k), k).tolist(), strict=True))


NEIGHBOURHOODS = ("precision", "recall", "density", "coverage")


def _pairs(real: np.ndarray, samples: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if min(len(real), len(samples)) <= k:
        raise UserError(f"balls around {k} neighbours need more than {k} data; there are {min(len(real), len(samples))}.")
    a, b = torch.from_numpy(real), torch.from_numpy(samples)
    within_real, within_samples = squared_distances(a, a).numpy(), squared_distances(b, b).numpy()
    np.fill_diagonal(within_real, 0)
    np.fill_diagonal(within_samples, 0)
    return within_real, within_samples, squared_distances(a, b).numpy()


def _neighbourhoods(within_real: np.ndarray, within_samples: np.ndarray, between: np.ndarray, k: int) -> np.ndarray:
    # The nearest neighbour of all is the datum itself, so the k-th other one is at position k.
    real_radius = np.partition(within_real, k, axis=1)[:, k]
    sample_radius = np.partition(within_samples, k, axis=1)[:, k]
    in_real_ball = between < real_radius[:, None]
    precision = in_real_ball.any(0).mean()
    recall = (between < sample_radius[None]).any(1).mean()
    density = in_real_ball.sum(0).mean() / k
    coverage = (between.min(1) < real_radius).mean()
    return np.array([precision, recall, density, coverage])


def neighbourhood_intervals(
    real: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], seed: int, k: int = NEIGHBOURS
) -> dict[str, tuple[float, float, float]]:
    """precision, recall, density and coverage, each with its 95 % interval; distances are computed once."""
    within_real, within_samples, between = _pairs(real, samples, k)
    value = _neighbourhoods(within_real, within_samples, between, k)
    if min(len(real), len(samples)) // 2 <= k:
        raise UserError(f"precision and recall over {k} neighbours need at least {2 * k + 2} data on each side.")
    replicates = np.stack(
        [
            _neighbourhoods(within_real[np.ix_(i, i)], within_samples[np.ix_(j, j)], between[np.ix_(i, j)], k)
            for i, j in halves((len(real), len(samples)), seed)
        ]
    )
    highest = {"density": np.inf}
    return {
        name: (float(value[c]), *around(float(value[c]), replicates[:, c], 0.0, highest.get(name, 1.0)))
        for c, name in enumerate(NEIGHBOURHOODS)
    }


def frechet(samples: np.ndarray, train: np.ndarray, real: np.ndarray, seed: int, space: str) -> list[Measure]:
    """The Frechet distance of `samples` to `real`, beside that of `train`."""
    # One resample costs O(d^3): fewer of them for the 2,048 features of Inception.
    times = RESAMPLES if real.shape[1] <= 512 else 8

    def interval(x: np.ndarray) -> tuple[float, float, float]:
        value = frechet_distance(x, real)
        sizes = (len(x), len(real))
        return value, *half_interval(lambda i, j: frechet_distance(x[i], real[j]), sizes, value, seed, times, low=0.0)

    how = f"Gaussian moments of {space}; too large by about c/n, so compare at one n"
    name = "FID" if space.startswith("inception") else "Frechet distance"
    return [paired(name, interval(samples), interval(train), "lower", "squared features", len(samples), how, "fidelity")]


def kid(samples: np.ndarray, train: np.ndarray, real: np.ndarray, seed: int, space: str) -> list[Measure]:
    """The kernel distance of `samples` to `real`, beside that of `train`."""
    how = f"unbiased MMD^2, kernel (x.y/d + 1)^3, {space}; may be negative"
    ours, floor = kernel_interval(samples, real, seed), kernel_interval(train, real, seed)
    return [paired("KID", ours, floor, "lower", "MMD^2", len(samples), how, "fidelity")]


def balls(samples: np.ndarray, train: np.ndarray, real: np.ndarray, seed: int, space: str) -> list[Measure]:
    """Precision, recall, density and coverage of `samples` against `real`, beside those of `train`."""
    ours, floor = neighbourhood_intervals(real, samples, seed), neighbourhood_intervals(real, train, seed)
    how = f"balls to the {NEIGHBOURS}th neighbour, {space}"
    unit = {"density": "balls / k"}
    return [
        paired(name, ours[name], floor[name], "higher", unit.get(name, "share"), len(samples), how, "fidelity")
        for name in NEIGHBOURHOODS
    ]
