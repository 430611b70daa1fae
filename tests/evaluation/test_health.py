"""What is ill is said, what is well is passed over in silence."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pushforward.data.batches import ArraySplit, Data, WindowSplit
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.evaluation import health
from pushforward.evaluation.case import Case
from pushforward.evaluation.evaluate import _passes, evaluate
from pushforward.evaluation.records import Evaluation
from pushforward.measures.measure import Measure
from pushforward.models.contract import LogProb

RNG = np.random.default_rng(0)


def share(name, value, floor, reach=0.03):
    return {name: Measure(name, value, value - reach, value + reach, floor, floor - reach, floor + reach)}


def test_coverage_far_below_its_floor_is_collapse():
    assert "cover 20%" in health.narrow(share("coverage", 0.2, 0.95))[0]
    assert health.narrow(share("coverage", 0.8, 0.95)) == []  # below, yet not far
    assert health.narrow(share("coverage", 0.2, 0.5, reach=0.2)) == []  # far, yet it may be chance
    assert "repeat themselves" in health.narrow(share("distinct 4-grams", 0.1, 0.9))[0]
    assert health.narrow({}) == []


def test_missing_classes_are_named_and_chance_is_not():
    """Ten classes: 300 draws of the right law are silent, whatever the seed; a dropped class is named."""
    real = np.arange(300) % 10
    for seed in range(50):
        assert health.missing_classes(np.random.default_rng(seed).integers(0, 10, 300), real) == []
    (said,) = health.missing_classes(np.where(real == 3, 4, real), real, tuple("abcdefghij"))
    assert "1 of 10 classes: d (0 of 30 expected)" in said
    assert health.missing_classes(np.zeros(20, int), np.arange(20) % 10) == []  # two of each: too few to tell
    assert "and 4 more" in health.missing_classes(np.zeros(300, int), real)[0]


def test_samples_that_are_nearly_the_same():
    assert "10%" in health.alike(np.full(40, 0.1), np.ones(40))[0]
    assert health.alike(0.5 + RNG.random(40), np.ones(40)) == []
    assert health.alike(np.zeros(40), np.zeros(40)) == []  # data that repeat themselves, too
    assert health.alike(np.zeros(5), np.ones(5)) == []


def test_copies():
    near, far = share("nearest training distance", 0.3, 1.0), share("nearest training distance", 0.9, 1.0)
    some, usual = share("suspected copies", 0.5, 0.01, 0.005), share("suspected copies", 0.02, 0.01, 0.02)
    assert "30%" in health.copying(near | usual)[0] and "50%" in health.copying(far | some)[0]
    assert health.copying(far | usual) == [] and health.copying(far) == [] and health.copying({}) == []
    assert health.copying(share("suspected copies", 0.15, 0.01, reach=0.1)) == []  # it may be chance
    assert "by heart" in health.copying(share("copied 20-grams", 0.6, 0.01, 0.005))[0]
    assert health.copying(share("copied 20-grams", 0.6, 0.5)) == []


def test_samples_near_the_data_may_be_smooth_ones():
    """Blurred samples lie near everything, yet real data are not found among them, or a classifier tells them apart."""
    near = share("nearest training distance", 0.3, 1.0)
    for seen in (share("recall", 0.1, 0.9), share("told from real (C2ST)", 0.95, 0.5)):
        assert "train longer" in health.copying(near | seen)[0]
    for seen in (share("recall", 0.85, 0.9), share("told from real (C2ST)", 0.55, 0.5), {}):
        (said,) = health.copying(near | seen)
        assert "smooth" not in said and "fewer updates" in said


def test_a_gap_counts_where_the_attack_succeeds():
    gap = {"train-test gap": Measure("train-test gap", 18.0, 16.0, 20.0, 0.0, unit="nats per datum")}
    attack = {"membership attack": Measure("membership attack", 0.9, 0.86, 0.93, 0.5)}
    (said,) = health.overfitting(gap | attack)
    assert "18 nats likelier" in said and "0.90" in said
    assert health.overfitting(gap | {"membership attack": Measure("membership attack", 0.55, 0.5, 0.6, 0.5)}) == []
    assert health.overfitting(gap) == []


def test_what_training_has_not_seen_it_does_not_know_by_heart():
    gap = {"train-test gap": Measure("train-test gap", 18.0, 16.0, 20.0, 0.0, unit="nats per datum")}
    attack = {"membership attack": Measure("membership attack", 0.9, 0.86, 0.93, 0.5)}
    runs = share("copied 20-grams", 0.6, 0.01, 0.005)
    for said in (health.overfitting(gap | attack, 0.25), health.copying(runs, 0.25)):
        assert "no more than 25 % of its data" in said[0] and "by heart" not in said[0]
    for said in (health.overfitting(gap | attack, 1.0), health.copying(runs, 1.0)):
        assert "by heart" in said[0]


def test_passes_are_counted_in_data_and_in_tokens_of_windows(digits):
    """900 data; a text of 1,000 tokens, of which 100 windows of 20 see each one twice."""
    text = WindowSplit(torch.zeros(1000, dtype=torch.long), 20)
    assert _passes(digits[0].train, {"examples": 450}) == 0.5
    assert _passes(text, {"examples": 100}) == 2.0 and _passes(text, {}) == math.inf


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"active_units": 0.0}, "posterior collapse"),
        ({"active_units": 2.0, "units": 16.0}, "2 of 16 latent units"),
        ({"active_units": 12.0, "units": 16.0}, None),
        ({"active_units_1": 12.0, "units_1": 16.0, "active_units_2": 1.0, "units_2": 16.0}, "1 of 16"),
        ({"kl_per_unit": 0.001}, "posterior collapse"),
        ({"kl_per_unit_2": 0.5}, None),
        ({"perplexity": 3.0, "codes": 512.0}, "3 of 512 entries"),
        ({"perplexity": 400.0, "codes": 512.0}, None),
        ({"perplexity": 1.2}, "dead"),
        ({"mean_norm": 0.0}, None),
    ],
)
def test_codes_that_are_not_used(figures, words):
    said = health.unused_codes(figures)
    assert (len(said) == 1 and words in said[0]) if words else said == []


SPEC = DataSpec("image", (1, 8, 8), condition=Condition("class", 10, names=tuple("0123456789")), levels=17, name="digits")


class Model(nn.Module):
    def sample(self, n, *, condition=None, generator=None): ...

    def log_prob(self, x, *, condition=None): ...


class WithCodes(Model):
    def diagnose(self, x, *, condition=None):
        assert x.shape[1:] == (1, 8, 8) and x.min() >= -1 and len(condition) == len(x)
        return {"active_units": 1.0, "units": 32.0, "perplexity": 300.0, "codes": 512.0}


class MadeUpRun:
    """Unconditional: draws rows of `source`."""

    best = False

    def __init__(self, source, model=None, spec=SPEC, directory=None):
        self.model, self.source, self.spec, self.directory, self.result = model or Model(), source, spec, directory, {}
        self.weights = "0123456789ab"

    def sample_codes(self, n, condition=None, seed=0, **options):
        return self.source[torch.randint(len(self.source), (n,), generator=torch.Generator().manual_seed(seed))]

    def log_prob_codes(self, codes, condition=None):
        return LogProb(torch.full((len(codes),), -64 * math.log(17)), "exact")


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    codes, labels = torch.tensor(bunch.images[:, None].astype("uint8"))[order], torch.tensor(bunch.target)[order]
    data = Data(SPEC, ArraySplit(codes[:900], labels[:900]), test=ArraySplit(codes[900:1200], labels[900:1200]))
    return data, codes[1200:], labels[1200:]


def examined(digits, source, model=None, **more):
    return evaluate(MadeUpRun(source, model, **more), digits[0], progress=False, features="pixels")


def test_new_digits_are_healthy(digits):
    assert examined(digits, digits[1]).findings == []


def test_one_digit_only_is_a_collapse_that_is_named(digits, tmp_path):
    found = examined(digits, digits[1][digits[2] == 1], directory=tmp_path)
    assert any("9 of 10 classes: 0 (0 of" in sentence for sentence in found.findings)
    assert any(sentence.startswith("The samples cover") for sentence in found.findings)
    assert Evaluation.load(tmp_path).findings == found.findings


def test_one_sample_again_and_again(digits):
    noise = torch.randint(0, 2, (300, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    found = examined(digits, (digits[1][:1].long() + noise).clamp(max=16).to(torch.uint8))
    assert any("resemble each other" in sentence for sentence in found.findings)


def test_training_data_are_copies(digits):
    found = examined(digits, digits[0].train.codes)
    assert [sentence[:38] for sentence in found.findings] == ["The samples lie close to training data"]


def test_of_many_training_data_some_are_searched_and_the_places_are_right(digits, monkeypatch):
    monkeypatch.setattr("pushforward.evaluation.case.REFERENCE", 300)
    data = digits[0]
    case = Case(MadeUpRun(data.train.codes), data, features="pixels")
    found = case.neighbours
    assert found.reference == 300 and (found.distance == 0).mean() > 0.2
    exact = found.distance == 0
    assert torch.equal(data.train.codes[found.place[exact]], case.samples[0][exact])


def test_a_model_is_asked_about_its_codes(digits):
    found = examined(digits, digits[1], WithCodes())
    assert found["active units"].value == 1 and found["active units"].group == "codes"
    assert found["codebook perplexity"].value == 300
    assert len(found.findings) == 1 and "1 of 32 latent units" in found.findings[0]


def test_what_a_model_cannot_do_is_left_out_with_its_reason(digits):
    class Encoder(nn.Module):
        def encode(self, x, *, condition=None): ...

    class Sampler(nn.Module):
        def sample(self, n, *, condition=None, generator=None): ...

    found = examined(digits, digits[1], Encoder())
    assert found.protocol["n"] == 0 and found.protocol["features"] is None
    samples, density = found.protocol["left_out"]
    assert samples.endswith(": this model does not sample") and density == "likelihood: this model has no density"
    for name in ("Frechet distance", "KID", "coverage", "Wasserstein", "told from real", "suspected copies", "recognised"):
        assert name in samples
    found = examined(digits, digits[1], Sampler(), spec=DataSpec("image", (1, 8, 8), levels=17))
    assert found.protocol["left_out"] == [
        "train on synthetic: this model is asked for no class",
        "likelihood: this model has no density",
    ]
    with pytest.raises(UserError, match="no feature space"):
        evaluate(MadeUpRun(digits[1]), digits[0], progress=False, features="pixel")
