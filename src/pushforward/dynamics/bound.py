"""The variational bound of a diffusion, term by term: what samples drawn step by step say of the likelihood of data.

The sampler goes from x_T ~ N(0, sigma_T^2) down the times t_T > .. > t_1 by p(x_s | x_t), and the path goes the other way from
x0. By Jensen's inequality (Sohl-Dickstein et al. 2015, arXiv:1503.03585; Ho et al. 2020, arXiv:2006.11239)

    -log p(x0) <= KL(q(x_T | x0) || p(x_T))                                              prior
                + sum over neighbours (t, s) of E KL(q(x_s | x_t, x0) || p(x_s | x_t))   diffusion
                - E log p(x0 | x_1)                                                      reconstruction.

All are Gaussians. With snr = alpha^2 / sigma^2 and beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, Bayes' rule gives

    q(x_s | x_t, x0) = N(alpha_s beta / sigma_t^2 x0 + alpha_t sigma_s^2 / (alpha_s sigma_t^2) x_t, beta sigma_s^2 / sigma_t^2),

p(x_s | x_t) has E[x0 | x_t] in the place of x0, and where its variance is the same ("small") a term is
1/2 (snr_s - snr_t) |x0 - E[x0 | x_t]|^2. That variance is right for data that are a point. The "large" one, which of a VP path
is beta, is beta (alpha_s^2 + sigma_s^2) / (alpha_t^2 + sigma_t^2), right for data N(0, 1) and, where little noise is left, for
all that have a density. In the limit of many steps (Kingma et al. 2021, arXiv:2107.00630)

    diffusion = -1/2 int snr'(t) E |x0 - E[x0 | x_t]|^2 dt,

which depends on a path by the snr at its ends alone. Expectations are means over draws of the noise, and of some times for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.distributions.likelihoods import total, wide
from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.paths import Path, expand, interpolate, time_of
from pushforward.dynamics.targets import EARLIEST
from pushforward.errors import UserError, nearest
from pushforward.randomness import Rng

VARIANCES = ("small", "large")
KNOTS = 512  # times between which the law of t in continuous time is uniform, or a few more
EVEN = 0.1  # share of the terms that are chosen evenly, so that none counts more than ten times its number


@dataclass(frozen=True)
class Bound:
    """The terms of an upper bound on -log p(x), in nats per datum.

    prior (B,), diffusion (T, B), reconstruction (B,); times (T,): at the noisier end of each step (or part of the time) of
    `diffusion`, falling. stderr (B,): of their sum, over the draws. The reconstruction of images is of their levels, a mass.
    """

    prior: Float[Tensor, " b"]
    diffusion: Float[Tensor, "t b"]
    reconstruction: Float[Tensor, " b"]
    times: Float[Tensor, " t"]
    stderr: Float[Tensor, " b"]

    @property
    def total(self) -> Float[Tensor, " b"]:
        """Their sum: at least -log p(x)."""
        return self.prior + self.diffusion.sum(0) + self.reconstruction

    def in_bits(self, dimensions: int) -> dict[str, float]:
        """The mean over data of each term and of the total, in bits per dimension."""
        parts = {"prior": self.prior, "diffusion": self.diffusion.sum(0), "reconstruction": self.reconstruction}
        return {name: float(nats.mean()) / dimensions / math.log(2) for name, nats in {**parts, "total": self.total}.items()}


def interval_mass(low: Float[Tensor, "*n"], high: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(Phi(high) - Phi(low)), low < high, infinite ends included; in the tail on the left, where no digits are lost."""
    right = low + high > 0
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    upper = torch.special.log_ndtr(high)
    return upper + torch.log(-torch.expm1(torch.special.log_ndtr(low) - upper))


def discretised_gaussian(
    x: Float[Tensor, "b *shape"], mean: Float[Tensor, "b *shape"], log_variance: Tensor, levels: int
) -> Float[Tensor, "b *shape"]:
    """The log-mass that N(mean, variance) puts on the level of each number of x, the nearest of `levels` on [-1, 1]; the
    outermost take the tails (Ho et al. 2020, section 3.3). log_variance broadcasts over x.

    >>> discretised_gaussian(torch.tensor([[1.0]]), torch.zeros(1, 1), torch.zeros(1, 1), levels=2).exp()
    tensor([[0.5000]])
    """
    width, scale = 2.0 / (levels - 1), (-0.5 * log_variance).exp()
    level = ((wide(x) + 1) / width).round().clamp(0, levels - 1)
    distance = level * width - 1 - wide(mean)
    low = torch.where(level == 0, -torch.inf, (distance - width / 2) * scale)
    high = torch.where(level == levels - 1, torch.inf, (distance + width / 2) * scale)
    return interval_mass(low, high)


def log_decoded(
    x: Float[Tensor, "b *shape"], mean: Float[Tensor, "b *shape"], log_variance: Tensor, levels: int | None
) -> Float[Tensor, " b"]:
    """log p(x) (B,) of the Gaussian: of images the mass of their levels, of other data (levels None) the density."""
    if levels is not None:
        return total(discretised_gaussian(x, mean, log_variance, levels))
    squares = (wide(x) - wide(mean)).square() * (-log_variance).exp()
    return -0.5 * total(squares + log_variance + math.log(2 * math.pi))


@dataclass(frozen=True)
class Posterior:
    """q(x_s | x_t, x0) = N(of_x0 x0 + of_x_t x_t, small), and the other variance, large: each (B,), in float64."""

    of_x0: Tensor
    of_x_t: Tensor
    small: Tensor
    large: Tensor


def posterior(path: Path, t: Float[Tensor, "b"], s: Float[Tensor, "b"]) -> Posterior:
    """The step from t to s < t, given x0."""
    alpha_t, sigma_t, _, _ = path(t.double())
    alpha_s, sigma_s, _, _ = path(s.double())
    ratio = alpha_t / alpha_s
    beta = (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0)
    kept = (sigma_s / sigma_t) ** 2
    large = beta * (alpha_s**2 + sigma_s**2) / (alpha_t**2 + sigma_t**2)
    return Posterior(alpha_s * beta / sigma_t**2, ratio * kept, beta * kept, large)


def log_variances(path: Path, t: Float[Tensor, "b"], s: Float[Tensor, "b"]) -> tuple[Tensor, Tensor]:
    """(log small, log large), (B,), in float64: the interval that a learned variance is in. Of the last step, to data without
    noise, where the small one is 0, it is that of the step before in a grid of equal steps (Nichol and Dhariwal 2021)."""
    step = posterior(path, t, s)
    earlier = (2 * t).clamp(max=1.0)
    before = posterior(path, earlier, earlier / 2)
    return torch.where(step.small > 0, step.small, before.small).log(), step.large.log()


def prior_term(path: Path, x0: Float[Tensor, "b *shape"], t: float) -> Float[Tensor, " b"]:
    """KL(q(x_t | x0) || N(0, sigma_t^2)) = alpha^2 |x0|^2 / (2 sigma^2): what is left of the data where samples begin."""
    alpha, sigma, _, _ = path(torch.full((1,), t, dtype=torch.float64, device=x0.device))
    return 0.5 * ((alpha / sigma) ** 2).to(x0) * total(x0.square())


def diffusion_term(
    denoiser: Denoiser,
    x0: Float[Tensor, "b *shape"],
    x_t: Float[Tensor, "b *shape"],
    t: Float[Tensor, "b"],
    s: Float[Tensor, "b"],
    variance: str = "small",
) -> Float[Tensor, " b"]:
    """KL(q(x_s | x_t, x0) || p(x_s | x_t)), of the denoiser's own variance where it has learned one. t and s in float64."""
    step, now = posterior(denoiser.path, t, s), t.to(x_t)
    guess, _ = denoiser(x_t, now)
    off = expand(step.of_x0.square().to(x0), x0) * (x0 - guess).square()
    if denoiser.log_variance is None:
        assumed = step.small if variance == "small" else step.large
        ratio = step.small / assumed
        spread = 0.5 * x0[0].numel() * (ratio - 1 - ratio.log())
        return (0.5 / assumed).to(x0) * total(off) + spread.to(x0)
    learned = wide(denoiser.log_variance(x_t, now, s.to(x_t)))
    log_ratio = expand(step.small.log().to(learned), learned) - learned
    return 0.5 * total(torch.expm1(log_ratio) - log_ratio + off * (-learned).exp())


def reconstruction_term(
    denoiser: Denoiser,
    x0: Float[Tensor, "b *shape"],
    x_t: Float[Tensor, "b *shape"],
    t: Float[Tensor, "b"],
    levels: int | None,
) -> Float[Tensor, " b"]:
    """-log p(x0 | x_t), of the denoiser's own variance where it has learned one; else of sigma^2 / (alpha^2 + sigma^2), that of
    data N(0, 1). t in float64. levels: of images."""
    now = t.to(x_t)
    guess, _ = denoiser(x_t, now)
    alpha, sigma, _, _ = denoiser.path(t)
    log_variance = expand((sigma**2 / (alpha**2 + sigma**2)).log().to(x0), x0)
    if denoiser.log_variance is not None:
        log_variance = wide(denoiser.log_variance(x_t, now, torch.zeros_like(now)))
    return -log_decoded(x0, guess, log_variance, levels)


def discrete_bound(
    denoiser: Denoiser,
    x: Float[Tensor, "b *shape"],
    times: Float[Tensor, " k"],
    *,
    rng: Rng,
    levels: int | None = None,
    variance: str | None = None,
    terms: int | None = None,
    draws: int = 2,
) -> Bound:
    """The bound of ancestral sampling along `times`.

    Args:
        denoiser: its condition given already.
        x: data; images are rounded to their levels.
        times: falling, from noise to data, 2 or more (one where noise is left at the last).
        rng: what the noise is drawn from.
        levels: of images in [-1, 1]; None: data that are continuous.
        variance: of p(x_s | x_t) where the denoiser has learned none: "small", or "large"; None: small of images, large of data
            that are continuous, whose bound the small one keeps from the density however many the steps.
        terms: how many steps each draw looks at, chosen by how much they should count, without bias; None: all.
        draws: of the noise, at least 2, whose spread is the standard error.

    Raises UserError for what does not make sense.
    """
    _checked(draws, terms)
    variance = variance or ("large" if levels is None else "small")
    if variance not in VARIANCES:
        raise UserError(f"variance is '{variance}'; {nearest(variance, VARIANCES)}")
    path, x0 = denoiser.path, rounded(x, levels)
    times = times.to(device=x.device, dtype=torch.float64)
    clean = bool(path(times[-1:])[1] == 0)
    if len(times) < 1 + clean or bool((times.diff() >= 0).any()):
        raise UserError(f"times of a bound fall from noise to data, and are {1 + clean} or more; {times.tolist()} were given.")
    steps = times[:-1] if clean else times
    ends, starts = steps[1:], steps[:-1]
    count = len(starts)

    def chosen(uniform: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Steps (B,) and how much each counts."""
        if terms is None or not count:
            yield from ((torch.full_like(uniform[:, 0], k).long(), torch.ones_like(uniform[:, 0])) for k in range(count))
            return
        chances = _chances(path, starts, ends)
        for j in range(terms):
            k = torch.searchsorted(chances.cumsum(0), (uniform[:, j] + j) / terms).clamp(max=count - 1)
            yield k, 1 / (terms * chances[k])

    def draw() -> tuple[Tensor, Tensor]:
        diffusion = x0.new_zeros(count, len(x0))
        for k, weight in chosen(rng.rand(len(x0), terms or 1, dtype=torch.float64)):
            x_t = interpolate(path, x0, rng.randn_like(x0), starts[k].to(x0))
            nats = diffusion_term(denoiser, x0, x_t, starts[k], ends[k], variance)
            diffusion.scatter_add_(0, k[None], (weight.to(nats) * nats)[None])
        last = steps[-1].expand(len(x0))
        x_t = interpolate(path, x0, rng.randn_like(x0), last.to(x0))
        return diffusion, reconstruction_term(denoiser, x0, x_t, last, levels)

    return _mean(prior_term(path, x0, float(times[0])), draw, draws, starts.to(x0))


def continuous_bound(
    denoiser: Denoiser,
    x: Float[Tensor, "b *shape"],
    *,
    rng: Rng,
    levels: int | None = None,
    terms: int = 32,
    draws: int = 2,
) -> Bound:
    """The bound in the limit of many steps, over the span of the denoiser: time is parted so that every part should count as
    much, evenly in log(1 + snr), and each draw looks at a time in each of `terms` parts. As `discrete_bound` otherwise.

    Where the path leaves no noise on the data, it ends at t = 0.001: the snr has no end.
    """
    _checked(draws, terms)
    path, x0 = denoiser.path, rounded(x, levels)
    ends = torch.tensor(denoiser.span, dtype=torch.float64, device=x.device)
    if bool(path(ends[:1])[1] == 0):
        ends = ends.clamp(min=EARLIEST)
    parts = terms * -(-KNOTS // terms)
    alpha, sigma, _, _ = path(ends)
    most, least = torch.log1p((alpha / sigma) ** 2)
    left = least + (most - least) * torch.linspace(0, 1, parts + 1, dtype=torch.float64, device=x.device)
    knots = time_of(path, torch.expm1(left).clamp(min=1e-30).rsqrt()).clamp(ends[0], ends[1])

    def draw() -> tuple[Tensor, Tensor]:
        uniform, diffusion = rng.rand(len(x0), terms, dtype=torch.float64), []
        for j in range(terms):
            place = (uniform[:, j] + j) * (parts / terms)
            part = place.long().clamp(max=parts - 1)
            # a line between knots, so that how densely t lies is known
            length = knots[part] - knots[part + 1]
            t = knots[part] - (place - part) * length
            alpha, sigma, d_alpha, d_sigma = path(t)
            fall = alpha * (alpha * d_sigma - sigma * d_alpha) / sigma**3  # -1/2 of snr's slope
            x_t = interpolate(path, x0, rng.randn_like(x0), t.to(x0))
            guess, _ = denoiser(x_t, t.to(x0))
            diffusion.append((fall * length * (parts / terms)).to(x0) * total((x0 - guess).square()))
        last = ends[0].expand(len(x0))
        x_t = interpolate(path, x0, rng.randn_like(x0), last.to(x0))
        return torch.stack(diffusion), reconstruction_term(denoiser, x0, x_t, last, levels)

    starts = knots[: -1 : parts // terms]
    return _mean(prior_term(path, x0, float(ends[1])), draw, draws, starts.to(x0))


def rounded(x: Float[Tensor, "b *shape"], levels: int | None) -> Float[Tensor, "b *shape"]:
    """Images at their levels, which noise of dequantisation has left; other data as they are."""
    if levels is None:
        return x
    return ((x + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1) * (2 / (levels - 1)) - 1


def _chances(path: Path, starts: Tensor, ends: Tensor) -> Tensor:
    """How likely each step is to be looked at: as its term is of data N(0, 1), and evenly."""
    (alpha_t, sigma_t, _, _), (alpha_s, sigma_s, _, _) = path(starts), path(ends)
    now, then = (alpha_t / sigma_t) ** 2, (alpha_s / sigma_s) ** 2
    expected = (then - now) / (1 + now)
    return (1 - EVEN) * expected / expected.sum() + EVEN / len(starts)


def _mean(prior: Tensor, draw: Callable[[], tuple[Tensor, Tensor]], draws: int, times: Tensor) -> Bound:
    made = [draw() for _ in range(draws)]
    sums = torch.stack([diffusion.sum(0) + reconstruction for diffusion, reconstruction in made])
    diffusion, reconstruction = (sum(part[1:], part[0]) / draws for part in zip(*made, strict=True))
    return Bound(prior, diffusion, reconstruction, times, sums.std(0) / math.sqrt(draws))


def _checked(draws: int, terms: int | None) -> None:
    if draws < 2:
        raise UserError(f"a bound with its standard error needs at least 2 draws of the noise; {draws} was given.")
    if terms is not None and terms < 1:
        raise UserError(f"terms is how many steps each draw looks at, 1 or more; {terms} was given.")
