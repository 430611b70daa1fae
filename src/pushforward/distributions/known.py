"""Distributions of which everything is known: the log-density, its gradient (the score), exact draws.

`log_prob(x)` in nats, normalised; `score(x)`; `sample(n, rng)`, row i a function of the rng's row i: to test samplers on.
A mixture of Gaussians stays one when noise is added, N(mu, S) * N(0, s^2) = N(mu, S + s^2), so its score is known at every
noise level, which is what a trained score model approximates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.data import toys
from pushforward.distributions.gaussians import cholesky
from pushforward.distributions.inverse_cdf import Tabulated, draw
from pushforward.errors import UserError
from pushforward.randomness import Rng


class DifferentiableDensity:
    """The score of a density by automatic differentiation."""

    def log_prob(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        raise NotImplementedError

    def score(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """grad_x log p(x)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(x).sum(), x)[0]


class Mixture:
    """sum_k w_k N(x; mu_k, S_k), any dimension.

    Args:
        weights: (K,), summing to 1.
        means: (K, d).
        covariances: (K, d, d).
    """

    def __init__(self, weights: Float[Tensor, " k"], means: Float[Tensor, "k d"], covariances: Float[Tensor, "k d d"]):
        if not bool((weights >= 0).all()) or abs(float(weights.sum()) - 1) > 1e-5:
            raise UserError(f"the weights {weights.tolist()} are not probabilities; give numbers >= 0 that sum to 1.")
        self.weights, self.means, self.covariances = weights.double(), means.double(), covariances.double()
        self.factors = cholesky(self.covariances, "a covariance of the mixture")
        self._log_det = self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @classmethod
    def round(cls, weights: list[float], means: list[list[float]], sd: float | list[float]) -> Mixture:
        """With covariances sd^2 I, one sd or one each."""
        centres = torch.tensor(means, dtype=torch.float64)
        sds = torch.as_tensor(sd, dtype=torch.float64).expand(len(centres))
        identity = torch.eye(centres.shape[1], dtype=torch.float64)
        return cls(torch.tensor(weights, dtype=torch.float64), centres, sds[:, None, None] ** 2 * identity)

    def _whitened(self, x: Tensor) -> Tensor:
        """L_k^-1 (x - mu_k): (K, d, B)."""
        return torch.linalg.solve_triangular(self.factors, (x.double()[None] - self.means[:, None]).mT, upper=False)

    def _joint(self, whitened: Tensor) -> Tensor:
        """log w_k N(x; mu_k, S_k): (B, K)."""
        constant = self.weights.log() - self._log_det - self.means.shape[1] / 2 * math.log(2 * math.pi)
        return constant - whitened.square().sum(1).T / 2

    def log_prob(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """Nats."""
        return torch.logsumexp(self._joint(self._whitened(x)), 1).to(x.dtype)

    def score(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """sum_k p(k | x) S_k^-1 (mu_k - x)."""
        whitened = self._whitened(x)
        pull = -torch.linalg.solve_triangular(self.factors.mT, whitened, upper=True)
        return torch.einsum("bk,kdb->bd", self._joint(whitened).softmax(1), pull).to(x.dtype)

    def posterior(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """p(k | x): which component a point comes from."""
        return self._joint(self._whitened(x)).softmax(1)

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n d"]:
        """n exact draws, float32."""
        k = rng.categorical(self.weights.expand(n, -1))
        z = rng.randn(n, self.means.shape[1], dtype=torch.float64)
        return (self.means[k] + torch.einsum("nij,nj->ni", self.factors[k], z)).float()

    def noised(self, sigma: float) -> Mixture:
        """The law of x + sigma noise."""
        identity = torch.eye(self.means.shape[1], dtype=torch.float64)
        return Mixture(self.weights, self.means, self.covariances + sigma**2 * identity)


def mixture_of_toy(name: str) -> Mixture:
    """A toy data set that is made of equal round Gaussians ("ring8", "grid25", "eight-gaussians"), in the data's units.

    Raises UserError for any other name.
    """
    centres = toys.mode_centres(name).double()
    count = len(centres)
    return Mixture.round([1 / count] * count, centres.tolist(), toys.mode_sd(name))


def two_far_modes() -> Mixture:
    """Song and Ermon's (2019, arXiv:1907.05600, section 3.2.2): 1/5 N((-5, -5), I) + 4/5 N((5, 5), I)."""
    return Mixture.round([0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], 1.0)


@dataclass(frozen=True)
class Ring(DifferentiableDensity):
    """p(x) proportional to exp(-(|x| - radius)^2 / (2 sd^2)) in the plane.

    Its normaliser is 2 pi int r exp(-(r - R)^2 / (2 s^2)) dr = 2 pi (s^2 exp(-R^2 / (2 s^2)) + R s sqrt(2 pi) Phi(R / s)).
    """

    radius: float = 4.0
    sd: float = 0.3

    def log_prob(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        ratio = self.radius / self.sd
        bulk = ratio * math.sqrt(2 * math.pi) * (1 + math.erf(ratio / math.sqrt(2))) / 2
        constant = math.log(2 * math.pi * self.sd**2 * (math.exp(-(ratio**2) / 2) + bulk))
        return -((x.norm(dim=1) - self.radius) ** 2) / (2 * self.sd**2) - constant

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n d"]:
        """The angle is uniform; the radius, of density r exp(-(r - R)^2 / (2 s^2)), by inverting a tabulated function."""
        low, high = max(0.0, self.radius - 9 * self.sd), self.radius + 9 * self.sd
        law = Tabulated.of(lambda r: r.log() - (r - self.radius) ** 2 / (2 * self.sd**2), low, high)
        r, angle = draw(law, n, rng), 2 * math.pi * rng.rand(n, dtype=torch.float64)
        return torch.stack([r * angle.cos(), r * angle.sin()], 1).float()


@dataclass(frozen=True)
class Banana(DifferentiableDensity):
    """x = (spread z1, z2 + bend (x1^2 - spread^2)) with z normal (Haario et al. 1999): a shear after a scaling."""

    spread: float = 2.0
    bend: float = 0.5

    def log_prob(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        z1, z2 = x[:, 0] / self.spread, x[:, 1] - self.bend * (x[:, 0] ** 2 - self.spread**2)
        return -(z1**2 + z2**2) / 2 - math.log(2 * math.pi * self.spread)

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n d"]:
        z = rng.randn(n, 2)
        x1 = self.spread * z[:, 0]
        return torch.stack([x1, z[:, 1] + self.bend * (x1**2 - self.spread**2)], 1)
