"""A simple distribution of codes on a grid, by counting: enough to see what a quantised autoencoder draws by itself.

Codes come row by row; each depends on where it is, on its class, on its neighbours to the left and above, and on the code of a
coarser grid at the same place, as if these said independent things of it (naive Bayes):

    p(c | place, class, left, above, coarse) ~ p(c | place, class) p(left | c) p(above | c) p(coarse | c).

Each is a table of counts (in float64: float32 counts to 2^24 and no further), that of a rare case drawn towards the table of
the more general one. It is a normalised distribution, of low order: samples are locally right and globally loose. For good ones
train an autoregressive model of the codes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.randomness import Rng, chosen

SHRINK = 16.0  # what a general table weighs against counts, in codes
LARGEST = 2**24  # numbers in a table; of larger codebooks there are no tables of pairs, of more classes none by class


class CodePrior(nn.Module):
    """p(codes) for codes (B, P) in 0 .. size - 1, P = prod(grid).

    Args:
        size: entries of the codebook.
        grid: (h, w), neighbours being alike everywhere; or (P,), a chain in which every place has its own.
        classes: of the data, each with tables of its own.
        coarse: entries and grid (h, w) of the coarser codes that are known beside these.
    """

    counts: Tensor
    pairs: Tensor
    parents: Tensor
    at: Tensor

    def __init__(self, size: int, grid: tuple[int, ...], classes: int = 1, coarse: tuple[int, tuple[int, int]] | None = None):
        super().__init__()
        self.size, self.grid, self.places = size, grid, math.prod(grid)
        self.classes = classes if classes * self.places * size <= LARGEST else 1
        self.asked = classes
        tables = 2 if len(grid) == 2 else self.places
        self.register_buffer("counts", torch.zeros(self.classes, self.places, size, dtype=torch.float64))
        tables = tables if tables * size * size <= LARGEST else 0
        self.register_buffer("pairs", torch.zeros(tables, size, size, dtype=torch.float64))
        above = coarse[0] if coarse and coarse[0] * size <= LARGEST else 0
        self.register_buffer("parents", torch.zeros(above, size, dtype=torch.float64))
        if coarse:
            (h, w), (up, along) = grid, coarse[1]
            rows, columns = torch.arange(h) * up // h, torch.arange(w) * along // w
            self.register_buffer("at", (rows[:, None] * along + columns).flatten(), persistent=False)

    def reset(self) -> None:
        """Forgets all counts."""
        for table in (self.counts, self.pairs, self.parents):
            table.zero_()

    def _neighbours(self, place: int) -> list[tuple[int, int]]:
        """(table, place) of the codes before this one that it depends on."""
        if not len(self.pairs):
            return []
        if len(self.grid) == 1:
            return [(place, place - 1)] if place else []
        width = self.grid[1]
        return [(0, place - 1)] * (place % width > 0) + [(1, place - width)] * (place >= width)

    @torch.no_grad()
    def observe(
        self, codes: Int[Tensor, "b p"], classes: Int[Tensor, " b"] | None = None, coarse: Int[Tensor, "b q"] | None = None,
        decay: float = 1.0,
    ) -> None:  # fmt: skip
        """Adds codes to the counts, after those have shrunk to `decay`."""
        self.reset() if decay == 0 else [t.mul_(decay) for t in (self.counts, self.pairs, self.parents) if decay < 1]
        places = torch.arange(self.places, device=codes.device)
        label = torch.zeros(len(codes), 1, dtype=torch.long, device=codes.device)
        if classes is not None and self.classes > 1:
            label = classes.long()[:, None]
        _count(self.counts, (label * self.places + places) * self.size + codes)
        if len(self.pairs) and len(self.grid) == 1:
            _count(self.pairs, (places[1:] * self.size + codes[:, :-1]) * self.size + codes[:, 1:])
        elif len(self.pairs):
            grid = codes.view(-1, *self.grid)
            _count(self.pairs, grid[:, :, :-1] * self.size + grid[:, :, 1:])
            _count(self.pairs, (self.size + grid[:, :-1]) * self.size + grid[:, 1:])
        if len(self.parents) and coarse is not None:
            _count(self.parents, coarse[:, self.at] * self.size + codes)

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """log p(c | place, class) (classes, P, K), and log p(c | neighbour) / p(c) of pairs and parents."""
        counts = self.counts
        overall = counts.sum((0, 1))
        overall = (overall + SHRINK / self.size) / (overall.sum() + SHRINK)
        by_place = _shrunk(counts.sum(0), overall)
        pairs, parents = (_shrunk(t, overall).log() - overall.log() for t in (self.pairs, self.parents))
        return _shrunk(counts, by_place).log(), pairs, parents

    def _label(self, classes: Tensor | None, n: int) -> Tensor:
        """The class of each row; all in one where there are no tables by class."""
        if self.classes == 1:
            if classes is not None and self.asked > 1:
                raise UserError(
                    f"a class was asked for, and {self.asked} classes are too many for tables of {self.places} codes in "
                    f"{self.size}: train a model of the codes (pf.codes_of) and ask that."
                )
            return torch.zeros(n, dtype=torch.long, device=self.counts.device)
        if classes is None:
            raise ValueError("these codes have tables by class; say the classes.")
        return classes.long()

    def log_prob(
        self, codes: Int[Tensor, "b p"], classes: Int[Tensor, " b"] | None = None, coarse: Int[Tensor, "b q"] | None = None
    ) -> Float[Tensor, " b"]:
        """log p(codes | class, coarse codes), in nats per datum."""
        log_place, pairs, parents = self._tables()
        label, total = self._label(classes, len(codes)), torch.zeros(len(codes), dtype=torch.float64, device=codes.device)
        for place in range(self.places):
            logits = self._logits(place, codes, label, coarse, log_place, pairs, parents)
            total += logits.log_softmax(1).gather(1, codes[:, place : place + 1])[:, 0]
        return total

    def _logits(
        self, place: int, codes: Tensor, label: Tensor, coarse: Tensor | None, log_place: Tensor, pairs: Tensor, parents: Tensor
    ) -> Tensor:
        """log p(c | what is known) + constant, (B, K)."""
        logits = log_place[label, place]
        for table, before in self._neighbours(place):
            logits = logits + pairs[table, codes[:, before]]
        if len(parents) and coarse is not None:
            logits = logits + parents[coarse[:, self.at[place]]]
        return logits

    @torch.no_grad()
    def sample(
        self, n: int, rng: Rng, classes: Int[Tensor, " n"] | None = None, coarse: Int[Tensor, "n q"] | None = None
    ) -> Int[Tensor, "n p"]:
        """Codes of these classes, given coarser codes if there are any."""
        tables = self._tables()
        label, uniform = self._label(classes, n), rng.rand(n, self.places)
        codes = torch.zeros(n, self.places, dtype=torch.long, device=uniform.device)
        for place in range(self.places):
            codes[:, place] = chosen(self._logits(place, codes, label, coarse, *tables).softmax(1), uniform[:, place])
        return codes


def _count(table: Tensor, at: Tensor) -> None:
    """Adds one at each of these places of a flattened table."""
    flat = at.flatten()
    table.view(-1).index_add_(0, flat, torch.ones(len(flat), dtype=table.dtype, device=flat.device))


def _shrunk(counts: Tensor, general: Tensor) -> Tensor:
    """Frequencies (..., K), those of rare cases drawn towards the general ones."""
    return (counts + SHRINK * general) / (counts.sum(-1, keepdim=True) + SHRINK)
