"""Several values of one sampling option: a row of samples for each, of the same random numbers, and what they trade."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushforward.cli.parsing import Parser, underscored, with_minuses
from pushforward.errors import UserError

ACROSS = 16  # images in a row, at most


@dataclass
class Several:
    """The option's name, and for each of its values the whole command line with that one alone."""

    name: str
    words: list[list[str]]


def several(built: Parser, argv: Sequence[str], options: Sequence[str]) -> Several | None:
    """Which of the model's own options, if one, was given several numbers with commas. Raises UserError for two of them."""
    types = {option: getattr(action, "_typehint", None) for action in built._actions for option in action.option_strings}
    words, found = with_minuses(underscored(argv)), list[tuple[int, int, str, list[str]]]()
    for i, word in enumerate(words):
        option, sign, value = word.partition("=")
        if option.removeprefix("--") not in options or {int, float}.isdisjoint(_kinds(types.get(option))):
            continue
        after = i + 1 if sign else i + 2
        value = value if sign else "".join(words[i + 1 : after])
        if "," in value and not value.startswith(("[", "--")):
            found.append((i, after, option, value.split(",")))
    if len(found) > 1:
        names = " and ".join(option.replace("_", "-") for _, _, option, _ in found)
        raise UserError(f"{names} were given several values each; give several of one, and one of the other.")
    if not found:
        return None
    i, after, option, values = found[0]
    return Several(option.removeprefix("--"), [[*words[:i], f"{option}={value}", *words[after:]] for value in values])


def _kinds(hint: Any) -> tuple[Any, ...]:
    """float of float, float and None of float | None."""
    return typing.get_args(hint) or (hint,)


@dataclass
class Sweep:
    """What is drawn: n samples at each value of the option `name`, of one seed. options: the others."""

    name: str
    values: list[float]
    n: int
    seed: int
    condition: Any
    options: dict[str, Any]
    batch_size: int | None = None

    def labels(self) -> list[str]:
        return [f"{self.name.replace('_', ' ')} {value:g}" for value in self.values]


def write_sweep(loaded: Any, path: str | Path, sweep: Sweep, first: Any = None) -> Path:
    """One picture: of images a row for each value, of other kinds of data a plot each. first: the run that decodes."""
    import torch

    from pushforward.artefacts import write_picture
    from pushforward.data.conditions import parse_condition
    from pushforward.pictures.draw import draw_samples, draw_strips
    from pushforward.pictures.grids import captioned, joined
    from pushforward.training.gallery import decoded_samples, sample_recipe

    if Path(path).suffix != ".png":
        raise UserError(f"--out {path} was given; several values of --{sweep.name.replace('_', '-')} are drawn as one .png.")
    spec = (first or loaded).spec
    n = min(sweep.n, ACROSS) if spec.kind == "image" else sweep.n
    condition = None if sweep.condition is None else sweep.condition[:n]
    wanted, drawn = parse_condition(loaded.spec, condition, n), []
    for value in sweep.values:
        options = {**sweep.options, sweep.name: value}
        codes = loaded.sample_codes(n, condition=condition, seed=sweep.seed, batch_size=sweep.batch_size, **options)
        drawn.append(decoded_samples(loaded, first, codes, wanted) if first else codes)
    if spec.kind == "image":
        picture = draw_strips(spec, torch.stack(drawn), row_labels=sweep.labels())
    else:
        parts = [draw_samples(spec, codes, condition=wanted) for codes in drawn]
        picture = joined([captioned(part, label) for part, label in zip(parts, sweep.labels(), strict=True)])
    recipe = sample_recipe(loaded, n, sweep.seed, wanted, sweep.options) | {"sweep": {sweep.name: sweep.values}}
    return write_picture(picture, path, recipe | ({"decode": True} if first else {}))


def traded(loaded: Any, sweep: Sweep) -> list[str]:
    """A line for each value: precision and recall against held-out data with their 95 % intervals, then those of real data in
    the samples' place; where they cannot be measured, a line that says why."""
    from pushforward.evaluation.case import Case
    from pushforward.measures.fidelity import neighbourhood_intervals
    from pushforward.progress import PATIENCE, Stages

    if loaded.spec.kind == "tokens":
        return ["precision and recall are of numbers, and these samples are texts: they are not measured."]
    lines, case = list[str](), None
    with Stages(doing="measuring", patience=PATIENCE) as say:
        try:
            for value, label in zip(sweep.values, sweep.labels(), strict=True):
                options = {**sweep.options, sweep.name: value}
                case = Case(loaded, loaded.load_data(), seed=sweep.seed, say=say, **options)
                samples, floor, real = case.features
                say(f"comparing samples at {label} with data")
                lines.append(f"{label}: {_words(neighbourhood_intervals(real, samples, sweep.seed))}")
            assert case is not None
            lines.append(f"training data in the samples' place: {_words(neighbourhood_intervals(real, floor, sweep.seed))}")
        except UserError as error:
            return [*lines, f"precision and recall cannot be measured: {error}"]
    return [*lines, f"({len(samples)} samples of all that was held out, {case.protocol['reference']}, {case.space.name})"]


def _words(found: dict[str, tuple[float, float, float]]) -> str:
    figures = {name: found[name] for name in ("precision", "recall")}
    return ", ".join(f"{name} {value:.2f} ({low:.2f} to {high:.2f})" for name, (value, low, high) in figures.items())
