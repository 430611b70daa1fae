"""What bounds the slope of a critic: penalties, pure functions (critic, real, fake, rng) -> scalar that are added to its
loss, and what is done to its weights.

All penalties look at the slope of the critic's output by its input, one gradient a datum, at different places:

    r1                    E |grad l|^2 / 2         at real data
    r2                    E |grad l|^2 / 2         at fakes
    gradient-penalty      E (|grad l| - 1)^2       between: u x + (1 - u) G(z), u uniform (WGAN-GP, two-sided)
    one-sided-penalty     E max(0, |grad l| - 1)^2 between
    zero-centred          E |grad l|^2             between
    dragan                E (|grad l| - 1)^2       near real data: x + noise of half their deviation

R1: the alternating game may circle round its fixed point for ever, or leave it, where data lie on a thin set; with it
training converges locally, for any weight > 0. WGAN-GP: the best critic of slope <= 1 has slope 1 almost everywhere on the
lines of an optimal coupling of data and fakes.

A slope of one datum is well-defined only where the critic judges each by itself: not with batch norm.

"spectral" divides each layer's weights by their largest singular value (nets/lipschitz.py), "clipping" holds them within
+- 0.01 after each update (Arjovsky et al. 2017): crude, and the slope that it allows grows with width and depth.

Gulrajani et al. 2017 (WGAN-GP, both sides), arXiv:1704.00028; Kodali et al. 2017 (DRAGAN), arXiv:1705.07215; Mescheder,
Geiger and Nowozin 2018 (R1, R2), arXiv:1801.04406; Thanh-Tung, Tran and Venkatesh 2019 (zero-centred), arXiv:1902.03984.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.data.batches import Batch
from pushforward.errors import UserError, nearest
from pushforward.models.contract import Loss, Player
from pushforward.randomness import Rng

Critic = Callable[[Tensor], Tensor]  # data -> logits
Function = Callable[[Critic, Tensor, Tensor, Rng], Tensor]


def squared_slope(critic: Critic, x: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
    """|grad_x l(x)|^2 of each datum, differentiable by the critic's parameters."""
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_()  # fakes come in bfloat16 out of autocast
    with torch.enable_grad():
        logits = critic(x)
        if not logits.requires_grad:
            raise UserError(
                "a penalty on the critic's slope was asked for, and this critic's logits have no gradient by x (a module of "
                "your own that detaches or rounds?); let it be differentiable, or take regulariser='none'."
            )
        (slope,) = torch.autograd.grad(logits.float().sum(), x, create_graph=True)
    return slope.float().flatten(1).square().sum(1)


def length(squared: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The root, with a gradient of 0 instead of infinity where the slope is 0."""
    return torch.where(squared > 0, squared.clamp(min=1e-24).sqrt(), 0.0)


def between(real: Float[Tensor, "b *shape"], fake: Float[Tensor, "b *shape"], rng: Rng) -> Float[Tensor, "b *shape"]:
    """u real + (1 - u) fake, one u a row."""
    u = rng.rand(len(real)).to(real.dtype).view(-1, *[1] * (real.dim() - 1))
    return torch.lerp(fake.to(real.dtype), real, u)


def r1(critic: Critic, real: Float[Tensor, "b *shape"], fake: Tensor, rng: Rng) -> Float[Tensor, ""]:
    """1/2 E_real |grad_x l(x)|^2."""
    return 0.5 * squared_slope(critic, real).mean()


def r2(critic: Critic, real: Tensor, fake: Float[Tensor, "b *shape"], rng: Rng) -> Float[Tensor, ""]:
    """1/2 E_fake |grad_x l(x)|^2."""
    return 0.5 * squared_slope(critic, fake).mean()


def gradient_penalty(
    critic: Critic, real: Float[Tensor, "b *shape"], fake: Float[Tensor, "b *shape"], rng: Rng
) -> Float[Tensor, ""]:
    """E (|grad l| - 1)^2 on lines between data and fakes; the paper's weight is 10."""
    return (length(squared_slope(critic, between(real, fake, rng))) - 1).square().mean()


def one_sided_penalty(
    critic: Critic, real: Float[Tensor, "b *shape"], fake: Float[Tensor, "b *shape"], rng: Rng
) -> Float[Tensor, ""]:
    """E max(0, |grad l| - 1)^2 on those lines: only slopes above 1 cost."""
    return torch.relu(length(squared_slope(critic, between(real, fake, rng))) - 1).square().mean()


def zero_centred(
    critic: Critic, real: Float[Tensor, "b *shape"], fake: Float[Tensor, "b *shape"], rng: Rng
) -> Float[Tensor, ""]:
    """E |grad l|^2 on those lines."""
    return squared_slope(critic, between(real, fake, rng)).mean()


def dragan(critic: Critic, real: Float[Tensor, "b *shape"], fake: Tensor, rng: Rng) -> Float[Tensor, ""]:
    """E (|grad l| - 1)^2 at real data with noise of half the deviation of the batch; the paper's weight is 10."""
    near = real + 0.5 * real.std(correction=0) * rng.randn_like(real)
    return (length(squared_slope(critic, near)) - 1).square().mean()


PENALTIES: dict[str, Function] = {
    "r1": r1,
    "r2": r2,
    "gradient-penalty": gradient_penalty,
    "one-sided-penalty": one_sided_penalty,
    "zero-centred": zero_centred,
    "dragan": dragan,
}


@dataclass(frozen=True)
class Penalty:
    """A penalty with its weight, at each `every`-th step (and then that many times as heavy)."""

    name: str
    function: Function
    weight: float
    every: int = 1


# weights where none is given: those of the papers
USUAL = {"gradient-penalty": 10.0, "one-sided-penalty": 10.0, "zero-centred": 10.0, "dragan": 10.0}
CLIP = 0.01
Given = float | Mapping[str, float]


@dataclass(frozen=True)
class Regulariser:
    """What bounds the critic's slope. clip: the largest weight; None: any."""

    penalties: tuple[Penalty, ...] = ()
    spectral: bool = False
    clip: float | None = None

    def __bool__(self) -> bool:
        return bool(self.penalties) or self.spectral or self.clip is not None

    @property
    def bounds(self) -> bool:
        """Whether it bounds the slope between data and fakes: at data alone, or at fakes, it leaves it free elsewhere."""
        between = {"gradient-penalty", "one-sided-penalty", "zero-centred"} & {penalty.name for penalty in self.penalties}
        return bool(between) or self.spectral or self.clip is not None

    @property
    def alone(self) -> list[str]:
        """Its parts that speak of the slope at one datum by itself; r1 gets along without."""
        return [p.name for p in self.penalties if p.name != "r1"] + (["spectral"] if self.spectral else [])


def regulariser(given: str | Sequence[str] | Mapping[str, Given], fine: float = 0.5) -> Regulariser:
    """Of a name, names, or {name: weight} or {name: {"weight": weight, "every": steps}}; those of weight 0 are left away, and
    "none" is nothing. fine: the weight of r1 and r2 where none is given.

    >>> [(p.name, p.weight, p.every) for p in regulariser({"r1": 0.5, "r2": {"weight": 1, "every": 16}}).penalties]
    [('r1', 0.5, 1), ('r2', 1.0, 16)]
    >>> regulariser("spectral").spectral, regulariser("clipping").clip, bool(regulariser("none"))
    (True, 0.01, False)

    Raises UserError for unknown names, negative weights, intervals that are no counts, and what does not go together.
    """
    given = [checked_name("regulariser", given)] if isinstance(given, str) else given
    found: list[Penalty] = []
    spectral, clip = False, None
    for name in given:
        said = given[name] if isinstance(given, Mapping) else None
        if name == "none":
            if len(given) > 1:
                raise UserError(f"regulariser 'none' was given beside others ({', '.join(given)}); leave it or them away.")
        elif name == "spectral":
            if said not in (None, 1, True):
                raise UserError(
                    f"spectral norm was given {said}; it divides by the largest singular value and has no strength."
                )
            spectral = True
        elif name == "clipping":
            largest = CLIP if said is None else said
            if isinstance(largest, Mapping):
                raise UserError(
                    f"clipping was given {dict(largest)}; it has one number, the largest weight: {{clipping: 0.01}}."
                )
            if not (math.isfinite(largest) and largest > 0):
                raise UserError(
                    f"clipping was given {largest}, which leaves the critic nothing; give a number above 0, such as 0.01."
                )
            clip = largest
        elif name in PENALTIES:
            usual = fine if name in ("r1", "r2") else USUAL[name]
            found += _penalty(name, usual if said is None else said)
        else:
            raise UserError(f"there is no regulariser '{name}'; {nearest(name, (*PENALTIES, 'spectral', 'clipping', 'none'))}")
    if spectral and clip is not None:
        raise UserError(
            "spectral norm divides weights by their size, whatever it is, so that clipping them does nothing; take one."
        )
    return Regulariser(tuple(found), spectral, clip)


def checked_name(what: str, given: str) -> str:
    """A name that was given; raises UserError for words that were to be a list, or numbers of names, and are neither."""
    if given[:1] in ("{", "["):
        raise UserError(f"{what} {given} could not be read: expected a name, [name, name], or {{name: number}} with numbers.")
    return given


def _penalty(name: str, given: Given) -> list[Penalty]:
    values = dict(given) if isinstance(given, Mapping) else {"weight": given}
    if "weight" not in values or not set(values) <= {"weight", "every"}:
        raise UserError(f"penalty '{name}' has {values}; give a weight, or {{weight: 10, every: 16}}.")
    weight, every = values["weight"], values.get("every", 1)
    if not (math.isfinite(weight) and weight >= 0):
        raise UserError(f"the weight of penalty '{name}' is {weight}; give a number >= 0.")
    if every < 1 or every != int(every):
        raise UserError(f"penalty '{name}' has every = {every}; give a number of steps, at least 1.")
    return [Penalty(name, PENALTIES[name], float(weight), int(every))] if weight else []


def lazy_players(critic: Player, regulariser: Regulariser, loss: Callable[[Penalty, Batch, Rng], Loss]) -> list[Player]:
    """The critic's turns for the penalties that have an interval, each of its own: loss(penalty, batch, rng).

    After them `critic.after_update` is called as after the critic's own. Their gradients are large by design: the
    run's clip, which would take that back, does not touch them.
    """
    return [
        replace(
            critic,
            name=f"{critic.name} {penalty.name}",
            loss=partial(loss, penalty),
            optimizer=replace(critic.optimizer, clip=0.0),
            every=penalty.every,
        )
        for penalty in regulariser.penalties
        if penalty.every > 1
    ]
