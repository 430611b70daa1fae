"""Tables, series and text: what is inferred, what is kept, what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from pushforward.artefacts import write_table
from pushforward.data.batches import WindowSplit, take
from pushforward.data.loading import load_data
from pushforward.data.spec import Column, DataSpec
from pushforward.data.table_units import as_table
from pushforward.data.tables import read_csv
from pushforward.data.units import TableUnits
from pushforward.errors import UserError


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    n = 200
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 10, n).round(2),
            "children": rng.integers(0, 5, n),
            "town": rng.choice(["Paris", "Lyon", "?"], n),
            "flat": np.full(n, 3),
            "income": rng.choice(["low", "high"], n),
            "name": [f"person {i}" for i in range(n)],
        }
    )
    frame.loc[3, "height"] = np.nan
    path = tmp_path / "people.csv"
    frame.to_csv(path, index=False, na_rep="NA")
    return path


def test_inference(table):
    data = load_data(table)
    columns = {column.name: column for column in data.spec.columns}
    assert list(columns) == ["height", "children", "town", "flat", "income"]
    assert columns["height"].missing and not columns["height"].integer and columns["children"].integer
    assert columns["town"].categories == ("(missing)", "Lyon", "Paris") and columns["flat"].scale == 1.0
    assert data.spec.shape == (2 + 1 + 3 + 1 + 2,) and data.spec.condition is None
    notes = " ".join(data.notes)
    assert (
        "'name' holds 200 different texts" in notes
        and "'flat' is constant" in notes
        and "missing values in: height, town" in notes
    )
    train = data.train.codes
    assert np.isclose(columns["height"].mean, np.nanmean(train[:, 0].double().numpy()))
    assert np.isclose(columns["height"].scale, np.nanstd(train[:, 0].double().numpy()))


def test_there_and_back(table):
    data = load_data(table, validation=0, test=0)
    frame = data.units.present(data.units.to_codes(data.units.to_model(data.train.codes)))
    original = pd.read_csv(table, na_values=["?"])
    assert np.allclose(frame["height"], original["height"], equal_nan=True, atol=1e-3)
    assert list(frame["town"].fillna("-")) == list(original["town"].fillna("-")) and frame["town"].isna().any()
    assert torch.equal(torch.nan_to_num(data.units.parse(frame), -1), torch.nan_to_num(data.train.codes, -1))
    again = data.units.parse(original)
    assert torch.equal(torch.nan_to_num(again, -1), torch.nan_to_num(data.train.codes, -1))


def test_whole_numbers_stay_whole_with_gaps_and_without(tmp_path):
    """Of tables and of points; and both are read again."""
    (tmp_path / "people.csv").write_text("age,rooms\n" + "".join(f"{'' if i % 5 == 0 else i},{i % 3}\n" for i in range(50)))
    data = load_data(tmp_path / "people.csv", validation=0, test=0)
    frame = data.units.present(data.units.to_codes(data.units.to_model(data.train.codes)))
    written = write_table(tmp_path / "made.csv", frame).read_text().splitlines()
    assert written[0] == "age,rooms" and sorted(written[1:]) == sorted(f"{'' if i % 5 == 0 else i},{i % 3}" for i in range(50))
    assert torch.equal(data.units.parse(frame).nan_to_num(-1), data.train.codes.nan_to_num(-1))
    points = load_data(np.arange(40).reshape(20, 2))
    assert points.spec.kind == "point"
    assert list(as_table(points.spec.columns, points.train.codes).dtypes) == [np.int64, np.int64]


def test_label_and_overrides(table):
    data = load_data(table, label="income", categories="children", columns="height,children,town,income")
    assert data.spec.condition.names == ("high", "low") and [c.name for c in data.spec.columns] == [
        "height",
        "children",
        "town",
    ]
    assert data.spec.columns[1].categories == ("0", "1", "2", "3", "4")
    with pytest.raises(UserError, match="did you mean income"):
        load_data(table, label="incom")
    with pytest.raises(UserError, match="cannot be a class"):
        load_data(table, label="height")
    with pytest.raises(UserError, match="means nothing for the table"):
        load_data(table, size=64)


def test_test_source_and_folder(table, tmp_path):
    frame = pd.read_csv(table)
    folder = tmp_path / "parts"
    folder.mkdir()
    frame[:150].to_csv(folder / "adult_train.csv", index=False)
    frame[150:].to_csv(folder / "adult_test.csv", index=False)
    both = load_data(folder)
    assert (len(both.train), len(both.validation), len(both.test)) == (135, 15, 50)
    assert "adult_test.csv lies beside" in load_data(folder / "adult_train.csv").notes[0]
    named = load_data(folder / "adult_train.csv", test_source=str(folder / "adult_test.csv"))
    assert torch.equal(named.test.codes.nan_to_num(-1), both.test.codes.nan_to_num(-1))


def test_odd_csv_files(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_bytes("a;b;stadt\n1;2,5;Köln\n".encode("latin-1") + b"3;4,5;Ulm\n" * 20)
    data = load_data(path)
    assert [c.name for c in data.spec.columns] == ["a", "b", "stadt"] and "Köln" in data.spec.columns[2].categories
    path.write_text("\n".join(f"{i},{i * i}" for i in range(20)))
    assert [c.name for c in load_data(path).spec.columns] == ["x0", "x1"]
    path.write_text("a,b\n" + "\n".join(f"{i},oops" if i == 5 else f"{i},{i}" for i in range(30)))
    assert (
        any("looks like numbers but holds 'oops' in row 5" in note for note in load_data(path, categories="b").notes) is False
    )
    assert any("numbers=b" in note or "left out" in note for note in load_data(path).notes)
    assert load_data(path, numbers="b").spec.columns[1].missing
    path.write_text("a,b\n1,\n2,\n3,\n")
    with pytest.raises(UserError, match=r"column 'b' .* no value at all"):
        load_data(path)
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        load_data(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="at least 2"):
        load_data(path)


def test_dataframe_in_memory():
    frame = pd.DataFrame({"a": np.arange(30) / 7, "b": ["u", None, "v"] * 10, "yes": [True, False, True] * 10})
    data = load_data(frame, attributes="yes")
    assert data.spec.condition.names == ("yes",) and data.spec.columns[1].categories == ("(missing)", "u", "v")
    frame.loc[4, "a"] = np.inf
    with pytest.raises(UserError, match=r"column 'a' .* row 4"):
        load_data(frame)


def test_series(tmp_path):
    path = tmp_path / "s.csv"
    rows = "\n".join(f"{i + 1},2020-01-{i % 28 + 1:02d},{i % 7},{'' if i == 3 else i * 0.5}" for i in range(100))
    path.write_text("No,date,week,value\n" + rows)
    data = load_data(path, series=10)
    assert data.spec.kind == "series" and data.spec.shape == (10, 3) and isinstance(data.train, WindowSplit)
    assert [c.name for c in data.spec.columns] == ["week", "value"]
    assert (len(data.train), len(data.validation), len(data.test)) == (61, 1, 11)
    codes, _ = data.test.fetch(torch.tensor([0]))
    assert codes[0, 0, 1] == 40.0 and data.units.to_model(codes).shape == (1, 10, 3)
    with pytest.raises(UserError, match="windows of 200"):
        load_data(path, series=200)


TEXT = "To be, or not to be: that is the question.\n" * 60


@pytest.mark.parametrize("tokenizer", ["characters", "bpe"])
def test_text(tmp_path, tokenizer):
    path = tmp_path / "play.txt"
    path.write_text(TEXT + "Ω")
    data = load_data(path, context=16, tokenizer=tokenizer, vocabulary_size=300)
    assert data.spec.kind == "tokens" and data.spec.shape == (16,)
    if tokenizer == "characters":
        assert data.spec.vocabulary.tokens == tuple(sorted(set(TEXT + "Ω")))
        assert len(data.train.tokens) + len(data.validation.tokens) + len(data.test.tokens) == len(TEXT) + 1
    assert TEXT.startswith(data.units.present(take(data.train)[0][:1])[0])
    assert data.units.present(data.test.tokens[None])[0].endswith("Ω")
    codes = data.units.parse("not to be")
    assert data.units.present(codes)[0] == "not to be"


def test_folder_of_texts(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 50)
    (tmp_path / "b.txt").write_bytes("é".encode("latin-1") * 50)
    data = load_data(tmp_path)
    assert data.spec.shape == (64,) and set(data.spec.vocabulary.tokens) == set("abcé\n") and "Latin-1" in data.notes[0]
    with pytest.raises(UserError, match="means nothing for the text"):
        load_data(tmp_path, size=32)


def test_the_librarys_own_csv_is_read_without_its_recipe(tmp_path):
    frame = pd.DataFrame({"a": np.arange(40.0), "kind": ["x", "y#z"] * 20})
    write_table(tmp_path / "samples.csv", frame, {"run": "runs/a", "n": 40, "options": {"a": [1, 2, 3]}})
    assert [c.name for c in load_data(tmp_path / "samples.csv").spec.columns] == ["a", "kind"]
    pd.testing.assert_frame_equal(read_csv(tmp_path / "samples.csv", []), frame)


def test_a_gap_is_a_gap_however_it_is_written():
    """None, NaN, NA, an empty field and "?" are missing; category 3 may come as 3.0; what is no number is a sentence."""
    columns = (Column("n", "number", missing=True), Column("c", "category", categories=("(missing)", "3", "x"), missing=True))
    table = TableUnits(DataSpec("table", (5,), columns=columns))
    given = pd.DataFrame(
        {"n": [1.5, None, "?", "", np.nan, pd.NA, "7"], "c": ["3.0", None, "?", "", np.nan, pd.NA, "x"]}, dtype=object
    )
    gap = [-1.0, 0.0]
    wanted = torch.tensor([[1.5, 1.0], gap, gap, gap, gap, gap, [7.0, 2.0]])
    assert torch.equal(torch.nan_to_num(table.parse(given), -1.0), wanted)
    assert torch.equal(table.parse(pd.DataFrame({"n": [2], "c": [3.0]})), torch.tensor([[2.0, 1.0]]))
    shown = table.present(wanted[:2])
    assert shown["c"][0] == "3" and pd.isna(shown["c"][1])
    with pytest.raises(UserError, match=r"'n' should hold numbers: .*tall"):
        table.parse(pd.DataFrame({"n": ["tall"], "c": ["x"]}))
    with pytest.raises(UserError, match=r"'4\.0'"):
        table.parse(pd.DataFrame({"n": [1], "c": [4.0]}))
    whole = TableUnits(DataSpec("table", (2,), columns=(Column("c", "category", categories=("3", "x")),)))
    with pytest.raises(UserError, match="missing"):
        whole.parse(pd.DataFrame({"c": [None]}))


@pytest.mark.parametrize("source", ["frame", "array", "windows", "series of an array", "integers"])
def test_columns_far_from_0_keep_their_digits(source):
    """Times since 1970: float32 has steps of 128 there, which would be an eighth of the spread."""
    times = 1.7e9 + 1e3 * np.random.default_rng(0).normal(size=(200, 1))
    if source == "integers":
        times = times.round()
    table = pd.DataFrame({"time": times[:, 0], "value": np.arange(200) / 7})
    given = table if source in ("frame", "windows", "integers") else table.to_numpy()
    options = {"series": 2, "numbers": "time"} if source == "windows" else {"series": 2} if "series" in source else {}
    data = load_data(given, validation=0, test=0, **options)
    codes, _ = take(data.train)
    assert codes.dtype == torch.float64
    x = data.units.to_model(codes)
    assert x.dtype == torch.float32 and abs(float(x[..., 0].std()) - 1) < 0.05
    there = data.units.present(data.units.to_codes(x))
    again = data.units.parse(there)
    expected = torch.from_numpy(times[:, 0] if x.dim() == 2 else np.stack([times[:-1, 0], times[1:, 0]], 1))
    for back in (codes, data.units.to_codes(x), again):
        assert (back[..., 0] - expected).abs().max() < (1e-9 if source == "integers" else 1e-3), "millionths of the spread"


def test_near_columns_stay_in_float32():
    assert load_data(np.random.default_rng(0).normal(size=(50, 2))).train.codes.dtype == torch.float32


def test_integers_of_a_wide_range_are_kept_to_the_last():
    """Identifiers around 0 up to a billion, whose mean is small: float32 has steps of 64 there."""
    ids = np.random.default_rng(0).integers(-(10**9), 10**9, 500)
    data = load_data(pd.DataFrame({"id": ids, "b": np.random.default_rng(1).normal(size=500)}), validation=0, test=0)
    codes, _ = take(data.train)
    assert data.spec.columns[0].integer and torch.equal(codes[:, 0].long(), torch.from_numpy(ids))
    there = data.units.present(data.units.to_codes(data.units.to_model(codes)))
    assert there["id"].dtype == np.int64 and np.abs(there["id"] - ids).max() < 200  # a model's x has 24 bits
    assert load_data(pd.DataFrame({"n": np.arange(500), "b": np.arange(500) / 7})).train.codes.dtype == torch.float32
