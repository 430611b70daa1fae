"""Copies are caught, new data are cleared."""

import numpy as np
import pytest

from pushforward.errors import UserError
from pushforward.measures.memory import memory_measures, nearest, runs_of, text_measures

TRAIN = np.random.default_rng(0).standard_normal((500, 8))
HELD = np.random.default_rng(1).standard_normal((200, 8))


def measured(samples):
    measures = memory_measures(nearest(samples, TRAIN)[0], nearest(HELD, TRAIN)[0], 0, "values", len(TRAIN))
    return {m.name: m for m in measures}


def test_nearest_is_brute_force_and_exact_for_copies():
    samples = np.concatenate([HELD[:20], TRAIN[[7, 3]]])
    distance, index = nearest(samples, TRAIN, chunk=64)
    full = np.linalg.norm(samples[:, None] - TRAIN[None], axis=-1)
    np.testing.assert_array_equal(index, full.argmin(1))
    np.testing.assert_allclose(distance, full.min(1), atol=1e-12)
    assert distance[-2:].tolist() == [0.0, 0.0] and index[-2:].tolist() == [7, 3]


def test_nearest_leaves_out_the_datum_itself():
    own = np.array([5, 70, 499])
    distance, index = nearest(TRAIN[own], TRAIN, own, chunk=64)
    full = np.linalg.norm(TRAIN[own][:, None] - TRAIN[None], axis=-1)
    full[np.arange(3), own] = np.inf
    np.testing.assert_array_equal(index, full.argmin(1))
    assert (distance > 0).all()


def test_planted_copies_are_caught():
    """A third of the samples are training data with a little noise."""
    new = np.random.default_rng(2).standard_normal((120, 8))
    copies = TRAIN[:60] + 0.01 * np.random.default_rng(3).standard_normal((60, 8))
    found = measured(np.concatenate([new, copies]))
    assert found["suspected copies"].low <= 1 / 3 <= found["suspected copies"].high
    assert not found["suspected copies"].real
    everything = measured(copies)
    assert everything["suspected copies"].value == 1 and everything["nearest training distance"].value < 0.05
    assert not everything["nearest training distance"].real


def test_new_data_are_cleared():
    found = measured(np.random.default_rng(4).standard_normal((200, 8)))
    assert found["suspected copies"].real and found["suspected copies"].value <= 0.04
    assert found["nearest training distance"].value == pytest.approx(1, abs=0.06)
    assert found["nearest training distance"].real


def test_data_that_repeat_themselves_are_no_copies():
    """Few different values (a table of categories): held-out data meet training data exactly, and so may samples."""
    rng = np.random.default_rng(5)
    train, held, samples = (rng.integers(0, 3, (n, 2)).astype(float) for n in (300, 100, 100))
    measures = memory_measures(nearest(samples, train)[0], nearest(held, train)[0], 0, "values", 300)
    found = {m.name: m for m in measures}
    assert found["suspected copies"].real and found["suspected copies"].floor == 1
    assert "nearest training distance" not in found  # a ratio to 0


def test_runs_of_tokens():
    rows = np.array([[1, 2, 3, 1, 2, 3], [3, 1, 2, 2, 2, 2]])
    runs = runs_of(rows, 3)
    assert runs.shape == (2, 4)
    assert runs[0, 0] == runs[0, 3] and runs[0, 2] == runs[1, 0]
    assert len(np.unique(runs)) == 5  # 123, 231, 312, 122, 222
    assert runs_of(rows, 7).shape == (2, 0)


def test_copied_text_is_caught_and_new_text_cleared():
    rng = np.random.default_rng(6)
    train = rng.integers(0, 30, (1, 5000))
    held, new = rng.integers(0, 30, (50, 40)), rng.integers(0, 30, (50, 40))
    copy = np.stack([train[0, i : i + 40] for i in range(0, 2000, 40)])
    found = {m.name: m for m in text_measures(copy, held, train, 20, 0)}
    assert found["copied 20-grams"].value == 1 and found["copied 20-grams"].floor == 0
    found = {m.name: m for m in text_measures(new, held, train, 20, 0)}
    assert found["copied 20-grams"].value == 0 and found["copied 20-grams"].real
    stuck = {m.name: m for m in text_measures(np.full((50, 40), 3), held, train, 20, 0)}
    assert stuck["distinct 4-grams"].value < 0.01 < 0.9 < stuck["distinct 4-grams"].floor
    with pytest.raises(UserError, match="too short"):
        text_measures(new[:, :10], held[:, :10], train, 20, 0)
