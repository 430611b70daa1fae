"""What the model costs: numbers that are read off the run, and the speed of sampling as it was measured here."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pushforward.measures.measure import Measure


def cost_measures(model: nn.Module, result: dict[str, Any], samples: int, seconds: float) -> list[Measure]:
    """Parameters (of a model without any: its fitted numbers) and size of the model, samples a second, and (where the run
    knows them) training seconds, updates and examples. `result` is the run's; `samples` were drawn in `seconds`."""
    learned: list[Tensor] = [*model.parameters()]
    protocol = "" if learned else "no parameters by gradients: all floating-point numbers that the fit keeps"
    learned = learned or [b for b in model.buffers() if b.is_floating_point()]  # closed form: numbers are fitted into buffers
    parameters = sum(p.numel() for p in learned)
    if hasattr(model, "free_parameters"):
        parameters, protocol = model.free_parameters, "numbers that the data determine"  # type: ignore[assignment]
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(t.numel() * t.element_size() for t in tensors) / 1e6
    where = str(next(iter(tensors)).device) if tensors else "cpu"

    def cost(name: str, value: float, unit: str, better: Any = "lower", protocol: str = "") -> Measure:
        return Measure(name, float(value), unit=unit, better=better, protocol=protocol, group="cost")

    measures = [
        cost("parameters", float(parameters), "numbers", protocol=protocol),
        cost("model size", size, "MB", protocol="parameters and buffers as they are in memory"),
    ]
    if samples:
        speed = samples / max(seconds, 1e-9)
        measures.append(cost("sampling speed", speed, "samples/s", "higher", f"{samples} samples at once on {where}"))
    for key, name, unit, better in (
        ("seconds", "training time", "s", "lower"),
        ("steps", "updates", "updates", ""),
        ("examples", "examples seen", "data", ""),
    ):
        if isinstance(result.get(key), (int, float)):
            measures.append(cost(name, float(result[key]), unit, better, protocol="as the run recorded it"))
    return measures
