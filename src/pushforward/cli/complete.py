"""`pushforward complete RUN --prompt "ROMEO:"`: a text that goes on as one looks, or the missing half of images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pushforward.cli.editing import conditions_asked, data_of, items, recipe, write
from pushforward.cli.parsing import Parser, peel, plain
from pushforward.errors import UserError

DESCRIPTION = """Continues a text: --prompt "ROMEO:", or a file of text as the second word, or --prompt - for what is piped in
(without its last line break). Each character is printed as it is drawn, -n times one text after another; --out FILE.txt (or
.jsonl) writes them instead. Or completes images: the --half that is named is taken away from an image file, or from held-out
data of the run, and drawn anew -n times, in one picture: given, known, drawn. A model's own options (temperature, top_p, ...)
come as options of their own: `pushforward complete RUN --help` lists them."""

Half = Literal["bottom", "top", "left", "right"]


def run(argv: Sequence[str]) -> None:
    words, rest = peel([("--n" + word[2:] if word.startswith("-n") else word) for word in argv], many=True)
    if len(words) > 2:
        raise UserError(f"a run and one file were expected, {' '.join(words)!r} was given; options begin with --.")
    built = Parser("pushforward complete RUN", DESCRIPTION)
    built.add_argument("--input", type=str | None, default=None, help="a file of text, or an image (or the second word)")
    built.add_argument("--prompt", type=str | None, default=None, help="what the text begins with; - reads what is piped in")
    built.add_argument("--length", type=int, default=500, help="tokens to draw: characters, or pieces of words")
    built.add_argument("--half", type=Half | None, default=None, help="what an image lacks (bottom)")
    built.add_argument("--n", type=int | None, default=None, help="texts, or completions of an image (-n; by default 1, or 4)")
    built.add_argument("--condition", type=str | None, default=None, help="a class; of data of the run it is their own")
    built.add_argument("--items", type=str | None, default=None, help="which images: their numbers in the data, with commas")
    built.add_argument("--split", type=Literal["held-out", "train"], default="held-out", help="where images come from")
    built.add_argument("--data", type=str | None, default=None, help="other images of the same kind, instead of the run's own")
    built.add_argument("--out", type=str | None, default=None, help="a .txt or .jsonl; of images a .png (complete-HALF.png)")
    built.add_argument("--seed", type=int, default=0, help="of all that is drawn, and of the choice of images")
    built.add_argument("--device", type=str, default="cpu", help="where the model runs")
    own = _own_options(built, words[0]) if words else []
    given = plain(built.understand(rest)) | ({"input": words[1]} if len(words) == 2 else {})
    if not words:
        raise UserError('which run? Give its directory: pushforward complete runs/NAME --prompt "To be"')
    if given["n"] is not None and given["n"] < 1:
        raise UserError(f"--n {given['n']} was given; it must be at least 1.")
    from pushforward.training.opening import load

    loaded = load(words[0], device=given["device"])
    chosen = {key: given[key] for key in own if given[key] is not None}
    (texts if _of_texts(loaded) else images)(loaded, given, chosen)


def _own_options(built: Any, directory: str) -> list[str]:
    """Adds the options of the model's own `extend` or `complete`, as --NAME; their names."""
    from pushforward import building, zoo
    from pushforward.training.records import read_record

    record = read_record(Path(directory))
    name = record["model"]["name"]
    model_class: Any = building.method(name).load() if name in zoo.ZOO else None
    method = "extend" if hasattr(model_class, "extend") else "complete"
    if not hasattr(model_class, method):
        return []
    from pushforward.training.runs import sampling_options

    skip: set[str | int] = {"self", "x", "known", "prefix", "length", "condition", "generator", "watch"}
    built.add_function_arguments(getattr(model_class, method), skip=skip, fail_untyped=False)
    return [key for key in sampling_options(model_class, method) if key != "watch"]


def _of_texts(loaded: Any) -> bool:
    """Whether the run continues texts; otherwise it completes images, or a UserError says that it does neither."""
    from pushforward.models.contract import Completes, Extends

    kind, name = loaded.spec.kind, loaded.record["model"]["name"]
    if kind == "tokens" and isinstance(loaded.model, Extends):
        if loaded.spec.vocabulary is None or loaded.spec.vocabulary.kind == "codes":
            raise UserError(f"'{loaded.spec.name}' holds codes, which are no text; continue them from Python: run.extend(ids).")
        return True
    if kind == "image" and isinstance(loaded.model, Completes):
        return False
    if isinstance(loaded.model, Completes):
        rows = "grids of codes" if kind == "tokens" else "rows of tables, points and series"
        raise UserError(f"{rows} are completed from Python: run.complete(rows, known).")
    raise UserError(
        f"'{name}' on {kind} data has nothing to complete: gpt continues texts, models of pixels complete images "
        "(`pushforward models` lists who can)."
    )


def texts(loaded: Any, given: dict[str, Any], options: dict[str, Any]) -> None:
    """Continuations of the prompt: printed as they are drawn, or written to --out."""
    prompt, n, out = prompted(given), given["n"] or 1, given["out"]
    if given["length"] < 1:
        raise UserError(f"--length {given['length']} was given; it must be at least 1.")
    for option in ("items", "data", "half"):
        if given[option] is not None:
            raise UserError(f"--{option} is for images, and this run continues texts; give --prompt.")
    if out and Path(out).suffix not in (".txt", ".jsonl"):
        raise UserError(f"--out {out} was given; texts are written as .txt or .jsonl.")
    condition = conditions_asked(loaded.spec, given["condition"], n)
    asked = {"condition": condition, "seed": given["seed"], **options}
    if out:
        from pushforward.artefacts import write_text

        made = loaded.extend([prompt] * n, given["length"], **asked)
        print(write_text(out, made, recipe(loaded, "complete", {**given, "prompt": prompt, "input": None})))
        return
    from pushforward.artefacts import BREAK
    from pushforward.training.runs import sampling_options

    stream = Stream(loaded.spec.vocabulary, prompt, f"\n{BREAK}\n", _print)
    if "watch" in sampling_options(type(loaded.model), "extend"):
        loaded.extend([prompt] * n, given["length"], watch=stream.watch, **asked)
        stream.finish()
    else:
        _print(f"\n{BREAK}\n".join(loaded.extend([prompt] * n, given["length"], **asked)))
    _print("\n")


def _print(text: str) -> None:
    """Characters that this terminal does not know are question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end="", flush=True)


def prompted(given: dict[str, Any]) -> str:
    """What the text is to begin with."""
    if given["input"] is not None and given["prompt"] is not None:
        raise UserError(f"--prompt and the file {given['input']} were both given; leave one of them away.")
    if given["input"] is None and given["prompt"] != "-":
        return given["prompt"] or ""
    if given["input"] is None:
        return sys.stdin.read().removesuffix("\n")
    try:
        return Path(given["input"]).expanduser().read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"the prompt {given['input']} cannot be read: {why}; give a file of text, or --prompt.") from error


class Stream:
    """Texts, one after another, written as their tokens come.

    A token of a BPE may end within a character: what cannot be read yet waits for the next one. Only the last tokens are
    decoded anew, with those just before them, on which a tokeniser's spaces may hang.
    """

    def __init__(self, vocabulary: Any, prompt: str, between: str, put: Callable[[str], object]):
        self.vocabulary, self.prompt, self.between, self.put = vocabulary, prompt, between, put
        self.row = -1
        self.known: list[int] = []  # ids whose text is written
        self.waiting: list[int] = []

    def watch(self, row: int, tokens: Any) -> None:
        """tokens (1, p): the ids so far of text number `row`."""
        if row != self.row:
            self.finish()
            self.put((self.between if self.row >= 0 else "") + self.prompt)
            self.row, self.known = row, tokens[0, :-1].tolist()[-8:]
        self.waiting.append(int(tokens[0, -1]))
        if not self._text().endswith("\ufffd") or self.vocabulary.kind != "bpe":
            self.finish()

    def finish(self) -> None:
        """Writes what still waits, unreadable as it may be."""
        if self.waiting:
            self.put(self._text()[len(self._text(0)) :])
            self.known, self.waiting = (self.known + self.waiting)[-8:], []

    def _text(self, end: int | None = None) -> str:
        """The last tokens that are written, with the first `end` of those that wait."""
        from pushforward.data.units import decode_text

        return decode_text(self.vocabulary, self.known + self.waiting[:end])


def images(loaded: Any, given: dict[str, Any], options: dict[str, Any]) -> None:
    """A picture with a row for each image: as it is, what is known of it, and -n completions."""
    import torch

    from pushforward.models.autoregressive.pixels import PixelModel
    from pushforward.pictures.draw import draw_strips

    if given["prompt"] is not None:
        raise UserError("--prompt is for texts, and this run completes images; say with --half what they lack.")
    if given["out"] and Path(given["out"]).suffix != ".png":
        raise UserError(f"--out {given['out']} was given; completed images are drawn as one .png.")
    n, spec = given["n"] or 4, loaded.spec
    if given["input"] is None:
        codes, condition, numbers = items(data_of(loaded, given["data"]), {**given, "n": 8})
        condition, labels = condition if spec.condition is not None else None, list(map(str, numbers))
    else:
        from pushforward.cli.translate import read

        for name in ("data", "items"):
            if given[name] is not None:
                raise UserError(f"--{name} says which data of a set, and {given['input']} was given besides; leave one away.")
        ((file, image),) = read([Path(given["input"]).expanduser()], spec)
        codes, condition, labels = image[None], None, [file.name]
    if given["condition"] is not None:
        from pushforward.data.conditions import parse_condition

        condition = parse_condition(spec, conditions_asked(spec, given["condition"], len(codes)), len(codes))
    half: Half = given["half"] or "bottom"
    if half != "bottom" and isinstance(loaded.model, PixelModel):
        print(
            f"'{loaded.record['model']['name']}' draws pixel by pixel in raster order, each given only what is before it: what "
            f"is known after it is kept, but not looked at. Only --half bottom is drawn given all that is known.",
            file=sys.stderr,
        )
    known = kept(tuple(codes.shape[1:]), half)
    repeated = None if condition is None else condition.repeat_interleave(n, 0)
    made = loaded.complete(codes.repeat_interleave(n, 0), known, condition=repeated, seed=given["seed"], **options)
    drawn = loaded.units.parse(made).unflatten(0, (len(codes), n))
    grey = torch.full_like(codes, (spec.levels or 256) // 2)
    states = torch.cat([codes[:, None], torch.where(known, codes, grey)[:, None], drawn.to(codes.dtype)], 1)
    columns = ["given", "known", "drawn", *[""] * (n - 1)]
    given = {**given, "half": half, "out": given["out"] or str(loaded.directory / f"complete-{half}.png")}
    print(write(loaded, "complete", given, draw_strips(spec, states, row_labels=labels, column_labels=columns)))


def kept(shape: tuple[int, ...], half: Half) -> Any:
    """Which pixels of an image (C, H, W) are known where a half of it lacks; the middle one of an odd number is drawn."""
    import torch

    known = torch.ones(shape, dtype=torch.bool)
    _, height, width = shape
    part = {
        "bottom": (slice(height // 2, None), slice(None)),
        "top": (slice((height + 1) // 2), slice(None)),
        "left": (slice(None), slice((width + 1) // 2)),
        "right": (slice(None), slice(width // 2, None)),
    }[half]
    known[:, *part] = False
    return known
