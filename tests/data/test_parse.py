"""What a run is given and cannot be: each case is one sentence of what was given, what was expected and what to do."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pushforward.data.spec import Column, DataSpec, Vocabulary
from pushforward.data.units import units
from pushforward.errors import UserError

IMAGE = DataSpec("image", (3, 4, 5), levels=256)
GREY = DataSpec("image", (1, 4, 5), levels=17)
NUMBERS = (Column("a", "number", mean=3.0, scale=2.5), Column("b", "number"))
POINT = DataSpec("point", (2,), columns=NUMBERS)
SERIES = DataSpec("series", (4, 2), columns=NUMBERS)
FIELD = DataSpec("field", (2, 3, 3), columns=NUMBERS)
MIXED = (
    Column("count", "number", integer=True, mean=4.0, scale=2.0),
    Column("sort", "category", categories=("x", "y", "z")),
    Column("gap", "number", missing=True, mean=1.0, scale=3.0),
)
TABLE = DataSpec("table", (6,), columns=MIXED)
TEXT = DataSpec("tokens", (8,), vocabulary=Vocabulary("characters", 2, ("a", "b")))
CODES = DataSpec("tokens", (6,), vocabulary=Vocabulary("codes", 5, grid=(2, 3)))
ONES = np.ones((2, 3, 4, 5))


def frame(**changes):
    return pd.DataFrame({"count": [1, 2], "sort": ["x", "y"], "gap": [0.5, None], **changes})


CASES = {
    "nan in an image": (
        IMAGE,
        np.where(np.arange(5) == 2, np.nan, ONES),
        r"24 value\(s\) that are NaN or infinite.*\(0, 0, 0, 2\)",
    ),
    "level too high": (IMAGE, ONES * 300, "levels from 300 to 300 .* 0 to 255"),
    "level below 0": (IMAGE, -ONES.astype(np.int64), "levels from -1 to -1"),
    "level of others": (GREY, np.full((1, 1, 4, 5), 255, np.uint8), "0 to 16"),
    "fractions": (IMAGE, ONES * 0.5, r"fractions from 0.5 to 0.5 .* give \(x \* 255\).round\(\)"),
    "fractions both ways": (GREY, np.full((1, 1, 4, 5), -0.5), r"\(x \+ 1\) / 2 \* 16"),
    "image of another shape": (IMAGE, np.ones((2, 3, 5, 4)), r"images of shape \(3, 5, 4\)"),
    "no image": (IMAGE, np.ones((0, 3, 4, 5)), "empty array"),
    "text for an image": (IMAGE, ["a", "b"], "text was given where numbers were expected"),
    "ragged": (POINT, [[1.0, 2.0], [1.0]], "different lengths"),
    "complex": (POINT, np.ones((2, 2), complex), "complex"),
    "complex tensor": (POINT, torch.ones(2, 2, dtype=torch.complex64), "complex"),
    "objects": (POINT, np.array([[None, 1.0]]), "type object"),
    "columns of a point": (POINT, np.ones((5, 3)), r"shape \(3,\) were given, this model knows \(2,\): the columns a, b"),
    "infinite point": (POINT, [[math.inf, 1.0]], "infinite"),
    "nan in a point": (POINT, [[math.nan, 1.0]], "column 'a' has 1 missing"),
    "steps of a series": (SERIES, np.ones((2, 5, 2)), r"shape \(5, 2\)"),
    "rows for a series": (SERIES, pd.DataFrame({"a": [1.0], "b": [2.0]}), r"shape \(1, 2\)"),
    "channels of a field": (FIELD, np.ones((2, 3, 3, 3)), r"fields of shape \(3, 3, 3\)"),
    "nan in a field": (FIELD, np.full((1, 2, 3, 3), np.nan), "NaN"),
    "half a count": (TABLE, [[0.5, 1.0, 0.0]], "column 'count' holds 0.5, but only whole numbers"),
    "half a category": (TABLE, [[1.0, 1.5, 0.0]], "numbers of categories"),
    "category number": (TABLE, [[1.0, 3.0, 0.0]], r"category 3; its categories are 0 to 2 \(x, y, z\)"),
    "missing count": (TABLE, [[math.nan, 1.0, 0.0]], "had none in the training data"),
    "unknown category": (TABLE, frame(sort=["x", "q"]), "'q', which was not in the training data; known: x, y, z"),
    "half a count in a frame": (TABLE, frame(count=[1, 2.5]), "holds 2.5"),
    "words in a frame": (TABLE, frame(count=["one", "two"]), "should hold numbers"),
    "missing category in a frame": (TABLE, frame(sort=["x", None]), "missing"),
    "column not there": (TABLE, frame().drop(columns="gap"), r"lacks the column\(s\) gap"),
    "no rows": (TABLE, frame().iloc[:0], "without rows"),
    "unknown character": (TEXT, "abc", "the character 'c'"),
    "unknown token": (TEXT, [[0, 2]], "2 was given as a token; this model's tokens are integers 0 to 1"),
    "negative token": (CODES, [[0, -1]], "-1 was given"),
    "half a token": (CODES, [[0.5, 1.0]], "0.5 was given"),
    "nan token": (CODES, [[math.nan, 1.0]], "NaN"),
    "texts of two lengths": (TEXT, ["a", "ab"], "different lengths"),
    "text and number": (TEXT, ["a", 1], "among texts"),
    "text for codes": (CODES, "01", "array of integers"),
    "tokens of another shape": (CODES, np.ones((2, 3, 2), int), r"\(n, 2, 3\) was expected"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_is_a_sentence(name):
    spec, values, sentence = CASES[name]
    with pytest.raises(UserError, match=sentence):
        units(spec).parse(values)


FINE = {
    "one image": (IMAGE, ONES[0], (1, 3, 4, 5)),
    "channels last": (IMAGE, np.ones((2, 4, 5, 3), np.uint8), (2, 3, 4, 5)),
    "grey without channel": (GREY, np.ones((4, 5)), (1, 1, 4, 5)),
    "several grey without channel": (GREY, np.ones((7, 4, 5)), (7, 1, 4, 5)),
    "16 bits": (DataSpec("image", (1, 4, 5), levels=65536), np.full((2, 1, 4, 5), 60_000, np.uint16), (2, 1, 4, 5)),
    "one row": (POINT, [1.0, 2.0], (1, 2)),
    "one series as a frame": (SERIES, pd.DataFrame({"b": range(4), "a": range(4)}), (1, 4, 2)),
    "a gap": (TABLE, [[1.0, 2.0, math.nan]], (1, 3)),
    "a frame": (TABLE, frame(other=[1, 2]), (2, 3)),
    "text": (TEXT, "abba", (1, 4)),
    "array of texts": (TEXT, np.array(["ab", "ba"]), (2, 2)),
    "tensor of ids": (TEXT, torch.tensor([0, 1]), (1, 2)),
    "tensor of 16 bits": (CODES, torch.ones(2, 6, dtype=torch.uint16), (2, 6)),
}


@pytest.mark.parametrize("name", FINE)
def test_what_can_be_is_taken(name):
    spec, values, shape = FINE[name]
    assert tuple(units(spec).parse(values).shape) == shape
