"""From data to codes that can be moved, and back: what every kind of editing stands on.

Data are *levels* here (codes of the data, as splits keep them), z are codes of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Num
from torch import Tensor

from pushforward.data.batches import Data
from pushforward.data.conditions import parse_condition, to_model
from pushforward.data.spec import Condition
from pushforward.editing.inversion import STARTS, STEPS, invert, space_of
from pushforward.errors import UserError
from pushforward.models.contract import Decodes, Encodes, device_of

if TYPE_CHECKING:
    from pushforward.training.runs import Run

BLOCK = 256  # data encoded or decoded at a time


def able(run: Run, space: str = "z") -> None:
    """Raises UserError for a run whose model cannot decode, or has no such codes. One that cannot encode is inverted."""
    if not isinstance(run.model, Decodes):
        name = run.record["model"]["name"]
        raise UserError(f"'{name}' has no decoder, so its codes cannot be edited; `pushforward models` lists who decodes.")
    space_of(run.model, space)


def inverted(run: Run, space: str = "z") -> bool:
    """Whether codes of data are found by inversion: where the model does not encode, and in any space but z."""
    return space != "z" or not isinstance(run.model, Encodes)


def alike(one: Condition | None, other: Condition | None) -> bool:
    """Whether both mean the same by a condition (how frequent each is in their data does not matter)."""
    if one is None or other is None:
        return False
    return (one.kind, one.size, one.names, one.shape) == (other.kind, other.size, other.names, other.shape)


@dataclass
class Found:
    """z (n, ...): the codes of data. error (n,): where they were found by inversion (of the GAN, say, that does not encode),
    the mean squared error of what they decode to, in the model's units; steps: after so many. None where they were encoded.
    space: what they are codes of."""

    z: Num[Tensor, "n *code"]
    error: Float[Tensor, " n"] | None = None
    steps: int | None = None
    space: str = "z"

    def line(self) -> str:
        """How they were found, in words; nothing where they were encoded."""
        return "" if self.error is None or self.steps is None else inversion_line(self.error, self.steps, self.space)


def inversion_line(error: Float[Tensor, " n"], steps: int, space: str = "z") -> str:
    """That codes were found by inversion, and how well they fit."""
    return (
        f"no encoder: codes{'' if space == 'z' else f' in {space}'} found by inversion ({steps} steps from {STARTS} starts), "
        f"mean squared error {error.mean().item():.4g} (model units, {len(error)} data, the worst {error.max().item():.4g})"
    )


def found(run: Run, x: Num[Tensor, "n *shape"], condition: Tensor | None = None, steps: int = STEPS, space: str = "z") -> Found:
    """The codes of data: z of a model that encodes as it says, others by inversion (editing/inversion.py) in `steps`.

    Raises UserError where codes are token numbers, between which nothing lies.
    """
    if inverted(run, space):
        nearest = invert(run, x, condition=condition, steps=steps, space=space)
        return Found(nearest.codes, nearest.error, steps, space)
    parts = [
        run.encode(x[rows], condition=None if condition is None else condition[rows])
        for start in range(0, len(x), BLOCK)
        for rows in [slice(start, start + BLOCK)]
    ]
    z = torch.cat(parts)
    if not z.is_floating_point():
        raise UserError(
            f"the codes of '{run.record['model']['name']}' are numbers of codebook entries: between two there is nothing, and "
            "no direction leads anywhere. Use a model with continuous codes (autoencoder, vae)."
        )
    return Found(z)


def encoded(
    run: Run, x: Num[Tensor, "n *shape"], condition: Tensor | None = None, steps: int = STEPS, space: str = "z"
) -> Num[Tensor, "n *code"]:
    """The codes that `found` has."""
    return found(run, x, condition, steps, space).z


def decoded(run: Run, z: Num[Tensor, "n k *code"], condition: Any = None, space: str = "z") -> Num[Tensor, "n k *shape"]:
    """The data of k codes, of this space, for each of n items. condition: a tensor with one for each item or one for all, or
    whatever `run.decode` takes for all of them."""
    n, k = z.shape[:2]
    if isinstance(condition, Tensor):
        each = condition.expand(n, *condition.shape[1:]) if len(condition) == 1 else condition
        condition = each.repeat_interleave(k, 0)
    flat, parts = z.flatten(0, 1), []
    for start in range(0, len(flat), BLOCK):
        rows = slice(start, start + BLOCK)
        asked = condition[rows] if isinstance(condition, Tensor) else condition
        parts.append(_levels(run, flat[rows], asked, space))
    return torch.cat(parts).unflatten(0, (n, k))


def _levels(run: Run, z: Num[Tensor, "n *code"], condition: Any, space: str) -> Num[Tensor, "n *shape"]:
    if space == "z":
        return run.units.parse(run.decode(z, condition=condition))
    device, asked = device_of(run.model), parse_condition(run.spec, condition, len(z))
    given = None if asked is None else to_model(run.spec.condition, asked.to(device))
    with torch.no_grad():
        return run.units.to_codes(space_of(run.model, space).decode(z.to(device), condition=given)).cpu()


def code_spread(run: Run, data: Data | None, rows: int = 2000) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each number of the codes of training data; 0 and 1 where there are no data to ask."""
    from pushforward.data.batches import take

    if data is None or not isinstance(run.model, Encodes):
        one = run.model.draw_codes(1, generator=0)  # type: ignore[operator, union-attr]
        return torch.zeros_like(one[0]).cpu(), torch.ones_like(one[0]).cpu()
    x, condition = take(data.train, rows)
    z = encoded(run, x, condition)
    return z.mean(0), z.std(0)
