"""What is measured of an image, as a shell can say it: `blur:2`, `grey+down-sample:4`, `mask:centre` (operators.py)."""

from __future__ import annotations

from pathlib import Path

from pushforward.data.decoding import Plan, decode, folder_records
from pushforward.dynamics.operators import (
    JPEG,
    CircularBlur,
    Composition,
    DownSample,
    Grey,
    Mask,
    Operator,
    ReflectedBlur,
    Shape,
    gaussian_kernel,
    hidden_box,
    hidden_half,
    hidden_pixels,
    motion_kernel,
)
from pushforward.errors import UserError, nearest

OPERATORS = {
    "mask": "mask:bottom, top, left, right, centre; mask:TOP,LEFT,HEIGHT,WIDTH; mask:0.5 (that share of the pixels); "
    "mask:FILE (black is hidden)",
    "blur": "blur:SIGMA (pixels); blur:SIGMA,circular",
    "motion": "motion:LENGTH or motion:LENGTH,DEGREES",
    "down-sample": "down-sample:FACTOR",
    "grey": "grey",
    "jpeg": "jpeg:QUALITY",
}


def parse_operator(words: str, shape: Shape, seed: int = 0) -> Operator:
    """An operator on images of `shape` from what a shell can say: NAME:VALUE, or several joined by +, the first first.

    >>> parse_operator("grey+down-sample:2", (3, 8, 8)).measured
    (1, 4, 4)

    Raises UserError that says what can be said. seed: of pixels that are hidden by chance.
    """
    found: Operator | None = None
    for word in words.split("+"):
        name, _, value = word.strip().partition(":")
        if name not in OPERATORS:
            raise UserError(f"there is no operator '{name}'; {nearest(name, OPERATORS)}. {'; '.join(OPERATORS.values())}")
        try:
            one = _operator(name, value, shape if found is None else found.measured, seed)
        except UserError:
            raise
        except ValueError:
            raise UserError(f"the operator '{word}' cannot be read; expected {OPERATORS[name]}.") from None
        found = one if found is None else Composition(found, one)
    assert found is not None
    return found


def _operator(name: str, value: str, shape: Shape, seed: int) -> Operator:
    """One operator; ValueError where its value is none."""
    if name == "mask":
        return _mask(value, shape, seed)
    if name == "grey":
        if value:
            raise ValueError
        return Grey(shape)
    if name == "down-sample":
        return DownSample(shape, int(value))
    if name == "jpeg":
        return JPEG(shape, int(value))
    first, *others = value.split(",")
    if len(others) > 1:
        raise ValueError
    if name == "motion":
        return CircularBlur(shape, motion_kernel(float(first), float(others[0]) if others else 0.0))
    if others and others[0] != "circular":
        raise ValueError
    kernel = gaussian_kernel(float(first))
    return CircularBlur(shape, kernel[:, None] * kernel) if others else ReflectedBlur(shape, kernel, kernel)


def _mask(value: str, shape: Shape, seed: int) -> Mask:
    _, height, width = shape
    if value in ("bottom", "top", "left", "right"):
        return hidden_half(shape, value)  # type: ignore[arg-type]
    if value == "centre":
        return hidden_box(shape, height // 4, width // 4, height // 2, width // 2)
    numbers = value.split(",")
    if len(numbers) == 4:
        top, left, tall, wide = map(int, numbers)
        return hidden_box(shape, top, left, tall, wide)
    path = Path(value).expanduser()
    if not path.is_file():
        return hidden_pixels(shape, float(value), seed)
    codes, wrong = decode(folder_records([path], path.parent), [0], Plan("L", height, width))
    if wrong:
        raise UserError(f"the mask {path} cannot be read ({wrong[0]}); give an image, black where pixels are hidden.")
    return Mask((codes[0] > 127).expand(shape).clone())
