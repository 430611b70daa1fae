"""Choosing tokens one after another: how one is drawn of its logits, and a window that slides over a text of any length.

A network that sees C positions defines texts of any length through one rule, which densities, sampling with a cache and
sampling without all share. A window is the begin vector and up to C - 1 tokens, so it predicts up to C tokens. When it is
full, it moves on by C // 2 tokens; those that are left are encoded anew in their new positions, behind the begin vector, which
stays: it carries the condition, and the network was never trained on a window without it. So token i is predicted from
the tokens `window_start(i, C)` .. i - 1, at least C - C // 2 of them from i = C on, for one full pass every C // 2 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pushforward.errors import UserError, checked_temperature
from pushforward.nets.transformer import Cache, Decoder
from pushforward.randomness import chosen


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


@dataclass(frozen=True)
class Choice:
    """How a token is drawn of its logits: by softmax(logits / temperature), cut and renormalised; each option after those
    above it but `repetition_penalty`, which is first.

    temperature: below 1 sharpens, above 1 flattens.
    top_k: only the k likeliest tokens (of equals those with the lower id).
    top_p: only the fewest tokens, likeliest first, whose share of what is left reaches p: the nucleus (Holtzman et al. 2020,
    arXiv:1904.09751).
    min_p: only tokens at least so many times as likely as the likeliest one (Nguyen et al. 2024, arXiv:2407.01082).
    repetition_penalty: the logits of tokens that are in the text already are divided by it where they are positive, and
    multiplied where they are not (Keskar et al. 2019, arXiv:1909.05858, who divide all; this way none becomes likelier by it).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        checked_temperature(self.temperature)
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be at least 1, {self.top_k} was given; leave it out to allow every token.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, {self.top_p} was given; leave it out to allow every token.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p must be between 0 and 1, {self.min_p} was given; leave it out to allow every token.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(
                f"repetition_penalty must be above 0, {self.repetition_penalty} was given; 1 is none, 1.2 is usual."
            )

    def probabilities(self, logits: Float[Tensor, "b k"], used: Bool[Tensor, "b k"] | None = None) -> Float[Tensor, "b k"]:
        """The distribution (in float64) to draw from. used: the tokens that are in each text already, none if not given.

        >>> Choice(top_k=2).probabilities(torch.tensor([[0.5, 0.3, 0.2]]).log())[0, 2].item()
        0.0
        """
        logits = logits.double()
        if used is not None and self.repetition_penalty != 1:
            less = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = torch.where(used, less, logits)
        # The largest is subtracted before the division, so that no temperature overflows.
        probabilities = ((logits - logits.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        k, p = self.top_k or logits.shape[-1], self.top_p or 1.0
        cut = k < logits.shape[-1] or p < 1
        if cut:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            ordered[:, k:] = 0
            if p < 1:
                share = ordered / ordered.sum(-1, keepdim=True)
                ordered = ordered * (share.cumsum(-1) - share < p)
            probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
        if self.min_p:
            probabilities = probabilities * (probabilities >= self.min_p * probabilities.amax(-1, keepdim=True))
        return probabilities / probabilities.sum(-1, keepdim=True) if cut or self.min_p else probabilities


def generate(
    network: Decoder,
    begin: Float[Tensor, "b 1 width"],
    prefix: Int[Tensor, "b p"],
    uniforms: Float[Tensor, "b length"],
    choice: Choice,
    *,
    cache: bool = True,
    watch: Callable[[Tensor], object] | None = None,
) -> Int[Tensor, "b n"]:
    """Continues each prefix by as many tokens as `uniforms` has columns, and returns both: n = p + length.

    uniforms: on [0, 1); one makes one token, by the inverse of the cumulative distribution (as `Rng.categorical` does).
    cache: keep the keys and values of past positions instead of computing them anew for every token; the text is the same.
    watch: called after each token with all that there are so far (b, p + 1 .. n).
    """
    past = Cache(network, len(prefix)) if cache else None
    start, first = -1, prefix.shape[1]
    tokens = torch.cat([prefix, prefix.new_zeros(uniforms.shape)], 1)
    used = None
    if choice.repetition_penalty != 1:
        used = torch.zeros(len(prefix), network.tokens.num_embeddings, dtype=torch.bool, device=prefix.device)
        used.scatter_(1, prefix, True)
    for i in range(first, tokens.shape[1]):
        if past is None or window_start(i, network.context) != start:
            start = window_start(i, network.context)
            if past is not None:
                past.length = 0
            features = network.features(tokens[:, start:i], first=begin, cache=past)
        else:
            features = network.features(tokens[:, i - 1 : i], cache=past)
        probabilities = choice.probabilities(network.logits(features[:, -1]), used)
        tokens[:, i] = chosen(probabilities, uniforms[:, i - first])
        if used is not None:
            used.scatter_(1, tokens[:, i : i + 1], True)
        if watch is not None:
            watch(tokens[:, : i + 1])
    return tokens
