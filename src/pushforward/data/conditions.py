"""Conditions on their way: from what a person asks for to codes (as data keep them), and from codes to what a model sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.data.spec import Condition, DataSpec
from pushforward.data.units import encode_text
from pushforward.errors import UserError, nearest


def to_model(condition: Condition | None, values: Tensor) -> Tensor:
    """Codes of conditions as a model sees them: levels 0 .. L-1 of paired images as 2 c / (L - 1) - 1, others as they are.

    >>> to_model(Condition("image", 1, shape=(1, 1, 3), levels=256), torch.tensor([[[[0, 51, 255]]]]))
    tensor([[[[-1.0000, -0.6000,  1.0000]]]])
    """
    if condition is None or condition.kind != "image":
        return values
    return values.float() * (2.0 / ((condition.levels or 256) - 1)) - 1.0


def can_be_drawn(condition: Condition | None) -> bool:
    """Whether the spec alone says how to draw such conditions; others are taken from data or given."""
    return condition is None or condition.kind in ("class", "attributes")


def completed(condition: Condition, first: Tensor) -> Condition:
    """A condition with its shape and levels, as `first` (1, ...) of the data has them, where its source did not say."""
    if can_be_drawn(condition):
        return condition
    levels = condition.levels
    if condition.kind == "image" and levels is None:
        levels = 256 if first.dtype == torch.uint8 else 65536
    return dataclasses.replace(condition, shape=condition.shape or tuple(first.shape[1:]), levels=levels)


def parse_condition(spec: DataSpec, condition: Any, n: int) -> Tensor | None:
    """What a person asks for, for n data, as codes: classes (n,), attributes or vectors (n, A), token ids (n, L), images
    (n, C, H, W). One is given for all, or one each. Nonsense is an error that says what is valid."""
    if condition is None:
        return None
    given = spec.condition
    if given is None:
        raise UserError(f"condition = {_short(condition)} was given, but the data '{spec.name}' have none to condition on.")
    if given.kind == "class":
        return _classes(given, condition, n)
    if given.kind == "text":
        return _texts(spec, given, condition, n)
    if given.kind == "image":
        return _images(given, condition, n)
    return _rows(given, condition, n)


def _short(value: Any) -> str:
    said = repr(value).replace("\n", " ")
    return said if len(said) <= 60 else said[:57] + "..."


def _single(value: Any) -> bool:
    """Whether this is one value, not several."""
    return isinstance(value, (str, bytes)) or (not isinstance(value, (list, tuple)) and np.ndim(value) == 0)


def _numbers(condition: Any, what: str) -> Tensor:
    """Finite numbers as float32, or a sentence."""
    try:
        rows = condition.float() if isinstance(condition, Tensor) else torch.as_tensor(np.asarray(condition, dtype=np.float32))
    except (TypeError, ValueError):
        raise UserError(f"condition = {_short(condition)} was given; expected {what}.") from None
    if not bool(rows.isfinite().all()):
        raise UserError(f"a condition with values that are not finite was given; expected {what}.")
    return rows


def _for_all(rows: Tensor, shape: tuple[int, ...], n: int, what: str) -> Tensor:
    """One for all, or one each, of this shape."""
    if tuple(rows.shape) == shape:
        rows = rows.expand(n, *shape)
    if tuple(rows.shape) != (n, *shape):
        raise UserError(f"a condition of shape {tuple(rows.shape)} was given; expected {what}: {shape} or {(n, *shape)}.")
    return rows


def _classes(given: Condition, condition: Any, n: int) -> Tensor:
    if isinstance(condition, dict):
        raise UserError(f"condition = {_short(condition)} was given; expected a class, {_class_words(given)}.")
    values = [condition] * n if _single(condition) else list(condition)
    if len(values) != n:
        raise UserError(f"{len(values)} classes were given for {n} data; give one for all or one each.")
    return torch.tensor([_class(given, value) for value in values])


def _class_words(given: Condition) -> str:
    names = f" ({', '.join(given.names[:12])})" if given.names else ""
    return f"0 to {given.size - 1}{names}"


def _class(given: Condition, value: Any) -> int:
    names: Sequence[str] = given.names
    if isinstance(value, str):
        if value in names:
            return list(names).index(value)
        if not value.removeprefix("-").isdecimal():
            raise UserError(f"there is no class '{value}'; {nearest(value, names or [str(k) for k in range(given.size)])}")
    try:
        number = int(value)
        whole = isinstance(value, str) or number == float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        whole = False
    if not whole:
        raise UserError(f"the class {_short(value)} was asked for; the classes are {_class_words(given)}.")
    if not 0 <= number < given.size:
        raise UserError(f"class {number} was asked for; the classes are {_class_words(given)}.")
    return number


def _rows(given: Condition, condition: Any, n: int) -> Tensor:
    """Attributes or vectors: a dict of names (the others as most data have them), a row for all, or a row each."""
    what = f"{given.size} numbers" + (f" ({', '.join(given.names[:8])})" if given.names else "")
    if isinstance(condition, dict):
        row = torch.tensor(given.frequencies or [0.0] * given.size).round()
        for name, value in condition.items():
            if name not in given.names:
                raise UserError(f"there is no attribute '{name}'; {nearest(str(name), given.names)}")
            if not _single(value):
                raise UserError(f"{name} = {_short(value)} was given; expected one number.")
            row[given.names.index(name)] = _numbers(value, f"a number for {name}").item()
        return row.expand(n, -1)
    return _for_all(_numbers(condition, what), (given.size,), n, what)


def _texts(spec: DataSpec, given: Condition, condition: Any, n: int) -> Tensor:
    """Captions, encoded and filled up with token 0; or token ids."""
    length = given.shape[0] if given.shape else given.size
    what = f"texts of at most {length} tokens"
    if isinstance(condition, str):
        condition = [condition] * n
    if isinstance(condition, (list, tuple)) and any(isinstance(text, str) for text in condition):
        if spec.vocabulary is None:
            raise UserError("strings were given, but these data have no vocabulary; give token ids.")
        wrong = [text for text in condition if not isinstance(text, str)]
        if wrong:
            raise UserError(f"condition = {_short(wrong[0])} was given among texts; expected {what}.")
        rows = [encode_text(spec.vocabulary, text) for text in condition]
        for text, row in zip(condition, rows, strict=True):
            if len(row) > length:
                raise UserError(f"the text {_short(text)} has {len(row)} tokens; the model knows {what}, so shorten it.")
        if len(rows) != n:
            raise UserError(f"{len(rows)} texts were given for {n} data; give one for all or one each.")
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])
    ids = _for_all(_numbers(condition, what), (length,), n, f"{length} token ids")
    most = spec.vocabulary.size if spec.vocabulary else float("inf")
    if not torch.equal(ids, ids.round()) or float(ids.min()) < 0 or float(ids.max()) >= most:
        raise UserError(f"condition = {_short(condition)} was given; token ids are integers from 0 to {most - 1}.")
    return ids.long()


def _images(given: Condition, condition: Any, n: int) -> Tensor:
    """Paired images in their own levels."""
    levels = given.levels or 256
    what = f"images (channels, height, width) in integer levels 0 to {levels - 1}"
    images = _numbers(condition, what)
    shape = given.shape or (tuple(images.shape[-3:]) if images.dim() >= 3 else (given.size, 0, 0))
    images = _for_all(images, shape, n, what)
    if not torch.equal(images, images.round()) or float(images.min()) < 0 or float(images.max()) >= levels:
        raise UserError(f"an image from {images.min():g} to {images.max():g} was given; expected {what}.")
    return images.to(torch.uint8 if levels <= 256 else torch.int32)
