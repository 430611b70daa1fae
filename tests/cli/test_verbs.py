"""The verbs, end to end, on small real runs."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pushforward import building
from pushforward.artefacts import read_recipe, write_picture
from pushforward.cli import VERBS, main
from pushforward.training.checkpoints import read_tensors
from pushforward.training.opening import load

QUICK = ["--tensorboard", "false", "--picture-every", "0", "--precision", "fp32", "--batch-size", "32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("verbs")


@pytest.fixture(scope="module")
def small(place):
    """One flow-matching run on the digits, of 30 steps."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(place)
    assert main(["train", "flow-matching", "--steps", "30", "--model.width", "32", "--evaluate", "false", *QUICK]) == 0
    monkeypatch.undo()
    return place / "runs" / "flow-matching-digits"


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


def test_a_run_directory_holds_what_it_should(small):
    names = {path.name for path in small.iterdir()}
    assert {"run.yaml", "model.safetensors", "history.jsonl", "samples.png", "training.png", "trajectory.png", "last"} <= names
    record = yaml.safe_load((small / "run.yaml").read_text())
    assert record["model"]["name"] == "flow-matching" and record["model"]["settings"].items() >= {"width": 32}.items()
    assert record["training"]["steps"] == 30 and record["result"]["status"] == "finished"
    assert read_recipe(small / "samples.png")["weights"] == load(small).weights


@pytest.mark.parametrize("name", ["grid.png", "x.npz", "x.npy", "folder/"])
def test_sample_in_every_form_and_again(small, place, name, capsys):
    """The file made again from its own recipe holds the same samples to the bit."""
    command = ["sample", str(small), "-n", "6", "--seed", "7", "--condition", "3", "--steps", "4", "--out", name]
    assert main(command) == 0
    path = place / name
    if name == "folder/":
        assert len(list(path.glob("*.png"))) == 6 and Image.open(path / "00000.png").size == (8, 8)
        for i in (0, 4):
            assert main(["sample", "--again", f"folder/0000{i}.png", "--out", "one.png"]) == 0
            assert np.array_equal(np.asarray(Image.open(path / f"0000{i}.png")), np.asarray(Image.open(place / "one.png")))
            assert read_recipe(place / "one.png") == read_recipe(path / f"0000{i}.png")
        assert main(["sample", "--again", "folder"]) == 2
        assert "--again folder/00000.png" in capsys.readouterr().err
        return
    recipe = read_recipe(path)
    assert recipe["seed"] == 7 and recipe["options"]["steps"] == 4 and recipe["condition"] == [3] * 6
    assert main(["sample", "--again", str(path)]) == 0
    again = path.with_stem(path.stem + "-again")
    if path.suffix == ".png":
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(again)))
    else:
        first, second = np.load(path), np.load(again)
        a, b = (first["samples"], second["samples"]) if path.suffix == ".npz" else (first, second)
        assert a.shape == (6, 1, 8, 8) and a.dtype == np.uint8 and np.array_equal(a, b)


def test_help_shows_the_models_own_options_only(small, capsys):
    with pytest.raises(SystemExit):
        main(["sample", str(small), "--help"])
    shown = capsys.readouterr().out
    assert "--steps" in shown and "--self" not in shown and "--generator" not in shown


def test_samples_of_a_run_that_has_changed_are_refused(small, place, capsys):
    assert main(["sample", str(small), "-n", "2", "--out", "old.png"]) == 0
    other = place / "other"
    assert main(["train", "gaussian", "--out", str(other), "--evaluate", "false"]) == 0
    assert main(["sample", str(other), "--again", "old.png"]) == 2
    assert "was made with weights" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trajectory", "training"])
def test_pictures_of_a_run_are_drawn_again(small, place, name, capsys):
    """From the recipe that each carries, to the pixel; what cannot be is refused with the reason."""
    path = small / f"{name}.png"
    assert main(["sample", "--again", str(path), "--out", f"{name}-again.png"]) == 0
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(place / f"{name}-again.png")))
    assert read_recipe(place / f"{name}-again.png") == read_recipe(path)
    recipe = read_recipe(path)
    for change, words in (
        ({"weights": "0" * 12}, "was made with weights 000000000000"),
        ({"picture": "dreams"}, "draws no picture 'dreams'"),
        ({"picture": "progress", "step": 7}, "drawn at step 7 of the training, and the weights of then are not kept"),
    ):
        write_picture(Image.new("L", (4, 4)), "odd.png", recipe | change)
        assert main(["sample", "--again", "odd.png"]) == 2
        assert words in capsys.readouterr().err
    write_picture(Image.new("L", (4, 4)), "odd.png", {"seed": 0, "nearest": "pixels"})
    assert main(["sample", "--again", "odd.png"]) == 2
    assert "`pushforward evaluate RUN` makes such pictures" in capsys.readouterr().err


def test_reconstructions_are_drawn_again(place, capsys):
    words = ["train", "vae", "--steps", "3", "--model.width", "16", "--evaluate", "false", "--out", "coder", *QUICK]
    assert main(words) == 0
    assert main(["sample", "--again", "coder/reconstructions.png", "--out", "pairs.png"]) == 0
    first, second = (np.asarray(Image.open(place / name)) for name in ("coder/reconstructions.png", "pairs.png"))
    assert np.array_equal(first, second)
    recipe = read_recipe(place / "pairs.png") | {"picture": "trajectory"}  # which a model of one pass has not
    write_picture(Image.new("L", (4, 4)), "odd.png", recipe)
    assert main(["sample", "--again", "odd.png"]) == 2
    assert "cannot be drawn again" in capsys.readouterr().err


def test_a_run_that_has_finished_is_not_trained_again(small, capsys):
    """Nor measured: --resume says so, and ends well."""
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*") if path.is_file()}
    for more in ([], ["--steps", "30"], ["--steps", "7"]):
        assert main(["train", "--resume", "--out", str(small), *more]) == 0
        assert "already finished: 30 steps" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert main(["train", "--resume", "--out", str(small), "--steps", "31", "--batch-size", "64"]) == 2
    assert "was trained with 32 data an update, now it would be 64" in capsys.readouterr().err


def test_config_and_overrides_are_the_same_run(place, small):
    (place / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "flow-matching",
                "data": "digits",
                "steps": 50,
                "batch_size": 32,
                "precision": "fp32",
                "tensorboard": False,
                "picture_every": 0,
                "evaluate": False,
                "model": {"width": 32},
            }
        )
    )
    assert main(["train", "--config", "recipe.yaml", "--steps", "30", "--out", "from-recipe"]) == 0
    a, b = read_tensors(small / "model.safetensors")[0], read_tensors(place / "from-recipe" / "model.safetensors")[0]
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_print_config_shows_everything_resolved(capsys):
    with pytest.raises(SystemExit):
        main(["train", "vae", "--steps", "7", "--model.latent-dim", "5", "--print-config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["steps"] == 7 and shown["model"]["latent_dim"] == 5 and shown["model"]["beta"] == 1.0 and shown["seed"] == 0
    assert shown["batch_size"] == building.method("vae").training["batch_size"]
    with pytest.raises(SystemExit):
        main(["train", "gmm", "--print-config"])
    assert yaml.safe_load(capsys.readouterr().out)["steps"] == building.method("gmm").training["steps"]
    with pytest.raises(SystemExit):
        main(["train", "vae", "--epochs", "3", "--print-config"])
    assert yaml.safe_load(capsys.readouterr().out)["steps"] is None, "a number of steps would overrule the epochs"


def test_a_run_that_stops_early_says_why_and_what_goes_on(place, capsys):
    words = ["train", "vae", "--data", "digits", "--out", "early", "--evaluate", "false", *QUICK]
    asked = ["--steps", "60", "--validate-every", "1", "--patience", "1", "--learning-rate", "1", "--model.width", "16"]
    assert main([*words, *asked]) == 0
    shown = capsys.readouterr()
    why = "the validation loss has not improved in 1 validations; the best weights, of step"
    assert f"stopped early: {why}" in shown.err and f"stopped early ({why}" in shown.out
    assert main(["train", "--resume", "--out", "early"]) == 0
    assert "already stopped early" in (shown := capsys.readouterr()).out and "a larger --patience" in shown.err


def test_resume_from_the_command_line_ends_bit_identical(place):
    """A run told to stop by its budget is taken up again by --resume alone: model, data and settings come from run.yaml."""
    options = ["--model.width", "32", "--evaluate", "false", "--label", "none", *QUICK]
    assert main(["train", "flow-matching", "--steps", "40", "--out", "whole", *options]) == 0
    code = (
        "import sys, pushforward.training.loop as loop\n"
        "from pushforward.cli import main\n"
        "step = loop.Loop._one_step\n"
        "def stopping(self, window):\n"
        "    step(self, window)\n"
        "    if self.step == 16: self._stop = 'interrupted'\n"
        "loop.Loop._one_step = stopping\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    import subprocess
    import sys

    words = ["train", "flow-matching", "--steps", "40", "--out", "parts", *options]
    assert subprocess.run([sys.executable, "-c", code, *words], capture_output=True).returncode == 0
    assert yaml.safe_load((place / "parts" / "run.yaml").read_text())["result"]["status"] == "interrupted"
    assert main(["train", "--resume", "--out", "parts", "--evaluate", "false"]) == 0
    a, b = (read_tensors(place / name / "model.safetensors")[0] for name in ("whole", "parts"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_evaluate_writes_figures_and_report(small, capsys):
    assert main(["evaluate", str(small), "--n", "60"]) == 0
    out = capsys.readouterr().out
    assert "Frechet distance" in out and "report:" in out
    measures = {m["name"]: m for m in json.loads((small / "metrics.json").read_text())["measures"]}
    wanted = {
        "Frechet distance",
        "KID",
        "precision",
        "recall",
        "density",
        "coverage",
        "sliced Wasserstein",
        "train on synthetic",
    }
    assert wanted <= measures.keys() and all(measures[name]["floor"] is not None for name in wanted)
    page = (small / "report.html").read_text()
    assert "Frechet distance" in page and "data:image/png;base64," in page and not re.search(r"(src|href)=.http", page)
    assert (small / "neighbours.png").exists()


def test_compare_makes_one_table_and_one_page(place, capsys):
    assert main(["compare", "gaussian", "gmm", "--steps", "2", "--out", "both"]) == 0
    out = capsys.readouterr().out
    assert "gaussian" in out and "gmm" in out and "real against real" in out
    assert (place / "both" / "comparison.html").exists() and (place / "both" / "gmm" / "report.html").exists()


def test_tables_and_texts_come_out_as_they_went_in(place):
    (place / "pets.csv").write_text("age,kind\n" + "\n".join(f"{i % 9},{'cat' if i % 3 else 'dog'}" for i in range(200)))
    assert main(["train", "gmm", "--data", "pets.csv", "--out", "pets", "--evaluate", "false"]) == 0
    assert main(["sample", "pets", "-n", "50", "--out", "more.csv"]) == 0
    lines = [line for line in (place / "more.csv").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "age,kind" and len(lines) == 51 and {line.split(",")[1] for line in lines[1:]} == {"cat", "dog"}
    assert read_recipe(place / "more.csv")["n"] == 50
    (place / "fox.txt").write_text("the quick brown fox. " * 60)
    words = [
        "train",
        "gpt",
        "--data",
        "fox.txt",
        "--context",
        "16",
        "--steps",
        "3",
        "--out",
        "fox",
        "--evaluate",
        "false",
        *QUICK,
    ]
    assert main([*words, "--model.width", "32", "--model.depth", "1"]) == 0
    assert main(["sample", "fox", "-n", "2", "--length", "30", "--temperature", "0.7", "--out", "fox-out.txt"]) == 0


def test_models_and_data_speak_in_words(place, capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("gaussian", "gmm", "vae", "gan", "flow", "gpt"))
    assert main(["models", "vae"]) == 0
    assert "latent-dim" in capsys.readouterr().out
    assert main(["data", "digits"]) == 0
    out = capsys.readouterr().out
    assert "1,797" in out or "1797" in out or "1,258" in out or "1258" in out
    assert (place / "preview-digits.png").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and len(shown) > 200 and "==SUPPRESS==" not in shown and "(type:" not in shown
