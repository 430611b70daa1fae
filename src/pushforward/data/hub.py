"""Hugging Face `datasets`: parquet files, saved sets, sets in memory and names on the hub, by what their columns hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value, load_dataset
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable

from pushforward.data import assembly, images
from pushforward.data.assembly import LABELS, RawCondition
from pushforward.data.batches import Data
from pushforward.data.decoding import Records
from pushforward.data.hub_names import ask
from pushforward.data.options import PART_NAMES, Options
from pushforward.errors import UserError


def load_parquet(paths: dict[str, list[Path]], options: Options, name: str, notes: list[str]) -> Data:
    """Parquet files of each part; large ones stay on the disk, mapped into memory."""
    return load_datasets({part: _parquet(files) for part, files in paths.items()}, options, name, notes)


def _parquet(files: list[Path]) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if sum(path.stat().st_size for path in files) > images.MEMORY / 4:
            return Dataset.from_parquet([str(path) for path in files])
        return Dataset(InMemoryTable(pa.concat_tables([pq.read_table(path) for path in files])))
    except PermissionError:
        raise
    except (pa.ArrowException, DatasetsError, OSError, ValueError) as error:
        raise UserError(f"{', '.join(path.name for path in files)} cannot be read as parquet ({error}).") from None


def load_saved(folder: Path, options: Options, name: str) -> Data:
    """What `datasets.Dataset.save_to_disk` wrote."""
    from datasets import load_from_disk

    try:
        return load_datasets(load_from_disk(str(folder)), options, name, [])
    except FileNotFoundError as error:
        raise UserError(f"{folder} looks like a saved dataset, but cannot be read ({error}).") from None


def load_hub(name: str, options: Options, local: Sequence[str]) -> Data:
    """A set of the hub by name ("owner/name", or "owner/name:configuration"), fetched once and cached by `datasets`."""
    repository, _, configuration = name.partition(":")
    unreachable = ask(name, local)
    try:
        loaded = load_dataset(repository, configuration or None)
    except (DatasetsError, RuntimeError, ImportError, *unreachable) as error:  # RuntimeError: a set that needs code to load
        raise UserError(f"the data set '{name}' of the Hugging Face hub cannot be loaded: {str(error).strip()[:300]}") from None
    return load_datasets(loaded, options, repository.rsplit("/", 1)[-1], [])


def load_datasets(source: Dataset | DatasetDict | dict[str, Dataset], options: Options, name: str, notes: list[str]) -> Data:
    """A `datasets` set: of images where it has an image column, of text where its only column is one, else a table."""
    parts: dict[str, Dataset] = {"train": source} if isinstance(source, Dataset) else _parts(source, name, notes)
    parts = {part: _with_images(dataset) for part, dataset in parts.items()}
    features = parts["train"].features
    for part, dataset in parts.items():
        lacking = [column for column in features if column not in dataset.features]
        if lacking:
            raise UserError(f"the {part} part of '{name}' lacks the column(s) {', '.join(lacking[:5])}.")
    pictures = [column for column, feature in features.items() if isinstance(feature, Image)]
    if not pictures:
        if list(features) == ["text"] or (options.context and "text" in features):
            from pushforward.data.text import load_text

            return load_text("\n".join(row for row in parts["train"]["text"] if row), options, name, notes)
        from pushforward.data.tables import load_frames

        return load_frames({part: dataset.to_pandas() for part, dataset in parts.items()}, options, name, notes)
    options.forbid(f"the images '{name}'", "columns", "categories", "numbers", "series", "context", "n")
    image, partner = _image_columns(pictures, options, name, notes)
    condition = None if partner else _condition(parts, options, name, notes)
    records = {part: _records(dataset, image, part) for part, dataset in parts.items()}
    paired = {part: _records(dataset, partner, part) for part, dataset in parts.items()} if partner else None
    return images.load_records(records, condition, options, name, notes, paired)


def _parts(source: DatasetDict | dict[str, Dataset], name: str, notes: list[str]) -> dict[str, Dataset]:
    parts = {PART_NAMES[str(key)]: dataset for key, dataset in source.items() if str(key) in PART_NAMES}
    if "train" not in parts:
        first = next(iter(source))
        notes.append(f"'{name}' has no training part; '{first}' is taken, of {', '.join(map(str, source))}.")
        return {"train": source[first]}
    return parts


def _with_images(dataset: Dataset) -> Dataset:
    """Image columns undecoded, and columns of encoded images that are not called so as what they are."""
    for column, feature in dataset.features.items():
        encoded = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
        binary = isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")
        if isinstance(feature, Image) or encoded or binary:
            dataset = dataset.cast_column(column, Image(decode=False))
    return dataset


def _image_columns(pictures: list[str], options: Options, name: str, notes: list[str]) -> tuple[str, str | None]:
    """Which column is the data, and which the paired image that it is conditioned on."""
    given = options.image and assembly.find_name(options.image, pictures, "image column", f"'{name}'")
    if options.target_image is None:
        image = given or pictures[0]
        others = [column for column in pictures if column != image]
        if others:
            notes.append(
                f"'{image}' is learned; image=... chooses another, target_image={others[0]} pairs it with {others[0]}."
            )
        return image, None
    target = assembly.find_name(options.target_image, pictures, "image column", f"'{name}'")
    condition = given or next((column for column in pictures if column != target), None)
    if condition is None or condition == target:
        raise UserError(
            f"target_image={target!r} needs another image column to be made from; '{name}' has {', '.join(pictures)}."
        )
    return target, condition


def _records(dataset: Dataset, column: str, part: str) -> Records:
    only = dataset.select_columns([column]).with_format(None)

    def raw(rows: Sequence[int]) -> list[bytes | str | None]:
        return [cell and (cell["bytes"] or cell["path"]) for cell in only[list(rows)][column]]

    def name(row: int) -> str:
        cell = only[row][column]
        return f"row {row} of {part}" + (f" ({cell['path']})" if cell and cell["path"] else "")

    return Records(len(only), raw, name)


def _condition(parts: dict[str, Dataset], options: Options, name: str, notes: list[str]) -> RawCondition | None:
    features = parts["train"].features
    plain = [column for column, feature in features.items() if isinstance(feature, (Value, ClassLabel))]

    def values(column: str) -> dict[str, Any]:
        return {part: dataset.with_format(None)[column][:] for part, dataset in parts.items()}

    if options.caption:
        texts = [c for c in plain if isinstance(features[c], Value) and "string" in features[c].dtype]
        column = assembly.find_name(options.caption, texts, "column of captions", f"'{name}'")
        return RawCondition("text", values(column), f"column '{column}'", asked=True)
    if options.attributes:
        from pushforward.data.tables import attribute_values

        values_only = [column for column in plain if not isinstance(features[column], ClassLabel)]
        frames = {part: dataset.select_columns(values_only).to_pandas() for part, dataset in parts.items()}
        return attribute_values(frames, options, name)
    if options.no_label:
        return None
    label = options.named_label and assembly.find_name(options.named_label, plain, "label column", f"'{name}'")
    label = label or next((column for column in LABELS if column in plain), None)
    if label is None:
        booleans = [c for c in plain if features[c].dtype == "bool"]
        if booleans:
            notes.append(f"{len(booleans)} yes/no columns can be the condition: attributes={','.join(booleans[:2])} or all.")
        elif plain:
            notes.append(f"no condition is used; there are the columns {', '.join(plain[:8])} (label=..., caption=...).")
        return None
    feature = features[label]
    names = tuple(feature.names) if isinstance(feature, ClassLabel) else ()
    raw = values(label)
    if names and all(value is not None for column in raw.values() for value in column):
        raw = {part: np.asarray(column) for part, column in raw.items()}
    else:
        raw = {part: np.asarray([names[v] if names and v is not None else v for v in c], object) for part, c in raw.items()}
        raw = {part: _narrow(column) for part, column in raw.items()}
        names = ()
    return RawCondition("class", raw, f"column '{label}' of '{name}'", names, asked=options.named_label is not None)


def _narrow(values: np.ndarray) -> np.ndarray:
    """Numbers as numbers, so that fractions are seen as such."""
    numeric = all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in values)
    if not numeric:
        return values
    if any(v is None for v in values) or any(isinstance(v, float) for v in values):
        return np.asarray([np.nan if v is None else v for v in values], np.float64)
    return values.astype(np.int64)
