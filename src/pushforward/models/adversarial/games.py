"""Which game is played: an objective by its name and its numbers, if it suits the critic."""

from __future__ import annotations

from collections.abc import Mapping

from pushforward.errors import UserError, nearest
from pushforward.models.adversarial.energy import Equilibrium, margin_objective
from pushforward.models.adversarial.objectives import OBJECTIVES, Objective, least_squares

# The numbers of the objectives that have any, with what they are if nothing is said
OPTIONS: dict[str, dict[str, float]] = {
    "least-squares": {"a": 0.0, "b": 1.0, "c": 1.0},
    "energy": {"margin": 0.5},
    "equilibrium": {"gamma": 0.5, "rate": 1e-3},
}
ENERGIES = ("energy", "equilibrium")


def game(name: str, options: Mapping[str, float] | None = None, energies: bool = False) -> Objective | Equilibrium:
    """The objective of a name. options: its numbers. energies: whether the critic's outputs are energies.

    >>> game("least-squares", {"a": -1.0}).boundary
    0.0

    Raises UserError for a name or a number that there is not, and for an energy's objective with a critic that has none.
    """
    if name not in (*OBJECTIVES, *ENERGIES):
        raise UserError(f"there is no objective '{name}'; {nearest(name, (*OBJECTIVES, *ENERGIES))}")
    known, given = OPTIONS.get(name, {}), options or {}
    for key in given:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"objective='{name}' has no number '{key}'; {has}.")
        if isinstance(given[key], bool) or not isinstance(given[key], (int, float)):
            raise UserError(f"{key} = {given[key]!r} was given to objective='{name}'; it is a number.")
    if (name in ENERGIES) != energies:
        raise UserError(
            f"objective='{name}' wants a critic that is an autoencoder; take network='autoencoder'."
            if name in ENERGIES
            else f"network='autoencoder' has a critic of energies, which objective='{name}' does not play with; take "
            "'energy' (EBGAN) or 'equilibrium' (BEGAN)."
        )
    numbers = {**known, **given}
    if name == "least-squares":
        return least_squares(**numbers)
    if name == "energy":
        return margin_objective(**numbers)
    if name == "equilibrium":
        return Equilibrium(**numbers)
    return OBJECTIVES[name]
