"""Quantised autoencoders: codes and data agree, tables of codes are distributions, training is exact and uses its codes."""

import itertools
import math
import os
import signal

import pytest
import torch
from sklearn.svm import SVC

import pushforward as pf
from pushforward.data.batches import Batch, take
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.checking import check_model
from pushforward.models.contract import capabilities
from pushforward.models.variational.code_prior import CodePrior
from pushforward.models.variational.quantised import HAS, VQVAE
from pushforward.models.variational.vq_vae_2 import VQVAE2
from pushforward.nets.quantisers import SHARP
from pushforward.randomness import SampleRng, UpdateRng
from pushforward.training import checkpoints
from pushforward.training.train import train

QUICK = {"tensorboard": False, "precision": "fp32", "picture_every": 0, "validate_every": 0, "batch_size": 64}
SMALL = {"codes": 16, "code_dim": 6, "width": 16, "depth": 1, "levels": (3, 5)}
IMAGES = DataSpec("image", (1, 8, 8), levels=17)
POINTS = DataSpec("point", (5,), columns=tuple(Column(str(i), "number") for i in range(5)))
SPECS = {
    "grey": IMAGES,
    "not square, odd": DataSpec("image", (3, 17, 30), levels=256),
    "four channels, classes": DataSpec("image", (4, 16, 9), levels=256, condition=Condition("class", 3)),
    "field": DataSpec("field", (2, 8, 12), columns=tuple(Column(str(i), "number") for i in range(2))),
    "one-dimensional field": DataSpec("field", (2, 12), columns=tuple(Column(str(i), "number") for i in range(2))),
    "point": POINTS,
    "series": DataSpec("series", (6, 2), columns=tuple(Column(str(i), "number") for i in range(2))),
}
QUANTISERS = ("ema", "gradient", "gumbel", "fsq")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def build(kind, spec, **settings):
    torch.manual_seed(0)
    has = HAS[settings.get("quantiser", "ema")]
    small = {name: value for name, value in SMALL.items() if name in has or name in ("width", "depth")}
    model = kind(spec, **{**small, **settings})
    model.name, model.settings = kind.__name__.lower(), {}
    return model


# Codes and data


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("kind", [VQVAE, VQVAE2])
def test_codes_are_integers_and_decode_what_the_network_saw(spec, kind):
    if kind is VQVAE2 and (spec.kind not in ("image", "field") or len(spec.shape) < 3):
        with pytest.raises(UserError, match="two grids"):
            build(kind, spec)
        return
    model = build(kind, spec).eval()
    for rows in (1, 6):
        x = numbers(rows, *spec.shape).clamp(-1, 1)
        z = model.encode(x)
        assert z.dtype == torch.long and len(z) == rows and 0 <= int(z.min()) <= int(z.max()) < 16
        direct = model.likelihood.mean(model.output([level.codes for level in model.quantise(x)]))
        assert torch.allclose(model.decode(z), direct, atol=1e-5)
        assert torch.equal(model.decode(z.flatten(1)), model.decode(z)), "tokens of a sequence model come flat"
    assert model.draw_codes(3, generator=0).shape == (3, *z.shape[1:])
    assert model.sample(2, generator=0).shape == (2, *spec.shape)
    assert capabilities(model) == ["samples", "encodes", "decodes"]


def test_two_levels_are_laid_out_top_first():
    model = build(VQVAE2, IMAGES).eval()
    x = numbers(2, 1, 8, 8)
    assert model.grids == [(2, 2), (4, 4)]
    top, bottom = (level.indices for level in model.quantise(x))
    z = model.encode(x)
    assert torch.equal(z[:, :4], top.flatten(1)) and torch.equal(z[:, 4:], bottom.flatten(1))
    other = z.clone()
    other[:, 0] = (other[:, 0] + 1) % 16
    assert not torch.allclose(model.decode(other), model.decode(z)), "the decoder reads the top"


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("likelihood", ["gaussian", "logistic"])
def test_the_loss_is_reconstruction_and_the_quantisers_term_per_number(quantiser, likelihood):
    model = build(VQVAE, IMAGES, quantiser=quantiser, likelihood=likelihood)
    x = numbers(5, 1, 8, 8).clamp(-1, 1).mul(8).round().div(8)
    loss = model.loss(Batch(x, progress=0.5), stream())
    found = model.quantise(x, stream(), 0.5)[0]
    parameters = model.output([found.codes])
    wanted = (found.loss - model.likelihood.log_prob(parameters, x)).mean() / 64
    assert torch.allclose(loss.total, wanted)
    assert {"mse", "quantiser", "perplexity"} == set(loss.terms)
    loss.total.backward()
    first = next(model.encoder.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0


def test_gaussian_of_half_is_twice_the_squared_error():
    """- log N(x; y, 1/4) per number is 2 (x - y)^2 + const: what the paper's first term is up to its scale."""
    model = build(VQVAE, IMAGES)
    x = numbers(4, 1, 8, 8)
    loss = model.loss(Batch(x), stream())
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi * 0.25))
    assert torch.allclose(loss.total - loss.terms["quantiser"] - constant, 2 * loss.terms["mse"], atol=1e-5)


@pytest.mark.parametrize("case", ["float", "length", "range", "class", "attributes", "halvings", "network", "positions"])
def test_nonsense_is_a_sentence(case):
    attributes = DataSpec("image", (1, 8, 8), levels=17, condition=Condition("attributes", 4))
    wrong = {
        "float": (lambda: build(VQVAE, IMAGES).decode(torch.zeros(2, 4, 4)), "integers were expected"),
        "length": (lambda: build(VQVAE, IMAGES).decode(torch.zeros(2, 5).long()), "16 integers"),
        "range": (lambda: build(VQVAE, IMAGES).decode(torch.full((2, 16), 16)), "0 to 16 - 1 exist"),
        "class": (lambda: build(VQVAE, IMAGES).sample(2, condition=torch.tensor([0, 1])), "without classes"),
        "attributes": (lambda: build(VQVAE, attributes), "label=none"),
        "halvings": (lambda: build(VQVAE, IMAGES, halvings=5), "at most 2"),
        "network": (lambda: build(VQVAE, POINTS, network="conv"), "network='mlp'"),
        "positions": (lambda: build(VQVAE, POINTS, positions=0), "at least one code"),
    }
    make, sentence = wrong[case]
    with pytest.raises(UserError, match=sentence):
        make()


# Tables of codes


PRIORS = {
    "grid": lambda: CodePrior(3, (2, 2)),
    "chain, classes": lambda: CodePrior(3, (3,), classes=2),
    "coarse, classes": lambda: CodePrior(3, (2, 2), classes=2, coarse=(2, (1, 2))),
}


def observed(name: str) -> tuple[CodePrior, dict]:
    """Counts of some codes, and what a datum of class 1 is known beside."""
    prior, generator = PRIORS[name](), torch.Generator().manual_seed(1)
    draw = lambda high, *shape: torch.randint(high, shape, generator=generator)  # noqa: E731
    codes, classes, coarse = draw(3, 40, prior.places), draw(2, 40), draw(2, 40, 2)
    codes[:, 1] = codes[:, 0]  # neighbours that agree
    known = {"classes": classes} if prior.classes > 1 else {}
    known |= {"coarse": coarse} if "coarse" in name else {}
    prior.observe(codes, **known)
    return prior, {key: value[:1] for key, value in known.items()}


@pytest.mark.parametrize("name", PRIORS)
def test_probabilities_of_all_codes_sum_to_one_and_samples_have_them(name):
    prior, known = observed(name)
    every = torch.tensor(list(itertools.product(range(3), repeat=prior.places)))
    beside = lambda n: {key: value.expand(n, *value.shape[1:]) for key, value in known.items()}  # noqa: E731
    p = prior.log_prob(every, **beside(len(every))).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
    n = 20_000
    drawn = prior.sample(n, SampleRng(0), **beside(n))
    index = (drawn * 3 ** torch.arange(prior.places - 1, -1, -1)).sum(1)
    seen = torch.bincount(index, minlength=len(every)) / n
    chi2 = float(n * ((seen - p).square() / p).sum())
    cells = len(every) - 1
    assert chi2 < cells + 4 * (2 * cells) ** 0.5  # four standard deviations of chi-squared


def test_counts_go_on_beyond_what_float32_can_count():
    prior = CodePrior(3, (2, 2))
    prior.observe(torch.zeros(1, 4, dtype=torch.long))
    prior.counts *= 2**24
    prior.observe(torch.zeros(1, 4, dtype=torch.long))
    assert prior.counts[0, 0, 0].item() == 2**24 + 1


def test_on_held_out_data_the_objective_of_dvae_is_a_bound():
    """With beta = 1 and one place, its mean over draws is -(sum_k q_k log p(x | k) - KL(q || uniform)), at least
    -log mean_k p(x | k): enumerated."""
    spec = DataSpec("image", (1, 1, 2), levels=3)
    settings = {"quantiser": "gumbel", "codes": 4, "positions": 1, "network": "mlp", "beta": 1.0, "likelihood": "categorical"}
    model = build(VQVAE, spec, **settings).eval()
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.mul_(2)
        x = torch.tensor([[[[-1.0, 1.0]]]])
        parameters = model.output([model.quantisers[0].lookup(torch.arange(4)[:, None])])
        given = model.likelihood.log_prob(parameters, x.expand(4, -1, -1, -1))
        q = (SHARP * model.encoder(x)).flatten().softmax(0)
        bound = (q * (given - q.log())).sum() - math.log(4)
        rows = 20_000
        found = -2 * model.loss(Batch(x.expand(rows, -1, -1, -1)), stream()).total
    error = float((q * given.square()).sum() - (q * given).sum() ** 2) ** 0.5 / rows**0.5
    assert q.max() < 0.9 and error > 0, "else a draw is the likeliest entry"
    assert found.item() == pytest.approx(bound.item(), abs=5 * error)
    assert bound < given.logsumexp(0) - math.log(4)


def plain_rates(counts: torch.Tensor, general: torch.Tensor) -> torch.Tensor:
    """Frequencies with 16 data more that are spread as in general."""
    return (counts + 16 * general) / (counts.sum() + 16)


def test_probabilities_are_the_naive_bayes_of_counts():
    """Each factor counted anew in plain loops: places by class, left, above, and the coarse code over the place."""
    generator = torch.Generator().manual_seed(2)
    codes, classes = torch.randint(3, (60, 6), generator=generator), torch.randint(2, (60,), generator=generator)
    coarse = torch.randint(2, (60, 2), generator=generator)
    prior = CodePrior(3, (2, 3), classes=2, coarse=(2, (1, 2)))
    prior.observe(codes, classes, coarse)
    tally = lambda values: torch.bincount(values.flatten(), minlength=3).double()  # noqa: E731
    overall = plain_rates(tally(codes), torch.ones(3).double() / 3)
    parent = [0, 0, 1, 0, 0, 1]  # of 3 columns the first two are over column floor(2 c / 3) = 0
    lefts, aboves, parents = [(1, 0), (2, 1), (4, 3), (5, 4)], [(3, 0), (4, 1), (5, 2)], list(enumerate(parent))

    def rates(pairs, given, value):
        counts = sum(tally(codes[given[:, before] == value][:, at]) for at, before in pairs)
        return plain_rates(counts, overall)

    row, label = 7, int(classes[7])
    total = 0.0
    for at in range(6):
        p = plain_rates(tally(codes[classes == label][:, at]), plain_rates(tally(codes[:, at]), overall)).log()
        for pairs, given in ((lefts, codes), (aboves, codes), (parents, coarse)):
            p = p + sum((rates(pairs, given, given[row, b]) / overall).log() for place, b in pairs if place == at)
        total += float(p.log_softmax(0)[codes[row, at]])
    assert float(prior.log_prob(codes, classes, coarse)[row]) == pytest.approx(total, abs=1e-6)


def test_a_chain_has_a_table_for_each_place():
    """The second code repeats the first, the third is its opposite: what a table shared by the places could not say."""
    first = torch.randint(2, (500, 1), generator=torch.Generator().manual_seed(0))
    prior = CodePrior(2, (3,))
    prior.observe(torch.cat([first, first, 1 - first], 1))
    drawn = prior.sample(300, SampleRng(1))
    assert (drawn[:, 0] == drawn[:, 1]).float().mean() > 0.95 and (drawn[:, 1] != drawn[:, 2]).float().mean() > 0.95


def test_tables_learn_copies_of_the_left_above_and_coarse():
    """Codes that are all alike in a datum: after the first, each is told by its neighbours."""
    same = torch.arange(5).repeat(400)[:, None]
    prior, fine = CodePrior(5, (3, 3)), CodePrior(5, (2, 2), coarse=(5, (1, 1)))
    prior.observe(same.expand(-1, 9))
    drawn = prior.sample(200, SampleRng(0))
    assert (drawn == drawn[:, :1]).float().mean() > 0.98
    assert float(prior.log_prob(same[:5].expand(-1, 9)).mean()) > -1.05 * math.log(5)
    fine.observe(same.expand(-1, 4), coarse=same)
    assert (fine.sample(2000, SampleRng(0), coarse=same) == same).float().mean() > 0.98


def test_before_anything_is_seen_codes_are_uniform():
    prior = CodePrior(4, (2, 3))
    found = prior.log_prob(torch.zeros(2, 6).long())
    assert found.tolist() == pytest.approx([-6 * math.log(4)] * 2)


def test_of_too_many_classes_no_tables_are_made():
    prior = CodePrior(1024, (32, 32), classes=1000)
    assert prior.classes == 1 and prior.counts.numel() == 2**20
    with pytest.raises(UserError, match="too many for tables"):
        prior.sample(1, SampleRng(0), torch.tensor([3]))


# Training


@pytest.fixture(scope="module")
def digits():
    return pf.load_data("digits")


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("kind", [VQVAE, VQVAE2])
def test_every_quantiser_keeps_the_contract(kind, quantiser, digits):
    report = check_model(build(kind, digits.spec, quantiser=quantiser), digits, strict=False)
    assert report.ok, str(report)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    torch.manual_seed(0)
    model = VQVAE(digits.spec, codes=32, code_dim=8, width=32, depth=1)
    model.name, model.settings = "vq-vae", {}
    return train(model, digits, steps=400, out=str(tmp_path_factory.mktemp("vq") / "run"), **QUICK)


def test_digits_come_back_with_most_codes_in_use(trained, digits):
    """16 codes of 32 entries, 80 bits for a digit; the variance of a pixel about its mean is 0.28."""
    x = digits.units.to_model(take(digits.test)[0])
    figures = trained.model.diagnose(x)
    assert figures["perplexity"] > 16 and figures["codes"] == 32 and figures["codes_used"] >= 24
    assert figures["mean_squared_error"] < 0.08
    back = trained.model.decode(trained.model.encode(x))
    assert float((back - x).square().mean().detach()) == pytest.approx(figures["mean_squared_error"], rel=1e-4)


@pytest.mark.parametrize("name", ["gradient", "gumbel", "fsq", "vq-vae-2"])
def test_so_they_do_from_every_other_quantiser(name, digits, tmp_path):
    kind, quantiser = (VQVAE2, "ema") if name == "vq-vae-2" else (VQVAE, name)
    settings = {"gumbel": {"codes": 32, "beta": 0.01}, "fsq": {"levels": (8, 5)}}.get(name, {"codes": 32})
    model = build(kind, digits.spec, quantiser=quantiser, **settings)
    run = train(model, digits, steps=400, out=str(tmp_path / "run"), learning_rate=3e-3, **QUICK)
    figures = run.model.diagnose(digits.units.to_model(take(digits.test)[0]))
    print(figures)
    assert figures["mean_squared_error"] < 0.1


def test_a_quantiser_is_not_asked_for_what_it_has_not():
    for asked, said in (
        ({"quantiser": "fsq", "codes": 7}, "which has levels"),
        ({"quantiser": "gumbel", "decay": 0.5}, "which has codes, code_dim, beta"),
        ({"quantiser": "ema", "levels": (5, 5)}, "which has codes"),
    ):
        for kind in (VQVAE, VQVAE2):
            with pytest.raises(UserError, match=said):
                kind(IMAGES, **asked)


def test_averaged_weights_and_codebook_fit_each_other(trained, digits):
    """The codebook is averaged with the encoder: what comes back is as good, within 5 %, as with the last weights."""
    x = digits.units.to_model(take(digits.test)[0])
    averaged = trained.model.diagnose(x)["mean_squared_error"]
    tensors, _ = checkpoints.read_tensors(trained.directory / checkpoints.STATE)
    last = build(VQVAE, digits.spec, codes=32, code_dim=8, width=32, depth=1)
    checkpoints.load_weights(last, checkpoints.section(tensors, "model"), "the checkpoint")
    assert averaged < 1.05 * last.eval().diagnose(x)["mean_squared_error"]


def test_tables_are_counted_with_the_averaged_weights(trained, digits):
    """All training data, once, by class; half-trained counts are forgotten."""
    prior = trained.model.priors[0]
    codes, classes = take(digits.train)
    z = trained.model.encode(digits.units.to_model(codes)).flatten(1)
    wanted = CodePrior(32, (4, 4), 10)
    wanted.observe(z, classes)
    assert torch.equal(prior.counts, wanted.counts) and torch.equal(prior.pairs, wanted.pairs)
    assert float(prior.counts.sum()) == len(codes) * 16


def test_samples_are_of_the_class_that_is_asked_for(trained, digits):
    """A support vector machine fitted on real digits; by chance 10 %."""
    codes, classes = take(digits.train)
    judge = SVC().fit(digits.units.to_model(codes).flatten(1), classes)
    asked = torch.arange(10).repeat(40)
    with torch.no_grad():
        samples = trained.model.sample(400, condition=asked, generator=3)
    assert (judge.predict(samples.flatten(1)) == asked.numpy()).mean() > 0.7
    codes = trained.model.draw_codes(9, generator=3)
    assert torch.equal(codes[4:], trained.model.draw_codes(5, generator=SampleRng(3, first=4)))


def test_neighbours_say_more_than_places_alone(trained, digits):
    """Held-out codes are likelier, by nats, when their neighbours are looked at."""
    with torch.no_grad():
        seen, new = (
            trained.model.encode(digits.units.to_model(take(part)[0])).flatten(1) for part in (digits.train, digits.test)
        )
    prior, alone = CodePrior(32, (4, 4)), CodePrior(32, (4, 4))
    prior.observe(seen)
    alone.counts.copy_(prior.counts)  # no pairs seen: the ratios are 1
    assert prior.log_prob(new).mean() > alone.log_prob(new).mean() + 2


@pytest.mark.parametrize("quantiser", ["ema", "gumbel"])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(quantiser, digits, tmp_path):
    """Restarts, moving averages and tables among it: 30 updates at once, and 13 and 17."""
    options = {**QUICK, "steps": 30, "seed": 3}
    own = {"restart": 0.5} if quantiser == "ema" else {}
    make = lambda: build(VQVAE, digits.spec, quantiser=quantiser, **own)  # noqa: E731
    whole = train(make(), digits, out=str(tmp_path / "whole"), **options)
    model, count = make(), itertools.count(1)
    players = model.players()
    original = players[0].loss

    def interrupting(batch, rng):
        if next(count) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return original(batch, rng)

    players[0].loss = interrupting
    model.players = lambda: players
    assert train(model, digits, out=str(tmp_path / "parts"), **options).result["steps"] == 13
    parts = train(make(), digits, out=str(tmp_path / "parts"), resume=True, **options)
    other = parts.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in whole.model.state_dict().items())


def test_points_get_a_few_codes_each(tmp_path):
    """Product quantisation: 4 codes of 16 entries for a point of a ring, which the network learns to place."""
    data = pf.load_data("moons")
    model = build(VQVAE, data.spec, positions=4, width=64, depth=2)
    run = train(model, data, steps=300, out=str(tmp_path / "run"), **QUICK)
    x = data.units.to_model(take(data.test, 500)[0])
    assert run.model.encode(x).shape == (len(x), 4)
    assert run.model.diagnose(x)["mean_squared_error"] < 0.05  # of variance 1
