"""Models of pixels as distributions: they sum to one, sample what they say, complete by the conditional law, learn a table."""

import itertools
import math

import pytest
import torch

import pushforward as pf
from pushforward.data.batches import Batch, take
from pushforward.data.spec import Condition, DataSpec, Vocabulary
from pushforward.distributions.likelihoods import binary, fixed_binary
from pushforward.distributions.pixels import Bernoulli
from pushforward.errors import UserError
from pushforward.models.autoregressive.pixels import MIXTURES, NETWORKS, PixelModel, _law, _network
from pushforward.models.checking import check_model
from pushforward.models.contract import Completes, Density, Learns, Samples, capabilities
from pushforward.randomness import SampleRng, UpdateRng, seeded

CLASSES = Condition("class", 3, frequencies=(0.5, 0.3, 0.2))


def image(shape, levels, condition=None) -> DataSpec:
    return DataSpec("image", shape, condition, levels=levels)


def codes(size, grid, condition=None) -> DataSpec:
    return DataSpec("tokens", (math.prod(grid),), condition, vocabulary=Vocabulary("codes", size, grid=grid))


def model(spec, **settings) -> PixelModel:
    """A small model, its laws far from uniform."""
    with seeded(3):
        few = {"mixtures": 2} if settings.get("likelihood") == "logistic" else {}
        made = PixelModel(spec, **{"width": 4, "depth": 1, **few, **settings}).double()
        for parameter in made.parameters():
            parameter.data += (0.15 if settings.get("network") == "plusplus" else 0.4) * torch.randn_like(parameter)
    return made


def everything(made) -> torch.Tensor:
    """All data that there are, in the model's units."""
    count, spec = math.prod(made.shape), made.spec
    levels = torch.tensor(list(itertools.product(range(made.law.levels), repeat=count)))
    if spec.kind == "tokens":
        return levels
    return (levels * 2.0 / (made.law.levels - 1) - 1).view(-1, *spec.shape).double()


def mass(made, x, **given) -> torch.Tensor:
    """Probabilities: `log_prob` is a density over levels 2 / (L - 1) wide."""
    wide = 0.0 if made.spec.kind == "tokens" else math.log(2 / (made.spec.levels - 1)) * math.prod(made.shape)
    found = made.log_prob(x, **given)
    assert found.kind == "exact"
    return (found.value + wide).exp()


CASES = [
    (image((1, 2, 2), 3), "categorical", False),
    (image((1, 2, 4), 2), "bernoulli", False),
    (image((2, 2, 2), 2), "bernoulli", False),
    (image((2, 2, 1), 3), "categorical", False),
    (image((1, 2, 2), 4), "logistic", False),
    (image((3, 1, 2), 3), "logistic", False),
    (codes(4, (2, 2)), "auto", False),
    (image((1, 2, 2), 3, CLASSES), "categorical", False),
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[0].kind}{case[0].shape}")
def test_probabilities_sum_to_one(case, network):
    spec, likelihood, _ = case
    halvings = {"halvings": 1 if spec.shape[-1] % 2 == 0 and spec.shape[-2:-1] == (2,) else 0} if network == "plusplus" else {}
    made = model(spec, network=network, likelihood=likelihood, **halvings)
    x = everything(made)
    for given in [{}] if spec.condition is None else [{}] + [{"condition": torch.full((len(x),), c)} for c in range(3)]:
        probabilities = mass(made, x, **given)
        assert probabilities.sum().item() == pytest.approx(1, abs=1e-9)
        assert (probabilities * len(x)).std() > 0.1, "far from uniform"


@pytest.mark.parametrize("network", NETWORKS)
def test_the_condition_is_heard(network):
    made = model(image((1, 4, 4), 3, CLASSES), network=network)
    x = everything(model(image((1, 2, 2), 3)))[40:44].repeat(1, 1, 2, 2)
    each = torch.stack([mass(made, x, condition=torch.full((4,), c)) for c in range(3)])
    assert (each[0] / each[1]).log().abs().min() > 1e-3
    mixture = (torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[:, None] * each).sum(0)
    torch.testing.assert_close(mass(made, x), mixture, rtol=1e-9, atol=0)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("spec", "likelihood"),
    [
        (image((1, 4, 8), 4, CLASSES), "categorical"),
        (image((3, 4, 4), 5), "logistic"),
        (image((2, 4, 4), 2), "bernoulli"),
        (codes(5, (4, 4)), "auto"),
    ],
    ids=["grey", "rgb", "black and white", "codes"],
)
def test_fast_sampling_is_slow_sampling(spec, likelihood, network):
    """The same uniforms in float64: the same levels, number by number. Row i is a function of (seed, i) alone."""
    made = model(spec, network=network, likelihood=likelihood, width=6, depth=2)
    classes = {} if spec.condition is None else {"condition": torch.tensor([2, 0, 1])}
    fast = made.sample(3, **classes, generator=SampleRng(5))
    assert torch.equal(fast, made.sample(3, **classes, generator=SampleRng(5), cache=False))
    assert len(fast.unique()) > 1 and not torch.equal(fast[0], fast[1])
    last = {name: value[2:] for name, value in classes.items()}
    assert torch.equal(fast[2:], made.sample(1, **last, generator=SampleRng(5, first=2)))
    made.log_prob(fast)  # samples are on the levels


@pytest.mark.parametrize("network", NETWORKS)
def test_samples_are_as_frequent_as_they_are_probable(network):
    """Total variation of n draws from 81 cells: its mean is at most sqrt(81 / (2 pi n)) = 0.036 for n = 10,000, and it exceeds
    that by 0.02 with probability exp(-2 n 0.0004) = 0.0003."""
    n, made = 10_000, model(image((1, 2, 2), 3), network=network, **({"halvings": 1} if network == "plusplus" else {}))
    x = made.sample(n, generator=0)
    index = (((x + 1).round().long().flatten(1)) * 3 ** torch.arange(3, -1, -1)).sum(1)
    share = index.bincount(minlength=81).double() / n
    expected = mass(made, everything(made))
    assert 0.5 * (share - expected).abs().sum() < 0.056
    assert 0.5 * (expected - 1 / 81).abs().sum() > 0.1, "far from uniform"


@pytest.mark.parametrize("spec", [image((1, 2, 2), 3), image((2, 1, 2), 3)], ids=["pixels", "channels"])
@pytest.mark.parametrize("likelihood", ["categorical", "logistic"])
def test_completion_after_a_prefix_is_the_conditional_law(spec, likelihood):
    """Where the first number of all is known: a pixel, or a channel of one. The bound is as above, of 27 cells."""
    n, made = 10_000, model(spec, likelihood=likelihood)
    given = everything(made)[33:34]
    known = torch.zeros(1, *spec.shape, dtype=torch.bool)
    known[:, 0, 0, 0] = True
    x = made.complete(given.expand(n, -1, -1, -1), known.expand(n, -1, -1, -1), generator=0)
    assert torch.equal(x[:, 0, 0, 0], given[:, 0, 0, 0].expand(n)) and len(x.flatten(1).unique(dim=0)) > 10
    cells = everything(made)
    cells = cells[cells[:, 0, 0, 0] == given[0, 0, 0, 0]]
    expected = mass(made, cells)
    expected = expected / expected.sum()
    share = torch.stack([(x == cell).flatten(1).all(1).double().mean() for cell in cells])
    assert 0.5 * (share - expected).abs().sum() < 0.04  # sqrt(27 / (2 pi n)) = 0.021 and 0.019 more


def test_completion_keeps_what_is_known_wherever_it_is():
    for spec in (image((3, 4, 4), 5, CLASSES), codes(5, (4, 4))):
        made = model(spec)
        x = made.sample(4, generator=1)
        known = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        noise = torch.where(known, x, torch.tensor(99 if spec.kind == "tokens" else math.nan).to(x.dtype))
        filled = made.complete(noise, known, generator=2)
        assert torch.equal(filled[known], x[known])
        assert torch.equal(filled, made.complete(x, known, generator=2)), "what stands elsewhere does not matter"
        assert torch.equal(filled, made.complete(x, known, generator=2, cache=False))
        assert torch.equal(made.complete(x, torch.ones_like(known), generator=2), x)
        assert torch.equal(made.complete(x, torch.zeros_like(known), generator=3), made.sample(4, generator=3))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_table_of_images_is_learned(network):
    """16 black and white images of 2 x 2, as many of each as a table says: the loss comes to its entropy. The excess is a KL
    divergence, of which 0.02 nats may remain of 0.4 at the start."""
    made = PixelModel(
        image((1, 2, 2), 2), network=network, width=8, depth=1, **({"halvings": 1} if network == "plusplus" else {})
    )
    counts = torch.tensor([16, 1, 1, 4, 1, 1, 6, 0, 0, 6, 1, 1, 4, 1, 1, 16])
    table, x = counts.double() / counts.sum(), everything(made).float()
    entropy = torch.special.entr(table).sum().item()
    (player,) = made.players()
    optimizer = torch.optim.Adam(player.parameters(), lr=2e-2)
    batch = Batch(x.repeat_interleave(counts, 0))
    for _ in range(120):
        loss = player.loss(batch, UpdateRng(torch.Generator()))
        assert loss.terms["nats"].item() == pytest.approx(4 * loss.total.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    excess = -(table * mass(made, x).detach().double().log()).sum().item() - entropy
    assert -1e-5 < excess < 0.02
    assert math.log(16) - entropy > 0.4


def test_black_and_white_images_are_drawn_from_grey_ones():
    data = pf.load_data("digits")
    made = model(image((1, 8, 8), 17), likelihood="bernoulli", binarise=True).float()
    assert made.binarised and made.law.levels == 2
    x = data.units.to_model(take(data.train, 5)[0])
    fixed = fixed_binary(x)
    two = model(image((1, 8, 8), 2), likelihood="bernoulli").float()
    two.load_state_dict(made.state_dict())
    # the same masses of the same black and white images, each beside the log-width of its own levels
    torch.testing.assert_close(mass(made, x).log(), mass(two, fixed).log(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(made.log_prob(x).value, made.log_prob(x).value, rtol=0, atol=0)
    rng = UpdateRng(torch.Generator().manual_seed(1))
    drawn = binary(x, UpdateRng(torch.Generator().manual_seed(1)).rand_like(x))
    assert not torch.equal(drawn, fixed)
    torch.testing.assert_close(made.loss(Batch(x), rng).terms["nats"], -mass(two, drawn).log().mean(), rtol=1e-5, atol=1e-4)
    assert set(made.sample(3, generator=0).unique().tolist()) == {-1.0, 1.0}
    known = torch.zeros_like(x, dtype=torch.bool)
    known[:, :, :4] = True
    assert torch.equal(made.complete(x, known, generator=0)[:, :, :4], x[:, :, :4]), "grey as it was"


def test_half_precision_gives_log_probabilities_in_float32():
    made, x = model(image((3, 8, 8), 256), network="plusplus").float(), torch.randint(256, (4, 3, 8, 8)) * 2 / 255 - 1
    batch = Batch(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = made.loss(batch, UpdateRng(torch.Generator()))
    exact = made.loss(batch, UpdateRng(torch.Generator()))
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total, exact.total, rtol=0.03, atol=0.03)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_temperature():
    made = model(image((1, 4, 4), 4), network="gated")
    nats = [mass(made, made.sample(500, generator=0, temperature=t)).log().mean().item() for t in (0.3, 1.0, 3.0)]
    assert nats[0] > nats[1] + 0.5 > nats[2] + 1


def test_the_likelihood_that_suits():
    laws = {
        name: type(PixelModel(spec, **settings).law).__name__
        for name, spec, settings in (
            ("two", image((1, 4, 4), 2), {}),
            ("grey", image((1, 4, 4), 256), {}),
            ("deep", image((1, 4, 4), 65_536), {}),
            ("plus", image((3, 4, 4), 256), {"network": "plusplus"}),
            ("drawn", image((1, 4, 4), 256), {"binarise": True}),
        )
    }
    assert laws == {
        "two": "Bernoulli",
        "grey": "Categorical",
        "deep": "LogisticMixture",
        "plus": "LogisticMixture",
        "drawn": "Bernoulli",
    }


def test_the_contract():
    assert capabilities(PixelModel) == ["samples", "density", "completes"]
    assert all(issubclass(PixelModel, protocol) for protocol in (Samples, Density, Learns, Completes))
    data = pf.load_data("digits")
    check_model(PixelModel(data.spec, width=4, depth=1), data)
    assert check_model(PixelModel(data.spec, binarise=True, width=6, depth=1), data).ok


GREY = image((1, 6, 6), 16, CLASSES)


@pytest.mark.parametrize(
    ("spec", "settings", "sentence"),
    [
        (DataSpec("image", (1, 4, 4)), {}, "levels is not set"),
        (DataSpec("tokens", (9,), vocabulary=Vocabulary("codes", 4)), {}, "take gpt"),
        (DataSpec("point", (2,)), {}, "holds point"),
        (image((1, 4, 4), 2), {"likelihood": "logistic"}, "3 or more"),
        (GREY, {"likelihood": "bernoulli"}, "binarise=True"),
        (GREY, {"likelihood": "categorical", "binarise": True}, "set that too"),
        (image((1, 4, 4), 1000), {"likelihood": "categorical"}, "likelihood='logistic'"),
        (codes(4, (2, 2)), {"likelihood": "logistic"}, "leave it out"),
        (codes(4, (2, 2)), {"binarise": True}, "leave it out"),
        (GREY, {"network": "plusplus"}, "halvings=1, load them with size=8x8"),
        (GREY, {"network": "plusplus", "halvings": -1}, "0 or more"),
        (GREY, {"network": "diagonal-bilstm", "kernel": 3}, "has not"),
        (GREY, {"halvings": 1}, "has not"),
        (GREY, {"kernel": 4}, "it is odd"),
        (GREY, {"width": 0}, "at least 1"),
        (GREY, {"depth": 0}, "at least 1"),
    ],
)
def test_bad_settings(spec, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        PixelModel(spec, **settings)


def test_mixtures_are_of_logistics():
    assert PixelModel(image((1, 4, 4), 16), network="plusplus").law.mixtures == MIXTURES
    for spec, likelihood in ((GREY, "categorical"), (image((1, 4, 4), 2), "auto"), (codes(4, (2, 2)), "auto")):
        for mixtures in (0, 10):
            with pytest.raises(UserError, match="mixtures was given, which likelihood="):
                PixelModel(spec, likelihood=likelihood, mixtures=mixtures)
    with pytest.raises(UserError, match="1 component"):
        PixelModel(GREY, likelihood="logistic", mixtures=0)


def test_attributes_that_are_not_told_are_summed_over():
    """Rates 0.75 and 1: of four sets two are there."""
    made = model(image((1, 2, 2), 3, Condition("attributes", 2, frequencies=(0.75, 1.0))))
    x = everything(made)
    each = [mass(made, x, condition=torch.tensor([[a, 1.0]]).expand(len(x), -1)) for a in (0.0, 1.0)]
    torch.testing.assert_close(mass(made, x), 0.25 * each[0] + 0.75 * each[1], rtol=1e-6, atol=1e-12)
    assert (each[0] - each[1]).abs().max() > 1e-3 and mass(made, x).sum().item() == pytest.approx(1, abs=1e-6)


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean gated"):
        _network("gatd", 4, Bernoulli(1), (4, 4), None, None, None, None, 0, 0.0)
    with pytest.raises(UserError, match="did you mean logistic"):
        _law("logistics", GREY, "gated", False, 1, 10)


def test_bad_input():
    made, x = model(GREY), torch.zeros(2, 1, 6, 6).double() - 1
    for bad in (0.05, 1.2, math.nan):
        with pytest.raises(UserError, match="none of the 16 levels"):
            made.log_prob(torch.full_like(x, bad))
    with pytest.raises(UserError, match=r"\(1, 5, 6\)"):
        made.log_prob(x[:, :, :5])
    for bad in (0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="temperature"):
            made.sample(2, temperature=bad)
    for ask in (lambda c: made.sample(2, condition=c), lambda c: made.log_prob(x, condition=c)):
        with pytest.raises(UserError, match="classes are numbered 0 to 2"):
            ask(torch.tensor([1, 3]))
    for known in (torch.zeros(2, 6, 6, dtype=torch.bool), torch.zeros(x.shape)):
        with pytest.raises(UserError, match="known of shape"):
            made.complete(x, known)
    with pytest.raises(UserError, match="without a condition"):
        model(image((1, 2, 2), 3)).sample(2, condition=torch.tensor([0, 0]))
    with pytest.raises(UserError, match="7 attributes make 2"):
        model(image((1, 2, 2), 3, Condition("attributes", 7))).log_prob(x[:, :, :2, :2])
    with pytest.raises(UserError, match="each of the 2 rows"):
        made.sample(2, condition=torch.tensor([1]))
    grid = model(codes(4, (2, 2)))
    for bad in (torch.tensor([[0, 1, 2, 4]]), torch.tensor([[0, -1, 2, 3]]), torch.zeros(1, 4)):
        with pytest.raises(UserError, match="integers 0 to 3"):
            grid.log_prob(bad)
    with pytest.raises(UserError, match=r"from -1 \(black\)"):
        model(image((1, 2, 2), 9), binarise=True).log_prob(torch.full((1, 1, 2, 2), 1.5).double())
