"""Recurrent networks of pixels against loops written out."""

import pytest
import torch

from pushforward.nets.pixel_rnn import DiagonalLayer, RowLayer, lstm_cell, skew, unskew


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 5), (5, 2), (1, 4), (4, 1)])
def test_skewing(shape):
    height, width = shape
    x = torch.randn(2, 3, *shape)
    moved = skew(x)
    assert moved.shape == (2, 3, height, width + height - 1)
    for row in range(height):
        torch.testing.assert_close(moved[:, :, row, row : row + width], x[:, :, row], rtol=0, atol=0)
    assert moved.count_nonzero() == x.count_nonzero(), "zeros around it"
    assert torch.equal(unskew(moved), x)
    # what stands beyond the image does not come back
    assert torch.equal(unskew(moved + (skew(torch.ones_like(x)) == 0)), x)


def test_an_lstm_cell_is_that_of_torch():
    cell = torch.nn.LSTMCell(3, 4).double()
    x, h, c = torch.randn(5, 3).double(), torch.randn(5, 4).double(), torch.randn(5, 4).double()
    i, f, g, o = (x @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh).chunk(4, 1)
    for mine, theirs in zip(lstm_cell(torch.cat([o, f, i, g], 1), c), cell(x, (h, c)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_row_lstm_is_its_loop(kernel):
    torch.manual_seed(0)
    layer, x, beside = RowLayer(3, kernel, 0.0).double(), torch.randn(2, 6, 4, 5).double(), torch.randn(2, 12, 1, 1).double()
    half = kernel // 2
    states = {}
    for row in range(4):
        for column in range(5):
            gates = layer.read.bias + beside[:, :, 0, 0]
            for k in range(half + 1):  # what is to the left, and here
                if column - half + k >= 0:
                    gates = gates + x[:, :, row, column - half + k] @ layer.read.weight[:, :, 0, k].T
            for k in range(kernel):  # the states above
                if (above := states.get((row - 1, column - half + k))) is not None:
                    gates = gates + above[0] @ layer.state.weight[:, :, 0, k].T
            c = states[row - 1, column][1] if row else torch.zeros(2, 3).double()
            o, f, i, g = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            states[row, column] = (o.sigmoid() * c.tanh(), c)
    expected = x.clone()
    for (row, column), (h, _) in states.items():
        expected[:, :, row, column] += h @ layer.write.weight[:, :, 0, 0].T + layer.write.bias
    torch.testing.assert_close(layer(x, beside), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 4), (4, 2), (1, 3)])
def test_a_diagonal_bilstm_is_its_loop(size):
    torch.manual_seed(0)
    (height, width), layer = size, DiagonalLayer(3, 0.0).double()
    x, beside = torch.randn(2, 6, *size).double(), torch.randn(2, 24, 1, 1).double()
    said = torch.einsum("bihw,oi->bohw", x, layer.read.weight[:, :, 0, 0]) + layer.read.bias[:, None, None] + beside
    zero, states = torch.zeros(2, 3).double(), ({}, {})
    for direction, found in enumerate(states):
        to = -1 if direction == 0 else 1  # the neighbour: to the left, of the mirrored one to the right
        for row in range(height):
            for column in range(width) if direction == 0 else reversed(range(width)):
                neighbour = found.get((row, column + to), (zero, zero))
                above = found.get((row - 1, column), (zero, zero))
                own = said[:, 12 * direction : 12 * (direction + 1), row, column]
                gates = own + torch.cat([above[0], neighbour[0]], 1) @ layer.state[direction]
                o, f, i, g = gates.chunk(4, 1)
                c = f.sigmoid() * neighbour[1] + i.sigmoid() * g.tanh()
                found[row, column] = (o.sigmoid() * c.tanh(), c)
    expected = x.clone()
    for row in range(height):
        for column in range(width):
            h = states[0][row, column][0] + states[1].get((row - 1, column), (zero, zero))[0]  # the mirrored one a row down
            expected[:, :, row, column] += h @ layer.write.weight[:, :, 0, 0].T + layer.write.bias
    torch.testing.assert_close(layer(x, beside), expected, rtol=0, atol=1e-12)
