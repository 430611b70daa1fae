"""Data as tokens: what is drawn has the tokens that it was drawn from, and volumes make masses densities of integral 1."""

import math

import pytest
import torch

from pushforward.data.spec import Column, DataSpec, Vocabulary
from pushforward.data.units import units
from pushforward.distributions.alphabets import Cells, Levels, Tokens, alphabet, bin_edges, tail
from pushforward.errors import UserError
from pushforward.randomness import SampleRng

COLUMNS = (
    Column("length", "number", mean=3.0, scale=2.0),
    Column("kind", "category", categories=("a", "b", "c")),
    Column("count", "number", integer=True, mean=2.5, scale=1.7),
    Column("age", "number", integer=True, missing=True, mean=40.3, scale=15.0),
    Column("pay", "number", missing=True, mean=0.0, scale=1.0),
)
TABLE = DataSpec("table", (9,), columns=COLUMNS, name="rows")


def rows(n=3_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    length, age, pay = torch.randn(3, n, generator=generator)
    gaps = [torch.rand(n, generator=generator) < 0.2 for _ in range(2)]
    nan = torch.tensor(torch.nan)
    codes = [
        3 + 2 * length,
        torch.randint(3, (n,), generator=generator).float(),
        torch.poisson(torch.full((n,), 2.5), generator=generator),
        torch.where(gaps[0], nan, (40.3 + 15 * age).round()),
        torch.where(gaps[1], nan, pay.exp()),
    ]
    return torch.stack(codes, 1).double()


def fitted(bins=16):
    codes, made = rows(), Cells(TABLE, bins)
    x = units(TABLE).to_model(codes)
    made.fit(x.split(1_000))
    return made, x, codes


def test_bins_are_equally_often_met_and_integers_that_are_few_have_their_own():
    made, x, codes = fitted()
    tokens = made.tokens(x)
    length = torch.bincount(tokens[:, 0], minlength=16) / len(x)
    assert (length - 1 / 16).abs().max() < 0.002
    values = codes[:, 2].unique()
    assert int(made.possible[2].sum()) == int(values.max() - values.min()) + 1 <= 16
    assert torch.equal(tokens[:, 2].double(), codes[:, 2] - values.min())
    assert torch.equal(tokens[:, 3] == 16, codes[:, 3].isnan())
    age = torch.bincount(tokens[~codes[:, 3].isnan(), 3], minlength=16)[:16] / (~codes[:, 3].isnan()).sum()
    assert (age - 1 / 16).abs().max() < 0.04  # a year is 2.7 % of the rows
    assert torch.equal(tokens[:, 1].double(), codes[:, 1])
    assert made.possible.gather(1, tokens.T).all()


def test_what_is_drawn_has_its_tokens_and_is_data():
    made, x, _ = fitted()
    tokens = made.tokens(x)
    drawn = made.draw(tokens, SampleRng(1))
    assert torch.equal(made.tokens(drawn), tokens)
    codes = units(TABLE).to_codes(drawn)
    assert torch.allclose(units(TABLE).to_model(codes), drawn, atol=1e-5)
    for token, inwards in ((0, 1.0), (15, -1.0)):  # the tails reach as far as the data's, of nearly 200 rows each
        edge = made.edges[0, 0 if token == 0 else -1]
        real, made_up = (inwards * (edge - values[tokens[:, 0] == token, 0]).mean() for values in (x, drawn))
        assert abs(made_up / real - 1) < 0.3
    # and lies as the data do: the mean of each number but for the noise of 3000 rows
    for j in (0, 2, 3, 4):
        real, made_up = rows()[:, j], codes[:, j].double()
        deviation = real[~real.isnan()].std() / math.sqrt(2_000)
        assert abs(made_up.nanmean() - real.nanmean()) < 4 * deviation


def test_densities_integrate_to_one_in_every_bin():
    made, _, _ = fitted(8)
    x = torch.zeros(200_001, 9)
    x[:, [6, 8]] = -0.5
    for which, mean, unit in ((0, 0, 0), (1, 2.5, 1 / 1.7), (2, 40.3, 1 / 15), (3, 0, 0)):
        near = torch.linspace(-40, 40, len(x), dtype=torch.float64)
        step = unit or float(near[1] - near[0])
        near = (torch.arange(-3_000, 3_000) - mean) * unit if unit else near
        grid = x[: len(near)].clone()
        grid[:, made.number[which]] = near.float()
        tokens = made.tokens(grid)
        mass = (-made.log_volumes(grid, tokens)[:, which]).double().exp() * step
        place = int(made.place[which])
        bins = int(made.possible[place, : made.bins].sum())
        total = torch.zeros(bins, dtype=torch.float64).index_add(0, tokens[:, place], mass)
        torch.testing.assert_close(total, torch.ones(bins, dtype=torch.float64), atol=3e-3, rtol=0)


def test_levels_are_tokens_and_their_volume_is_that_of_the_units():
    spec = DataSpec("image", (2, 3, 4), levels=17)
    made = alphabet(spec, 64)
    assert isinstance(made, Levels) and made.places == 24 and made.grid == (2, 3, 4)
    codes = torch.randint(17, (5, 2, 3, 4))
    x = units(spec).to_model(codes)
    assert torch.equal(made.tokens(x), codes.flatten(1))
    assert torch.equal(made.draw(made.tokens(x), SampleRng(0)), x)
    # probability 17^-24 of any image: in the data's units -24 log 17
    value = -24 * math.log(17) - made.log_volume(x, made.tokens(x)) + units(spec).log_det
    torch.testing.assert_close(value, torch.full((5,), -24 * math.log(17)))


def test_what_is_known_says_which_tokens_there_may_be():
    made, x, _ = fitted()
    known = torch.zeros_like(x, dtype=torch.bool)
    assert torch.equal(made.agreeing(x, known), made.possible.expand(len(x), -1, -1))
    full = made.agreeing(x, ~known)
    assert torch.equal(full.long().argmax(-1), made.tokens(x)) and (full.sum(-1) == 1).all()
    known[:, [1, 6]] = True  # that it is an "a" or not, and whether the age is there
    agree, tokens = made.agreeing(x, known), made.tokens(x)
    assert agree[tokens[:, 1] == 0, 1].sum(-1).eq(1).all()
    assert agree[tokens[:, 1] != 0, 1][:, :3].eq(torch.tensor([False, True, True])).all()
    gone = tokens[:, 3] == 16
    assert agree[gone, 3].sum(-1).eq(1).all() and not agree[~gone, 3, 16].any()


def test_ties_and_constants_have_bins():
    same = torch.full((100,), 2.0, dtype=torch.float64)
    assert bin_edges(same, 8, 0.0, 0.0).tolist() == [2.0]
    assert bin_edges(same, 8, 1.0, 0.0).tolist() == [2.5]
    assert bin_edges(torch.tensor([0.0, 1, 5]).double(), 8, 1.0, 0.0).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    heavy = torch.cat([torch.zeros(90), torch.arange(1, 1_001)]).double()
    edges = bin_edges(heavy, 8, 1.0, 0.0)
    assert len(edges) == 7 and torch.equal(edges - 0.5, (edges - 0.5).round())
    assert tail(torch.zeros(0), 0.0) > 0


@pytest.mark.parametrize(
    "spec, sentence",
    [
        (DataSpec("image", (1, 4, 4)), "levels is not set"),
        (DataSpec("image", (1, 4, 4), levels=65536), "at most 256"),
        (DataSpec("field", (2, 4, 4)), "take flow-matching"),
        (DataSpec("series", (5, 2)), "take flow-matching"),
        (DataSpec("tokens", (5,)), "without a vocabulary"),
    ],
)
def test_data_that_are_no_tokens_are_refused(spec, sentence):
    with pytest.raises(UserError, match=sentence):
        alphabet(spec, 64)


def test_data_of_another_kind_are_refused():
    tokens = Tokens(DataSpec("tokens", (3,), vocabulary=Vocabulary("codes", 5)))
    with pytest.raises(UserError, match="token 7 was given; this model's tokens are 0 to 4"):
        tokens.checked(torch.tensor([[0, 1, 7]]))
    with pytest.raises(UserError, match=r"numbers .* were given"):
        tokens.checked(torch.zeros(1, 3))
    with pytest.raises(UserError, match=r"data of shape \(4,\)"):
        tokens.checked(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(UserError, match="none of the 17 levels"):
        Levels(DataSpec("image", (1, 1, 2), levels=17)).checked(torch.tensor([[[[0.0, 0.03]]]]))
    with pytest.raises(UserError, match="NaN or infinite"):
        Cells(TABLE, 8).checked(torch.full((1, 9), torch.nan))
    with pytest.raises(UserError, match="at least 2"):
        Cells(TABLE, 1)
