"""Files are written whole or not at all, and carry their recipes."""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pushforward import artefacts
from pushforward.errors import UserError

RECIPE = {
    "run": "runs/vae-über",
    "weights": "ab12",
    "seed": 7,
    "n": 64,
    "options": {"steps": [1, 2], "guidance": 1.5, "x": None},
    "quote": '", \n#',
}
FRAME = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, np.nan, 2.0], "c": ["x,#y", 'q"uote', "(missing)"]})


def write(path: Path, recipe: dict | None) -> None:
    match path.suffix:
        case ".png":
            artefacts.write_picture(Image.new("RGB", (3, 2), "red"), path, recipe)
        case ".npz":
            artefacts.write_array(path, {"images": np.arange(6), "classes": np.zeros(2)}, recipe)
        case ".npy":
            artefacts.write_array(path, np.arange(6.0).reshape(2, 3), recipe)
        case ".csv" | ".parquet":
            artefacts.write_table(path, FRAME, recipe)
        case _:
            artefacts.write_text(path, ["one", "two"], recipe)


SUFFIXES = [".png", ".npz", ".npy", ".csv", ".parquet", ".txt", ".jsonl"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_recipe_round_trip(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    write(path, RECIPE)
    assert artefacts.read_recipe(path) == RECIPE
    assert os.listdir(tmp_path) == [path.name]  # no temporary file stays


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_recipe_or_broken_file_is_a_sentence(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    write(path, None)
    with pytest.raises(UserError, match="carries no recipe"):
        artefacts.read_recipe(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe broken")
    with pytest.raises(UserError, match="file"):
        artefacts.read_recipe(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        artefacts.read_recipe(path)


def test_contents_survive_the_recipe(tmp_path):
    image = Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000)
    artefacts.write_picture(image, tmp_path / "deep.png", RECIPE)
    with Image.open(tmp_path / "deep.png") as again:
        assert np.array_equal(np.asarray(again), np.asarray(image))

    array = torch.arange(6).reshape(2, 3)
    artefacts.write_array(tmp_path / "a.npy", array, RECIPE)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)  # numpy itself sees the array only
    assert np.array_equal(artefacts.read_array(tmp_path / "a.npy")["samples"], array)
    artefacts.write_array(tmp_path / "a.npz", {"x": array, "y": array[0]}, RECIPE)
    assert list(artefacts.read_array(tmp_path / "a.npz")) == ["x", "y"]

    for name, recipe in (("t.csv", RECIPE), ("u.csv", None), ("t.parquet", RECIPE)):
        artefacts.write_table(tmp_path / name, FRAME, recipe)
        pd.testing.assert_frame_equal(artefacts.read_table(tmp_path / name), FRAME, check_dtype=False)

    artefacts.write_text(tmp_path / "t.txt", ["to be\nor not", "é"], None)
    assert (tmp_path / "t.txt").read_text() == "to be\nor not\n-----\né\n"
    artefacts.write_text(tmp_path / "t.jsonl", ["to be\nor not", "é\r\n"], RECIPE)
    assert [row["text"] for row in artefacts.read_jsonl(tmp_path / "t.jsonl")[1:]] == ["to be\nor not", "é\r\n"]


def test_objects_are_refused(tmp_path):
    with pytest.raises(UserError, match="Python objects"):
        artefacts.write_array(tmp_path / "a.npz", {"x": np.array([{}], dtype=object)})
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError):
        artefacts.read_array(tmp_path / "evil.npy")
    (tmp_path / "evil.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="YAML"):
        artefacts.read_yaml(tmp_path / "evil.yaml")
    with pytest.raises(UserError, match="one array"):
        artefacts.write_array(tmp_path / "a.npy", {"x": np.zeros(2), "y": np.zeros(2)})
    with pytest.raises(UserError, match=r"expected \.png"):
        artefacts.write_picture(Image.new("L", (1, 1)), tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission"), (errno.EIO, "could not write")]
)
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, number, words, where):
    path = artefacts.write_bytes(tmp_path / "run.yaml", b"old")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(UserError, match=words) as caught:
            artefacts.write_bytes(path, b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["run.yaml"]
    artefacts.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_odd_places(tmp_path):
    assert artefacts.write_bytes(tmp_path / "a" / "b" / "c.bin", b"x").read_bytes() == b"x"  # makes directories
    with pytest.raises(UserError, match="directory"):
        artefacts.write_bytes(tmp_path / "a", b"x")
    with pytest.raises(UserError, match="could not write"):
        artefacts.write_bytes(tmp_path / "a" / "b" / "c.bin" / "d", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    artefacts.write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"x"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    artefacts.write_bytes(tmp_path / "pipe", b"x")  # written to, not replaced
    assert os.read(reader, 2) == b"x"
    os.close(reader)


@dataclass
class Point:
    x: float
    at: Path


def test_json_and_yaml_take_what_runs_hold(tmp_path):
    value = {
        "z": np.float32(0.5),
        "a": torch.tensor([1, 2]),
        "t": (1, 2),
        "p": Point(1e-7, Path("r")),
        "version": "0.1.0",
        "ü": True,
        "i": np.int64(3),
    }
    plain = {"z": 0.5, "a": [1, 2], "t": [1, 2], "p": {"x": 1e-7, "at": "r"}, "version": "0.1.0", "ü": True, "i": 3}
    assert artefacts.read_json(artefacts.write_json(tmp_path / "v.json", value)) == plain
    again = artefacts.read_yaml(artefacts.write_yaml(tmp_path / "v.yaml", value))
    assert again == plain and list(again) == list(plain)  # keys in their order
    artefacts.write_json(tmp_path / "n.json", {"nan": float("nan"), "inf": np.float64("inf")})
    strict = json.loads((tmp_path / "n.json").read_text(), parse_constant=lambda _: pytest.fail("not JSON"))
    assert strict == {"nan": None, "inf": None}


def test_broken_texts_are_sentences(tmp_path):
    path = tmp_path / "x"
    for content in (b'{"a": ', b"\xff\xfe", b"a: [1, 2"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="x"):
            artefacts.read_json(path)
        with pytest.raises(UserError, match="x"):
            artefacts.read_yaml(path)
    with pytest.raises(UserError, match="no such file"):
        artefacts.read_json(tmp_path / "absent")
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert artefacts.read_jsonl(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        artefacts.read_jsonl(path)
