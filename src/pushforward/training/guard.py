"""Values that are not finite are caught before the weights move, and gradients are scaled to at most a norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pushforward.models.contract import Loss, Player


class NotFinite(Exception):
    """A loss or gradient became NaN or infinite; the sentence says where."""


class Guard:
    """Looks at each update of a run: its loss and the norm of its gradient. With several processes all must decide alike, so
    there a bad loss is seen in everyone's averaged gradient.

    On a GPU the look is at the previous update, so that the host never waits; a roll-back undoes the one since. `settle` looks
    at the last one. clip: largest norm of a gradient, where a player says nothing of it; 0: any.
    """

    def __init__(self, model: nn.Module, clip: float, device: torch.device, world: int):
        self.model, self.largest, self.device, self.world = model, clip, device, world
        self._pending: tuple[int, Player, list[nn.Parameter], Loss, Tensor] | None = None

    def clip(self, step: int, player: Player, parameters: list[nn.Parameter], loss: Loss) -> Tensor:
        """Scales the gradients of a player's parameters; returns the norm that they had. Raises NotFinite."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        largest = self.largest if player.optimizer.clip is None else player.optimizer.clip
        if self.device.type == "cpu":
            size = math.hypot(*[each.item() for each in norms])
            if not math.isfinite(size if self.world > 1 else size + loss.total.item()):
                raise self._named(step, player, parameters, loss)
            if 0 < largest < size:
                torch._foreach_mul_(gradients, largest / size)
            return torch.tensor(size)
        norm = torch.linalg.vector_norm(torch.stack(list(norms)))
        finite = torch.isfinite(norm if self.world > 1 else norm + loss.total.detach())
        self.settle()
        self._pending = step, player, parameters, loss, finite
        if largest > 0:
            torch._foreach_mul_(gradients, (largest / (norm + 1e-12)).clamp(max=1.0))
        return norm

    def settle(self) -> None:
        """Looks at the last update, where that was put off. Raises NotFinite."""
        pending, self._pending = self._pending, None
        if pending and not bool(pending[-1]):
            raise self._named(*pending[:-1])

    def _named(self, step: int, player: Player, parameters: list[nn.Parameter], loss: Loss) -> NotFinite:
        """What met a value that is not finite: player, term, tensor."""
        terms = {"loss": loss.total, **loss.terms}
        bad = [name for name, value in terms.items() if not bool(torch.isfinite(value).all())]
        spoilt = [id(p) for p in parameters if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
        names = {id(p): name for name, p in self.model.named_parameters()}
        tensor = names.get(spoilt[0], "?") if spoilt else None
        terms_named = f"its term(s) {', '.join(bad)}" if bad else "its gradient (the loss itself is finite)"
        where = f", first in the gradient of '{tensor}'" if tensor else ""
        return NotFinite(f"at step {step} the player '{player.name}' met a value that is not finite in {terms_named}{where}")
