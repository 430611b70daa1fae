"""Conditional distributions of columns of mixed kinds: each with parameters of its own, one column at a time or all at once.

For the columns of a table, point or series as `data/table_units.py` lays them out:

    number      a mixture of K Gaussians,   p(x) = sum_k pi_k N(x; mu_k, s_k^2)
    integer     the mass of a mixture of K logistics over its unit,   sum_k pi_k (F_k(x + w/2) - F_k(x - w/2))
    category    a softmax over its one-hot columns
    missing     a Bernoulli for the flag; where the number is there, its density times that

A mass is divided by w, the width of a unit in the model's units, as a run adds log w to it again. Numbers may be told where
they are expected and how far from it, x = shift + scale e: then the mixture is one of e. `columns.py` has the distribution for
decoders that say one number of each column, all of them independent.

Uria et al. 2013, "RNADE", arXiv:1306.0186 (mixtures); Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517 (of logistics).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pushforward.data.spec import Column
from pushforward.distributions.likelihoods import SCALES, logistic_mass, pick, soft_clamp, wide
from pushforward.errors import UserError

UNIFORMS = 3  # numbers on [0, 1) that the draw of a cell takes: is it there, which component or category, where in it


class Cells(nn.Module):
    """Columns that are alike. A cell is what one row has in one of them: `size` numbers of x, with `outputs` parameters.

    at: where the cells of n columns are in x, (n, size).
    """

    at: Tensor
    size: int
    outputs: int

    def __init__(self, at: Sequence[Sequence[int]]):
        super().__init__()
        self.register_buffer("at", torch.tensor(at), persistent=False)

    def start(self) -> Float[Tensor, " o"]:
        """Parameters to begin at."""
        raise NotImplementedError

    def log_prob(
        self,
        parameters: Float[Tensor, "*b n o"],
        x: Float[Tensor, "*b n s"],
        shift: Float[Tensor, "*b n"],
        scale: Float[Tensor, "*n"],
    ) -> Float[Tensor, "*b n"]:
        """log p of each cell."""
        raise NotImplementedError

    def tidy(self, x: Float[Tensor, "*b n s"]) -> Float[Tensor, "*b n s"]:
        """Of all cells that stand for the same, the one that `draw` would make."""
        raise NotImplementedError

    def draw(
        self,
        which: int,
        parameters: Float[Tensor, "b o"],
        uniforms: Float[Tensor, "b 3"],
        x: Float[Tensor, "b s"],
        known: Bool[Tensor, "b s"],
        shift: Float[Tensor, " b"],
        scale: Float[Tensor, ""],
        temperature: float,
    ) -> tuple[Float[Tensor, "b s"], Float[Tensor, " b"]]:
        """Cells of column number `which` that agree with what is known of x, and the log-probability of that."""
        raise NotImplementedError


class Numbers(Cells):
    """All real or all integers, all with gaps or without.

    A cell is its number and, where there are gaps, the flag (0.5: missing, and the number is 0; -0.5: it is there). Its
    parameters are the logit of the flag, then K logits, K means and K log-scales.
    """

    units: Tensor
    offsets: Tensor

    def __init__(self, at: Sequence[Sequence[int]], columns: Sequence[Column], mixtures: int):
        super().__init__(at)
        self.mixtures, self.integer, self.gaps = mixtures, columns[0].integer, int(columns[0].missing)
        self.size, self.outputs = 1 + self.gaps, 3 * mixtures + self.gaps
        # Integers are at multiples of the unit w = 1 / scale, less this part of one.
        self.register_buffer("units", torch.tensor([1 / column.scale for column in columns]), persistent=False)
        self.register_buffer("offsets", torch.tensor([column.mean % 1 for column in columns]), persistent=False)

    def start(self) -> Float[Tensor, " o"]:
        """Components side by side, N(0, 1) in sum or nearly so: as standardised columns are."""
        means = torch.special.ndtri((torch.arange(self.mixtures) + 0.5) / self.mixtures)
        log_scales = 0.5 * (1 - means.square().mean()).log().expand(self.mixtures)
        return torch.cat([torch.zeros(self.gaps + self.mixtures), means, log_scales])

    def components(self, parameters: Float[Tensor, "*b o"], shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log pi, mu and log s, (..., K)."""
        logits, means, raw = wide(parameters)[..., self.gaps :].chunk(3, -1)
        means = shift[..., None] + scale[..., None] * means
        return logits.log_softmax(-1), means, soft_clamp(raw, -SCALES, SCALES) + scale.log()[..., None]

    def density(self, components: tuple[Tensor, Tensor, Tensor], x: Float[Tensor, "*b"], unit: Tensor) -> Float[Tensor, "*b"]:
        """log p of numbers that are there; of integers of this unit log-mass - log w."""
        log_weights, means, log_scales = components
        distance = (wide(x)[..., None] - means) * (-log_scales).exp()
        if self.integer:
            each = logistic_mass(distance, unit[..., None] * (-log_scales).exp()) - unit[..., None].log()
        else:
            each = -0.5 * distance.square() - log_scales - 0.5 * math.log(2 * math.pi)
        return (log_weights + each).logsumexp(-1)

    def log_prob(
        self,
        parameters: Float[Tensor, "*b n o"],
        x: Float[Tensor, "*b n s"],
        shift: Float[Tensor, "*b n"],
        scale: Float[Tensor, "*n"],
    ) -> Float[Tensor, "*b n"]:
        value = self.density(self.components(parameters, shift, scale), x[..., 0], self.units)
        if not self.gaps:
            return value
        logit = wide(parameters[..., 0])
        return torch.where(x[..., 1] > 0, F.logsigmoid(logit), F.logsigmoid(-logit) + value)

    def tidy(self, x: Float[Tensor, "*b n s"]) -> Float[Tensor, "*b n s"]:
        if not self.gaps:
            return x
        absent = x[..., 1] > 0
        return torch.stack([x[..., 0].masked_fill(absent, 0), absent.to(x.dtype) - 0.5], -1)

    def draw(
        self,
        which: int,
        parameters: Float[Tensor, "b o"],
        uniforms: Float[Tensor, "b 3"],
        x: Float[Tensor, "b s"],
        known: Bool[Tensor, "b s"],
        shift: Float[Tensor, " b"],
        scale: Float[Tensor, ""],
        temperature: float,
    ) -> tuple[Float[Tensor, "b s"], Float[Tensor, " b"]]:
        components = self.components(parameters, shift, scale)
        log_weights, means, log_scales = components
        component = pick(log_weights, uniforms[:, 1], temperature)[:, None]
        place = uniforms[:, 2].double().clamp(1e-15, 1 - 1e-15)
        noise = torch.logit(place) if self.integer else torch.special.ndtri(place)
        # p^(1/T) of a Gaussian has the standard deviation sqrt(T) s; of a logistic, with tails exp(-|x| / s), the scale T s.
        warmth = temperature if self.integer else math.sqrt(temperature)
        spread = warmth * log_scales.gather(1, component)[:, 0].exp()
        number = means.gather(1, component)[:, 0] + spread * noise.to(spread.dtype)
        unit = self.units[which]
        if self.integer:
            number = ((number / unit + self.offsets[which]).round() - self.offsets[which]) * unit
        number = torch.where(known[:, 0], wide(x[:, 0]), number)
        log_p = self.density(components, number, unit).masked_fill(~known[:, 0], 0)
        if not self.gaps:
            return number[:, None], log_p
        # A flag that is known says whether the number is there; a number that is known is there, unless the flag says not.
        flag = torch.where(known[:, 1], x[:, 1].sign(), torch.where(known[:, 0], -1.0, 0.0))
        logit = wide(parameters[:, 0])
        possible = torch.stack([flag <= 0, flag >= 0], 1)
        states = F.logsigmoid(torch.stack([-logit, logit], 1)).masked_fill(~possible, -math.inf)
        absent = pick(states, uniforms[:, 0], temperature) == 1
        cell = torch.stack([number.masked_fill(absent, 0), absent.to(number.dtype) - 0.5], 1)
        return cell, states.logsumexp(1) + log_p.masked_fill(absent, 0)


class Categories(Cells):
    """As many categories in each. A cell is its one-hot columns, its parameters are their logits."""

    def __init__(self, at: Sequence[Sequence[int]]):
        super().__init__(at)
        self.size = self.outputs = len(at[0])

    def start(self) -> Float[Tensor, " o"]:
        """Equally frequent."""
        return torch.zeros(self.size)

    def log_prob(
        self,
        parameters: Float[Tensor, "*b n o"],
        x: Float[Tensor, "*b n s"],
        shift: Float[Tensor, "*b n"],
        scale: Float[Tensor, "*n"],
    ) -> Float[Tensor, "*b n"]:
        return wide(parameters).log_softmax(-1).gather(-1, x.argmax(-1, keepdim=True))[..., 0]

    def tidy(self, x: Float[Tensor, "*b n s"]) -> Float[Tensor, "*b n s"]:
        return F.one_hot(x.argmax(-1), self.size).to(x.dtype)

    def draw(
        self,
        which: int,
        parameters: Float[Tensor, "b o"],
        uniforms: Float[Tensor, "b 3"],
        x: Float[Tensor, "b s"],
        known: Bool[Tensor, "b s"],
        shift: Float[Tensor, " b"],
        scale: Float[Tensor, ""],
        temperature: float,
    ) -> tuple[Float[Tensor, "b s"], Float[Tensor, " b"]]:
        """Some of the one-hot columns may be known and others not: that they are 0, say, rules these categories out."""
        ones = torch.eye(self.size, dtype=torch.bool, device=x.device)
        possible = (~known[:, None] | ((x > 0.5)[:, None] == ones)).all(2)
        if not bool(possible.any(1).all()):
            raise UserError("what is known of a category fits none; one of its one-hot columns is 1 and the others are 0.")
        log_p = wide(parameters).log_softmax(-1).masked_fill(~possible, -math.inf)
        index = pick(log_p, uniforms[:, 1], temperature)
        return F.one_hot(index, self.size).to(log_p.dtype), log_p.logsumexp(-1)


class MixedColumns(nn.Module):
    """The columns of a row side by side: x (..., D), parameters (..., outputs).

    Columns that are alike are computed together, and their parameters stand together. `column_of_x` (D) and `column_of_output`
    (outputs) say which column each number belongs to.

    Args:
        columns: what they are, in their order.
        mixtures: K, the components of each number.
    """

    back: Tensor

    def __init__(self, columns: Sequence[Column], mixtures: int):
        super().__init__()
        sizes = [len(column.categories) or 1 + column.missing for column in columns]
        self.column_of_x = [j for j, size in enumerate(sizes) for _ in range(size)]
        alike: dict[tuple[int, bool, bool], list[int]] = {}
        for j, column in enumerate(columns):
            alike.setdefault((len(column.categories), column.integer, column.missing), []).append(j)
        self.groups, self.column_of_output = nn.ModuleList(), []
        self.place: dict[int, tuple[int, int]] = {}
        for group, members in enumerate(alike.values()):
            at = [range(sum(sizes[:j]), sum(sizes[: j + 1])) for j in members]
            kind = columns[members[0]].kind
            cells = Categories(at) if kind == "category" else Numbers(at, [columns[j] for j in members], mixtures)
            self.groups.append(cells)
            self.column_of_output += [j for j in members for _ in range(cells.outputs)]
            self.place |= {j: (group, which) for which, j in enumerate(members)}
        self.counts = [len(cells.at) * cells.outputs for cells in self.cells]
        self.register_buffer("back", torch.tensor([*self.place]).argsort(), persistent=False)

    @property
    def cells(self) -> list[Cells]:
        return cast(list[Cells], list(self.groups))

    def numbers(self) -> Bool[Tensor, " d"]:
        """Which of x are numbers of a column, rather than flags or one-hot columns."""
        are = torch.zeros(len(self.column_of_x), dtype=torch.bool)
        for cells in self.cells:
            if isinstance(cells, Numbers):
                are[cells.at[:, 0]] = True
        return are

    def start(self) -> Float[Tensor, " outputs"]:
        """Parameters to begin at: numbers about N(0, 1), categories and gaps equally frequent."""
        return torch.cat([cells.start().repeat(len(cells.at)) for cells in self.cells])

    def log_prob(
        self,
        parameters: Float[Tensor, "*b outputs"],
        x: Float[Tensor, "*b d"],
        shift: Float[Tensor, "*b d"],
        scale: Float[Tensor, "*l d"],
    ) -> Float[Tensor, "*b columns"]:
        """log p of each column's cell, in nats. shift, scale: of each number of x; not looked at where it is none."""
        parts = []
        for cells, told in zip(self.cells, parameters.split(self.counts, -1), strict=True):
            at = cells.at[:, 0]
            told = told.unflatten(-1, (-1, cells.outputs))
            parts.append(cells.log_prob(told, x[..., cells.at], shift[..., at], scale[..., at]))
        return torch.cat(parts, -1)[..., self.back]

    def tidy(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Of all x that stand for the same row, the one that draws would make."""
        for cells in self.cells:
            if cells.size > 1:
                x = x.index_copy(-1, cells.at.flatten(), cells.tidy(x[..., cells.at]).flatten(-2))
        return x

    def tidy_cell(self, column: int, x: Float[Tensor, "b s"]) -> Float[Tensor, "b s"]:
        """The same of cells of one column."""
        return self.cells[self.place[column][0]].tidy(x[:, None])[:, 0]

    def draw(
        self,
        column: int,
        parameters: Float[Tensor, "b o"],
        uniforms: Float[Tensor, "b 3"],
        x: Float[Tensor, "b s"],
        known: Bool[Tensor, "b s"],
        shift: Float[Tensor, " b"],
        scale: Float[Tensor, ""],
        temperature: float = 1.0,
    ) -> tuple[Float[Tensor, "b s"], Float[Tensor, " b"]]:
        """Cells of one column that agree with what is known of x, and the log-density (or -mass) of that."""
        group, which = self.place[column]
        return self.cells[group].draw(which, parameters, uniforms, x, known, shift, scale, temperature)
