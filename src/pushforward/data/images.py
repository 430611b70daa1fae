"""Sets of images: one size and mode chosen for all, decoded once into memory or, where they are too many, when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.data import assembly
from pushforward.data.assembly import PARTS, RawCondition
from pushforward.data.batches import ArraySplit, Data
from pushforward.data.decoding import LazyImages, NotAlike, Plan, Records, decode, parallel, read_header
from pushforward.data.options import Options
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError

MEMORY = 2 * 2**30  # bytes of decoded images held in memory; larger sets are decoded as they are asked for
LARGEST = 128  # the longest side chosen for images of different sizes
PROBED = 100_000  # images whose header is read before anything is chosen


def choose_plan(headers: Sequence[tuple[str, int, int]], options: Options, notes: list[str]) -> Plan:
    """The size and mode that all images get: what they have where they agree, else what suits most, said in the notes."""
    modes = Counter(mode for mode, _, _ in headers)
    mode = options.mode or _common_mode(modes)
    if len(modes) > 1 and options.mode is None:
        found = ", ".join(f"{count} {name}" for name, count in modes.most_common())
        notes.append(f"the images have different colour modes ({found}); all become {mode} (mode=... to choose).")
    sizes = Counter((height, width) for _, height, width in headers)
    if options.height_width:
        height, width = options.height_width
        if len(sizes) > 1 or next(iter(sizes)) != (height, width):
            notes.append(
                f"the images are resized to {height} x {width}{' and centre-cropped' if options.crop else ' (stretched)'}."
            )
    else:
        (height, width), count = sizes.most_common(1)[0]
        if count < len(headers):
            if 2 * count < len(headers):
                aspect = float(np.median([w / h for _, h, w in headers]))
                area = float(np.median([w * h for _, h, w in headers]))
                height, width = (area / aspect) ** 0.5, (area * aspect) ** 0.5
            shrink = min(1.0, LARGEST / max(height, width))
            height, width = max(1, round(height * shrink)), max(1, round(width * shrink))
            how = "resized and centre-cropped" if options.crop else "stretched"
            notes.append(
                f"the images have {len(sizes)} different sizes; all are {how} to height {height} x width {width} "
                "(size=... to choose)."
            )
        elif max(height, width) > 512:
            notes.append(f"the images are {height} x {width}, which trains slowly; size=64 or 128 makes them smaller.")
    return Plan(mode, height, width, options.crop)


def _common_mode(modes: Counter) -> str:
    """One mode for a mixture: colour if any has it, transparency if at least half have it, 16 bits only if all have them."""
    if len(modes) == 1:
        return next(iter(modes))
    colour = any(mode.startswith("RGB") for mode in modes)
    alpha = sum(count for mode, count in modes.items() if mode.endswith("A")) * 2 >= sum(modes.values())
    return ("RGB" if colour else "L") + ("A" if alpha else "")


def _probe(records: Records, rows: Tensor) -> list[tuple[str, int, int] | Exception]:
    headers: list[tuple[str, int, int] | Exception] = []
    for start in range(0, len(rows), 4096):
        headers += parallel(read_header, records.raw(rows[start : start + 4096].tolist()))
    return headers


def _spread(rows: Tensor, n: int) -> Tensor:
    """At most `n` evenly spread ones."""
    return rows if len(rows) <= n else rows[torch.linspace(0, len(rows) - 1, n).long()]


def load_records(
    parts: dict[str, Records],
    raw_condition: RawCondition | None,
    options: Options,
    name: str,
    notes: list[str],
    paired: dict[str, Records] | None = None,
) -> Data:
    """`Data` from encoded images of each part, their raw condition (aligned with the records) or paired images."""
    options.forbid(f"the images '{name}'", "kind")
    failures = _Failures(options.strict)
    kept = {part: assembly.chosen_rows(records.n, options, PARTS.index(part)) for part, records in parts.items()}
    both = [parts] if paired is None else [parts, paired]
    codes, plans = _read_alike(both, kept, failures) if not (options.size or options.mode) else ([], [])
    if not plans:
        failures.said.clear()
        headers = [_survey(of, kept, failures, name) for of in both]
        plans = [choose_plan(headers[0], options, notes)]
        if paired is not None:
            mode = options.mode or _common_mode(Counter(mode for mode, _, _ in headers[1]))
            plans.append(Plan(mode, plans[0].height, plans[0].width, options.crop))
        if _decoded_size(kept, plans) > MEMORY:
            codes = [
                {part: LazyImages(records, kept[part], plan) for part, records in of.items()}
                for of, plan in zip(both, plans, strict=True)
            ]
            size = _decoded_size(kept, plans) / 2**30
            notes.append(f"{size:.3g} GiB of images are decoded as they are needed, not held in memory.")
        else:
            codes = _read(both, kept, plans, failures)
    notes += failures.notes()
    if not sum(len(rows) for rows in kept.values()):
        raise UserError(f"none of the images of '{name}' can be read: {'; '.join(failures.said[:3])}.")
    condition, vocabulary, values = None, None, None
    if paired is not None:
        condition, values = Condition("image", plans[1].shape[0]), codes[1]
    elif raw_condition is not None:
        raw_condition.values = {part: _pick(raw_condition.values[part], kept[part]) for part in parts}
        encoded = assembly.encode(raw_condition, options, notes)
        values, condition, vocabulary = encoded or (None, None, None)
    splits: dict[str, Any] = {}
    for part, images in codes[0].items():
        given = None if values is None else values[part]
        splits[part] = ArraySplit(images, given) if isinstance(images, Tensor) else replace(images, condition=given)
    splits = assembly.divide({part: split for part, split in splits.items() if len(split) or part == "train"}, options, notes)
    plan = plans[0]
    spec = DataSpec("image", plan.shape, levels=plan.levels, mode=plan.mode, vocabulary=vocabulary, name=name)
    return assembly.assemble(spec, splits, notes, condition)


class _Failures:
    """The images that could not be read: an error at the first where that is `strict`, else sentences for the notes."""

    def __init__(self, strict: bool):
        self.strict, self.said = strict, list[str]()

    def add(self, records: Records, row: int, error: Exception) -> None:
        sentence = f"{records.name(row)}: {str(error) or type(error).__name__}"
        if self.strict:
            raise UserError(f"an image cannot be read - {sentence}; mend or remove it, or leave out strict to skip it.")
        self.said.append(sentence)

    def notes(self) -> list[str]:
        if not self.said:
            return []
        more = f" and {len(self.said) - 5} more" if len(self.said) > 5 else ""
        return [f"{len(self.said)} image(s) could not be read and are skipped: {'; '.join(self.said[:5])}{more}."]


def _decoded_size(kept: dict[str, Tensor], plans: Sequence[Plan]) -> int:
    return sum(len(rows) for rows in kept.values()) * sum(plan.nbytes for plan in plans)


def _read_alike(
    both: list[dict[str, Records]], kept: dict[str, Tensor], failures: _Failures
) -> tuple[list[dict[str, Any]], list[Plan]]:
    """The usual case in one reading: all images have one size and mode, as a few of them suggest. Else nothing."""
    plans = []
    for of in both:
        probed = [h for part, records in of.items() for h in _probe(records, _spread(kept[part], 64))]
        seen = {header for header in probed if not isinstance(header, Exception)}
        if len(seen) != 1:
            return [], []
        plans.append(Plan(*seen.pop()))
    sizes = {(plan.height, plan.width) for plan in plans}
    if len(sizes) > 1 or max(sizes.pop()) > 512 or _decoded_size(kept, plans) > MEMORY:
        return [], []
    before = dict(kept)
    try:
        return _read(both, kept, plans, failures, alike=True), plans
    except NotAlike:
        kept.update(before)
        return [], []


def _read(
    both: list[dict[str, Records]], kept: dict[str, Tensor], plans: Sequence[Plan], failures: _Failures, alike: bool = False
) -> list[dict[str, Any]]:
    """All images in memory; what cannot be read is taken out of `kept`, with its partner."""
    out: list[dict[str, Any]] = [{} for _ in both]
    for part in both[0]:
        rows, bad = kept[part].tolist(), set[int]()
        for codes, of, plan in zip(out, both, plans, strict=True):
            codes[part], wrong = decode(of[part], rows, plan, alike)
            for at, error in wrong.items():
                failures.add(of[part], rows[at], error)
            bad |= set(wrong)
        if bad:
            good = torch.tensor([at for at in range(len(rows)) if at not in bad], dtype=torch.int64)
            kept[part] = kept[part][good]
            for codes in out:
                codes[part] = codes[part][good]
    return out


def _survey(of: dict[str, Records], kept: dict[str, Tensor], failures: _Failures, name: str) -> list[tuple[str, int, int]]:
    """The headers of all images (of some of very many); what has none is taken out of `kept`."""
    good: list[tuple[str, int, int]] = []
    for part, records in of.items():
        probed = kept[part] if len(kept[part]) <= PROBED else _spread(kept[part], 2000)
        bad = []
        for row, header in zip(probed.tolist(), _probe(records, probed), strict=True):
            if isinstance(header, Exception):
                failures.add(records, row, header)
                bad.append(row)
            else:
                good.append(header)
        if bad:
            kept[part] = kept[part][~torch.isin(kept[part], torch.tensor(bad))]
    if not good:
        raise UserError(f"none of the images of '{name}' can be read: {'; '.join(failures.said[:3])}.")
    return good


def _pick(values: Any, rows: Tensor) -> Any:
    return [values[i] for i in rows.tolist()] if isinstance(values, list) else np.asarray(values)[rows.numpy()]
