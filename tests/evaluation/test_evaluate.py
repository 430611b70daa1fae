"""`evaluate` from end to end on scikit-learn's digits, toys and text, with runs made up for the purpose."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pushforward.artefacts import read_recipe
from pushforward.comparison.compare import Comparison
from pushforward.comparison.ranking import leading
from pushforward.data.batches import STREAM, ArraySplit, Data, WindowSplit, take
from pushforward.data.spec import Column, Condition, DataSpec, Vocabulary
from pushforward.errors import UserError
from pushforward.evaluation.cost import cost_measures
from pushforward.evaluation.evaluate import evaluate
from pushforward.evaluation.likelihood import bits_per_dimension, membership
from pushforward.evaluation.records import Evaluation, as_text, figure
from pushforward.evaluation.sides import sides
from pushforward.measures.features import feature_space, matrix
from pushforward.measures.measure import Measure
from pushforward.models.contract import LogProb
from pushforward.randomness import mix

DIGITS = DataSpec(
    "image", (1, 8, 8), condition=Condition("class", 10, names=tuple("0123456789")), levels=17, mode="L", name="digits"
)


def digits(train=1197, test=300):
    bunch = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images, target = torch.tensor(bunch.images[:, None].astype("uint8"))[order], torch.tensor(bunch.target)[order]
    parts = [slice(0, train), slice(train, train + test)]
    splits = [ArraySplit(images[p], target[p]) for p in parts]
    rest = ArraySplit(images[train + test :], target[train + test :])
    return Data(DIGITS, splits[0], test=splits[1]), rest


class Model(nn.Module):
    """Can sample and has a density, as far as `isinstance` goes; the run below does both."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def sample(self, n, *, condition=None, generator=None): ...

    def log_prob(self, x, *, condition=None): ...


class MadeUpRun:
    """A run whose samples come from `draw(n, condition, generator)`; its likelihood is uniform over `levels`."""

    best = False

    def __init__(self, spec, draw, directory=None, log_prob=None, data=None):
        self.model, self.spec, self.draw, self.directory, self.data = Model(), spec, draw, directory, data
        self.result, self.weights = {"seconds": 2.0, "steps": 7}, "0123456789ab"
        self.log_prob = log_prob or (lambda codes: torch.full((len(codes),), -spec.dimensions * math.log(spec.levels or 256)))

    def load_data(self):
        return self.data

    def sample_codes(self, n, condition=None, seed=0, **options):
        assert not options.get("refuse")
        return self.draw(n, condition, torch.Generator().manual_seed(seed + 1))

    def log_prob_codes(self, codes, condition=None):
        return LogProb(self.log_prob(codes), "exact")


def resampled(split, noise=0.0):
    """Draws data of the asked class from a split, none twice before all have come, with Gaussian noise in levels."""

    def draw(n, condition, generator):
        order = torch.randperm(len(split), generator=generator)
        if condition is None:
            rows = order[torch.arange(n) % len(split)]
        else:
            places = {int(c): order[split.condition[order] == c] for c in condition.unique()}
            seen = dict.fromkeys(places, 0)
            rows = torch.zeros(n, dtype=torch.long)
            for i, c in enumerate(condition.tolist()):
                rows[i] = places[c][seen[c] % len(places[c])]
                seen[c] += 1
        codes = split.codes[rows].float()
        return (codes + noise * torch.randn(codes.shape, generator=generator)).round().clamp(0, 16).to(torch.uint8)

    return draw


def steady(evaluation):
    return [m for m in evaluation.to_dict()["measures"] if m["group"] != "cost"]


def test_new_digits_are_as_good_as_real_and_the_record_survives_the_disk(tmp_path):
    """A "model" that draws digits that nobody has seen is at every floor that looks at single samples."""
    data, rest = digits()
    run = MadeUpRun(DIGITS, resampled(rest), tmp_path, data=data)
    evaluation = evaluate(run, progress=False)
    for name in ("KID", "precision", "coverage", "told from real (C2ST)", "asked class recognised", "train on synthetic"):
        assert evaluation[name].real, (name, evaluation[name])
    assert evaluation["suspected copies"].real
    assert evaluation["train on synthetic"].value > 0.9
    assert evaluation["bits per dimension"].value == pytest.approx(math.log2(17), abs=1e-6)  # float32
    assert evaluation["updates"].value == 7 and evaluation["parameters"].value == 8
    assert evaluation.protocol["n"] == 300 and evaluation.protocol["left_out"] == []
    assert evaluation.protocol["features"]["dimensions"] == 64 and len(evaluation.protocol["features"]["hash"]) == 16

    assert Evaluation.load(tmp_path) == evaluation
    assert json.loads((tmp_path / "metrics.json").read_text())["protocol"]["seed"] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "neighbours.png"]
    recipe = read_recipe(tmp_path / "neighbours.png")
    assert (recipe["picture"], recipe["run"], recipe["weights"]) == ("neighbours", str(tmp_path), run.weights)
    assert recipe["seed"] == 0 and recipe["nearest"] == evaluation.protocol["nearest"]
    assert evaluation.table().row_count == len(evaluation.measures)

    assert steady(evaluate(run, progress=False)) == steady(evaluation)
    assert steady(evaluate(run, progress=False, seed=1)) != steady(evaluation)


def test_noise_and_copies_are_found_out():
    data, rest = digits()
    noisy = evaluate(MadeUpRun(DIGITS, resampled(rest, noise=6.0)), data, progress=False, likelihood=False)
    for name in ("Frechet distance", "KID", "precision", "told from real (C2ST)", "told from real by values", "coverage"):
        assert noisy[name].real is False, (name, noisy[name])
    assert noisy["Frechet distance"].value > 3 * noisy["Frechet distance"].floor
    assert noisy["sliced Wasserstein"].value > noisy["sliced Wasserstein"].floor_high
    assert noisy["nearest training distance"].value > 1.2
    assert "log-likelihood" not in noisy

    copying = evaluate(MadeUpRun(DIGITS, resampled(data.train)), data, progress=False)
    assert copying["suspected copies"].value == 1 and not copying["suspected copies"].real
    near = copying.protocol["nearest"]
    assert near["distance"] == [0.0] * 16
    for sample, train in zip(near["samples"], near["training"], strict=True):
        drawn = MadeUpRun(DIGITS, resampled(data.train)).sample_codes(300, take(data.test, 300, mix(0, 1))[1], seed=0)
        assert torch.equal(drawn[sample], data.train.codes[train])


def test_collapse_onto_one_class_is_seen_without_labels_being_asked_for():
    data, rest = digits()
    ones = ArraySplit(rest.codes[rest.condition == 1])
    unconditional = DataSpec("image", (1, 8, 8), levels=17, name="digits")
    found = evaluate(MadeUpRun(unconditional, resampled(ones)), data, progress=False, likelihood=False)
    assert found["class mix distance"].value > 0.8
    assert found["recall"].value < 0.3 and found["coverage"].value < 0.3
    assert found["precision"].value > 0.7
    assert found.protocol["conditions"] == "none"


def test_the_parts_of_the_data_do_not_meet():
    """What is fitted on, what makes the floor and what is compared with are apart, and together they are all the data."""
    places = ArraySplit(torch.arange(100))
    cut = sides(Data(DIGITS, places, test=ArraySplit(torch.arange(100, 130))), [])
    parts = [take(part)[0] for part in (cut.fit, cut.floor, cut.held)]
    assert [len(part) for part in parts] == [67, 33, 30]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(130))
    cut = sides(Data(DIGITS, places), notes := [])
    parts = [take(part)[0] for part in (cut.fit, cut.floor, cut.held)]
    assert [len(part) for part in parts] == [34, 16, 50] and torch.equal(parts[2], cut.own) and notes
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(100))


def test_the_floor_is_not_flattered_by_the_feature_network():
    """Data that the classifier was fitted on lie apart from new ones in its features; the floor is taken elsewhere. The
    floor of KID then is 0 within its interval."""
    data, rest = digits()
    found = evaluate(MadeUpRun(DIGITS, resampled(rest)), data, progress=False, likelihood=False)
    assert found["KID"].floor_low <= 0 <= found["KID"].floor_high


def test_bits_per_dimension_of_a_uniform_guess():
    assert bits_per_dimension(-12 * math.log(256), 12) == pytest.approx(8, abs=1e-12)
    spec = DataSpec("image", (3, 2, 2), levels=256)
    images = torch.randint(0, 256, (80, 3, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = Data(spec, ArraySplit(images[:50]), test=ArraySplit(images[50:]))
    run = MadeUpRun(spec, lambda n, condition, generator: images[:n])
    found = evaluate(run, data, progress=False, features="pixels")
    assert found["bits per dimension"].value == pytest.approx(8, abs=1e-6)
    assert found["log-likelihood"].value == pytest.approx(-12 * math.log(256), abs=1e-4)
    assert found["train-test gap"].value == 0 and found["membership attack"].value == 0.5


def test_membership_attack_is_the_area_under_the_curve():
    assert membership(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert membership(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == 0.5
    assert membership(np.ones(5), np.ones(7)) == 0.5


def test_learned_by_heart_shows_in_the_gap():
    data, rest = digits()
    known = {row.numpy().tobytes() for row in data.train.codes}
    heart = lambda codes: torch.tensor([0.0 if row.numpy().tobytes() in known else -50.0 for row in codes])  # noqa: E731
    found = evaluate(MadeUpRun(DIGITS, resampled(rest), log_prob=heart), data, progress=False, n=60)
    assert found["train-test gap"].value == pytest.approx(50) and found["membership attack"].value == 1


def test_an_infinite_likelihood_is_left_out_with_a_sentence():
    data, rest = digits()
    never = lambda codes: torch.full((len(codes),), -math.inf)  # noqa: E731
    found = evaluate(MadeUpRun(DIGITS, resampled(rest), log_prob=never), data, progress=False, n=40)
    assert "log-likelihood" not in found
    assert any("no finite log-probability" in sentence for sentence in found.protocol["left_out"])


@pytest.mark.parametrize(("train", "test"), [(4, 2), (20, 1), (12, 0), (30, 25)])
def test_tiny_sets_do_not_crash(train, test):
    data, rest = digits(train, test)
    found = evaluate(MadeUpRun(DIGITS, resampled(rest)), data, progress=False, features="pixels")
    assert "log-likelihood" in found and bool(found.protocol["left_out"]) == (test < 12)
    assert all(math.isfinite(m.value) for m in found.measures)
    if not test:
        assert "no data were held out" in found.protocol["notes"][0]


def test_without_held_out_data_copies_are_caught_all_the_same():
    """Samples are training data; half of them are also the reference, which is compared with all but itself."""
    data, rest = digits(600, 0)
    copying = evaluate(MadeUpRun(DIGITS, resampled(data.train)), data, n=120, progress=False, features="pixels")
    assert copying["suspected copies"].value == 1 and copying["suspected copies"].floor < 0.05
    fresh = evaluate(MadeUpRun(DIGITS, resampled(rest)), data, progress=False, features="pixels")
    assert fresh["suspected copies"].real


def test_constant_features_and_samples_that_are_not_finite():
    columns = (Column("a", "number"), Column("b", "number"))
    spec = DataSpec("table", (2,), columns=columns)
    flat = ArraySplit(torch.ones(60, 2))
    found = evaluate(MadeUpRun(spec, lambda n, c, g: torch.ones(n, 2)), Data(spec, flat, test=flat), progress=False)
    assert found["Frechet distance"].value == 0 and found["KID"].value == 0

    def broken(n, condition, generator):
        codes = torch.randn(n, 2, generator=generator)
        codes[::2, 1] = math.nan
        return codes

    values = torch.randn(200, 2, generator=torch.Generator().manual_seed(3))
    data = Data(spec, ArraySplit(values[:100]), test=ArraySplit(values[100:]))
    found = evaluate(MadeUpRun(spec, broken), data, progress=False)
    assert found.protocol["n"] == 50 and "50 of 100 samples were not finite" in found.protocol["notes"][0]
    found = evaluate(MadeUpRun(spec, lambda n, c, g: torch.full((n, 2), math.inf)), data, progress=False)
    assert "not one sample is finite" in found.protocol["left_out"][0]


class Normals:
    """A split that never ends: row i is a function of i."""

    def __len__(self):
        return STREAM

    def fetch(self, indices):
        rows = [torch.randn(2, generator=torch.Generator().manual_seed(int(i) % 2**62)) for i in indices]
        return torch.stack(rows), None


def test_a_stream_with_a_known_density():
    spec = DataSpec("point", (2,), columns=(Column("x", "number"), Column("y", "number")), name="normal")

    def log_density(x):
        return -0.5 * (x.double() ** 2).sum(-1) - math.log(2 * math.pi)

    data = Data(spec, Normals(), test=Normals(), log_density=log_density)
    good = MadeUpRun(spec, lambda n, c, g: torch.randn(n, 2, generator=g), log_prob=log_density)
    found = evaluate(good, data, n=300, progress=False)
    assert found["log-likelihood"].value == pytest.approx(found["log-likelihood"].floor) and found["log-likelihood"].real
    for name in ("KID", "Wasserstein", "sliced Wasserstein", "told from real (C2ST)", "samples where data are"):
        assert found[name].real, (name, found[name])
    assert "suspected copies" not in found  # there is no training set to copy
    wide = evaluate(MadeUpRun(spec, lambda n, c, g: 3 * torch.randn(n, 2, generator=g)), data, n=300, progress=False)
    assert wide["samples where data are"].value < 0.8 and not wide["Wasserstein"].real


def test_text():
    text = torch.randint(0, 20, (6000,), generator=torch.Generator().manual_seed(1))
    spec = DataSpec("tokens", (32,), vocabulary=Vocabulary("characters", 20, tuple("abcdefghijklmnopqrst")))
    data = Data(spec, WindowSplit(text[:5000], 32), test=WindowSplit(text[5000:], 32))

    def copy(n, condition, generator):
        return WindowSplit(text[:5000], 32).fetch(torch.randint(4900, (n,), generator=generator))[0]

    run = MadeUpRun(spec, copy, log_prob=lambda codes: torch.full((len(codes),), -32 * math.log(20)))
    found = evaluate(run, data, n=100, progress=False)
    assert found["nats per token"].value == pytest.approx(math.log(20)) and found["perplexity"].value == pytest.approx(20)
    assert found["copied 20-grams"].value == 1 and found["copied 20-grams"].floor == 0
    assert "Frechet distance" not in found and "bits per dimension" not in found


def test_a_model_that_does_not_sample_and_data_of_another_shape():
    data, _ = digits()
    run = MadeUpRun(DIGITS, None)
    run.model = nn.Linear(2, 2)
    found = evaluate(run, data, progress=False)
    assert [m.group for m in found.measures] == ["cost"] * len(found.measures)
    with pytest.raises(UserError, match=r"\(1, 8, 8\)"):
        evaluate(run, data.replace(spec=DataSpec("image", (1, 9, 8), levels=17)), progress=False)


def test_a_record_refuses_what_is_no_number_and_names_what_is_near():
    with pytest.raises(UserError, match="nan"):
        Measure("KID", float("nan"))
    with pytest.raises(UserError, match="did you mean KID"):
        Evaluation([Measure("KID", 0.0)])["KIDD"]
    assert Measure("x", 1.0, 0.0, 2.0, 3.0, 1.5, 4.0).real and not Measure("x", 1.0, 0.0, 2.0, 3.0, 2.5, 4.0).real


MANY = [
    Measure("Frechet distance", 1234.5, 1200, 1300, 1.4, 1, 2, unit="squared features", better="lower", group="fidelity"),
    Measure("KID", -0.002735, -0.04076, 0.03528, 0.002574, unit="MMD^2", better="lower", group="fidelity"),
    Measure("told from real by values", 0.7744, 0.7339, 0.8102, 0.5474, unit="accuracy", better="near 0.5", group="two-sample"),
    Measure("nearest training distance", 0.99, 0.9, 1.1, 1, unit="of held-out's median", better="near 1", group="memory"),
    Measure("copied 20-grams", 0.001234, 0, 0.0021, 0, unit="share", better="near the floor", group="memory"),
    Measure("log-likelihood of binarised pixels", -12345.6, -12400, -12300, -12000, unit="nats per datum", better="higher",
            kind="estimate", group="likelihood"),
    Measure("parameters", 1.1e9, unit="numbers", better="lower", group="cost"),
]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_every_figure_and_every_word_is_whole_at_any_width(width):
    text = as_text(Evaluation(MANY, {"left_out": ["recall: too few data " * 9]}).table(width), width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text.replace(" … ", "")
    for measure in MANY:
        for word in (*measure.name.split(), measure.unit.split()[0], figure(measure.value), figure(measure.floor)):
            assert re.search(rf"(^|[\s(]){re.escape(word)}($|[\s)])", text, re.M), word
    assert ("near the floor" in text) == (width >= 110) and ("→floor" in text) == (width < 110)
    assert "-0.04076 … 0.03528" in text


@pytest.mark.parametrize("width", [80, 140])
def test_models_that_find_no_room_beside_each_other_follow_below(width):
    names = ["gaussian", "gaussian-2", "mixture-of-many", "flow-matching", "wgan-gp", "ddpm"]
    more = [*MANY, Measure("recall", 0.25, better="higher", group="fidelity")]
    evaluations = {name: Evaluation(more if name == "ddpm" else MANY) for name in names}
    text = as_text(Comparison(Path("runs/all"), dict.fromkeys(names), evaluations).table(width), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and "…" not in text
    heads = [line.split() for line in lines if "measure" in line]
    assert [word for head in heads for word in head if word in names] == names  # each once, none lost
    assert len(heads) > 1 if width == 80 else len(heads) <= 2
    assert text.count("1,234") == 0 and text.count("-12,346") == 6 and text.count("1,100,000,000") == 6
    places = {word: next(i for i, line in enumerate(lines) if word in line) for word in ("recall", "told", "KID")}
    assert places["KID"] < places["recall"] < places["told"]  # within its group


def test_a_record_that_is_none_is_a_sentence(tmp_path):
    for text in ("[]", "{}", '{"measures": [{"nme": 1}], "protocol": {}}'):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(UserError, match="no record of an evaluation"):
            Evaluation.load(tmp_path)


def test_an_evaluation_and_a_comparison_print_as_text():
    good = Evaluation([Measure("KID", 0.25, 0.1, 0.4, 0.2, better="lower")], {"left_out": ["recall: too few data"]})
    text = str(good)
    assert "KID" in text and "0.1 … 0.4" in text and "0.2 =" in text and "\x1b" not in text
    assert "= : no difference from real data was found" in text and "recall: too few data" in text
    both = str(Comparison(Path("runs/both"), {}, {"gmm": good}))
    assert "KID" in both and "gmm" in both and "0.25" in both


def test_cost_counts_what_is_fitted_and_ranks_no_effort():
    fitted = nn.Module()
    fitted.register_buffer("mean", torch.zeros(5))
    fitted.register_buffer("count", torch.zeros(3, dtype=torch.long))
    found = {m.name: m for m in cost_measures(fitted, {"steps": 7, "examples": 70, "seconds": 1.5}, 10, 0.5)}
    assert found["parameters"].value == 5 and found["model size"].value == pytest.approx(44e-6)
    assert found["updates"].better == found["examples seen"].better == "" and found["training time"].better == "lower"
    assert leading([dataclasses.asdict(found["updates"])] * 2) == set()
    normed = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert cost_measures(normed, {}, 1, 1.0)[0].value == 9 + 6, "running statistics are not learned"


def test_feature_networks_are_fitted_once_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path))
    monkeypatch.setattr("pushforward.measures.features.STEPS", 60)
    data, _ = digits(200, 20)
    codes, labels = data.train.codes, data.train.condition
    first = feature_space(DIGITS, codes, labels)
    (path,) = (tmp_path / "features").iterdir()
    before = path.stat().st_mtime_ns
    again = feature_space(DIGITS, codes, labels)
    assert path.stat().st_mtime_ns == before and first.hash == again.hash and first.name == "classifier features"
    np.testing.assert_array_equal(first.extract(codes[:7]), again.extract(codes[:7]))
    path.unlink()
    np.testing.assert_array_equal(feature_space(DIGITS, codes, labels).extract(codes[:7]), first.extract(codes[:7]))
    features = first.extract(codes)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(0), 1, atol=1e-3)
    changed = codes.clone()
    changed[0, 0, 0, 0] += 1
    assert feature_space(DIGITS, changed, labels).hash != first.hash


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 7, 12), (4, 30, 26)])
def test_encoder_features_of_any_shape(shape, monkeypatch):
    monkeypatch.setattr("pushforward.measures.features.STEPS", 6)
    spec = DataSpec("image", shape, levels=256)
    codes = torch.randint(0, 256, (9, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    space = feature_space(spec, codes)
    assert space.name == "encoder features" and space.extract(codes[:1]).shape == (1, 64)


def test_attributes_are_labels_too(monkeypatch):
    monkeypatch.setattr("pushforward.measures.features.STEPS", 6)
    spec = DataSpec("image", (3, 8, 8), condition=Condition("attributes", 4), levels=256)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (9, 3, 8, 8), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 2, (9, 4), generator=generator).float()
    assert feature_space(spec, codes, labels).name == "classifier features"


def test_feature_spaces_that_make_no_sense_are_sentences():
    points = DataSpec("point", (2,), columns=(Column("x", "number"), Column("y", "number", mean=1.0, scale=2.0)))
    with pytest.raises(UserError, match="are for images"):
        feature_space(points, torch.zeros(3, 2), space="classifier")
    with pytest.raises(UserError, match="did you mean"):
        feature_space(points, torch.zeros(3, 2), space="pixel")
    with pytest.raises(UserError, match="two classes"):
        feature_space(DIGITS, torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3).long(), space="classifier")
    np.testing.assert_allclose(matrix(points, torch.tensor([[1.0, 5.0]])), [[1.0, 2.0]])
    with pytest.raises(UserError, match="auto"):
        feature_space(DIGITS, torch.zeros(3, 1, 8, 8, dtype=torch.uint8), space="inception")


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 3, 5), (4, 12)])
def test_fields_are_vectors(shape):
    """Numbers that look like an image are none: no classifier, no picture, no bits per dimension; far-off channels weigh the
    same as near ones."""
    generator = torch.Generator().manual_seed(0)
    columns = tuple(Column(f"c{i}", "number", mean=100.0 * i, scale=1.0 + i) for i in range(shape[0]))
    spec = DataSpec("field", shape, condition=Condition("class", 3), columns=columns, name="codes")
    places = (shape[0], *(1,) * (len(shape) - 1))
    mean, scale = (torch.tensor([float(getattr(c, part)) for c in columns]).reshape(places) for part in ("mean", "scale"))

    def draw(n, condition=None, g=generator):
        return torch.randn(n, *shape, generator=g) * scale + mean

    data = Data(spec, ArraySplit(draw(200), torch.arange(200) % 3), test=ArraySplit(draw(100), torch.arange(100) % 3))
    found = evaluate(MadeUpRun(spec, draw), data, progress=False)
    assert found.protocol["features"] == {"name": "standardised values", "hash": "", "dimensions": math.prod(shape)}
    assert found["told from real (C2ST)"].real and found["sliced Wasserstein"].value < 1
    assert "told from real by values" not in found and "bits per dimension" not in found
    assert not found.protocol["left_out"] and not found.findings

    def spoilt(n, condition, g):
        codes = draw(n, condition, g)
        codes[0, 0], codes[1, -1] = math.nan, math.inf
        return codes

    assert evaluate(MadeUpRun(spec, spoilt), data, progress=False).protocol["n"] == 98
    with pytest.raises(UserError, match="holds field"):
        evaluate(MadeUpRun(spec, draw), data, progress=False, features="classifier")


@pytest.mark.parametrize("grid", [(), (4, 4)])
def test_codes_are_measured_by_their_runs(grid):
    """Integers that stand for no text: eight of them in a row tell copies from new ones."""
    generator = torch.Generator().manual_seed(1)
    spec = DataSpec("tokens", (16,), vocabulary=Vocabulary("codes", 64, grid=grid), name="codes")
    rows = torch.randint(0, 64, (500, 16), generator=generator)
    data = Data(spec, ArraySplit(rows[:300]), test=ArraySplit(rows[300:400]))
    new = evaluate(MadeUpRun(spec, lambda n, c, g: rows[400 : 400 + n]), data, progress=False)
    assert new["copied 8-grams"].value == 0 and new["distinct 4-grams"].real and not new.findings
    copies = evaluate(MadeUpRun(spec, lambda n, c, g: rows[:n]), data, progress=False)
    assert copies["copied 8-grams"].value == 1 and "by heart" in copies.findings[0]
    stuck = evaluate(MadeUpRun(spec, lambda n, c, g: torch.full((n, 16), 7)), data, progress=False)
    assert "repeat themselves" in stuck.findings[0]
    short = DataSpec("tokens", (3,), vocabulary=Vocabulary("codes", 64))
    data = Data(short, ArraySplit(rows[:300, :3]), test=ArraySplit(rows[300:, :3]))
    found = evaluate(MadeUpRun(short, lambda n, c, g: rows[:n, :3]), data, progress=False)
    assert found.protocol["left_out"] == ["distinct and copied n-grams: 3 tokens are too short for runs of 4"]
