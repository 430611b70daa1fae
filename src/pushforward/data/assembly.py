"""From whole sets with raw conditions to three disjoint splits with encoded ones: what every source shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.data.batches import ArraySplit, Data, Split, WindowSplit
from pushforward.data.options import Options
from pushforward.data.spec import Column, Condition, DataSpec, Vocabulary
from pushforward.data.table_units import code_dtype
from pushforward.data.units import encode_text
from pushforward.errors import UserError, nearest
from pushforward.randomness import mix

MISSING = "(missing)"
LABELS = ("label", "labels", "y", "target", "targets", "class")
CLASSES = 1000
CONTEXT = 64  # tokens in a window of a long sequence, where nothing was said
PARTS = ("train", "validation", "test")


@dataclass
class RawCondition:
    """A condition as a source gives it, for each part that the source has (`values["train"]` ...).

    kind as in `Condition`; class: any ints or strings (N,); attributes: 0/1 (N, A); vector: (N, A); text: strings.
    names: of the classes where the source numbers them (then the values are 0 .. K-1), or of the attributes.
    asked: whether a person named it (then what does not fit is an error; else it is left out with a note).
    """

    kind: str
    values: dict[str, Any]
    what: str
    names: tuple[str, ...] = ()
    asked: bool = False


def chosen_rows(n: int, options: Options, salt: int = 0) -> Tensor:
    """All rows, or the `limit` that the seed chooses, in order."""
    if options.limit is None or options.limit >= n:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(mix(options.seed, 0x11317, salt))
    return torch.randperm(n, generator=generator)[: options.limit].sort().values


def is_missing(value: Any) -> bool:
    return value is None or value != value


def encode(
    raw: RawCondition, options: Options, notes: list[str]
) -> tuple[dict[str, Tensor], Condition, Vocabulary | None] | None:
    """Conditions as tensors per part, and what they are (frequencies are filled in by `assemble`)."""
    if raw.kind == "class":
        return _classes(raw, notes)
    if raw.kind == "text":
        return _captions(raw, options)
    values = {part: torch.as_tensor(np.asarray(v, dtype=np.float32)) for part, v in raw.values.items()}
    size = next(iter(values.values())).shape[1]
    return values, Condition(raw.kind, size, raw.names), None  # type: ignore[arg-type]


def conditioned(
    splits: dict[str, Any], raw: RawCondition | None, options: Options, notes: list[str]
) -> tuple[Condition | None, Vocabulary | None]:
    """Puts the encoded conditions into the splits, and says what they are (with the vocabulary of captions)."""
    encoded = None if raw is None else encode(raw, options, notes)
    if encoded is None:
        return None, None
    tensors, condition, vocabulary = encoded
    for part, split in splits.items():
        split.condition = tensors[part]
    return condition, vocabulary


def _classes(raw: RawCondition, notes: list[str]) -> tuple[dict[str, Tensor], Condition, None] | None:
    def unfit(why: str) -> Any:
        if raw.asked:
            raise UserError(f"{raw.what} cannot be a class: {why}.")
        notes.append(f"{raw.what} is there but not used as a class: {why}.")
        return None

    arrays = {part: np.asarray(values) for part, values in raw.values.items()}
    for array in arrays.values():
        if array.ndim != 1:
            return unfit(f"it has shape {array.shape}, one value a datum was expected")
    if raw.names:
        ids = {part: torch.as_tensor(array.astype(np.int64)) for part, array in arrays.items()}
        if any(len(i) and (int(i.min()) < 0 or int(i.max()) >= len(raw.names)) for i in ids.values()):
            return unfit(f"some of its numbers are not among its {len(raw.names)} classes (unlabelled data?)")
        return ids, Condition("class", len(raw.names), raw.names), None
    texts: dict[str, list[Any]] = {}
    for part, array in arrays.items():
        if array.dtype.kind == "f":
            present = array[~np.isnan(array)]
            if not np.array_equal(present, np.round(present)):
                return unfit(
                    f"it holds fractions like {present[present != np.round(present)][0]:g}; classes are integers or strings"
                )
            texts[part] = [MISSING if v != v else int(v) for v in array.tolist()]
        else:
            texts[part] = [MISSING if is_missing(v) else v if isinstance(v, int) else str(v) for v in array.tolist()]
    distinct = set().union(*texts.values())
    if len(distinct) > CLASSES:
        return unfit(f"it has {len(distinct)} distinct values, more than {CLASSES}")
    if len(distinct) < 2:
        return unfit(f"its only value is {next(iter(distinct), 'none')}")
    order = sorted(distinct, key=lambda v: (isinstance(v, str), v))
    number = {value: i for i, value in enumerate(order)}
    ids = {part: torch.tensor([number[v] for v in values], dtype=torch.int64) for part, values in texts.items()}
    return ids, Condition("class", len(order), tuple(str(v) for v in order)), None


def _captions(raw: RawCondition, options: Options) -> tuple[dict[str, Tensor], Condition, Vocabulary]:
    """Captions as token ids (N, L), filled up with token 0, which decodes to nothing."""
    texts = {part: ["" if is_missing(v) else str(v) for v in values] for part, values in raw.values.items()}
    everything = [text for values in texts.values() for text in values]
    if options.tokenizer == "bpe":
        vocabulary = train_bpe(everything, options.vocabulary_size)
    else:
        characters = tuple(sorted(set().union(*map(set, everything))))
        vocabulary = Vocabulary("characters", len(characters) + 1, ("", *characters))
    ids = {part: [encode_text(vocabulary, text) for text in values] for part, values in texts.items()}
    length = max((len(row) for rows in ids.values() for row in rows), default=0)
    if length == 0:
        raise UserError(f"{raw.what} holds no text.")
    padded = {
        part: torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.int64).reshape(-1, length)
        for part, rows in ids.items()
    }
    return padded, Condition("text", length), vocabulary


def train_bpe(texts: Sequence[str], size: int) -> Vocabulary:
    """A byte-level BPE (Sennrich et al. 2016) of at most `size` tokens; any text can be written in it. Token 0 is padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size <= len(alphabet):
        raise UserError(f"vocabulary_size={size} was given; a byte-level BPE needs more than {len(alphabet)} tokens.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["[PAD]"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Vocabulary("bpe", tokenizer.get_vocab_size(), tokenizer=tokenizer.to_str())


def subset(split: Any, rows: Tensor) -> Any:
    """Those rows of a split."""
    if isinstance(split, ArraySplit):
        if len(rows) == len(split):
            return split
        return ArraySplit(split.codes[rows], None if split.condition is None else split.condition[rows])
    return split.select(rows)


def divide(parts: dict[str, Any], options: Options, notes: list[str]) -> dict[str, Any]:
    """The three splits. What the source gives is kept; the rest is cut from its training part by the seed, without overlap."""
    train = parts["train"]
    total = len(train)
    if total < 2:
        raise UserError(f"{total} datum was found; a distribution needs at least 2 to be learned from, better hundreds.")
    out = dict(parts)
    if total < 10:
        notes.append(f"only {total} data: all of them are kept for training.")
        return out
    counts = {}
    if "validation" not in parts:
        counts["validation"] = round(total * options.validation)
        if "test" not in parts:
            counts["test"] = round(total * options.test)
    if not any(counts.values()):
        return out
    order = torch.randperm(total, generator=torch.Generator().manual_seed(mix(options.seed, 0x5917)))
    at = 0
    for name, count in counts.items():
        if count:
            out[name] = subset(train, order[at : at + count].sort().values)
            at += count
    out["train"] = subset(train, order[at:].sort().values)
    return out


def windows(rows: Tensor, length: int, options: Options, notes: list[str], unit: str) -> dict[str, WindowSplit]:
    """Windows of one long sequence: the last fractions of it are validation and test, so that no window is in two splits."""
    total = len(rows)
    if total < length + 1:
        raise UserError(f"{total} {unit} were found; windows of {length} need at least {length + 1}, so ask for shorter ones.")
    test_from = total - round(total * options.test)
    validation_from = test_from - round(total * options.validation)
    spans = {"train": (0, validation_from), "validation": (validation_from, test_from), "test": (test_from, total)}
    if validation_from < length + 1:
        notes.append(f"only {total} {unit}: all of them are kept for training.")
        return {"train": WindowSplit(rows, length)}
    out = {}
    for name, (start, stop) in spans.items():
        if stop - start >= length:
            out[name] = WindowSplit(rows[start:stop], length)
        elif stop > start:
            notes.append(
                f"the last {stop - start} {unit} are too few for a {name} window of {length}; there is no {name} split."
            )
    return out


def exact(array: np.ndarray) -> np.ndarray:
    """Numbers as float32 where that holds every digit, else as float64."""
    return array.astype(np.float32 if array.dtype.itemsize <= 2 or array.dtype == np.float32 else np.float64)


def settled(splits: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, Any]:
    """The splits with their codes in the type that these columns need."""
    kept: dict[str, Any] = {}
    for part, split in splits.items():
        field = "tokens" if isinstance(split, WindowSplit) else "codes"
        kept[part] = dataclasses.replace(split, **{field: getattr(split, field).to(code_dtype(columns))})
    return kept


def column_of_numbers(name: str, train: np.ndarray, everything: np.ndarray, notes: list[str], integer: bool = False) -> Column:
    """A number column: mean and scale of the training set; a constant one keeps scale 1."""
    present = train[~np.isnan(train)].astype(np.float64)
    missing = bool(np.isnan(everything).any())
    if np.isnan(everything).all():
        raise UserError(f"column '{name}' holds no value at all; remove it or choose others with columns=...")
    mean = float(present.mean()) if len(present) else 0.0
    scale = float(present.std()) if len(present) else 0.0
    if not scale > 1e-12 * max(1.0, abs(mean)):
        notes.append(f"column '{name}' is constant in the training set; it is left unscaled.")
        scale = 1.0
    if integer and np.nanmax(np.abs(everything)) > 2**53:
        notes.append(f"column '{name}' holds integers beyond 2^53; they are taken as numbers with 16 digits.")
        integer = False
    return Column(name, "number", integer=integer, missing=missing, mean=mean, scale=scale)


def is_integer(values: np.ndarray) -> bool:
    """Whether all numbers present are whole."""
    present = values[~np.isnan(values)]
    return bool(len(present)) and np.array_equal(present, np.round(present))


def check_finite(values: np.ndarray, what: str, names: Sequence[str] | None = None) -> None:
    """NaN or infinity in an array is an error that says where."""
    if values.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(values)
    if bad.any():
        row, *place = (int(i) for i in np.argwhere(bad)[0])
        where = (
            f", column {names[place[0]] if names else place[0]}" if len(place) == 1 else f", at {tuple(place)}" if place else ""
        )
        raise UserError(
            f"{what} holds {int(bad.sum())} value(s) that are NaN or infinite, the first in row {row}{where}; "
            "remove or fill them (missing values are understood in tables: a csv, parquet or DataFrame)."
        )


def find_name(wanted: str, there: Sequence[str], what: str, where: str) -> str:
    """`wanted` if it is there, else an error with the nearest."""
    if wanted in there:
        return wanted
    if not there:
        raise UserError(f"{where} has no {what} '{wanted}', nor any other.")
    raise UserError(f"{where} has no {what} '{wanted}'; {nearest(wanted, list(there))}")


def assemble(
    spec: DataSpec, splits: Mapping[str, Split], notes: list[str], condition: Condition | None = None, **more: Any
) -> Data:
    """The finished `Data`; a condition's frequencies are those of the training split."""
    if condition is not None:
        values = getattr(splits["train"], "condition", None)
        if condition.kind == "class" and values is not None:
            counts = torch.bincount(values, minlength=condition.size).double()
            frequencies = counts / counts.sum()
            condition = dataclasses.replace(condition, frequencies=tuple(round(f, 8) for f in frequencies.tolist()))
        elif condition.kind == "attributes" and values is not None:
            condition = dataclasses.replace(condition, frequencies=tuple(round(f, 8) for f in values.double().mean(0).tolist()))
        spec = dataclasses.replace(spec, condition=condition)
    held = {name: splits[name] for name in ("validation", "test") if name in splits and len(splits[name])}
    return Data(spec, splits["train"], held.get("validation"), held.get("test"), notes=notes, **more)
