"""Posteriors: densities against Jacobians and torch, and what a richer one can reach that a diagonal one cannot."""

import math

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Column, DataSpec
from pushforward.errors import UserError
from pushforward.models.variational.posteriors import (
    CONTEXT,
    FLOWS,
    LOG_SIGMA,
    Amortised,
    Diagonal,
    Full,
    InverseAutoregressive,
    posterior,
)
from pushforward.models.variational.vae import VAE
from pushforward.randomness import UpdateRng


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stream(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", ["gaussian", "full", "iaf", *FLOWS])
def test_log_slopes_are_the_jacobians(kind, steps):
    """log |det dz/deps| is the sum of the log slopes, by automatic differentiation."""
    torch.manual_seed(0)
    plain = {"gaussian": Diagonal(4), "full": Full(4), "iaf": InverseAutoregressive(4, steps, 16)}
    q = (plain.get(kind) or Amortised(4, kind, steps)).double()
    with torch.no_grad():  # a flow's own weights start at zero, as a multiple of the identity
        for parameter in q.parameters():
            parameter.add_((0.2 if kind == "iaf" else 0.5) * torch.randn_like(parameter))  # with more its slopes are e^-27
    said, noise = numbers(3, q.outputs), numbers(3, 2, 4, seed=1)
    z, log_slope = q.draw(said, noise)
    assert z.shape == (3, 2, 4) and log_slope.expand_as(z).shape == z.shape
    for row in range(3):
        for k in range(2):
            jacobian = torch.autograd.functional.jacobian(
                lambda e, row=row: q.draw(said[row : row + 1], e[None, None])[0].squeeze(), noise[row, k]
            )
            expected = torch.linalg.slogdet(jacobian)[1]
            torch.testing.assert_close(log_slope.expand_as(z)[row, k].sum(), expected, rtol=1e-9, atol=1e-9)


def test_closed_kls_are_torchs():
    said = numbers(5, 14)
    full = Full(4).double()
    mean, _, lower = full.read(said)
    q, p = (
        torch.distributions.MultivariateNormal(mean, scale_tril=lower),
        torch.distributions.MultivariateNormal(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)),
    )
    torch.testing.assert_close(full.kl(said).sum(1), torch.distributions.kl_divergence(q, p))
    # The mean of log q - log p over draws is the KL: 4 standard errors of 200 000 draws are below 0.02
    noise = numbers(1, 200_000, 4, seed=2)
    z, slope = full.draw(said[:1], noise)
    ratio = (0.5 * (z.square() - noise.square()) - slope).sum(-1)
    assert ratio.mean().item() == pytest.approx(full.kl(said)[0].sum().item(), abs=4 * ratio.std().item() / math.sqrt(2e5))


def test_a_flow_starts_near_its_base_and_its_code_is_where_it_sends_the_mean():
    torch.manual_seed(0)
    flow = InverseAutoregressive(3).double()
    said = numbers(2, flow.outputs)
    z, _ = flow.draw(said, torch.zeros(2, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(flow.mean(said), z[:, 0])
    assert flow.outputs == 6 + CONTEXT and flow.kl(said) is None
    base, slope = flow.base.draw(said[:, :6], numbers(2, 5, 3, seed=1))
    bent, bent_slope = flow.draw(said, numbers(2, 5, 3, seed=1))
    shrunk = 2 * math.log(1 / (1 + math.exp(-4)))  # each of two steps keeps sigmoid(4) of z
    torch.testing.assert_close(bent, base * math.exp(shrunk))
    torch.testing.assert_close(bent_slope, slope.expand_as(base) + shrunk)


@pytest.mark.parametrize("kind", FLOWS)
def test_a_flow_of_few_directions_starts_at_its_base_and_hears_the_encoder(kind):
    torch.manual_seed(0)
    flow = posterior(kind, 3).double()
    said, noise = numbers(2, flow.outputs), numbers(2, 5, 3, seed=1)
    assert flow.outputs == 6 + CONTEXT and flow.kl(said) is None and len(flow.steps) == 8
    base, slope = flow.base.draw(said[:, :6], noise)
    z, log_slope = flow.draw(said, noise)
    torch.testing.assert_close(z, base)
    torch.testing.assert_close(log_slope, slope.expand_as(base))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    z, log_slope = flow.draw(said, noise)
    torch.testing.assert_close(flow.mean(said), flow.draw(said, torch.zeros(2, 1, 3).double())[0][:, 0])
    # Each datum has its own maps, and its draws have the same: one by one they are those of all together.
    for row, k in ((0, 3), (1, 0)):
        alone, alone_slope = flow.draw(said[row : row + 1], noise[row : row + 1, k : k + 1])
        torch.testing.assert_close((alone[0, 0], alone_slope[0, 0]), (z[row, k], log_slope[row, k]))
    other = said.clone()
    other[0, 6:] += 1.0
    moved, _ = flow.draw(other, noise)
    assert (moved[0] - z[0]).abs().min() > 1e-6 and torch.equal(moved[1], z[1])


def energy(z: torch.Tensor) -> torch.Tensor:
    """-log of a posterior up to a constant: the ring of two halves of Rezende and Mohamed (2015, table 1, no. 1)."""
    ring = 0.5 * ((torch.linalg.vector_norm(z, dim=-1) - 2) / 0.4) ** 2
    halves = torch.stack([-0.5 * ((z[..., 0] - 2) / 0.6) ** 2, -0.5 * ((z[..., 0] + 2) / 0.6) ** 2])
    return ring - halves.logsumexp(0)


def test_flows_reach_what_no_gaussian_can():
    """KL(q || p) in nats after 200 updates, the constant by quadrature: two halves are more than one Gaussian is."""
    axis = torch.linspace(-6, 6, 601)
    log_constant = (-energy(torch.cartesian_prod(axis, axis))).logsumexp(0) + 2 * math.log(12 / 600)
    reached = {}
    for kind in ("full", *FLOWS):
        torch.manual_seed(0)
        q = Full(2) if kind == "full" else Amortised(2, kind, 4)
        said = nn.Parameter(0.1 * torch.randn(1, q.outputs))
        optimizer = torch.optim.Adam([said, *q.parameters()], 2e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)

        def divergence(draws: int, seed: int, q=q, said=said) -> torch.Tensor:
            noise = numbers(1, draws, 2, seed=seed).float()
            z, slope = q.draw(said, noise)
            return (-0.5 * noise.square() - 0.5 * math.log(2 * math.pi) - slope).sum(-1).mean() + energy(z).mean()

        for step in range(200):
            optimizer.zero_grad()
            divergence(64, step).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            reached[kind] = (divergence(20_000, 10_000) + log_constant).item()
    assert all(value > -0.02 for value in reached.values()), "a divergence"
    assert all(value < reached["full"] - 1 for kind, value in reached.items() if kind != "full")


def test_a_full_posterior_draws_in_single_precision_under_autocast():
    """z in bfloat16 would be off by 2^-9 of itself, and the density of another draw."""
    torch.manual_seed(0)
    q = Full(20)
    said, noise = numbers(8, q.outputs).float(), numbers(8, 3, 20, seed=1).float()
    plain, _ = q.draw(said, noise)
    with torch.autocast("cpu", torch.bfloat16):
        z, _ = q.draw(said, noise)
    assert z.dtype == torch.float32 and torch.equal(z, plain)


class Rotated(nn.Module):
    """The exact posterior of a linear decoder W, as `Full` is told it: correlated where W's columns are not orthogonal."""

    def __init__(self, W: torch.Tensor, sigma: float, full: bool):
        super().__init__()
        precision = W.T @ W / sigma**2 + torch.eye(W.shape[1], dtype=W.dtype)
        lower = torch.linalg.cholesky(torch.linalg.inv(precision))
        self.matrix = torch.linalg.solve(precision, W.T) / sigma**2
        # of all diagonal Gaussians the one nearest in KL(q || p) has the precision's diagonal
        log_diagonal = lower.diagonal().log() if full else -0.5 * precision.diagonal().log()
        row, column = torch.tril_indices(len(lower), len(lower), -1)
        said = [LOG_SIGMA * torch.atanh(log_diagonal / LOG_SIGMA)] + [lower[row, column]] * full
        self.rest = torch.cat(said)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x @ self.matrix.T
        return torch.cat([mean, self.rest.expand(len(x), -1)], 1)


def test_a_full_covariance_reaches_the_exact_likelihood_where_a_diagonal_one_cannot():
    spec = DataSpec("point", (4,), columns=tuple(Column(str(i), "number") for i in range(4)))
    W, sigma = torch.tensor([[1.0, 0.9], [0.8, 1.1], [-0.5, -0.6], [1.2, 1.0]], dtype=torch.float64), 0.5
    exact = torch.distributions.MultivariateNormal(torch.zeros(4).double(), W @ W.T + sigma**2 * torch.eye(4).double())
    x = exact.sample((50,))
    reached = {}
    for kind in ("gaussian", "full"):
        decoder = nn.Linear(2, 4, bias=False).double()
        decoder.weight.data = W.clone()
        model = VAE(
            spec, latent_dim=2, sigma=sigma, posterior=kind, encoder=Rotated(W, sigma, kind == "full"), decoder=decoder
        ).double()
        with torch.no_grad():
            reached[kind] = model.log_prob(x, draws=1).value
            elbo = -model.loss(Batch(x), stream()).total.item()
        if kind == "full":  # every weight is p(x): one draw gives it without error (sigma is stored in float32)
            torch.testing.assert_close(reached[kind], exact.log_prob(x), rtol=1e-5, atol=1e-5)
        else:
            precision = W.T @ W / sigma**2 + torch.eye(2).double()
            gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()  # KL(q || p), closed form
            assert gap > 0.5
            assert elbo < exact.log_prob(x).mean().item() - gap / 2


@pytest.mark.parametrize("kind", ["full", "iaf"])
def test_richer_posteriors_bend_where_the_diagonal_cannot(kind):
    """x = z_0 + z_1 + small noise: the posterior of z is a thin diagonal band. The decoder is fixed, the encoder learns."""
    spec = DataSpec("point", (1,), columns=(Column("a", "number"),))
    x = numbers(256, 1).float() * math.sqrt(2 + 0.04)
    bounds = {}
    for name in ("gaussian", kind):
        torch.manual_seed(0)
        decoder = nn.Linear(2, 1, bias=False)
        decoder.weight.data.fill_(1.0)
        decoder.weight.requires_grad_(False)
        model = VAE(spec, latent_dim=2, sigma=0.2, width=32, depth=1, posterior=name, draws=4, decoder=decoder)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-2)
        for step in range(400):
            optimizer.zero_grad()
            model.loss(Batch(x), stream(step)).total.backward()
            optimizer.step()
        with torch.no_grad():
            bounds[name] = torch.stack([model.loss(Batch(x), stream(k)).terms["elbo"] for k in range(20)]).mean().item()
    exact = torch.distributions.Normal(0.0, math.sqrt(2.04)).log_prob(x).mean().item()
    # the diagonal's gap at its best: half log of (product of the precision's diagonal / its determinant) = 1.3 nats
    precision = torch.tensor([[26.0, 25.0], [25.0, 26.0]])
    gap = 0.5 * (2 * math.log(26) - torch.logdet(precision).item())
    assert exact - gap - 0.1 < bounds["gaussian"] < exact - gap + 0.03
    assert exact - 0.4 * gap < bounds[kind] < exact + 0.03


def test_unknown_posteriors_are_a_sentence():
    with pytest.raises(UserError, match="posterior = 'planer' was given; did you mean planar"):
        posterior("planer", 2)


@pytest.mark.parametrize("kind", ["gaussian", "full", "iaf", "planar", "radial", "sylvester"])
def test_what_an_encoder_says_in_half_precision_is_understood(kind):
    bent, said = posterior(kind, 3), torch.randn(2, posterior(kind, 3).outputs, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        z, log_slopes = bent.draw(said, torch.randn(2, 4, 3))
    assert z.dtype == torch.float32 and bool(z.isfinite().all() and log_slopes.isfinite().all())


def test_slopes_of_the_inverse_autoregressive_posterior_are_those_of_each_unit():
    """One step takes the units from the last to the first: dz / deps is triangular, with the slopes on its diagonal."""
    torch.manual_seed(0)
    bent = InverseAutoregressive(3, steps=1, width=16).double()
    with torch.no_grad():
        for parameter in bent.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    said, noise = torch.randn(1, bent.outputs, dtype=torch.float64), torch.randn(1, 1, 3, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(lambda noise: bent.draw(said, noise)[0], noise).reshape(3, 3)
    torch.testing.assert_close(slopes.diagonal().abs().log(), bent.draw(said, noise)[1][0, 0], rtol=0, atol=1e-10)
    assert not slopes.tril(-1).any() and slopes.triu(1).any()
