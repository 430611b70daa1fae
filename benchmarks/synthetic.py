"""Train on synthetic, test on real: how well a small CNN that has only seen a run's samples knows real test images.

    python benchmarks/synthetic.py mnist.npz runs/projection-gan-mnist

The CNN (two convolutions of 32 and 64 channels, a layer of 128, dropout; Adam, 1e-3 falling to 0, five passes of batches of
128) is trained on 30,000 samples of the run, each asked for by its class, and on as many real training images; both are tested
on all real test images.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pushforward as pf


def cnn(classes: int, side: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(64 * (side // 4) ** 2, 128), nn.ReLU(),
        nn.Dropout(0.5), nn.Linear(128, classes),
    )  # fmt: skip


def accuracy(images: Tensor, labels: Tensor, test: tuple[Tensor, Tensor], passes: int) -> float:
    """On the test images, of a CNN that has seen these."""
    torch.manual_seed(0)
    network = cnn(int(test[1].max()) + 1, images.shape[-1])
    updates, step = passes * (len(images) // 128), 0
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(passes):
        for rows in torch.randperm(len(images))[: len(images) // 128 * 128].view(-1, 128):
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / updates)
            loss = F.cross_entropy(network(images[rows].float() / 255), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    network.eval()
    with torch.no_grad():
        said = torch.cat([network(part.float() / 255).argmax(1) for part in test[0].split(1000)])
    return float((said == test[1]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", help="x_train, y_train, x_test, y_test")
    parser.add_argument("run")
    parser.add_argument("--n", type=int, default=30_000)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--best", action="store_true", help="the best weights of the run's watch")
    given = parser.parse_args()
    file = np.load(given.npz)
    real = {key: torch.from_numpy(file[key]) for key in ("x_train", "y_train", "x_test", "y_test")}
    test = real["x_test"][:, None], real["y_test"].long()
    run = pf.load(given.run, best=given.best)
    asked = torch.arange(given.n) % (int(test[1].max()) + 1)
    samples = torch.as_tensor(np.asarray(run.sample(given.n, condition=asked, seed=0)))
    found = accuracy(samples, asked, test, given.passes)
    rows = torch.randperm(len(real["x_train"]), generator=torch.Generator().manual_seed(0))[: given.n]
    ceiling = accuracy(real["x_train"][rows][:, None], real["y_train"][rows].long(), test, given.passes)
    print(f"{given.n} samples of {given.run}, tested on {len(test[1])} real images: {found:.2%}")
    print(f"as many real training images: {ceiling:.2%}")


if __name__ == "__main__":
    main()
