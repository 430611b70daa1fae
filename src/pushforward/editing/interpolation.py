"""Between two data: decode the codes on the way from one to the other, beside the average of the data themselves.

Where codes are standard normal in d dimensions, almost all of them lie near the sphere of radius sqrt(d); the straight line
between two of them leaves it (its middle has radius sqrt(d/2)), an arc does not:

    spherical(a, b; t) = sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b,      w = the angle between a and b.

Codes can stay where they are, too, while the condition moves: from one caption to another.

Sources: Shoemake 1985; White 2016, arXiv:1609.04468 (for codes); Reed et al. 2016, arXiv:1605.05396 (captions).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor

from pushforward.data.conditions import parse_condition, to_model
from pushforward.data.spec import Column
from pushforward.editing.codes import BLOCK, able, decoded, encoded
from pushforward.editing.inversion import STEPS, space_of
from pushforward.errors import UserError
from pushforward.models.contract import Decodes, device_of
from pushforward.nets.conditioning import Between
from pushforward.randomness import SampleRng

if TYPE_CHECKING:
    from pushforward.training.runs import Run

Path = Literal["auto", "straight", "spherical"]


def straight(a: Float[Tensor, "n *code"], b: Float[Tensor, "n *code"], t: Float[Tensor, " k"]) -> Float[Tensor, "n k *code"]:
    """The points (1 - t) a + t b.

    >>> straight(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 4.0]]), torch.tensor([0.0, 0.5])).tolist()
    [[[0.0, 0.0], [1.0, 2.0]]]
    """
    t = t.view(1, -1, *[1] * (a.dim() - 1)).to(a)
    return torch.lerp(a[:, None], b[:, None], t)


def spherical(a: Float[Tensor, "n *code"], b: Float[Tensor, "n *code"], t: Float[Tensor, " k"]) -> Float[Tensor, "n k *code"]:
    """The points of the arc between a and b, as whole vectors; the straight line where they are (nearly) parallel or opposite.

    >>> spherical(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5])).norm().round(decimals=5).item()
    1.0
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    angle, t = cosine.arccos()[:, None], t.double()
    sine = angle.sin()
    flat = sine < 1e-4
    left = torch.where(flat, 1 - t, ((1 - t) * angle).sin() / sine)
    right = torch.where(flat, t.expand_as(left), (t * angle).sin() / sine)
    points = left[..., None] * flat_a[:, None] + right[..., None] * flat_b[:, None]
    return points.unflatten(2, a.shape[1:]).to(a.dtype)


def between(
    run: Run, a: Tensor, b: Tensor, steps: int, path: Path, condition: Any = None, space: str = "z"
) -> Num[Tensor, "n steps *shape"]:
    """The data on the way between codes a and b (n, ...) of a space, both ends included. auto: the arc where codes are drawn
    from a normal distribution of more than two dimensions, else the line."""
    if steps < 2:
        raise UserError(f"steps = {steps} was given; an interpolation has at least 2, its ends.")
    if path not in ("auto", "straight", "spherical"):
        raise UserError(f"path = '{path}' was given; it is auto, straight or spherical.")
    if path == "auto":
        path = "spherical" if _on_a_sphere(run, a, space) else "straight"
    t = torch.linspace(0, 1, steps)
    return decoded(run, (spherical if path == "spherical" else straight)(a, b, t), condition, space)


def interpolate(
    run: Run,
    start: Any,
    end: Any,
    *,
    steps: int = 9,
    path: Path = "auto",
    condition: Any = None,
    end_condition: Any = None,
    inversion_steps: int = STEPS,
    space: str = "z",
) -> Num[Tensor, "n steps *shape"]:
    """What lies between data `start` and `end` (n, ...), in the model's codes, as levels; the ends are reconstructions.

    condition: of `start` and of all that is decoded (one for all, or one each); None: without one. end_condition: of `end`
    where it is another. inversion_steps: by which codes are found where the model does not encode. space: of the codes; "w"
    and "w+" of a StyleGAN. Raises UserError for a model that does not decode, and for a space that it does not have.
    """
    able(run, space)
    asked = parse_condition(run.spec, condition, len(start))
    theirs = asked if end_condition is None else parse_condition(run.spec, end_condition, len(end))
    a = encoded(run, run.units.parse(start), asked, inversion_steps, space)
    b = encoded(run, run.units.parse(end), theirs, inversion_steps, space)
    return between(run, a, b, steps, path, asked, space)


def interpolate_samples(
    run: Run, n: int, *, steps: int = 9, path: Path = "auto", condition: Any = None, seed: int = 0, space: str = "z"
) -> Num[Tensor, "n steps *shape"]:
    """The same between codes that the model draws: all that is needed is a decoder."""
    able(run, space)
    asked = parse_condition(run.spec, condition, n)
    a, b = (drawn_codes(run, n, 2 * seed + end, asked, space) for end in (0, 1))
    return between(run, a, b, steps, path, asked, space)


def interpolate_conditions(
    run: Run, n: int, start: Any, end: Any, *, steps: int = 9, seed: int = 0
) -> Num[Tensor, "n steps *shape"]:
    """What n codes that the model draws become on the way from one condition to another (one for all, or one each): a straight
    line between the vectors of the two. Raises UserError for a model that knows nothing between two conditions."""
    able(run)
    model, condition = run.model, run.spec.condition
    assert isinstance(model, Decodes)
    taken = inspect.signature(model.decode).parameters["condition"].annotation
    if condition is None or Between.__name__ not in str(taken):
        raise UserError(
            f"'{run.record['model']['name']}' on '{run.spec.name}' knows nothing between two conditions; a GAN of data with "
            "captions, classes or attributes does."
        )
    if steps < 2:
        raise UserError(f"steps = {steps} was given; an interpolation has at least 2, its ends.")
    asked, theirs = parse_condition(run.spec, start, n), parse_condition(run.spec, end, n)
    if asked is None or theirs is None:
        raise UserError("an interpolation of conditions has two ends; give both.")
    device = device_of(run.model)
    z = drawn_codes(run, n, seed, asked).repeat_interleave(steps, 0).to(device)
    first, second = (to_model(condition, given.to(device)).repeat_interleave(steps, 0) for given in (asked, theirs))
    weight, parts = torch.linspace(0, 1, steps, device=device).repeat(n), []
    for begin in range(0, len(z), BLOCK):
        rows = slice(begin, begin + BLOCK)
        with torch.no_grad():
            made = model.decode(z[rows], condition=Between(first[rows], second[rows], weight[rows]))  # type: ignore[arg-type]
        parts.append(run.units.to_codes(made).cpu())
    return torch.cat(parts).unflatten(0, (n, steps))


def averages(
    start: Num[Tensor, "n *shape"], end: Num[Tensor, "n *shape"], steps: int, columns: Sequence[Column] = ()
) -> Num[Tensor, "n steps *shape"]:
    """What an interpolation is measured against: the average of the data themselves, rounded where they are integers.

    columns: of a table. Categories have no average, and neither has a number with a gap: there it is the nearer end.
    """
    t = torch.linspace(0, 1, steps)
    mixed = straight(start.float(), end.float(), t)
    if columns:
        category = torch.tensor([column.kind == "category" for column in columns])
        whole = torch.tensor([column.integer for column in columns])
        nearer = torch.where((t < 0.5)[:, None], start.float()[:, None], end.float()[:, None])
        mixed = torch.where(whole, mixed.round(), mixed)
        mixed = torch.where(category | mixed.isnan(), nearer, mixed)
    return mixed if start.is_floating_point() else mixed.round().to(start.dtype)


def drawn_codes(run: Run, n: int, seed: int, condition: Tensor | None = None, space: str = "z") -> Num[Tensor, "n *code"]:
    """Codes that the model draws, of these conditions (codes of the data, as `parse_condition` gives them)."""
    given = None if condition is None else to_model(run.spec.condition, condition.to(device_of(run.model)))
    with torch.no_grad():
        return space_of(run.model, space).draw(n, condition=given, generator=SampleRng(seed)).cpu()


def _on_a_sphere(run: Run, z: Tensor, space: str) -> bool:
    """Whether the model's own codes look standard normal: then in many dimensions they lie near a sphere around 0."""
    if z[0].numel() <= 2:
        return False
    drawn = drawn_codes(run, 256, 0, space=space).flatten(1).double()
    return bool(drawn.mean(0).abs().mean() < 0.1) and bool((drawn.std(0) - 1).abs().mean() < 0.1)
