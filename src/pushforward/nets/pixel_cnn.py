"""PixelCNNs: causal networks of images made of masked convolutions.

    PixelCNN     one stack. A k x k kernel sees the rows above and what is to the left; mask A (the first layer) leaves the
                 pixel itself out, mask B lets it in, as it then is made of earlier ones. What is above and far to the right
                 gets through no chain of kernels: a blind spot, a quarter of what an output could see.
    gated        two stacks. The vertical one sees all rows above, the horizontal one the row so far and the vertical one:
                 nothing is missed. Each layer is y = tanh(W_f * x + V_f c) sigmoid(W_g * x + V_g c), c the condition.
    PixelCNN++   two streams of residual blocks, of what is above and of what is above and to the left, which are halved, halved
                 again and doubled back with shortcuts across; concat-ELU [elu(x), elu(-x)]; dropout. (Without the weight
                 normalisation of the paper.)

Sources: van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", arXiv:1601.06759; van den Oord
et al. 2016, "Conditional Image Generation with PixelCNN Decoders", arXiv:1606.05328; Salimans et al. 2017, "PixelCNN++",
arXiv:1701.05517.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.nets.masked_conv import (
    FIRST,
    Canvas,
    CausalConv2d,
    Convolve,
    Headed,
    MaskedConv2d,
    PixelNetwork,
    contexts,
    everywhere,
    place,
    shifted,
)


class PixelCNN(PixelNetwork):
    """One stack: a 7 x 7 convolution with mask A, then residual blocks 2h -> h, k x k, h -> 2h with mask B.

    Args:
        inputs: planes of x.
        channels, outputs: see `PixelNetwork`.
        width: h.
        depth: blocks.
        kernel: k, odd.
        context: numbers of the context, 0: none.
        dropout: rate at which hidden maps are dropped in blocks.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        kernel: int,
        context: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__(channels, outputs)
        if width < channels:
            raise UserError(f"width = {width} was given; each of {channels} channels needs a feature map of its own.")
        narrow, wide = torch.arange(width) % channels, torch.arange(2 * width) % channels
        sees = torch.zeros(inputs, dtype=torch.long)
        if channels > 1:
            sees[:channels], sees[channels:] = torch.arange(channels), -1
        self.enter = MaskedConv2d("A", FIRST, sees, wide)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    MaskedConv2d("B", 1, wide, narrow),
                    MaskedConv2d("B", kernel, narrow, narrow),
                    MaskedConv2d("B", 1, narrow, wide),
                ]
            )
            for _ in range(depth)
        )
        self.leave = nn.ModuleList(
            [MaskedConv2d("B", 1, wide, wide), MaskedConv2d("B", 1, wide, torch.arange(channels).repeat_interleave(outputs))]
        )
        self.context = nn.Linear(context, depth * width, bias=False) if context else None
        self.dropout = nn.Dropout(dropout)

    def _run(self, h: Tensor, context: Tensor | None, convolve: Convolve) -> Tensor:
        """The outputs, from what the first layer makes of x."""
        given = contexts(self.context, context, len(self.blocks))
        for (down, across, up), beside in zip(cast(list[list[CausalConv2d]], self.blocks), given, strict=True):
            inner = convolve(across, F.relu(convolve(down, F.relu(h))))
            inner = inner if beside is None else inner + beside
            h = h + convolve(up, self.dropout(F.relu(inner)))
        for layer in cast(list[CausalConv2d], self.leave):
            h = convolve(layer, F.relu(h))
        return h

    def forward(self, x: Float[Tensor, "b p h w"], context: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b o h w"]:
        return self._run(self.enter(x), context, everywhere)

    def unroll(self, x: Float[Tensor, "b p h w"], context: Tensor | None = None) -> Iterator[tuple[int, int, int, Tensor]]:
        canvas = Canvas(*x.shape[2:])
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                for channel in range(self.channels):
                    made = self._run(self.enter.at(x, row, column), context, canvas.to(row, column))
                    yield row, column, channel, self.of(channel, made)


def gate(x: Tensor, beside: Tensor | None) -> Tensor:
    """tanh(a) sigmoid(b) of the two halves a, b of maps, after the context's share is added."""
    a, b = (x if beside is None else x + beside).chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """A layer of both stacks: the vertical one's kernel has `rows` rows, the horizontal one's `columns` columns.

    The horizontal stack is told of the vertical one's maps by a 1 x 1 convolution of what the gate lets through (in the paper
    of what comes before it, twice as many numbers).
    """

    def __init__(self, vertical: int, horizontal: int, width: int, rows: int, kernel: int, columns: int):
        super().__init__()
        self.vertical = CausalConv2d(vertical, 2 * width, (rows, kernel), left=kernel // 2)
        self.link = nn.Conv2d(width, 2 * width, 1)
        self.horizontal = CausalConv2d(horizontal, 2 * width, (1, columns), bias=False)
        self.out = nn.Conv2d(width, width, 1)
        for layer, gain in ((self.vertical, 2.0), (self.horizontal, 1.0), (self.link, 1.0), (self.out, 1.0)):
            # a gate halves what it lets through, which no shortcut of the vertical stack makes good
            nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)


class GatedPixelCNN(Headed):
    """Two stacks of gated layers. The first sees 7 x 7 pixels, the others k x k; arguments as for `PixelCNN`."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        kernel: int,
        context: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__(width, channels, outputs, 2 * width)
        half = FIRST // 2  # rows and columns of the first: the image is shifted, so that the pixel itself is not among them
        first = GatedLayer(inputs, inputs, width, half, FIRST, half)
        others = [GatedLayer(width, width, width, kernel // 2 + 1, kernel, kernel // 2 + 1) for _ in range(depth - 1)]
        self.layers = nn.ModuleList([first, *others])
        self.context = nn.Linear(context, 4 * depth * width, bias=False) if context else None
        self.dropout = nn.Dropout(dropout)

    def _vertical(self, x: Tensor, given: list[Tensor | None], convolve: Convolve) -> list[Tensor]:
        """What the vertical stack tells each layer of the horizontal one, from the image shifted down."""
        told = []
        for layer, beside in zip(cast(list[GatedLayer], self.layers), given, strict=True):
            x = gate(convolve(layer.vertical, x), beside)
            told.append(layer.link(x))
        return told

    def _horizontal(self, x: Tensor, told: list[Tensor], given: list[Tensor | None], convolve: Convolve) -> Tensor:
        """The features, from the image shifted to the right."""
        for i, (layer, link, beside) in enumerate(zip(cast(list[GatedLayer], self.layers), told, given, strict=True)):
            h = layer.out(self.dropout(gate(link + convolve(layer.horizontal, x), beside)))
            x = x + h if i else h
        return x

    def _given(self, context: Tensor | None) -> tuple[list[Tensor | None], list[Tensor | None]]:
        given = contexts(self.context, context, 2 * len(self.layers))
        return given[::2], given[1::2]

    def features(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Float[Tensor, "b f h w"]:
        above, along = self._given(context)
        told = self._vertical(shifted(x, rows=1), above, everywhere)
        return self._horizontal(shifted(x, columns=1), told, along, everywhere)

    def walk(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
        """Rows of the vertical stack and pixels of the horizontal one, each once."""
        (height, width), (above, along) = x.shape[2:], self._given(context)
        rows, pixels = Canvas(height, width), Canvas(height, width)
        for row in range(height):
            before = x[:, :, row - 1 : row] if row else torch.zeros_like(x[:, :, :1])
            told = self._vertical(before, above, rows.to(row))
            for column in range(width):
                here = [link[..., column : column + 1] for link in told]
                yield row, column, self._horizontal(place(x, row, column - 1), here, along, pixels.to(row, column))


def concat_elu(x: Tensor) -> Tensor:
    """[elu(x), elu(-x)]: twice the maps."""
    return F.elu(torch.cat([x, -x], 1))


class GatedResidual(nn.Module):
    """A residual block of a stream, x + a sigmoid(b), beside it maps of another (`beside` of them) or none.

    The kernel is 2 x 3 for what is above, 2 x 2 for what is above and to the left.
    """

    def __init__(self, width: int, columns: int, beside: int, context: int, dropout: float):
        super().__init__()
        self.enter = CausalConv2d(2 * width, width, (2, columns), left=1)
        self.beside = nn.Conv2d(2 * beside, width, 1) if beside else None
        self.leave = CausalConv2d(2 * width, 2 * width, (2, columns), left=1)
        self.context = nn.Linear(context, 2 * width, bias=False) if context else None
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)  # a block begins near its shortcut, as in the paper

    def forward(self, x: Tensor, beside: Tensor | None, context: Tensor | None, convolve: Convolve) -> Tensor:
        h = convolve(self.enter, concat_elu(x))
        if self.beside is not None and beside is not None:
            h = h + self.beside(concat_elu(beside))
        h = convolve(self.leave, self.dropout(concat_elu(h)))
        if self.context is not None and context is not None:
            h = h + self.context(context)[:, :, None, None]
        return x + F.glu(h, 1)


class Stage(nn.Module):
    """One residual block of each stream: above (u), then above and to the left (v), which reads u's maps beside.

    skips: whether each reads its own maps of the way down too.
    """

    def __init__(self, width: int, skips: bool, context: int, dropout: float):
        super().__init__()
        self.u = GatedResidual(width, 3, width if skips else 0, context, dropout)
        self.v = GatedResidual(width, 2, 2 * width if skips else width, context, dropout)


Key = tuple[int, bool, int]  # a stage: its size (0: the image's), whether on the way up, and its number
Block = Callable[[Key, Stage, Tensor, "Tensor | None"], Tensor]  # a stage's block on maps, and on those of the way down
Deeper = Callable[[int, Tensor], Tensor]  # maps of a size to the same made of all smaller sizes


class PixelCNNPlusPlus(Headed):
    """Two streams that are halved `halvings` times and doubled back, `depth` blocks of each at each size and on either way.

    Arguments as for `PixelCNN`, but that kernels are 2 x 3 and 2 x 2. Height and width must be multiples of 2^halvings.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        halvings: int,
        context: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__(width, channels, outputs, 2 * width)
        self.halvings = halvings
        self.enter_u = CausalConv2d(inputs, width, (2, 3), left=1)
        self.enter_above = CausalConv2d(inputs, width, (1, 3), left=1)
        self.enter_left = CausalConv2d(inputs, width, (2, 1))

        def stages(count: int, skips: bool) -> nn.ModuleList:
            return nn.ModuleList(Stage(width, skips, context, dropout) for _ in range(count))

        self.down = nn.ModuleList(stages(depth, False) for _ in range(halvings + 1))
        # Each map of the way down is read once on the way up, also those that came in; the last of all is where it begins.
        self.up = nn.ModuleList(stages(depth + (size < halvings), True) for size in range(halvings + 1))
        self.halve_u = nn.ModuleList(CausalConv2d(width, width, (2, 3), left=1, stride=2) for _ in range(halvings))
        self.halve_v = nn.ModuleList(CausalConv2d(width, width, (2, 2), left=1, stride=2) for _ in range(halvings))
        wide = {"stride": 2, "padding": (0, 1), "output_padding": (0, 1)}
        self.double_u = nn.ModuleList(nn.ConvTranspose2d(width, width, (2, 3), **wide) for _ in range(halvings))  # type: ignore[arg-type]
        self.double_v = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, stride=2) for _ in range(halvings))

    def _stream(self, size: int, x: Tensor, block: Block, deeper: Deeper) -> Tensor:
        """One stream at a size: down, through all smaller sizes, and up."""
        kept = [x]
        for i, stage in enumerate(cast(list[Stage], self.down[size])):
            kept.append(block((size, False, i), stage, kept[-1], None))
        x = kept.pop() if size == self.halvings else deeper(size, kept[-1])
        for i, stage in enumerate(cast(list[Stage], self.up[size])):
            x = block((size, True, i), stage, x, kept.pop())
        return x

    def features(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Float[Tensor, "b f h w"]:
        told: dict[Key, Tensor] = {}

        def u_block(key: Key, stage: Stage, u: Tensor, skip: Tensor | None) -> Tensor:
            told[key] = stage.u(u, skip, context, everywhere)
            return told[key]

        def v_block(key: Key, stage: Stage, v: Tensor, skip: Tensor | None) -> Tensor:
            beside = told[key] if skip is None else torch.cat([told[key], skip], 1)
            return stage.v(v, beside, context, everywhere)

        def u_deeper(size: int, u: Tensor) -> Tensor:
            return self.double_u[size](self._stream(size + 1, self.halve_u[size](u), u_block, u_deeper))

        def v_deeper(size: int, v: Tensor) -> Tensor:
            return self.double_v[size](self._stream(size + 1, self.halve_v[size](v), v_block, v_deeper))

        down, right = shifted(x, rows=1), shifted(x, columns=1)
        self._stream(0, self.enter_u(down), u_block, u_deeper)
        return F.elu(self._stream(0, self.enter_above(down) + self.enter_left(right), v_block, v_deeper))

    def walk(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
        """Rows of one stream and pixels of the other, each once; of smaller sizes when the first of their pixels is due."""
        height, width = x.shape[2:]
        sizes = [(height >> i, width >> i) for i in range(self.halvings + 1)]
        rows, pixels = [Canvas(*size) for size in sizes], [Canvas(*size) for size in sizes]
        told: dict[Key, Tensor] = {}  # what the stages of u say in the row that is due

        def u_block(key: Key, stage: Stage, u: Tensor, skip: Tensor | None) -> Tensor:
            told[key] = stage.u(u, skip, context, rows[key[0]])
            return told[key]

        def v_block(key: Key, stage: Stage, v: Tensor, skip: Tensor | None) -> Tensor:
            canvas = pixels[key[0]]
            u = place(told[key], 0, cast(int, canvas.column))
            return stage.v(v, u if skip is None else torch.cat([u, skip], 1), context, canvas)

        def u_deeper(size: int, u: Tensor) -> Tensor:
            here, below, double = rows[size], rows[size + 1], self.double_u[size]
            kept, half = here.keep(self.halve_u[size], u), here.row % 2
            if not half:
                halved = cast(CausalConv2d, self.halve_u[size]).at(kept, here.row)[..., ::2]
                below.keep(double, self._stream(size + 1, halved, u_block, u_deeper))
            return double(below.read[double][:, :, below.row : below.row + 1])[:, :, half : half + 1]

        def v_deeper(size: int, v: Tensor) -> Tensor:
            here, below, double = pixels[size], pixels[size + 1], self.double_v[size]
            kept, half = here.keep(self.halve_v[size], v), (here.row % 2, cast(int, here.column) % 2)
            if half == (0, 0):
                halved = cast(CausalConv2d, self.halve_v[size]).at(kept, here.row, here.column)
                below.keep(double, self._stream(size + 1, halved, v_block, v_deeper))
            return place(double(place(below.read[double], below.row, cast(int, below.column))), *half)

        for row in range(height):
            for size, canvas in enumerate(rows):
                canvas.to(row >> size)
            before = x[:, :, row - 1 : row] if row else torch.zeros_like(x[:, :, :1])
            above = rows[0](cast(CausalConv2d, self.enter_above), before)
            self._stream(0, rows[0](self.enter_u, before), u_block, u_deeper)
            for column in range(width):
                for size, canvas in enumerate(pixels):
                    canvas.to(row >> size, column >> size)
                left = pixels[0](self.enter_left, place(x, row, column - 1))
                yield row, column, F.elu(self._stream(0, place(above, 0, column) + left, v_block, v_deeper))
