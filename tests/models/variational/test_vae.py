"""The VAE against what is known exactly: probabilistic PCA, Gaussian marginals, closed forms, and its own formulas."""

import math

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.data.units import units
from pushforward.distributions.likelihoods import keys_of
from pushforward.errors import UserError
from pushforward.models.contract import capabilities
from pushforward.models.variational.elbo import Elbo, ImportanceWeighted, iwae_bound, log_weights
from pushforward.models.variational.posteriors import LOG_SIGMA, Diagonal, kl_to_standard_normal
from pushforward.models.variational.vae import VAE
from pushforward.nets.conditioning import mixture
from pushforward.randomness import SampleRng, UpdateRng, normals

POINTS = DataSpec("point", (5,), columns=tuple(Column(str(i), "number") for i in range(5)))
IMAGES = DataSpec("image", (1, 8, 8), levels=17)
CLASSES = DataSpec("image", (1, 8, 8), levels=17, condition=Condition("class", 3, frequencies=(0.5, 0.5, 0.0)))


def stream(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vae(spec: DataSpec, **settings) -> VAE:
    """Without dropout, so that two calls agree."""
    torch.manual_seed(0)
    return VAE(spec, **{"dropout": 0.0, **settings})


def levels(rows: int, spec: DataSpec = IMAGES, seed: int = 0) -> torch.Tensor:
    codes = torch.randint(0, spec.levels, (rows, *spec.shape), generator=torch.Generator().manual_seed(seed))
    return 2 * codes / (spec.levels - 1) - 1


class Affine(nn.Module):
    """An encoder with the exact posterior of a linear Gaussian decoder, or a wrong one (`error` added to log sigma)."""

    def __init__(self, W: torch.Tensor, bias: torch.Tensor, sigma: float, error: float = 0.0):
        super().__init__()
        M = W.T @ W + sigma**2 * torch.eye(W.shape[1], dtype=W.dtype)
        self.matrix, self.bias = torch.linalg.solve(M, W.T), bias
        # sigma_post^2 = sigma^2 M^-1, diagonal where W has orthogonal columns; the model sends it through a soft clamp
        log_sigma = 0.5 * torch.log(sigma**2 * torch.linalg.inv(M).diagonal()) + error
        self.raw = LOG_SIGMA * torch.atanh(log_sigma / LOG_SIGMA)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = (x - self.bias) @ self.matrix.T
        return torch.cat([mean, self.raw.expand_as(mean)], 1)


def linear_gaussian(error: float = 0.0, sigma: float = 0.5):
    """A VAE with random linear decoder (orthogonal columns), its data and their exact log-density."""
    W = torch.linalg.qr(numbers(5, 2).double())[0] * torch.tensor([1.5, 0.7]).double()
    bias = numbers(5, seed=1).double()
    decoder = nn.Linear(2, 5).double()
    decoder.weight.data, decoder.bias.data = W.clone(), bias.clone()
    model = VAE(POINTS, latent_dim=2, sigma=sigma, encoder=Affine(W, bias, sigma, error), decoder=decoder).double()
    exact = torch.distributions.MultivariateNormal(bias, W @ W.T + sigma**2 * torch.eye(5).double())
    x = bias + numbers(200, 2, seed=2).double() @ W.T + sigma * numbers(200, 5, seed=3).double()
    return model, x, exact.log_prob(x)


def test_bound_is_exact_where_the_posterior_is():
    model, x, exact = linear_gaussian()
    with torch.no_grad():
        for draws in (1, 7):  # every weight is p(x), so any number of draws gives log p(x) without error
            # fixed sigma is stored in float32
            torch.testing.assert_close(model.log_prob(x, draws=draws).value, exact, rtol=1e-6, atol=1e-6)
    assert model.log_prob(x[:3]).kind == "bound"


def test_elbo_iwae_and_log_p_are_ordered():
    model, x, exact = linear_gaussian(error=0.7)
    x, exact = x[:60], exact[:60]
    with torch.no_grad():
        means, errors = [], []
        for draws in (1, 2, 8, 64):
            noise = numbers(len(x), 100 * 64, 2, seed=draws).double()
            weights = log_weights(model, x, noise).view(len(x), -1, draws)
            bound = (torch.logsumexp(weights, -1) - math.log(draws)).mean(0)  # one value a repetition
            means.append(bound.mean().item())
            errors.append((bound.std() / math.sqrt(len(bound))).item())
    # The gaps are tens of standard errors; L_1's expectation is the ELBO, whose gap is KL(q || p), known in closed form.
    for smaller, larger, error in zip(means, means[1:], errors, strict=False):
        assert larger > smaller + 5 * error
    assert means[-1] < exact.mean().item() + 5 * errors[-1]
    gap = 2 * (0.5 * (math.exp(1.4) - 1) - 0.7)
    assert means[0] == pytest.approx(exact.mean().item() - gap, abs=5 * errors[0])


def test_linear_vae_reaches_probabilistic_pca():
    torch.manual_seed(0)
    spec = DataSpec("point", (8,))
    directions = torch.linalg.qr(numbers(8, 3, seed=1))[0].T * torch.tensor([[3.0], [1.8], [1.0]])
    x = numbers(400, 3) @ directions + 0.5 * numbers(400, 8, seed=2)
    eigenvalues, _ = torch.linalg.eigh(torch.cov(x.T, correction=0).double())
    rest, kept = eigenvalues[:5].mean(), eigenvalues[5:]
    # Tipping and Bishop 1999, equation 3.9: the maximum of the average log-likelihood with 3 components
    best = -0.5 * (8 * math.log(2 * math.pi) + kept.log().sum() + 5 * rest.log() + 8).item()

    model = vae(spec, latent_dim=3, depth=0, sigma="global", draws=4)
    loss, batch = model.players()[0].loss, Batch(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    for step in range(1000):
        optimizer.zero_grad()
        loss(batch, stream(step)).total.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        W, bias = model.decoder.body[0].weight.double(), model.decoder.body[0].bias.double()
        sigma = model.likelihood.log_sigma(W).double().exp()
        marginal = torch.distributions.MultivariateNormal(bias, W @ W.T + sigma**2 * torch.eye(8))
        reached = marginal.log_prob(x.double()).mean().item()
        bound = model.log_prob(x, draws=256).value.mean().item()
    assert best * 1.005 <= reached <= best + 1e-6
    assert best * 1.005 <= bound <= best + 0.01  # the bound's own draws


def test_kl_is_torchs():
    mean, log_sigma = numbers(6, 4), numbers(6, 4, seed=1)
    q = torch.distributions.Normal(mean, log_sigma.exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_sigma), expected)


class Quadratic:
    """log p(x | z) = -(z - x)^2 / 2 per dimension: E_q is -((mean - x)^2 + sigma^2) / 2."""

    noise_size, unit_name = 1, None

    def __init__(self, mean: torch.Tensor, log_sigma: torch.Tensor):
        self.mean, self.log_sigma = mean, log_sigma

    def weigh(self, x, noise, embedding, closed=False):
        assert closed
        z = self.mean + self.log_sigma.exp() * noise
        return -0.5 * (z - x[:, None]).square().sum(-1), kl_to_standard_normal(self.mean[None], self.log_sigma[None])[None]


def test_reparametrised_gradient_of_a_quadratic():
    mean, log_sigma = torch.tensor([0.7], requires_grad=True), torch.tensor([-0.3], requires_grad=True)
    x, beta = torch.full((1, 1), 2.0), 1.7
    loss = Elbo(beta=beta, draws=400_000)(Quadratic(mean, log_sigma), x, stream())
    loss.total.backward()
    variance = math.exp(-0.6)
    # five standard errors of 400 000 draws are below 0.01
    assert mean.grad.item() == pytest.approx((0.7 - 2.0) + beta * 0.7, abs=0.01)
    assert log_sigma.grad.item() == pytest.approx(variance + beta * (variance - 1), abs=0.01)


def test_gradient_is_the_finite_difference():
    torch.manual_seed(0)
    model = VAE(POINTS, latent_dim=2, width=6, depth=1).double()
    batch = Batch(numbers(4, 5).double())
    parameter = model.encoder.body[0].weight
    model.loss(batch, stream()).total.backward()
    with torch.no_grad():
        parameter[1, 2] += 1e-6
        above = model.loss(batch, stream()).total.item()
        parameter[1, 2] -= 2e-6
        below = model.loss(batch, stream()).total.item()
    assert parameter.grad[1, 2].item() == pytest.approx((above - below) / 2e-6, rel=1e-5)


def test_coefficients_enter_as_the_formula_says():
    torch.manual_seed(0)
    model, batch = vae(IMAGES, latent_dim=3, width=16), Batch(levels(6))
    losses = {beta: Elbo(beta=beta)(model, batch.x, stream()) for beta in (0.0, 1.0, 4.0)}
    kl, reconstruction = losses[1.0].terms["kl"], losses[1.0].terms["reconstruction"]
    for beta, loss in losses.items():
        torch.testing.assert_close(loss.total, beta * kl - reconstruction)
        torch.testing.assert_close(loss.terms["elbo"], reconstruction - kl)
    assert not torch.equal(Elbo(draws=2)(model, batch.x, stream()).total, losses[1.0].total)
    # K draws are the mean of K losses, up to the noise: the same 3 draws, given row by row
    noise = stream().randn(6, 3, 3)
    weights = log_weights(model, batch.x, noise)
    mean, log_sigma = Diagonal.read(model.posterior, model.infer(batch.x, None))
    z = mean[:, None] + log_sigma.exp()[:, None] * noise
    each = torch.stack([model.log_likelihood(batch.x, z[:, k], None) for k in range(3)], 1)
    torch.testing.assert_close(-Elbo(beta=0, draws=3)(model, batch.x, stream()).total, each.mean())
    iwae = torch.logsumexp(weights, 1).mean() - math.log(3)
    torch.testing.assert_close(-ImportanceWeighted(3)(model, batch.x, stream()).total, iwae)


def test_logged_terms_are_in_the_datas_units():
    model, batch = vae(IMAGES, latent_dim=3, width=16), Batch(levels(6))
    loss = model.loss(batch, stream())
    torch.testing.assert_close(loss.terms["elbo"] - 64 * math.log(2 / 16), -loss.total.detach())


def test_warm_up_raises_beta_with_the_steps_of_the_run():
    """Negative loss = reconstruction - beta min(1, step / warm-up) KL; validation is under the full beta."""
    model = vae(IMAGES, width=16, beta=2.0, beta_warmup=4)
    x = levels(6)
    for step, share in ((0, 0.0), (1, 0.25), (4, 1.0), (9, 1.0)):
        loss = model.loss(Batch(x, step=step, progress=0.0), stream())
        shown = loss.terms["reconstruction"] - model.log_det - 2.0 * share * loss.terms["kl"]
        torch.testing.assert_close(-loss.total, shown, rtol=1e-4, atol=1e-2)
    model.eval()
    loss = model.loss(Batch(x, step=0), stream())
    torch.testing.assert_close(
        -loss.total, loss.terms["reconstruction"] - model.log_det - 2.0 * loss.terms["kl"], rtol=1e-4, atol=1e-2
    )


@pytest.mark.parametrize(
    "spec", [IMAGES, CLASSES, POINTS, DataSpec("series", (7, 2)), DataSpec("image", (3, 12, 9), levels=256)]
)
def test_contract(spec):
    torch.manual_seed(0)
    model = vae(spec, latent_dim=3, width=8)
    assert {"samples", "density", "encodes", "decodes"} <= set(capabilities(model))
    with torch.no_grad():
        for sampled in (None, True, False):
            whole = model.sample(6, generator=SampleRng(5), sample_likelihood=sampled)
            part = model.sample(2, generator=SampleRng(5, first=3), sample_likelihood=sampled)
            assert whole.shape == (6, *spec.shape)
            torch.testing.assert_close(whole[3:5], part, rtol=1e-4, atol=1e-5)
        for rows in (1, 9):
            x = whole[:1].expand(rows, *spec.shape)
            condition = torch.zeros(rows, dtype=torch.long) if spec.condition else None
            z = model.encode(x, condition=condition)
            assert z.shape == (rows, 3) and model.decode(z, condition=condition).shape == x.shape
            assert model.log_prob(x, condition=condition).value.shape == (rows,)
            assert model.loss(Batch(x, condition), stream()).total.isfinite()
        assert model.draw_codes(4, generator=1).shape == (4, 3)


def test_log_prob_is_a_function_of_x_whatever_the_batch_and_the_chunk():
    torch.manual_seed(0)
    model, x = vae(IMAGES, width=16), levels(7)
    with torch.no_grad():
        value = model.log_prob(x).value
        torch.testing.assert_close(model.log_prob(x.flip(0)).value.flip(0), value)
        torch.testing.assert_close(model.log_prob(x[2:4]).value, value[2:4])
        for chunk in (1, 50, 130):
            torch.testing.assert_close(model.log_prob(x, chunk=chunk).value, value)
        noise = normals(keys_of(x), 9 * model.latent_dim, 5).view(7, 9, -1)
        expected = torch.logsumexp(log_weights(model, x, noise), 1) - math.log(9)
        torch.testing.assert_close(iwae_bound(model, x, 9, 5), expected)


def test_data_do_not_share_the_error_of_their_draws():
    """With the exact posterior but a wrong sigma, log w is a function of the noise alone: shared draws would be wrong by the
    same for all data, own ones by 1 / sqrt(n) of it. A standard deviation of 30 seeds is known to 13 %."""
    model, x, _ = linear_gaussian(error=0.7)
    with torch.no_grad():
        values = torch.stack([iwae_bound(model, x, 1, seed) for seed in range(30)])
    single = values.var(0).mean().sqrt()
    assert values.mean(1).std() < 1.4 * single / math.sqrt(len(x))


def test_a_probability_estimated_with_one_draw_each_adds_up():
    """All 17 levels of one pixel: sum over x of p(x | z_x) p(z_x) / q(z_x | x) has mean 1; over 40 seeds within 5 errors."""
    spec = DataSpec("image", (1, 1, 1), levels=17)
    model = vae(spec, latent_dim=2, width=16, network="mlp", likelihood="categorical")
    x = torch.linspace(-1, 1, 17).view(17, 1, 1, 1)
    with torch.no_grad():
        sums = torch.stack([(iwae_bound(model, x, 1, seed) + model.log_det).exp().sum() for seed in range(40)])
    assert abs(sums.mean() - 1) < 5 * sums.std() / math.sqrt(40)


def test_the_condition_reaches_encoder_and_decoder():
    torch.manual_seed(0)
    model, x, z = vae(CLASSES, width=16), levels(4), numbers(4, 16)
    zero, one = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)
    assert not torch.allclose(model.decode(z, condition=zero), model.decode(z, condition=one))
    assert not torch.allclose(model.encode(x, condition=zero), model.encode(x, condition=one))
    assert not torch.allclose(model.encode(x, condition=zero), model.encode(x))
    mixed = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():  # each datum keeps its own condition through the draws and the chunks
        expected = torch.where(
            mixed == 0, model.log_prob(x, condition=zero, draws=3).value, model.log_prob(x, condition=one, draws=3).value
        )
        for chunk in (1, 7, 100):
            torch.testing.assert_close(model.log_prob(x, condition=mixed, draws=3, chunk=chunk).value, expected)
        # without one: half the first class, half the second, none of the third
        both = torch.stack([model.log_prob(x, condition=c).value for c in (zero, one)])
        torch.testing.assert_close(model.log_prob(x).value, both.logsumexp(0) - math.log(2))
    model.condition_dropout = 1.0  # all hidden: the classes do not matter
    totals = [model.loss(Batch(x, c), stream()).total for c in (zero, one)]
    assert torch.equal(*totals)


def test_a_trained_conditional_vae_draws_the_class_that_was_asked_for():
    torch.manual_seed(0)
    spec = DataSpec("point", (2,), condition=Condition("class", 3))
    centres, classes = 3 * torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]]), torch.arange(300) % 3
    model = vae(spec, latent_dim=2, width=32, depth=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    batch = Batch(centres[classes] + 0.3 * numbers(300, 2), classes)
    for step in range(300):
        optimizer.zero_grad()
        model.loss(batch, stream(step)).total.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = model.sample(300, condition=classes, generator=0)
        asked = torch.cdist(drawn, centres).argmin(1) == classes
        assert asked.float().mean() > 0.97
        free = torch.cdist(model.sample(300, generator=0), centres).argmin(1)
    assert (free.bincount(minlength=3) > 60).all()  # uniform where no frequencies are known


def test_attributes_and_frequencies():
    model = vae(CLASSES, width=8)
    from pushforward.nets.conditioning import draw_condition

    drawn = draw_condition(CLASSES.condition, 400, SampleRng(0)).bincount(minlength=3)
    assert drawn[2] == 0 and drawn[:2].min() > 150
    spec = DataSpec("image", (1, 8, 8), levels=17, condition=Condition("attributes", 4, frequencies=(0.0, 1.0, 0.5, 0.5)))
    model = vae(spec, width=8)
    assert model.sample(5, generator=0).shape == (5, 1, 8, 8)
    assert model.loss(Batch(levels(5), torch.ones(5, 4)), stream()).total.isfinite()
    drawn = draw_condition(spec.condition, 50, SampleRng(0))
    assert drawn[:, 0].sum() == 0 and drawn[:, 1].sum() == 50


def test_without_its_attributes_a_density_is_the_mixture_that_is_drawn():
    """The two pixels are the two attributes, whose rates are 0.9 and 0.5: images have probabilities 0.05, 0.05, 0.45, 0.45."""
    spec = DataSpec("image", (1, 1, 2), levels=2, condition=Condition("attributes", 2, frequencies=(0.9, 0.5)))
    model = vae(spec, latent_dim=1, network="mlp", width=32, depth=1, likelihood="bernoulli")
    sets = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    x, rates = (2 * sets - 1).view(4, 1, 1, 2), torch.tensor([0.05, 0.05, 0.45, 0.45])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(150):
        optimizer.zero_grad()
        model.loss(Batch(x.repeat(8, 1, 1, 1), sets.repeat(8, 1)), stream(step)).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model.log_prob(x).value
        each = torch.stack([model.log_prob(x, condition=a.expand(4, -1)).value for a in sets])
        torch.testing.assert_close(found, (each + rates.log()[:, None]).logsumexp(0))
        torch.testing.assert_close((found + model.log_det).exp(), rates, atol=0.03, rtol=0)
        drawn = model.sample(4000, generator=0, sample_likelihood=True).flatten(1)
    shares = torch.stack([(drawn == row).all(1).float().mean() for row in x.flatten(1)])
    assert (shares - (found + model.log_det).exp()).abs().max() < 0.05  # five errors of 4000 draws are 0.04


def test_many_attributes_are_drawn_and_what_cannot_be_is_asked_for():
    spec = DataSpec("image", (1, 2, 2), levels=2, condition=Condition("attributes", 9))
    model, x = vae(spec, network="mlp", width=8, likelihood="bernoulli"), levels(3, spec)
    with torch.no_grad():
        conditions, rates = mixture(spec.condition)
        each = torch.stack([model.log_prob(x, condition=a.expand(3, -1), draws=2).value for a in conditions])
        torch.testing.assert_close(model.log_prob(x, draws=2).value, each.logsumexp(0) - math.log(64))
    assert conditions.shape == (64, 9) and len(conditions.unique(dim=0)) > 40 and rates.sum() == 1
    spec = DataSpec("point", (5,), columns=POINTS.columns, condition=Condition("vector", 3))
    assert vae(spec, width=8).log_prob(numbers(2, 5)).value.shape == (2,)
    with pytest.raises(UserError, match="give the condition"):
        vae(spec, width=8, condition_dropout=0.0).log_prob(numbers(2, 5))
    for options in ({"draws": 0}, {"chunk": -1}):
        with pytest.raises(UserError, match="at least 1"):
            vae(POINTS, width=8).log_prob(numbers(2, 5), **options)


def test_logged_terms_know_that_a_gap_has_no_scale():
    columns = (Column("a", "number", missing=True, mean=5e4, scale=1e4), Column("b", "number", scale=2.0))
    spec = DataSpec("table", (3,), columns=columns)
    codes = torch.tensor([[math.nan, 1.0], [6e4, 2.0], [math.nan, 0.0]])
    model, made = vae(spec, latent_dim=2, width=8), units(spec)
    expected = made.log_dets(codes).mean()
    for settings in ({}, {"objective": "iwae", "draws": 3}):
        model = vae(spec, latent_dim=2, width=8, **settings)
        loss = model.loss(Batch(made.to_model(codes)), stream())
        torch.testing.assert_close(loss.terms["bound" if settings else "elbo"], expected - loss.total.detach())


def test_dequantise_where_a_density_meets_integers():
    assert not vae(IMAGES).dequantise and vae(IMAGES, likelihood="gaussian").dequantise and not VAE(POINTS).dequantise
    table = DataSpec("table", (2,), columns=(Column("a", "number", integer=True), Column("b", "number")))
    assert VAE(table, likelihood="gaussian").dequantise and not VAE(table).dequantise and VAE(table).mass


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic", "categorical"])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_every_likelihood_learns(likelihood, network):
    torch.manual_seed(0)
    model, batch = vae(IMAGES, likelihood=likelihood, network=network, width=16, latent_dim=4), Batch(levels(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = model.loss(batch, stream()).total.item()
    for step in range(60):
        optimizer.zero_grad()
        model.loss(batch, stream(step)).total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert model.loss(batch, stream()).total.item() < first - 1


def test_autocast_keeps_the_densities_in_single_precision():
    model, batch = vae(IMAGES, width=16), Batch(levels(6))
    full = model.loss(batch, stream()).total
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(batch, stream()).total
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.02, atol=0.5)


def test_mistakes_are_sentences():
    for settings, match in [({"objective": "iwae", "beta": 2.0}, "beta"), ({"draws": 0}, "at least 1")]:
        with pytest.raises(UserError, match=match):
            vae(IMAGES, **settings)
    with pytest.raises(UserError, match="for images"):
        VAE(POINTS, network="conv")
    with pytest.raises(UserError, match="without a condition"):
        VAE(POINTS).sample(2, condition=torch.zeros(2))
    with pytest.raises(UserError, match="one for each"):
        vae(CLASSES).sample(2, condition=torch.zeros(3, dtype=torch.long))


def test_an_mlp_begins_at_the_mean_image():
    """Before the first update the decoder says the data's mean of every code (its hidden layer adds at most +-1 to a logit)."""
    spec = DataSpec("image", (1, 4, 4), levels=256)
    model = vae(spec, latent_dim=2, network="mlp", likelihood="bernoulli")
    start, learner = model.players()
    assert start.update is not None and learner.loss is not None
    x = torch.full((600, 1, 4, 4), -1.0)
    x[:150, :, :, 0], x[:, :, :, 3] = 1.0, 1.0  # a column white in a quarter of them, one always, two never
    with torch.no_grad():
        update = start.update([Batch(x[:100]), Batch(x[100:])], stream(0))
    assert update.finished and model.started
    expected = torch.logit(torch.tensor([0.25, 1e-3, 1e-3, 1 - 1e-3])).repeat(4)
    torch.testing.assert_close(model.decoder.leave.bias, expected)
    logits = model.parameters_of(numbers(50, 2), None).detach()
    assert (logits.flatten(1) - expected).abs().max() < 1
    with torch.no_grad():  # a trained model that is trained further, on other data, keeps what it has
        start.update([Batch(-x)], stream(0))
    torch.testing.assert_close(model.decoder.leave.bias, expected)


def test_only_an_mlp_of_ours_on_images_begins_there():
    image, point = DataSpec("image", (1, 16, 16), levels=256), DataSpec("point", (2,))
    assert [player.name for player in vae(image, likelihood="bernoulli").players()] == ["vae"]  # a conv shares its bias
    assert [player.name for player in vae(point).players()] == ["vae"]
    own = torch.nn.Linear(16, 256)
    given = vae(image, network="mlp", likelihood="bernoulli", decoder=own)
    assert [player.name for player in given.players()] == ["vae"]
