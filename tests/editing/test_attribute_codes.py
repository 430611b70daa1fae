"""Directions and sums of codes that were drawn or inverted: on a linear decoder they are those of the data."""

from pathlib import Path

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.data.batches import ArraySplit, Data
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.editing.attributes import arithmetic, direction, edit, moved, sampled_direction, switch, told
from pushforward.randomness import as_rng
from pushforward.training.runs import Run

A = torch.tensor([[1.0, 0.2], [-0.5, 1.5], [0.3, 0.4]])
COLUMNS = tuple(Column(name, "number") for name in "abc")


class Affine(nn.Module):
    """x = A z, with class 1 one farther in each number."""

    def decode(self, z, *, condition=None):
        return z @ A.T + (0 if condition is None else condition[:, None])

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 2)


def run_of(condition=None):
    spec = DataSpec("point", (3,), columns=COLUMNS, condition=condition, name="toy")
    return Run(Affine().eval(), spec, Path("nowhere"), {"model": {"name": "toy"}, "result": {}})


def labelled(n=300):
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    label = torch.arange(n) % 2
    z[:, 0] += label
    spec = DataSpec("point", (3,), columns=COLUMNS, condition=Condition("class", 2), name="toy")
    return z, Data(spec, ArraySplit(z @ A.T, label))


def test_sums_of_groups():
    """king - man + woman: each group by its mean, whatever its size."""
    z = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(0))
    king, man, woman = torch.arange(30) < 3, torch.arange(30) >= 20, (torch.arange(30) >= 3) & (torch.arange(30) < 20)
    expected = z[:3].mean(0) - z[20:].mean(0) + z[3:20].mean(0)
    torch.testing.assert_close(arithmetic(z, [(1.0, king), (-1.0, man), (1.0, woman)]), expected)
    with pytest.raises(pf.UserError, match="group 1"):
        arithmetic(z, [(1.0, king), (-1.0, king & man)])


def test_a_direction_from_inverted_data_is_that_of_their_codes():
    """A linear decoder's codes are found as they were; strength 1 moves a datum by the difference of the means of the data."""
    z, data = labelled()
    label = data.train.condition
    along = direction(run_of(), data, "1", rows=300, inversion_steps=150)
    expected = z[label == 1].mean(0) - z[label == 0].mean(0)
    torch.testing.assert_close(along, expected, atol=5e-3, rtol=0)
    x = data.train.codes[:4]
    made = edit(run_of(), x, along, [-1.0, 0.0, 1.0])
    torch.testing.assert_close(made[:, 1].float(), x, atol=1e-2, rtol=0)
    torch.testing.assert_close((made[:, 2] - made[:, 1]).float(), (A @ expected).expand(4, 3), atol=2e-2, rtol=0)
    torch.testing.assert_close((made[:, 0] - made[:, 1]).float(), -(A @ expected).expand(4, 3), atol=2e-2, rtol=0)


def test_a_direction_from_codes_that_are_drawn_and_judged():
    """Of z ~ N(0, I) with w z > 0 the mean is sqrt(2 / pi) w / |w|, less that of the others: twice that. 4000 codes: within
    0.08, five standard errors."""
    w = torch.linalg.lstsq(A.T, torch.tensor([1.0, 2.0])).solution  # w A z = z_1 + 2 z_2
    along = sampled_direction(run_of(), lambda x: x.float() @ w, n=4000)
    expected = 2 * (2 / torch.pi) ** 0.5 * torch.tensor([1.0, 2.0]) / 5**0.5
    torch.testing.assert_close(along, expected, atol=0.08, rtol=0)
    torch.testing.assert_close(sampled_direction(run_of(), lambda x: x.float() @ w > 0, n=4000), along)
    opposite = sampled_direction(run_of(), lambda x: x.float() @ w < 0, n=4000)
    torch.testing.assert_close(opposite, -along)
    with pytest.raises(pf.UserError, match="all of 50 samples"):
        sampled_direction(run_of(), lambda x: torch.ones(len(x)), n=50)
    with pytest.raises(pf.UserError, match="none of 50 samples"):
        sampled_direction(run_of(), lambda x: -torch.ones(len(x)), n=50)


def test_the_judge_sees_what_is_made_of_the_class_that_is_asked_for():
    run, seen = run_of(Condition("class", 2)), []

    def judge(x):
        seen.append(x)
        return x.sum(1) > 0

    for k in (0, 1):
        sampled_direction(run, judge, n=300, condition=torch.tensor([k]))
    torch.testing.assert_close(seen[1] - seen[0], torch.ones(300, 3, dtype=seen[0].dtype))


def test_a_decoder_that_is_told_the_class_is_switched_by_it():
    """Codes are found under the datum's own class, and decoded under the other: one farther in each number."""
    run = run_of(Condition("class", 2))
    z, _ = labelled(6)
    label = torch.tensor([0, 1, 0, 0, 1, 0])
    x = z @ A.T + label[:, None]
    assert told(run, x, label) and not told(run_of(), x, label)
    made = switch(run, x, label, "1", [0.0, 1.0])
    torch.testing.assert_close(made[:, 0].float(), x, atol=2e-2, rtol=0)
    torch.testing.assert_close((made[:, 1] - made[:, 0]).float(), (1.0 - label)[:, None].expand(6, 3), atol=1e-5, rtol=0)
    still = moved(run, z, torch.ones(2), [0.0], label)
    torch.testing.assert_close(still[:, 0].float(), x, atol=1e-4, rtol=0)
