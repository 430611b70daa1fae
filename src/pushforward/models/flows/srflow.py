"""SRFlow: super-resolution by a flow of images given another image of them, a small one.

    x = f^-1(T z; y),    z ~ N(0, I),        log p(x | y) = log N(f(x; y); 0, I) + log |det df/dx|,

where all couplings hear of features of y. There are many images x of which y is the small one, and each z is one of them;
a regression would learn their blurred mean. Cooler noise, T < 1, has fewer artefacts.

Lugmayr, Danelljan, Van Gool and Timofte 2020, "SRFlow: learning the super-resolution space with normalizing flow",
arXiv:2006.14200.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.contract import Generator
from pushforward.models.flows.flow import Flow
from pushforward.models.flows.steps import Mixing, Transform


class SRFlow(Flow):
    """A flow of images given images, of whatever sizes: small ones as large ones, grey ones in colour.

    Args:
        spec: of pairs: the condition is an image.
        transform: of each number: additive, affine or spline.
        mixing: what is between steps, as of `Flow`.
        steps: how many at each level.
        levels: sizes of images that steps work at.
        checkerboard: couplings of pixels at each size first.
        width: channels of the networks.
        depth: their blocks.
        alpha: of the logit that images go through.
        dequantisation: of levels: "uniform" noise, or "variational", which is learned.
        learning_rate: Adam's.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        transform: Transform = "affine",
        mixing: Mixing = "auto",
        steps: int = 8,
        levels: int | None = None,
        checkerboard: int = 0,
        width: int | None = None,
        depth: int = 2,
        alpha: float = 0.05,
        dequantisation: Literal["uniform", "variational"] = "uniform",
        learning_rate: float = 1e-3,
    ):
        if spec.condition is None or spec.condition.kind != "image":
            raise UserError(
                f"srflow learns images given images, and '{spec.name}' holds no pairs: load them (--data pairs/ "
                "--target-image large, where pairs/small and pairs/large hold images of the same names), or take glow."
            )
        super().__init__(
            spec,
            transform=transform,
            mixing=mixing,
            steps=steps,
            levels=levels,
            checkerboard=checkerboard,
            width=width,
            depth=depth,
            alpha=alpha,
            dequantisation=dequantisation,
            learning_rate=learning_rate,
        )

    def translate(
        self, x: Float[Tensor, "b *given"], *, condition: Tensor | None = None, generator: Generator = None,
        temperature: float = 0.8,
    ) -> Float[Tensor, "b *shape"]:  # fmt: skip
        """Images for given ones x: the same as `sample` with x as the condition, at this temperature."""
        if condition is not None:
            raise UserError("x is all that SRFlow is conditioned on; leave the condition away.")
        return self.sample(len(x), condition=x, generator=generator, temperature=temperature)
