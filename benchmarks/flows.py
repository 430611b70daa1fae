"""Flows of tables beside zuko's: the same transforms, widths, batches and updates, in one run.

    python benchmarks/flows.py TABLE.csv ... [--flows nsf maf] [--steps 2000]        # pip install zuko

Both learn the same rows of a table's numbers, in units of their deviations; what is a whole number, or takes few values, is
spread over its unit first by the same uniform noise, as a density of points has no largest value. 80 % are trained on and 10 %
measured, once, at the end. Zuko's flow is trained as its documentation does it, by Adam, with the same rate and schedule. The
library's time is that of `pf.train`, with all that it does beside (averaged weights, records, checks).
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pushforward as pf
from pushforward.data.batches import Data, Split

RATE, BATCH = 1e-3, 512
TRANSFORMS, WIDTH, DEPTH, BINS = 5, 128, 2, 8


def numbers(path: Path) -> Data:
    """A table's numeric columns as points, in units of their deviations."""
    x = pd.read_csv(path).select_dtypes("number").to_numpy(np.float64)
    rng = np.random.default_rng(0)
    for column in x.T:
        values = np.unique(column)
        if len(values) < len(x) / 20 or (values == values.round()).all():
            column += np.median(np.diff(values)) * (rng.random(len(x)) - 0.5)
    return pf.load_data(((x - x.mean(0)) / x.std(0)).astype(np.float32), validation=0.1, test=0.1)


def rows(split: Split | None) -> torch.Tensor:
    """All of a split."""
    assert split is not None
    return split.fetch(torch.arange(len(split)))[0].float()


def ours(name: str, data: Data, steps: int, seed: int) -> tuple[torch.Tensor, float]:
    """Log-densities of the test rows, and updates a second."""
    settings = {"form": "autoregressive", "mixing": "reverse", "actnorm": False, "steps": TRANSFORMS}
    torch.manual_seed(seed)
    model = pf.create(name, data.spec, width=WIDTH, depth=DEPTH, learning_rate=RATE, **settings)
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        run = pf.train(
            model, data, steps=steps, batch_size=BATCH, seed=seed, out=f"{out}/run", validate_every=0, picture_every=0,
            tensorboard=False,
        )  # fmt: skip
        rate = steps / (time.perf_counter() - begun)
        return run.log_prob(rows(data.test), batch_size=2_000).value.double(), rate


def theirs(name: str, data: Data, steps: int, seed: int) -> tuple[torch.Tensor, float]:
    """The same of zuko's flow."""
    import zuko

    torch.manual_seed(seed)
    train, generator = rows(data.train), torch.Generator().manual_seed(seed)
    kind = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF}[name]
    options = {"bins": BINS} if name == "nsf" else {}
    flow = kind(train.shape[1], transforms=TRANSFORMS, hidden_features=(WIDTH,) * DEPTH, **options)
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    begun, step = time.perf_counter(), 0
    while step < steps:
        for batch in torch.randperm(len(train), generator=generator).split(BATCH)[: steps - step]:
            loss = -flow().log_prob(train[batch]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
    rate = steps / (time.perf_counter() - begun)
    with torch.no_grad():
        return flow().log_prob(rows(data.test)).double(), rate


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
    print("log-density of test rows in nats, and its standard error; updates a second")
    for path in asked.tables:
        data = numbers(path)
        for name in asked.flows:
            (a, quick), (b, slow) = (who(name, data, asked.steps, asked.seed) for who in (ours, theirs))
            error = (a - b).std() / len(a) ** 0.5
            print(
                f"{path.stem:20s} {len(data.train)} x {data.spec.dimensions} {name}: {a.mean():.3f} and zuko {b.mean():.3f} "
                f"(difference {(a - b).mean():+.3f} +- {error:.3f}); {quick:.1f} and {slow:.1f}, {quick / slow:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
