"""A condition as a vector: of every kind, hidden row by row, and refused where it was not asked for."""

import pytest
import torch

from pushforward.data.spec import Condition
from pushforward.errors import UserError
from pushforward.nets.conditioning import ConditionEmbedding
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
