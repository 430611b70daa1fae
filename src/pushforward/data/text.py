"""Text as token ids: characters, or a byte-level BPE trained on it; a split is every window of its share of the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pushforward.data import assembly
from pushforward.data.batches import Data
from pushforward.data.options import Options
from pushforward.data.spec import DataSpec, Vocabulary
from pushforward.data.units import encode_text
from pushforward.errors import UserError


def read_texts(paths: list[Path], notes: list[str]) -> str:
    """The files' text one after another, in UTF-8 or else Latin-1."""
    texts = []
    for path in paths:
        raw = path.read_bytes()
        try:
            texts.append(raw.decode("utf-8-sig"))
        except UnicodeDecodeError:
            texts.append(raw.decode("latin-1"))
            notes.append(f"{path.name} is not UTF-8; it is read as Latin-1.")
    return "\n".join(text.replace("\r\n", "\n") for text in texts)


def load_text(text: str, options: Options, name: str, notes: list[str]) -> Data:
    """`Data` of kind tokens from one long text: the last fractions of it are validation and test."""
    options.forbid(f"the text '{name}'", "label", "attributes", "caption", "image", "target_image", "size", "mode")
    options.forbid(f"the text '{name}'", "columns", "categories", "numbers", "series", "test_source", "n", "kind")
    text = text if options.limit is None else text[: options.limit]
    if not text.strip():
        raise UserError(f"'{name}' holds no text.")
    if options.tokenizer == "bpe":
        vocabulary = assembly.train_bpe(text.splitlines(keepends=True), options.vocabulary_size)
        ids = torch.tensor(encode_text(vocabulary, text), dtype=torch.int32)
        unit = "tokens"
    else:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        characters, codes = np.unique(points, return_inverse=True)
        vocabulary = Vocabulary("characters", len(characters), tuple(chr(c) for c in characters))
        ids = torch.as_tensor(codes, dtype=torch.int32)
        unit = "characters"
    length = options.context or assembly.CONTEXT
    splits: dict[str, Any] = dict(assembly.windows(ids, length, options, notes, unit))
    return assembly.assemble(DataSpec("tokens", (length,), vocabulary=vocabulary, name=name), splits, notes)
