"""The command line: one verb a file. A verb's options are read from the signature that it calls."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from pushforward.errors import UserError, nearest

VERBS = {
    "train": "learn a distribution from data, sample it, measure it, report",
    "sample": "draw samples from a run, in the data's own units",
    "evaluate": "fidelity, diversity, likelihood, memory and cost of a run, beside their floors",
    "compare": "several models under one budget: one table, one page",
    "interpolate": "what lies between two data, in the model's codes",
    "traverse": "one unit of the code at a time: what it stands for",
    "edit": "add an attribute to data, or take it away",
    "mix": "coarse styles of some images, fine styles of others (StyleGAN)",
    "translate": "images of one domain as images of another",
    "complete": "a text continued as it is drawn; the missing half of images",
    "restore": "what an operator took from images, put back by any diffusion run",
    "trajectory": "how noise becomes data: on the way, expected at fixed t, by solver and steps, as a field",
    "reconstruct": "data beside what their codes give back",
    "outliers": "the data that a model finds strangest",
    "models": "what there is, in words: family, what it can do, source; one model's options",
    "data": "what a data set holds: spec, counts, ranges, balance, suspected problems, a preview",
}


def usage() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: pushforward VERB ...", "", "Learn a distribution from data. Try: pushforward train flow-matching", ""]
    lines += [f"  {verb:<{width}}  {what}" for verb, what in VERBS.items()]
    return "\n".join([*lines, "", "`pushforward VERB --help` explains each."])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. 0: done; 1: a model failed its check; 2: something asked for cannot be done, and one sentence says why;
    128 + a signal's number: ended by it, Ctrl-C (130) or SIGTERM (143), everything saved."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb, *rest = arguments
    try:
        if verb in ("--version", "-V"):
            from pushforward._version import VERSION

            print(VERSION)
            return 0
        if verb not in VERBS:
            raise UserError(f"there is no verb '{verb}'; {nearest(verb, VERBS)}")
        return importlib.import_module(f"pushforward.cli.{verb}").run(rest) or 0
    except UserError as error:
        if debug:
            raise
        print(f"pushforward: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, BrokenPipeError):
        if debug:
            raise
        return 130
