"""The decoder: causality, the cache, an independent implementation, and GPT-2's initialisation."""

import math

import pytest
import torch

from pushforward.errors import UserError
from pushforward.nets.transformer import Decoder


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


def reference(network: Decoder, tokens, first=None):
    """GPT-2's equations by plain tensor operations on the weights."""
    w = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return torch.einsum("bti,oi->bto", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    h = w["tokens.weight"][tokens]
    if first is not None:
        h = torch.cat([first, h], 1)
    length, width = h.shape[1:]
    h = h + w["positions.weight"][torch.arange(length)]
    for i in range(network.depth):
        at = f"blocks.{i}"
        q, k, v = linear(norm(h, f"{at}.norm1"), f"{at}.attention.qkv").split(width, -1)
        heads, size = network.blocks[i].attention.heads, width // network.blocks[i].attention.heads
        out = []
        for j in range(heads):
            part = slice(j * size, (j + 1) * size)
            scores = torch.einsum("bqd,bkd->bqk", q[..., part], k[..., part]) / math.sqrt(size)
            future = torch.arange(length)[None, :] > torch.arange(length)[:, None]
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            out.append(torch.einsum("bqk,bkd->bqd", weights, v[..., part]))
        h = h + linear(torch.cat(out, -1), f"{at}.attention.project")
        u = linear(norm(h, f"{at}.norm2"), f"{at}.perceptron.0")
        gelu = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        h = h + linear(gelu, f"{at}.perceptron.2")
    scores = w["tokens.weight"] if network.scores is None else w["scores.weight"]
    return torch.einsum("btw,kw->btk", norm(h, "norm"), scores)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("prefixed", [0, 2])
def test_logits_equal_an_independent_implementation(tied, prefixed):
    network = decoder(tied=tied)
    tokens = torch.randint(11, (3, 14))
    first = torch.randn(3, prefixed, 24, dtype=torch.float64) if prefixed else None
    torch.testing.assert_close(network(tokens, first=first)[0], reference(network, tokens, first), rtol=0, atol=1e-11)


def test_a_token_changes_nothing_before_itself():
    network = decoder(torch.float32)
    tokens = torch.randint(11, (2, 16))
    logits, _ = network(tokens)
    for i in range(16):
        changed = tokens.clone()
        changed[:, i] = (changed[:, i] + 3) % 11
        difference = (network(changed)[0] - logits).abs().amax((0, 2))
        assert (difference[:i] == 0).all()  # exactly: a masked weight is 0, not small
        assert (difference[i:] > 0).all()  # and everything after sees it


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("parts", [[1] * 16, [5, 1, 1, 4, 5], [15, 1], [2, 14], [16]])
def test_logits_with_a_cache_equal_logits_without(dtype, tolerance, parts):
    network = decoder(dtype, scale=3.0)
    tokens = torch.randint(11, (3, 16))
    whole, _ = network(tokens)
    cache, pieces = None, []
    for part in tokens.split(parts, 1):
        logits, cache = network(part, cache=cache)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=tolerance * whole.abs().max().item())


def test_one_cache_can_be_continued_in_several_ways():
    network = decoder()
    tokens, other = torch.randint(11, (2, 8)), torch.randint(11, (2, 4))
    _, cache = network(tokens)
    before = [(key.clone(), value.clone()) for key, value in cache]
    network(other, cache=cache)
    again, _ = network(other.flip(1), cache=cache)
    whole, _ = network(torch.cat([tokens, other.flip(1)], 1))
    torch.testing.assert_close(again, whole[:, 8:], rtol=0, atol=1e-11)
    for (key, value), (key0, value0) in zip(cache, before, strict=True):
        assert torch.equal(key, key0) and torch.equal(value, value0)


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
    logits, _ = Decoder(65, 64)(torch.randint(65, (4, 64)))
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
    assert torch.equal(network(tokens)[0], network(tokens)[0])
    network.train()
    assert not torch.equal(network(tokens)[0], network(tokens)[0])


@pytest.mark.parametrize("wrong", [{"heads": 5}, {"heads": 0}, {"depth": 0}, {"dropout": 1.0}])
def test_impossible_sizes_are_sentences(wrong):
    with pytest.raises(UserError):
        Decoder(11, 16, **{"width": 24, **wrong})
