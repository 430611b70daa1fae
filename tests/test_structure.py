"""How the package is laid out: what no reader should have to find out."""

import ast
import graphlib
from pathlib import Path

import pushforward

ROOT = Path(pushforward.__file__).parent


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    parts = {path: ("pushforward", *path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py")}
    return {".".join(names[:-1] if names[-1] == "__init__" else names): path for path, names in parts.items()}


def imported(source: str, known: set[str]) -> set[str]:
    """The modules among `known` that a module imports anywhere: in functions and for annotations only, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "relative imports are not followed"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & known) | ({node.module} if whole - known else set())
    return found & known


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_two_modules_import_each_other():
    """An import inside a function or under TYPE_CHECKING hides a circle from Python, not from who must understand it."""
    paths = modules()
    assert len(paths) > 100
    graph = {name: imported(path.read_text(), set(paths)) - {name} for name, path in paths.items()}
    assert graph["pushforward.training.opening"] >= {"pushforward.training.runs", "pushforward.zoo"}
    assert circle(graph) == []


def test_a_hidden_circle_is_found():
    known = {"p.a", "p.b", "p"}
    a = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import B"
    b = "def f():\n    from p import a"
    assert circle({"p.a": imported(a, known), "p.b": imported(b, known)})
    assert not circle({"p.a": imported(a, known), "p.b": imported("import p", known)})
