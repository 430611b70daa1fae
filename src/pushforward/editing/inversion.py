"""From data to codes without an encoder: descent on the code until it decodes to the datum.

    z* = argmin_z  mean (G(z) - x)^2  +  w mean (f(G(z)) - f(x))^2  +  lambda max(0, mean u(z)^2 - r),      u = (z - m) / s

f are features, where there are any (a "perceptual" distance). m and s are mean and standard deviation of codes that the model
draws, and r is what mean u^2 exceeds for one in twenty of them: the last term keeps z from leaving the codes that the decoder
was trained on (Bora et al. take lambda |z|^2), and is silent inside. The rows descend by Adam in u, side by side, and no row
sees another.

The error has many minima in z. Each row begins at those of a few codes drawn for the purpose that decode to what is nearest,
and at the code that an encoder gives, if there is one: learned from pairs (G(z), z), of which there is no end.

Zhu et al. 2016, arXiv:1609.03552 (encoder, then descent); Creswell and Bharath 2016, arXiv:1611.05644 (descent on a batch of
codes); Bora et al. 2017, arXiv:1703.03208; Abdal et al. 2019, arXiv:1904.03189 (W+).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from pushforward.data import conditions
from pushforward.data.conditions import parse_condition
from pushforward.errors import UserError
from pushforward.models.contract import Decodes, Space, Spaces, device_of
from pushforward.models.truncation import distinct
from pushforward.nets.choice import chosen_network
from pushforward.nets.conv import ConvEncoder
from pushforward.nets.mlp import Flat
from pushforward.progress import PATIENCE, Stages
from pushforward.randomness import SampleRng, mix, seeded

if TYPE_CHECKING:
    from pushforward.training.runs import Run

STEPS, STARTS = 200, 2  # what an inversion takes if nothing is said
CANDIDATES = 64  # codes of which the nearest are where a row begins
RATE = 0.2  # of Adam, in standard deviations of the codes
PRIOR = 0.1
TYPICAL = 1024  # draws that say what is typical
BLOCK = 256  # codes that descend side by side
SILENCE = 10.0  # seconds between two lines of a log

Features = Callable[[Tensor], Tensor]


@dataclass
class Inverted:
    """codes (n, ...): of each datum those that fit best. x (n, *shape): what they decode to. error (n,): its mean squared
    difference from the datum, in the model's units."""

    codes: Float[Tensor, "n *code"]
    x: Num[Tensor, "n *shape"]
    error: Float[Tensor, " n"]


def space_of(model: object, name: str = "z") -> Space:
    """The space of codes of this name: "z" of every model that decodes, others of models that have them."""
    if not isinstance(model, Decodes):
        raise UserError(f"{type(model).__name__} has no decoder to invert; `pushforward models` lists who decodes.")
    found = {"z": Space(model.draw_codes, model.decode)} | (model.spaces() if isinstance(model, Spaces) else {})
    if name not in found:
        more = "" if len(found) > 1 else " alone (a StyleGAN has w and w+ as well)"
        raise UserError(f"there is no space of codes '{name}' in {type(model).__name__}; it has {', '.join(found)}{more}.")
    return found[name]


def invert(
    run: Run,
    x: Any,
    *,
    condition: Any = None,
    steps: int = STEPS,
    starts: int = STARTS,
    space: str = "z",
    seed: int = 0,
    encoder: Encoder | None = None,
    features: Features | None = None,
    shown: bool = True,
) -> Inverted:
    """The codes of data in their own units; `x` of the result are levels. Of any run whose model decodes.

    condition: as of `run.decode`. encoder: what `fit_encoder` gives, for a start more. features: as of `solve`.
    shown: whether to say how far it is, if it takes long.
    """
    codes = run.units.parse(x)
    asked = _condition(run, parse_condition(run.spec, condition, len(codes)))
    with Stages(shown, doing="inverting", patience=PATIENCE) as say:
        found = solve(
            run.model,
            run.units.to_model(codes.to(device_of(run.model))),
            condition=asked,
            steps=steps,
            starts=starts,
            space=space,
            seed=seed,
            encoder=encoder,
            features=features,
            say=aloud(say),
        )
    return Inverted(found.codes.cpu(), run.units.to_codes(found.x).cpu(), found.error.cpu())


def aloud(say: Callable[[str, float], None]) -> Callable[[str, float], None]:
    """Says in a log, too, how far it is: every ten seconds, as training does (on a terminal the line itself moves)."""
    spoke, last = time.monotonic() + PATIENCE, ""

    def told(what: str, fraction: float) -> None:
        nonlocal spoke, last
        if not sys.stderr.isatty():
            if not last.startswith(what):
                last = what
            elif time.monotonic() - spoke > SILENCE:
                spoke, last = time.monotonic(), f"{what}, {fraction:.0%}"
            what = last
        say(what, fraction)

    return told


@torch.inference_mode(False)
def solve(
    model: Any,
    x: Float[Tensor, "n *shape"],
    *,
    condition: Tensor | None = None,
    steps: int = STEPS,
    starts: int = STARTS,
    candidates: int = CANDIDATES,
    space: str = "z",
    seed: int = 0,
    rate: float = RATE,
    prior: float = PRIOR,
    encoder: Encoder | None = None,
    features: Features | None = None,
    weight: float = 1.0,
    say: Callable[[str, float], None] | None = None,
) -> Inverted:
    """The codes of x, both in the model's units.

    Args:
        model: decodes, with a gradient.
        x: the data.
        condition: as the model sees it, a row for each.
        steps: of Adam, with a rate that rises over the first twentieth and falls as a cosine to 0.
        starts: codes from which each row descends, the best of which is kept; an encoder's is one of them.
        candidates: codes drawn, the same for all rows, of which the nearest are where a row begins; with as many as
            `starts`, restarts are at random.
        space: of the codes; "z", or what the model's `spaces` offers.
        seed: of the candidates.
        rate: the largest, in standard deviations of the codes.
        prior: lambda above; 0: codes may go anywhere.
        encoder: what `fit_encoder` gives.
        features: f above, x (B, *shape) -> (B, ...), differentiable.
        weight: w above.
        say: is told how far it is.
    """
    if steps < 0 or starts < 1 or candidates < starts:
        raise UserError(
            f"steps = {steps}, starts = {starts}, candidates = {candidates} were given; steps >= 0, candidates >= starts >= 1."
        )
    if not rate > 0 or not prior >= 0:
        raise UserError(f"rate = {rate}, prior = {prior} were given; rate > 0, prior >= 0.")
    if encoder is not None and encoder.space != space:
        raise UserError(f"the encoder gives codes in '{encoder.space}', and space = '{space}' was asked for; fit one for that.")
    if not len(x):
        raise UserError("no data were given to invert.")
    chosen = space_of(model, space)
    device, x = x.device, x.detach().clone().float()
    condition = None if condition is None else condition.clone()
    mean, scale, bound = _typical(chosen, device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    size = max(1, BLOCK // starts)
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        target, given = x[rows], None if condition is None else condition[rows]
        n = len(target)
        began = _starts(chosen, target, given, starts, candidates, seed, encoder)
        if first == 0 and steps:
            _check_slope(chosen, began[:1, 0], None if given is None else given[:1])
        wanted = target.repeat_interleave(starts, 0)
        told = None if given is None else given.repeat_interleave(starts, 0)
        liked = None
        if features is not None:
            with torch.no_grad():
                liked = features(wanted)

        def objective(u: Tensor, wanted: Tensor = wanted, told: Tensor | None = told, liked: Tensor | None = liked) -> Tensor:
            made = chosen.decode(mean + scale * u, condition=told)
            total = _squared(made, wanted)
            if liked is not None and features is not None:
                total = total + weight * _squared(features(made), liked)
            return total + prior * (u.flatten(1).square().mean(1) - bound).clamp(min=0)

        def progress(step: int, first: int = first, n: int = n) -> None:
            if say is not None:
                say("descent on the codes", (first + n * step / max(1, steps)) / len(x))

        u, value = descend(objective, ((began - mean) / scale).flatten(0, 1), steps, rate, progress)
        best = value.view(n, starts).argmin(1)
        z = (mean + scale * u).unflatten(0, (n, starts))[torch.arange(n, device=device), best]
        with torch.no_grad():
            made = chosen.decode(z, condition=given)
        parts.append((z, made, _squared(made, target)))
    return Inverted(*(torch.cat(each) for each in zip(*parts, strict=True)))


@torch.inference_mode(False)
@torch.enable_grad()
def descend(
    objective: Callable[[Tensor], Tensor],
    start: Float[Tensor, "b *code"],
    steps: int,
    rate: float,
    progress: Callable[[int], None] = lambda step: None,
) -> tuple[Float[Tensor, "b *code"], Float[Tensor, " b"]]:
    """Each row's best point on its way down an objective (b, ...) -> (b,), and the objective there.

    Adam (Kingma and Ba 2015, arXiv:1412.6980), which treats each number by itself: where value i of the objective is a function
    of row i alone, so is what becomes of it.
    """
    u = start.detach().clone().float()
    best, least = u.clone(), torch.full_like(u.flatten(1)[:, 0], torch.inf)
    optimizer = torch.optim.Adam([u], lr=rate)
    warm = max(1, steps // 20)
    for step in range(steps + 1):
        progress(step)
        u.requires_grad_()
        value = objective(u)
        now = value.detach()
        better = now < least
        least = torch.where(better, now, least)
        best = torch.where(better.view(-1, *[1] * (u.dim() - 1)), u.detach(), best)
        if step == steps:
            break
        (u.grad,) = torch.autograd.grad(value.sum(), u)
        fall = 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate * fall * min(1.0, (step + 1) / warm)
        optimizer.step()
    return best, least


class Encoder(nn.Module):
    """A network from data to codes: x (B, *shape) -> codes (B, *code) of the space of this name."""

    def __init__(self, network: nn.Module, mean: Tensor, scale: Tensor, space: str):
        super().__init__()
        self.network, self.space = network, space
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *code"]:
        return self.mean + self.scale * self.network(x).view(len(x), *self.mean.shape)


def fit_encoder(
    run: Run,
    *,
    condition: Any = None,
    steps: int = 1000,
    batch_size: int = 64,
    width: int = 32,
    learning_rate: float = 2e-3,
    space: str = "z",
    seed: int = 0,
    shown: bool = True,
) -> Encoder:
    """Learns codes from what they decode to: E(G(z)) to z by least squares in u, on fresh draws at each step.

    A regression gives the mean of all codes that a datum may have, so it is a start for `invert` and no more.
    condition: one for all draws (a class, say). width: channels of the finest convolutions, an eighth of the units of a
    multi-layer perceptron's layers.
    """
    if steps < 1 or batch_size < 1:
        raise UserError(f"steps = {steps}, batch_size = {batch_size} were given; both must be at least 1.")
    chosen, device = space_of(run.model, space), device_of(run.model)
    asked = _condition(run, parse_condition(run.spec, condition, batch_size))
    mean, scale, _ = _typical(chosen, device)
    shape, outputs = run.spec.shape, mean.numel()
    with seeded(mix(seed, 0xE4C)):
        planar = chosen_network("auto", run.spec) == "conv"
        network: nn.Module = (
            ConvEncoder(shape, outputs, width) if planar else Flat(math.prod(shape), outputs, 8 * width, depth=3)
        )
    encoder = Encoder(network, mean, scale, space).to(device)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=learning_rate)
    with Stages(shown, doing="fitting an encoder", patience=PATIENCE) as stages:
        say = aloud(stages)
        for step in range(steps):
            say("learning codes from what they decode to", step / steps)
            rng = SampleRng(mix(seed, 0xE4C0DE), first=step * batch_size, device=device)
            with torch.no_grad():
                z = chosen.draw(batch_size, condition=asked, generator=rng)
                x = chosen.decode(z, condition=asked)
            loss = ((encoder(x) - z) / scale).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
    return encoder.eval().requires_grad_(False)


@torch.enable_grad()
def _check_slope(space: Space, z: Tensor, condition: Tensor | None) -> None:
    """Raises UserError for a decoder without a gradient with respect to its codes."""
    z = z.clone().requires_grad_()
    x = space.decode(z, condition=condition)
    if not x.requires_grad or torch.autograd.grad(x.sum(), z, allow_unused=True)[0] is None:
        raise UserError("this decoder has no gradient with respect to its codes, so it cannot be inverted by descent.")


def _squared(a: Tensor, b: Tensor) -> Float[Tensor, " n"]:
    """The mean squared difference of each row."""
    return (a.float() - b.float()).flatten(1).square().mean(1)


def _condition(run: Run, asked: Tensor | None) -> Tensor | None:
    """Conditions as the model sees them, on its device."""
    return None if asked is None else conditions.to_model(run.spec.condition, asked.to(device_of(run.model)))


@torch.no_grad()
def _typical(space: Space, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """m and s of each number of the codes that are drawn, and r."""
    z = space.draw(TYPICAL, generator=SampleRng(0x717, device=device))
    if not z.is_floating_point():
        raise UserError("codes that are numbers of codebook entries cannot be found by descent: between two there is nothing.")
    mean, scale = z.float().mean(0), z.float().std(0).clamp(min=1e-6)
    return mean, scale, ((z - mean) / scale).flatten(1).square().mean(1).quantile(0.95)


@torch.no_grad()
def _starts(
    space: Space, x: Tensor, condition: Tensor | None, starts: int, candidates: int, seed: int, encoder: Encoder | None
) -> Float[Tensor, "n k *code"]:
    """Where each row begins: at the encoder's code, and at those of the candidates of its condition that decode to what is
    nearest."""
    n, device = len(x), x.device
    kinds, which = distinct(condition, n, device)
    first: Tensor | None = None
    for k, kind in enumerate(kinds):
        rows = torch.nonzero(which == k)[:, 0]
        given = None if kind is None else kind.expand(candidates, *kind.shape)
        z = space.draw(candidates, condition=given, generator=SampleRng(seed, device=device)).float()
        far = torch.cdist(x[rows].flatten(1), space.decode(z, condition=given).float().flatten(1))
        near = z[far.topk(starts, dim=1, largest=False).indices]
        first = near.new_empty(n, *near.shape[1:]) if first is None else first
        first[rows] = near
    assert first is not None
    if encoder is not None:
        first[:, -1] = encoder(x)
    return first
