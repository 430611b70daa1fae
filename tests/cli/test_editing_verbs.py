"""The verbs that edit, end to end: each draws a picture with its recipe, or says in a sentence why not."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pushforward import UserError, load
from pushforward.artefacts import read_recipe
from pushforward.cli import main
from pushforward.cli.edit import offered
from pushforward.cli.editing import items, some_of
from pushforward.cli.interpolate import pairs, partners
from pushforward.data.batches import ArraySplit
from pushforward.data.spec import Condition

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
    assert sorted(some_of(5, 10, seed=3)) == list(range(5))
    assert some_of(2**62, 3, seed=0) != some_of(2**62, 3, seed=1)


def test_a_verbs_picture_is_made_again(capsys):
    assert main(["traverse", "runs/vae", "--units", "0,3", "--sampled", "--condition", "3", "--span", "1.5"]) == 0
    capsys.readouterr()
    assert main(["sample", "--again", "runs/vae/traverse.png"]) == 0
    assert "pushforward traverse" in capsys.readouterr().out
    first, second = (np.asarray(Image.open(f"runs/vae/traverse{end}.png")) for end in ("", "-again"))
    assert np.array_equal(first, second)


class Some:
    """Data of which only the held-out ones are asked for: datum i is (i,), its class the i-th of `classes`."""

    def __init__(self, classes):
        self.held_out = ArraySplit(torch.arange(len(classes)).float()[:, None], torch.tensor(classes))


def given(**options):
    return {"items": None, "n": 8, "seed": 0, "split": "held-out"} | options


def test_items_are_pairs_by_twos():
    data = Some([0] * 20)
    assert pairs(data, given(items="0,5,12,7")) == ([0, 12], [5, 7])
    assert pairs(data, given(items="0,5", n=1)) == ([0], [5])


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_no_pair_is_of_a_datum_with_itself(size, n):
    """Different data while there are 2 n, and different pairs while there are n."""
    first, last = pairs(Some([0] * size), given(n=n))
    assert len(first) == len(last) == n and all(a != b for a, b in zip(first, last, strict=True))
    assert set(first + last) <= set(range(size)) and len({*first, *last}) >= min(2 * n, size) - (size < 2 * n)
    assert len(set(zip(first, last, strict=True))) == min(n, size * (size - 1))


def test_a_single_datum_has_no_pair():
    with pytest.raises(UserError, match="a single datum"):
        pairs(Some([0]), given())


def test_partners_are_others_of_the_same_class(capsys):
    """Whichever the seed: each class has two data, so that the partner of each is known."""
    data = Some([k // 2 for k in range(40)])
    first = list(range(40))
    for seed in range(5):
        end, theirs = partners(data, given(seed=seed), first, data.held_out.condition)
        assert end[:, 0].tolist() == [k + 1 - 2 * (k % 2) for k in first]
        assert torch.equal(theirs, data.held_out.condition)
    assert capsys.readouterr().err == ""


def test_who_is_alone_in_its_class_has_a_partner_of_another_and_it_is_said(capsys):
    data = Some([0, 1, 0, 2])
    end, theirs = partners(data, given(), [1, 0, 3], torch.tensor([1, 0, 2]))
    assert end[1].item() == 2 and end[0].item() != 1 and end[2].item() != 3
    assert [int(k) for k in theirs] == [data.held_out.condition[int(i)] for i in end]
    said = capsys.readouterr().err
    assert said.startswith("among 4 held-out data no other is of the class of items 1, 3:") and said.count("\n") == 1


def test_interpolate_goes_between_the_items_that_were_named(monkeypatch, capsys):
    """And says it where they are of two classes. Without names, both ends are of one class and differ."""
    from pushforward.editing import interpolation

    seen = []
    plain = interpolation.interpolate
    monkeypatch.setattr(
        interpolation, "interpolate", lambda *given, **more: seen.append((given, more)) or plain(*given, **more)
    )
    held = load("runs/vae").load_data().held_out
    x, classes = held.fetch(torch.tensor([0, 12, 5, 7]))
    assert main(["interpolate", "runs/vae", "--items", "0,5,12,7", "--average", "--steps", "3"]) == 0
    (_, start, end), more = seen.pop()
    assert torch.equal(torch.cat([start, end]), x)
    assert torch.equal(torch.cat([more["condition"], more["end_condition"]]), classes)
    assert ("not all pairs are of one class" in capsys.readouterr().err) == (not torch.equal(classes[:2], classes[2:]))
    alike = torch.nonzero(held.condition == held.condition[0])[1].item()
    assert main(["interpolate", "runs/vae", "--items", f"0,{alike}"]) == 0
    assert "not all pairs" not in capsys.readouterr().err
    seen.clear()
    assert main(["interpolate", "runs/vae"]) == 0
    (_, start, end), more = seen.pop()
    assert len(start) == 8 and torch.equal(more["condition"], more["end_condition"])
    assert (start != end).flatten(1).any(1).all()


def test_ten_attributes_are_named_at_most():
    names = tuple("abcdefghijkl")
    assert offered(Condition("attributes", 12, names=names)) == "; the attributes are a, b, c, d, e, f, g, h, i, j and 2 more"
    assert offered(Condition("class", 2)) == "; the classes are 0, 1"
    assert offered(None) == offered(Condition("vector", 2)) == ""


def test_fewer_data_than_n_are_taken_once():
    assert sorted(items(Some([0] * 5), given(n=16))[2]) == list(range(5))
    assert items(Some([0] * 5), given(n=16, items="3,1"))[2] == [3, 1]
    assert items(Some([0] * 5), given(n=1, items="3,1"), 1)[2] == [3]


def test_the_error_of_a_reconstruction_counts_each_datum_once(capsys):
    """A file of 30 rows holds six out, where --n is 16."""
    pd.read_csv("table.csv").head(30).to_csv("short.csv", index=False)
    capsys.readouterr()
    assert main(["reconstruct", "runs/table", "--data", "short.csv"]) == 0
    assert "(model units, 6 data)" in capsys.readouterr().out


def test_each_pair_that_was_named_has_its_own_two_rows(monkeypatch):
    from pushforward.cli import interpolate

    seen, draw = [], interpolate.write_states
    monkeypatch.setattr(interpolate, "write_states", lambda *given, **more: seen.append((given, more)) or draw(*given, **more))
    assert main(["interpolate", "runs/table", "--items", "0,5,12,7,1,2", "--average", "--steps", "3"]) == 0
    (_, _, _, values), more = seen.pop()
    assert values.shape[:2] == (6, 3) and more["row_labels"] == ["model", "average"] * 3


WRONG = [
    (["interpolate"], "which run"),
    (["interpolate", "runs/nothing"], "no run directory"),
    (["interpolate", "runs/vae", "--steps", "1"], "at least 2"),
    (["interpolate", "runs/vae", "--path", "round"], "auto or straight or spherical"),
    (["interpolate", "runs/vae", "--out", "a.bmp"], ".png"),
    (["interpolate", "runs/vae", "--items", "0,x"], "numbers with commas"),
    (["interpolate", "runs/vae", "--items", "9999"], "0 to 358"),
    (["interpolate", "runs/vae", "--items", "0,5,12"], "an odd count; give pairs"),
    (["interpolate", "runs/vae", "--items", "3"], "an odd count; give pairs"),
    (["interpolate", "runs/vae", "--items", "0,5,4,4"], "pairs item 4 with itself"),
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
    (["edit", "runs/vae"], "which attribute? Give --attribute NAME; the classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9."),
    (["edit", "runs/vae", "--label", "label"], "which attribute? Give --attribute NAME."),
    (["edit", "runs/plain"], "which attribute? Give --attribute NAME."),
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
