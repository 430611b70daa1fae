"""Codes of a class with fewer rows than a code has numbers are drawn from where its rows are."""

import pytest
import torch

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.models.autoencoders.codes import CodeDensity
from pushforward.randomness import SampleRng, UpdateRng


@pytest.mark.parametrize("kind", ["gmm", "gaussian", "class-gaussians"])
@pytest.mark.parametrize("rare", [40, 8])
def test_a_rare_class_is_drawn_on_its_side(kind, rare):
    """Two classes five deviations apart in 16 numbers: 0.6 % of a class lie beyond the middle, of those drawn at most 10 %
    (maximum likelihood per class left 27 % of them on the right side for 8 rows), or 20 % where one Gaussian of both classes is
    what they are chosen from."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1000 + rare, 16, generator=draw)
    label = (torch.arange(len(x)) >= 1000).long()
    x[:, 0] += 5.0 * label
    spec = DataSpec("image", (1, 4, 4), levels=16, condition=Condition("class", 2, frequencies=(1000 / len(x), rare / len(x))))
    codes = CodeDensity(spec, 16, kind)
    turn, rng = codes.fitting(lambda batch: batch.x), UpdateRng(torch.Generator().manual_seed(0))
    for _ in range(200):
        if turn([Batch(x, label)], rng).finished:
            break
    for asked in (0, 1):
        drawn = codes.sample(500, torch.full((500,), asked), SampleRng(1))
        right = (drawn[:, 0] > 2.5) == bool(asked)
        assert right.float().mean() > (0.8 if kind == "gaussian" else 0.9), (asked, right.float().mean())
