"""What guides samples of a model of diffusion: the options of `sample`, checked against the model, as one denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from pushforward.data.conditions import parse_condition, to_model
from pushforward.data.spec import DataSpec
from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.guidance import Classifies, autoguided, guided_by, within
from pushforward.errors import UserError
from pushforward.models.contract import device_of

Negative = dict[str, float] | int | str | None
"""A condition as a person says it: a class by number or name, or attributes by name."""


@runtime_checkable
class Guidable(Protocol):
    """A model that predicts data from noisy data, at all noises of a path."""

    spec: DataSpec
    condition_dropout: float

    def denoiser(
        self, condition: Tensor | None = None, guidance: float = 1.0, *, negative: Tensor | None = None, rescale: float = 0.0
    ) -> Denoiser: ...


@dataclass(frozen=True)
class Guiding:
    """How samples are guided; `Diffusion.sample` says what each means."""

    guidance: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    negative: Negative = None
    worse: Any = None
    classifier: Any = None

    def check(self, model: Guidable) -> None:
        """Raises UserError where this model cannot be guided so."""
        known, scale = model.spec.condition, self.guidance
        guides = {name: value for name in ("negative", "worse", "classifier") if (value := getattr(self, name)) is not None}
        how = [*guides, *(name for name in ("guidance_interval", "guidance_rescale") if getattr(self, name))]
        if len(guides) > 1:
            raise UserError(f"{' and '.join(guides)} were given; one of them guides samples, so leave the others out.")
        if self.negative is not None and known is None:
            raise UserError("negative is a condition to go away from, and this model was trained without one; leave it out.")
        if scale == 1.0 and how and self.classifier is None:
            raise UserError(
                f"guidance is 1, which guides nothing, so {' and '.join(how)} would do nothing; give guidance=3, say."
            )
        if scale != 1.0 and not guides and (known is None or not model.condition_dropout):
            why = "without a condition" if known is None else "with condition_dropout=0, so knows no 'no condition'"
            raise UserError(f"guidance is {scale}, but this model was trained {why}; leave guidance at 1.")
        _opened("worse", self.worse, Guidable, "model of diffusion", model.spec)
        _opened("classifier", self.classifier, Classifies, "noisy-classifier", model.spec, free=known is None)

    def guided(self, model: Guidable, mine: Tensor | None, condition: Tensor | None, n: int) -> Denoiser:
        """The model at its condition, `mine`, and guided. condition: what a classifier is told (n, ...)."""
        plain, scale, rescale = model.denoiser(mine), self.guidance, self.guidance_rescale
        if isinstance(self.classifier, Classifies):
            assert condition is not None  # drawn where none was given
            guided = guided_by(plain, self.classifier, condition, scale, rescale=rescale)
        elif isinstance(self.worse, Guidable):
            guided = autoguided(plain, self.worse.denoiser(mine), scale, rescale=rescale)
        else:
            negative = parse_condition(model.spec, self.negative, n)
            if negative is not None and isinstance(model, nn.Module):
                negative = to_model(model.spec.condition, negative.to(device_of(model)))
            guided = model.denoiser(mine, scale, negative=negative, rescale=rescale)
        return within(self.guidance_interval, guided, plain) if self.guidance_interval else guided


def _opened(name: str, given: Any, kind: type, words: str, spec: DataSpec, free: bool = False) -> None:
    """Raises UserError for what is no such model, or one of other data; free: of any condition."""
    if given is None:
        return
    if isinstance(given, str):
        raise UserError(f"{name} = '{given}' was given, and that is no run; give the directory of a {words}'s, or its model.")
    if not isinstance(given, kind):
        raise UserError(f"{name} is a {type(given).__name__}; give a {words} trained on the same data.")
    other: DataSpec = given.spec  # type: ignore[attr-defined]
    if (other.kind, other.shape) != (spec.kind, spec.shape):
        raise UserError(f"{name} was trained on {_named(other)}, and this model on {_named(spec)}; give one of the same data.")
    if not free and _asked(other) != _asked(spec):
        raise UserError(f"{name} knows {_asked(other)}, and this model {_asked(spec)}; give one of the same conditions.")


def _named(spec: DataSpec) -> str:
    return f"{spec.kind} data of shape {tuple(spec.shape)}"


def _asked(spec: DataSpec) -> str:
    """The condition of a spec in words, the same for the same."""
    known = spec.condition
    if known is None:
        return "no condition"
    return f"{known.size} classes" if known.kind == "class" else f"a condition ({known.kind}) of {known.size}"
