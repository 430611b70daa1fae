"""`check_model`: the contract, run on any model, ours or a user's own."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pushforward.data.batches import Batch, Data, take
from pushforward.data.conditions import can_be_drawn, to_model
from pushforward.errors import UserError
from pushforward.models.contract import (
    Completes,
    Decodes,
    Density,
    Diagnoses,
    Encodes,
    Extends,
    Learns,
    Loss,
    Samples,
    Scores,
    Trajectories,
    Translates,
    Update,
    capabilities,
    device_of,
)
from pushforward.randomness import SampleRng, UpdateRng, seed_everything


@dataclass
class ModelCheck:
    """What `check_model` found: the capabilities offered, and one sentence for each promise that is not kept."""

    name: str
    capabilities: list[str]
    passed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        lines = [f"{self.name}: {', '.join(self.capabilities) or 'no capabilities'}"]
        return "\n".join(lines + [f"  ok    {p}" for p in self.passed] + [f"  FAIL  {f}" for f in self.failures])


def check_model(model: nn.Module, data: Data, *, batch: int = 6, strict: bool = True) -> ModelCheck:
    """Runs every promise of `models/contract.py` that the model makes, on a few data.

    Works on a copy: the model stays as it is (on the copy, closed-form players do fit). Raises UserError with all failures
    unless `strict` is False.
    """
    codes, condition = take(data.train, batch)
    device, model = device_of(model), copy.deepcopy(model)
    dequantise = bool(getattr(model, "dequantise", False))
    x = data.units.to_model(codes.to(device), SampleRng(0, device=device) if dequantise else None)
    given = Batch(x, _seen(condition, data, device), torch.arange(len(x), device=device))
    report = ModelCheck(getattr(model, "name", type(model).__name__), capabilities(model))
    for attribute in ("dequantise", "mass"):
        if type(getattr(model, attribute, False)) is not bool:
            report.failures.append(f"`{attribute}` is {getattr(model, attribute)!r}; it must be True or False.")
    for protocol, check in CHECKS:
        if isinstance(model, protocol):
            try:
                model.eval()
                check(model, given, data)
                report.passed.append(f"{protocol.__name__}: {(check.__doc__ or '').strip()}")
            except Exception as error:  # a foreign model may fail in any way; each is a finding, not the end
                report.failures.append(f"{protocol.__name__}: {type(error).__name__}: {error}")
    if not report.capabilities and not isinstance(model, Learns):
        report.failures.append("it has none of the methods of models/contract.py; write at least sample() and players().")
    if strict and report.failures:
        raise UserError(str(report))
    return report


def _seen(condition: Tensor | None, data: Data, device: torch.device) -> Tensor | None:
    """Conditions of data as the model sees them."""
    return None if condition is None else to_model(data.spec.condition, condition.to(device))


def _needed(given: Batch, data: Data, n: int, first: int = 0) -> dict[str, Tensor]:
    """The condition of samples first .. first + n - 1: that of data, where none can be drawn; else the model draws it."""
    if given.condition is None or can_be_drawn(data.spec.condition):
        return {}
    rows = torch.arange(first, first + n, device=given.condition.device) % len(given.condition)
    return {"condition": given.condition[rows]}


def _unchanging(model: nn.Module) -> dict[str, Tensor]:
    """Copies of what a loss must leave as it is: all parameters, and all buffers but those of batch norms."""
    kept: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        own = list(module.named_parameters(recurse=False))
        if not isinstance(module, _BatchNorm):
            own += list(module.named_buffers(recurse=False))
        kept |= {f"{path}.{name}".lstrip("."): tensor.detach().clone() for name, tensor in own}
    return kept


def _expect(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


def _keywords(method: Callable, *names: str) -> None:
    parameters = inspect.signature(method).parameters
    for name in names:
        found = parameters.get(name)
        _expect(
            found is not None and found.kind is inspect.Parameter.KEYWORD_ONLY and found.default is None,
            f"{method.__qualname__} must take `{name}` as a keyword with default None.",
        )


def _tensor(value: Any, shape: tuple[int, ...], what: str) -> None:
    _expect(isinstance(value, Tensor), f"{what} returned {type(value).__name__}, not a tensor.")
    _expect(tuple(value.shape) == tuple(shape), f"{what} returned shape {tuple(value.shape)}, expected {tuple(shape)}.")
    _expect(bool(torch.isfinite(value.float()).all()), f"{what} returned values that are not finite.")


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _learns(model: Any, given: Batch, data: Data) -> None:
    """every player's loss is a finite scalar whose gradient reaches its modules"""
    players = model.players()
    _expect(bool(players), "players() returned none.")
    _expect(len({p.name for p in players}) == len(players), "two players have one name.")
    own = {id(p) for p in model.parameters()}
    for player in players:
        generator = UpdateRng(seed_everything(0, device_of(model)))
        if player.update is not None:
            device = device_of(model)
            codes, condition = take(data.train, 256)
            parts = [Batch(data.units.to_model(codes.to(device)), _seen(condition, data, device))]
            with torch.no_grad():
                update = player.update(parts, generator)
            _expect(isinstance(update, Update), f"player '{player.name}': update must return an Update.")
            continue
        parameters = player.parameters()  # but those that require no gradient
        _expect(bool(parameters), f"player '{player.name}' has no parameters.")
        _expect(all(id(p) in own for p in parameters), f"player '{player.name}' trains parameters that are not the model's.")
        model.train()
        model.zero_grad(set_to_none=True)
        before = _unchanging(model)
        loss = player.loss(given, generator)
        changed = [name for name, tensor in _unchanging(model).items() if not _same(tensor, before.get(name))]
        _expect(
            not changed,
            f"player '{player.name}': its loss changes {', '.join(changed[:3])}; what changes without a gradient changes in "
            "`after_update`.",
        )
        _expect(isinstance(loss, Loss), f"player '{player.name}': loss must return a Loss.")
        _tensor(loss.total.detach(), (), f"player '{player.name}': the loss")
        for name, value in loss.terms.items():
            _tensor(value.detach(), (), f"player '{player.name}': the term '{name}'")
        loss.total.backward()
        _expect(
            any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters),
            f"player '{player.name}': its loss has no gradient with respect to its own modules.",
        )
        again = player.loss(given, UpdateRng(seed_everything(0, device_of(model))))
        # In eval mode dropout is silent, so that whatever is left of torch's default generator is noise beside the rng.
        model.eval()
        quiet = []
        for seed in (1, 2):
            seed_everything(seed, device_of(model))
            quiet.append(player.loss(given, UpdateRng(torch.Generator(device_of(model)).manual_seed(0))).total)
        _expect(
            all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in [(loss.total, again.total), (quiet[0], quiet[1])]),
            f"player '{player.name}': the loss is not a function of batch and rng; draw all noise from rng.",
        )
        model.zero_grad(set_to_none=True)
    model.eval()


def _samples(model: Any, given: Batch, data: Data) -> None:
    """samples have the data's shape; sample i is a function of (seed, i), whatever n"""
    _keywords(model.sample, "condition", "generator")
    device, three_conditions = device_of(model), _needed(given, data, 3)
    with torch.no_grad():
        three = model.sample(3, **three_conditions, generator=SampleRng(5, device=device))
        _tensor(three, (3, *data.spec.shape), "sample(3)")
        again = model.sample(3, **three_conditions, generator=SampleRng(5, device=device))
        _expect(torch.equal(three, again), "two samples with one seed differ; draw all noise from the generator.")
        rest = model.sample(1, **_needed(given, data, 1, first=2), generator=SampleRng(5, first=2, device=device))
        close = torch.allclose(three[2:].float(), rest.float(), rtol=1e-3, atol=1e-3)
        _expect(close, "sample i depends on how many are drawn; draw noise rows first through as_rng(generator).")
        other = model.sample(3, **three_conditions, generator=SampleRng(6, device=device))
        _expect(not torch.equal(three, other), "samples with two seeds are the same.")
        if given.condition is not None:
            _tensor(model.sample(len(given), condition=given.condition), tuple(given.x.shape), "sample with a condition")


def _density(model: Any, given: Batch, data: Data) -> None:
    """log_prob gives a finite value for each datum, and says what it is"""
    _keywords(model.log_prob, "condition")
    found = model.log_prob(given.x, condition=given.condition)
    _tensor(found.value, (len(given),), "log_prob")
    _expect(found.kind in ("exact", "bound", "estimate"), f"log_prob's kind is {found.kind!r}.")
    _expect(found.kind != "estimate" or found.stderr is not None, "an estimate needs its standard error.")


def _encodes(model: Any, given: Batch, data: Data) -> None:
    """encode gives a code for each datum"""
    _keywords(model.encode, "condition")
    with torch.no_grad():
        z = model.encode(given.x, condition=given.condition)
    _tensor(z, tuple(z.shape), "encode")
    _expect(len(z) == len(given), "encode must give a code for each datum.")


def _decodes(model: Any, given: Batch, data: Data) -> None:
    """decode(draw_codes(n)) has the data's shape; code i is a function of (seed, i), whatever n"""
    _keywords(model.decode, "condition")
    _keywords(model.draw_codes, "condition", "generator")
    device = device_of(model)
    with torch.no_grad():
        z = model.draw_codes(len(given), condition=given.condition, generator=SampleRng(3, device=device))
        _tensor(model.decode(z, condition=given.condition), tuple(given.x.shape), "decode")
        last = None if given.condition is None else given.condition[-1:]
        alone = model.draw_codes(1, condition=last, generator=SampleRng(3, first=len(given) - 1, device=device))
        close = torch.allclose(alone.float(), z[-1:].float(), rtol=1e-3, atol=1e-3)
        _expect(close, "code i depends on how many are drawn; draw noise rows first through as_rng(generator).")


def _scores(model: Any, given: Batch, data: Data) -> None:
    """the score has the data's shape"""
    t = torch.full((len(given),), 0.5, device=given.x.device)
    with torch.no_grad():
        _tensor(model.score(given.x, t, condition=given.condition), tuple(given.x.shape), "score")


def _trajectories(model: Any, given: Batch, data: Data) -> None:
    """a trajectory has the data's shape at each frame"""
    device = device_of(model)
    with torch.no_grad():
        states = model.trajectory(2, frames=4, **_needed(given, data, 2), generator=SampleRng(5, device=device))
        _tensor(states, (4, 2, *data.spec.shape), "trajectory")


def _extends(model: Any, given: Batch, data: Data) -> None:
    """extend keeps its prefix"""
    _keywords(model.extend, "condition", "generator")
    prefix = given.x[:, :1]
    with torch.no_grad():
        longer = model.extend(prefix, 2, condition=given.condition, generator=SampleRng(5, device=device_of(model)))
    _expect(torch.equal(longer[:, :1], prefix) and longer.shape[1] == 3, "extend must keep the prefix and add to it.")


def _completes(model: Any, given: Batch, data: Data) -> None:
    """complete keeps what is known, and draws the rest"""
    _keywords(model.complete, "condition", "generator")
    known = torch.rand(given.x.shape, generator=torch.Generator().manual_seed(0)).to(given.x.device) < 0.5
    made = [
        model.complete(given.x, known, condition=given.condition, generator=SampleRng(seed, device=device_of(model)))
        for seed in (5, 5, 6)
    ]
    _tensor(made[0], tuple(given.x.shape), "complete")
    _expect(torch.equal(made[0][known], given.x[known]), "complete must keep what is known as it is.")
    _expect(torch.equal(made[0], made[1]), "two completions with one seed differ; draw all noise from the generator.")
    _expect(not torch.equal(made[0], made[2]), "completions with two seeds are the same.")


def _translates(model: Any, given: Batch, data: Data) -> None:
    """a translation has the data's shape; row i is a function of x_i and (seed, i), whatever stands beside it"""
    _keywords(model.translate, "condition", "generator")
    paired = data.spec.condition is not None and data.spec.condition.kind == "image"
    x, asked, device = (given.condition, None, device_of(model)) if paired else (given.x, given.condition, device_of(model))
    assert x is not None
    last = len(x) - 1
    with torch.no_grad():
        made = model.translate(x, condition=asked, generator=SampleRng(5, device=device))
        _tensor(made, (len(x), *data.spec.shape), "translate")
        again = model.translate(x, condition=asked, generator=SampleRng(5, device=device))
        _expect(torch.equal(made, again), "two translations with one seed differ; draw all noise from the generator.")
        one = None if asked is None else asked[last:]
        alone = model.translate(x[last:], condition=one, generator=SampleRng(5, first=last, device=device))
        close = torch.allclose(made[last:].float(), alone.float(), rtol=1e-3, atol=1e-3)
        _expect(close, "translation i depends on what is translated beside it.")


def _diagnoses(model: Any, given: Batch, data: Data) -> None:
    """diagnose gives named finite numbers"""
    _keywords(model.diagnose, "condition")
    with torch.no_grad():
        told = model.diagnose(given.x, condition=given.condition)
    _expect(isinstance(told, dict), f"diagnose returned {type(told).__name__}, not a dict.")
    for name, value in told.items():
        fine = isinstance(name, str) and isinstance(value, (int, float)) and math.isfinite(value)
        _expect(fine, f"diagnose gives {name!r} the value {value!r}; names and finite numbers (floats) are expected.")


# Learning first: closed-form models know nothing before.
CHECKS: list[tuple[Any, Callable[[Any, Batch, Data], None]]] = [
    (Learns, _learns),
    (Samples, _samples),
    (Density, _density),
    (Encodes, _encodes),
    (Decodes, _decodes),
    (Scores, _scores),
    (Trajectories, _trajectories),
    (Extends, _extends),
    (Completes, _completes),
    (Translates, _translates),
    (Diagnoses, _diagnoses),
]
