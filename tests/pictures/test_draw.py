"""A picture for every kind of data: of a sensible size, white at its corners, and different when the data are."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from pushforward.data.spec import Column, Condition, DataSpec, Vocabulary
from pushforward.pictures import draw_history, draw_pairs, draw_samples, draw_trajectory, plots
from pushforward.pictures.draw import draw_rows
from pushforward.pictures.plots import _moving_mean, _panels

NUMBERS = tuple(Column(f"column {j}", "number") for j in range(14))
TABLE = (Column("age", "number", integer=True), Column("income", "number", missing=True), Column("job", "category", ("a", "b")))
SPECS = {
    "grey": DataSpec("image", (1, 8, 8), levels=17),
    "wide colour": DataSpec("image", (3, 20, 40), levels=256),
    "deep alpha": DataSpec("image", (2, 12, 8), levels=65536),
    "five bands": DataSpec("image", (5, 8, 8), levels=256),
    "large": DataSpec("image", (3, 256, 256), levels=256),
    "line": DataSpec("point", (1,)),
    "plane": DataSpec("point", (2,), columns=NUMBERS[:2]),
    "space": DataSpec("point", (3,), columns=NUMBERS[:3]),
    "table": DataSpec("table", (5,), columns=TABLE),
    "series": DataSpec("series", (30, 2)),
    "characters": DataSpec("tokens", (64,), vocabulary=Vocabulary("characters", 4, ("a", " ", "\n", "é"))),
    "ids": DataSpec("tokens", (64,)),
    "codes": DataSpec("tokens", (64,), vocabulary=Vocabulary("codes", 4)),
    "grid of codes": DataSpec("tokens", (48,), vocabulary=Vocabulary("codes", 4, grid=(6, 8))),
    "field": DataSpec("field", (4, 8, 8), columns=NUMBERS[:4]),
    "thin field": DataSpec("field", (2, 5, 8), columns=NUMBERS[:2]),
    "line field": DataSpec("field", (3, 20), columns=NUMBERS[:3]),
}


def codes(spec: DataSpec, n: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    match spec.kind:
        case "image":
            return torch.as_tensor(rng.integers(0, spec.levels, (n, *spec.shape)))
        case "tokens":
            return torch.as_tensor(rng.integers(0, 4, (n, *spec.shape)))
        case "table":
            missing = np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))
            return torch.as_tensor(np.stack([rng.integers(20, 60, n), missing, rng.integers(0, 2, n)], 1))
        case _:
            return torch.as_tensor(rng.normal(size=(n, *spec.shape)), dtype=torch.float32)


def check(picture, most: int = 1420):
    pixels = np.asarray(picture)
    assert picture.mode == "RGB"
    assert 60 <= picture.width <= most and 40 <= picture.height <= 3000
    assert all((pixels[y, x] == 255).all() for y in (0, -1) for x in (0, -1))
    assert len(np.unique(pixels)) > 3
    return pixels


@pytest.mark.parametrize("name", SPECS)
def test_samples(name):
    spec = SPECS[name]
    a, b = (check(draw_samples(spec, codes(spec, 12, seed))) for seed in (0, 1))
    assert not np.array_equal(a, b)
    beside = check(draw_samples(spec, codes(spec, 1, 0), real=codes(spec, 15, 1), title="a title"))
    assert not np.array_equal(a, beside)


@pytest.mark.parametrize("name", SPECS)
def test_trajectories_and_pairs(name):
    spec = SPECS[name]
    frames = torch.stack([codes(spec, 5, seed) for seed in range(4)])
    check(draw_trajectory(spec, frames, torch.linspace(1, 0, 4).tolist()))
    left, right = codes(spec, 2, 0), codes(spec, 2, 1)
    pairs = check(draw_pairs(spec, left, right, ("sample", "nearest")))
    two = check(draw_pairs(spec, left, torch.stack([left, right], 1), ("sample", "nearest")))
    assert not np.array_equal(pairs, two)


def test_a_wide_table_is_cut_at_twelve_columns():
    spec = DataSpec("point", (14,), columns=NUMBERS)
    x = codes(spec, 20, 0)
    check(draw_samples(spec, x, real=x + 1))


def test_the_same_data_give_the_same_picture():
    spec = SPECS["plane"]
    assert draw_samples(spec, codes(spec, 9, 0)).tobytes() == draw_samples(spec, codes(spec, 9, 0)).tobytes()


def test_all_samples_of_the_class_that_was_asked_for_are_drawn():
    """64 of one class are four rows of 16, not one."""
    spec = DataSpec("image", (1, 8, 8), levels=256, condition=Condition("class", 10))
    codes = torch.full((64, 1, 8, 8), 255, dtype=torch.uint8)
    one, few = (draw_samples(spec, codes[:n], condition=torch.full((n,), 7)) for n in (64, 16))
    assert one.width == few.width and one.height > 3 * few.height


def test_a_row_a_class_in_order():
    spec = replace(SPECS["grey"], condition=Condition("class", 3, ("no", "one", "two")))
    x = torch.arange(6)[:, None, None, None].expand(6, 1, 8, 8) * 2
    y = torch.tensor([2, 0, 2, 1, 2, 0])
    pixels = np.asarray(draw_samples(spec, x, condition=y))
    left = pixels.shape[1] - 12 - 3 * 48 - 2 * 2  # three columns at six pixels a pixel
    rows = [[int(pixels[12 + r * 50 + 20, left + c * 50 + 20, 0]) for c in range(3)] for r in range(3)]
    level = [round(k * 2 * 255 / 16) for k in range(6)]
    assert rows == [[level[1], level[5], 255], [level[3], 255, 255], [level[0], level[2], level[4]]]


def test_odd_numbers_are_survived():
    table = codes(SPECS["table"], 20, 0)
    table[:, 1] = torch.nan  # a column that is never there
    check(draw_samples(SPECS["table"], table, real=table))
    check(draw_pairs(SPECS["table"], table, table, ("data", "reconstruction")))
    plane = codes(SPECS["plane"], 20, 0)
    plane[3] = torch.inf
    check(draw_samples(SPECS["plane"], plane, real=torch.zeros(20, 2)))
    check(draw_samples(SPECS["series"], codes(SPECS["series"], 3, 0) * torch.nan))


def history(terms: int, n: int) -> list[dict]:
    rng = np.random.default_rng(0)
    rows: list[dict] = []
    for step in range(1, n + 1):
        row = {"step": step, "seconds": 0.1 * step, "epoch": 0.01 * step, "learning_rate": 1e-3}
        rows.append(row | {f"critic/term_{k}": float(np.exp(-step / 50) + rng.normal()) for k in range(terms)})
    return rows


@pytest.mark.parametrize(("terms", "n"), [(0, 2), (1, 1), (2, 2), (3, 300), (15, 300)])
def test_histories(terms, n):
    check(draw_history(history(terms, n)))


def test_histories_with_gaps():
    check(draw_history([]))
    check(draw_history([{"step": 1, "model/loss": None}, {"step": 2, "model/loss": float("nan")}]))
    check(draw_history([{"step": 10**k, "model/loss": 10.0**-k} for k in range(6)]))
    check(draw_history([{"step": k, "model/loss": 1.0, "note": "resumed"} for k in range(50)]))


def test_validation_lies_over_its_training_term():
    rows = [{"step": 1, "model/loss": 1.0, "validation/loss": 2.0, "learning_rate": 0.1}]
    panels = _panels(rows)
    assert list(panels) == ["model/loss", "learning_rate"]
    assert panels["model/loss"]["validation"][1].tolist() == [2.0]
    rows = [{"step": 1, "critic/loss": 1.0, "generator/loss": 1.0, "validation/loss": 2.0}]  # whose would it be?
    assert list(_panels(rows)) == ["critic/loss", "generator/loss", "validation/loss"]


def test_moving_mean_keeps_constants_lines_and_short_curves():
    line = np.arange(200.0)
    assert np.allclose(_moving_mean(line)[:195], line[:195])  # symmetric windows leave a line as it is
    assert np.allclose(_moving_mean(np.full(200, 3.0)), 3.0)
    assert np.array_equal(_moving_mean(line[:20]), line[:20])


def test_a_field_is_scaled_to_the_range_of_the_data():
    """Samples ten times too wide saturate beside the data, which use the whole range."""
    spec = SPECS["field"]
    real = codes(spec, 16, 0)
    usual = check(draw_samples(spec, codes(spec, 16, 1), real=real))
    wide = check(draw_samples(spec, 10 * codes(spec, 16, 1), real=real))
    half = usual.shape[1] // 2
    saturated = [np.isin(pixels[40:, 20:half], (0, 255)).mean() for pixels in (usual, wide)]
    assert saturated[1] > saturated[0] + 0.4
    assert np.array_equal(usual[40:, half + 20 :], wide[40:, half + 20 :])


def test_rows_of_a_table_are_text_and_say_which_they_are():
    values = codes(SPECS["table"], 6, 0)
    beside = {"item": [f"test {i}" for i in range(6)], "score": [0.5] * 6, "age": [1] * 6}  # a name that the table has, too
    picture = draw_rows(SPECS["table"], values, beside)
    check(picture)
    other = values.clone()
    other[3, 0] += 1
    assert not np.array_equal(np.asarray(picture), np.asarray(draw_rows(SPECS["table"], other, beside)))
    wide = DataSpec("table", (40,), columns=tuple(Column(f"a long name {j}", "number") for j in range(40)))
    check(draw_rows(wide, torch.randn(4, 40), {}))


def test_values_outside_of_a_histogram_are_said_and_not_piled_up(monkeypatch):
    from matplotlib.axes import Axes

    drawn, texts, hist, text = [], [], Axes.hist, Axes.text
    monkeypatch.setattr(Axes, "hist", lambda ax, x, *args, **options: drawn.append(x) or hist(ax, x, *args, **options))
    monkeypatch.setattr(Axes, "text", lambda ax, x, y, s, **options: texts.append(s) or text(ax, x, y, s, **options))
    samples = np.concatenate([np.linspace(0, 1, 75), np.full(25, 9.0)])[:, None]
    plots.histograms(NUMBERS[:1], samples, np.linspace(0, 1, 100)[:, None])
    assert drawn[0].max() == 9.0 and "25% outside" in texts


def test_a_curve_of_one_update_is_left_out_unless_there_is_nothing_else():
    rows = [{"step": step, "a/loss": 1.0 / (step + 1)} for step in range(5)]
    with_point = [*rows, {"step": 5, "validation/other": 2.0}]
    assert np.array_equal(np.asarray(draw_history(with_point)), np.asarray(draw_history([*rows, {"step": 5}])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(draw_history([{"step": 0, "a/loss": 1.0}]))


def test_states_of_a_table_in_one_colour_an_item():
    """Bands of two share a colour, the second dashed: 3 items with an average each have 3 colours."""
    values = np.random.default_rng(0).normal(size=(6, 5, 2))
    columns = NUMBERS[:2]
    picture = plots.columns_over_steps(values, columns, list("abcde"), ["model", "average"] * 3, band=2)
    pixels = {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3)}
    shown = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in pixels for colour in plots.SERIES]
    assert shown[:6] == [True] * 3 + [False] * 3  # the seventh is a grey that letters have, too
