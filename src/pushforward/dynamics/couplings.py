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

FEW, MANY = 8, 192  # dimensions below which, and rows from which, POT's network simplex is the faster


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
    """Row i's noise drawn from row i of the entropic plan, argmin_P sum P_ij |x0_i - noise_j|^2 + r mean cost sum P_ij log P_ij
    (Cuturi 2013, arXiv:1306.0895): optimal transport as the regulariser r goes to 0, independent as it grows. Each datum is
    taken once, a noise once on average.
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
        scale = self.regulariser * float(torch.cdist(x.flatten(1).double(), y.flatten(1).double()).square().mean())
        plan = ot.sinkhorn([], [], costs, scale, numItermax=10_000, warn=False) if scale else np.ones_like(costs)
        return torch.from_numpy(plan).to(x.device)


def assignment(x: Float[Tensor, "b *shape"], y: Float[Tensor, "b *shape"]) -> Int[Tensor, "b"]:
    """The permutation p for which the sum of |x_i - y_p(i)|^2 is smallest.

    >>> assignment(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.1], [0.1], [1.1]]))
    tensor([1, 2, 0])
    """
    costs = _costs(x, y)
    if x[0].numel() < FEW and len(x) >= MANY:
        import ot

        order = ot.emd([], [], costs).argmax(1)  # uniform masses: a vertex of the transport polytope is a permutation
    else:
        from scipy.optimize import linear_sum_assignment

        _, order = linear_sum_assignment(costs)
    return torch.from_numpy(order).to(x.device)


def _costs(x: Tensor, y: Tensor) -> np.ndarray:
    """|x_i - y_j|^2 / 2 in float64, with from each row and column what makes its smallest 0: no plan of given masses is the
    better or the worse for that, and all are found sooner."""
    costs = (x.flatten(1).double() @ y.flatten(1).double().T).neg().cpu().numpy()
    costs -= costs.min(0)
    costs -= costs.min(1, keepdims=True)
    return costs


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
