"""Randomness is a function, not a state.

Whatever is random in the library is a function of integers: the order of the data of (seed, epoch), the noise of an
update of (seed, step, player), the i-th sample of (seed, i). So a run resumes from its step number alone, samples do
not depend on the batch size, and several processes draw what one process would have drawn.

`Rng` is what a model draws from. It comes in two kinds with the same methods: `UpdateRng` (fast, one stream an update,
of which each process takes its own rows) and `SampleRng` (one stream a row, so that row i never depends on its neighbours).
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def mix(*integers: int) -> int:
    """A well-spread 63-bit integer made of any integers (chained SplitMix64; Steele et al. 2014).

    >>> mix(1, 2) == mix(1, 2), mix(1, 2) == mix(2, 1)
    (True, False)
    """
    state = 0x9E3779B97F4A7C15
    for integer in integers:
        state = (state + (integer & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


class Rng(ABC):
    """A source of random rows. The first size is always the number of rows (of data, of samples)."""

    device: torch.device

    @abstractmethod
    def rand(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), of the given shape; the first size is the number of rows."""

    @abstractmethod
    def randn(self, *shape: int) -> Tensor:
        """Standard normal, of the given shape; the first size is the number of rows."""

    @abstractmethod
    def shared(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), of the given shape, one draw for all rows and all processes: coins, projections."""

    def randn_like(self, x: Tensor) -> Tensor:
        return self.randn(*x.shape).to(x.dtype)

    def rand_like(self, x: Tensor) -> Tensor:
        return self.rand(*x.shape).to(x.dtype)

    def randint(self, high: int, *shape: int) -> Tensor:
        """Integers 0 .. high-1."""
        return (self.rand(*shape).double() * high).long().clamp_(max=high - 1)

    def categorical(self, probabilities: Tensor) -> Tensor:
        """One index a row of `probabilities` (rows, K); rows need not be normalised."""
        cumulative = probabilities.double().cumsum(-1)
        threshold = self.rand(len(probabilities)).double()[:, None] * cumulative[:, -1:]
        return (cumulative <= threshold).sum(-1).clamp_(max=probabilities.shape[-1] - 1)


class UpdateRng(Rng):
    """One stream: draws for the rows of all processes together and keeps those of this one.

    So an update of two processes with 64 rows each uses the noise of one process with 128.
    """

    def __init__(self, generator: torch.Generator, rank: int = 0, world: int = 1):
        self.generator, self.rank, self.world = generator, rank, world
        self.device = generator.device

    def _draw(self, draw, shape: Sequence[int]) -> Tensor:
        if self.world == 1:
            return draw(tuple(shape), generator=self.generator, device=self.device)
        rows = shape[0]
        everyone = draw((rows * self.world, *shape[1:]), generator=self.generator, device=self.device)
        return everyone[self.rank * rows : (self.rank + 1) * rows]

    def shared(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def rand(self, *shape: int) -> Tensor:
        return self._draw(torch.rand, shape)

    def randn(self, *shape: int) -> Tensor:
        return self._draw(torch.randn, shape)


def uniforms(indices: np.ndarray, draws: int, key: int) -> np.ndarray:
    """Uniform numbers in (0, 1) as a function of (key, index, draw), by SplitMix64: float64 (rows, draws).

    Counters rather than torch's generators: those keep 32 bits of a seed, so that among 100,000 rows two would be the same.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = _scramble(np.asarray(indices).astype(np.uint64) * golden + np.uint64(key & _MASK))
    steps = (np.arange(1, draws + 1, dtype=np.uint64) * golden)[None]
    return ((_scramble(state[:, None] + steps) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _scramble(state: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, vectorised."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


class SampleRng(Rng):
    """Row i of the k-th draw is a function of (seed, first + i, k): the same whatever else is drawn beside it.

    Drawn on the CPU and moved to `device`, so that a seed means the same samples on every device. With `alike`, all rows
    are row `first`: noise that is common to all data.
    """

    def __init__(self, seed: int, first: int = 0, device: torch.device | str = "cpu", alike: bool = False):
        self.seed, self.first, self.device, self.alike = seed, first, torch.device(device), alike
        self._draws = 0

    def _rows(self, shape: Sequence[int]) -> Tensor:
        rows, size = shape[0], math.prod(shape[1:])
        indices = self.first + np.arange(1 if self.alike else rows)
        made = torch.from_numpy(uniforms(indices, size, mix(self.seed, self._draws)))
        self._draws += 1
        return made.expand(rows, -1).reshape(tuple(shape))

    def shared(self, *shape: int) -> Tensor:
        made = torch.from_numpy(uniforms(np.zeros(1), math.prod(shape), mix(self.seed, self._draws, 0x5A)))
        self._draws += 1
        return made.reshape(shape).clamp(max=1 - 2**-24).to(self.device, torch.float32)

    def rand(self, *shape: int) -> Tensor:
        # float32 would round the largest up to 1
        return self._rows(shape).clamp(max=1 - 2**-24).to(self.device, torch.float32)

    def randn(self, *shape: int) -> Tensor:
        return torch.special.ndtri(self._rows(shape)).to(self.device, torch.float32)


def as_rng(generator: Rng | torch.Generator | int | None, device: torch.device | str = "cpu") -> Rng:
    """What a caller gave as `generator`, as an `Rng`: one already, a torch.Generator, a seed, or None (a fresh seed)."""
    if isinstance(generator, Rng):
        return generator
    if isinstance(generator, torch.Generator):
        return UpdateRng(generator)
    seed = int(torch.randint(2**62, ()).item()) if generator is None else generator
    return SampleRng(seed, device=device)


def seed_everything(seed: int, device: torch.device) -> torch.Generator:
    """Seeds the default generator of `device` (what dropout draws from) and returns it. Cheaper than torch.manual_seed."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generator = torch.cuda.default_generators[index]
    else:
        generator = torch.default_generator
    generator.manual_seed(seed)
    return generator


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block (building a network, say) as a function of `seed`, and leaves the caller's random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
