"""Whatever is asked for wrongly ends with exit status 2 and one sentence that says what to do; nothing is trained."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pushforward.cli import main
from pushforward.training.checkpoints import read_tensors, write_tensors


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that can be wrong in it, and one small good run."""
    root = tmp_path_factory.mktemp("bad")
    (root / "empty").mkdir()
    (root / "one").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "one" / "a.png")
    (root / "letters").mkdir()
    (root / "letters" / "a.pdf").write_bytes(b"%PDF")
    (root / "nan.npy").parent.mkdir(exist_ok=True)
    values = np.random.default_rng(0).normal(size=(50, 3))
    np.save(root / "points.npy", values)
    values[7, 1] = np.nan
    np.save(root / "nan.npy", values)
    (root / "table.csv").write_text("a,b,kind\n" + "\n".join(f"{i % 7},{i % 5},{'xy'[i % 2]}" for i in range(60)))
    (root / "gone.csv").write_text("a,b\n" + "\n".join(f"{i}," for i in range(60)))
    (root / "text.txt").write_text("to be or not to be " * 40)
    (root / "notes.md").write_text("hello")
    (root / "recipe.yaml").write_text("name: gaussian\nstps: 5\n")
    (root / "list.yaml").write_text("- a\n- b\n")
    old = Path.cwd()
    os.chdir(root)
    try:
        assert main(["train", "gaussian", "--data", "digits", "--out", "good", "--evaluate", "false"]) == 0
        assert main(["train", "gmm", "--data", "digits", "--out", "other", "--evaluate", "false", "--steps", "1"]) == 0
        words = ["train", "linear-autoencoder", "--data", "digits", "--out", "spoilt", "--evaluate", "false", "--steps", "1"]
        assert main(words) == 0
    finally:
        os.chdir(old)
    path = root / "spoilt" / "model.safetensors"
    tensors, header = read_tensors(path)
    write_tensors(path, {name: value * float("nan") for name, value in tensors.items()}, header)
    record = yaml.safe_load((root / "good" / "run.yaml").read_text())
    for name, change in {
        "half": lambda r: r.pop("model"),
        "future": lambda r: r.update(format=99, version="9.9"),
        "cut": lambda r: None,
        "swapped": lambda r: None,
        "unsaved": lambda r: None,
        "nospec": lambda r: r["data"].update(spec={}),
    }.items():
        (root / name).mkdir()
        changed = yaml.safe_load(yaml.safe_dump(record))
        change(changed)
        (root / name / "run.yaml").write_text(yaml.safe_dump(changed))
    weights = (root / "good" / "model.safetensors").read_bytes()
    (root / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (root / "swapped" / "model.safetensors").write_bytes((root / "other" / "model.safetensors").read_bytes())
    (root / "future" / "model.safetensors").write_bytes(weights)
    (root / "locked").mkdir()
    return root


CASES = [
    ("trian", "no verb 'trian'; did you mean train"),
    ("train", "which model?"),
    ("train floww-matching", "no model 'floww-matching'; did you mean flow-matching"),
    ("train vae gan", "one name was expected"),
    ("train vae --stpes 5", "no option --stpes; did you mean --steps"),
    ("train vae --model.latnt-dim 5", "no option --model.latnt-dim; did you mean --model.latent-dim"),
    ("train vae --latent-dim 5", "no option --latent-dim; did you mean --model.latent-dim?"),
    ("train gan --latnt-dim 5", "--model.latent-dim"),
    ("train vae --steps many", "steps"),
    ("train vae --steps -5", "--steps -5 was given; it must be at least 1"),
    ("train vae --steps 0", "--steps 0 was given"),
    ("train vae --batch-size 0", "--batch-size 0 was given"),
    ("train vae --batch-size big", "batch"),
    ("train vae --budget soon", "--budget 'soon' is not a duration"),
    ("train vae --precision fp8", "precision"),
    ("train vae --learning-rate -1", "--learning-rate -1.0 was given"),
    ("train vae --data nowhere/photos", "nowhere/photos"),
    ("train vae --data digts", "digits"),
    ("train vae --data empty", "empty"),
    ("train vae --data one", "at least 2"),
    ("train vae --data letters", ".pdf"),
    ("train vae --data text.txt", "tokens"),
    ("train gpt --data digits", "'gpt' learns tokens"),
    ("train gmm --data nan.npy", "row 7"),
    ("train gmm --data gone.csv", "'b'"),
    ("train gmm --data table.csv --label kidn", "kind"),
    ("train gmm --data notes.md", "'notes.md' holds tokens. Try gpt"),
    ("train gpt --data notes.md", "at least 65"),
    ("train gmm --data digits --size -4", "size"),
    ("train vae --data digits --model.latent-dim -3", "--model.latent-dim -3 was given"),
    ("train gmm --data points.npy --model.components 400", "400"),
    ("train vae --device cuda:9", "cuda"),
    ("train vae --device tpu", "--device 'tpu' was given"),
    ("train gaussian --data digits --validation 0 --out blind --patience 3", "load the data with --validation 0.1"),
    ("train gaussian --data digits --model.prior_rows 3", "only --model.prior wishart"),
    ("train --config recipe.yaml", "stps"),
    ("train --config list.yaml", "not a recipe"),
    ("train --config absent.yaml", "absent.yaml"),
    ("train gaussian --resume --out empty", "not a run directory"),
    ("train gaussian --out good", "holds a run already"),
    ("train vae --resume --out good", "is a run of 'gaussian'"),
    ("train --resume --out good --seed 9", "but good has 0; leave it away"),
    ("train --resume=true --out good --data moons", "but good has digits; leave it away"),
    ("train --resume --out good --model.components 3", "leave it away"),
    ("sample good --batch-size -3", "batch_size"),
    ("sample good --condition=--5", "no class '--5'"),
    ("sample nowhere", "no run directory nowhere"),
    ("sample empty", "not a run directory"),
    ("sample half", "half-written"),
    ("sample future", "format 99"),
    ("sample nospec", "does not describe its data"),
    ("sample cut", "damaged"),
    ("sample swapped", "another model or to other settings"),
    ("sample spoilt", "the weights of spoilt are not finite"),
    ("sample unsaved", "before it saved anything"),
    ("sample good -n 0", "n = 0 samples"),
    ("sample good --condition 12", "class 12 was asked for; the classes are 0 to 9"),
    ("sample good --condition zero", "no class 'zero'"),
    ("sample good --out x.bmp", "cannot be written as '.bmp'"),
    ("sample good --out x.csv", "image samples are no table; give --out an ending of .png, .npz, .npy or a folder/"),
    ("sample good --out x.txt", "image samples are no text"),
    ("sample good --out dogs", "'dogs', which has no ending; give --out an ending of .png, .npz, .npy or a folder/"),
    ("sample --again one", "one/a.png"),
    ("sample --again empty", "holds no pictures"),
    ("sample good --guidance 2", "no option --guidance"),
    ("sample --again one/a.png", "recipe"),
    ("sample --again absent.png", "absent.png"),
    ("evaluate nowhere", "no run directory nowhere"),
    ("evaluate good --data points.npy", "give data like those"),
    ("evaluate good --features dreams", "dreams"),
    ("compare vae", "two models or more"),
    ("compare vae gpt", "'gpt' learns tokens"),
    ("compare vae gna", "did you mean gan"),
    ("models vaee", "did you mean vae"),
    ("data nowhere.csv", "nowhere.csv"),
]


@pytest.mark.parametrize("line, words", CASES, ids=[line for line, _ in CASES])
def test_one_sentence(line, words, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    start = time.monotonic()
    status = main(line.split())
    took = time.monotonic() - start
    said = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert words in said[-1] and said[-1].startswith("pushforward: ") and len(said[-1]) < 600
    assert "Traceback" not in "\n".join(said)
    assert took < 20, "loaded machines are slow; without torch's import it is well below two seconds"
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path in before} == before, "nothing is lost"


def test_a_refused_resume_changes_nothing(place):
    """From Python, with a model of other settings, said or not: the run is as it was."""
    import pushforward as pf

    before = {path: path.read_bytes() for path in (place / "good").rglob("*") if path.is_file()}
    data = pf.load_data("digits")
    model = pf.create("gaussian", data.spec, components=3)
    with pytest.raises(pf.UserError, match=r"components = 3 was given, but the run in .*good has None"):
        pf.train(model, data, out=str(place / "good"), resume=True)
    model.settings = {}  # as of one that does not say
    with pytest.raises(pf.UserError, match="belong to another model"):
        pf.train(model, data, out=str(place / "good"), resume=True)
    assert {path: path.read_bytes() for path in before} == before


def test_debug_shows_the_traceback(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(ValueError, match="no model"):
        main(["train", "vaee", "--debug"])


def test_no_permission(place, monkeypatch, capsys):
    """/proc cannot be written, by anyone."""
    monkeypatch.chdir(place)
    assert main(["train", "gaussian", "--out", "/proc/run", "--evaluate", "false"]) == 2
    assert "/proc/run" in capsys.readouterr().err


def test_full_disk_shows_before_training(place, monkeypatch, capsys):
    """The first checkpoint is written before the first step."""
    import pushforward.artefacts

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(place)
    monkeypatch.setattr(pushforward.artefacts.os, "fsync", full)
    assert main(["train", "gan", "--out", "fresh", "--evaluate", "false"]) == 2
    assert "disk is full" in capsys.readouterr().err


def test_as_a_process(place):
    """Exit status 2, one line on stderr, nothing on stdout, without importing torch where the name alone is wrong."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pushforward", "train", "vaee"], cwd=place, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert time.monotonic() - start < 20
    code = (
        "import sys; from pushforward.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    watch = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert watch.returncode == 0, watch.stderr
