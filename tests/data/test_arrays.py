"""Arrays in memory and in files: what is inferred, splits, labels, and what is refused."""

import numpy as np
import pytest
import torch

from pushforward.data.batches import Batches, take
from pushforward.data.loading import load_data
from pushforward.errors import UserError

RNG = np.random.default_rng(0)


def test_digits():
    data = load_data("digits")
    assert data.spec.shape == (1, 8, 8) and data.spec.levels == 17 and data.spec.mode == "L"
    assert data.spec.condition.names == tuple("0123456789") and abs(sum(data.spec.condition.frequencies) - 1) < 1e-6
    assert data.train.codes.dtype == torch.uint8 and int(data.train.codes.max()) == 16
    counts = torch.bincount(data.train.condition, minlength=10) / len(data.train)
    assert np.allclose(counts.numpy(), data.spec.condition.frequencies, atol=1e-6)
    batch = Batches(data.train, data.spec, 8).at(0)
    assert batch.x.shape == (8, 1, 8, 8) and batch.x.abs().max() <= 1 and batch.condition.dtype == torch.int64


def test_splits_are_disjoint_complete_and_deterministic():
    x = np.arange(500, dtype=np.float64).reshape(-1, 1)
    first, again, other = (load_data(x, seed=seed) for seed in (1, 1, 2))
    parts = [take(split)[0][:, 0] for split in (first.train, first.validation, first.test)]
    assert [len(part) for part in parts] == [350, 50, 100]
    assert sorted(torch.cat(parts).tolist()) == list(range(500))
    assert torch.equal(first.test.codes, again.test.codes) and not torch.equal(first.test.codes, other.test.codes)


def test_labels_follow_their_rows():
    x = RNG.normal(size=(300, 2))
    data = load_data((x, (x[:, 0] > 0).astype(int)))
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.condition, (split.codes[:, 0] > 0).long())
    assert data.spec.kind == "point" and [column.name for column in data.spec.columns] == ["x0", "x1"]
    assert np.isclose(data.spec.columns[1].mean, data.train.codes[:, 1].mean(), atol=1e-6)
    assert np.isclose(data.spec.columns[1].scale, data.train.codes[:, 1].std(correction=0), rtol=1e-5)
    assert data.source == {"source": "<array>"}


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((20, 6, 9), (1, 6, 9)),
        ((20, 6, 9, 3), (3, 6, 9)),
        ((20, 3, 6, 9), (3, 6, 9)),
        ((20, 6, 9, 2), (2, 6, 9)),
        ((20, 4, 6, 9), (4, 6, 9)),
    ],
)
def test_image_shapes(shape, expected):
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    data = load_data(x, validation=0, test=0)
    assert data.spec.kind == "image" and data.spec.shape == expected and data.spec.levels == 256
    assert data.spec.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[expected[0]]
    moved = x[:, None] if x.ndim == 3 else x if x.shape[1] == expected[0] else x.transpose(0, 3, 1, 2)
    assert np.array_equal(data.train.codes.numpy(), moved)


def test_values_of_images():
    x = RNG.random((20, 5, 6)).astype(np.float32)
    assert np.array_equal(load_data(x, validation=0, test=0).train.codes[:, 0].numpy(), np.rint(x * 255).astype(np.uint8))
    data = load_data(torch.from_numpy(x * 2 - 1), validation=0, test=0)
    assert np.abs(data.train.codes[:, 0].numpy() - x * 255).max() <= 0.51 and "[-1, 1]" in data.notes[0]
    assert load_data(RNG.integers(0, 60000, (20, 5, 6))).spec.levels == 65536
    assert load_data(RNG.integers(0, 2, (20, 5, 6)).astype(bool)).spec.levels == 2
    assert load_data(RNG.integers(0, 256, (20, 5, 6)).astype(np.float32)).spec.levels == 256
    with pytest.raises(UserError, match=r"scale images to \[0, 1\]"):
        load_data(RNG.normal(size=(20, 5, 6)))


def test_resizing_and_modes_of_arrays():
    x = np.full((20, 16, 8, 3), 200, np.uint8)
    data = load_data(x, size="8x12", mode="L")
    assert data.spec.shape == (1, 8, 12) and data.spec.mode == "L" and bool((data.train.codes == 200).all())
    assert load_data("digits", size=16).spec.levels == 17


def test_npz_parts_and_named_arrays(tmp_path):
    images = RNG.integers(0, 256, (60, 4, 5), dtype=np.uint8)
    np.savez(
        tmp_path / "parts.npz", x_train=images[:40], y_train=np.arange(40) % 3, x_test=images[40:], y_test=np.arange(20) % 3
    )
    data = load_data(tmp_path / "parts.npz")
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 20) and data.spec.classes == 3
    assert np.array_equal(data.test.codes[:, 0].numpy(), images[40:])
    np.savez(tmp_path / "named.npz", faces=images, person=np.arange(60) % 7, angle=np.arange(60.0) / 7, other=images)
    with pytest.raises(UserError, match="image=NAME"):
        load_data(tmp_path / "named.npz")
    data = load_data(tmp_path / "named.npz", image="faces", label="person")
    assert data.spec.classes == 7 and data.source["image"] == "faces"
    again = load_data(**data.source)
    assert again.spec == data.spec and torch.equal(again.train.codes, data.train.codes)
    with pytest.raises(UserError, match="did you mean person"):
        load_data(tmp_path / "named.npz", image="faces", label="persn")
    with pytest.raises(UserError, match="fractions"):
        load_data(tmp_path / "named.npz", image="faces", label="angle")
    assert load_data(tmp_path / "parts.npz", label="none").spec.condition is None
    assert load_data(tmp_path / "parts.npz", label=False).spec.condition is None
    assert len(load_data(tmp_path / "parts.npz", limit=10).train) == 9


def test_attributes_vectors_and_series():
    x = RNG.normal(size=(50, 3))
    assert load_data((x, RNG.integers(0, 2, (50, 4)))).spec.condition.kind == "attributes"
    assert load_data((x, RNG.normal(size=(50, 4)))).spec.condition.kind == "vector"
    data = load_data(RNG.normal(size=(200, 3)), series=12)
    assert data.spec.kind == "series" and data.spec.shape == (12, 3) and len(data.train) == 140 - 11
    assert load_data(RNG.normal(size=(50, 12, 3)), series=12).spec.shape == (12, 3)


def test_constant_column_and_tiny_sets():
    x = RNG.normal(size=(8, 2))
    x[:, 1] = 5.0
    data = load_data(x)
    assert data.spec.columns[1].scale == 1.0 and data.spec.columns[1].mean == 5.0
    assert len(data.train) == 8 and data.test is None and len(data.notes) == 2


@pytest.mark.parametrize(
    "source, options, sentence",
    [
        (np.array([[1.0, 2.0], [np.nan, 3.0]]), {}, "row 1, column x0"),
        (np.full((4, 3, 3), np.inf), {}, "NaN or infinite"),
        (np.zeros((1, 4, 4), np.uint8), {}, "at least 2"),
        (np.zeros((9, 4, 4, 4, 4)), {}, "images"),
        (np.zeros((20, 4, 4), np.uint8), {"size": 0}, "at least 1 pixel"),
        (np.zeros((20, 4, 4), np.uint8), {"size": "-3x4"}, "size="),
        (np.zeros((20, 4, 4), np.uint8), {"mode": "CMYK"}, "valid: L, LA"),
        (np.zeros((20, 2)), {"validation": 0.5, "test": 0.5}, "leave nothing"),
        ((np.zeros((2000, 2)), np.arange(2000)), {}, "more than 1000"),
        ((np.zeros((20, 2)), np.zeros(19)), {}, "equally many"),
        (np.array(["a", "b"]), {}, "numbers were expected"),
        ([[1, 2], [3]], {}, "different lengths"),
        (3.5, {}, "type float"),
    ],
)
def test_refused(source, options, sentence):
    with pytest.raises(UserError, match=sentence):
        load_data(source, **options)
