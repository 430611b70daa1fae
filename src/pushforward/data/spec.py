"""What a datum is and what a condition is: plain values that travel with every run. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["image", "table", "point", "series", "field", "tokens"]


@dataclass(frozen=True)
class Condition:
    """What can be asked for beside a datum.

    kind: "class" (one of `size` classes, stored as an integer), "attributes" (`size` yes/no values), "vector" (`size`
    numbers), "text" (captions), "image" (a paired image).
    names: of the classes or attributes. frequencies: of each class, or the rate of each attribute, in the training set.
    shape: of one condition: (A,) of a vector, (L,) token ids of a text (padded with 0), (C, H, W) of an image; () where that
    is said by kind and size. levels: how many values a channel of a paired image can take; a model sees it in [-1, 1].
    """

    kind: Literal["class", "attributes", "vector", "text", "image"]
    size: int
    names: tuple[str, ...] = ()
    frequencies: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    levels: int | None = None


@dataclass(frozen=True)
class Column:
    """One column of a table, or channel of a field: a number (mean and scale of the training set) or a category."""

    name: str
    kind: Literal["number", "category"]
    categories: tuple[str, ...] = ()
    integer: bool = False
    missing: bool = False
    mean: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Vocabulary:
    """What token ids mean: characters (`tokens`, in order), a trained BPE (`tokenizer`, the JSON of `tokenizers`), or nothing
    but themselves ("codes", the integers 0 to `size` - 1).

    grid: (H, W) where a datum is a grid of codes, read row by row.
    """

    kind: Literal["characters", "bpe", "codes"]
    size: int
    tokens: tuple[str, ...] = ()
    tokenizer: str = ""
    grid: tuple[int, ...] = ()


@dataclass(frozen=True)
class DataSpec:
    """The contract between data and model.

    kind: what a datum is. shape: of one datum *as a model sees it*: image (C, H, W) in [-1, 1]; point (D,) and table
    (D,) standardised, categories one-hot; series (L, D) standardised; field (C, H, W) or (C, L), numbers without levels
    (an autoencoder's codes, say), each channel standardised; tokens (L,) integer ids.
    levels: how many values a channel of an image can take (256, 65536; 17 for scikit-learn's digits).
    columns: of a table, point or series, or the channels of a field, in order. vocabulary: of tokens (or of the captions that
    data of another kind are given with). condition: None where there is none.
    mode: of an image, as Pillow names it ("L", "LA", "RGB", "RGBA", "I;16").
    """

    kind: Kind
    shape: tuple[int, ...]
    condition: Condition | None = None
    levels: int | None = None
    columns: tuple[Column, ...] = ()
    vocabulary: Vocabulary | None = None
    mode: str | None = None
    name: str = "data"

    @property
    def dimensions(self) -> int:
        """How many numbers a datum has, as the model sees it."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def planar(self) -> bool:
        """Whether a datum is channels over a height and a width: what 2-D convolutions are for."""
        return self.kind in ("image", "field") and len(self.shape) == 3

    @property
    def classes(self) -> int | None:
        """The number of classes, or None where the condition is not a class."""
        return self.condition.size if self.condition and self.condition.kind == "class" else None

    def to_dict(self) -> dict[str, Any]:
        """As plain lists, strings and numbers, for yaml and json."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataSpec:
        """The inverse of `to_dict`.

        >>> spec = DataSpec("image", (1, 8, 8), condition=Condition("class", 10), levels=17)
        >>> DataSpec.from_dict(spec.to_dict()) == spec
        True
        """
        values = dict(values)
        if values.get("condition"):
            values["condition"] = Condition(**_tuples(values["condition"]))
        if values.get("vocabulary"):
            values["vocabulary"] = Vocabulary(**_tuples(values["vocabulary"]))
        values["columns"] = tuple(Column(**_tuples(column)) for column in values.get("columns") or ())
        return cls(**_tuples(values))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
