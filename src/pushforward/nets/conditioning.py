"""Conditions: one way to draw them as the data have them, one to check them, one to do without, one to make them a vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.data.spec import Condition
from pushforward.errors import UserError
from pushforward.nets.conv import ConvEncoder
from pushforward.nets.text import TextEncoder
from pushforward.randomness import EVALUATION_SEED, Rng, SampleRng

SETS = 64  # of attributes, that a density without them is summed over


def condition_rates(condition: Condition, device: torch.device | str = "cpu") -> Tensor:
    """p(class), or the rate of each attribute, in the training set (size,); equal (a half) where the data do not say."""
    equal = 1.0 / condition.size if condition.kind == "class" else 0.5
    return torch.tensor(condition.frequencies or (equal,) * condition.size, dtype=torch.float64, device=device)


def draw_condition(condition: Condition, n: int, rng: Rng) -> Tensor:
    """n conditions as frequent as in the training set: classes (n,), or attributes (n, A), each by its own rate."""
    if condition.kind == "class":
        return rng.categorical(condition_rates(condition, rng.device).expand(n, -1))
    if condition.kind == "attributes":
        return (rng.rand(n, condition.size) < condition_rates(condition, rng.device)).float()
    raise not_given(condition)


def mixture(condition: Condition, device: torch.device | str = "cpu") -> tuple[Tensor, Float[Tensor, " m"]]:
    """Conditions and their rates in the training set, those with a rate above 0: classes (M,), or attributes (M, A), each by
    its own rate, as `draw_condition` draws them; more than 64 sets of attributes are 64 draws with equal rates.

    >>> mixture(Condition("attributes", 2, frequencies=(0.75, 1.0)))[1].tolist()
    [0.25, 0.75]
    """
    rates = condition_rates(condition, device)
    if condition.kind == "class":
        known = rates.nonzero()[:, 0]
        return known, rates[known]
    if condition.size > math.log2(SETS):
        drawn = draw_condition(condition, SETS, SampleRng(EVALUATION_SEED, device=device))
        return drawn, torch.full((SETS,), 1 / SETS, dtype=rates.dtype, device=device)
    sets = torch.arange(2**condition.size, device=device)[:, None] >> torch.arange(condition.size, device=device) & 1
    chances = torch.where(sets > 0, rates, 1 - rates).prod(1)
    return sets[chances > 0].float(), chances[chances > 0]


def marginal(
    known: Condition,
    rows: int,
    device: torch.device | str,
    each: Callable[[Tensor], Float[Tensor, " b"]],
    drawn: bool = False,
) -> Float[Tensor, " b"]:
    """log p(x) = log sum_c p(c) p(x | c) of data (B,) whose condition is not told, c by its rates in the training set.

    Args:
        known: what the data come with: classes, or attributes.
        rows: B.
        each: log p(x | c), (B,), of c as a model is given it: classes (B,) or attributes (B, A).
        drawn: whether more than 64 sets of attributes are a mixture over 64 of them that are drawn, always the same ones.

    Raises UserError for conditions of other kinds, and for more than 64 sets of attributes.
    """
    if known.kind not in ("class", "attributes"):
        raise not_given(known)
    if known.kind == "attributes" and known.size > math.log2(SETS) and not drawn:
        raise UserError(
            f"this model needs its condition: {known.size} attributes make 2^{known.size} sets, too many to sum the density "
            "over; give those of each datum."
        )
    some, rates = mixture(known, device)
    joint = torch.stack([each(c.expand(rows, *c.shape)) for c in some], 1)
    return (joint + rates.log().to(joint)).logsumexp(1)


def not_given(condition: Condition) -> UserError:
    """What is said where a condition has to be given, as there is no law to draw it from."""
    if condition.kind == "image":
        return UserError("this model makes an image of an image, and that cannot be drawn; `pushforward translate RUN FILE`.")
    kind, example = ("caption", ' (--condition "a red circle")') if condition.kind == "text" else (condition.kind, "")
    return UserError(f"this model needs its condition, and a {kind} cannot be drawn at random; give one{example}.")


def checked_classes(condition: Tensor | None, rows: int, classes: int) -> Int[Tensor, " rows"] | None:
    """A condition as `rows` class numbers (one class may stand for all rows); None stays None.

    Raises UserError where the model knows no classes, or not these.
    """
    if condition is None:
        return None
    if classes == 1 and bool((condition != 0).any()):
        raise UserError("a class was asked for, and this model was trained without classes; leave the condition out.")
    if condition.is_floating_point() or condition.dim() > 1 or condition.numel() not in (1, rows):
        raise UserError(
            f"a condition of type {condition.dtype} and shape {tuple(condition.shape)} was given for {rows} rows; "
            "give one class number a row."
        )
    if condition.numel() and (int(condition.min()) < 0 or int(condition.max()) >= classes):
        raise UserError(f"classes are numbered 0 to {classes - 1}; {condition.unique().tolist()} were asked for.")
    return condition.long().reshape(-1).expand(rows)


def checked_condition(
    known: Condition | None, condition: Tensor | None, rows: int, device: torch.device | str, needed: bool = False
) -> Tensor | None:
    """A condition as these rows have it, on this device: classes (rows,), or (rows, *shape) of other kinds. None stays None.

    Raises UserError where the data came without a condition, for classes that there are not, for other shapes, for numbers that
    are not finite, and for None where the data have a condition and it is `needed`. It looks at numbers, which waits for the
    device: not for a loss, where `ConditionEmbedding` says enough.
    """
    if condition is None:
        if known is not None and needed:
            raise UserError(f"this model was trained with {known.kind} as condition; give one for each of the {rows} rows.")
        return None
    if known is None:
        raise UserError("a condition was given, and this model was trained on data without a condition; leave it out.")
    shape = (rows,) if known.kind == "class" else (rows, *(known.shape or (known.size,)))
    if tuple(condition.shape) != shape:
        raise UserError(
            f"a condition of shape {tuple(condition.shape)} was given; give one ({known.kind}) for each of the {rows} rows, of "
            f"shape {shape}."
        )
    if known.kind == "class":
        classes = checked_classes(condition, rows, known.size)
        return None if classes is None else classes.to(device)
    if not bool(condition.isfinite().all()):
        raise UserError(f"a condition ({known.kind}) with numbers that are not finite was given; remove or replace them.")
    return condition.to(device)


@dataclass(frozen=True)
class Between:
    """A condition between two of each row: embeddings (1 - weight) e(first) + weight e(second), weight (B,)."""

    first: Tensor
    second: Tensor
    weight: Tensor


class ConditionEmbedding(nn.Module):
    """What a network is told beside x: a condition as a vector (B, width), and nothing where the data have none.

    Classes are looked up, attributes (0/1) and vectors go through a linear map, paired images (in [-1, 1]) and captions (token
    ids) through convolutions. Without a condition, and in rows where `drop` is true, it is one learned null vector.

    Args:
        condition: what the data come with; None: nothing, and `width` is 0.
        width: numbers of the vector; an image is given four times as many.
        kinds: the conditions that the model takes.
        vocabulary: how many tokens captions are made of.
    """

    def __init__(
        self,
        condition: Condition | None,
        width: int,
        kinds: tuple[str, ...] = ("class", "attributes", "vector"),
        vocabulary: int = 0,
    ):
        super().__init__()
        self.kind = condition.kind if condition else None
        self.width = 0
        if condition is None:
            return
        if condition.kind not in kinds:
            raise UserError(
                f"this model takes {', '.join(kinds)} as condition, not {condition.kind}; load the data without it."
            )
        self.width = 4 * width if condition.kind == "image" else width
        self.embed: nn.Module
        if condition.kind == "class":
            self.embed = nn.Embedding(condition.size, width)
        elif condition.kind == "image":
            self.embed = ConvEncoder(condition.shape, self.width)
        elif condition.kind == "text":
            self.embed = TextEncoder(vocabulary, condition.size, width)
        else:
            self.embed = nn.Linear(condition.size, width)
        self.null = nn.Parameter(torch.zeros(self.width))

    def __bool__(self) -> bool:
        """Whether there is a condition at all."""
        return self.kind is not None

    def forward(self, condition: Tensor | None, rows: int, drop: Tensor | None = None) -> Tensor | None:
        """condition (B,), (B, A), (B, C, H, W), (B, L) or None -> (rows, width), or None where the data have none.

        Raises UserError for a condition that this model was not built for, or not one for each row.
        """
        if not self:
            if condition is not None:
                raise UserError("this model was trained on data without a condition; leave condition out.")
            return None
        if condition is None:
            return self.null.expand(rows, self.width)
        if len(condition) != rows:
            raise UserError(f"{len(condition)} conditions were given for {rows} data; give one for each.")
        condition = condition.to(self.null.device)
        embedded = self.embed(condition if self.kind in ("class", "text") else condition.to(self.null.dtype))
        return embedded if drop is None else torch.where(drop[:, None], self.null, embedded)

    def of(self, condition: Tensor | Between | None, rows: int) -> Tensor | None:
        """The embedding of rows of which all have a condition (rows, width), or of none (None)."""
        if not self or condition is None:
            return None
        if isinstance(condition, Between):
            first, second = self.of(condition.first, rows), self.of(condition.second, rows)
            assert first is not None and second is not None
            return torch.lerp(first, second, condition.weight[:, None].to(first.dtype))
        # `drop` keeps the null vector in the graph: replicated training wants a gradient for every parameter.
        return self(condition, rows, torch.zeros(rows, dtype=torch.bool, device=condition.device))

    def hidden(self, rows: int, rate: float, rng: Rng) -> Tensor | None:
        """Which rows' conditions are hidden (B,), at this rate: what teaches a model to do without; None: none of them."""
        return rng.rand(rows) < rate if self and rate > 0 else None
