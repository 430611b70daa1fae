"""Checks every shape annotation and type of the library while the tests run; keeps caches and random states apart."""

import os

# Before torch is imported, here and in the processes that tests start: workers side by side share the cores.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Where the mathematics is; elsewhere wrong types are what the errors are for.
if os.environ.get("PUSHFORWARD_TYPECHECK", "1") == "1":
    rooms = ("models", "nets", "dynamics", "distributions", "editing", "measures", "evaluation")
    install_import_hook([f"pushforward.{room}" for room in rooms], "typechecking.checked")


@pytest.fixture(autouse=True)
def _apart(tmp_path_factory, monkeypatch):
    import torch

    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
