"""What the units of every kind of data share: the contract, and the first look at what a person gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.randomness import Rng

_SIGNED = {"u2": np.int32, "u4": np.int64, "u8": np.int64}  # torch does little with unsigned integers of more than 8 bits


def numbers(values: Any) -> Tensor:
    """What a person gives as a tensor of real numbers, or a sentence about what it is instead."""
    if not isinstance(values, Tensor):
        try:
            values = np.asarray(values)
        except ValueError:
            raise UserError("data of different lengths were given together; give one rectangular array.") from None
        if values.dtype.kind not in "biuf":
            given = "text" if values.dtype.kind in "US" else f"values of type {values.dtype}"
            raise UserError(f"{given} was given where numbers were expected; give an array of numbers.")
        values = torch.as_tensor(values.astype(_SIGNED.get(values.dtype.str[1:], values.dtype)))
    if values.dtype in (torch.uint16, torch.uint32, torch.uint64):
        values = values.long()
    if values.is_complex():
        raise UserError("complex numbers were given; real ones were expected.")
    if not values.numel():
        raise UserError(f"an empty array of shape {tuple(values.shape)} was given; give at least one datum.")
    return values


def refuse_infinite(codes: Tensor, missing_may_be: bool = False) -> None:
    """NaN (unless that stands for a missing value) and infinity in what was given is an error that says where."""
    if codes.is_floating_point():
        bad = codes.isinf() if missing_may_be else ~codes.isfinite()
        if bad.any():
            first = tuple(int(i) for i in bad.nonzero()[0])
            raise UserError(
                f"{int(bad.sum())} value(s) that are NaN or infinite were given, the first at {first}; finite numbers were "
                "expected: remove or replace these data."
            )


class Units:
    """Between codes, the model's x and a person's values. Stateless: everything is in the spec."""

    log_det: float = 0.0

    def __init__(self, spec: DataSpec):
        self.spec = spec

    def to_model(self, codes: Tensor, rng: Rng | None = None) -> Tensor:
        """codes (B, ...) -> x (B, *spec.shape); with an `rng`, integer codes are dequantised."""
        raise NotImplementedError

    def to_codes(self, x: Tensor) -> Tensor:
        """x (B, *spec.shape) -> codes, rounded and clipped to what the data can be."""
        raise NotImplementedError

    def log_dets(self, codes: Tensor) -> float | Tensor:
        """log |dx/dc| of each of these codes (B,), where it is not the same for all."""
        return self.log_det

    @property
    def discrete(self) -> bool:
        """Whether data of this kind need dequantisation noise to have a density: levels, integers, categories, gaps."""
        return False

    def present(self, codes: Tensor) -> Any:
        """codes -> what a person gets: uint8 or uint16 images (B, C, H, W), a DataFrame, an array, strings."""
        return codes

    def parse(self, values: Any) -> Tensor:
        """The inverse of `present`: what a person gives, one datum or several, -> codes.

        Raises UserError for what such data cannot be: other shapes, values that are not finite, levels, categories or tokens
        that there are not.
        """
        raise NotImplementedError
