"""Errors that a person can act on: one sentence with what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked for. The command line prints its sentence and exits with status 2."""


def nearest(given: str, valid: Iterable[str], n: int = 3) -> str:
    """The names in `valid` that look most like `given`, ready to end a sentence.

    >>> nearest("flowmatching", ["vae", "flow-matching", "gan"])
    'did you mean flow-matching?'
    >>> nearest("flow", ["glo", "flow-matching"])
    'did you mean flow-matching?'
    >>> nearest("xyz", ["vae", "gan"])
    'valid: gan, vae'
    """
    names = sorted(set(valid))
    begun = [name for name in names if len(given) > 2 and name.lower().startswith(given.lower())]
    close = begun[:n] or difflib.get_close_matches(given, names, n=n, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"valid: {', '.join(names)}"


def checked_temperature(temperature: float, zero: bool = False) -> float:
    """A temperature as it was given: finite and above 0, or with `zero` (where it is a standard deviation) at least 0.

    Raises UserError for any other, not a number among them.
    """
    if not math.isfinite(temperature) or temperature < 0 or (temperature == 0 and not zero):
        least, most = ("at least 0", "0 gives the mode") if zero else ("above 0", "0.01 gives nearly the likeliest")
        raise UserError(f"temperature = {temperature} was given; it is finite and {least} (1: as learned; {most}).")
    return temperature
