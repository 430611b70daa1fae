"""Token ids that stand for nothing but themselves: integers in rows, in grids, or one long sequence."""

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.data.inspection import in_words
from pushforward.data.loading import load_data
from pushforward.data.spec import DataSpec
from pushforward.data.units import decode_text
from pushforward.errors import UserError

RNG = np.random.default_rng(0)
GRIDS = RNG.integers(0, 7, (60, 3, 4))


def test_a_grid_is_remembered_and_comes_back():
    data = load_data(GRIDS, kind="tokens", validation=0, test=0)
    assert data.spec.kind == "tokens" and data.spec.shape == (12,)
    assert data.spec.vocabulary.kind == "codes" and data.spec.vocabulary.size == 7 and data.spec.vocabulary.grid == (3, 4)
    assert data.train.codes.dtype == torch.uint8
    assert np.array_equal(data.units.present(data.train.codes).numpy(), GRIDS)
    for given in (GRIDS, GRIDS.reshape(60, 12), GRIDS.astype(np.uint16)):
        assert torch.equal(data.units.parse(given), data.train.codes.long())
    assert torch.equal(data.units.parse(GRIDS[0]), data.train.codes[:1].long())
    assert DataSpec.from_dict(data.spec.to_dict()) == data.spec
    assert in_words(data.spec) == "grids of 3 x 4 tokens, 7 different codes"
    assert decode_text(data.spec.vocabulary, [3, 1]) == "3 1"


@pytest.mark.parametrize("highest, kind", [(255, torch.uint8), (256, torch.int16), (40_000, torch.int32)])
def test_codes_are_kept_in_the_smallest_type(highest, kind):
    rows = np.tile([[0, highest]], (5, 3))
    data = load_data(rows, kind="tokens", validation=0, test=0)
    assert data.train.codes.dtype == kind and np.array_equal(data.train.codes.numpy(), rows) and not data.spec.vocabulary.grid


def test_one_long_sequence_is_cut_into_windows():
    data = load_data(RNG.integers(0, 5, 1000), kind="tokens", context=16)
    assert data.spec.shape == (16,) and data.spec.vocabulary.size == 5 and len(data.train) == 700 - 15


@pytest.mark.parametrize(
    "array, sentence",
    [
        (RNG.random((20, 4)), r"integers \(N, length\)"),
        (GRIDS[..., None], r"integers \(N, length\)"),
        (GRIDS - 1, "tokens from -1"),
    ],
)
def test_what_is_refused(array, sentence):
    with pytest.raises(UserError, match=sentence):
        load_data(array, kind="tokens")


def test_gpt_learns_grids_of_codes_with_classes(tmp_path):
    run = pf.train("gpt", load_data((GRIDS, np.arange(60) % 2), kind="tokens"), steps=3, batch_size=8, out=tmp_path / "run")
    drawn = run.sample(5, seed=0)
    assert tuple(drawn.shape) == (5, 3, 4) and drawn.dtype == torch.int64 and 0 <= int(drawn.min()) <= int(drawn.max()) < 7
    found = run.log_prob(GRIDS[:4], condition=1)
    assert found.kind == "exact" and bool(found.value.isfinite().all())
    assert torch.equal(pf.load(tmp_path / "run").sample(2, seed=0), drawn[:2])
