"""Rings and grids of narrow Gaussians: how many modes a GAN finds, and how many of its samples are of any.

    python benchmarks/modes.py              # both presets with five seeds, about fifteen minutes of one core
    python benchmarks/modes.py --seeds 0

`ring8` is eight modes of deviation 0.01 at radius 1, `grid25` 25 of deviation 0.05 at distances of 2. Of 2,500 samples one is
of high quality within 3 deviations of a mode (98.9 % of the data are), and a mode is found that has one of them. Beside the
presets is the game without a penalty. Lin et al. 2018 (PacGAN, arXiv:1712.04086), tables 1 and 2, and Srivastava et al. 2017
(VEEGAN, arXiv:1705.07761) have the same figures.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time

import numpy as np
import torch

import pushforward as pf
from pushforward.data.toys import mode_centres, mode_sd

PLAIN = {"regulariser": "none"}
CASES = (
    ("ring8", "mgan", {"width": 16, "information": 0.1}, 3_000),  # recipes/mgan-ring8.yaml
    ("ring8", "gan", PLAIN, 3_000),
    ("grid25", "dd-gan", {}, 5_000),  # recipes/dd-gan-grid25.yaml
    ("grid25", "gan", PLAIN, 3_000),
)


def found(samples: np.ndarray, toy: str) -> tuple[int, float]:
    """Modes with a sample of high quality, and the share of those."""
    centres = mode_centres(toy).numpy()
    distances = np.linalg.norm(samples[:, None] - centres, axis=2)
    good = distances.min(1) < 3 * mode_sd(toy)
    return len(np.unique(distances.argmin(1)[good])), float(good.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {asked.threads} thread(s)")
    for toy, name, settings, steps in CASES:
        data, rows = pf.load_data(toy), []
        for seed in asked.seeds:
            torch.manual_seed(seed)
            begun = time.perf_counter()
            with tempfile.TemporaryDirectory() as out:
                run = pf.train(
                    pf.create(name, data.spec, **settings), data, steps=steps, batch_size=256, seed=seed, out=f"{out}/run",
                    precision="fp32", validate_every=0, picture_every=0, tensorboard=False,
                )  # fmt: skip
                rows.append((*found(np.asarray(run.sample(2_500, seed=1)), toy), time.perf_counter() - begun))
        modes, quality, seconds = zip(*rows, strict=True)
        each = ", ".join(f"{k} {100 * share:.1f} %" for k, share in zip(modes, quality, strict=True))
        print(
            f"{toy:7s} {name:7s} {np.mean(modes):4.1f} modes, {100 * np.mean(quality):.1f} % of high quality, "
            f"{min(seconds):.0f} to {max(seconds):.0f} s ({each})",
            flush=True,
        )


if __name__ == "__main__":
    main()
