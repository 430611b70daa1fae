"""Restoration with a run, from Python and from the shell. The model is not trained: what holds for any denoiser is asked of it,
and what a trained one does better of data that are exactly Gaussian (tests/dynamics/test_inverse.py)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward import UserError, create, load, load_data, train
from pushforward.artefacts import read_recipe
from pushforward.cli.restore import run as restore_verb
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.dynamics.inverse import METHODS
from pushforward.dynamics.measurements import parse_operator
from pushforward.dynamics.operators import JPEG, CircularBlur, Composition, DownSample, Grey, Mask, ReflectedBlur
from pushforward.editing.restoration import measured, restore
from pushforward.randomness import seeded
from pushforward.training.runs import Run

QUICK = {"batch_size": 4, "tensorboard": False, "picture_every": 0, "precision": "fp32", "steps": 2, "validate_every": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on smooth 8 x 8 images in colour."""
    place = tmp_path_factory.mktemp("restoring")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    (place / "smooth").mkdir()
    generator = np.random.default_rng(0)
    for i in range(24):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3)).astype(np.uint8))
        coarse.resize((8, 8), Image.Resampling.BILINEAR).save(place / "smooth" / f"{i:02d}.png")
    smooth = load_data("smooth")
    with seeded(0):
        train(create("flow-matching", smooth.spec, width=8), smooth, out="runs/smooth", **QUICK)
    patch.undo()
    return place


def opened(name, spec, **settings):
    """A run of a model as it is made."""
    with seeded(0):
        model = create(name, spec, **settings).eval()
        for parameter in model.parameters():  # some begin at 0, and answer the same to anything
            parameter.data += 0.1 * torch.randn_like(parameter)
    return Run(model, spec, Path("nowhere"), {"model": {"name": name}})


def digits(name="flow-matching", **settings):
    return opened(name, DataSpec("image", (1, 8, 8), Condition("class", 10), levels=17), width=8, **settings)


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


def refused(call, words):
    with pytest.raises(UserError) as error:
        call()
    assert words in str(error.value), error.value


@pytest.mark.parametrize("options", [{}, {"target": "noise", "path": "cosine"}], ids=["velocity", "noise"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_restores_with_every_model_of_diffusion(options, method):
    run = opened("flow-matching", DataSpec("image", (3, 16, 16), levels=256), width=8, **options)
    operator = parse_operator("down-sample:4", (3, 16, 16))
    y = measured(operator, torch.linspace(-0.9, 0.9, 2 * 768).view(2, 3, 16, 16))
    found = restore(run, y, operator, method=method, samples=2, steps=5, seed=3)
    assert found.samples.shape == (2, 2, 3, 16, 16) and found.samples.isfinite().all()
    torch.testing.assert_close(found.mean, found.samples.mean(1))
    torch.testing.assert_close(found.deviation, (found.samples[:, 0] - found.samples[:, 1]).abs() / 2**0.5)
    if method in ("ddnm", "ddrm", "repaint"):
        again = operator(found.samples.flatten(0, 1)).unflatten(0, (2, 2))
        torch.testing.assert_close(again, y[:, None].expand_as(again), rtol=0, atol=1e-5)
    assert restore(run, y, operator, method=method, steps=5).deviation.abs().max() == 0
    # sample k of image i is row 2 i + k: a sixth restored beside them changes nothing
    more = restore(run, torch.cat([y, y[:1]]), operator, method=method, samples=2, steps=5, seed=3)
    torch.testing.assert_close(more.samples[:2], found.samples, rtol=0, atol=1e-5)
    other = restore(run, y, operator, method=method, samples=2, steps=5, seed=4)
    assert (other.samples - found.samples).abs().max() > 1e-3


def test_what_is_known_of_noise_is_used():
    """With noise ddnm need not keep y, and comes as near to it as that is accurate."""
    run = load("runs/smooth")
    operator = parse_operator("mask:0.5", (3, 8, 8), seed=1)
    x = run.units.to_model(run.load_data().train.fetch(torch.arange(16))[0])
    y = measured(operator, x, 0.2, seed=5)
    assert (y - operator(x))[:, operator.known].std().item() == pytest.approx(0.2, rel=0.1)  # of 1536
    off = [
        (operator(restore(run, y, operator, method="ddnm", noise=noise, steps=20).samples[:, 0]) - operator(y))
        for noise in (0.0, 0.2)
    ]
    assert off[0].abs().max() < 1e-5 and 0.02 < off[1][:, operator.known].std() < 0.4


@pytest.mark.parametrize(
    ("words", "kind", "shape"),
    [
        ("mask:centre", Mask, (3, 16, 16)),
        ("mask:left", Mask, (3, 16, 16)),
        ("mask:2,3,4,5", Mask, (3, 16, 16)),
        ("mask:0.25", Mask, (3, 16, 16)),
        ("mask:hole.png", Mask, (3, 16, 16)),
        ("blur:1.5", ReflectedBlur, (3, 16, 16)),
        ("blur:1.5,circular", CircularBlur, (3, 16, 16)),
        ("motion:5,45", CircularBlur, (3, 16, 16)),
        ("down-sample:4", DownSample, (3, 4, 4)),
        ("grey", Grey, (1, 16, 16)),
        ("jpeg:20", JPEG, (3, 16, 16)),
        ("blur:1+down-sample:2+jpeg:50", Composition, (3, 8, 8)),
    ],
)
def test_operators_in_words(words, kind, shape):
    hole = np.full((16, 16), 255, np.uint8)
    hole[2:6, 3:8] = 0
    Image.fromarray(hole).save("hole.png")
    operator = parse_operator(words, (3, 16, 16))
    assert isinstance(operator, kind) and operator.measured == shape
    if words in ("mask:2,3,4,5", "mask:hole.png"):
        hidden = (~operator.known).nonzero()
        assert hidden.min(0).values.tolist() == [0, 2, 3] and hidden.max(0).values.tolist() == [2, 5, 7] and len(hidden) == 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("blurr:1", "did you mean blur?"),
        ("mask", "expected mask:bottom"),
        ("mask:nothing.png", "expected mask:bottom"),
        ("mask:1,2,3", "expected mask:bottom"),
        ("mask:1.5", "between 0 and 1"),
        ("blur", "expected blur:SIGMA"),
        ("blur:1,round", "expected blur:SIGMA"),
        ("motion:4,3,2", "expected motion:LENGTH"),
        ("down-sample:5", "16 x 16 pixels"),
        ("down-sample:x", "expected down-sample:FACTOR"),
        ("grey:3", "expected grey"),
        ("grey+grey", "grey already"),
        ("jpeg:0", "from 1 to 100"),
        ("jpeg:50+grey", "let it be the last"),
        ("down-sample:4+jpeg:50", "blocks of 8 x 8"),
        ("", "there is no operator ''"),
    ],
)
def test_words_that_are_no_operator(words, said):
    refused(lambda: parse_operator(words, (3, 16, 16)), said)


def test_what_cannot_be_restored_is_said():
    smooth, known, needy = load("runs/smooth"), digits(), digits(condition_dropout=0.0)
    points = opened("flow-matching", DataSpec("point", (2,)), width=8)
    codes = opened("flow-matching", DataSpec("field", (4, 8, 8), columns=tuple(Column(c, "number") for c in "abcd")), width=8)
    half, small = DownSample((3, 8, 8), 2), DownSample((1, 8, 8), 2)
    y, tiny = torch.zeros(1, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    refused(lambda: restore(digits("gan"), tiny, small), "'gan' has no denoiser to restore with")
    refused(lambda: restore(points, tiny, small), "point data of shape (2,); what is restored are images")
    refused(lambda: restore(codes, tiny, small), "codes or fields of shape (4, 8, 8)")
    refused(lambda: restore(smooth, tiny, small), "measures images of shape (1, 8, 8); the run makes (3, 8, 8)")
    refused(lambda: restore(smooth, torch.zeros(1, 3, 8, 8), half), "measurements of shape (3, 8, 8) were given")
    refused(lambda: restore(smooth, y, half, noise=-0.1), "noise = -0.1")
    refused(lambda: restore(smooth, y, half, samples=0), "at least 1")
    refused(lambda: restore(smooth, y, half, steps=0), "steps")
    refused(lambda: restore(smooth, y, half, method="rpaint"), "did you mean repaint?")
    refused(lambda: restore(smooth, y, half, method="ddnm", scale=1.0), "ddnm has no option 'scale'; it has eta")
    refused(lambda: restore(smooth, y, half, resamplings=3), "does not go back in time")
    refused(lambda: restore(smooth, y, half, condition=3), "none to condition on")
    refused(lambda: restore(smooth, y, half, guidance=2.0), "leave guidance at 1")
    refused(lambda: restore(needy, tiny, small), "needs a class as condition")
    refused(lambda: restore(known, tiny, small, guidance=2.0), "leave guidance at 1")
    assert restore(needy, tiny, small, condition=3, steps=2).samples.shape == (2, 1, 1, 8, 8)
    asked = [restore(known, tiny, small, condition=k, guidance=g, steps=2).samples for k, g in ((3, 1.0), (4, 1.0), (3, 2.0))]
    assert (asked[0] - asked[1]).abs().max() > 0 and (asked[0] - asked[2]).abs().max() > 0


def test_held_out_data_are_measured_and_restored(capsys):
    restore_verb(["runs/smooth", "--operator", "mask:centre", "--n", "2", "--steps", "3", "--method", "ddnm", "--samples", "2"])
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith("restore.png") and out.count("PSNR") == 3 and "off by 0.0000" in out
    made = read_recipe("runs/smooth/restore.png")
    assert made["verb"] == "restore" and made["arguments"]["operator"] == "mask:centre"
    first = np.asarray(Image.open("runs/smooth/restore.png"))
    restore_verb(["runs/smooth", "--operator=mask:centre", "--n=2", "--steps=3", "--method=ddnm", "--samples=2", "--out=b.png"])
    np.testing.assert_array_equal(first, np.asarray(Image.open("b.png")))


def test_a_photo_is_restored_as_it_is_given_or_degraded_first(capsys):
    """Measured by a person, an image is in the size of what is measured: half of that here."""
    picture = Image.open("smooth/00.png")
    pixels = np.asarray(picture).astype(float).reshape(4, 2, 4, 2, 3).mean((1, 3))
    Image.fromarray(pixels.round().astype(np.uint8)).save("small.png")
    options = ["--operator", "down-sample:2", "--steps", "3", "--method", "ddnm", "--samples", "1"]
    restore_verb(["runs/smooth", "small.png", *options, "--restored", "large.png", "--out", "strip.png"])
    out = capsys.readouterr()
    assert "PSNR" not in out.out and "resized" not in out.err and "off by 0.00" in out.out
    large = np.asarray(Image.open("large.png")).astype(float)
    assert large.shape == (8, 8, 3)
    blocks = large.reshape(4, 2, 4, 2, 3)
    means, inside = blocks.mean((1, 3)), (blocks.max((1, 3)) < 255) & (blocks.min((1, 3)) > 0)
    assert np.abs(means - pixels)[inside].max() < 1.1 and inside.sum() > 5  # rounded twice; elsewhere levels are clamped
    restore_verb(["runs/smooth", "smooth/00.png", "--degrade", *options, "--out", "strip.png"])
    assert "PSNR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which run?"),
        (["runs/smooth"], "Say --operator mask:bottom"),
        (["runs/smooth", "a.png", "b.png", "--operator", "grey"], "a run and one image were expected"),
        (["runs/smooth", "--operator", "grey", "--out", "a.gif"], "drawn as .png"),
        (["runs/smooth", "--operator", "grey", "--n", "0"], "at least 1"),
        (["runs/smooth", "--operator", "grey", "--restored", "a.png"], "none was given"),
        (["runs/smooth", "a.png", "--operator", "grey", "--items", "1"], "leave one away"),
        (["runs/smooth", "nowhere.png", "--operator", "grey"], "is not there"),
        (["runs/smooth", "--operator", "down-sample:3"], "divides both"),
        (["runs/smooth", "--operator", "grey", "--noise", "-1"], "noise = -1"),
        (["runs/smooth", "--operator", "grey", "--method", "repaint", "--noise", "0.1"], "take ddnm or pigdm"),
    ],
)
def test_what_cannot_be_asked_is_said(words, said):
    refused(lambda: restore_verb(words), said)
