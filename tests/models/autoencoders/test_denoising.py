"""The denoising autoencoder's residual against the exact score of a smoothed mixture."""

import pytest
import torch
from quick import fitted, stream

from pushforward.data.batches import ArraySplit, Batch, Data
from pushforward.data.spec import Column, DataSpec
from pushforward.models.autoencoders.denoising import DenoisingAutoencoder

SPEC = DataSpec("point", (2,), columns=(Column("a", "number"), Column("b", "number")), name="three bumps")
MEANS, SPREAD, NOISE = torch.tensor([[-1.5, 0.0], [1.5, 0.5], [0.0, -1.5]]), 0.3, 0.5


def mixture(n, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    centre = MEANS[torch.randint(3, (n,), generator=generator)]
    return centre + spread * torch.randn(n, 2, generator=generator)


def test_the_residual_is_the_score_of_the_smoothed_data():
    """Alain and Bengio 2014. The mean squared error over points of the smoothed mixture, relative to the score's own mean
    square: measured 0.003; a score with the unsmoothed variance is off by 0.9."""
    data = Data(SPEC, ArraySplit(mixture(20_000, SPREAD, 0)), source={"source": "<array>"})
    model = fitted(
        DenoisingAutoencoder, data, noise=NOISE, latent_dim=16, width=128, codes="gaussian", steps=800, batch_size=512
    )
    variance = SPREAD**2 + NOISE**2
    x = mixture(4000, variance**0.5, 1).requires_grad_()
    log_density = torch.logsumexp(-(x[:, None] - MEANS).square().sum(2) / (2 * variance), 1)
    (score,) = torch.autograd.grad(log_density.sum(), x)
    with torch.no_grad():
        error = model.score_at_noise(x) - score
    assert float(error.square().sum() / score.square().sum()) < 0.01


def test_of_a_gaussian_the_best_linear_autoencoder_has_the_exact_score():
    """r(y) = s^2 / (s^2 + sigma^2) y is the posterior mean of N(0, s^2), so (r(y) - y) / sigma^2 = -y / (s^2 + sigma^2)."""
    model = DenoisingAutoencoder(SPEC, noise=NOISE, network="linear", latent_dim=2).double()
    for part, scale in ((model.encoder.body[0], 4.0 / (4.0 + NOISE**2)), (model.decoder.body[0], 1.0)):
        part.weight.data, part.bias.data = scale * torch.eye(2).double(), torch.zeros(2).double()
    y = torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(model.score_at_noise(y), -y / (4.0 + NOISE**2))


def test_the_target_is_the_clean_datum():
    """A decoder that gives c whatever it is told has the loss E |c - x|^2, without the noise; one that copies has 2 sigma^2."""
    model = DenoisingAutoencoder(SPEC, noise=NOISE, network="linear", latent_dim=2)
    x = mixture(20_000, SPREAD, 2)
    model.decoder.body[0].weight.data.zero_()
    model.decoder.body[0].bias.data = torch.tensor([0.5, 0.0])
    constant = float(model.loss(Batch(x), stream()).total.detach())
    assert constant == pytest.approx(float((x - torch.tensor([0.5, 0.0])).square().sum(1).mean()), rel=1e-5)
    for part in (model.encoder.body[0], model.decoder.body[0]):
        part.weight.data, part.bias.data = torch.eye(2), torch.zeros(2)
    copied = float(model.loss(Batch(x), stream()).total.detach())
    assert copied == pytest.approx(2 * NOISE**2, rel=0.05)  # 5 standard errors are 0.035
