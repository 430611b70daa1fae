"""Attributes as directions: the mean code of the data that have one minus that of the data that have not.

With s the strength, z + s v makes a smiling face of a face (s = 1 moves by the distance between the two means). Means of
several groups add up alike: z(king) - z(man) + z(woman). Where a model does not encode, codes are found by inversion of some
of the data; or they are drawn, and a judge labels what they decode to. A decoder that is told the attributes has codes without
them; it is edited by its condition instead: encode under the datum's own attributes, decode under the changed ones.

Sources: Larsen et al. 2016, arXiv:1512.09300; White 2016, arXiv:1609.04468; Radford et al. 2016, arXiv:1511.06434 (sums of
means of codes); Shen et al. 2020, arXiv:1907.10786 (codes labelled by what they decode to).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pushforward.data.batches import Data, take
from pushforward.data.spec import Condition
from pushforward.editing.codes import able, alike, decoded, encoded, inverted
from pushforward.editing.inversion import STEPS, space_of
from pushforward.errors import UserError, nearest
from pushforward.models.contract import Decodes, device_of
from pushforward.randomness import SampleRng

if TYPE_CHECKING:
    from pushforward.training.runs import Run

ENOUGH = 4000  # data that a direction is learned from
INVERTED = 500  # of a model that does not encode


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


def told(run: Run, x: Num[Tensor, "n *shape"], condition: Tensor, space: str = "z") -> bool:
    """Whether the decoder is told the class or the attributes: the codes of these data under two conditions give two data.

    An autoencoder and GLO, whose classes only say where codes are drawn, are not; neither is one of a space whose codes have
    the condition in them (w of a StyleGAN).
    """
    given = run.spec.condition
    if given is None or given.kind not in ("class", "attributes") or not isinstance(run.model, Decodes):
        return False
    other = (condition + 1) % given.size if given.kind == "class" else 1 - condition
    device = device_of(run.model)
    with torch.no_grad():
        if inverted(run, space):
            z = space_of(run.model, space).draw(len(x), generator=SampleRng(0, device=device))
        else:
            z = encoded(run, x, condition).to(device)
        one, two = (space_of(run.model, space).decode(z, condition=asked.to(device)) for asked in (condition, other))
    return not torch.equal(one, two)


def direction(
    run: Run, data: Data, name: str, rows: int | None = None, inversion_steps: int = STEPS, space: str = "z"
) -> Float[Tensor, "*code"]:
    """The mean code, of this space, of data with the attribute minus that of data without.

    data: the run's own or others of the same shape, with the attribute (or class) of this name among their conditions.
    rows: how many of them; None: 4000, or 500 of a model that does not encode, whose codes are found in `inversion_steps`.
    """
    able(run, space)
    x, condition = take(data.train, rows or (INVERTED if inverted(run, space) else ENOUGH))
    if condition is None:
        raise UserError(f"the data '{data.spec.name}' come without labels or attributes; load them with --attributes.")
    having_it = having(condition, data.spec.condition, name)
    z = encoded(run, x, condition if alike(data.spec.condition, run.spec.condition) else None, inversion_steps, space)
    return arithmetic(z, [(1.0, having_it), (-1.0, ~having_it)])


def arithmetic(z: Float[Tensor, "n *code"], terms: Sequence[tuple[float, Bool[Tensor, " n"]]]) -> Float[Tensor, "*code"]:
    """A sum of mean codes of groups, each with its weight: +1 king, -1 man, +1 woman is the code of a queen.

    A group is a mask of the codes; `having` gives that of an attribute, and masks join by & and ~.

    >>> z = torch.tensor([[5.0, 1.0], [4.0, 1.0], [6.0, 1.0], [5.0, 3.0]])
    >>> king, man, woman = (torch.tensor(group) for group in ([1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]))
    >>> arithmetic(z, [(1.0, king > 0), (-1.0, man > 0), (1.0, woman > 0)]).tolist()
    [6.0, 3.0]
    """
    total = torch.zeros_like(z[0])
    for k, (weight, group) in enumerate(terms):
        if not bool(group.any()):
            raise UserError(f"group {k} of the sum is empty: no code has what it asks for.")
        total = total + weight * z[group].mean(0)
    return total


def sampled_direction(
    run: Run, judge: Callable[[Tensor], Tensor], *, n: int = 2000, condition: Tensor | None = None, seed: int = 0
) -> Float[Tensor, "*code"]:
    """The direction of an attribute in codes that the model draws: the mean code of those whose data a judge says to have it
    minus that of the others. It needs no encoder and no inversion.

    judge: data as levels (n, *shape) -> booleans (n,), or scores of which those above 0 count as yes. condition: one for all
    that is drawn, as codes of the data. With n codes in N(0, I) each number of a mean is off by about 2 / sqrt(n).
    """
    able(run)
    model, device = run.model, device_of(run.model)
    assert isinstance(model, Decodes)
    asked = None if condition is None else condition.to(device).expand(n, *condition.shape[1:])
    with torch.no_grad():
        z = model.draw_codes(n, condition=asked, generator=SampleRng(seed, device=device)).cpu()
    having_it = judge(decoded(run, z[:, None], condition)[:, 0]).cpu() > 0
    if bool(having_it.all()) or not bool(having_it.any()):
        what = "all" if bool(having_it.all()) else "none"
        raise UserError(f"the judge says that {what} of {n} samples have the attribute: it has no direction.")
    return arithmetic(z, [(1.0, having_it), (-1.0, ~having_it)])


def edit(
    run: Run,
    x: Num[Tensor, "n *shape"],
    along: Float[Tensor, "*code"],
    strengths: list[float],
    condition: Tensor | None = None,
    space: str = "z",
) -> Num[Tensor, "n k *shape"]:
    """Data (n, ...) moved along a direction of the codes of a space by each of k strengths, as levels."""
    able(run, space)
    return moved(run, encoded(run, x, condition, space=space), along, strengths, condition, space)


def moved(
    run: Run,
    z: Float[Tensor, "n *code"],
    along: Float[Tensor, "*code"],
    strengths: list[float],
    condition: Tensor | None = None,
    space: str = "z",
) -> Num[Tensor, "n k *shape"]:
    """As `edit`, of codes."""
    steps = torch.tensor(strengths).view(1, -1, *[1] * along.dim())
    return decoded(run, z[:, None] + steps * along, condition, space)


def switch(
    run: Run, x: Num[Tensor, "n *shape"], condition: Tensor, name: str, strengths: list[float]
) -> Num[Tensor, "n k *shape"]:
    """Data decoded under other conditions: the attribute `name` set to each strength (0: without, 1: with), or, for classes,
    the datum's own class (strength 0) and the class `name` (all others)."""
    able(run)
    return switched(run, encoded(run, x, condition), condition, name, strengths)


def switched(
    run: Run, z: Float[Tensor, "n *code"], condition: Tensor, name: str, strengths: list[float]
) -> Num[Tensor, "n k *shape"]:
    """As `switch`, of codes found under these conditions."""
    given = run.spec.condition
    k = number_of(given, name)
    assert given is not None
    columns = []
    for strength in strengths:
        asked = condition.clone()
        if given.kind == "attributes":
            asked[:, k] = strength
        elif strength:
            asked[:] = k
        columns.append(decoded(run, z[:, None], asked)[:, 0])
    return torch.stack(columns, 1)
