"""`pushforward restore RUN photo.png --operator down-sample:4`: what was taken from an image, put back by any diffusion run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pushforward.cli.editing import conditions_asked, data_of, items, parser, recipe, write
from pushforward.cli.parsing import peel, plain
from pushforward.errors import UserError

DESCRIPTION = """Restores images from what an operator left of them, with a run of diffusion or flow matching that was trained
for none of it. INPUT is what was measured: the small, blurred, grey, compressed or masked image; with --degrade it is a clean
image, which is measured first. Without INPUT it is held-out data of the run, measured first. One picture: the true image (where
it is known), what is given, what is drawn, their mean, and their spread (the standard deviation). --restored FILE.png writes
the first sample alone, for one input.

operators: mask:bottom (top, left, right, centre), mask:TOP,LEFT,HEIGHT,WIDTH, mask:0.5 (a share of the pixels), mask:FILE.png
(black is hidden); blur:SIGMA; blur:SIGMA,circular; motion:LENGTH,DEGREES; down-sample:FACTOR; grey; jpeg:QUALITY; several with
+, the first first, such as blur:1+down-sample:2."""

OWN = ("variance", "eta", "eta_b", "scale")


def run(argv: Sequence[str]) -> None:
    words, rest = peel(argv, many=True)
    if len(words) > 2:
        raise UserError(f"a run and one image were expected, {' '.join(words)!r} was given; options begin with --.")
    built = parser("restore", DESCRIPTION)
    built.add_argument("--input", type=str | None, default=None, help="an image (or the second word)")
    built.add_argument("--operator", type=str | None, default=None, help="what was done to the image, as said above")
    built.add_argument("--degrade", type=bool, default=False, help="the input is clean: do it first")
    built.add_argument("--noise", type=float, default=0.0, help="standard deviation in the measured image, black to white is 2")
    built.add_argument("--method", type=str, default="pigdm", help="pigdm, ddnm, ddrm, dps or repaint")
    built.add_argument("--samples", type=int, default=4, help="of each image")
    built.add_argument("--steps", type=int, default=100, help="of the solver")
    built.add_argument("--jump", type=int, default=1, help="repaint, ddnm: steps that are gone back")
    built.add_argument("--resamplings", type=int, default=1, help="repaint, ddnm: how often each step is gone down in all")
    built.add_argument("--guidance", type=float, default=1.0, help="by the condition")
    built.add_argument("--condition", type=str | None, default=None, help="a class; of data of the run it is their own")
    built.add_argument("--variance", type=float | None, default=None, help="pigdm: of the data (1)")
    built.add_argument("--eta", type=float | None, default=None, help="noise of a step: 0 none, 1 ancestral (1; ddrm 0.85)")
    built.add_argument("--eta_b", type=float | None, default=None, help="ddrm: how far towards what is measured (1)")
    built.add_argument("--scale", type=float | None, default=None, help="dps: length of a step towards what is measured (1)")
    built.add_argument("--data", type=str | None, default=None, help="other data of the same kind, instead of the run's own")
    built.add_argument("--restored", type=str | None, default=None, help="a .png of the first sample alone, for one input")
    built.set_defaults({"n": 4})
    given = plain(built.understand(rest)) | ({"input": words[1]} if len(words) == 2 else {})
    checked(words, given)
    from pushforward.training.opening import load

    loaded = load(words[0], device=given["device"])
    for line in restored(loaded, given):
        print(line)


def checked(words: Sequence[str], given: dict[str, Any]) -> None:
    """Raises UserError for what cannot be asked of any run."""
    if not words:
        raise UserError("which run? Give its directory: pushforward restore runs/NAME photo.png --operator down-sample:4")
    if given["operator"] is None:
        from pushforward.dynamics.measurements import OPERATORS

        raise UserError(f"what was done to the image? Say --operator {'; '.join(OPERATORS.values())}.")
    if given["n"] < 1:
        raise UserError(f"--n {given['n']} was given; it must be at least 1.")
    for option in ("out", "restored"):
        if given[option] and Path(given[option]).suffix != ".png":
            raise UserError(f"--{option} {given[option]} was given; restored images are drawn as .png.")
    if given["input"] is None and given["restored"]:
        raise UserError("--restored is of one input, and none was given; leave it away.")
    if given["input"] is not None:
        for option in ("data", "items"):
            if given[option] is not None:
                raise UserError(f"--{option} says which data of a set, and {given['input']} was given besides; leave one away.")


def restored(loaded: Any, given: dict[str, Any]) -> list[str]:
    """Draws and writes; what is to be said of it."""
    import torch

    from pushforward.dynamics.measurements import parse_operator
    from pushforward.editing.reconstruction import errors
    from pushforward.editing.restoration import measured, restore
    from pushforward.pictures.draw import draw_strips
    from pushforward.progress import PATIENCE, Stages

    spec, units = loaded.spec, loaded.units
    if spec.kind != "image":
        raise UserError(f"'{spec.name}' holds {spec.kind} data of shape {tuple(spec.shape)}; what is restored are images.")
    operator = parse_operator(given["operator"], tuple(spec.shape), given["seed"])
    codes, y, condition, labels = asked(loaded, given, operator)
    if codes is not None:
        y = measured(operator, units.to_model(codes), given["noise"], given["seed"])
    own = {name: given[name] for name in OWN if given[name] is not None}
    names = ("method", "noise", "samples", "steps", "jump", "resamplings", "guidance", "seed")
    with Stages(doing="restoring", patience=PATIENCE) as say:
        found = restore(loaded, y, operator, condition=condition, say=say, **{name: given[name] for name in names}, **own)
    samples = units.to_codes(found.samples.flatten(0, 1)).unflatten(0, found.samples.shape[:2])
    seen, mean = units.to_codes(operator.picture(y)), units.to_codes(found.mean)
    states, columns = [seen, *samples.unbind(1)[:6]], ["given", "drawn", *[""] * (min(given["samples"], 6) - 1)]
    if given["samples"] > 1:
        widest = found.deviation.max().clamp(min=1e-6)
        states += [mean, units.to_codes(2 * found.deviation / widest - 1)]
        columns += ["mean", "spread"]
    if codes is not None:
        states, columns = [codes, *states], ["true", *columns]
    states = [state.to(samples.dtype) for state in states]
    picture = draw_strips(spec, torch.stack(states, 1), row_labels=labels, column_labels=columns)
    said = [str(write(loaded, "restore", given, picture))]
    if given["restored"]:
        from pushforward.artefacts import write_picture
        from pushforward.pictures.grids import single_image

        said.append(str(write_picture(single_image(samples[0, 0], spec), given["restored"], recipe(loaded, "restore", given))))
    if codes is not None:
        every = codes.repeat_interleave(given["samples"], 0)
        figures = {"measured": (codes, seen), "a sample": (every, samples.flatten(0, 1)), "their mean": (codes, mean)}
        said.append(", ".join(f"{what} {_psnr(errors(loaded, *both))}" for what, both in figures.items()))
    again = operator(found.samples.flatten(0, 1)) - y.repeat_interleave(given["samples"], 0)
    said.append(f"measured again, samples are off by {again.square().mean().sqrt().item():.4f} (noise: {given['noise']:g})")
    if given["samples"] > 1:
        said.append(
            f"standard deviation between samples {found.deviation.square().mean().sqrt().item():.4f}, white: {widest:.3f}"
        )
    return said


def _psnr(found: Any) -> str:
    return f"PSNR {found.psnr.mean().item():.2f} dB"


def asked(loaded: Any, given: dict[str, Any], operator: Any) -> tuple[Any, Any, Any, list[str]]:
    """Clean images as codes where there are any, else what was measured, in the model's units; conditions; and labels."""
    from dataclasses import replace

    from pushforward.data.conditions import parse_condition
    from pushforward.data.units import units

    spec, y, condition = loaded.spec, None, None
    if given["input"] is None:
        codes, condition, numbers = items(data_of(loaded, given["data"]), given)
        condition, labels = condition if spec.condition is not None else None, list(map(str, numbers))
    else:
        from pushforward.cli.translate import read

        source = spec if given["degrade"] else replace(spec, shape=operator.measured)
        path = Path(given["input"]).expanduser()
        ((file, image),) = read([path], source)
        codes, labels = (image[None] if given["degrade"] else None), [file.name]
        if not given["degrade"]:
            y = operator.kept(units(source).to_model(image[None]))
    if given["condition"] is not None:
        n = len(labels)
        condition = parse_condition(spec, conditions_asked(spec, given["condition"], n), n)
    return codes, y, condition, labels
