"""MADE against what it promises: the chain rule, totals of 1, known entropies, and conditionals of known distributions."""

import itertools
import math

import pytest
import torch

import pushforward as pf
from pushforward.data.batches import ArraySplit, Batch, Data
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.data.units import units
from pushforward.errors import UserError
from pushforward.models.autoregressive.columns import MADE, ordered
from pushforward.models.contract import capabilities
from pushforward.randomness import SampleRng, UpdateRng, seeded

PLANE = DataSpec("point", (2,), columns=(Column("x", "number"), Column("y", "number")))
CLASSES = Condition("class", 3, frequencies=(0.5, 0.3, 0.2))
TABLE = DataSpec(
    "table",
    (7,),
    columns=(
        Column("colour", "category", ("red", "green", "blue")),
        Column("age", "number", missing=True, mean=40.0, scale=10.0),
        Column("sex", "category", ("f", "m")),
    ),
)
NAN = float("nan")


def bent(spec, strength: float = 0.3, **settings) -> MADE:
    """A model that says something: its last layer is not 0, and numbers are regressed on rows that are correlated."""
    with seeded(0):
        model = MADE(spec, **{"mixtures": 3, "width": 16, **settings})
        for parameter in model.parameters():
            parameter.data += strength * torch.randn_like(parameter)
        d = spec.dimensions
        rows = model.mixed.tidy((torch.randn(500, d) @ (torch.eye(d) + 0.5 * torch.randn(d, d))).view(-1, *spec.shape))
    model.players()[0].update([Batch(rows[:200]), Batch(rows[200:])], UpdateRng(torch.Generator()))
    return model.double().eval()


def trained(spec: DataSpec, x: torch.Tensor, steps: int = 350, condition: torch.Tensor | None = None, **settings) -> MADE:
    with seeded(0):
        model = MADE(spec, **{"mixtures": 2, "width": 32, **settings})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,), generator=order)
        batch = Batch(x[rows], None if condition is None else condition[rows])
        optimizer.zero_grad()
        model.loss(batch, UpdateRng(torch.Generator())).total.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def all_rows(discrete: torch.Tensor) -> torch.Tensor:
    """Rows of `TABLE` with these ages, in every colour and sex."""
    rows = [(c, *age.tolist(), s) for c, age, s in itertools.product(range(3), discrete, range(2))]
    told = torch.tensor(rows, dtype=torch.float64)
    one_hot = [torch.nn.functional.one_hot(told[:, j].long(), size).double() for j, size in ((0, 3), (3, 2))]
    return torch.cat([one_hot[0], told[:, 1:3], one_hot[1]], 1)


# What depends on what


@pytest.mark.parametrize("spec", [DataSpec("point", (4,)), DataSpec("series", (3, 2))], ids=["point", "series"])
@pytest.mark.parametrize("order", ["given", "reverse", "random"])
def test_a_column_depends_on_those_before_it_in_the_order_and_on_all_of_them(spec, order):
    model = bent(spec, order=order)
    columns = spec.shape[-1]
    rank = torch.tensor([model.order.index(j) for j in range(columns)])
    rank = (torch.arange(math.prod(spec.shape) // columns)[:, None] * columns + rank).flatten()  # steps in time
    x = torch.randn(spec.shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.column_log_probs(x[None])[0].flatten(), x)
    assert torch.equal(jacobian.flatten(1) != 0, rank[None] <= rank[:, None])
    expected = {"given": list(range(columns)), "reverse": list(range(columns))[::-1]}
    assert model.order == expected.get(order, model.order) and sorted(model.order) == list(range(columns))


def test_a_random_order_is_a_function_of_its_seed():
    spec = DataSpec("point", (20,))
    orders = [MADE(spec, width=20, order="random", seed=seed).order for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("order", ["given", "reverse"])
def test_a_row_is_the_product_of_its_columns_each_given_those_before(order):
    """Whatever stands in the columns after it; and a missing number is told as its flag and 0."""
    model = bent(TABLE, order=order)
    x = units(TABLE).to_model(torch.tensor([[2.0, 35.0, 0.0], [0.0, NAN, 1.0]], dtype=torch.float64)).double()
    cells, total = [slice(0, 3), slice(3, 5), slice(5, 7)], torch.zeros(2, dtype=torch.float64)
    for position, column in enumerate(model.order):
        blind = x.clone()
        for later in model.order[position + 1 :]:
            blind[:, cells[later]] = torch.randn(2, cells[later].stop - cells[later].start, dtype=torch.float64)
        total += model.column_log_probs(blind)[:, column]
    torch.testing.assert_close(model.log_prob(x).value, total)
    elsewhere = x.clone()
    elsewhere[1, 3] = 0.7  # the number of a missing cell
    torch.testing.assert_close(model.log_prob(elsewhere).value[1], total[1])
    assert model.log_prob(x).kind == "exact" and {"samples", "density", "completes"} == set(capabilities(model))


# Totals of 1


@pytest.mark.parametrize("condition", [None, CLASSES])
def test_the_density_integrates_to_one(condition):
    model = bent(DataSpec("point", (2,), condition=condition), 0.2, width=8, mixtures=2)
    axis = torch.linspace(-15, 15, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    for given in [None] if condition is None else [None, torch.full((len(grid),), 1)]:
        mass = model.log_prob(grid, condition=given).value.exp().sum() * (axis[1] - axis[0]) ** 2
        assert mass.item() == pytest.approx(1, abs=1e-3)


def test_mixed_rows_sum_to_one():
    model, axis = bent(TABLE), torch.linspace(-40, 40, 4001, dtype=torch.float64)
    there = model.log_prob(all_rows(torch.stack([axis, torch.full_like(axis, -0.5)], 1))).value.exp().sum() * 0.02
    missing = model.log_prob(all_rows(torch.tensor([[0.0, 0.5]]))).value.exp().sum()
    assert missing.item() > 0.1 and (there + missing).item() == pytest.approx(1, abs=1e-3)


def test_masses_of_integers_that_are_regressed_sum_to_one():
    """Beside a number they depend on; and draws are whole."""
    columns = (Column("a", "number"), Column("n", "number", integer=True, mean=2.3, scale=1.5))
    model = bent(DataSpec("table", (2,), columns=columns))
    assert model.regression.coefficients[1, 0].abs() > 0.1
    axis = torch.linspace(-40, 40, 801, dtype=torch.float64)
    codes = torch.cartesian_prod(axis, torch.arange(-60.0, 60.0, dtype=torch.float64))
    x = torch.stack([codes[:, 0], (codes[:, 1] - 2.3) / 1.5], 1)
    assert (model.log_prob(x).value.exp().sum() * 0.1 / 1.5).item() == pytest.approx(1, abs=1e-3)
    whole = 1.5 * model.sample(500, generator=0)[:, 1] + 2.3
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-5)


# What it learns


@pytest.mark.parametrize("order", ["given", "random"])
def test_it_begins_at_the_gaussian_of_the_data(order):
    """With one component it is that exactly, before any update: of columns that are nearly functions of each other too."""
    with seeded(2):
        x = (torch.randn(4000, 5) @ torch.randn(5, 5) + torch.randn(5)).double()
        x[:, 3] = x[:, 0] - x[:, 1] + 0.01 * x[:, 3]
    model = MADE(DataSpec("point", (5,)), mixtures=1, width=8, order=order)
    model.players()[0].update([Batch(x[:1000].float()), Batch(x[1000:].float())], UpdateRng(torch.Generator()))
    mean, covariance = x.mean(0), x.T.cov(correction=0) + 1e-6 * torch.eye(5)
    truth = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    torch.testing.assert_close(model.double().log_prob(x).value, truth, rtol=0, atol=1e-3)  # in single precision, as fitted
    made = model.sample(20_000, generator=0)
    apart, expected = (rows[:, 3] - rows[:, 0] + rows[:, 1] for rows in (made, x))
    assert apart.std().item() == pytest.approx(expected.std().item(), rel=0.05)
    torch.testing.assert_close(made.T.cov().double(), covariance, rtol=0.1, atol=0.2)
    model, single = model.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):  # where the network says nothing yet, half precision changes little
        torch.testing.assert_close(model.log_prob(single).value.mean(), truth.mean().float(), rtol=0, atol=0.05)
    few = MADE(DataSpec("point", (5,)), width=8)
    few.players()[0].update([Batch(x[:49].float())], UpdateRng(torch.Generator()))
    assert (few.regression.coefficients == 0).all() and (few.regression.scale == 1).all(), "ten rows for each number"


@pytest.fixture(scope="module")
def gaussian() -> tuple[MADE, torch.distributions.MultivariateNormal]:
    covariance = torch.tensor([[1.0, 0.7, -0.3], [0.7, 1.0, 0.2], [-0.3, 0.2, 1.0]])
    truth = torch.distributions.MultivariateNormal(torch.zeros(3), covariance)
    with seeded(3):
        x = truth.sample((20_000,))
    return trained(DataSpec("point", (3,)), x), truth


def test_it_learns_a_gaussian_to_its_entropy(gaussian):
    """In nats: within 0.02 of the log-density that the truth has on new data."""
    model, truth = gaussian
    with seeded(4):
        x = truth.sample((20_000,))
    with torch.no_grad():
        gap = (truth.log_prob(x) - model.log_prob(x).value).mean().item()
    assert -0.005 < gap < 0.02  # KL(truth || model), whose standard error is sqrt(2 gap / 20,000)


def test_samples_of_a_gaussian_have_its_moments(gaussian):
    model, truth = gaussian
    x = model.sample(20_000, generator=0)
    torch.testing.assert_close(x.mean(0), torch.zeros(3), rtol=0, atol=0.06)
    torch.testing.assert_close(x.T.cov(), truth.covariance_matrix, rtol=0, atol=0.08)
    torch.testing.assert_close(model.sample(5, generator=SampleRng(0, first=100)), x[100:105])


@pytest.mark.parametrize("known", [(True, False, True), (False, False, True), (True, False, False)])
def test_missing_numbers_are_those_of_the_conditional_gaussian(gaussian, known):
    """Mean and covariance of p(unknown | known), in closed form; all columns after the unknown ones are heard."""
    model, truth = gaussian
    there = torch.tensor(known)
    x, sigma = torch.tensor([0.8, NAN, -1.0]), truth.covariance_matrix
    gain = sigma[~there][:, there] @ torch.linalg.inv(sigma[there][:, there])
    mean, covariance = gain @ x[there], sigma[~there][:, ~there] - gain @ sigma[there][:, ~there]
    made = model.complete(x.expand(4000, 3), there.expand(4000, 3), generator=0)
    assert torch.equal(made[:, there], x[there].expand(4000, -1))
    unknown = made[:, ~there]
    # Five standard errors of 4,000 draws are 0.08; what the model has not learned, and 64 candidates, add less than that.
    torch.testing.assert_close(unknown.mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(unknown.T.cov().reshape(covariance.shape), covariance, rtol=0, atol=0.12)


@pytest.fixture(scope="module")
def dependent() -> tuple[MADE, torch.Tensor]:
    """Rows of `TABLE` whose age depends on the colour, whose gaps do, and whose sex depends on whether there is one."""
    rng = torch.Generator().manual_seed(5)
    colour = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 20_000, True, generator=rng)
    age = (
        40
        + 10 * torch.tensor([-1.2, 0.5, 1.5])[colour]
        + torch.tensor([2.0, 5.0, 3.0])[colour] * torch.randn(20_000, generator=rng)
    )
    gap = torch.rand(20_000, generator=rng) < torch.tensor([0.05, 0.3, 0.6])[colour]
    sex = torch.rand(20_000, generator=rng) < torch.where(gap, 0.9, 0.2)
    codes = torch.stack([colour.float(), torch.where(gap, NAN, age), sex.float()], 1)
    return trained(TABLE, units(TABLE).to_model(codes)), codes


def test_it_learns_mixed_columns_to_their_entropy(dependent):
    """In the data's own units, against the truth's log-density of the same rows."""
    model, codes = dependent
    colour, gap = codes[:, 0].long(), codes[:, 1].isnan()
    age = torch.distributions.Normal(
        40 + 10 * torch.tensor([-1.2, 0.5, 1.5])[colour], torch.tensor([2.0, 5.0, 3.0])[colour]
    ).log_prob(codes[:, 1].nan_to_num())
    rate, sex = torch.tensor([0.05, 0.3, 0.6])[colour], torch.where(gap, 0.9, 0.2)
    truth = torch.tensor([0.5, 0.3, 0.2])[colour].log() + torch.where(gap, rate.log(), (1 - rate).log() + age)
    truth = truth + torch.where(codes[:, 2] > 0, sex, 1 - sex).log()
    with torch.no_grad():
        found = model.log_prob(units(TABLE).to_model(codes)).value + units(TABLE).log_dets(codes)
    assert -0.005 < (truth - found).mean().item() < 0.02


def test_samples_of_mixed_columns_depend_on_each_other_as_the_data_do(dependent):
    model, _ = dependent
    made = units(TABLE).to_codes(model.sample(20_000, generator=1))
    gap = made[:, 1].isnan()
    torch.testing.assert_close(made[:, 0].long().bincount() / 20_000, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.02)
    for colour, (rate, mean, deviation) in enumerate(((0.05, 28.0, 2.0), (0.3, 45.0, 5.0), (0.6, 55.0, 3.0))):
        rows = made[:, 0] == colour
        assert gap[rows].float().mean().item() == pytest.approx(rate, abs=0.04)
        assert made[rows & ~gap, 1].mean().item() == pytest.approx(mean, abs=0.5)
        assert made[rows & ~gap, 1].std().item() == pytest.approx(deviation, abs=0.5)
    assert made[gap, 2].mean().item() == pytest.approx(0.9, abs=0.03)
    assert made[~gap, 2].mean().item() == pytest.approx(0.2, abs=0.03)


def test_a_condition_is_heard():
    """Classes 0 and 1 at -1 and 1: each density is that of its class, without one both together."""
    condition = Condition("class", 2, frequencies=(0.25, 0.75))
    spec = DataSpec("point", (1,), condition=condition)
    with seeded(6):
        c = (torch.rand(4000) < 0.75).long()
        x = torch.randn(4000, 1) * 0.3 + (2.0 * c - 1)[:, None]
    model = trained(spec, x, 300, c)
    truth = [torch.distributions.Normal(m, 0.3).log_prob(x[:, 0]) for m in (-1.0, 1.0)]
    with torch.no_grad():
        assert (torch.where(c > 0, truth[1], truth[0]) - model.log_prob(x, condition=c).value).mean().item() < 0.03
        both = torch.logaddexp(truth[0] + math.log(0.25), truth[1] + math.log(0.75))
        assert (both - model.log_prob(x).value).abs().mean().item() < 0.1
    assert (model.sample(200, condition=torch.zeros(200).long(), generator=0) < 0.3).all()
    assert (model.sample(2000, generator=0) > 0).float().mean().item() == pytest.approx(0.75, abs=0.05)
    filled = model.complete(torch.zeros(200, 1), torch.zeros(200, 1).bool(), condition=torch.zeros(200).long(), generator=0)
    assert (filled < 0.3).all()
    filled = model.complete(torch.zeros(2000, 1), torch.zeros(2000, 1).bool(), generator=0, candidates=3)
    assert (filled > 0).float().mean().item() == pytest.approx(0.75, abs=0.05)


def test_without_a_class_what_is_known_speaks_for_one():
    """Both numbers are those of the class: where the first is 2 so is the other, if both classes are as frequent."""
    spec = DataSpec("point", (2,), condition=Condition("class", 2))
    with seeded(8):
        c = torch.randint(2, (4000,))
        x = torch.randn(4000, 2) * 0.3 + 2 * (2.0 * c - 1)[:, None]
    model = trained(spec, x, 200, c)
    known = torch.tensor([True, False]).expand(500, 2)
    made = model.complete(torch.full((500, 2), 2.0), known, generator=0)
    assert (made[:, 1] > 1).float().mean().item() > 0.99
    torch.testing.assert_close(made[7:9], model.complete(torch.full((2, 2), 2.0), known[:2], generator=SampleRng(0, first=7)))


# What it draws


@pytest.mark.parametrize("order", ["given", "reverse"])
def test_samples_are_as_frequent_as_their_density_says(order):
    """Of a model of no data: colours, gaps and sexes together, within five standard errors; temperature sharpens them."""
    model, n = bent(TABLE, order=order), 40_000
    axis = torch.linspace(-40, 40, 2001, dtype=torch.float64)
    there = model.log_prob(all_rows(torch.stack([axis, torch.full_like(axis, -0.5)], 1))).value.exp().view(3, -1, 2)
    missing = model.log_prob(all_rows(torch.tensor([[0.0, 0.5]]))).value.exp().view(3, 2)
    expected = torch.stack([there.sum(1) * 0.04, missing], 1)  # colour, gap, sex
    x = model.sample(n, generator=0)
    index = x[:, :3].argmax(1) * 4 + (x[:, 4] > 0) * 2 + x[:, 5:].argmax(1)
    torch.testing.assert_close(index.bincount(minlength=12) / n, expected.flatten().float(), rtol=0, atol=0.0125)
    moment = (there * axis[:, None]).sum((0, 1, 2)) * 0.04
    assert x[:, 3].mean().item() == pytest.approx(moment.item(), abs=5 * x[:, 3].std().item() / math.sqrt(n))
    cold = model.sample(200, generator=0, temperature=1e-3)
    assert (cold[:, :3].argmax(1) == cold[0, :3].argmax()).all() and cold[:, 3].std() < 0.1 < x[:, 3].std()


@pytest.mark.parametrize("spec", [TABLE, DataSpec("series", (3, 2))], ids=["table", "series"])
@pytest.mark.parametrize("order", ["given", "reverse"])
def test_what_draws_are_weighed_by_is_the_density(spec, order):
    """Where all is known a candidate's weight is p(x), column after column as in one pass."""
    model = bent(spec, order=order)
    x = model.sample(50, generator=0).double()
    kept, weights = model._fill(x, torch.ones_like(x).bool(), torch.rand(50, model.net.blocks, 3).double(), None)
    torch.testing.assert_close(kept, x)
    torch.testing.assert_close(weights, model.log_prob(x).value)


def test_categories_that_come_later_are_heard_by_importance():
    """p(colour, gap | sex) by enumeration; only the last column is known, so that all is in the weights."""
    model, n = bent(TABLE), 8000
    axis = torch.linspace(-40, 40, 2001, dtype=torch.float64)
    there = model.log_prob(all_rows(torch.stack([axis, torch.full_like(axis, -0.5)], 1))).value.exp().view(3, -1, 2)
    missing = model.log_prob(all_rows(torch.tensor([[0.0, 0.5]]))).value.exp().view(3, 2)
    joint = torch.stack([there.sum(1) * 0.04, missing], 1)[:, :, 1]
    x = torch.tensor([[NAN] * 5 + [0.0, 1.0]], dtype=torch.float64).expand(n, -1)
    made = model.complete(x, ~x.isnan(), generator=0, candidates=32)
    found = (made[:, :3].argmax(1) * 2 + (made[:, 4] > 0)).bincount(minlength=6) / n
    expected = (joint / joint.sum()).flatten().float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.028)  # five standard errors, at most
    prior = torch.stack([there.sum(1) * 0.04, missing], 1).sum(2).flatten().float()
    assert (expected - prior).abs().max() > 0.05, "what is known says something"
    blind = model.complete(x, ~x.isnan(), generator=0, candidates=1)
    blindly = (blind[:, :3].argmax(1) * 2 + (blind[:, 4] > 0)).bincount(minlength=6) / n
    torch.testing.assert_close(blindly, prior, rtol=0, atol=0.028)


def test_series_go_on_from_what_is_known():
    """The first steps known: the rest is drawn given them, exactly, whatever the number of candidates."""
    spec = DataSpec("series", (6, 1))
    with seeded(7):
        x = torch.cumsum(torch.randn(8000, 6, 1) * torch.tensor([1.0, 0.2, 0.2, 0.2, 0.2, 0.2])[None, :, None], 1)
    model = trained(spec, x, 300)
    known = torch.tensor([True] * 3 + [False] * 3)[None, :, None].expand(2000, 6, 1)
    made = model.complete(x[:2000], known, generator=0, candidates=1)
    assert torch.equal(made[:, :3], x[:2000, :3])
    moved = made[:, 3:] - x[:2000, 2:3]
    torch.testing.assert_close(moved.mean(0), torch.zeros(3, 1), rtol=0, atol=0.06)
    torch.testing.assert_close(moved.std(0)[:, 0], 0.2 * torch.tensor([1.0, 2.0, 3.0]).sqrt(), rtol=0.1, atol=0)


# The contract


@pytest.mark.parametrize("kind", ["table", "series", "classes", "attributes"])
def test_the_contract_is_kept(kind):
    rng = torch.Generator().manual_seed(0)
    codes = torch.stack(
        [
            torch.randint(3, (40,), generator=rng).float(),
            torch.randn(40, generator=rng),
            torch.randint(2, (40,), generator=rng),
        ],
        1,
    )
    codes[::4, 1] = NAN
    condition = None
    spec = TABLE
    if kind == "series":
        spec, codes = DataSpec("series", (4, 7), columns=TABLE.columns), codes.view(10, 4, 3)
    if kind == "classes":
        spec, condition = DataSpec("table", (7,), CLASSES, columns=TABLE.columns), torch.arange(40) % 3
    if kind == "attributes":
        spec = DataSpec("table", (7,), Condition("attributes", 2), columns=TABLE.columns)
        condition = torch.randint(2, (40, 2), generator=rng).float()
    assert pf.check_model(bent(spec, dropout=0.2).float(), Data(spec, ArraySplit(codes, condition))).ok


def test_the_loss_is_the_mean_of_minus_log_p_and_dropout_is_of_training_only():
    model, x = bent(PLANE, dropout=0.5), torch.randn(7, 2, dtype=torch.float64)
    loss = model.loss(Batch(x), UpdateRng(torch.Generator()))
    torch.testing.assert_close(loss.total, -model.log_prob(x).value.mean())
    model.train()
    again = model.log_prob(x).value
    torch.testing.assert_close(again, model.log_prob(x).value)
    assert not torch.equal(model.loss(Batch(x), UpdateRng(torch.Generator())).total, loss.total) and model.training


@pytest.mark.parametrize(
    ("spec", "settings", "sentence"),
    [
        (DataSpec("tokens", (4,)), {}, "holds tokens; take gpt"),
        (DataSpec("image", (1, 4, 4), levels=4), {}, "holds image; take a model of images"),
        (DataSpec("field", (2, 4)), {}, "holds field; take a flow"),
        (PLANE, {"mixtures": 0}, "mixtures = 0"),
        (PLANE, {"dropout": 1.0}, "dropout = 1.0"),
    ],
)
def test_bad_settings_are_a_sentence(spec, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        MADE(spec, **settings)
    with pytest.raises(UserError, match="'revers' was given; did you mean reverse"):
        ordered("revers", 2, 0)


def test_bad_input_is_a_sentence():
    model, x = MADE(PLANE, width=4), torch.zeros(2, 2)
    x[1, 0] = NAN
    with pytest.raises(UserError, match="NaN or infinite"):
        model.log_prob(x)
    with pytest.raises(UserError, match="NaN or infinite"):
        model.complete(x, torch.ones(2, 2).bool())
    with pytest.raises(UserError, match=r"shape \(3,\) were given"):
        model.log_prob(torch.zeros(2, 3))
    for bad in (0.0, NAN, math.inf):
        with pytest.raises(UserError, match="temperature = "):
            model.sample(2, temperature=bad)
    for known in (torch.ones(2, 1).bool(), torch.ones(2).bool(), torch.ones(2, 2)):
        with pytest.raises(UserError, match="known of shape"):
            model.complete(torch.zeros(2, 2), known)
    with pytest.raises(UserError, match="candidates = 0"):
        model.complete(torch.zeros(2, 2), torch.ones(2, 2).bool(), candidates=0)
    attributes = MADE(DataSpec("point", (2,), Condition("attributes", 3)), width=4)
    with pytest.raises(UserError, match="of the 2 rows, of shape"):
        attributes.sample(2, condition=torch.zeros(2, 4))
    vector = MADE(DataSpec("point", (2,), Condition("vector", 3)), width=4)
    with pytest.raises(UserError, match="needs its condition"):
        vector.log_prob(torch.zeros(2, 2))
    with pytest.raises(UserError, match="not finite"):
        vector.sample(2, condition=torch.full((2, 3), NAN))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (torch.tensor([0, 7]), "classes are numbered 0 to 2"),
        (torch.tensor([0.0, 1.0]), "torch.float32"),
        (torch.tensor([1]), "each of the 2 rows"),
        (None, "give one for each of the 2 rows"),
    ],
)
def test_a_bad_class_is_a_sentence(bad, sentence):
    model, x = MADE(DataSpec("point", (2,), CLASSES), width=4), torch.zeros(2, 2)
    with pytest.raises(UserError, match=sentence):
        model.column_log_probs(x, condition=bad)
    if bad is not None:
        for ask in (model.log_prob, lambda x, condition: model.complete(x, x.bool(), condition=condition)):
            with pytest.raises(UserError, match=sentence):
                ask(x, condition=bad)
        with pytest.raises(UserError, match=sentence):
            model.sample(2, condition=bad)
    with pytest.raises(UserError, match="without a condition"):
        MADE(PLANE, width=4).log_prob(x, condition=torch.tensor([0, 1]))


def test_candidates_without_a_condition_have_attributes_at_their_rates(monkeypatch):
    """Each candidate its own, each attribute by its own rate: of 4,000 * 8 draws five standard errors are at most 0.014."""
    rates = (0.9, 0.2, 0.0, 0.5)
    model = MADE(DataSpec("point", (2,), Condition("attributes", 4, frequencies=rates)), width=4)
    given, of = [], model.embed.of
    monkeypatch.setattr(model.embed, "of", lambda condition, rows: given.append(condition) or of(condition, rows))
    for rows in (4000, 7):
        model.complete(torch.zeros(rows, 2), torch.zeros(rows, 2).bool(), generator=SampleRng(3), candidates=8)
    drawn = given[0]
    assert drawn.shape == (32_000, 4) and set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), torch.tensor(rates), rtol=0, atol=0.014)
    own = drawn.unflatten(0, (4000, 8))
    assert own[..., 0].std(1).gt(0).float().mean() == pytest.approx(1 - 0.9**8 - 0.1**8, abs=0.04), "candidates differ"
    assert own[..., 3].std(0).min() > 0.4, "and rows"
    assert torch.equal(given[1], drawn[:56]), "those of a row are of its own stream"
    assert torch.corrcoef(drawn[:, [0, 1, 3]].T).sub(torch.eye(3)).abs().max() < 0.03, "independent of each other"
