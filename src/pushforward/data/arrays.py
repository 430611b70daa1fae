"""Arrays in memory, .npy and .npz files, and the digits of scikit-learn: what they are, by shape and values."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pushforward.data import assembly, fields
from pushforward.data.assembly import LABELS, PARTS, RawCondition
from pushforward.data.batches import ArraySplit, Data
from pushforward.data.options import Options
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError

IMAGES = ("x", "images", "image", "data", "X", "imgs")
NAMES = ("classes", "class_names", "names", "label_names", "target_names")
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@dataclass
class _Images:
    """Whole arrays of images as codes (N, C, H, W), one a part."""

    codes: dict[str, np.ndarray]
    levels: int
    mode: str | None


def load_digits(options: Options) -> Data:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 with 17 levels of grey."""
    from sklearn.datasets import load_digits as fetch

    bunch = fetch()
    arrays = {"images": bunch.images.astype(np.uint8), "label": bunch.target, "classes": np.array([str(i) for i in range(10)])}
    options.forbid("the digits", "image", "target_image", "caption", "attributes", "columns", "categories", "numbers", "series")
    return load_arrays(arrays, options, "digits", levels=17)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz, or the one of a .npy. Nothing pickled is read."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return {"x": loaded} if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except PermissionError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as numpy arrays ({error}).") from None


def as_arrays(source: Any) -> dict[str, np.ndarray] | None:
    """An array, a tensor, a pair (x, y) or a mapping of them, as named arrays; None for anything else."""
    if isinstance(source, Mapping):
        return {str(key): _array(value) for key, value in source.items()}
    if isinstance(source, tuple) and len(source) == 2:
        x, y = _array(source[0]), _array(source[1])
        if len(x) != len(y):
            raise UserError(f"(x, y) were given with {len(x)} data and {len(y)} labels; they must be equally many.")
        return {"x": x, "y": y}
    if isinstance(source, (np.ndarray, torch.Tensor, list)):
        return {"x": _array(source)}
    return None


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        raise UserError("the rows of the array have different lengths; give one rectangular array.") from None
    if array.dtype.kind == "O":
        raise UserError("an array of Python objects was given; numbers were expected (a DataFrame for mixed columns).")
    if array.dtype.kind == "c":
        raise UserError("an array of complex numbers was given; real numbers were expected.")
    return array


def load_arrays(arrays: dict[str, np.ndarray], options: Options, name: str, levels: int | None = None) -> Data:
    """`Data` from named arrays: which are the data and which the labels goes by name, what they are by shape and values."""
    notes: list[str] = []
    what = f"the array '{name}'"
    options.forbid(what, "caption", "target_image", "attributes", "categories", "numbers", "test_source", "n")
    keys = _data_keys(arrays, options, name)
    data = {part: arrays[key] for part, key in keys.items()}
    condition = _labels(arrays, keys, options, name, notes)
    for part, array in data.items():
        assembly.check_finite(
            array, f"{what} ({keys[part]})", [f"x{j}" for j in range(array.shape[-1])] if array.ndim == 2 else None
        )
        if array.ndim != data["train"].ndim or array.shape[1:] != data["train"].shape[1:]:
            raise UserError(
                f"the {part} array has shape {array.shape}, the training array {data['train'].shape}; they must agree."
            )
    if data["train"].dtype.kind not in "biuf":
        raise UserError(f"{what} holds {data['train'].dtype}, numbers were expected.")
    if options.series:
        return _series(data, options, name, notes)
    kind = options.kind or _kind(data["train"], what)
    if kind == "tokens":
        fields.check_tokens(data["train"], what)
        if data["train"].ndim == 1:
            return fields.load_long_sequence(data["train"], options, name, notes)
    options.forbid(what, "context")
    rows = {part: assembly.chosen_rows(len(array), options, PARTS.index(part)) for part, array in data.items()}
    data = {part: array[rows[part].numpy()] if len(rows[part]) < len(array) else array for part, array in data.items()}
    spec: DataSpec | None = None
    if kind == "image":
        options.forbid(what, "columns")
        spec, codes = _image_spec(_images(data, levels, what, notes), options, name, notes)
        splits: dict[str, Any] = {part: ArraySplit(values) for part, values in codes.items()}
    else:
        options.forbid(what, "size", "mode")
        if kind == "tokens":
            spec = fields.token_spec(data, name, notes)
            size = spec.vocabulary.size if spec.vocabulary else 0
            splits = {part: ArraySplit(fields.token_codes(array, size)) for part, array in data.items()}
        elif kind == "field":
            splits = fields.field_splits(data, what, notes, asked=options.kind is not None)
        else:
            data = {part: array.reshape(len(array), -1) for part, array in data.items()}
            splits = {part: ArraySplit(torch.as_tensor(assembly.exact(array))) for part, array in data.items()}
    if condition is not None:
        condition.values = {part: np.asarray(values)[rows[part].numpy()] for part, values in condition.values.items()}
    described, _ = assembly.conditioned(splits, condition, options, notes)
    splits = assembly.divide(splits, options, notes)
    if spec is None:  # statistics are those of the training set
        train = splits["train"].codes.numpy()
        if kind == "field":
            spec = fields.field_spec(train, name, notes)
        else:
            spec = fields.point_spec(train, name, notes, np.concatenate(list(data.values())))
        splits = assembly.settled(splits, spec.columns)
    return assembly.assemble(spec, splits, notes, described)


def _kind(train: np.ndarray, what: str) -> str:
    """What an array holds, by its shape and values."""
    if train.ndim in (1, 2):
        return "point"
    if train.ndim not in (3, 4):
        raise UserError(f"{what} has shape {train.shape}; points (N, D) or images (N, H, W[, C]) were expected.")
    return "field" if fields.looks_like_a_field(train) else "image"


def _data_keys(arrays: dict[str, np.ndarray], options: Options, name: str) -> dict[str, str]:
    """Which array is the data of each part."""
    if options.image is not None:
        return {"train": assembly.find_name(options.image, list(arrays), "array", f"'{name}'")}
    if "x_train" in arrays:
        keys = {"train": "x_train", "test": "x_test", "validation": "x_validation"}
        keys["validation"] = next((key for key in ("x_validation", "x_val", "x_valid") if key in arrays), "x_validation")
        return {part: key for part, key in keys.items() if key in arrays}
    named = [key for key in IMAGES if key in arrays] or [key for key, array in arrays.items() if array.ndim >= 2]
    if len(named) == 1 or (named and named[0] in IMAGES):
        return {"train": named[0]}
    shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
    raise UserError(f"'{name}' holds several arrays ({shapes}); say with image=NAME which are the data.")


def _labels(
    arrays: dict[str, np.ndarray], keys: dict[str, str], options: Options, name: str, notes: list[str]
) -> RawCondition | None:
    """The labels of each part: asked for by name, or there by convention."""
    if options.no_label:
        return None
    asked = options.named_label
    length = len(arrays[keys["train"]])
    fitting = {k: a for k, a in arrays.items() if k not in keys.values() and a.ndim in (1, 2) and len(a) == length}
    if asked is not None:
        if "x_train" in keys.values() and f"{asked}_train" in arrays:
            asked = f"{asked}_train"
        train = assembly.find_name(asked, list(fitting), "label", f"'{name}'")
    else:
        conventional = ("y_train", *LABELS) if "x_train" in keys.values() else LABELS
        found = next((key for key in conventional if key in fitting), None)
        if found is None:
            others = [key for key, array in fitting.items() if array.ndim == 1 and array.dtype.kind in "iuUb"]
            if others:
                notes.append(f"not used as labels: {', '.join(others)} (label={others[0]} makes it the condition).")
            return None
        train = found
    chosen = {"train": train}
    for part, key in keys.items():
        if part != "train":
            chosen[part] = train.replace("train", key.removeprefix("x_"))
            if chosen[part] not in arrays or len(arrays[chosen[part]]) != len(arrays[key]):
                raise UserError(f"'{name}' has labels '{train}' but none that fit '{key}' ('{chosen[part]}' was expected).")
    values = {part: arrays[key] for part, key in chosen.items()}
    if values["train"].ndim == 2 and values["train"].shape[1] == 1:
        values = {part: array[:, 0] for part, array in values.items()}
    if values["train"].ndim == 2:
        for part, array in values.items():
            assembly.check_finite(array, f"the labels of the {part} part")
        binary = all(set(np.unique(array).tolist()) <= {0, 1} for array in values.values())
        names = tuple(f"a{j}" for j in range(values["train"].shape[1]))
        return RawCondition("attributes" if binary else "vector", values, f"'{train}'", names, asked=True)
    return RawCondition(
        "class", values, f"'{train}' of '{name}'", _class_names(arrays, values), asked is not None or name == "<array>"
    )


def _class_names(arrays: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Names that lie beside numbered labels."""
    if any(array.dtype.kind not in "iu" or not len(array) or array.min() < 0 for array in values.values()):
        return ()
    highest = max(int(array.max()) for array in values.values())
    for key in NAMES:
        if key in arrays and arrays[key].ndim == 1 and arrays[key].dtype.kind == "U" and len(arrays[key]) > highest:
            return tuple(arrays[key].tolist())
    return ()


def _series(data: dict[str, np.ndarray], options: Options, name: str, notes: list[str]) -> Data:
    """Windows of one long series (N, D), or series (N, L, D) that are windows already."""
    from pushforward.data.tables import load_series

    options.forbid(f"the series '{name}'", "size", "mode", "label", "columns", "context", "kind")
    train = data["train"]
    if train.ndim <= 2:
        if len(data) > 1:
            raise UserError("series=... takes one array of consecutive rows (N, D).")
        rows = train.reshape(len(train), -1)[: options.limit].astype(np.float64)
        return load_series(rows, [f"x{j}" for j in range(rows.shape[1])], options, name, notes)
    if train.ndim != 3 or train.shape[1] != options.series:
        raise UserError(
            f"series={options.series} was given with an array {train.shape}; (N, {options.series}, D) was expected."
        )
    splits: dict[str, Any] = {}
    for part, array in data.items():
        chosen = assembly.chosen_rows(len(array), options, PARTS.index(part))
        splits[part] = ArraySplit(torch.as_tensor(assembly.exact(array[chosen.numpy()])))
    splits = assembly.divide(splits, options, notes)
    flat = splits["train"].codes.flatten(0, 1).numpy()
    columns = tuple(assembly.column_of_numbers(f"x{j}", flat[:, j], flat[:, j], notes) for j in range(train.shape[2]))
    splits = assembly.settled(splits, columns)
    return assembly.assemble(DataSpec("series", train.shape[1:], columns=columns, name=name), splits, notes)


def _images(data: dict[str, np.ndarray], levels: int | None, what: str, notes: list[str]) -> _Images:
    """Codes (N, C, H, W) and levels, inferred from shape and values, with a note on what was inferred."""
    data = {part: _channels_first(array, what, notes if part == "train" else []) for part, array in data.items()}
    channels = data["train"].shape[1]
    kind = data["train"].dtype.kind
    low = min(float(array.min()) for array in data.values() if array.size)
    high = max(float(array.max()) for array in data.values() if array.size)
    if levels is None and kind == "f":
        whole = high > 1 and low >= 0 and all(np.array_equal(array, np.rint(array)) for array in data.values())
        if whole:
            kind = "i"
        elif low < -1 or high > 1:
            raise UserError(
                f"{what} holds fractions from {low:.4g} to {high:.4g}; scale images to [0, 1], or give integers 0 to 255"
                " (kind='field' reads the array as numbers without levels, series=LENGTH as series)."
            )
        else:
            scale, shift = (255.0, 0.0) if low >= 0 else (127.5, 1.0)
            notes.append(f"fractions in [{'0' if low >= 0 else '-1'}, 1] are taken as images of 256 levels.")
            codes = {part: np.rint((array + shift) * scale).astype(np.uint8) for part, array in data.items()}
            return _Images(codes, 256, _MODES[channels])
    if levels is None:
        if low < 0 or high > 65535:
            raise UserError(f"{what} holds integers from {low:g} to {high:g}; images have levels 0 to 255 or 0 to 65535.")
        if data["train"].dtype != np.uint8 or high <= 1:
            levels = max(2, int(high) + 1) if high <= 16 else 256 if high <= 255 else 65536
            if levels != 256:
                notes.append(f"the images have {levels} levels, 0 to {levels - 1}.")
        else:
            levels = 256
    codes = {part: array.astype(np.int32 if levels > 256 else np.uint8) for part, array in data.items()}
    return _Images(codes, levels, _MODES[channels] if levels <= 256 else "I;16" if channels == 1 else None)


def _channels_first(array: np.ndarray, what: str, notes: list[str]) -> np.ndarray:
    if array.size == 0:
        raise UserError(f"{what} is empty: its shape is {array.shape}.")
    if array.ndim not in (3, 4):
        raise UserError(f"{what} has shape {array.shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W).")
    if array.ndim == 3:
        return array[:, None]
    first, last = array.shape[1] in _MODES, array.shape[3] in _MODES
    if not first and not last:
        raise UserError(
            f"{what} has shape {array.shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to 4 channels C."
        )
    if last and first:
        notes.append(f"the shape {array.shape} could have its channels first or last; they are taken as last.")
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if last else array


def _image_spec(images: _Images, options: Options, name: str, notes: list[str]) -> tuple[DataSpec, dict[str, torch.Tensor]]:
    """Spec and codes, resized and in another mode where that was asked for."""
    channels, height, width = images.codes["train"].shape[1:]
    wanted = options.height_width or (height, width)
    mode = options.mode or images.mode
    codes = {part: torch.from_numpy(np.ascontiguousarray(array)) for part, array in images.codes.items()}
    levels = images.levels
    if wanted != (height, width) or mode != images.mode:
        if images.mode is None or mode is None:
            raise UserError(f"images of {channels} channels and {levels} levels cannot be resized here; do it before loading.")
        from pushforward.data.decoding import Plan, rearrange

        plan = Plan(mode, wanted[0], wanted[1], options.crop)
        codes = {part: rearrange(array, images.mode, plan, levels) for part, array in images.codes.items()}
        levels = plan.levels if mode != images.mode and "I;16" in (mode, images.mode) else levels
        if wanted != (height, width):
            how = " and centre-cropped" if options.crop else " (stretched)"
            notes.append(f"the images are resized from {height} x {width} to {wanted[0]} x {wanted[1]}{how}.")
    shape = tuple(codes["train"].shape[1:])
    return DataSpec("image", shape, levels=levels, mode=mode, name=name), codes
