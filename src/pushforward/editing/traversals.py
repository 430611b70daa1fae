"""One unit of the code at a time: what does each of its numbers stand for?

A datum's code is kept but for unit j, which runs over mean_j - span sigma_j .. mean_j + span sigma_j of the codes of training
data. Units are ordered by what they do: the squared change of the decoded datum, from one end of the walk to the other.

Source: Higgins et al. 2017 ("latent traversals").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Num
from torch import Tensor

from pushforward.editing.codes import able, code_spread, decoded
from pushforward.errors import UserError

if TYPE_CHECKING:
    from pushforward.data.batches import Data
    from pushforward.training.runs import Run

MOST = 4096  # units of a code that are tried one by one


@dataclass
class Traversal:
    """units (u,): which ones, the most telling first. change (u,): root mean squared change of the datum, from end to end, in
    the model's units. values (u, steps, *shape): the data, in levels. at (u, steps): the unit's value."""

    units: list[int]
    change: Tensor
    values: Tensor
    at: Tensor


def traverse(
    run: Run,
    z: Num[Tensor, "*code"],
    *,
    units: list[int] | None = None,
    count: int = 8,
    steps: int = 9,
    span: float = 2.5,
    condition: Any = None,
    data: Data | None = None,
) -> Traversal:
    """Walks single units of the code z of one datum; units=None: the `count` that change the datum most.

    data: whose codes say how far each unit goes; None: the standard normal distribution.
    """
    able(run)
    if steps < 2 or count < 1 or not span > 0:
        raise UserError(f"steps = {steps}, count = {count}, span = {span} were given; steps >= 2, count >= 1, span > 0.")
    mean, sigma = (value.flatten() for value in code_spread(run, data))
    size = z.numel()
    for unit in units or []:
        if not 0 <= unit < size:
            raise UserError(f"unit {unit} was asked for; the codes have units 0 to {size - 1}.")
    tried = list(range(min(size, MOST))) if units is None else units
    ends = walk(z, tried, mean, sigma, torch.tensor([-span, span]))
    low, high = (run.units.to_model(decoded(run, ends[:, i : i + 1], condition)[:, 0]) for i in (0, 1))
    change = (high.float() - low.float()).flatten(1).square().mean(1).sqrt()
    order = change.argsort(descending=True)[:count] if units is None else torch.arange(len(tried))
    chosen = [tried[int(i)] for i in order]
    t = torch.linspace(-span, span, steps)
    values = decoded(run, walk(z, chosen, mean, sigma, t), condition)
    at = mean[chosen][:, None] + sigma[chosen][:, None] * t
    return Traversal(chosen, change[order], values, at)


def walk(z: Tensor, units: list[int], mean: Tensor, sigma: Tensor, t: Tensor) -> Num[Tensor, "u k *code"]:
    """The code with unit j set to mean_j + t sigma_j, for each of `units` and each t (k,)."""
    codes = z.flatten().expand(len(units), len(t), -1).clone()
    for row, unit in enumerate(units):
        codes[row, :, unit] = mean[unit] + t * sigma[unit]
    return codes.unflatten(2, z.shape)
