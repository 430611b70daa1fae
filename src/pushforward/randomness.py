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
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

EVALUATION_SEED = 0x1A3  # of what is drawn to measure a model, so that a figure is a function of the data alone

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
    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform on [0, 1), of the given shape, in 24 bits or (float64) 53; the first size is the number of rows."""

    @abstractmethod
    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal, of the given shape, in float32 or float64; the first size is the number of rows."""

    @abstractmethod
    def shared(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), of the given shape, one draw for all rows and all processes: coins, projections."""

    def randn_like(self, x: Tensor) -> Tensor:
        return self.randn(*x.shape, dtype=_drawn_in(x.dtype)).to(x.dtype)

    def rand_like(self, x: Tensor) -> Tensor:
        return self.rand(*x.shape, dtype=_drawn_in(x.dtype)).to(x.dtype)

    def randint(self, high: int, *shape: int) -> Tensor:
        """Integers 0 .. high-1."""
        return (self.rand(*shape, dtype=torch.float64) * high).long().clamp_(max=high - 1)

    def categorical(self, probabilities: Tensor) -> Tensor:
        """One index a row of `probabilities` (rows, K); rows need not be normalised."""
        return chosen(probabilities, self.rand(len(probabilities), dtype=torch.float64))


def chosen(weights: Tensor, uniform: Tensor) -> Tensor:
    """The indices (...) that uniform numbers (...) on [0, 1) choose by weights (..., K), which need not be normalised: each the
    first whose cumulative weight exceeds the number times their sum, in float64. So none of weight 0 is among them.

    >>> chosen(torch.tensor([5.0, 0.0, 3.0, 2.0]), torch.tensor(0.5))
    tensor(2)
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    threshold = uniform.double()[..., None] * cumulative[..., -1:]
    return (cumulative <= threshold).sum(-1).clamp_(max=weights.shape[-1] - 1)


def _drawn_in(dtype: torch.dtype) -> torch.dtype:
    """What numbers of this type are drawn in: half precision would round a uniform number up to 1."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class UpdateRng(Rng):
    """One stream: draws for the rows of all processes together and keeps those of this one.

    So an update of two processes with 64 rows each uses the noise of one process with 128.
    """

    def __init__(self, generator: torch.Generator, rank: int = 0, world: int = 1):
        self.generator, self.rank, self.world = generator, rank, world
        self.device = generator.device

    def _draw(self, draw: Callable[..., Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        rows = shape[0]
        everyone = draw((rows * self.world, *shape[1:]), generator=self.generator, device=self.device, dtype=dtype)
        return everyone[self.rank * rows : (self.rank + 1) * rows]

    def shared(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device)

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._draw(torch.rand, shape, dtype)

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._draw(torch.randn, shape, dtype)


def uniforms(indices: Tensor, draws: int, key: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform numbers in (0, 1) as a function of (key, index, draw), (rows, draws), on the device of the indices.

    float64: 53 bits of SplitMix64's words. float32: the odd multiples of 2^-24, two of each word. Neither 0 nor 1 are among
    them, so that logs and logits are finite. Fewer draws are the first of more.

    >>> uniforms(torch.tensor([5, 6]), 2, key=0).shape
    torch.Size([2, 2])
    """
    if dtype == torch.float64:
        made = torch.empty(len(indices), draws, dtype=dtype, device=indices.device)
        for rows, columns, word in _words(indices, draws, key):
            made[rows, columns] = _top(word)
        return made
    pairs = (draws + 1) // 2
    made = torch.empty(len(indices), pairs, 2, device=indices.device)  # so a longer draw begins alike
    for rows, columns, word in _words(indices, pairs, key):
        for half, bits in enumerate(_halves(word)):
            made[rows, columns, half] = (bits >> 8).bitwise_and_(0xFFFFFF).bitwise_or_(1).float().mul_(2.0**-24)
    return made.flatten(1)[:, :draws]


def normals(indices: Tensor, draws: int, key: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers as a function of (key, index, draw), (rows, draws), on the device of the indices.

    float32: two of each word by Box and Muller's transform, the radius from 31 bits of it and the angle from 32. So no |z| is
    beyond sqrt(64 log 2) = 6.66, which 3 in 10^11 would be. float64: the inverse of the CDF at 53 bits, |z| up to 8.3.
    """
    if dtype == torch.float64:
        made = torch.empty(len(indices), draws, dtype=dtype, device=indices.device)
        for rows, columns, word in _words(indices, draws, key):
            made[rows, columns] = torch.special.ndtri(_top(word))
        return made
    pairs = (draws + 1) // 2
    made = torch.empty(len(indices), pairs, 2, device=indices.device)  # so a longer draw begins alike
    for rows, columns, word in _words(indices, pairs, key):
        low, high = _halves(word)
        radius = (low & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
        angle = high.float().mul_(math.pi * 2.0**-31)
        made[rows, columns, 0] = angle.cos().mul_(radius)
        made[rows, columns, 1] = angle.sin_().mul_(radius)
    return made.flatten(1)[:, :draws]


def scrambled(integers: Tensor) -> Tensor:
    """64 bits for each integer that look drawn at random: the words of SplitMix64 (Steele et al. 2014) by their numbers."""
    return _scramble((integers + 1) * _GOLDEN)


def _words(indices: Tensor, count: int, key: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """The 64-bit words (rows, count) of SplitMix64 (Steele et al. 2014), as rows, columns and what stands there: in blocks that
    fit a processor's cache, or spare an accelerator's memory.

    Counters rather than torch's generators: those keep 32 bits of a seed, so that among 100,000 rows two would be the same.
    Integers are the same on every device; what is made of them by log, cos and sin may differ in the last bit.
    """
    block = 2**16 * torch.get_num_threads() if indices.device.type == "cpu" else 2**24
    state = _scramble(indices * _GOLDEN + _signed(key))
    height, width = max(1, block // max(1, count)), min(count, block)
    for left in range(0, count, max(1, width)):
        right = min(count, left + width)
        steps = torch.arange(left + 1, right + 1, device=indices.device) * _GOLDEN
        for top in range(0, len(indices), height):
            rows = slice(top, min(len(indices), top + height))
            yield rows, slice(left, right), _scramble(state[rows, None] + steps)


def _signed(integer: int) -> int:
    """The int64 with these 64 bits: its arithmetic is that of unsigned integers modulo 2^64."""
    return ((integer + (1 << 63)) & _MASK) - (1 << 63)


_GOLDEN = _signed(0x9E3779B97F4A7C15)


def _scramble(state: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state.bitwise_xor_(_shifted(state, shift)).mul_(_signed(factor))
    return state.bitwise_xor_(_shifted(state, 31))


def _shifted(word: Tensor, places: int) -> Tensor:
    """To the right, with zeros from the left: `>>` alone copies the sign."""
    return (word >> places).bitwise_and_((1 << (64 - places)) - 1)


def _top(word: Tensor) -> Tensor:
    """The upper 53 bits as a number in (0, 1): float64."""
    return _shifted(word, 11).double().add_(0.5).mul_(2.0**-53)


def _halves(word: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of words (rows, columns), as int32."""
    low, high = word.view(torch.int32).unflatten(1, (-1, 2)).unbind(2)
    return low, high


class SampleRng(Rng):
    """Row i of the k-th draw is a function of (seed, first + i, k): the same whatever else is drawn beside it, and on whatever
    device. With `alike`, all rows are row `first`: noise that is common to all data.
    """

    def __init__(self, seed: int, first: int = 0, device: torch.device | str = "cpu", alike: bool = False):
        self.seed, self.first, self.device, self.alike = seed, first, torch.device(device), alike
        self._draws = 0

    def _rows(self, law: Callable[..., Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        rows = shape[0]
        indices = torch.arange(self.first, self.first + (1 if self.alike else rows), device=self.device)
        made = law(indices, math.prod(shape[1:]), mix(self.seed, self._draws), dtype)
        self._draws += 1
        return made.expand(rows, -1).reshape(tuple(shape))

    def shared(self, *shape: int) -> Tensor:
        one = torch.zeros(1, dtype=torch.int64, device=self.device)
        made = uniforms(one, math.prod(shape), mix(self.seed, self._draws, 0x5A), torch.float32)
        self._draws += 1
        return made.reshape(shape)

    def rand(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._rows(uniforms, shape, dtype)

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._rows(normals, shape, dtype)


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
