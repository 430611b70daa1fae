"""A folder of images: classes or pairs by sub-folder, splits by train/ and test/, labels and captions from files beside."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pushforward.data import assembly
from pushforward.data.assembly import RawCondition
from pushforward.data.batches import Data
from pushforward.data.decoding import folder_records
from pushforward.data.images import load_records
from pushforward.data.options import IMAGE_SUFFIXES, PART_NAMES, Options
from pushforward.errors import UserError

_FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "image_id", "name")


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder in name order, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    )


def load_image_folder(folder: Path, files: list[Path], options: Options, name: str) -> Data:
    """`Data` from the images among `files`, all below `folder`."""
    options.forbid(
        f"the folder of images '{name}'", "columns", "categories", "numbers", "series", "context", "n", "test_source"
    )
    if options.target_image is None:
        options.forbid(f"the folder of images '{name}'", "image")
    notes: list[str] = []
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    roots = {PART_NAMES[child.name.lower()]: child for child in folder.iterdir() if child.name.lower() in PART_NAMES}
    roots = {part: root for part, root in roots.items() if any(root in path.parents for path in images)}
    if "train" not in roots:
        roots = {"train": folder}
    parts = {part: [path for path in images if root in path.parents] for part, root in roots.items()}
    left = len(images) - sum(map(len, parts.values()))
    if left:
        notes.append(f"{left} images outside of {', '.join(f'{root.name}/' for root in roots.values())} are not used.")
    if options.target_image is not None:
        given, parts = _pairs(roots, parts, options, name)
        paired = {part: folder_records(paths, folder) for part, paths in given.items()}
        records = {part: folder_records(paths, folder) for part, paths in parts.items()}
        return load_records(records, None, options, name, notes, paired)
    records = {part: folder_records(paths, folder) for part, paths in parts.items()}
    condition = _condition(folder, roots, parts, files, options, notes)
    return load_records(records, condition, options, name, notes)


def _pairs(
    roots: dict[str, Path], parts: dict[str, list[Path]], options: Options, name: str
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The given images of each part and their partners: those of two sub-folders that have one name but for its ending."""
    there = sorted({_class_folder(path, roots[part]) for part, paths in parts.items() for path in paths} - {""})
    assert options.target_image is not None
    target = assembly.find_name(options.target_image, there, "sub-folder of images", f"'{name}'")
    others = [sub for sub in there if sub != target]
    if options.image is None and len(others) != 1:
        found = f"has {', '.join(others)} beside it" if others else "has no other sub-folder of images"
        raise UserError(f"target_image={target!r} is made from which images? '{name}' {found}; say so by image=SUB-FOLDER.")
    source = others[0] if options.image is None else assembly.find_name(options.image, others, "other sub-folder", f"'{name}'")
    sides: list[dict[str, list[Path]]] = [{}, {}]
    for part, root in roots.items():
        found_there = [_named(root / sub, parts[part], name) for sub in (source, target)]
        for own, partners, here, elsewhere in ((*found_there, source, target), (*found_there[::-1], target, source)):
            alone = sorted(set(own) - set(partners))
            if alone:
                raise UserError(
                    f"the images of '{name}' are no pairs: {source}/ has {len(found_there[0])} of {part} and {target}/ "
                    f"{len(found_there[1])}, and {here}/{alone[0]} has no partner of its name in {elsewhere}/ ({len(alone)} "
                    "have none); add what is missing, or take it out."
                )
        for side, images in zip(sides, found_there, strict=True):
            side[part] = [images[key] for key in sorted(images)]
    return sides[0], sides[1]


def _named(folder: Path, paths: list[Path], name: str) -> dict[str, Path]:
    """The images in a folder by their names in it, without endings."""
    inside = [path for path in paths if folder in path.parents]
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in inside}
    if len(found) < len(inside):
        twice = next(key for key, n in Counter(str(path.with_suffix("")) for path in inside).items() if n > 1)
        raise UserError(
            f"{Path(twice).name} is there twice in {folder.name}/ of '{name}', with two endings; a pair has one each."
        )
    return found


def _condition(
    folder: Path, roots: dict[str, Path], parts: dict[str, list[Path]], files: list[Path], options: Options, notes: list[str]
) -> RawCondition | None:
    rows = _sidecar(folder, files, notes)
    columns = sorted({key for row in rows.values() for key in row})

    def column(which: str) -> dict[str, Any]:
        return {part: [rows.get(path, {}).get(which) for path in paths] for part, paths in parts.items()}

    if options.caption:
        if options.caption in columns:
            return RawCondition("text", column(options.caption), f"column '{options.caption}'", asked=True)
        beside = {part: [path.with_suffix(".txt") for path in paths] for part, paths in parts.items()}
        if not any(path.is_file() for paths in beside.values() for path in paths):
            raise UserError(
                f"captions were asked for (caption={options.caption!r}), but no .txt files are beside the images"
                f"{' and no such column is in ' + ', '.join(columns) if columns else ''}."
            )
        texts = {
            part: [path.read_text("utf-8", "replace").strip() if path.is_file() else "" for path in paths]
            for part, paths in beside.items()
        }
        return RawCondition("text", texts, "the captions", asked=True)
    if options.attributes:
        from pushforward.data.tables import attribute_values

        return attribute_values(
            {part: _frame(values, columns) for part, values in _rows(parts, rows).items()}, options, folder.name
        )
    if options.no_label:
        return None
    if options.named_label is not None and options.named_label not in ("folder", "folders"):
        what = assembly.find_name(options.named_label, [*columns, "folder"], "label column", f"'{folder.name}'")
        return RawCondition("class", column(what), f"column '{what}'", asked=True)
    for conventional in assembly.LABELS:
        if conventional in columns and options.label is None:
            return RawCondition("class", column(conventional), f"column '{conventional}'")
    asked = options.named_label is not None
    folders = {part: [_class_folder(path, roots[part]) for path in paths] for part, paths in parts.items()}
    names = Counter(label for labels in folders.values() for label in labels)
    if len(names) < 2 or "" in names:
        if asked:
            raise UserError(
                f"label='folder' was given, but the images of '{folder.name}' are not all in sub-folders, one a class."
            )
        if len(names) > 1:
            notes.append(f"{names['']} images are in no sub-folder, so that the sub-folders are not taken as classes.")
        return None
    return RawCondition("class", folders, "the sub-folder", asked=asked)


def _class_folder(path: Path, root: Path) -> str:
    inside = path.relative_to(root).parts
    return inside[0] if len(inside) > 1 else ""


def _rows(parts: dict[str, list[Path]], rows: dict[Path, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {part: [rows.get(path, {}) for path in paths] for part, paths in parts.items()}


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> Any:
    import pandas as pd

    return pd.DataFrame([{name: row.get(name) for name in columns} for row in rows], columns=columns)


def _sidecar(folder: Path, files: list[Path], notes: list[str]) -> dict[Path, dict[str, Any]]:
    """What the csv and jsonl files among the images say of each."""
    import pandas as pd

    from pushforward.data.tables import read_csv

    found: dict[Path, dict[str, Any]] = {}
    for path in files:
        if path.suffix.lower() in (".csv", ".tsv"):
            frame = read_csv(path, notes=[])
        elif path.suffix.lower() == ".jsonl":
            lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
            try:
                frame = pd.DataFrame([json.loads(line) for line in lines])
            except ValueError as error:
                raise UserError(f"{path.name} is not a list of JSON lines ({error}).") from None
        else:
            continue
        key = next((name for name in frame.columns if str(name).lower() in _FILE_COLUMNS), None)
        if key is None:
            notes.append(f"{path.name} names no files (a column file_name was expected) and is not used.")
            continue
        known = {image: image for image in files}
        by_stem = {image.with_suffix(""): image for image in files if image.suffix.lower() in IMAGE_SUFFIXES}
        matched = 0
        for row in frame.to_dict("records"):
            target = path.parent / str(row.pop(key))
            image = known.get(target) or by_stem.get(target)
            if image is not None:
                matched += 1
                found.setdefault(image, {}).update({str(k): v for k, v in row.items()})
        if matched < len(frame):
            notes.append(f"{len(frame) - matched} rows of {path.name} name files that are not there.")
    return found
