"""Every name that a function looks up exists: what linters cannot say beside jaxtyping's shapes, which look like names."""

import builtins
import dis
import importlib
from pathlib import Path
from types import CodeType

import pytest

import pushforward

ROOT = Path(pushforward.__file__).parent


def looked_up(code: CodeType) -> set[str]:
    found = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(looked_up(each) for each in code.co_consts if isinstance(each, CodeType)))


def defined(code: CodeType) -> set[str]:
    """Names bound in a class's body, which it may look up again."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}
    return found.union(*(defined(each) for each in code.co_consts if isinstance(each, CodeType)))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_names_exist(path):
    name = ".".join(("pushforward", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    if name.endswith("__main__"):
        pytest.skip("runs")
    code = compile(path.read_text(), str(path), "exec")
    known = {*vars(importlib.import_module(name)), *vars(builtins), *defined(code), "__annotations__"}
    assert looked_up(code) <= known, looked_up(code) - known
