"""What is on disk is opened: the data of a source, and the run in a directory.

Both in one file, as each may lead to the other: a run's data can be the codes of another run, and those come from its model.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

from torch import nn

from pushforward import building, zoo
from pushforward.data.batches import Data
from pushforward.data.loading import load_data
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.training import checkpoints, engine
from pushforward.training.codes import codes_of
from pushforward.training.records import BEST, CODES, STATE, is_yours, read_record
from pushforward.training.runs import Run


def open_data(source: Any, **options: Any) -> Data:
    """The data of a source: "codes:RUN" are the codes of that run's model, all else is `load_data`'s."""
    if isinstance(source, str) and source.startswith(CODES):
        given = [name for name, value in options.items() if value != _DEFAULTS.get(name)]
        if given:
            raise UserError(f"{', '.join(given)} was given with {source}; codes are taken as they are, so leave it away.")
        return codes_of(load(source.removeprefix(CODES)))
    return load_data(source, **options)


_DEFAULTS = {name: option.default for name, option in inspect.signature(load_data).parameters.items()}


def load(
    directory: str | Path, *, device: str = "cpu", model: nn.Module | None = None, best: bool = False, **settings: Any
) -> Run:
    """Opens a run directory. Needs no code beside the library, except for networks of your own: give those again, as the
    settings they were (`pf.load(path, encoder=mine)`), or the whole model as `model=`. best: with the weights of the best
    moment of its training instead of the last ones, where no loss says how the model does (a game) and it was watched.

    Raises UserError for a directory that is not there, is no run, is half-written, comes from another version or has no best.
    """
    directory = Path(directory)
    record = read_record(directory)
    try:
        spec = DataSpec.from_dict(record["data"]["spec"])
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{directory / 'run.yaml'} does not describe its data ({error}); it may be damaged.") from None
    target = engine.resolve_device(device)
    unsaid: list[str] = []
    if model is None:
        given = {**record["model"]["settings"], **settings}
        foreign = [key for key, value in given.items() if is_yours(value)]
        if foreign or record["model"]["name"] not in zoo.ZOO:
            what = ", ".join(f"{key}=..." for key in foreign or ["model"])
            raise UserError(f"the run in {directory} has parts of your own; give them again: pf.load(path, {what}).")
        model = building.create(record["model"]["name"], spec, **given)
        known = building.options(record["model"]["name"])  # a record says all of them but networks that are not given
        unsaid = [key for key, p in known.items() if key not in given and "Module" not in str(p.annotation)]
    path = checkpoints.weights_file(directory, record.get("result", {}).get("status"))
    if best:
        path = directory / BEST
        if not path.exists():
            raise UserError(
                f"{directory} keeps no best checkpoint: one is kept of models whose losses say nothing about held-out data "
                f"(games), unless validate_every = 0. Leave best away."
            )
    tensors, _ = checkpoints.read_tensors(path)
    if path.name == STATE.name:  # a run that is under way, or was killed: the average of its last checkpoint
        tensors = {**checkpoints.section(tensors, "model"), **checkpoints.section(tensors, "average")}
    try:
        checkpoints.load_weights(model, tensors, str(directory))
    except UserError as error:
        if not unsaid:
            raise
        raise UserError(
            f"{error} run.yaml does not say {', '.join(unsaid)}, as a newer version does; where the run had other than the "
            f"default, say what it was: pf.load(path, {unsaid[0]}=...)."
        ) from None
    spoilt = next((name for name, value in model.named_parameters() if not bool(value.isfinite().all())), None)
    if spoilt:
        raise UserError(
            f"the weights of {directory} are not finite ({path.name}, first '{spoilt}'): nothing can be drawn from them. Train "
            f"again, with a smaller --learning-rate{', or take its best checkpoint' if (directory / BEST).exists() else ''}."
        )
    source = record["data"]["source"]
    in_memory = str(source.get("source", "<")).startswith("<")
    data = None if in_memory else functools.partial(open_data, **source)
    return Run(model.to(target).eval(), spec, directory, record, data, best=best)
