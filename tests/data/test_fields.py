"""Fields, numbers without levels: what is taken for one, its units, and that every continuous model learns it."""

import math

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.data.inspection import describe, in_words
from pushforward.data.loading import load_data
from pushforward.data.spec import DataSpec
from pushforward.data.units import units
from pushforward.errors import UserError

RNG = np.random.default_rng(0)
CODES = (
    RNG.normal(size=(60, 4, 8, 8)) * [[[[1.0]], [[5.0]], [[0.1]], [[2.0]]]] + [[[[0.0]], [[7.0]], [[-3.0]], [[1.0]]]]
).astype(np.float32)


@pytest.fixture(scope="module")
def data():
    return load_data((CODES, np.arange(60) % 2))


def test_each_channel_is_standardised_on_the_training_set(data):
    spec = data.spec
    assert spec.kind == "field" and spec.shape == (4, 8, 8) and spec.classes == 2 and not data.units.discrete
    x = data.units.to_model(data.train.codes)
    assert x.mean((0, 2, 3)).abs().max() < 1e-4 and (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    assert DataSpec.from_dict(spec.to_dict()) == spec
    torch.testing.assert_close(data.units.to_codes(x), data.train.codes, rtol=1e-5, atol=1e-5)
    assert "fields of 4 channels, 8 x 8" in in_words(spec) and len(describe(data).ranges) == 4
    torch.testing.assert_close(data.units.parse(CODES[0]), torch.from_numpy(CODES[:1]))


def test_log_det_is_that_of_the_jacobian():
    made = units(load_data(CODES[:, :, :2, :3]).spec)
    jacobian = torch.autograd.functional.jacobian(lambda c: made.to_model(c).flatten(), torch.rand(1, 4, 2, 3)).reshape(24, 24)
    assert made.log_det == pytest.approx(torch.linalg.slogdet(jacobian.double())[1].item(), abs=1e-5)
    lines = load_data(CODES[:, :, 0], kind="field")
    assert lines.spec.shape == (4, 8)
    assert lines.units.log_det == pytest.approx(-8 * sum(math.log(column.scale) for column in lines.spec.columns))


def test_fields_far_from_0_keep_their_digits():
    """Pressures in pascal, times since 1970: float32 has steps of 8 at 1e8, eight times the spread."""
    values = 1e8 + np.random.default_rng(1).normal(size=(40, 2, 3, 5))
    data = load_data(values, kind="field", validation=0, test=0)
    x = data.units.to_model(data.train.codes)
    assert data.train.codes.dtype == torch.float64 and x.dtype == torch.float32
    expected = (values - values.mean((0, 2, 3), keepdims=True)) / values.std((0, 2, 3), keepdims=True)
    torch.testing.assert_close(x, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(data.units.to_model(data.units.parse(values)), x)
    torch.testing.assert_close(data.units.to_codes(x), torch.from_numpy(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "array, options, kind",
    [
        (CODES, {}, "field"),
        (RNG.normal(size=(20, 16, 4, 5)), {}, "field"),
        (RNG.random((20, 3, 4, 5)), {}, "image"),
        (RNG.random((20, 3, 4, 5)), {"kind": "field"}, "field"),
        (RNG.random((20, 4, 5, 3)) * 2 - 1, {}, "image"),
        (RNG.integers(0, 256, (20, 3, 4, 5)), {"kind": "field"}, "field"),
        (RNG.integers(0, 256, (20, 3, 4, 5)).astype(np.float32), {}, "image"),
        (RNG.random((20, 4, 5)), {"kind": "field"}, "field"),
        (RNG.random((20, 4, 5)), {"kind": "point"}, "point"),
        (np.abs(RNG.normal(size=(20, 4, 4, 5))) + 1, {}, "field"),
    ],
)
def test_what_is_taken_for_a_field(array, options, kind):
    assert load_data(array, **options).spec.kind == kind


def test_a_file_of_codes(tmp_path):
    np.savez(tmp_path / "codes.npz", x_train=CODES[:40], x_test=CODES[40:])
    data = load_data(tmp_path / "codes.npz")
    assert data.spec.kind == "field" and len(data.test) == 20 and any("kind=" in note for note in data.notes)
    np.save(tmp_path / "codes.npy", CODES)
    again = load_data(tmp_path / "codes.npy", kind="field")
    assert again.source["kind"] == "field" and load_data(**again.source).spec == again.spec


@pytest.mark.parametrize(
    "array, options, sentence",
    [
        (RNG.random((20, 3, 8, 8)) * 250, {}, "scale images"),
        (CODES, {"kind": "feild"}, "can be read as image, point, field, tokens"),
        (CODES[:, 0, 0], {"kind": "field"}, "fields are"),
        (CODES, {"kind": "image"}, r"kind='field'"),
        (CODES, {"size": 4}, "means nothing"),
        (CODES[:, 0, 0], {"kind": "image"}, "images are"),
    ],
)
def test_what_is_refused(array, options, sentence):
    with pytest.raises(UserError, match=sentence):
        load_data(array, **options)


@pytest.mark.parametrize("name", ["gaussian", "gmm", "vae", "gan", "flow-matching"])
def test_every_continuous_model_learns_a_field(name, data, tmp_path):
    run = pf.train(name, data, steps=3, batch_size=16, out=tmp_path / "run")
    x = run.sample(5, seed=1)
    assert tuple(x.shape) == (5, 4, 8, 8) and x.dtype == torch.float32 and bool(x.isfinite().all())
    assert torch.equal(pf.load(tmp_path / "run").sample(2, seed=1), run.sample(2, seed=1))
    if name == "gaussian":
        assert bool(run.log_prob(CODES[:3]).value.isfinite().all())
