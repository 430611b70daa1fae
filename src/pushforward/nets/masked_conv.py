"""Causal convolutions: an output at a pixel depends on the pixels before it only, in raster order (row by row, each from left
to right), so that all factors of log p(x) = sum_i log p(x_i | x_<i) come from one pass; and the bases of networks of them.

A kernel has the rows that it sees and no more; shifting the image by a row or a pixel stands for mask A wherever that does.

Several channels of a pixel come in order too (R; G given R; B given both): the outputs of channel g may depend on channels
0 .. g-1 of the same pixel. In the PixelCNN the masks see to it, its feature maps being dealt to the channels; in all others the
network makes features of earlier pixels only, and a small masked layer at the end reads the channels of the pixel itself.

Source: van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", arXiv:1601.06759.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FIRST = 7  # pixels across the first kernel, which reads the image


class CausalConv2d(nn.Conv2d):
    """A convolution whose output at (r, c) sees the rows r - kh + 1 .. r and the columns c - left .. c - left + kw - 1, zeros
    around the image: (B, inputs, H, W) -> (B, outputs, H, W), with a stride of s (B, outputs, H / s, W / s).

    Args:
        kernel: (kh, kw).
        left: columns to the left of the pixel; None: kw - 1, none to the right.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        left: int | None = None,
        stride: int = 1,
        bias: bool = True,
    ):
        super().__init__(inputs, outputs, kernel, stride=stride, bias=bias)
        self.left = kernel[1] - 1 if left is None else left
        self.side = max(self.left, kernel[1] - 1 - self.left)

    @property
    def kernel(self) -> Tensor:
        """The weights that count."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        # Even padding and a cut: a copy of the image with uneven zeros around it would cost more.
        (height, width), stride = x.shape[2:], self.stride[0]
        y = F.conv2d(x, self.kernel, self.bias, stride, (self.kernel_size[0] - 1, self.side))
        first = (self.side - self.left) // stride
        return y[:, :, : height // stride, first : first + width // stride]

    def at(self, x: Float[Tensor, "b c h w"], row: int, column: int | None = None) -> Tensor:
        """Its output at one pixel (B, outputs, 1, 1), or in one row (B, outputs, 1, W), of an image x (with a stride of 1)."""
        top = max(0, row - self.kernel_size[0] + 1)
        kernel, x = self.kernel[:, :, top - row - 1 :], x[:, :, top : row + 1]
        if column is None:
            first = self.side - self.left
            return F.conv2d(x, kernel, self.bias, 1, (0, self.side))[..., first : first + x.shape[3]]
        first = max(0, column - self.left)
        last = min(x.shape[3], column - self.left + self.kernel_size[1])
        kernel = kernel[..., first - column + self.left : last - column + self.left]
        return F.conv2d(x[..., first:last], kernel, self.bias)


class MaskedConv2d(CausalConv2d):
    """A convolution of a single stack: of a k x k kernel the rows above and the row so far, up to the pixel before (mask A) or
    the pixel itself (mask B).

    What is at the pixel itself belongs to channels: an output of channel g sees inputs of channels below g (A), or g too (B).

    Args:
        size: k, odd.
        sees: the channel of each input; -1: known to all.
        makes: the channel of each output.
    """

    mask: Tensor

    def __init__(self, kind: Literal["A", "B"], size: int, sees: Tensor, makes: Tensor):
        half = size // 2
        super().__init__(len(sees), len(makes), (half + 1, size), left=half)
        own = makes[:, None] > sees if kind == "A" else makes[:, None] >= sees
        mask = torch.ones(self.weight.shape)
        mask[:, :, -1, half + 1 :] = 0
        mask[:, :, -1, half] = own.float()
        self.masks = bool((mask == 0).any())
        self.register_buffer("mask", mask, persistent=False)

    @property
    def kernel(self) -> Tensor:
        return self.weight * self.mask if self.masks else self.weight


Convolve = Callable[[CausalConv2d, Tensor], Tensor]


def everywhere(layer: CausalConv2d, x: Tensor) -> Tensor:
    """A layer at all pixels at once."""
    return layer(x)


class Canvas:
    """Convolutions at one pixel, or in one row, after another: remembers what each layer has read so far.

    Called with a layer and its input there, (B, C, 1, 1) or in a row (B, C, 1, W), it gives the layer's output there.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.row, self.column = 0, cast("int | None", None)
        self.read: dict[nn.Module, Tensor] = {}

    def to(self, row: int, column: int | None = None) -> Canvas:
        """Goes to a pixel, or to a row."""
        self.row, self.column = row, column
        return self

    def keep(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Writes what a layer reads here, and gives all that it has read (B, C, H, W)."""
        if layer not in self.read:
            self.read[layer] = x.new_zeros(*x.shape[:2], self.height, self.width)
        columns = slice(None) if self.column is None else slice(self.column, self.column + 1)
        self.read[layer][:, :, self.row : self.row + 1, columns] = x
        return self.read[layer]

    def __call__(self, layer: CausalConv2d, x: Tensor) -> Tensor:
        return layer.at(self.keep(layer, x), self.row, self.column)


def shifted(x: Float[Tensor, "b c h w"], rows: int = 0, columns: int = 0) -> Float[Tensor, "b c h w"]:
    """Moves an image down and to the right, with zeros behind it.

    >>> shifted(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), rows=1)[0, 0].tolist()
    [[0.0, 0.0], [1.0, 2.0]]
    """
    height, width = x.shape[2:]
    return F.pad(x, (columns, 0, rows, 0))[:, :, :height, :width]


def place(x: Tensor, row: int, column: int) -> Tensor:
    """The pixel (B, C, 1, 1) of an image, zeros beyond its edge."""
    if row < 0 or column < 0:
        return x.new_zeros(*x.shape[:2], 1, 1)
    return x[:, :, row : row + 1, column : column + 1]


class PixelNetwork(nn.Module):
    """x (B, inputs, H, W), a context (B, e) or None -> (B, channels * outputs, H, W): `outputs` numbers of each channel.

    Those of channel g at a pixel are a function of the pixels before it, of channels below g of the pixel itself, and of the
    context. With several channels the first of x are these, one plane each, and planes that follow are known beforehand (where
    a pixel is); with one channel no plane of the pixel itself is seen.
    """

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.channels, self.outputs = channels, outputs

    def forward(self, x: Float[Tensor, "b p h w"], context: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b o h w"]:
        raise NotImplementedError

    def of(self, channel: int, at: Tensor) -> Tensor:
        """The outputs (B, outputs) of a channel, of what there is at a pixel (B, channels * outputs, 1, 1)."""
        return at[:, channel * self.outputs : (channel + 1) * self.outputs, 0, 0]

    def naive(self, x: Float[Tensor, "b p h w"], context: Tensor | None = None) -> Iterator[tuple[int, int, int, Tensor]]:
        """As `unroll`, with one full pass for each number."""
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                for channel in range(self.channels):
                    yield row, column, channel, self.of(channel, place(self(x, context), row, column))

    def unroll(self, x: Float[Tensor, "b p h w"], context: Tensor | None = None) -> Iterator[tuple[int, int, int, Tensor]]:
        """(row, column, channel, its outputs (B, outputs)) in order, each computed when it is asked for: whoever iterates
        writes a value into x before the next. What earlier ones have computed is kept."""
        raise NotImplementedError


class Headed(PixelNetwork):
    """A network of two parts: features (B, width, H, W) of the pixels before each, and a head that says the channels of a pixel
    one after the other. Beneath it all planes of x are one."""

    def __init__(self, width: int, channels: int, outputs: int, hidden: int):
        super().__init__(channels, outputs)
        self.head = ChannelHead(width, channels, outputs, hidden)

    def features(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Float[Tensor, "b f h w"]:
        """What is known of each pixel from those before it."""
        raise NotImplementedError

    def walk(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
        """(row, column, features there (B, width, 1, 1)) in raster order, each computed when it is asked for."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "b p h w"], context: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b o h w"]:
        return self.head(self.features(x, context), x[:, : self.channels])

    def unroll(self, x: Float[Tensor, "b p h w"], context: Tensor | None = None) -> Iterator[tuple[int, int, int, Tensor]]:
        for row, column, features in self.walk(x, context):
            for channel in range(self.channels):
                own = place(x, row, column)[:, : self.channels]
                yield row, column, channel, self.of(channel, self.head(features, own))


class ChannelHead(nn.Module):
    """A perceptron at each pixel, whose hidden units of channel g see the features and channels below g of the pixel itself:
    (B, width, H, W) and (B, channels, H, W) -> (B, channels * outputs, H, W)."""

    def __init__(self, width: int, channels: int, outputs: int, hidden: int):
        super().__init__()
        self.enter = nn.Conv2d(width, channels * hidden, 1)
        self.leave = nn.Conv2d(channels * hidden, channels * outputs, 1, groups=channels)
        self.own: MaskedConv2d | None = None
        if channels > 1:
            self.own = MaskedConv2d("A", 1, torch.arange(channels), torch.arange(channels).repeat_interleave(hidden))

    def forward(self, features: Float[Tensor, "b f h w"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        hidden = self.enter(F.relu(features))
        if self.own is not None:
            hidden = hidden + self.own(x)
        return self.leave(F.relu(hidden))


def contexts(layer: nn.Linear | None, context: Tensor | None, parts: int) -> list[Tensor | None]:
    """What each of `parts` layers adds to its maps for the context: (B, k, 1, 1), or None."""
    if layer is None or context is None:
        return [None] * parts
    return list(layer(context)[:, :, None, None].chunk(parts, 1))
