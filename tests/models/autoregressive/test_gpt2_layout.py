"""GPT-2's files: the same logits as an independent GPT-2 and as `transformers`' own, both ways, and what is refused."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from pushforward.data.spec import Condition, DataSpec, Vocabulary
from pushforward.errors import UserError
from pushforward.models.autoregressive.gpt2 import load_gpt2, save_gpt2
from pushforward.models.autoregressive.transformer import GPT

V, C, D, L, H = 31, 12, 24, 2, 3
CONFIG = {
    "model_type": "gpt2",
    "vocab_size": V,
    "n_positions": C,
    "n_embd": D,
    "n_layer": L,
    "n_head": H,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 30,
}
SPEC = DataSpec("tokens", (C,), vocabulary=Vocabulary("codes", V))
BPE = Vocabulary("bpe", V, tokenizer='{"model": {}}')


def gpt2_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the published names, matrices as (in, out)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=0.3, shift=0.0):
        return scale * torch.randn(shape, generator=generator) + shift

    tensors = {"wte.weight": draw(V, D), "wpe.weight": draw(C, D), "ln_f.weight": draw(D, shift=1.0), "ln_f.bias": draw(D)}
    for i in range(L):
        for name, into, out in (
            ("attn.c_attn", D, 3 * D),
            ("attn.c_proj", D, D),
            ("mlp.c_fc", D, 4 * D),
            ("mlp.c_proj", 4 * D, D),
        ):
            tensors[f"h.{i}.{name}.weight"], tensors[f"h.{i}.{name}.bias"] = draw(into, out), draw(out)
        for name in ("ln_1", "ln_2"):
            tensors[f"h.{i}.{name}.weight"], tensors[f"h.{i}.{name}.bias"] = draw(D, shift=1.0), draw(D)
    return tensors


def gpt2(w: dict[str, torch.Tensor], ids: torch.Tensor, heads: int = H, exact: bool = False) -> torch.Tensor:
    """GPT-2's forward pass by the published layout, in float64, head by head and nothing shared with the library."""
    w = {name: tensor.double() for name, tensor in w.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def conv1d(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    n = ids.shape[1]
    h = w["wte.weight"][ids] + w["wpe.weight"][:n]
    size = h.shape[-1] // heads
    for i in range(sum(name.endswith("ln_1.weight") for name in w)):
        a = norm(h, f"h.{i}.ln_1")
        q, k, v = conv1d(a, f"h.{i}.attn.c_attn").chunk(3, -1)
        mixed = []
        for j in range(heads):
            part = slice(j * size, (j + 1) * size)
            s = q[..., part] @ k[..., part].mT / math.sqrt(size)
            s = s.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
            mixed.append(s.softmax(-1) @ v[..., part])
        h = h + conv1d(torch.cat(mixed, -1), f"h.{i}.attn.c_proj")
        u = conv1d(norm(h, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        phi = torch.special.ndtr(u) if exact else 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        h = h + conv1d(u * phi, f"h.{i}.mlp.c_proj")
    return norm(h, "ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T


def place(directory, tensors=None, config=None, prefix=""):
    directory.mkdir(exist_ok=True)
    tensors = gpt2_tensors() if tensors is None else tensors
    save_file({prefix + name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    return directory


def scores(model: GPT, x: torch.Tensor) -> torch.Tensor:
    """Logits of the first token and of those after each of x."""
    return model.network(x, first=model._begin(len(x), None))


def trained(**options) -> GPT:
    """A model whose begin vector and biases are its own."""
    torch.manual_seed(3)
    model = GPT(SPEC, depth=L, heads=H, width=D, **{"positions": "learned", "perceptron": "gelu", **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


TEXT = torch.randint(V, (4, C - 1), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_read_weights_give_the_logits_of_gpt2(tmp_path, prefix):
    tensors = gpt2_tensors()
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, C, C).tril() for i in range(L)} | {"h.0.attn.masked_bias": torch.tensor(-1e4)}
    model = load_gpt2(place(tmp_path / "a", tensors | masks, prefix=prefix))
    ids = torch.cat([torch.full((4, 1), 30), TEXT], 1)
    expected = gpt2(tensors, ids)
    assert expected.std() > 1  # far from nothing
    torch.testing.assert_close(scores(model, TEXT).double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(scores(model.double(), TEXT), expected, rtol=0, atol=1e-11)
    log_prob = expected[:, :-1].log_softmax(-1).gather(2, TEXT[..., None]).sum((1, 2))
    torch.testing.assert_close(model.log_prob(TEXT).value, log_prob, rtol=0, atol=1e-10)
    assert model.spec.shape == (C,) and model.spec.vocabulary == Vocabulary("codes", V)


def test_a_file_of_half_precision_and_one_with_a_second_copy_of_the_tied_matrix(tmp_path):
    tensors = {name: tensor.half() for name, tensor in gpt2_tensors().items()}
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    model = load_gpt2(place(tmp_path / "a", tensors) / "model.safetensors", SPEC, dropout=0.1)
    assert model.network.scores is None and model.network.drop.p == 0.1 and model.begin.dtype == torch.float32
    ids = torch.cat([torch.full((4, 1), 30), TEXT], 1)
    torch.testing.assert_close(scores(model.double().eval(), TEXT), gpt2(tensors, ids), rtol=0, atol=1e-11)


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"bias": False}, {"perceptron": "gelu-tanh"}])
def test_written_weights_give_our_logits_by_gpt2_and_come_back(tmp_path, options):
    model = trained(**options)
    save_gpt2(model, tmp_path)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["vocab_size"], config["bos_token_id"]) == (V + 1, V)  # its own begin vector is a further row
    exact = options.get("perceptron") != "gelu-tanh"
    assert config["activation_function"] == ("gelu" if exact else "gelu_new")
    found = gpt2(tensors, torch.cat([torch.full((4, 1), V), TEXT], 1), exact=exact)
    torch.testing.assert_close(found[..., :V], scores(model.double(), TEXT), rtol=0, atol=1e-11)
    assert json.loads((tmp_path / "generation_config.json").read_text())["suppress_tokens"] == [V]
    again = load_gpt2(tmp_path, SPEC)
    torch.testing.assert_close(scores(again.double(), TEXT), scores(model, TEXT), rtol=0, atol=1e-12)
    assert again.vocabulary == V and torch.equal(again.begin, model.begin)


def test_a_model_of_gpt2_is_written_as_it_was_read(tmp_path):
    tensors = gpt2_tensors()
    save_gpt2(load_gpt2(place(tmp_path / "a", tensors)), tmp_path / "b")
    back = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / "b" / "model.safetensors").items()
    }
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert {key: config[key] for key in CONFIG} == CONFIG


def test_texts_begin_and_end_with_the_same_token(tmp_path):
    """GPT-2 has one token for both, whose row is the begin vector: in both files, read by generation."""
    for name, model, token in (("read", load_gpt2(place(tmp_path / "a")), 30), ("own", trained(), V)):
        directory = save_gpt2(model, tmp_path / name)
        for file in ("config.json", "generation_config.json"):
            said = json.loads((directory / file).read_text())
            assert (said["bos_token_id"], said["eos_token_id"]) == (token, token), file


def test_a_tokenizer_travels(tmp_path):
    place(tmp_path / "a")
    (tmp_path / "a" / "tokenizer.json").write_text(BPE.tokenizer)
    model = load_gpt2(tmp_path / "a")
    assert model.spec.vocabulary == BPE
    save_gpt2(model, tmp_path / "b")
    assert load_gpt2(tmp_path / "b").spec == model.spec


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_transformers(tmp_path, tied):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {key: CONFIG[key] for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "bos_token_id")}
    config = transformers.GPT2Config(**sizes, eos_token_id=30, initializer_range=0.2, tie_word_embeddings=tied)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_gpt2(tmp_path / "theirs")
    ids = torch.cat([torch.full((4, 1), 30), TEXT], 1)
    with torch.no_grad():
        expected = theirs(ids).logits
        assert expected.std() > 0.5
        torch.testing.assert_close(scores(ours, TEXT), expected, rtol=0, atol=1e-4)
        model = trained(tied=tied)
        again = transformers.GPT2LMHeadModel.from_pretrained(save_gpt2(model, tmp_path / "ours")).eval()
        found = again(torch.cat([torch.full((4, 1), V), TEXT], 1)).logits
    torch.testing.assert_close(found[..., :V], scores(model, TEXT), rtol=0, atol=1e-4)


def changed(**updates) -> dict[str, torch.Tensor]:
    tensors = gpt2_tensors()
    for name, change in updates.items():
        tensors[name.replace("__", ".")] = change(tensors.get(name.replace("__", "."), torch.zeros(1)))
    return tensors


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        (changed(h__0__attn__c_attn__weight=lambda t: t.T), {}, "transposed"),
        (changed(h__1__mlp__c_fc__weight=lambda t: t.T), {}, "transposed"),
        (changed(wte__weight=lambda t: torch.cat([t, t[:1]])), {}, r"\(32, 24\)"),  # padded
        (changed(wpe__weight=lambda t: t[:-1]), {}, r"wpe\.weight"),
        (changed(h__2__ln_1__weight=lambda t: t), {}, r"holds h\.2\.ln_1"),
        (changed(lm_head__weight=lambda t: torch.ones(V, D)), {}, "holds lm_head"),
        ({name: t for name, t in gpt2_tensors().items() if "ln_f" not in name}, {}, r"lacks ln_f\.bias \(2 tensors"),
        (None, {"n_layer": 3}, "lacks h.2"),
        (None, {"activation_function": "relu"}, "activation_function"),
        (None, {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
        (None, {"layer_norm_epsilon": 1e-6}, "epsilon"),
        (None, {"n_inner": 48}, "n_inner"),
        (None, {"n_head": 5}, "multiple"),
        (None, {"model_type": "llama"}, "llama"),
        (None, {"n_embd": "24"}, "n_embd"),
        (None, {"bos_token_id": 31}, "bos_token_id"),
        (None, {"bos_token_id": None}, "bos_token_id"),
        (None, {"tie_word_embeddings": False}, "lacks lm_head"),
    ],
)
def test_files_that_are_not_gpt2_are_sentences(tmp_path, tensors, config, words):
    with pytest.raises(UserError, match=words):
        load_gpt2(place(tmp_path / "a", tensors, config))


def test_pickles_and_other_mistakes_are_sentences(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    for path in (tmp_path / "old", tmp_path / "old" / "pytorch_model.bin"):
        with pytest.raises(UserError, match=r"pickle.*save_pretrained"):
            load_gpt2(path)
    with pytest.raises(UserError, match="no file of weights"):
        load_gpt2(tmp_path / "nowhere")
    good = place(tmp_path / "good")
    with pytest.raises(UserError, match="31 tokens"):
        load_gpt2(good, DataSpec("tokens", (C,), vocabulary=Vocabulary("codes", 30)))
    with pytest.raises(UserError, match="condition"):
        load_gpt2(good, DataSpec("tokens", (C,), Condition("class", 3), vocabulary=Vocabulary("codes", V)))
    (good / "model.safetensors").write_bytes(b"not so")
    with pytest.raises(UserError, match="cut off"):
        load_gpt2(good)
    (good / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        load_gpt2(good)


@pytest.mark.parametrize(
    "options", [{"positions": "rotary"}, {"positions": "sinusoidal"}, {"norm": "rms"}, {"perceptron": "swiglu"}]
)
def test_what_gpt2_has_not_is_not_written(tmp_path, options):
    with pytest.raises(UserError, match=next(iter(options.values()))):
        save_gpt2(trained(**options), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_with_a_condition_is_not_written(tmp_path):
    spec = DataSpec("tokens", (C,), Condition("class", 3), vocabulary=Vocabulary("codes", V))
    with pytest.raises(UserError, match="condition"):
        save_gpt2(GPT(spec, depth=1, heads=2, width=16), tmp_path)
