"""`pushforward translate`, end to end: files, folders and held-out data, by a model of pairs and by one of two classes."""

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward import UserError, create, load, load_data, train, zoo
from pushforward.artefacts import read_recipe
from pushforward.cli import main
from pushforward.cli.editing import command
from pushforward.cli.translate import goals
from pushforward.data.batches import take
from pushforward.data.decoding import Plan, render
from pushforward.pictures import draw_pairs
from pushforward.randomness import seeded
from pushforward.training.gallery import PICTURE_SEED, draw_run
from pushforward.zoo import Method

QUICK = {"batch_size": 4, "tensorboard": False, "picture_every": 0, "precision": "fp32"}
LINES = {
    "pix2pix": Method("adversarial", "adversarial.pix2pix:Pix2Pix", "", "", ("image",)),
    "cyclegan": Method("adversarial", "adversarial.cyclegan:CycleGAN", "", "", ("image",)),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pairs of grey photographs and their coloured negatives in a folder, and the same images as two classes; a run of each."""
    place = tmp_path_factory.mktemp("translating")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    for name, line in LINES.items():
        patch.setitem(zoo.ZOO, name, line)
    generator = np.random.default_rng(0)
    for side in ("photo", "drawing"):
        (place / "pairs" / side).mkdir(parents=True)
    for i in range(24):
        photo = np.kron(generator.integers(0, 256, (4, 5)), np.ones((4, 4))).astype(np.uint8)
        Image.fromarray(photo).save(place / "pairs" / "photo" / f"{i:02d}.png")
        drawing = np.stack([255 - photo, photo, 255 - photo], -1)
        Image.fromarray(drawing).save(place / "pairs" / "drawing" / f"{i:02d}.png")
    pairs = load_data("pairs", image="photo", target_image="drawing")
    classes = load_data("pairs", size="16x20", mode="RGB")
    with seeded(0):
        pix2pix = create("pix2pix", pairs.spec, width=4, adversarial=0.0, learning_rate=5e-3)
        cyclegan = create("cyclegan", classes.spec, width=4, blocks=1)
    train(pix2pix, pairs, out="runs/pix2pix", steps=40, **QUICK)
    train(cyclegan, classes, out="runs/cyclegan", steps=2, **QUICK)
    train("gaussian", load_data("digits", limit=50), out="runs/gaussian", **QUICK)
    patch.undo()
    return place


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)
    for name, line in LINES.items():
        monkeypatch.setitem(zoo.ZOO, name, line)


def photo(size=(20, 16), name="photo.jpg", seed=1):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5)).astype(np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(name)
    return name


def pixels(path):
    return np.asarray(Image.open(path)).astype(float)


def test_an_image_becomes_an_image_beside_it(capsys):
    assert main(["translate", "runs/pix2pix", photo()]) == 0
    assert "resized" not in (said := capsys.readouterr()).err and "photo-translated.png" in said.out
    made = pixels("photo-translated.png")
    run, given = load("runs/pix2pix"), torch.from_numpy(np.array(Image.open("photo.jpg")))[None, None]
    assert made.shape == (16, 20, 3)
    assert np.array_equal(made, np.moveaxis(np.asarray(run.translate(given, seed=0))[0], 0, -1))
    # It has learned something of the pairs: the red channel is nearer to the negative than to the photograph.
    negative, grey = 255 - pixels("photo.jpg"), pixels("photo.jpg")
    assert np.abs(made[..., 0] - negative).mean() < 0.7 * np.abs(made[..., 0] - grey).mean()
    recipe = read_recipe("photo-translated.png")
    assert recipe["verb"] == "translate" and recipe["weights"] == run.weights
    assert main(["translate", *command("runs/pix2pix", recipe, "again.png")]) == 0
    assert np.array_equal(pixels("again.png"), made)


def test_another_seed_is_other_noise():
    assert main(["translate", "runs/pix2pix", photo(), "--seed", "1", "--out", "one.png"]) == 0
    assert main(["translate", "runs/pix2pix", photo(), "--seed", "2", "--out", "two.png"]) == 0
    assert not np.array_equal(pixels("one.png"), pixels("two.png"))


def test_an_image_of_another_size_is_resized_and_it_is_said(capsys):
    photo((80, 32), "wide.png")
    assert main(["translate", "runs/pix2pix", "wide.png"]) == 0
    assert "an image of 32 x 80 is resized and centre-cropped to the run's 16 x 20." in capsys.readouterr().err
    middle = render(Image.open("wide.png"), Plan("L", 16, 20))
    made = load("runs/pix2pix").translate(torch.from_numpy(middle.copy())[None], seed=0)
    assert np.array_equal(pixels("wide-translated.png"), np.moveaxis(np.asarray(made)[0], 0, -1))


def test_a_folder_becomes_a_folder_in_which_each_image_is_as_if_alone(place, capsys):
    (place / "shots" / "more").mkdir(parents=True, exist_ok=True)
    photo(name="shots/a.jpg", seed=2)
    photo(name="shots/a.png", seed=3)
    photo((40, 40), name="shots/more/b.png", seed=4)
    (place / "shots" / "notes.txt").write_text("no image")
    assert main(["translate", "runs/pix2pix", "shots"]) == 0
    said = capsys.readouterr()
    assert "shots-translated" in said.out and "1 of 3 images (one is 40 x 40) are resized" in said.err
    found = sorted(str(path.relative_to(place / "shots-translated")) for path in (place / "shots-translated").rglob("*.png"))
    assert found == ["a.jpg.png", "a.png.png", "more/b.png"]
    assert main(["translate", "runs/pix2pix", "shots/a.png", "--out", "alone.png"]) == 0
    assert np.array_equal(pixels("alone.png"), pixels("shots-translated/a.png.png"))
    assert main(["translate", "runs/pix2pix", "shots", "--out", "elsewhere"]) == 0
    assert (place / "elsewhere" / "more" / "b.png").is_file()


def test_held_out_pairs_are_shown_with_the_truth():
    assert main(["translate", "runs/pix2pix", "--items", "1,4", "--out", "rows.png"]) == 0
    picture = pixels("rows.png")
    held_out = load("runs/pix2pix").load_data().held_out
    drawings, photos = held_out.fetch(torch.tensor([1, 4]))
    right = picture.shape[1] - 12  # a margin; tiles are enlarged twice, with 2 pixels between them
    for row, bottom in ((1, picture.shape[0] - 12), (0, picture.shape[0] - 12 - 34)):
        true = picture[bottom - 32 : bottom, right - 40 : right][::2, ::2]
        assert np.array_equal(true, np.moveaxis(drawings[row].numpy(), 0, -1))
        given = picture[bottom - 32 : bottom, right - 124 : right - 84][::2, ::2]
        assert np.array_equal(given, np.repeat(photos[row].numpy()[0][..., None], 3, -1))
        made = picture[bottom - 32 : bottom, right - 82 : right - 42][::2, ::2]
        assert not np.array_equal(made, true) and not np.array_equal(made, given)


def test_the_class_asked_for_is_what_is_made(capsys):
    """--to names where to: the generator from the other class is asked, whatever the model would say itself."""
    photo(name="square.png")
    run = load("runs/cyclegan")
    names = list(run.spec.condition.names)
    image = torch.from_numpy(np.array(Image.open("square.png").convert("RGB"))).movedim(-1, 0)[None]
    for k, name in enumerate(names):
        assert main(["translate", "runs/cyclegan", "square.png", "--to", name, "--out", f"to-{name}.png"]) == 0
        wanted = run.units.to_codes(run.model.generators[1 - k](run.units.to_model(image)).detach())[0]
        assert np.abs(pixels(f"to-{name}.png") - np.moveaxis(wanted.numpy(), 0, -1)).max() <= 1
    assert not np.array_equal(pixels(f"to-{names[0]}.png"), pixels(f"to-{names[1]}.png"))
    capsys.readouterr()
    assert main(["translate", "runs/cyclegan", "--to", names[1], "--n", "3", "--split", "train", "--out", "held.png"]) == 0
    items = [int(word) for word in read_recipe("held.png")["arguments"]["items"].split(",")]
    classes = run.load_data().train.fetch(torch.tensor(items))[1]
    assert len(set(items)) == 3 and (classes == 0).all()
    wrong = int((run.load_data().held_out.fetch(torch.arange(8))[1] == 1).nonzero()[0])
    assert main(["translate", "runs/cyclegan", "--to", names[1], "--items", str(wrong)]) == 2
    assert f"item {wrong} is of the class that --to names already" in capsys.readouterr().err
    assert main(["translate", "runs/cyclegan", "--n", "4"]) == 0


REFUSED = [
    (["runs/pix2pix", "absent.png"], "absent.png is not there"),
    (["runs/pix2pix", "a", "b"], "a run and one input were expected"),
    ([], "which run"),
    (["runs/gaussian"], "'gaussian' cannot translate images"),
    (["runs/pix2pix", "photo.jpg", "--to", "photo"], "holds no classes, not two"),
    (["runs/cyclegan", "photo.jpg", "--to", "zebra"], "there is no class 'zebra'"),
    (["runs/pix2pix", "photo.jpg", "--items", "3"], "leave one of them away"),
    (["runs/pix2pix", "photo.jpg", "--out", "x.jpg"], "a translated image is a .png"),
    (["runs/pix2pix", "empty"], "no images are in empty"),
    (["runs/pix2pix", "pairs", "--out", "x.png"], "a folder of images becomes a folder"),
    (["runs/pix2pix", "broken.png"], "broken.png cannot be read"),
    (["runs/pix2pix", "--n", "0"], "must be at least 1"),
    (["runs/pix2pix", "--out", "x.gif"], "one .png"),
]


@pytest.mark.parametrize("words, said", REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_done_is_said(words, said, place, capsys):
    photo()
    (place / "empty").mkdir(exist_ok=True)
    (place / "broken.png").write_bytes(b"no image")
    assert main(["translate", *words]) == 2
    assert said in capsys.readouterr().err


def test_an_image_goes_into_a_folder_that_is_there(place):
    photo()
    made, pairs = goals(place / "photo.jpg", str(place / "runs"))
    assert made == pairs[0][1] == place / "runs" / "photo-translated.png"
    with pytest.raises(UserError, match="is not there"):
        goals(place / "nothing", None)


def test_of_a_folder_what_cannot_be_read_is_left_out(place, capsys):
    folder = place / "mixed"
    folder.mkdir()
    Image.new("L", (20, 16)).save(folder / "b.png")
    (folder / "a.png").write_text("no image")
    assert main(["translate", "runs/pix2pix", "mixed", "--out", "mixed-made"]) == 0
    assert "1 of 2 images cannot be read and are left out" in capsys.readouterr().err
    assert [path.name for path in (place / "mixed-made").iterdir()] == ["b.png"]
    (folder / "b.png").write_text("neither")
    assert main(["translate", "runs/pix2pix", "mixed"]) == 2
    assert "none of the 2 images can be read" in capsys.readouterr().err


def test_a_run_shows_what_it_turns_images_into(place):
    """Of classes each datum beside its translation; pairs of a grey and a coloured image are drawn by the verb alone."""
    run = load("runs/cyclegan")
    (path,) = [path for path in draw_run(run) if path.stem == "translations"]
    codes, condition = take(run.load_data().held_out, 8, seed=PICTURE_SEED)
    made = run.units.parse(run.translate(codes, condition=condition, seed=PICTURE_SEED))
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(draw_pairs(run.spec, codes, made, ("given", "made"))))
    assert not (place / "runs" / "pix2pix" / "translations.png").exists()
