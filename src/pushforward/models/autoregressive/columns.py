"""MADE: the density of a row of a table, column after column, from one pass of a masked network. By the chain rule

    log p(x | c) = sum_j log p(x_j | x_<j, c),

and a masked network gives the parameters of all the factors at once: what it says of column j depends on the columns before it
alone. Each factor is of its column's own kind (`distributions/mixed.py`): a mixture of Gaussians for a number, a softmax for a
category, the mass of a mixture of logistics over an integer's unit, and for what may be missing first whether it is. So the
density is exact, of mixed rows too, without any noise on what is discrete. The columns of a series follow each other in time,
all those of a step before the next.

A network is slow to place a number that is nearly a function of others (an area and a diameter) to a thousandth. So before the
first update each number is regressed on all that comes before it, by least squares on the training set: mixtures are of what a
number is beyond that, in its standard deviations, and that is what the network sees of it. Training begins near the Gaussian of
the data's covariance.

A draw is made column after column, which together costs one pass.

Cells that are missing (`complete`) are drawn in the same way, with those that are known put in their place. That is exact where
the known ones come first. Those that come later than an unknown one have their say by importance: of S candidates for a row,
each drawn given what comes before, one is kept with probability

    w_s / sum_r w_r,        w_s = prod over known j of p(x_j | x_<j of candidate s),

which is a draw of p(unknown | known) as S grows.

Germain et al. 2015 (MADE), arXiv:1502.03509; Uria et al. 2013 (RNADE), arXiv:1306.0186; Rubin 1988, Using the SIR algorithm to
simulate posterior distributions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.distributions.likelihoods import pick, wide
from pushforward.distributions.mixed import UNIFORMS, MixedColumns
from pushforward.errors import UserError, checked_temperature, nearest
from pushforward.models.contract import (
    Generator,
    LogProb,
    Loss,
    OptimizerSettings,
    Player,
    Update,
    checked_mask,
    device_of,
    evaluating,
)
from pushforward.nets.conditioning import (
    ConditionEmbedding,
    checked_condition,
    condition_rates,
    draw_condition,
    marginal,
    not_given,
)
from pushforward.nets.masked import MaskedBlocks
from pushforward.randomness import Rng, as_rng, chosen

CONTEXT = 64  # numbers of a condition's vector
RIDGE = 1e-6  # added to variances: what is left of a number has a standard deviation of a thousandth or more
ROWS = 10  # as many rows for each number of x, or there is no regression

Order = Literal["given", "reverse", "random"]


class Regression(nn.Module):
    """What is expected of each number of x (B, n) given those before it: shift = x B^T + a, with B strictly lower triangular in
    their order, and how far numbers are from that, `scale` (n). It is 0 and 1 until it is fitted; of what is no number always.

    order: numbers of x, in their order. free: those that are regressed on what is before them (n), booleans.
    """

    coefficients: Tensor
    intercepts: Tensor
    scale: Tensor
    order: Tensor
    free: Tensor

    def __init__(self, order: Tensor, free: Tensor):
        super().__init__()
        n = len(order)
        self.register_buffer("coefficients", torch.zeros(n, n))
        self.register_buffer("intercepts", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("free", free, persistent=False)

    def forward(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """shift."""
        return self.at(x, torch.arange(len(self.order), device=x.device))

    def at(self, x: Float[Tensor, "b n"], which: Int[Tensor, " s"]) -> Float[Tensor, "b s"]:
        """shift of some."""
        with torch.autocast(x.device.type, enabled=False):  # what numbers are beyond it may be a thousandth of them
            return wide(x) @ self.coefficients[which].T + self.intercepts[which]

    def fit(self, parts: Iterable[Float[Tensor, "b n"]]) -> None:
        """By least squares, all at once: with C C^T the covariance, C lower triangular, (x - mean) C^-T is white."""
        n, rows = len(self.order), 0
        first = torch.zeros(n, dtype=torch.float64, device=self.order.device)
        second = first.new_zeros(n, n)
        for x in parts:
            x = x.double()
            rows, first, second = rows + len(x), first + x.sum(0), second + x.T @ x
        if rows < ROWS * n:
            return
        mean = first / rows
        covariance = (second / rows - mean.outer(mean) + RIDGE * torch.eye(n).to(second))[self.order][:, self.order]
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), torch.eye(n).to(second), upper=False)
        back = self.order.argsort()
        scale = (1 / white.diagonal())[back]
        below = -(white / white.diagonal()[:, None]).tril(-1)[back][:, back]
        self.coefficients.copy_(below * self.free[:, None])
        self.intercepts.copy_((mean - below @ mean) * self.free)
        self.scale.copy_(torch.where(self.free, scale, 1))


class MADE(nn.Module):
    """A masked network whose outputs are the conditional distributions of columns: an exact density of mixed rows.

    Args:
        spec: points, tables or series.
        mixtures: components of each number's distribution.
        width: units of a hidden layer (as many as there are columns, of a series those of all steps, where that is more).
        depth: hidden layers.
        order: of the columns: as given, reversed, or random; within each step of a series.
        seed: of a random order.
        dropout: rate, of hidden units.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
    """

    dequantise = False
    mass = True

    def __init__(
        self,
        spec: DataSpec,
        *,
        mixtures: int = 10,
        width: int = 256,
        depth: int = 2,
        order: Order = "given",
        seed: int = 0,
        dropout: float = 0.0,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
    ):
        super().__init__()
        if spec.kind not in ("point", "table", "series"):
            other = "take gpt" if spec.kind == "tokens" else "take a model of images" if spec.kind == "image" else "take a flow"
            raise UserError(f"MADE learns columns of points, tables and series, and '{spec.name}' holds {spec.kind}; {other}.")
        if min(mixtures, width, depth) < 1:
            raise UserError(f"mixtures = {mixtures}, width = {width} and depth = {depth} were given; all are at least 1.")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout = {dropout} was given; it is a rate, at least 0 and below 1.")
        self.spec, self.learning_rate, self.weight_decay = spec, learning_rate, weight_decay
        columns = spec.columns or tuple(Column(str(j), "number") for j in range(spec.shape[-1]))
        self.mixed = MixedColumns(columns, mixtures)
        self.order = ordered(order, len(columns), seed)
        self.steps = spec.shape[0] if spec.kind == "series" else 1
        self.embed = ConditionEmbedding(spec.condition, CONTEXT)
        rank = {column: position for position, column in enumerate(self.order)}
        inputs, outputs = (
            [step * len(columns) + rank[j] for step in range(self.steps) for j in belongs]
            for belongs in (self.mixed.column_of_x, self.mixed.column_of_output)
        )
        hidden = (max(width, self.steps * len(columns)),) * depth
        self.net = MaskedBlocks(inputs, outputs, hidden, self.embed.width, dropout=dropout)
        self.regression = Regression(self.net.inputs_by_block, self.mixed.numbers().repeat(self.steps))
        nn.init.zeros_(self.net.last.weight)
        with torch.no_grad():
            self.net.last.bias.copy_(self.mixed.start().repeat(self.steps))

    def players(self) -> list[Player]:
        """One that regresses, and one that descends -log p."""
        settings = OptimizerSettings(self.learning_rate, weight_decay=self.weight_decay)
        return [
            Player("start", self.regression, update=self.begin),
            Player("model", [self.net, self.embed], self.loss, optimizer=settings),
        ]

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """Regresses each number on what comes before it."""
        self.regression.fit(self.mixed.tidy(batch.x).flatten(1) for batch in batches)
        return Update({}, finished=True)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """-log p(x | c) in nats, on average over rows."""
        nats = -self._log_probs(batch.x, batch.condition).flatten(1).sum(1).mean()
        return Loss(nats, {"nats": nats.detach()})

    def column_log_probs(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b *columns"]:
        """log p(x_j | x_<j, c) of each column, (B, columns), of series (B, L, columns).

        Raises UserError for rows of another shape, for numbers that are not finite, and for a missing condition.
        """
        self._check(x, x)
        return self._log_probs(x, checked_condition(self.spec.condition, condition, len(x), device_of(self), needed=True))

    def _log_probs(self, x: Float[Tensor, "b *shape"], condition: Tensor | None) -> Float[Tensor, "b *columns"]:
        x = self.mixed.tidy(x)
        shift, scale = self.regression(x.flatten(1)), self.regression.scale
        told = self.net(self._beyond(x.flatten(1), shift), self.embed.of(condition, len(x)))
        told = told.unflatten(1, (*x.shape[1:-1], -1))
        return self.mixed.log_prob(told, x, shift.view_as(x), scale.view(x.shape[1:]))

    def _beyond(self, x: Float[Tensor, "b n"], shift: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """What the network sees of tidy x: numbers by what they are beyond expectation; 0 where they are missing."""
        return self.mixed.tidy(((x - shift) / self.regression.scale).view(-1, *self.spec.shape)).flatten(1)

    def log_prob(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> LogProb:
        """Exact, in nats. Without a condition that of all classes, or sets of at most 6 attributes, together, weighed by their
        frequencies.

        Raises UserError for rows of another shape, for numbers that are not finite, and for a condition of another kind that is
        not given.
        """
        self._check(x, x)
        known = self.spec.condition
        condition = checked_condition(known, condition, len(x), device_of(self))
        with evaluating(self):
            if known is None or condition is not None:
                return LogProb(self._log_probs(x, condition).flatten(1).sum(1), "exact")
            value = marginal(known, len(x), x.device, lambda c: self._log_probs(x, c).flatten(1).sum(1))
            return LogProb(value, "exact")

    @torch.no_grad()
    def sample(
        self, n: int, *, condition: Tensor | None = None, generator: Generator = None, temperature: float = 1.0
    ) -> Float[Tensor, "n *shape"]:
        """Draws rows, column after column.

        Args:
            condition: (n,) classes, (n, A) attributes or (n, V) vectors; None: as frequent as in the training set.
            temperature: T: categories, gaps and components are drawn from p^(1/T); a Gaussian's standard deviation is times
                sqrt(T), a logistic's scale times T.
        """
        checked_temperature(temperature)
        rng = as_rng(generator, device_of(self))
        condition = checked_condition(self.spec.condition, condition, n, rng.device)
        if condition is None and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, n, rng)
        nothing = torch.zeros(n, *self.spec.shape, device=rng.device)
        uniforms = rng.rand(n, self.net.blocks, UNIFORMS, dtype=torch.float64)
        return self._fill(nothing, nothing.bool(), uniforms, self.embed.of(condition, n), temperature)[0]

    @torch.no_grad()
    def complete(
        self,
        x: Float[Tensor, "b *shape"],
        known: Tensor,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        candidates: int = 64,
    ) -> Float[Tensor, "b *shape"]:
        """Draws the cells of rows that are not known, from p(unknown | known).

        Exact where the known columns come first in the order; else of as many candidates a row as given, one is kept by its
        importance. The more is known late and to the point, the more of them it takes.

        Args:
            x: rows; what stands in unknown cells does not matter.
            known: booleans of x's shape: which numbers are kept as they are. Some of a category's one-hot columns may be
                known and others not.
            condition: as of `sample`; None: each candidate has its own, so that what is known speaks for some of them.
            candidates: of each row.

        Raises UserError for rows of another shape, for what `known` or the condition cannot be, for known numbers that are not
        finite, and for less than one candidate.
        """
        if candidates < 1:
            raise UserError(f"candidates = {candidates} was given; there is at least 1 for each row.")
        known = checked_mask(known, x)
        self._check(x, torch.where(known, x, 0))
        rng = as_rng(generator, device_of(self))
        condition = checked_condition(self.spec.condition, condition, len(x), rng.device)
        if condition is not None:
            condition = condition.repeat_interleave(candidates, 0)
        elif self.spec.condition is not None:
            condition = _drawn(self.spec.condition, len(x), candidates, rng)
        context = self.embed.of(condition, len(x) * candidates)
        which = rng.rand(len(x), dtype=torch.float64)
        uniforms = rng.rand(len(x), candidates, self.net.blocks, UNIFORMS, dtype=torch.float64)
        many, kept = x.repeat_interleave(candidates, 0), known.repeat_interleave(candidates, 0)
        made, log_weights = self._fill(many, kept, uniforms.flatten(0, 1), context)
        index = pick(log_weights.unflatten(0, (-1, candidates)), which)
        made = made.unflatten(0, (-1, candidates))[torch.arange(len(x), device=x.device), index]
        return torch.where(known, x, made)

    def _fill(
        self,
        x: Float[Tensor, "b *shape"],
        known: Bool[Tensor, "b *shape"],
        uniforms: Float[Tensor, "b blocks 3"],
        context: Float[Tensor, "b e"] | None,
        temperature: float = 1.0,
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, " b"]]:
        """Rows drawn in the order, that agree with what is known of x; and the log-density of that, each given those before."""
        x, known = x.flatten(1), known.flatten(1)
        cells, regression = self.net.inputs_by_block.split(self.net.input_counts), self.regression
        made, log_weights = regression.scale.new_zeros(x.shape), []

        def following(block: int, told: Tensor) -> Tensor:
            at, column = cells[block], self.order[block % len(self.order)]
            shift, scale = regression.at(made, at), regression.scale[at]
            cell, log_p = self.mixed.draw(
                column, told, uniforms[:, block], x[:, at], known[:, at], shift[:, 0], scale[0], temperature
            )
            log_weights.append(log_p)
            made[:, at] = cell.to(made)
            return self.mixed.tidy_cell(column, (made[:, at] - shift) / scale)

        self.net.unroll(following, len(x), context)
        return made.unflatten(1, self.spec.shape), torch.stack(log_weights).sum(0)

    def _check(self, x: Tensor, numbers: Tensor) -> None:
        """x are rows of this model's, and these numbers are finite; or a UserError."""
        if tuple(x.shape[1:]) != tuple(self.spec.shape):
            raise UserError(f"data of shape {tuple(x.shape[1:])} were given, this model knows {tuple(self.spec.shape)}.")
        if not bool(numbers.isfinite().all()):
            raise UserError("MADE has no density of numbers that are NaN or infinite, and some were given; remove those rows.")


def _drawn(condition: Condition, rows: int, candidates: int, rng: Rng) -> Tensor:
    """Conditions (rows * candidates, ...) as frequent as in the training set; those of a row are of its own stream."""
    if condition.kind not in ("class", "attributes"):
        raise not_given(condition)
    rates = condition_rates(condition, rng.device)
    if condition.kind == "attributes":
        return (rng.rand(rows, candidates, condition.size) < rates).float().flatten(0, 1)
    return chosen(rates, rng.rand(rows, candidates, dtype=torch.float64)).flatten()


def ordered(order: str, columns: int, seed: int) -> list[int]:
    """The columns' numbers in the order in which they follow each other; an unknown order is a UserError."""
    if order == "given":
        return list(range(columns))
    if order == "reverse":
        return list(range(columns))[::-1]
    if order == "random":
        return torch.randperm(columns, generator=torch.Generator().manual_seed(seed)).tolist()
    raise UserError(f"order = {order!r} was given; {nearest(order, ('given', 'reverse', 'random'))}")
