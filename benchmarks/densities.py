"""Two-dimensional densities: how far `nsf` is from the truth, and whether it is a density.

    python benchmarks/densities.py              # three densities, about two minutes of one core each

Beside the mean of -log p over 10,000 new points stand the entropy (the same mean of the true density, and its known value) and
their difference, which is the Kullback-Leibler divergence from the truth to the model, with its standard error. The integral is
over a grid of 600 x 600 points that holds all of them.
"""

from __future__ import annotations

import argparse
import math
import platform
import tempfile
import time

import numpy as np
import torch

import pushforward as pf

SETTINGS = {"width": 64}  # and the steps and bins that `nsf` has
# Of scikit-learn's moons 1.008; here they are twice as large.
ENTROPY = {"eight-gaussians": 2.833, "checkerboard": 3.466, "moons": 1.008 + 2 * math.log(2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", nargs="+", default=list(ENTROPY), choices=list(ENTROPY))
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {asked.threads} thread(s)")
    for toy in asked.toys:
        data = pf.load_data(toy)
        assert data.test is not None
        torch.manual_seed(asked.seed)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as out:
            run = pf.train(
                pf.create("nsf", data.spec, **SETTINGS), data, steps=asked.steps, batch_size=256, seed=asked.seed,
                out=f"{out}/run", precision="fp32", validate_every=0, picture_every=0, tensorboard=False,
            )  # fmt: skip
            seconds = time.perf_counter() - begun
            x = data.test.fetch(torch.arange(len(data.test)))[0]
            found, true = run.log_prob(x, batch_size=5_000).value.double(), data.log_density(x)
            axes = [np.linspace(low - 1.5, high + 1.5, 600) for low, high in zip(x.amin(0), x.amax(0), strict=True)]
            grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
            cell = float(np.prod([axis[1] - axis[0] for axis in axes]))
            integral = cell * float(run.log_prob(grid, batch_size=20_000).value.double().exp().sum())
        gap, error = (true - found).mean(), (true - found).std() / len(x) ** 0.5
        print(
            f"{toy:16s} {seconds:4.0f} s  {-found.mean():.3f} nats, true {-true.mean():.3f} ({ENTROPY[toy]:.3f}): {gap:.3f} +- "
            f"{error:.3f} above; integral {integral:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
