"""Which noise goes with which datum of a batch.

Any coupling whose sides are the data and the noise gives a flow between them. Independent pairs make lines that cross; pairs
by optimal transport within the batch cross less, so that the flow is straighter and the regression target less noisy
(Pooladian et al. 2023, arXiv:2304.14772; Tong et al. 2024, arXiv:2302.00482).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def independent(
    x0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], condition: Tensor | None = None
) -> Float[Tensor, "b *shape"]:
    """The noise as it was drawn."""
    return noise


@torch.no_grad()
def optimal_transport(
    x0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], condition: Tensor | None = None
) -> Float[Tensor, "b *shape"]:
    """The noise in the order that makes the sum of |x0_i - noise_i|^2 smallest, exactly, by POT.

    With a condition, only among rows that share it: each class must see all of the noise (a coupling across classes would
    make the noise of a class depend on it).
    """
    if condition is None:
        return noise[assignment(x0, noise)]
    order = torch.arange(len(x0), device=x0.device)
    _, groups = torch.unique(condition, return_inverse=True, dim=0)
    for group in groups.unique():
        rows = (groups == group).nonzero()[:, 0]
        order[rows] = rows[assignment(x0[rows], noise[rows])]
    return noise[order]


def assignment(x: Float[Tensor, "b *shape"], y: Float[Tensor, "b *shape"]) -> Int[Tensor, "b"]:
    """The permutation p for which the sum of |x_i - y_p(i)|^2 is smallest.

    >>> assignment(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.1], [0.1], [1.1]]))
    tensor([1, 2, 0])
    """
    import ot

    costs = torch.cdist(x.flatten(1).double(), y.flatten(1).double()).square().cpu().numpy()
    plan = ot.emd([], [], costs)  # uniform masses: a vertex of the transport polytope is a permutation
    return torch.from_numpy(plan.argmax(1)).to(x.device)


COUPLINGS: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "independent": independent,
    "optimal-transport": optimal_transport,
}
