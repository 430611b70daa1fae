"""The verb that draws how noise becomes data: each picture with its recipe, or a sentence that says why not."""

from pathlib import Path

import pytest
from PIL import Image

from pushforward import UserError, create, load_data, train
from pushforward.artefacts import read_recipe
from pushforward.cli.editing import command
from pushforward.cli.trajectory import chosen, run
from pushforward.randomness import seeded
from pushforward.training.runs import Run

QUICK = {"batch_size": 8, "tensorboard": False, "picture_every": 0, "precision": "fp32", "steps": 2, "validate_every": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("trajectories")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    for name, data, settings in [
        ("flow-matching", "digits", {"width": 16, "depth": 1}),
        ("flow-matching", "moons", {"width": 16, "depth": 1}),
    ]:
        loaded = load_data(data)
        with seeded(0):
            train(create(name, loaded.spec, **settings), loaded, out=f"runs/{name}-{data}", **QUICK)
    patch.undo()
    return place


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


def test_images(capsys):
    run(["runs/flow-matching-digits", "--solvers", "ddim,heun", "--steps", "2,3", "--n", "3"])
    written = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[1] for path in written] == ["trajectory.png", "denoising.png", "solvers.png"]
    for path in written:
        recipe = read_recipe(path)
        assert recipe["verb"] == "trajectory" and recipe["weights"]
        assert recipe["arguments"]["pictures"] in path and recipe["arguments"]["steps"] == "2,3"


def test_points(capsys):
    run(["runs/flow-matching-moons", "--solvers", "heun", "--steps", "2", "--frames", "5", "--frechet", "50"])
    written = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[1] for path in written] == ["field.png", "field.gif", "solvers.png"]
    with Image.open(written[1]) as moving:
        assert moving.n_frames == 8  # there and back
    assert read_recipe(written[1])["arguments"]["pictures"] == "animation"


def test_one_picture_goes_where_it_is_told_and_is_made_again(capsys):
    given = ["runs/flow-matching-digits", "--pictures", "denoising", "--items", "3,1", "--seed", "4"]
    run([*given, "--out", "a.png"])
    run([*given, "--out", "b.png"])
    assert [path.rsplit("/", 1)[-1] for path in capsys.readouterr().out.split()] == ["a.png", "b.png"]
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.tobytes() == b.tobytes()
    run(command("runs/flow-matching-digits", read_recipe("a.png"), "c.png"))
    with Image.open("a.png") as a, Image.open("c.png") as c:
        assert a.tobytes() == c.tobytes()


def test_several_go_beside_each_other():
    run(["runs/flow-matching-digits", "--pictures", "trajectory,denoising", "--out", "both.png", "--n", "2"])
    assert Path("both-trajectory.png").is_file() and Path("both-denoising.png").is_file()


@pytest.mark.parametrize(
    "argv, says",
    [
        (["runs/flow-matching-digits", "--pictures", "field"], "'field' cannot be drawn of this run; trajectory, denoising"),
        (["runs/flow-matching-moons", "--pictures", "denoising"], "'denoising' cannot be drawn of this run"),
        (["runs/flow-matching-moons", "--pictures", "feild"], "no picture 'feild'; did you mean field"),
        (["runs/flow-matching-moons", "--pictures", "animation", "--out", "a.png"], "'animation' is written as .gif"),
        (["runs/flow-matching-digits", "--steps", "5,x"], "--steps 5,x was given"),
        (["runs/flow-matching-digits", "--pictures", "solvers", "--solvers", "huen"], "there is no solver 'huen'"),
        (["runs/flow-matching-digits", "--frechet", "1"], "--frechet 1 was given"),
        (["runs/flow-matching-digits", "--frames", "1"], "--frames 1 was given"),
        ([], "which run"),
    ],
)
def test_sentences(argv, says):
    with pytest.raises(UserError) as error:
        run(argv)
    assert says in str(error.value), error.value


def test_runs_without_a_denoiser():
    spec = load_data("moons").spec
    with pytest.raises(UserError, match="'gaussian' has no denoiser"):
        chosen(Run(create("gaussian", spec), spec, Path("nowhere"), {"model": {"name": "gaussian"}}), None)
