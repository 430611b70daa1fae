"""The pictures of a run: samples, curves, trajectories, reconstructions. People look before they read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward._version import VERSION
from pushforward.artefacts import write_picture
from pushforward.data.batches import take, take_conditions
from pushforward.data.conditions import can_be_drawn
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.contract import Decodes, Encodes, Samples, Trajectories, Translates, takes_condition
from pushforward.pictures.draw import draw_pairs, draw_samples, draw_strips, draw_trajectory
from pushforward.pictures.eigen import draw_eigen_images
from pushforward.pictures.plots import draw_history
from pushforward.training.records import CODES, require

PICTURE_SEED = 0
SHOWN = 23  # eigen-directions, beside the mean


def shown_conditions(run: Any, spec: DataSpec, columns: int = 10, rows: int = 10) -> tuple[int, Tensor | None]:
    """How many samples a picture shows, and of which conditions: a row of tiles for each class where there are classes, of
    other kinds of data as many of each as there are among the data; those of held-out data where conditions cannot be drawn at
    random (0 samples where there are no data to take them from). spec: of what is shown."""
    known = takes_condition(run.model, run.spec)
    classes = run.spec.classes if known else None
    if classes and _tiled(spec):
        return min(classes, rows) * columns, torch.arange(min(classes, rows)).repeat_interleave(columns)
    n = 64 if _tiled(spec) else {"tokens": 4, "series": 12}.get(spec.kind, 2000)
    if classes:
        return n, in_proportion(run.spec.condition, n)
    if not known or can_be_drawn(run.spec.condition):
        return n, None
    condition = _held_out_conditions(run, n)
    return (0, None) if condition is None else (n, condition)


def in_proportion(condition: Condition, n: int) -> Tensor:
    """n classes in the proportions of the training set, in order.

    >>> in_proportion(Condition("class", 3, frequencies=(0.5, 0.3, 0.2)), 10).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    """
    rates = torch.tensor(condition.frequencies or [1.0] * condition.size, dtype=torch.float64)
    at = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.searchsorted((rates / rates.sum()).cumsum(0), at).clamp(max=condition.size - 1)


def first_stage(run: Any) -> Any:
    """The run whose codes this one learned (`--data codes:RUN`); None for all others, and where it is gone."""
    from pushforward.training.opening import load

    source = str(run.record["data"].get("source", {}).get("source", ""))
    if not source.startswith(CODES):
        return None
    try:
        return load(source.removeprefix(CODES))
    except UserError:
        return None


def decoded_samples(run: Any, first: Any, codes: Tensor, condition: Tensor | None) -> Tensor:
    """Levels of what samples (codes) of a second stage decode to, through the first."""
    z = torch.as_tensor(run.units.present(codes))
    given = condition if first.spec.condition is not None else None
    parts = [
        first.units.parse(first.decode(z[rows], condition=None if given is None else given[rows]))
        for start in range(0, len(z), 256)
        for rows in [slice(start, start + 256)]
    ]
    return torch.cat(parts)


def _tiled(spec: DataSpec) -> bool:
    """Whether data are drawn as tiles: images, fields, and grids of codes."""
    return spec.kind in ("image", "field") or bool(spec.vocabulary and spec.vocabulary.grid and spec.kind == "tokens")


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
        **({"best": True} if run.best else {}),
    }


def sample_picture(run: Any, path: Path, step: int | None = None) -> None:
    """Draws samples of a run into a PNG. step: of a run under way; the weights of then are not kept, so its recipe has none."""
    if not isinstance(run.model, Samples):
        return
    first = first_stage(run)
    data, spec = (run.data, run.spec) if first is None else (first.data, first.spec)
    n, condition = shown_conditions(run, spec)
    if n == 0:
        return
    codes = run.sample_codes(n, condition=condition, seed=PICTURE_SEED)
    if first is not None:
        codes = decoded_samples(run, first, codes, condition)
    beside = not _tiled(spec) and spec.kind != "tokens" and data is not None
    real = take(data.train, 2000)[0] if beside else None
    if step is None:
        recipe = sample_recipe(run, n, PICTURE_SEED, condition, {}) | ({"decode": True} if first else {})
    else:
        recipe = _picture_recipe(run, "progress") | {"step": step}
    require(run.directory)
    write_picture(draw_samples(spec, codes, condition=condition, real=real), path, recipe)


def _picture_recipe(run: Any, picture: str) -> dict[str, Any]:
    return {"pushforward": VERSION, "picture": picture, "run": str(run.directory.resolve()), "seed": PICTURE_SEED}


def draw_training(run: Any, seed: int) -> Any:
    """The curves of a run; None for one without a history. What was watched comes first, as there may be too many."""
    rows = sorted(run.history, key=lambda row: not any(name.startswith("watch/") for name in row))
    return draw_history(rows) if rows else None


def draw_coming_about(run: Any, seed: int) -> Any:
    """How samples come about; None where the model cannot show it, or there are no conditions to show it for."""
    if not isinstance(run.model, Trajectories) or run.spec.kind == "tokens":
        return None
    n, frames = 10 if _tiled(run.spec) else 2000, 9
    condition = torch.arange(n) % run.spec.classes if run.spec.classes else None
    if not can_be_drawn(run.spec.condition):
        condition = _held_out_conditions(run, n)
        if condition is None:
            return None
    codes = run.trajectory(n, frames=frames, condition=condition, seed=seed)
    return draw_trajectory(run.spec, codes, torch.linspace(1, 0, frames).tolist())


def draw_reconstructions(run: Any, seed: int) -> Any:
    """Held-out images beside what their codes decode to; None where the model or the data are not there for it."""
    able = isinstance(run.model, Encodes) and isinstance(run.model, Decodes)
    if not able or run.spec.kind != "image" or run.data is None:
        return None
    codes, condition = take(run.data.held_out or run.data.train, 10, seed=seed)
    again = run.units.parse(run.reconstruct(codes, condition=condition))
    return draw_pairs(run.spec, codes, again, ("data", "reconstructed"))


def draw_translations(run: Any, seed: int) -> Any:
    """Held-out images beside what they are turned into (of pairs of one kind beside the true ones); None of other models."""
    if not isinstance(run.model, Translates) or run.data is None:
        return None
    codes, condition = take(run.data.held_out or run.data.train, 8, seed=seed)
    given = run.spec.condition
    if given is None or given.kind != "image":
        source = run.given(codes)
        made = run.units.parse(run.translate(source, condition=condition, seed=seed))
        if torch.equal(source, codes):
            return draw_pairs(run.spec, codes, made, ("given", "made"))
        return draw_strips(run.spec, torch.stack([source, made, codes], 1), column_labels=["given", "made", "true"])
    if condition is None or (tuple(given.shape), given.levels) != (tuple(run.spec.shape), run.spec.levels):
        return None
    made = run.units.parse(run.translate(condition, seed=seed))
    return draw_strips(run.spec, torch.stack([condition, made, codes], 1), column_labels=["given", "made", "true"])


def draw_eigen(run: Any, seed: int) -> Any:
    """The mean and the leading eigen-directions of images; None for models and data that have none."""
    directions = getattr(run.model, "directions", None)
    if run.spec.kind != "image" or not isinstance(directions, Tensor) or not isinstance(run.model, Decodes):
        return None
    with torch.no_grad():
        mean = run.model.decode(torch.zeros(1, len(directions)))[0]
    return draw_eigen_images(run.spec, mean, directions[:SHOWN])


PICTURES: dict[str, Callable[[Any, int], Any]] = {
    "training": draw_training,
    "trajectory": draw_coming_about,
    "reconstructions": draw_reconstructions,
    "translations": draw_translations,
    "eigen": draw_eigen,
}


def draw_run(run: Any) -> list[Path]:
    """Writes the pictures that a run can have into its directory."""
    sample_picture(run, run.directory / "samples.png")
    written = []
    for name, draw in PICTURES.items():
        picture = draw(run, PICTURE_SEED)
        if picture is not None:
            recipe = _picture_recipe(run, name) | {"weights": run.weights}
            written.append(write_picture(picture, run.directory / f"{name}.png", recipe))
    return written


def draw_again(run: Any, recipe: dict[str, Any]) -> Any:
    """The picture of a recipe of `draw_run`, anew; a UserError that says why where it cannot be."""
    name = recipe["picture"]
    if name == "progress":
        raise UserError(
            f"this picture was drawn at step {recipe.get('step')} of the training, and the weights of then are not kept; "
            f"`pushforward sample {run.directory}` draws from those that the run ended with."
        )
    if name == "neighbours":
        raise UserError(f"this picture shows what was measured; `pushforward evaluate {run.directory}` draws it.")
    if name not in PICTURES:
        raise UserError(
            f"this version of pushforward draws no picture '{name}'; use the one that did ({recipe['pushforward']})."
        )
    picture = PICTURES[name](run, recipe["seed"])
    if picture is None:
        raise UserError(
            f"the picture '{name}' cannot be drawn again: the model cannot, or {run.directory} lacks what it shows."
        )
    return picture
