"""`pushforward models`: the zoo in words; `pushforward models NAME`: one model's options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

from pushforward import zoo
from pushforward.cli.parsing import Parser, peel

DESCRIPTION = """Lists every model: name, family, what it can do, one line, paper. With a name: its options with defaults and
explanations, and how to sample it."""


def run(argv: Sequence[str]) -> None:
    words, rest = peel(argv)
    Parser("pushforward models [NAME]", DESCRIPTION).understand(rest)
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140)
    if words:
        console.print(describe(words[0]))
    else:
        console.print(table())


def table() -> Any:
    """All models."""
    from rich.table import Table

    from pushforward.models.contract import capabilities

    out = Table("name", "family", "learns", "can", "what", "paper", title="models", show_lines=True)
    for name, line in zoo.ZOO.items():
        can = " ".join(capabilities(line.load()))
        out.add_row(f"[bold]{name}", line.family, " ".join(line.kinds), can, line.summary, line.paper)
    return out


def describe(name: str) -> Any:
    """One model: what it is, its options, and those of its samples."""
    from docstring_parser import parse
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from pushforward.models.contract import capabilities

    line = zoo.method(name)
    built = line.load()
    words = Text()
    words.append(f"{name}", style="bold")
    words.append(f"  ({line.family}: {line.paper})\n{line.summary}.\n")
    words.append(f"learns: {', '.join(line.kinds)}   can: {', '.join(capabilities(built))}\n")
    trains = ", ".join(f"{key} {value}" for key, value in line.training.items())
    words.append(f"trains by default: {trains}\n")
    said = {parameter.arg_name: parameter.description for parameter in parse(built.__doc__ or "").params}
    options = Table("option", "default", "what", title=f"pushforward train {name} --model.OPTION", title_justify="left")
    for key, parameter in zoo.options(name).items():
        options.add_row(key.replace("_", "-"), str(parameter.default), " ".join((said.get(key) or "").split()))
    parts: list[Any] = [words, options]
    sample = getattr(built, "sample", None)
    if sample is not None:
        said = {parameter.arg_name: parameter.description for parameter in parse(sample.__doc__ or "").params}
        sampling = Table("option", "default", "what", title="pushforward sample RUN --OPTION", title_justify="left")
        for key, parameter in inspect.signature(sample).parameters.items():
            if key not in ("self", "n", "condition", "generator"):
                sampling.add_row(key.replace("_", "-"), str(parameter.default), " ".join((said.get(key) or "").split()))
        if sampling.row_count:
            parts.append(sampling)
    return Group(*parts)
