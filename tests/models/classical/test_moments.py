"""Leading eigen-directions where power iteration does not converge."""

import pytest
import torch

from pushforward.models.classical import moments
from pushforward.models.classical.moments import Moments, leading


@pytest.mark.parametrize("rows", [400, 90])  # second moments, and rows as they are
def test_directions_of_white_noise_are_eigenvectors(rows, monkeypatch):
    """Eigenvalues so close to each other that the sweeps run out; to the rounding of a full decomposition."""
    monkeypatch.setattr(moments, "LARGE", 60)
    monkeypatch.setattr(moments, "SWEEPS", 5)
    x = torch.randn(rows, 120, generator=torch.Generator().manual_seed(0))
    centred = (x - x.double().mean(0)).double()
    covariance = centred.T @ centred / rows
    assert leading(lambda block: covariance @ block, 120, 10, covariance) is None
    fed = Moments(x[0])
    fed.add(x)
    found = fed.principal(10)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(covariance).flip(0)[:10], rtol=1e-10, atol=0)
    torch.testing.assert_close(found.directions @ covariance, found.values[:, None] * found.directions, rtol=0, atol=1e-10)
