"""Conditions reach the encoder and the decoder, each datum's own: a model that adds a known vector per condition shows which
ones did, as exact numbers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pushforward.data.batches import ArraySplit, Data
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.editing.attributes import direction, edit, switch
from pushforward.editing.codes import code_spread
from pushforward.editing.interpolation import interpolate, interpolate_samples
from pushforward.editing.outliers import outlier_scores
from pushforward.editing.traversals import traverse
from pushforward.models.contract import LogProb
from pushforward.training.runs import Run

CLASSES = Condition("class", 3)
ATTRIBUTES = Condition("attributes", 3, names=("a", "b", "c"))
IN = torch.tensor([[1.0, 2.0], [10.0, 30.0], [200.0, 100.0]])  # what `encode` adds for each class or attribute
OUT = torch.tensor([[1000.0, 2000.0], [3000.0, 5000.0], [7000.0, 4000.0]])  # what `decode` adds


def added(condition: Tensor | None, vectors: Tensor) -> Tensor:
    """The vector of each class, or the sum of those of the attributes."""
    if condition is None:
        return torch.zeros(2)
    return condition.float() @ vectors if condition.dim() == 2 else vectors[condition]


class Adds(nn.Module):
    """Codes are data plus a vector of their condition, and so are the data of a code; log p(x) is the sum of both."""

    def encode(self, x, *, condition=None):
        return x + added(condition, IN)

    def decode(self, z, *, condition=None):
        return z + added(condition, OUT)

    def draw_codes(self, n, *, condition=None, generator=None):
        return torch.zeros(n, 2) + added(condition, IN)

    def log_prob(self, x, *, condition=None):
        return LogProb((x + added(condition, IN)).sum(1), "exact")


def spec_of(condition: Condition | None) -> DataSpec:
    return DataSpec("point", (2,), condition, columns=(Column("x", "number"), Column("y", "number")))


def run_of(condition: Condition) -> Run:
    return Run(Adds(), spec_of(condition), Path("nowhere"), {"model": {"name": "adds"}})


def points(n: int) -> Tensor:
    """Different integers, so that float32 is exact."""
    return torch.stack([torch.arange(n), 7 * torch.arange(n) % 13], 1).float()


def some(known: Condition, n: int) -> Tensor:
    """Conditions of which no two that are next to each other are the same."""
    if known.kind == "class":
        return torch.arange(n) % 3
    return torch.stack([(torch.arange(n) >> k) % 2 for k in range(3)], 1).float()


KINDS = pytest.mark.parametrize("known", [CLASSES, ATTRIBUTES], ids=["classes", "attributes"])
MANY = 300  # more than are encoded at a time


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_switch_sets_the_attribute_that_is_named_and_no_other(k):
    x, own = points(8), some(ATTRIBUTES, 8)
    made = switch(run_of(ATTRIBUTES), x, own, "abc"[k], [0.0, 0.5, 1.0])
    for j, strength in enumerate([0.0, 0.5, 1.0]):
        asked = own.clone()
        asked[:, k] = strength
        assert torch.equal(made[:, j], x + own @ IN + asked @ OUT)


def test_a_switch_of_classes_keeps_the_own_one_or_takes_the_named_one():
    x, own = points(6), some(CLASSES, 6)
    made = switch(run_of(CLASSES), x, own, "1", [0.0, 1.0])
    assert torch.equal(made[:, 0], x + IN[own] + OUT[own])
    assert torch.equal(made[:, 1], x + IN[own] + OUT[1])


@KINDS
def test_an_interpolation_begins_and_ends_with_the_conditions_of_its_data(known):
    """Each end is encoded under its own condition, and all on the way is decoded under that of the beginning."""
    start, end, own, theirs = points(5), points(10)[5:], some(known, 5), some(known, 7)[2:]
    run, t = run_of(known), torch.tensor([0.0, 0.5, 1.0])[:, None]
    for other, used in ((theirs, theirs), (None, own)):
        made = interpolate(run, start, end, steps=3, path="straight", condition=own, end_condition=other)
        a, b = (start + added(own, IN))[:, None], (end + added(used, IN))[:, None]
        assert torch.equal(made, (1 - t) * a + t * b + added(own, OUT)[:, None])


@KINDS
def test_codes_are_drawn_and_decoded_under_the_same_condition(known):
    own = some(known, 5)
    made = interpolate_samples(run_of(known), 5, steps=2, path="straight", condition=own)
    assert torch.equal(made, (added(own, IN) + added(own, OUT))[:, None].expand(5, 2, 2))


@KINDS
def test_a_direction_is_between_codes_under_the_own_conditions(known):
    """Where the data's conditions are the run's; others are not the model's to know."""
    x, own = points(MANY), some(known, MANY)
    found = own == 1 if known.kind == "class" else own[:, 1] == 1
    name = "1" if known.kind == "class" else "b"
    data = Data(spec_of(known), ArraySplit(x, own))
    for run, z in ((run_of(known), x + added(own, IN)), (run_of(Condition("class", 2)), x)):
        torch.testing.assert_close(direction(run, data, name), z[found].mean(0) - z[~found].mean(0))


@KINDS
def test_an_edit_encodes_and_decodes_under_the_own_conditions(known):
    x, own, along = points(MANY), some(known, MANY), torch.tensor([3.0, -4.0])
    steps = torch.tensor([-1.0, 0.0, 2.0])[:, None] * along
    run = run_of(known)
    made = edit(run, x, along, [-1.0, 0.0, 2.0], own)
    assert torch.equal(made, (x + added(own, IN) + added(own, OUT))[:, None] + steps)
    assert torch.equal(edit(run, x, along, [-1.0, 0.0, 2.0]), x[:, None] + steps)


@KINDS
def test_the_spread_of_codes_is_of_those_under_the_own_conditions(known):
    x, own = points(MANY), some(known, MANY)
    mean, sigma = code_spread(run_of(known), Data(spec_of(known), ArraySplit(x, own)))
    z = x + added(own, IN)
    torch.testing.assert_close(mean, z.mean(0))
    torch.testing.assert_close(sigma, z.std(0))


@KINDS
def test_a_walk_is_decoded_under_the_condition_of_its_datum(known):
    own = some(known, 3)[2:]
    made = traverse(run_of(known), torch.tensor([5.0, 6.0]), steps=3, span=1.0, units=[1, 0], condition=own)
    walked = torch.tensor([[[5.0, -1.0], [5.0, 0.0], [5.0, 1.0]], [[-1.0, 6.0], [0.0, 6.0], [1.0, 6.0]]])
    assert torch.equal(made.values, walked + added(own, OUT))


@KINDS
def test_outliers_are_scored_under_their_own_conditions(known):
    """By the likelihood: -log p; by the reconstruction: the mean square of what came back differently, which is all added."""
    run, x, own = run_of(known), points(MANY), some(known, MANY)
    assert torch.equal(outlier_scores(run, x, by="likelihood", condition=own), -(x + added(own, IN)).sum(1))
    assert torch.equal(outlier_scores(run, x, by="likelihood"), -x.sum(1))
    again = outlier_scores(run, x, by="reconstruction", condition=own)
    torch.testing.assert_close(again, (added(own, IN) + added(own, OUT)).square().mean(1))
    assert torch.equal(outlier_scores(run, x, by="reconstruction"), torch.zeros(MANY))
