"""`pushforward complete`, end to end: texts of characters and of a BPE as they come, and the missing half of images."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward import create, load, load_data, train, zoo
from pushforward.artefacts import BREAK, read_recipe
from pushforward.cli import main
from pushforward.cli.complete import Stream, kept
from pushforward.cli.editing import command
from pushforward.data.spec import Vocabulary
from pushforward.models.classical import gaussian
from pushforward.models.classical.gaussian import Gaussian
from pushforward.randomness import as_rng, seeded

QUICK = {"batch_size": 4, "tensorboard": False, "picture_every": 0, "precision": "fp32", "steps": 2}
TEXT = "ROMEO: wherefore art thou?\nJULIET: here, Romeo.\n" * 40


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs of characters, of a BPE over text beyond ASCII, and of images."""
    place = tmp_path_factory.mktemp("completing")
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    (place / "play.txt").write_text(TEXT)
    (place / "wide.txt").write_text("naïve café — 日本語 ☃ 🙂 " * 60, encoding="utf-8")
    characters = load_data("play.txt", context=16)
    pieces = load_data("wide.txt", context=16, tokenizer="bpe")
    small = {"depth": 1, "heads": 2, "width": 16}
    with seeded(0):
        models = [create("gpt", data.spec, **small) for data in (characters, pieces)]
    for model, data, name in zip(models, (characters, pieces), ("characters", "pieces"), strict=True):
        train(model, data, out=f"runs/{name}", **QUICK)
    (place / "rows.csv").write_text("a,b\n" + "".join(f"{i % 7},{i % 5}\n" for i in range(60)))
    rows = load_data("rows.csv")
    train(create("made", rows.spec, width=8), rows, out="runs/made", **QUICK)
    train("gaussian", load_data("digits", limit=60), out="runs/gaussian", batch_size=4, tensorboard=False, picture_every=0)
    patch.undo()
    return place


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


class Coins(Gaussian):
    """Draws what is missing: level or -level, by a coin for each pixel."""

    def complete(self, x, known, *, condition=None, generator=None, level: float = 1.0):
        coins = as_rng(generator, x.device).rand(*x.shape) < 0.5
        return torch.where(known, x, torch.where(coins, level, -level))


@pytest.fixture
def completing(monkeypatch):
    monkeypatch.setattr(gaussian, "Coins", Coins, raising=False)
    monkeypatch.setitem(zoo.ZOO, "gaussian", replace(zoo.ZOO["gaussian"], path="classical.gaussian:Coins"))


def said(capsys) -> str:
    return capsys.readouterr().out


def test_a_text_goes_on_from_its_prompt(capsys):
    assert main(["complete", "runs/characters", "--prompt", "ROMEO:", "--length", "60", "--seed", "3"]) == 0
    out = said(capsys)
    assert out == load("runs/characters").extend("ROMEO:", 60, seed=3)[0] + "\n"
    assert out.startswith("ROMEO:") and len(out) == 67
    assert main(["complete", "runs/characters", "--prompt", "ROMEO:", "--length", "60", "--seed", "4"]) == 0
    assert said(capsys) != out


def test_options_of_the_model_are_options(capsys):
    words = ["complete", "runs/characters", "--prompt", "ROMEO:", "--length", "30"]
    assert main([*words, "--top-k", "1", "--repetition-penalty", "1.2", "--min-p", "0.1", "--temperature", "0.5"]) == 0
    expected = load("runs/characters").extend("ROMEO:", 30, seed=9, top_k=1, repetition_penalty=1.2)  # greedy: no seed matters
    assert said(capsys) == expected[0] + "\n"


def test_each_character_is_printed_when_it_is_drawn(monkeypatch):
    written = []
    monkeypatch.setattr("pushforward.cli.complete._print", written.append)
    assert main(["complete", "runs/characters", "--prompt", "ROMEO:", "--length", "5"]) == 0
    assert written[0] == "ROMEO:" and [len(part) for part in written] == [6, 1, 1, 1, 1, 1, 1]


def test_several_texts_one_after_another(capsys):
    assert main(["complete", "runs/characters", "--prompt", "JULIET", "--length", "20", "-n", "3"]) == 0
    texts = load("runs/characters").extend(["JULIET"] * 3, 20, seed=0)
    assert said(capsys) == f"\n{BREAK}\n".join(texts) + "\n" and len(set(texts)) == 3


def test_prompts_from_a_file_and_from_what_is_piped_in(monkeypatch, capsys, place):
    (place / "begin.txt").write_text("ROMEO: here\nROMEO:\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("ROMEO: here\nROMEO:\n"))
    expected = load("runs/characters").extend("ROMEO: here\nROMEO:", 20, seed=0)[0] + "\n"  # 18 characters: past the context
    assert main(["complete", "runs/characters", "begin.txt", "--length", "20"]) == 0
    assert said(capsys) == expected
    assert main(["complete", "runs/characters", "--prompt", "-", "--length", "20"]) == 0
    assert said(capsys) == expected
    assert main(["complete", "runs/characters", "--length", "20"]) == 0  # nothing: from the beginning
    assert said(capsys) == load("runs/characters").extend("", 20, seed=0)[0] + "\n"


def test_texts_are_written_with_their_recipe_and_made_again(capsys, place):
    words = ["runs/characters", "--prompt", "ROMEO:", "--length", "40", "--n", "2", "--top-p", "0.9", "--out", "two.jsonl"]
    assert main(["complete", *words]) == 0
    assert said(capsys) == f"{place / 'two.jsonl'}\n"
    recipe = read_recipe("two.jsonl")
    assert recipe["verb"] == "complete" and recipe["arguments"]["prompt"] == "ROMEO:"
    assert main(["sample", "--again", "two.jsonl"]) == 0
    assert (place / "two.jsonl").read_bytes() == (place / "two-again.jsonl").read_bytes()
    assert main(["complete", "runs/characters", "--prompt", "RO", "--length", "9", "--out", "one.txt"]) == 0
    assert load("runs/characters").extend("RO", 9, seed=0)[0] in (place / "one.txt").read_text()


def test_pieces_of_characters_wait_for_the_rest(monkeypatch):
    written = []
    monkeypatch.setattr("pushforward.cli.complete._print", written.append)
    run = load("runs/pieces")
    for seed in range(3):
        written.clear()
        assert main(["complete", "runs/pieces", "--prompt", "日本", "--length", "80", "--seed", str(seed)]) == 0
        (whole,) = run.extend("日本", 80, seed=seed)
        assert "".join(written) == whole + "\n"
        assert len(written) > 20


def test_a_stream_writes_whole_characters_only():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    vocabulary = Vocabulary("bpe", 256, tokenizer=tokenizer.to_str())
    text, written = "a é 日🙂b", []
    stream = Stream(vocabulary, "> ", "|", written.append)
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text.encode())
    for row in range(2):
        for i in range(1, len(ids) + 1):
            stream.watch(row, torch.tensor([ids[:i]]))
    stream.finish()
    assert written == ["> ", *text, "|> ", *text]
    stream.watch(2, torch.tensor([[ids[-3]]]))  # the end of a character that never began
    stream.finish()
    assert "".join(written).endswith("b|> \ufffd")


@pytest.mark.parametrize("half", ["bottom", "top", "left", "right"])
def test_the_missing_half_is_drawn_several_times(half, completing, capsys, place):
    words = ["runs/gaussian", "--half", half, "--items", "2,0,5", "-n", "3", "--out", f"{half}.png"]
    assert main(["complete", *words]) == 0
    assert said(capsys) == f"{place / half}.png\n"
    run = load("runs/gaussian")
    codes, _ = run.load_data().held_out.fetch(torch.tensor([2, 0, 5]))
    known = kept((1, 8, 8), half)
    made = run.complete(codes.repeat_interleave(3, 0), known, seed=0)
    from pushforward.pictures.draw import draw_strips

    grey = torch.where(known, codes, torch.full_like(codes, 8))
    states = torch.cat([codes[:, None], grey[:, None], torch.as_tensor(made).unflatten(0, (3, 3)).to(codes.dtype)], 1)
    labels = {"row_labels": ["2", "0", "5"], "column_labels": ["given", "known", "drawn", "", ""]}
    drawn = draw_strips(run.spec, states, **labels)
    assert np.array_equal(np.asarray(Image.open(f"{half}.png")), np.asarray(drawn))
    assert len({tuple(state.flatten().tolist()) for state in states[0]}) == 5
    recipe = read_recipe(f"{half}.png")
    assert main(["complete", *command("runs/gaussian", recipe, "again.png")]) == 0
    assert (place / f"{half}.png").read_bytes() == (place / "again.png").read_bytes()


class Labels(Gaussian):
    """Draws what is missing: the level of a row's class, and in the first corner that of its row."""

    def complete(self, x, known, *, condition=None, generator=None):
        made = torch.where(known, x, condition.view(-1, 1, 1, 1) / 8 - 1)
        made[:, 0, 0, 0] = torch.arange(len(x)) / 8 - 1
        return made


@pytest.mark.parametrize("asked", [[], ["--condition", "7"]])
def test_each_completion_is_of_the_class_of_its_image(asked, monkeypatch, capsys, place):
    """By itself the images' own; as asked where a class is."""
    monkeypatch.setattr(gaussian, "Labels", Labels, raising=False)
    monkeypatch.setitem(zoo.ZOO, "gaussian", replace(zoo.ZOO["gaussian"], path="classical.gaussian:Labels"))
    shown = []
    monkeypatch.setattr("pushforward.pictures.draw.draw_strips", lambda spec, states, **labels: shown.append(states))
    monkeypatch.setattr("pushforward.cli.complete.write", lambda *arguments: "written")
    assert main(["complete", "runs/gaussian", "--half", "top", "--items", "2,0,5", "-n", "4", *asked]) == 0
    codes, own = load("runs/gaussian").load_data().held_out.fetch(torch.tensor([2, 0, 5]))
    assert len(set(own.tolist())) == 3
    classes = torch.full((3,), 7) if asked else own
    drawn = shown[0][:, 2:].long()
    assert drawn.shape == (3, 4, 1, 8, 8)
    assert drawn[..., 0, 0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], "rows of an image stand together"
    assert torch.equal(drawn[..., 1:4, :], classes.view(3, 1, 1, 1, 1).expand(3, 4, 1, 3, 8))
    assert torch.equal(drawn[..., 4:, :], codes[:, None, :, 4:].long().expand(3, 4, 1, 4, 8))


def test_what_a_raster_order_does_not_look_at_is_said(capsys):
    """Only a known upper half comes before all that is drawn."""
    data = load_data("digits", limit=60)
    train(create("pixelcnn", data.spec, width=4, depth=1), data, out="runs/pixels", **QUICK)
    capsys.readouterr()
    for half, warned in (("bottom", False), ("top", True), ("left", True), ("right", True)):
        assert main(["complete", "runs/pixels", "--half", half, "--items", "0", "-n", "1"]) == 0
        assert ("not looked at" in capsys.readouterr().err) == warned


def test_halves_of_odd_sizes_overlap_in_nothing_that_is_known():
    for shape in ((1, 4, 6), (3, 5, 7), (1, 1, 1)):
        bottom, top, left, right = (kept(shape, half) for half in ("bottom", "top", "left", "right"))
        assert not (bottom & top).any() and not (left & right).any()
        assert (bottom[:, : shape[1] // 2].all() and not bottom[:, shape[1] // 2 :].any()) and torch.equal(top, bottom.flip(1))
        assert (right[..., : shape[2] // 2].all() and not right[..., shape[2] // 2 :].any()) and torch.equal(
            left, right.flip(2)
        )


def test_an_image_file_is_completed(completing, capsys, place):
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save("white.png")
    assert main(["complete", "runs/gaussian", "white.png", "--half", "top", "--level", "0.5"]) == 0
    output = capsys.readouterr()
    assert "resized" in output.err and str(place / "runs" / "gaussian" / "complete-top.png") in output.out
    assert read_recipe("runs/gaussian/complete-top.png")["arguments"]["level"] == 0.5
    shades = np.unique(np.asarray(Image.open("runs/gaussian/complete-top.png").convert("L")))
    assert {64, 191, 255} <= set(shades.tolist())  # drawn at levels 4 and 12 of 16, and what is white


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "which run"),
        (["runs/characters", "--prompt", "ROMEO!"], "character '!' is not among"),
        (["runs/characters", "--temperature", "0"], "temperature = 0.0 was given; it is finite and above 0"),
        (["runs/characters", "--top-p", "2"], "top_p"),
        (["runs/characters", "--min-p", "2"], "min_p"),
        (["runs/characters", "--repetition-penalty", "0"], "repetition_penalty"),
        (["runs/characters", "--length", "0"], "--length 0"),
        (["runs/characters", "-n", "0"], "--n 0"),
        (["runs/characters", "--promt", "A"], "did you mean --prompt"),
        (["runs/characters", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["runs/characters", "play.txt", "--prompt", "A"], "both given"),
        (["runs/characters", "play.txt", "more.txt"], "one file"),
        (["runs/characters", "--out", "a.png"], ".txt or .jsonl"),
        (["runs/characters", "--items", "3"], "--items is for images"),
        (["runs/characters", "--condition", "3"], "condition"),
        (["runs/gaussian"], "nothing to complete"),
        (["runs/made"], "rows of tables, points and series are completed from Python: run.complete(rows, known)"),
        (["runs/nothing"], "runs/nothing"),
    ],
)
def test_mistakes_are_sentences(words, sentence, capsys):
    assert main(["complete", *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--prompt", "A"], "--prompt is for texts"),
        (["--out", "a.txt"], ".png"),
        (["--half", "middle"], "bottom or top or left or right"),
        (["--items", "99"], "item 99"),
        (["white.png", "--items", "1"], "leave one away"),
        (["none.png"], "not there"),
        (["--lvel", "2"], "did you mean --level"),
    ],
)
def test_mistakes_about_images_are_sentences(words, sentence, completing, capsys):
    assert main(["complete", "runs/gaussian", *words]) == 2
    assert sentence in capsys.readouterr().err
