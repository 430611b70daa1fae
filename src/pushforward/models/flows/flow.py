"""Normalizing flow: a bijection f between data and noise, trained by the exact likelihood of the data.

    z = f(x; c) ~ N(0, I),        log p(x | c) = log N(f(x; c); 0, I) + log |det df/dx|,        x = f^-1(T z; c)

f is a chain of small bijections (bijections/) whose log-determinants add up; what they are is the difference between the
presets:

    nice      additive couplings, and scales at the end (actnorms here)
    realnvp   affine couplings; images by checkerboards and channels, level by level
    glow      affine couplings behind actnorms and invertible 1 x 1 convolutions
    maf       autoregressive and affine: a density in one pass, a sample in as many as there are numbers
    iaf       the inverse of it: a sample in one pass
    nsf       rational-quadratic splines

Levels and categories are dequantised by the training loop, so that the density is one of x + u, and minus its mean log in bits
bounds the code length of the levels from above. Images go through a logit first, from whose noise they come back within
bounds.

Sampling at temperature T < 1 takes z ~ N(0, T^2 I): for a flow of constant volume the samples of p(x)^(1 / T^2).

Dinh et al. 2015 (NICE), arXiv:1410.8516; Dinh et al. 2017 (RealNVP), arXiv:1605.08803; Kingma and Dhariwal 2018 (Glow),
arXiv:1807.03039; Papamakarios et al. 2017 (MAF), arXiv:1705.07057; Kingma et al. 2016 (IAF), arXiv:1606.04934; Durkan et al.
2019 (NSF), arXiv:1906.04032.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Chain
from pushforward.bijections.shapes import Logit, flatten
from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.likelihood import standard_normal
from pushforward.errors import UserError
from pushforward.models.contract import Generator, LogProb, Loss, OptimizerSettings, Player, Update, device_of
from pushforward.models.flows.steps import Form, Mixing, Plan, Transform, image_steps, vector_steps
from pushforward.nets.conditioning import ConditionEmbedding, condition_rates, draw_condition, not_given
from pushforward.randomness import Rng, as_rng

CONTEXT = 64  # numbers of a condition's vector


class Flow(nn.Module):
    """A chain of bijections and a standard normal base.

    Samples, encodes and decodes exactly, and knows the exact density (of dequantised data where they are levels: a bound).

    Args:
        spec: the data.
        form: "coupling", "autoregressive" (a density in one pass, a sample in many) or "inverse-autoregressive".
        transform: of each number: "additive", "affine" or "spline" (rational-quadratic).
        mixing: what is between steps: "reverse", "permutation" (random, fixed), "linear" (LU; of images an invertible 1 x 1
            convolution), "orthogonal", "none"; "auto": linear between couplings, else reverse.
        steps: how many, of images at each level.
        levels: sizes of images that steps work at; each squeezes 2 x 2 pixels, and half of the channels leave.
        checkerboard: couplings of pixels at each size, before it is squeezed.
        actnorm: whether each step begins with a scale and a shift, which start at those of the data.
        width: of the networks, units or channels.
        depth: their hidden layers or blocks.
        bins: of splines.
        bound: splines are the identity beyond +-this.
        alpha: of the logit that images go through: the share of the range that is kept from its ends.
        learning_rate: Adam's.
    """

    dequantise = True

    def __init__(
        self,
        spec: DataSpec,
        *,
        form: Form = "coupling",
        transform: Transform = "affine",
        mixing: Mixing = "auto",
        steps: int = 8,
        levels: int = 2,
        checkerboard: int = 0,
        actnorm: bool = True,
        width: int | None = None,
        depth: int = 2,
        bins: int = 8,
        bound: float = 5.0,
        alpha: float = 0.05,
        learning_rate: float = 1e-3,
    ):
        super().__init__()
        self.spec, self.learning_rate = spec, learning_rate
        image = spec.kind == "image"
        if spec.kind == "tokens":
            raise UserError(f"a flow learns numbers, and '{spec.name}' holds tokens; take gpt.")
        if min(steps, levels, depth) < 1:
            raise UserError(f"steps = {steps}, levels = {levels} and depth = {depth} were given; all are at least 1.")
        planar = image and form == "coupling"
        if form == "coupling" and spec.dimensions < 2:
            raise UserError(
                f"a coupling needs two numbers or more, and '{spec.name}' has {spec.dimensions}; take form='autoregressive'."
            )
        if planar and (odd := [side for side in spec.shape[1:] if side % 2]):
            even = "x".join(str(side + side % 2) for side in spec.shape[1:])
            raise UserError(
                f"images of {spec.shape[1]}x{spec.shape[2]} pixels cannot be squeezed: {odd[0]} is odd. Load them with "
                f"size={even}, or take form='autoregressive'."
            )
        self.embed = ConditionEmbedding(spec.condition, CONTEXT)
        width = width or (64 if planar else 128)
        plan = Plan(form, transform, mixing, steps, actnorm, width, depth, bins, bound, self.embed.width)
        shape = tuple(spec.shape)
        # Levels are in [-1, 1], and dequantised ones half a level further.
        margin = 1.0 + (1.0 / (spec.levels - 1) if spec.levels else 0.0)
        first = [Logit(alpha, -margin, margin)] if image else []
        if planar:
            self.bijection = Chain([*first, image_steps(shape, plan, levels, checkerboard)])
        else:
            self.bijection = Chain([*first, flatten(shape), vector_steps(math.prod(shape), plan)])

    def players(self) -> list[Player]:
        """The bijection; before its first update actnorms take their scales from data."""
        optimizer = OptimizerSettings(self.learning_rate, betas=(0.9, 0.999))
        return [
            Player("start", self.bijection, update=self.begin),
            Player("flow", [self.bijection, self.embed], self.loss, optimizer=optimizer),
        ]

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """Actnorms are told the first data."""
        for batch in batches:
            self.bijection.start(batch.x, self.embed.of(batch.condition, len(batch)))
            break
        return Update({}, finished=True)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """-log p(x | c) in nats, on average over rows."""
        nats = -self.density(batch.x, batch.condition).mean()
        return Loss(nats, {"nats": nats.detach()})

    def density(self, x: Float[Tensor, "b *shape"], condition: Tensor | None) -> Float[Tensor, " b"]:
        """log p(x | c)."""
        z, log_det = self.bijection(x, self.embed.of(condition, len(x)))
        return standard_normal(z) + log_det

    def log_prob(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> LogProb:
        """Exact, in nats. Without a condition that of all classes together, weighed by their frequencies."""
        known = self.spec.condition
        if known is None or condition is not None:
            return LogProb(self.density(x, condition), "exact")
        if known.kind != "class":
            raise not_given(known)
        rates = condition_rates(known, x.device)
        each = [self.density(x, torch.full((len(x),), k, device=x.device)) for k in range(known.size)]
        return LogProb(torch.logsumexp(torch.stack(each, 1) + rates.log().to(each[0].dtype), 1), "exact")

    def sample(
        self, n: int, *, condition: Tensor | None = None, generator: Generator = None, temperature: float = 1.0
    ) -> Float[Tensor, "n *shape"]:
        """f^-1(T z).

        Args:
            condition: (n,) classes or (n, A) attributes; None: as frequent as in the training set.
            temperature: T, the standard deviation of z; below 1 samples are more typical and less diverse.
        """
        if not temperature >= 0:
            raise UserError(f"temperature = {temperature} was given; it is a standard deviation, at least 0.")
        rng = as_rng(generator, device_of(self))
        if condition is None and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, n, rng)
        z = temperature * rng.randn(n, self.spec.dimensions)
        with torch.no_grad():
            return self.decode(z, condition=condition)

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n d"]:
        """z ~ N(0, I)."""
        return as_rng(generator, device_of(self)).randn(n, self.spec.dimensions)

    def encode(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b d"]:
        """z = f(x; c), of which `decode` makes x again."""
        return self.bijection(x, self.embed.of(condition, len(x)))[0]

    def decode(self, z: Float[Tensor, "b d"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """x = f^-1(z; c)."""
        return self.bijection.inverse(z, self.embed.of(condition, len(z)))
