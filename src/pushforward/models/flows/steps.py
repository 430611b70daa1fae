"""How the steps of a flow are put together: of vectors one behind the other, of images level by level.

A step is an actnorm, a map that mixes features or channels, and a coupling or an autoregressive map. Images go through steps at
each of several sizes: squeezed (2 x 2 pixels become 4 channels), moved, and split, one half of the channels leaving as noise
(Dinh et al. 2017, Kingma and Dhariwal 2018); with `checkerboard` each size has couplings of pixels first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pushforward.bijections.autoregressive import MaskedAutoregressive
from pushforward.bijections.base import Bijection, Chain, Inverted, Shape
from pushforward.bijections.coupling import Checkerboard, ImageNetwork, coupling, halves
from pushforward.bijections.elementwise import Additive, Affine, Elementwise
from pushforward.bijections.linear import Actnorm, InvertibleConv1x1, Linear, Orthogonal, Permutation
from pushforward.bijections.shapes import Split, Squeeze, flatten
from pushforward.bijections.splines import RationalQuadraticSpline

Form = Literal["coupling", "autoregressive", "inverse-autoregressive"]
Transform = Literal["additive", "affine", "spline"]
Mixing = Literal["auto", "reverse", "permutation", "linear", "orthogonal", "none"]


@dataclass(frozen=True)
class Plan:
    """What steps are made of; the arguments of `Flow`."""

    form: Form
    transform: Transform
    mixing: Mixing
    steps: int
    actnorm: bool
    width: int
    depth: int
    bins: int
    bound: float
    context: int
    seed: int = 0

    def elementwise(self) -> Elementwise:
        if self.transform == "additive":
            return Additive()
        if self.transform == "affine":
            return Affine("tanh")  # on MNIST, after 300 updates, 1.93 bits per dimension; Glow's sigmoid 2.37
        return RationalQuadraticSpline(self.bins, self.bound)

    def mixed(self, size: int, step: int, image: bool) -> list[Bijection]:
        """What mixes features, or channels, ahead of step number `step`."""
        how = ("linear" if self.form == "coupling" else "reverse") if self.mixing == "auto" else self.mixing
        if how == "none" or size == 1:
            return []
        if how == "reverse":
            return [Permutation.reverse(size)] if step else []
        if how == "permutation":
            return [Permutation.random(size, self.seed + step)] if step else []
        if image:
            return [InvertibleConv1x1(size)]
        return [Linear(size) if how == "linear" else Orthogonal(size)]


def vector_steps(size: int, plan: Plan) -> Chain:
    """Steps of vectors (size,)."""
    parts: list[Bijection] = []
    for step in range(plan.steps):
        parts += [Actnorm(size)] if plan.actnorm else []
        parts += plan.mixed(size, step, image=False)
        if plan.form == "coupling":
            parts.append(
                coupling(
                    halves(size, swapped=step % 2 == 1), plan.elementwise(), (size,),
                    width=plan.width, depth=plan.depth, context=plan.context,
                )
            )  # fmt: skip
        else:
            hidden = (max(plan.width, size),) * plan.depth
            step_of = MaskedAutoregressive(size, plan.elementwise(), hidden, plan.context)
            parts.append(Inverted(step_of) if plan.form == "inverse-autoregressive" else step_of)
    return Chain(parts)


def image_steps(shape: Shape, plan: Plan, levels: int, checkerboard: int) -> Chain:
    """Steps of images (C, H, W) at `levels` sizes, the first of them half as fine as the image; what comes out is flat."""

    def moved(partition: Checkerboard, at: Shape) -> Bijection:
        return coupling(partition, plan.elementwise(), at, width=plan.width, depth=plan.depth, context=plan.context)

    parts: list[Bijection] = []
    for number in range(checkerboard):
        parts += [Actnorm(shape[0])] if plan.actnorm else []
        parts.append(moved(Checkerboard(shape, swapped=number % 2 == 1), shape))
    parts.append(Squeeze())
    shape = parts[-1].shape(shape)
    for step in range(plan.steps):
        parts += [Actnorm(shape[0])] if plan.actnorm else []
        parts += plan.mixed(shape[0], step, image=True)
        parts.append(
            coupling(
                halves(shape[0], swapped=step % 2 == 1), plan.elementwise(), shape,
                width=plan.width, depth=plan.depth, context=plan.context,
            )
        )  # fmt: skip
    if levels == 1 or min(shape[1:]) < 2 or shape[1] % 2 or shape[2] % 2:
        return Chain([*parts, flatten(shape)])
    going = ((shape[0] + 1) // 2, *shape[1:])
    network = ImageNetwork(going[0], 2 * (shape[0] - going[0]), plan.width, 1, plan.context)
    return Chain([*parts, Split(shape, image_steps(going, plan, levels - 1, checkerboard), network)])
