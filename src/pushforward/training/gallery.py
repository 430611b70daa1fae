"""The pictures of a run: samples, curves, trajectories, reconstructions. People look before they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward._version import VERSION
from pushforward.artefacts import write_picture
from pushforward.data.batches import take, take_conditions
from pushforward.data.conditions import can_be_drawn, to_model
from pushforward.models.contract import Decodes, Encodes, Samples, Trajectories, device_of
from pushforward.pictures.draw import draw_pairs, draw_samples, draw_trajectory
from pushforward.pictures.plots import draw_history
from pushforward.randomness import SampleRng

PICTURE_SEED = 0


def shown_conditions(run: Any, columns: int = 10, rows: int = 10) -> tuple[int, Tensor | None]:
    """How many samples a picture shows, and of which conditions: a row for each class where there are classes, those of
    held-out data where conditions cannot be drawn at random (0 samples where there are no data to take them from)."""
    classes = run.spec.classes
    if classes:
        return min(classes, rows) * columns, torch.arange(min(classes, rows)).repeat_interleave(columns)
    n = {"image": 64, "tokens": 4, "series": 12}.get(run.spec.kind, 2000)
    if can_be_drawn(run.spec.condition):
        return n, None
    condition = _held_out_conditions(run, n)
    return (0, None) if condition is None else (n, condition)


def _held_out_conditions(run: Any, n: int) -> Tensor | None:
    return None if run.data is None else take_conditions(run.data, n, PICTURE_SEED)


def sample_recipe(run: Any, n: int, seed: int, condition: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What makes the same samples again; written into every file of samples."""
    asked = condition.tolist() if isinstance(condition, Tensor) else condition
    if isinstance(condition, Tensor) and condition.numel() > 100_000:
        asked = f"<{len(condition)} conditions of shape {tuple(condition.shape[1:])}>"  # too many for a file's margin
    return {
        "pushforward": VERSION,
        "run": str(run.directory.resolve()),
        "model": run.record["model"]["name"],
        "weights": run.weights,
        "n": n,
        "seed": seed,
        "condition": asked,
        "options": options,
    }


def sample_picture(run: Any, path: Path, seed: int = PICTURE_SEED) -> None:
    """Draws samples of a run (or of a run under way) into a PNG."""
    if not isinstance(run.model, Samples):
        return
    n, condition = shown_conditions(run)
    if n == 0:
        return
    codes = run.sample_codes(n, condition=condition, seed=seed)
    beside = run.spec.kind not in ("image", "tokens") and run.data is not None
    real = take(run.data.train, 2000)[0] if beside else None
    path.parent.mkdir(parents=True, exist_ok=True)
    known = run.directory / "model.safetensors"
    recipe = sample_recipe(run, n, seed, condition, {}) if known.exists() else {"pushforward": VERSION, "seed": seed}
    write_picture(draw_samples(run.spec, codes, condition=condition, real=real), path, recipe)


def draw_run(run: Any) -> list[Path]:
    """Writes the pictures that a run can have into its directory."""
    written = []

    def keep(name: str, picture: Any) -> None:
        path = run.directory / name
        write_picture(picture, path, {"pushforward": VERSION, "run": str(run.directory), "seed": PICTURE_SEED})
        written.append(path)

    if run.history:
        keep("training.png", draw_history(run.history))
    sample_picture(run, run.directory / "samples.png")
    device = device_of(run.model)
    n = 10 if run.spec.kind == "image" else 2000
    condition = torch.arange(n) % run.spec.classes if run.spec.classes else None
    if not can_be_drawn(run.spec.condition):
        condition = _held_out_conditions(run, n)
    can = condition is not None or can_be_drawn(run.spec.condition)
    if isinstance(run.model, Trajectories) and run.spec.kind != "tokens" and can:
        frames = 9
        with torch.no_grad():
            states = run.model.trajectory(
                n,
                frames=frames,
                condition=None if condition is None else to_model(run.spec.condition, condition.to(device)),
                generator=SampleRng(PICTURE_SEED, device=device),
            )
        codes = torch.stack([run.units.to_codes(state).cpu() for state in states])
        keep("trajectory.png", draw_trajectory(run.spec, codes, torch.linspace(1, 0, frames).tolist()))
    if isinstance(run.model, Encodes) and isinstance(run.model, Decodes) and run.spec.kind == "image" and run.data is not None:
        codes, condition = take(run.data.held_out or run.data.train, 10, seed=PICTURE_SEED)
        again = run.units.parse(run.reconstruct(codes, condition=condition))
        keep("reconstructions.png", draw_pairs(run.spec, codes, again, ("data", "reconstructed")))
    return written
