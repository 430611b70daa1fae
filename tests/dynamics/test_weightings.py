"""Weightings mean the same whatever the network predicts."""

import math

import pytest
import torch

from pushforward.dynamics.paths import PATHS
from pushforward.dynamics.targets import TARGETS, convert
from pushforward.dynamics.weightings import weights
from pushforward.errors import UserError

T = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


@paths
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weighting", TARGETS)
def test_a_weighting_is_the_error_of_that_target(path, target, weighting):
    x_t, truth, wrong = torch.randn(3, 7, 1, dtype=torch.float64)
    error = (wrong - truth).square()[:, 0]
    there = [convert(path, target, weighting, x_t, y, T) for y in (truth, wrong)]
    expected = (there[1] - there[0]).square()[:, 0]
    torch.testing.assert_close(weights(path, target, weighting, T) * error, expected, rtol=1e-7, atol=1e-9)


@paths
def test_min_snr_is_as_published(path):
    """Hang et al. 2023: min(SNR, 5) for x0, min(SNR, 5) / SNR for the noise; / (SNR + 1) for v where variance is kept."""
    alpha, sigma, _, _ = path(T)
    snr = (alpha / sigma) ** 2
    torch.testing.assert_close(weights(path, "x0", "min-snr", T), snr.clamp(max=5))
    torch.testing.assert_close(weights(path, "noise", "min-snr", T), snr.clamp(max=5) / snr)
    if (alpha**2 + sigma**2 - 1).abs().max() < 1e-12:
        torch.testing.assert_close(weights(path, "v", "min-snr", T), snr.clamp(max=5) / (snr + 1))


@paths
def test_other_weightings_are_as_published(path):
    """Of x0's error: max(SNR, 1); of the noise's, logistic in log SNR; -1/2 dSNR/dt, whose integral over t is the bound."""
    t = T.clone().requires_grad_()
    alpha, sigma, _, _ = path(t)
    snr = (alpha / sigma) ** 2
    (slope,) = torch.autograd.grad(snr.sum(), t)
    snr = snr.detach()
    torch.testing.assert_close(weights(path, "x0", "truncated-snr", T), snr.clamp(min=1))
    torch.testing.assert_close(weights(path, "noise", "sigmoid", T), 1 / (1 + snr * math.exp(-2)))
    torch.testing.assert_close(weights(path, "x0", "likelihood", T), -0.5 * slope)
    for target in TARGETS:  # whatever is predicted, the weight of the same error
        ratio = weights(path, target, "x0", T)
        torch.testing.assert_close(weights(path, target, "likelihood", T), -0.5 * slope * ratio)
        torch.testing.assert_close(weights(path, target, "sigmoid", T), snr / (1 + snr * math.exp(-2)) * ratio)


def test_uniform_and_unknown():
    assert torch.equal(weights(PATHS["cosine"], "noise", "uniform", T), torch.ones_like(T))
    with pytest.raises(UserError, match="min-snr"):
        weights(PATHS["cosine"], "noise", "minsnr", T)
