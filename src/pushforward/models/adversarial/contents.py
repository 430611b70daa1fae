"""Content and view: a critic of pairs teaches a generator which numbers of z say what a datum is of, and which how it is seen.

z = (c, v). Two fakes are made of one content and two views; two data are of one class y, seen as nobody knows how. With

    p(x, x') = sum_y p(y) p(x | y) p(x' | y),        q(x, x') = E_c[q(x | c) q(x' | c)],        q(. | c) the law of G(c, v),

the game is that of gan.py on pairs, and the critic's best logit is log p(x, x') - log q(x, x'). A generator that makes x
well but leaves c out has q(x, x') = p(x) p(x'), against which that logit is, on average over pairs of data,

    E log p(x, x') / (p(x) p(x')) = I(x; x') nats,

and one that leaves v out has x = x'. So c has to hold what data of a class have in common, and v the rest. The generator is
never told a class: a content is a code, new ones can be drawn, and a view can be taken from one content to another.

Pairs are found within a batch: data of a class that has no second one in it have no partner. Where batches hold several of
each class, pairs are of a class as often as data are, nearly; where they do not, more often of the frequent ones.

Chen, Denoyer and Artieres 2018 (GMV), arXiv:1711.00305.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.contract import Loss
from pushforward.randomness import Rng

PAIR = 2  # data that are judged together
Method = TypeVar("Method", bound=Callable[..., Loss])


def pairs_of(labels: Int[Tensor, " b"], rng: Rng) -> tuple[Int[Tensor, "pairs 2"], Float[Tensor, ""]]:
    """Rows of one class, two by two at random, B // 2 pairs (at least 1) in random order; and the share of rows that have a
    second one of their class.

    Each row is in one pair while there are enough; then the last of an odd number goes with another one once more, then others
    do, then pairs are repeated: as many pairs come from any batch. Without a single partner rows go with themselves.

    >>> from pushforward.randomness import SampleRng
    >>> pairs, share = pairs_of(torch.tensor([5, 7, 7, 3]), SampleRng(0))
    >>> sorted(pairs[0].tolist()), len(pairs), float(share)
    ([1, 2], 2, 0.5)
    """
    n = len(labels)
    order = rng.rand(n).argsort()
    order = order[labels[order].argsort(stable=True)]  # class by class, at random within
    ordered, place = labels[order], torch.arange(n, device=labels.device)
    first = torch.searchsorted(ordered, ordered)
    size, place = torch.searchsorted(ordered, ordered, right=True) - first, place - first
    links = torch.stack([order, order[first + (place + 1) % size]], 1)  # each row and the next one round its class
    # disjoint ones; those of a last odd row; the others; rows by themselves
    odd, last = place % 2 == 1, place + 1 == size
    rank = torch.where(size == 1, 3, torch.where(odd, 2, last.long()))
    order = rng.rand(n).argsort()
    links = links[order[rank[order].argsort(stable=True)]]
    partnered = (size > 1).sum()
    count = torch.where(partnered > 0, partnered, n)
    return links[torch.arange(max(n // 2, 1), device=labels.device) % count], partnered / n


def on_pairs(loss: Method) -> Method:
    """A GAN's loss (..., batch, rng), where z has a content on the pairs of the batch, which are neighbours then; 0 where it
    has none. Its log says which share of the batch has a partner."""

    @functools.wraps(loss)
    def of_pairs(model: Any, *given: Any) -> Loss:
        if not model.latent.content:
            return loss(model, *given)
        *first, batch, rng = given
        if batch.condition is None:
            raise UserError("this model was built for data with classes, and these come without.")
        pairs, share = pairs_of(batch.condition, rng)
        found = loss(model, *first, _rows(batch, pairs.flatten()), rng)
        return replace(found, total=found.total * (share > 0), terms=found.terms | {"paired": share})

    return cast(Method, of_pairs)


def _rows(batch: Batch, rows: Int[Tensor, " n"]) -> Batch:
    """These rows of a batch."""
    condition, index = (None if of is None else of[rows.to(of.device)] for of in (batch.condition, batch.index))
    return replace(batch, x=batch.x[rows], condition=condition, index=index)


def check_content(spec: DataSpec, conditioning: str, stabilisers: Mapping[str, float], generators: int, codes: bool) -> None:
    """Raises UserError, with the reason, where a content does not go with these data or with the other choices."""
    if not spec.classes:
        kind = spec.condition.kind if spec.condition else "no condition"
        raise UserError(
            f"content: which data are of the same content is said by their class, and '{spec.name}' has {kind}; load the data "
            "with their classes, or leave content away."
        )
    if conditioning != "none":
        raise UserError(
            f"conditioning='{conditioning}' was given with a content, which is a code in z where a condition would be a label: "
            "classes only say which data belong together. Leave conditioning or content away."
        )
    reasons = {
        "packing": "the critic judges pairs of one content already",
        "style-mixing": "layers that see the style of another z see another content",
    }
    for name, reason in reasons.items():
        if name in stabilisers:
            raise UserError(f"{name} and a content do not go together: {reason}; leave one of them out.")
    if generators > 1 or codes:
        raise UserError(
            "a pair of data has no generator and no code of its own, as several generators or codes in z want; leave these "
            "(generators, categorical, continuous) or content away."
        )
