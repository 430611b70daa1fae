"""Attributes as directions: the mean code of the data that have one minus that of the data that have not.

With s the strength, z + s v makes a smiling face of a face (s = 1 moves by the distance between the two means). A decoder
that is told the attributes has codes without them; it is edited by its condition instead: encode under the datum's own
attributes, decode under the changed ones.

Sources: Larsen et al. 2016, arXiv:1512.09300; White 2016, arXiv:1609.04468.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pushforward.data.batches import Data, take
from pushforward.data.spec import Condition
from pushforward.editing.codes import able, alike, decoded, encoded
from pushforward.errors import UserError, nearest
from pushforward.models.contract import Decodes, device_of

if TYPE_CHECKING:
    from pushforward.training.runs import Run

ENOUGH = 4000  # data that a direction is learned from


def having(condition: Tensor, given: Condition | None, name: str) -> Bool[Tensor, " n"]:
    """Which of the data have the attribute, or are of the class, of this name (or number).

    Raises UserError for a name that is not there, and for an attribute that all or none of the data have.
    """
    k = number_of(given, name)
    assert given is not None
    found = condition == k if given.kind == "class" else condition[:, k] > 0.5
    if bool(found.all()) or not bool(found.any()):
        raise UserError(f"{'all' if bool(found.all()) else 'none'} of {len(found)} data have '{name}': it has no direction.")
    return found


def number_of(given: Condition | None, name: str) -> int:
    """The number of the class or attribute of this name."""
    if given is None or given.kind not in ("class", "attributes"):
        what = "no condition" if given is None else f"a condition of kind {given.kind}"
        raise UserError(f"the data come with {what}; load them with labels or attributes (--label, --attributes).")
    names = list(given.names) or [str(k) for k in range(given.size)]
    if name not in names:
        raise UserError(f"there is no {'class' if given.kind == 'class' else 'attribute'} '{name}'; {nearest(name, names)}")
    return names.index(name)


def told(run: Run, x: Num[Tensor, "n *shape"], condition: Tensor) -> bool:
    """Whether the decoder is told the class or the attributes: the codes of these data under two conditions give two data.

    An autoencoder and GLO, whose classes only say where codes are drawn, are not.
    """
    given = run.spec.condition
    if given is None or given.kind not in ("class", "attributes") or not isinstance(run.model, Decodes):
        return False
    other = (condition + 1) % given.size if given.kind == "class" else 1 - condition
    z, device = encoded(run, x, condition).to(device_of(run.model)), device_of(run.model)
    with torch.no_grad():
        one, two = (run.model.decode(z, condition=asked.to(device)) for asked in (condition, other))
    return not torch.equal(one, two)


def direction(run: Run, data: Data, name: str, rows: int = ENOUGH) -> Float[Tensor, "*code"]:
    """The mean code of data with the attribute minus that of data without.

    data: the run's own or others of the same shape, with the attribute (or class) of this name among their conditions.
    """
    able(run)
    x, condition = take(data.train, rows)
    if condition is None:
        raise UserError(f"the data '{data.spec.name}' come without labels or attributes; load them with --attributes.")
    found = having(condition, data.spec.condition, name)
    z = encoded(run, x, condition if alike(data.spec.condition, run.spec.condition) else None)
    return z[found].mean(0) - z[~found].mean(0)


def edit(
    run: Run, x: Num[Tensor, "n *shape"], along: Float[Tensor, "*code"], strengths: list[float], condition: Tensor | None = None
) -> Num[Tensor, "n k *shape"]:
    """Data (n, ...) moved along a direction of the codes by each of k strengths, as levels."""
    able(run)
    z = encoded(run, x, condition)
    steps = torch.tensor(strengths).view(1, -1, *[1] * along.dim())
    return decoded(run, z[:, None] + steps * along, condition)


def switch(
    run: Run, x: Num[Tensor, "n *shape"], condition: Tensor, name: str, strengths: list[float]
) -> Num[Tensor, "n k *shape"]:
    """Data decoded under other conditions: the attribute `name` set to each strength (0: without, 1: with), or, for classes,
    the datum's own class (strength 0) and the class `name` (all others)."""
    able(run)
    given = run.spec.condition
    k = number_of(given, name)
    assert given is not None
    z, columns = encoded(run, x, condition), []
    for strength in strengths:
        asked = condition.clone()
        if given.kind == "attributes":
            asked[:, k] = strength
        elif strength:
            asked[:] = k
        columns.append(decoded(run, z[:, None], asked)[:, 0])
    return torch.stack(columns, 1)
