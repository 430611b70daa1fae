"""The order of the data: every epoch a permutation, a function of seed and step, tiled by the processes."""

import torch

from pushforward.data.batches import ArraySplit, Batch, Batches
from pushforward.data.spec import Column, DataSpec

SPEC = DataSpec("point", (1,), columns=(Column("a", "number"),))
LEVELS = DataSpec("image", (1, 2, 2), levels=17)


def order(n, size, steps, seed=0, world=1):
    split = ArraySplit(torch.arange(n, dtype=torch.float32)[:, None])
    ranks = [Batches(split, SPEC, size, seed=seed, rank=rank, world=world) for rank in range(world)]
    return torch.cat([torch.cat([b.at(step).index for b in ranks]) for step in range(steps)])


def test_every_epoch_is_another_permutation():
    """10 data, batches of 4: five batches are two epochs, the third straddles them."""
    seen = order(10, 4, 5).reshape(2, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in seen)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], order(10, 4, 5, seed=1)[:10])
    long = order(100, 10, 30).reshape(3, 100)
    assert all(sorted(epoch.tolist()) == list(range(100)) for epoch in long) and not torch.equal(long[1], long[2])


def test_a_batch_larger_than_the_data_goes_on_into_the_next_epochs():
    seen = order(3, 8, 3).reshape(8, 3)
    assert all(sorted(epoch.tolist()) == [0, 1, 2] for epoch in seen)


def test_processes_tile_the_global_batch():
    assert torch.equal(order(10, 2, 7, world=2), order(10, 4, 7))


def test_at_is_a_pure_function():
    split = ArraySplit(torch.arange(50, dtype=torch.float32)[:, None])
    batches = Batches(split, SPEC, 8)
    assert torch.equal(batches.at(33).index, Batches(split, SPEC, 8).at(33).index)
    first = batches.at(2).index
    batches.at(40)
    assert torch.equal(batches.at(2).index, first)


def test_dequantisation_noise_changes_with_step_and_seed_but_not_between_passes():
    split = ArraySplit(torch.zeros(4, 1, 2, 2, dtype=torch.uint8))
    a, b = (Batches(split, LEVELS, 4, seed=seed, dequantise=True) for seed in (0, 1))
    assert not torch.equal(a.at(0).x, a.at(1).x) and not torch.equal(a.at(0).x, b.at(0).x)
    assert torch.equal(a.at(3).x, Batches(split, LEVELS, 4, dequantise=True).at(3).x)
    assert torch.equal(next(a.passes()).x, next(a.passes()).x)
    assert (a.at(0).x + 1).abs().max() <= 1 / 16 and (a.at(0).x + 1).abs().max() > 0


def test_micro_batches_are_the_batch_also_where_there_are_fewer_than_asked():
    batch = Batch(torch.arange(9.0)[:, None], None, torch.arange(9), step=3, progress=0.5)
    parts = batch.split(6)
    assert torch.equal(torch.cat([p.x for p in parts]), batch.x) and [len(p) for p in parts] == [2, 2, 2, 2, 1]
    assert all(p.step == 3 and p.progress == 0.5 for p in parts)
