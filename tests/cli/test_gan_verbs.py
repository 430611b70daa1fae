"""What a GAN's codes can do from the command line: spaces beside z, mixed styles, swept options, outliers by what is left."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.artefacts import read_recipe
from pushforward.cli import main
from pushforward.data.batches import take
from pushforward.editing import mixing
from pushforward.measures.features import matrix
from pushforward.measures.fidelity import neighbourhoods

QUICK = ["--evaluate", "false", "--tensorboard", "false", "--picture-every", "0", "--precision", "fp32"]
SMALL = ["--model.width", "4", "--model.latent-dim", "4", "--steps", "8"]
STYLE = ["--model.network-options", "{mapping_depth: 2, style_dim: 8}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("verbs")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(place)
    angle = 2 * np.pi * np.random.default_rng(0).random(300)
    pd.DataFrame({"a": np.cos(angle), "b": np.sin(angle)}).to_csv("ring.csv", index=False)
    assert main(["train", "stylegan2", "--data", "digits", "--out", "runs/style", *SMALL, *STYLE, *QUICK]) == 0
    assert main(["train", "gan", "--data", "digits", "--out", "runs/gan", "--model.network", "mlp", *SMALL, *QUICK]) == 0
    assert (
        main(["train", "gan", "--data", "ring.csv", "--model.width", "8", "--steps", "60", "--out", "runs/ring", *QUICK]) == 0
    )
    monkeypatch.undo()
    return place


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.mark.parametrize("space", ["w", "w+"])
@pytest.mark.parametrize(
    "name, options",
    [
        ("reconstruct", ["--n", "4"]),
        ("interpolate", ["--n", "2", "--steps", "3"]),
        ("edit", ["--attribute", "3", "--n", "2", "--strengths", "1"]),
    ],
)
def test_codes_are_found_in_the_space_that_was_asked_for(name, options, space, capsys):
    assert main([name, "runs/style", *options, "--space", space, "--inversion-steps", "4"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert f"codes in {space} found by inversion (4 steps" in shown.out and "not told" not in shown.err
    path = f"runs/style/{name}.png"
    assert np.asarray(Image.open(path)).std() > 5 and read_recipe(path)["arguments"]["space"] == space


def test_the_space_reaches_the_codes(monkeypatch):
    """What is drawn of a reconstruction is what the model makes of styles for each layer; those fit better than z."""
    from pushforward.cli import reconstruct

    seen = []
    monkeypatch.setattr("pushforward.pictures.draw.draw_pairs", lambda spec, x, again, labels: seen.append((x, again)) or None)
    monkeypatch.setattr(reconstruct, "write", lambda *given: "nowhere")
    for space in ("z", "w+"):
        assert main(["reconstruct", "runs/style", "--n", "6", "--space", space, "--inversion-steps", "40"]) == 0
    (x, by_z), (same, by_styles) = seen
    assert torch.equal(x, same)
    error = [(x.float() - again.float()).square().mean() for again in (by_z, by_styles)]
    assert error[1] < error[0]


def test_sampled_codes_of_a_space_lie_on_a_line(monkeypatch):
    from pushforward.cli import interpolate

    seen = []
    monkeypatch.setattr(interpolate, "write_states", lambda run, name, given, values, **more: seen.append(values))
    options = ["--sampled", "--n", "2", "--steps", "3", "--seed", "5", "--condition", "3"]
    assert main(["interpolate", "runs/style", *options, "--space", "w"]) == 0
    run = pf.load("runs/style")
    three = torch.tensor([3, 3])
    a, b = (run.model.draw_styles(2, condition=three, generator=seed).detach() for seed in (10, 11))
    middle = run.units.to_codes(run.model.decode_styles((a + b) / 2).detach())
    assert torch.equal(seen[0][:, 1], middle)


def test_contents_in_views(capsys):
    assert (
        main(
            [
                "train",
                "gmv",
                "--data",
                "digits",
                "--out",
                "runs/gmv",
                "--model.network",
                "mlp",
                *SMALL,
                "--model.content",
                "2",
                *QUICK,
            ]
        )
        == 0
    )
    assert main(["mix", "runs/gmv", "--n", "3", "--columns", "4"]) == 0, capsys.readouterr().err
    run = pf.load("runs/gmv")
    grid = mixing.viewed(run, 3, 4, seed=0)
    torch.testing.assert_close(grid, run.units.to_codes(run.model.views(3, 4, generator=0).flatten(0, 1)).view(grid.shape))
    assert np.asarray(Image.open("runs/gmv/mix.png")).std() > 5
    assert main(["mix", "runs/gmv", "--layers", "coarse"]) == 2
    assert "contents and views" in capsys.readouterr().err


def test_a_grid_of_mixed_styles(monkeypatch, capsys):
    """Its first row and column are the images themselves, of the classes that were asked for; the seed says the rest."""
    drawn = []
    tiles = "pushforward.pictures.grids.tile_rows"
    from pushforward.pictures.grids import tile_rows

    monkeypatch.setattr(tiles, lambda rows, *given, **more: drawn.append((rows, more)) or tile_rows(rows, *given, **more))
    options = ["--n", "3", "--columns", "2", "--condition", "3,7", "--column-condition", "1", "--seed", "4"]
    assert main(["mix", "runs/style", *options, "--layers", "2,fine"]) == 0, capsys.readouterr().err
    run, (first, second) = pf.load("runs/style"), drawn
    assert first[1]["row_labels"] == ["", "3", "7", "3"] and first[1]["column_labels"] == ["", "1", "1"]
    a = run.model.draw_styles(3, condition=torch.tensor([3, 7, 3]), generator=8)
    b = run.model.draw_styles(2, condition=torch.tensor([1, 1]), generator=9)
    own, others = (run.units.to_codes(run.model.decode_styles(w).detach()).numpy() for w in (a, b))
    count = run.model.generator.layers
    for (rows, _), crossover in ((first, 2), (second, mixing.part("fine", count)[0])):
        assert rows[0][0] is None and np.array_equal(rows[0][1:], others)
        for i in range(3):
            assert np.array_equal(rows[1 + i][0], own[i])
            for j in range(2):
                w = run.model.generator.mix(a[i : i + 1], b[j : j + 1], crossover)
                expected = run.units.to_codes(run.model.decode_styles(w).detach())[0].numpy()
                assert np.array_equal(rows[1 + i][1 + j], expected)
    before = np.asarray(Image.open("runs/style/mix.png"))
    assert main(["sample", "--again", "runs/style/mix.png"]) == 0
    assert np.array_equal(before, np.asarray(Image.open("runs/style/mix-again.png")))
    drawn.clear()
    assert main(["mix", "runs/style", "--n", "2", "--columns", "2"]) == 0
    assert len(drawn) == 1


def swept(monkeypatch, *argv):
    """The codes of a picture of rows, and what is printed is left to the caller."""
    seen = []
    from pushforward.pictures.draw import draw_strips

    monkeypatch.setattr(
        "pushforward.pictures.draw.draw_strips",
        lambda spec, values, **more: seen.append(values) or draw_strips(spec, values, **more),
    )
    assert main(["sample", *argv]) == 0
    return seen[0]


@pytest.mark.parametrize(
    "name, option, values",
    [("style", "truncation", (0.0, 0.5, 1.0)), ("gan", "truncation", (1.0, 0.5)), ("gan", "keep", (1.0, 0.5))],
)
def test_rows_are_samples_of_one_seed_at_each_value(monkeypatch, capsys, name, option, values):
    from pushforward.cli import sample

    monkeypatch.setattr(sample, "traded", lambda *given: ["measured"])
    words = ",".join(f"{value:g}" for value in values)
    other = {"truncation": "keep", "keep": "truncation"}[option]
    rest = ["-n", "5", "--seed", "3", "--condition", "3,4", f"--{other}", "0.8"]
    made = swept(monkeypatch, f"runs/{name}", f"--{option}", words, *rest)
    run = pf.load(f"runs/{name}")
    for row, value in zip(made, values, strict=True):
        asked = torch.tensor([3, 4, 3, 4, 3])
        assert torch.equal(row, run.sample_codes(5, condition=asked, seed=3, **{option: value, other: 0.8}))
    path = f"runs/{name}/samples-seed3-{option}.png"
    out = capsys.readouterr().out
    assert path in out and "measured" in out
    recipe = read_recipe(path)
    assert recipe["sweep"] == {option: list(values)} and recipe["seed"] == 3 and recipe["options"] == {other: 0.8}
    assert main(["sample", "--again", path]) == 0
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(path.replace(".png", "-again.png"))))


def test_precision_and_recall_of_each_value_are_those_of_the_samples(capsys):
    """As many samples as data are held out, in the data's own space. Samples that are all alike recall nothing."""
    assert main(["sample", "runs/ring", "--truncation=0,0.6,1", "-n", "50", "--keep", "0.9"]) == 0
    path, *lines = capsys.readouterr().out.splitlines()
    assert np.asarray(Image.open(path)).std() > 5
    found = {
        float(value): (p, r)
        for line in lines
        for value, p, r in re.findall(r"^truncation (\S+): .*?(\d\.\d+) .*?recall (\d\.\d+)", line)
    }
    run = pf.load("runs/ring")
    data = run.load_data()
    real = matrix(run.spec, take(data.held_out)[0])
    for value in (0.0, 0.6, 1.0):
        samples = matrix(run.spec, run.sample_codes(len(real), seed=0, truncation=value, keep=0.9))
        expected = neighbourhoods(real, samples)
        assert found[value] == tuple(f"{expected[name]:.2f}" for name in ("precision", "recall"))
    assert found[0.0][1] == "0.00" and lines[3].startswith("training data in the samples' place: precision 1.00")
    assert f"{len(real)} samples" in lines[4] and len(lines) == 5


def test_one_value_is_as_ever(capsys):
    assert main(["sample", "runs/gan", "--truncation", "0.5", "-n", "4"]) == 0
    assert capsys.readouterr().out == "runs/gan/samples-seed0-truncation-0.5.png\n"
    assert read_recipe("runs/gan/samples-seed0-truncation-0.5.png")["options"]["truncation"] == 0.5


def test_what_a_gan_cannot_make_is_an_outlier(capsys):
    """All held-out data are scored under their own classes, and the table and the picture say so."""
    assert main(["outliers", "runs/gan", "--n", "4", "--inversion-steps", "3", "--most", "40", "--against", "digits"]) == 0
    out = capsys.readouterr().out
    assert "40 data (40 of 359 test) by residual" in out and "no encoder: codes found by inversion (3 steps" in out
    assert re.search(r"AUROC against 'digits': 0\.\d+ \(40 data", out)
    table = pd.read_csv("runs/gan/outliers.csv", comment="#")
    assert table["score"].is_monotonic_decreasing and len(table) == 40 and table["score"].min() > 0
    run = pf.load("runs/gan")
    x, label = run.load_data().test.fetch(torch.tensor(table["item"][:3].tolist()))
    from pushforward.editing.outliers import residuals

    again = residuals(run, x, condition=label, steps=3).score
    np.testing.assert_allclose(table["score"][:3], again.numpy(), rtol=1e-3)


WRONG = [
    (["reconstruct", "runs/style", "--space", "v"], "no space of codes 'v' in StyleGAN; it has z, w, w+."),
    (["edit", "runs/gan", "--attribute", "3", "--space", "w"], "in GAN; it has z alone"),
    (["interpolate", "runs/gan", "--sampled", "--space", "w+"], "in GAN; it has z alone"),
    (
        ["interpolate", "runs/style", "--condition", "3", "--end-condition", "8", "--space", "w"],
        "a code in w has its condition in it",
    ),
    (["mix"], "which run"),
    (["mix", "runs/gan"], "'gan' cannot mix: its layers have no styles of their own. stylegan and stylegan2 can, and gmv"),
    (["mix", "runs/style", "--layers", "0"], "expected a number from 1 to 5 (of 6 layers"),
    (["mix", "runs/style", "--layers", "3,deep"], "layers deep were given"),
    (["mix", "runs/style", "--columns", "0"], "--columns 0 was given"),
    (["mix", "runs/style", "--out", "mix.gif"], "an ending of .png"),
    (["mix", "runs/style", "--condition", "11"], "class 11 was asked for"),
    (["sample", "runs/gan", "--truncation", "0.3,high"], "--truncation"),
    (["sample", "runs/gan", "--truncation", "0.3,1", "--keep", "0.5,1"], "--truncation and --keep were given several values"),
    (["sample", "runs/gan", "--keep", "0,1"], "keep = 0.0 was given"),
    (["sample", "runs/gan", "--keep", "0.5,1", "--out", "x.csv"], "are drawn as one .png"),
    (["outliers", "runs/gan", "--by", "likelihood"], "cannot score by likelihood; try by=residual"),
    (["outliers", "runs/gan", "--inversion-steps", "0"], "must be at least 1"),
    (["outliers", "runs/gan", "--most", "0"], "--most 0 was given"),
]


@pytest.mark.parametrize("argv, sentence", WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_mistakes_are_sentences(argv, sentence, capsys):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
