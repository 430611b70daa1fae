"""Ctrl-C and SIGTERM from the command line: saved, reported, and said by the exit status; one process a run directory."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from pushforward.cli import main
from pushforward.training.checkpoints import STATE, WEIGHTS, read_tensors

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PUSHFORWARD_TYPECHECK": "0"}
COMMON = ["--tensorboard", "false", "--picture-every", "0", "--precision", "fp32", "--batch-size", "16", "--log-every", "1"]
WORDS = ["train", "flow-matching", "--steps", "1000000", "--model.width", "16", *COMMON]


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_with_everything_saved(number, status, tmp_path, capsys, monkeypatch):
    """And while it trains, nobody else trains there."""
    monkeypatch.chdir(tmp_path)
    evaluate = ["--evaluate", "false"] if number == signal.SIGINT else []  # after SIGTERM nothing is measured
    process = subprocess.Popen(
        [sys.executable, "-m", "pushforward", *WORDS, *evaluate, "--out", "run"],
        cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    history, deadline = tmp_path / "run" / "history.jsonl", time.monotonic() + 60
    while not history.exists() or len(history.read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < deadline, "it did not begin to train"
        time.sleep(0.05)
    for words in ([*WORDS, "--out", "run"], ["train", "--resume", "--out", "run"]):
        assert main(words) == 2
        assert f"process {process.pid} on {os.uname().nodename} is training in run" in capsys.readouterr().err
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err[-2000:]
    assert "interrupted: " in out and "go on with: pushforward train --resume --out run" in out and "Traceback" not in err
    assert not (tmp_path / "run" / "metrics.json").exists()
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    steps = record["result"]["steps"]
    assert record["result"]["status"] == "interrupted" and record["result"]["signal"] == number
    assert read_tensors(tmp_path / "run" / STATE)[1]["step"] == steps and (tmp_path / "run" / WEIGHTS).exists()
    assert main(["train", "--resume", "--out", "run", "--steps", str(steps + 2), "--evaluate", "false"]) == 0
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["result"]["steps"] == steps + 2


def test_two_processes_share_one_lock_and_one_refusal(tmp_path):
    """Under torchrun the first process holds the lock for both, and both are told when the directory is taken."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pushforward"]
    words += ["train", "flow-matching", "--steps", "3", "--model.width", "16", "--evaluate", "false", *COMMON]
    for command in (words, [*words, "--out", "runs/flow-matching-digits"]):
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        if command is words:
            assert done.returncode == 0, done.stderr[-2000:]
            assert [path.name for path in (tmp_path / "runs").iterdir()] == ["flow-matching-digits"]
    assert done.returncode != 0 and "holds a run already" in done.stderr
