"""The contract between a model and everything above it: capabilities, asked for with `isinstance`, and players.

A model is any `torch.nn.Module` built as `Model(spec, **settings)`. It works in its own units (`DataSpec`), takes
`condition` and `generator` as keywords, and has the methods of the capabilities that it offers; there is nothing to
inherit from. Whoever trains, samples or measures models is written against this file and no other.

`log_prob` is in nats per datum, higher is better. t is (B,) in [0, 1], 0 = data, 1 = noise.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.randomness import Rng

Generator = Rng | torch.Generator | int | None


@dataclass
class LogProb:
    """Log-densities (B,) in nats, and what they are: exact, a lower bound, or an estimate with its standard error (B,)."""

    value: Tensor
    kind: Literal["exact", "bound", "estimate"]
    stderr: Tensor | None = None


@runtime_checkable
class Samples(Protocol):
    """Draws data: x (n, *spec.shape). Further keyword options (steps, guidance, temperature) are the model's own."""

    def sample(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Tensor: ...


@runtime_checkable
class Density(Protocol):
    """Knows (a bound on, an estimate of) the log-density of x (B, *spec.shape): given its condition, or without one that of
    all data together.

    Two attributes say what it is a density of. `dequantise = True`: train it on dequantised data. `mass = True`: it gives
    integer levels themselves a probability (as a density, constant over each level), so they need no noise when measured.
    """

    def log_prob(self, x: Tensor, *, condition: Tensor | None = None) -> LogProb: ...


@runtime_checkable
class Encodes(Protocol):
    """Maps x (B, *spec.shape) to codes z (B, ...): for a stochastic encoder the mean."""

    def encode(self, x: Tensor, *, condition: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Decodes(Protocol):
    """Maps codes z (B, ...) to data; `draw_codes` draws z from the latent distribution, given the condition where that
    depends on it, so that `decode(draw_codes(n, condition=c), condition=c)` is distributed as `sample(n, condition=c)`."""

    def decode(self, z: Tensor, *, condition: Tensor | None = None) -> Tensor: ...

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Tensor: ...


@dataclass(frozen=True)
class Space:
    """A space of codes. draw(n, condition=, generator=): codes (n, ...). decode(codes, condition=): x, differentiable."""

    draw: Callable[..., Tensor]
    decode: Callable[..., Tensor]


@runtime_checkable
class Spaces(Protocol):
    """Has spaces of codes beside that of `Decodes` ("z"), by name. No capability: what inverts and edits asks for it."""

    def spaces(self) -> dict[str, Space]: ...


@runtime_checkable
class Views(Protocol):
    """Has codes of two parts, `content` numbers that say what a datum is of and others that say how it is seen (0: it has no
    such parts). No capability: what mixes asks for it. views: rows share a content, columns a view."""

    content: int

    def views(self, contents: int | Tensor, views: int | Tensor, *, generator: Generator = None) -> Tensor: ...


@runtime_checkable
class Judges(Protocol):
    """Knows how real data look, higher for what the model takes for real (logits; one for several data in packs). No
    capability: training watches by it whether a critic knows its data by heart."""

    def judge(self, x: Tensor, *, condition: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Scores(Protocol):
    """Knows the score grad_x log p_t(x) of data noised along its own path: p_t is the law of alpha(t) x_0 + sigma(t) noise,
    with `path(t)` giving both (dynamics/paths.py)."""

    def score(self, x: Tensor, t: Tensor, *, condition: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Trajectories(Protocol):
    """Can show how a sample comes about: (K, n, *spec.shape), from noise (first) to data (last)."""

    def trajectory(
        self, n: int, *, frames: int = 8, condition: Tensor | None = None, generator: Generator = None
    ) -> Tensor: ...


@runtime_checkable
class Extends(Protocol):
    """Continues a prefix: tokens (B, P) -> (B, P + length)."""

    def extend(
        self, prefix: Tensor, length: int, *, condition: Tensor | None = None, generator: Generator = None
    ) -> Tensor: ...


@runtime_checkable
class Completes(Protocol):
    """Draws what is missing: x (B, *spec.shape) with its known part (a mask of booleans, of x's shape) kept as it is."""

    def complete(self, x: Tensor, known: Tensor, *, condition: Tensor | None = None, generator: Generator = None) -> Tensor: ...


@runtime_checkable
class Translates(Protocol):
    """Maps images x of one domain to the other (B, *spec.shape): x are like the data or, where the data are pairs (`condition`
    of the spec an image), like the images that they are given, and `condition` is None. Row i of x is translated as if alone.
    """

    def translate(self, x: Tensor, *, condition: Tensor | None = None, generator: Generator = None) -> Tensor: ...


@runtime_checkable
class Corrupts(Protocol):
    """Translates what it makes of data itself: what it is given of images x (B, *spec.shape), of the same shape."""

    def corrupted(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class Taught(Protocol):
    """Learns from another run's model: `teacher` is the run's directory, or None. The run opens it before training begins."""

    teacher: str | None

    def learn_from(self, teacher: nn.Module) -> None: ...


@runtime_checkable
class Diagnoses(Protocol):
    """Says how its codes are used, on data x (B, *spec.shape), as named finite figures. No capability: `evaluate` asks for it.

    "active_units" of "units": latent dimensions that say more than 0.01 nats about a datum (of codes without noise: with more
    than 1 % of the largest variance). "kl_per_unit": nats, on average.
    "perplexity" of "codes": how many entries of a codebook are in use. Several of one sort have a suffix, the same for
    both of a pair: "active_units_1", "units_1". Anything else is shown without a comment.
    """

    def diagnose(self, x: Tensor, *, condition: Tensor | None = None) -> dict[str, float]: ...


@runtime_checkable
class Learns(Protocol):
    """Says who plays and for what: everything that `train` needs to know."""

    def players(self) -> list[Player]: ...


CAPABILITIES: dict[str, type] = {
    "samples": Samples,
    "density": Density,
    "encodes": Encodes,
    "decodes": Decodes,
    "scores": Scores,
    "trajectories": Trajectories,
    "extends": Extends,
    "completes": Completes,
    "translates": Translates,
}


def capabilities(model: object) -> list[str]:
    """The names of what a model (or a model's class) can do."""
    if isinstance(model, type):
        return [
            name
            for name, protocol in CAPABILITIES.items()
            if all(hasattr(model, method) for method in vars(protocol) if not method.startswith("_"))
        ]
    return [name for name, protocol in CAPABILITIES.items() if isinstance(model, protocol)]


@dataclass
class Loss:
    """What a player wants small: the scalar to differentiate, and named scalars to show (in their own units).

    keep: rows (B, ...) that `Player.after_update` is to see, those of all micro-batches and processes joined. A loss changes
    nothing of the model but the statistics of batch norms; what else is to change (a codebook by moving average, an image
    pool, an adaptive weight) changes there.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    keep: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerSettings:
    """How a player goes down its gradient; the run may scale the learning rate.

    kind: "adamw", "adam", "rmsprop" (its alpha is betas[1]), "sgd". weight_decay: of matrices. warmup: updates of linear rise,
    or, below 1, their share of the run (at most 500 updates). schedule: how the rate falls after it, to the part `floor` of
    itself. clip: largest norm of this player's gradient (None: the run's).
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: float = 0.02
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    kind: Literal["adamw", "adam", "rmsprop", "sgd"] = "adamw"
    eps: float = 1e-8
    momentum: float = 0.0
    clip: float | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise UserError(f"learning_rate = {self.learning_rate} was given; give a number of at least 0, such as 1e-3.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas = {list(self.betas)} were given; each is at least 0 and below 1, such as 0.9 and 0.999.")
        if self.warmup < 0 or not 0 <= self.floor <= 1:
            raise UserError(
                f"warmup = {self.warmup} and floor = {self.floor} were given; the first is at least 0, the second from 0 to 1."
            )


@dataclass
class Update:
    """What a closed-form or EM player says after one pass over the data: named figures, and whether it has converged."""

    terms: dict[str, float]
    finished: bool = False


@dataclass(frozen=True)
class Moment:
    """Where a run is when `after_update` is called. step, progress: as of `Batch`. rng: randomness that is a function of the
    seed, the step and the player, the same in every process (as what was kept is)."""

    step: int
    progress: float
    rng: Rng


@dataclass
class Player:
    """One side of a game.

    name: shown in the log. modules: what its turn changes, but for parameters that require no gradient when the run begins
    (a codec, a teacher: those stay as they are, and whole modules of them in eval mode); everything else of the model is
    frozen meanwhile. Two networks with a shared trunk and one loss each are one player with the sum.
    loss(batch, rng): for players that descend a gradient. update(batches, rng): for players in closed form or EM, who see
    the whole training set, in chunks, at each step. at_end: such an update has its turns only when all others have trained, on
    the averaged weights in eval mode, until it says that it has finished (a density of an autoencoder's codes). every: takes
    its turn at every so many-th step. repeat: updates a turn, each on fresh data (the first on the data that all players of
    the step share). after_update: called after each update with what the loss kept and the moment of the run (weight
    clipping, codebook averages and restart). validates: whether the loss says something on held-out data (None: where it is
    the only one; that of a game does not). A loss that depends on how far the run is reads `batch.step` and
    `batch.progress`. An update that says it has finished has its last turn; the run ends when all have. One that says so at
    once, listed before the others, is how a model begins at what the data say (a mean, the scales of activations).
    """

    name: str
    modules: nn.Module | list[nn.Module]
    loss: Callable[[Batch, Rng], Loss] | None = None
    update: Callable[[Iterable[Batch], Rng], Update] | None = None
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    every: int = 1
    repeat: int = 1
    after_update: Callable[[dict[str, Tensor], Moment], Any] | None = None
    at_end: bool = False
    validates: bool | None = None

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.update is None):
            raise ValueError(f"player '{self.name}' needs either a loss or an update, not both.")
        if self.at_end and self.update is None:
            raise ValueError(f"player '{self.name}' descends a gradient and so cannot play at the end alone.")

    def parameters(self) -> list[nn.Parameter]:
        """Each parameter of its modules once, but those that require no gradient."""
        found = dict.fromkeys(parameter for module in self.roots() for parameter in module.parameters())
        return [parameter for parameter in found if parameter.requires_grad]

    def roots(self) -> list[nn.Module]:
        """Its modules, as a list."""
        return self.modules if isinstance(self.modules, list) else [self.modules]


def checked_mask(known: Tensor, x: Tensor) -> Tensor:
    """`known` of `complete`, on the device of x. Raises UserError where it is not booleans of x's shape."""
    if known.dtype != torch.bool or known.shape != x.shape:
        raise UserError(
            f"known of shape {tuple(known.shape)} ({known.dtype}) does not fit data of shape {tuple(x.shape)}; give a boolean "
            "for each number, True where it is kept."
        )
    return known.to(x.device)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it a module is in eval mode (no dropout, running statistics); afterwards each part is in the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def takes_condition(model: object, spec: DataSpec) -> bool:
    """Whether samples can be asked for by a condition: where the data have one, but for a model that says of itself that it
    does not look at it (`unconditional = True`: one that finds classes by itself, or learns labels in its critic alone)."""
    return spec.condition is not None and not getattr(model, "unconditional", False)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's tensors are (the CPU where it has none)."""
    tensor: Tensor | None = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
