"""Monotone rational-quadratic splines: bent lines of one number, with inverses in closed form.

[-B, B] is cut into K bins with knots (x_k, y_k) that rise in both and slopes d_k > 0 at them. With s_k the mean slope of a
bin, (y_{k+1} - y_k) / (x_{k+1} - x_k), and xi = (x - x_k) / (x_{k+1} - x_k) the place in it (eq. 4 and 5),

    y       = y_k + (y_{k+1} - y_k) [s_k xi^2 + d_k xi (1 - xi)] / [s_k + (d_{k+1} + d_k - 2 s_k) xi (1 - xi)],
    dy / dx = s_k^2 [d_{k+1} xi^2 + 2 s_k xi (1 - xi) + d_k (1 - xi)^2] / [s_k + (d_{k+1} + d_k - 2 s_k) xi (1 - xi)]^2.

Outside y = x; the slopes at +-B are 1, so that y has one derivative everywhere. The inverse is the root of a quadratic.

Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", arXiv:1906.04032.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pushforward.bijections.elementwise import Elementwise
from pushforward.distributions.likelihoods import soft_clamp, wide
from pushforward.errors import UserError

SHARE = 1e-3  # the least share of 2B that a bin has, in x and in y
LEAST = 1e-3  # slope at a knot
LIMIT = 1e3  # parameters of slopes are bent into +-LIMIT
ONE = math.log(math.expm1(1 - LEAST))  # LEAST + softplus(ONE) = 1


class RationalQuadraticSpline(Elementwise):
    """K widths, K heights and K - 1 slopes at inner knots for each number; all 0: the identity.

    Widths and heights are softmaxes of their parameters, mixed with SHARE of 2B each; slopes softplus of theirs, which are bent
    into +-LIMIT, above LEAST. So no parameters make a bin of no size or an infinite slope.

    Args:
        bins: K, 2 to 500.
        bound: B. Data beyond it are left as they are: it should hold nearly all of them.

    Raises UserError for other numbers of bins, and a bound that is not positive.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0):
        if not 2 <= bins <= 0.5 / SHARE:
            raise UserError(f"a spline of {bins} bins was asked for; it has 2 to {int(0.5 / SHARE)}: give bins = 8, say.")
        if not 0 < bound < float("inf"):
            raise UserError(f"a spline's bound is a positive number, not {bound}: give bound = 5, say.")
        self.bins, self.bound, self.parameters = bins, bound, 3 * bins - 1

    def forward(self, x: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> tuple[Float[Tensor, "*x"], Float[Tensor, "*x"]]:
        x = wide(x)
        within = x.clamp(-self.bound, self.bound)  # or gradients of what is far outside would be 0 * inf
        (left, bottom), (width, height), (start, end) = self.bin(within, params, 0)
        slope = height / width
        xi = ((within - left) / width).clamp(0, 1)
        rest = 1 - xi
        both = xi * rest
        # Written as sums of positive terms: nothing cancels.
        below = slope * (xi**2 + rest**2) + (start + end) * both
        y = bottom + height * (slope * xi**2 + start * both) / below
        above = end * xi**2 + 2 * slope * both + start * rest**2
        log_slope = 2 * (slope / below).log() + above.log()
        inside = within == x
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0)

    def inverse(self, y: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> Float[Tensor, "*x"]:
        y = wide(y)
        within = y.clamp(-self.bound, self.bound)
        (left, bottom), (width, height), (start, end) = self.bin(within, params, 1)
        slope = height / width
        eta = ((within - bottom) / height).clamp(0, 1)
        # a xi^2 + b xi = slope eta with a = slope - b: of two expressions for its positive root the one that cancels nothing.
        b = start - eta * (start + end - 2 * slope)
        root = (b**2 + 4 * (slope - b) * slope * eta).clamp_min(0).sqrt()
        positive = b > 0
        xi = torch.where(positive, 2 * slope * eta, root - b) / torch.where(positive, b + root, 2 * (slope - b))
        return torch.where(within == y, left + width * xi, y)

    def bin(self, at: Float[Tensor, "*x"], params: Float[Tensor, "*x k"], axis: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the bins where x (axis 0) or y (axis 1) are: the lower left corners, the sizes, and the slopes at both ends, each
        (2, *x)."""
        # The bins come first, so that all is done along the long axes; and of them only what is asked for is made.
        sizes, slopes = wide(params).movedim(-1, 0).split([2 * self.bins, self.bins - 1])
        shares = SHARE + (1 - self.bins * SHARE) * sizes.unflatten(0, (2, self.bins)).softmax(1)
        with torch.no_grad():
            inner = self.bound * (2 * shares[axis, :-1].cumsum(0) - 1)
            index = (at >= inner).sum(0, keepdim=True)
        before = torch.arange(self.bins, device=at.device).reshape(-1, *(1 for _ in at.shape)) < index
        corners = self.bound * (2 * (shares * before).sum(1) - 1)
        size = 2 * self.bound * shares.gather(1, index.expand(2, 1, *at.shape)).squeeze(1)
        edge = torch.zeros_like(slopes[:1])
        slopes = torch.cat([edge, slopes, edge]).gather(0, torch.cat([index, index + 1]))
        return corners, size, LEAST + F.softplus(soft_clamp(slopes, -LIMIT, LIMIT) + ONE)
