"""Choosing tokens one after another: temperature, top-k, top-p, and a window that slides over a text of any length.

A network that sees C positions defines texts of any length through one rule, which densities, sampling with a cache and
sampling without all share. A window is the begin vector and up to C - 1 tokens, so it predicts up to C tokens. When it is
full, it moves on by C // 2 tokens; those that are left are encoded anew in their new positions, behind the begin vector, which
stays: it carries the condition, and the network was never trained on a window without it. So token i is predicted from
the tokens `window_start(i, C)` .. i - 1, at least C - C // 2 of them from i = C on, for one full pass every C // 2 tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pushforward.errors import UserError
from pushforward.nets.transformer import Decoder


def window_start(i: int, context: int) -> int:
    """The first token of the window that predicts token i: a multiple of the stride C // 2 (1 for a context of 1).

    >>> [window_start(i, 4) for i in range(9)]
    [0, 0, 0, 0, 2, 2, 4, 4, 6]
    """
    stride = max(1, context // 2)
    return 0 if i < context else stride * -(-(i - context + 1) // stride)


def windows(length: int, context: int, stride: int | None = None) -> list[tuple[int, int, int]]:
    """(start, first, end) of each window over `length` tokens: it sees from `start`, and predicts `first` .. `end` - 1.

    With the default stride, C // 2, every token has the window of `window_start`; with 1 the longest context that fits.

    >>> windows(7, 4)
    [(0, 0, 4), (2, 4, 6), (4, 6, 7)]
    """
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise UserError(f"the stride must be between 1 and the context ({context}); {stride} was given.")
    parts = [(0, 0, min(context, length))]
    while parts[-1][2] < length:
        start, _, end = parts[-1]
        parts.append((start + stride, end, min(end + stride, length)))
    return parts


def check_choice(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """A UserError where one of the three is out of its range."""
    if not temperature > 0:
        raise UserError(f"the temperature must be above 0, {temperature} was given; for the likeliest token use top_k=1.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be at least 1, {top_k} was given; leave it out to allow every token.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, {top_p} was given; leave it out to allow every token.")


def choice_probabilities(
    logits: Float[Tensor, "b k"], temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "b k"]:
    """The distribution (in float64) to draw from: softmax(logits / temperature), cut and renormalised.

    top_k keeps the k likeliest tokens (of equals those with the lower id). top_p then keeps the fewest tokens, likeliest first,
    whose share of what is left reaches p: the nucleus (Holtzman et al. 2020, arXiv:1904.09751).

    >>> choice_probabilities(torch.tensor([[0.5, 0.3, 0.2]]).log(), top_k=2)[0, 2].item()
    0.0
    """
    check_choice(temperature, top_k, top_p)
    logits = logits.double()
    # The largest is subtracted before the division, so that no temperature overflows.
    probabilities = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if (top_k is None or top_k >= logits.shape[-1]) and (top_p is None or top_p == 1):
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[:, top_k:] = 0
    if top_p is not None and top_p < 1:
        share = ordered / ordered.sum(-1, keepdim=True)
        ordered = ordered * (share.cumsum(-1) - share < top_p)
    kept = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


def generate(
    network: Decoder,
    begin: Float[Tensor, "b 1 width"],
    prefix: Int[Tensor, "b p"],
    uniforms: Float[Tensor, "b length"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    cache: bool = True,
) -> Int[Tensor, "b n"]:
    """Continues each prefix by as many tokens as `uniforms` has columns, and returns both: n = p + length.

    uniforms: on [0, 1); one makes one token, by the inverse of the cumulative distribution (as `Rng.categorical` does).
    cache: keep the keys and values of past positions instead of computing them anew for every token; the text is the same.
    """
    start, past = -1, None
    tokens = torch.cat([prefix, prefix.new_zeros(uniforms.shape)], 1)
    for step, i in enumerate(range(prefix.shape[1], tokens.shape[1])):
        slid = window_start(i, network.context) != start
        if slid or past is None:
            start = window_start(i, network.context)
            features, past = network.features(tokens[:, start:i], first=begin)
        else:
            features, past = network.features(tokens[:, i - 1 : i], cache=past)
        if not cache:
            past = None
        probabilities = choice_probabilities(network.logits(features[:, -1]), temperature, top_k, top_p)
        cumulative = probabilities.cumsum(-1)
        threshold = uniforms[:, step, None].double() * cumulative[:, -1:]
        tokens[:, i] = (cumulative <= threshold).sum(-1)  # the first token whose cumulative probability exceeds it
    return tokens
