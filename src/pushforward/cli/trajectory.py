"""`pushforward trajectory RUN`: how noise becomes data, in pictures suited to the run's data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pushforward.cli.editing import begin, data_of, items, parser, recipe
from pushforward.errors import UserError, nearest

DESCRIPTION = """Draws how samples come out of noise. Of images: "trajectory", samples on their way; "denoising", held-out data
noised up to t = 0.1 .. 0.9 and what the model expects them to be; and "solvers", the same noise through several solvers (rows)
in several numbers of steps (columns), with --frechet 1000 the Frechet distance of so many samples below. Of points in the
plane: "field", the flow and the density at five times; "animation", the same over time (.gif); and "solvers". Of other data:
"trajectory". --pictures chooses among them. With --out FILE.png, one picture goes there and several beside it, their names
behind FILE."""

TIMES = tuple(k / 10 for k in range(1, 10))
POINTS = 2000  # of a cloud of points
SHOWN = 8  # images of a solver


def run(argv: Sequence[str]) -> None:
    built = parser("trajectory", DESCRIPTION)
    built.add_argument("--pictures", type=str | None, default=None, help="some of the above, with commas; by default all")
    built.add_argument("--solvers", type=str | None, default=None, help="with commas; by default the usual ones")
    built.add_argument("--steps", type=str, default="5,10,20,50", help="of the solvers, with commas")
    built.add_argument("--frechet", type=int | None, default=None, help="so many samples of each solver are measured as well")
    built.add_argument("--frames", type=int, default=None, help="of the way and of the animation (8 and 17)")
    built.add_argument("--condition", type=str | None, default=None, help="a class (name or number) of what is sampled")
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    built.set_defaults({"n": 6})
    given, loaded = begin(built, "trajectory", argv)
    names = chosen(loaded, given["pictures"])
    if given["frechet"] is not None and given["frechet"] < 2:
        raise UserError(f"--frechet {given['frechet']} was given; it is a number of samples, 2 or more.")
    if given["frames"] is not None and given["frames"] < 2:
        raise UserError(f"--frames {given['frames']} was given; there are at least 2, the noise and the data.")
    from pushforward.artefacts import write_animation, write_picture
    from pushforward.progress import PATIENCE, Stages

    places = {name: place(loaded, given["out"], name, len(names)) for name in names}
    drawn: dict[str, Any] = {}
    with Stages(doing="trajectory", patience=PATIENCE) as say:
        for name in names:
            if name not in drawn:
                drawn |= DRAWINGS[name](loaded, given, say, names)
    for name, path in places.items():
        write: Callable[..., Path] = write_animation if path.suffix == ".gif" else write_picture
        print(write(drawn[name], path, recipe(loaded, "trajectory", {**given, "pictures": name})))


def offered(loaded: Any) -> list[str]:
    """The pictures that a run can have; a sentence where there is none."""
    from pushforward.editing.restoration import Denoises
    from pushforward.editing.trajectories import denoising, planar_points
    from pushforward.models.contract import Trajectories
    from pushforward.training.runs import sampling_options

    model, spec = loaded.model, loaded.spec
    if not isinstance(model, Trajectories):
        denoising(loaded)
    able, plane = isinstance(model, Denoises), planar_points(spec)
    by_solver = able and {"solver", "steps"} <= set(sampling_options(type(model)))
    names = ["field", "animation"] if able and plane else ["trajectory"] if isinstance(model, Trajectories) else []
    names += ["denoising"] if able and spec.kind == "image" else []
    return names + (["solvers"] if by_solver and (plane or spec.kind == "image") else [])


def chosen(loaded: Any, words: str | None) -> list[str]:
    """Which to draw: those that were named, or all."""
    able = offered(loaded)
    if words is None:
        return able
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in DRAWINGS:
            raise UserError(f"there is no picture '{name}'; {nearest(name, DRAWINGS)}")
        if name not in able:
            raise UserError(f"'{name}' cannot be drawn of this run; {', '.join(able)} can.")
    return names


def place(loaded: Any, out: str | None, name: str, several: int) -> Path:
    """Where a picture goes."""
    ending = ".gif" if name == "animation" else ".png"
    if out is None:
        return loaded.directory / (("field" if name == "animation" else name) + ending)
    path = Path(out)
    if several > 1:
        return path.with_name(f"{path.stem}-{name}{ending}")
    if path.suffix != ending:
        raise UserError(f"--out {out} was given; '{name}' is written as {ending}.")
    return path


def _trajectory(loaded: Any, given: dict[str, Any], say: Any, names: list[str]) -> dict[str, Any]:
    import torch

    from pushforward.pictures.draw import draw_trajectory

    say("sampling", None)
    frames = given["frames"] or 8
    codes = loaded.trajectory(_rows(loaded, given), frames=frames, condition=given["condition"], seed=given["seed"])
    return {"trajectory": draw_trajectory(loaded.spec, codes, torch.linspace(1, 0, frames).tolist())}


def _rows(loaded: Any, given: dict[str, Any]) -> int:
    """How many samples say what a law is: of a cloud many."""
    return POINTS if loaded.spec.kind in ("point", "table") else given["n"]


def _denoising(loaded: Any, given: dict[str, Any], say: Any, names: list[str]) -> dict[str, Any]:
    from pushforward.editing.trajectories import expected_of_noised
    from pushforward.pictures.fields import draw_denoising

    codes, condition, _ = items(data_of(loaded, given["data"]), given)
    say("denoising", None)
    found = expected_of_noised(
        loaded, codes, TIMES, condition=condition if loaded.spec.condition is not None else None, seed=given["seed"]
    )
    return {"denoising": draw_denoising(loaded.spec, codes, found.noised, found.expected, TIMES)}


def _fields(loaded: Any, given: dict[str, Any], say: Any, names: list[str]) -> dict[str, Any]:
    from pushforward.editing.trajectories import fields
    from pushforward.pictures.fields import draw_fields, field_frames

    frames = max(5, given["frames"] or 17) if "animation" in names else 5
    found = fields(loaded, frames, seed=given["seed"], say=say)
    some = [found[round(k * (frames - 1) / 4)] for k in range(5)]
    drawn: dict[str, Any] = {"field": draw_fields(some)} if "field" in names else {}
    return drawn | ({"animation": field_frames(found)} if "animation" in names else {})


def _solvers(loaded: Any, given: dict[str, Any], say: Any, names: list[str]) -> dict[str, Any]:
    from pushforward.data.batches import take
    from pushforward.editing.trajectories import frechet_distances, samples_by_solver, usual_solvers
    from pushforward.pictures.fields import draw_by_solver, draw_clouds_by_solver

    solvers = [word.strip() for word in given["solvers"].split(",")] if given["solvers"] else usual_solvers()
    try:
        steps = [int(word) for word in given["steps"].split(",")]
    except ValueError:
        raise UserError(f"--steps {given['steps']} was given; expected numbers with commas, such as 5,10,20,50.") from None
    image = loaded.spec.kind == "image"
    n = max(given["frechet"] or 0, SHOWN if image else POINTS)
    found = samples_by_solver(loaded, solvers, steps, n, seed=given["seed"], condition=given["condition"], say=say)
    said = {}
    if given["frechet"]:
        measured = {cell: codes[: given["frechet"]] for cell, codes in found.items()}
        said = {cell: f"Frechet {value:#.3g}" for cell, value in frechet_distances(loaded, measured, say).items()}
    if image:
        return {"solvers": draw_by_solver(loaded.spec, {cell: codes[:SHOWN] for cell, codes in found.items()}, said)}
    real = take(data_of(loaded, given["data"]).train, POINTS, given["seed"])[0]
    return {"solvers": draw_clouds_by_solver(found, real, said)}


DRAWINGS: dict[str, Callable[[Any, dict[str, Any], Any, list[str]], dict[str, Any]]] = {
    "trajectory": _trajectory,
    "denoising": _denoising,
    "field": _fields,
    "animation": _fields,
    "solvers": _solvers,
}
