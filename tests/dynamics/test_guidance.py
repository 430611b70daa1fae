"""Guidance, where data are three Gaussians and everything is known: tilted scores, intervals, deviations, worse models."""

from dataclasses import dataclass

import pytest
import torch
from dynamics.exact_gaussian import exact

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.guidance import as_noisy, autoguided, classifier_free, guided_by, within
from pushforward.dynamics.paths import PATHS, Path, noise_ratio
from pushforward.dynamics.solvers import generate, time_grid
from pushforward.dynamics.targets import TARGETS, compose
from pushforward.errors import UserError
from pushforward.randomness import UpdateRng

paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
targets = pytest.mark.parametrize("target", TARGETS)
MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, -1.2]], dtype=torch.float64)
VARIANCES = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)
RATES = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
X = torch.tensor([[-1.0, 0.2], [0.4, 0.0], [1.0, -0.7], [0.1, 0.3]], dtype=torch.float64)
T = torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
C = torch.tensor([0, 1, 2, 1])


def log_joint(path, x_t, t, means=MEANS, variances=VARIANCES, rates=RATES):
    """log p(x_t, c) (B, classes)."""
    alpha, sigma, _, _ = path(t)
    variance = alpha[:, None] ** 2 * variances + sigma[:, None] ** 2
    square = ((x_t[:, None] - alpha[:, None, None] * means) ** 2).sum(2)
    return rates.log() - x_t.shape[1] / 2 * (2 * torch.pi * variance).log() - square / (2 * variance)


@dataclass(frozen=True)
class MixtureNet:
    """E[y | x_t], and E[y | x_t, c] given classes."""

    path: Path
    target: str
    means: torch.Tensor = MEANS
    variances: torch.Tensor = VARIANCES
    rates: torch.Tensor = RATES

    def __call__(self, x_t, t, *, condition=None, drop=None):
        alpha, sigma, _, _ = self.path(t)
        posterior = log_joint(self.path, x_t, t, self.means, self.variances, self.rates).softmax(1)
        if condition is not None:
            known = torch.nn.functional.one_hot(condition, len(self.rates)).to(posterior)
            posterior = known if drop is None else torch.where(drop[:, None], posterior, known)
        residual = x_t[:, None] - alpha[:, None, None] * self.means
        residual = residual / (alpha[:, None] ** 2 * self.variances + sigma[:, None] ** 2)[..., None]
        x0 = self.means + (alpha[:, None] * self.variances)[..., None] * residual
        x0, noise = ((posterior[..., None] * part).sum(1) for part in (x0, sigma[:, None, None] * residual))
        return compose(self.path, self.target, x0, noise, t)


def mixture(path, target="velocity", **law):
    return Denoiser(path, target, MixtureNet(path, target, **law))


@dataclass(frozen=True)
class Posterior:
    """The classifier that goes with the mixture."""

    path: Path
    means: torch.Tensor = MEANS
    variances: torch.Tensor = VARIANCES
    rates: torch.Tensor = RATES

    def log_posterior(self, condition, x_t, t):
        logits = log_joint(self.path, x_t, t, self.means, self.variances, self.rates)
        return logits.log_softmax(1).gather(1, condition[:, None])[:, 0]


def tilted(path, scale):
    """grad log p(x_t) p(c | x_t)^scale, by automatic differentiation."""
    x = X.clone().requires_grad_()
    joint = log_joint(path, x, T)
    value = joint.logsumexp(1) + scale * joint.log_softmax(1).gather(1, C[:, None])[:, 0]
    return torch.autograd.grad(value.sum(), x)[0]


@paths
@targets
@pytest.mark.parametrize("scale", [-0.5, 1.0, 3.0])
def test_both_guidances_are_the_tilted_density_s_score(path, target, scale):
    model = mixture(path, target)
    truth, close = tilted(path, scale), {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(classifier_free(model, scale).given(C).score(X, T), truth, **close)
    torch.testing.assert_close(guided_by(model.given(None), Posterior(path), C, scale).score(X, T), truth, **close)
    if scale == 1.0:
        torch.testing.assert_close(model.given(C).score(X, T), truth, **close)
    assert (truth - tilted(path, 0.0)).abs().max() > 0.1


def test_a_classifier_adds_to_a_denoiser_at_its_own_condition():
    path = PATHS["cosine"]
    guided = guided_by(mixture(path).given(C), Posterior(path), C, 2.0)
    expected = mixture(path).given(C).score(X, T) + 2.0 * (tilted(path, 1.0) - tilted(path, 0.0))
    torch.testing.assert_close(guided.score(X, T), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("other", ["cosine", "edm", "foellmer"])
def test_a_classifier_of_another_path_serves(other):
    path = PATHS["linear"]
    guided = guided_by(mixture(path).given(None), Posterior(PATHS[other]), C, 2.0)
    # T is where edm's noise is within its ends; times are found to rounding, which a noise of 0.11 magnifies
    torch.testing.assert_close(guided.score(X, T), tilted(path, 2.0), rtol=1e-6, atol=1e-6)


@paths
def test_as_noisy_finds_the_time_and_the_scale(path):
    s, k = as_noisy(path, PATHS["linear"], T)
    torch.testing.assert_close(noise_ratio(PATHS["linear"], s), noise_ratio(path, T), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(k * path(T)[0], 1 - s, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(k * path(T)[1], s, rtol=1e-9, atol=1e-9)


def test_where_nothing_is_left_of_the_data_a_classifier_moves_as_just_before():
    path = PATHS["linear"]
    guided, plain = guided_by(mixture(path).given(None), Posterior(path), C, 2.0), mixture(path).given(None)
    last, before = torch.ones(4, dtype=torch.float64), torch.full((4,), 0.995, dtype=torch.float64)
    moved, then = (guided.velocity(X, t) - plain.velocity(X, t) for t in (last, before))
    assert moved.abs().max() > 0.5
    torch.testing.assert_close(moved, then, rtol=0.02, atol=0.01)  # d t is 0.005


@targets
@pytest.mark.parametrize("guide", ["condition", "worse", "classifier"])
def test_rescaling_brings_each_row_s_deviation_back(target, guide):
    path = PATHS["variance-preserving"]
    model = mixture(path, target)

    def guided(rescale):
        if guide == "condition":
            return classifier_free(model, 4.0, rescale=rescale).given(C)
        if guide == "worse":
            return autoguided(model, mixture(path, target, variances=2 * VARIANCES), 4.0, rescale=rescale).given(C)
        return guided_by(model.given(C), Posterior(path), C, 4.0, rescale=rescale)

    def deviation(x):
        return x.std(1)

    learned, far = model.given(C)(X, T)[0], guided(0.0)(X, T)[0]
    assert (deviation(far) / deviation(learned) - 1).abs().min() > 1e-3
    x0, noise = guided(1.0)(X, T)
    torch.testing.assert_close(deviation(x0), deviation(learned), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(compose(path, "x0", x0, noise, T), x0)
    alpha, sigma, _, _ = path(T)
    torch.testing.assert_close(alpha[:, None] * x0 + sigma[:, None] * noise, X, rtol=1e-8, atol=1e-8)
    # Lin et al., equations 15 and 16, of x0
    ratio = (deviation(learned) / deviation(far))[:, None]
    torch.testing.assert_close(guided(0.7)(X, T)[0], 0.7 * (far * ratio) + 0.3 * far, rtol=1e-8, atol=1e-8)


@paths
@targets
def test_within_an_interval_only(path, target):
    model = mixture(path, target)
    plain, full = model.given(C), classifier_free(model, 3.0).given(C)
    part = within((0.2, 0.7), full, plain)
    inside = (T >= 0.2) & (T <= 0.7)
    assert inside.tolist() == [False, True, True, False]
    for t in T:
        at, wanted = t.expand(4), full if 0.2 <= t <= 0.7 else plain
        assert torch.equal(part.net(X, at), wanted.net(X, at))
    mixed = part.net(X, T)
    assert torch.equal(mixed[inside], full.net(X, T)[inside]) and torch.equal(mixed[~inside], plain.net(X, T)[~inside])
    assert (full.score(X, T) - plain.score(X, T))[inside].abs().max() > 0.01


@targets
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_a_negative_condition_stands_where_none_was(target, scale):
    path, calls = PATHS["linear"], []
    model = mixture(path, target)

    def counted(x_t, t, *, condition=None, drop=None):
        calls.append(len(x_t))
        return model.net(x_t, t, condition=condition, drop=drop)

    away = torch.tensor([2, 2, 0, 0])
    guided = classifier_free(Denoiser(path, target, counted), scale, negative=away).given(C)
    worst, best = model.given(away).score(X, T), model.given(C).score(X, T)
    torch.testing.assert_close(guided.score(X, T), worst + scale * (best - worst), rtol=1e-9, atol=1e-9)
    assert calls == [4 if scale == 0.0 else 8]


@pytest.mark.parametrize("negative", [None, torch.tensor([2, 2, 0, 0])])
def test_rows_without_a_condition_are_not_guided(negative):
    model = mixture(PATHS["linear"])
    drop = torch.tensor([True, False, True, False])
    made = classifier_free(model, 3.0, negative=negative).net(X, T, condition=C, drop=drop)
    free, guided = model.net(X, T), classifier_free(model, 3.0, negative=negative).net(X, T, condition=C)
    torch.testing.assert_close(made, torch.where(drop[:, None], free, guided), rtol=1e-10, atol=1e-10)


@paths
@targets
def test_a_model_guided_by_itself_is_itself(path, target):
    model = mixture(path, target)
    torch.testing.assert_close(autoguided(model, model, 3.0).given(C).net(X, T), model.given(C).net(X, T))


@pytest.mark.parametrize("path, target", [("linear", "velocity"), ("cosine", "x0"), ("edm", "edm"), ("foellmer", "noise")])
def test_a_worse_model_of_any_path_and_target(path, target):
    model, blurred = mixture(PATHS["linear"], "v"), {"variances": VARIANCES + 0.5}
    guided = autoguided(model, mixture(PATHS[path], target, **blurred), 2.0).given(C)
    best, worst = model.given(C).score(X, T), mixture(PATHS["linear"], "v", **blurred).given(C).score(X, T)
    torch.testing.assert_close(guided.score(X, T), worst + 2.0 * (best - worst), rtol=1e-6, atol=1e-6)


def test_guidances_are_composed():
    path, worse = PATHS["linear"], {"variances": VARIANCES + 0.5}
    model, bad = mixture(path), mixture(path, **worse)
    both = classifier_free(autoguided(model, bad, 2.0), 3.0).given(C)

    def auto(condition):
        return bad.given(condition).net(X, T) + 2.0 * (model.given(condition).net(X, T) - bad.given(condition).net(X, T))

    torch.testing.assert_close(both.net(X, T), auto(None) + 3.0 * (auto(C) - auto(None)), rtol=1e-9, atol=1e-9)


LINE = {
    "means": torch.tensor([[-1.0], [1.0]], dtype=torch.float64),
    "variances": torch.tensor([1.0, 1.0], dtype=torch.float64),
    "rates": torch.tensor([0.5, 0.5], dtype=torch.float64),
}


def drawn(denoiser, rows=4000):
    noise = torch.randn(rows, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return generate(denoiser, noise, time_grid((0.0, 1.0), 24, like=noise), "heun", rng=UpdateRng(torch.Generator()))[:, 0]


def test_a_classifier_gives_the_class_its_law_and_more_of_it_fewer_mistakes():
    path, one = PATHS["linear"], torch.ones(4000, dtype=torch.long)
    model, classifier = mixture(path, **LINE).given(None), Posterior(path, **LINE)
    right = []
    for scale in (0.0, 1.0, 2.0, 4.0):
        x = drawn(guided_by(model, classifier, one, scale))
        right.append((x > 0).double().mean())
        if scale == 1.0:  # N(1, 1): the errors of mean and deviation of 4,000 are 0.016 and 0.011; four of them
            assert abs(x.mean() - 1) < 0.065 and abs(x.std() - 1) < 0.045
    # half; Phi(1) = 0.841, whose error is 0.006; and rising
    assert abs(right[0] - 0.5) < 0.03 and abs(right[1] - 0.8413) < 0.024 and right[1] + 0.03 < right[2] < right[3]
    assert right[3] > 0.97


@pytest.mark.parametrize(
    "mistake, said",
    [
        (lambda m: within((0.8, 0.1), m, m), "from t = 0.8 to t = 0.1"),
        (lambda m: within((0.5, 0.5), m, m), "an interval begins"),
        (lambda m: within((-0.1, 0.5), m, m), "an interval begins"),
        (lambda m: within((0.1, 1.5), m, m), "an interval begins"),
        (lambda m: classifier_free(m, 2.0, rescale=1.5), "rescaled by 1.5"),
        (lambda m: autoguided(m, m, 2.0, rescale=-0.1), "rescaled by -0.1"),
        (lambda m: classifier_free(m, float("nan")), "guidance is nan"),
        (lambda m: autoguided(m, m, float("inf")), "guidance is inf"),
        (lambda m: guided_by(m, Posterior(m.path), C, float("nan")), "guidance is nan"),
    ],
)
def test_what_cannot_guide_is_said(mistake, said):
    with pytest.raises(UserError, match=said):
        mistake(mixture(PATHS["linear"]))


def test_rows_of_one_value_have_no_deviation_to_bring_back():
    path = PATHS["linear"]
    model = exact(path, "x0", 0.3)
    x, t = torch.full((2, 3), 0.4, dtype=torch.float64), torch.tensor([0.3, 0.6], dtype=torch.float64)
    condition = torch.tensor([0.5, -0.5], dtype=torch.float64)
    guided = [classifier_free(model, 2.0, rescale=phi).given(condition).score(x, t) for phi in (0.0, 1.0)]
    assert torch.equal(guided[0], guided[1]) and guided[0].isfinite().all()
