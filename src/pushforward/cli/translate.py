"""`pushforward translate RUN [INPUT]`: images of one domain as images of another."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pushforward.cli.editing import chosen_split, data_of, items, named, parser, recipe, some_of, write
from pushforward.cli.parsing import peel, plain
from pushforward.data.options import IMAGE_SUFFIXES
from pushforward.errors import UserError

DESCRIPTION = """Translates images: with a model of pairs into what it has learned to make of such images, with a model of two
classes into the other class. INPUT is an image or a folder of images; one of another size is resized and centre-cropped. An
image becomes NAME-translated.png beside it, a folder the folder NAME-translated with a .png for each of its images, unless
--out says where. Without INPUT it is held-out data of the run, drawn side by side: given, made, and true where pairs are
known. A model's own options come as options of their own: `pushforward translate RUN --help` lists them."""


def run(argv: Sequence[str]) -> None:
    words, rest = peel(argv, many=True)
    if len(words) > 2:
        raise UserError(f"a run and one input were expected, {' '.join(words)!r} was given; options begin with --.")
    built = parser("translate", DESCRIPTION)
    built.add_argument("--input", type=str | None, default=None, help="an image or a folder of images (or the second word)")
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    built.add_argument("--to", type=str | None, default=None, help="the class that they are to be of, where there are two")
    own = _own_options(built, words[0]) if words else []
    given = plain(built.understand(rest)) | ({"input": words[1]} if len(words) == 2 else {})
    if not words:
        raise UserError("which run? Give its directory: pushforward translate runs/NAME photo.jpg")
    from pushforward.training.opening import load

    loaded = load(words[0], device=given["device"])
    able(loaded)
    chosen = {key: given[key] for key in own if key != "style" and given[key] is not None}
    if given.get("style"):
        ((_, style),) = read([Path(given["style"])], loaded.spec)
        chosen["style"] = loaded.units.to_model(style[None])
    target = class_asked(loaded, given["to"])
    if given["input"] is None:
        print(held_out(loaded, given, target, chosen))
        return
    for name in ("data", "items"):
        if given[name] is not None:
            raise UserError(
                f"--{name} says which data of a set, and {given['input']} was given besides; leave one of them away."
            )
    print(files(loaded, given, target, chosen))


def _own_options(built: Any, directory: str) -> list[str]:
    """Adds the options of the model's own `translate`, as --NAME; their names."""
    from pushforward import building, zoo
    from pushforward.training.records import read_record

    name = read_record(Path(directory))["model"]["name"]
    model_class = building.method(name).load() if name in zoo.ZOO else None
    if not hasattr(model_class, "translate"):
        return []
    from pushforward.training.runs import sampling_options

    own = sampling_options(model_class, "translate")  # type: ignore[arg-type]
    skip: set[str | int] = {"self", "x", "condition", "generator", "style"}
    built.add_function_arguments(model_class.translate, skip=skip, fail_untyped=False)  # type: ignore[union-attr]
    if "style" in own:
        built.add_argument("--style", type=str | None, default=None, help="an image whose style is taken")
    return own


def able(loaded: Any) -> None:
    """Raises UserError for a run that cannot translate images."""
    from pushforward.models.contract import Translates

    name = loaded.record["model"]["name"]
    if not isinstance(loaded.model, Translates) or loaded.spec.kind != "image":
        raise UserError(
            f"'{name}' cannot translate images; pix2pix learns to from pairs, cyclegan from two classes of images, "
            "style-transfer from any (`pushforward models` lists who can)."
        )


def class_asked(loaded: Any, name: str | None) -> int | None:
    """The number of the class that --to names."""
    if name is None:
        return None
    if loaded.spec.classes != 2:
        holds = f"{loaded.spec.classes} classes" if loaded.spec.classes else "no classes"
        raise UserError(f"--to {name} was given, and '{loaded.spec.name}' holds {holds}, not two; leave it away.")
    from pushforward.data.conditions import parse_condition

    wanted = parse_condition(loaded.spec, name, 1)
    assert wanted is not None
    return int(wanted[0])


def held_out(loaded: Any, given: dict[str, Any], target: int | None, options: dict[str, Any]) -> Path:
    """A row for each datum: given, made, and true where pairs are known."""
    import torch

    from pushforward.pictures.draw import draw_strips

    if given["n"] < 1:
        raise UserError(f"--n {given['n']} was given; it must be at least 1.")
    if given["out"] and Path(given["out"]).suffix != ".png":
        raise UserError(f"--out {given['out']} was given; held-out data are drawn as one .png.")
    data = data_of(loaded, given["data"])
    if target is not None:
        given = given | {"items": ",".join(map(str, _others(data, given, target)))}
    codes, condition, numbers = items(data, given)
    paired = loaded.spec.condition is not None and loaded.spec.condition.kind == "image"
    if paired and condition is None:
        raise UserError(f"the images of '{data.spec.name}' come without partners; give pairs, or the folder as the input.")
    source, asked = (condition, None) if paired else (loaded.given(codes), condition)
    made = loaded.units.parse(loaded.translate(source, condition=asked, seed=given["seed"], **options))
    known = paired or not torch.equal(source, codes)  # what it should be
    states = [source, made, codes] if known else [source, made]
    spec, states = _alike(loaded.spec, states, [loaded.spec.condition.levels if paired else loaded.spec.levels])
    labels = ["given", "made", "true"][: len(states)]
    if not paired and loaded.spec.classes and condition is not None:
        names = loaded.spec.condition.names or tuple(map(str, range(loaded.spec.classes)))
        rows = [f"{number} {names[int(k)]}" for number, k in zip(numbers, condition, strict=True)]
    else:
        rows = [str(number) for number in numbers]
    picture = draw_strips(spec, torch.stack(states, 1), row_labels=rows, column_labels=labels)
    return write(loaded, "translate", given, picture)


def _others(data: Any, given: dict[str, Any], target: int) -> list[int]:
    """Numbers of the data that are to become of a class: those asked for, or --n of the other class by chance."""
    import torch

    split = chosen_split(data, given)
    asked = named(data, given)
    numbers = torch.tensor(asked) if asked else torch.arange(len(split))
    classes = torch.cat([_classes(split, part) for part in numbers.split(4096)])
    if asked:
        there = numbers[classes == target].tolist()
        if there:
            raise UserError(f"item {there[0]} is of the class that --to names already; ask for others, or leave --to away.")
        return asked
    others = numbers[classes != target]
    if not len(others):
        raise UserError(f"all {given['split']} data are of the class that --to names already.")
    return others[torch.tensor(some_of(len(others), given["n"], given["seed"]))].tolist()


def _classes(split: Any, numbers: Any) -> Any:
    condition = split.fetch(numbers)[1]
    if condition is None:
        raise UserError("--to was given, and these data come without classes; leave it away.")
    return condition


def _alike(spec: Any, states: list[Any], source_levels: list[int | None]) -> tuple[Any, list[Any]]:
    """Images of one picture with the same channels and levels: as they are, or else all as red, green and blue."""
    from dataclasses import replace

    import torch

    from pushforward.pictures.grids import to_rgb

    levels = [*source_levels, *[spec.levels] * (len(states) - 1)]
    if len({(tuple(state.shape[1:]), level) for state, level in zip(states, levels, strict=True)}) == 1:
        return spec, states
    shown = [torch.from_numpy(to_rgb(state, level)[..., :3]) for state, level in zip(states, levels, strict=True)]
    colours = replace(spec, shape=(3, *spec.shape[1:]), levels=256, mode="RGB")
    return colours, [pixels.movedim(-1, 1) for pixels in shown]


def files(loaded: Any, given: dict[str, Any], target: int | None, options: dict[str, Any]) -> Path:
    """Each image into a file of its own, as if it were the only one. Where they are."""
    from pushforward.artefacts import write_picture
    from pushforward.pictures.grids import single_image

    spec, condition = loaded.spec, None if target is None else 1 - target
    source = spec.condition if spec.condition is not None and spec.condition.kind == "image" else spec
    made, pairs = goals(Path(given["input"]).expanduser(), given["out"])
    to = dict(pairs)
    for file, image in read(list(to), source):
        goal = to[file]
        values = loaded.translate(image[None], condition=condition, seed=given["seed"], **options)
        codes = loaded.units.parse(values)[0]
        write_picture(single_image(codes, spec), goal, recipe(loaded, "translate", {**given, "input": str(file.resolve())}))
    return made


def goals(path: Path, out: str | None) -> tuple[Path, list[tuple[Path, Path]]]:
    """What is made of an image or a folder of images (`out`, or beside it), and each image with the file that it becomes."""
    if path.is_file():
        goal = Path(out) if out else path.with_name(f"{path.stem}-translated.png")
        if goal.is_dir():
            goal = goal / f"{path.stem}-translated.png"
        elif goal.suffix != ".png":
            raise UserError(f"--out {out} was given; a translated image is a .png (or give a folder that is there).")
        return goal, [(path, goal)]
    if not path.is_dir():
        raise UserError(f"{path} is not there; give an image, a folder of images, or nothing for held-out data of the run.")
    made = Path(out) if out else path.resolve().with_name(f"{path.resolve().name}-translated")
    if made.suffix in (".png", ".gif") or made.is_file():
        raise UserError(f"--out {out} was given; a folder of images becomes a folder, so give the name of one.")
    from pushforward.data.folders import visible_files

    found = [file for file in visible_files(path) if file.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise UserError(f"no images are in {path}; they end in {', '.join(sorted(IMAGE_SUFFIXES))}.")
    inside = [file.relative_to(path) for file in found]
    stems = Counter(file.with_suffix("") for file in inside)
    names = [file.with_suffix(".png") if stems[file.with_suffix("")] == 1 else Path(f"{file}.png") for file in inside]
    return made, [(file, made / name) for file, name in zip(found, names, strict=True)]


def read(paths: Sequence[Path], source: Any) -> Iterator[tuple[Path, Any]]:
    """Each file with its image (C, H, W) in the levels, the channels and the size of `source` (a spec, or the condition that
    they stand for), one after another. Of those that are resized, and of several that cannot be read and are left out, it is
    said how many."""
    import torch

    from pushforward.data.decoding import CHANNELS, Plan, decode, folder_records, read_header

    levels, (channels, height, width) = source.levels or 256, source.shape
    modes = ["I;16"] if levels > 256 else [mode for mode, count in CHANNELS.items() if count == channels and mode != "I;16"]
    if not modes or (levels > 256 and channels != 1):
        raise UserError(f"images of {channels} channels and {levels} levels are in no picture file; give arrays, from Python.")
    plan = Plan(modes[0], height, width)
    headers = [read_header(str(path)) for path in paths if path.is_file()]
    sizes = [header[1:] for header in headers if not isinstance(header, Exception)]
    other = [size for size in sizes if size != (height, width)]
    if other:
        first = f"{other[0][0]} x {other[0][1]}"
        what = f"an image of {first} is" if len(paths) == 1 else f"{len(other)} of {len(paths)} images (one is {first}) are"
        print(f"{what} resized and centre-cropped to the run's {height} x {width}.", file=sys.stderr)
    left: list[Path] = []
    for path in paths:
        if not path.is_file():
            raise UserError(f"the image {path} is not there.")
        codes, wrong = decode(folder_records([path], path.parent), [0], plan)
        if wrong and len(paths) == 1:
            raise UserError(f"the image {path} cannot be read ({wrong[0]}); give another.")
        if wrong:
            left.append(path)
            continue
        image = codes[0]
        yield path, image if levels >= 256 else (image.float() * ((levels - 1) / 255)).round().to(torch.uint8)
    if len(left) == len(paths):
        raise UserError(f"none of the {len(paths)} images can be read, {left[0]} among them; give others.")
    if left:
        print(f"{len(left)} of {len(paths)} images cannot be read and are left out (one is {left[0]}).", file=sys.stderr)
