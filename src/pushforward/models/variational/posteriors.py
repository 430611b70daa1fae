"""Posteriors q(z | x) that an encoder may speak of: z as a function of noise eps ~ N(0, I), with its density.

    gaussian    z = mean + sigma eps                                              the KL to N(0, I) in closed form
    full        z = mean + L eps, L lower triangular with positive diagonal       likewise
    iaf         z_0 = mean + sigma eps, then T times                              by Monte Carlo
                z_t = s_t z_{t-1} + (1 - s_t) m_t,   [m_t, s_t] = masked MLP(z_{t-1}, h),   s_t = sigmoid(.)
    planar      z_0 = mean + sigma eps, then T times                              likewise
                z_t = z_{t-1} + u_t tanh(w_t.z_{t-1} + b_t),   [w_t, u_t, b_t] linear in h
    radial      drawn to points or pushed from them,  sylvester    planar in several directions at once (bijections/planar.py)

with h what the encoder says beside mean and sigma. log q(z | x) = log N(eps; 0, I) - log |det dz / deps|. In the first three
the Jacobian is triangular up to an order of the units (a masked MLP's t-th is the reverse of the one before), so its log is a
sum over them, and so is log q - log p(z): that is the KL "per unit" (exact in sum, and each by itself where p factorises). Of
the others the determinant alone is known: each unit has an equal share of its log, and their KLs are exact in sum only.

Sources: Kingma and Welling 2014, arXiv:1312.6114; Kingma, Salimans et al. 2016, "Improved variational inference with inverse
autoregressive flow", arXiv:1606.04934; Rezende and Mohamed 2015, arXiv:1505.05770 (planar, radial); van den Berg et al. 2018,
arXiv:1803.05649 (Sylvester).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.autoregressive import Gated, MaskedAutoregressive
from pushforward.bijections.base import Bijection
from pushforward.bijections.planar import Planar, Radial, Sylvester
from pushforward.distributions.likelihoods import soft_clamp, wide
from pushforward.errors import UserError, nearest

Name = Literal["gaussian", "full", "iaf", "planar", "radial", "sylvester"]

LOG_SIGMA = 8.0  # the posterior's log sigma stays within +-8
CONTEXT = 32  # numbers of h
STEPS = 8  # of planar, radial and Sylvester flows
DIRECTIONS = 4  # of a Sylvester step, or as many as there are units


def kl_to_standard_normal(mean: Float[Tensor, "b d"], log_sigma: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """KL(N(mean, sigma^2) || N(0, 1)) = (mean^2 + sigma^2 - 1) / 2 - log sigma of each unit, in nats.

    >>> kl_to_standard_normal(torch.tensor([[3.0]]), torch.tensor([[0.0]]))
    tensor([[4.5000]])
    """
    return 0.5 * (mean.square() + (2 * log_sigma).exp() - 1) - log_sigma


class Posterior(nn.Module):
    """What they have in common. `outputs`: the numbers that they ask of the encoder; `said` (B, outputs) is what it said."""

    outputs: int

    def mean(self, said: Float[Tensor, "b o"]) -> Float[Tensor, "b d"]:
        """The code of x: the mean (of a flow: where it sends the mean of its base)."""
        raise NotImplementedError

    def draw(self, said: Float[Tensor, "b o"], noise: Float[Tensor, "b k d"]) -> tuple[Tensor, Tensor]:
        """z (B, K, d), and the log of the Jacobian's diagonal, (B, 1 or K, d): shares of log |det| where there is none."""
        raise NotImplementedError

    def kl(self, said: Float[Tensor, "b o"]) -> Float[Tensor, "b d"] | None:
        """The KL to N(0, I) by unit, where it is known in closed form."""
        raise NotImplementedError


class Diagonal(Posterior):
    """N(mean, diag(sigma^2))."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.outputs = 2 * latent_dim

    def read(self, said: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sigma = wide(said).chunk(2, 1)
        return mean, soft_clamp(log_sigma, -LOG_SIGMA, LOG_SIGMA)

    def mean(self, said: Float[Tensor, "b o"]) -> Float[Tensor, "b d"]:
        return self.read(said)[0]

    def draw(self, said: Float[Tensor, "b o"], noise: Float[Tensor, "b k d"]) -> tuple[Tensor, Tensor]:
        mean, log_sigma = self.read(said)
        return mean[:, None] + log_sigma.exp()[:, None] * noise, log_sigma[:, None]

    def kl(self, said: Float[Tensor, "b o"]) -> Float[Tensor, "b d"] | None:
        return kl_to_standard_normal(*self.read(said))


class Full(Posterior):
    """N(mean, L L^T): units that depend on each other, as the posterior of a linear decoder does."""

    below: Tensor

    def __init__(self, latent_dim: int):
        super().__init__()
        self.size = latent_dim
        self.outputs = 2 * latent_dim + latent_dim * (latent_dim - 1) // 2
        self.register_buffer("below", torch.tril_indices(latent_dim, latent_dim, -1), persistent=False)

    def read(self, said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean, the log of L's diagonal, and L."""
        d, said = self.size, wide(said)
        log_diagonal = soft_clamp(said[:, d : 2 * d], -LOG_SIGMA, LOG_SIGMA)
        lower = torch.diag_embed(log_diagonal.exp())
        row, column = self.below.unbind(0)
        return said[:, :d], log_diagonal, lower.index_put((torch.arange(len(said))[:, None], row, column), said[:, 2 * d :])

    def mean(self, said: Float[Tensor, "b o"]) -> Float[Tensor, "b d"]:
        return wide(said[:, : self.size])

    def draw(self, said: Float[Tensor, "b o"], noise: Float[Tensor, "b k d"]) -> tuple[Tensor, Tensor]:
        mean, log_diagonal, lower = self.read(said)
        with torch.autocast(noise.device.type, enabled=False):  # z in half precision would not be the draw of this density
            return mean[:, None] + noise.to(lower.dtype) @ lower.mT, log_diagonal[:, None]

    def kl(self, said: Float[Tensor, "b o"]) -> Float[Tensor, "b d"] | None:
        mean, log_diagonal, lower = self.read(said)
        return 0.5 * (mean.square() + lower.square().sum(2) - 1) - log_diagonal


class Bent(Posterior):
    """A diagonal Gaussian bent by steps that are told h: abstract."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.base = Diagonal(latent_dim)
        self.outputs = self.base.outputs + CONTEXT

    def begin(self, said: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws of the Gaussian and their log slopes (B, K, d), and h beside each (B * K, 32)."""
        said, context = said.split([self.base.outputs, CONTEXT], 1)
        z, log_slope = self.base.draw(said, noise)
        return z, log_slope.expand_as(z), context.repeat_interleave(noise.shape[1], 0)

    def mean(self, said: Float[Tensor, "b o"]) -> Float[Tensor, "b d"]:
        noise = torch.zeros(len(said), 1, self.base.outputs // 2, device=said.device, dtype=wide(said).dtype)
        return self.draw(said, noise)[0][:, 0]

    def kl(self, said: Float[Tensor, "b o"]) -> Float[Tensor, "b d"] | None:
        return None


class InverseAutoregressive(Bent):
    """A Gaussian bent by `steps` gated inverse autoregressive steps; each starts at z_t = 0.98 z_{t-1}, with shifts of 0."""

    def __init__(self, latent_dim: int, steps: int = 2, width: int = 128):
        super().__init__(latent_dim)
        hidden = (max(width, latent_dim),)
        self.steps = nn.ModuleList(MaskedAutoregressive(latent_dim, Gated(), hidden, CONTEXT) for _ in range(steps))

    def draw(self, said: Float[Tensor, "b o"], noise: Float[Tensor, "b k d"]) -> tuple[Tensor, Tensor]:
        z, log_slope, context = self.begin(said, noise)
        for step in cast(list[MaskedAutoregressive], list(self.steps)):
            z, slopes = step.slopes(z.flip(2).flatten(0, 1), context)
            z, log_slope = z.view_as(noise), log_slope.flip(2) + slopes.view_as(noise)
        return (z.flip(2), log_slope.flip(2)) if len(self.steps) % 2 else (z, log_slope)


FLOWS: dict[str, Callable[[int], Bijection]] = {
    "planar": lambda d: Planar(d, CONTEXT),
    "radial": lambda d: Radial(d, CONTEXT),
    "sylvester": lambda d: Sylvester(d, min(DIRECTIONS, d), CONTEXT),
}


class Amortised(Bent):
    """A Gaussian bent by `steps` maps of `FLOWS` that have their parameters from h, and at first do nothing."""

    def __init__(self, latent_dim: int, kind: str, steps: int = STEPS):
        super().__init__(latent_dim)
        self.steps = nn.ModuleList(FLOWS[kind](latent_dim) for _ in range(steps))

    def draw(self, said: Float[Tensor, "b o"], noise: Float[Tensor, "b k d"]) -> tuple[Tensor, Tensor]:
        z, log_slope, context = self.begin(said, noise)
        z = z.flatten(0, 1)
        for step in self.steps:
            z, log_det = step(z, context)
            log_slope = log_slope + (log_det / z.shape[1]).view(*noise.shape[:2], 1)
        return z.view_as(noise), log_slope


def posterior(name: str, latent_dim: int) -> Posterior:
    """The posterior of this name; an unknown name is a UserError."""
    if name == "gaussian":
        return Diagonal(latent_dim)
    if name == "full":
        return Full(latent_dim)
    if name == "iaf":
        return InverseAutoregressive(latent_dim)
    if name in FLOWS:
        return Amortised(latent_dim, name)
    raise UserError(f"posterior = {name!r} was given; {nearest(name, get_args(Name))}")
