"""Flows of tables beside zuko's: the same transforms, widths, batches and updates, in one run.

    python benchmarks/flows.py TABLE.csv ... [--flows nsf maf] [--steps 2000]        # pip install zuko

Both learn the same rows of a table's numbers, in units of their deviations; what is a whole number, or takes few values, is
spread over its unit first by the same uniform noise, as a density of points has no largest value. 80 % are trained on and 10 %
measured, once, at the end. Zuko's flow is trained as its documentation does it, by Adam, with the same rate and schedule.

Speeds are of processor time, in short runs of both by turns: the median update of each one's quickest run, as neighbours in
the same caches only slow. The library's updates are those of `pf.train`, with all that it does in each (reading data, averaged
weights, records, checks).
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import pushforward as pf
from pushforward.data.batches import ArraySplit, Data, Split

RATE, BATCH = 1e-3, 512
TRANSFORMS, WIDTH, DEPTH, BINS = 5, 128, 2, 8
ROUNDS, ROUND = 4, 60  # of speed, and updates in each


class Clocked(ArraySplit):
    """Notes the processor time whenever a batch is asked for: that is once an update."""

    def fetch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        times.append(time.process_time())
        return super().fetch(indices)


times: list[float] = []


def rate() -> float:
    """Updates a second of processor time, by the median of the updates noted so far; forgets them."""
    found = 1 / float(np.median(np.diff(times)))
    times.clear()
    return found


def numbers(path: Path) -> Data:
    """A table's numeric columns as points, in units of their deviations."""
    x = pd.read_csv(path).select_dtypes("number").to_numpy(np.float64)
    rng = np.random.default_rng(0)
    for column in x.T:
        values = np.unique(column)
        if len(values) < len(x) / 20 or (values == values.round()).all():
            column += np.median(np.diff(values)) * (rng.random(len(x)) - 0.5)
    return pf.load_data(((x - x.mean(0)) / x.std(0)).astype(np.float32), validation=0.1, test=0.1)


def rows(split: Split | None) -> Tensor:
    """All of a split."""
    assert isinstance(split, ArraySplit)
    return split.codes.float()


def ours(name: str, data: Data, steps: int, seed: int) -> Tensor:
    """Log-densities of the test rows."""
    settings = {"form": "autoregressive", "mixing": "reverse", "actnorm": False, "steps": TRANSFORMS}
    torch.manual_seed(seed)
    model = pf.create(name, data.spec, width=WIDTH, depth=DEPTH, learning_rate=RATE, **settings)
    assert isinstance(data.train, ArraySplit)
    with tempfile.TemporaryDirectory() as out:
        run = pf.train(
            model, data.replace(train=Clocked(data.train.codes)), steps=steps, batch_size=BATCH, seed=seed, out=f"{out}/run",
            validate_every=0, picture_every=0, tensorboard=False,
        )  # fmt: skip
        return run.log_prob(rows(data.test), batch_size=2_000).value.double()


def theirs(name: str, data: Data, steps: int, seed: int) -> Tensor:
    """The same of zuko's flow."""
    import zuko

    torch.manual_seed(seed)
    train, generator = Clocked(rows(data.train)), torch.Generator().manual_seed(seed)
    kind = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF}[name]
    options = {"bins": BINS} if name == "nsf" else {}
    flow = kind(data.spec.dimensions, transforms=TRANSFORMS, hidden_features=(WIDTH,) * DEPTH, **options)
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    step = 0
    while step < steps:
        for index in torch.randperm(len(train), generator=generator).split(BATCH)[: steps - step]:
            loss = -flow().log_prob(train.fetch(index)[0]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
    with torch.no_grad():
        return flow().log_prob(rows(data.test)).double()


def speeds(name: str, data: Data, seed: int) -> tuple[float, float]:
    """Updates a second of processor time, ours and zuko's, in the quickest round of each."""
    times.clear()
    rounds: dict[Callable[[str, Data, int, int], Tensor], list[float]] = {ours: [], theirs: []}
    for _ in range(ROUNDS):
        for who, found in rounds.items():
            who(name, data, ROUND, seed)
            found.append(rate())
    return max(rounds[ours]), max(rounds[theirs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--flows", nargs="+", default=["nsf", "maf"], choices=["nsf", "maf"])
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {asked.threads} thread(s)")
    print("log-density of test rows in nats, and its standard error; updates a second of processor time")
    for path in asked.tables:
        data = numbers(path)
        for name in asked.flows:
            quick, slow = speeds(name, data, asked.seed)
            a, b = (who(name, data, asked.steps, asked.seed) for who in (ours, theirs))
            error = (a - b).std() / len(a) ** 0.5
            print(
                f"{path.stem:20s} {len(data.train)} x {data.spec.dimensions} {name}: {a.mean():.3f} and zuko {b.mean():.3f} "
                f"(difference {(a - b).mean():+.3f} +- {error:.3f}, median {(a - b).median():+.3f}); "
                f"{quick:.1f} and {slow:.1f}, {quick / slow:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
