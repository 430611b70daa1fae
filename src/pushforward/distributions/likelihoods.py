"""Likelihoods p(x | parameters) that factorise over the numbers of a datum: what a decoder's output means. Those of tables
with categories are in `columns.py`.

A likelihood asks a decoder for `channels` numbers per number of x: parameters (B, channels, *shape). It gives
log p(x | parameters) summed over the datum, the mean and samples, all in the model's units.

Integer data (images with L levels, x = 2c / (L - 1) - 1) have *masses* under `Bernoulli`, `Categorical` and
`DiscretisedLogistic`. A run adds log_det = D log w, w = 2 / (L - 1) the width of a level, to every `log_prob`; so these return
log-mass - D log w, the density that is constant over each level's bin, and the run's sum is the log-mass again.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.randomness import EVALUATION_SEED, Rng, chosen, scrambled, uniforms

Name = Literal["auto", "bernoulli", "gaussian", "logistic", "categorical"]
Sigma = Literal["learned", "global", "column", "pixel"]

SCALES = 7.0  # learned log-scales of a Gaussian stay within +-7: standard deviations of 0.0009 to 1100


def wide(x: Tensor) -> Tensor:
    """At least float32: log-densities are not computed in the half precision of autocast."""
    return x if x.dtype == torch.float64 else x.float()


def soft_clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Smoothly into (low, high), 0 to the middle with slope 1: unlike a clamp it does not lose the gradient."""
    half = (high - low) / 2
    return low + half + half * torch.tanh(x / half)


def logistic_mass(distance: Tensor, width: Tensor) -> Tensor:
    """log(F(distance + width / 2) - F(distance - width / 2)) with F the CDF of the standard logistic: the log-mass of a unit
    whose middle is this far from the location, both in scales. With a and b the ends,

        log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)),

    which cancels nowhere.

    >>> logistic_mass(torch.tensor(0.0), torch.tensor(2.0)).exp()
    tensor(0.4621)
    """
    return F.logsigmoid(distance + width / 2) + F.logsigmoid(width / 2 - distance) + torch.log(-torch.expm1(-width))


def pick(logits: Float[Tensor, "b k"], uniform: Float[Tensor, " b"], temperature: float = 1.0) -> Int[Tensor, " b"]:
    """One index a row, with probabilities softmax(logits / temperature): what a uniform number chooses. What is not possible
    has a logit of -inf.

    >>> pick(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([0.6]))
    tensor([1])
    """
    logits = logits.double()
    # The largest is subtracted before the division, so that no temperature overflows.
    return chosen(((logits - logits.amax(1, keepdim=True)) / temperature).softmax(1), uniform)


def total(x: Tensor) -> Tensor:
    """Sums over a datum: (B, ...) -> (B,)."""
    return x.flatten(1).sum(1)


class Likelihood(nn.Module):
    """What they have in common: the numbers they ask for per number of x, and the shapes."""

    channels: int

    def check(self, x: Tensor) -> None:
        """Raises UserError where the likelihood makes no sense of such data."""

    def log_prob(self, parameters: Float[Tensor, "b k *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        """log p(x | parameters) in nats per datum, in the model's units."""
        raise NotImplementedError

    def mean(self, parameters: Float[Tensor, "b k *shape"]) -> Float[Tensor, "b *shape"]:
        """E[x | parameters]."""
        raise NotImplementedError

    def sample(self, parameters: Float[Tensor, "b k *shape"], rng: Rng) -> Float[Tensor, "b *shape"]:
        """x ~ p(x | parameters)."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Black or white with probability sigmoid(logit); x in [-1, 1] stands for the probability (x + 1) / 2 of white.

    With two levels this is the exact mass. A grey image is read as the *probabilities* of a binary one, as in most papers on
    MNIST: log_prob is E[log p(b)] over binary images b drawn with these probabilities. It says nothing of the density of
    the grey image and does not compare with the figures of other likelihoods. Because log p(b | z) is linear in b, a bound
    on log p(x) computed from it is also a lower bound on E[log p(b)] (log-sum-exp is convex).
    """

    channels = 1

    def __init__(self, levels: int = 2):
        super().__init__()
        self.width = 2.0 / (levels - 1)

    def check(self, x: Tensor) -> None:
        """Raises UserError where x is no probability: the log-likelihood would have no upper end."""
        low, high = float(x.min()), float(x.max())
        if not (low >= -1 and high <= 1):
            raise UserError(
                f"values from {low:.4g} to {high:.4g} were given to a bernoulli likelihood, which knows -1 (black) to 1 "
                "(white): rescale them, or use likelihood='logistic' or 'gaussian'."
            )

    def log_prob(self, parameters: Float[Tensor, "b k *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        logits, white = wide(parameters[:, 0]), (wide(x) + 1) / 2
        value = -total(F.binary_cross_entropy_with_logits(logits, white, reduction="none"))
        return value - white[0].numel() * math.log(self.width) if len(white) else value

    def mean(self, parameters: Float[Tensor, "b k *shape"]) -> Float[Tensor, "b *shape"]:
        return 2 * wide(parameters[:, 0]).sigmoid() - 1

    def sample(self, parameters: Float[Tensor, "b k *shape"], rng: Rng) -> Float[Tensor, "b *shape"]:
        white = wide(parameters[:, 0]).sigmoid()
        return 2 * (rng.rand_like(white) < white).to(white.dtype) - 1


class Gaussian(Likelihood):
    """N(mean, sigma^2): with a given sigma, a learned one that all data share, or one per number from the decoder.

    Args:
        shape: of one datum.
        sigma: a number (fixed); "global" (one, learned); "column" (learned, one per column of a table, point or series, or
            per channel of an image or field); "pixel" (the decoder gives one for each number of each datum); "learned" (by
            column for vectors and fields (C, L), global for images).
        channels_first: whether the columns are the first axis of the shape; None: where it has three.
    """

    fixed: Tensor

    def __init__(self, shape: tuple[int, ...], sigma: Sigma | float = "learned", channels_first: bool | None = None):
        super().__init__()
        first = len(shape) == 3 if channels_first is None else channels_first
        if sigma == "learned":
            sigma = "global" if len(shape) == 3 else "column"
        self.channels = 2 if sigma == "pixel" else 1
        if sigma == "global":
            self.raw = nn.Parameter(torch.zeros(()))
        elif sigma == "column":
            self.raw = nn.Parameter(torch.zeros((shape[0], *(1,) * (len(shape) - 1)) if first else shape[-1:]))
        elif sigma != "pixel":
            if isinstance(sigma, str) or not sigma > 0:
                raise UserError(f"sigma is a positive number, learned, global, column or pixel, not {sigma!r}.")
            self.register_buffer("fixed", torch.tensor(math.log(sigma)))

    def log_sigma(self, parameters: Tensor) -> Tensor:
        """The log of the standard deviation, in a shape that broadcasts over x."""
        if hasattr(self, "fixed"):
            return self.fixed
        return soft_clamp(wide(parameters[:, 1] if self.channels == 2 else self.raw), -SCALES, SCALES)

    def log_prob(self, parameters: Float[Tensor, "b k *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        log_sigma = self.log_sigma(parameters)
        distance = (wide(x) - wide(parameters[:, 0])) * torch.exp(-log_sigma)
        return total(-0.5 * distance.square() - log_sigma - 0.5 * math.log(2 * math.pi))

    def mean(self, parameters: Float[Tensor, "b k *shape"]) -> Float[Tensor, "b *shape"]:
        return wide(parameters[:, 0])

    def sample(self, parameters: Float[Tensor, "b k *shape"], rng: Rng) -> Float[Tensor, "b *shape"]:
        mean = self.mean(parameters)
        return mean + self.log_sigma(parameters).exp() * rng.randn_like(mean)


class DiscretisedLogistic(Likelihood):
    """The mass that a logistic distribution puts on each of L levels, the outermost levels taking the tails.

    With F the logistic's CDF at (. - mean) / s and w the width of a level, mass(x) = F(x + w/2) - F(x - w/2), F = 0 below
    the lowest level and 1 above the highest: the masses sum to 1 exactly. The decoder gives the mean and log s; s stays
    between an eighth of a level (all the mass in one) and 8 (flat). `log_prob` is log-mass - D log w, so that a run's log_det
    gives back the log-mass.

    Source: Salimans, Karpathy, Chen and Kingma, "PixelCNN++", 2017, arXiv:1701.05517 (with one component).
    """

    channels = 2

    def __init__(self, levels: int = 256):
        super().__init__()
        if levels < 2:
            raise UserError(f"the discretised logistic needs at least 2 levels, not {levels}.")
        self.levels, self.width = levels, 2.0 / (levels - 1)

    def location_and_log_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return wide(parameters[:, 0]), soft_clamp(wide(parameters[:, 1]), math.log(self.width / 8), math.log(8))

    def log_mass(self, parameters: Float[Tensor, "b k *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """log P(level of x) for each number of x, which lies on a level."""
        location, log_scale = self.location_and_log_scale(parameters)
        x, scale = wide(x), log_scale.exp()
        distance, width = (x - location) / scale, self.width / scale
        tail = F.logsigmoid(width / 2 - x.sign() * distance)  # log F(x + w/2) of the lowest, log(1 - F(x - w/2)) of the highest
        return torch.where(x.abs() > 1 - self.width / 2, tail, logistic_mass(distance, width))

    def log_prob(self, parameters: Float[Tensor, "b k *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        return total(self.log_mass(parameters, x) - math.log(self.width))

    def mean(self, parameters: Float[Tensor, "b k *shape"]) -> Float[Tensor, "b *shape"]:
        """The mean of the logistic clipped to [-1, 1], 1 - integral of F over [-1, 1]: within half a level of the levels' mean
        (which is the same integral by the midpoint rule)."""
        location, log_scale = self.location_and_log_scale(parameters)
        scale = log_scale.exp()
        return 1 - scale * (F.softplus((1 - location) / scale) - F.softplus((-1 - location) / scale))

    def sample(self, parameters: Float[Tensor, "b k *shape"], rng: Rng) -> Float[Tensor, "b *shape"]:
        location, log_scale = self.location_and_log_scale(parameters)
        uniform = rng.rand_like(location).clamp(1e-7, 1 - 1e-7)
        x = location + log_scale.exp() * torch.logit(uniform)
        return ((x + 1) / self.width).round().clamp(0, self.levels - 1) * self.width - 1


class Categorical(Likelihood):
    """Any mass on each of L levels: a logit for every level of every number of x. For images of few levels.

    `log_prob` is log-mass - D log w, as for `DiscretisedLogistic`.
    """

    def __init__(self, levels: int):
        super().__init__()
        self.levels = self.channels = levels
        self.width = 2.0 / (levels - 1)

    def log_prob(self, parameters: Float[Tensor, "b k *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        level = ((wide(x) + 1) / self.width).round().long().clamp(0, self.levels - 1)
        return total(wide(parameters).log_softmax(1).gather(1, level[:, None]) - math.log(self.width))

    def mean(self, parameters: Float[Tensor, "b k *shape"]) -> Float[Tensor, "b *shape"]:
        mass = wide(parameters).softmax(1)
        return torch.einsum("bl...,l->b...", mass, torch.arange(self.levels).to(mass)) * self.width - 1

    def sample(self, parameters: Float[Tensor, "b k *shape"], rng: Rng) -> Float[Tensor, "b *shape"]:
        mass = wide(parameters).softmax(1).movedim(1, -1)
        return chosen(mass, rng.rand_like(mass[..., 0])).to(mass.dtype) * self.width - 1


def binary(x: Float[Tensor, "b *shape"], uniform: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """Black and white images (-1, 1) from grey ones: white with probability (x + 1) / 2.

    >>> binary(torch.tensor([-1.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 0.4, 0.6, 0.99]))
    tensor([-1.,  1., -1.,  1.])
    """
    return (2 * uniform - 1 < x).to(x.dtype).mul_(2).sub_(1)


def keys_of(x: Float[Tensor, "b *shape"]) -> Int[Tensor, " b"]:
    """A 64-bit integer made of each datum, a multiply-add hash of its numbers in steps of 2^-20: what draws that are to be a
    function of the datum are drawn with. Data that differ have different keys, but for two in 2^64 or so."""
    steps = (wide(x.detach()).flatten(1) * 2**20).round().long()
    # Scrambled: weights in arithmetic progression send data of few values to few keys.
    return (steps * (scrambled(torch.arange(steps.shape[1], device=x.device)) | 1)).sum(1)


def fixed_binary(x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
    """The black and white image of each grey one that all models are measured by: its draws are a function of the image,
    independent of its neighbours and the same at every call."""
    if not len(x):
        return x
    return binary(x, uniforms(keys_of(x), x[0].numel(), EVALUATION_SEED, torch.float32).reshape(x.shape))
