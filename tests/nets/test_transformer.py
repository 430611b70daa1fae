"""The decoder: causality, the cache, an independent implementation, relative positions, and GPT-2's initialisation."""

import itertools
import math

import pytest
import torch

from pushforward.errors import UserError
from pushforward.nets.transformer import Cache, Decoder, SelfAttention, angles, attended, turned

KINDS = {
    "positions": ("learned", "sinusoidal", "rotary"),
    "norm": ("layer", "rms"),
    "perceptron": ("gelu", "gelu-tanh", "swiglu"),
}
EVERY = [
    dict(zip([*KINDS, "bias", "tied"], [*values, *rest], strict=True))
    for values in itertools.product(*KINDS.values())
    for rest in ((True, True), (False, False))
]
every = pytest.mark.parametrize("options", EVERY, ids=lambda o: "-".join(map(str, o.values())))


def decoder(dtype=torch.float64, scale=8.0, **options) -> Decoder:
    """A decoder with weights large enough that attention is far from uniform."""
    torch.manual_seed(0)
    network = Decoder(11, 16, **{"depth": 3, "heads": 2, "width": 24, **options}).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bias" in name:
                parameter.normal_(std=0.1)
            elif "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.mul_(scale)
    return network


def reference(network: Decoder, tokens, options, first=None):
    """The equations of the papers by plain tensor operations on the weights."""
    w = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def norm(x, name):
        if options["norm"] == "rms":
            return x / ((x**2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * w[f"{name}.weight"] + w.get(f"{name}.bias", 0)

    def linear(x, name):
        return torch.einsum("bti,oi->bto", x, w[f"{name}.weight"]) + w.get(f"{name}.bias", 0)

    h = w["tokens.weight"][tokens]
    if first is not None:
        h = torch.cat([first, h], 1)
    length, width = h.shape[1:]
    if options["positions"] == "learned":
        h = h + w["positions.weight"][torch.arange(length)]
    elif options["positions"] == "sinusoidal":
        waves = [
            [(math.cos if c % 2 else math.sin)(p / 10000 ** (2 * (c // 2) / width)) for c in range(width)]
            for p in range(length)
        ]
        h = h * width**0.5 + torch.tensor(waves, dtype=h.dtype)
    heads, size = network.heads, width // network.heads
    turns = torch.tensor([[p * 10000 ** (-2 * i / size) for i in range(size // 2)] for p in range(length)], dtype=torch.float64)

    def rotated(x):
        """Pairs of channels as complex numbers, times e^(i angle)."""
        if options["positions"] != "rotary":
            return x
        z = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * torch.polar(torch.ones_like(turns), turns)
        return torch.cat([z.real, z.imag], -1)

    for i in range(network.depth):
        at = f"blocks.{i}"
        q, k, v = linear(norm(h, f"{at}.norm1"), f"{at}.attention.qkv").split(width, -1)
        out = []
        for j in range(heads):
            part = slice(j * size, (j + 1) * size)
            scores = torch.einsum("bqd,bkd->bqk", rotated(q[..., part]), rotated(k[..., part])) / math.sqrt(size)
            future = torch.arange(length)[None, :] > torch.arange(length)[:, None]
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            out.append(torch.einsum("bqk,bkd->bqd", weights, v[..., part]))
        h = h + linear(torch.cat(out, -1), f"{at}.attention.project")
        u = linear(norm(h, f"{at}.norm2"), f"{at}.perceptron.0")
        if options["perceptron"] == "swiglu":
            a, b = u.split(u.shape[-1] // 2, -1)
            bent = a / (1 + (-a).exp()) * b
        elif options["perceptron"] == "gelu":
            bent = u * torch.special.ndtr(u)
        else:
            bent = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        h = h + linear(bent, f"{at}.perceptron.2")
    scores = w["tokens.weight"] if network.scores is None else w["scores.weight"]
    return torch.einsum("btw,kw->btk", norm(h, "norm"), scores)


@every
@pytest.mark.parametrize("prefixed", [0, 2])
def test_logits_equal_an_independent_implementation(options, prefixed):
    network = decoder(scale=4.0, **options)
    tokens = torch.randint(11, (3, 14))
    first = torch.randn(3, prefixed, 24, dtype=torch.float64) if prefixed else None
    expected = reference(network, tokens, options, first)
    assert expected.std() > 0.01
    torch.testing.assert_close(network(tokens, first=first), expected, rtol=0, atol=1e-10)


@every
def test_a_position_has_no_gradient_of_what_comes_after_it(options):
    network = decoder(scale=3.0, **options)
    vectors = torch.randn(1, 9, 24, dtype=torch.float64, requires_grad=True)
    logits = network(torch.zeros(1, 0, dtype=torch.long), first=vectors)
    for i in range(9):
        (gradient,) = torch.autograd.grad(logits[0, i].square().sum(), vectors, retain_graph=True)
        size = gradient[0].abs().amax(-1)
        assert (size[i + 1 :] == 0).all() and (size[: i + 1] > 0).all()


@every
def test_the_cache_changes_no_logit_whatever_the_network_is_made_of(options):
    network = decoder(scale=3.0, **options)
    tokens, first = torch.randint(11, (3, 15)), torch.randn(3, 1, 24, dtype=torch.float64)
    whole = network(tokens, first=first)
    for parts in ([0] + [1] * 15, [4, 1, 1, 7, 2], [15]):
        cache = Cache(network, 3)
        pieces = [network(part, first=None if i else first, cache=cache) for i, part in enumerate(tokens.split(parts, 1))]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-10)


def test_rotary_scores_are_those_of_the_distance():
    """For unit vectors in closed form: cosine and sine of the distance, the fastest pair of channels one radian a position."""
    positions = torch.arange(12, dtype=torch.float64)
    turn = angles(positions, 8).cos(), angles(positions, 8).sin()
    axes = torch.eye(8, dtype=torch.float64)
    for i, frequency in enumerate((1.0, 0.1, 0.01, 0.001)):
        a, b = (turned(axis.expand(1, 1, 12, 8), turn)[0, 0] for axis in (axes[i], axes[i + 4]))
        distance = (positions[:, None] - positions) * frequency
        torch.testing.assert_close(a @ a.T, distance.cos(), rtol=0, atol=1e-12)
        torch.testing.assert_close(a @ b.T, distance.sin(), rtol=0, atol=1e-12)


def test_rotary_attention_is_the_same_wherever_its_positions_begin():
    torch.manual_seed(0)
    attention = SelfAttention(24, 2).double()
    x = torch.randn(3, 10, 24, dtype=torch.float64)

    def at(positions):
        turns = angles(positions.double(), 12)
        return attention(x, (turns.cos(), turns.sin()))

    here = at(torch.arange(10))
    torch.testing.assert_close(at(torch.arange(10) + 37), here, rtol=0, atol=1e-12)
    assert (at(torch.arange(10) * 2) - here).abs().max() > 1e-3  # other distances are another attention
    assert (attention(x) - here).abs().max() > 1e-3


@pytest.mark.parametrize("width", [24, 96, 128])
def test_a_gated_perceptron_has_as_many_parameters(width):
    sizes = [
        sum(p.numel() for p in Decoder(11, 16, heads=2, width=width, perceptron=kind, bias=False).parameters())
        for kind in ("gelu", "swiglu")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=2e-3)


@pytest.mark.parametrize(("new", "seen"), [(9, 9), (4, 9), (1, 9)])
def test_attention_in_half_precision_on_a_cpu_is_the_same_attention(new, seen):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, dtype=torch.bfloat16) for n in (new, seen, seen))
    half, exact = attended(query, key, value), attended(query.double(), key.double(), value.double())
    # bfloat16 has 8 bits: scores and weights are off by 2^-9 of themselves, values of size 1 by about 0.02.
    torch.testing.assert_close(half.double(), exact, rtol=0, atol=0.04)
    assert (exact - exact.flip(2)).abs().max() > 0.5 or new == 1
    assert torch.equal(attended(query, key, value, 0.0), half) and not torch.equal(attended(query, key, value, 0.5), half)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("network", ["attention", "decoder"])
def test_attention_weights_are_dropped_at_their_rate_in_training(dtype, network):
    """Where queries are 0 and values are unit vectors, what comes out of position i are its weights, 1 / (i + 1) each: kept
    with probability 1 - rate, they are divided by it."""
    torch.manual_seed(0)
    rate, size, rows = 0.3, 16, 64
    if network == "decoder":
        attention = Decoder(11, size, depth=1, heads=1, width=size, dropout=rate).blocks[0].attention.to(dtype)
    else:
        attention = SelfAttention(size, 1, rate).to(dtype)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        attention.qkv.weight[2 * size :] = torch.eye(size)
        attention.project.weight.copy_(torch.eye(size))
    vectors = torch.eye(size, dtype=dtype).expand(rows, size, size)
    scale = torch.arange(1, size + 1).view(-1, 1)
    # bfloat16 has 8 bits: weights and their products are off by 2^-9 of themselves, twice or three times.
    near = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 0.02}
    past = torch.ones(size, size).tril()
    attention.eval()
    torch.testing.assert_close((attention(vectors) * scale).float(), past.expand(rows, -1, -1), **near)
    attention.train()
    made = (attention(vectors) * scale).float()
    kept = made > 0.5
    torch.testing.assert_close(made, kept / (1 - rate), **near)
    share = kept[:, past.bool()].float()
    assert not kept[:, ~past.bool()].any()
    # 64 * 136 weights, each dropped or not: five standard errors are 0.025
    assert share.mean().item() == pytest.approx(1 - rate, abs=0.025)
    assert share.mean(0).amax() < 1 and share.mean(0).amin() > 0, "each row by itself"


@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_late_positions_are_exact_in_half_precision(positions, dtype):
    """Whole numbers above 256 are none of bfloat16, where 1,999 is 2,000: a radian of the fastest pair. Angles are in float32,
    2,000 of them off by 1e-4 each."""
    length, width, start = 50, 16, 1950
    network = Decoder(11, 2000, depth=1, heads=2, width=width, positions=positions).to(dtype)
    h, turn = network._placed(torch.zeros(1, length, width, dtype=dtype), start)
    size = width // 2 if positions == "rotary" else width
    where = torch.arange(start, start + length, dtype=torch.float64)
    exact = where[:, None] * 10000 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    if turn is None:
        waves = torch.stack([exact.sin(), exact.cos()], -1).flatten(1)[None]
        torch.testing.assert_close(h.double(), waves, rtol=0, atol=0.005)  # numbers up to 1 with 8 bits
    else:
        assert not h.any()
        for found, expected in zip(turn, (exact.cos(), exact.sin()), strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)


def test_half_precision_attends_by_distance_wherever_positions_begin():
    """One radian a position by unit vectors, at positions about 1,900: bfloat16's 8 bits, twice, and no radian."""
    network = Decoder(11, 2000, depth=1, heads=1, width=8).bfloat16()
    _, turn = network._placed(torch.zeros(1, 12, 8, dtype=torch.bfloat16), 1900)
    axes = torch.zeros(1, 1, 12, 8, dtype=torch.bfloat16)
    axes[..., 0] = 1
    made = turned(axes, turn)[0, 0].double()
    distance = torch.arange(12.0)[:, None] - torch.arange(12.0)
    torch.testing.assert_close(made @ made.T, distance.double().cos(), rtol=0, atol=0.015)


def test_without_biases_there_is_none():
    names = [name for name, _ in Decoder(11, 16, width=24, bias=False).named_parameters()]
    assert not any("bias" in name for name in names)
    assert any("bias" in name for name, _ in Decoder(11, 16, width=24).named_parameters())


def test_a_token_changes_nothing_before_itself():
    network = decoder(torch.float32)
    tokens = torch.randint(11, (2, 16))
    logits = network(tokens)
    for i in range(16):
        changed = tokens.clone()
        changed[:, i] = (changed[:, i] + 3) % 11
        difference = (network(changed) - logits).abs().amax((0, 2))
        assert (difference[:i] == 0).all()  # exactly: a masked weight is 0, not small
        assert (difference[i:] > 0).all()  # and everything after sees it


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("parts", [[1] * 16, [5, 1, 1, 4, 5], [15, 1], [2, 14], [16]])
def test_logits_with_a_cache_equal_logits_without(dtype, tolerance, parts):
    network = decoder(dtype, scale=3.0)
    tokens = torch.randint(11, (3, 16))
    whole = network(tokens)
    cache = Cache(network, 3)
    pieces = [network(part, cache=cache) for part in tokens.split(parts, 1)]
    assert cache.length == 16
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=tolerance * whole.abs().max().item())


def test_a_cache_set_back_forgets():
    network = decoder()
    tokens, other = torch.randint(11, (2, 8)), torch.randint(11, (2, 4))
    cache = Cache(network, 2)
    network(tokens, cache=cache)
    network(other, cache=cache)
    cache.length = 8
    again = network(other.flip(1), cache=cache)
    whole = network(torch.cat([tokens, other.flip(1)], 1))
    torch.testing.assert_close(again, whole[:, 8:], rtol=0, atol=1e-11)
    cache.length = 0
    torch.testing.assert_close(network(other, cache=cache), network(other), rtol=0, atol=1e-11)


def test_initial_scales_are_those_of_gpt2():
    torch.manual_seed(0)
    depth, width = 8, 128
    network = Decoder(500, 256, depth=depth, heads=4, width=width, tied=False)
    residual = 0.02 / math.sqrt(2 * depth)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            writes = name.endswith(("attention.project.weight", "perceptron.2.weight"))
            # The standard error of a standard deviation is s / sqrt(2 N), N >= 16384 here: 5 of them are under 3 %.
            assert parameter.std().item() == pytest.approx(residual if writes else 0.02, rel=0.03), name
    assert sum(name.endswith(("project.weight", "perceptron.2.weight")) for name, _ in network.named_parameters()) == 16


def test_a_fresh_network_knows_nothing():
    torch.manual_seed(0)
    # (Where nothing is added for the position, a tied network begins by repeating its last token: 0.1 nats more.)
    logits = Decoder(65, 64, positions="learned", perceptron="gelu")(torch.randint(65, (4, 64)))
    # Logits of variance near 128 * 0.02^2 = 0.05 cost under 0.05 nats more than the uniform distribution.
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(65, (256,)))
    assert loss.item() == pytest.approx(math.log(65), abs=0.06)


def test_a_tied_decoder_has_one_matrix_and_saves_it_once():
    tied, untied = Decoder(50, 8, width=16), Decoder(50, 8, width=16, tied=False)
    count = [sum(p.numel() for p in network.parameters()) for network in (tied, untied)]
    assert count[1] - count[0] == 50 * 16
    pointers = [tensor.data_ptr() for tensor in tied.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


def test_dropout_acts_in_training_only():
    network = decoder(dropout=0.5)
    tokens = torch.randint(11, (2, 8))
    assert torch.equal(network(tokens), network(tokens))
    network.train()
    assert not torch.equal(network(tokens), network(tokens))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"heads": 5}, "multiple"),
        ({"heads": 0}, "multiple"),
        ({"depth": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"positions": "rotary", "heads": 8}, "3 is odd"),
        ({"positions": "sinusoidal", "width": 25, "heads": 5}, "25 is odd"),
    ],
)
def test_impossible_sizes_are_sentences(wrong, words):
    with pytest.raises(UserError, match=words):
        Decoder(11, 16, **{"width": 24, **wrong})
