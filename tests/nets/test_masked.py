"""The autoregressive property, by the Jacobian."""

import pytest
import torch

from pushforward.nets.masked import MaskedMLP


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
