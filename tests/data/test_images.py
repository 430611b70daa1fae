"""Folders of images and sets of encoded images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward.data import decoding, images
from pushforward.data.batches import Batches, take
from pushforward.data.loading import load_data
from pushforward.errors import UserError


def write(path, mode="RGB", size=(9, 6), value=None, seed=0):
    """An image of width x height; noise, or of one value."""
    rng = np.random.default_rng(seed)
    channels = decoding.CHANNELS[mode]
    shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], channels)
    if mode == "I;16":
        array = rng.integers(0, 65536, shape).astype(np.uint16)
    else:
        array = rng.integers(0, 256, shape, dtype=np.uint8) if value is None else np.full(shape, value, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_modes_and_odd_shapes_are_kept_to_the_bit(tmp_path, mode):
    arrays = [write(tmp_path / f"{i:02d}.png", mode, seed=i) for i in range(12)]
    data = load_data(tmp_path, validation=0, test=0)
    assert data.spec.mode == mode and data.spec.shape == (decoding.CHANNELS[mode], 6, 9) and not data.notes
    assert data.spec.levels == (65536 if mode == "I;16" else 256) and data.spec.condition is None
    first = arrays[0][None] if arrays[0].ndim == 2 else arrays[0].transpose(2, 0, 1)
    assert np.array_equal(data.train.codes[0].numpy(), first)
    x = data.units.to_model(data.train.codes)
    assert torch.equal(data.units.to_codes(x), data.train.codes)


def test_classes_by_folder_and_parts(tmp_path):
    for part, n in (("train", 12), ("test", 4)):
        for label, name in enumerate(("cat", "dog", "owl")):
            for i in range(n):
                write(tmp_path / part / name / f"{i}.png", "L", value=label * 50)
    data = load_data(tmp_path)
    assert data.spec.condition.names == ("cat", "dog", "owl") and (len(data.train), len(data.validation), len(data.test)) == (
        32,
        4,
        12,
    )
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.codes[:, 0, 0, 0].long(), split.condition * 50)
    assert load_data(tmp_path, label="none").spec.condition is None


def test_sizes_and_modes_that_differ(tmp_path):
    for i, (size, mode) in enumerate([((40, 30), "RGB"), ((60, 45), "RGB"), ((30, 30), "L"), ((400, 300), "RGBA")] * 3):
        write(tmp_path / f"{i}.png", mode, size, value=200)
    data = load_data(tmp_path)
    assert data.spec.mode == "RGB" and len(data.notes) == 2 and "different sizes" in data.notes[1]
    assert abs(data.spec.shape[2] / data.spec.shape[1] - 4 / 3) < 0.05
    assert load_data(tmp_path, size=16, mode="L").spec.shape == (1, 16, 16)
    assert load_data(tmp_path, size="10x20", crop=False).spec.shape == (3, 10, 20)


def test_crop_keeps_the_centre_and_transparency_goes_over_white(tmp_path):
    array = np.zeros((20, 40, 4), np.uint8)
    array[:, 10:30] = 255  # a white opaque square in the middle of transparent black
    for i in range(4):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    assert bool((load_data(tmp_path, size=20).train.codes == 255).all())
    stretched = load_data(tmp_path, size=20, crop=False).train.codes
    assert int(stretched[0, 3, 10, 0]) == 0
    assert bool((load_data(tmp_path, mode="RGB").train.codes == 255).all())


def test_orientation_and_palette(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{i}.jpg", exif=exif)
    assert load_data(tmp_path).spec.shape == (3, 20, 10)
    Image.new("P", (10, 20)).save(tmp_path / "p.png")
    assert load_data(tmp_path).spec.shape == (3, 20, 10)


@pytest.mark.parametrize("content", [b"no image", b""])
def test_corrupt_files(tmp_path, content):
    for i in range(12):
        write(tmp_path / ("ab"[i % 2]) / f"{i}.png", "L", value=i % 2)
    (tmp_path / "a" / "bad.png").write_bytes(content)
    whole = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    data = load_data(tmp_path, validation=0, test=0)
    assert len(data.train) == 12 and torch.equal(data.train.codes[:, 0, 0, 0].long(), data.train.condition)
    assert "2 image(s) could not be read" in data.notes[-1] and "a/bad.png" in data.notes[-1] and "b/cut.png" in data.notes[-1]
    with pytest.raises(UserError, match=r"bad\.png|cut\.png"):
        load_data(tmp_path, strict=True)


def test_labels_captions_and_attributes_beside(tmp_path):
    names = [f"{i}.png" for i in range(12)]
    for i, name in enumerate(names):
        write(tmp_path / name, "L", value=i)
        (tmp_path / name).with_suffix(".txt").write_text(f"number {i}")
    rows = "\n".join(f"{name},{'odd' if i % 2 else 'even'},{i % 2},a {i}" for i, name in reversed(list(enumerate(names))))
    (tmp_path / "labels.csv").write_text("file_name,label,is_odd,words\n" + rows)
    data = load_data(tmp_path, validation=0, test=0)
    assert data.spec.condition.names == ("even", "odd")
    assert torch.equal(data.train.condition, data.train.codes[:, 0, 0, 0].long() % 2)
    data = load_data(tmp_path, caption="txt", validation=0, test=0)
    assert data.spec.condition.kind == "text" and data.train.condition.shape[1] == len("number 11")
    vocabulary = data.spec.vocabulary
    assert (
        "".join(vocabulary.tokens[i] for i in data.train.condition[0].tolist()) == f"number {int(data.train.codes[0, 0, 0, 0])}"
    )
    assert load_data(tmp_path, caption="words").spec.condition.kind == "text"
    data = load_data(tmp_path, attributes="is_odd", validation=0, test=0)
    assert data.spec.condition.names == ("is_odd",) and data.spec.condition.frequencies == (0.5,)
    with pytest.raises(UserError, match="did you mean words"):
        load_data(tmp_path, label="word")
    with pytest.raises(UserError, match="one condition"):
        load_data(tmp_path, label="label", caption="txt")


def test_jsonl_labels(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.png", "L", value=i)
    (tmp_path / "metadata.jsonl").write_text("\n".join(f'{{"file_name": "{i}.png", "kind": "k{i % 3}"}}' for i in range(10)))
    data = load_data(tmp_path, label="kind", validation=0, test=0)
    assert torch.equal(data.train.condition, data.train.codes[:, 0, 0, 0].long() % 3)


def test_larger_than_memory_is_decoded_when_fetched(tmp_path, monkeypatch):
    for i in range(30):
        write(tmp_path / ("ab"[i % 2]) / f"{i:02d}.png", "RGB", seed=i)
    held = load_data(tmp_path)
    monkeypatch.setattr(images, "MEMORY", 1000)
    lazy = load_data(tmp_path)
    assert isinstance(lazy.train, decoding.LazyImages) and lazy.spec == held.spec
    for a, b in ((lazy.train, held.train), (lazy.test, held.test)):
        for x, y in zip(take(a), take(b), strict=True):
            assert torch.equal(x, y)
    x, y = Batches(lazy.train, lazy.spec, 8).at(3), Batches(held.train, held.spec, 8).at(3)
    assert torch.equal(x.x, y.x) and torch.equal(x.condition, y.condition)


def encoded(i, n_channels=3):
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 7, n_channels), i, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def dataset():
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "other": datasets.Image(),
            "label": datasets.ClassLabel(names=["even", "odd", "never"]),
            "caption": datasets.Value("string"),
            "high": datasets.Value("bool"),
        }
    )
    rows = {
        "image": [encoded(i) for i in range(40)],
        "other": [encoded(i + 100) for i in range(40)],
        "label": [i % 2 for i in range(40)],
        "caption": [f"it is {i}" for i in range(40)],
        "high": [i >= 20 for i in range(40)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("form", ["memory", "parquet", "saved", "saved dict", "folder", "mapped"])
def test_datasets_in_every_form(dataset, form, tmp_path, monkeypatch):
    import datasets

    source = dataset
    if form in ("parquet", "mapped"):
        source = tmp_path / "set.parquet"
        dataset.to_parquet(source)
        if form == "mapped":
            monkeypatch.setattr(images, "MEMORY", 500)
            monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    elif form == "saved":
        source = tmp_path / "saved"
        dataset.save_to_disk(source)
    elif form == "saved dict":
        source = tmp_path / "saved"
        datasets.DatasetDict({"train": dataset, "test": dataset.select(range(10))}).save_to_disk(source)
    elif form == "folder":
        source = tmp_path
        dataset.to_parquet(tmp_path / "train.parquet")
        dataset.select(range(10)).to_parquet(tmp_path / "test.parquet")
    data = load_data(source)
    assert data.spec.shape == (3, 5, 7) and data.spec.condition.names == ("even", "odd", "never")
    assert len(data.test) == (10 if form in ("saved dict", "folder") else 8)
    assert isinstance(data.train, decoding.LazyImages) == (form == "mapped")
    codes, condition = take(data.train)
    assert torch.equal(codes[:, 0, 0, 0].long() % 2, condition)
    codes, condition = take(load_data(source, attributes="all").train)
    assert torch.equal(codes[:, 0, 0, 0] >= 20, condition[:, 0] > 0)
    pair = load_data(source, target_image="other")
    codes, condition = take(pair.train)
    assert pair.spec.condition.kind == "image" and torch.equal(codes, condition + 100)
    codes, condition = take(load_data(source, image="other", label="caption").train)
    assert int(codes.min()) >= 100


def test_dataset_order_and_errors(dataset):
    shuffled = dataset.shuffle(seed=1)
    codes, condition = take(load_data(shuffled, limit=20).train)
    assert torch.equal(codes[:, 0, 0, 0].long() % 2, condition)
    with pytest.raises(UserError, match="did you mean caption"):
        load_data(dataset, caption="captoin")
    with pytest.raises(UserError, match="yes/no"):
        load_data(dataset, attributes="hihg")
    with pytest.raises(UserError, match="image column"):
        load_data(dataset, target_image="third")


def test_the_crop_lies_within_the_image_whatever_the_sizes():
    """min(w/W, h/H) * W rounds above w for some sizes; Pillow refuses a box that begins at -1e-14."""
    for size in [(w, h) for w in range(1, 60, 3) for h in range(1, 60, 3)]:
        image = Image.new("L", size, 7)
        for height, width in [(49, 49), (55, 41), (64, 64), (13, 7), (3, 98)]:
            assert (decoding.render(image, decoding.Plan("L", height, width)) == 7).all(), size


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif", "ppm"])
def test_damaged_files_are_skipped_whatever_their_decoder_raises(tmp_path, suffix):
    """Cut short, or with bytes changed in the header: an exception of Pillow's must not end the loading of all others."""
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / f"whole{i}.{suffix}")
    raw = (tmp_path / f"whole0.{suffix}").read_bytes()
    for i in range(120):
        damaged = bytearray(raw[: rng.integers(1, len(raw))] if i % 2 else raw)
        for place in rng.integers(0, min(len(damaged), 60), 4):
            damaged[place] = rng.integers(256)
        (tmp_path / f"x{i}.{suffix}").write_bytes(bytes(damaged))
    assert len(load_data(tmp_path, validation=0, test=0, size=8).train) >= 12
