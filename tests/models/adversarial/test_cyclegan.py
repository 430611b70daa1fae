"""CycleGAN: what both sides want, batches that lack a domain, the pool of fakes, directions, and that cycles close."""

import random

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from pushforward.data.batches import ArraySplit, Batch, Data
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.cyclegan import CycleGAN, ImagePool
from pushforward.models.adversarial.objectives import OBJECTIVES
from pushforward.models.checking import check_model
from pushforward.models.contract import Moment, capabilities
from pushforward.randomness import Rng, SampleRng, UpdateRng, seeded

SPEC = DataSpec("image", (1, 8, 8), Condition("class", 2, names=("day", "night")), levels=256)
MIXED = torch.tensor([0, 1, 1, 0, 1])


def build(spec: DataSpec = SPEC, **settings) -> CycleGAN:
    with seeded(1):
        return CycleGAN(spec, **{"width": 4, "blocks": 1, "pool": 6, **settings})


def data(model: CycleGAN, domains: torch.Tensor = MIXED, seed: int = 2) -> Batch:
    return Batch(SampleRng(seed).rand(len(domains), *model.spec.shape) * 2 - 1, domains)


def update_rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def play(model: CycleGAN, batch_at, steps: int, learning_rate: float) -> list:
    """The loop in small: the critics' turn, the pool, the generators' turn. The generators' losses."""
    players = model.players()
    owned = [player.parameters() for player in players]
    optimizers = [torch.optim.Adam(p, lr=learning_rate, betas=(0.5, 0.999), foreach=True) for p in owned]
    losses = []
    for step in range(steps):
        for turn, (player, optimizer) in enumerate(zip(players, optimizers, strict=True)):
            for other, parameters in enumerate(owned):
                for parameter in parameters:
                    parameter.requires_grad_(other == turn)
            optimizer.zero_grad()
            loss = player.loss(batch_at(step), update_rng(2 * step + turn))
            loss.total.backward()
            optimizer.step()
            if player.after_update is not None:
                with torch.no_grad():
                    player.after_update(loss.keep, Moment(step, step / steps, update_rng(3 * step)))
        losses.append(loss)
    return losses


CASES = {
    "residual": {},
    "u-net": {"network": "unet", "spec": DataSpec("image", (3, 17, 9), Condition("class", 2), levels=256)},
    "no pool, no identity": {"pool": 0, "identity": 0},
    "centred": {"objective": "least-squares-centred"},
    "logits": {"objective": "non-saturating"},
}


@pytest.mark.parametrize("case", CASES)
def test_it_keeps_the_contract(case):
    model = build(**CASES[case])
    assert capabilities(model) == ["translates"]
    codes = torch.randint(0, 256, (12, *model.spec.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert check_model(model, Data(model.spec, ArraySplit(codes, torch.arange(12) % 2))).ok


@pytest.mark.parametrize("domains", [MIXED, torch.zeros(3).long(), torch.ones(3).long(), torch.ones(1).long()])
@pytest.mark.parametrize("case", CASES)
def test_every_parameter_has_a_gradient_whatever_domains_the_batch_has(case, domains):
    model = build(**CASES[case])
    names = {}
    for player in model.players():
        model.zero_grad(set_to_none=True)
        own = {id(parameter) for parameter in player.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in own)
        loss = player.loss(data(model, domains), update_rng())
        assert loss.total.isfinite() and all(term.isfinite() for term in loss.terms.values())
        names[player.name] = set(loss.terms)
        loss.total.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
            assert parameter.grad is None or parameter.grad.abs().max() > 0, name
        for parameter in model.parameters():
            parameter.requires_grad_(True)
    assert names["critics"] == {"real logit", "fake logit", "accuracy"}
    assert names["generators"] == {"adversarial", "cycle"} | ({"identity"} if model.identity else set())


class Affine(nn.Module):
    """factor x + shift: translations and logits that are known."""

    def __init__(self, factor: float, shift: float):
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.tensor(factor)), nn.Parameter(torch.tensor(shift))

    def forward(self, x):
        return self.factor * x + self.shift


def by_hand(**settings) -> CycleGAN:
    """G(x) = x + 0.5, F(y) = y - 0.2, D_X(x) = x, D_Y(y) = 3 y."""
    ways, critics = [Affine(1.0, 0.5), Affine(1.0, -0.2)], [Affine(1.0, 0.0), Affine(3.0, 0.0)]
    return build(generator_networks=ways, critic_networks=critics, **settings)


def test_the_generators_loss_is_the_papers():
    model = by_hand()
    batch = data(model)
    x, y = batch.x[MIXED == 0], batch.x[MIXED == 1]
    loss = model.generator_loss(batch, update_rng())
    game = (3 * (x + 0.5) - 1).square().mean() + (y - 0.2 - 1).square().mean()
    # F(G(x)) - x = G(F(y)) - y = 0.3; G(y) - y = 0.5; F(x) - x = -0.2
    torch.testing.assert_close(loss.total, game + 10 * (0.3 + 0.3) + 5 * (0.5 + 0.2))
    torch.testing.assert_close(loss.terms["cycle"], torch.tensor(0.3))
    torch.testing.assert_close(loss.terms["identity"], torch.tensor(0.35))
    torch.testing.assert_close(loss.terms["adversarial"], game / 4)  # the mean over two domains of halved squares


def test_a_domain_that_is_not_there_adds_nothing():
    model = by_hand(cycle=7, identity=3, adversarial=2)
    batch = data(model, torch.ones(4).long())
    loss = model.generator_loss(batch, update_rng())
    torch.testing.assert_close(loss.total, (batch.x - 1.2).square().mean() + 7 * 0.3 + 3 * 0.5)
    torch.testing.assert_close(loss.terms["cycle"], torch.tensor(0.3))


def test_the_critics_loss_is_the_papers():
    model = by_hand(pool=0)
    batch = data(model)
    x, y = batch.x[MIXED == 0], batch.x[MIXED == 1]
    loss = model.critic_loss(batch, update_rng())
    of_y = (3 * y - 1).square().mean() + (3 * (x + 0.5)).square().mean()
    of_x = (x - 1).square().mean() + (y - 0.2).square().mean()
    torch.testing.assert_close(loss.total, (of_x + of_y) / 2)
    torch.testing.assert_close(loss.terms["real logit"], torch.cat([x, 3 * y]).mean())
    torch.testing.assert_close(loss.terms["fake logit"], torch.cat([y - 0.2, 3 * (x + 0.5)]).mean())
    # More likely real than fake above 1/2.
    real, fake = torch.cat([x, 3 * y]) > 0.5, torch.cat([y - 0.2, 3 * (x + 0.5)]) < 0.5
    torch.testing.assert_close(loss.terms["accuracy"], (real.float().mean() + fake.float().mean()) / 2)
    only = model.critic_loss(Batch(x, torch.zeros(2).long()), update_rng()).total
    # The critic of Y has fakes alone, that of X real images alone: the other side counts as 0.
    torch.testing.assert_close(only, ((3 * (x + 0.5)).square().mean() + 1 + (x - 1).square().mean()) / 2)


def test_where_both_generators_are_the_identity_nothing_is_lost():
    model = build(generator_networks=[nn.Identity(), nn.Identity()])
    terms = model.generator_loss(data(model), update_rng()).terms
    assert terms["cycle"] == 0 and terms["identity"] == 0 and terms["adversarial"] > 0
    assert model.diagnose(data(model).x, condition=MIXED)["cycle_error"] == 0
    assert build().generator_loss(data(model), update_rng()).terms["cycle"] > 0.1


def test_the_critics_cannot_reach_the_generators_even_unfrozen():
    model = build()
    model.critic_loss(data(model), update_rng()).total.backward()
    assert all(parameter.grad is None for parameter in model.generators.parameters())


def test_the_papers_weights_and_optimiser():
    model = CycleGAN(SPEC, width=2)
    assert (model.cycle, model.identity, model.pool.size, model.objective) == (10, 5, 50, OBJECTIVES["least-squares"])
    for player in model.players():
        chosen = player.optimizer
        assert (chosen.kind, chosen.learning_rate, chosen.betas) == ("adam", 2e-4, (0.5, 0.999))
        assert (chosen.schedule, chosen.warmup, player.validates) == ("linear", 0, False)


# The pool


def numbered(start: int, n: int) -> torch.Tensor:
    """Images that are told apart by their number."""
    return torch.arange(start, start + n).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


class Replayed(Rng):
    """Shrivastava's coins and places from a list of draws, as `random` gives them."""

    device = torch.device("cpu")

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.drawn: list[list[float]] = []

    def rand(self, *shape, dtype=torch.float32):
        self.drawn.append([self.random.random() for _ in range(shape[0])])
        return torch.tensor(self.drawn[-1], dtype=dtype)

    def randn(self, *shape, dtype=torch.float32):
        raise AssertionError("a pool draws a uniform number for each row, and nothing else")

    shared = randn


def test_a_pool_does_what_shrivastavas_does_with_one_image_at_a_time():
    pool, rng = ImagePool(5, (1, 2, 2)), Replayed(0)
    theirs: dict[int, list[int]] = {0: [], 1: []}
    swapped = 0
    for number in range(300):
        domain = int(number * 7 % 3 == 0)
        before = pool.state_dict()["images"].clone()
        shown, place = pool.exchange(numbered(number, 1), torch.tensor([domain]), rng)
        assert torch.equal(pool.images, before)  # not before the update
        pool.store(numbered(number, 1), torch.tensor([domain]), place)
        (coin,), (where,) = rng.drawn[-2:]
        kept = theirs[domain]
        if len(kept) < 5:
            kept.append(number)
            expected = number
        elif coin < 0.5:
            at = int(where * 5)
            expected, kept[at], swapped = kept[at], number, swapped + 1
        else:
            expected = number
        assert shown.flatten()[0] == expected, number
        assert pool.images[domain, : len(kept), 0, 0, 0].tolist() == kept and pool.held[domain] == len(kept)
    assert 100 < swapped < 190  # both ways are taken


def test_half_are_shown_at_once_and_the_rest_as_late_as_the_pool_is_large():
    # Of 4 rows, each goes into a given one of 10 places with probability 1/20: a fake that is put away comes back after
    # 1 / (1 - 0.95^4) = 5.391 batches on average, 21.56 numbers later. Of two rows for one place the later stays, so that a row
    # is kept in proportion to 0.95^(rows after it), on average row 1.564 of 0 to 3, against 1.5 of those that call it back.
    size, rows, rounds = 10, 4, 1500
    pool, rng, ages = ImagePool(size, (1, 2, 2)), update_rng(), []
    domain = torch.zeros(rows, dtype=torch.long)
    for step in range(rounds):
        fakes = numbered(step * rows, rows)
        shown, place = pool.exchange(fakes, domain, rng)
        pool.store(fakes, domain, place)
        ages.append((fakes - shown)[:, 0, 0, 0])
    found = torch.cat(ages[50:])
    late = found != 0
    # Standard errors: 0.0066 of a share of 5800 coins; geometric ages deviate by 20, so 0.37 of the mean of 2900.
    assert late.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert found[late].mean().item() == pytest.approx(21.5, abs=1.1)
    assert (found[late] > 0).all()


def test_rows_fill_free_places_in_their_order_and_never_two_the_same():
    pool = ImagePool(3, (1, 2, 2))
    domain = torch.tensor([0, 1, 0, 1])
    pool.store(numbered(1, 4), domain, torch.full((4,), -1))
    assert pool.images[..., 0, 0, 0].tolist() == [[1, 3, 0], [2, 4, 0]] and pool.held.tolist() == [2, 2]
    pool.store(numbered(5, 4), domain, torch.full((4,), -1))  # one place is left in each
    assert pool.images[..., 0, 0, 0].tolist() == [[1, 3, 5], [2, 4, 6]] and pool.held.tolist() == [3, 3]
    pool.store(numbered(9, 4), domain, torch.tensor([2, -1, 2, 0]))  # the later of two rows stays
    assert pool.images[..., 0, 0, 0].tolist() == [[1, 3, 11], [12, 4, 6]]


def test_the_pool_holds_fakes_of_each_critics_domain_and_shows_them():
    model = by_hand(pool=3)
    batch = data(model)
    critics = model.players()[0]
    for step in range(4):
        loss = critics.loss(batch, update_rng(step))
        with torch.no_grad():
            critics.after_update(loss.keep, Moment(step, 0.0, update_rng(step)))
    x, y = batch.x[MIXED == 0], batch.x[MIXED == 1]
    # Class 1's fakes are G(x) = x + 0.5 and class 0's are F(y) = y - 0.2.
    assert all(min((held - made).abs().max() for made in x + 0.5) < 1e-6 for held in model.pool.images[1])
    assert all(min((held - made).abs().max() for made in y - 0.2) < 1e-6 for held in model.pool.images[0])
    with torch.no_grad():
        model.pool.images[0], model.pool.images[1] = -100.0, 100.0  # old fakes that stand out: D_X(-100) and D_Y(100)
    for k, factor in ((0, 3.0), (1, -1.0)):  # images of class k alone, so fakes of the other
        rows = batch.condition == k
        alone = Batch(batch.x[rows], batch.condition[rows])
        shown = [model.critic_loss(alone, update_rng(seed)).terms["fake logit"].item() / factor for seed in range(8)]
        assert max(shown) > 20 and min(shown) > -5
    assert model.players()[1].after_update is None and by_hand(pool=0).players()[0].after_update is None


def test_a_run_resumes_exactly_from_its_state():
    whole, first = build(pool=4), build(pool=4)

    def batch_at(step):
        return data(whole, MIXED, seed=step)

    def critics(model, begin, end):
        player = model.players()[0]
        totals = []
        for step in range(begin, end):
            loss = player.loss(batch_at(step), update_rng(step))
            totals.append(loss.total.item())
            with torch.no_grad():
                player.after_update(loss.keep, Moment(step, 0.0, update_rng(step)))
        return totals

    expected = critics(whole, 0, 12)
    critics(first, 0, 6)
    resumed = build(pool=4)
    resumed.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert critics(resumed, 6, 12) == expected[6:]
    assert torch.equal(resumed.pool.images, whole.pool.images) and torch.equal(resumed.pool.held, whole.pool.held)
    forgetful = build(pool=4)
    assert critics(forgetful, 6, 12) != expected[6:]


# Translating


def test_the_class_of_x_says_the_direction():
    model = by_hand()
    x = data(model).x
    shift = torch.tensor([0.5, -0.2, -0.2, 0.5, -0.2]).view(-1, 1, 1, 1)
    torch.testing.assert_close(model.translate(x, condition=MIXED), x + shift)
    torch.testing.assert_close(model.translate(x, condition=torch.tensor([1])), x - 0.2)  # one for all


def test_without_a_class_the_generator_that_changes_x_less_is_the_one_into_its_domain():
    class Bright(nn.Module):
        """Into a domain of images above 0 (or, with sign -1, below): leaves them as they are, and mirrors the others."""

        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, x):
            return self.sign * x.abs()

    model = build(generator_networks=[Bright(1), Bright(-1)])
    x = SampleRng(0).rand(5, 1, 8, 8) * torch.tensor([-1, 1, 1, -1, 1]).view(-1, 1, 1, 1)  # class 0 is dark
    torch.testing.assert_close(model.translate(x), -x)
    torch.testing.assert_close(model.translate(x), model.translate(x, condition=MIXED))
    told = model.diagnose(x, condition=MIXED)
    assert told == {"cycle_error": 0.0, "identity_error": 0.0, "domains_told": 1.0}
    assert model.diagnose(x, condition=1 - MIXED)["domains_told"] == 0 and model.diagnose(x) == {}


@pytest.mark.parametrize("condition", [None, MIXED])
@pytest.mark.parametrize("network", ["residual", "unet"])
def test_a_translation_does_not_depend_on_its_neighbours(network, condition):
    model = build(network=network)
    x = data(model).x
    made = model.translate(x, condition=condition)
    assert made.shape == x.shape and made.abs().max() <= 1
    for i in range(len(x)):
        alone = model.translate(x[i : i + 1], condition=None if condition is None else condition[i : i + 1])
        # Equal but for the order of float32 sums, which may depend on the batch size.
        torch.testing.assert_close(alone, made[i : i + 1], atol=1e-5, rtol=1e-5)


def test_mixed_precision():
    model = build()
    for player in model.players():
        full = player.loss(data(model), update_rng()).total
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = player.loss(data(model), update_rng())
            loss.total.backward()
            if player.after_update is not None:
                with torch.no_grad():
                    player.after_update(loss.keep, Moment(0, 0.0, update_rng()))
        torch.testing.assert_close(loss.total.float(), full, rtol=0.03, atol=0)  # bfloat16 has three digits, networks lose one
    assert model.pool.images.dtype == torch.float32 and model.pool.held.tolist() == [3, 2]


def test_digits_learn_to_become_their_negatives_without_pairs():
    # Domain 0: digits, white on black. Domain 1: others, black on white. The way is not given by any pair.
    images = torch.as_tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1
    first, second = images[:700], -images[700:1400]
    model = build(width=8)
    chosen = [torch.randint(700, (8,), generator=torch.Generator().manual_seed(step)) for step in range(80)]
    domains = torch.arange(2).repeat_interleave(8)
    losses = play(model, lambda i: Batch(torch.cat([first[chosen[i]], second[chosen[i]]]), domains), 80, 3e-3)
    cycle = torch.stack([loss.terms["cycle"] for loss in losses])
    assert cycle[-10:].mean() < 0.75 * cycle[:5].mean()
    x, labels = torch.cat([images[1400:], -images[1400:]]), torch.arange(2).repeat_interleave(len(images) - 1400)
    made = model.translate(x, condition=labels)
    # A dark image (its mean is -0.4) comes out bright and the other way round; all are told apart.
    assert made[labels == 0].mean() > 0.2 and made[labels == 1].mean() < -0.2
    assert model.diagnose(x, condition=labels)["domains_told"] > 0.95


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: build(DataSpec("image", (1, 8, 8))), "exactly two classes, and 'data' holds image in no classes"),
        (lambda: build(DataSpec("image", (1, 8, 8), Condition("class", 3))), "image in 3 classes"),
        (lambda: build(DataSpec("point", (2,), Condition("class", 2))), "holds point in 2 classes"),
        (lambda: build(DataSpec("image", (1, 300, 4), Condition("class", 2))), "resize to 256x8"),
        (lambda: build(cycle=0), "cycle is above 0"),
        (lambda: build(identity=-1), "the others at least 0"),
        (lambda: build(pool=-1), "0 for none"),
        (lambda: build(objective="relativistic"), "the two domains have none"),
        (lambda: build(objective="wasserstein"), "no minimum while the critics' slopes are free"),
        (lambda: build(generator_networks=[nn.Identity()]), "two of your own"),
        (lambda: build().translate(torch.zeros(1, 3, 8, 8)), r"images of shape \(3, 8, 8\)"),
        (lambda: build().translate(torch.zeros(1, 1, 8, 8), condition=torch.tensor([2])), "classes are numbered 0 to 1"),
        (lambda: build().generator_loss(Batch(torch.zeros(2, 1, 8, 8)), update_rng()), "these data come without"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
