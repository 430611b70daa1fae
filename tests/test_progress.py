"""Slow things say what they do: at once on a terminal, in a line a stage in a log, and quick ones not at all."""

import importlib
import sys

from pushforward import progress
from pushforward.progress import Stages, along, import_torch


def test_the_import_of_torch_is_announced_once(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch", raising=False)
        patch.setattr(importlib, "import_module", lambda name: print(f"imports {name}", file=sys.stderr))
        import_torch()
        assert capsys.readouterr().err == "loading PyTorch ...\nimports torch\n"
        patch.setitem(sys.modules, "torch", sys)
        import_torch()
    assert capsys.readouterr().err == ""


def test_a_log_has_a_line_for_each_stage_before_it_begins(capsys):
    """No stage stands there while another one runs, and how far a stage is makes no lines of its own."""
    with Stages(doing="evaluating") as say:
        say("sampling")
        assert capsys.readouterr().err == "evaluating: sampling ...\n"
        say("likelihood")
        assert capsys.readouterr().err == "evaluating: likelihood ...\n"
        say("likelihood", 0.5)
        say("likelihood", 0.6)
        assert capsys.readouterr().err == ""
        say("sampling")
        assert capsys.readouterr().err == "evaluating: sampling ...\n"
    with Stages(shown=False, doing="evaluating") as say:
        say("likelihood")
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_the_stage_at_once(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with Stages(doing="evaluating") as say:
        say("sampling")
        first = capsys.readouterr().err
        say("fitting", 0.43)
    assert "evaluating: sampling" in first and "0:00:00" in first
    assert "fitting, 43%" in capsys.readouterr().err


def test_a_loop_speaks_only_once_it_has_taken_long(monkeypatch, capsys):
    assert list(along(range(4), "counting")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(along("abc", "spelling")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "spelling ...\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert list(along("abcd", "spelling")) == ["a", "b", "c", "d"]
    assert "spelling, 75%" in capsys.readouterr().err


def test_a_loop_that_is_left_early_leaves_no_line_behind(monkeypatch):
    """An exception inside, or a break, ends the live line: the next loop can show its own."""
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    stopped = []
    monkeypatch.setattr("rich.progress.Progress.stop", lambda self: stopped.append(self))
    for _ in along(range(5), "counting"):
        break
    assert len(stopped) == 1
