"""Names, paths and errors of `load_data`; and what `describe` says."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pushforward.data import loading
from pushforward.data.inspection import describe
from pushforward.data.loading import BUILT_IN, foreseen, load_data
from pushforward.data.options import Options
from pushforward.errors import UserError


def test_signature_is_light_and_explained():
    code = (
        "import sys, pushforward.data.loading; print([m for m in ('torch', 'pandas', 'datasets', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    for field in dataclasses.fields(Options):
        assert f"\n        {field.name}: " in load_data.__doc__
    import inspect

    defaults = {k: p.default for k, p in inspect.signature(load_data).parameters.items() if k != "source"}
    assert defaults == {field.name: field.default for field in dataclasses.fields(Options)}


def test_built_in_names_are_the_toys():
    from pushforward.data import toys

    assert set(BUILT_IN) == {"digits", *toys.NAMES}


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("digts", r"did you mean digits\?$"),
        ("pinweel", r"did you mean pinwheel\?$"),
        ("ring", "ring8"),
        ("./pinwl", r"cannot be found: there is no such file or folder; did you mean pinwheel\?$"),
        ("./nowhere", "cannot be found"),
        ("nowhere.csv", "cannot be found"),
        ("a/b/c/d", "cannot be found"),
        ("", "cannot be found"),
    ],
)
def test_unknown_names_never_ask_the_network(name, sentence, monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(UserError, match=sentence) as loading:
        load_data(name)
    with pytest.raises(UserError) as before:
        foreseen(name)
    assert str(before.value) == str(loading.value)


def test_what_is_foreseen_is_what_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.md").write_text("to be or not to be " * 200)
    Path("table.csv").write_text("a,b\n" + "1,2\n3,4\n5,7\n" * 40)
    for source in ("digits", "spirals", "text.md"):
        assert foreseen(source) == load_data(source).spec.kind
    assert foreseen("table.csv") is None, "a table, or a series if it is cut into windows"
    assert foreseen(".") is None and foreseen("owner/name:part") is None
    for name in ("picture.png", "notes.docx"):
        Path(name).touch()
        with pytest.raises(UserError) as loading:
            load_data(name)
        with pytest.raises(UserError) as before:
            foreseen(name)
        assert str(before.value) == str(loading.value)


def test_foreseeing_imports_nothing_heavy():
    code = "import sys; from pushforward.data.loading import foreseen; foreseen('moons'); foreseen('.'); print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"torch", "pandas", "datasets", "sklearn", "matplotlib"}


def test_hub_name_without_network(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", offline)
    with pytest.raises(UserError, match=r"hub cannot be asked for it \(ConnectionError\); valid: checkerboard"):
        load_data("somebody/something-unknown-here")


def test_paths(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is empty"):
        load_data(tmp_path)
    (tmp_path / "paper.pdf").write_text("x")
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(UserError, match=r"found: 1 \.docx, 1 \.pdf"):
        load_data(tmp_path)
    with pytest.raises(UserError, match="no kind known here"):
        load_data(tmp_path / "paper.pdf")
    (tmp_path / "one.png").write_bytes(b"x")
    with pytest.raises(UserError, match="is one image"):
        load_data(tmp_path / "one.png")
    with pytest.raises(UserError, match="none of the images"):
        load_data(tmp_path)
    from PIL import Image

    Image.new("L", (4, 4)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="at least 2"):
        load_data(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"not numpy")
    with pytest.raises(UserError, match="cannot be read as numpy"):
        load_data(tmp_path / "x.npy")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        load_data(tmp_path / "x.parquet")
    monkeypatch.setattr(loading.os, "access", lambda *_: False)
    for path in (tmp_path, tmp_path / "x.npy"):
        with pytest.raises(UserError, match="no permission"):
            load_data(path)


def test_nothing_pickled_is_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="allow_pickle"):
        load_data(tmp_path / "x.npy")


def test_describe_digits():
    description = describe(load_data("digits"))
    assert description.counts == {"train": 1258, "validation": 180, "test": 359}
    assert description.words == "L images, 8 high and 8 wide, 17 levels; given one of 10 classes"
    assert description.ranges[0][0] == "grey" and description.ranges[0][1::2] == (0.0, 16.0)
    assert dict(description.classes).keys() == set("0123456789") and not description.problems
    assert "condition: 0 " in description.text()


def test_describe_finds_problems():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    x[:, 1] = 2.0
    x[30:] = x[:30]
    y = np.zeros(60, int)
    y[0] = 1
    text = describe(load_data((x, y))).text()
    for sentence in ("only 42 data", "column x1 is constant", "exact repetitions", "test data are also", "fewer than 5"):
        assert sentence in text
    images = np.full((200, 6, 6), 255, np.uint8)
    images[:, 1:, 1:] = rng.integers(0, 256, (200, 5, 5))
    text = describe(load_data(images)).text()
    assert "constant over all images" in text and "saturated" in text
    x = rng.normal(size=(500, 2)).clip(max=1.0)
    assert "x0 (1), x1 (1) is saturated" in describe(load_data(x)).text()


@pytest.mark.parametrize("name", BUILT_IN)
def test_describe_and_reload_everything_built_in(name):
    data = load_data(name)
    assert describe(data).text() and data.source["source"] == name
    again = load_data(**data.source)
    index = torch.arange(5)
    assert torch.equal(again.train.fetch(index)[0], data.train.fetch(index)[0])
