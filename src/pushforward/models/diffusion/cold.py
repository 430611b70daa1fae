"""Cold diffusion: a network learns to undo a degradation that need not be noise, and samples are restored out of what the
degradation leaves of anything.

D(x, t) degrades data x, more with t: D(x, 0) = x, and D(x, 1) says little of x. A network R is trained to undo it,

    L = E_{t, x} | R(D(x, t), t) - x |_1.

What is degraded is restored in steps from t to s < t, with x0 = R(x_t, t). Algorithm 1 degrades the guess anew,
x_s = D(x0, s), so that each error of R stays for good. Algorithm 2, the improved sampler, takes away what the guess would have
suffered and gives back less of it:

    x_s = x_t - D(x0, t) + D(x0, s).

Where D(x, t) = x + t e(x), linear in t, an error of R changes x_s by (s - t)(e(R) - e(x)) alone: none where e is the same for
all data, whatever R says. What every D does to all data alike cancels in the same way.

With D(x, t) = alpha(t) x + sigma(t) z, z of each step read off x_t and the guess, x_t - D(x0, t) is 0 and the sampler is DDIM.

Generation begins at a law of D(x, 1), here a Gaussian of the few numbers that it still says (for each class), plus noise of a
small deviation: without it all that is alike at the end would be restored alike (section 5 of the paper).

Bansal et al. 2022, "Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise", arXiv:2208.09392. The blur is the heat
equation's, as in Rissanen et al. 2022, arXiv:2206.13397.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.paths import expand, find_path
from pushforward.dynamics.solvers import time_grid
from pushforward.errors import UserError, nearest
from pushforward.models.classical.gaussian import Gaussian
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, Update, device_of
from pushforward.models.diffusion.backbone import backbone, choose
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, draw_condition
from pushforward.randomness import Rng, as_rng

Sampler = Literal["improved", "naive"]


class Degradation(ABC):
    """x_t = D(x, t), t from 0 (x itself) to 1, of data of one shape. known: how many numbers D(x, 1) is a function of."""

    known = 0

    @abstractmethod
    def __call__(self, x: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], given: Tensor | None = None) -> Tensor:
        """D(x, t). given: what was drawn for each datum; None: where nothing is drawn, or its middle."""

    def drawn(self, rows: int, rng: Rng) -> Tensor | None:
        """What is random in the degradation of each datum, the same at all t; None where nothing is."""
        return None

    def inferred(
        self, x_t: Float[Tensor, "b *shape"], x0: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], given: Tensor | None
    ) -> Tensor | None:
        """`given`, as x_t says it if it comes of x0."""
        return given

    def summary(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b known"]:
        """What D(x, 1) still says of x."""
        return x.new_zeros(len(x), 0)

    def spread(self, summary: Float[Tensor, "b known"]) -> Tensor | float:
        """D(x, 1) (B, *shape) of the summary of x."""
        return 0.0


class Blur(Degradation):
    """A Gaussian blur of sigma(t) = t^2 sigma(1) pixels, exactly: exp(-sigma^2 w^2 / 2) for each frequency w of the image.
    Blurs in turn add their sigma^2.

    shape: (C, H, W). coarsest: what is left at t = 1 is about so many pixels a side, sigma(1) = max(H, W) / coarsest; 1
    leaves the mean of each channel. circular: images continue with themselves, not mirrored, at their edges.
    """

    def __init__(self, shape: tuple[int, ...], coarsest: int = 4, circular: bool = False):
        channels, *sides = shape
        self.largest, self.circular = max(sides) / coarsest, circular
        self.kept = [min(2 * coarsest, side) for side in sides]  # beyond them exp(-(2 pi)^2 / 2), 3e-9, is left
        self.channels, self.known = channels, channels * math.prod(self.kept)
        # frequencies rise with their numbers, those of a circle in pairs
        self.basis, self.frequencies = zip(*(_waves(side, circular) for side in sides), strict=True)

    def __call__(self, x: Tensor, t: Float[Tensor, "b"], given: Tensor | None = None) -> Tensor:
        return self.blurred(x, (t**2 * self.largest) ** 2)

    def blurred(self, x: Float[Tensor, "b c h w"], variance: Float[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
        """x blurred by a Gaussian of this variance, in pixels squared, for each row."""
        down, across = (
            torch.exp(-0.5 * variance[:, None] * frequencies.to(x).square()) for frequencies in self.frequencies
        )  # (B, H), (B, W)
        return self._image(down[:, None, :, None] * across[:, None, None, :] * self._waves(x))

    def summary(self, x: Tensor) -> Float[Tensor, "b known"]:
        height, width = self.kept
        ends = self._waves(self(x, x.new_ones(len(x))))
        return ends[:, :, :height, :width].flatten(1) / math.sqrt(math.prod(x.shape[2:]))

    def spread(self, summary: Float[Tensor, "b known"]) -> Float[Tensor, "b c h w"]:
        height, width = (len(frequencies) for frequencies in self.frequencies)
        waves = summary.new_zeros(len(summary), self.channels, height, width)
        waves[:, :, : self.kept[0], : self.kept[1]] = summary.unflatten(1, (self.channels, *self.kept))
        return self._image(waves * math.sqrt(height * width))

    def _waves(self, x: Tensor) -> Tensor:
        down, across = (basis.to(x) for basis in self.basis)
        return down @ x @ across.T

    def _image(self, waves: Tensor) -> Tensor:
        down, across = (basis.to(waves) for basis in self.basis)
        return down.T @ waves @ across


def _waves(size: int, circular: bool) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """An orthonormal basis of waves (its rows) for `size` numbers, mirrored at their ends or continued with themselves, and
    their frequencies in radians a pixel, rising."""
    k = torch.arange(size, dtype=torch.float64)
    at = k + (0.0 if circular else 0.5)
    w = 2 * math.pi * torch.ceil(k / 2) / size if circular else math.pi * k / size
    waves = torch.cos(w[:, None] * at)
    if circular:  # two of each frequency but of 0 and of the highest of an even size
        waves = torch.where(((k % 2 == 0) & (k > 0))[:, None], torch.sin(w[:, None] * at), waves)
    return waves / waves.norm(dim=1, keepdim=True), w


class Masking(Degradation):
    """Pixels within a growing radius of a centre go to 0, those within `soft` pixels of its edge in part; at t = 1 all have.

    shape: (C, H, W). The centre is drawn anywhere for each datum, and is the middle where it was not. soft: pixels; None: a
    quarter of the longer side.
    """

    def __init__(self, shape: tuple[int, ...], soft: float | None = None):
        _, self.height, self.width = shape
        self.soft = max(self.height, self.width) / 4 if soft is None else max(soft, 1e-6)

    def drawn(self, rows: int, rng: Rng) -> Float[Tensor, "b 2"]:
        """Centres, as shares of height and width."""
        return rng.rand(rows, 2)

    def __call__(self, x: Tensor, t: Float[Tensor, "b"], given: Tensor | None = None) -> Tensor:
        return self.seen(x.new_full((len(x), 2), 0.5) if given is None else given.to(x), t) * x

    def seen(self, centre: Float[Tensor, "b 2"], t: Float[Tensor, "b"]) -> Float[Tensor, "b 1 h w"]:
        """What is left of each pixel, 0 to 1."""
        rows, columns = (torch.arange(side).to(centre) + 0.5 for side in (self.height, self.width))
        down, across = centre[:, :1] * self.height - rows, centre[:, 1:] * self.width - columns
        distance = (down[:, None, :, None].square() + across[:, None, None, :].square()).sqrt()
        t = expand(t, distance)
        radius = t * distance.amax((2, 3), keepdim=True) - (1 - t) * self.soft
        return ((distance - radius) / self.soft).clamp(0, 1)


class Pixelate(Degradation):
    """Means over blocks of 1, 2, 4, .. pixels a side at t = 0, 1 / J, 2 / J, .. 1, and in between of both neighbours, by their
    shares. Each image of blocks is a projection of all before.

    shape: (C, H, W). coarsest: at t = 1 there are at most so many blocks a side.
    """

    def __init__(self, shape: tuple[int, ...], coarsest: int = 4):
        channels, *self.sides = shape
        self.levels = max(1, math.ceil(math.log2(max(self.sides) / coarsest)))
        self.blocks = [math.ceil(side / 2**self.levels) for side in self.sides]
        self.channels, self.known = channels, channels * math.prod(self.blocks)

    def __call__(self, x: Tensor, t: Float[Tensor, "b"], given: Tensor | None = None) -> Tensor:
        at = t * self.levels
        shares = [expand((1 - (at - level).abs()).clamp(min=0), x) for level in range(self.levels + 1)]
        found = shares[0] * x
        for level in range(1, self.levels + 1):
            found = found + shares[level] * self._enlarged(self._means(x, level), level)
        return found

    def summary(self, x: Tensor) -> Float[Tensor, "b known"]:
        return self._means(x, self.levels).flatten(1)

    def spread(self, summary: Float[Tensor, "b known"]) -> Float[Tensor, "b c h w"]:
        return self._enlarged(summary.unflatten(1, (self.channels, *self.blocks)), self.levels)

    def _means(self, x: Tensor, level: int) -> Tensor:
        return F.avg_pool2d(x, 2**level, ceil_mode=True)  # at the edge, of the pixels that there are

    def _enlarged(self, means: Tensor, level: int) -> Tensor:
        height, width = self.sides
        return means.repeat_interleave(2**level, 2)[:, :, :height].repeat_interleave(2**level, 3)[..., :width]


class Fade(Degradation):
    """D(x, t) = (1 - t) x: to 0, the mean of the data's units, which is grey in images."""

    def __init__(self, shape: tuple[int, ...]):
        pass

    def __call__(self, x: Tensor, t: Float[Tensor, "b"], given: Tensor | None = None) -> Tensor:
        return expand(1 - t, x) * x


class Noise(Degradation):
    """D(x, t) = alpha(t) x + sigma(t) z with one standard normal z for each datum, on a path of dynamics/paths.py (here and by
    default cos and sin of a quarter turn). z is read off x_t where it was not given."""

    def __init__(self, shape: tuple[int, ...], path: str = "trigonometric"):
        self.shape, self.path = tuple(shape), find_path(path)

    def drawn(self, rows: int, rng: Rng) -> Tensor:
        return rng.randn(rows, *self.shape)

    def __call__(self, x: Tensor, t: Float[Tensor, "b"], given: Tensor | None = None) -> Tensor:
        alpha, sigma, _, _ = self.path(t)
        return expand(alpha, x) * x + (0.0 if given is None else expand(sigma, x) * given)

    def inferred(self, x_t: Tensor, x0: Tensor, t: Float[Tensor, "b"], given: Tensor | None) -> Tensor:
        alpha, sigma, _, _ = self.path(t)
        return (x_t - expand(alpha, x0) * x0) / expand(sigma, x0)


DEGRADATIONS: dict[str, Callable[[tuple[int, ...], int], Degradation]] = {
    "blur": lambda shape, coarsest: Blur(shape, coarsest),
    "circular-blur": lambda shape, coarsest: Blur(shape, coarsest, circular=True),
    "mask": lambda shape, coarsest: Masking(shape),
    "hard-mask": lambda shape, coarsest: Masking(shape, soft=0.0),
    "pixelate": lambda shape, coarsest: Pixelate(shape, coarsest),
    "fade": lambda shape, coarsest: Fade(shape),
    "noise": lambda shape, coarsest: Noise(shape),
}


def restored(
    restore: Callable[[Tensor, Tensor], Tensor],
    degradation: Degradation,
    x: Float[Tensor, "b *shape"],
    times: Float[Tensor, "k"],
    *,
    sampler: Sampler = "improved",
    given: Tensor | None = None,
    trajectory: bool = False,
) -> Tensor:
    """x at times[0], degraded, through falling `times` to times[-1]; with `trajectory` x at all of them (K, B, *shape).

    restore: R, of x_t (B, *shape) and t (B,). sampler: "improved", x_s = x_t - D(x0, t) + D(x0, s), or "naive", x_s = D(x0, s).
    given: what was drawn for each datum, where it is known.
    """
    states = [x]
    for t, s in itertools.pairwise(times):
        at, to = t.expand(len(x)), s.expand(len(x))
        x0 = restore(x, at)
        own = degradation.inferred(x, x0, at, given)
        less = degradation(x0, to, own)
        x = less if sampler == "naive" else x - degradation(x0, at, own) + less
        states.append(x)
    return torch.stack(states) if trajectory else x


class Cold(nn.Module):
    """Cold diffusion. `restore` undoes a degradation of known strength, `encode` does one, and `decode` restores from the end.

    Args:
        spec: what a datum and its condition are.
        degradation: "blur", "circular-blur", "mask", "hard-mask" (of a random centre), "pixelate"; of any numbers "fade" (to 0)
            and "noise" (to one image of noise for each datum).
        coarsest: of blurs and pixelate: about how many pixels a side are left of the image at t = 1.
        symmetry: standard deviation of the noise that is added to what samples begin at.
        network: "mlp" (vectors, tiny images), "unet" (images), a transformer of patches ("dit-nano" ..), or "auto".
        width: units of the MLP's layers, or channels of the U-Net at full resolution.
        depth: residual blocks of the MLP, or of the U-Net at each resolution.
        dropout: rate inside the residual blocks.
        condition_dropout: share of rows trained without their condition, needed to restore without one.
        net: your own network, any module called net(x_t, t, embedding), which gives R(x_t, t) - x_t, or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        sampler: "improved" (Algorithm 2) or "naive" (Algorithm 1), where none is named.
        steps: of it.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        degradation: str = "blur",
        coarsest: int = 4,
        symmetry: float = 0.01,
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.0,
        condition_dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        sampler: str = "improved",
        steps: int = 32,
    ):
        super().__init__()
        self.spec, self.symmetry, self.condition_dropout = spec, symmetry, condition_dropout
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        if degradation not in DEGRADATIONS:
            raise UserError(f"there is no degradation '{degradation}'; {nearest(degradation, DEGRADATIONS)}")
        if degradation not in ("fade", "noise") and not spec.planar:
            raise UserError(
                f"degradation='{degradation}' is of images, and '{spec.name}' holds {spec.kind} data of shape {spec.shape}; "
                "degradation=noise and degradation=fade are of any numbers."
            )
        if spec.planar and not 1 <= coarsest <= max(spec.shape[1:]):
            raise UserError(
                f"coarsest = {coarsest} was given; it is a number of pixels a side, from 1 to the {max(spec.shape[1:])} that "
                "images have."
            )
        if not (math.isfinite(symmetry) and symmetry >= 0):
            raise UserError(f"symmetry = {symmetry} was given; it is a standard deviation, 0 or more.")
        if not 0 <= condition_dropout < 1:
            raise UserError(f"condition_dropout is a share from 0 up to (not including) 1; {condition_dropout} was given.")
        self.sampler, self.steps = _checked_sampler(sampler), steps
        time_grid((0.0, 1.0), steps)  # says what is wrong with them
        self.degradation = DEGRADATIONS[degradation](spec.shape, coarsest)
        kind, width, embedding = choose(network, spec, width)
        self.embed = ConditionEmbedding(spec.condition, embedding)
        self.net = backbone(spec, kind, width, depth, embedding, dropout) if net is None else net
        classes = spec.condition if spec.classes else None
        known = self.degradation.known
        self.law = Gaussian(DataSpec("point", (known,), condition=classes), regularisation=1e-8) if known else None

    def predict(
        self,
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        *,
        condition: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Float[Tensor, "b *shape"]:
        """R(x_t, t): x_t and what the network adds to it."""
        return x_t + self.net(x_t, t, self.embed(condition, len(x_t), drop))

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """|R(D(x, t), t) - x|, a mean over rows and dimensions, at uniform t."""
        rows, x = len(batch), batch.x
        t = rng.rand(rows)
        x_t = self.degradation(x, t, self.degradation.drawn(rows, rng))
        drop = self.embed.hidden(rows, self.condition_dropout, rng)
        return Loss((self.predict(x_t, t, condition=batch.condition, drop=drop).float() - x).abs().mean())

    def players(self) -> list[Player]:
        settings = OptimizerSettings(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        player = Player("restoration", [self.net, self.embed], self.loss, optimizer=settings, validates=True)
        return [player] if self.law is None else [Player("end", self.law, update=self._fit_end), player]

    def _fit_end(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """The law of D(x, 1), in one pass."""
        assert self.law is not None
        classed = bool(self.spec.classes)
        return self.law.fit(
            (Batch(self.degradation.summary(b.x.float()), b.condition if classed else None) for b in batches), rng
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        """Draws x (n, *spec.shape): restored from a draw of the law at t = 1. What is None is as the model was built.

        Of a mask and of fade nothing is left at t = 1, so that samples differ by their class and the noise `symmetry` alone.

        Args:
            n: how many.
            condition: classes (n,) or attributes (n, A); None draws them as frequent as in the data.
            generator: an Rng, a torch.Generator or a seed.
            steps: of the sampler.
            sampler: "improved" (Algorithm 2) or "naive" (Algorithm 1).
        """
        return self._drawn(n, condition, generator, self.steps if steps is None else steps, sampler)

    @torch.no_grad()
    def trajectory(
        self, n: int, *, frames: int = 8, condition: Tensor | None = None, generator: Generator = None
    ) -> Float[Tensor, "frames n *shape"]:
        """The way of `sample` from the degraded end to data, frames evenly spaced in steps."""
        if frames < 2:
            raise UserError(f"a trajectory has at least 2 frames, its end and its datum; {frames} were asked for.")
        steps = max(self.steps, frames - 1)
        states = self._drawn(n, condition, generator, steps, trajectory=True)
        return states[torch.linspace(0, steps, frames).round().long().to(states.device)]

    def _drawn(
        self,
        n: int,
        condition: Tensor | None,
        generator: Generator,
        steps: int,
        sampler: str | None = None,
        trajectory: bool = False,
    ) -> Tensor:
        rng = as_rng(generator, device_of(self))
        known = self.spec.condition
        if condition is None and known is not None and known.kind != "vector":
            condition = draw_condition(known, n, rng)
        end = self.draw_codes(n, condition=condition, generator=rng)
        return self.restore(
            end,
            condition=condition,
            given=None if isinstance(self.degradation, Noise) else self.degradation.drawn(n, rng),
            steps=steps,
            sampler=sampler,
            trajectory=trajectory,
        )

    def restore(
        self,
        x_t: Float[Tensor, "b *shape"],
        t: float = 1.0,
        *,
        condition: Tensor | None = None,
        given: Tensor | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        trajectory: bool = False,
    ) -> Tensor:
        """x (B, *shape) of x_t = D(x, t); with `trajectory` also all on the way (steps + 1, B, *shape).

        Args:
            x_t: degraded data, in the model's units.
            t: how far, above 0 up to 1.
            condition: classes (B,) or attributes (B, A); None: none is known.
            given: of a mask its centres (B, 2), as shares of height and width (None: the middle).
            steps, sampler: as of `sample`.

        Raises UserError for a t outside (0, 1], and for what does not fit.
        """
        if not 0 < t <= 1:
            raise UserError(f"t = {t} was given; it says how far x is degraded, above 0 (not at all) and up to 1 (fully).")
        if tuple(x_t.shape[1:]) != tuple(self.spec.shape):
            raise UserError(f"data of shape {tuple(x_t.shape[1:])} were given; this model restores {tuple(self.spec.shape)}.")
        asked = checked_condition(self.spec.condition, condition, len(x_t), device_of(self), needed=not self.condition_dropout)
        times = time_grid((0.0, t), self.steps if steps is None else steps, like=x_t)
        return restored(
            lambda x, at: self.predict(x, at, condition=asked),
            self.degradation,
            x_t,
            times,
            sampler=_checked_sampler(sampler or self.sampler),
            given=given,
            trajectory=trajectory,
        )

    def encode(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, t: float = 1.0) -> Tensor:
        """D(x, t), at its middle where the degradation is random (of noise: without any)."""
        if not 0 <= t <= 1:
            raise UserError(f"t = {t} was given; it goes from 0 (the data) to 1 (fully degraded).")
        return self.degradation(x, x.new_full((len(x),), t))

    def decode(self, z: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, steps: int | None = None) -> Tensor:
        """What is fully degraded, restored."""
        return self.restore(z, condition=condition, steps=steps)

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Tensor:
        """What samples are restored from (n, *shape): noise, or D(x, 1) by its law and noise of deviation `symmetry`."""
        rng = as_rng(generator, device_of(self))
        if isinstance(self.degradation, Noise):
            return rng.randn(n, *self.spec.shape)
        end: Tensor | float = 0.0
        if self.law is not None:
            end = self.degradation.spread(self.law.sample(n, condition=condition if self.spec.classes else None, generator=rng))
        return end + self.symmetry * rng.randn(n, *self.spec.shape)


def _checked_sampler(sampler: str) -> Sampler:
    if sampler not in get_args(Sampler):
        raise UserError(f"there is no sampler '{sampler}' of cold diffusion; {nearest(sampler, get_args(Sampler))}")
    return sampler  # type: ignore[return-value]
