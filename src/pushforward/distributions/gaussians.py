"""How far apart two Gaussians are, in closed form: N(m0, S0) from N(m1, S1), covariances full.

All in float64. A covariance must be positive definite where it is divided by (KL, Hellinger, Fisher); the transport distance
takes any that is positive semi-definite.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.errors import UserError


def cholesky(covariance: Float[Tensor, "*k d d"], name: str = "the covariance") -> Float[Tensor, "*k d d"]:
    """L with L L^T = covariance, in float64. Raises UserError where it is not symmetric and positive definite."""
    covariance = covariance.double()
    skew, size = (covariance - covariance.mT).abs().amax((-2, -1)), covariance.abs().amax((-2, -1))
    if bool((skew > 1e-5 * size).any()):  # one half alone would be read; float32 rounds to 1e-7
        raise UserError(f"{name} is not symmetric (by up to {float(skew.max()):.3g}); give (S + S.T) / 2 if it should be.")
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed.any()):
        raise UserError(
            f"{name} is not positive definite (a direction has no variance); "
            "add a small multiple of the identity, or leave that direction out."
        )
    return factor


def _log_det(factor: Tensor) -> Tensor:
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def gaussian_kl(
    m0: Float[Tensor, " d"], s0: Float[Tensor, "d d"], m1: Float[Tensor, " d"], s1: Float[Tensor, "d d"]
) -> Float[Tensor, ""]:
    """KL(N(m0, s0) || N(m1, s1)) = (tr(S1^-1 S0) + |L1^-1 (m1 - m0)|^2 - d + log det S1 / det S0) / 2, nats.

    >>> one = torch.eye(1)
    >>> float(gaussian_kl(torch.zeros(1), one, torch.ones(1), one))
    0.5
    """
    l0, l1 = cholesky(s0, "s0"), cholesky(s1, "s1")
    spread = torch.linalg.solve_triangular(l1, l0, upper=False).square().sum()
    shift = torch.linalg.solve_triangular(l1, (m1 - m0).double()[:, None], upper=False).square().sum()
    return (spread + shift - len(m0) + _log_det(l1) - _log_det(l0)) / 2


def gaussian_w2(
    m0: Float[Tensor, " d"], s0: Float[Tensor, "d d"], m1: Float[Tensor, " d"], s1: Float[Tensor, "d d"]
) -> Float[Tensor, ""]:
    """The 2-Wasserstein distance: W2^2 = |m0 - m1|^2 + tr(S0 + S1 - 2 (S0^(1/2) S1 S0^(1/2))^(1/2)) (Bures; Gelbrich 1990).

    The trace of that root is the sum of the singular values of R0 R1^T for any R^T R = S.

    >>> float(gaussian_w2(torch.zeros(2), torch.eye(2), torch.tensor([3.0, 0.0]), 4 * torch.eye(2)))  # sqrt(9 + 2)
    3.3166247903554
    """

    return squared_w2(m0, _root(s0), m1, _root(s1)).sqrt()


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance.double())
    return values.clamp(min=0).sqrt()[:, None] * vectors.mT


def squared_w2(
    m0: Float[Tensor, " d"], r0: Float[Tensor, "a d"], m1: Float[Tensor, " d"], r1: Float[Tensor, "b d"]
) -> Float[Tensor, ""]:
    """W2^2 of two Gaussians whose covariances are r^T r: with the triangular factor of a QR decomposition of data that are far
    more, or far fewer, than their dimensions, no covariance is formed and no matrix root taken."""
    r0, r1 = r0.double(), r1.double()
    shared = torch.linalg.svdvals(r0 @ r1.mT).sum()
    squared = (m0 - m1).double().square().sum() + r0.square().sum() + r1.square().sum() - 2 * shared
    return squared.clamp(min=0)


def gaussian_hellinger(
    m0: Float[Tensor, " d"], s0: Float[Tensor, "d d"], m1: Float[Tensor, " d"], s1: Float[Tensor, "d d"]
) -> Float[Tensor, ""]:
    """The Hellinger distance, sqrt(1 - BC), 0 to 1, by Bhattacharyya's coefficient BC = integral sqrt(p q):

    log BC = (log det S0 + log det S1) / 4 - log det S / 2 - |L^-1 (m0 - m1)|^2 / 8, with S = (S0 + S1) / 2 = L L^T.
    """
    l0, l1 = cholesky(s0, "s0"), cholesky(s1, "s1")
    factor = cholesky((s0.double() + s1.double()) / 2)
    shift = torch.linalg.solve_triangular(factor, (m0 - m1).double()[:, None], upper=False).square().sum()
    log_bc = (_log_det(l0) + _log_det(l1)) / 4 - _log_det(factor) / 2 - shift / 8
    return (-torch.expm1(log_bc.clamp(max=0))).sqrt()


def gaussian_fisher(
    m0: Float[Tensor, " d"], s0: Float[Tensor, "d d"], m1: Float[Tensor, " d"], s1: Float[Tensor, "d d"]
) -> Float[Tensor, ""]:
    """The Fisher divergence E_p |grad log p - grad log q|^2 with p = N(m0, s0): what score matching minimises (Hyvarinen 2005).

    The scores differ by A (x - m0) - S1^-1 (m1 - m0) with A = S1^-1 - S0^-1, so it is tr(A S0 A) + |S1^-1 (m1 - m0)|^2.
    """
    i0, i1 = torch.cholesky_inverse(cholesky(s0, "s0")), torch.cholesky_inverse(cholesky(s1, "s1"))
    difference = i1 - i0
    return (difference @ s0.double() @ difference).trace() + (i1 @ (m1 - m0).double()).square().sum()
