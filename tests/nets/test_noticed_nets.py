"""Masked networks and quantisers where a run would hardly show it: context in every layer, near entries, unused ones."""

import pytest
import torch

from pushforward.nets.masked import MaskedMLP
from pushforward.nets.quantisers import VectorQuantiser
from pushforward.randomness import UpdateRng


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_context_reaches_every_hidden_layer():
    torch.manual_seed(0)
    net = MaskedMLP(3, 2, hidden=(8, 8), context=4)
    net(numbers(5, 3), numbers(5, 4, seed=1)).square().sum().backward()
    assert len(net.contexts) == 2
    for layer in net.contexts:
        assert layer.weight.grad is not None and layer.weight.grad.abs().amax(1).min() > 0  # every unit of it
    # the second's own way: what the first layer makes of the context held fixed
    with torch.no_grad():
        net.contexts[0].weight.zero_()
        one, other = (net(numbers(5, 3), numbers(5, 4, seed=seed)) for seed in (1, 2))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("moving", [True, False])
def test_entries_a_thousandth_apart_are_told_apart_under_autocast(moving):
    """bfloat16 has steps of 2^-9 = 0.002 from 0.25 on."""
    quantiser = VectorQuantiser(16, 2, moving=moving)
    line = 0.25 + 1e-3 * torch.arange(16.0)
    with torch.no_grad():
        quantiser.codebook.copy_(torch.stack([line, line.flip(0)], 1))
    wanted = torch.randperm(16, generator=torch.Generator().manual_seed(0)).view(2, 8)
    z = quantiser.lookup(wanted).detach() + 1e-4 * numbers(2, 2, 8).clamp(-2, 2)
    plain = quantiser(z).indices
    with torch.autocast("cpu", torch.bfloat16):
        half = quantiser(z).indices
    assert torch.equal(plain, wanted) and torch.equal(half, plain)


def test_an_entry_that_nothing_chooses_stays_finite():
    """With restart=0 and no memory its count is 0 from one update on: Laplace's smoothing keeps 0 / 0 away."""
    quantiser = VectorQuantiser(3, 2, decay=0.0, restart=0.0)
    quantiser.started.fill_(True)
    with torch.no_grad():
        quantiser.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [1e3, 1e3]]))
        quantiser.sums.copy_(quantiser.codebook)
    found = quantiser(numbers(4, 2, 5))
    quantiser.after_update(found.keep, UpdateRng(torch.Generator().manual_seed(0)))
    assert 2 not in found.indices and float(quantiser.count[2]) == 0.0
    assert bool(quantiser.codebook.isfinite().all())
