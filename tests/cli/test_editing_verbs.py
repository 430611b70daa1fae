"""The verbs that edit, end to end: each draws a picture with its recipe, or says in a sentence why not."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pushforward.artefacts import read_recipe
from pushforward.cli import main

QUICK = ["--tensorboard", "false", "--picture-every", "0", "--precision", "fp32", "--batch-size", "32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("editing")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(place)
    generator = np.random.default_rng(0)
    pd.DataFrame(generator.normal(size=(200, 4)), columns=list("abcd")).to_csv("table.csv", index=False)
    short = ["--steps", "20", "--evaluate", "false", *QUICK]
    assert main(["train", "vae", "--data", "digits", "--model.width", "32", "--out", "runs/vae", *short]) == 0
    assert main(["train", "vae", "--data", "digits", "--label", "none", "--out", "runs/plain", *short]) == 0
    assert (
        main(
            ["train", "vae", "--data", "moons", "--model.width", "16", "--model.latent-dim", "2", "--out", "runs/moons", *short]
        )
        == 0
    )
    assert main(["train", "gaussian", "--data", "table.csv", "--out", "runs/table", *short]) == 0
    monkeypatch.undo()
    return place


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


CASES = [
    ("interpolate", "vae", ["--average", "--n", "3"]),
    ("interpolate", "vae", ["--sampled", "--condition", "3"]),
    ("interpolate", "moons", []),
    ("interpolate", "table", ["--n", "3"]),
    ("traverse", "vae", ["--units", "0,3"]),
    ("traverse", "moons", ["--sampled"]),
    ("traverse", "table", ["--n", "2"]),
    ("edit", "vae", ["--attribute", "3", "--n", "2"]),
    ("edit", "plain", ["--attribute", "3", "--label", "label", "--n", "2"]),
    ("reconstruct", "vae", ["--items", "0,5,7"]),
    ("reconstruct", "moons", []),
    ("outliers", "vae", ["--n", "4"]),
    ("outliers", "vae", ["--by", "likelihood", "--most", "50", "--against", "digits"]),
    ("outliers", "table", []),
]


@pytest.mark.parametrize("verb, name, options", CASES, ids=[f"{verb}-{name}-{i}" for i, (verb, name, _) in enumerate(CASES)])
def test_each_verb_draws_and_its_recipe_says_what(verb, name, options, capsys):
    assert main([verb, f"runs/{name}", *options]) == 0, capsys.readouterr().err
    path = f"runs/{name}/{verb}.png"
    picture = np.asarray(Image.open(path))
    assert picture.shape[0] > 30 and picture.std() > 5  # something is drawn
    recipe = read_recipe(path)
    assert recipe["verb"] == verb and recipe["arguments"]["seed"] == 0 and recipe["weights"]
    before = picture.copy()
    assert main([verb, f"runs/{name}", *options]) == 0
    assert np.array_equal(before, np.asarray(Image.open(path)))  # the seed says all


def test_animations(capsys):
    assert main(["interpolate", "runs/moons", "--out", "a.gif", "--steps", "5"]) == 0
    with Image.open("a.gif") as gif:
        assert gif.n_frames == 8  # there and back
    assert read_recipe("a.gif")["verb"] == "interpolate"
    assert main(["traverse", "runs/vae", "--out", "b.gif", "--steps", "3"]) == 0


def test_scores_are_a_table():
    assert main(["outliers", "runs/vae"]) == 0
    table = pd.read_csv("runs/vae/outliers.csv", comment="#")
    assert list(table.columns) == ["item", "score", "class"] and table["score"].is_monotonic_decreasing and len(table) == 359


WRONG = [
    (["interpolate"], "which run"),
    (["interpolate", "runs/nothing"], "no run directory"),
    (["interpolate", "runs/vae", "--steps", "1"], "at least 2"),
    (["interpolate", "runs/vae", "--path", "round"], "auto or straight or spherical"),
    (["interpolate", "runs/vae", "--out", "a.bmp"], ".png"),
    (["interpolate", "runs/vae", "--items", "0,x"], "numbers with commas"),
    (["interpolate", "runs/vae", "--items", "9999"], "0 to 358"),
    (["interpolate", "runs/vae", "--split", "all"], "held-out or train"),
    (["interpolate", "runs/vae", "--sampled", "--average"], "leave it"),
    (["interpolate", "runs/vae", "--n", "0"], "at least 1"),
    (["interpolate", "runs/vae", "--data", "moons"], "the run learned image"),
    (["traverse", "runs/vae", "--units", "99"], "units 0 to 15"),
    (["traverse", "runs/vae", "--units", "a"], "numbers with commas"),
    (["traverse", "runs/vae", "--span", "-1"], "span > 0"),
    (["edit", "runs/vae"], "which attribute"),
    (["edit", "runs/vae", "--attribute", "smiling"], "there is no class 'smiling'"),
    (["edit", "runs/plain", "--attribute", "3"], "without labels or attributes"),
    (["edit", "runs/vae", "--attribute", "3", "--strengths", "a,b"], "numbers with commas"),
    (["outliers", "runs/vae", "--by", "guess"], "auto or likelihood or reconstruction"),
    (["reconstruct", "runs/vae", "--out", "a.gif"], "ending of .png"),
]


@pytest.mark.parametrize("argv, sentence", WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_mistakes_are_sentences(argv, sentence, capsys):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_second_stage_by_name(capsys):
    """`--data codes:RUN`: the codes of a run are data like any other, for training, resuming, sampling and measuring."""
    short = ["--evaluate", "false", *QUICK]
    assert main(["train", "gaussian", "--data", "codes:runs/vae", "--out", "runs/second", *short]) == 0
    assert main(["train", "--resume", "--out", "runs/second"]) == 0
    assert main(["sample", "runs/second", "-n", "3"]) == 0
    assert main(["evaluate", "runs/second", "--n", "50"]) == 0
    capsys.readouterr()
    assert main(["train", "gaussian", "--data", "codes:runs/vae", "--label", "none", "--out", "runs/third", *short]) == 2
    assert "codes are taken as they are" in capsys.readouterr().err
    assert main(["train", "gaussian", "--data", "codes:runs/nothing", "--out", "runs/third", *short]) == 2
    assert "no run directory" in capsys.readouterr().err
