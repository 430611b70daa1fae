"""Spaces of codes beside z, mixing of styles, what a log is told of a descent: on decoders whose answers are known."""

from pathlib import Path

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.data.batches import ArraySplit, Data
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.editing import inversion
from pushforward.editing.attributes import direction, edit, moved, told
from pushforward.editing.codes import able, decoded, encoded, found, inverted
from pushforward.editing.interpolation import interpolate, interpolate_samples
from pushforward.editing.inversion import Space, aloud
from pushforward.editing.mixing import layers, mixed, part
from pushforward.progress import Stages
from pushforward.randomness import as_rng
from pushforward.training.runs import Run

A = torch.tensor([[1.0, 0.2, 0.1], [-0.5, 1.5, 0.0], [0.3, 0.4, -1.2], [0.8, -1.0, 0.5], [0.0, 0.6, 0.9]])
COLUMNS = tuple(Column(name, "number") for name in "abcde")


class Plain(nn.Module):
    """x = A z, and with class 1 the other way round."""

    def decode(self, z, *, condition=None):
        x = z @ A.T
        return x if condition is None else torch.where(condition[:, None] == 1, x.flip(1), x)

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 3)


class Affine(Plain):
    """Codes of "w" are 10 + 2 z and have no class; "w+" is w in 3 layers, whose mean is looked at."""

    def spaces(self):
        def draw(n, *, condition=None, generator=None):
            return 10 + 2 * self.draw_codes(n, generator=generator)

        def spread(n, *, condition=None, generator=None):
            return draw(n, generator=generator)[:, None].expand(-1, 3, -1)

        def read(w, *, condition=None):
            return self.decode((w - 10) / 2)

        return {"w": Space(draw, read), "w+": Space(spread, lambda w, *, condition=None: read(w.mean(1)))}


def run_of(model, condition=None, shape=(5,)):
    columns = COLUMNS if shape == (5,) else tuple(Column(f"x{i}", "number") for i in range(shape[0]))
    spec = DataSpec("point", shape, columns=columns, condition=condition, name="toy")
    return Run(model.eval(), spec, Path("nowhere"), {"model": {"name": "toy"}, "result": {}})


def some(n=6, seed=0):
    return 0.6 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def test_codes_of_a_space_are_found_and_decoded_there():
    """By descent, to 0.003 of a deviation: of z those that made the data, of w twice these and ten."""
    run, z = run_of(Affine()), some()
    x = z @ A.T
    for space, expected in (("z", z), ("w", 10 + 2 * z)):
        codes = found(run, x, steps=300, space=space)
        torch.testing.assert_close(codes.z, expected, atol=1e-2, rtol=0)
        torch.testing.assert_close(decoded(run, codes.z[:, None], space=space)[:, 0], x, atol=1e-2, rtol=0)
        assert ("in w found" in codes.line()) == (space == "w") and "300 steps" in codes.line()
    torch.testing.assert_close(decoded(run, (10 + 2 * z)[:, None], space="w")[:, 0], x)
    assert encoded(run, x, steps=2, space="w+").shape == (6, 3, 3)


class Encoding(Affine):
    def encode(self, x, *, condition=None):
        return x[:, :3]


def test_who_encodes_is_inverted_in_other_spaces_only():
    run = run_of(Encoding())
    x = some() @ A.T
    assert not inverted(run) and inverted(run, "w") and inverted(run_of(Affine()))
    assert torch.equal(encoded(run, x), x[:, :3]) and found(run, x).error is None
    torch.testing.assert_close(encoded(run, x, steps=300, space="w"), 10 + 2 * some(), atol=1e-2, rtol=0)


def test_a_code_with_its_condition_in_it_is_decoded_under_any():
    run, z = run_of(Affine(), Condition("class", 2)), some()
    one, two = (torch.full((6,), k) for k in (0, 1))
    assert torch.equal(decoded(run, z[:, None], two)[:, 0], (z @ A.T).flip(1))
    assert torch.equal(decoded(run, 10 + 2 * z[:, None], two, "w"), decoded(run, 10 + 2 * z[:, None], one, "w"))
    assert told(run, z @ A.T, one) and not told(run, z @ A.T, one, "w") and not told(run, z @ A.T, one, "w+")


class Told(Plain):
    """ "v" is z, and its decoder is told the class."""

    def spaces(self):
        return {"v": Space(self.draw_codes, self.decode)}


def test_a_space_may_need_the_condition():
    run, z = run_of(Told(), Condition("class", 2)), some()
    label = torch.tensor([0, 1, 1, 0, 1, 0])
    assert torch.equal(decoded(run, z[:, None], label, "v"), decoded(run, z[:, None], label))
    torch.testing.assert_close(
        encoded(run, run.model.decode(z, condition=label).detach(), label, 300, "v"), z, atol=1e-2, rtol=0
    )


def test_directions_of_a_space_are_those_of_its_codes():
    """Twice as long in w as in z; strength 1 moves a datum by the difference of the means in either."""
    z = 0.5 * torch.randn(300, 3, generator=torch.Generator().manual_seed(1))
    label = torch.arange(300) % 2
    z[:, 0] += label
    run = run_of(Affine())
    data = Data(run_of(Affine(), Condition("class", 2)).spec, ArraySplit(z @ A.T, label))
    expected = z[label == 1].mean(0) - z[label == 0].mean(0)
    along = {space: direction(run, data, "1", rows=300, inversion_steps=150, space=space) for space in ("z", "w")}
    torch.testing.assert_close(along["z"], expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(along["w"], 2 * expected, atol=1e-2, rtol=0)
    x = data.train.codes[:4]
    for space, codes in (("z", z[:4]), ("w", 10 + 2 * z[:4])):
        changed = moved(run, codes, along[space], [0.0, 1.0], space=space)
        torch.testing.assert_close(changed[:, 1] - changed[:, 0], (expected @ A.T).expand(4, -1), atol=2e-2, rtol=0)
        torch.testing.assert_close(edit(run, x, along[space], [1.0], space=space)[:, 0], changed[:, 1], atol=3e-2, rtol=0)


def test_the_way_between_codes_is_an_arc_in_z_and_a_line_in_w():
    """The mean of the ends is passed where codes are not normal; on an arc the middle is sqrt(2) too far out, or so."""
    run = run_of(Affine())
    for space, straight in (("z", False), ("w", True), ("w+", True)):
        made = interpolate_samples(run, 5, steps=3, seed=4, space=space)
        middle = made[:, [0, 2]].mean(1)
        assert torch.allclose(made[:, 1], middle, atol=1e-4) == straight, space
    a, b = some(seed=2) @ A.T, some(seed=3) @ A.T
    made = interpolate(run, a, b, steps=3, inversion_steps=300, space="w")
    torch.testing.assert_close(made, torch.stack([a, (a + b) / 2, b], 1), atol=2e-2, rtol=0)


def test_a_space_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(pf.UserError, match=r"no space of codes 'ww' in Affine; it has z, w, w\+\."):
        able(run_of(Affine()), "ww")
    with pytest.raises(pf.UserError, match="it has z alone"):
        able(run_of(Plain()), "w")
    with pytest.raises(pf.UserError, match=r"'toy' cannot mix: .* stylegan and stylegan2 can"):
        layers(run_of(Plain()))


class Layered(nn.Module):
    """x is what all layers see, one after another: 4 layers of 2 numbers."""

    def decode(self, z, *, condition=None):
        return z.repeat(1, 4)

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 2)

    def spaces(self):
        def draw(n, *, condition=None, generator=None):
            return self.draw_codes(n, generator=generator)[:, None].expand(-1, 4, -1)

        return {"w+": Space(draw, lambda w, *, condition=None: w.flatten(1))}


@pytest.mark.parametrize("words, theirs", [("1", [1, 2, 3]), ("3", [3]), ("coarse", [0]), ("middle", [1, 2]), ("fine", [3])])
def test_each_layer_sees_its_own_of_the_two_styles(words, theirs):
    run = run_of(Layered(), shape=(8,))
    a, b = (torch.randn(n, 4, 2, generator=torch.Generator().manual_seed(n)) for n in (3, 5))
    before = a.clone()
    made = mixed(run, a, b, part(words, layers(run))).view(3, 5, 4, 2)
    for layer in range(4):
        expected = b[None, :, layer].expand(3, -1, -1) if layer in theirs else a[:, None, layer].expand(-1, 5, -1)
        assert torch.equal(made[:, :, layer], expected)
    assert torch.equal(a, before)


@pytest.mark.parametrize("count", range(3, 20))
def test_thirds_are_all_layers_in_order(count):
    thirds = [part(word, count) for word in ("coarse", "middle", "fine")]
    assert [k for third in thirds for k in third] == list(range(count))
    sizes = [len(third) for third in thirds]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize("words", ["0", "6", "-1", "2.5", "deep", ""])
def test_layers_that_are_not_there(words):
    with pytest.raises(pf.UserError, match="a number from 1 to 5"):
        part(words, 6)


@pytest.mark.parametrize("name", ["stylegan", "stylegan2"])
def test_a_grid_is_what_stylegan_mixes(name):
    """The same styles by the model's own way, one class for both."""
    data = pf.load_data("digits")
    options = {"style_dim": 8, "mapping_depth": 2}
    model = pf.create(name, data.spec, width=2, latent_dim=4, network_options=options).eval()
    run = Run(model, data.spec, Path("nowhere"), {"model": {"name": name}, "result": {}})
    z, condition = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 3])
    with torch.no_grad():
        for layer in model.generator.styled:
            (layer.norm or layer.modulated).style.weight.mul_(4)  # of a fresh network styles would hardly be seen
        w = model.generator.spread(model.styles(z, condition=condition))
        count, grids = layers(run), []
        for crossover in range(1, count):
            made = mixed(run, w[:1], w[1:], part(str(crossover), count))[0]
            own = model.mix(z[:1], z[1:], crossover, condition=condition[:1])
            assert torch.equal(made, run.units.to_codes(own)), crossover
            grids.append(made)
    assert len(torch.stack(grids).flatten(1).unique(dim=0)) > 1 and count == model.generator.layers


def clock(monkeypatch, terminal):
    now = [100.0]
    monkeypatch.setattr(inversion.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    return now


def test_a_log_hears_of_a_descent_after_two_seconds_and_every_ten(monkeypatch, capsys):
    now = clock(monkeypatch, False)
    with Stages(doing="inverting", patience=2.0) as stages:
        say = aloud(stages)
        for second in range(35):
            now[0] = 100.0 + second
            say("descent on the codes", second / 40)
    assert capsys.readouterr().err.splitlines() == [
        "inverting: descent on the codes ...",
        *(f"inverting: descent on the codes, {share} ..." for share in ("32%", "60%")),
    ]


def test_an_inversion_speaks_only_where_it_takes_long(monkeypatch, capsys):
    inversion.invert(run_of(Affine()), some() @ A.T, steps=3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(inversion, "PATIENCE", -1.0)
    inversion.invert(run_of(Affine()), some() @ A.T, steps=3)
    assert capsys.readouterr().err == "inverting: descent on the codes ...\n"
    inversion.invert(run_of(Affine()), some() @ A.T, steps=3, shown=False)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_nothing_is_added(monkeypatch):
    now = clock(monkeypatch, True)
    heard = []
    say = aloud(lambda *said: heard.append(said))
    for second in (0, 5, 15, 30):
        now[0] = 100.0 + second
        say("descent", second / 30)
    assert heard == [("descent", second / 30) for second in (0, 5, 15, 30)]
