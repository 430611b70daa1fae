"""Couplings: a part of x stays and tells a network how each number of the other part is moved.

    y_kept = x_kept,    y_i = f(x_i; params_i),    params = network(x_kept, context),

so that the Jacobian is triangular with diagonal 1 and f', and its log-determinant the sum of log f'(x_i). The inverse asks the
same network. f is an `Elementwise`: `Additive` gives NICE, `Affine("tanh")` RealNVP, `Affine("sigmoid")` Glow, a monotone
spline a spline coupling. What is kept are a half of the features or channels, every other feature, or the one colour of a
checkerboard of pixels. The last layer of the networks here is 0 at first, so that a coupling starts as the identity.

Sources: Dinh et al. 2015, "NICE", arXiv:1410.8516; Dinh et al. 2017, "Density estimation using Real NVP", arXiv:1605.08803;
Kingma and Dhariwal 2018, "Glow", arXiv:1807.03039; of an image as context Lugmayr et al. 2020, "SRFlow", arXiv:2006.14200.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Bijection, Shape
from pushforward.bijections.elementwise import Elementwise
from pushforward.distributions.likelihoods import total, wide
from pushforward.errors import UserError
from pushforward.nets.mlp import ResidualMLP
from pushforward.nets.unet import group_norm


class Partition(nn.Module):
    """Which numbers of x are kept and which are moved.

    `seen` is what a network of the kept ones reads and `spoken` what it speaks of, as sizes of the first axis of a datum.
    """

    seen: int
    spoken: int

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the network reads, and the numbers that are moved."""
        raise NotImplementedError

    def together(self, x: Tensor, moved: Tensor) -> Tensor:
        """x with other numbers in the place of those that are moved."""
        raise NotImplementedError


class Slices(Partition):
    """Of the first axis of a datum some are kept, the others moved: vectors (d,), images (C, H, W), sequences (C, L).

    Made by `halves` and `alternating`.
    """

    def __init__(self, size: int, kept: slice, moving: slice):
        super().__init__()
        self.seen, self.spoken = len(range(size)[kept]), len(range(size)[moving])
        if not (self.seen and self.spoken):
            raise UserError(
                f"a coupling of {size} feature{'' if size == 1 else 's'} or channels was asked for; it keeps some and moves "
                "others, so that it needs at least 2: squeeze images first, or take an autoregressive or element-wise map."
            )
        self.kept, self.moving = kept, moving

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, self.kept], x[:, self.moving]

    def together(self, x: Tensor, moved: Tensor) -> Tensor:
        return x.slice_scatter(moved, 1, self.moving.start, self.moving.stop, self.moving.step or 1)


def halves(size: int, swapped: bool = False) -> Slices:
    """The first half is kept and the second moved, or the other way round. Of an odd size the first half has one more."""
    middle = (size + 1) // 2
    first, second = slice(0, middle), slice(middle, size)
    return Slices(size, second, first) if swapped else Slices(size, first, second)


def alternating(size: int, swapped: bool = False) -> Slices:
    """Features 0, 2, 4, ... are kept and 1, 3, 5, ... moved, or the other way round."""
    even, odd = slice(0, size, 2), slice(1, size, 2)
    return Slices(size, odd, even) if swapped else Slices(size, even, odd)


class Checkerboard(Partition):
    """Of images that were squeezed (4 C, H, W) the pixels of one colour of a checkerboard are kept, in all channels: of each
    2x2 square the upper left and the lower right one, or the other two.

    So the network works at half the size and reads nothing that is masked.
    """

    kept: Tensor
    moving: Tensor

    def __init__(self, size: int, swapped: bool = False):
        super().__init__()
        if size < 4 or size % 4:
            raise UserError(
                f"a checkerboard of {size} channels was asked for; it is of squeezed images, whose channels are 4 for each one."
            )
        self.seen = self.spoken = size // 2
        corners = torch.arange(size) % 4
        white = (corners == 0) | (corners == 3)
        self.register_buffer("kept", (white ^ swapped).nonzero()[:, 0], persistent=False)
        self.register_buffer("moving", (~white ^ swapped).nonzero()[:, 0], persistent=False)

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.kept), x.index_select(1, self.moving)

    def together(self, x: Tensor, moved: Tensor) -> Tensor:
        return x.index_copy(1, self.moving, moved)


class Coupling(Bijection):
    """y_kept = x_kept, y_i = f(x_i; network(x_kept, context)_i).

    Args:
        partition: what is kept, what moved.
        network: (B, seen, ...), context -> (B, spoken K, ...), K numbers for each one spoken of, side by side.
        transform: f.
    """

    def __init__(self, partition: Partition, network: nn.Module, transform: Elementwise):
        super().__init__()
        self.partition, self.network, self.transform = partition, network, transform

    def read(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is moved, and its parameters (the same for x and for y)."""
        kept, moving = self.partition.apart(x)
        said = self.network(kept, context).unflatten(1, (self.partition.spoken, self.transform.parameters))
        return moving, said.movedim(2, -1)

    def forward(
        self, x: Float[Tensor, "b *x"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "b *y"], Float[Tensor, " b"]]:
        x = wide(x)
        moving, params = self.read(x, context)
        moved, log_slope = self.transform.forward(moving, params)
        return self.partition.together(x, moved), total(log_slope)

    def inverse(self, y: Float[Tensor, "b *y"], context: Tensor | None = None) -> Float[Tensor, "b *x"]:
        y = wide(y)
        moved, params = self.read(y, context)
        return self.partition.together(y, self.transform.inverse(moved, params))


def silent(layer: nn.Linear | nn.Conv2d) -> None:
    """Sets a last layer to 0."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class VectorNetwork(ResidualMLP):
    """(B, inputs), beside it a context (B, context) or None -> (B, outputs): 0 at first."""

    def __init__(self, inputs: int, outputs: int, width: int = 128, depth: int = 2, context: int = 0):
        super().__init__(inputs, outputs, width, depth, context)
        last = self.leave[-1]
        assert isinstance(last, nn.Linear)
        silent(last)


class Block(nn.Module):
    """h + conv(silu(norm(conv(silu(norm(h)))) + C context)), the identity at first.

    What a context says at all places alike comes after the norm, which would take it away again.
    """

    def __init__(self, width: int, context: int):
        super().__init__()
        self.norms = nn.ModuleList(group_norm(width) for _ in range(2))
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.context = nn.Linear(context, width, bias=False) if context else None
        silent(self.second)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        u = self.norms[1](self.first(F.silu(self.norms[0](h))))
        if self.context is not None:
            u = u + self.context(context)[:, :, None, None]
        return h + self.second(F.silu(u))


class ImageNetwork(nn.Module):
    """(B, inputs, H, W), beside it a context -> (B, outputs, H, W): convolutions of 3x3 in residual blocks, 0 at first.

    A vector as context (B, context) is added to the hidden features of each block; an image (B, context, H', W') is averaged,
    or repeated, to H x W and stands beside the input as further channels. There is no norm behind the last block, which would
    take away how bright the image is.

    Args:
        inputs: channels that are read.
        outputs: channels that come out.
        width: channels in between.
        depth: residual blocks.
        context: numbers of a vector, or channels of an image, that is known beside x; 0: nothing.
        image: whether the context is an image.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 64, depth: int = 2, context: int = 0, image: bool = False):
        super().__init__()
        self.image = image
        self.enter = nn.Conv2d(inputs + (context if image else 0), width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, 0 if image else context) for _ in range(depth))
        self.leave = nn.Conv2d(width, outputs, 3, padding=1)
        silent(self.leave)

    def forward(self, x: Float[Tensor, "b c h w"], context: Tensor | None = None) -> Float[Tensor, "b outputs h w"]:
        if self.image:
            assert context is not None
            x = torch.cat([x, F.adaptive_avg_pool2d(context, (x.shape[2], x.shape[3]))], 1)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, context)
        return self.leave(F.silu(h))


def coupling(
    partition: Partition,
    transform: Elementwise,
    shape: Shape,
    *,
    width: int = 64,
    depth: int = 2,
    context: int = 0,
    image: bool = False,
) -> Coupling:
    """A coupling of vectors (d,) or images (C, H, W) with the network for them; `width` to `image` are its arguments."""
    outputs = partition.spoken * transform.parameters
    network: nn.Module
    if len(shape) == 1:
        network = VectorNetwork(partition.seen, outputs, width, depth, context)
    else:
        network = ImageNetwork(partition.seen, outputs, width, depth, context, image)
    return Coupling(partition, network, transform)
