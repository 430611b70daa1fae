"""PixelRNN and PixelCNN: images one pixel after another, in raster order, and in each the channels in order (R, G, B),

    log p(x) = sum_i sum_c log p(x_ic | x_<i, x_i,<c),

each factor a law over the L levels of a channel (`distributions/pixels.py`) whose numbers a causal network gives, all of them
in one pass (`nets/pixel_cnn.py`, `nets/pixel_rnn.py`). The density is exact, the loss its negative:

    pixelcnn           masked convolutions, one stack
    gated              gated convolutions, two stacks: no blind spot
    plusplus           two streams of residual blocks, halved and doubled; as a rule a mixture of logistics (PixelCNN++)
    row-lstm           a state that runs down the rows
    diagonal-bilstm    states that run along the diagonals, to the right and to the left

The networks read the levels in [-1, 1] (of codes an embedding) and three more planes: ones, which tell the image from the
zeros around it, rows and columns. A class is added in every layer.

Sampling takes a step for each pixel; what earlier steps have computed is kept, so that all steps together cost about one pass
(of PixelCNN++ alone one pass over the rows so far each).

Sources: van den Oord et al. 2016, arXiv:1601.06759 and arXiv:1606.05328; Salimans et al. 2017, arXiv:1701.05517.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.data.units import units
from pushforward.distributions.likelihoods import binary, fixed_binary
from pushforward.distributions.pixels import Bernoulli, Categorical, LogisticMixture, PixelLaw
from pushforward.errors import UserError, checked_temperature, nearest
from pushforward.models.contract import (
    Generator,
    LogProb,
    Loss,
    OptimizerSettings,
    Player,
    checked_mask,
    device_of,
    evaluating,
)
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, draw_condition, marginal
from pushforward.nets.masked_conv import PixelNetwork
from pushforward.nets.pixel_cnn import GatedPixelCNN, PixelCNN, PixelCNNPlusPlus
from pushforward.nets.pixel_rnn import DiagonalBiLSTM, RowLSTM
from pushforward.randomness import Rng, as_rng

Network = Literal["pixelcnn", "gated", "plusplus", "row-lstm", "diagonal-bilstm"]
Law = Literal["auto", "bernoulli", "categorical", "logistic"]

# Each with its width and depth where none is given, and the options it has beside.
NETWORKS: dict[str, tuple[type[PixelNetwork], int, int, tuple[str, ...]]] = {
    "pixelcnn": (PixelCNN, 32, 6, ("kernel",)),
    "gated": (GatedPixelCNN, 32, 6, ("kernel",)),
    "plusplus": (PixelCNNPlusPlus, 32, 1, ("halvings",)),
    "row-lstm": (RowLSTM, 32, 3, ("kernel",)),
    "diagonal-bilstm": (DiagonalBiLSTM, 32, 3, ()),
}
CONTEXT = 64  # numbers of a condition's vector
EMBEDDING = 32  # and of a code's
WHERE = 3  # planes that say where a pixel is
MIXTURES = 10  # components of a mixture of logistics, where none are given
SOFTMAX = 256  # levels that a softmax is for


class PixelModel(nn.Module):
    """Pixels one after another: images of levels, and codes on a grid.

    Args:
        spec: images with levels, or tokens whose vocabulary has a grid.
        network: pixelcnn, gated, plusplus, row-lstm or diagonal-bilstm.
        likelihood: bernoulli (two levels, or `binarise`), categorical (a softmax over the levels), logistic (a mixture of
            discretised logistics); auto: bernoulli for black and white, logistic for plusplus and for more than 256 levels,
            categorical for the rest.
        binarise: Draw black and white images from the grey levels anew at each update, and learn those.
        width: Feature maps; None: 32. (pixelcnn and the LSTMs have twice as many between their layers.)
        depth: Layers, of plusplus blocks at each size on either way; None: 6 of pixelcnn and gated, 1 of plusplus, 3 of LSTMs.
        kernel: Pixels across the convolutions of pixelcnn, gated and row-lstm, odd; None: 3. (The first has 7.)
        halvings: How often plusplus halves the image; None: 2.
        mixtures: Components of the logistic mixture; None: 10.
        dropout: Rate at which feature maps are dropped.
        learning_rate: Adam's.
    """

    mass = True
    dequantise = False

    where: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        network: Network = "gated",
        likelihood: Law = "auto",
        binarise: bool = False,
        width: int | None = None,
        depth: int | None = None,
        kernel: int | None = None,
        halvings: int | None = None,
        mixtures: int | None = None,
        dropout: float = 0.0,
        learning_rate: float = 2e-3,
    ):
        super().__init__()
        self.spec, self.binarise, self.learning_rate = spec, binarise, learning_rate
        channels, height, columns = self.shape = _shape(spec)
        self.law = _law(likelihood, spec, network, binarise, channels, mixtures)
        self.embed = ConditionEmbedding(spec.condition, CONTEXT)
        self.codes = nn.Embedding(self.law.levels, EMBEDDING) if spec.kind == "tokens" else None
        self.planes = channels if self.codes is None else EMBEDDING
        self.network = _network(
            network, self.planes + WHERE, self.law, (height, columns), width, depth, kernel, halvings, self.embed.width, dropout
        )
        rows, across = torch.linspace(-1, 1, height), torch.linspace(-1, 1, columns)
        where = torch.stack([torch.ones(height, columns), rows[:, None].expand(-1, columns), across.expand(height, -1)])
        self.register_buffer("where", where, persistent=False)

    @property
    def binarised(self) -> bool:
        """Whether `log_prob` is of black and white pixels drawn from the grey ones, not of the data themselves."""
        return self.binarise and self.spec.levels != 2

    # Learns

    def players(self) -> list[Player]:
        """One: all descends the cross-entropy."""
        return [Player("model", self, self.loss, optimizer=OptimizerSettings(self.learning_rate, kind="adam"))]

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """-log P(x | condition) in nats per number; beside it per datum."""
        x = binary(batch.x, rng.rand_like(batch.x)) if self.binarise else batch.x
        nats = -self._log_mass(self._levels(x), self.embed(batch.condition, len(batch))).mean()
        return Loss(nats / math.prod(self.shape), {"nats": nats.detach()})

    # Density

    def log_prob(self, x: Tensor, *, condition: Tensor | None = None) -> LogProb:
        """Exact, in nats: log P of the levels (a density constant over each level, as all masses are given here).

        Without a condition, a model of classes, or of at most 6 attributes, gives its exact marginal, log sum_c p(c) P(x | c).
        With `binarise` it is that of one black and white image of each x, always the same.

        Raises UserError for x that is not on the levels, and for a missing condition of another kind.
        """
        levels, known, rows = self._checked(x), self.spec.condition, len(x)
        condition = checked_condition(known, condition, rows, levels.device)
        volume = 0.0 if self.codes is not None else units(self.spec).log_det
        with evaluating(self):
            if known is None or condition is not None:
                return LogProb(self._log_mass(levels, self.embed(condition, rows)) - volume, "exact")
            value = marginal(known, rows, levels.device, lambda c: self._log_mass(levels, self.embed(c, rows)))
            return LogProb(value - volume, "exact")

    def _log_mass(self, levels: Int[Tensor, "b c h w"], context: Tensor | None) -> Float[Tensor, " b"]:
        outputs = self.network(self._read(levels), context)
        with torch.autocast(levels.device.type, enabled=False):
            return self.law.log_mass(outputs, levels)

    # Samples, Completes

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        temperature: float = 1.0,
        cache: bool = True,
    ) -> Tensor:
        """Draws n images (or grids of codes, row by row), pixel by pixel.

        Args:
            condition: (n,) classes or (n, A) attributes; None draws them as often as they are in the data.
            temperature: below 1 sharpens each pixel's law, above 1 flattens it.
            cache: False makes a full pass for each pixel (slower, the same image).
        """
        levels = torch.zeros(n, *self.shape, dtype=torch.long, device=device_of(self))
        return self._drawn(levels, None, condition, generator, temperature, cache)

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        temperature: float = 1.0,
        cache: bool = True,
    ) -> Tensor:
        """x with what is not known drawn in raster order, each number given all that is before it, known or drawn.

        Where the known part comes first (the upper rows) that is its law given the known part. Known pixels further down are
        kept, but what is above was drawn without looking at them.

        Args:
            x: data; what it holds where it is not known does not matter. Where the model binarises, white is above the middle.
            known: booleans of x's shape, true where x is to be kept.
            condition: (B,) classes or (B, A) attributes; None draws them as often as they are in the data.
            temperature, cache: as for `sample`.
        """
        x = x.to(device_of(self))
        known = checked_mask(known, x)
        empty = 0 if self.codes is not None else -1
        given = self._checked(torch.where(known, x, empty), draws=False)
        made = self._drawn(given, known.view(given.shape), condition, generator, temperature, cache)
        return torch.where(known, x, made)

    def _drawn(
        self,
        levels: Int[Tensor, "b c h w"],
        known: Bool[Tensor, "b c h w"] | None,
        condition: Tensor | None,
        generator: Generator,
        temperature: float,
        cache: bool,
    ) -> Tensor:
        """Levels with those that are not known drawn, in the model's units."""
        checked_temperature(temperature)
        rows, rng = len(levels), as_rng(generator, levels.device)
        condition = checked_condition(self.spec.condition, condition, rows, levels.device)
        if condition is None and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, rows, rng)
        # All uniforms at once: a stream is opened once a row, not once a row and pixel.
        uniforms = rng.rand(rows, *self.shape, self.law.draws)
        with evaluating(self):
            x, context = self._read(levels), self.embed(condition, rows)
            unroll = self.network.unroll if cache else self.network.naive
            for row, column, group, outputs in unroll(x, context):
                pixel = levels[:, :, row, column]
                for channel in [group] if self.law.groups > 1 else range(self.law.channels):
                    drawn = self.law.draw(channel, outputs, pixel, uniforms[:, channel, row, column], temperature)
                    kept = drawn if known is None else torch.where(known[:, channel, row, column], pixel[:, channel], drawn)
                    pixel[:, channel] = kept
                x[:, : self.planes, row, column] = self._seen(pixel[:, :, None, None])[:, :, 0, 0]
        return levels.flatten(1) if self.codes is not None else self._seen(levels)

    # Units

    def _levels(self, x: Tensor) -> Int[Tensor, "b c h w"]:
        """Data in the model's units as levels."""
        if self.codes is not None:
            return x.view(len(x), *self.shape).long()
        return ((x + 1) * ((self.law.levels - 1) / 2)).round().long()

    def _seen(self, levels: Int[Tensor, "b c h w"]) -> Float[Tensor, "b p h w"]:
        """Levels as a network sees them: in [-1, 1], or embedded."""
        if self.codes is not None:
            return self.codes(levels[:, 0]).permute(0, 3, 1, 2)
        return levels.to(self.where.dtype) * (2 / (self.law.levels - 1)) - 1

    def _read(self, levels: Int[Tensor, "b c h w"]) -> Float[Tensor, "b p h w"]:
        """All that a network reads: levels as it sees them, and where each pixel is."""
        seen = torch.cat([self._seen(levels), self.where.expand(len(levels), -1, -1, -1)], 1)
        return seen.contiguous(memory_format=torch.channels_last)

    def _checked(self, x: Tensor, draws: bool = True) -> Int[Tensor, "b c h w"]:
        """The levels of x on this device, or a UserError. draws: black and white images of grey ones are drawn, not rounded."""
        if tuple(x.shape[1:]) != tuple(self.spec.shape):
            raise UserError(f"data of shape {tuple(x.shape[1:])} were given; this model knows {tuple(self.spec.shape)}.")
        x = x.to(device_of(self))
        x = x.clone() if x.is_inference() else x  # a sample, whose density may then be differentiated
        top = self.law.levels - 1
        if self.codes is not None:
            wrong = x[(x < 0) | (x > top)] if not x.is_floating_point() else x.flatten()
            if wrong.numel():
                raise UserError(f"{wrong[0].item():g} ({x.dtype}) was given as a code; this model's are integers 0 to {top}.")
            return self._levels(x)
        if self.binarise:
            beyond = x[~(x.abs() <= 1)]
            if beyond.numel():
                raise UserError(f"{beyond[0].item():.4g} was given as a grey level; they go from -1 (black) to 1 (white).")
            return self._levels(fixed_binary(x) if draws else torch.where(x > 0, 1.0, -1.0))
        level = (x.double() + 1) * (top / 2)
        off = x[~(((level - level.round()).abs() < 0.01) & (level > -0.5) & (level < top + 0.5))]
        if off.numel():
            raise UserError(
                f"{off[0].item():.4g} was given, which is none of the {top + 1} levels 2 c / {top} - 1 that this model knows "
                "(c an integer): give images as levels, without noise."
            )
        return self._levels(x)


def _shape(spec: DataSpec) -> tuple[int, int, int]:
    """(C, H, W) of images, (1, h, w) of codes on a grid; for other data a UserError."""
    if spec.kind == "tokens" and spec.vocabulary is not None:
        if len(spec.vocabulary.grid) != 2:
            raise UserError(
                f"'{spec.name}' holds sequences of tokens, and a model of pixels is for grids (h, w) of codes; take gpt."
            )
        height, width = spec.vocabulary.grid
        return 1, height, width
    if spec.kind != "image" or len(spec.shape) != 3:
        raise UserError(f"a model of pixels learns images, or codes on a grid; '{spec.name}' holds {spec.kind}.")
    if spec.levels is None:
        raise UserError(
            f"a model of pixels gives each level a probability, and the images of '{spec.name}' have none (levels is not set); "
            "load them as integers."
        )
    channels, height, width = spec.shape
    return channels, height, width


def _law(name: str, spec: DataSpec, network: str, binarise: bool, channels: int, mixtures: int | None) -> PixelLaw:
    """The law of this name for such data."""
    tokens = spec.vocabulary.size if spec.kind == "tokens" and spec.vocabulary else 0
    levels = tokens or spec.levels or 0
    if name not in ("auto", "bernoulli", "categorical", "logistic"):
        raise UserError(f"there is no likelihood {name!r}; {nearest(name, ('auto', 'bernoulli', 'categorical', 'logistic'))}")
    if tokens:
        if name not in ("auto", "categorical") or binarise:
            asked = "binarise" if binarise else f"likelihood='{name}'"
            raise UserError(f"{asked} is for images, '{spec.name}' holds codes, which have no order; leave it out.")
        name = "categorical"
    if name == "auto":
        grey = "logistic" if network == "plusplus" or levels > SOFTMAX else "categorical"
        name = "bernoulli" if binarise or levels == 2 else grey
    if binarise and name != "bernoulli":
        raise UserError("binarise draws black and white images, which are for likelihood='bernoulli'; set that too.")
    if mixtures is not None and name != "logistic":
        raise UserError(f"mixtures was given, which likelihood='{name}' has not (logistic: yes); leave it out.")
    if name == "bernoulli":
        if levels != 2 and not binarise:
            raise UserError(
                f"likelihood='bernoulli' is for black and white, and '{spec.name}' has {levels} levels: set binarise=True to "
                "learn black and white images drawn from them, or take likelihood='categorical'."
            )
        return Bernoulli(channels)
    if name == "logistic":
        return LogisticMixture(channels, levels, MIXTURES if mixtures is None else mixtures)
    if levels > SOFTMAX and not tokens:
        raise UserError(
            f"a categorical likelihood has a logit for each level, and '{spec.name}' has {levels}: use likelihood='logistic'."
        )
    return Categorical(channels, levels)


def _network(
    name: str,
    planes: int,
    law: PixelLaw,
    size: tuple[int, int],
    width: int | None,
    depth: int | None,
    kernel: int | None,
    halvings: int | None,
    context: int,
    dropout: float,
) -> PixelNetwork:
    """The network of this name; for settings that it does not have, or that make no sense, a UserError."""
    if name not in NETWORKS:
        raise UserError(f"network={name!r} was given; {nearest(name, NETWORKS)}")
    made, usual_width, usual_depth, options = NETWORKS[name]
    width, depth = usual_width if width is None else width, usual_depth if depth is None else depth
    if width < 1 or depth < 1:
        raise UserError(f"width = {width} and depth = {depth} were given; both are at least 1.")
    settings: dict[str, Any] = {}
    for option, value in (("kernel", kernel), ("halvings", halvings)):
        if value is not None and option not in options:
            has = ", ".join(other for other, (*_, theirs) in NETWORKS.items() if option in theirs)
            raise UserError(f"{option} was given, which network='{name}' has not ({has}: yes); leave it out.")
        if option in options:
            settings[option] = {"kernel": 3, "halvings": 2}[option] if value is None else value
    if kernel is not None and (kernel < 1 or kernel % 2 == 0):
        raise UserError(f"kernel = {kernel} was given; it is odd, so that a pixel is in its middle: 3 or 5.")
    if "halvings" in settings:
        _can_be_halved(size, settings["halvings"])
    return made(planes, law.groups, law.outputs, width=width, depth=depth, context=context, dropout=dropout, **settings)  # type: ignore[call-arg]


def _can_be_halved(size: tuple[int, int], halvings: int) -> None:
    if halvings < 0:
        raise UserError(f"halvings = {halvings} was given; it is 0 or more.")
    if any(side % 2**halvings for side in size):
        able = max(h for h in range(halvings) if not any(side % 2**h for side in size))
        larger = "x".join(str(-(-side // 2**halvings) * 2**halvings) for side in size)
        raise UserError(
            f"images of {size[0]}x{size[1]} pixels cannot be halved {halvings} times: set halvings={able}, load them with "
            f"size={larger}, or take network='gated'."
        )
