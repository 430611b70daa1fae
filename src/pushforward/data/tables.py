"""Tables: numbers, categories and missing values, inferred from a csv, a parquet or a DataFrame; and series of their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pushforward.artefacts import COMMENT
from pushforward.data import assembly
from pushforward.data.assembly import MISSING, PARTS, RawCondition
from pushforward.data.batches import ArraySplit, Data
from pushforward.data.options import Options
from pushforward.data.spec import Column, DataSpec
from pushforward.errors import UserError

FREE_TEXT = 1000  # a column of strings with more distinct values than this is no category
_ABSENT = ["?", "NA", "N/A", "na", "nan", "NaN", "null", "NULL", ""]


def read_csv(path: Path, notes: list[str]) -> pd.DataFrame:
    """A csv with any of the usual delimiters, with or without a header; "?", NA and empty fields are missing."""
    with open(path, "rb") as binary:
        head = binary.read(65536)
    if not head.strip():
        raise UserError(f"{path} is empty.")
    encoding = "utf-8-sig"
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        encoding = "latin-1"
        notes.append(f"{path.name} is not UTF-8; it is read as Latin-1.")
    lines = head.decode("latin-1").lstrip("ï»¿").splitlines()
    ours = lines[0].startswith(COMMENT)  # a table that this library wrote begins with its recipe
    first, *rest = [line for line in lines[ours:] if line.strip()] or [""]
    delimiter = max(",;\t|", key=first.count)
    headless = bool(rest) and all(_is_number(field) for field in first.split(delimiter))
    try:
        with open(path, encoding=encoding, newline="") as file:
            if ours:
                file.readline()
            frame = pd.read_csv(
                file,
                sep=delimiter,
                header=None if headless else 0,
                na_values=_ABSENT,
                skipinitialspace=True,
                low_memory=False,
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a table: {str(error).strip()}.") from None
    if headless:
        frame.columns = [f"x{j}" for j in range(frame.shape[1])]
        notes.append(f"{path.name} has no header; its columns are called x0, x1, ...")
    return frame


def _is_number(field: str) -> bool:
    try:
        float(field.strip().strip('"'))
    except ValueError:
        return False
    return True


def load_frames(frames: dict[str, pd.DataFrame], options: Options, name: str, notes: list[str]) -> Data:
    """`Data` from a table of each part."""
    what = f"the table '{name}'"
    options.forbid(what, "caption", "image", "target_image", "size", "mode", "context", "n", "kind")
    frames = {part: frame.rename(columns=str).reset_index(drop=True) for part, frame in frames.items()}
    train = frames["train"]
    if train.shape[1] == 0 or len(train) == 0:
        raise UserError(f"{what} has {len(train)} rows and {train.shape[1]} columns; nothing can be learned from it.")
    for part, frame in frames.items():
        lacking = [column for column in train.columns if column not in frame.columns]
        if lacking:
            raise UserError(f"the {part} table of '{name}' lacks the column(s) {', '.join(lacking[:5])}.")
    if options.series:
        return _series(frames, options, name, notes)
    for number, part in enumerate(frames):
        rows = assembly.chosen_rows(len(frames[part]), options, PARTS.index(part) + number)
        frames[part] = frames[part].iloc[rows.numpy()].reset_index(drop=True)
    condition = None
    used: list[str] = []
    if options.attributes:
        condition = attribute_values(frames, options, name)
        used = list(condition.names)
    elif options.named_label is not None:
        label = assembly.find_name(options.named_label, list(train.columns), "column", what)
        values = {
            part: frame[label].to_numpy(dtype=None if frame[label].dtype.kind in "biuf" else object)
            for part, frame in frames.items()
        }
        condition = RawCondition("class", values, f"column '{label}' of {what}", asked=True)
        used = [label]
    names = [column for column in _columns(train, options, what) if column not in used]
    found, codes = encode_columns(frames, names, options, notes, what)
    splits: dict[str, Any] = {part: ArraySplit(values) for part, values in codes.items()}
    described, _ = assembly.conditioned(splits, condition, options, notes)
    splits = assembly.divide(splits, options, notes)
    columns = _with_statistics(found, splits["train"].codes.numpy(), codes, notes)
    splits = assembly.settled(splits, columns)
    width = sum(1 + c.missing if c.kind == "number" else len(c.categories) for c in columns)
    return assembly.assemble(DataSpec("table", (width,), columns=columns, name=name), splits, notes, described)


def _columns(train: pd.DataFrame, options: Options, what: str) -> list[str]:
    wanted = options.listed("columns")
    return [assembly.find_name(column, list(train.columns), "column", what) for column in wanted] or list(train.columns)


def encode_columns(
    frames: dict[str, pd.DataFrame], names: list[str], options: Options, notes: list[str], what: str
) -> tuple[list[Column], dict[str, torch.Tensor]]:
    """The columns (numbers still without mean and scale) and their codes (N, columns) in float64."""
    forced = {kind: options.listed(option) for option, kind in (("categories", "category"), ("numbers", "number"))}
    for column in (*forced["category"], *forced["number"]):
        assembly.find_name(column, names, "column", what)
    columns, arrays = [], []
    for name in names:
        series = pd.concat([frame[name] for frame in frames.values()], ignore_index=True)
        if series.isna().all():
            raise UserError(f"column '{name}' of {what} holds no value at all; remove it or choose others with columns=...")
        asked = next((kind for kind, listed in forced.items() if name in listed), None)
        numeric = pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)
        if asked == "number" or (asked is None and numeric):
            values = _numbers(series, name, what, notes)
            columns.append(Column(name, "number", integer=assembly.is_integer(values)))
            arrays.append(values)
            continue
        strings = _strings(series)
        distinct = sorted(set(strings))
        date = pd.api.types.is_datetime64_any_dtype(series)
        if asked is None and (date or len(distinct) > FREE_TEXT or (len(distinct) > 20 and 2 * len(distinct) > len(series))):
            kind = "dates" if date else f"{len(distinct)} different texts"
            notes.append(f"column '{name}' holds {kind} and is left out (categories={name} keeps it).")
            continue
        number = {value: i for i, value in enumerate(distinct)}
        columns.append(Column(name, "category", categories=tuple(distinct), missing=MISSING in number))
        arrays.append(np.array([number[value] for value in strings], dtype=np.float64))
        if asked is None:
            _note_almost_numbers(series, name, notes)
    if not columns:
        raise UserError(f"{what} has no column of numbers or categories to learn from.")
    everything = np.stack(arrays, -1)
    codes, at = {}, 0
    for part, frame in frames.items():
        codes[part] = torch.as_tensor(everything[at : at + len(frame)])
        at += len(frame)
    categories = [c.name for c in columns if c.kind == "category"]
    gaps = [c.name for j, c in enumerate(columns) if c.missing or np.isnan(arrays[j]).any()]
    if categories:
        notes.append(f"categories: {', '.join(categories)} (inferred; numbers=... and categories=... override).")
    if gaps:
        notes.append(f"missing values in: {', '.join(gaps)}.")
    return columns, codes


def _numbers(series: pd.Series, name: str, what: str, notes: list[str]) -> np.ndarray:
    values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    lost = int(np.isnan(values).sum() - series.isna().sum())
    if lost:
        notes.append(f"{lost} values of column '{name}' are no numbers and count as missing.")
    if np.isinf(values).any():
        raise UserError(
            f"column '{name}' of {what} holds an infinite value in row {int(np.isinf(values).argmax())}; remove it."
        )
    if np.isnan(values).all():
        raise UserError(f"column '{name}' of {what} holds no number at all; remove it or choose others with columns=...")
    return values


def _strings(series: pd.Series) -> list[str]:
    if pd.api.types.is_float_dtype(series) and assembly.is_integer(series.to_numpy(np.float64, na_value=np.nan)):
        return [MISSING if assembly.is_missing(v) else str(int(v)) for v in series.tolist()]
    absent = series.isna().tolist()
    return [MISSING if gone else str(v) for v, gone in zip(series.tolist(), absent, strict=True)]


def _note_almost_numbers(series: pd.Series, name: str, notes: list[str]) -> None:
    if series.dtype.kind in "biuf":
        return
    parsed = pd.to_numeric(series, errors="coerce")
    odd = series[parsed.isna() & series.notna()]
    if len(odd) and 10 * len(odd) < len(series):
        notes.append(
            f"column '{name}' looks like numbers but holds {str(odd.iloc[0])!r} in row {odd.index[0]}; "
            f"numbers={name} reads it as numbers with gaps."
        )


def _with_statistics(
    columns: list[Column], train: np.ndarray, codes: dict[str, torch.Tensor], notes: list[str]
) -> tuple[Column, ...]:
    everything = np.concatenate([values.numpy() for values in codes.values()])
    return tuple(
        assembly.column_of_numbers(column.name, train[:, j], everything[:, j], notes, column.integer)
        if column.kind == "number"
        else column
        for j, column in enumerate(columns)
    )


def attribute_values(frames: dict[str, pd.DataFrame], options: Options, name: str) -> RawCondition:
    """The yes/no columns that `attributes` names (or all), as 0 and 1."""
    train = frames["train"]
    wanted = options.listed("attributes")
    there = [column for column in train.columns if _yes_no(train[column]) is not None]
    if wanted == ["all"]:
        wanted = [column for column in there if pd.api.types.is_bool_dtype(train[column])] or there
    if not wanted:
        raise UserError(f"attributes={options.attributes!r} was given, but '{name}' has no column of yes/no values.")
    for column in wanted:
        assembly.find_name(column, there, "yes/no column", f"'{name}'")
    values = {}
    for part, frame in frames.items():
        columns = [_yes_no(frame[column]) for column in wanted]
        if any(column is None for column in columns):
            raise UserError(f"the attributes of the {part} part of '{name}' are not all yes/no values.")
        values[part] = np.stack([column for column in columns if column is not None], -1)
    return RawCondition("attributes", values, "the attributes", tuple(wanted), asked=True)


def _yes_no(series: pd.Series) -> np.ndarray | None:
    """0 and 1 where a column holds booleans, 0/1 or -1/1; else None."""
    if series.isna().any() or not (pd.api.types.is_bool_dtype(series) or pd.api.types.is_numeric_dtype(series)):
        return None
    values = series.to_numpy(dtype=np.float64)
    if set(np.unique(values)) <= {0.0, 1.0} or set(np.unique(values)) <= {-1.0, 1.0}:
        return (values > 0).astype(np.float32)
    return None


def _series(frames: dict[str, pd.DataFrame], options: Options, name: str, notes: list[str]) -> Data:
    """Windows (L, D) of consecutive rows, their numeric columns."""
    options.forbid(f"the series '{name}'", "label", "attributes", "categories")
    if len(frames) > 1:
        raise UserError("series=... takes one table of consecutive rows; leave out test_source.")
    frame = frames["train"] if options.limit is None else frames["train"].iloc[: options.limit]
    numeric = []
    for column in _columns(frame, options, f"the series '{name}'"):
        values = frame[column]
        forced = column in options.listed("numbers") or column in options.listed("columns")
        if not forced and (not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)):
            notes.append(f"column '{column}' is not numeric and is left out of the series.")
        elif not forced and len(values) > 2 and bool((values.diff().iloc[1:] == 1).all()):
            notes.append(f"column '{column}' only counts the rows and is left out of the series.")
        else:
            numeric.append(column)
    if not numeric:
        raise UserError(f"'{name}' has no numeric column; series=... needs at least one.")
    arrays = [_numbers(frame[column], column, f"the series '{name}'", notes) for column in numeric]
    if any(np.isnan(values).any() for values in arrays):
        gaps = [column for column, values in zip(numeric, arrays, strict=True) if np.isnan(values).any()]
        notes.append(f"missing values in: {', '.join(gaps)}; each has a second channel that says so.")
    return load_series(np.stack(arrays, -1), numeric, options, name, notes)


def load_series(rows: np.ndarray, names: list[str], options: Options, name: str, notes: list[str]) -> Data:
    """Windows of `options.series` consecutive rows (N, D), numbers standardised by column."""
    length = options.series or 2
    splits: dict[str, Any] = dict(assembly.windows(torch.as_tensor(rows), length, options, notes, "rows"))
    train = splits["train"].tokens.numpy()
    columns = tuple(
        assembly.column_of_numbers(column, train[:, j], rows[:, j], notes, assembly.is_integer(rows[:, j]))
        for j, column in enumerate(names)
    )
    splits = assembly.settled(splits, columns)
    width = sum(1 + column.missing for column in columns)
    return assembly.assemble(DataSpec("series", (length, width), columns=columns, name=name), splits, notes)
