"""How samples come about, where all is known: Gaussian data, whose denoiser, velocity, marginals and ODE are in closed form."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamics.exact_gaussian import exact, marginal
from torch import nn

from pushforward import UserError, create, load_data
from pushforward.data.batches import take
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.dynamics.paths import find_path
from pushforward.editing.trajectories import (
    expected_of_noised,
    fields,
    frechet_distances,
    log_density,
    planar_points,
    samples_by_solver,
    usual_solvers,
)
from pushforward.measures.features import matrix
from pushforward.measures.fidelity import frechet_distance
from pushforward.randomness import SampleRng, seeded
from pushforward.training.runs import Run

MEAN, VARIANCE = 0.4, 0.25
PLANE = DataSpec("point", (2,), columns=(Column("x0", "number"), Column("x1", "number")))


class Exact(nn.Module):
    """All that is known of N(mean, variance) data on a path."""

    def __init__(self, path, mean=MEAN):
        super().__init__()
        self.path, self.mean = find_path(path), mean

    def denoiser(self, condition=None, guidance=1.0):
        return exact(self.path, "noise", self.mean, VARIANCE).given(condition)


def opened(model, spec, name="exact"):
    return Run(model, spec, Path("nowhere"), {"model": {"name": name}})


@pytest.mark.parametrize("path", ["linear", "cosine", "edm"])
def test_the_field_is_the_models(path):
    run = opened(Exact(path), PLANE)
    found = fields(run, 4, samples=5, side=24, arrows=6, steps=24)
    denoiser = run.model.denoiser()
    low, high = denoiser.span
    np.testing.assert_allclose([field.t for field in found], np.linspace(high, low, 4), atol=1e-6)
    for k, field in enumerate(found):
        mean, variance = (float(v) for v in marginal(denoiser.path, field.t, MEAN, VARIANCE))
        unit = math.sqrt(sum(float(c) ** 2 for c in denoiser.path(torch.tensor(field.t))[:2])) if path == "edm" else 1.0
        assert field.density.shape == (24, 24) and field.velocity.shape == field.at.shape == (6, 6, 2)
        t = torch.full((36,), field.t)
        # the numbers in float32: of a velocity of some hundreds (edm) six digits
        expected = denoiser.velocity(torch.from_numpy(field.at * unit).float().reshape(36, 2), t).numpy().reshape(6, 6, 2)
        np.testing.assert_allclose(field.velocity, expected, rtol=2e-4, atol=2e-4)
        # N(mean, variance) at the middles of the cells, over the first axis along columns, in units of `unit`
        edges = [np.linspace(*field.limits[axis], 25) for axis in (0, 1)]
        across, up = (unit * (edge[1:] + edge[:-1]) / 2 for edge in edges)
        law = np.exp(-((across[None] - mean) ** 2 + (up[:, None] - mean) ** 2) / (2 * variance)) / (2 * np.pi * variance)
        # Runge-Kutta's error in 24 steps; and at the noise's end p is N(0, sigma^2), without what alpha leaves of the data
        np.testing.assert_allclose(field.density, law * unit**2, atol=0.01 * law.max() * unit**2)
        cell = np.prod(np.ptp(field.limits, axis=1)) / 24**2
        assert field.density.sum() * cell == pytest.approx(1, abs=0.02)  # but what lies outside the window
        assert field.ways.shape == (1 + 32 * k, 5, 2)
    # x_t - m_t = (s_t / s_1) (x_1 - m_1) along the ODE
    ways, first = found[-1].ways, marginal(denoiser.path, high, MEAN, VARIANCE)
    sigma = float(denoiser.path(torch.tensor(high))[1])
    noise = SampleRng(0).randn(5, 2).numpy()
    unit = math.sqrt(1 + 0.0) if path != "edm" else math.sqrt(sum(float(c) ** 2 for c in denoiser.path(torch.tensor(high))[:2]))
    np.testing.assert_allclose(ways[0] * unit, sigma * noise, rtol=1e-5, atol=1e-5)
    ends = MEAN + math.sqrt(VARIANCE / float(first[1])) * (sigma * noise - float(first[0]))
    np.testing.assert_allclose(ways[-1], ends, atol=0.05 if path == "edm" else 0.005)  # Heun's error in 96 steps


def test_density_at_any_time_and_dimension():
    denoiser = exact(find_path("linear"), "velocity", MEAN, VARIANCE)
    x = torch.linspace(-1, 1.5, 12).view(4, 3)
    for t in (0.0, 0.3, 1.0):
        mean, variance = marginal(denoiser.path, t, MEAN, VARIANCE)
        law = torch.distributions.Normal(mean.float(), variance.sqrt().float()).log_prob(x).sum(1)
        torch.testing.assert_close(log_density(denoiser, x, t, steps=32), law, rtol=0, atol=2e-3)


def test_more_frames_follow_the_same_samples():
    run = opened(Exact("linear"), PLANE)
    few, many = (fields(run, frames, samples=3, side=4, arrows=2, steps=16, seed=5) for frames in (2, 9))
    np.testing.assert_allclose(few[-1].ways[-1], many[-1].ways[-1], atol=1e-6)
    start = few[0].t * SampleRng(5).randn(3, 2).numpy()  # sigma = t there
    np.testing.assert_allclose(few[0].ways[-1], start, atol=1e-6)
    np.testing.assert_allclose(few[-1].limits, many[-1].limits)


@pytest.mark.parametrize("path", ["linear", "edm"])
def test_what_is_expected_of_noised_images(path):
    spec = DataSpec("image", (1, 2, 3), levels=65536, mode="I;16", condition=Condition("class", 2))
    run = opened(Exact(path), spec)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (4, 1, 2, 3)).astype(np.int32))
    x, z = run.units.to_model(codes), SampleRng(3).randn(4, 1, 2, 3)
    times, classes = (0.2, 0.7), torch.tensor([0, 1, 0, 1])
    for given, mean in ((None, MEAN), (classes, classes.view(4, 1, 1, 1).float())):
        found = expected_of_noised(run, codes, times, condition=given, seed=3)
        assert found.noised.shape == found.expected.shape == (4, 2, 1, 2, 3)
        for k, t in enumerate(times):
            alpha, sigma, _, _ = (float(c) for c in run.model.path(torch.tensor(t, dtype=torch.float64)))
            x_t = alpha * x + sigma * z
            guess = mean + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x_t - alpha * mean)
            unit = math.hypot(alpha, sigma) if path == "edm" else 1.0
            for got, expected in ((found.noised[:, k], x_t / unit), (found.expected[:, k], guess)):
                # one level is 3e-5; what is beyond white and black is cut off
                torch.testing.assert_close(run.units.to_model(got), expected.clamp(-1, 1), rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def moons():
    """A flow that was not trained: what holds for any velocity is asked of it."""
    data = load_data("moons")
    with seeded(0):
        model = create("flow-matching", data.spec, width=16, depth=1).eval()
        for parameter in model.parameters():  # some begin at 0
            parameter.data += 0.15 * torch.randn_like(parameter)
    return Run(model, data.spec, Path("nowhere"), {"model": {"name": "flow-matching"}}, data)


def test_solvers_share_their_noise(moons):
    found = samples_by_solver(moons, ["euler", "heun"], [2, 40], 200, seed=4)
    assert list(found) == [("euler", 2), ("euler", 40), ("heun", 2), ("heun", 40)]
    assert torch.equal(found["heun", 2], moons.sample_codes(200, seed=4, solver="heun", steps=2))
    apart = lambda a, b: (found[a] - found[b]).abs().mean().item()  # noqa: E731
    # of one noise, they all go to the end of its way on the ODE
    assert apart(("euler", 40), ("heun", 40)) < 0.25 * apart(("euler", 2), ("heun", 40)) < 0.1
    measured = frechet_distances(moons, found)
    data = moons.load_data()
    real = matrix(data.spec, take(data.held_out, 200, 0)[0])
    for cell, codes in found.items():
        assert measured[cell] == pytest.approx(frechet_distance(matrix(data.spec, codes), real))
    shifted = frechet_distances(moons, {("far", 1): found["heun", 40] + 1.0, ("near", 1): found["heun", 40]})
    assert shifted["far", 1] > shifted["near", 1] + 0.3  # 1 is more than half of a deviation along both axes


def test_usual_solvers_are_there():
    assert {"ddim", "heun", "dpm++2m"} <= set(usual_solvers())


def test_sentences():
    none = opened(create("gaussian", PLANE), PLANE, "gaussian")
    with pytest.raises(UserError, match="'gaussian' has no denoiser"):
        fields(none, 5)
    with pytest.raises(UserError, match="'gaussian' is sampled by no solver"):
        samples_by_solver(none, ["heun"], [5], 2)
    space = DataSpec("point", (3,), name="space")
    with pytest.raises(UserError, match=r"points in the plane; 'space' has data of shape \(3,\)"):
        fields(opened(Exact("linear"), space), 5)
    with pytest.raises(UserError, match="frames = 1 was given"):
        fields(opened(Exact("linear"), PLANE), 1)
    image = DataSpec("image", (1, 2, 2), levels=256)
    with pytest.raises(UserError, match=r"t = 1\.0 was given"):
        expected_of_noised(opened(Exact("linear"), image), torch.zeros(1, 1, 2, 2, dtype=torch.uint8), [0.5, 1.0])
    run = opened(create("flow-matching", PLANE, width=8), PLANE)
    with pytest.raises(UserError, match="there is no solver 'huen'"):
        samples_by_solver(run, ["huen"], [5], 2)
    with pytest.raises(UserError, match="steps is the number"):
        samples_by_solver(run, ["heun"], [0], 2)
    classes = DataSpec("point", (2,), condition=Condition("class", 3), columns=PLANE.columns)
    needs = opened(create("flow-matching", classes, width=8, condition_dropout=0.0), classes)
    with pytest.raises(UserError, match="no flow of all data together"):
        fields(needs, 5)


def test_what_is_in_the_plane():
    assert planar_points(PLANE) and not planar_points(DataSpec("series", (2, 1))) and not planar_points(DataSpec("point", (1,)))
