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
    costs = {i: _cost(m) for i, m in ranked.items()}
    if len(ranked) < 2 or any(cost is None for cost in costs.values()):
        return set()
    best = ranked[min(costs, key=lambda i: costs[i] or 0.0)]
    low, high = _reach(best)
    return {i for i, m in ranked.items() if _reach(m)[0] <= high and low <= _reach(m)[1]}


def _cost(m: Mapping[str, Any]) -> float | None:
    """A figure as something to make small, or None where no way is better."""
    better, value = str(m.get("better") or ""), float(m["value"])
    if better in ("lower", "higher"):
        return value if better == "lower" else -value
    target = m.get("floor") if better == "near the floor" else better.removeprefix("near ")
    try:
        return abs(value - float(target))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _reach(m: Mapping[str, Any]) -> tuple[float, float]:
    return float(m["value"] if m.get("low") is None else m["low"]), float(m["value"] if m.get("high") is None else m["high"])
