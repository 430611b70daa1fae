"""What a data set holds, in words and figures, and what looks wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pushforward.data.batches import STREAM, ArraySplit, Data, Split, WindowSplit, take
from pushforward.data.spec import DataSpec

LOOKED_AT = 2**25  # numbers of the training data that are looked at (at least 500 data, at most 20,000)
_CHANNELS = {
    "L": ("grey",),
    "LA": ("grey", "alpha"),
    "RGB": ("red", "green", "blue"),
    "RGBA": ("red", "green", "blue", "alpha"),
}
_TOKENS = {"characters": "characters", "bpe": "BPE tokens", "codes": "different codes"}


@dataclass(frozen=True)
class Description:
    """Plain values: what a datum is, how many there are, ranges (name, lowest, mean, highest) of each channel or column,
    classes or attributes (name, count in the training data), problems and notes as sentences."""

    name: str
    words: str
    counts: dict[str, int | None]
    ranges: list[tuple[str, float, float, float]]
    classes: list[tuple[str, int]]
    problems: list[str]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """All of it, for people."""
        counts = ", ".join(f"{name} {'endless' if count is None else f'{count:,}'}" for name, count in self.counts.items())
        lines = [f"{self.name}: {self.words}", f"data: {counts}"]
        if self.ranges:
            lines.append("values (lowest, mean, highest):")
            lines += [f"  {name}: {low:.6g}, {mean:.6g}, {high:.6g}" for name, low, mean, high in self.ranges]
        if self.classes:
            shown = ", ".join(f"{name} {count:,}" for name, count in self.classes[:20])
            more = f", and {len(self.classes) - 20} more" if len(self.classes) > 20 else ""
            lines.append(f"condition: {shown}{more}")
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def in_words(spec: DataSpec) -> str:
    """What a datum and its condition are.

    >>> in_words(DataSpec("image", (3, 32, 48), levels=256, mode="RGB"))
    'RGB images, 32 high and 48 wide, 256 levels'
    """
    columns = spec.columns
    if spec.kind == "image":
        channels, height, width = spec.shape
        words = f"{spec.mode or f'{channels}-channel'} images, {height} high and {width} wide, {spec.levels} levels"
    elif spec.kind == "tokens":
        vocabulary = spec.vocabulary
        kind = f"{vocabulary.size} {_TOKENS[vocabulary.kind]}" if vocabulary else "tokens"
        grid = f"grids of {vocabulary.grid[0]} x {vocabulary.grid[1]}" if vocabulary and vocabulary.grid else ""
        words = f"{grid or f'windows of {spec.shape[0]}'} tokens, {kind}"
    elif spec.kind == "field":
        words = f"fields of {spec.shape[0]} channels, {' x '.join(map(str, spec.shape[1:]))}"
    elif spec.kind == "series":
        words = f"series of {spec.shape[0]} steps of {len(columns)} numbers"
    elif spec.kind == "table":
        categories = sum(column.kind == "category" for column in columns)
        words = f"rows of {len(columns) - categories} numbers and {categories} categories"
    else:
        words = f"points in {spec.shape[0]} dimensions"
    if spec.condition is None:
        return words
    size = spec.condition.size
    given = {
        "class": f"one of {size} classes",
        "attributes": f"{size} yes/no attributes",
        "vector": f"{size} numbers",
        "text": f"a caption of up to {size} tokens",
        "image": f"a paired image of {size} channel(s)",
    }[spec.condition.kind]
    return f"{words}; given {given}"


def describe(data: Data) -> Description:
    """Looks at up to 20,000 training data, and at all for repetitions, and says what they are and what may go wrong."""
    spec = data.spec
    splits = {name: split for name in ("train", "validation", "test") if (split := getattr(data, name)) is not None}
    counts = {name: None if len(split) >= STREAM else len(split) for name, split in splits.items()}
    codes, condition = _sample(data.train, spec)
    problems: list[str] = []
    if counts["train"] is not None and counts["train"] < 100:
        problems.append(f"only {counts['train']} data to train on: most models will memorise them.")
    if spec.kind == "image":
        ranges = _image_ranges(spec, codes)
        problems += _image_problems(spec, codes)
    elif spec.kind == "tokens":
        ranges = []
    else:
        codes = codes.movedim(1, -1) if spec.kind == "field" else codes  # channels last, as columns are
        ranges = _column_ranges(spec, codes)
        problems += _column_problems(spec, codes)
    classes = _classes(spec, condition)
    few = [name for name, count in classes if count < 5]
    if few:
        problems.append(
            f"{len(few)} of the {len(classes)} classes or attributes have fewer than 5 examples: {', '.join(few[:5])}."
        )
    problems += _duplicates(data, splits)
    return Description(spec.name, in_words(spec), counts, ranges, classes, problems, list(data.notes))


def _sample(split: Split, spec: DataSpec) -> tuple[Tensor, Tensor | None]:
    """Some codes, and all conditions where they are in memory."""
    if isinstance(split, WindowSplit):
        return split.tokens, None
    codes, condition = take(split, min(max(LOOKED_AT // spec.dimensions, 500), 20_000))
    everything = getattr(split, "condition", None)
    return codes, everything if isinstance(everything, Tensor) else condition


def _image_ranges(spec: DataSpec, codes: Tensor) -> list[tuple[str, float, float, float]]:
    names = _CHANNELS.get(spec.mode or "", tuple(f"channel {c}" for c in range(spec.shape[0])))
    return [
        (name, float(channel.min()), float(channel.float().mean()), float(channel.max()))
        for name, channel in zip(names, codes.unbind(1), strict=False)
    ]


def _image_problems(spec: DataSpec, codes: Tensor) -> list[str]:
    problems = []
    top = (spec.levels or 256) - 1
    still = codes.amin(0) == codes.amax(0)
    for name, channel in zip(_CHANNELS.get(spec.mode or "", map(str, range(spec.shape[0]))), still, strict=False):
        if bool(channel.all()):
            problems.append(f"the channel {name} never changes; mode=... could leave it out.")
    share = float(still.double().mean())
    if 0.05 < share < 1:
        problems.append(f"{share:.0%} of the pixels are constant over all images (a border?); densities there are unbounded.")
    if top > 1:
        white = float((codes == top).double().mean())
        both = white + float((codes == 0).double().mean())
        if white > 0.3:
            problems.append(f"saturated: {white:.0%} of the values are at the highest level, {top}.")
        elif both > 0.95:
            problems.append(f"{both:.0%} of the values are at the lowest or highest level: these are nearly binary images.")
        if int(codes.max()) * 4 < top:
            problems.append(f"dark: the highest value is {int(codes.max())} of {top}; are these the right levels?")
    return problems


def _column_ranges(spec: DataSpec, codes: Tensor) -> list[tuple[str, float, float, float]]:
    ranges = []
    for j, column in enumerate(spec.columns):
        values = _present(codes, j)
        if column.kind == "number" and len(values):
            ranges.append((column.name, float(values.min()), float(values.mean()), float(values.max())))
    return ranges


def _present(codes: Tensor, j: int) -> Tensor:
    values = codes[..., j].flatten().double()
    return values[~torch.isnan(values)]


def _column_problems(spec: DataSpec, codes: Tensor) -> list[str]:
    found: dict[str, list[str]] = {}
    for j, column in enumerate(spec.columns):
        values = _present(codes, j)
        if not len(values):
            found.setdefault("missing in all the training data", []).append(column.name)
            continue
        if 2 * len(values) < codes[..., j].numel():
            found.setdefault("missing in more than half of the data", []).append(column.name)
        low, high = values.min(), values.max()
        if low == high:
            found.setdefault("constant", []).append(column.name)
        elif column.kind == "number":
            for end, where in ((low, "lowest"), (high, "highest")):
                if float((values == end).double().mean()) > 0.03 and len(torch.unique(values)) > 50:
                    found.setdefault(f"saturated: more than 3% of its values are exactly the {where}", []).append(
                        f"{column.name} ({float(end):.6g})"
                    )
            if float(((values - column.mean).abs() / column.scale).max()) > 20:
                found.setdefault("heavy-tailed: it has values more than 20 standard deviations from its mean", []).append(
                    column.name
                )
    return [f"column {_some(names)} is {what}." for what, names in found.items()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" (and {len(names) - 6} more)" if len(names) > 6 else "")


def _classes(spec: DataSpec, condition: Tensor | None) -> list[tuple[str, int]]:
    if condition is None or spec.condition is None or spec.condition.kind not in ("class", "attributes"):
        return []
    if spec.condition.kind == "class":
        counts = torch.bincount(condition, minlength=spec.condition.size)
    else:
        counts = condition.sum(0).long()
    return list(zip(spec.condition.names, counts.tolist(), strict=True))


def _duplicates(data: Data, splits: dict[str, Split]) -> list[str]:
    """Exact repetitions within the training data, and between it and the others. Windows of a text and single numbers
    repeat by nature."""
    spec = data.spec
    endless = any(isinstance(split, WindowSplit) or len(split) >= STREAM for split in splits.values())
    if spec.kind == "tokens" or spec.dimensions == 1 or endless:
        return []
    keys = {}
    for name, split in splits.items():
        codes = split.codes if isinstance(split, ArraySplit) else _sample(split, spec)[0]
        keys[name] = [hash(row.tobytes()) for row in codes.cpu().numpy()]
    own = set(keys["train"])
    looked = "" if len(keys["train"]) == len(data.train) else f" (of the {len(keys['train']):,} looked at)"
    problems = []
    repeated = len(keys["train"]) - len(own)
    if repeated:
        problems.append(f"{repeated:,} training data{looked} are exact repetitions of others.")
    for name in ("validation", "test"):
        both = sum(key in own for key in keys.get(name, []))
        if both:
            problems.append(
                f"{both:,} {name} data are also in the training data{looked}: measured on them a model looks too good."
            )
    return problems
