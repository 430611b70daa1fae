"""Discrete diffusion: with a perfect network of a known law loss, bound and samplers are exact; learning; options."""

import math

import pytest
import torch
from dynamics.exact_tokens import LAW, L, V, exact_p0, process, rate_bound, step_bound
from torch import nn

import pushforward as pf
import pushforward.models.diffusion.discrete as discrete
from pushforward.data.batches import Batch
from pushforward.data.spec import Column, Condition, DataSpec, Vocabulary
from pushforward.data.units import units
from pushforward.errors import UserError
from pushforward.models.checking import check_model
from pushforward.models.contract import Completes, Density, Learns, Samples
from pushforward.models.diffusion.discrete import DiscreteDiffusion, sharpened
from pushforward.randomness import SampleRng, UpdateRng

SPEC = DataSpec("tokens", (L,), vocabulary=Vocabulary("codes", V), name="pairs")
PAIRS = torch.cartesian_prod(torch.arange(V), torch.arange(V))
ENTROPY = -float((LAW * LAW.log()).sum())


class Perfect(nn.Module):
    """What is to be learned of the law of pairs."""

    def __init__(self, name, schedule):
        super().__init__()
        self.process = process(name, schedule)

    def forward(self, tokens, t, embedding=None):
        # a model of masks says nothing of the time: any will do
        at = t.double() if len(self.process.law[0]) == V else torch.full(t.shape, 0.5, dtype=torch.float64)
        found = torch.zeros(*tokens.shape, V, dtype=torch.float64)
        for value in at.unique():
            rows = at == value
            found[rows] = exact_p0(self.process, tokens[rows], float(value))[..., :V]
        return found


def perfect(name="absorbing", schedule="linear", **settings):
    return DiscreteDiffusion(SPEC, process=name, schedule=schedule, net=Perfect(name, schedule), **settings).eval()


def law_of(samples):
    return torch.bincount(samples[:, 0] * V + samples[:, 1], minlength=V * V).view(V, V).double() / len(samples)


def distance(samples, law=LAW):
    """Total variation."""
    return 0.5 * float((law_of(samples) - law).abs().sum())


N = 8_000  # samples: a perfect sampler's total variation of 16 cells is 0.015 or so, at most 0.03
NEAR = 0.03


@pytest.mark.parametrize("name, timesteps", [("absorbing", None), ("absorbing", 5), ("uniform", None), ("uniform", 5)])
def test_the_loss_is_an_unbiased_draw_of_the_bound(name, timesteps):
    model = perfect(name, "cosine", timesteps=timesteps)
    made = process(name, "cosine")
    exact = rate_bound(made) if timesteps is None else step_bound(made, timesteps)
    x0, rng = PAIRS.repeat_interleave(2_000, 0), SampleRng(3)
    u = torch.rand(len(x0), generator=torch.Generator().manual_seed(0))
    if (name, timesteps) == ("uniform", None):  # the one whose perfect network is enumerated for each time: at 256 of them
        u = (256 * u).floor() / 256 + 1 / 512
    nats = model._bound(x0, u, rng.rand(len(x0), L), None)[0].sum(1).double()
    error = float(nats.std()) / math.sqrt(len(nats))
    assert abs(float(nats.mean() - exact.mean())) < 3.5 * error < 0.35


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_log_prob_is_minus_the_bound_and_knows_its_error(name):
    model = perfect(name, timesteps=4 if name == "uniform" else None)
    exact = -(step_bound(process(name), 4) if name == "uniform" else -LAW.log()).flatten()
    found = [model.log_prob(PAIRS, draws=32, generator=seed) for seed in range(8)]
    values, errors = torch.stack([f.value for f in found]), torch.stack([f.stderr for f in found])
    assert found[0].kind == "bound"
    assert ((values.mean(0) - exact).abs() < 4.5 * errors.mean(0) / math.sqrt(8) + 1e-6).all()
    ratio = float(values.std(0).mean() / errors.mean())
    assert 0.6 < ratio < 1.3
    assert torch.equal(model.log_prob(PAIRS).value, model.log_prob(PAIRS).value)


def test_places_in_a_random_order_are_exact_in_as_many_steps():
    model = perfect()
    assert distance(model.sample(N, generator=1, sampler="first-hitting", steps=L)) < NEAR
    assert distance(model.sample(N, generator=1, sampler="first-hitting")) < NEAR
    alone = LAW.sum(1)[:, None] * LAW.sum(0)
    assert distance(model.sample(N, generator=1, sampler="first-hitting", steps=1), alone) < NEAR
    assert distance(model.sample(N, generator=1, sampler="first-hitting", steps=1)) > 0.2


@pytest.mark.parametrize("name, schedule", [("absorbing", "cosine"), ("uniform", "linear")])
def test_ancestral_samples_have_the_law(name, schedule):
    model = perfect(name, schedule)
    assert distance(model.sample(N, generator=2, steps=40, sampler="ancestral")) < NEAR + 0.01
    alone = LAW.sum(1)[:, None] * LAW.sum(0)
    assert distance(model.sample(N, generator=2, steps=1, sampler="ancestral"), alone) < NEAR


def test_the_surest_places_come_first(monkeypatch):
    class Sure(nn.Module):
        """The second token is 3; where that is known the first is 0, else it is anything."""

        def forward(self, tokens, t, embedding=None):
            logits = torch.zeros(*tokens.shape, V)
            logits[:, 1, 3] = 20.0
            logits[tokens[:, 1] == 3, 0, 0] = 20.0
            return logits

    model = DiscreteDiffusion(SPEC, net=Sure())
    monkeypatch.setattr(discrete, "GUMBEL", 0.0)
    made = model.sample(200, generator=0, sampler="confidence", steps=2)
    assert torch.equal(made, torch.tensor([0, 3]).expand(200, -1))
    random = model.sample(200, generator=0, sampler="first-hitting", steps=2)
    assert 40 < int((random[:, 0] != 0).sum()) < 110  # half of them begin at the first place


@pytest.mark.parametrize(
    "name, options, near",
    # of the uniform process what is known is seen through its noise: nearer to its law than the marginal is, no more
    [("absorbing", {"sampler": "ancestral"}, 0.03), ("absorbing", {}, 0.03), ("uniform", {"steps": 30}, 0.26)],
)
def test_what_is_missing_is_drawn_given_what_is_known(name, options, near):
    x = torch.zeros(N // 2, L, dtype=torch.long)
    x[:, 1] = 2
    known = torch.zeros_like(x, dtype=torch.bool)
    known[:, 1] = True
    made = perfect(name).complete(x, known, generator=4, **options)
    assert (made[:, 1] == 2).all()
    exact = LAW[:, 2] / LAW[:, 2].sum()
    share = torch.bincount(made[:, 0], minlength=V).double() / len(made)
    assert 0.5 * float((share - exact).abs().sum()) < near < 0.5 * float((LAW.sum(1) - exact).abs().sum())


class OfClasses(nn.Module):
    """One token, by whether there is a class."""

    LOGITS = torch.tensor([[0.0, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, -1.0]])

    def forward(self, tokens, t, embedding=None):
        told = (embedding.abs().sum(1) > 0).long()
        return self.LOGITS[told][:, None].expand(-1, tokens.shape[1], -1)


def of_classes():
    spec = DataSpec("tokens", (1,), condition=Condition("class", 2), vocabulary=Vocabulary("codes", V))
    return DiscreteDiffusion(spec, net=OfClasses()).eval()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_tilts_the_law(guidance):
    made = of_classes().sample(N, condition=torch.zeros(N, dtype=torch.long), guidance=guidance, generator=0)
    share = torch.bincount(made[:, 0], minlength=V) / N
    torch.testing.assert_close(share, torch.lerp(*OfClasses.LOGITS, guidance).softmax(0), atol=0.02, rtol=0)


def test_the_first_places_are_those_of_least_value():
    found, _ = discrete._first(torch.tensor([[3.0, 1.0, 2.0], [2.0, 3.0, 1.0]]), torch.tensor([1, 2]))
    assert found.tolist() == [[False, True, False], [True, False, True]]


def test_temperature_and_nucleus():
    asked = {"condition": torch.ones(N, dtype=torch.long), "generator": 0}
    share = torch.bincount(of_classes().sample(N, temperature=2.0, **asked)[:, 0], minlength=V) / N
    torch.testing.assert_close(share, (OfClasses.LOGITS[1] / 2).softmax(0), atol=0.02, rtol=0)
    assert torch.bincount(of_classes().sample(N, top_p=0.5, **asked)[:, 0], minlength=V).tolist() == [N, 0, 0, 0]
    p = sharpened(torch.tensor([0.1, 0.5, 0.4]).log(), 1.0, 0.8).exp()
    torch.testing.assert_close(p, torch.tensor([0.0, 5 / 9, 4 / 9]))


def learned(process, steps, **settings):
    torch.manual_seed(0)
    model = DiscreteDiffusion(SPEC, process=process, width=32, depth=1, heads=2, **settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draws = torch.multinomial(LAW.flatten(), 256 * steps, True, generator=torch.Generator().manual_seed(1)).view(steps, -1)
    rng = UpdateRng(torch.Generator().manual_seed(2))
    for step, which in enumerate(draws):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        optimizer.zero_grad()
        model.loss(Batch(PAIRS[which]), rng).total.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name, settings", [("absorbing", {}), ("uniform", {"timesteps": 20, "cross_entropy": 0.1})])
def test_a_tiny_network_learns_a_law(name, settings):
    model = learned(name, 150, **settings)
    nats = -float((LAW.flatten() * model.log_prob(PAIRS, draws=128).value).sum())
    least = ENTROPY if name == "absorbing" else float((LAW * step_bound(process(name), 20)).sum())
    assert least - 0.05 < nats < least + 0.05
    assert distance(model.sample(N, generator=0, steps=20)) < 0.08


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_images_of_levels_have_masses(name):
    """A fresh network takes all levels as equally likely: 24 log 5 nats, exactly, in the data's units."""
    spec = DataSpec("image", (2, 3, 4), condition=Condition("class", 3), levels=5)
    model = DiscreteDiffusion(spec, process=name, width=16, depth=1, heads=2)
    x = units(spec).to_model(torch.randint(5, (3, 2, 3, 4)))
    found = model.log_prob(x, condition=torch.tensor([0, 1, 2]), draws=64)
    off = (found.value + units(spec).log_det + 24 * math.log(5)).abs()
    assert (off < (1e-3 if name == "absorbing" else 4.5 * found.stderr)).all()
    assert isinstance(model, Samples | Density | Completes | Learns)
    assert set(((model.sample(4, generator=0, steps=3) + 1) * 2).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}


TABLE = DataSpec(
    "table",
    (5,),
    columns=(
        Column("size", "number", missing=True),
        Column("kind", "category", categories=("a", "b", "c")),
    ),
)


def table_rows(n=2_000):
    """A size of about 4, -4 or missing, by the kind."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(3, (n,), generator=generator)
    size = torch.tensor([1.2, -1.2, 0.0])[kind] + 0.1 * torch.randn(n, generator=generator) * (kind < 2)
    gap = (kind == 2).float() - 0.5
    return torch.cat([size[:, None], gap[:, None], nn.functional.one_hot(kind, 3).float()], 1)


def test_tables_are_learned_and_their_missing_cells_drawn():
    torch.manual_seed(0)
    model, x = DiscreteDiffusion(TABLE, bins=8, width=32, depth=1, heads=2), table_rows()
    bins, player = model.players()
    assert bins.update([Batch(x)], SampleRng(0)).finished
    optimizer, rng = torch.optim.AdamW(player.parameters(), lr=5e-3), UpdateRng(torch.Generator().manual_seed(0))
    for _ in range(80):
        optimizer.zero_grad()
        player.loss(Batch(x[:256]), rng).total.backward()
        optimizer.step()
    model.eval()
    # log 1/3, and of two thirds a Gaussian of deviation 0.1 that bins know a little less about
    best = -math.log(3) - 2 / 3 * (math.log(0.1) + 0.5 * math.log(2 * math.pi * math.e))
    assert best - 0.45 < float(model.log_prob(x).value.mean()) < best + 0.05
    made = model.sample(500, generator=0)
    assert torch.equal(made[:, 2:].sum(1), torch.ones(500))
    kind = made[:, 2:].argmax(1)
    right = (kind == 2) == (made[:, 1] > 0)
    assert right.float().mean() > 0.95
    assert ((made[:, 0] > 0) == (kind == 0))[made[:, 1] < 0].float().mean() > 0.95
    known = torch.zeros_like(x, dtype=torch.bool)
    known[:, 0] = known[:, 1] = True
    guess = model.complete(x, known, generator=1)
    assert torch.equal(guess[:, :2], x[:, :2])
    assert (guess[:, 2:].argmax(1) == x[:, 2:].argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize("kind", ["text", "images", "points"])
def test_the_contract(kind, tmp_path):
    (tmp_path / "hamlet.txt").write_text("to be or not to be, that is the question: " * 30)
    source, options = {"text": (tmp_path / "hamlet.txt", {"context": 12}), "images": ("digits", {}), "points": ("moons", {})}[
        kind
    ]
    data = pf.load_data(str(source), **options)
    check_model(DiscreteDiffusion(data.spec, width=16, depth=1, heads=2, bins=8), data)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"process": "gaussian"}, "there is no process 'gaussian'"),
        ({"schedule": "lineal"}, "did you mean linear"),
        ({"timesteps": 0}, "at least 1"),
        ({"cross_entropy": -1.0}, "at least 0"),
        ({"condition_dropout": 1.0}, "not including"),
    ],
)
def test_settings_that_cannot_be(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        DiscreteDiffusion(SPEC, **settings)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"steps": 0}, "at least 1 step"),
        ({"sampler": "heun"}, "there is no sampler 'heun'"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "above 0 and at most 1"),
        ({"guidance": 2.0}, "trained without a condition"),
        ({"guidance": math.nan}, "guidance = nan"),
        ({"condition": torch.zeros(2, dtype=torch.long)}, "without a condition"),
    ],
)
def test_options_that_cannot_be(options, sentence):
    with pytest.raises(UserError, match=sentence):
        perfect().sample(2, **options)


def test_what_does_not_go_together():
    with pytest.raises(UserError, match="reveals masked places"):
        perfect("uniform").sample(2, sampler="confidence")
    with pytest.raises(UserError, match="even number"):
        perfect().log_prob(PAIRS, draws=3)
    with pytest.raises(UserError, match=r"data of shape \(5,\) were given to complete; this model knows \(2,\)"):
        perfect().complete(torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(UserError, match="token 4 was given"):
        perfect().complete(torch.tensor([[4, 0]]), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(UserError, match="token 9 was given"):
        perfect().log_prob(torch.tensor([[9, 0]]))
    with pytest.raises(UserError, match="holds field"):
        DiscreteDiffusion(DataSpec("field", (1, 4, 4)))
    spec = DataSpec("tokens", (1,), condition=Condition("class", 2), vocabulary=Vocabulary("codes", V))
    always = DiscreteDiffusion(spec, net=OfClasses(), condition_dropout=0.0)
    with pytest.raises(UserError, match="condition_dropout=0"):
        always.sample(2, guidance=2.0)
    with pytest.raises(UserError, match="trained with class as condition"):
        always.log_prob(torch.zeros(2, 1, dtype=torch.long))
