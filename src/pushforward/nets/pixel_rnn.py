"""Recurrent networks over the pixels of an image: LSTMs whose state runs down the rows, or along the diagonals.

Row LSTM. The state of a row is made of that of the row above, by convolutions k pixels wide, all columns at once:

    [o, f, i, g] = [sigmoid, sigmoid, sigmoid, tanh](K_ss * h_{r-1} + K_is * x_r),
    c_r = f c_{r-1} + i g,        h_r = o tanh(c_r)

An output sees a triangle above it: there are corners that no state passes through.

Diagonal BiLSTM. The state of a pixel is made of those to the left and above, and another, mirrored, of those to the right and
above. With each row moved by one pixel more than the row above (a skewed image) a diagonal is a column, and all of its pixels
are updated at once. The mirrored state is moved down by a row before it is added, so that no pixel sees what comes after it.
Each sees all that comes before, but the last pixel of the row above only where the first convolution reaches it: no state of
that row has read it.

Both begin with a 7 x 7 convolution that leaves the pixel itself out, and each layer adds to its input 2h -> h -> 2h maps.

Source: van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent Neural Networks", arXiv:1601.06759.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.nets.masked_conv import FIRST, Canvas, CausalConv2d, Headed, MaskedConv2d, contexts, place, shifted


def lstm_cell(gates: Tensor, c: Tensor, axis: int = 1) -> tuple[Tensor, Tensor]:
    """(h, c) from the gates o, f, i, g side by side along an axis and the c before."""
    o, f, i, g = gates.chunk(4, axis)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def skew(x: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h s"]:
    """Moves row r to the right by r: (..., H, W) -> (..., H, W + H - 1), with zeros around it.

    >>> skew(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]]
    """
    height, width = x.shape[-2:]
    return F.pad(x, (0, height)).flatten(-2)[..., :-height].unflatten(-1, (height, width + height - 1))


def unskew(x: Float[Tensor, "*b h s"]) -> Float[Tensor, "*b h w"]:
    """The inverse of `skew`.

    >>> unskew(skew(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    height, width = x.shape[-2], x.shape[-1] - x.shape[-2] + 1
    return F.pad(x.flatten(-2), (0, height)).unflatten(-1, (height, width + height))[..., :width]


class RowLayer(nn.Module):
    """A row LSTM and its way back: x (B, 2h, H, W) -> (B, 2h, H, W), of which x is a part."""

    def __init__(self, width: int, kernel: int, dropout: float):
        super().__init__()
        self.width = width
        self.read = CausalConv2d(2 * width, 4 * width, (1, kernel // 2 + 1))  # K_is: mask B leaves it this much
        self.state = CausalConv2d(width, 4 * width, (1, kernel), left=kernel // 2, bias=False)  # K_ss
        self.write = nn.Conv2d(width, 2 * width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b f h w"], beside: Tensor | None) -> Float[Tensor, "b f h w"]:
        gates = self.read(x)
        gates = gates if beside is None else gates + beside
        h = c = gates.new_zeros(len(x), self.width, 1, x.shape[3])
        rows: list[Tensor] = []
        for gate in gates.split(1, 2):
            h, c = lstm_cell(gate + self.state(h) if rows else gate, c)
            rows.append(h)
        return x + self.write(self.dropout(torch.cat(rows, 2)))

    def at(self, x: Float[Tensor, "b f 1 1"], beside: Tensor | None, canvas: Canvas, cells: Canvas) -> Float[Tensor, "b f 1 1"]:
        """The same at the pixel where the canvases are; `cells` keeps what it has remembered elsewhere."""
        row, column = canvas.row, cast(int, canvas.column)
        gates = canvas(self.read, x)
        gates, c = gates if beside is None else gates + beside, gates.new_zeros(len(x), self.width, 1, 1)
        if row:
            gates = gates + self.state.at(canvas.read[self.state], row - 1, column)
            c = place(cells.read[self], row - 1, column)
        h, c = lstm_cell(gates, c)
        canvas.keep(self.state, h)
        cells.keep(self, c)
        return x + self.write(h)


class RowLSTM(Headed):
    """Layers of row LSTMs.

    Args:
        inputs: planes of x.
        channels, outputs: see `PixelNetwork`.
        width: h.
        depth: layers.
        kernel: k, odd.
        context: numbers of the context, which all gates are told, 0: none.
        dropout: rate at which states are dropped on their way to the next layer.
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
        super().__init__(2 * width, channels, outputs, 2 * width)
        self.enter = _enter(inputs, 2 * width)
        self.layers = nn.ModuleList(RowLayer(width, kernel, dropout) for _ in range(depth))
        self.context = nn.Linear(context, 4 * depth * width, bias=False) if context else None

    def features(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Float[Tensor, "b f h w"]:
        h = self.enter(x)
        for layer, beside in zip(self.layers, contexts(self.context, context, len(self.layers)), strict=True):
            h = layer(h, beside)
        return h

    def walk(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
        """Each pixel's states once."""
        (height, width), given = x.shape[2:], contexts(self.context, context, len(self.layers))
        canvas, cells = Canvas(height, width), Canvas(height, width)
        for row in range(height):
            for column in range(width):
                h = self.enter.at(x, row, column)
                for layer, beside in zip(cast(list[RowLayer], self.layers), given, strict=True):
                    h = layer.at(h, beside, canvas.to(row, column), cells.to(row, column))
                yield row, column, h


class DiagonalLayer(nn.Module):
    """A diagonal BiLSTM and its way back: x (B, 2h, H, W) -> (B, 2h, H, W), of which x is a part.

    Both directions are updated by one product of matrices a diagonal: states (2, B, H, h), the second mirrored.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.width = width
        self.read = nn.Conv2d(2 * width, 8 * width, 1)
        self.state = nn.Parameter(torch.empty(2, 2 * width, 4 * width).uniform_(-1, 1) / (2 * width) ** 0.5)
        self.write = nn.Conv2d(width, 2 * width, 1)
        self.dropout = nn.Dropout(dropout)

    def gates(self, x: Tensor, beside: Tensor | None) -> tuple[Tensor, Tensor]:
        """What x says to the gates of either direction: (B, 4h, H, W) twice."""
        gates = self.read(x)
        forward, mirrored = (gates if beside is None else gates + beside).chunk(2, 1)
        return forward, mirrored

    def states(self, x: Tensor, beside: Tensor | None) -> tuple[Tensor, Tensor]:
        """h of either direction (B, h, H, W), the second back as it was."""
        forward, mirrored = self.gates(x, beside)
        skewed = skew(torch.stack([forward, mirrored.flip(3)]))  # (2, B, 4h, H, S): beyond the image zeros, and so states of 0
        columns = skewed.permute(4, 0, 1, 3, 2)  # (S, 2, B, H, 4h)
        h = c = columns.new_zeros(*columns.shape[1:4], self.width)
        made: list[Tensor] = []
        for gate in columns:
            if made:
                before = torch.cat([F.pad(h, (0, 0, 1, 0))[:, :, :-1], h], 3)  # above, and to the left
                gate = gate + torch.bmm(before.flatten(1, 2), self.state).view(gate.shape)
            h, c = lstm_cell(gate, c, 3)
            made.append(h)
        left, right = unskew(torch.stack(made, -1).transpose(2, 3))  # (2, B, h, H, S) -> (B, h, H, W) twice
        return left, right.flip(3)

    def forward(self, x: Float[Tensor, "b f h w"], beside: Tensor | None) -> Float[Tensor, "b f h w"]:
        left, right = self.states(x, beside)
        return x + self.write(self.dropout(left + shifted(right, rows=1)))

    def step(self, direction: int, gates: Tensor, beside: Tensor, above: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """(h, c) of a pixel, all (B, k, 1, 1), from what x says to its gates and the states of its neighbours."""
        before = torch.cat([above, beside], 1)[:, :, 0, 0] @ self.state[direction]
        return lstm_cell(gates + before[:, :, None, None], c)


class DiagonalBiLSTM(Headed):
    """Layers of diagonal BiLSTMs. Arguments as for `RowLSTM`, without a kernel."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        context: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__(2 * width, channels, outputs, 2 * width)
        self.enter = _enter(inputs, 2 * width)
        self.layers = nn.ModuleList(DiagonalLayer(width, dropout) for _ in range(depth))
        self.context = nn.Linear(context, 8 * depth * width, bias=False) if context else None

    def features(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Float[Tensor, "b f h w"]:
        h = self.enter(x)
        for layer, beside in zip(self.layers, contexts(self.context, context, len(self.layers)), strict=True):
            h = layer(h, beside)
        return h

    def walk(self, x: Float[Tensor, "b p h w"], context: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
        """Each pixel's states once: of the first direction as they are asked for, the mirrored ones of a row at its end."""
        (height, width), given = x.shape[2:], contexts(self.context, context, len(self.layers))
        layers = cast(list[DiagonalLayer], list(self.layers))
        # h and c of either direction by layer, behind a row and a column of zeros on either side
        size = (len(layers), 2, 2, len(x), layers[0].width, height + 1, width + 2)
        kept = layers[0].state.new_zeros(size)
        for row in range(height):
            said: list[list[Tensor]] = [[] for _ in layers]
            for column in range(width):
                h, (r, s) = self.enter.at(x, row, column), (row + 1, column + 1)
                for layer, beside, states, mirrored in zip(layers, given, kept, said, strict=True):
                    gates, other = layer.gates(h, beside)
                    mirrored.append(other)
                    left, above = place(states[0, 0], r, s - 1), place(states[0, 0], r - 1, s)
                    new, c = layer.step(0, gates, left, above, place(states[0, 1], r, s - 1))
                    states[0, :, :, :, r, s] = torch.stack([new, c])[..., 0, 0]
                    h = h + layer.write(new + place(states[1, 0], r - 1, s))
                yield row, column, h
            for layer, states, mirrored in zip(layers, kept, said, strict=True):
                for column in reversed(range(width)):
                    r, s = row + 1, column + 1
                    right, above = place(states[1, 0], r, s + 1), place(states[1, 0], r - 1, s)
                    new, c = layer.step(1, mirrored[column], right, above, place(states[1, 1], r, s + 1))
                    states[1, :, :, :, r, s] = torch.stack([new, c])[..., 0, 0]


def _enter(inputs: int, width: int) -> MaskedConv2d:
    """The first convolution: no channel of the pixel itself is seen."""
    return MaskedConv2d("A", FIRST, torch.zeros(inputs, dtype=torch.long), torch.zeros(width, dtype=torch.long))
