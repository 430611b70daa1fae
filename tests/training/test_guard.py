"""Losses and gradients are looked at before the weights move: at once, or (as on a GPU) one update later."""

import math

import pytest
import torch
from torch import nn

from pushforward.models.contract import Loss, OptimizerSettings, Player
from pushforward.training.guard import Guard, NotFinite


def update(guard, model, step, scale=1.0, clip=None):
    """A player whose gradient is `scale` (3, 4), and what the guard makes of it."""
    player = Player("walker", model, loss=lambda batch, rng: Loss(torch.zeros(())), optimizer=OptimizerSettings(clip=clip))
    model.weight.grad, model.bias.grad = scale * torch.tensor([[3.0, 4.0]]), None
    return guard.clip(step, player, list(model.parameters()), Loss(torch.tensor(scale), {"part": torch.tensor(1.0)}))


@pytest.mark.parametrize("device", ["cpu", "cuda"])  # the way of a GPU goes on a processor as well
@pytest.mark.parametrize(("largest", "own", "norm"), [(1.0, None, 1.0), (0, None, 5.0), (10.0, None, 5.0), (10.0, 0.5, 0.5)])
def test_gradients_are_scaled_to_the_largest_norm(device, largest, own, norm):
    model = nn.Linear(2, 1)
    before = update(Guard(model, largest, torch.device(device), 1), model, 0, clip=own)
    assert before.item() == pytest.approx(5.0)
    torch.testing.assert_close(model.weight.grad, norm * torch.tensor([[0.6, 0.8]]), rtol=1e-5, atol=1e-6)
    assert model.bias.grad is None, "what the loss does not touch stays as it is"


def test_at_once_or_one_update_later_with_the_same_words():
    model = nn.Linear(2, 1)
    with pytest.raises(NotFinite) as at_once:
        update(Guard(model, 1.0, torch.device("cpu"), 1), model, 7, math.nan)
    assert str(at_once.value) == (
        "at step 7 the player 'walker' met a value that is not finite in its term(s) loss, first in the gradient of 'weight'"
    )
    guard = Guard(model, 1.0, torch.device("cuda"), 1)
    update(guard, model, 7, math.nan)
    with pytest.raises(NotFinite) as settled:
        guard.settle()
    assert str(settled.value) == str(at_once.value)
    guard.settle()  # once is enough: the run has gone back
    update(guard, model, 8, math.inf)
    with pytest.raises(NotFinite, match="at step 8"):
        update(guard, model, 9)
    update(guard, model, 10)
    guard.settle()


def test_with_several_processes_the_gradient_decides():
    """A loss that is not finite in one process alone must not stop that one alone."""
    model = nn.Linear(2, 1)
    guard = Guard(model, 0, torch.device("cpu"), 2)
    player = Player("walker", model, loss=lambda batch, rng: Loss(torch.zeros(())))
    model.weight.grad = torch.ones(1, 2)
    guard.clip(0, player, list(model.parameters()), Loss(torch.tensor(math.nan)))
    model.weight.grad = torch.full((1, 2), math.nan)
    with pytest.raises(NotFinite, match=r"its gradient \(the loss itself is finite\)"):
        guard.clip(0, player, list(model.parameters()), Loss(torch.tensor(1.0)))
