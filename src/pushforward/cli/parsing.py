"""Options from signatures: a thin layer over jsonargparse with hyphens, helpful errors and torch-free help."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from pushforward.errors import UserError, nearest


def underscored(argv: Sequence[str]) -> list[str]:
    """`--batch-size=8` and `--batch_size=8` are one option; values are left alone.

    >>> underscored(["--batch-size=a-b", "--model.latent-dim", "3-4"])
    ['--batch_size=a-b', '--model.latent_dim', '3-4']
    """
    return [re.sub(r"^--[^=]*", lambda m: "--" + m.group()[2:].replace("-", "_"), word) for word in argv]


def with_minuses(words: Sequence[str]) -> list[str]:
    """A number with a minus is the value of the option before it, not an option of its own.

    >>> with_minuses(["--strengths", "-1,2", "--n", "3"])
    ['--strengths=-1,2', '--n', '3']
    """
    out: list[str] = []
    for word in words:
        if re.match(r"-\.?\d", word) and out and out[-1].startswith("--") and "=" not in out[-1]:
            out[-1] += f"={word}"
        else:
            out.append(word)
    return out


class Parser(ArgumentParser):
    """A parser whose mistakes are UserErrors that name the nearest options."""

    def __init__(self, prog: str, description: str):
        super().__init__(prog=prog, description=description, exit_on_error=False, default_env=False)

    def format_help(self, formatter: Any = None) -> str:
        text = re.sub(r"(--[\w.]+)", lambda m: m.group().replace("_", "-"), super().format_help(formatter))
        text = re.sub(r"\s*\(type:[^()]*?default:\s+null\)", "", text)
        return re.sub(r"\(type:[^()]*?default:\s+", "(default: ", text)

    def understand(self, argv: Sequence[str], elsewhere: Callable[[], Iterable[str]] = tuple) -> Namespace:
        """Parses; a mistake is a UserError. A yes/no option alone means yes: `--resume` is `--resume=true`.

        elsewhere: further options that may have been meant, asked for only where one is unknown.
        """
        words = with_minuses(underscored(argv))
        actions = {option: action for action in self._actions for option in action.option_strings}
        for i, word in enumerate(words):
            option = word.split("=")[0]
            if option.startswith("--") and option not in actions:
                asked = option.replace("_", "-")
                near = get_close_matches(asked, [known.replace("_", "-") for known in actions], n=1, cutoff=0.8)
                further = () if near else elsewhere()  # these may have to import the model
                shown = [known.replace("_", "-") for known in (*actions, *further) if known.startswith("--")]
                same = [known for known in shown if known.split(".")[-1] == asked.removeprefix("--")]
                hint = f"did you mean {' or '.join(same)}?" if same else nearest(asked, shown)
                raise UserError(f"there is no option {asked}; {hint}")
            alone = i + 1 == len(words) or words[i + 1].startswith("--")
            if word in actions and alone and getattr(actions[word], "_typehint", None) is bool:
                words[i] = f"{word}=true"
        try:
            return self.parse_args(words)
        except ArgumentError as error:
            raise UserError(_sentence(str(error))) from error


def _sentence(message: str) -> str:
    """jsonargparse's explanation on one line."""
    text = " ".join(message.split())
    text = re.sub(r"^Parser key \"([^\"]+)\":", lambda m: f"option --{m.group(1).replace('_', '-')}:", text)
    text = re.sub(r"a typing\.Literal\[([^\]]*)\]", lambda m: " or ".join(re.findall(r"'([^']*)'", m.group(1))), text)
    return text if len(text) < 400 else text[:400] + " ..."


def in_the_shell(sentence: str, options: Mapping[str, str]) -> str:
    """A sentence that names settings as Python does, with the options of the command line for them.

    >>> in_the_shell("size = 3 was given; take label=none", {"size": "--size", "label": "--label"})
    '--size 3 was given; take --label none'
    """
    names = "|".join(map(re.escape, options))
    return re.sub(rf"(?<![\w.-])({names}) ?= ?(?=[^\s=])", lambda m: f"{options[m[1]]} ", sentence) if names else sentence


@contextmanager
def speaking_shell(options: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """A UserError within names these options (asked for when there is one) as the shell does."""
    try:
        yield
    except UserError as error:
        raise UserError(in_the_shell(str(error), options())) from error


def peel(argv: Sequence[str], many: bool = False) -> tuple[list[str], list[str]]:
    """Words before the first option, and the rest: `train vae --steps 5` -> ["vae"], ["--steps", "5"]."""
    words = list(argv)
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if not many and count > 1:
        raise UserError(f"one name was expected, {' '.join(words[:count])!r} was given; options begin with --.")
    return words[:count], words[count:]


def plain(namespace: Any) -> dict[str, Any]:
    """The values of a namespace as a plain dictionary."""
    return namespace.as_dict() if isinstance(namespace, Namespace) else dict(namespace)
