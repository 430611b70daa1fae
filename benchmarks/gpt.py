"""GPT against what it is measured by: text without the KV cache, and nanoGPT's training loop. Ratios, side by side in one run.

    python benchmarks/gpt.py                            # the cache: the same tokens, and how much faster
    python benchmarks/gpt.py --text tinyshakespeare.txt [--steps 2000] [--seeds 0 1] [--model.positions learned ...]

The second trains nanoGPT's CPU recipe (4 layers, 4 heads, 128 wide, 64 characters, batches of 12, 2,000 updates) by a loop
written anew after nanoGPT's (Karpathy 2022: windows stacked one by one, float32, AdamW as PyTorch has it by default, rate
1e-3, 100 updates of warm-up, a cosine to 1e-4, no biases), then by `pf.train`, on one thread each. Of both networks the same
predictions are measured, a character after 1 to 64 others, on the last tenth of the text: over all of its windows that follow
on each other, and by nanoGPT's own estimate, 20 batches of 12 windows drawn at random. The seed of the training draws them,
the same for both; the standard error is the one of 240 windows.

Beside wall-clock time stands the processor's own, which other programs on the machine do not disturb.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pushforward as pf
from pushforward.data.spec import DataSpec, Vocabulary
from pushforward.models.autoregressive.transformer import GPT
from pushforward.randomness import seeded

SIZES = {"depth": 4, "heads": 4, "width": 128}
BLOCK, BATCH, ESTIMATE = 64, 12, 20
Nats = Callable[[Tensor], Tensor]  # windows (n, 65) to the nats of their last 64 characters (n, 64)


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

    def forward(self, x: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for layer in self.layers:
            h = layer(h)
        return F.cross_entropy(F.linear(self.ln(h), self.wte.weight).flatten(0, 1), y.flatten(), reduction=reduction)


def peer(train: Tensor, vocabulary: int, steps: int, seed: int) -> tuple[float, Nats]:
    """Seconds of processor for the updates, and the trained network's nats."""
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
    return spent, lambda windows: model(windows[:, :-1], windows[:, 1:], reduction="none").view(-1, BLOCK)


def ours(text: str, steps: int, seed: int, precision: str, settings: dict[str, object]) -> tuple[float, Nats, str]:
    """The same of `pf.train`, and the precision that it chose. Windows of 65, so that the last character has 64 before it."""
    data = pf.load_data(text, context=BLOCK + 1, validation=0.1, test=0.0)
    with seeded(seed), tempfile.TemporaryDirectory() as place:
        model = pf.create("gpt", data.spec, **SIZES, **settings)
        quiet = {"tensorboard": False, "picture_every": 0, "validate_every": 0, "checkpoint_every": 10**9}
        began = time.process_time()
        run = pf.train(model, data, out=f"{place}/run", steps=steps, batch_size=BATCH, seed=seed, precision=precision, **quiet)
        spent, chosen = time.process_time() - began, str(run.record["training"].get("precision"))
    return spent, lambda windows: -run.model.token_log_probs(windows)[:, 1:], chosen


def losses(nats: Nats, held_out: Tensor, seed: int) -> str:
    """Nats a character of the held-out text (N,): exactly, and by nanoGPT's estimate."""
    starts = torch.randint(len(held_out) - BLOCK, (ESTIMATE * BATCH,), generator=torch.Generator().manual_seed(seed))
    windows = held_out.unfold(0, BLOCK + 1, 1)
    with torch.inference_mode():
        exact, drawn = (
            torch.cat([nats(part).double().mean(1) for part in chosen.split(64)])
            for chosen in (windows[::BLOCK], windows[starts])
        )
    return f"{exact.mean():.4f} nats (nanoGPT's estimate {drawn.mean():.4f} +- {drawn.std() / len(drawn) ** 0.5:.4f})"


def training(options: argparse.Namespace, settings: dict[str, object]) -> None:
    """Tokens a second of processor and held-out loss of both, seed by seed."""
    torch.set_num_threads(1)
    text = Path(options.text).read_text(encoding="utf-8")
    table = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([table[character] for character in text])
    cut = int(0.9 * len(ids))
    seen = options.steps * BATCH * BLOCK
    for seed in options.seeds:
        pace = math.nan
        if options.peer:
            spent, nats = peer(ids[:cut], len(table), options.steps, seed)
            pace = seen / spent
            print(f"seed {seed}: peer {pace:.0f} tokens/s, {losses(nats, ids[cut:], seed)}", flush=True)
        spent, nats, precision = ours(options.text, options.steps, seed, options.precision, settings)
        print(
            f"seed {seed}: ours {seen / spent:.0f} tokens/s ({seen / spent / pace:.2f} times, {precision}), "
            f"{losses(nats, ids[cut:], seed)} {settings or ''}",
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
