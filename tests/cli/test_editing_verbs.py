"""The verbs that edit, end to end: each draws a picture with its recipe, or says in a sentence why not."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pushforward.artefacts import read_recipe
from pushforward.cli import main
from pushforward.cli.editing import some_of

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
    assert main(["train", "autoencoder", "--data", "digits", "--model.width", "32", "--out", "runs/autoencoder", *short]) == 0
    mixed = pd.DataFrame(generator.normal(size=(300, 3)), columns=["a", "b", "score"])
    mixed["kind"] = np.array(["red", "green", "blue"])[np.arange(300) % 3]
    mixed.loc[mixed.kind == "red", "a"] += 4
    mixed.to_csv("mixed.csv", index=False)
    mixed[mixed.kind != "blue"].iloc[::-1][["score", "kind", "b", "a"]].to_csv("fewer.csv", index=False)
    assert main(["train", "autoencoder", "--data", "mixed.csv", "--model.width", "32", "--out", "runs/mixed", *short]) == 0
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
    ("edit", "autoencoder", ["--attribute", "3", "--n", "2", "--strengths", "-1,2"]),
    ("edit", "mixed", ["--label", "kind", "--attribute", "red", "--n", "3"]),
    ("interpolate", "mixed", ["--average", "--n", "3"]),
    ("traverse", "autoencoder", ["--sampled", "--condition", "3"]),
    ("outliers", "mixed", ["--data", "fewer.csv"]),
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
    assert list(table.columns) == ["split", "item", "score", "class"]
    assert table["score"].is_monotonic_decreasing and len(table) == 359 and set(table["split"]) == {"test"}


def test_outliers_of_a_file_are_those_of_all_of_it_and_can_be_found_in_it(capsys):
    """200 rows with other columns in another order, and one category less: all are scored, and each stands in the table with
    its own values, by which it is found in the file."""
    capsys.readouterr()
    assert main(["outliers", "runs/mixed", "--data", "fewer.csv"]) == 0
    assert "200 data (140 train, 20 validation, 40 test)" in capsys.readouterr().out
    table, file = pd.read_csv("runs/mixed/outliers.csv", comment="#"), pd.read_csv("fewer.csv")
    assert list(table.columns) == ["split", "item", "score", "a", "b", "score (data)", "kind"]
    assert len(table.drop_duplicates(["split", "item"])) == len(table) == 200
    found = file.iloc[np.abs(file["a"].to_numpy()[None] - table["a"].to_numpy()[:, None]).argmin(1)]
    assert np.allclose(found["b"], table["b"], atol=1e-5) and (found["kind"].to_numpy() == table["kind"]).all()
    assert main(["outliers", "runs/mixed", "--data", "fewer.csv", "--most", "50", "--split", "train"]) == 0
    assert "50 data (50 of 140 train)" in capsys.readouterr().out


def test_a_decoder_that_is_not_told_the_class_is_edited_by_its_codes(capsys):
    """The states of an item differ, and it is said why: before, all were the reconstruction."""
    assert main(["edit", "runs/autoencoder", "--attribute", "3", "--n", "2", "--strengths=-8,8"]) == 0
    assert "is not told the class" in capsys.readouterr().err
    tiles = np.asarray(Image.open("runs/autoencoder/edit.png").convert("L")).astype(int)
    right, left = tiles[-60:-12, -60:-12], tiles[-60:-12, -110:-62]
    assert np.abs(right - left).max() >= 15  # a level of 17 or more
    assert main(["edit", "runs/vae", "--attribute", "3", "--n", "2"]) == 0
    assert "not told" not in capsys.readouterr().err


def test_items_by_chance_are_different_ones():
    assert sorted(some_of(20, 20, seed=3)) == list(range(20))
    assert sorted(some_of(5, 10, seed=3)) == sorted([*range(5), *range(5)])
    assert some_of(2**62, 3, seed=0) != some_of(2**62, 3, seed=1)


def test_a_verbs_picture_is_made_again(capsys):
    assert main(["traverse", "runs/vae", "--units", "0,3", "--sampled", "--condition", "3", "--span", "1.5"]) == 0
    capsys.readouterr()
    assert main(["sample", "--again", "runs/vae/traverse.png"]) == 0
    assert "pushforward traverse" in capsys.readouterr().out
    first, second = (np.asarray(Image.open(f"runs/vae/traverse{end}.png")) for end in ("", "-again"))
    assert np.array_equal(first, second)


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
    (["interpolate", "runs/vae", "--data", "moons"], "the run learned images of 8 x 8"),
    (["traverse", "runs/vae", "--units", "99"], "units 0 to 15"),
    (["traverse", "runs/vae", "--units", "a"], "numbers with commas"),
    (["traverse", "runs/vae", "--span", "-1"], "span > 0"),
    (["interpolate", "runs/table", "--data", "moons"], "holds data of kind point"),
    (["outliers", "runs/mixed", "--data", "table.csv"], "no column 'score'"),
    (["traverse", "runs/vae", "--condition", "3"], "give --sampled as well"),
    (["outliers", "runs/vae", "--against", "moons"], "the run learned images of 8 x 8 pixels"),
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
    assert main(["sample", "runs/second", "-n", "3", "--decode", "--out", "decoded.npz"]) == 0
    assert np.load("decoded.npz")["samples"].shape == (3, 1, 8, 8)
    assert main(["sample", "runs/second", "-n", "4", "--decode", "--out", "decoded.png"]) == 0
    assert main(["sample", "--again", "decoded.png"]) == 0
    assert np.array_equal(*(np.asarray(Image.open(name)) for name in ("decoded.png", "decoded-again.png")))
    assert main(["sample", "runs/vae", "--decode"]) == 2
    assert "learned data, not the codes" in capsys.readouterr().err
    assert Image.open("runs/second/samples.png").width > 400 and read_recipe("runs/second/samples.png")["decode"]
    assert main(["evaluate", "runs/second", "--n", "50"]) == 0
    capsys.readouterr()
    assert main(["train", "gaussian", "--data", "codes:runs/vae", "--label", "none", "--out", "runs/third", *short]) == 2
    assert "codes are taken as they are" in capsys.readouterr().err
    assert main(["train", "gaussian", "--data", "codes:runs/nothing", "--out", "runs/third", *short]) == 2
    assert "no run directory" in capsys.readouterr().err
