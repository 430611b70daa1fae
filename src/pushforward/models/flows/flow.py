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
    residual-flow   x + g(x) with contractions g; in many dimensions the log-determinant is an estimate
    ffjord    the way along a velocity; likewise

Levels and categories are dequantised by the training loop, so that the density is one of x + u, and minus its mean log in bits
bounds the code length of the levels from above; or by noise that is learned, for a bound that is closer (dequantisation.py).
Images go through a logit first, from whose noise they come back within bounds.

Sampling at temperature T < 1 takes z ~ N(0, T^2 I): for a flow of constant volume the samples of p(x)^(1 / T^2).

Dinh et al. 2015 (NICE), arXiv:1410.8516; Dinh et al. 2017 (RealNVP), arXiv:1605.08803; Kingma and Dhariwal 2018 (Glow),
arXiv:1807.03039; Papamakarios et al. 2017 (MAF), arXiv:1705.07057; Kingma et al. 2016 (IAF), arXiv:1606.04934; Durkan et al.
2019 (NSF), arXiv:1906.04032; Chen et al. 2019 (residual flows), arXiv:1906.02735; Grathwohl et al. 2019 (FFJORD),
arXiv:1810.01367; Ho et al. 2019 (Flow++), arXiv:1902.00275; Lugmayr et al. 2020 (SRFlow), arXiv:2006.14200.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Chain
from pushforward.bijections.estimates import drawing, estimates
from pushforward.bijections.residual import Residual
from pushforward.bijections.shapes import Logit, flatten
from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.likelihood import standard_normal
from pushforward.errors import UserError, checked_temperature
from pushforward.models.contract import (
    Generator,
    LogProb,
    Loss,
    Moment,
    OptimizerSettings,
    Player,
    Update,
    device_of,
    evaluating,
)
from pushforward.models.flows.context import ImageContext
from pushforward.models.flows.dequantisation import Dequantiser
from pushforward.models.flows.steps import STEPWISE, Form, Mixing, Plan, Transform, can_be_squeezed, image_steps, vector_steps
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, draw_condition, mixture, not_given
from pushforward.nets.lipschitz import follow
from pushforward.randomness import Rng, SampleRng, as_rng

START = 2**17  # numbers of the data that actnorms begin with
HELD = 10.0  # what pulls a code to the middle is, in training, never stronger than at this distance
CONTEXT = 64  # numbers of a condition's vector, channels of an image's features


def held(z: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """log N(z; 0, I) whose gradient is -z within +-HELD, and beyond stays as it is there.

    A row with numbers of 100 deviations has a gradient of 1,000 times the usual one, whose square Adam then divides by for
    1,000 updates: held, a table with such rows gained about 2 nats after 150 updates.
    """
    fixed = z.detach()
    return standard_normal(fixed) - (fixed.clamp(-HELD, HELD) * (z - fixed)).flatten(1).sum(1)


class Flow(nn.Module):
    """A chain of bijections and a standard normal base.

    Samples, encodes and decodes exactly, and knows the exact density (of dequantised data where they are levels: a bound).
    Residual and continuous flows do so to the tolerance of a solver, and know in many dimensions an estimate of the density.

    Args:
        spec: the data; an image as condition is for couplings of images alone.
        form: "coupling", "autoregressive" (a density in one pass, a sample in many), "inverse-autoregressive", "residual" or
            "continuous".
        transform: of each number, but for residual and continuous flows: "additive", "affine" or "spline"
            (rational-quadratic).
        mixing: what is between steps, but for those: "linear" (LU; of images an invertible 1 x 1 convolution), "orthogonal",
            "permutation" (random, fixed), "reverse" (couplings move their halves by turns in any case), "none"; "auto": linear
            between couplings, else reverse.
        steps: how many, of images at each level.
        levels: sizes of images that steps work at; each squeezes 2 x 2 pixels, and half of the channels leave. None: 2, or 1
            where the image cannot be halved twice.
        checkerboard: couplings by the colours of a checkerboard of pixels, at each size, ahead of the steps.
        actnorm: whether each step begins with a scale and a shift, which start at those of the data.
        width: of the networks, units or channels.
        depth: their hidden layers or blocks.
        bins: of splines.
        bound: splines are the identity beyond +-this.
        alpha: of the logit that images go through: the share of the range that is kept from its ends.
        dequantisation: of the levels of images: "uniform" noise, or "variational", which is learned.
        learning_rate: Adam's.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        form: Form = "coupling",
        transform: Transform = "affine",
        mixing: Mixing = "auto",
        steps: int = 8,
        levels: int | None = None,
        checkerboard: int = 0,
        actnorm: bool = True,
        width: int | None = None,
        depth: int = 2,
        bins: int = 8,
        bound: float = 5.0,
        alpha: float = 0.05,
        dequantisation: Literal["uniform", "variational"] = "uniform",
        learning_rate: float = 1e-3,
    ):
        super().__init__()
        self.spec = spec
        # Gradients of log-densities differ by orders of magnitude between batches, and those that a clip to 1 holds back are
        # what a flow learns by: on a table of ten columns it cost 1.1 nats after 400 updates.
        self.optimizer = OptimizerSettings(learning_rate, betas=(0.9, 0.999), clip=0.0)
        if spec.kind == "tokens":
            raise UserError(f"a flow learns numbers, and '{spec.name}' holds tokens; take gpt.")
        for name, number in (("steps", steps), ("levels", 1 if levels is None else levels), ("depth", depth)):
            if number < 1:
                raise UserError(f"{name} = {number} was given; it is at least 1.")
        if form == "coupling" and spec.dimensions < 2:
            raise UserError(
                f"a coupling needs two numbers or more, and '{spec.name}' has {spec.dimensions}; take form='autoregressive'."
            )
        shape, image = tuple(spec.shape), spec.kind == "image"
        planar = self.checked_planar(form)
        stepwise = form in STEPWISE
        splines = stepwise and transform == "spline"
        for name, value, usual, used, without in (
            ("transform", transform, "affine", stepwise, f"form={form}, which moves all numbers at once"),
            ("mixing", mixing, "auto", stepwise, f"form={form}, which mixes by itself"),
            ("bins", bins, 8, splines, "a flow without splines (form=coupling or autoregressive, transform=spline)"),
            ("bound", bound, 5.0, splines, "a flow without splines (form=coupling or autoregressive, transform=spline)"),
            (
                "levels",
                None if levels == 1 else levels,
                None,
                planar,
                f"form={form} of data of shape {shape}, which go as vectors",
            ),
            ("checkerboard", checkerboard, 0, form == "coupling", f"form={form}"),  # of vectors realnvp's is ignored
            ("alpha", alpha, 0.05, image, "data that are no images"),
        ):
            if value != usual and not used:
                raise UserError(f"{name} = {value} was given, which means nothing to {without}; leave it out.")
        levels = self.checked_levels(levels) if planar else 1
        width = width or (64 if planar and form == "coupling" else 32 if planar else 64 if form == "continuous" else 128)
        given = spec.condition
        self.embed: ConditionEmbedding | ImageContext
        seen = given is not None and given.kind == "image" and planar and form == "coupling"
        if given is not None and seen:
            self.embed = ImageContext(given.shape, CONTEXT, width)
        else:
            self.embed = ConditionEmbedding(given, CONTEXT)
        plan = Plan(form, transform, mixing, steps, actnorm, width, depth, bins, bound, self.embed.width, seen)
        # Levels are in [-1, 1], and dequantised ones half a level further; the logit reaches beyond them.
        margin = 1.0 + (1.0 / (spec.levels - 1) if spec.levels else 0.0)
        first = [Logit(alpha, -margin, margin)] if image else []
        self.reach = margin / (1 - 2 * alpha) if image else math.inf
        if planar:
            self.bijection = Chain([*first, image_steps(shape, plan, levels, checkerboard if form == "coupling" else 0)])
        else:
            self.bijection = Chain([*first, flatten(shape), vector_steps(math.prod(shape), plan)])
        self.dequantiser = Dequantiser(spec, width, depth) if dequantisation == "variational" else None
        self.mass = self.dequantiser is not None
        self.dequantise = not self.mass

    def checked_planar(self, form: Form) -> bool:
        """Whether steps work level by level. Fields that cannot be squeezed go as vectors; images are refused, but for
        autoregressive maps, which all go as vectors."""
        spec = self.spec
        if form not in ("coupling", "residual", "continuous") or not spec.planar:
            return False
        if spec.kind == "image" and (odd := [side for side in spec.shape[1:] if side % 2]):
            even = "x".join(str(side + side % 2) for side in spec.shape[1:])
            raise UserError(
                f"images of {spec.shape[1]}x{spec.shape[2]} pixels cannot be squeezed: {odd[0]} is odd. Load them with "
                f"size={even}, or take form='autoregressive'."
            )
        return can_be_squeezed(tuple(spec.shape), 1)

    def checked_levels(self, levels: int | None) -> int:
        """As many as were asked for, or by default at most 2."""
        shape = tuple(self.spec.shape)
        able = max(times for times in range(1, max(shape[1:]).bit_length()) if can_be_squeezed(shape, times))
        if levels is not None and levels > able:
            raise UserError(
                f"levels = {levels} was given; each halves both sides, and {shape[1]}x{shape[2]} can be halved {able} "
                f"time{'' if able == 1 else 's'}: give levels={able}, or load images of a size that 2^{levels} divides."
            )
        return levels or min(2, able)

    def players(self) -> list[Player]:
        """The bijection; before its first update actnorms take their scales from data."""
        modules: list[nn.Module] = [self.bijection, self.embed]
        if self.dequantiser is not None:
            modules.append(self.dequantiser)
        after = self.after_update if any(isinstance(part, Residual) for part in self.bijection.modules()) else None
        return [
            Player("start", self.bijection, update=self.begin),
            Player("flow", modules, self.loss, optimizer=self.optimizer, after_update=after),
        ]

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """Actnorms are told the first data, as many as say enough."""
        for batch in batches:
            some = slice(None, None, -(-len(batch) // max(64, START // self.spec.dimensions)))
            x, condition = batch.x[some], None if batch.condition is None else batch.condition[some]
            with drawing(self.bijection, rng):
                self.bijection.start(self.dequantised(x, rng)[0], self.told(condition, len(x)))
            break
        return Update({}, finished=True)

    def after_update(self, kept: dict[str, Tensor], moment: Moment) -> None:
        """Residual maps follow the singular values of their weights: by one power iteration they lag behind, to a slope of 1.2
        in place of 0.9."""
        follow(self.bijection, iterations=5)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """-log p(x | c) in nats, on average over rows; of levels, where their noise is learned, minus its bound."""
        nats = -self.drawn_density(batch.x, self.embed.of(batch.condition, len(batch)), rng).mean()
        return Loss(nats, {"nats": nats.detach()})

    def told(self, condition: Tensor | None, rows: int) -> Tensor | None:
        """What the networks are told of a condition. Raises UserError where the data have one and none is given, and for others
        than they have."""
        known = self.spec.condition
        if known is not None and condition is None and known.kind not in ("class", "attributes"):
            raise not_given(known)
        return self.embed.of(checked_condition(known, condition, rows, device_of(self), needed=True), rows)

    def dequantised(self, x: Float[Tensor, "b *shape"], rng: Rng) -> tuple[Tensor, Tensor | float]:
        """x with noise that is learned, and -log q of it; x itself and 0 without a dequantiser."""
        return (x, 0.0) if self.dequantiser is None else self.dequantiser(x, rng)

    def density(self, x: Float[Tensor, "b *shape"], context: Tensor | None) -> Float[Tensor, " b"]:
        """log p(x | c), c as the networks are told it."""
        z, log_det = self.bijection(x, context)
        return (held(z) if self.training else standard_normal(z)) + log_det

    def drawn_density(self, x: Float[Tensor, "b *shape"], context: Tensor | None, rng: Rng) -> Float[Tensor, " b"]:
        """log p(x | c), or an estimate of it or of its bound with one draw."""
        with drawing(self.bijection, rng):
            x, entropy = self.dequantised(x, rng)
            return self.density(x, context) + entropy

    def log_prob(
        self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, draws: int = 8, generator: Generator = 0
    ) -> LogProb:
        """In nats. Without a condition that of all classes together, weighed by their frequencies.

        Exact, to the solver's tolerance in continuous flows. Where log-determinants are estimated (residual maps of more than
        256 numbers, continuous flows of more than 64) an estimate, the mean of `draws` (at least 2) with its standard error.
        Where the noise of levels is learned a bound, the log of the mean of `draws` importance weights p / q (Burda et al.
        2016), which rises with them; estimated as well, it is an estimate of the bound of one draw.

        Args:
            draws: where anything is drawn.
            generator: what they are drawn from.

        Raises UserError for x that are not finite, or so far from all data that their density is not.
        """
        self.check(x)
        rng = as_rng(generator, x.device)
        with evaluating(self):  # solvers and series are short in training
            estimate = estimates(self.bijection)
            if draws < 1 or (estimate and draws < 2):
                raise UserError(f"draws = {draws} was given; it is at least 1, and 2 where the density is an estimate.")
            passes = draws if estimate or self.mass else 1
            joint = torch.stack([self.joint(x, condition, rng) for _ in range(passes)])
        self.refuse_infinite(joint.sum(0).logsumexp(1), x)
        if not estimate:
            return LogProb(joint.logsumexp((0, 2)) - math.log(passes), "bound" if self.mass else "exact")
        # The mean comes first: the logsumexp of noisy logs is too large. Its error is that of the classes that count.
        mean = joint.mean(0)
        spread = (joint * mean.softmax(1)).sum(2).std(0)
        return LogProb(mean.logsumexp(1), "estimate", spread / math.sqrt(passes))

    def joint(self, x: Float[Tensor, "b *shape"], condition: Tensor | None, rng: Rng) -> Float[Tensor, "b k"]:
        """`drawn_density` given the condition (B, 1), or without a class log p(c) p(x | c) of all classes c (B, K), estimated
        with the same noise for all of them."""
        known, rows = self.spec.condition, len(x)
        if known is None or known.kind != "class" or condition is not None:
            return self.drawn_density(x, self.told(condition, rows), rng)[:, None]
        some, rates = mixture(known, x.device)
        x, entropy = self.dequantised(x, rng)
        key, each = int(2**31 * rng.shared(1).double()), []
        for c in some:
            with drawing(self.bijection, SampleRng(key, device=x.device)):
                each.append(self.density(x, self.told(c.expand(rows, *c.shape), rows)) + entropy)
        return torch.stack(each, 1) + rates.log().to(each[0].dtype)

    def check(self, x: Float[Tensor, "b *shape"]) -> None:
        """Raises UserError for x of another shape, not finite, or beyond the levels."""
        if tuple(x.shape[1:]) != tuple(self.spec.shape):
            raise UserError(f"data of shape {tuple(x.shape[1:])} were given; this flow was built for {tuple(self.spec.shape)}.")
        if not bool(x.isfinite().all()):
            row = int((~x.flatten(1).isfinite()).any(1).nonzero()[0])
            raise UserError(f"data with numbers that are not finite were given, first in row {row}; remove or replace them.")
        if len(x) and float(x.detach().abs().max()) > self.reach:
            raise UserError(
                f"images with values from {float(x.min()):.4g} to {float(x.max()):.4g} were given; they go from -1 to 1: "
                "rescale them."
            )

    def refuse_infinite(self, values: Tensor, x: Tensor) -> None:
        """Raises UserError where log-densities or codes (B, ...) of x are not finite."""
        bad = (~values.flatten(1).isfinite()).any(1) if values.dim() > 1 else ~values.isfinite()
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            size = float(x[row].detach().abs().max())
            raise UserError(
                f"{int(bad.sum())} of {len(bad)} data have no finite density or code under this flow, first row {row}, with "
                f"numbers up to {size:.4g} where data have about 1: leave them out, or see whether training went astray."
            )

    def sample(
        self, n: int, *, condition: Tensor | None = None, generator: Generator = None, temperature: float = 1.0
    ) -> Float[Tensor, "n *shape"]:
        """f^-1(T z).

        Args:
            condition: (n,) classes or (n, A) attributes; None: as frequent as in the training set.
            temperature: T, the standard deviation of z; below 1 samples are more typical and less diverse.
        """
        temperature = checked_temperature(temperature, zero=True)
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
        self.check(x)
        with evaluating(self):
            z = self.bijection(x, self.told(condition, len(x)))[0]
        self.refuse_infinite(z, x)
        return z

    def decode(self, z: Float[Tensor, "b d"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """x = f^-1(z; c)."""
        with evaluating(self):
            return self.bijection.inverse(z, self.told(condition, len(z)))
