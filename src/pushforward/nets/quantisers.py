"""Quantisers: what turns a grid of vectors into a grid of integers, and lets the gradient through.

Each maps z (B, inputs, *grid) to codes (B, outputs, *grid) that a decoder reads, and to indices (B, *grid) in 0 .. size - 1,
with `lookup(indices)` the same codes again. They know no loss but their own term, and change nothing when they are called:
moving averages and the restart of unused entries are in `after_update`, which sees the rows that were kept.

- `VectorQuantiser`: the nearest entry e_k of a codebook. Its gradient is passed straight through, d codes / d z = 1, and

      loss = |sg(z) - e|^2 + beta |z - sg(e)|^2          (sg: no gradient),

  of which the moving average does the first part without a gradient: with n_k vectors of a batch at entry k, and s_k their sum,
  N_k <- decay N_k + (1 - decay) n_k, m_k <- decay m_k + (1 - decay) s_k, e_k = m_k / N_k.
  van den Oord, Vinyals and Kavukcuoglu 2017, arXiv:1711.00937 (appendix A.1: moving averages); entries that are hardly used
  are put where data are (Dhariwal et al. 2020, arXiv:2005.00341); on the unit sphere: Yu et al. 2022, arXiv:2110.04627.
- `GumbelQuantiser`: a categorical q(k | x) over entries, drawn by the Gumbel-softmax at a falling temperature, with the loss
  beta KL(q || uniform). Jang et al. 2017, arXiv:1611.01144; Maddison et al. 2017, arXiv:1611.00712; Ramesh et al. 2021,
  arXiv:2102.12092.
- `FiniteScalarQuantiser`: each channel rounded to a few levels; no codebook, no loss, nothing that can die.
  Mentzer et al. 2023, arXiv:2309.15505.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.randomness import Rng

SMOOTHING = 1e-5  # Laplace's: no count is zero
LITTLE = 0.05  # of an even share
SHARP = 5.0  # logits a unit of z: those of a fresh network, about a half, would be lost in Gumbel noise
ANNEALED = 0.75  # the part of a run in which the temperature falls


@dataclass
class Quantised:
    """What a quantiser makes of z.

    codes: (B, outputs, *grid), with a gradient to z. indices: (B, *grid). loss: its own term of each datum, summed over the
    grid, (B,). keep: rows for `after_update`.
    """

    codes: Tensor
    indices: Tensor
    loss: Tensor
    keep: dict[str, Tensor] = field(default_factory=dict)


def perplexity(indices: Int[Tensor, "*n"], size: int) -> Float[Tensor, ""]:
    """exp of the entropy of how often each of `size` entries comes: as many as it would be, were they used alike.

    >>> round(float(perplexity(torch.tensor([0, 0, 3, 3]), 4)), 4)
    2.0
    """
    flat = indices.flatten()
    share = torch.zeros(size, device=flat.device).index_add_(0, flat, torch.ones(len(flat), device=flat.device)) / len(flat)
    return torch.special.entr(share).sum().exp()


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """The value of `quantised` with the gradient of z."""
    return z + (quantised - z).detach()


def _rows(z: Tensor) -> Tensor:
    """(B, D, *grid) -> float32 (B, P, D), the positions row by row."""
    return z.flatten(2).transpose(1, 2).float()


def _grid(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse: (B, P, D) -> (B, D, *grid)."""
    return rows.transpose(1, 2).reshape(len(rows), rows.shape[-1], *like.shape[2:])


class Quantiser(nn.Module):
    """What they have in common. `size`: entries; `inputs`, `outputs`: channels of z and of the codes."""

    size: int
    inputs: int
    outputs: int

    def forward(self, z: Float[Tensor, "b d *grid"], rng: Rng | None = None, progress: float = 1.0) -> Quantised:
        """rng: for those that draw in training. progress: how far the run is, from 0 to 1."""
        raise NotImplementedError

    def lookup(self, indices: Int[Tensor, "b *grid"]) -> Float[Tensor, "b e *grid"]:
        """The codes that these integers mean."""
        raise NotImplementedError

    def after_update(self, keep: dict[str, Tensor], rng: Rng) -> None:
        """Changes what no gradient changes. keep: `Quantised.keep` of all rows of an update."""


class VectorQuantiser(Quantiser):
    """The nearest entry of a codebook. It starts at vectors of the first batch.

    The codebook is a parameter in either mode: with moving averages it gets no gradient, but whoever averages the weights of
    a run averages the encoder and the codebook alike, so that they go on fitting each other.

    Args:
        size: entries.
        dimension: of each.
        moving: learned by moving averages, or (False) by the gradient of |sg(z) - e|^2.
        beta: weight of the commitment |z - sg(e)|^2.
        decay: of the moving averages (and of the counts of use).
        restart: an entry that is used less than this part of 1 / size is put at a vector of the batch; 0: never.
        normalise: vectors and entries on the unit sphere, compared by their angle.
    """

    count: Tensor
    sums: Tensor
    started: Tensor

    def __init__(
        self,
        size: int,
        dimension: int,
        *,
        moving: bool = True,
        beta: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.05,
        normalise: bool = False,
    ):
        super().__init__()
        if size < 2 or dimension < 1:
            raise UserError(f"a codebook of {size} entries with {dimension} numbers was asked for; give at least 2 with 1.")
        if not (0 <= decay < 1 and 0 <= restart < 1 and beta >= 0):
            raise UserError(
                f"decay={decay}, restart={restart} and beta={beta} were given; decay and restart are from 0 to below 1, "
                "beta is not negative."
            )
        self.size, self.inputs, self.outputs = size, dimension, dimension
        self.moving, self.beta, self.decay, self.restart, self.normalise = moving, beta, decay, restart, normalise
        self.codebook = nn.Parameter(torch.randn(size, dimension))
        self.register_buffer("count", torch.ones(size))
        self.register_buffer("sums", self.codebook.detach().clone())
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def entries(self) -> Float[Tensor, "k d"]:
        """The codebook."""
        return F.normalize(self.codebook, dim=-1) if self.normalise else self.codebook

    def nearest(self, rows: Float[Tensor, "*n d"]) -> Int[Tensor, "*n"]:
        """argmin over k of |z - e_k|^2 = |z|^2 + |e_k|^2 - 2 z e_k."""
        entries = self.entries().detach()
        with torch.autocast(rows.device.type, enabled=False):  # in bf16 neighbours are confused
            flat = rows.detach().flatten(0, -2)
            distance = torch.addmm(entries.square().sum(1), flat, entries.T, alpha=-2)
        return distance.argmin(1).view(rows.shape[:-1])

    def forward(self, z: Float[Tensor, "b d *grid"], rng: Rng | None = None, progress: float = 1.0) -> Quantised:
        rows = _rows(z)
        if self.normalise:
            rows = F.normalize(rows, dim=-1)
        indices = self.nearest(rows)
        chosen = F.embedding(indices, self.entries())
        loss = self.beta * (rows - chosen.detach()).square().sum((1, 2))
        if not self.moving:
            loss = loss + (rows.detach() - chosen).square().sum((1, 2))
        keep = {"z": rows.detach(), "indices": indices}
        codes = _grid(straight_through(rows, chosen), z)
        return Quantised(codes, indices.view(len(z), *z.shape[2:]), loss, keep)

    def lookup(self, indices: Int[Tensor, "b *grid"]) -> Float[Tensor, "b d *grid"]:
        return F.embedding(indices, self.entries()).movedim(-1, 1)

    @torch.no_grad()
    def after_update(self, keep: dict[str, Tensor], rng: Rng) -> None:
        """Counts, moving averages, and entries put where data are. keep: z (B, P, D), indices (B, P)."""
        z, indices = keep["z"].flatten(0, 1), keep["indices"].flatten()
        if not self.started:  # if the batch has fewer vectors than there are entries, the rest is as good as dead
            self.count.fill_(LITTLE * len(z) / self.size)
            self.sums.copy_(self.codebook * self.count[:, None])
            self._place(torch.arange(self.size), z, rng)
            self.started.fill_(True)
            return
        used = torch.zeros_like(self.count).index_add_(0, indices, torch.ones_like(z[:, 0]))
        self.count.lerp_(used, 1 - self.decay)
        if self.moving:
            self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, indices, z), 1 - self.decay)
            total = self.count.sum()
            smooth = (self.count + SMOOTHING) / (total + self.size * SMOOTHING) * total
            self.codebook.copy_(self.sums / smooth[:, None])
        if self.restart:
            self._place((self.count < self.restart * len(z) / self.size).nonzero()[:, 0], z, rng)

    def _place(self, entries: Tensor, z: Float[Tensor, "n d"], rng: Rng) -> None:
        """Puts entries at different vectors among z. Their use counts as twice of what is too little: a fresh entry soon
        follows the vectors that choose it, and soon moves on if there are none."""
        chosen = rng.shared(len(z)).argsort()[: len(entries)].to(z.device)  # different ones
        entries = entries.to(z.device)[: len(chosen)]
        self.count[entries] = 2 * max(self.restart, LITTLE) * len(z) / self.size
        self.codebook[entries] = z[chosen]
        self.sums[entries] = z[chosen] * self.count[entries, None]


class GumbelQuantiser(Quantiser):
    """A draw from a categorical over entries, made soft so that it has a gradient. In eval mode it is a hard draw, one entry,
    if there is an rng (a loss on held-out data: an estimate of E_q), else the likeliest entry.

    5 z are the logits (inputs = size). With g Gumbel noise, the code is sum_k softmax((5 z + g) / t)_k e_k; the temperature t
    falls along half a cosine, in its logarithm, within the first three quarters of the run.

    Args:
        size: entries.
        dimension: of each.
        beta: weight of KL(q || uniform), in nats.
        temperature: at first and at last.
    """

    def __init__(self, size: int, dimension: int, *, beta: float = 1.0, temperature: Sequence[float] = (1.0, 1 / 16)):
        super().__init__()
        if size < 2 or dimension < 1:
            raise UserError(f"a codebook of {size} entries with {dimension} numbers was asked for; give at least 2 with 1.")
        if len(temperature) != 2 or not min(temperature) > 0:
            raise UserError(f"temperature={tuple(temperature)} was given; give two positive numbers, at first and at last.")
        self.size, self.inputs, self.outputs = size, size, dimension
        self.beta, self.ends = beta, tuple(temperature)
        self.codebook = nn.Parameter(torch.randn(size, dimension))

    def temperature(self, progress: float) -> float:
        """At this part of the run."""
        first, last = map(math.log, self.ends)
        return math.exp(last + (first - last) * (1 + math.cos(math.pi * min(1.0, progress / ANNEALED))) / 2)

    def forward(self, z: Float[Tensor, "b k *grid"], rng: Rng | None = None, progress: float = 1.0) -> Quantised:
        logits = SHARP * _rows(z)
        indices = logits.argmax(-1)
        log_q = logits.log_softmax(-1)
        kl = (log_q.exp() * log_q).sum((1, 2)) + math.log(self.size) * logits.shape[1]
        if self.training and rng is None:
            raise ValueError("the Gumbel-softmax draws in training; give it an rng.")
        noisy = logits
        if rng is not None:
            noisy = logits - torch.log(-torch.log(rng.rand(*logits.shape).clamp_(1e-20, 1 - 2**-24)))
        if self.training:
            codes = (noisy / self.temperature(progress)).softmax(-1) @ self.codebook
        else:
            indices = noisy.argmax(-1)
            codes = F.embedding(indices, self.codebook)
        return Quantised(_grid(codes, z), indices.view(len(z), *z.shape[2:]), self.beta * kl)

    def lookup(self, indices: Int[Tensor, "b *grid"]) -> Float[Tensor, "b d *grid"]:
        return F.embedding(indices, self.codebook).movedim(-1, 1)


class FiniteScalarQuantiser(Quantiser):
    """Channel i rounded to L_i levels: prod L_i entries without a codebook.

    f(z) = h tanh(z + a) - o with h = (L - 1) / 2 (a thousandth more, so that the ends are reached), o = 1/2 for even L and
    0 for odd, and a such that f(0) = 0: round(f) takes L values. Codes are these, divided by L // 2, so within [-1, 1]. The
    index counts in the mixed base (L_1, L_2, ...), the first channel fastest.

    Args:
        levels: of each channel, at least 3.
    """

    reach: Tensor
    offset: Tensor
    shift: Tensor
    middle: Tensor
    top: Tensor
    base: Tensor

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        if not levels or min(levels) < 3:
            raise UserError(f"levels={tuple(levels)} was given; give some channels of at least 3 levels each, like (8, 6, 5).")
        self.levels, self.size = tuple(levels), math.prod(levels)
        self.inputs = self.outputs = len(self.levels)
        counts = torch.tensor(self.levels)
        half, offset = (counts - 1) * 1.001 / 2, 0.5 * (counts % 2 == 0)
        for name, value in (("reach", half), ("offset", offset), ("shift", torch.atanh(offset / half))):
            self.register_buffer(name, value.float(), persistent=False)
        self.register_buffer("middle", counts // 2, persistent=False)
        self.register_buffer("top", counts - 1 - counts // 2, persistent=False)
        self.register_buffer("base", torch.cat([torch.ones(1, dtype=torch.long), counts[:-1].cumprod(0)]), persistent=False)

    def forward(self, z: Float[Tensor, "b d *grid"], rng: Rng | None = None, progress: float = 1.0) -> Quantised:
        bounded = self.reach * torch.tanh(_rows(z) + self.shift) - self.offset
        # with a thousand levels and more the thousandth beyond the ends is a level of its own
        steps = bounded.detach().round().clamp(-self.middle, self.top)
        rounded = straight_through(bounded, steps)
        indices = ((steps.long() + self.middle) * self.base).sum(-1)
        codes = _grid(rounded / self.middle, z)
        return Quantised(codes, indices.view(len(z), *z.shape[2:]), torch.zeros(len(z), device=z.device))

    def lookup(self, indices: Int[Tensor, "b *grid"]) -> Float[Tensor, "b d *grid"]:
        digits = indices[..., None] // self.base % torch.tensor(self.levels, device=indices.device)
        return ((digits - self.middle) / self.middle).movedim(-1, 1)
