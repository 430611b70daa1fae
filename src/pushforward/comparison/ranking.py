"""Which of several figures are the best, as far as their intervals tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def leading(cells: Sequence[Mapping[str, Any] | None]) -> set[int]:
    """The places of the best figure and of all whose intervals meet its own; none where fewer than two can be ranked.

    >>> cells = [{"value": v, "low": v - 1, "high": v + 1, "better": "lower"} for v in (5.0, 1.0, 2.5)]
    >>> sorted(leading(cells)), sorted(leading(cells[:1]))
    ([1, 2], [])
    """
    ranked = {i: m for i, m in enumerate(cells) if m is not None and m.get("value") is not None}
    costs = {i: cost for i, m in ranked.items() if (cost := _cost(m)) is not None}
    if len(costs) < 2 or len(costs) < len(ranked):
        return set()
    _, low, high = min(costs.values())
    return {i for i, cost in costs.items() if cost[1] <= high and low <= cost[2]}


def _cost(m: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """A figure and its interval as something to make small, or None where no way is better."""
    value = float(m["value"])
    low, high = (value if m.get(end) is None else float(m[end]) for end in ("low", "high"))
    better = str(m.get("better") or "")
    if better == "lower":
        return value, low, high
    if better == "higher":
        return -value, -high, -low
    target = m.get("floor") if better == "near the floor" else better.removeprefix("near ")
    try:
        aim = float(target)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    ends = sorted((abs(low - aim), abs(high - aim)))
    return abs(value - aim), 0.0 if low <= aim <= high else ends[0], ends[1]
