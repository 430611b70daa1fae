"""The main job: one command learns the digits; the samples are of the class asked for, and are not copies."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from pushforward.cli import main
from pushforward.data.batches import take
from pushforward.training.opening import load


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(tmp_path_factory.mktemp("main"))
    assert main(["train", "flow-matching"]) == 0
    yield load("runs/flow-matching-digits")
    monkeypatch.undo()


def test_the_asked_class_is_recognised(run):
    """A support-vector classifier fitted on the real digits: at least 95 % of samples, 85 % of the worst class."""
    digits = load_digits()
    judge = SVC().fit(digits.data, digits.target)
    asked = torch.arange(10).repeat_interleave(60)
    samples = run.sample(600, condition=asked, seed=123)
    assert samples.dtype == torch.uint8 and tuple(samples.shape) == (600, 1, 8, 8) and samples.max() <= 16
    right = judge.predict(samples.flatten(1).numpy()) == asked.numpy()
    each = [right[asked.numpy() == k].mean() for k in range(10)]
    assert right.mean() >= 0.95 and min(each) >= 0.85, (right.mean(), each)


def test_they_are_not_copies(run):
    """Samples come no nearer to the training digits than held-out digits do, within a fifth."""
    data = run.load_data()
    train, test = take(data.train)[0].flatten(1).float(), take(data.test)[0].flatten(1).float()
    samples = run.sample(400, seed=5).flatten(1).float()
    nearest = torch.cdist(samples, train).amin(1)
    usual = torch.cdist(test, train).amin(1)
    assert 0.8 < nearest.median() / usual.median() < 1.25
    assert (nearest < usual.quantile(0.01)).float().mean() < 0.05


def test_samples_do_not_depend_on_the_batch(run):
    whole, parts = run.sample(40, seed=9), run.sample(40, seed=9, batch_size=7)
    assert ((whole.float() - parts.float()).abs() <= 1).all() and (whole == parts).float().mean() > 0.999


def test_the_directory_is_complete(run):
    names = {path.name for path in run.directory.iterdir()}
    wanted = {"run.yaml", "model.safetensors", "metrics.json", "history.jsonl", "report.html"}
    assert wanted | {"samples.png", "training.png", "trajectory.png"} <= names
    measures = {m["name"]: m for m in json.loads((run.directory / "metrics.json").read_text())["measures"]}
    assert measures["asked class recognised"]["value"] >= 0.95
    assert measures["Frechet distance"]["floor"] is not None
    assert np.isfinite([m["value"] for m in measures.values()]).all()
