"""What every bijection is held to: its inverse, and its log-determinant against autograd's Jacobian."""

import torch

from pushforward.bijections.base import Bijection


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
    if single:
        bijection = bijection.float()
        x, given = x.float(), None if given is None else given.float()
        y, log_det = bijection(x, given)
        assert log_det.dtype == torch.float32
        torch.testing.assert_close(bijection.inverse(y, given), x, rtol=0, atol=1e-4)
