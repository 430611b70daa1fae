"""GPT as a distribution: it sums to one, samples what it says, slides its window exactly, and learns a Markov chain."""

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from pushforward.building import create
from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec, Vocabulary
from pushforward.errors import UserError
from pushforward.models.autoregressive.sampling import Choice, window_start, windows
from pushforward.models.autoregressive.transformer import GPT
from pushforward.models.contract import Density, Extends, Learns, Samples, capabilities
from pushforward.randomness import SampleRng
from pushforward.training.optimizers import rate_at

CLASSES = Condition("class", 3, frequencies=(0.5, 0.3, 0.2))
ATTRIBUTES = Condition("attributes", 4, frequencies=(0.9, 0.5, 0.1, 0.0))


def spec(k: int, length: int, condition=None) -> DataSpec:
    return DataSpec("tokens", (length,), condition, vocabulary=Vocabulary("characters", k, tuple(map(chr, range(97, 97 + k)))))


def gpt(k: int, length: int, condition=None, dtype=torch.float64, scale=10.0, **options) -> GPT:
    """A small GPT far from uniform."""
    torch.manual_seed(1)
    model = GPT(spec(k, length, condition), **{"depth": 2, "heads": 2, "width": 16, **options}).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2 or parameter.shape == (16,):
                parameter.mul_(scale) if parameter.dim() == 2 else parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def everything(k: int, length: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(k), repeat=length)))


@pytest.mark.parametrize("context", [4, 3, 2, 1])
@pytest.mark.parametrize("condition", [None, CLASSES, ATTRIBUTES], ids=["free", "class", "attributes"])
def test_the_density_sums_to_one(condition, context):
    model, x = gpt(3, 4, condition, context=context), everything(3, 4)
    given = {None: [None], CLASSES: [torch.full((81,), c) for c in range(3)], ATTRIBUTES: [torch.ones(81, 4)]}[condition]
    for value in given:
        log_prob = model.log_prob(x, condition=value)
        assert log_prob.kind == "exact" and log_prob.value.shape == (81,)
        assert log_prob.value.std() > 0.1  # far from uniform
        assert log_prob.value.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_without_a_class_the_density_is_the_mixture_of_the_classes():
    model, x = gpt(3, 4, CLASSES), everything(3, 4)
    each = [model.log_prob(x, condition=torch.full((81,), c)).value.exp() for c in range(3)]
    assert (each[0] - each[1]).abs().max() > 1e-3
    mixture = sum(p * q for p, q in zip(CLASSES.frequencies, each, strict=True))
    torch.testing.assert_close(model.log_prob(x).value.exp(), mixture, rtol=1e-12, atol=0)


def test_the_loss_is_the_density_per_token():
    model = gpt(5, 7, CLASSES)
    x, c = torch.randint(5, (6, 7)), torch.randint(3, (6,))
    loss = model.loss(Batch(x, c), SampleRng(0))
    assert loss.total.item() == pytest.approx(-model.log_prob(x, condition=c).value.mean().item() / 7, rel=1e-12)
    assert loss.terms["nats_per_token"] == loss.total


def test_every_parameter_learns():
    for condition, c in ((None, None), (CLASSES, torch.tensor([0, 1, 2, 1, 0])), (ATTRIBUTES, torch.rand(5, 4).round())):
        model = gpt(5, 7, condition, tied=False)
        model.loss(Batch(torch.arange(35).view(5, 7) % 5, c), SampleRng(0)).total.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("context", [4, 2])
def test_samples_are_as_frequent_as_the_model_says(context):
    model, x = gpt(3, 4, context=context), everything(3, 4)
    n = 20_000
    drawn = model.sample(n, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81)
    expected = model.log_prob(x).value.detach().exp() * n
    assert chisquare(counts, expected * (n / expected.sum())).pvalue > 1e-3


def test_drawn_classes_make_the_marginal():
    model, x = gpt(3, 3, CLASSES), everything(3, 3)
    n = 20_000
    drawn = model.sample(n, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount((drawn * torch.tensor([9, 3, 1])).sum(1), minlength=27)
    expected = model.log_prob(x).value.detach().exp() * n
    assert chisquare(counts, expected * (n / expected.sum())).pvalue > 1e-3


@pytest.mark.parametrize("condition", [None, CLASSES, ATTRIBUTES], ids=["free", "class", "attributes"])
def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_length(condition):
    model = gpt(11, 8, condition)
    whole = model.sample(7, generator=SampleRng(5), length=20)
    assert whole.shape == (7, 20) and len({tuple(row.tolist()) for row in whole}) == 7
    assert torch.equal(model.sample(3, generator=SampleRng(5, first=2), length=20), whole[2:5])
    assert torch.equal(model.sample(1, generator=SampleRng(5, first=6), length=20), whole[6:])
    assert torch.equal(model.sample(7, generator=5, length=12), whole[:, :12])
    assert model.sample(2, generator=5).shape == (2, 8) and model.sample(0, generator=5).shape == (0, 8)


@pytest.mark.parametrize("context", [1, 2, 5, 8])
@pytest.mark.parametrize("prefix", [0, 3, 8, 21])
def test_text_is_the_same_with_and_without_the_cache(context, prefix):
    model = gpt(11, 8, context=context)
    start = torch.randint(11, (4, prefix), generator=torch.Generator().manual_seed(3))
    with_cache = model.extend(start, 30, generator=9)
    assert torch.equal(with_cache, model.extend(start, 30, generator=9, cache=False))
    assert torch.equal(with_cache[:, :prefix], start)
    assert with_cache.unique().numel() > 5  # a text, not one token


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("made", [{}, {"norm": "rms", "perceptron": "swiglu", "bias": False}], ids=["gpt2", "llama"])
def test_text_is_the_same_in_float32_whatever_the_positions(positions, made):
    # Logits with and without the cache differ by about 1e-6, and so does where a uniform number changes the token: of the 1,920
    # tokens here one in a million is at stake, and with fixed seeds it is always the same.
    model = gpt(23, 32, dtype=torch.float32, scale=4.0, positions=positions, **made)
    start = torch.randint(23, (4, 7), generator=torch.Generator().manual_seed(1))
    for seed in range(6):
        with_cache = model.extend(start, 80, generator=seed, temperature=0.8)
        assert torch.equal(with_cache, model.extend(start, 80, generator=seed, temperature=0.8, cache=False))
        assert with_cache.unique().numel() > 5


@pytest.mark.parametrize("cache", [True, False])
def test_whoever_watches_sees_each_token_as_it_comes(cache):
    model, seen = gpt(11, 8), []
    start = torch.tensor([[1, 2, 3], [4, 5, 6]])
    whole = model.extend(start, 12, generator=3, cache=cache, watch=lambda tokens: seen.append(tokens.clone()))
    assert [part.shape[1] for part in seen] == list(range(4, 16))
    assert all(torch.equal(part, whole[:, : part.shape[1]]) for part in seen)


def test_a_prefix_longer_than_the_context_is_seen_by_its_end():
    model = gpt(11, 8)
    start = torch.randint(11, (2, 30), generator=torch.Generator().manual_seed(0))
    other, first = start.clone(), window_start(30, 8)
    other[:, :first] = (other[:, :first] + 1) % 11
    one, two = (model.extend(x, 20, generator=4)[:, 30:] for x in (start, other))
    assert torch.equal(one, two)
    other[:, first:] = (other[:, first:] + 1) % 11
    assert not torch.equal(one, model.extend(other, 20, generator=4)[:, 30:])
    drawn = model.extend(start, 1, generator=SampleRng(4))
    with torch.inference_mode():
        logits = model.network(start[:, first:], first=model._begin(2, None))[:, -1]
    uniform = SampleRng(4).rand(2, 1)
    assert torch.equal(drawn[:, 30:], (logits.softmax(-1).cumsum(-1) <= uniform).sum(-1, keepdim=True))


def test_the_cache_is_used():
    model = gpt(11, 64)
    seen = []
    model.network.tokens.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    model.sample(1, generator=0, length=130)
    # One pass over what is left whenever the window moves (at 64, 96 and 128); one token otherwise.
    assert [(i, new) for i, new in enumerate(seen) if new != 1] == [(0, 0), (64, 32), (96, 32), (128, 32)]


def test_completing_nothing_is_sampling():
    model = gpt(11, 8)
    assert torch.equal(model.extend(torch.zeros(3, 0, dtype=torch.long), 8, generator=2), model.sample(3, generator=2))


@pytest.mark.parametrize("context", range(1, 12))
def test_windows_are_one_rule(context):
    for length in (1, 2, context, context + 1, 40):
        start = {i: s for s, first, end in windows(length, context) for i in range(first, end)}
        assert start == {i: window_start(i, context) for i in range(length)}
        for i, s in start.items():
            assert s == 0 if i < context else context - max(1, context // 2) <= i - s <= context - 1


def test_a_slid_window_is_the_network_on_its_last_tokens():
    model = gpt(11, 8)
    x = torch.randint(11, (3, 25))
    each = model.token_log_probs(x)
    for i in range(25):
        start = window_start(i, 8)
        logits = model.network(x[:, start:i], first=model._begin(3, None))
        expected = logits[:, -1].log_softmax(-1).gather(1, x[:, i, None])[:, 0]
        torch.testing.assert_close(each[:, i], expected, rtol=0, atol=1e-10)


def test_a_long_text_is_measured_by_the_same_windows():
    model = gpt(11, 8)
    text = torch.randint(11, (203,))
    by_density = -model.log_prob(text[None]).value.item() / 203
    assert model.text_nats(text, batch_size=5) == pytest.approx(by_density, rel=1e-12)
    longest = 0.0  # stride 1: each token after as many as fit
    for i in range(203):
        start = max(0, i - 7)
        logits = model.network(text[None, start:i], first=model._begin(1, None))
        longest -= logits[0, -1].log_softmax(-1)[text[i]].item()
    assert model.text_nats(text, stride=1) == pytest.approx(longest / 203, rel=1e-12)
    conditional = gpt(11, 8, CLASSES)
    of_one = -conditional.log_prob(text[None], condition=torch.tensor([2])).value.item() / 203
    assert conditional.text_nats(text, condition=torch.tensor([2])) == pytest.approx(of_one, rel=1e-12)


def brute_force(p, k, top_p):
    """Token by token, in the order of their probability."""
    ranked = sorted(range(len(p)), key=lambda i: -p[i])[:k]
    total, kept, reached = sum(p[i] for i in ranked), [], 0.0
    for i in ranked:
        if reached >= top_p:
            break
        kept.append(i)
        reached += p[i] / total
    return [p[i] / sum(p[j] for j in kept) if i in kept else 0.0 for i in range(len(p))]


@pytest.mark.parametrize("top_k", [None, 1, 3, 6, 7, 100])
@pytest.mark.parametrize("top_p", [None, 0.01, 0.21, 0.5, 0.77, 0.95, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_cut_distributions_equal_brute_force(top_k, top_p, temperature):
    known = [[0.05, 0.3, 0.02, 0.4, 0.13, 0.07, 0.03], [1 / 7] * 7, [0.9, 0.05, 0.03, 0.01, 0.005, 0.003, 0.002]]
    got = Choice(temperature, top_k, top_p).probabilities(torch.tensor(known, dtype=torch.float64).log())
    for row, p in zip(got.tolist(), known, strict=True):
        powers = [q ** (1 / temperature) for q in p]
        flattened = [q / sum(powers) for q in powers]
        assert row == pytest.approx(brute_force(flattened, top_k or 7, 2.0 if top_p in (None, 1.0) else top_p), abs=1e-12)


P = [0.4, 0.3, 0.12, 0.08, 0.06, 0.04]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"min_p": 0.1}, [0.4, 0.3, 0.12, 0.08, 0.06, 0.04]),  # all of at least 0.04: the last is just in
        ({"min_p": 0.11}, [0.4, 0.3, 0.12, 0.08, 0.06, 0]),  # 0.044
        ({"min_p": 0.25}, [0.4, 0.3, 0.12, 0, 0, 0]),  # 0.1
        ({"min_p": 0.8}, [0.4, 0, 0, 0, 0, 0]),
        ({"min_p": 0.0}, P),
        ({"min_p": 0.25, "top_k": 2}, [0.4, 0.3, 0, 0, 0, 0]),
        ({"min_p": 0.16, "top_p": 0.81}, [0.4, 0.3, 0.12, 0, 0, 0]),
        ({"min_p": 0.16, "temperature": 0.5}, [0.16, 0.09, 0, 0, 0, 0]),  # squares; at least 0.0256
        ({"min_p": 0.31, "temperature": 2.0}, [p**0.5 for p in P[:5]] + [math.sqrt(0.04)]),  # roots; at least 0.196
    ],
)
def test_min_p_keeps_a_share_of_the_likeliest(options, kept):
    # A hair above 0.04, so that the boundary itself does not hang on rounding.
    logits = (torch.tensor([P], dtype=torch.float64).log() + torch.tensor([0, 0, 0, 0, 0, 1e-12])) + 5.0
    got = Choice(**options).probabilities(logits)[0].tolist()
    assert got == pytest.approx([p / sum(kept) for p in kept], abs=1e-10)


def test_a_repeated_token_is_penalised_by_the_sign_of_its_logit():
    logits = torch.tensor([[2.0, -1.0, 0.0, 3.0], [2.0, -1.0, 0.0, 3.0]], dtype=torch.float64)
    used = torch.tensor([[True, True, True, False], [False, False, False, True]])
    penalised = [[2 / 1.25, -1.25, 0, 3.0], [2.0, -1.0, 0.0, 3 / 1.25]]
    for temperature in (1.0, 0.5):
        got = Choice(temperature, repetition_penalty=1.25).probabilities(logits, used)
        for row, values in zip(got.tolist(), penalised, strict=True):
            weights = [math.exp(v / temperature) for v in values]
            assert row == pytest.approx([v / sum(weights) for v in weights], rel=1e-12)
    torch.testing.assert_close(Choice().probabilities(logits, used), logits.softmax(-1))
    cut = Choice(repetition_penalty=10.0, top_k=1).probabilities(logits, used)  # first the penalty, then the cut
    assert cut.argmax(-1).tolist() == [3, 0]


def test_what_the_text_holds_is_what_is_penalised():
    model = gpt(11, 8)
    start = torch.tensor([[0, 1, 2, 3, 4]])
    text = start[0].tolist()
    for i in range(5, 20):
        with torch.inference_mode():
            seen = torch.tensor([text[window_start(i, 8) :]])
            logits = model.network(seen, first=model._begin(1, None))[0, -1].tolist()
        text.append(max(range(11), key=lambda t: logits[t] * (1 if t not in text else 1 / 3 if logits[t] > 0 else 3)))
    assert model.extend(start, 15, generator=0, repetition_penalty=3.0, top_k=1)[0].tolist() == text
    assert model.extend(start, 15, generator=0, top_k=1)[0].tolist() != text
    y = model.sample(2, generator=1, length=20, repetition_penalty=1.3)
    assert torch.equal(y, model.sample(2, generator=1, length=20, repetition_penalty=1.3, cache=False))
    assert not torch.equal(y, model.sample(2, generator=1, length=20))


def test_a_temperature_near_zero_is_argmax_and_a_huge_one_is_uniform():
    logits = torch.tensor([[1.0, 3.0, 2.9], [-1e4, 0.0, 1e4]])
    for temperature in (1e-3, 1e-30, 1e-300):
        assert torch.equal(Choice(temperature).probabilities(logits).argmax(-1), logits.argmax(-1))
        assert Choice(temperature).probabilities(logits).amax(-1).min() > 1 - 1e-12
    torch.testing.assert_close(Choice(1e300).probabilities(logits), torch.full((2, 3), 1 / 3, dtype=torch.float64))
    model = gpt(11, 8)
    greedy = model.sample(3, generator=0, temperature=1e-9)
    assert torch.equal(greedy, model.sample(3, generator=1, top_k=1)) and torch.equal(greedy[0], greedy[2])
    assert torch.equal(greedy, model.sample(3, generator=2, top_p=1e-9))


def test_a_cut_token_is_never_chosen():
    model = gpt(11, 8)

    class Ones(SampleRng):  # the largest uniform there is
        def rand(self, *shape):
            return torch.full(shape, 1 - 2**-24)

    likeliest = model.sample(1, generator=Ones(0), top_k=1)
    assert torch.equal(likeliest, model.sample(1, generator=0, top_k=1))
    for top_k in (2, 3):
        x = model.sample(1, generator=Ones(0), top_k=top_k)
        for i in range(8):
            with torch.inference_mode():
                logits = model.network(x[:, :i], first=model._begin(1, None))
            assert x[0, i] in logits[0, -1].topk(top_k).indices


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_for_samples_and_densities_and_the_mode_is_kept(training):
    model = gpt(11, 8, dropout=0.5).train(training)
    x = model.sample(3, generator=0)
    assert torch.equal(x, model.sample(3, generator=0))
    assert torch.equal(model.log_prob(x).value, model.log_prob(x).value)
    assert model.training == training and model.network.blocks[0].drop.training == training


def test_it_learns_a_markov_chain_to_its_entropy_rate():
    generator = torch.Generator().manual_seed(0)
    transition = (torch.rand(5, 5, generator=generator) ** 4 + 0.01).double()
    transition /= transition.sum(1, keepdim=True)
    values, vectors = torch.linalg.eig(transition.T)
    stationary = vectors[:, values.real.argmax()].real
    stationary = stationary / stationary.sum()
    entropy = -(stationary[:, None] * transition * transition.log()).sum().item()

    def chain(rows, length):
        x = torch.multinomial(stationary.expand(rows, -1), 1, generator=generator)
        for _ in range(length - 1):
            x = torch.cat([x, torch.multinomial(transition[x[:, -1]], 1, generator=generator)], 1)
        return x

    torch.manual_seed(0)
    model = GPT(spec(5, 32), depth=1, heads=2, width=32)
    player = model.players()[0]
    steps = 400
    optimizer = torch.optim.AdamW(player.parameters(), 5e-3, betas=player.optimizer.betas, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    for _ in range(steps):
        loss = player.loss(Batch(chain(32, 32)), SampleRng(0))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        schedule.step()
    # The truth of these very sequences, so that their sampling noise cancels; the first token costs the stationary entropy.
    test = chain(1000, 32)
    truth = stationary.log()[test[:, 0]] + transition.log()[test[:, :-1], test[:, 1:]].sum(1)
    rate = -model.log_prob(test).value.mean().item() / 32
    true_rate = -truth.mean().item() / 32
    assert abs(rate - true_rate) < 0.02 and rate > true_rate - 0.002
    assert -model.token_log_probs(test)[:, 1:].mean().item() == pytest.approx(entropy, abs=0.02)
    # Its own text is of that chain: transition frequencies, standard error about 0.01 for the rarest state.
    drawn = model.sample(400, generator=0, length=64)
    pairs = torch.bincount((5 * drawn[:, :-1] + drawn[:, 1:]).flatten(), minlength=25).view(5, 5).double()
    assert ((pairs / pairs.sum(1, keepdim=True)) - transition).abs().max() < 0.06


def test_it_learns_classes():
    """Class c is the constant sequence of token c: after training the class decides."""
    torch.manual_seed(0)
    model = GPT(spec(3, 6, CLASSES), depth=1, heads=1, width=16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(100):
        c = torch.randint(3, (32,))
        loss = model.loss(Batch(c[:, None].expand(-1, 6), c), SampleRng(0)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    asked = torch.tensor([0, 1, 2, 2, 1, 0])
    assert torch.equal(model.sample(6, condition=asked, generator=0), asked[:, None].expand(-1, 6))


def test_capabilities_and_creation():
    model = create("gpt", spec(5, 7), depth=1, heads=1, width=8)
    assert all(isinstance(model, able) for able in (Samples, Density, Extends, Learns))
    assert capabilities(model) == capabilities(GPT) == ["samples", "density", "extends"]
    (player,) = model.players()
    assert {id(p) for p in player.parameters()} == {id(p) for p in model.parameters()}
    assert player.optimizer.weight_decay == 0.1
    assert [rate_at(player.optimizer, step, step / 1000, 1000) for step in (500, 1000)] == pytest.approx([5.5e-4, 1e-4])


def test_under_autocast_the_density_is_float32():
    model = gpt(11, 8, dtype=torch.float32)
    x = torch.randint(11, (4, 8))
    with torch.autocast("cpu", torch.bfloat16):
        value = model.log_prob(x).value
    assert value.dtype == torch.float32
    # bf16 has 8 bits: with these large weights a logit is off by about 0.1; 8 tokens are summed.
    torch.testing.assert_close(value, model.log_prob(x).value, rtol=0.05, atol=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
    ],
)
def test_impossible_choices_are_sentences(options):
    with pytest.raises(UserError, match=next(iter(options))):
        gpt(5, 7).sample(2, **options)


@pytest.mark.parametrize(("option", "value"), [("positions", "rotory"), ("norm", "batch"), ("perceptron", "relu")])
def test_an_unknown_part_is_a_sentence(option, value):
    with pytest.raises(UserError, match=option):
        create("gpt", spec(5, 7), **{option: value})


def test_attributes_that_are_not_told_are_summed_over():
    """Of 16 sets 8 are there, as the last rate is 0."""
    model, x, total = gpt(3, 3, ATTRIBUTES), everything(3, 3), 0.0
    for given in itertools.product((0.0, 1.0), repeat=4):
        rate = math.prod(r if a else 1 - r for a, r in zip(given, ATTRIBUTES.frequencies, strict=True))
        total = total + rate * model.log_prob(x, condition=torch.tensor(given).expand(27, -1)).value.exp()
    torch.testing.assert_close(model.log_prob(x).value.exp(), total)


def test_mistakes_are_sentences():
    model, conditional = gpt(5, 7), gpt(5, 7, CLASSES)
    x = torch.zeros(2, 7, dtype=torch.long)
    with pytest.raises(UserError, match="token id 5"):
        model.log_prob(x + 5)
    with pytest.raises(UserError, match="token id -1"):
        model.extend(x - 1, 3)
    with pytest.raises(UserError, match="integer"):
        model._checked(x.float())
    with pytest.raises(UserError, match="continued by -1"):
        model.extend(x, -1)
    with pytest.raises(UserError, match="stride"):
        model.text_nats(x[0], stride=8)
    with pytest.raises(UserError, match="no tokens"):
        model.text_nats(x[0, :0])
    with pytest.raises(UserError, match="condition was given"):
        model.log_prob(x, condition=torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match="classes are numbered 0 to 2"):
        conditional.sample(2, condition=torch.tensor([0, 3]))
    with pytest.raises(UserError, match="each of the 2"):
        conditional.sample(2, condition=torch.tensor([0]))
    for bad in (torch.tensor([0.0, 1.0]), torch.tensor([0, -1])):
        with pytest.raises(UserError, match="class"):
            conditional.token_log_probs(x, condition=bad)
    with pytest.raises(UserError, match="give one for each of the 2 rows"):
        conditional.token_log_probs(x)
    with pytest.raises(UserError, match="give one for each of the 1 rows"):
        conditional.text_nats(x[0])
    with pytest.raises(UserError, match="7 attributes make 2"):
        gpt(5, 7, Condition("attributes", 7)).log_prob(x)
    with pytest.raises(UserError, match=r"\(2, 3\) was given; give one \(attributes\)"):
        gpt(5, 7, ATTRIBUTES).log_prob(x, condition=torch.zeros(2, 3))
    with pytest.raises(UserError, match="needs its condition"):
        gpt(5, 7, Condition("vector", 3)).log_prob(x)
    for bad in (0.0, math.nan, math.inf):
        with pytest.raises(UserError, match="temperature"):
            model.sample(2, temperature=bad)
    with pytest.raises(UserError, match="vector"):
        gpt(5, 7, Condition("vector", 3)).sample(2)
    with pytest.raises(UserError, match="context"):
        GPT(spec(5, 7), context=8)
    with pytest.raises(UserError, match="holds image"):
        GPT(DataSpec("image", (1, 8, 8)))


def test_a_model_of_one_token_and_a_batch_as_large_as_the_width():
    model = gpt(2, 1, dtype=torch.float32)
    assert model.log_prob(torch.tensor([[0], [1]])).value.exp().sum().item() == pytest.approx(1, abs=1e-6)
    square = gpt(5, 16, CLASSES, dtype=torch.float32)
    x, c = torch.randint(5, (16, 16)), torch.randint(3, (16,))
    one = square.log_prob(x[3:4], condition=c[3:4]).value
    torch.testing.assert_close(square.log_prob(x, condition=c).value[3:4], one, rtol=1e-5, atol=1e-4)
