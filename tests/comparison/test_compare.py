"""`compare` keeps its entries apart, also those of one name."""

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.comparison.compare import labels
from pushforward.errors import UserError


@pytest.fixture(scope="module")
def points():
    return pf.load_data(np.random.default_rng(0).standard_normal((120, 2)))


def test_labels_meet_no_name_that_was_given():
    assert labels(["vae", "vae", "vae-2", "vae"]) == ["vae", "vae-3", "vae-2", "vae-4"]
    assert labels(["a", "b"]) == ["a", "b"]


def test_one_name_twice_is_two_runs_of_two_seeds(points, tmp_path):
    found = pf.compare(["gmm", "gmm"], points, steps=1, out=tmp_path / "both", device="cpu")
    assert list(found.runs) == list(found.evaluations) == ["gmm", "gmm-2"]
    assert [run.record["training"]["seed"] for run in found.runs.values()] == [0, 1]
    first, second = (run.model.state_dict() for run in found.runs.values())
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert (tmp_path / "both" / "gmm-2" / "report.html").exists()
    assert "gmm-2" in str(found) and "<th>gmm-2</th>" in found.page.read_text()


def test_modules_of_one_name_with_settings_of_their_own(points, tmp_path):
    few, many = (pf.create("gmm", points.spec, components=k) for k in (2, 8))
    found = pf.compare([few, many], points, steps=1, out=tmp_path / "both", device="cpu")
    assert [run.model.settings["components"] for run in found.runs.values()] == [2, 8]
    assert list(found.runs) == ["gmm", "gmm-2"]
    with pytest.raises(UserError, match="twice"):
        pf.compare([few, few], points, steps=1, out=tmp_path / "same")


def test_models_that_were_cut_short_are_named(tmp_path):
    found = pf.compare(["gaussian", "gan"], pf.load_data("digits", limit=120), steps=3, out=tmp_path / "c")
    said = " ".join(found.notes())
    assert "gan 0 %" in said and "gaussian" not in said and "learns fastest, not which is best" in said.replace("\n", " ")
    assert "gan 0 %" in found.page.read_text() and said in str(found)
