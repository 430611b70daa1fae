"""What the verbs that edit have in common: a run, the data that they begin with, and a picture with its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pushforward.cli.parsing import Parser, peel, plain
from pushforward.errors import UserError

VERBS = ("interpolate", "traverse", "edit", "mix", "reconstruct", "outliers", "translate", "complete", "restore", "trajectory")


def parser(verb: str, description: str, splits: Any = Literal["held-out", "train"], split: str = "held-out") -> Parser:
    """The options that all verbs have that begin with data. splits, split: what --split can be, and what it is if nothing is
    said."""
    built = drawing_parser(verb, description)
    built.add_argument("--n", type=int, default=8, help="how many items")
    built.add_argument("--items", type=str | None, default=None, help="which ones: their numbers in the data, with commas")
    built.add_argument("--split", type=splits, default=split, help="where items come from")
    return built


def drawing_parser(verb: str, description: str) -> Parser:
    """The options that all of these verbs have."""
    built = Parser(f"pushforward {verb} RUN", description)
    built.add_argument("--out", type=str | None, default=None, help=f"a .png or .gif (default: RUN/{verb}.png)")
    built.add_argument("--seed", type=int, default=0, help="of the choice of items, and of all that is drawn")
    built.add_argument("--device", type=str, default="cpu", help="where the model runs")
    return built


def add_inversion(built: Parser) -> None:
    """The option of verbs that need codes of data."""
    built.add_argument(
        "--inversion_steps", type=int, default=200, help="descent on the codes of data, where the model does not encode"
    )


def add_space(built: Parser) -> None:
    """The option of verbs that move codes in whatever space a model has."""
    built.add_argument(
        "--space", type=str, default="z", help="of the codes: z, of a StyleGAN also w and w+ (a style for each layer)"
    )


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
    if given.get("inversion_steps", 1) < 1:
        raise UserError(f"--inversion-steps {given['inversion_steps']} was given; it must be at least 1.")
    from pushforward.training.records import read_record

    read_record(Path(words[0]))
    from pushforward.training.opening import load

    return given, load(words[0], device=given["device"])


def conditions_asked(spec: Any, words: str | None, n: int) -> list[str] | None:
    """One for each of n of what --condition names: a class, or several with commas; a caption, or several with ;"""
    if words is None:
        return None
    captioned = spec.condition is not None and spec.condition.kind == "text"
    several = [word.strip() for word in words.split(";")] if captioned else words.split(",")
    return several * (n // len(several)) + several[: n % len(several)]


@dataclass
class Recoded:
    """A split of data whose categories or tokens have other numbers there than in the run: by the run's numbers."""

    split: Any
    theirs: Any
    own: Any

    def __len__(self) -> int:
        return len(self.split)

    def fetch(self, indices: Any) -> tuple[Any, Any]:
        codes, condition = self.split.fetch(indices)
        return self.own.parse(self.theirs.present(codes)), condition


def data_of(run: Any, source: str | None, **options: Any) -> Any:
    """The data to begin with: those of the run, or others of the same kind, in the run's codes. options: label or attributes,
    where the data are to come with others than the run's.

    Raises UserError that says what differs for data of another kind or shape.
    """
    if source is None and not options:
        return run.load_data()
    from pushforward.training.opening import open_data

    known = {**run.record["data"]["source"], **({"source": source} if source else {})}
    if str(known.get("source", "<")).startswith("<"):
        run.load_data()  # which says that these data were in memory
    names = [column.name for column in run.spec.columns]
    by_name = run.spec.kind == "table" and not any("," in name for name in names)
    columns = {"columns": ",".join(names)} if by_name else {}  # whatever others the file has, the label among them
    try:
        data = open_data(**{**known, **columns, **options})
    except UserError:
        if options:
            raise
        data = _opened_otherwise(run, known, columns)
    if by_name and options and {column.name for column in data.spec.columns} < set(names):
        whole = open_data(**{**known, **columns})  # the label is one of the columns that the run learned: the data keep it
        parts = [part for part in ("train", "validation", "test") if getattr(whole, part) is not None]
        labelled = {part: _with_condition(getattr(whole, part), getattr(data, part)) for part in parts}
        data = whole.replace(spec=_conditioned(whole.spec, data.spec.condition), **labelled)
    return _fitted(run, data)


def _opened_otherwise(run: Any, known: dict[str, Any], columns: dict[str, Any]) -> Any:
    """Data that have no column of the run's label, without it; where that is not why, a sentence."""
    from pushforward.training.opening import open_data

    labelled = known.get("label") not in (None, "none") or known.get("attributes")
    without = {**known, "attributes": None} | ({"label": "none"} if labelled else {})
    data = open_data(**without)
    return open_data(**without, **columns) if data.spec.kind == run.spec.kind else data


def _conditioned(spec: Any, condition: Any) -> Any:
    from dataclasses import replace

    return replace(spec, condition=condition)


def _with_condition(split: Any, labelled: Any) -> Any:
    """The same rows, in memory, with the conditions that they have in `labelled`."""
    from dataclasses import replace

    if len(split) != len(labelled):
        raise UserError(f"{len(labelled)} of {len(split)} data have that label; fill the others in, or leave them out.")
    return replace(split, condition=labelled.condition)


def _fitted(run: Any, data: Any) -> Any:
    """Data that the run knows, by the run's numbers of categories and tokens; a sentence about others."""
    own, theirs = run.spec, data.spec
    by_value = own.kind == theirs.kind and (own.kind == "table" or (own.kind == "tokens" and own.vocabulary))
    if by_value and (own.columns, own.vocabulary) != (theirs.columns, theirs.vocabulary):
        ours, others = ([(c.name, c.kind, c.categories) for c in spec.columns] for spec in (own, theirs))
        lacking = [column.name for column in own.columns if column.name not in {other.name for other in theirs.columns}]
        if lacking:
            raise UserError(f"'{theirs.name}' lacks the column(s) {', '.join(lacking[:5])} that the run learned.")
        if own.kind == "tokens" and own.shape != theirs.shape:
            raise UserError(f"'{theirs.name}' comes in {theirs.shape[0]} tokens each; the run learned {own.shape[0]}.")
        if ours != others or own.vocabulary != theirs.vocabulary:
            splits = {part: getattr(data, part) for part in ("train", "validation", "test")}
            recoded = {part: split and Recoded(split, data.units, run.units) for part, split in splits.items()}
            return data.replace(spec=_conditioned(own, theirs.condition), **recoded)
        return data
    if (own.kind, own.shape, own.levels) == (theirs.kind, theirs.shape, theirs.levels):
        return data
    raise UserError(f"'{theirs.name}' holds {_words(theirs)}; the run learned {_words(own)}. Give data of that kind and shape.")


def _words(spec: Any) -> str:
    """What one datum is."""
    if spec.kind == "image":
        channels, height, width = spec.shape
        return f"images of {height} x {width} pixels with {channels} channel(s) of {spec.levels} levels"
    return f"data of kind {spec.kind} and shape {tuple(spec.shape)}"


def chosen_split(data: Any, given: dict[str, Any]) -> Any:
    """The split that --split names."""
    return data.train if given["split"] == "train" else data.held_out or data.train


def named(data: Any, given: dict[str, Any]) -> list[int]:
    """The numbers that --items names, none where it was not given."""
    if not given["items"]:
        return []
    try:
        numbers = [int(word) for word in given["items"].split(",")]
    except ValueError:
        raise UserError(f"--items {given['items']} was given; expected numbers with commas, such as 0,5,12.") from None
    size = len(chosen_split(data, given))
    wrong = [number for number in numbers if not 0 <= number < size]
    if wrong:
        raise UserError(f"item {wrong[0]} was asked for; the {given['split']} data have 0 to {size - 1}.")
    return numbers


def items(data: Any, given: dict[str, Any], n: int | None = None) -> tuple[Any, Any, list[int]]:
    """Codes, conditions and numbers of the data that were asked for: the first n of --items (all of them where n is None), or
    n (None: --n) by chance, each once, so that fewer data than that give fewer."""
    import torch

    split = chosen_split(data, given)
    numbers = named(data, given)[:n] or some_of(len(split), n or given["n"], given["seed"])
    codes, condition = split.fetch(torch.tensor(numbers))
    return codes, condition, numbers


def some_of(size: int, n: int, seed: int) -> list[int]:
    """n different numbers below `size` by chance, all of them where there are fewer (beyond ten million it is chance that sees
    to it that they differ)."""
    import torch

    from pushforward.randomness import mix

    generator = torch.Generator().manual_seed(mix(seed, 0x17E5))
    if size > 10_000_000:
        return torch.randint(min(size, 2**31), (n,), generator=generator).tolist()
    order = torch.randperm(size, generator=generator)
    return order[:n].tolist()


def command(run: str | Path, made: dict[str, Any], out: str | Path) -> list[str]:
    """The words after `pushforward VERB` that make the picture of a recipe again."""
    given = {key: value for key, value in made["arguments"].items() if value not in (None, False, "")}
    options = [f"--{key.replace('_', '-')}={str(value).lower() if value is True else value}" for key, value in given.items()]
    return [str(run), *options, f"--out={out}"]


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
