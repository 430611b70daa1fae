"""How deep a generator and its critic have to be: Wasserstein GANs of four depths each against mixtures of K Gaussians.

    python benchmarks/depths.py --picture depths.png
    python benchmarks/depths.py --components 4 --depths 2 5 --steps 100 --seeds 1         # a look whether it runs

The critics are of slope at most 1 by their layers (orthonormal ones, and GroupSort), so that what they lack is depth alone; the
generators are ReLU networks. The data are 5,000 points of K narrow Gaussians on a circle of radius 1. The figure is W_1 of
2,000 samples from as many new points, by a linear programme, the mean over seeds; the floor is that of two sets of new points.

Biau, Sangnier and Tanielian 2021 (Some theoretical insights into Wasserstein GANs, arXiv:2006.02682), figures 5 and 6: a
generator too shallow cannot reach the data (approximation), a critic too shallow does not see that it has not (optimisation).
"""

from __future__ import annotations

import argparse
import itertools
import platform
import tempfile
import time

import matplotlib
import numpy as np
import ot
import torch
from torch import nn

import pushforward as pf
from pushforward.models.adversarial.gan import GAN
from pushforward.nets.adversaries import keep_variance
from pushforward.nets.lipschitz import OrthonormalCritic
from pushforward.nets.mlp import mlp

matplotlib.use("Agg")
from matplotlib import pyplot as plt

N, DEVIATION, LATENT = 5_000, 0.05, 2


def points(components: int, n: int, seed: int) -> np.ndarray:
    """Of K Gaussians on the unit circle, equally likely."""
    rng = np.random.default_rng(seed)
    angles = rng.integers(components, size=n) * 2 * np.pi / components
    return (np.stack([np.cos(angles), np.sin(angles)], 1) + DEVIATION * rng.normal(size=(n, 2))).astype("float32")


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """W_1 of two sets of as many points."""
    return float(ot.emd2([], [], ot.dist(x.astype("float64"), y.astype("float64"), metric="euclidean"), numItermax=1_000_000))


def trained(components: int, deep: int, critic: int, seed: int, width: int, steps: int) -> np.ndarray:
    """2,000 samples of a Wasserstein GAN with `deep` and `critic` hidden layers."""
    data = pf.load_data(points(components, N, seed=0))
    torch.manual_seed(seed)
    generator: nn.Module = mlp(LATENT, 2, (width,) * deep, "relu")
    keep_variance(generator)
    model = GAN(
        data.spec, objective="wasserstein", regulariser="none", network="orthonormal", latent_dim=LATENT, critic_steps=5,
        generator_network=generator, critic_network=OrthonormalCritic((2,), width, depth=critic), learning_rate=1e-3,
        critic_learning_rate=2e-3, betas=(0.5, 0.9),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        run = pf.train(
            model, data, steps=steps, batch_size=128, seed=seed, out=f"{out}/run", precision="fp32", validate_every=0,
            picture_every=0, tensorboard=False,
        )  # fmt: skip
        return np.asarray(run.sample(2_000, seed=1))


def draw(table: dict[tuple[int, int, int], float], floors: dict[int, float], depths: list[int], path: str) -> None:
    """A panel a number of Gaussians: generators' depths down, critics' across."""
    figure, panels = plt.subplots(1, len(floors), figsize=(3.4 * len(floors), 3.4), squeeze=False, layout="constrained")
    for ax, (components, floor) in zip(panels[0], floors.items(), strict=True):
        values = np.array([[table[components, deep, critic] for critic in depths] for deep in depths])
        ax.imshow(values, cmap="viridis_r", vmin=0)
        for (i, j), value in np.ndenumerate(values):
            dark = value > 0.5 * values.max()
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black", fontsize=10)
        ax.set(title=f"{components} Gaussians (floor {floor:.2f})", xlabel="layers of the critic", xticks=range(len(depths)))
        ax.set(yticks=range(len(depths)), xticklabels=depths, yticklabels=depths)
    panels[0][0].set_ylabel("layers of the generator")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=int, nargs="+", default=[2, 4, 9])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 3, 5, 7])
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--width", type=int, default=20, help="of all layers, few so that depth is what counts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", default=None)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {asked.threads} thread(s)")
    table, floors = {}, {}
    for components in asked.components:
        fresh = points(components, 2_000, seed=1)
        floors[components] = distance(fresh, points(components, 2_000, seed=2))
        print(f"{components} Gaussians: floor {floors[components]:.3f}", flush=True)
        for deep, critic in itertools.product(asked.depths, asked.depths):
            begun = time.perf_counter()
            found = [
                distance(trained(components, deep, critic, seed, asked.width, asked.steps), fresh)
                for seed in range(asked.seeds)
            ]
            table[components, deep, critic] = float(np.mean(found))
            each = ", ".join(f"{value:.3f}" for value in found)
            seconds = time.perf_counter() - begun
            print(f"  generator {deep}, critic {critic}: W1 {np.mean(found):.3f} ({each}), {seconds:.0f} s", flush=True)
    if asked.picture:
        draw(table, floors, asked.depths, asked.picture)


if __name__ == "__main__":
    main()
