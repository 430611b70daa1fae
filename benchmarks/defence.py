"""Defense-GAN on MNIST: how often a small classifier is right about clean images, about the same under attack, and about what a
generator makes of those.

    pushforward train wgan-gp --data mnist.npz --label none --steps 20000 --out runs/wgan-gp
    python benchmarks/defence.py mnist.npz runs/wgan-gp                   # a few minutes on one core
    python benchmarks/defence.py mnist.npz runs/wgan-gp --encoder 2000    # one start from a learned encoder

The attack is the fast gradient sign method with epsilon 0.3 on images in [0, 1]: white box, against the classifier alone. The
defence is that of Samangouei et al. 2018 (arXiv:1805.06605), 200 steps from 10 random restarts. The classifier is trained on
clean images only. How often it is right about clean images that were projected says what the generator can show at all.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pushforward as pf
from pushforward.editing.defence import fgsm, project
from pushforward.editing.inversion import fit_encoder
from pushforward.progress import Stages


def classifier(x: Tensor, y: Tensor, steps: int, seed: int = 0) -> nn.Module:
    """Two convolutions and two linear layers, on images (n, 1, 28, 28) in [-1, 1]."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(32, 64, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(x), (128,), generator=generator)
        loss = F.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        optimizer.step()
    return network.eval().requires_grad_(False)


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> str:
    """Share of right answers with its standard error."""
    right = (network(x).argmax(1) == y).float().mean().item()
    return f"{right:.4f} +- {math.sqrt(right * (1 - right) / len(x)):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="an npz with x_train, y_train, x_test, y_test")
    parser.add_argument("run", help="a run of a model that decodes, trained on these images without labels")
    parser.add_argument("--n", type=int, default=200, help="test images")
    parser.add_argument("--epsilon", type=float, default=0.3, help="of the attack, on images in [0, 1]")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--prior", type=float, default=0.0, help="how codes are held to those that are drawn")
    parser.add_argument("--encoder", type=int, default=0, help="steps of an encoder's training; 0: none")
    parser.add_argument("--classifier-steps", type=int, default=1500)
    given = parser.parse_args()
    with np.load(given.data) as arrays:
        images = {part: torch.from_numpy(arrays[f"x_{part}"])[:, None].float() / 127.5 - 1 for part in ("train", "test")}
        labels = {part: torch.from_numpy(arrays[f"y_{part}"]).long() for part in ("train", "test")}
    run = pf.load(given.run)
    if tuple(run.spec.shape) != tuple(images["test"].shape[1:]):
        raise SystemExit(f"the run makes data of shape {run.spec.shape}, the images have {tuple(images['test'].shape[1:])}.")
    network = classifier(images["train"], labels["train"], given.classifier_steps)
    x, y = images["test"][: given.n], labels["test"][: given.n]
    attacked = fgsm(network, x, y, 2 * given.epsilon)  # images are 2 wide here
    encoder = fit_encoder(run, steps=given.encoder) if given.encoder else None
    begun = time.perf_counter()
    with Stages(doing="projecting") as say:
        defended, again = (
            project(run.model, seen, steps=given.steps, starts=given.starts, prior=given.prior, encoder=encoder, say=say)
            for seen in (attacked, x)
        )
    seconds = (time.perf_counter() - begun) / (2 * len(x))
    print(f"{run}, {len(x)} test images, FGSM epsilon {given.epsilon}")
    print(f"{given.steps} steps from {given.starts} starts, prior {given.prior}, encoder {given.encoder}")
    print(f"clean               {accuracy(network, x, y)}")
    print(f"clean, projected    {accuracy(network, again.x, y)}   (what the generator can show of a digit)")
    print(f"attacked            {accuracy(network, attacked, y)}")
    print(f"attacked, defended  {accuracy(network, defended.x, y)}")
    print(f"mean squared error  {again.error.mean():.4f} of clean images, {defended.error.mean():.4f} of attacked ones")
    print(f"{seconds:.2f} s an image")


if __name__ == "__main__":
    main()
