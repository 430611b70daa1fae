"""How far mass has to be carried: the distances of optimal transport.

    W_p(mu, nu)^p = min over couplings of E |x - y|^p

is a linear programme. On a line the cheapest coupling sorts both sides, W_p^p = int_0^1 |F^-1(u) - G^-1(u)|^p du. Of two finite
sets POT solves it exactly, or with an entropy term by Sinkhorn's iterations (Cuturi 2013). Sliced distances average, or
maximise, the line's over directions (Rabin et al. 2012; Deshpande et al. 2019). W_1 has a dual (Kantorovich and Rubinstein
1958),

    W_1(mu, nu) = max over 1-Lipschitz f of E_mu f - E_nu f,

solved here as a linear programme on a finite set, and by training a network that cannot but be 1-Lipschitz: layers with
orthogonal rows and activations that sort pairs, which lose no gradient norm (Anil, Lucas and Grosse 2019, arXiv:1811.05381).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.distributions.divergences import checked_simplex
from pushforward.errors import UserError
from pushforward.randomness import Rng


def line_cost(
    x: Float[Tensor, "n *k"],
    y: Float[Tensor, "m *k"],
    order: float = 1.0,
    p: Float[Tensor, " _"] | None = None,
    q: Float[Tensor, " _"] | None = None,
) -> Float[Tensor, "*k"]:
    """W_order^order of the columns of x and y (points on lines, any numbers of them, with weights p and q), exactly.

    Differentiable in x and y. Its root `** (1 / order)` is the distance. Raises UserError for an order below 1, at which
    sorting both sides is not the cheapest coupling.

    >>> line_cost(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 2.0]), order=2)
    tensor(4., dtype=torch.float64)
    """
    if not order >= 1:
        raise UserError(f"order={order} was given; a transport distance's is 1 or more.")
    x, y = x.double(), y.double()
    if p is None and q is None and len(x) == len(y):
        return (_sorted(x) - _sorted(y)).abs().pow(order).mean(0)
    columns = x.shape[1:]
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    if p is None and q is None:
        # Both quantile functions are steps: i/n < q <= (i+1)/n. In units of 1/(n m) their corners are integers.
        n, m = len(x), len(y)
        corners = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
        widths = corners.diff(prepend=corners.new_zeros(1)).double() / (n * m)
        gaps = _sorted(x)[(corners - 1) // m] - _sorted(y)[(corners - 1) // n]
        return (widths @ gaps.abs().pow(order)).reshape(columns)
    (x, levels_x), (y, levels_y) = _quantiles(x, p, "p"), _quantiles(y, q, "q")
    # Between neighbouring levels of either quantile function, both are constant.
    levels = torch.cat([levels_x, levels_y], 1).sort(1).values
    widths = levels.diff(dim=1, prepend=torch.zeros_like(levels[:, :1]))
    middles = levels - widths / 2
    at_x = torch.searchsorted(levels_x, middles).clamp(max=x.shape[1] - 1)
    at_y = torch.searchsorted(levels_y, middles).clamp(max=y.shape[1] - 1)
    return (widths * (x.gather(1, at_x) - y.gather(1, at_y)).abs().pow(order)).sum(1).reshape(columns)


def _sorted(x: Tensor) -> Tensor:
    """Along the first axis; by numpy where it can be, which takes a fifth of the time."""
    if x.requires_grad or x.device.type != "cpu":
        return x.sort(0).values
    return torch.from_numpy(np.sort(x.numpy(), axis=0))


def _quantiles(x: Tensor, weights: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Columns (n, k) as sorted rows (k, n), and the level up to which the quantile function has each value."""
    values, order = x.T.contiguous().sort(1)
    if weights is None:
        levels = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device).expand_as(values) / len(x)
    else:
        if weights.shape != x.shape[:1]:
            raise UserError(f"{name} has {weights.numel()} weights for {len(x)} points; give one each.")
        levels = checked_simplex(weights, name)[order].cumsum(1)
        levels = levels / levels[:, -1:]
    return values, levels.contiguous()


def _root(cost: Tensor, order: float) -> Tensor:
    """cost^(1/order), with gradient 0 at 0, where the root's own is infinite and the chain rule's NaN."""
    return torch.where(cost > 0, torch.where(cost > 0, cost, 1.0) ** (1 / order), 0.0)


def wasserstein_1d(
    x: Float[Tensor, " n"],
    y: Float[Tensor, " m"],
    order: float = 1.0,
    p: Float[Tensor, " _"] | None = None,
    q: Float[Tensor, " _"] | None = None,
) -> Float[Tensor, ""]:
    """The distance W_order of points on a line, exactly, in the units of x."""
    return _root(line_cost(x, y, order, p, q), order)


def histogram_w1(
    edges_p: Float[Tensor, " k1"], p: Float[Tensor, " k"], edges_q: Float[Tensor, " j1"], q: Float[Tensor, " j"]
) -> Float[Tensor, ""]:
    """W_1 = int |F - G| of two histograms whose masses p, q are spread evenly over their bins, exactly.

    >>> float(histogram_w1(torch.tensor([0.0, 1.0]), torch.tensor([1.0]), torch.tensor([0.0, 2.0]), torch.tensor([1.0])))
    0.5
    """
    edges = torch.cat([edges_p, edges_q]).double().unique()
    gap = _step_cdf(edges, edges_p, p) - _step_cdf(edges, edges_q, q)  # linear between the edges
    a, b = gap[:-1], gap[1:]
    size = a.abs() + b.abs()
    crossing = (a**2 + b**2) / torch.where(size > 0, size, 1.0) / 2  # two triangles, where F crosses G
    return (torch.where(a * b >= 0, size / 2, crossing) * edges.diff()).sum()


def _step_cdf(x: Tensor, edges: Tensor, masses: Tensor) -> Tensor:
    edges, masses = edges.double(), checked_simplex(masses, "a histogram")
    if len(edges) != len(masses) + 1 or not bool((edges.diff() > 0).all()):
        raise UserError(f"{len(masses)} bins need {len(masses) + 1} rising edges; there are {len(edges)}.")
    covered = ((x[:, None] - edges[:-1]) / edges.diff()).clamp(0, 1)
    return (covered * masses).sum(1)


def transport_plan(
    cost: Float[Tensor, "n m"], p: Float[Tensor, " _"] | None = None, q: Float[Tensor, " _"] | None = None
) -> tuple[Float[Tensor, "n m"], Float[Tensor, ""]]:
    """The cheapest plan and its cost, exactly, by POT's network simplex (O(n^3)): rows sum to p, columns to q (or evenly)."""
    import ot

    p, q = _masses(cost, p, q)
    plan = torch.from_numpy(ot.emd(p.numpy(), q.numpy(), _on_cpu(cost).numpy(), numItermax=10_000_000))
    return plan.to(cost.device), (plan * _on_cpu(cost)).sum().to(cost.device)


def sinkhorn(
    cost: Float[Tensor, "n m"],
    p: Float[Tensor, " _"] | None = None,
    q: Float[Tensor, " _"] | None = None,
    *,
    epsilon: float,
    iterations: int = 10_000,
) -> tuple[Float[Tensor, "n m"], Float[Tensor, ""]]:
    """The plan that minimises <plan, cost> + epsilon sum plan (log plan - 1), and its <plan, cost>: above the exact cost, and
    falling to it with epsilon. In logarithms, by POT.

    Raises UserError where the plan's marginals are still off by more than 1e-3 of the mass after `iterations`."""
    import ot

    if epsilon <= 0:
        raise UserError(f"epsilon={epsilon} was given; it is above 0, in the units of the cost (transport_plan is its limit).")
    p, q = _masses(cost, p, q)
    c = _on_cpu(cost)
    plan = ot.sinkhorn(p.numpy(), q.numpy(), c.numpy(), epsilon, method="sinkhorn_log", numItermax=iterations, warn=False)
    made = torch.from_numpy(plan)
    missing = float(max((made.sum(1) - p).abs().sum(), (made.sum(0) - q).abs().sum()))
    if not missing <= 1e-3:
        raise UserError(
            f"Sinkhorn's plan moves {missing:.2g} of the mass amiss after {iterations} iterations with epsilon={epsilon:g}; "
            "raise iterations or epsilon, or take transport_plan."
        )
    return made.to(cost.device), (made * c).sum().to(cost.device)


def _on_cpu(cost: Tensor) -> Tensor:
    return cost.detach().double().cpu().contiguous()


def _masses(cost: Tensor, p: Tensor | None, q: Tensor | None) -> tuple[Tensor, Tensor]:
    made = []
    for name, given, size in (("p", p, cost.shape[0]), ("q", q, cost.shape[1])):
        if given is not None and given.shape != (size,):
            raise UserError(f"{name} has {given.numel()} masses and the cost matrix {size} places for them; give one each.")
        weights = torch.full((size,), 1 / size) if given is None else given.detach().cpu()
        weights = checked_simplex(weights, name)
        made.append(weights / weights.sum())  # float32 masses of both sides would differ in their sums
    return made[0], made[1]


def unit_directions(dimensions: int, count: int, rng: Rng) -> Float[Tensor, "d c"]:
    """Random unit vectors as columns, common to all rows (in one dimension there is only one)."""
    if dimensions == 1:
        return torch.ones(1, 1, device=rng.device)
    theta = torch.special.ndtri(rng.shared(dimensions, count).double().clamp(min=2**-26)).float()
    return theta / theta.norm(dim=0)


def sliced_wasserstein(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], rng: Rng, *, order: float = 2.0, projections: int = 256
) -> Float[Tensor, ""]:
    """(mean over random directions of W_order^order of the shadows)^(1/order): two Gaussians shifted by v are at |v| / sqrt(d)
    for order 2. Differentiable."""
    theta = unit_directions(x.shape[1], projections, rng).to(x.dtype)
    return _root(line_cost(x @ theta, y @ theta, order).mean(), order)


def max_sliced_wasserstein(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], rng: Rng, *, order: float = 2.0, starts: int = 16, steps: int = 100
) -> Float[Tensor, ""]:
    """The distance of the shadows along the direction where it is largest, found by ascent from random directions and the
    direction of the means' difference; a lower bound of the maximum."""
    x_, y_ = x.detach(), y.detach()
    shift = x_.mean(0) - y_.mean(0)
    theta = torch.cat(
        [unit_directions(x.shape[1], starts, rng).to(x.dtype), (shift / shift.norm().clamp(min=1e-12))[:, None]], 1
    )
    theta = theta.requires_grad_()
    ascent = torch.optim.Adam([theta], lr=0.05)
    with torch.enable_grad():  # for the ascent, whatever the caller does
        for _ in range(steps):
            unit = theta / theta.norm(dim=0).clamp(min=1e-12)
            (theta.grad,) = torch.autograd.grad(-line_cost(x_ @ unit, y_ @ unit, order).sum(), theta)
            ascent.step()
    unit = (theta / theta.norm(dim=0).clamp(min=1e-12)).detach()
    return _root(line_cost(x @ unit, y @ unit, order).max(), order)


def kantorovich_rubinstein(
    distances: Float[Tensor, "k k"], p: Float[Tensor, " _"], q: Float[Tensor, " _"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " k"]]:
    """max over f with f_i - f_j <= distances_ij of sum f (p - q), and the f: W_1 of p and q on k places, by linear programming.

    distances: a metric (zero diagonal, triangle inequality); the pair of values with `transport_plan`'s are equal.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    k = len(p)
    if distances.shape != (k, k) or len(q) != k:
        raise UserError(f"p is over {k} places, q over {len(q)} and the distances are {tuple(distances.shape)}; all agree.")
    weights, c = checked_simplex(p, "p") - checked_simplex(q, "q"), distances.double()
    i, j = np.nonzero(~np.eye(k, dtype=bool))
    rows = np.arange(len(i))
    signs = np.concatenate([np.ones(len(i)), -np.ones(len(i))])
    constraints = coo_array((signs, (np.concatenate([rows, rows]), np.concatenate([i, j]))), shape=(len(i), k)).tocsr()
    # f is determined up to a constant: f_0 = 0
    bounds = [(0, 0)] + [(None, None)] * (k - 1)
    found = linprog(-weights.cpu().numpy(), constraints, c.cpu().numpy()[i, j], bounds=bounds, method="highs")
    if found.status != 0:
        raise UserError(f"the dual has no solution ({found.message.strip()}); are the distances all >= 0 and finite?")
    return torch.tensor(-found.fun, dtype=torch.float64), torch.from_numpy(found.x)
