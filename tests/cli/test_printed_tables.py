"""Tables are whole in a terminal of 80 characters."""

import pytest

from pushforward import building, zoo
from pushforward.cli.models import describe, table
from pushforward.evaluation.records import as_text


@pytest.mark.parametrize("width", [80, 140])
def test_no_name_of_a_model_is_cut(width):
    text = as_text(table(width), width)
    assert max(map(len, text.splitlines())) <= width
    assert all(f" {name} " in text for name in zoo.ZOO)
    if width == 80:
        assert "…" not in text


def test_no_option_is_cut():
    text = as_text(describe("vae"), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f" {key.replace('_', '-')} " in text for key in building.options("vae"))
