"""The likelihood of rows of mixed columns: each number, integer, category and gap by the distribution of its own kind.

For the columns of a table, point or series as `data/table_units.py` lays them out, independent given the decoder's output:

    number      a Gaussian density, with one learned sigma a column
    integer     the mass of a logistic over its unit, F(x + w/2) - F(x - w/2), one learned scale a column
    category    a softmax over its one-hot columns
    missing     a Bernoulli for the flag; a number that is missing has no density of its own

so a row's log-likelihood is the sum of log-densities and log-masses, and nothing needs dequantisation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.spec import DataSpec
from pushforward.distributions.likelihoods import SCALES, Likelihood, logistic_mass, soft_clamp, total, wide
from pushforward.randomness import Rng, chosen


class Columns(Likelihood):
    """Gaussian, discretised-logistic, categorical and Bernoulli columns side by side: one number of the decoder for each."""

    channels = 1
    numbers: Tensor
    integers: Tensor
    widths: Tensor
    flags: Tensor
    flagged: Tensor
    groups: Tensor
    known: Tensor

    def __init__(self, spec: DataSpec):
        super().__init__()
        numbers, integers, widths, flags, flagged = [], [], [], [], []
        groups: list[list[int]] = []
        at = 0
        for column in spec.columns:
            if column.kind == "category":
                groups.append(list(range(at, at + len(column.categories))))
                at += len(column.categories)
                continue
            numbers.append(at)
            integers.append(column.integer)
            widths.append(1.0 / column.scale)
            at += 1
            if column.missing:
                flags.append(at)
                flagged.append(len(numbers) - 1)
                at += 1
        longest = max(map(len, groups), default=0)
        padded = [group + [group[0]] * (longest - len(group)) for group in groups]
        known = [[k < len(group) for k in range(longest)] for group in groups]
        for name, values, dtype in (
            ("numbers", numbers, torch.long),
            ("integers", integers, torch.bool),
            ("widths", widths, torch.float32),
            ("flags", flags, torch.long),
            ("flagged", flagged, torch.long),
            ("groups", padded, torch.long),
            ("known", known, torch.bool),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)
        self.whole = any(integers)
        self.raw = nn.Parameter(torch.zeros(len(numbers)))

    def _logits(self, values: Tensor) -> Tensor:
        """The logits of the categories (..., groups, longest), -inf where a group is shorter."""
        return values[..., self.groups].masked_fill(~self.known, -math.inf)

    def _numbers(self, mean: Tensor, x: Tensor) -> Tensor:
        """The log-density of each number, or the log-mass of each integer less log w."""
        log_scale = soft_clamp(self.raw, -SCALES, SCALES)
        distance, width = (x - mean) * torch.exp(-log_scale), self.widths * torch.exp(-log_scale)
        gaussian = -0.5 * distance.square() - log_scale - 0.5 * math.log(2 * math.pi)
        if not self.whole:
            return gaussian
        return torch.where(self.integers, logistic_mass(distance, width) - torch.log(self.widths), gaussian)

    def log_prob(self, parameters: Float[Tensor, "b k *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        values, x = wide(parameters[:, 0]), wide(x)
        each = self._numbers(values[..., self.numbers], x[..., self.numbers])
        if len(self.flags):
            absent = x[..., self.flags] > 0
            present = torch.ones_like(each).index_copy(-1, self.flagged, (~absent).to(each.dtype))
            each = each * present
        value = total(each)
        if len(self.flags):
            logits = values[..., self.flags]
            value = value + total(absent * logits - F.softplus(logits))
        if len(self.groups):
            category = x[..., self.groups].masked_fill(~self.known, -math.inf).argmax(-1, keepdim=True)
            value = value + total(self._logits(values).log_softmax(-1).gather(-1, category))
        return value

    def mean(self, parameters: Float[Tensor, "b k *shape"]) -> Float[Tensor, "b *shape"]:
        """Numbers' means, categories' probabilities, and the probability of a gap less a half."""
        values = wide(parameters[:, 0])
        x = values.clone()
        if len(self.flags):
            x[..., self.flags] = values[..., self.flags].sigmoid() - 0.5
        return self._with_categories(x, self._logits(values).softmax(-1)) if len(self.groups) else x

    def sample(self, parameters: Float[Tensor, "b k *shape"], rng: Rng) -> Float[Tensor, "b *shape"]:
        values = wide(parameters[:, 0])
        x, scale = values.clone(), soft_clamp(self.raw, -SCALES, SCALES).exp()
        if len(self.numbers):
            mean = values[..., self.numbers]
            normal = rng.randn_like(mean)
            if self.whole:
                logistic = torch.logit(rng.rand_like(mean).clamp(1e-7, 1 - 1e-7))
                normal = torch.where(self.integers, logistic, normal)
            x[..., self.numbers] = mean + scale * normal
        if len(self.flags):
            gap = values[..., self.flags].sigmoid()
            x[..., self.flags] = (rng.rand_like(gap) < gap).to(x.dtype) - 0.5
        if len(self.groups):
            mass = self._logits(values).softmax(-1)
            category = chosen(mass, rng.rand_like(mass[..., 0]))
            x = self._with_categories(x, F.one_hot(category, mass.shape[-1]).to(x.dtype))
        return x

    def _with_categories(self, x: Tensor, values: Tensor) -> Tensor:
        """x with `values` (..., groups, longest) in the columns of the categories."""
        return x.index_copy(-1, self.groups[self.known], values[..., self.known])
