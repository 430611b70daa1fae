"""Text with the KV cache and without: the same tokens, and how much faster (ratios, measured side by side in one run).

    python benchmarks/gpt.py [--context 256] [--width 128] [--depth 4] [--rows 1 16] [--lengths 64 256 512]

Beside wall-clock time stands the processor's own, which other programs on the machine do not disturb.
"""

from __future__ import annotations

import argparse
import time

import torch

from pushforward.data.spec import DataSpec, Vocabulary
from pushforward.models.autoregressive.transformer import GPT


def timed(model: GPT, rows: int, length: int, cache: bool) -> tuple[float, float, torch.Tensor]:
    """Seconds on the wall, seconds of processor, and the tokens."""
    wall, processor = time.perf_counter(), time.process_time()
    tokens = model.sample(rows, length=length, generator=0, cache=cache)
    return time.perf_counter() - wall, time.process_time() - processor, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"context": 256, "width": 128, "depth": 4, "heads": 4, "vocabulary": 65}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 512])
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
