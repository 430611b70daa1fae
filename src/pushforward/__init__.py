"""Pushforward: learn a distribution from data, with every family of deep generative models behind one vocabulary.

>>> import pushforward as pf
>>> data = pf.load_data("digits")
>>> data.spec.shape
(1, 8, 8)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pushforward._version import VERSION as __version__

_HOMES = {
    "load_data": "data.loading",
    "create": "building",
    "train": "training.train",
    "load": "training.opening",
    "Run": "training.runs",
    "evaluate": "evaluation.evaluate",
    "compare": "comparison.compare",
    "check_model": "models.checking",
    "codes_of": "training.codes",
    "UserError": "errors",
}

if TYPE_CHECKING:
    from pushforward.building import create
    from pushforward.comparison.compare import compare
    from pushforward.data.loading import load_data
    from pushforward.errors import UserError
    from pushforward.evaluation.evaluate import evaluate
    from pushforward.models.checking import check_model
    from pushforward.training.codes import codes_of
    from pushforward.training.opening import load
    from pushforward.training.runs import Run
    from pushforward.training.train import train

__all__ = [
    "Run",
    "UserError",
    "__version__",
    "check_model",
    "codes_of",
    "compare",
    "create",
    "evaluate",
    "load",
    "load_data",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for, so that `--help` does not import torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"pushforward.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pushforward' has no attribute '{name}'")
