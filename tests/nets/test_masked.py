"""The autoregressive property, by the Jacobian."""

import pytest
import torch

from pushforward.nets.masked import AffineAutoregressive, MaskedMLP


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


@pytest.mark.parametrize("context", [0, 3])
def test_a_steps_log_slopes_are_its_jacobians_diagonal(context):
    """Triangular, by automatic differentiation; and at first 0.98 of the input, with no shift."""
    torch.manual_seed(0)
    step = AffineAutoregressive(5, (16,), context).double()
    x, beside = torch.randn(4, 5).double(), torch.randn(4, context).double() if context else None
    torch.testing.assert_close(step(x, beside)[0], x * torch.sigmoid(torch.tensor(4.0).double()))
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.normal_()
    y, log_slope = step(x, beside)
    for row in range(4):
        told = None if beside is None else beside[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v, told=told: step(v[None], told)[0][0], x[row])
        assert (jacobian.triu(1) == 0).all() and (jacobian.tril(-1) != 0).any()
        torch.testing.assert_close(jacobian.diagonal().log(), log_slope[row])
    assert y.shape == x.shape
