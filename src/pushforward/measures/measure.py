"""One figure of a measurement: a value with its interval, beside the same figure of real data against real data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pushforward.errors import UserError

Better = Literal["lower", "higher", "near 0.5", "near 0", "near 1", "near the floor", ""]
ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass
class Measure:
    """One figure.

    value, low, high: the figure and its 95 % interval. floor, floor_low, floor_high: the same figure where training data
    take the samples' place (what a perfect model would get), or None where there is no such thing. better: which way is
    good. kind: of a likelihood ("exact", "bound", "estimate"). n: how many data it rests on. protocol: how, in a sentence.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_low: float | None = None
    floor_high: float | None = None
    unit: str = ""
    better: Better = ""
    kind: str | None = None
    n: int = 0
    protocol: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "floor", "floor_low", "floor_high"):
            figure = getattr(self, name)
            if figure is not None:
                setattr(self, name, float(figure))
                if not math.isfinite(figure):
                    raise UserError(f"'{self.name}' came out as {figure}, which is no figure to report.")

    @property
    def titled(self) -> str:
        """The name, with the kind of a likelihood."""
        return f"{self.name} ({self.kind})" if self.kind else self.name

    @property
    def arrow(self) -> str:
        """Which way is good, in a few characters.

        >>> Measure("KID", 0.0, better="lower").arrow, Measure("C2ST", 0.5, better="near 0.5").arrow
        ('↓', '→0.5')
        """
        return ARROWS.get(self.better, self.better.replace("near the ", "→").replace("near ", "→"))

    @property
    def real(self) -> bool | None:
        """Whether the figure's interval meets the floor's: no difference from real data was found at this n."""
        if self.low is None or self.high is None or self.floor is None:
            return None
        floor_low = self.floor if self.floor_low is None else self.floor_low
        floor_high = self.floor if self.floor_high is None else self.floor_high
        return self.low <= floor_high and floor_low <= self.high


def paired(
    name: str,
    ours: tuple[float, float, float],
    floor: tuple[float, float, float],
    better: Better,
    unit: str,
    n: int,
    protocol: str,
    group: str,
) -> Measure:
    """A measure of (value, low, high) beside the floor's (value, low, high)."""
    return Measure(name, *ours, *floor, unit=unit, better=better, n=n, protocol=protocol, group=group)
