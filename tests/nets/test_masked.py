"""The autoregressive property, by the Jacobian."""

import pytest
import torch

from pushforward.nets.masked import MaskedBlocks, MaskedMLP


@pytest.mark.parametrize("inputs,hidden", [(1, (8,)), (2, (8,)), (5, (16, 16)), (5, (5,)), (7, (9, 20, 30))])
@pytest.mark.parametrize("context", [0, 3])
def test_output_i_depends_on_inputs_before_i_and_on_all_of_them(inputs, hidden, context):
    torch.manual_seed(0)
    net = MaskedMLP(inputs, 2, hidden, context).double()
    beside = torch.randn(1, context, dtype=torch.float64) if context else None
    x = torch.randn(inputs, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None], beside)[0], x)  # (2, outputs, inputs)
    before = torch.tril(torch.ones(inputs, inputs, dtype=torch.bool), -1)
    assert (jacobian[:, ~before] == 0).all()
    assert (jacobian[:, before] != 0).all()
    if context:
        by_context = torch.autograd.functional.jacobian(lambda c: net(x[None], c)[0], beside).squeeze()
        assert (by_context.reshape(2, inputs, -1) != 0).all()  # even of the first output


def test_rows_are_apart():
    torch.manual_seed(0)
    net, x = MaskedMLP(4, 3, (8, 8)), torch.randn(6, 4)
    assert net(x).shape == (6, 3, 4)
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]))


@pytest.mark.parametrize("inputs,hidden", [(1, (8,)), (5, (16, 16)), (5, (3,)), (7, (9, 20, 30))])
@pytest.mark.parametrize("context", [0, 3])
def test_unrolled_every_number_is_what_its_own_output_says(inputs, hidden, context):
    torch.manual_seed(0)
    net = MaskedMLP(inputs, 2, hidden, context).double()
    beside = torch.randn(4, context, dtype=torch.float64) if context else None
    noise = torch.randn(4, inputs, dtype=torch.float64)
    x = net.unroll(lambda i, output: output[:, 0] + output[:, 1].exp() * noise[:, i], 4, beside)
    shift, log_scale = net(x, beside).unbind(1)
    torch.testing.assert_close(x, shift + log_scale.exp() * noise, rtol=0, atol=1e-12)


INPUTS, OUTPUTS = [0, 2, 2, 2, 1, 3, 3], [1, 3, 3, 0, 2, 2, 0, 0, 1]  # blocks of several, in any order


@pytest.mark.parametrize("hidden", [(4,), (16, 16), (9, 20, 30)])
@pytest.mark.parametrize("context", [0, 3])
def test_outputs_of_a_block_depend_on_the_blocks_before_it_and_on_all_of_them(hidden, context):
    torch.manual_seed(0)
    net = MaskedBlocks(INPUTS, OUTPUTS, hidden, context).double()
    beside = torch.randn(1, context, dtype=torch.float64) if context else None
    x = torch.randn(len(INPUTS), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None], beside)[0], x)  # (outputs, inputs)
    before = torch.tensor(INPUTS)[None] < torch.tensor(OUTPUTS)[:, None]
    assert torch.equal(jacobian != 0, before)


@pytest.mark.parametrize("context", [0, 3])
def test_unrolled_every_block_is_what_its_own_outputs_say(context):
    torch.manual_seed(0)
    net = MaskedBlocks(INPUTS, OUTPUTS, (16, 16), context, dropout=0.5).double().eval()
    beside = torch.randn(4, context, dtype=torch.float64) if context else None
    noise = torch.randn(4, len(INPUTS), dtype=torch.float64)
    sizes = torch.tensor(INPUTS).bincount()

    def following(block, told):
        return told.sum(1, keepdim=True) * torch.arange(1, sizes[block] + 1) + noise[:, torch.tensor(INPUTS) == block]

    x = net.unroll(following, 4, beside)
    told = net(x, beside)
    for block in range(4):
        expected = following(block, told[:, torch.tensor(OUTPUTS) == block])
        torch.testing.assert_close(x[:, torch.tensor(INPUTS) == block], expected, rtol=0, atol=1e-12)


def test_dropout_is_of_hidden_units_while_training():
    torch.manual_seed(0)
    net, x = MaskedBlocks(range(3), range(3), (64,), dropout=0.5), torch.randn(1, 3)
    assert not torch.equal(net(x), net(x)) and torch.equal(net.eval()(x), net(x))


def test_hidden_units_start_at_the_same_spread_whatever_they_see():
    """Twice that of what they are told, asinh(x), and a bias of 1/2: for each degree, of as many inputs, from 1 to 11."""
    torch.manual_seed(0)
    net, x = MaskedMLP(12, 2, (1200,)), torch.randn(2_000, 12).sinh()  # asinh of these is standard normal
    spread = net.layers[0](net.hear(x)).pow(2).mean(0).reshape(100, 12).mean(0)
    torch.testing.assert_close(spread[1:], torch.full((11,), 4.25), rtol=0.3, atol=0)  # of 100 units each
    torch.testing.assert_close(net.hear(x), x.asinh())
