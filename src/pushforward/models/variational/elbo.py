"""The evidence lower bound and its importance-weighted refinement, for any model whose posterior is drawn from noise.

For a prior p(z) and any q(z | x), Jensen's inequality gives

    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || p(z))                                            (ELBO)
    log p(x) >= E[log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x)] = L_K,  z_k ~ q                     (IWAE)

with L_1 the ELBO, L_K <= L_{K+1}, and L_K -> log p(x). Draws are reparametrised, a function of noise eps ~ N(0, I), so that
the gradient passes through them. The KL is a sum over units (latent dimensions, or levels of a hierarchy); with free bits,
none pays for less than lambda nats, on average over the batch:

    E_q[log p(x | z)] - sum_j max(lambda, mean over x of KL_j).

Sources: Kingma and Welling 2014, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082; Higgins et al. 2017 (beta);
Burda et al. 2016, arXiv:1509.00519 (IWAE); Kingma, Salimans et al. 2016, arXiv:1606.04934 (free bits).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.distributions.likelihoods import keys_of
from pushforward.errors import UserError
from pushforward.models.contract import Loss
from pushforward.randomness import Rng, normals

WEAK = 0.01  # nats on average over data: a unit with less says nothing


@runtime_checkable  # the tests check types as they run
class LatentVariableModel(Protocol):
    """What the bounds ask of a model. `noise_size`: numbers of noise a draw of z takes. `unit_name`: what a unit is called in
    the log, where the KL of each is to be told there."""

    noise_size: int
    unit_name: str | None

    def weigh(self, x: Tensor, noise: Tensor, embedding: Tensor | None, closed: bool = False) -> tuple[Tensor, Tensor]:
        """Draws z from `noise` (B, K, noise_size); gives log p(x | z), (B, K), and log q(z | x) - log p(z) by unit, (B, K, U).

        closed: instead of the latter its mean under q, where that is known (then perhaps (B, 1, U)). embedding: of the
        condition, (B, E) or None.
        """
        ...


def log_weights(
    model: LatentVariableModel,
    x: Float[Tensor, "b *shape"],
    noise: Float[Tensor, "b k d"],
    embedding: Float[Tensor, "b e"] | None = None,
) -> Float[Tensor, "b k"]:
    """log p(x | z) + log p(z) - log q(z | x) for the draws that `noise` makes."""
    likelihood, ratio = model.weigh(x, noise, embedding)
    return likelihood - ratio.sum(-1)


@dataclass(frozen=True)
class Elbo:
    """The loss -(E_q[log p(x | z)] - beta KL), the expectation over `draws` draws per datum.

    free_bits: nats that each unit may use without paying for them, on average over the data that the loss sees at a time: with
    micro-batches or several processes each has its own floor, and their mean is at least that of the whole batch. Terms, in
    nats per datum: reconstruction (log p(x | z)), kl, elbo (their difference whatever beta and free_bits are), and those of
    `use`. `log_det` (its mean over the data) is added to the
    terms that are log-likelihoods, so that they are those of the data in their own units.
    """

    beta: float = 1.0
    draws: int = 1
    free_bits: float = 0.0

    def __call__(
        self,
        model: LatentVariableModel,
        x: Float[Tensor, "b *shape"],
        rng: Rng,
        embedding: Float[Tensor, "b e"] | None = None,
        warmth: float = 1.0,
        log_det: float | Tensor = 0.0,
    ) -> Loss:
        """warmth: a factor on beta, 0 to 1 (1: none)."""
        noise = rng.randn(len(x), self.draws, model.noise_size).to(x.dtype)
        likelihood, ratio = model.weigh(x, noise, embedding, closed=True)
        reconstruction, of_units = likelihood.mean(), ratio.mean((0, 1))
        kl = of_units.sum()
        paid = of_units.clamp(min=self.free_bits).sum() if self.free_bits else kl
        with torch.no_grad():
            elbo = reconstruction - kl + log_det
            terms = {"elbo": elbo, "reconstruction": reconstruction + log_det, "kl": kl.detach(), **use(model, of_units)}
        return Loss(self.beta * warmth * paid - reconstruction, terms)


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
        warmth: float = 1.0,
        log_det: float | Tensor = 0.0,
    ) -> Loss:
        """warmth: always 1, the bound has no KL to weigh."""
        noise = rng.randn(len(x), self.draws, model.noise_size).to(x.dtype)
        likelihood, ratio = model.weigh(x, noise, embedding)
        weights = likelihood - ratio.sum(-1)
        bound = log_mean_exp(weights).mean()
        with torch.no_grad():
            terms = {"bound": bound + log_det, "elbo": weights.mean() + log_det, **use(model, ratio.mean((0, 1)))}
        return Loss(-bound, terms)


def use(model: LatentVariableModel, of_units: Float[Tensor, " u"]) -> dict[str, Tensor]:
    """How the units are used in a batch, from the KL of each: active_units, those with more than 0.01 nats, kl_per_unit, their
    mean and, of a model that names its units, each by itself."""
    terms = {"active_units": (of_units > WEAK).sum().to(of_units.dtype), "kl_per_unit": of_units.mean()}
    if model.unit_name is not None:
        terms |= {f"kl_{model.unit_name}_{i + 1}": value for i, value in enumerate(of_units.unbind())}
    return terms


def objective(name: str, beta: float, draws: int, beta_warmup: int, free_bits: float) -> Elbo | ImportanceWeighted:
    """The loss that the options of a model ask for. Raises UserError where they contradict each other."""
    if draws < 1:
        raise UserError(f"draws is at least 1, not {draws}.")
    if free_bits < 0 or beta < 0:
        raise UserError(f"beta and free_bits are at least 0, not {beta} and {free_bits}.")
    if name == "elbo":
        return Elbo(beta, draws, free_bits)
    if name != "iwae":
        raise UserError(f"objective is elbo or iwae, not {name!r}.")
    if beta != 1.0 or beta_warmup or free_bits:
        raise UserError(
            "beta, beta_warmup and free_bits weigh the KL of objective='elbo'; the importance-weighted bound has none."
        )
    return ImportanceWeighted(draws)


def log_mean_exp(x: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """log of the mean of exp(x) over the last axis."""
    return torch.logsumexp(x, -1) - math.log(x.shape[-1])


def iwae_bound(
    model: LatentVariableModel,
    x: Float[Tensor, "b *shape"],
    draws: int,
    seed: int,
    embedding: Float[Tensor, "b e"] | None = None,
    chunk: int = 1024,
) -> Float[Tensor, " b"]:
    """L_K of each datum with K = `draws` draws of its own, which are a function of (seed, x): so is the bound, whatever is
    beside x in its batch, and the error of a mean over data falls with their number as if they were drawn anew.

    chunk: how many z are decoded at a time (memory only).
    """
    step, keys = max(1, chunk // draws), keys_of(x)
    # all at once: small pieces kept among large ones that come and go would hold on to their memory
    bounds = torch.empty(len(x), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        beside = None if embedding is None else embedding[rows]
        noise = normals(keys[rows], draws * model.noise_size, seed).unflatten(1, (draws, model.noise_size)).to(x.dtype)
        parts = [log_weights(model, x[rows], part, beside) for part in noise.split(chunk, 1)]
        bounds[rows] = log_mean_exp(torch.cat(parts, 1)).to(bounds)
    return bounds


def use_of_units(
    model: LatentVariableModel, x: Float[Tensor, "b *shape"], rng: Rng, embedding: Float[Tensor, "b e"] | None, draws: int
) -> Float[Tensor, " u"]:
    """The KL of each unit in nats, on average over x (in closed form, or over `draws` draws)."""
    noise = rng.randn(len(x), draws, model.noise_size).to(x.dtype)
    return model.weigh(x, noise, embedding, closed=True)[1].mean((0, 1))
