"""Data in classes, for models that fit one density to each class: who belongs where, and drawing a class by frequency."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.nets.conditioning import checked_classes
from pushforward.randomness import Rng


def class_count(spec: DataSpec, model: str) -> int:
    """How many densities a class-conditional `model` has: one a class, 1 without a condition.

    Raises UserError where the condition is something else than a class.
    """
    if spec.condition is not None and spec.condition.kind != "class":
        raise UserError(
            f"{model} can be conditioned on a class only, and '{spec.name}' comes with {spec.condition.kind}; "
            "load the data without it (label=none)."
        )
    return spec.classes or 1


def given_frequencies(spec: DataSpec, classes: int) -> Float[Tensor, " classes"]:
    """The class frequencies that the data declare, uniform where they declare none."""
    declared = spec.condition.frequencies if spec.condition else ()
    return torch.tensor(declared or [1.0 / classes] * classes, dtype=torch.float64)


def drawn(condition: Tensor | None, frequencies: Tensor, rows: int, rng: Rng) -> Int[Tensor, " rows"]:
    """The class of each row that is to be sampled: as asked, or drawn by frequency."""
    asked = checked_classes(condition, rows, len(frequencies))
    if asked is not None:
        return asked.to(frequencies.device)
    if len(frequencies) == 1:
        return torch.zeros(rows, dtype=torch.long, device=frequencies.device)
    return rng.categorical(frequencies.expand(rows, -1))


def by_class(batch: Batch, classes: int) -> Iterator[tuple[int, Float[Tensor, "rows dimensions"]]]:
    """The rows of a batch, flattened, class by class."""
    x = batch.x.flatten(1)
    if classes == 1:
        yield 0, x
        return
    if batch.condition is None:
        raise UserError(f"this model was built for data with {classes} classes, and these data come without.")
    for c in batch.condition.unique().tolist():
        yield c, x[batch.condition == c]
