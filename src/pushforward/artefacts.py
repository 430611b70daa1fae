"""Files that a run leaves behind: written whole or not at all, and carrying the recipe that makes them again.

A *recipe* is any JSON object (run, weights' hash, seed, options, version). It travels inside the file itself: a text
chunk of a PNG, a further array of npz and npy, a first comment line of csv and txt, a first row of jsonl, the schema of
parquet. Nothing that is read here can run code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pushforward.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

KEY = "pushforward"
COMMENT = f"# {KEY}: "
BREAK = "-----"  # between texts of several lines in a .txt

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Writes a file so that a reader sees the old one or the new one, never half of it; makes its directory.

    Raises UserError, with the path and what to do, where the disk is full or the place cannot be written.
    """
    path = Path(os.path.realpath(path))  # through a link, to the file itself
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device or pipe cannot be replaced; a directory is an error
            path.write_bytes(data)
            return path
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"could not write '{path}': {reason(error)}.") from error
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Writes JSON. It has no NaN and no infinity: these become null."""
    return write_bytes(path, (json.dumps(_plain(value, finite=True), indent=2, ensure_ascii=False) + "\n").encode())


def write_yaml(path: str | Path, value: Any) -> Path:
    """Writes YAML, keys in their order."""
    text = yaml.dump(_plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return write_bytes(path, text.encode())


def read_json(path: str | Path) -> Any:
    """Reads JSON; a missing or broken file is a UserError."""
    try:
        return json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"'{path}' is not readable JSON ({error}); it may be cut off or edited by hand.") from error


def read_jsonl(path: str | Path) -> list[Any]:
    """Reads one JSON value a line. A last line that was cut off (a run that was killed) is left out."""
    lines = [line for line in _text(path).split("\n") if line.strip()]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError) as error:
            if number < len(lines):
                raise UserError(f"line {number} of '{path}' is not readable JSON ({error}); mend or remove it.") from error
    return rows


def read_yaml(path: str | Path) -> Any:
    """Reads YAML as plain values; a missing or broken file, or one that asks to build objects, is a UserError."""
    try:
        return yaml.load(_text(path), Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"'{path}' is not readable YAML ({message}); it may be cut off or edited by hand.") from error


def write_picture(image: Image.Image, path: str | Path, recipe: Mapping[str, Any] | None = None) -> Path:
    """Writes a PNG with its recipe in a text chunk."""
    from PIL.PngImagePlugin import PngInfo

    _suffix(path, ".png")
    info = PngInfo()
    if recipe is not None:
        info.add_text(KEY, _dumps(recipe))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return write_bytes(path, buffer.getvalue())


def write_animation(
    frames: Sequence[Image.Image], path: str | Path, recipe: Mapping[str, Any] | None = None, *, seconds: float = 0.12
) -> Path:
    """Writes a GIF that goes through the frames and back again for ever, with a longer look at either end. Its comment holds
    the recipe."""
    _suffix(path, ".gif")
    from PIL import Image

    shown = [frame.convert("RGB").quantize(256, dither=Image.Dither.NONE) for frame in frames]
    order = [*range(len(shown)), *range(len(shown) - 2, 0, -1)]
    times = [round(1000 * seconds) * (5 if i in (0, len(shown) - 1) else 1) for i in order]
    buffer, more = io.BytesIO(), {} if recipe is None else {"comment": _dumps(recipe).encode()}
    rest = [shown[i] for i in order[1:]]
    shown[0].save(buffer, format="GIF", save_all=True, append_images=rest, duration=times, loop=0, **more)
    return write_bytes(path, buffer.getvalue())


def write_array(path: str | Path, arrays: Any, recipe: Mapping[str, Any] | None = None) -> Path:
    """Writes named arrays to an .npz (compressed), or one array to an .npy. A single array is called "samples".

    The recipe is the array "pushforward" of an npz; in an npy it follows the array, where `np.load` does not look.
    """
    suffix = _suffix(path, ".npz", ".npy")
    named = {name: np.asarray(a) for name, a in (arrays if isinstance(arrays, Mapping) else {"samples": arrays}).items()}
    for name, array in named.items():
        if array.dtype.hasobject:
            raise UserError(f"'{name}' holds Python objects, which '{path}' cannot; write a .csv, .parquet or .jsonl instead.")
    if KEY in named:
        raise UserError(f"an array of '{path}' is called '{KEY}', which is where its recipe goes; give it another name.")
    note = [] if recipe is None else [np.array(_dumps(recipe))]
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(buffer, **named, **({KEY: note[0]} if note else {}))  # type: ignore[arg-type]
    elif len(named) != 1:
        raise UserError(f"'{path}' holds one array, {len(named)} were given ({', '.join(named)}); write an .npz instead.")
    else:
        for array in (*named.values(), *note):
            np.save(buffer, array, allow_pickle=False)
    return write_bytes(path, buffer.getvalue())


def read_array(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz or .npy by name, without the recipe."""
    suffix = _suffix(path, ".npz", ".npy")
    with _readable(path):
        if suffix == ".npy":
            return {"samples": np.load(path, allow_pickle=False)}
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name != KEY}


def write_table(path: str | Path, frame: pd.DataFrame, recipe: Mapping[str, Any] | None = None) -> Path:
    """Writes a .csv (the recipe is its first line, a comment) or a .parquet (the recipe is in its schema)."""
    if _suffix(path, ".csv", ".parquet") == ".csv":
        return write_bytes(path, (_comment(recipe) + frame.to_csv(index=False)).encode())
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    if recipe is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), KEY.encode(): _dumps(recipe).encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return write_bytes(path, buffer.getvalue())


def read_table(path: str | Path) -> pd.DataFrame:
    """The DataFrame of a .csv or .parquet, with or without a recipe."""
    import pandas as pd

    suffix = _suffix(path, ".csv", ".parquet")
    with _readable(path):
        if suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, skiprows=int(_first_line(path).startswith(COMMENT)))


def write_text(path: str | Path, lines: Iterable[str], recipe: Mapping[str, Any] | None = None) -> Path:
    """Writes texts to a .txt (the recipe is its first line, a comment) or a .jsonl ({"text": ...} a row, recipe first).

    In a .txt, texts that hold line breaks themselves are separated by a line of dashes; a .jsonl keeps them exactly.
    """
    texts = list(lines)
    if _suffix(path, ".txt", ".jsonl") == ".jsonl":
        rows = ([] if recipe is None else [{KEY: _plain(recipe, finite=True)}]) + [{"text": text} for text in texts]
        return write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    separator = f"\n{BREAK}\n" if any("\n" in text for text in texts) else "\n"
    body = separator.join(texts) + "\n" if texts else ""
    return write_bytes(path, (_comment(recipe) + body).encode(errors="replace"))


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe of a file that this library wrote (.png, .gif, .npz, .npy, .csv, .parquet, .txt or .jsonl).

    Raises UserError where the file is missing, broken, of another kind, or carries none.
    """
    suffix = _suffix(path, ".png", ".gif", ".npz", ".npy", ".csv", ".parquet", ".txt", ".jsonl")
    found: str | bytes | None = None
    with _readable(path):
        if suffix == ".png":
            from PIL import Image

            with Image.open(path, formats=["PNG"]) as image:
                found = image.info.get(KEY)
        elif suffix == ".gif":
            from PIL import Image

            with Image.open(path, formats=["GIF"]) as image:
                found = image.info.get("comment")
        elif suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found = str(archive[KEY]) if KEY in archive.files else None
        elif suffix == ".npy":
            with open(path, "rb") as file:
                np.load(file, allow_pickle=False)
                more = file.tell() < os.fstat(file.fileno()).st_size
                found = str(np.load(file, allow_pickle=False)) if more else None
        elif suffix == ".parquet":
            import pyarrow.parquet as pq

            found = (pq.read_schema(path).metadata or {}).get(KEY.encode())
        else:
            line = _first_line(path)
            if suffix == ".jsonl":
                row = json.loads(line or "{}")
                found = json.dumps(row[KEY]) if isinstance(row, dict) and KEY in row else None
            else:
                found = line.removeprefix(COMMENT) if line.startswith(COMMENT) else None
        recipe = json.loads(found) if found is not None else None
    if not isinstance(recipe, dict):
        raise UserError(f"'{path}' carries no recipe; it was not written by this library, or was edited since.")
    return recipe


def _plain(value: Any, finite: bool = False) -> Any:
    """As dicts, lists, strings and numbers: numpy and torch scalars, arrays, tuples, paths and dataclasses included."""
    if isinstance(value, bool) or value is None or type(value) is str or type(value) is int:
        return value
    if isinstance(value, float):
        return None if finite and not math.isfinite(value) else float(value)
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, finite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, finite) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item, finite) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value), finite)
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), finite)
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as plain values")


def _dumps(recipe: Mapping[str, Any]) -> str:
    return json.dumps(_plain(recipe, finite=True))


def _comment(recipe: Mapping[str, Any] | None) -> str:
    return "" if recipe is None else f"{COMMENT}{_dumps(recipe)}\n"


def _suffix(path: str | Path, *valid: str) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in valid:
        raise UserError(f"'{path}' ends in '{suffix or 'nothing'}', expected {' or '.join(valid)}; give it another name.")
    return suffix


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise UserError(f"could not read '{path}': {reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 text; it may be broken or another kind of file.") from error


def _first_line(path: str | Path) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline().rstrip("\n")


@contextlib.contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Turns whatever a broken or missing file raises into a UserError that names it."""
    try:
        yield
    except (OSError, ValueError, EOFError, SyntaxError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"could not read '{path}': {reason(error)}.") from error
        raise UserError(f"'{path}' is not a readable {Path(path).suffix[1:]} file; it may be cut off.") from error


def reason(error: OSError) -> str:
    """What went wrong with a file, and what to do, as the end of a sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or write to another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "there is no permission for it; choose another path or change its permissions"
    if error.errno == errno.ENOENT:
        return "there is no such file; check the path"
    if error.errno == errno.EISDIR:
        return "it is a directory; give the name of a file"
    return f"{error.strerror or error}; choose another path"
