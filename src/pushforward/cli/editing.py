"""What the verbs that edit have in common: a run, the data that they begin with, and a picture with its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pushforward.cli.parsing import Parser, peel, plain
from pushforward.errors import UserError


def parser(verb: str, description: str) -> Parser:
    """The options that all of these verbs have."""
    built = Parser(f"pushforward {verb} RUN", description)
    built.add_argument("--out", type=str | None, default=None, help=f"a .png or .gif (default: RUN/{verb}.png)")
    built.add_argument("--n", type=int, default=8, help="how many items")
    built.add_argument("--items", type=str | None, default=None, help="which ones: their numbers in the data, with commas")
    built.add_argument("--seed", type=int, default=0, help="of the choice of items, and of all that is drawn")
    built.add_argument("--split", type=Literal["held-out", "train"], default="held-out", help="where items come from")
    built.add_argument("--device", type=str, default="cpu", help="where the model runs")
    return built


def begin(built: Parser, verb: str, argv: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """The options as given, and the run that the first word names."""
    words, rest = peel(argv)
    given = plain(built.understand(rest))
    if not words:
        raise UserError(f"which run? Give its directory: pushforward {verb} runs/NAME")
    if given.get("out") and Path(given["out"]).suffix not in (".png", ".gif"):
        raise UserError(f"--out {given['out']} was given; pictures are .png, animations .gif.")
    if given.get("n", 1) < 1:
        raise UserError(f"--n {given['n']} was given; it must be at least 1.")
    from pushforward.training.records import read_record

    read_record(Path(words[0]))
    from pushforward.training.opening import load

    return given, load(words[0], device=given["device"])


def data_of(run: Any, source: str | None, **options: Any) -> Any:
    """The data to begin with: those of the run, or others of the same kind."""
    if source is None and not options:
        return run.load_data()
    from pushforward.training.opening import open_data

    known = run.record["data"]["source"]
    data = open_data(**{**known, **({"source": source} if source else {}), **options})
    if (data.spec.kind, data.spec.shape) != (run.spec.kind, run.spec.shape):
        raise UserError(
            f"'{data.spec.name}' holds {data.spec.kind} of shape {data.spec.shape}; the run learned {run.spec.kind} of shape "
            f"{run.spec.shape}. Load it the same way (--size, --mode, ...)."
        )
    return data


def chosen_split(data: Any, given: dict[str, Any]) -> Any:
    """The split that --split names."""
    return data.train if given["split"] == "train" else data.held_out or data.train


def items(data: Any, given: dict[str, Any], n: int | None = None) -> tuple[Any, Any, list[int]]:
    """Codes, conditions and numbers of the data that were asked for."""
    import torch

    from pushforward.data.batches import STREAM

    split = chosen_split(data, given)
    size = min(len(split), STREAM)
    n = n or given["n"]
    if given["items"]:
        try:
            numbers = [int(word) for word in given["items"].split(",")]
        except ValueError:
            raise UserError(f"--items {given['items']} was given; expected numbers with commas, such as 0,5,12.") from None
        wrong = [number for number in numbers if not 0 <= number < size]
        if wrong:
            raise UserError(f"item {wrong[0]} was asked for; the {given['split']} data have 0 to {size - 1}.")
        numbers = (numbers * -(-n // len(numbers)))[:n] if n != given["n"] else numbers
    else:
        from pushforward.randomness import mix

        generator = torch.Generator().manual_seed(mix(given["seed"], 0x17E5))
        numbers = torch.randint(min(size, 2**31), (n,), generator=generator).tolist()
    codes, condition = split.fetch(torch.tensor(numbers))
    return codes, condition, numbers


def write_states(run: Any, verb: str, given: dict[str, Any], values: Any, **drawing: Any) -> Path:
    """Items (n, k, ...) in their k states: side by side in a .png, after one another in a .gif."""
    from pushforward.artefacts import write_animation
    from pushforward.pictures.draw import draw_frames, draw_strips

    if given["out"] and Path(given["out"]).suffix == ".gif":
        return write_animation(draw_frames(run.spec, values), given["out"], recipe(run, verb, given))
    return write(run, verb, given, draw_strips(run.spec, values, **drawing))


def write(run: Any, verb: str, given: dict[str, Any], picture: Any) -> Path:
    """One picture, with its recipe, where --out says or beside the run."""
    from pushforward.artefacts import write_picture

    path = Path(given["out"]) if given["out"] else run.directory / f"{verb}.png"
    if path.suffix == ".gif":
        raise UserError(f"`pushforward {verb}` draws one picture, which does not move; give --out an ending of .png.")
    return write_picture(picture, path, recipe(run, verb, given))


def recipe(run: Any, verb: str, given: dict[str, Any]) -> dict[str, Any]:
    """What makes the same picture again."""
    from pushforward._version import VERSION

    options = {key: value for key, value in given.items() if key not in ("out", "device") and value is not None}
    return {
        "pushforward": VERSION,
        "verb": verb,
        "run": str(run.directory.resolve()),
        "weights": run.weights,
        "arguments": options,
    }
