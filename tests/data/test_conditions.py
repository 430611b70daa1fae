"""Conditions of every kind: what a person asks for, what a model sees, and runs that train to the end with them."""

import numpy as np
import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.data.batches import ArraySplit, Batches, Data, take_conditions
from pushforward.data.conditions import parse_condition, to_model
from pushforward.data.spec import Condition, DataSpec, Vocabulary
from pushforward.models.contract import Loss, Player, device_of
from pushforward.randomness import as_rng

WORDS = Vocabulary("characters", 4, ("", "a", "b", "c"))
SPECS = {
    "class": DataSpec("point", (2,), Condition("class", 3, ("cat", "dog", "eel"))),
    "attributes": DataSpec("point", (2,), Condition("attributes", 2, ("old", "new"), (0.9, 0.2))),
    "vector": DataSpec("point", (2,), Condition("vector", 2, shape=(2,))),
    "text": DataSpec("point", (2,), Condition("text", 5, shape=(5,)), vocabulary=WORDS),
    "image": DataSpec("image", (1, 4, 4), Condition("image", 3, shape=(3, 4, 4), levels=256), levels=256),
}
QUICK = {"steps": 3, "batch_size": 8, "tensorboard": False, "precision": "fp32", "picture_every": 2}


class Translator(nn.Module):
    """A sketch of a paired translator: it must be told its condition, and adds a little noise."""

    def __init__(self, spec):
        super().__init__()
        self.spec, self.seen = spec, []
        self.net = nn.Conv2d(spec.condition.shape[0], spec.shape[0], 1)

    def loss(self, batch, rng):
        self.seen.append(batch.condition)
        return Loss((self.net(batch.condition) - batch.x).square().mean())

    def players(self):
        return [Player("translator", self.net, self.loss)]

    def sample(self, n, *, condition=None, generator=None):
        assert condition is not None and condition.min() >= -1 and condition.max() <= 1 and condition.is_floating_point()
        return self.net(condition) + 0.1 * as_rng(generator, device_of(self)).randn(n, *self.spec.shape)


@pytest.mark.parametrize(
    "kind, asked, expected",
    [
        ("class", "dog", [1, 1]),
        ("class", 2, [2, 2]),
        ("class", np.int64(2), [2, 2]),
        ("class", torch.tensor(1), [1, 1]),
        ("class", ["0", "eel"], [0, 2]),
        ("class", np.array([1, 0]), [1, 0]),
        ("attributes", {"new": 1}, [[1, 1], [1, 1]]),
        ("attributes", [0, 1], [[0, 1], [0, 1]]),
        ("vector", [[0.5, -2], [3, 4]], [[0.5, -2], [3, 4]]),
        ("text", "abc", [[1, 2, 3, 0, 0]] * 2),
        ("text", ["c", ""], [[3, 0, 0, 0, 0], [0] * 5]),
        ("text", torch.tensor([1, 1, 0, 0, 0]), [[1, 1, 0, 0, 0]] * 2),
        ("image", np.full((3, 4, 4), 7), torch.full((2, 3, 4, 4), 7).tolist()),
    ],
)
def test_what_is_asked_for(kind, asked, expected):
    found = parse_condition(SPECS[kind], asked, 2)
    assert found.tolist() == expected
    assert torch.equal(parse_condition(SPECS[kind], found, 2), found)  # codes are understood again


NONSENSE = [object(), 2.5, float("nan"), [None, None], ["x", 3], {"x": 1}, {"old": "x"}, {"old": [1]}, [[1], [1, 2]], -1]
NONSENSE += [10**30, "nobody", [], [1, 2, 3], torch.zeros(3, 9), np.array(["a"])]
NONSENSE += [torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 256)]


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("asked", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_a_sentence(kind, asked):
    with pytest.raises(pf.UserError) as said:
        parse_condition(SPECS[kind], asked, 2)
    assert " " in str(said.value)


def test_a_text_that_is_too_long_says_so():
    with pytest.raises(pf.UserError, match="has 6 tokens; the model knows texts of at most 5 tokens"):
        parse_condition(SPECS["text"], "aaaaaa", 2)


def test_old_specs_load():
    old = SPECS["class"].to_dict()
    del old["condition"]["shape"], old["condition"]["levels"]
    assert DataSpec.from_dict(old) == SPECS["class"]
    assert DataSpec.from_dict(SPECS["image"].to_dict()) == SPECS["image"]


def paired(levels=256):
    generator = torch.Generator().manual_seed(0)
    dtype = torch.uint8 if levels == 256 else torch.int32
    there = torch.randint(levels, (40, 3, 4, 6), generator=generator).to(dtype)
    spec = DataSpec("image", (1, 4, 6), Condition("image", 3), levels=256, mode="L", name="pairs")
    x = torch.randint(256, (40, 1, 4, 6), generator=generator).to(torch.uint8)
    return Data(spec, ArraySplit(x[:32], there[:32]), ArraySplit(x[32:], there[32:]), source={"source": "<array>"})


@pytest.mark.parametrize("levels", [256, 65536])
def test_paired_images_reach_a_model_in_its_units(levels):
    data = paired(levels)
    assert data.spec.condition.shape == (3, 4, 6) and data.spec.condition.levels == levels
    batch = Batches(data.train, data.spec, 8).at(0)
    codes = data.train.condition[batch.index]
    torch.testing.assert_close(batch.condition, 2 * codes.double().div(levels - 1).float() - 1, rtol=0, atol=1e-6)
    assert torch.equal(to_model(data.spec.condition, codes), batch.condition)


def test_held_out_conditions_start_again():
    found = take_conditions(paired(), 20)
    assert len(found) == 20 and torch.equal(found[:4], found[8:12]) and found.dtype == torch.uint8


def test_a_translator_trains_to_the_end(tmp_path):
    data = paired()
    model = Translator(data.spec)
    run = pf.train(model, data, out=str(tmp_path / "run"), **QUICK)
    assert (tmp_path / "run" / "samples.png").exists() and list((tmp_path / "run" / "progress").glob("*.png"))
    assert all(seen.is_floating_point() and -1 <= seen.min() <= seen.max() <= 1 for seen in model.seen)
    assert run.sample(2, condition=data.validation.condition[0], seed=0).shape == (2, 1, 4, 6)
    assert pf.check_model(model, data, strict=False).ok


def test_a_vector_condition_trains_to_the_end(tmp_path):
    generator = np.random.default_rng(0)
    y = generator.normal(size=(200, 3)).astype(np.float32)
    np.savez(tmp_path / "xy.npz", x=y[:, :2] + 0.1 * generator.normal(size=(200, 2)), y=y)
    data = pf.load_data(str(tmp_path / "xy.npz"))
    assert data.spec.condition.kind == "vector" and data.spec.condition.shape == (3,)
    model = pf.create("vae", data.spec, width=16, latent_dim=2)
    run = pf.train(model, data, out=str(tmp_path / "run"), **QUICK)
    assert (tmp_path / "run" / "samples.png").exists() and run.history
    assert pf.check_model(model, data, strict=False).ok
    assert pf.load(tmp_path / "run").sample(3, condition=[0.0, 1.0, 2.0]).shape == (3, 2)


def test_pictures_of_a_run_whose_data_are_gone(tmp_path):
    """Trained on data in memory and loaded from its directory: what needs no data is drawn, nothing fails."""
    from pushforward.training.gallery import draw_run

    points = pf.load_data(np.random.default_rng(0).normal(size=(200, 2)))
    pf.train(pf.create("gaussian", points.spec), points, out=str(tmp_path / "a"), **QUICK)
    again = pf.load(tmp_path / "a")
    assert again.data is None and {path.name for path in draw_run(again)} == {"training.png"}
    pairs = paired()
    model = Translator(pairs.spec)
    pf.train(model, pairs, out=str(tmp_path / "b"), **QUICK)
    assert {path.name for path in draw_run(pf.load(tmp_path / "b", model=model))} == {"training.png"}
