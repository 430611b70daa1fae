"""Conditions: as vectors of every kind, hidden row by row, and refused where not asked for; checked; and summed over."""

import itertools
import math

import pytest
import torch

from pushforward.data.spec import Condition
from pushforward.errors import UserError
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, marginal, mixture
from pushforward.randomness import SampleRng

KINDS = ("class", "attributes", "vector", "image")
CASES = [
    (Condition("class", 3), torch.tensor([0, 2, 1, 0])),
    (Condition("attributes", 2), torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])),
    (Condition("vector", 5, shape=(5,)), torch.arange(20.0).view(4, 5)),
    (Condition("image", 1, shape=(1, 6, 5), levels=256), torch.linspace(-1, 1, 120).view(4, 1, 6, 5)),
]


@pytest.mark.parametrize("condition, values", CASES, ids=[c.kind for c, _ in CASES])
def test_rows_stand_for_themselves_and_hidden_ones_for_nothing(condition, values):
    torch.manual_seed(0)
    embed = ConditionEmbedding(condition, 8, KINDS).eval()
    embed.null.data.fill_(7.0)
    assert bool(embed) and embed.width == (32 if condition.kind == "image" else 8)
    whole = embed(values, 4)
    torch.testing.assert_close(whole[2:3], embed(values[2:3], 1))
    assert not torch.allclose(whole[0], whole[1])
    drop = torch.tensor([True, False, False, True])
    part = embed(values, 4, drop)
    assert (part[drop] == 7.0).all() and torch.equal(part[~drop], whole[~drop])
    assert (embed(None, 3) == 7.0).all() and embed(None, 3).shape == (3, embed.width)
    with pytest.raises(UserError, match="4 conditions were given for 3 data"):
        embed(values, 3)


def test_without_a_condition_there_is_nothing_to_say():
    embed = ConditionEmbedding(None, 8)
    assert not embed and embed.width == 0 and not list(embed.parameters())
    assert embed(None, 5) is None and embed.hidden(5, 0.5, SampleRng(0)) is None
    with pytest.raises(UserError, match="without a condition"):
        embed(torch.zeros(5), 5)


def test_the_rate_of_hiding():
    embed = ConditionEmbedding(Condition("class", 3), 8)
    assert embed.hidden(5, 0.0, SampleRng(0)) is None
    # 4000 coins of 0.3: standard error 0.007
    assert abs(embed.hidden(4000, 0.3, SampleRng(0)).float().mean().item() - 0.3) < 0.03


def test_kinds_that_a_model_does_not_take():
    with pytest.raises(UserError, match="takes class, attributes, vector as condition, not image"):
        ConditionEmbedding(CASES[3][0], 8)


@pytest.mark.parametrize("condition, values", CASES, ids=[c.kind for c, _ in CASES])
def test_a_condition_fits_its_rows(condition, values):
    assert checked_condition(condition, None, 4, "cpu") is None
    assert torch.equal(checked_condition(condition, values, 4, "cpu"), values)
    assert len(checked_condition(condition, values[:0], 0, "cpu")) == 0
    shape = values.shape[1:]
    for bad in (values[:3], values[:1], values[..., None], values.new_zeros(4, 9, *shape[1:])):
        with pytest.raises(UserError, match=rf"give one \({condition.kind}\) for each of the 4 rows"):
            checked_condition(condition, bad, 4, "cpu")
    with pytest.raises(UserError, match=f"trained with {condition.kind} as condition; give one for each of the 4 rows"):
        checked_condition(condition, None, 4, "cpu", needed=True)
    with pytest.raises(UserError, match="without a condition"):
        checked_condition(None, values, 4, "cpu")
    assert checked_condition(None, None, 4, "cpu", needed=True) is None
    if condition.kind == "class":
        for bad in (values + 1, values - 1):
            with pytest.raises(UserError, match="classes are numbered 0 to 2"):
                checked_condition(condition, bad, 4, "cpu")
        with pytest.raises(UserError, match=r"torch\.float32"):
            checked_condition(condition, values.float(), 4, "cpu")
    else:
        with pytest.raises(UserError, match="not finite"):
            checked_condition(condition, torch.where(values == values.max(), math.nan, values), 4, "cpu")


def test_the_marginal_is_the_sum_over_what_there_is():
    asked = []

    def each(c):
        asked.append(c)
        return (1.0 + c.view(5, -1) @ torch.arange(1, 1 + c.view(5, -1).shape[1], dtype=c.dtype)).log() + torch.arange(5)

    classes = Condition("class", 3, frequencies=(0.25, 0.0, 0.75))
    expected = math.log(0.25 * 1 + 0.75 * 3) + torch.arange(5)
    torch.testing.assert_close(marginal(classes, 5, "cpu", each), expected)
    assert [c.tolist() for c in asked] == [[0] * 5, [2] * 5], "none for the class that there is not"
    rates = (0.5, 1.0, 0.2)
    total = sum(
        math.prod(r if a else 1 - r for a, r in zip(given, rates, strict=True)) * (1 + given[0] + 2 * given[1] + 3 * given[2])
        for given in itertools.product((0, 1), repeat=3)
    )
    found = marginal(Condition("attributes", 3, frequencies=rates), 5, "cpu", each)
    torch.testing.assert_close(found, math.log(total) + torch.arange(5))
    assert all(c.shape == (5, 3) for c in asked[2:]) and len(asked) == 2 + 4


def test_a_marginal_over_too_much():
    many = Condition("attributes", 7, frequencies=(0.5,) * 7)
    with pytest.raises(UserError, match=r"7 attributes make 2\^7 sets, too many"):
        marginal(many, 1, "cpu", lambda c: c[:, 0])
    conditions, _ = mixture(many)
    drawn = marginal(many, 1, "cpu", lambda c: c.sum(1), drawn=True)
    torch.testing.assert_close(drawn, conditions.sum(1).logsumexp(0)[None] - math.log(64))
    for kind in ("vector", "text", "image"):
        with pytest.raises(UserError, match="this model"):
            marginal(Condition(kind, 3), 1, "cpu", lambda c: c, drawn=True)
