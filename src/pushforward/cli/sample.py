"""`pushforward sample RUN -n 64 --seed 7 --out grid.png`: samples as pictures, arrays, tables or text."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pushforward.cli.editing import VERBS, command, conditions_asked
from pushforward.cli.parsing import Parser, peel, plain
from pushforward.cli.sweep import Sweep, several, traded, write_sweep
from pushforward.errors import UserError

DESCRIPTION = """Draws samples from a run. Sample i is a function of (seed, i): the same whatever -n and --batch-size. The
ending of --out says how to write them: .png a grid, .npz or .npy the values, .csv or .parquet a table, .txt text, a folder/
one picture each. Every file carries its recipe; --again FILE makes it anew. A model's own sampling options (steps, guidance,
temperature) come as options of their own: `pushforward sample RUN --help` lists them. Several values of one with commas
(--truncation 0.3,0.7,1) draw a row each, of the same random numbers, and say what they trade: precision against recall.
--decode turns samples of a second stage (a run that learned codes:RUN) into data."""


def run(argv: Sequence[str]) -> None:
    words, rest = peel([("--n" + word[2:] if word.startswith("-n") else word) for word in argv])
    built = Parser(f"pushforward sample {words[0] if words else 'RUN'}", DESCRIPTION)
    built.add_argument("--n", type=int, default=64, help="how many (-n)")
    built.add_argument("--seed", type=int, default=0, help="sample i is a function of (seed, i)")
    built.add_argument("--out", type=str | None, default=None, help="the file; by default in the run directory")
    built.add_argument(
        "--condition", type=str | None, default=None, help="a class, or several with commas; a caption, or several with ;"
    )
    built.add_argument("--batch_size", type=int | None, default=None, help="samples made at once; changes nothing but speed")
    built.add_argument("--device", type=str, default="cpu", help="where the model runs")
    built.add_argument("--decode", type=bool, default=False, help="of a run that learned codes:RUN: decode them through it")
    built.add_argument("--best", type=bool, default=False, help="with the best weights of a watched training, not the last")
    built.add_argument("--again", type=str | None, default=None, help="a file of samples to make anew")
    options: list[str] = []
    if words:
        from pushforward import building, zoo
        from pushforward.training.records import read_record

        name = read_record(Path(words[0]))["model"]["name"]
        if name in zoo.ZOO:
            sample = building.method(name).load().sample  # type: ignore[attr-defined]
            skip: set[str | int] = {"self", "condition", "generator", "n"}
            options = [key.split(".")[-1] for key in built.add_function_arguments(sample, skip=skip, fail_untyped=False)]
            from pushforward.training.runs import sampling_options

            options = [key for key in options if key in sampling_options(building.method(name).load())]
    swept = several(built, rest, options)
    given = plain(built.understand(swept.words[0] if swept else rest))
    if given["again"]:
        return again(Path(given["again"]), words[0] if words else None, given["out"], given["device"])
    if not words:
        raise UserError("which run? Give its directory: pushforward sample runs/NAME")
    from pushforward.training.opening import load

    loaded = load(words[0], device=given["device"], best=given["best"])
    condition = conditions_asked(loaded.spec, given["condition"], given["n"])
    chosen = {key: given[key] for key in options if given[key] is not None}
    first = decoder_of(loaded) if given["decode"] else None
    if swept:
        values = [plain(built.understand(words))[swept.name] for words in swept.words]
        del chosen[swept.name]
        made = Sweep(swept.name, values, given["n"], given["seed"], condition, chosen, given["batch_size"])
        path = given["out"] or default_path(loaded, given["seed"], first).with_suffix("")
        print(write_sweep(loaded, given["out"] or f"{path}-{swept.name}.png", made, first))
        for line in traded(loaded, made):
            print(line)
        return
    usual = inspect.signature(loaded.model.sample).parameters  # type: ignore[arg-type]
    asked = {key: value for key, value in chosen.items() if key in usual and value != usual[key].default}
    path = given["out"] or default_path(loaded, given["seed"], first, condition=given["condition"], options=asked)
    written = write_samples(loaded, path, given["n"], given["seed"], condition, chosen, given["batch_size"], first)
    print(written)


def decoder_of(loaded: Any) -> Any:
    """The run whose codes this one learned, or a sentence."""
    from pushforward.training.gallery import first_stage

    first = first_stage(loaded)
    if first is None:
        source = str(loaded.record["data"].get("source", {}).get("source", ""))
        why = f"{source} is not there any more" if source.startswith("codes:") else "it learned data, not the codes of a run"
        raise UserError(f"samples of {loaded.directory} cannot be decoded: {why}; leave --decode away.")
    return first


def default_path(
    loaded: Any, seed: int, first: Any = None, *, condition: str | None = None, options: dict[str, Any] | None = None
) -> Path:
    """Where samples go when nothing is said: what was asked for is in the name. first: the run that decodes them."""
    words = [f"seed{seed}", *(["best"] if loaded.best else []), *([condition] if condition else [])]
    words += [f"{name.replace('_', '-')}-{value}" for name, value in (options or {}).items()] + (["decoded"] if first else [])
    stem = "-".join(re.sub(r"[^\w.-]+", "-", word)[:40].strip("-") for word in words)
    ending = {"image": "png", "tokens": "txt", "table": "csv", "point": "csv"}.get(form((first or loaded).spec), "npz")
    return loaded.directory / f"samples-{stem}.{ending}"


ENDINGS = {
    "image": (".png", ".npz", ".npy", "a folder/"),
    "tokens": (".txt", ".png", ".npz", ".npy"),
    "codes": (".npz", ".npy", ".png"),
    "table": (".csv", ".parquet", ".png", ".npz", ".npy"),
    "point": (".csv", ".parquet", ".png", ".npz", ".npy"),
    "series": (".npz", ".npy", ".png"),
    "field": (".npz", ".npy", ".png"),
}


def form(spec: Any) -> str:
    """The kind of data, with "codes" for tokens that stand for no text."""
    return "codes" if spec.kind == "tokens" and (spec.vocabulary is None or spec.vocabulary.kind == "codes") else spec.kind


def is_folder(path: str | Path) -> bool:
    """Whether samples go to single pictures in a folder: NAME/, or one that is there already."""
    return str(path).endswith("/") or Path(path).is_dir()


def check_ending(path: str | Path, folder: bool, kind: str) -> None:
    """Refuses an ending that samples of this kind cannot be written as."""
    valid, suffix = ENDINGS[kind], Path(path).suffix
    if "a folder/" in valid if folder else suffix in valid:
        return
    rule = f"give --out an ending of {', '.join(valid[:-1])} or {valid[-1]}"
    if folder:
        raise UserError(f"{kind} samples cannot be written as single pictures; {rule}.")
    if suffix in (".csv", ".parquet"):
        raise UserError(f"{kind} samples are no table; {rule}.")
    if suffix == ".txt":
        raise UserError(f"{kind} samples are no text; {rule}.")
    named = f"as '{suffix}'" if suffix else f"to '{path}', which has no ending"
    raise UserError(f"samples cannot be written {named}; {rule}.")


def opened(loaded: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Sampling options, with the run for each that is the directory of one: what guides, or is gone away from."""
    from pushforward.models.contract import device_of
    from pushforward.training.opening import load

    runs = {key: value for key, value in options.items() if isinstance(value, str) and (Path(value) / "run.yaml").is_file()}
    return options | {key: load(value, device=str(device_of(loaded.model))) for key, value in runs.items()}


def write_samples(
    loaded: Any,
    path: str | Path,
    n: int,
    seed: int,
    condition: Any,
    options: dict[str, Any],
    batch_size: int | None = None,
    first: Any = None,
) -> Path:
    """Draws n samples and writes them in the form that the ending of `path` says, with their recipe. first: the run that
    decodes them, where they are codes."""
    import numpy as np

    from pushforward import artefacts
    from pushforward.data.conditions import parse_condition
    from pushforward.pictures.draw import draw_samples
    from pushforward.training.gallery import decoded_samples, in_proportion, sample_recipe

    folder, shown = is_folder(path), first or loaded
    check_ending(path, folder, form(shown.spec))
    path = Path(path)
    if first and first.spec.condition is not None and loaded.spec.classes and condition is None:
        condition = in_proportion(loaded.spec.condition, n)  # both stages are told the same
    codes = loaded.sample_codes(n, condition=condition, seed=seed, batch_size=batch_size, **opened(loaded, options))
    wanted = parse_condition(loaded.spec, condition, n)
    recipe = sample_recipe(loaded, n, seed, wanted, options) | ({"decode": True} if first else {})
    if first:
        codes = decoded_samples(loaded, first, codes, wanted)
    spec, values = shown.spec, shown.units.present(codes)
    if folder:
        from pushforward.pictures.grids import single_image

        for i in range(n):
            artefacts.write_picture(single_image(codes[i], spec), path / f"{i:05d}.png", {**recipe, "index": i})
    elif path.suffix == ".png":
        artefacts.write_picture(draw_samples(spec, codes, condition=wanted), path, recipe)
    elif path.suffix in (".npz", ".npy"):
        arrays = {"samples": np.asarray(values) if form(spec) == "codes" else codes.numpy()}  # codes: in their grid
        if wanted is not None and path.suffix == ".npz":
            arrays["condition"] = wanted.numpy()
        artefacts.write_array(path, arrays, recipe)
    elif path.suffix == ".txt":
        artefacts.write_text(path, values, recipe)
    else:
        from pushforward.data.table_units import as_table

        artefacts.write_table(path, as_table(spec.columns, codes), recipe)
    return path


def again(path: Path, directory: str | None, out: str | None, device: str) -> None:
    """Makes a file of samples, or a run's picture, anew from the recipe that it carries, beside it unless `out` says where."""
    from pushforward.artefacts import read_recipe, write_picture
    from pushforward.training.gallery import draw_again
    from pushforward.training.opening import load

    if path.is_dir():
        inside = sorted(path.glob("*.png"))
        what = f"give one of its pictures: --again {inside[0]}" if inside else "it holds no pictures (.png)"
        raise UserError(f"{path} is a folder, and every picture carries its own recipe; {what}.")
    recipe = read_recipe(path)
    if recipe.get("verb") in VERBS:
        return verb_again(path, recipe, directory, out, device)
    drawn = "picture" in recipe
    needed = [key for key in (("run", "seed") if drawn else ("run", "weights", "n", "seed")) if key not in recipe]
    if needed:
        makers = [verb for key, verb in (("nearest", "evaluate RUN"), ("data", "data NAME")) if key in recipe]
        how = f"; `pushforward {makers[0]}` makes such pictures" if makers else ""
        raise UserError(f"{path} carries a recipe, but not one of samples (it lacks {', '.join(needed)}){how}.")
    loaded = load(directory or recipe["run"], device=device, best=bool(recipe.get("best")))
    if "weights" in recipe and loaded.weights != recipe["weights"]:
        raise UserError(
            f"{path} was made with weights {recipe['weights']}, but {loaded.directory} now holds {loaded.weights}; "
            f"name the run that made it: pushforward sample RUN --again {path}"
        )
    target = Path(out) if out else path.with_stem(path.stem + "-again")
    options = recipe.get("options") or {}
    if drawn:
        print(write_picture(draw_again(loaded, recipe), target, recipe))
    elif "index" in recipe:
        print(write_one(loaded, target, recipe, options))
    else:
        first = decoder_of(loaded) if recipe.get("decode") else None
        n, seed, condition = recipe["n"], recipe["seed"], recipe.get("condition")
        if "sweep" in recipe:
            ((name, values),) = recipe["sweep"].items()
            print(write_sweep(loaded, target, Sweep(name, values, n, seed, condition, options), first))
            return
        print(write_samples(loaded, out or target, n, seed, condition, options, first=first))


def verb_again(path: Path, recipe: dict[str, Any], directory: str | None, out: str | None, device: str) -> None:
    """Runs the verb that made a picture (interpolate, edit, ...) once more, and says how."""
    import importlib

    argv = command(directory or recipe["run"], recipe, out or path.with_stem(path.stem + "-again").with_suffix(_picture(path)))
    print("pushforward", recipe["verb"], shlex.join(argv))
    importlib.import_module(f"pushforward.cli.{recipe['verb']}").run([*argv, f"--device={device}"])


def _picture(path: Path) -> str:
    kept = (".png", ".gif", ".txt", ".jsonl")
    return path.suffix if path.suffix in kept else ".png"  # a table of outliers stands beside its picture


def write_one(loaded: Any, path: Path, recipe: dict[str, Any], options: dict[str, Any]) -> Path:
    """The picture of one sample of several, as it was written into a folder."""
    from pushforward.artefacts import write_picture
    from pushforward.pictures.grids import single_image
    from pushforward.training.gallery import decoded_samples

    condition = recipe.get("condition")
    codes = loaded.sample_codes(recipe["n"], condition=condition, seed=recipe["seed"], **opened(loaded, options))
    spec = loaded.spec
    if recipe.get("decode"):
        from pushforward.data.conditions import parse_condition

        first = decoder_of(loaded)
        codes, spec = decoded_samples(loaded, first, codes, parse_condition(loaded.spec, condition, recipe["n"])), first.spec
    return write_picture(single_image(codes[recipe["index"]], spec), path, recipe)
