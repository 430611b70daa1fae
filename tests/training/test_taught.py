"""Runs that learn from, or are sampled by, other runs; and models that make what they translate of the data themselves."""

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.cli.sample import opened
from pushforward.data.batches import take
from pushforward.training.gallery import draw_translations
from pushforward.training.runs import Run

QUICK = {"steps": 3, "batch_size": 32, "tensorboard": False, "picture_every": 0, "precision": "fp32"}
SMALL = {"width": 16, "depth": 1, "steps": 4}


@pytest.fixture(scope="module")
def digits():
    return pf.load_data("digits")


@pytest.fixture(scope="module")
def teacher(digits, tmp_path_factory):
    """A trained run, and where it is."""
    place = str(tmp_path_factory.mktemp("teacher") / "run")
    return pf.train(pf.create("flow-matching", digits.spec, **SMALL), digits, out=place, **QUICK), place


@pytest.mark.parametrize("name", ["rectified-flow", "consistency"])
def test_a_teacher_is_opened_by_its_directory(name, teacher, digits, tmp_path):
    settings = {**SMALL, "teacher": teacher[1], **({"pairs": 64} if name == "rectified-flow" else {"path": "linear"})}
    model = pf.create(name, digits.spec, **settings)
    learned = []
    own = model.learn_from
    model.learn_from = lambda by: (learned.append(by), own(by))
    run = pf.train(model, digits, out=str(tmp_path / "run"), **QUICK)
    (by,) = learned
    for ours, theirs in zip(by.parameters(), teacher[0].model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert run.sample_codes(3, seed=0).shape == (3, 1, 8, 8)
    again = pf.load(tmp_path / "run")  # without its teacher
    assert torch.equal(again.sample_codes(3, seed=0), run.sample_codes(3, seed=0))


def test_what_is_no_run_teaches_nobody(digits, tmp_path):
    model = pf.create("rectified-flow", digits.spec, teacher=str(tmp_path / "nowhere"), **SMALL)
    with pytest.raises(pf.UserError, match="which is no run: give the directory"):
        pf.train(model, digits, out=str(tmp_path / "run"), **QUICK)


def test_a_run_is_guided_by_other_runs(teacher, digits, tmp_path):
    run, place = teacher
    options = opened(run, {"worse": place, "guidance": 2.0, "solver": "heun"})
    assert isinstance(options["worse"], Run) and options["guidance"] == 2.0
    # away from oneself is nowhere else
    plain = run.sample_codes(4, seed=3, condition=[0, 1, 2, 3])
    assert torch.equal(run.sample_codes(4, seed=3, condition=[0, 1, 2, 3], **options), plain)


def test_what_is_given_of_data_is_what_a_corruption_leaves(tmp_path):
    data = pf.load_data("digits", label="none")
    model = pf.create("diffusion-restoration", data.spec, width=8, depth=1, steps=2)
    run = pf.train(model, data, out=str(tmp_path / "run"), **QUICK)
    codes = take(data.held_out, 3)[0]
    given = run.given(codes)
    hidden = (given != codes).any(0)[0]
    assert given.dtype == codes.dtype and hidden[2:6, 2:6].any()
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:6, 2:6] = False
    assert torch.equal(given[..., outside], codes[..., outside]), "the hole is in the middle"
    # three columns and a row for each datum; without a corruption two rows and a column for each
    tall, wide = (
        np.asarray(draw_translations(one, 0)).shape for one in (run, Run(_Plain(), data.spec, tmp_path, run.record, data))
    )
    assert tall[0] > 2 * tall[1] and wide[1] > 2 * wide[0]


class _Plain(torch.nn.Module):
    def translate(self, x, *, condition=None, generator=None):
        return x
