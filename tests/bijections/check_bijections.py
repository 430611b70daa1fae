"""What every bijection is held to: its inverse, and its log-determinant against autograd's Jacobian."""

import torch

from pushforward.bijections.base import Bijection, Inverted


def jacobian(f, x: torch.Tensor) -> torch.Tensor:
    """df/dx of one row, flattened: (numbers of y, numbers of x)."""
    return torch.autograd.functional.jacobian(lambda row: f(row[None])[0].flatten(), x).reshape(-1, x.numel())


def check(bijection: Bijection, x: torch.Tensor, context: torch.Tensor | None = None, *, single: bool = True) -> None:
    """In float64 to 1e-9 (inverse) and 1e-8 (log-determinant), in float32 to 1e-4; rows do not depend on others."""
    bijection = bijection.double().eval()
    x = x.double()
    given = None if context is None else context.double()
    y, log_det = bijection(x, given)
    assert y.shape == (len(x), *bijection.shape(tuple(x.shape[1:]))) and log_det.shape == (len(x),)
    torch.testing.assert_close(bijection.inverse(y, given), x, rtol=0, atol=1e-9)
    for i in range(len(x)):
        row = None if given is None else given[i : i + 1]
        exact = torch.linalg.slogdet(jacobian(lambda one, row=row: bijection(one, row)[0], x[i]))[1]
        torch.testing.assert_close(log_det[i], exact, rtol=0, atol=1e-8)
        alone = bijection(x[i : i + 1], row)
        torch.testing.assert_close(alone[0][0], y[i], rtol=0, atol=1e-10)
        torch.testing.assert_close(alone[1][0], log_det[i], rtol=0, atol=1e-10)
    if x[0].numel() <= 16 and not isinstance(bijection, Inverted):  # values may be right where something is detached
        bijection.train()
        rows = [x[:1].clone().requires_grad_(), *([] if given is None else [given[:1].clone().requires_grad_()])]
        assert torch.autograd.gradcheck(lambda *row: bijection(*row), rows)
        bijection.eval()
    if single:
        bijection = bijection.float()
        x, given = x.float(), None if given is None else given.float()
        y, log_det = bijection(x, given)
        assert log_det.dtype == torch.float32
        torch.testing.assert_close(bijection.inverse(y, given), x, rtol=0, atol=1e-4)


def check_gradients_of_inverse(
    bijection: Bijection, y: torch.Tensor, context: torch.Tensor, pull: torch.Tensor, tolerance: float
) -> None:
    """Of sum(pull x), x = f^-1(y; context), by y, the context and the weights: what the implicit function theorem says."""
    weights = list(bijection.parameters())
    x = bijection.inverse(y.requires_grad_(), context.requires_grad_())
    found = torch.autograd.grad((x * pull).sum(), [y, context, *weights])
    x = x.detach()
    slopes = [jacobian(lambda row, i=i: bijection(row, context[i : i + 1])[0], x[i]) for i in range(len(x))]
    solved = torch.stack([torch.linalg.solve(slope.T, row) for slope, row in zip(slopes, pull, strict=True)]).detach()
    torch.testing.assert_close(found[0], solved, rtol=0, atol=tolerance)
    expected = torch.autograd.grad(-(bijection(x, context)[0] * solved).sum(), [context, *weights])
    torch.testing.assert_close(found[1:], expected, rtol=0, atol=tolerance)


def stirred(module, size=0.3):
    """Parameters away from where they start."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter += size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    return module
