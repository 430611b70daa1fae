"""Images restored from what was measured of them, y = A x + noise, with a run's model as all that is known of images.

The model is trained for none of this (dynamics/inverse.py): any run of diffusion or flow matching on images restores what any
operator of dynamics/operators.py took away. What y leaves open is drawn, so that several samples of one image differ where it
does: their mean is the best guess by squared error, and their standard deviation says how sure it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.data import conditions
from pushforward.data.conditions import parse_condition
from pushforward.dynamics.denoiser import Denoiser, bounded
from pushforward.dynamics.inverse import Problem, find_method, posterior_samples
from pushforward.dynamics.operators import Operator
from pushforward.errors import UserError
from pushforward.models.contract import device_of
from pushforward.randomness import SampleRng, mix

if TYPE_CHECKING:
    from pushforward.training.runs import Run

BLOCK = 64  # samples side by side: the gradient keeps all activations of the network
MEASURED = 0x0B5E  # the stream of the noise of simulated measurements


@runtime_checkable
class Denoises(Protocol):
    """Predicts data from noisy data, at all noises of a path: what any solver takes."""

    def denoiser(self, condition: Tensor | None = None, guidance: float = 1.0) -> Denoiser: ...


@dataclass
class Restored:
    """samples (n, k, C, H, W): k of each image, in the model's units."""

    samples: Float[Tensor, "n k c h w"]

    @property
    def mean(self) -> Float[Tensor, "n c h w"]:
        return self.samples.mean(1)

    @property
    def deviation(self) -> Float[Tensor, "n c h w"]:
        """The standard deviation of each number over the samples: 0 where there is but one."""
        return self.samples.std(1, unbiased=self.samples.shape[1] > 1)


def restore(
    run: Run,
    y: Float[Tensor, "n c h w"],
    operator: Operator,
    *,
    method: str = "pigdm",
    noise: float = 0.0,
    samples: int = 1,
    steps: int = 100,
    jump: int = 1,
    resamplings: int = 1,
    guidance: float = 1.0,
    condition: Any = None,
    seed: int = 0,
    say: Callable[[str, float], None] | None = None,
    **options: float,
) -> Restored:
    """Images (n, *run.spec.shape) of which `operator` measured y, `samples` of each.

    Args:
        y: (n, *operator.measured), where the model has its images: levels in [-1, 1].
        method: "pigdm", "ddnm", "ddrm", "dps", or "repaint" for measurements without noise.
        noise: standard deviation of what y is off by, in the same units (levels of 0 to 255: divided by 127.5).
        steps: of the solver; pigdm and dps go back through the network as well, which triples their cost.
        jump, resamplings: of repaint and ddnm: go back by so many steps and down again, so many times down in all.
        guidance, condition: of a model with a condition; without one, of all data together.
        seed: sample k of image i is a function of (seed, i * samples + k), whatever is restored beside it.
        options: the method's own: eta (of DDIM), variance (pigdm: of the data), scale (dps), eta_b (ddrm).

    Raises UserError for a run that has no denoiser or no images, and for what does not fit.
    """
    denoise, shape = _able(run), tuple(run.spec.shape)
    if operator.shape != shape:
        raise UserError(f"{operator} measures images of shape {operator.shape}; the run makes {shape}. Make it for those.")
    if samples < 1:
        raise UserError(f"{samples} samples were asked for; it is at least 1.")
    chosen = find_method(method)
    own = [name for name in inspect.signature(chosen).parameters if name not in ("problem", "order", "evaluations")]
    for name in options:
        if name not in own:
            raise UserError(f"{method} has no option '{name}'; it has {', '.join(own)}.")
    device, rows = device_of(run.model), len(y) * samples
    asked = _condition(run, condition, len(y), guidance)
    repeated, parts = y.to(device, torch.float32).repeat_interleave(samples, 0), []
    for start in range(0, rows, BLOCK):
        part = slice(start, start + BLOCK)
        given = None if asked is None else asked.repeat_interleave(samples, 0)[part]
        solver = chosen(Problem(operator, repeated[part], noise, bounds=(-1.0, 1.0)), **options)  # type: ignore[arg-type]
        drawn = {"rng": SampleRng(seed, first=start, device=device), "steps": steps, "jump": jump, "resamplings": resamplings}
        parts.append(posterior_samples(denoise(given, guidance), solver, **drawn))  # type: ignore[arg-type]
        if say is not None:
            say("restoring", min(rows, part.stop) / rows)
    return Restored(torch.cat(parts).cpu().unflatten(0, (len(y), samples)))


def measured(operator: Operator, x: Float[Tensor, "n c h w"], noise: float = 0.0, seed: int = 0) -> Float[Tensor, "n _c _h _w"]:
    """A x + noise z: what is measured of images x in the model's units; row i is a function of (seed, i)."""
    y = operator(x)
    z = SampleRng(mix(seed, MEASURED), device=x.device).randn_like(y)
    return operator.kept(Problem(operator, y + noise * z, noise).y)


def _able(run: Run) -> Callable[[Tensor | None, float], Denoiser]:
    """The denoiser of a run by condition and guidance, of images that stays among images."""
    name = run.record["model"]["name"]
    if not isinstance(run.model, Denoises):
        raise UserError(
            f"'{name}' has no denoiser to restore with; flow-matching has, and any model of diffusion "
            "(`pushforward models` lists them)."
        )
    if run.spec.kind != "image":
        what = "codes or fields" if run.spec.kind == "field" else f"{run.spec.kind} data"
        raise UserError(f"'{run.spec.name}' holds {what} of shape {tuple(run.spec.shape)}; what is restored are images.")
    model = run.model

    def denoise(condition: Tensor | None, guidance: float) -> Denoiser:
        found = model.denoiser(condition, guidance)
        # where x0 is read off what says little of it; elsewhere a clamp would only hide gradients
        return bounded(found, -1.0, 1.0) if getattr(model, "blind", True) else found

    return denoise


def _condition(run: Run, condition: Any, n: int, guidance: float) -> Tensor | None:
    """As the model sees it."""
    known = run.spec.condition
    asked = parse_condition(run.spec, condition, n)
    if known is not None and not getattr(run.model, "condition_dropout", 1) and asked is None:
        raise UserError(f"this model was trained with condition_dropout=0, so it needs a {known.kind} as condition; give one.")
    if guidance != 1.0 and (asked is None or not getattr(run.model, "condition_dropout", 1)):
        raise UserError(f"guidance is {guidance}, which exaggerates a condition, but none can be; leave guidance at 1.")
    return None if asked is None else conditions.to_model(known, asked.to(device_of(run.model)))
