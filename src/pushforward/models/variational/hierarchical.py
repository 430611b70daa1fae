"""Hierarchical variational autoencoder: latents z_1 (top) to z_L, each drawn given all above it, coarse before fine.

    p(x, z) = p(z_1) prod_l p(z_l | z_<l) p(x | z),        q(z | x) = q(z_1 | x) prod_l q(z_l | z_<l, x)
    ELBO = E_q[log p(x | z)] - sum_l E_q[KL(q(z_l | z_<l, x) || p(z_l | z_<l))]

A deterministic path goes up from x and leaves features at each size; one path goes down from a learned constant, and at each
level prior and posterior look at the same state h of it, the posterior at the features too:

    [m_p, s_p, r] = prior(h),    q from (h, features),    z ~ q (or p),    h <- h + r + W z,  h <- h + block(h).

With `posterior="shared"` (very deep VAE) a network of h and features gives q. With "precision" (ladder) the features alone give
N(m, s^2), and q is its product with the prior: precisions add, 1 / s_q^2 = 1 / s^2 + 1 / s_p^2. Images have latents at each
place of maps from 1 x 1 to (half) the image's size; vectors have one map without places. The last layer of a residual branch
starts scaled by 1 / sqrt(L), and a prior starts as N(0, I), so that depth does no harm at the start.

Codes are the latents as the prior sees them, (z_l - m_p) / s_p, level after level: N(0, I) under the prior, so that they are
drawn, interpolated and decoded like a flat VAE's.

Sources: Sonderby et al. 2016, "Ladder variational autoencoders", arXiv:1602.02282; Child 2021, "Very deep VAEs generalize
autoregressive models", arXiv:2011.10650.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.spec import DataSpec
from pushforward.distributions import likelihoods
from pushforward.distributions.likelihoods import Sigma, fixed_binary, soft_clamp, wide
from pushforward.errors import UserError, nearest
from pushforward.models.contract import device_of
from pushforward.models.variational import elbo
from pushforward.models.variational.base import Variational
from pushforward.randomness import EVALUATION_SEED, SampleRng

LOG_SIGMA = 5.0  # log sigmas of priors and posteriors stay within +-5


def map_sizes(height: int, width: int, levels: int) -> tuple[int, tuple[int, int], list[tuple[int, int]]]:
    """How many pixels of a side make one place of the finest map, its size, and that of each level's map, the top first.

    >>> map_sizes(28, 28, 6)
    (2, (14, 14), [(1, 1), (2, 2), (4, 4), (4, 4), (7, 7), (14, 14)])
    >>> map_sizes(8, 6, 2)
    (1, (8, 6), [(1, 1), (8, 6)])
    """
    fold = 1 if max(height, width) <= 8 else 2
    while max(height, width) / fold > 32:
        fold *= 2
    sizes = [(math.ceil(height / fold), math.ceil(width / fold))]
    while max(sizes[-1]) > 1:
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    sizes.reverse()
    return fold, sizes[-1], [sizes[round(i * (len(sizes) - 1) / max(1, levels - 1))] for i in range(levels)]


def layer(inputs: int, outputs: int, size: tuple[int, int] | None, kernel: int = 3) -> nn.Module:
    """A linear layer for vectors (size None), a convolution for maps: 1 x 1 where a map has one place."""
    if size is None:
        return nn.Linear(inputs, outputs)
    kernel = 1 if max(size) == 1 else kernel
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def branch(inputs: int, hidden: int, outputs: int, size: tuple[int, int] | None, scale: float) -> nn.Sequential:
    """silu, layer, silu, layer; the last one's weights scaled."""
    last = layer(hidden, outputs, size)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(scale)
    return nn.Sequential(nn.SiLU(), layer(inputs, hidden, size), nn.SiLU(), last)


def resized(h: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Maps at another size: averages on the way up to coarse ones, copies on the way down."""
    if size is None or tuple(h.shape[2:]) == size:
        return h
    if h.shape[2] * h.shape[3] > size[0] * size[1]:
        return F.adaptive_avg_pool2d(h, size)
    return F.interpolate(h, size=size, mode="nearest")


class Level(nn.Module):
    """One level of latents: `prior` and `posterior` of z, and how z enters the state."""

    def __init__(self, width: int, latents: int, size: tuple[int, int] | None, beside: int, shared: bool, scale: float):
        super().__init__()
        self.size, self.latents, self.shared = size, latents, shared
        self.prior = branch(width, width, 2 * latents + width, size, 0.0)
        self.posterior = branch((2 if shared else 1) * width, width, 2 * latents, size, 1.0)
        self.enter = layer(latents, width, size, kernel=1)
        self.after = branch(width, width, width, size, scale)
        self.place = nn.Parameter(torch.zeros(width, *(size or ())))
        self.ask = nn.Linear(beside, width) if beside else None

    def arrive(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        """The state from the level above: at this size, with what tells one place from another, and the condition."""
        h = resized(h, self.size) + self.place
        if self.ask is not None and embedding is not None:
            asked = self.ask(embedding)
            h = h + (asked if self.size is None else asked[:, :, None, None])
        return h

    def expect(self, h: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The prior's mean and log sigma, and what the state becomes whatever z is."""
        mean, log_sigma, rest = self.prior(h).split([self.latents, self.latents, h.shape[1]], 1)
        return (wide(mean), soft_clamp(wide(log_sigma), -LOG_SIGMA, LOG_SIGMA)), rest

    def infer(self, h: Tensor, features: Tensor, prior: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log sigma."""
        if self.shared:
            mean, log_sigma = wide(self.posterior(torch.cat([h, features], 1))).chunk(2, 1)
            return mean, soft_clamp(log_sigma, -LOG_SIGMA, LOG_SIGMA)
        mean, log_sigma = wide(self.posterior(features)).chunk(2, 1)
        log_sigma = soft_clamp(log_sigma, -LOG_SIGMA, LOG_SIGMA)
        # precisions add: the share of the likelihood's term is sigmoid(log of the ratio of precisions)
        share = torch.sigmoid(2 * (prior[1] - log_sigma))
        return prior[0] + share * (mean - prior[0]), prior[1] + 0.5 * F.logsigmoid(2 * (log_sigma - prior[1]))

    def leave(self, h: Tensor, rest: Tensor, z: Tensor) -> Tensor:
        """The state below this level."""
        h = h + rest + self.enter(z.to(h.dtype))
        return h + self.after(h)


class HierarchicalVAE(Variational):
    """A variational autoencoder with several levels of latents, coarse to fine, for images, fields and vectors.

    Args:
        spec: What a datum is.
        levels: Levels of latents, 2 to 20 or so, spread evenly over the sizes from 1 x 1 to that of the image (or half of it).
        latent_dim: Latents at each level; of images and fields (C, H, W): channels at each place of its map. None: 8, of
            those 4.
        width: Width of the state; None: 128, of images and fields (C, H, W) 32.
        posterior: How q at a level comes about: shared (a network of state and features), precision (the product of the
            prior and what the features say, as in ladder networks).
        likelihood: What the decoder's output means, as in `vae`: auto, bernoulli, gaussian, logistic, categorical.
        binarise: Of the bernoulli likelihood: draw black and white images from the grey levels anew at each update.
        beta: Weight of the KL.
        beta_warmup: Updates over which that weight grows from 0; None: 500 (under iwae, which has no KL, 0). Deep levels stay
            in use more often with it. With posterior="precision" and 0 all levels may fall silent for good: what the features
            say is weighed with its share of the precision, and so is its gradient.
        free_bits: Nats that each level may use without paying for them.
        draws: Draws of z per datum and update.
        objective: elbo, or iwae (the importance-weighted bound with `draws` draws).
        sigma: Of the gaussian likelihood: a number, learned, global, column or pixel.
        condition_dropout: Rate at which conditions are hidden in training, which teaches what to do without one.
    """

    unit_name: str | None = "level"

    def __init__(
        self,
        spec: DataSpec,
        *,
        levels: int = 6,
        latent_dim: int | None = None,
        width: int | None = None,
        posterior: Literal["shared", "precision"] = "shared",
        likelihood: likelihoods.Name = "auto",
        binarise: bool = False,
        beta: float = 1.0,
        beta_warmup: int | None = None,
        free_bits: float = 0.0,
        draws: int = 1,
        objective: Literal["elbo", "iwae"] = "elbo",
        sigma: Sigma | float = "learned",
        condition_dropout: float = 0.1,
    ):
        if posterior not in ("shared", "precision"):
            raise UserError(f"posterior={posterior!r} was given; {nearest(posterior, ('shared', 'precision'))}")
        if beta_warmup is None:
            beta_warmup = 0 if objective == "iwae" else 500
        bound = elbo.objective(objective, beta, draws, beta_warmup, free_bits)
        super().__init__(spec, likelihood, binarise, sigma, bound, beta_warmup, condition_dropout)
        if levels < 1:
            raise UserError(f"levels = {levels} was given; a model with latents has at least 1.")
        planar = spec.planar
        latents = latent_dim if latent_dim is not None else 4 if planar else 8
        width = width if width is not None else 32 if planar else 128
        if latents < 1 or width < 1:
            raise UserError(f"latent_dim = {latents} and width = {width} were given; both are at least 1.")
        self.learning_rate, self.width = 1e-3, width
        sizes: list[tuple[int, int] | None] = [None] * levels
        self.finest: tuple[int, int] | None = None
        self.outside = -1.0 if spec.kind == "image" else 0.0  # what an image or field is padded with: black, or the mean
        self.fold, inputs, outputs = 1, spec.dimensions, self.likelihood.channels * spec.dimensions
        if planar:
            self.fold, self.finest, maps = map_sizes(spec.shape[1], spec.shape[2], levels)
            sizes = list(maps)
            inputs = spec.shape[0] * self.fold**2
            outputs = self.likelihood.channels * inputs
        scale = 1 / math.sqrt(levels)
        self.enter = layer(inputs + (0 if planar else self.embed.width), width, self.finest)
        beside, shared = self.embed.width, posterior == "shared"
        self.ask = nn.Linear(beside, width) if planar and beside else None
        self.up = nn.ModuleList(branch(width, width, width, size, scale) for size in sizes)  # the top first, as the levels
        self.levels = nn.ModuleList(Level(width, latents, size, beside, shared, scale) for size in sizes)
        self.leave = nn.Sequential(nn.SiLU(), layer(width, outputs, self.finest))
        self.shapes = [(latents, *(size or ())) for size in sizes]
        self.places = [math.prod(shape) for shape in self.shapes]
        self.noise_size = sum(self.places)

    def features(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None) -> list[Tensor]:
        """The deterministic path up: what each level's posterior is given, the top first."""
        if self.spec.planar:
            height, width = x.shape[2:]
            x = F.pad(x, (0, -width % self.fold, 0, -height % self.fold), value=self.outside)
            h = self.enter(F.pixel_unshuffle(x, self.fold))
            if self.ask is not None and embedding is not None:
                h = h + self.ask(embedding)[:, :, None, None]
        else:
            x = x.flatten(1)
            h = self.enter(x if embedding is None else torch.cat([x, embedding], 1))
        found: list[Tensor] = []
        for block, level in zip(reversed(self.up), self.ladder[::-1], strict=True):
            h = resized(h, level.size)
            h = h + block(h)
            found.append(h)
        return found[::-1]

    def start(self, rows: int) -> Tensor:
        """The constant that the way down begins with (its values are the first level's `place`)."""
        shape = self.shapes[0][1:]
        return self.ladder[0].place.new_zeros(()).expand(rows, self.width, *shape)

    @property
    def ladder(self) -> list[Level]:
        """The levels, the top first."""
        return [level for level in self.levels if isinstance(level, Level)]

    def output(self, h: Tensor) -> Float[Tensor, "b k *shape"]:
        """The likelihood's parameters from the last state."""
        out = self.leave(resized(h, self.finest))
        if self.spec.planar:
            height, width = self.spec.shape[1:]
            out = F.pixel_shuffle(out, self.fold)[..., :height, :width]
        return out.reshape(len(h), self.likelihood.channels, *self.spec.shape)

    def parameters_of(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None) -> Float[Tensor, "b k *shape"]:
        """What the decoder says of x given codes, which the prior stretches and shifts level after level."""
        h = self.start(len(z))
        for level, code, shape in zip(self.ladder, z.split(self.places, 1), self.shapes, strict=True):
            h = level.arrive(h, embedding)
            (mean, log_sigma), rest = level.expect(h)
            h = level.leave(h, rest, mean + log_sigma.exp() * code.reshape(-1, *shape))
        return self.output(h)

    def weigh(
        self,
        x: Float[Tensor, "b *shape"],
        noise: Float[Tensor, "b k d"],
        embedding: Float[Tensor, "b e"] | None,
        closed: bool = False,
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k l"]]:
        """log p(x | z) of the draws that `noise` makes, and by level log q(z_l | z_<l, x) - log p(z_l | z_<l), or its mean."""
        draws = noise.shape[1]
        features = self.features(x, embedding)
        if draws > 1:
            features = [each.repeat_interleave(draws, 0) for each in features]
            x = x.repeat_interleave(draws, 0)
            embedding = None if embedding is None else embedding.repeat_interleave(draws, 0)
        h, ratios = self.start(len(x)), []
        for level, said, eps, shape in zip(
            self.ladder, features, noise.flatten(0, 1).split(self.places, 1), self.shapes, strict=True
        ):
            eps = eps.reshape(-1, *shape)
            h = level.arrive(h, embedding)
            prior, rest = level.expect(h)
            mean, log_sigma = level.infer(h, said, prior)
            z = mean + log_sigma.exp() * eps
            if closed:
                off = ((mean - prior[0]).square() + (2 * log_sigma).exp()) * (-2 * prior[1]).exp() - 1
            else:
                off = ((z - prior[0]) * (-prior[1]).exp()).square() - eps.square()
            ratios.append((0.5 * off + prior[1] - log_sigma).flatten(1).sum(1))
            h = level.leave(h, rest, z)
        return self.likelihood.log_prob(self.output(h), x).view(-1, draws), torch.stack(ratios, 1).unflatten(0, (-1, draws))

    def encode(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b d"]:
        """The posterior's means, each given the means above it, as the prior sees them: (mean_q - mean_p) / sigma_p."""
        embedding = self.embed(condition, len(x))
        h, codes = self.start(len(x)), []
        for level, said in zip(self.ladder, self.features(x, embedding), strict=True):
            h = level.arrive(h, embedding)
            prior, rest = level.expect(h)
            mean, _ = level.infer(h, said, prior)
            codes.append(((mean - prior[0]) * (-prior[1]).exp()).flatten(1))
            h = level.leave(h, rest, mean)
        return torch.cat(codes, 1)

    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """How the levels are used by data x: active_units of units are the levels with a KL of more than 0.01 nats; kl is that
        of all, kl_level_i of each, the top first."""
        x = fixed_binary(x) if self.binarise else x
        with torch.no_grad():
            rng = SampleRng(EVALUATION_SEED, device=device_of(self))
            said = elbo.use_of_units(self, x, rng, self.embed(condition, len(x)), 4)
        figures = {"active_units": float((said > elbo.WEAK).sum()), "units": float(len(said)), "kl": float(said.sum())}
        return figures | {f"kl_level_{i + 1}": float(value) for i, value in enumerate(said)}
