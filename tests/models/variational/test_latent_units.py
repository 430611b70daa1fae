"""Free bits, the diagnosis of collapse, black and white images drawn anew, and conditions of every kind."""

import math

import numpy as np
import pytest
import torch

from pushforward.data.batches import Batch
from pushforward.data.loading import load_data
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.distributions.likelihoods import fixed_binary, keys_of
from pushforward.errors import UserError
from pushforward.evaluation.health import unused_codes
from pushforward.models.variational.elbo import Elbo
from pushforward.models.variational.posteriors import LOG_SIGMA
from pushforward.models.variational.vae import VAE
from pushforward.randomness import UpdateRng

DIGITS = DataSpec("image", (1, 8, 8), levels=17)
POINTS = DataSpec("point", (3,), columns=tuple(Column(str(i), "number") for i in range(3)))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def trained(model: VAE, batch: Batch, steps: int, rate: float = 3e-3) -> VAE:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(batch, stream(step)).total.backward()
        optimizer.step()
    return model.eval()


def grey(rows: int, seed: int = 0) -> torch.Tensor:
    codes = torch.randint(0, 17, (rows, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return 2 * codes / 16 - 1


def test_free_bits_are_paid_by_unit():
    torch.manual_seed(0)
    model, x = VAE(POINTS, latent_dim=3, width=16), numbers(50, 3)
    kl = model.posterior.kl(model.infer(x, None)).mean(0)
    free = kl.sort().values[1].item()  # one unit below, one at, one above
    plain, bits = (Elbo(free_bits=value)(model, x, stream()) for value in (0.0, free))
    torch.testing.assert_close(bits.total - plain.total, (free - kl).clamp(min=0).sum())
    assert torch.equal(bits.terms["elbo"], plain.terms["elbo"])  # what is shown is a bound all the same
    assert plain.terms["active_units"] == (kl > 0.01).sum()
    torch.testing.assert_close(plain.terms["kl_per_unit"], kl.mean())


def test_a_unit_that_says_little_is_active_and_one_that_says_nothing_is_not():
    """Posteriors N(0, 0.5^2), N(0.2 sign, 1), N(0, 1): the first two units say 0.32 and 0.02 nats, the second moves."""
    torch.manual_seed(0)
    model, x = VAE(POINTS, latent_dim=3, width=16), numbers(200, 3)

    class Said(torch.nn.Module):
        def forward(self, x):
            zero = torch.zeros(len(x))
            log_sigma = torch.full((len(x),), LOG_SIGMA * math.atanh(math.log(0.5) / LOG_SIGMA))
            return torch.stack([zero, 0.2 * x[:, 0].sign(), zero, log_sigma, zero, zero], 1)

    model.encoder = Said()
    told = model.diagnose(x)
    assert told["active_units"] == 2 and told["moving_units"] == 1
    assert told["kl_of_unit_0"] == pytest.approx(0.5 * (0.25 - 1) + math.log(2), abs=1e-4)
    assert told["kl_of_unit_1"] == pytest.approx(0.02, abs=1e-4)


def test_a_collapsed_model_is_told_and_a_working_one_is_not():
    """Two informative directions, four units, at least two in use: under a KL that costs far too much none says anything."""
    x = 2 * numbers(300, 2) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]) + 0.1 * numbers(300, 3, seed=1)
    told = {}
    for beta in (1000.0, 1.0):
        torch.manual_seed(0)
        model = trained(VAE(POINTS, latent_dim=4, width=32, depth=1, beta=beta, sigma=0.1), Batch(x), 400)
        told[beta] = model.diagnose(x)
    assert told[1000.0]["active_units"] == 0 and told[1000.0]["kl_per_unit"] < 0.01
    assert any("collapse" in sentence for sentence in unused_codes(told[1000.0]))
    assert told[1.0]["active_units"] >= 2 and told[1.0]["units"] == 4
    assert unused_codes(told[1.0]) == []
    by_unit = [value for name, value in told[1.0].items() if name.startswith("kl_of_unit_")]
    assert sum(by_unit) == pytest.approx(told[1.0]["kl"], rel=1e-5) and by_unit == sorted(by_unit, reverse=True)
    assert sum(value > 1 for value in by_unit) >= 2


@pytest.mark.parametrize("posterior", ["full", "iaf"])
def test_other_posteriors_are_diagnosed_too(posterior):
    torch.manual_seed(0)
    model = VAE(POINTS, latent_dim=4, width=16, posterior=posterior)
    told = model.diagnose(numbers(40, 3))
    assert told["units"] == 4 and math.isfinite(told["kl"])


def test_black_and_white_images_are_drawn_anew_and_evaluated_on_fixed_ones():
    torch.manual_seed(0)
    model = VAE(DIGITS, latent_dim=3, width=16, likelihood="bernoulli", binarise=True, dropout=0.0)
    x = grey(6)
    assert model.binarised and model.mass and not model.dequantise
    fixed = fixed_binary(x)
    assert set(fixed.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(fixed_binary(x.flip(0)).flip(0), fixed)  # whatever the batch
    same = x[:1].expand(2, -1, -1, -1)
    assert torch.equal(*fixed_binary(same))
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(x[2:4]).value, model.log_prob(x).value[2:4])
        # the loss is that of some binary image, so it differs from draw to draw, and from that of the grey levels
        assert model.loss(Batch(x), stream(0)).total != model.loss(Batch(x), stream(1)).total
        black = torch.where(numbers(6, 1, 8, 8) > 0, 1.0, -1.0)
        model.binarise = False
        whole = model.loss(Batch(black), stream(0)).total.item()
        assert math.isfinite(whole)


def test_fixed_images_have_the_frequencies_of_the_grey_ones():
    """A level of 0.3 is white in 30 % of 64 000 pixels of images that differ: five standard errors are 0.009."""
    x = torch.full((1000, 1, 8, 8), 2 * 0.3 - 1)
    x[:, 0, 0, 0] = torch.linspace(-1, 1, 1000)  # so that no two images are the same
    white = (fixed_binary(x)[:, 0, 1:] > 0).float()
    assert white.mean().item() == pytest.approx(0.3, abs=0.009)
    means = white.mean(0)  # by place: images do not share their draws
    assert (means - 0.3).abs().max() < 5 * math.sqrt(0.21 / 1000)


def test_mistakes_are_sentences():
    with pytest.raises(UserError, match="bernoulli"):
        VAE(DIGITS, binarise=True)
    with pytest.raises(UserError, match="free_bits"):
        VAE(DIGITS, objective="iwae", free_bits=1.0)
    with pytest.raises(UserError, match="at least 0"):
        VAE(DIGITS, free_bits=-1.0)
    with pytest.raises(UserError, match="from 0 to 255"):
        VAE(DIGITS, likelihood="bernoulli").log_prob(torch.linspace(0, 255, 64).reshape(1, 1, 8, 8))
    with pytest.raises(UserError, match="for images"):
        VAE(POINTS, likelihood="bernoulli")


def test_attributes_do_what_they_say():
    """Three attributes, each moving a number of the datum: those asked for are seen in samples, on their own."""
    spec = DataSpec("point", (3,), condition=Condition("attributes", 3, names=("a", "b", "c"), frequencies=(0.5, 0.5, 0.5)))
    asked = (numbers(600, 3, seed=5) > 0).float()
    x = 2 * asked - 1 + 0.2 * numbers(600, 3)
    torch.manual_seed(0)
    model = trained(VAE(spec, latent_dim=2, width=32, depth=1), Batch(x, asked), 300, 5e-3)
    with torch.no_grad():
        drawn = model.sample(600, condition=asked, generator=0)
        assert ((drawn > 0) == (asked > 0)).float().mean() > 0.97
        z = model.encode(x, condition=asked)
        turned = asked.clone()
        turned[:, 1] = 1 - turned[:, 1]
        change = model.decode(z, condition=turned) - model.decode(z, condition=asked)
    assert (change[:, 1] * (2 * turned[:, 1] - 1) > 1.5).float().mean() > 0.97
    assert change[:, [0, 2]].abs().mean() < 0.3


def test_a_paired_image_as_condition():
    """The datum is its condition with black and white exchanged: samples follow it, and it cannot be drawn at random."""
    spec = DataSpec("image", (1, 8, 8), levels=17, condition=Condition("image", 64, shape=(1, 8, 8), levels=17))
    which = torch.arange(128) % 2
    pair = torch.where(which[:, None, None, None] > 0, 1.0, -1.0) * torch.linspace(-1, 1, 8).expand(128, 1, 8, 8)
    torch.manual_seed(0)
    model = trained(VAE(spec, latent_dim=2, width=32, depth=1, network="mlp", dropout=0.0), Batch(-pair, pair), 150)
    with torch.no_grad():
        drawn = model.sample(128, condition=pair, generator=0)
        assert ((drawn * -pair).flatten(1).sum(1) > 0).float().mean() > 0.97
        assert model.log_prob(-pair[:3], condition=pair[:3]).value.shape == (3,)
    with pytest.raises(UserError, match="cannot be drawn"):
        model.sample(2, generator=0)


def test_a_classifier_recovers_the_digit_that_was_asked_for():
    from sklearn.svm import SVC

    data = load_data("digits")
    indices = torch.arange(len(data.train))
    codes, labels = data.train.fetch(indices)
    x = data.units.to_model(codes)
    torch.manual_seed(0)
    model = VAE(data.spec, latent_dim=8, width=128)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(400):
        rows = torch.randint(0, len(x), (128,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.loss(Batch(x[rows], labels[rows]), stream(step)).total.backward()
        optimizer.step()
    model.eval()
    asked = torch.arange(300) % 10
    with torch.no_grad():
        drawn = model.sample(300, condition=asked, generator=0)
    classifier = SVC(gamma=0.02).fit(x.flatten(1).numpy(), labels.numpy())
    found = classifier.predict(drawn.flatten(1).numpy())
    assert np.mean(found == asked.numpy()) >= 0.9


def test_data_that_differ_have_different_keys():
    """Also those of few values: all 4x4 black and white images, all rows of a one-hot table of five columns, mirror images."""
    every = (torch.arange(2**16)[:, None] >> torch.arange(16) & 1).float() * 2 - 1
    assert len(keys_of(every).unique()) == 2**16
    choices = torch.cartesian_prod(*[torch.arange(4)] * 5)
    table = torch.nn.functional.one_hot(choices, 4).flatten(1).float() - 0.5
    assert len(keys_of(table).unique()) == 4**5
    x = numbers(50, 12)
    assert len(torch.cat([keys_of(x), keys_of(x.flip(1))]).unique()) == 100


def test_a_warm_up_is_over_by_half_of_the_run():
    torch.manual_seed(0)
    model, x = VAE(POINTS, latent_dim=3, width=16, beta_warmup=1000), numbers(50, 3)
    cold, half, warm = (model.loss(Batch(x, step=0, progress=p), stream()).total for p in (0.0, 0.25, 0.5))
    late = model.loss(Batch(x, step=1000), stream()).total
    torch.testing.assert_close(half, (cold + warm) / 2)
    torch.testing.assert_close(warm, late)
    assert warm > cold
