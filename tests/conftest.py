"""Checks every shape annotation and type of the library while the tests run; keeps caches and random states apart."""

import os

import pytest
from jaxtyping import install_import_hook

# Where the mathematics is; elsewhere wrong types are what the errors are for.
if os.environ.get("PUSHFORWARD_TYPECHECK", "1") == "1":
    rooms = ("models", "bijections", "nets", "dynamics", "distributions", "editing", "measures", "evaluation")
    install_import_hook([f"pushforward.{room}" for room in rooms], "typechecking.checked")


@pytest.fixture(autouse=True)
def _apart(tmp_path_factory, monkeypatch):
    import torch

    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
