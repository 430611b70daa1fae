"""The hierarchical VAE: its bound against quadrature, its KLs against Monte Carlo, its codes, and the contract."""

import math

import pytest
import torch

import pushforward as pf
from pushforward.data.batches import Batch, take
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.contract import capabilities
from pushforward.models.variational.elbo import log_weights
from pushforward.models.variational.hierarchical import HierarchicalVAE
from pushforward.randomness import SampleRng, UpdateRng
from pushforward.zoo import ZOO

POINTS = DataSpec("point", (2,), columns=tuple(Column(str(i), "number") for i in range(2)))
DIGITS = DataSpec("image", (1, 8, 8), levels=17)
CLASSES = DataSpec("image", (1, 8, 8), levels=17, condition=Condition("class", 3, frequencies=(0.5, 0.5, 0.0)))
ODD = DataSpec("image", (3, 11, 14), levels=256)
BOTH = ["shared", "precision"]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def stirred(spec: DataSpec, **settings) -> HierarchicalVAE:
    """With random weights everywhere: those that start at zero would hide mistakes."""
    torch.manual_seed(0)
    model = HierarchicalVAE(spec, **settings)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p) / math.sqrt(max(1, p.shape[-1] if p.dim() else 1)))
    return model


@pytest.mark.parametrize("posterior", BOTH)
def test_the_bound_tends_to_log_p_by_quadrature(posterior):
    """Two levels of one latent each: log p(x) = log of the integral over (z_1, z_2), on a fine grid of codes."""
    model = stirred(POINTS, levels=2, latent_dim=1, width=8, sigma=0.7, posterior=posterior).double()
    x = numbers(5, 2).double()
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    codes = torch.cartesian_prod(axis, axis)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(codes).sum(1) + 2 * math.log(axis[1] - axis[0])
    with torch.no_grad():
        parameters = model.parameters_of(codes, None)
        exact = torch.stack(
            [(model.likelihood.log_prob(parameters, row.expand(len(codes), 2)) + prior).logsumexp(0) for row in x]
        )
        noise = numbers(5, 20_000, 2, seed=1).double()
        weights = log_weights(model, x, noise)
        means = [(torch.logsumexp(weights.view(5, -1, k), 2) - math.log(k)).mean(1) for k in (1, 10, 20_000)]
        assert (means[0] < means[1]).all() and (means[1] < exact + 1e-3).all()
        # 20 000 weights whose relative spread is about 1: five standard errors are below 0.05
        torch.testing.assert_close(means[2], exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("posterior", BOTH)
@pytest.mark.parametrize("spec", [POINTS, DIGITS])
def test_closed_kls_are_the_mean_of_the_ratios(spec, posterior):
    model = stirred(spec, levels=3, latent_dim=2, width=8, posterior=posterior).double()
    x, draws = numbers(1, *spec.shape).double().clamp(-1, 1), 1500
    with torch.no_grad():
        noise = numbers(1, draws, model.noise_size, seed=2).double()
        (_, closed), (_, ratio) = model.weigh(x, noise, None, closed=True), model.weigh(x, noise, None)
    assert closed.shape == ratio.shape == (1, draws, 3)
    difference = (closed - ratio)[0]
    error = difference.std(0) / math.sqrt(draws)
    assert (difference.mean(0).abs() < 4.5 * error + 1e-9).all()
    assert (closed > 0).all()


def test_precisions_add():
    model = stirred(POINTS, levels=2, latent_dim=3, width=8, posterior="precision").double()
    level, h, features = model.levels[1], numbers(4, 8).double(), numbers(4, 8, seed=1).double()
    prior, _ = level.expect(h)
    mean, log_sigma = level.infer(h, features, prior)
    said_mean, said = level.posterior(features).chunk(2, 1)
    said = 5 * torch.tanh(said / 5)
    precision = (-2 * said).exp() + (-2 * prior[1]).exp()
    torch.testing.assert_close((-2 * log_sigma).exp(), precision)
    torch.testing.assert_close(mean, ((-2 * said).exp() * said_mean + (-2 * prior[1]).exp() * prior[0]) / precision)


@pytest.mark.parametrize("posterior", BOTH)
@pytest.mark.parametrize("spec", [POINTS, DIGITS, CLASSES, ODD, DataSpec("series", (7, 2))])
def test_contract(spec, posterior):
    model = stirred(spec, levels=4, latent_dim=2, width=8, posterior=posterior)
    assert {"samples", "density", "encodes", "decodes"} <= set(capabilities(model))
    with torch.no_grad():
        whole = model.sample(6, generator=SampleRng(5))
        part = model.sample(2, generator=SampleRng(5, first=3))
        assert whole.shape == (6, *spec.shape)
        torch.testing.assert_close(whole[3:5], part, rtol=1e-4, atol=1e-4)
        cold = model.sample(3, generator=SampleRng(5), temperature=0.0, sample_likelihood=False)
        if spec.condition is None:
            torch.testing.assert_close(cold[0], cold[1])
        for rows in (1, 8):  # 8: as many as the width
            x = whole[:1].expand(rows, *spec.shape)
            condition = torch.zeros(rows, dtype=torch.long) if spec.condition else None
            z = model.encode(x, condition=condition)
            assert z.shape == (rows, model.noise_size)
            assert model.decode(z, condition=condition).shape == x.shape
            assert model.log_prob(x, condition=condition, draws=3).value.shape == (rows,)
            assert model.loss(Batch(x, condition), stream()).total.isfinite()
        assert model.draw_codes(4, generator=1).shape == (4, model.noise_size)


def test_log_prob_is_a_function_of_x_whatever_the_batch_and_the_chunk():
    model, x = stirred(DIGITS, levels=3, latent_dim=2, width=8), numbers(5, 1, 8, 8).clamp(-1, 1)
    with torch.no_grad():
        value = model.log_prob(x, draws=7).value
        torch.testing.assert_close(model.log_prob(x[2:4], draws=7).value, value[2:4], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(model.log_prob(x, draws=7, chunk=3).value, value, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("posterior", BOTH)
def test_codes_are_the_latents_as_the_prior_sees_them(posterior):
    """With the posterior's mean as z, `weigh` at noise 0 and `decode(encode(x))` say the same of x."""
    model, x = stirred(DIGITS, levels=3, latent_dim=2, width=8, posterior=posterior), numbers(4, 1, 8, 8).clamp(-1, 1)
    with torch.no_grad():
        likelihood, _ = model.weigh(x, torch.zeros(4, 1, model.noise_size), None)
        parameters = model.parameters_of(model.encode(x), None)
        torch.testing.assert_close(likelihood[:, 0], model.likelihood.log_prob(parameters, x), rtol=1e-4, atol=1e-2)


def test_every_level_is_of_use_to_the_loss_and_every_parameter_has_a_gradient():
    model, x = stirred(CLASSES, levels=5, latent_dim=2, width=8), numbers(6, 1, 8, 8).clamp(-1, 1)
    model.loss(Batch(x, torch.tensor([0, 1, 0, 1, 0, 1]), step=10_000), stream()).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "null" not in name)


def test_free_bits_are_paid_by_level():
    x = numbers(6, 1, 8, 8).clamp(-1, 1)
    plain = stirred(DIGITS, levels=3, latent_dim=2, width=8, beta_warmup=0)
    free = stirred(DIGITS, levels=3, latent_dim=2, width=8, beta_warmup=0, free_bits=50.0)
    kl = plain.weigh(x, stream().randn(6, 1, plain.noise_size), None, closed=True)[1].mean((0, 1))
    extra = (50.0 - kl).clamp(min=0).sum()
    assert 0 < extra < 150
    paid = free.loss(Batch(x), stream()).total - plain.loss(Batch(x), stream()).total
    torch.testing.assert_close(paid, extra, rtol=1e-3, atol=0)  # a difference of two float32 sums of thousands


def test_a_collapsed_hierarchy_is_told():
    """Trained under a KL that costs far too much, every level says nothing; a usual one is in use."""
    torch.manual_seed(0)
    x = torch.cat([torch.ones(64, 2), -torch.ones(64, 2)]) + 0.2 * numbers(128, 2)
    for beta, active in ((1000.0, 0.0), (1.0, 1.0)):
        torch.manual_seed(0)
        model = HierarchicalVAE(POINTS, levels=2, latent_dim=2, width=32, beta=beta, beta_warmup=0, sigma=0.2)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(250):
            optimizer.zero_grad()
            model.loss(Batch(x), stream(step)).total.backward()
            optimizer.step()
        told = model.diagnose(x)
        assert told["units"] == 2.0 and (told["active_units"] >= active if active else told["active_units"] == 0.0), told
        assert told["kl"] == pytest.approx(told["kl_level_1"] + told["kl_level_2"], rel=1e-5)


def test_a_ladder_vae_as_it_comes_keeps_its_levels_in_use():
    """Two pixels that depend on each other: -log p is 1.04 nats at best, and 1.26 where no level says anything."""
    spec = DataSpec("image", (1, 1, 2), levels=3)
    x = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, 1.0], [-1.0, 1.0]]).view(4, 1, 1, 2)
    torch.manual_seed(0)
    model = HierarchicalVAE(spec, **ZOO["ladder-vae"].settings, likelihood="categorical")
    optimizer = torch.optim.Adam(model.parameters(), lr=model.learning_rate)
    for step in range(400):
        optimizer.zero_grad()
        model.loss(Batch(x.repeat(16, 1, 1, 1), step=step, progress=0.0), stream(step)).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        terms = model.loss(Batch(x.repeat(500, 1, 1, 1)), stream()).terms
    assert terms["elbo"] > -1.16 and terms["kl"] > 0.3, terms


def test_the_log_tells_the_nats_of_each_level():
    x = numbers(6, 1, 8, 8).clamp(-1, 1)
    for objective in ("elbo", "iwae"):
        model = stirred(DIGITS, levels=3, latent_dim=2, width=8, objective=objective)
        terms = model.loss(Batch(x), stream()).terms
        levels = torch.stack([terms[f"kl_level_{i}"] for i in (1, 2, 3)])
        torch.testing.assert_close(levels.mean(), terms["kl_per_unit"])
        if objective == "elbo":
            torch.testing.assert_close(levels.sum(), terms["kl"])


def test_twenty_levels_train_and_sample():
    model = stirred(DIGITS, levels=20, latent_dim=1, width=8)
    x = numbers(6, 1, 8, 8).clamp(-1, 1)
    loss = model.loss(Batch(x, step=10_000), stream())
    loss.total.backward()
    assert loss.total.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.diagnose(x)["units"] == 20 and model.sample(3, generator=0).isfinite().all()


def test_deeper_beats_shallow_at_no_more_parameters(tmp_path):
    """Held-out nats of digits after 300 updates of 64: four levels of width 22 (122,000 parameters) gain 3.7 on two of width 38
    (126,000), and 5.1 and 4.2 (two seeds) after 600; seeds differ by about 1."""
    data = pf.load_data("digits", label="none")
    x = data.units.to_model(take(data.test)[0])
    quiet = {"tensorboard": False, "picture_every": 0, "validate_every": 0, "precision": "fp32", "batch_size": 64}
    nats = {}
    for levels, width in ((2, 38), (4, 22)):
        torch.manual_seed(0)
        model = pf.create("hierarchical-vae", data.spec, levels=levels, width=width, free_bits=0.5, beta_warmup=0)
        run = pf.train(model, data, steps=300, seed=0, out=str(tmp_path / str(levels)), **quiet)
        nats[levels] = run.model.log_prob(x, draws=16).value.mean().item()
    assert nats[4] > nats[2] + 2, nats


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="has none"):
        HierarchicalVAE(POINTS, objective="iwae", beta_warmup=700)
    with pytest.raises(UserError, match="at least 1"):
        HierarchicalVAE(POINTS, levels=0)
    with pytest.raises(UserError, match="at least 1"):
        HierarchicalVAE(POINTS, latent_dim=0)


@pytest.mark.parametrize("posterior", BOTH)
@pytest.mark.parametrize("spec", [CLASSES, DataSpec("point", (2,), condition=Condition("class", 3))], ids=["images", "points"])
def test_each_datum_keeps_its_own_condition_through_the_draws_and_the_chunks(spec, posterior):
    model, x = stirred(spec, levels=3, latent_dim=2, width=8, posterior=posterior), numbers(4, *spec.shape).clamp(-1, 1)
    mixed, noise = torch.tensor([0, 1, 1, 0]), numbers(4, 3, model.noise_size, seed=1)
    zero, one = torch.zeros_like(mixed), torch.ones_like(mixed)
    with torch.no_grad():
        for closed in (False, True):
            each = [model.weigh(x, noise, model.embed(c, 4), closed=closed) for c in (zero, one)]
            for i, found in enumerate(model.weigh(x, noise, model.embed(mixed, 4), closed=closed)):
                rows = (mixed == 0).view(4, *[1] * (found.dim() - 1))
                assert not torch.allclose(each[0][i], each[1][i], rtol=1e-3)
                torch.testing.assert_close(found, torch.where(rows, each[0][i], each[1][i]), rtol=1e-4, atol=1e-3)
        wanted = torch.where(mixed == 0, *(model.log_prob(x, condition=c, draws=3).value for c in (zero, one)))
        for chunk in (1, 7, 100):
            found = model.log_prob(x, condition=mixed, draws=3, chunk=chunk).value
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
