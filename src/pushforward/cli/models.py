"""`pushforward models`: the zoo in words; `pushforward models NAME`: one model's options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

from pushforward import building, zoo
from pushforward.cli.parsing import Parser, peel

WIDE = 130  # characters of a terminal that has room for every column

DESCRIPTION = """Lists every model: name, family, what it can do, one line, paper. With a name: its options with defaults and
explanations, and how to sample it."""


def run(argv: Sequence[str]) -> None:
    words, rest = peel(argv)
    Parser("pushforward models [NAME]", DESCRIPTION).understand(rest)
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140)
    console.print(describe(words[0]) if words else table(console.width))


def table(width: int = 140) -> Any:
    """All models, for a terminal of `width` characters; where columns would be too narrow to read, they stand in one."""
    from rich.table import Table

    from pushforward.models.contract import capabilities

    out = Table(title="models", show_lines=True)
    out.add_column("name", style="bold", no_wrap=True)
    for heading in ("family", "learns", "can", "what", "paper") if width >= WIDE else ("what",):
        out.add_column(heading)
    for name, line in zoo.ZOO.items():
        can = capabilities(line.load())
        if width >= WIDE:
            out.add_row(name, line.family, " ".join(line.kinds), " ".join(can), line.summary, line.paper)
        else:
            said = f"[dim]{line.family}; learns {', '.join(line.kinds)}; can: {', '.join(can)}[/dim]"
            out.add_row(name, f"{line.summary}\n{said}\n[dim]{line.paper}[/dim]")
    return out


def describe(name: str) -> Any:
    """One model: what it is, its options, and those of its samples."""
    from docstring_parser import parse
    from rich.console import Group
    from rich.text import Text

    from pushforward.models.contract import capabilities

    line = building.method(name)
    built = line.load()
    words = Text()
    words.append(f"{name}", style="bold")
    words.append(f"  ({line.family}: {line.paper})\n{line.summary}.\n")
    words.append(f"learns: {', '.join(line.kinds)}   can: {', '.join(capabilities(built))}\n")
    trains = ", ".join(f"{key} {value}" for key, value in line.training.items())
    words.append(f"trains by default: {trains}\n")
    said = {parameter.arg_name: parameter.description for parameter in parse(built.__doc__ or "").params}
    options = _options_table(f"pushforward train {name} --model.OPTION")
    for key, parameter in building.options(name).items():
        options.add_row(key.replace("_", "-"), str(parameter.default), " ".join((said.get(key) or "").split()))
    parts: list[Any] = [words, options]
    sample = getattr(built, "sample", None)
    if sample is not None:
        said = {parameter.arg_name: parameter.description for parameter in parse(sample.__doc__ or "").params}
        sampling = _options_table("pushforward sample RUN --OPTION")
        for key, parameter in inspect.signature(sample).parameters.items():
            if key not in ("self", "n", "condition", "generator"):
                sampling.add_row(key.replace("_", "-"), str(parameter.default), " ".join((said.get(key) or "").split()))
        if sampling.row_count:
            parts.append(sampling)
    return Group(*parts)


def _options_table(title: str) -> Any:
    """An empty table of options: their names are never cut, explanations wrap."""
    from rich.table import Table

    out = Table(title=title, title_justify="left")
    out.add_column("option", no_wrap=True)
    out.add_column("default", max_width=24, overflow="fold")
    out.add_column("what")
    return out
