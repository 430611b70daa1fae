"""GPT against what it is measured by: text without the KV cache, and nanoGPT's training loop. Ratios, side by side in one run.

    python benchmarks/gpt.py                            # the cache: the same tokens, and how much faster
    python benchmarks/gpt.py --text tinyshakespeare.txt [--steps 2000] [--seeds 0 1] [--model.positions learned ...]

The second trains nanoGPT's CPU recipe (4 layers, 4 heads, 128 wide, 64 characters, batches of 12, 2,000 updates) by a loop
written anew after nanoGPT's (Karpathy 2022: windows stacked one by one, float32, AdamW as PyTorch has it by default, rate
1e-3, 100 updates of warm-up, a cosine to 1e-4, no biases), then by `pf.train`, on one thread each. Both losses are of the same
predictions: a character after 1 to 64 others, over all windows of the last tenth of the text that follow on each other.

Beside wall-clock time stands the processor's own, which other programs on the machine do not disturb.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pushforward as pf
from pushforward.data.spec import DataSpec, Vocabulary
from pushforward.models.autoregressive.transformer import GPT
from pushforward.randomness import seeded

SIZES = {"depth": 4, "heads": 4, "width": 128}
BLOCK, BATCH = 64, 12


def timed(model: GPT, rows: int, length: int, cache: bool) -> tuple[float, float, Tensor]:
    """Seconds on the wall, seconds of processor, and the tokens."""
    wall, processor = time.perf_counter(), time.process_time()
    tokens = model.sample(rows, length=length, generator=0, cache=cache)
    return time.perf_counter() - wall, time.process_time() - processor, tokens


def caching(options: argparse.Namespace) -> None:
    """Tokens a second with the cache and without."""
    characters = tuple(map(chr, range(32, 32 + options.vocabulary)))
    spec = DataSpec("tokens", (options.context,), vocabulary=Vocabulary("characters", options.vocabulary, characters))
    torch.manual_seed(0)
    model = GPT(spec, depth=options.depth, heads=options.heads, width=options.width)
    timed(model, 1, 8, True)
    print(f"{'rows':>5} {'length':>7} {'cached tok/s':>13} {'uncached tok/s':>15} {'ratio':>6} {'(processor)':>12}  same text")
    for rows in options.rows:
        for length in options.lengths:
            fast, slow = timed(model, rows, length, True), timed(model, rows, length, False)
            print(
                f"{rows:>5} {length:>7} {rows * length / fast[0]:>13.0f} {rows * length / slow[0]:>15.0f} "
                f"{slow[0] / fast[0]:>6.1f} {slow[1] / fast[1]:>12.1f}  {torch.equal(fast[2], slow[2])}"
            )


class Layer(nn.Module):
    """One block of the peer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.attend, self.join = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, c // self.heads).transpose(1, 2) for part in self.attend(self.ln_1(x)).split(c, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.join(y.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.down(F.gelu(self.up(self.ln_2(x))))


class Peer(nn.Module):
    """nanoGPT's network: every position but the first sees what is before it, and nothing stands before the first."""

    def __init__(self, vocabulary: int, depth: int, heads: int, width: int):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(BLOCK, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.ln = nn.LayerNorm(width, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.normal_(
                    weight, std=0.02 / math.sqrt(2 * depth) if name.endswith(("join.weight", "down.weight")) else 0.02
                )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for layer in self.layers:
            h = layer(h)
        return F.cross_entropy(F.linear(self.ln(h), self.wte.weight).flatten(0, 1), y.flatten())


def peer(train: Tensor, held_out: Tensor, vocabulary: int, steps: int, seed: int) -> tuple[float, float]:
    """Seconds of processor for the updates, and the loss on the held-out windows (n, 65)."""
    torch.manual_seed(seed)
    model = Peer(vocabulary, **SIZES)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    began = time.process_time()
    for step in range(steps):
        fall = 0.5 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100)))
        rate = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + fall * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(train) - BLOCK, (BATCH,))
        x = torch.stack([train[i : i + BLOCK] for i in starts])
        y = torch.stack([train[i + 1 : i + 1 + BLOCK] for i in starts])
        loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    spent = time.process_time() - began
    with torch.no_grad():
        return spent, sum(model(p[:, :-1], p[:, 1:]).item() * len(p) for p in held_out.split(64)) / len(held_out)


def ours(
    text: str, held_out: Tensor, steps: int, seed: int, precision: str, settings: dict[str, object]
) -> tuple[float, float, str]:
    """The same of `pf.train`, and the precision that it chose. Windows of 65, so that the last character has 64 before it."""
    data = pf.load_data(text, context=BLOCK + 1, validation=0.1, test=0.0)
    with seeded(seed), tempfile.TemporaryDirectory() as place:
        model = pf.create("gpt", data.spec, **SIZES, **settings)
        quiet = {"tensorboard": False, "picture_every": 0, "validate_every": 0, "checkpoint_every": 10**9}
        began = time.process_time()
        run = pf.train(model, data, out=f"{place}/run", steps=steps, batch_size=BATCH, seed=seed, precision=precision, **quiet)
        spent, chosen = time.process_time() - began, str(run.record["training"].get("precision"))
        with torch.inference_mode():
            total = sum(run.model.token_log_probs(part)[:, 1:].double().mean(1).sum().item() for part in held_out.split(64))
    return spent, -total / len(held_out), chosen


def training(options: argparse.Namespace, settings: dict[str, object]) -> None:
    """Tokens a second of processor and held-out loss of both, seed by seed."""
    torch.set_num_threads(1)
    text = Path(options.text).read_text(encoding="utf-8")
    table = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([table[character] for character in text])
    cut = int(0.9 * len(ids))
    held_out = ids[cut:].unfold(0, BLOCK + 1, BLOCK)
    seen = options.steps * BATCH * BLOCK
    for seed in options.seeds:
        pace = math.nan
        if options.peer:
            spent, loss = peer(ids[:cut], held_out, len(table), options.steps, seed)
            pace = seen / spent
            print(f"seed {seed}: peer {pace:.0f} tokens/s, {loss:.4f} nats", flush=True)
        spent, loss, precision = ours(options.text, held_out, options.steps, seed, options.precision, settings)
        print(
            f"seed {seed}: ours {seen / spent:.0f} tokens/s ({seen / spent / pace:.2f} times, {precision}), {loss:.4f} nats "
            f"{settings or ''}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"context": 256, "width": 128, "depth": 4, "heads": 4, "vocabulary": 65}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--text", help="train on this file instead")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--peer", type=int, default=1, help="0: leave the peer's training out")
    options, rest = parser.parse_known_args()
    if options.text:
        words = dict(zip(rest[::2], rest[1::2], strict=True))
        training(options, {key.removeprefix("--model."): value if value != "false" else False for key, value in words.items()})
    else:
        caching(options)


if __name__ == "__main__":
    main()
