"""Causal convolutions: what an output may see, all of it where nothing is to be missed, and the same number by number."""

import itertools

import pytest
import torch

from pushforward.errors import UserError
from pushforward.nets.masked_conv import Canvas, CausalConv2d, MaskedConv2d, everywhere, shifted
from pushforward.nets.pixel_cnn import GatedPixelCNN, PixelCNN, PixelCNNPlusPlus, gate
from pushforward.nets.pixel_rnn import DiagonalBiLSTM, RowLSTM

NETWORKS = [PixelCNN, GatedPixelCNN, PixelCNNPlusPlus, RowLSTM, DiagonalBiLSTM]
SEES_ALL = [GatedPixelCNN, PixelCNNPlusPlus, DiagonalBiLSTM]
HEIGHT, WIDTH, OUTPUTS = 4, 8, 2


def network(kind, channels=1, inputs=None, **settings):
    """A small network in float64, its weights larger than at the start, so that no path is too faint to see."""
    torch.manual_seed(1)
    own = {"halvings": 2} if kind is PixelCNNPlusPlus else {} if kind is DiagonalBiLSTM else {"kernel": 3}
    settings = {"width": 8, "depth": 2, **own, **settings}
    made = kind(channels if inputs is None else inputs, channels, OUTPUTS, **settings).double()
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made


def seen(made, x, context=None):
    """Whether output (r, c, g) depends on input (r, c, plane), as (H, W, channels, H, W, planes) booleans. At several x, as
    units are off at some."""
    found = [torch.autograd.functional.jacobian(lambda x: made(x, context)[0], k * x)[:, :, :, 0] for k in (1, -1)]
    jacobian = torch.stack(found).abs().sum(0)
    jacobian = jacobian.unflatten(0, (made.channels, made.outputs)).abs().amax(1)  # (g, r, c, plane, r, c)
    return jacobian.permute(1, 2, 0, 4, 5, 3) > 0


def before(channels, planes, height=HEIGHT, width=WIDTH):
    """Whether (r, c, g) may see (r', c', plane): an earlier pixel, or an earlier channel of its own."""
    pixel = torch.arange(height * width).view(height, width)
    earlier = pixel[:, :, None, None] > pixel
    own = pixel[:, :, None, None] == pixel
    channel = torch.arange(channels)[:, None] > torch.arange(planes)
    return earlier[:, :, None, :, :, None] | (own[:, :, None, :, :, None] & channel[:, None, None])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", NETWORKS)
def test_no_output_sees_what_comes_after_it(kind, channels):
    made = network(kind, channels)
    found, allowed = seen(made, torch.randn(1, channels, HEIGHT, WIDTH).double()), before(channels, channels)
    assert not (found & ~allowed).any()
    own = torch.einsum("rcgrcp->rcgp", found.double()) > 0
    assert torch.equal(own, (torch.arange(channels)[:, None] > torch.arange(channels)).expand_as(own)), "channels in order"


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", SEES_ALL)
def test_nothing_that_came_before_is_missed(kind, channels):
    made = network(kind, channels, depth={GatedPixelCNN: 6, PixelCNNPlusPlus: 2, DiagonalBiLSTM: 1}[kind])
    found, expected = seen(made, torch.randn(1, channels, HEIGHT, WIDTH).double()), before(channels, channels)
    if kind is DiagonalBiLSTM:  # the last pixel of the row above, but by the first 7 x 7
        for row in range(1, HEIGHT):
            expected[row, : WIDTH - 4, :, row - 1, WIDTH - 1] = False
    assert torch.equal(found, expected), "no blind spot"


def test_the_blind_spot_of_one_stack():
    found = seen(network(PixelCNN, depth=8), torch.randn(1, 1, 8, 8).double())[:, :, 0, :, :, 0]
    # From (r, c) a chain of kernels rises one row for each column that it goes to the right, three by the first kernel, and the
    # first may rise a row and go three to the right: (r - u, c + v) is seen for v <= 3 + (u - 1) at most.
    for u, v in itertools.product(range(1, 7), range(6)):
        assert found[7, 2, 7 - u, 2 + v] == (v <= u + 2), (u, v)
    assert not seen(network(GatedPixelCNN, depth=8), torch.randn(1, 1, 8, 8).double()).logical_not()[7, 2, 0, :7].any()


def test_the_triangle_of_a_row_lstm():
    found = seen(network(RowLSTM, depth=1), torch.randn(1, 1, 12, 12).double())[:, :, 0, :, :, 0]
    # A state rises one row for each column that it goes to either side, and the first convolution three columns in a row.
    for u, v in itertools.product(range(1, 9), range(7)):
        assert found[11, 5, 11 - u, 5 + v] == (v <= u + 2), (u, v)


@pytest.mark.parametrize("kind", NETWORKS)
def test_planes_that_are_known_are_seen(kind):
    made = network(kind, 2, inputs=3)
    found = seen(made, torch.randn(1, 3, HEIGHT, WIDTH).double())
    assert found[-1, -1, :, :, :, 2].any(), "the third plane"
    assert not (found[..., :2] & ~before(2, 2)).any()


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_context_reaches_every_output(kind):
    made = network(kind, 2, context=3)
    x, context = torch.randn(1, 2, HEIGHT, WIDTH).double(), torch.randn(1, 3).double()
    slope = torch.autograd.functional.jacobian(lambda e: made(x, e)[0], context)
    assert (slope.abs() > 0).all()
    made(x, context).sum().backward()
    for name, weight in made.named_parameters():
        if "context" in name:  # of all layers and stacks: each map is told (but units that are off)
            assert (weight.grad.abs().sum(1) > 0).double().mean() > 0.8, name


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", NETWORKS)
def test_number_by_number_as_in_one_pass(kind, channels):
    made = network(kind, channels, inputs=channels + 1, context=3)
    x, context = torch.randn(2, channels + 1, HEIGHT, WIDTH).double(), torch.randn(2, 3).double()
    with torch.no_grad():
        whole = made(x, context)
        order = []
        filled = torch.cat([torch.zeros_like(x[:, :channels]), x[:, channels:]], 1)  # nothing is there before it is asked for
        for row, column, channel, outputs in made.unroll(filled, context):
            expected = whole[:, channel * OUTPUTS : (channel + 1) * OUTPUTS, row, column]
            torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
            filled[:, channel, row, column] = x[:, channel, row, column]
            order.append((row, column, channel))
    assert order == list(itertools.product(range(HEIGHT), range(WIDTH), range(channels)))


@pytest.mark.parametrize(
    ("kernel", "left", "stride"), [((2, 3), 1, 1), ((1, 3), 2, 1), ((2, 2), 1, 2), ((2, 3), 1, 2), ((3, 5), 0, 1)]
)
def test_a_causal_convolution_is_one_of_padded_images(kernel, left, stride):
    torch.manual_seed(0)
    layer, x = CausalConv2d(2, 3, kernel, left=left, stride=stride).double(), torch.randn(2, 2, 6, 8).double()
    padded = torch.nn.functional.pad(x, (left, kernel[1] - 1 - left, kernel[0] - 1, 0))
    expected = torch.nn.functional.conv2d(padded, layer.weight, layer.bias, stride)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    if stride == 1:
        for row, column in itertools.product(range(6), range(8)):
            torch.testing.assert_close(layer.at(x, row, column)[..., 0, 0], expected[:, :, row, column], rtol=0, atol=1e-12)
            torch.testing.assert_close(layer.at(x, row)[..., 0, :], expected[:, :, row], rtol=0, atol=1e-12)


def test_masks_by_hand():
    one = torch.zeros(1, dtype=torch.long)
    assert MaskedConv2d("A", 3, one, one).mask[0, 0].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert MaskedConv2d("B", 3, one, one).mask[0, 0].tolist() == [[1, 1, 1], [1, 1, 0]]
    rgb = torch.arange(3)
    assert MaskedConv2d("A", 1, rgb, rgb).mask[:, :, 0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert MaskedConv2d("B", 1, rgb, rgb).mask[:, :, 0, 0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_a_gate_is_tanh_times_sigmoid():
    x, beside = torch.tensor([0.5, -2.0]).view(1, 2, 1, 1), torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    expected = torch.tanh(torch.tensor(1.5)) * torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(gate(x, beside).flatten()[0], expected)


def test_a_canvas_remembers_and_a_shift_moves():
    canvas, layer = Canvas(2, 2), CausalConv2d(1, 1, (2, 2))
    canvas.to(0, 1).keep(layer, torch.full((1, 1, 1, 1), 3.0))
    assert canvas.to(1).keep(layer, torch.tensor([[[[4.0, 5.0]]]]))[0, 0].tolist() == [[0, 3], [4, 5]]
    assert shifted(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), columns=1)[0, 0].tolist() == [[0, 1], [0, 3]]


def test_dropout_is_of_training_only():
    for kind in NETWORKS:
        made, x = network(kind, dropout=0.5), torch.randn(1, 1, HEIGHT, WIDTH).double()
        assert not torch.equal(made(x), made(x))
        made.eval()
        assert torch.equal(made(x), made(x))


def test_half_precision_runs():
    for kind in NETWORKS:
        made = network(kind, 2, context=3).float()
        x, context = torch.randn(2, 2, HEIGHT, WIDTH), torch.randn(2, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = made(x, context)
        y.float().sum().backward()
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), made(x, context), rtol=0.1, atol=0.3)  # 8 bits through ten layers


def test_too_few_feature_maps():
    with pytest.raises(UserError, match="each of 3 channels"):
        network(PixelCNN, 3, width=2)


def test_layers_of_the_gated_network_add_to_those_before():
    """Where all layers but the first say nothing, its features are what comes out."""
    deep, shallow = (GatedPixelCNN(2, 1, 1, width=4, depth=depth, kernel=3) for depth in (3, 1))
    shallow.layers[0].load_state_dict(deep.layers[0].state_dict())
    with torch.no_grad():
        for layer in deep.layers[1:]:
            layer.out.weight.zero_()
            layer.out.bias.zero_()
    x = torch.randn(2, 2, HEIGHT, WIDTH)
    assert torch.equal(deep.features(x, None), shallow.features(x, None)) and bool(shallow.features(x, None).any())


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_the_streams_of_plusplus_are_those_of_the_paper(halvings):
    """Written as the authors' code has it, with one list of maps for each stream: every stage reads what the last one made,
    also where it halves, and the way up takes the maps of the way down from the end of the list."""
    made = network(PixelCNNPlusPlus, 2, inputs=3, halvings=halvings, depth=2, context=3)
    x, context = torch.randn(2, 3, HEIGHT, WIDTH).double(), torch.randn(2, 3).double()
    down, right = shifted(x, rows=1), shifted(x, columns=1)
    us, vs = [made.enter_u(down)], [made.enter_above(down) + made.enter_left(right)]
    for size in range(halvings + 1):
        for stage in made.down[size]:
            us.append(stage.u(us[-1], None, context, everywhere))
            vs.append(stage.v(vs[-1], us[-1], context, everywhere))
        if size < halvings:
            us.append(made.halve_u[size](us[-1]))
            vs.append(made.halve_v[size](vs[-1]))
    u, v = us.pop(), vs.pop()
    for size in reversed(range(halvings + 1)):
        for stage in made.up[size]:
            u = stage.u(u, us.pop(), context, everywhere)
            v = stage.v(v, torch.cat([u, vs.pop()], 1), context, everywhere)
        if size:
            u, v = made.double_u[size - 1](u), made.double_v[size - 1](v)
    assert not us and not vs
    expected = torch.nn.functional.elu(v)
    assert expected.std() > 0.1
    torch.testing.assert_close(made.features(x, context), expected, rtol=0, atol=1e-12)
