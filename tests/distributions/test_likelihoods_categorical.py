"""Categorical likelihoods and mixed columns: totals of 1, torch.distributions, and the units of a run."""

import math

import pytest
import torch

from pushforward.data.spec import Column, DataSpec
from pushforward.data.units import units
from pushforward.distributions.choice import likelihood
from pushforward.distributions.columns import Columns
from pushforward.distributions.likelihoods import Bernoulli, Categorical
from pushforward.errors import UserError
from pushforward.randomness import SampleRng

MIXED = DataSpec(
    "table",
    (9,),
    columns=(
        Column("height", "number", mean=3.0, scale=2.0),
        Column("colour", "category", ("red", "green", "blue")),
        Column("count", "number", integer=True, mean=5.0, scale=4.0),
        Column("age", "number", missing=True, mean=40.0, scale=10.0),
        Column("sex", "category", ("f", "m")),
    ),
)
NAN = float("nan")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_categorical_is_torchs_and_the_runs_log_det_gives_the_log_mass():
    spec = DataSpec("image", (2, 3, 4), levels=5)
    model, parameters = Categorical(5), numbers(6, 5, 2, 3, 4)
    codes = torch.randint(0, 5, (6, 2, 3, 4), generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Categorical(logits=parameters.movedim(1, -1)).log_prob(codes).flatten(1).sum(1)
    x = units(spec).to_model(codes)
    torch.testing.assert_close(model.log_prob(parameters, x) + units(spec).log_det, expected)
    mean = (parameters.softmax(1) * torch.arange(5).view(1, 5, 1, 1, 1)).sum(1) / 2 - 1
    torch.testing.assert_close(model.mean(parameters), mean)


def test_categorical_samples_have_their_frequencies():
    logits = torch.tensor([0.1, 0.6, 0.3]).log().view(1, 3, 1, 1, 1).expand(20_000, 3, 1, 1, 1)
    drawn = Categorical(3).sample(logits, SampleRng(0)).flatten()
    found = torch.stack([(drawn == level).float().mean() for level in (-1.0, 0.0, 1.0)])
    torch.testing.assert_close(found, torch.tensor([0.1, 0.6, 0.3]), atol=0.018, rtol=0)  # five standard errors


def test_rows_of_mixed_columns_by_hand():
    """Each column by torch.distributions or the logistic's CDF, in the data's own units."""
    model = Columns(MIXED)
    with torch.no_grad():
        model.raw.copy_(torch.tensor([0.2, -0.5, 0.1]))
    sigma = (7 * torch.tanh(model.raw / 7)).exp()
    rows = torch.tensor([[4.0, 2, 7, 35.0, 0], [1.0, 0, 0, NAN, 1]], dtype=torch.float64)
    x = units(MIXED).to_model(rows)
    parameters = numbers(2, 1, 9)
    value = model.log_prob(parameters, x) + units(MIXED).log_dets(rows)
    p = parameters[:, 0]
    expected = torch.distributions.Normal(3 + 2 * p[:, 0], 2 * sigma[0]).log_prob(rows[:, 0].float())
    expected = expected + torch.distributions.Categorical(logits=p[:, 1:4]).log_prob(rows[:, 1].long())
    cdf = lambda t: torch.sigmoid((t - 5 - 4 * p[:, 4]) / (4 * sigma[1]))  # noqa: E731
    expected = expected + torch.log(cdf(rows[:, 2] + 0.5) - cdf(rows[:, 2] - 0.5)).float()
    age = torch.distributions.Normal(40 + 10 * p[0, 5], 10 * sigma[2]).log_prob(torch.tensor(35.0))
    expected = expected + torch.stack([age + torch.log(torch.sigmoid(-p[0, 6])), torch.log(torch.sigmoid(p[1, 6]))])
    expected = expected + torch.distributions.Categorical(logits=p[:, 7:]).log_prob(rows[:, 4].long())
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_masses_of_integers_sum_to_one():
    spec = DataSpec("table", (1,), columns=(Column("n", "number", integer=True, mean=2.0, scale=3.0),))
    model, codes = Columns(spec), torch.arange(-300, 300).double()[:, None]
    x = units(spec).to_model(codes)
    value = model.log_prob(torch.full((600, 1, 1), 0.3), x) + units(spec).log_det
    assert value.detach().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_samples_are_rows_of_the_table_and_rows_are_apart():
    model, parameters = Columns(MIXED), numbers(8, 1, 9)
    drawn = model.sample(parameters, SampleRng(3))
    torch.testing.assert_close(drawn[2:5], model.sample(parameters[2:5], SampleRng(3, first=2)))
    assert (drawn[:, 1:4].sum(1) == 1).all() and (drawn[:, 7:].sum(1) == 1).all()
    rows = units(MIXED).to_codes(drawn)
    present = ~rows[:, 3].isnan()
    assert torch.equal(rows[:, 2], rows[:, 2].round()) and torch.equal(present, drawn[:, 6] < 0)
    mean = model.mean(parameters)
    torch.testing.assert_close(mean[:, 1:4], parameters[:, 0, 1:4].softmax(1))


def test_series_of_columns():
    spec = DataSpec("series", (4, 3), columns=(Column("a", "category", ("x", "y")), Column("b", "number")))
    model = likelihood("auto", spec)
    assert isinstance(model, Columns)
    x = model.sample(numbers(5, 1, 4, 3), SampleRng(0))
    assert x.shape == (5, 4, 3) and model.log_prob(numbers(5, 1, 4, 3), x).shape == (5,)


def test_gradients_are_finite_at_extremes():
    model = Columns(MIXED)
    rows = torch.tensor([[4.0, 2, 7, 35.0, 0], [1.0, 0, 0, NAN, 1]]).double().repeat(2, 1)
    parameters = torch.cat([torch.full((2, 1, 9), 40.0), torch.full((2, 1, 9), -40.0)]).requires_grad_()
    value = model.log_prob(parameters, units(MIXED).to_model(rows))
    value.sum().backward()
    assert value.isfinite().all() and parameters.grad.isfinite().all() and model.raw.grad.isfinite().all()


def test_which_likelihood_for_what():
    assert isinstance(likelihood("auto", MIXED), Columns)
    assert type(likelihood("auto", DataSpec("point", (2,)))).__name__ == "Gaussian"
    with pytest.raises(UserError, match="65536"):
        likelihood("categorical", DataSpec("image", (1, 4, 4), levels=65536))
    with pytest.raises(UserError, match="holds field"):
        likelihood("categorical", DataSpec("field", (1, 4, 4)))
    with pytest.raises(UserError, match="from -3 to 1"):
        Bernoulli(256).check(torch.tensor([-3.0, 1.0]))
    Bernoulli(256).check(torch.tensor([-1.0, 1.0]))
    assert math.isfinite(Bernoulli(2).width)
