"""How the steps of a flow are put together: of vectors one behind the other, of images level by level.

A step is an actnorm, a map that mixes features or channels, and a coupling or an autoregressive map; or an actnorm and a
residual map or a continuous flow, which mix by themselves. Images go through steps at
each of several sizes: squeezed (2 x 2 pixels become 4 channels), moved, and split, one half of the channels leaving as noise
(Dinh et al. 2017, Kingma and Dhariwal 2018); with `checkerboard` each size has couplings of pixels first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pushforward.bijections.autoregressive import MaskedAutoregressive
from pushforward.bijections.base import Bijection, Chain, Inverted, Shape
from pushforward.bijections.continuous import Continuous, Velocity
from pushforward.bijections.coupling import Checkerboard, ImageNetwork, Partition, coupling, halves
from pushforward.bijections.elementwise import Additive, Affine, Elementwise, Standardised
from pushforward.bijections.linear import Actnorm, Linear, Orthogonal, Permutation
from pushforward.bijections.residual import Residual
from pushforward.bijections.shapes import Split, Squeeze, flatten
from pushforward.bijections.splines import RationalQuadraticSpline

Form = Literal["coupling", "autoregressive", "inverse-autoregressive", "residual", "continuous"]
Transform = Literal["additive", "affine", "spline"]
Mixing = Literal["auto", "reverse", "permutation", "linear", "orthogonal", "none"]
STEPWISE = ("coupling", "autoregressive", "inverse-autoregressive")  # forms whose steps transform number by number


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
    bins: int = 8
    bound: float = 5.0
    context: int = 0
    image: bool = False  # whether the context is one

    def elementwise(self) -> Elementwise:
        if self.transform == "additive":
            return Additive()
        if self.transform == "affine":
            if self.form != "coupling":
                return Standardised()  # MAF's own; a scale within e^+-2 cost 0.5 nats on a table of ten columns
            return Affine("tanh")  # on MNIST, after 300 updates, 1.93 bits per dimension; Glow's sigmoid 2.37
        return RationalQuadraticSpline(self.bins, self.bound)

    def mixed(self, size: int, step: int) -> list[Bijection]:
        """What mixes features, or channels, ahead of step number `step`."""
        if self.form not in STEPWISE:
            return []
        how = ("linear" if self.form == "coupling" else "reverse") if self.mixing == "auto" else self.mixing
        couples = self.form == "coupling"
        if how == "none" or size == 1 or (how == "reverse" and couples):  # couplings keep and move their halves by turns
            return []
        if how == "reverse":
            return [Permutation.reverse(size)] if step else []
        if how == "permutation":  # once for each two couplings, so that every number is moved by one of them
            return [] if step == 0 or (couples and step % 2) else [Permutation.random(size, step)]
        return [Linear(size) if how == "linear" else Orthogonal(size)]

    def moved(self, shape: Shape, step: int, partition: Partition | None = None) -> Bijection:
        """What moves data of this shape in step number `step`; partition: of a coupling, else its halves by turns."""
        if self.form == "residual":
            return Residual(shape, (self.width,) * self.depth, self.context)
        if self.form == "continuous":
            return Continuous(shape, Velocity(shape, self.width, self.depth, self.context))
        if self.form == "coupling":
            return coupling(
                partition or halves(shape[0], swapped=step % 2 == 1), self.elementwise(), shape,
                width=self.width, depth=self.depth, context=self.context, image=self.image,
            )  # fmt: skip
        hidden = (max(self.width, shape[0]),) * self.depth
        step_of = MaskedAutoregressive(shape[0], self.elementwise(), hidden, self.context)
        return Inverted(step_of) if self.form == "inverse-autoregressive" else step_of


def can_be_squeezed(shape: Shape, times: int) -> bool:
    """Whether both sides of an image (C, H, W) can be halved as often as that."""
    return len(shape) == 3 and all(side % 2**times == 0 for side in shape[1:])


def vector_steps(size: int, plan: Plan) -> Chain:
    """Steps of vectors (size,)."""
    parts: list[Bijection] = []
    for step in range(plan.steps):
        parts += [Actnorm(size)] if plan.actnorm else []
        parts += [*plan.mixed(size, step), plan.moved((size,), step)]
    return Chain(parts)


def image_steps(shape: Shape, plan: Plan, levels: int, checkerboard: int) -> Chain:
    """Steps of images (C, H, W) at `levels` sizes, the first of them half as fine as the image; what comes out is flat."""
    parts: list[Bijection] = [Squeeze()]
    shape = parts[-1].shape(shape)
    for number in range(checkerboard):
        parts += [Actnorm(shape[0])] if plan.actnorm else []
        parts.append(plan.moved(shape, number, Checkerboard(shape[0], swapped=number % 2 == 1)))
    for step in range(plan.steps):
        parts += [Actnorm(shape[0])] if plan.actnorm else []
        parts += [*plan.mixed(shape[0], step), plan.moved(shape, step)]
    if levels == 1:
        return Chain([*parts, flatten(shape)])
    going = ((shape[0] + 1) // 2, *shape[1:])
    network = ImageNetwork(going[0], 2 * (shape[0] - going[0]), plan.width, 1, plan.context, plan.image)
    return Chain([*parts, Split(shape, image_steps(going, plan, levels - 1, checkerboard), network)])
