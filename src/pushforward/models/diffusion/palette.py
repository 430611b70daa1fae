"""Palette: images drawn given images, by a diffusion whose network sees the given image behind the noisy one.

The network sees x_t and an image y, channel after channel, and the rest is a diffusion's: it learns the mean of its target
given x_t and y, and so, sampled, p(x | y). y is another image of a pair (a map's photograph), or what an operator leaves of x
(dynamics/operators.py): a hole to fill, a small image to enlarge, a grey one to colour, a blurred one to sharpen. Pairs then
are made as they are needed, of any images, and y is shown at the size of x (a small image's pixels as squares).

It is not pulled between answers, as a regression is that is met best by their blurred mean: it draws one of them.

Saharia et al. 2022, "Palette: image-to-image diffusion models", arXiv:2111.05826; of enlarging, "SR3", arXiv:2104.07636.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.measurements import parse_operator
from pushforward.dynamics.operators import Operator
from pushforward.dynamics.solvers import Solver
from pushforward.errors import UserError
from pushforward.models.contract import Generator
from pushforward.models.diffusion.backbone import backbone, choose
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.randomness import Rng


class Palette(Diffusion):
    """Draws images given images: translates, restores; without an image, samples of all data together.

    Args:
        spec: the data: images with an image as their condition or, with a corruption, images alone.
        corruption: what was done to the images that are given: "mask:centre", "down-sample:4", "grey", "blur:2",
            "motion:9,45", "jpeg:10", or several joined by +; None: the data are pairs.
        path: from data to noise, as of `Diffusion`.
        target: what the network predicts, as of `Diffusion`.
        weighting: of the squared error over t, as of `Diffusion`.
        network: "unet", or a transformer of patches ("dit-tiny", ...).
        width: channels of the U-Net at full resolution (None: 32 up to 32x32, else 64).
        depth: residual blocks at each resolution (None: 1 up to 32x32, else 2).
        dropout: rate inside the residual blocks.
        condition_dropout: share of images trained without the one they are given, for guidance and unconditional use.
        net: your own network, any module called net(x_t and y, t, None), or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        solver: which samples are drawn by where none is named; `sample` says which there are.
        steps: of that solver.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        corruption: str | None = None,
        path: str = "linear",
        target: str = "velocity",
        weighting: str = "uniform",
        network: str = "unet",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.1,
        condition_dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.0,
        solver: str = "heun",
        steps: int = 32,
    ):
        operator, given = _given(spec, corruption)
        kind, width, embedding = choose(network, spec, width)
        if kind == "mlp":
            raise UserError("network='mlp' sees no places, and a given image is seen place by place; use network='unet'.")
        if net is None:
            net = backbone(spec, kind, width, depth, embedding, dropout, inputs=spec.shape[0] + given.shape[0])
        super().__init__(
            replace(spec, condition=None),
            path=path,
            target=target,
            weighting=weighting,
            network=network,
            condition_dropout=condition_dropout,
            net=Beside(net),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            solver=solver,
            steps=steps,
        )
        self.spec, self.operator = replace(spec, condition=given), operator
        self.embed = GivenImage(given.shape, spec.shape)  # type: ignore[assignment]

    def pairs(self, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, the noise that goes with each, and the image that each is given."""
        x0, noise, condition = super().pairs(batch, rng)
        if self.operator is None:
            return x0, noise, condition
        with torch.no_grad():
            return x0, noise, self.corrupted(x0)

    def corrupted(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """What is given of images x; of pairs, where that is another image, x itself."""
        return x if self.operator is None else self.operator.picture(self.operator(x))

    def translate(
        self,
        x: Float[Tensor, "b *given"],
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int | None = None,
        solver: str | Solver | None = None,
        guidance: float = 1.0,
    ) -> Float[Tensor, "b *shape"]:
        """One image for each of the given ones x, which are like those of the pairs or, with a corruption, corrupted images at
        the size of the data.

        Args:
            x: what is given.
            condition: none beside it.
            generator: an Rng, a torch.Generator or a seed.
            steps: of the solver.
            solver: as of `sample`.
            guidance: 1 follows the image as learned, more exaggerates what it says.
        """
        if condition is not None:
            raise UserError("x is all that this model is conditioned on; leave the condition away.")
        if self.operator is not None and self.operator.measured == tuple(x.shape[1:]):
            x = self.operator.picture(self.operator.kept(x))  # whatever is shown in a hole
        return self.sample(len(x), condition=x, generator=generator, steps=steps, solver=solver, guidance=guidance)


class Beside(nn.Module):
    """A network that is called with x_t and, behind it, the image that is given in the place of an embedding."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], given: Float[Tensor, "b g h w"]) -> Tensor:
        return self.net(torch.cat([x_t, given], 1), t, None)


class GivenImage(nn.Module):
    """Given images (B, *shape) at the size of others; without one, and in rows where `drop` is true, 0: the mid-grey."""

    none: Tensor

    def __init__(self, shape: tuple[int, ...], like: tuple[int, ...]):
        super().__init__()
        self.size = like[1:]
        self.register_buffer("none", torch.zeros(shape[0], *self.size), persistent=False)

    def forward(
        self, condition: Float[Tensor, "b g _h _w"] | None, rows: int, drop: Bool[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b g h w"]:
        if condition is None:
            return self.none.expand(rows, *self.none.shape)
        condition = condition.to(self.none)
        if tuple(condition.shape[2:]) != self.size:
            condition = F.interpolate(condition, self.size, mode="bicubic", antialias=True)
        return condition if drop is None else torch.where(drop[:, None, None, None], self.none, condition)

    def hidden(self, rows: int, rate: float, rng: Rng) -> Bool[Tensor, "b"] | None:
        """Which rows' images are hidden (B,), at this rate."""
        return rng.rand(rows) < rate if rate > 0 else None


def _given(spec: DataSpec, corruption: str | None) -> tuple[Operator | None, Condition]:
    """The operator that makes what is given, where it is made, and what that is. Raises UserError where it cannot be."""
    known = spec.condition
    comes = f"with a condition of kind {known.kind}" if known else "without a condition"
    if spec.kind != "image":
        raise UserError(f"images are drawn given images, and '{spec.name}' holds {spec.kind} data.")
    if corruption is None:
        if known is None or known.kind != "image" or len(known.shape) != 3:
            raise UserError(
                f"images are drawn given images, and those of '{spec.name}' come {comes}; load pairs (--image X "
                '--target-image Y), or say what to undo: corruption="blur:2".'
            )
        return None, known
    if known is not None:
        raise UserError(
            f"with a corruption, what is given is made of the image, and those of '{spec.name}' come {comes}; load them with "
            "label=none."
        )
    operator = parse_operator(corruption, tuple(spec.shape))
    return operator, Condition("image", spec.shape[0], shape=tuple(spec.shape), levels=spec.levels)
