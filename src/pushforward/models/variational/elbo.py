"""The evidence lower bound and its importance-weighted refinement, for any model with a Gaussian posterior.

For q(z | x) = N(mean, diag(sigma^2)) and the prior p(z) = N(0, I), Jensen's inequality gives

    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z))                                            (ELBO)
    log p(x) >= E[log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x)] = L_K,  z_k ~ q                     (IWAE)

with L_1 the ELBO, L_K <= L_{K+1}, and L_K -> log p(x). Draws are reparametrised, z = mean + sigma eps, eps ~ N(0, I), so
that the gradient passes through them.

Sources: Kingma and Welling 2014, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082; Higgins et al. 2017 (beta);
Burda et al. 2016, arXiv:1509.00519 (IWAE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.models.contract import Loss
from pushforward.randomness import Rng


@runtime_checkable
class LatentVariableModel(Protocol):
    """What the bounds ask of a model. `embedding`: of the condition, (B, E) or None."""

    def infer(self, x: Tensor, embedding: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean and log sigma of q(z | x), both (B, d)."""
        ...

    def log_likelihood(self, x: Tensor, z: Tensor, embedding: Tensor | None) -> Tensor:
        """log p(x | z), (B,)."""
        ...


def kl_to_standard_normal(mean: Float[Tensor, "b d"], log_sigma: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """KL(N(mean, sigma^2) || N(0, I)) = sum (mean^2 + sigma^2 - 1) / 2 - log sigma, in nats.

    >>> kl_to_standard_normal(torch.tensor([[3.0]]), torch.tensor([[0.0]]))
    tensor([4.5000])
    """
    return (0.5 * (mean.square() + (2 * log_sigma).exp() - 1) - log_sigma).sum(1)


def _likelihood_of_draws(
    model: LatentVariableModel, x: Tensor, embedding: Tensor | None, mean: Tensor, log_sigma: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """The draws z (B, K, d) made of `noise` (B, K, d), and log p(x | z) of each, (B, K)."""
    rows, draws, _ = noise.shape
    z = mean[:, None] + log_sigma.exp()[:, None] * noise
    beside = None if embedding is None else embedding.repeat_interleave(draws, 0)
    value = model.log_likelihood(x.repeat_interleave(draws, 0), z.flatten(0, 1), beside)
    return z, value.view(rows, draws)


def _log_weights(
    model: LatentVariableModel, x: Tensor, embedding: Tensor | None, mean: Tensor, log_sigma: Tensor, noise: Tensor
) -> Tensor:
    z, likelihood = _likelihood_of_draws(model, x, embedding, mean, log_sigma, noise)
    return likelihood + 0.5 * (noise.square() - z.square()).sum(-1) + log_sigma.sum(1)[:, None]


def log_weights(
    model: LatentVariableModel,
    x: Float[Tensor, "b *shape"],
    noise: Float[Tensor, "b k d"],
    embedding: Float[Tensor, "b e"] | None = None,
) -> Float[Tensor, "b k"]:
    """log p(x | z) + log p(z) - log q(z | x) at z = mean + sigma noise."""
    return _log_weights(model, x, embedding, *model.infer(x, embedding), noise)


@dataclass(frozen=True)
class Elbo:
    """The loss -(E_q[log p(x | z)] - beta KL), the expectation over `draws` draws per datum.

    Terms, in nats per datum: reconstruction (log p(x | z)), kl, elbo (their difference whatever beta is). `log_det` is
    added to the terms that are log-likelihoods, so that they are those of the data in their own units.
    """

    beta: float = 1.0
    draws: int = 1

    def __call__(
        self,
        model: LatentVariableModel,
        x: Float[Tensor, "b *shape"],
        rng: Rng,
        embedding: Float[Tensor, "b e"] | None = None,
        warmth: float = 1.0,
        log_det: float = 0.0,
    ) -> Loss:
        """warmth: a factor on beta, 0 to 1 (1: none)."""
        mean, log_sigma = model.infer(x, embedding)
        noise = rng.randn(len(mean), self.draws, mean.shape[1]).to(mean.dtype)
        _, likelihood = _likelihood_of_draws(model, x, embedding, mean, log_sigma, noise)
        reconstruction, kl = likelihood.mean(), kl_to_standard_normal(mean, log_sigma).mean()
        terms = {"elbo": reconstruction - kl + log_det, "reconstruction": reconstruction + log_det, "kl": kl}
        weight = self.beta * warmth
        return Loss(weight * kl - reconstruction, {name: term.detach() for name, term in terms.items()})


@dataclass(frozen=True)
class ImportanceWeighted:
    """The loss -L_K with K = `draws`: tighter than the ELBO, with a posterior that need only cover, not match."""

    draws: int = 5

    def __call__(
        self,
        model: LatentVariableModel,
        x: Float[Tensor, "b *shape"],
        rng: Rng,
        embedding: Float[Tensor, "b e"] | None = None,
        log_det: float = 0.0,
    ) -> Loss:
        mean, log_sigma = model.infer(x, embedding)
        noise = rng.randn(len(mean), self.draws, mean.shape[1]).to(mean.dtype)
        weights = _log_weights(model, x, embedding, mean, log_sigma, noise)
        bound = log_mean_exp(weights).mean()
        terms = {"bound": bound + log_det, "elbo": weights.mean() + log_det}
        return Loss(-bound, {name: term.detach() for name, term in terms.items()})


def log_mean_exp(x: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """log of the mean of exp(x) over the last axis."""
    return torch.logsumexp(x, -1) - math.log(x.shape[-1])


def iwae_bound(
    model: LatentVariableModel,
    x: Float[Tensor, "b *shape"],
    noise: Float[Tensor, "k d"],
    embedding: Float[Tensor, "b e"] | None = None,
    chunk: int = 1024,
) -> Float[Tensor, " b"]:
    """L_K of each datum, with the K draws of `noise`, which all data share: a function of x that does not depend on its batch.

    chunk: how many z are decoded at a time (memory only).
    """
    draws = len(noise)
    step = max(1, chunk // draws)
    bounds = []
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        beside = None if embedding is None else embedding[start : start + step]
        parts = [log_weights(model, rows, part.expand(len(rows), -1, -1), beside) for part in noise.split(chunk)]
        bounds.append(log_mean_exp(torch.cat(parts, 1)))
    return torch.cat(bounds) if bounds else x.new_zeros(0)
