"""Mean and leading eigen-directions of data that arrive in chunks: exact, in float64, and never larger than they need be.

Up to D rows are kept as they are, and give their directions by a thin SVD (n < d: 400 faces of 12,288 numbers need no
12,288 x 12,288 matrix). From then on only the second moments are, whose eigenvectors are the directions. Where few of very
many directions are wanted, block power iteration with Rayleigh-Ritz replaces either (Halko, Martinsson and Tropp 2011), if it
converges: on the flat spectrum of noise it would not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LARGE = 2000  # above this many eigenvalues a full decomposition takes seconds to minutes
SPARE = 16  # extra columns of the block, which make the wanted ones converge
SWEEPS = 200
PRECISION = 1e-9  # of the eigenvalues, relative to the largest


@dataclass
class Principal:
    """mean (D,); `values` (k,), the largest eigenvalues of the maximum-likelihood covariance, falling; `directions` (k, D),
    orthonormal rows; `discarded`, the mean of the other D - k eigenvalues (None where there are none).

    With fewer rows than directions, those that the rows do not span have the value 0.
    """

    mean: Tensor
    values: Tensor
    directions: Tensor
    discarded: float | None


class Moments:
    """Sums over rows (n, D). `shift` (D,) is any point near the data: sums about it lose no digits."""

    def __init__(self, shift: Float[Tensor, " dimensions"]):
        self.shift, self.n = shift.double(), 0
        self.held: list[Tensor] = []
        self.first = torch.zeros_like(self.shift)
        self.second: Tensor | None = None
        self.third = torch.zeros_like(self.shift)  # sum |y|^2 y, and sum |y|^4
        self.quartic = 0.0

    def add(self, x: Float[Tensor, "rows dimensions"]) -> None:
        """Takes in some more rows."""
        self.n += len(x)
        self.held.append(x)
        if self.n > len(self.shift):
            self._condense()

    def _condense(self) -> None:
        if self.second is None:
            self.second = self.shift.new_zeros(len(self.shift), len(self.shift))
        while self.held:
            y = self.held.pop().double() - self.shift
            self.first += y.sum(0)
            self.second.addmm_(y.T, y)
            square = y.square().sum(1)
            self.third += y.T @ square
            self.quartic += float(square.square().sum())

    def merge(self, other: Moments) -> None:
        """Takes in the rows of `other`, which has the same shift."""
        for rows in other.held:
            self.add(rows)
        if other.second is not None:
            self._condense()
            self.n, self.first = self.n + other.n, self.first + other.first
            self.second = other.second if self.second is None else self.second + other.second
            self.third, self.quartic = self.third + other.third, self.quartic + other.quartic

    def mean(self) -> Float[Tensor, " dimensions"]:
        """Of the n > 0 rows."""
        return self.shift + (self._rows().mean(0) if self.second is None else self.first / self.n)

    def trace(self) -> float:
        """Of their covariance."""
        if self.second is None:
            return float(self._centred().square().sum()) / self.n
        return float(self.second.trace()) / self.n - float((self.first / self.n).square().sum())

    def squared_norm(self) -> float:
        """The sum of the squares of all entries of their covariance."""
        if self.second is None:
            y = self._centred()
            return float((y @ y.T).square().sum()) / self.n**2
        return float(self._covariance().square().sum())

    def fourth(self) -> float:
        """sum |x - mean|^4."""
        if self.second is None:
            return float(self._centred().square().sum(1).square().sum())
        o = self.first / self.n  # |y - o|^4 = (|y|^2 - 2 y.o + |o|^2)^2, summed term by term
        square, offset = float(self.second.trace()), float(o.square().sum())
        across = 4 * float(o @ self.second @ o) - 4 * float(o @ self.third)
        return self.quartic + across + 2 * offset * square - 3 * self.n * offset**2

    def _rows(self) -> Tensor:
        return torch.cat(self.held).double() - self.shift

    def _centred(self) -> Tensor:
        y = self._rows()
        return y - y.mean(0)

    def _covariance(self) -> Tensor:
        assert self.second is not None
        offset = self.first / self.n
        return self.second / self.n - torch.outer(offset, offset)

    def principal(self, k: int, extra: Float[Tensor, " dimensions"] | None = None) -> Principal:
        """The k leading directions of the n > 0 rows, of whose covariance C those of C + extra extra^T where it is given."""
        dimensions = len(self.shift)
        if self.second is None:
            y = self._rows()
            offset = y.mean(0)
            y = (y - offset) / self.n**0.5
            if extra is not None:
                y = torch.cat([y, extra[None]])
            total = float(y.square().sum())
            few = min(y.shape) > LARGE and k < min(y.shape) // 5
            found = leading(lambda block: y.T @ (y @ block), dimensions, k, y) if few else None
            if found:
                values, directions = found[0], found[1].T
            else:
                columns, singular, _ = torch.linalg.svd(y.T, full_matrices=False)  # LAPACK is faster on the tall one
                values, directions = singular.square(), columns.T
        else:
            offset = self.first / self.n
            covariance = self._covariance()
            if extra is not None:
                covariance += torch.outer(extra, extra)
            total = float(covariance.trace())
            few = dimensions > LARGE and k < dimensions // 5
            found = leading(lambda block: covariance @ block, dimensions, k, covariance) if few else None
            if found:
                values, directions = found[0], found[1].T
            else:
                ascending, columns = torch.linalg.eigh(covariance)
                values, directions = ascending.flip(0), columns.flip(1).T
        values, directions = values[:k].clamp(min=0), directions[:k]
        # An eigenvector's sign is arbitrary: its largest entry is made positive, the same on every machine.
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        directions = directions * torch.where(largest < 0, -1.0, 1.0)
        discarded = max(total - float(values.sum()), 0.0) / (dimensions - k) if k < dimensions else None
        missing = k - len(values)
        if missing:  # directions that the rows do not span: any that complete the others
            values = torch.cat([values, values.new_zeros(missing)])
            directions = torch.cat([directions, completion(directions, missing)])
        return Principal(self.shift + offset, values, directions, discarded)


def completion(directions: Float[Tensor, "m d"], missing: int) -> Float[Tensor, "missing d"]:
    """Orthonormal rows, orthogonal to the given ones."""
    size = directions.shape[1]
    more = torch.randn(size, missing, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(torch.cat([directions.T, more.to(directions.device)], 1)).Q[:, len(directions) :].T


def leading(apply: Callable[[Tensor], Tensor], size: int, k: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
    """The k largest eigenvalues (k,) and eigenvectors (size, k) of a symmetric operator by block power iteration; None where
    SWEEPS of them do not reach PRECISION."""
    start = torch.randn(size, k + SPARE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block = torch.linalg.qr(start.to(like.device)).Q
    values = block.new_zeros(k)
    for _ in range(SWEEPS):
        image = apply(block)
        # Rayleigh-Ritz: the best eigenpairs within the span of the block.
        ascending, rotation = torch.linalg.eigh(block.T @ image)
        previous, values = values, ascending.flip(0)[:k]
        if float((values - previous).abs().max()) <= PRECISION * float(values[0]):
            return values, (block @ rotation).flip(1)[:, :k]
        block = torch.linalg.qr(image @ rotation).Q
    return None
