"""The verbs that edit, of models that decode and do not encode: codes are found by descent, and it is said."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.artefacts import read_recipe
from pushforward.cli import main
from pushforward.cli.editing import add_inversion, parser
from pushforward.data.batches import take
from pushforward.editing.codes import encoded, found
from pushforward.editing.interpolation import interpolate
from pushforward.editing.inversion import STEPS

QUICK = ["--steps", "8", "--evaluate", "false", "--tensorboard", "false", "--picture-every", "0", "--precision", "fp32"]
SMALL = ["--model.network", "mlp", "--model.width", "4", "--model.latent-dim", "3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("inversion")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(place)
    assert main(["train", "gan", "--data", "digits", "--out", "runs/told", *SMALL, *QUICK]) == 0
    assert main(["train", "gan", "--data", "digits", "--label", "none", "--out", "runs/plain", *SMALL, *QUICK]) == 0
    monkeypatch.undo()
    return place


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


CASES = [
    ("reconstruct", "plain", ["--n", "4"], 4),
    ("reconstruct", "told", ["--n", "4"], 4),
    ("interpolate", "plain", ["--n", "3", "--steps", "3", "--average"], 6),
    ("interpolate", "told", ["--n", "3", "--steps", "3"], 6),
    ("traverse", "plain", ["--n", "2"], 1),
    ("edit", "told", ["--attribute", "3", "--n", "2"], 2),
    ("edit", "plain", ["--label", "label", "--attribute", "3", "--n", "2", "--strengths", "1"], 2),
]


@pytest.mark.parametrize("verb, name, options, data", CASES, ids=[f"{verb}-{name}" for verb, name, *_ in CASES])
def test_each_verb_says_how_codes_were_found_and_how_well(verb, name, options, data, capsys):
    assert main([verb, f"runs/{name}", *options, "--inversion-steps", "15"]) == 0, capsys.readouterr().err
    said = re.search(
        r"no encoder: codes found by inversion \(15 steps from 2 starts\), .* ([\d.e-]+) \(model .* (\d+) data",
        (capsys.readouterr().out),
    )
    assert said and 0 < float(said[1]) < 2 and int(said[2]) == data
    path = f"runs/{name}/{verb}.png"
    assert np.asarray(Image.open(path)).std() > 5 and read_recipe(path)["arguments"]["inversion_steps"] == 15


def test_more_steps_come_nearer_and_the_error_is_that_of_what_is_drawn():
    run = pf.load("runs/plain")
    x = take(run.load_data().held_out, 5)[0]
    few, many = (found(run, x, steps=steps) for steps in (2, 60))
    assert (many.error < few.error).all() and many.steps == 60
    again = run.model.decode(many.z).detach()
    torch.testing.assert_close(many.error, (again - run.units.to_model(x)).square().flatten(1).mean(1))
    assert torch.equal(encoded(run, x, steps=2), few.z)


def test_an_interpolation_ends_where_inversion_led():
    run = pf.load("runs/told")
    x, label = take(run.load_data().held_out, 4)
    values = interpolate(run, x[:2], x[2:], steps=3, condition=label[:2], end_condition=label[2:], inversion_steps=5)
    a, b = encoded(run, x[:2], label[:2], 5), encoded(run, x[2:], label[2:], 5)
    decoded = [run.units.parse(run.decode(z, condition=label[:2])) for z in (a, b)]
    assert torch.equal(values[:, 0], decoded[0]) and torch.equal(values[:, -1], decoded[1])


def test_who_encodes_is_not_inverted(capsys):
    assert main(["train", "vae", "--data", "digits", "--model.width", "8", "--out", "runs/vae", *QUICK]) == 0
    for verb in ("reconstruct", "interpolate", "traverse"):
        capsys.readouterr()
        assert main([verb, "runs/vae", "--n", "2"]) == 0
        assert "by inversion" not in capsys.readouterr().out
    run = pf.load("runs/vae")
    x, label = take(run.load_data().held_out, 2)
    assert found(run, x, label).error is None and found(run, x, label).line() == ""


def test_the_option_is_the_librarys(capsys):
    built = parser("reconstruct", "")
    add_inversion(built)
    assert built.understand([]).inversion_steps == STEPS
    assert main(["reconstruct", "runs/plain", "--inversion-steps", "0"]) == 2
    assert "--inversion-steps 0 was given; it must be at least 1" in capsys.readouterr().err
