"""How a run's samples come about, in numbers: the flow and the law of points in the plane over time, what is expected of noised
data, and samples by solver and number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Num
from torch import Tensor

from pushforward.data.batches import take
from pushforward.data.conditions import to_model
from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.likelihood import log_prob_along, standard_normal
from pushforward.dynamics.paths import Path, interpolate
from pushforward.dynamics.solvers import SOLVERS, find_solver, generate, time_grid
from pushforward.editing.restoration import Denoises
from pushforward.errors import UserError
from pushforward.measures.features import LARGEST_FIT, feature_space
from pushforward.measures.fidelity import frechet_distance
from pushforward.models.contract import device_of
from pushforward.pictures.fields import Field
from pushforward.randomness import SampleRng
from pushforward.training.runs import sampling_options

if TYPE_CHECKING:
    from pushforward.training.runs import Run

Say = Callable[[str, float], None]


def denoising(run: Run) -> Denoises:
    """The run's model, if it predicts data from noised data. Raises UserError for any other."""
    if not isinstance(run.model, Denoises):
        raise UserError(
            f"'{run.record['model']['name']}' has no denoiser, so its samples do not come out of noise step by step; "
            "flow-matching has one, and any model of diffusion (`pushforward models` lists them)."
        )
    return run.model


def planar_points(spec: Any) -> bool:
    """Whether data are points in the plane: two numbers each."""
    return spec.kind in ("point", "table") and tuple(spec.shape) == (2,)


def fields(
    run: Run,
    frames: int,
    *,
    samples: int = 12,
    side: int = 40,
    arrows: int = 20,
    steps: int = 16,
    seed: int = 0,
    say: Say | None = None,
) -> list[Field]:
    """The flow of a run of points in the plane and the law p_t that it makes, at so many times from noise to data.

    Args:
        samples: whose ways are followed; sample i is a function of (seed, i).
        side: cells of the density along each axis; log p_t is that of the noise at t = 1, carried along the ODE.
        arrows: along each axis, where the velocity is told.
        steps: Runge-Kutta steps of the whole way of the law; samples go in four times as many of Heun's.

    A path that explodes variance is told in units of the deviation that it gives to data of deviation 1. Raises UserError for
    data that are no points in the plane, and for a model that has no denoiser or is no flow without a condition.
    """
    model = denoising(run)
    if not planar_points(run.spec):
        raise UserError(
            f"a field is drawn of points in the plane; '{run.spec.name}' has data of shape {tuple(run.spec.shape)}."
        )
    if run.spec.condition is not None and not getattr(run.model, "condition_dropout", 1):
        raise UserError("this model was trained with condition_dropout=0, so it has no flow of all data together to draw.")
    if frames < 2:
        raise UserError(f"frames = {frames} was given; there are at least 2, the noise and the data.")
    denoiser = model.denoiser(None, 1.0)
    noise = SampleRng(seed, device=device_of(run.model)).randn(max(samples, 512), 2)
    between = math.ceil(max(4 * steps, frames) / (frames - 1))  # Heun's steps: of a lower order, and cheap
    times = time_grid(denoiser.span, between * (frames - 1), like=noise)
    with torch.no_grad():
        states = generate(denoiser, noise, times, "heun", trajectory=True)
    units = _units(denoiser.path, times)
    states = states / units[:, None, None]
    limits = _window(states[0], states[-1])
    found = []
    for k in range(0, len(times), between):
        if say is not None:
            say("following the law", k / len(times))
        cells = _cells(limits, side).to(noise) * units[k]
        places = _cells(limits, arrows).to(noise) * units[k]
        rows = places.reshape(-1, 2)
        with torch.no_grad():
            velocity = denoiser.velocity(rows, times[k].expand(len(rows))).view_as(places)
        density = log_density(denoiser, cells.reshape(-1, 2), float(times[k]), steps).exp().view(side, side) * units[k] ** 2
        ways = states[: k + 1, :samples]
        found.append(
            Field(
                float(times[k]),
                limits.double().cpu().numpy(),
                *(value.double().cpu().numpy() for value in (density, places / units[k], velocity, ways)),
            )
        )
    return found


def log_density(denoiser: Denoiser, x: Float[Tensor, "b d"], t: float, steps: int = 16) -> Float[Tensor, " b"]:
    """log p_t(x), nats, of the law that the flow makes of the noise: x is carried from t to the noise's end (`steps`
    Runge-Kutta steps of the whole way, shorter towards the data)."""
    last = denoiser.span[1]
    sigma = float(denoiser.path(torch.tensor([last], dtype=torch.float64))[1])

    def base(z: Tensor) -> Tensor:
        return standard_normal(z / sigma) - z.shape[1] * math.log(sigma)

    if t >= last:
        return base(x)
    count = max(4, math.ceil(steps * (last - t)))
    return log_prob_along(denoiser.velocity, x, time_grid((t, last), count, "quadratic", like=x).flip(0), base=base)[0]


def _units(path: Path, times: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """What lengths at each time are told in: 1, or on a path that explodes variance the deviation of x_t."""
    alpha, sigma, _, _ = path(times)
    deviation = (alpha**2 + sigma**2).sqrt()
    return deviation if float(deviation.max()) > 1.5 else torch.ones_like(deviation)


def _window(*clouds: Float[Tensor, "n 2"]) -> Float[Tensor, "2 2"]:
    """A square around all but a hundredth of the points, with a margin: low and high of both axes."""
    centre = clouds[-1].mean(0)
    reach = max(float((cloud - centre).abs().amax(1).quantile(0.99)) for cloud in clouds)
    return torch.stack([centre - 1.15 * reach, centre + 1.15 * reach], 1)


def _cells(limits: Float[Tensor, "2 2"], side: int) -> Float[Tensor, "side side 2"]:
    """The middles of side x side cells, a row for each height."""
    across, up = (low + (high - low) * (torch.arange(side, dtype=torch.float64) + 0.5) / side for low, high in limits.cpu())
    return torch.stack(torch.meshgrid(across, up, indexing="xy"), -1)


@dataclass
class Noised:
    """Codes of data with the noise of k times, and of what the model expects the data to be: (n, k, ...) both."""

    noised: Num[Tensor, "n k ..."]
    expected: Num[Tensor, "n k ..."]


def expected_of_noised(
    run: Run, codes: Num[Tensor, "n ..."], times: Sequence[float], *, condition: Tensor | None = None, seed: int = 0
) -> Noised:
    """E[x0 | x_t] of data noised up to each of `times`, with one noise for each datum, a function of (seed, row).

    codes: data as the run has them. condition: theirs, or None for what is expected without. Where a path explodes variance,
    x_t is told in units of its deviation. Raises UserError for a time outside (0, 1).
    """
    model = denoising(run)
    wrong = [t for t in times if not 0 < t < 1]
    if wrong:
        raise UserError(f"t = {wrong[0]} was given; it lies between 0 (data) and 1 (noise).")
    device = device_of(run.model)
    x = run.units.to_model(codes.to(device))
    given = None
    if condition is not None and run.spec.condition is not None:
        given = to_model(run.spec.condition, condition.to(device))
    elif run.spec.condition is not None and not getattr(run.model, "condition_dropout", 1):
        raise UserError("this model was trained with condition_dropout=0, so it needs the condition of the data; give it.")
    denoiser, noise = model.denoiser(given, 1.0), SampleRng(seed, device=device).randn_like(x)
    first, last = denoiser.span
    units = _units(denoiser.path, torch.tensor([*times, last], device=device))
    noised, expected = [], []
    for t, unit in zip(times, units.tolist(), strict=False):
        at = torch.full((len(x),), min(max(t, first), last), device=device)
        x_t = interpolate(denoiser.path, x, noise, at)
        with torch.no_grad():
            expected.append(run.units.to_codes(denoiser(x_t, at)[0]).cpu())
        noised.append(run.units.to_codes(x_t / unit).cpu())
    return Noised(torch.stack(noised, 1), torch.stack(expected, 1))


def samples_by_solver(
    run: Run,
    solvers: Sequence[str],
    steps: Sequence[int],
    n: int,
    *,
    seed: int = 0,
    condition: Any = None,
    say: Say | None = None,
) -> dict[tuple[str, int], Num[Tensor, "n ..."]]:
    """Codes of n samples for each solver and number of steps, of the same noise: sample i is a function of (seed, i).

    Raises UserError for a solver that there is not, for one that the model's path does not admit, and for a model whose
    sampling takes neither.
    """
    options = sampling_options(type(run.model))
    if not {"solver", "steps"} <= set(options):
        raise UserError(f"'{run.record['model']['name']}' is sampled by no solver, so there is nothing to compare.")
    for solver in solvers:
        find_solver(solver)
    found: dict[tuple[str, int], Tensor] = {}
    for solver in solvers:
        for count in steps:
            if say is not None:
                say(f"{solver}, {count} steps", len(found) / (len(solvers) * len(steps)))
            found[solver, count] = run.sample_codes(n, seed=seed, condition=condition, solver=solver, steps=count)
    return found


def frechet_distances(run: Run, samples: dict[tuple[str, int], Tensor], say: Say | None = None) -> dict[tuple[str, int], float]:
    """The Frechet distance of each set of samples to as many held-out data (or all), in the library's features."""
    data = run.load_data()
    n = max(map(len, samples.values()))
    space = feature_space(data.spec, *take(data.train, LARGEST_FIT, 0), say=say or (lambda what, fraction: None))
    real = space.extract(take(data.held_out or data.train, n, 0)[0])
    return {cell: frechet_distance(space.extract(codes), real) for cell, codes in samples.items()}


def usual_solvers() -> list[str]:
    """Of those that there are, the ones that people compare."""
    known: list[str] = ["ddim", "heun", "dpm++2m", "unipc", "ancestral"]
    return [name for name in known if name in SOLVERS]
