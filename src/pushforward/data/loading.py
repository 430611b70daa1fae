"""`load_data`: any data by one name. This file imports nothing heavy, so that the command line's help is quick.

Annotations are evaluated here, not postponed: whoever reads the signature would import torch to resolve postponed ones.
"""

import contextlib
import dataclasses
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushforward.data.options import IMAGE_SUFFIXES, PART_NAMES, Options
from pushforward.data.spec import Kind
from pushforward.errors import UserError, nearest

if TYPE_CHECKING:
    from pushforward.data.batches import Data

BUILT_IN = {
    "digits": "1,797 handwritten digits of scikit-learn, 8 x 8, 10 classes",
    "ring8": "8 narrow Gaussians on a circle of radius 1 (2-D, known density)",
    "grid25": "25 narrow Gaussians on a grid (2-D, known density)",
    "eight-gaussians": "8 wide Gaussians on a circle (2-D, known density)",
    "moons": "two interleaved half-circles (2-D, known density)",
    "checkerboard": "8 uniform squares (2-D, known density)",
    "swiss-roll": "one spiral arm (2-D, known density)",
    "spirals": "two spiral arms (2-D, known density)",
    "pinwheel": "5 bent blades (2-D, known density)",
}
_TEXTS = (".txt", ".text", ".md")
_FILES = (".npz", ".npy", ".csv", ".tsv", ".parquet", ".txt")


def load_data(
    source: str | Any = "digits",
    *,
    kind: str | None = None,
    label: str | bool | None = None,
    attributes: str | None = None,
    caption: str | None = None,
    image: str | None = None,
    target_image: str | None = None,
    size: int | str | None = None,
    crop: bool = True,
    mode: str | None = None,
    columns: str | None = None,
    categories: str | None = None,
    numbers: str | None = None,
    series: int | None = None,
    context: int | None = None,
    tokenizer: str = "characters",
    vocabulary_size: int = 1024,
    test_source: str | None = None,
    validation: float = 0.1,
    test: float = 0.2,
    limit: int | None = None,
    strict: bool = False,
    n: int | None = None,
    seed: int = 0,
) -> "Data":
    """Loads any data: what it is, is inferred from it and said in the result's `notes`.

    Args:
        source: "digits" or a 2-D toy (ring8, moons, ...), a folder of images or of texts, a file (.npz, .npy, .csv,
            .tsv, .parquet, .txt), a folder that `datasets` saved, a name on the Hugging Face hub ("owner/name"), or in
            Python an array, a tensor, a pair (x, y), a dict of arrays, a DataFrame, a datasets.Dataset.
        kind: what an array holds: image, point, field (numbers (C, H, W) or (C, L) without levels, such as codes) or tokens
            (integers (L,) or (H, W)); by default what its shape and values look like.
        label: column or array that is the class of each datum ("folder": the sub-folders); by default the label that is
            there by convention (y_train, a column "label", sub-folders; for tables none); "none" ignores it.
        attributes: yes/no columns that are the condition, comma-separated, or "all".
        caption: column of texts that are the condition; for a folder of images "txt" takes the .txt file beside each.
        image: column or array of images that is the data, or with target_image the one that is given.
        target_image: column of paired images to be learned given those of `image`.
        size: side of the images in pixels (64), or HEIGHTxWIDTH (64x48); by default as they are.
        crop: cut the centre out where the shape of an image differs from `size`; otherwise stretch it.
        mode: colour mode of the images (L, LA, RGB, RGBA, I;16); by default as they are.
        columns: columns of the table to learn, comma-separated; by default all.
        categories: columns to take as categories although they look like numbers, comma-separated.
        numbers: columns to take as numbers although they look like texts, comma-separated; what is no number is missing.
        series: length of the windows of consecutive rows that a table or array is cut into.
        context: length in tokens of the windows that a text (or one long array of tokens) is cut into (64 by default).
        tokenizer: what a text is cut into: characters, or bpe (trained on the text).
        vocabulary_size: number of tokens of the bpe tokenizer.
        test_source: file that holds the test part of a table or parquet file.
        validation: fraction of the data kept to choose on.
        test: fraction of the data kept to measure on, where the source has no test part of its own.
        limit: use at most so many data of each part (rows, images, characters).
        strict: refuse data with unreadable images instead of skipping them.
        n: number of points of a toy; by default it never ends.
        seed: decides which data are in which split, and the points of a toy.

    Returns:
        `Data` with its spec, splits that never overlap, notes, and `source`: the arguments that load the same again.

    Raises:
        UserError: what was given cannot be found, read, or understood; its sentence says what to do.

    >>> data = load_data("digits")
    >>> data.spec.shape, data.spec.levels, len(data.train), len(data.validation), len(data.test)
    ((1, 8, 8), 17, 1258, 180, 359)
    """
    given = {key: value for key, value in locals().items() if key != "source"}
    options = Options(**given)
    with _permitted(source):
        data = _dispatch(source, options)
    data.source = _recipe(source, options)
    return data


def foreseen(source: str) -> Kind | None:
    """Checks, without loading or importing much, that a named source exists; what kind its data are, where that is known
    before they are read.

    Raises the UserErrors of `load_data` for a name that is nothing, for a file that it does not take, or must not read. A name
    that may be one of the hub's is not asked for.

    >>> foreseen("digits"), foreseen("moons"), foreseen("owner/name")
    ('image', 'point', None)
    """
    if source in BUILT_IN:
        return "image" if source == "digits" else "point"
    path = Path(source).expanduser()
    with _permitted(source):
        if source and path.is_dir():
            _readable_folder(path)
        elif source and path.exists():
            return "tokens" if _readable_file(path) in _TEXTS else None
        else:
            _refuse_unknown(source, path)
    return None


@contextlib.contextmanager
def _permitted(source: Any) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{error.filename or source} cannot be read: no permission.") from None


def _recipe(source: Any, options: Options) -> dict[str, Any]:
    """The arguments that load the same data again, in plain values."""
    if not isinstance(source, (str, os.PathLike)):
        return {"source": "<array>"}
    text = os.fspath(source)
    if text not in BUILT_IN and Path(text).expanduser().exists():
        text = str(Path(text).expanduser().resolve())
    changed = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name in ("validation", "test", "seed") or getattr(options, field.name) != field.default
    }
    if options.test_source:
        changed["test_source"] = str(Path(options.test_source).expanduser().resolve())
    return {"source": text, **changed}


def _dispatch(source: Any, options: Options) -> "Data":
    if not isinstance(source, (str, os.PathLike)):
        return _from_memory(source, options)
    text = os.fspath(source)
    if text == "digits":
        from pushforward.data.arrays import load_digits

        return load_digits(options)
    if text in BUILT_IN:
        from pushforward.data.toys import load_toy

        return load_toy(text, options)
    path = Path(text).expanduser()
    if text and path.is_dir():
        return _folder(path, options)
    if text and path.exists():
        return _file(path, options)
    _refuse_unknown(text, path)
    from pushforward.data.hub import load_hub

    return load_hub(text, options, list(BUILT_IN))


def _refuse_unknown(text: str, path: Path) -> None:
    """A string that is nothing here may be a name on the hub if it can be one; else it is an error with the nearest that is."""
    parent = path.parent
    beside: list[str] = []
    if parent.is_dir() and path.name:
        beside = [str(parent / name) for name in difflib.get_close_matches(path.name, os.listdir(parent), n=2, cutoff=0.6)]
    path_like = text.startswith((".", "~", "/")) or text.endswith(os.sep) or path.suffix.lower() in (*_FILES, *IMAGE_SUFFIXES)
    plain = re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*(:[\w.-]+)?", text) is not None
    close = difflib.get_close_matches(text.lower(), BUILT_IN, n=2, cutoff=0.75)
    if path_like or not plain or beside or close:
        hint = (
            f"; did you mean {' or '.join([*close, *beside])}?"
            if close or beside
            else f": there is no such file or folder; {nearest(text, BUILT_IN)}"
        )
        raise UserError(f"the data '{text}' cannot be found{hint}")


def _from_memory(source: Any, options: Options) -> "Data":
    module = type(source).__module__.split(".")[0]
    if module == "pandas" and hasattr(source, "columns"):
        from pushforward.data.tables import load_frames

        return load_frames({"train": source}, options, "<array>", [])
    if module == "datasets":
        from datasets import Dataset, DatasetDict

        from pushforward.data.hub import load_datasets

        if isinstance(source, (Dataset, DatasetDict)):
            return load_datasets(source, options, "<array>", [])
    from pushforward.data.arrays import as_arrays, load_arrays

    arrays = as_arrays(source)
    if arrays is None:
        raise UserError(
            f"data of type {type(source).__name__} were given; a name, a path, an array, a tensor, a pair (x, y), a dict of "
            "arrays, a DataFrame or a datasets.Dataset were expected."
        )
    return load_arrays(arrays, options, "<array>")


def _file(path: Path, options: Options) -> "Data":
    suffix, name = _readable_file(path), path.stem
    notes: list[str] = []
    if suffix in (".npz", ".npy"):
        from pushforward.data.arrays import load_arrays, read_npz

        return load_arrays(read_npz(path), options, name)
    if suffix in (".csv", ".tsv", ".parquet"):
        paths = {"train": [path]}
        if options.test_source:
            paths["test"] = [_existing(options.test_source, suffix)]
        elif (other := _sibling(path)) is not None and not options.series:
            notes.append(f"{other.name} lies beside; test_source={other.name} would make it the test part.")
        return _tables(paths, options, name, notes)
    from pushforward.data.text import load_text, read_texts

    return load_text(read_texts([path], notes), options, name, notes)


def _readable_file(path: Path) -> str:
    """The suffix of a file of data."""
    if not os.access(path, os.R_OK):
        raise PermissionError(13, "no permission", str(path))
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        raise UserError(
            f"{path.name} is one image; a distribution needs at least 2, better hundreds: give the folder that holds them."
        )
    if suffix not in (*_FILES, *_TEXTS):
        raise UserError(
            f"{path.name} is of no kind known here; a folder of images or a file of {', '.join(_FILES)} was expected."
        )
    return suffix


def _existing(text: str, suffix: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError(f"test_source={text!r} is no file.")
    if path.suffix.lower() != suffix:
        raise UserError(f"test_source={text!r} must be a {suffix} file like the training part.")
    return path


def _sibling(path: Path) -> Path | None:
    """The test file that belongs to a training file, by name."""
    stem = re.sub(r"(^|[_-])train(ing)?$", lambda m: f"{m[1]}test", path.stem, flags=re.IGNORECASE)
    other = path.with_name(stem + path.suffix)
    return other if stem != path.stem and other.is_file() else None


def _tables(paths: dict[str, list[Path]], options: Options, name: str, notes: list[str]) -> "Data":
    if paths["train"][0].suffix.lower() == ".parquet":
        from pushforward.data.hub import load_parquet

        return load_parquet(paths, options, name, notes)
    import pandas as pd

    from pushforward.data.tables import load_frames, read_csv

    frames = {part: pd.concat([read_csv(file, notes) for file in files]) for part, files in paths.items()}
    return load_frames(frames, options, name, notes)


def _readable_folder(folder: Path) -> None:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(13, "no permission", str(folder))


def _folder(folder: Path, options: Options) -> "Data":
    _readable_folder(folder)
    name = folder.resolve().name
    if (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    ):
        from pushforward.data.hub import load_saved

        return load_saved(folder, options, name)
    from pushforward.data.folders import load_image_folder, visible_files

    files = visible_files(folder)
    if not files:
        raise UserError(f"the folder {folder} is empty; it should hold images, texts, tables or arrays.")
    kinds = Counter(path.suffix.lower() for path in files)
    notes: list[str] = []
    if any(suffix in kinds for suffix in IMAGE_SUFFIXES):
        return load_image_folder(folder, files, options, name)
    for suffix in (".parquet", ".csv", ".tsv"):
        if suffix in kinds:
            tables = [path for path in files if path.suffix.lower() == suffix]
            return _tables(_by_part(tables, folder, notes), options, name, notes)
    for suffix in (".npz", ".npy"):
        if suffix in kinds:
            arrays = [path for path in files if path.suffix.lower() == suffix]
            if len(arrays) > 1:
                raise UserError(f"{folder} holds {len(arrays)} {suffix} files ({_some(arrays)}); give one of them.")
            return _file(arrays[0], options)
    texts = [path for path in files if path.suffix.lower() in (".txt", ".text")]
    if texts:
        from pushforward.data.text import load_text, read_texts

        return load_text(read_texts(texts, notes), options, name, notes)
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in kinds.most_common(5))
    raise UserError(f"the folder {folder} holds no images, texts, tables or arrays; found: {found}.")


def _some(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:6]) + (", ..." if len(paths) > 6 else "")


def _by_part(tables: list[Path], folder: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Which files of a folder are its training, validation and test part, by the words in their names or folders."""
    if len(tables) == 1:
        return {"train": tables}
    parts: dict[str, list[Path]] = {}
    for path in tables:
        words = re.split(r"[^a-z]+", str(path.relative_to(folder).with_suffix("")).lower())
        part = next((PART_NAMES[word] for word in words if word in PART_NAMES), None)
        if part:
            parts.setdefault(part, []).append(path)
    used = {path for paths in parts.values() for path in paths}
    sharded = all(re.search(r"\d+-of-\d+", path.name) for path in parts.get("train", []))
    if "train" not in parts or (len(parts["train"]) > 1 and not sharded):
        raise UserError(
            f"{folder} holds {len(tables)} tables ({_some(tables)}); give one of them, or call them train and test."
        )
    if len(used) < len(tables):
        notes.append(f"not used: {_some([path for path in tables if path not in used])}.")
    return parts
