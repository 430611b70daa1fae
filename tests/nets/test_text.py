"""Captions as vectors: of the caption alone, of the order of its tokens, and of nothing that stands where it was filled up."""

import pytest
import torch
from torch import nn

from pushforward.data.spec import Condition
from pushforward.errors import UserError
from pushforward.nets.conditioning import Between, ConditionEmbedding, draw_condition
from pushforward.nets.text import TextEncoder, around
from pushforward.randomness import SampleRng, seeded

VOCABULARY, LENGTH, WIDTH = 12, 20, 8


def encoder(length: int = LENGTH) -> TextEncoder:
    with seeded(0):
        made = TextEncoder(VOCABULARY, length, WIDTH)
        nn.init.normal_(made.tokens.weight[0], std=3.0)  # what is written at 0 must not matter
    return made


def caption(*tokens: int, length: int = LENGTH) -> torch.Tensor:
    return torch.tensor([[*tokens, *[0] * (length - len(tokens))]])


def captions(n: int, length: int) -> torch.Tensor:
    return SampleRng(0).randint(VOCABULARY - 1, n, length) + 1


@pytest.mark.parametrize("tokens", [1, 3, 11])
def test_a_vector_is_the_same_however_far_its_caption_is_filled_up(tokens):
    encode, ids = encoder(), captions(5, tokens)
    short = encode(ids)
    filled = nn.functional.pad(ids, (0, LENGTH - tokens))
    torch.testing.assert_close(encode(filled), short, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        encode.tokens.weight[0] += 5
        encode.positions[tokens:] += 5
    torch.testing.assert_close(encode(filled), short, atol=1e-5, rtol=1e-5)


def test_a_row_knows_nothing_of_its_neighbours():
    encode = encoder()
    rows = torch.cat([caption(1, 2, 3), caption(*range(1, 12)), caption(), caption(4)])
    whole = encode(rows)
    for i in range(len(rows)):
        torch.testing.assert_close(whole[i : i + 1], encode(rows[i : i + 1]))
    torch.testing.assert_close(whole[2], encode.last.bias)  # of a caption without a token


@pytest.mark.parametrize("distance", [1, 4, 12])
def test_the_order_of_tokens_counts(distance):
    encode, between = encoder(), [5] * (distance - 1)
    assert (encode(caption(1, *between, 2, 5)) - encode(caption(2, *between, 1, 5))).norm() > 0.1


def test_places_count_where_everything_around_is_alike():
    encode, far = encoder(), [5] * 18
    assert (encode(caption(*far[:6], 1, *far[6:])) - encode(caption(*far[:11], 1, *far[11:]))).norm() > 1e-3


def test_around_is_a_convolution():
    h, weight = SampleRng(0).randn(2, 9, 3), SampleRng(1).randn(4, 5, 3)  # out, taps, in
    for dilation in (1, 2):
        expected = nn.functional.conv1d(h.mT, weight.mT, padding=2 * dilation, dilation=dilation).mT
        torch.testing.assert_close(around(h, 2, dilation) @ weight.flatten(1).T, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [4, 16])
def test_an_untrained_vector_is_as_large_as_that_of_a_class(tokens):
    # N(0, 1), whatever the length: what differs between captions has a deviation of about 1 in the mean of eight encoders.
    spread = []
    for seed in range(8):
        with seeded(seed):
            spread.append(TextEncoder(VOCABULARY, LENGTH, 32)(captions(200, tokens)).std(0).mean().item())
    assert 0.5 < sum(spread) / len(spread) < 1.5


def test_it_learns_what_comes_first():
    # Whether token 1 comes ahead of token 2 somewhere in a caption: nothing that counts tokens could tell.
    ids = captions(512, 10).clamp(min=3)
    first, second = SampleRng(1).randint(5, 512), 5 + SampleRng(2).randint(5, 512)
    label = torch.arange(512) % 2
    rows = torch.arange(512)
    ids[rows, first], ids[rows, second] = 1 + label, 2 - label
    with seeded(0):
        model = nn.Sequential(TextEncoder(VOCABULARY, 10, 16), nn.SiLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(60):
        part = slice(64 * (step % 6), 64 * (step % 6) + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids[part]), label[part]).backward()
        optimizer.step()
    assert (model(ids[384:]).argmax(1) == label[384:]).float().mean() > 0.9


def test_sizes_that_cannot_be():
    with pytest.raises(UserError, match="at least one of each"):
        TextEncoder(0, 5, 8)
    with pytest.raises(UserError, match="this network reads 4"):
        encoder(4)(captions(2, 5))


# As a condition

TEXT = Condition("text", LENGTH, shape=(LENGTH,))


def embedding() -> ConditionEmbedding:
    with seeded(0):
        return ConditionEmbedding(TEXT, WIDTH, ("text",), VOCABULARY)


def test_captions_are_embedded_hidden_and_mixed():
    embed, ids = embedding(), nn.functional.pad(captions(4, 6), (0, LENGTH - 6))
    whole = embed(ids, 4)
    assert embed.width == WIDTH and torch.equal(whole, embed.embed(ids))
    embed.null.data.fill_(7.0)
    assert (embed(ids, 4, torch.tensor([True, False, False, True]))[[0, 3]] == 7.0).all()
    assert (embed(None, 2) == 7.0).all()
    weight = torch.tensor([0.0, 0.25, 1.0, 0.5])
    mixed = embed.of(Between(ids, ids.roll(1, 0), weight), 4)
    torch.testing.assert_close(mixed, (1 - weight[:, None]) * whole + weight[:, None] * whole.roll(1, 0))
    mixed.square().sum().backward()
    assert all(p.grad is not None for p in embed.parameters())
    with pytest.raises(UserError, match="4 conditions were given for 3 data"):
        embed(ids, 3)


def test_models_that_take_no_captions_say_so_and_captions_cannot_be_drawn():
    with pytest.raises(UserError, match="not text"):
        ConditionEmbedding(TEXT, WIDTH, vocabulary=VOCABULARY)
    with pytest.raises(UserError, match=r'a caption cannot be drawn at random; give one .--condition "a red circle"'):
        draw_condition(TEXT, 3, SampleRng(0))


def test_the_weights_of_other_conditions_are_what_they_were():
    names = {kind: {n for n, _ in ConditionEmbedding(Condition(kind, 3), 4).named_parameters()} for kind in ("class", "vector")}
    assert names == {"class": {"embed.weight", "null"}, "vector": {"embed.weight", "embed.bias", "null"}}
