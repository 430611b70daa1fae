"""Likelihoods: masses that sum to 1, gradients that stay finite, and agreement with torch.distributions."""

import math

import pytest
import torch

from pushforward.data.spec import Column, DataSpec
from pushforward.distributions.choice import likelihood
from pushforward.distributions.likelihoods import (
    Bernoulli,
    DiscretisedLogistic,
    Gaussian,
    logistic_mass,
    pick,
    soft_clamp,
)
from pushforward.errors import UserError
from pushforward.randomness import SampleRng


def grid(levels: int) -> torch.Tensor:
    return 2 * torch.arange(levels) / (levels - 1) - 1


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
@pytest.mark.parametrize("raw_scale", [-40.0, -3.0, 0.0, 5.0, 40.0])
@pytest.mark.parametrize("location", [-40.0, -1.0, 0.013, 0.99, 40.0])
def test_masses_of_all_levels_sum_to_one(levels, raw_scale, location):
    logistic = DiscretisedLogistic(levels)
    parameters = torch.tensor([location, raw_scale]).view(1, 2, 1).expand(levels, 2, 1)
    mass = logistic.log_mass(parameters, grid(levels)[:, None])
    # Neighbouring bins share a threshold, computed twice in float32: for the thinnest scale (an eighth of a level) it is
    # off by eps / scale = 1e-7 * 8 / w, which is 0.015 for 65536 levels, else below 1e-4.
    tolerance = 3e-2 if levels == 65536 else 1e-4
    assert abs(mass.double().exp().sum() - 1) < tolerance


def test_masses_sum_to_one_in_double_precision():
    logistic = DiscretisedLogistic(256).double()
    parameters = torch.randn(1, 2, 1, generator=torch.Generator().manual_seed(0)).double().expand(256, 2, 1)
    mass = logistic.log_mass(parameters, (2 * torch.arange(256).double() / 255 - 1)[:, None]).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-12)


def test_log_mass_is_the_difference_of_the_cdf():
    logistic, x = DiscretisedLogistic(17).double(), grid(17).double()[3:6, None]
    parameters = torch.tensor([0.2, -0.4]).double().view(1, 2, 1).expand(3, 2, 1)
    location, log_scale = logistic.location_and_log_scale(parameters)
    cdf = lambda t: torch.sigmoid((t - location) / log_scale.exp())  # noqa: E731
    expected = torch.log(cdf(x + 1 / 16) - cdf(x - 1 / 16))
    torch.testing.assert_close(logistic.log_mass(parameters, x), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("make", [lambda: Bernoulli(256), lambda: DiscretisedLogistic(256), lambda: Gaussian((4,), "pixel")])
def test_gradients_are_finite_at_extremes_and_edges(make):
    model = make()
    extremes = torch.cartesian_prod(torch.tensor([-40.0, 0.0, 40.0]), torch.tensor([-40.0, 0.0, 40.0]))
    parameters = extremes[:, : model.channels, None].repeat(1, 1, 4).requires_grad_()
    x = torch.tensor([-1.0, 1.0, grid(256)[1], grid(256)[128]]).expand(9, 4)
    value = model.log_prob(parameters, x)
    value.sum().backward()
    assert value.isfinite().all() and parameters.grad.isfinite().all()


def test_the_runs_log_det_gives_back_the_log_mass():
    spec = DataSpec("image", (1, 2, 3), levels=17)
    from pushforward.data.units import units

    codes = torch.randint(0, 17, (5, 1, 2, 3), generator=torch.Generator().manual_seed(0))
    logistic, x = likelihood("auto", spec), units(spec).to_model(codes)
    parameters = torch.randn(5, 2, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    mass = logistic.log_mass(parameters, x).flatten(1).sum(1)
    torch.testing.assert_close(logistic.log_prob(parameters, x) + units(spec).log_det, mass)


def test_bernoulli_is_torchs():
    logits = torch.randn(6, 1, 1, 4, 3, generator=torch.Generator().manual_seed(0)) * 4
    white = (torch.rand(6, 1, 4, 3, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    expected = torch.distributions.Bernoulli(logits=logits[:, 0]).log_prob(white).flatten(1).sum(1)
    # two levels are 2 apart in the model's units: the log-density is the log-mass less log 2 a pixel
    torch.testing.assert_close(Bernoulli(2).log_prob(logits, 2 * white - 1) + 12 * math.log(2), expected)


def test_bernoulli_of_a_grey_image_is_the_expectation_over_binary_ones():
    bernoulli, logits, grey = Bernoulli(2), torch.tensor([1.3, -0.4]).view(1, 1, 2), torch.tensor([[0.25, 0.8]])
    mean = 0.0
    for b0 in (0, 1):
        for b1 in (0, 1):
            b = torch.tensor([[float(b0), float(b1)]])
            mean = mean + torch.where(b == 1, grey, 1 - grey).prod() * bernoulli.log_prob(logits, 2 * b - 1)
    torch.testing.assert_close(bernoulli.log_prob(logits, 2 * grey - 1), mean)


@pytest.mark.parametrize("sigma", [0.3, "global", "column", "pixel"])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 4, 3)])
def test_gaussian_is_torchs(sigma, shape):
    gaussian = Gaussian(shape, sigma)
    generator = torch.Generator().manual_seed(0)
    if hasattr(gaussian, "raw"):
        gaussian.raw.data = torch.randn(gaussian.raw.shape, generator=generator)
    parameters = torch.randn(6, gaussian.channels, *shape, generator=generator)
    x = torch.randn(6, *shape, generator=generator)
    scale = gaussian.log_sigma(parameters).exp().expand_as(x)
    expected = torch.distributions.Normal(parameters[:, 0], scale).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(gaussian.log_prob(parameters, x), expected)
    assert gaussian.channels == (2 if sigma == "pixel" else 1)


@pytest.mark.parametrize("make", [lambda: Bernoulli(2), lambda: DiscretisedLogistic(17), lambda: Gaussian((3,), "pixel")])
def test_samples_have_the_stated_mean_and_lie_where_the_density_is(make):
    model, n = make(), 20_000
    parameters = torch.tensor([[-0.3, 0.1, 0.6], [0.2, -0.8, 0.0]])[: model.channels].expand(n, -1, 3)
    x = model.sample(parameters, SampleRng(0))
    # five standard errors; the logistic's closed mean is within half a level at worst, and far less at these scales
    assert ((x.mean(0) - model.mean(parameters)[0]).abs() < 5 * x.std(0) / math.sqrt(n) + 2e-3).all()
    if isinstance(model, DiscretisedLogistic):
        codes = (x + 1) / model.width
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        frequency = torch.stack([(codes[:, 0].round() == c).float().mean() for c in range(17)])
        mass = model.log_mass(parameters[:17, :, :1], grid(17)[:, None])[:, 0].exp()
        assert ((frequency - mass).abs() < 5 * (mass / n).sqrt() + 1e-4).all()


def test_samples_do_not_depend_on_n():
    parameters = torch.zeros(8, 2, 3)
    for model in (Bernoulli(), DiscretisedLogistic(17), Gaussian((3,))):
        whole = model.sample(parameters[:, : model.channels], SampleRng(3))
        part = model.sample(parameters[:3, : model.channels], SampleRng(3, first=5))
        assert torch.equal(whole[5:], part)


def test_soft_clamp_is_the_identity_in_the_middle_and_bounded():
    x = torch.tensor([-100.0, 0.0, 0.01, 100.0])
    torch.testing.assert_close(soft_clamp(x, -7, 7), torch.tensor([-7.0, 0.0, 0.01, 7.0]), rtol=1e-4, atol=1e-6)


def test_mistakes_are_sentences():
    table, image = DataSpec("table", (3,)), DataSpec("image", (1, 8, 8), levels=17)
    with pytest.raises(UserError, match="images"):
        likelihood("bernoulli", table)
    with pytest.raises(UserError, match="did you mean gaussian"):
        likelihood("gausian", image)
    with pytest.raises(UserError, match="positive"):
        likelihood("gaussian", image, -1.0)


def test_a_line_of_places_has_a_sigma_for_each_channel():
    """Fields (C, L): by channel, as images; series (L, C): by column."""
    columns = tuple(Column(str(i), "number") for i in range(3))
    for sigma in ("learned", "column"):
        field = likelihood("gaussian", DataSpec("field", (3, 50), columns=columns), sigma)
        assert field.raw.shape == (3, 1)
        assert field.log_prob(torch.zeros(2, 1, 3, 50), torch.zeros(2, 3, 50)).shape == (2,)
        assert likelihood("gaussian", DataSpec("series", (50, 3), columns=columns), sigma).raw.shape == (3,)
    assert likelihood("gaussian", DataSpec("field", (3, 5, 4), columns=columns), "column").raw.shape == (3, 1, 1)


def test_the_mass_of_a_logistic():
    """Differences of its CDF in float64 where they do not cancel; beside them, in float32, its density times the width."""
    distance = torch.linspace(-12, 12, 25, dtype=torch.float64)
    for width in (0.1, 1.0, 5.0):
        truth = (torch.sigmoid(distance + width / 2) - torch.sigmoid(distance - width / 2)).log()
        torch.testing.assert_close(logistic_mass(distance, torch.tensor(width).double()), truth, rtol=1e-8, atol=0)
    far, thin = torch.tensor([-80.0, 3.0, 80.0], requires_grad=True), torch.full((3,), 1e-6)
    value = logistic_mass(far, thin)
    density = -far.abs() - 2 * torch.nn.functional.softplus(-far.abs()) + math.log(1e-6)
    torch.testing.assert_close(value, density, rtol=1e-6, atol=1e-5)
    (slope,) = torch.autograd.grad(value.sum(), far)
    torch.testing.assert_close(slope, -torch.tanh(far.detach() / 2))


def test_picks_are_by_the_softmax_at_a_temperature():
    uniform = (torch.arange(1000) + 0.5) / 1000
    logits = torch.tensor([[0.5, -torch.inf, 0.3, 0.2]]).log().expand(1000, -1) + 7
    logits = torch.where(torch.arange(4) == 1, -torch.inf, logits)
    assert pick(logits, uniform).bincount(minlength=4).tolist() == [500, 0, 300, 200]
    squares = pick(logits, uniform, 0.5).bincount(minlength=4)
    torch.testing.assert_close(squares / 1000, torch.tensor([0.25, 0.0, 0.09, 0.04]) / 0.38, rtol=0, atol=1e-3)
    assert set(pick(logits, uniform, 1e-300).tolist()) == {0}
    assert pick(torch.tensor([[0.0, -torch.inf, 0.0]]), torch.tensor([0.5])).item() == 2
