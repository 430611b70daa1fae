"""GPT-2's weight layout, as `transformers` keeps it: config.json and model.safetensors in a directory.

A `GPT` sees a begin vector b at position 0 and token i at position i + 1. GPT-2 has no such vector; its texts begin with a
token of its own (`<|endoftext|>`, `bos_token_id` in config.json). So the two are one network, with the same positions, when b
is the embedding of that token:

    GPT(x_0 .. x_{n-1}) = GPT-2(bos, x_0 .. x_{n-1}),    b = wte[bos].

Read, b becomes that row of `wte`. Written, b is that row again where it still is one; where it is not (a model that learned its
own), it becomes a further row of `wte`, numbered V, behind the V tokens: the first V logits are then those of `GPT`, and the
last one, of a token that no text has, is to be left out (`suppress_tokens` in generation_config.json says so).

GPT-2 stores the matrix of a linear map as (in, out), `nn.Linear` as (out, in): all four of a block are transposed.

Radford et al. 2019, Language models are unsupervised multitask learners.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.artefacts import read_json, write_bytes, write_json
from pushforward.data.spec import DataSpec, Vocabulary
from pushforward.errors import UserError
from pushforward.models.autoregressive.transformer import GPT
from pushforward.nets.transformer import EPS, Perceptron

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
APART = "pushforward_begin_apart"  # in config.json: the last row of wte is a begin vector and no token

PARTS = {
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.project",
    "ln_2": "norm2",
    "mlp.c_fc": "perceptron.0",
    "mlp.c_proj": "perceptron.2",
}
"""Of a block: GPT-2's names and ours."""

GELUS: dict[str, Perceptron] = {"gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh", "gelu": "gelu"}
"""Perceptrons, by GPT-2's `activation_function`."""

FIXED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "activation_function": ("gelu_new", tuple(GELUS)),
    "layer_norm_epsilon": (EPS, (EPS,)),
    "scale_attn_weights": (True, (True,)),
    "scale_attn_by_inverse_layer_idx": (False, (False,)),
    "add_cross_attention": (False, (False,)),
}
"""What config.json may say that the network has in one way only: what it means where it is not said, and what it can be."""


def load_gpt2(source: str | Path, spec: DataSpec | None = None, **settings: Any) -> GPT:
    """The model in a directory with config.json and model.safetensors, or in a .safetensors file beside its config.json.

    spec: of tokens, with a vocabulary as large as the file's; None: sequences as long as the context, of the tokens of
    tokenizer.json where it is there, of bare numbers where it is not. settings: of `GPT` beside those that the file gives
    (dropout, learning_rate, weight_decay).

    Raises UserError for pickles, for a network that is not GPT-2's, and for tensors missing, unknown or of other shapes.
    """
    weights = _weights_file(Path(source))
    config = read_json(weights.with_name(CONFIG))
    depth, heads, width, context, rows = _sizes(config, weights.with_name(CONFIG))
    tensors = _read(weights)
    tied = config.get("tie_word_embeddings", True)
    named = {"wte.weight": (rows, width), "wpe.weight": (context, width), "ln_f.weight": (width,), "ln_f.bias": (width,)}
    if not tied:
        named["lm_head.weight"] = (rows, width)
    elif "lm_head.weight" in tensors and torch.equal(tensors["lm_head.weight"], tensors.get("wte.weight", torch.empty(0))):
        del tensors["lm_head.weight"]
    for i in range(depth):
        for part, (into, out) in _shapes(width).items():
            named[f"h.{i}.{part}.weight"] = (into, out) if into else (out,)
            named[f"h.{i}.{part}.bias"] = (out,)
    _check(tensors, named, weights)
    begin, apart = config.get("bos_token_id"), bool(config.get(APART, False))
    if not isinstance(begin, int) or not 0 <= begin < rows:
        raise UserError(
            f"config.json says bos_token_id = {begin}, the token that texts begin with; give one of 0 to {rows - 1} there."
        )
    size = rows - 1 if apart else rows
    spec = _spec(weights.with_name(TOKENIZER), size, context) if spec is None else spec
    if spec.vocabulary is None or spec.vocabulary.size != size:
        given = "none" if spec.vocabulary is None else f"{spec.vocabulary.size} tokens"
        raise UserError(
            f"the vocabulary of '{weights}' has {size} tokens, that of '{spec.name}' {given}; they must be the same."
        )
    if spec.condition is not None:
        raise UserError(f"'{spec.name}' comes with a condition, and GPT-2 knows none; load the data without it.")
    perceptron = GELUS[config.get("activation_function", "gelu_new")]
    sizes = {"depth": depth, "heads": heads, "width": width, "context": context, "tied": tied}
    model = GPT(spec, **sizes, positions="learned", perceptron=perceptron, **settings)
    assert isinstance(model.begin, nn.Parameter)
    state = {
        "begin": tensors["wte.weight"][begin],
        "network.tokens.weight": tensors["wte.weight"][:size],
        "network.positions.weight": tensors["wpe.weight"],
    }
    if not tied:
        state["network.scores.weight"] = tensors["lm_head.weight"][:size]
    for theirs, ours in _names(depth).items():
        for kind in ("weight", "bias"):
            tensor = tensors[f"{theirs}.{kind}"]
            state[f"network.{ours}.{kind}"] = tensor.T if tensor.dim() == 2 else tensor
    model.load_state_dict(state)
    return model


def save_gpt2(model: GPT, directory: str | Path) -> Path:
    """Writes config.json and model.safetensors (and tokenizer.json, where the tokens are a BPE's) into a directory.

    Raises UserError for what GPT-2 does not have: conditions, other positions, norms or perceptrons.
    """
    network, directory = model.network, Path(directory)
    if not isinstance(model.begin, nn.Parameter):
        raise UserError("this model is given a condition, which GPT-2's layout has no place for; train it without one.")
    gelus = [module.approximate for module in network.modules() if isinstance(module, nn.GELU)]
    other = [
        option
        for option, same in {
            f"positions={network.kind}": network.kind == "learned",
            "norm=rms": isinstance(network.norm, nn.LayerNorm),
            "perceptron=swiglu": gelus,
        }.items()
        if not same
    ]
    if other:
        raise UserError(
            f"GPT-2 has no {', no '.join(other)}; a model for its layout has positions=learned, norm=layer and perceptron=gelu."
        )
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tokens, begin = state["network.tokens.weight"], state["begin"]
    same = (tokens == begin).all(1).nonzero()
    apart = not len(same)
    tensors = {"wte.weight": tokens, "wpe.weight": state["network.positions.weight"]}
    if apart:
        tensors["wte.weight"] = torch.cat([tokens, begin[None]])
    if network.scores is not None:
        scores = state["network.scores.weight"]
        tensors["lm_head.weight"] = torch.cat([scores, torch.zeros_like(scores[:1])]) if apart else scores
    for theirs, ours in _names(network.depth).items():
        weight = state[f"network.{ours}.weight"]
        tensors[f"{theirs}.weight"] = weight.T if weight.dim() == 2 else weight
        tensors[f"{theirs}.bias"] = state.get(f"network.{ours}.bias", torch.zeros(len(weight)).to(weight))
    first = model.vocabulary if apart else int(same[0])
    rows, width = tensors["wte.weight"].shape
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": rows,
        "n_positions": network.context,
        "n_embd": width,
        "n_layer": network.depth,
        "n_head": network.heads,
        "n_inner": None,
        **{name: usual for name, (usual, _) in FIXED.items()},
        "activation_function": "gelu" if gelus[0] == "none" else "gelu_new",
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), network.drop.p),
        "tie_word_embeddings": network.scores is None,
        "bos_token_id": first,
        "eos_token_id": first,
        APART: apart,
    }
    from safetensors.torch import save

    prefixed = {name if name.startswith("lm_head") else f"transformer.{name}": t.contiguous() for name, t in tensors.items()}
    write_bytes(directory / WEIGHTS, save(prefixed, metadata={"format": "pt"}))
    write_json(directory / CONFIG, config)
    generation = {"bos_token_id": first, "eos_token_id": first, **({"suppress_tokens": [first]} if apart else {})}
    write_json(directory / "generation_config.json", generation)
    if model.spec.vocabulary is not None and model.spec.vocabulary.kind == "bpe":
        write_bytes(directory / TOKENIZER, model.spec.vocabulary.tokenizer.encode())
    return directory


def _shapes(width: int) -> dict[str, tuple[int, int]]:
    """In and out of each part of a block, (0, width) of a norm."""
    sizes = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width)}
    sizes |= {"mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}
    return {part: sizes.get(part, (0, width)) for part in PARTS}


def _names(depth: int) -> dict[str, str]:
    """GPT-2's names of all parts with a weight and a bias, and ours."""
    blocks = {f"h.{i}.{theirs}": f"blocks.{i}.{ours}" for i in range(depth) for theirs, ours in PARTS.items()}
    return {**blocks, "ln_f": "norm"}


def _weights_file(source: Path) -> Path:
    """The file with the weights, or a sentence."""
    path = source / WEIGHTS if source.is_dir() else source
    pickles = sorted(source.glob("*.bin")) if source.is_dir() and not path.is_file() else []
    if pickles or path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise UserError(
            f"'{pickles[0] if pickles else path}' is a pickle, which can run any code when it is read; where you trust it, "
            'write it anew with transformers: GPT2LMHeadModel.from_pretrained(DIRECTORY).save_pretrained("converted").'
        )
    if not path.is_file() or path.suffix != ".safetensors":
        raise UserError(
            f"'{path}' is no file of weights; give a .safetensors file, or a directory with {WEIGHTS} and {CONFIG}."
        )
    return path


def _sizes(config: Any, path: Path) -> tuple[int, int, int, int, int]:
    """n_layer, n_head, n_embd, n_positions, vocab_size; a UserError where they do not make a GPT-2."""
    if not isinstance(config, dict) or config.get("model_type", "gpt2") != "gpt2":
        kind = config.get("model_type") if isinstance(config, dict) else config
        raise UserError(f"'{path}' describes a model of type {kind!r}; GPT-2's is 'gpt2'.")
    for name, (usual, valid) in FIXED.items():
        if (given := config.get(name, usual)) not in valid:
            raise UserError(f"'{path}' says {name} = {given}; this network has {' or '.join(map(str, valid))} only.")
    keys = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    wrong = [key for key in keys if not isinstance(config.get(key), int) or config[key] < 1]
    if wrong:
        raise UserError(f"'{path}' says {wrong[0]} = {config.get(wrong[0])}; a whole number of at least 1 was expected.")
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        raise UserError(f"'{path}' says n_inner = {config['n_inner']}; this network's perceptrons are 4 n_embd wide.")
    return config["n_layer"], config["n_head"], config["n_embd"], config["n_positions"], config["vocab_size"]


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in float32, by names without `transformer.`, but the masks that old files keep among the weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{path}' cannot be read as safetensors ({error}); it may be cut off.") from error
    plain = {name.removeprefix("transformer."): tensor.float() for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in plain.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}


def _check(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    """A UserError for a name or a shape that is not GPT-2's."""
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise UserError(
            f"'{path}' lacks {missing[0]} ({len(missing)} tensors in all); its config.json may be of another model."
        )
    if unknown:
        raise UserError(f"'{path}' holds {unknown[0]}, which GPT-2 with this config.json has not; it may be of another model.")
    for name, shape in expected.items():
        found = tuple(tensors[name].shape)
        if found != shape:
            turned = "; matrices are (in, out) in this layout, so it is transposed" if found == shape[::-1] else ""
            raise UserError(f"{name} of '{path}' has shape {found}, config.json asks for {shape}{turned}.")


def _spec(tokenizer: Path, size: int, context: int) -> DataSpec:
    """Sequences as long as the context, of the tokenizer's tokens where there is one."""
    if tokenizer.is_file():
        vocabulary = Vocabulary("bpe", size, tokenizer=tokenizer.read_text(encoding="utf-8"))
    else:
        vocabulary = Vocabulary("codes", size)
    return DataSpec("tokens", (context,), vocabulary=vocabulary, name="gpt2")
