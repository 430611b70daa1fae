"""Data as tokens: which of finitely many tokens stands at each of L places, and what a token says about the numbers there.

    tokens      ids are tokens: places are positions
    image       levels are tokens: places are channels and pixels, row by row
    table       a category is a token; a number's token is the bin that it is in, a gap is one more: places are columns

Bins are made of the quantiles of the training set. Within a bin numbers are spread evenly; in the first and the last they fall
off exponentially, so that no number has density 0. Bins of integers begin and end at halves: what they are given is a mass.
So the density of a datum is the probability of its tokens over a volume, log p(x) = log P(tokens) - log_volume(x).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pushforward.data.spec import Column, DataSpec
from pushforward.data.units import units
from pushforward.errors import UserError
from pushforward.randomness import Rng

LEVELS = 256  # of an image, that have a token each


class Alphabet(nn.Module):
    """What the kinds of data have in common.

    possible: which tokens there are at each place, (L, K).
    grid: (C, H, W) of places that are channels and pixels, or None.
    own: whether a token means something else at each place.
    """

    possible: Tensor
    grid: tuple[int, int, int] | None = None
    own = False

    def __init__(self, spec: DataSpec, possible: Bool[Tensor, "l k"]):
        super().__init__()
        self.spec = spec
        self.register_buffer("possible", possible)

    @property
    def places(self) -> int:
        return self.possible.shape[0]

    @property
    def size(self) -> int:
        """How many tokens there are, K."""
        return self.possible.shape[1]

    def checked(self, x: Tensor) -> Tensor:
        """x, if it is data of this kind; or a UserError."""
        if tuple(x.shape[1:]) != tuple(self.spec.shape):
            raise UserError(f"data of shape {tuple(x.shape[1:])} were given; this model knows {tuple(self.spec.shape)}.")
        x = x.to(self.possible.device)
        return x.clone() if x.is_inference() else x  # a sample, whose density may then be differentiated

    def tokens(self, x: Tensor) -> Int[Tensor, "b l"]:
        """The token at each place."""
        raise NotImplementedError

    def draw(self, tokens: Int[Tensor, "b l"], rng: Rng) -> Tensor:
        """Data (B, *shape) that have these tokens."""
        raise NotImplementedError

    def log_volume(self, x: Tensor, tokens: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """log P(tokens) - log p(x)."""
        return torch.zeros(len(x), device=x.device)

    def agreeing(self, x: Tensor, known: Tensor) -> Bool[Tensor, "b l k"]:
        """Which tokens agree with the known numbers of x; both (B, *shape)."""
        one_hot = nn.functional.one_hot(self.tokens(self.checked(self._blank(x, known))), self.size).bool()
        return torch.where(known.reshape(len(x), -1, 1), one_hot, self.possible)

    def _blank(self, x: Tensor, known: Tensor) -> Tensor:
        """x with something harmless where it is not known."""
        return torch.where(known, x, 0)


class Tokens(Alphabet):
    """Ids of a vocabulary, as they are."""

    def __init__(self, spec: DataSpec):
        vocabulary = spec.vocabulary
        if vocabulary is None:
            raise UserError(f"'{spec.name}' holds tokens without a vocabulary, so how many there are is not known.")
        super().__init__(spec, torch.ones(spec.shape[0], vocabulary.size, dtype=torch.bool))
        if len(vocabulary.grid) == 2:
            self.grid = (1, *vocabulary.grid)

    def checked(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            raise UserError(f"numbers ({x.dtype}) were given; this model's data are tokens, integers 0 to {self.size - 1}.")
        wrong = x[(x < 0) | (x >= self.size)]
        if wrong.numel():
            raise UserError(f"token {wrong[0].item()} was given; this model's tokens are 0 to {self.size - 1}.")
        return super().checked(x)

    def tokens(self, x: Tensor) -> Int[Tensor, "b l"]:
        return x.long()

    def draw(self, tokens: Int[Tensor, "b l"], rng: Rng) -> Tensor:
        return tokens


class Levels(Alphabet):
    """The levels of an image's channels."""

    def __init__(self, spec: DataSpec):
        if spec.levels is None or spec.levels > LEVELS:
            how = "have none (levels is not set); load them as integers" if spec.levels is None else f"have {spec.levels}"
            raise UserError(
                f"each level of an image is a token, at most {LEVELS} of them, and the images of '{spec.name}' {how}."
            )
        super().__init__(spec, torch.ones(spec.dimensions, spec.levels, dtype=torch.bool))
        channels, height, width = spec.shape
        self.grid = (channels, height, width)
        self.log_det = units(spec).log_det

    def checked(self, x: Tensor) -> Tensor:
        level = (x.double() + 1) * ((self.size - 1) / 2)
        off = x[~(((level - level.round()).abs() < 0.01) & (level > -0.5) & (level < self.size - 0.5))]
        if off.numel():
            raise UserError(
                f"{off[0].item():.4g} was given, which is none of the {self.size} levels 2 c / {self.size - 1} - 1 that this "
                "model knows (c an integer): give images as levels, without noise."
            )
        return super().checked(x)

    def tokens(self, x: Tensor) -> Int[Tensor, "b l"]:
        return ((x + 1) * ((self.size - 1) / 2)).round().long().flatten(1)

    def draw(self, tokens: Int[Tensor, "b l"], rng: Rng) -> Tensor:
        return tokens.view(-1, *self.spec.shape).float() * (2 / (self.size - 1)) - 1

    def log_volume(self, x: Tensor, tokens: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        return torch.full((len(x),), self.log_det, device=x.device)

    def _blank(self, x: Tensor, known: Tensor) -> Tensor:
        return torch.where(known, x, -1)


class Cells(Alphabet):
    """The cells of a row of a table, or the numbers of a point: categories, and numbers in bins.

    Args:
        spec: of kind table or point.
        bins: of each number, at most.
    """

    own = True
    edges: Tensor
    tails: Tensor
    unit: Tensor
    offset: Tensor
    number: Tensor
    place: Tensor
    flag: Tensor

    def __init__(self, spec: DataSpec, bins: int):
        if bins < 2:
            raise UserError(f"bins = {bins} was given; a number has at least 2.")
        columns = spec.columns or tuple(Column(str(j), "number") for j in range(spec.shape[-1]))
        sizes = [len(column.categories) if column.kind == "category" else bins + column.missing for column in columns]
        super().__init__(spec, torch.arange(max(sizes)) < torch.tensor(sizes)[:, None])
        self.bins = bins
        self.groups: list[tuple[int, int, int]] = []  # place, first and last one-hot column of x, of each category
        numbers: list[tuple[int, int, int, Column]] = []
        at = 0
        for j, column in enumerate(columns):
            if column.kind == "category":
                self.groups.append((j, at, at + len(column.categories)))
                at += len(column.categories)
            else:
                numbers.append((at, j, at + 1 if column.missing else -1, column))
                at += 1 + column.missing
        start = torch.special.ndtri(torch.arange(1, bins) / bins)
        for name, values in (
            ("number", torch.tensor([n[0] for n in numbers], dtype=torch.long)),
            ("place", torch.tensor([n[1] for n in numbers], dtype=torch.long)),
            ("flag", torch.tensor([n[2] for n in numbers], dtype=torch.long)),
            # integers are at multiples of their unit less this part of one; what is no integer has the unit 0
            ("unit", torch.tensor([n[3].integer / n[3].scale for n in numbers])),
            ("offset", torch.tensor([n[3].mean % 1 for n in numbers])),
        ):
            self.register_buffer(name, values, persistent=False)
        self.register_buffer("edges", start.repeat(len(numbers), 1))  # inf behind those in use
        self.register_buffer("tails", torch.full((len(numbers), 2), 0.5))  # mean distance from the first and the last edge

    def checked(self, x: Tensor) -> Tensor:
        if not bool(x.isfinite().all()):
            raise UserError("numbers that are NaN or infinite are in no bin, and some were given; remove those rows.")
        return super().checked(x)

    def fit(self, parts: Iterable[Float[Tensor, "b d"]]) -> None:
        """Bins that are equally often met in all these rows, as far as ties and integers let them."""
        x = torch.cat(list(parts)).double()
        for i, (at, flag, unit, offset) in enumerate(
            zip(self.number.tolist(), self.flag.tolist(), self.unit.tolist(), self.offset.tolist(), strict=True)
        ):
            values = x[:, at] if flag < 0 else x[x[:, flag] <= 0, at]
            if not len(values):
                continue
            edges = bin_edges(values, self.bins, unit, offset)
            self.edges[i] = torch.inf
            self.edges[i, : len(edges)] = edges.to(self.edges.dtype)
            below, above = edges[0] - values[values < edges[0]], values[values >= edges[-1]] - edges[-1]
            self.tails[i] = torch.tensor([tail(below, unit), tail(above, unit)])
            self.possible[self.place[i], : self.bins] = torch.arange(self.bins, device=x.device) <= len(edges)

    def tokens(self, x: Tensor) -> Int[Tensor, "b l"]:
        tokens = torch.zeros(len(x), self.places, dtype=torch.long, device=x.device)
        for place, first, last in self.groups:
            tokens[:, place] = x[:, first:last].argmax(1)
        within = (self.edges <= x[:, self.number, None]).sum(-1)
        tokens[:, self.place] = torch.where(self._absent(x), self.bins, within)
        return tokens

    def _absent(self, x: Float[Tensor, "b d"]) -> Bool[Tensor, "b n"]:
        """Which numbers are missing."""
        return (x[:, self.flag] > 0) & (self.flag >= 0)

    def _ends(self, tokens: Int[Tensor, "b l"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Where the bin of each number begins and ends, infinite at the two ends (and for a gap)."""
        one = torch.full_like(self.edges[:, :1], torch.inf)
        edges = torch.cat([-one, self.edges, one, one], 1).expand(len(tokens), -1, -1)
        which = tokens[:, self.place, None]
        return edges.gather(2, which)[..., 0], edges.gather(2, which + 1)[..., 0]

    def draw(self, tokens: Int[Tensor, "b l"], rng: Rng) -> Tensor:
        x = torch.zeros(len(tokens), *self.spec.shape, device=tokens.device)
        for place, first, last in self.groups:
            x[:, first:last] = nn.functional.one_hot(tokens[:, place], last - first).to(x.dtype)
        low, high = self._ends(tokens)
        uniform = rng.rand(len(tokens), len(self.number))
        far = -torch.log1p(-uniform) * torch.where(low.isinf(), self.tails[:, 0], self.tails[:, 1])
        value = torch.where(low.isinf(), high - far, torch.where(high.isinf(), low + far, low + uniform * (high - low)))
        value = torch.minimum(value, high.nextafter(-torch.ones_like(high).mul(torch.inf)))  # rounding stays in its bin
        steps = (value / self.unit + self.offset).round() - self.offset
        value = torch.where(self.unit > 0, steps * self.unit, value)
        absent = tokens[:, self.place] == self.bins
        x[:, self.number] = value.masked_fill(absent, 0)
        gaps = self.flag >= 0
        x[:, self.flag[gaps]] = absent[:, gaps].to(x.dtype) - 0.5
        return x

    def log_volume(self, x: Tensor, tokens: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        return self.log_volumes(x, tokens).sum(1)

    def log_volumes(self, x: Tensor, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b n"]:
        """Those of the numbers."""
        low, high = self._ends(tokens)
        value = x[:, self.number]
        far = torch.where(low.isinf(), high - value, value - low)
        tails = torch.where(low.isinf(), self.tails[:, 0], self.tails[:, 1])
        steps = (far / self.unit).floor()
        # in a tail integers are geometric, their mass spread over a unit
        whole = steps * self.unit / tails - torch.log(-torch.expm1(-self.unit / tails)) + self.unit.log()
        beyond = torch.where(self.unit > 0, whole, far / tails + tails.log())
        each = torch.where(low.isinf() | high.isinf(), beyond, (high - low).log())
        return each.masked_fill(tokens[:, self.place] == self.bins, 0)

    def agreeing(self, x: Tensor, known: Tensor) -> Bool[Tensor, "b l k"]:
        """Some of a category's one-hot columns may be known and others not: that they are 0, say, rules these out."""
        x = self.checked(torch.where(known, x, 0))
        agree = self.possible.expand(len(x), -1, -1).clone()
        for place, first, last in self.groups:
            ones = torch.eye(last - first, dtype=torch.bool, device=x.device)
            fits = (~known[:, None, first:last] | ((x[:, None, first:last] > 0.5) == ones)).all(2)
            if not bool(fits.any(1).all()):
                raise UserError("what is known of a category fits none; one of its one-hot columns is 1 and the others are 0.")
            agree[:, place, : last - first] = fits
        bins = torch.arange(self.size, device=x.device)
        within = (self.edges <= x[:, self.number, None]).sum(-1, keepdim=True)
        flagged = known[:, self.flag] & (self.flag >= 0)
        absent = flagged & (x[:, self.flag] > 0)
        present = (flagged | known[:, self.number]) & ~absent
        numbers = agree[:, self.place]
        numbers &= ~known[:, self.number, None] | absent[..., None] | (bins == within)
        numbers &= ~present[..., None] | (bins < self.bins)
        agree[:, self.place] = torch.where(absent[..., None], bins == self.bins, numbers)
        return agree


def bin_edges(values: Float[Tensor, " n"], bins: int, unit: float, offset: float) -> Float[Tensor, " m"]:
    """Where one bin ends and the next begins, at least one and at most bins - 1 of them, rising.

    Integers (unit > 0, at multiples of the unit less this offset) have a bin each where they are so few.
    """
    values = values.sort().values
    ranks = torch.arange(1, bins, device=values.device) * len(values) // bins
    edges = (values[(ranks - 1).clamp(min=0)] + values[ranks]) / 2
    if unit > 0:
        steps = (values / unit + offset).round()
        first, last = int(steps[0]), int(steps[-1])
        if last - first < bins:
            steps = torch.arange(first + 1, max(last, first + 1) + 1, device=values.device).to(values.dtype)
        else:
            steps = (edges / unit + offset - 1e-6).floor() + 1
        edges = (steps - 0.5 - offset) * unit
    return edges.unique()


def tail(distances: Float[Tensor, " n"], unit: float) -> float:
    """The mean of the exponential law by which numbers are away from an edge; of integers, which are geometric, that whose
    whole units have the same mean."""
    if unit > 0:
        steps = (distances / unit).floor()
        return unit / math.log1p(1 / ((float(steps.sum()) + 0.01) / (len(steps) + 1)))
    return max(float(distances.mean()), 1e-4) if len(distances) else 0.1


def alphabet(spec: DataSpec, bins: int) -> Alphabet:
    """That of such data; a UserError where they are no tokens and cannot be made ones."""
    if spec.kind == "tokens":
        return Tokens(spec)
    if spec.kind == "image":
        return Levels(spec)
    if spec.kind in ("table", "point"):
        return Cells(spec, bins)
    raise UserError(
        f"discrete diffusion learns tokens, images of levels and tables, and '{spec.name}' holds {spec.kind}; take "
        "flow-matching."
    )
