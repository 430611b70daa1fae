"""Which noise goes with which datum of a batch.

Any coupling whose sides are the data and the noise gives a flow between them. Independent pairs make lines that cross; pairs
by optimal transport within the batch cross less, so that the flow is straighter and the regression target less noisy
(Pooladian et al. 2023, arXiv:2304.14772; Tong et al. 2024, arXiv:2302.00482). With a condition, only rows that share it are
matched: each class must see all of the noise (a coupling across classes would make the noise of a class depend on it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pushforward.errors import UserError, nearest
from pushforward.randomness import Rng, chosen

MANY = 64  # rows from which prices are worth being guessed before an exact solver begins


@runtime_checkable
class Coupling(Protocol):
    """The noise (B, *shape) that goes with each row of x0 (B, *shape), taken from `noise`. condition: (B, ...) or None. rng:
    what a random coupling draws from."""

    def __call__(self, x0: Tensor, noise: Tensor, condition: Tensor | None = None, rng: Rng | None = None) -> Tensor: ...


def independent(
    x0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], condition: Tensor | None = None, rng: Rng | None = None
) -> Float[Tensor, "b *shape"]:
    """The noise as it was drawn."""
    return noise


@torch.no_grad()
def optimal_transport(
    x0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], condition: Tensor | None = None, rng: Rng | None = None
) -> Float[Tensor, "b *shape"]:
    """The noise in the order that makes the sum of |x0_i - noise_i|^2 smallest, exactly."""
    order = torch.empty(len(x0), dtype=torch.long, device=x0.device)
    for rows in _groups(x0, condition):
        order[rows] = rows[assignment(x0[rows], noise[rows])]
    return noise[order]


@dataclass(frozen=True)
class Sinkhorn:
    """Row i's noise drawn from row i of the entropic plan, argmin_P sum_ij P_ij |x0_i - noise_j|^2 + r m P_ij log P_ij, m the
    mean of |x0_i - noise_j|^2 (Cuturi 2013, arXiv:1306.0895): optimal transport as the regulariser r goes to 0, independent as
    it grows. Each datum is taken once, a noise once on average.
    """

    regulariser: float = 0.05

    def __post_init__(self) -> None:
        if not self.regulariser > 0:
            raise UserError(
                f"a regulariser of {self.regulariser} was given to Sinkhorn's coupling; it is above 0. Without one, take "
                "coupling='optimal-transport'."
            )

    @torch.no_grad()
    def __call__(
        self,
        x0: Float[Tensor, "b *shape"],
        noise: Float[Tensor, "b *shape"],
        condition: Tensor | None = None,
        rng: Rng | None = None,
    ) -> Float[Tensor, "b *shape"]:
        if rng is None:
            raise UserError("Sinkhorn's coupling is drawn at random and was given no rng; give one.")
        # once for all rows: processes whose classes are of other sizes draw the same stream
        order, u = torch.empty(len(x0), dtype=torch.long, device=x0.device), rng.rand(len(x0), dtype=torch.float64)
        for rows in _groups(x0, condition):
            order[rows] = rows[chosen(self.plan(x0[rows], noise[rows]), u[rows])]
        return noise[order]

    def plan(self, x: Float[Tensor, "b *shape"], y: Float[Tensor, "c *shape"]) -> Float[Tensor, "b c"]:
        """P (B, C) in float64, of uniform masses."""
        import ot

        costs = _costs(x, y)
        scale = self.regulariser / 2 * float(torch.cdist(x.flatten(1).double(), y.flatten(1).double()).square().mean())
        plan = ot.sinkhorn([], [], costs, scale, numItermax=10_000, warn=False) if scale else np.ones_like(costs)
        return torch.from_numpy(plan).to(x.device)


def assignment(x: Float[Tensor, "b *shape"], y: Float[Tensor, "b *shape"]) -> Int[Tensor, "b"]:
    """The permutation p for which the sum of |x_i - y_p(i)|^2 is smallest.

    >>> assignment(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.1], [0.1], [1.1]]))
    tensor([1, 2, 0])
    """
    from scipy.optimize import linear_sum_assignment

    costs = _costs(x, y)
    _, order = linear_sum_assignment(_priced(costs) if len(costs) >= MANY else costs)
    return torch.from_numpy(order).to(x.device)


def _costs(x: Tensor, y: Tensor) -> np.ndarray:
    """|x_i - y_j|^2 / 2 in float64, with something taken from each row and each column, which makes no plan of given masses
    better than another, so that their smallest are about 0."""
    return _reduced((x.flatten(1).double() @ y.flatten(1).double().T).neg().cpu().numpy())


def _reduced(costs: np.ndarray) -> np.ndarray:
    costs -= costs.min(0)
    costs -= costs.min(1, keepdims=True)
    return costs


def _priced(costs: np.ndarray, regulariser: float = 0.03, rounds: int = 60) -> np.ndarray:
    """Less the prices of an entropic plan, unfinished: what is left is nearly 0 where the best permutation is, and shortest
    paths to it are short. With 256 rows the exact solver takes a third of the time, and both half of that of a network simplex.
    """
    scale = regulariser * costs.mean()
    if not scale:
        return costs
    kernel, floor = np.exp((costs / -scale).astype(np.float32)), np.float32(1e-35)
    rows = np.ones(len(costs), np.float32)
    for _ in range(rounds):
        columns = 1 / (kernel.T @ rows + floor)
        rows = 1 / (kernel @ columns + floor)
    return _reduced(costs - scale * (np.log(rows, dtype=np.float64)[:, None] + np.log(columns, dtype=np.float64)))


def _groups(x0: Tensor, condition: Tensor | None) -> Iterator[Int[Tensor, "rows"]]:
    """The rows that may be matched with each other: all, or those of each condition."""
    if condition is None:
        yield torch.arange(len(x0), device=x0.device)
        return
    _, groups = torch.unique(condition, return_inverse=True, dim=0)
    for group in range(int(groups.max()) + 1):
        yield (groups == group).nonzero()[:, 0]


COUPLINGS: dict[str, Coupling] = {
    "independent": independent,
    "optimal-transport": optimal_transport,
    "sinkhorn": Sinkhorn(),
}


def find_coupling(coupling: str | Coupling) -> Coupling:
    """A coupling by name, or the coupling itself. Raises UserError for an unknown name."""
    if not isinstance(coupling, str):
        return coupling
    if coupling not in COUPLINGS:
        raise UserError(f"there is no coupling '{coupling}'; {nearest(coupling, COUPLINGS)}")
    return COUPLINGS[coupling]
