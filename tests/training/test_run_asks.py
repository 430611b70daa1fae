"""What a run is asked for beside samples: trajectories, translations and completions, in the data's own units."""

import pytest
import torch

import pushforward as pf
from pushforward.data.spec import Condition, DataSpec, Vocabulary
from pushforward.randomness import as_rng
from pushforward.training.runs import Run

RECORD = {"model": {"name": "probe"}}


class Slide(torch.nn.Module):
    """From noise to the class's level in equal steps; translates by turning levels round."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def trajectory(self, n, *, frames=8, condition=None, generator=None, sharp=1.0):
        noise = as_rng(generator).randn(n, *self.spec.shape) / sharp
        goal = torch.zeros(n) if condition is None else condition.float() / 8 - 1
        t = torch.linspace(1, 0, frames).view(-1, 1, 1, 1, 1)
        return t * noise + (1 - t) * goal.view(1, n, 1, 1, 1)

    def translate(self, x, *, condition=None, generator=None):
        noise = as_rng(generator).randn(len(x), 1, 1, 1)
        return -x + 0.5 * noise.sign() * (0 if condition is None else condition.float().view(-1, 1, 1, 1))

    def complete(self, x, known, *, condition=None, generator=None):
        return torch.where(known, x, as_rng(generator).rand_like(x) - 1)  # the darker half of the levels


class Counts(torch.nn.Module):
    """Goes on with the next letters; a coin a row says by how many."""

    def extend(self, prefix, length, *, condition=None, generator=None, stride=1):
        coin = 1 + as_rng(generator).randint(2, len(prefix), 1)
        steps = torch.arange(1, length + 1) * coin * stride
        return torch.cat([prefix, (prefix[:, -1:] + steps) % 26], 1)


@pytest.fixture
def images(tmp_path):
    spec = DataSpec("image", (1, 2, 3), condition=Condition("class", 10), levels=17)
    return Run(Slide(spec), spec, tmp_path, RECORD)


def test_a_trajectory_is_a_function_of_seed_and_row(images):
    whole = images.trajectory(7, frames=5, condition=list(range(7)), seed=3)
    assert whole.shape == (5, 7, 1, 2, 3) and whole.dtype == torch.uint8
    assert torch.equal(whole[-1], torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 1, 2, 3)), "levels of the data"
    assert torch.equal(whole, images.trajectory(7, frames=5, condition=list(range(7)), seed=3, batch_size=2))
    assert torch.equal(whole[:, :4], images.trajectory(4, frames=5, condition=[0, 1, 2, 3], seed=3))
    assert not torch.equal(whole[0], images.trajectory(7, frames=5, seed=4)[0])
    with pytest.raises(pf.UserError, match="no option for trajectory 'sharpp'; did you mean sharp"):
        images.trajectory(2, sharpp=2.0)
    with pytest.raises(pf.UserError, match="at least 2"):
        images.trajectory(2, frames=1)
    with pytest.raises(pf.UserError, match="'probe' cannot sample"):
        images.sample(2)


def test_translation_in_levels(images):
    x = torch.arange(12, dtype=torch.uint8).view(2, 1, 2, 3)
    assert torch.equal(images.translate(x), 16 - x)
    assert torch.equal(images.translate(x[0]), 16 - x[:1]), "one image alone"
    moved = images.translate(x, condition=1, seed=0)
    assert torch.equal(moved, images.translate(x, condition=[1, 1], seed=0)) and not torch.equal(moved, 16 - x)


def test_translation_of_pairs_takes_the_image_that_data_are_conditioned_on(tmp_path):
    """Sources have 5 levels and one channel, the data 17 and one: x is parsed as a condition, the answer as data."""
    spec = DataSpec("image", (1, 2, 3), condition=Condition("image", 1, shape=(1, 2, 3), levels=5), levels=17)
    run = Run(Slide(spec), spec, tmp_path, RECORD)
    x = torch.tensor([[[[0, 1, 2], [3, 4, 0]]]])
    assert torch.equal(run.translate(x), (16 - 4 * x).to(torch.uint8))
    assert torch.equal(run.translate(x[0]), (16 - 4 * x).to(torch.uint8))
    with pytest.raises(pf.UserError, match="leave the condition away"):
        run.translate(x, condition=x)
    with pytest.raises(pf.UserError, match="integer levels 0 to 4"):
        run.translate(x + 1)


def test_completions_are_texts_of_any_lengths(tmp_path):
    letters = tuple("abcdefghijklmnopqrstuvwxyz")
    spec = DataSpec("tokens", (8,), vocabulary=Vocabulary("characters", 26, letters))
    run = Run(Counts(), spec, tmp_path, RECORD)
    (text,) = run.extend("ab", 3, seed=0)
    assert text in ("abcde", "abdfh")
    several = run.extend(["ab", "x", "hello"], 3, seed=5)
    assert [len(t) for t in several] == [5, 4, 8] and several[2].startswith("hello")
    rows = run.extend(["ab"] * 20, 3, seed=5)
    assert rows[0] == several[0] and len(set(rows)) == 2, "row i is a function of (seed, i)"
    assert run.extend(torch.zeros(20, 2, dtype=torch.long), 3, seed=5) == [
        "aa" + ("bcd" if t == "abcde" else "ceg") for t in rows
    ]
    assert run.extend("a", 2, seed=0, stride=5)[0] in ("afk", "aku")
    for wrong, words in (({"strid": 2}, "did you mean stride"), ({"condition": 3}, "none to condition on")):
        with pytest.raises(pf.UserError, match=words):
            run.extend("a", 2, **wrong)
    with pytest.raises(pf.UserError, match="character '!'"):
        run.extend("a!", 2)


class Signed(torch.nn.Module):
    """Goes on with the letter of each row's class, beside one of a coin."""

    def extend(self, prefix, length, *, condition=None, generator=None):
        coin = as_rng(generator).randint(26, len(prefix), 1)
        return torch.cat([prefix, condition[:, None].expand(-1, length - 1), coin], 1)


def test_each_of_several_texts_has_its_own_condition(tmp_path):
    """Texts go through the model one by one, or as ids all together; the condition and the noise of a row go with it."""
    letters = tuple("abcdefghijklmnopqrstuvwxyz")
    spec = DataSpec("tokens", (8,), Condition("class", 26), vocabulary=Vocabulary("characters", 26, letters))
    run = Run(Signed(), spec, tmp_path, RECORD)
    texts = run.extend(["ab", "x", "", "hello"], 3, condition=[3, 0, 25, 7], seed=5)
    assert [text[:-1] for text in texts] == ["abdd", "xaa", "zz", "hellohh"]
    together = run.extend(torch.zeros(4, 2, dtype=torch.long), 3, condition=[3, 0, 25, 7], seed=5)
    assert together == [f"aa{sign}{sign}{text[-1]}" for sign, text in zip("dazh", texts, strict=True)]
    assert [text[1:-1] for text in run.extend(["a", "b"], 3, condition=2, seed=5)] == ["cc", "cc"], "one for all"


def test_what_is_known_of_an_image_is_kept(images):
    """A mask of one datum's height and width serves for all; the rest is a function of the seed."""
    x = torch.full((3, 1, 2, 3), 16, dtype=torch.uint8)
    known = torch.tensor([[True, False, True], [False, True, False]])
    made = images.complete(x, known, seed=1)
    where = known.expand(3, 1, 2, 3).numpy()
    assert (made[where] == 16).all() and (made[~where] <= 8).all() and made.dtype == torch.uint8
    assert (made == images.complete(x, known, seed=1)).all() and (made != images.complete(x, known, seed=2)).any()
    with pytest.raises(pf.UserError, match="does not fit data of shape"):
        images.complete(x, torch.ones(5, 5))
    with pytest.raises(pf.UserError, match="cannot continue texts"):
        images.extend("a", 3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("half", [False, True])
def test_samples_are_drawn_in_half_where_training_was_and_the_model_stands_it(tmp_path, precision, half):
    class Probe(torch.nn.Module):
        def sample(self, n, *, condition=None, generator=None):
            self.seen = (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
            return torch.zeros(n, 1, 2, 2)

    model = Probe()
    model.samples_in_half = half
    run = Run(model, DataSpec("image", (1, 2, 2), levels=17), tmp_path, {**RECORD, "training": {"precision": precision}})
    run.sample(2, seed=0)
    assert model.seen == (torch.bfloat16 if half and precision == "bf16" else torch.float32)
