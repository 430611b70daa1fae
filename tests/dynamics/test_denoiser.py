"""Denoisers: one prediction in any target's terms; guidance means the same for all of them."""

import pytest
import torch
from dynamics.exact_gaussian import exact, marginal

from pushforward.dynamics.denoiser import bounded
from pushforward.dynamics.guidance import classifier_free
from pushforward.dynamics.paths import PATHS
from pushforward.dynamics.targets import EARLIEST, LATEST, TARGETS, compose, span

paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
X = torch.tensor([[-1.0, 0.2, 3.0], [0.4, 0.0, 1.0], [2.0, -2.0, 0.5]], dtype=torch.float64)
T = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
MEANS = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


@paths
@pytest.mark.parametrize("target", TARGETS)
def test_score_is_the_gradient_of_the_log_density(path, target):
    mean, variance = marginal(path, T, 0.3)
    truth = -(X - mean[:, None]) / variance[:, None]
    torch.testing.assert_close(exact(path, target, 0.3).score(X, T), truth, rtol=1e-10, atol=1e-10)


@paths
@pytest.mark.parametrize("target", TARGETS)
def test_velocity_and_the_pair_agree_with_every_target(path, target):
    denoiser = exact(path, target, 0.3)
    x0, noise = denoiser(X, T)
    for other in TARGETS:
        torch.testing.assert_close(denoiser.predict(other, X, T), compose(path, other, x0, noise, T), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoiser.velocity(X, T), exact(path, "v", 0.3).velocity(X, T), rtol=1e-9, atol=1e-9)


def test_the_networks_own_target_is_not_converted():
    denoiser = exact(PATHS["linear"], "velocity", 0.3)
    assert torch.equal(denoiser.velocity(X, torch.zeros(3).double()), denoiser.net(X, torch.zeros(3).double()))


@paths
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_the_tilted_score_whatever_the_target(path, target, scale):
    denoiser = exact(path, target)
    guided = classifier_free(denoiser, scale).given(MEANS)
    null, conditional = denoiser.score(X, T), denoiser.score(X, T, MEANS)
    torch.testing.assert_close(guided.score(X, T), null + scale * (conditional - null), rtol=1e-9, atol=1e-9)
    assert (conditional - null).abs().max() > 0.1


def test_guidance_evaluates_once_at_0_and_1():
    denoiser, calls = exact(PATHS["linear"], "v"), []

    def counted(x_t, t, *, condition=None, drop=None):
        calls.append(len(x_t))
        return denoiser.net(x_t, t, condition=condition, drop=drop)

    for scale in (0.0, 1.0, 2.0):
        classifier_free(type(denoiser)(denoiser.path, "v", counted), scale).given(MEANS).velocity(X, T)
    assert calls == [3, 3, 6]


@paths
@pytest.mark.parametrize("target", TARGETS)
def test_within_the_span_everything_is_finite(path, target):
    first, last = span(path, target)
    assert first in (0.0, EARLIEST) and last in (1.0, LATEST)
    ends = torch.tensor([first, last], dtype=torch.float64)
    denoiser, x = exact(path, target, 0.3), X[:2]
    x0, noise = denoiser(x, ends)
    assert torch.stack([x0, noise, denoiser.velocity(x, ends)]).isfinite().all()
    if first == EARLIEST:  # it was needed
        zero = torch.zeros(2, dtype=torch.float64)
        assert not torch.stack([*denoiser(x, zero), denoiser.velocity(x, zero)]).isfinite().all()


@paths
@pytest.mark.parametrize("target", TARGETS)
def test_bounds_move_x0_and_the_noise_with_it(path, target):
    denoiser = exact(path, target, 0.3)
    (x0, _), (inside, noise) = denoiser(X, T), bounded(denoiser, -0.2, 0.4)(X, T)
    torch.testing.assert_close(inside, x0.clamp(-0.2, 0.4), rtol=1e-9, atol=1e-9)
    assert (inside - x0).abs().max() > 0.1
    alpha, sigma, _, _ = path(T)
    torch.testing.assert_close(alpha[:, None] * inside + sigma[:, None] * noise, X, rtol=1e-9, atol=1e-9)
