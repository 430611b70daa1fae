"""A method by its name: its line of the zoo, its settings, and the model that they make."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from pushforward.data.spec import DataSpec, Kind
from pushforward.errors import UserError, nearest
from pushforward.zoo import ZOO, Method

if TYPE_CHECKING:
    from torch import nn

SIZES = ("latent_dim", "width", "heads", "code_dim")  # settings that cannot be 0


def method(name: str) -> Method:
    """The line of a name; an unknown name is an error that says the nearest ones."""
    if name not in ZOO:
        raise UserError(f"there is no model '{name}'; {nearest(name, ZOO)} (`pushforward models` lists them all)")
    return ZOO[name]


def options(name: str) -> dict[str, inspect.Parameter]:
    """The settings of a model with their defaults as this name sets them."""
    line = method(name)
    parameters = list(inspect.signature(line.load()).parameters.values())[1:]  # all but the spec
    return {p.name: p.replace(default=line.settings.get(p.name, p.default)) for p in parameters}


def check_kind(name: str, kind: Kind, data_name: str) -> None:
    """Raises UserError where the method cannot learn data of this kind."""
    if kind not in method(name).kinds:
        able = list({entry.path: other for other, entry in reversed(ZOO.items()) if kind in entry.kinds}.values())[::-1]
        raise UserError(
            f"'{name}' learns {', '.join(method(name).kinds)}; '{data_name}' holds {kind}. "
            f"Try {', '.join(able) or 'other data'}."
        )


def _words(hint: Any) -> tuple[Any, ...]:
    """The values that a setting of this annotation can have, where those are words: Literal["a", "b"], or that or None."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not all(part is type(None) or get_origin(part) is Literal for part in parts):
        return ()
    return tuple(word for part in parts for word in (get_args(part) or (None,)))


def check_settings(name: str, settings: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """The settings that a method has; raises UserError for one that it has not, and for negative sizes."""
    valid = options(name)
    hints = get_type_hints(method(name).load().__init__)
    for key in settings:
        if key not in valid:
            raise UserError(f"'{name}' has no setting '{key}'; {nearest(key, valid)}")
        value, words = settings[key], _words(hints.get(key))
        if words and value not in words:
            raise UserError(f"{key} = {value!r} was given to '{name}'; {nearest(str(value), list(map(str, words)))}")
        if not isinstance(value, (int, float)) or value == valid[key].default:
            continue
        if isinstance(value, int) and value < 0:
            raise UserError(f"{key} = {value} was given; sizes and counts of '{name}' are not negative.")
        if key in SIZES and value == 0:
            raise UserError(f"{key} = 0 was given; it is at least 1.")
        if key.endswith("dropout") and not 0 <= value < 1:
            raise UserError(f"{key} = {value} was given; it is a rate, at least 0 and below 1.")
    return valid


def create(name: str, spec: DataSpec, **settings: Any) -> nn.Module:
    """Builds a model by name for data of this spec: `pf.create("vae", data.spec, latent_dim=16)`.

    settings: the model's own (`pushforward models NAME` lists them); a network may be any `torch.nn.Module` of yours.
    The model's `name` and `settings` (all of them, defaults too) build it again. Raises UserError for an unknown name or
    setting (with the nearest ones) and for data that the model cannot learn.
    """
    check_kind(name, spec.kind, spec.name)
    line, valid = method(name), check_settings(name, settings)
    whole = {key: p.default for key, p in valid.items() if p.default is not p.empty} | settings
    rebuilt = all(key in settings for key, p in valid.items() if "Module" not in str(p.annotation))  # of a run: as it was
    for key in () if rebuilt else settings:
        if key.endswith("_options") and isinstance(settings[key], dict):  # each is a setting of its own: the others stay
            whole[key] = {**line.settings.get(key, {}), **settings[key]}
    whole = {key: _as_annotated(value, valid[key]) for key, value in whole.items()}
    built = line.load()(spec, **whole)
    # All of them, so that a default that changes later changes no model of today; a network not given is no setting.
    kept = {key: value for key, value in whole.items() if value is not None or "Module" not in str(valid[key].annotation)}
    built.name, built.settings = name, kept  # type: ignore[assignment]
    return built


def _as_annotated(value: Any, parameter: inspect.Parameter) -> Any:
    """Tuples come back from yaml as lists."""
    said = str(parameter.annotation).lower()
    return tuple(value) if isinstance(value, list) and "tuple" in said and "list" not in said else value
