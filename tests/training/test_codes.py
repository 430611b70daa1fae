"""The codes of a trained model as data: the second stage learns them, and its samples decode."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.data.batches import Data, take
from pushforward.data.spec import DataSpec
from pushforward.training import codes as room
from pushforward.training.codes import codes_of
from pushforward.training.runs import Run


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    return pf.train("vae", "digits", steps=30, batch_size=64, out=tmp_path_factory.mktemp("codes") / "vae")


class Codec(nn.Module):
    """Means of 2 x 2 pixels as codes of a given shape or kind."""

    def __init__(self, shape, levels=None):
        super().__init__()
        self.shape, self.levels = shape, levels

    def encode(self, x, *, condition=None):
        z = nn.functional.avg_pool2d(x, 2).flatten(1)
        z = torch.cat([z, 3 - 2 * z], 1)[:, : torch.Size(self.shape).numel()].reshape(-1, *self.shape)
        return z if self.levels is None else ((z + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1).long()


def coded(model, data, **options) -> tuple[Run, Data]:
    run = Run(model, data.spec, Path("nowhere"), {"model": {"name": "codec"}}, data)
    return run, codes_of(run, **options)


def test_two_stages_from_end_to_end(first_stage, tmp_path):
    data = codes_of(first_stage)
    assert data.spec.kind == "point" and data.spec.shape == (16,) and data.spec.classes == 10
    assert data.source["source"].startswith("codes:")
    for part in ("train", "validation", "test"):
        mine, theirs = getattr(data, part), getattr(first_stage.data, part)
        assert len(mine) == len(theirs) and torch.equal(mine.condition, theirs.condition)
    rows = torch.tensor([300, 0, 7])  # each code is that of its own datum, however they were batched
    images, labels = first_stage.data.train.fetch(rows)
    expected = first_stage.encode(images, condition=labels)
    torch.testing.assert_close(data.train.fetch(rows)[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(codes_of(first_stage).train.codes, data.train.codes)
    prior = pf.train("gmm", data, steps=3, out=tmp_path / "gmm")
    drawn = prior.sample(6, seed=0, condition=3)
    images = first_stage.decode(drawn, condition=3)
    assert tuple(images.shape) == (6, 1, 8, 8) and images.dtype == torch.uint8


@pytest.mark.parametrize(
    "shape, levels, kind, presented",
    [
        ((2, 4, 4), None, "field", (2, 4, 4)),
        ((4, 8), None, "field", (4, 8)),
        ((32,), None, "point", (32,)),
        ((4, 4), 6, "tokens", (4, 4)),
        ((16,), 6, "tokens", (16,)),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_codes_of_every_shape(shape, levels, kind, presented, lazy, monkeypatch):
    if lazy:
        monkeypatch.setattr(room, "MEMORY", 0)
    digits = pf.load_data("digits")
    run, data = coded(Codec(shape, levels), digits)
    assert data.spec.kind == kind and data.spec.classes == 10 and isinstance(data.train, room.EncodedSplit) == lazy
    rows = torch.tensor([5, 1000])
    found, labels = data.train.fetch(rows)
    expected = run.encode(digits.train.codes[rows])
    assert torch.equal(labels, digits.train.condition[rows])
    shown = data.units.present(found)
    assert tuple(shown.shape[1:]) == presented
    torch.testing.assert_close(shown.to(expected.dtype), expected)
    if kind == "tokens":
        assert data.spec.vocabulary.kind == "codes" and data.spec.vocabulary.size <= 6
    else:
        x = data.units.to_model(take(data.train)[0])
        assert abs(float(x.std()) - 1) < 0.1, "standardised on the training split"
    assert DataSpec.from_dict(data.spec.to_dict()) == data.spec


def test_an_endless_stream_is_encoded_as_it_comes():
    class Twice(nn.Module):
        def encode(self, x, *, condition=None):
            return 2 * x

    data = pf.load_data("moons")
    _, found = coded(Twice(), data)
    at = torch.tensor([3, 10**9])
    torch.testing.assert_close(found.train.fetch(at)[0], 2 * data.units.to_model(data.train.fetch(at)[0]))
    assert found.spec.columns[0].scale == pytest.approx(2, rel=0.05) and len(found.test) == len(data.test)


def test_what_has_no_codes_is_said(first_stage):
    digits = pf.load_data("digits")
    with pytest.raises(pf.UserError, match="cannot encode"):
        coded(nn.Linear(1, 1), digits)
    with pytest.raises(pf.UserError, match=r"these data are image of shape \(1, 16, 16\)"):
        codes_of(first_stage, pf.load_data("digits", size=16))
    bad = digits.replace(spec=replace(digits.spec, condition=None))

    class Broken(nn.Module):
        def encode(self, x, *, condition=None):
            return x.flatten(1) / 0

    with pytest.raises(pf.UserError, match="not finite"):
        coded(Broken(), bad)
