"""Differentiable augmentations of images, so that a critic does not learn a small training set by heart.

The critic sees only augmented images, T(x) and T(G(z)), each with a draw of its own, and the generator's gradient passes
through T. So T(data) and T(fakes) are made alike; where T, as a map of distributions, can be undone, data and fakes are too,
and the generator does not learn to make augmented images.

    colour        brightness x + u - 1/2; saturation m_c + 2 u (x - m_c); contrast m + (u + 1/2) (x - m),
                  m_c the mean over channels, m that over the image, one u ~ U(0, 1) each
    translation   by up to an eighth of each side, 0 moving in
    cutout        a rectangle of half the sides is 0, its centre anywhere
    flip          mirrored, left and right: a fair coin
    turn          by a multiple of 90 degrees, each alike; where height and width differ, of 180

Each kind is applied to a datum with probability p, independently. Turning with probability p keeps any orientation with
1 - p + p/4 and gives each other one p/4: a matrix with eigenvalues 1 and 1 - p, which can be undone for p < 1.

`AdaptiveProbability` finds p (ADA). With r = E[sign(l(x))] over real data, 0 where the critic is at a loss and 1 where it knows
all its data, p rises while r is above a target and falls while it is below, at a fixed speed.

Zhao et al. 2020 (DiffAugment: colour, translation, cutout, p = 1), arXiv:2006.10738; Karras et al. 2020 (ADA),
arXiv:2006.06676.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pushforward.errors import UserError, nearest
from pushforward.randomness import Rng

SHIFT = 1 / 8  # of a side
CUT = 1 / 2  # of a side
WINDOW = 256  # images over which r is averaged: the sign of a mean over one or two says nothing of the mean


def colour(x: Float[Tensor, "b c h w"], u: Float[Tensor, "b 3"]) -> Float[Tensor, "b c h w"]:
    """Brightness, then saturation, then contrast."""
    brightness, saturation, contrast = u.to(x.dtype)[:, :, None, None, None].unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (x - mean)


def translation(x: Float[Tensor, "b c h w"], u: Float[Tensor, "b 2"]) -> Float[Tensor, "b c h w"]:
    """Whole pixels, down and to the right."""
    for axis, part in ((2, u[:, 0]), (3, u[:, 1])):
        side = x.shape[axis]
        most = int(SHIFT * side + 0.5)
        source = torch.arange(side, device=x.device) - (_integer(part, 2 * most + 1) - most)[:, None]
        inside = _along(axis, (source >= 0) & (source < side))
        x = x.gather(axis, _along(axis, source.clamp(0, side - 1)).expand_as(x)) * inside.to(x.dtype)
    return x


def cutout(x: Float[Tensor, "b c h w"], u: Float[Tensor, "b 2"]) -> Float[Tensor, "b c h w"]:
    """The rectangle may stick out over the edge."""
    hidden = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, part in ((2, u[:, 0]), (3, u[:, 1])):
        side = x.shape[axis]
        size = int(CUT * side + 0.5)
        first = (_integer(part, side + 1 - size % 2) - size // 2)[:, None]
        places = torch.arange(side, device=x.device)
        hidden = hidden & _along(axis, (places >= first) & (places < first + size))
    return x * (~hidden).to(x.dtype)


def flip(x: Float[Tensor, "b c h w"], u: Float[Tensor, "b 1"]) -> Float[Tensor, "b c h w"]:
    """Mirrored where u >= 1/2."""
    return torch.where((u >= 0.5)[:, :, None, None], x.flip(3), x)


def turn(x: Float[Tensor, "b c h w"], u: Float[Tensor, "b 1"]) -> Float[Tensor, "b c h w"]:
    """Counter-clockwise."""
    square = x.shape[2] == x.shape[3]
    quarters = _integer(u[:, 0], 4) if square else 2 * _integer(u[:, 0], 2)
    turned = x
    for k in (1, 2, 3) if square else (2,):
        turned = torch.where((quarters == k)[:, None, None, None], x.rot90(k, (2, 3)), turned)
    return turned


def _integer(u: Float[Tensor, " b"], count: int) -> Int[Tensor, " b"]:
    """0 .. count - 1, alike, of uniform numbers."""
    return (u * count).long().clamp(max=count - 1)


def _along(axis: int, rows: Tensor) -> Tensor:
    """(B, side) -> (B, 1, side, 1) or (B, 1, 1, side)."""
    return rows[:, None, :, None] if axis == 2 else rows[:, None, None, :]


# name -> numbers that it draws for a datum, and what it does with them
AUGMENTATIONS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "colour": (3, colour),
    "translation": (2, translation),
    "cutout": (2, cutout),
    "flip": (1, flip),
    "turn": (1, turn),
}
DIFFAUGMENT = ("colour", "translation", "cutout")


@dataclass(frozen=True)
class Drawn:
    """Of each kind, which rows it is applied to (B,) and its uniform numbers (B, k)."""

    rows: int
    kinds: dict[str, tuple[Bool[Tensor, " b"], Float[Tensor, "b k"]]]


def draw_augmentation(rows: int, p: float | Tensor, rng: Rng, kinds: Sequence[str] = DIFFAUGMENT) -> Drawn:
    """What is to be done to each of `rows` images, each kind with probability p.

    As much is drawn whatever p is, so that p moves nothing else that is random in an update.
    Raises UserError for unknown kinds.
    """
    for kind in kinds:
        if kind not in AUGMENTATIONS:
            raise UserError(f"there is no augmentation '{kind}'; {nearest(kind, AUGMENTATIONS)}")
    return Drawn(rows, {kind: (rng.rand(rows) < p, rng.rand(rows, AUGMENTATIONS[kind][0])) for kind in kinds})


def apply_augmentation(x: Float[Tensor, "b *shape"], drawn: Drawn) -> Float[Tensor, "b *shape"]:
    """The images with that done to them: linear in x up to a constant. One draw serves several images that belong together.

    Raises UserError for data that are no images, and for another number of them than was drawn for.
    """
    if x.dim() != 4:
        raise UserError(f"augmentations change images (C, H, W), and a datum has shape {tuple(x.shape[1:])}; leave them out.")
    if len(x) != drawn.rows:
        raise UserError(f"an augmentation was drawn for {drawn.rows} images and given {len(x)}; draw one for each.")
    for kind, (chosen, u) in drawn.kinds.items():
        x = torch.where(chosen[:, None, None, None], AUGMENTATIONS[kind][1](x, u), x)
    return x


def augment(
    x: Float[Tensor, "b *shape"], p: float | Tensor, rng: Rng, kinds: Sequence[str] = DIFFAUGMENT
) -> Float[Tensor, "b *shape"]:
    """Images with a draw of their own; x itself at p = 0."""
    return apply_augmentation(x, draw_augmentation(len(x), p, rng, kinds))


class AdaptiveProbability(nn.Module):
    """p, moved by the critic's outputs for real data: buffers that only `after_update` changes.

    Args:
        target: of r = E[sign(l(x) - boundary)]: how sure of its data the critic may be.
        images: real data that the critic sees while p would rise from 0 to 1.
        largest: p stops there; up to 0.8 generators were not seen to make augmented images.
        boundary: the output above which the critic says "real" (`Objective.boundary`).
    """

    p: Tensor
    signs: Tensor
    seen: Tensor

    def __init__(self, target: float = 0.6, images: int = 500_000, largest: float = 0.8, boundary: float = 0.0):
        super().__init__()
        if not (-1 < target < 1 and images > 0 and 0 < largest <= 1):
            raise UserError(
                f"target={target}, images={images} and largest={largest} were given; the target is between -1 and 1 (0.6), "
                "images a number above 0, largest above 0 and at most 1."
            )
        self.target, self.images, self.largest, self.boundary = target, images, largest, boundary
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def after_update(self, real: Float[Tensor, " n"]) -> None:
        """real: the critic's outputs for the (augmented) real data of an update. Nothing waits for the device."""
        self.signs += (real.float() - self.boundary).sign().sum()
        self.seen += len(real)
        due = self.seen >= WINDOW
        step = (self.signs / self.seen - self.target).sign() * self.seen / self.images
        self.p.copy_(torch.where(due, (self.p + step).clamp(0, self.largest), self.p))
        self.signs.mul_(~due)
        self.seen.mul_(~due)
