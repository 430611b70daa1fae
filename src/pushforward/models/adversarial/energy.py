"""Games of energies: the critic gives data a low energy E(x) >= 0 and fakes a high one, and the generator goes downhill.

Outputs are l = -E(x), as those of nets/energies.py. EBGAN raises the energy of fakes as far as a margin m:

    critic      min  E_real E(x) + E_fake max(0, m - E(G(z)))
    generator   min  E_fake E(G(z)).

For densities p and q the best energy is 0 where p > q and m where p < q, so that the critic's loss is m (1 - TV(p, q)): it is
m in equilibrium, where p = q and any energy in [0, m] that is constant there serves. A pulling-away term keeps fakes apart: the
mean over pairs of the squared cosines of the critic's codes of fakes, added to the generator's loss.

BEGAN wants the errors of fakes to be the share gamma of those of data (the lower, the less diverse samples are and the better),
and finds by feedback how much weight k, from 0 to 1, fakes must have for that:

    critic      min  E_real E(x) - k E_fake E(G(z))
    generator   min  E_fake E(G(z))
    k          <-    clamp(k + lambda (gamma E_real E(x) - E_fake E(G(z))), 0, 1)
    measure          E_real E(x) + |gamma E_real E(x) - E_fake E(G(z))|, which falls as training converges.

Zhao, Mathieu and LeCun 2017 (EBGAN), arXiv:1609.03126; Berthelot, Schumm and Metz 2017 (BEGAN), arXiv:1703.10717.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.models.adversarial.objectives import Objective, raise_fakes


def margin_objective(margin: float) -> Objective:
    """EBGAN's two losses, for outputs l = -E <= 0; margin: the energy up to which fakes are raised, in the units of E."""
    if not margin > 0:
        raise UserError(f"margin = {margin} was given, the energy up to which fakes are raised; give a number above 0.")

    def critic(real: Float[Tensor, "*r"], fake: Float[Tensor, "*f"]) -> Float[Tensor, ""]:
        return F.relu(margin + fake.float()).mean() - real.float().mean()

    return Objective(critic, raise_fakes, boundary=-margin / 2)


def pulling_away(codes: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """The mean squared cosine of the angles between the codes of different rows: 1 where all lie on a line through 0, and 0
    where all are orthogonal, or where there is one row only."""
    directions = F.normalize(codes.float(), dim=1)
    squared = (directions @ directions.T).square()
    rows = len(codes)
    return (squared.sum() - squared.diagonal().sum()) / max(rows * (rows - 1), 1)


class Equilibrium(nn.Module):
    """BEGAN's two losses and the weight k that its critic gives to fakes, with the members of an `Objective`; outputs are -E.

    gamma: the mean energy of fakes, as a share of that of data, in equilibrium; above 0, at most 1. rate: lambda, by which k
    moves after an update of a difference of energies of 1.
    """

    k: Tensor
    boundary: float | None = None
    paired = False
    lipschitz = False

    def __init__(self, gamma: float = 0.5, rate: float = 1e-3):
        super().__init__()
        if not 0 < gamma <= 1:
            raise UserError(f"gamma = {gamma} was given, the energy of fakes as a share of that of data; give one in (0, 1].")
        if not rate > 0:
            raise UserError(f"rate = {rate} was given, by which k follows the energies; give a number above 0, such as 0.001.")
        self.gamma, self.rate = gamma, rate
        self.register_buffer("k", torch.zeros((), dtype=torch.float32))

    def critic(self, real: Float[Tensor, "*r"], fake: Float[Tensor, "*f"]) -> Float[Tensor, ""]:
        """E_real E - k E_fake E."""
        return self.k * fake.float().mean() - real.float().mean()

    def generator(self, real: Tensor, fake: Float[Tensor, "*f"]) -> Float[Tensor, ""]:
        """E_fake E."""
        return raise_fakes(real, fake)

    def imbalance(self, real: Float[Tensor, "*r"], fake: Float[Tensor, "*f"]) -> Float[Tensor, ""]:
        """gamma E_real E - E_fake E: above 0 where the critic should care more for fakes."""
        return fake.float().mean() - self.gamma * real.float().mean()

    @torch.no_grad()
    def after_update(self, real: Float[Tensor, "*r"], fake: Float[Tensor, "*f"]) -> None:
        """Moves k, given the outputs for data and for fakes of the update."""
        self.k.add_(self.rate * self.imbalance(real, fake)).clamp_(0, 1)

    def measure(self, real: Float[Tensor, "*r"], fake: Float[Tensor, "*f"]) -> Float[Tensor, ""]:
        """How far training is: the lower the better."""
        return self.imbalance(real, fake).abs() - real.float().mean()
