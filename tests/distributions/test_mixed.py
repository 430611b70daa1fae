"""Conditional distributions of mixed columns: totals of 1, torch's own, draws that agree with what is known."""

import math

import pytest
import torch

from pushforward.data.spec import Column, DataSpec
from pushforward.data.units import units
from pushforward.distributions.mixed import UNIFORMS, MixedColumns
from pushforward.errors import UserError
from pushforward.randomness import SampleRng

COLUMNS = (
    Column("height", "number", mean=3.0, scale=2.0),
    Column("colour", "category", ("red", "green", "blue")),
    Column("count", "number", integer=True, mean=5.3, scale=4.0),
    Column("age", "number", missing=True, mean=40.0, scale=10.0),
    Column("weight", "number", mean=70.0, scale=15.0),
    Column("children", "number", integer=True, missing=True, mean=1.2, scale=0.8),
    Column("sex", "category", ("f", "m")),
)
TABLE = DataSpec("table", (12,), columns=COLUMNS)
NAN = float("nan")
ROWS = torch.tensor(
    [[4.0, 2, 7, 35.0, 60.0, 2, 0], [1.0, 0, 0, NAN, 81.0, NAN, 1], [-7.0, 1, 12, NAN, 75.0, 0, 1]], dtype=torch.float64
)
K = 3


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read(mixed: MixedColumns, parameters: torch.Tensor, column: int) -> torch.Tensor:
    return parameters[:, torch.tensor(mixed.column_of_output) == column]


class Columns(MixedColumns):
    """With numbers that are told nothing but their parameters."""

    def log_prob(self, parameters, x):
        return super().log_prob(parameters, x, torch.zeros_like(x), torch.ones_like(x[0]))

    def draw(self, column, parameters, uniforms, x, known, temperature=1.0):
        zeros = torch.zeros_like(x[:, 0])
        return super().draw(column, parameters, uniforms, x, known, zeros, zeros.new_ones(()), temperature)


def parts(told: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, means and scales, by hand."""
    weights, means, raw = told.chunk(3, 1)
    return weights.softmax(1), means, (7 * torch.tanh(raw / 7)).exp()


def test_each_column_by_hand():
    """Log-densities by torch.distributions, log-masses by differences of CDFs, both in the data's own units."""
    mixed = Columns(COLUMNS, K).double()
    parameters, x = numbers(3, len(mixed.column_of_output)), units(TABLE).to_model(ROWS).double()
    value = mixed.log_prob(parameters, x)
    assert value.shape == (3, 7)

    def density(column: int) -> torch.Tensor:
        weights, means, scales = parts(read(mixed, parameters, column)[:, -3 * K :])
        at, scale = COLUMNS[column].mean, COLUMNS[column].scale
        each = torch.distributions.Normal(at + scale * means, scale * scales).log_prob(ROWS[:, column, None].nan_to_num()).exp()
        return scale * (weights * each).sum(1)  # the run's log-determinant is -log scale

    def mass(column: int) -> torch.Tensor:
        weights, means, scales = parts(read(mixed, parameters, column)[:, -3 * K :])
        at, scale = COLUMNS[column].mean, COLUMNS[column].scale
        cdf = lambda t: torch.sigmoid((t[:, None] - at - scale * means) / (scale * scales))  # noqa: E731
        return scale * (weights * (cdf(ROWS[:, column] + 0.5) - cdf(ROWS[:, column] - 0.5))).sum(1)

    absent = torch.tensor([False, True, True])
    age, children = (read(mixed, parameters, column)[:, 0].sigmoid() for column in (3, 5))
    expected = torch.stack(
        [
            density(0),
            read(mixed, parameters, 1).softmax(1).gather(1, ROWS[:, 1:2].long())[:, 0],
            mass(2),
            torch.where(absent, age, (1 - age) * density(3)),
            density(4),
            torch.where(torch.tensor([False, True, False]), children, (1 - children) * mass(5)),
            read(mixed, parameters, 6).softmax(1).gather(1, ROWS[:, 6:].long())[:, 0],
        ],
        1,
    )
    torch.testing.assert_close(value, expected.log(), rtol=0, atol=1e-5)  # x are float32 numbers


def test_each_column_sums_to_one():
    mixed = Columns(COLUMNS, K).double()
    parameters = numbers(1, len(mixed.column_of_output))

    def total(column: int, cells: torch.Tensor, step: float) -> float:
        x = torch.zeros(len(cells), 12, dtype=torch.float64)
        x[:, torch.tensor(mixed.column_of_x) == column] = cells
        return step * mixed.log_prob(parameters.expand(len(cells), -1), x)[:, column].exp().sum().item()

    axis = torch.linspace(-200, 200, 40_001, dtype=torch.float64)[:, None]
    missing, there = torch.tensor([[0.0, 0.5]]).double(), torch.full_like(axis, -0.5)
    assert total(0, axis, 0.01) == pytest.approx(1, abs=1e-6)
    assert total(1, torch.eye(3).double(), 1) == pytest.approx(1)
    # Sums over units: masses are densities times their width.
    unit = torch.arange(-1000, 1000, dtype=torch.float64)[:, None]
    assert total(2, (unit - 5.3) / 4, 1 / 4) == pytest.approx(1, abs=1e-9)
    assert total(3, missing, 1) + total(3, torch.cat([axis, there], 1), 0.01) == pytest.approx(1, abs=1e-6)
    whole = torch.cat([(unit - 1.2) / 0.8, torch.full_like(unit, -0.5)], 1)
    assert total(5, missing, 1) + total(5, whole, 1 / 0.8) == pytest.approx(1, abs=1e-6)


def test_it_begins_at_standardised_columns():
    mixed = Columns(COLUMNS, 10)
    start = mixed.start().double()
    weights, means, scales = parts(start[torch.tensor(mixed.column_of_output) == 0][None])
    mean = (weights * means).sum(1)
    torch.testing.assert_close(mean, torch.zeros(1).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close((weights * (means**2 + scales**2)).sum(1), torch.ones(1).double(), rtol=0.02, atol=0)


@pytest.mark.parametrize("column", range(7))
def test_draws_have_the_density_of_their_column(column):
    """Categories, gaps and integers by frequency, within five standard errors; numbers by their mixture's CDF."""
    mixed = Columns(COLUMNS, K).double()
    rows, told = 40_000, read(mixed, numbers(1, len(mixed.column_of_output), seed=2), column)
    at = torch.tensor(mixed.column_of_x) == column
    size = int(at.sum())
    uniforms = SampleRng(0).rand(rows, UNIFORMS, dtype=torch.float64)
    nothing = torch.zeros(rows, size, dtype=torch.float64)
    cells, log_p = mixed.draw(column, told.expand(rows, -1), uniforms, nothing, nothing.bool())
    assert (log_p.abs() < 1e-9).all()
    kind = COLUMNS[column]
    if kind.kind == "category":
        found, expected = cells.mean(0), told[0].softmax(0)
        return torch.testing.assert_close(found, expected, rtol=0, atol=5 * 0.5 / math.sqrt(rows))
    if kind.missing:
        absent = cells[:, 1] > 0
        assert absent.double().mean().item() == pytest.approx(told[0, 0].sigmoid().item(), abs=5 * 0.5 / math.sqrt(rows))
        assert (cells[absent, 0] == 0).all() and (cells[:, 1].abs() == 0.5).all()
        cells = cells[~absent]
    weights, means, scales = parts(told[:, -3 * K :])
    x = cells[:, 0]
    if kind.integer:
        codes = x * kind.scale + kind.mean
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-5)
        edges = torch.arange(-60, 60, dtype=torch.float64)
        cdf = lambda t: (weights * torch.sigmoid(((t[:, None] - kind.mean) / kind.scale - means) / scales)).sum(1)  # noqa: E731
        mass = cdf(edges + 0.5) - cdf(edges - 0.5)
        found = (codes.round()[:, None] == edges).double().mean(0)
        return torch.testing.assert_close(found, mass, rtol=0, atol=5 * 0.5 / math.sqrt(len(x)))
    ranks = (weights * torch.special.ndtr((x[:, None] - means) / scales)).sum(1).sort().values
    uniform = (torch.arange(len(x)) + 0.5) / len(x)
    assert (ranks - uniform).abs().max() < 1.95 / math.sqrt(len(x)), "Kolmogorov and Smirnov, level 0.001"


def test_temperature_sharpens():
    mixed = Columns((Column("a", "number"), Column("b", "category", ("x", "y")), Column("c", "number", missing=True)), 1)
    rows = 40_000
    uniforms, nothing = SampleRng(0).rand(rows, UNIFORMS, dtype=torch.float64), torch.zeros(rows, 2)
    told = torch.tensor([[0.0, 1.0, 0.3]]).expand(rows, -1)
    cold, _ = mixed.draw(0, told, uniforms, nothing[:, :1], nothing[:, :1].bool(), temperature=0.25)
    plain, _ = mixed.draw(0, told, uniforms, nothing[:, :1], nothing[:, :1].bool())
    torch.testing.assert_close(cold - 1, 0.5 * (plain - 1))
    counts = Columns((Column("n", "number", integer=True, scale=1000.0),), 1)  # in steps of 0.001: those of logistics
    cold, _ = counts.draw(0, told, uniforms, nothing[:, :1], nothing[:, :1].bool(), temperature=0.25)
    plain, _ = counts.draw(0, told, uniforms, nothing[:, :1], nothing[:, :1].bool())
    torch.testing.assert_close(cold - 1, 0.25 * (plain - 1), rtol=0, atol=1e-3)
    told = torch.tensor([[0.3, 0.7]]).log().expand(rows, -1)
    category, _ = mixed.draw(1, told, uniforms, nothing, nothing.bool(), temperature=0.5)
    assert category[:, 1].mean().item() == pytest.approx(0.49 / (0.49 + 0.09), abs=0.0125)  # five standard errors
    gap, _ = mixed.draw(
        2, torch.tensor([[math.log(3.0), 0.0, 0.0, 0.0]]).expand(rows, -1), uniforms, nothing, nothing.bool(), 0.5
    )
    assert (gap[:, 1] > 0).float().mean().item() == pytest.approx(0.9, abs=0.0075)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_components_are_drawn_by_their_tempered_weights(temperature, integer, missing):
    """Three that lie apart, at -100, 0 and 100, chosen by evenly spread uniforms: their shares are p^(1 / T), to 1 / rows."""
    rows, weights = 1000, torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    mixed = Columns((Column("a", "number", integer=integer, missing=missing, scale=1000.0),), 3).double()
    told = torch.cat([torch.tensor([-50.0] * missing), weights.log(), torch.tensor([-100.0, 0, 100]), torch.zeros(3)])
    uniforms = torch.full((rows, UNIFORMS), 0.5, dtype=torch.float64)
    uniforms[:, 1] = (torch.arange(rows) + 0.5) / rows
    nothing = torch.zeros(rows, 1 + missing, dtype=torch.float64)
    drawn, _ = mixed.draw(0, told.expand(rows, -1), uniforms, nothing, nothing.bool(), temperature)
    shares = (drawn[:, :1] / 100).round().eq(torch.tensor([-1.0, 0, 1])).double().mean(0)
    powers = weights ** (1 / temperature)
    torch.testing.assert_close(shares, powers / powers.sum(), rtol=0, atol=1.5 / rows)


def test_draws_agree_with_what_is_known():
    """And say its log-probability: of a category of which two columns are known, of gaps by flag or by number alone."""
    mixed = Columns(COLUMNS, K).double()
    parameters = numbers(1, len(mixed.column_of_output))
    uniforms = SampleRng(0).rand(200, UNIFORMS, dtype=torch.float64)

    def draw(column: int, x: list[float], known: list[bool]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        told = read(mixed, parameters, column)
        values = torch.tensor(x, dtype=torch.float64).expand(200, -1)
        cell, log_p = mixed.draw(column, told.expand(200, -1), uniforms, values, torch.tensor(known).expand(200, -1))
        return cell, log_p, told[0]

    def cell_log_p(column: int, cell: list[float]) -> torch.Tensor:
        x = torch.zeros(1, 12, dtype=torch.float64)
        x[:, torch.tensor(mixed.column_of_x) == column] = torch.tensor(cell, dtype=torch.float64)
        return mixed.log_prob(parameters, x)[0, column].expand(200)

    for column, cell in ((0, [0.7]), (1, [0.0, 0.0, 1.0]), (2, [-0.075]), (3, [0.4, -0.5]), (3, [0.0, 0.5]), (5, [1.0, -0.5])):
        made, log_p, _ = draw(column, cell, [True] * len(cell))
        torch.testing.assert_close(made, torch.tensor(cell, dtype=torch.float64).expand(200, -1))
        torch.testing.assert_close(log_p, cell_log_p(column, cell))
    made, log_p, told = draw(1, [0.0, NAN, NAN], [True, False, False])  # not red
    assert made[:, 0].sum() == 0 and made[:, 1].sum() > 0 and made[:, 2].sum() > 0
    torch.testing.assert_close(log_p, told.softmax(0)[1:].sum().log().expand(200))
    made, log_p, told = draw(3, [NAN, -0.5], [False, True])  # it is there, no one knows which number
    assert (made[:, 1] == -0.5).all() and made[:, 0].std() > 0.1
    torch.testing.assert_close(log_p, (-told[0]).sigmoid().log().expand(200))
    made, log_p, told = draw(3, [NAN, 0.5], [False, True])  # it is missing
    assert (made == torch.tensor([0.0, 0.5])).all()
    torch.testing.assert_close(log_p, told[0].sigmoid().log().expand(200))
    made, log_p, _ = draw(3, [0.4, NAN], [True, False])  # a number that is known is there
    assert (made == torch.tensor([0.4, -0.5], dtype=torch.float64)).all()
    torch.testing.assert_close(log_p, cell_log_p(3, [0.4, -0.5]))
    with pytest.raises(UserError, match="fits none"):
        draw(6, [0.0, 0.0], [True, True])


def test_what_stands_for_the_same_row_is_made_the_same():
    mixed = Columns(COLUMNS, K)
    x = units(TABLE).to_model(ROWS)
    torch.testing.assert_close(mixed.tidy(x), x, rtol=0, atol=0)
    noisy = units(TABLE).to_model(ROWS, SampleRng(0))
    discrete = [1, 2, 3, 6, 9, 10, 11]
    torch.testing.assert_close(mixed.tidy(noisy)[:, discrete], x[:, discrete], rtol=0, atol=0)
    assert noisy[1, 5] != 0 and mixed.tidy(noisy)[1, 5] == 0, "a number that is missing"
    lead = numbers(4, 5, len(mixed.column_of_output)).float()
    rows = x[:1].expand(4, 5, 12)
    torch.testing.assert_close(mixed.log_prob(lead, rows)[2, 3], mixed.log_prob(lead[2, 3:4], rows[2, 3:4])[0])


def test_gradients_are_finite_at_extremes():
    mixed = Columns(COLUMNS, K)
    for extreme in (60.0, -60.0):
        parameters = torch.full((3, len(mixed.column_of_output)), extreme, requires_grad=True)
        value = mixed.log_prob(parameters, units(TABLE).to_model(ROWS))
        value.sum().backward()
        assert value.isfinite().all() and parameters.grad.isfinite().all()


def test_shift_and_scale_are_those_of_the_mixture():
    """p(shift + scale e) = p(e) / scale; of integers the mass of the shifted mixture; and draws are moved alike."""
    mixed = MixedColumns(COLUMNS, K).double()
    parameters, x = numbers(3, len(mixed.column_of_output)), units(TABLE).to_model(ROWS).double()
    shift, scale = numbers(3, 12, seed=1), numbers(12, seed=2).exp()
    value = mixed.log_prob(parameters, (x * scale + shift).where(torch.arange(12) % 7 == 0, x), shift, scale)
    plain = mixed.log_prob(parameters, x, torch.zeros_like(x), torch.ones(12).double())
    torch.testing.assert_close(value[:, 0], plain[:, 0] - scale[0].log())
    torch.testing.assert_close(value[:, 4], plain[:, 4] - scale[7].log())
    torch.testing.assert_close(value[:, [1, 6]], plain[:, [1, 6]])
    weights, means, scales = parts(read(mixed, parameters, 2))
    cdf = lambda t: (weights * torch.sigmoid((t[:, None] - shift[:, 4:5] - scale[4] * means) / (scale[4] * scales))).sum(1)  # noqa: E731
    mass = 4 * (cdf(x[:, 4] + 1 / 8) - cdf(x[:, 4] - 1 / 8))
    torch.testing.assert_close(value[:, 2], mass.log(), rtol=0, atol=1e-6)
    uniforms, nothing = SampleRng(0).rand(3, UNIFORMS, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.float64)
    told = read(mixed, parameters, 0)
    moved, _ = mixed.draw(0, told, uniforms, nothing, nothing.bool(), shift[:, 0], scale[0])
    plain, _ = mixed.draw(0, told, uniforms, nothing, nothing.bool(), nothing[:, 0], torch.ones(()).double())
    torch.testing.assert_close(moved[:, 0], shift[:, 0] + scale[0] * plain[:, 0])
