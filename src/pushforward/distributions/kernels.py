"""How far apart two sets are by the similarity of their members: maximum mean discrepancy and energy distance.

With a kernel k (Gretton et al. 2012),

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),

unbiased when pairs of a datum with itself are left out (may then be negative), biased by O(1/n) and never negative with them.
The energy distance (Szekely and Rizzo 2013) is that of k(x, y) = -|x - y|, with no bandwidth to choose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.errors import UserError

Kernel = Callable[[Tensor, Tensor], Tensor]


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """|x_i - y_j|^2 as |x|^2 + |y|^2 - 2 x.y, in the type of x.

    The expansion loses digits far from the origin, so it is about the mean of y, and in float64: that of points which are
    close to each other and far from that mean would come out as noise in float32."""
    dtype, centre = x.dtype, y.double().mean(0).detach()
    x, y = x.double() - centre, y.double() - centre
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0).to(dtype)


def rbf(*bandwidths: float) -> Kernel:
    """The mean over bandwidths s of exp(-|x - y|^2 / (2 s^2)): one, or several scales at once (Li et al. 2015)."""
    if not bandwidths or min(bandwidths) <= 0:
        raise UserError(f"bandwidths {bandwidths} were given; a Gaussian kernel needs at least one, above 0.")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = squared_distances(x, y)
        return torch.stack([torch.exp(-squared / (2 * s**2)) for s in bandwidths]).mean(0)

    return kernel


def rational_quadratic(*alphas: float, scale: float = 1.0) -> Kernel:
    """The mean over alphas of (1 + |x - y|^2 / (2 alpha scale^2))^-alpha: a mixture of Gaussian kernels of all bandwidths
    (Binkowski et al. 2018 take alphas 0.2, 0.5, 1, 2, 5 at scale 1)."""
    if not alphas or min(alphas) <= 0 or scale <= 0:
        raise UserError(f"alphas {alphas} and scale {scale} were given; a rational quadratic kernel needs them above 0.")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = squared_distances(x, y) / scale**2
        return torch.stack([(1 + squared / (2 * a)) ** -a for a in alphas]).mean(0)

    return kernel


def polynomial(degree: int = 3, offset: float = 1.0) -> Kernel:
    """(x . y / d + offset)^degree; the cubic one with offset 1 is KID's (Binkowski et al. 2018, arXiv:1801.01401)."""
    return lambda x, y: (x @ y.T / x.shape[1] + offset) ** degree


def median_bandwidth(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], most: int = 1000) -> float:
    """The median distance between members of both sets together (at most the first `most` of each): a usual bandwidth.

    Raises UserError where most of them coincide.
    """
    both = torch.cat([x[:most], y[:most]]).double()
    i, j = torch.triu_indices(len(both), len(both), 1)
    median = float(squared_distances(both, both)[i, j].median().sqrt())
    if median == 0:
        raise UserError("more than half of the points coincide, so their median distance is 0; give the bandwidth yourself.")
    return median


def mmd2(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], kernel: Kernel, *, unbiased: bool = True) -> Float[Tensor, ""]:
    """The squared maximum mean discrepancy, in float64. Differentiable."""
    x, y = x.double(), y.double()
    if unbiased and min(len(x), len(y)) < 2:
        raise UserError(f"{len(x)} and {len(y)} points were given; the unbiased discrepancy needs two on each side.")
    return _within(kernel(x, x), unbiased) + _within(kernel(y, y), unbiased) - 2 * kernel(x, y).mean()


def _within(gram: Tensor, unbiased: bool) -> Tensor:
    if not unbiased:
        return gram.mean()
    n = len(gram)
    return (gram.sum() - gram.diagonal().sum()) / (n * (n - 1))


def mmd2_of_subsets(
    xx: Float[Tensor, "n n"],
    yy: Float[Tensor, "m m"],
    xy: Float[Tensor, "n m"],
    rows: Float[Tensor, "k n"],
    columns: Float[Tensor, "k m"],
) -> Float[Tensor, " k"]:
    """The unbiased `mmd2` of k subsets of x with k of y, given as rows of zeros and ones, from the kernel's values of all:
    resampling computes those once."""
    n, m = rows.sum(1), columns.sum(1)
    pairs_x = ((rows @ xx) * rows).sum(1) - rows @ xx.diagonal()  # as the ones are their own squares
    pairs_y = ((columns @ yy) * columns).sum(1) - columns @ yy.diagonal()
    between = ((rows @ xy) * columns).sum(1) / (n * m)
    return pairs_x / (n * (n - 1)) + pairs_y / (m * (m - 1)) - 2 * between


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, unbiased: bool = True) -> Float[Tensor, ""]:
    """2 E|x - y| - E|x - x'| - E|y - y'|: 0 for equal distributions only. In one dimension it is 2 int (F - G)^2."""
    return mmd2(x, y, lambda a, b: -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist"), unbiased=unbiased)
