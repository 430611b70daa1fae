"""All the zoo's GANs under one budget: the Frechet distance of each to held-out digits, in the same features.

    python benchmarks/adversarial.py                        # about 45 minutes of one core
    python benchmarks/adversarial.py r3gan stylegan --budget 20s
    python benchmarks/adversarial.py --data mnist.npz --budget 3m

Every preset as it comes, and beside them the plain game without the penalty of slopes that `gan` has by default, and with
spectral norm and the hinge; batch size and learning rates are the presets' own. Samples are of averaged weights, 2,000, of
classes as frequent as in the data. The features are of the library's `encoder` space, a small network that is fitted to the
training images alone. The floor is that of training images in the samples' place.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch

import pushforward as pf
from pushforward.artefacts import write_picture
from pushforward.data.batches import take
from pushforward.errors import UserError
from pushforward.measures.features import feature_space
from pushforward.measures.fidelity import frechet_distance, neighbourhoods
from pushforward.pictures.draw import draw_strips
from pushforward.zoo import ZOO

OTHER = {"text-gan", "pix2pix", "cyclegan", "style-transfer"}  # want captions, pairs or domains
VARIANTS = {
    "gan, no penalty": ("gan", {"regulariser": "none"}),
    "hinge-gan, spectral": ("hinge-gan", {"regulariser": "spectral"}),
}
SAMPLES = 2_000


def show(name: str, real: np.ndarray, made: np.ndarray, updates: int | str = "") -> None:
    """A line of the table."""
    near = neighbourhoods(real, made)
    distance = frechet_distance(real, made)
    print(f"{name:24s} {distance:8.3f} {near['precision']:9.2f} {near['recall']:7.2f} {updates:>8}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", help="by default all that make images of digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--budget", default="60s", help="of training, each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", default=None, help="a .png: a row of samples for each")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = pf.load_data(asked.data)
    known, real = (take(split, SAMPLES)[0] for split in (data.train, data.held_out))
    space = feature_space(data.spec, known, space="encoder")
    seen = space.extract(real)
    names = [name for name, method in ZOO.items() if method.family == "adversarial" and name not in OTHER]
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {asked.threads} thread(s)")
    print(f"{asked.data}: {len(real)} held-out images, {asked.budget} each, seed {asked.seed}")
    print(f"{'':24s} {'Frechet':>8s} {'precision':>9s} {'recall':>7s} {'updates':>8s}")
    floor = space.extract(known)
    show("training images", seen, floor)
    rows, labels = [], []
    for name in asked.presets or [*VARIANTS, *names]:
        preset, settings = VARIANTS.get(name, (name, {}))
        torch.manual_seed(asked.seed)
        try:
            model = pf.create(preset, data.spec, **settings)
            with tempfile.TemporaryDirectory() as out:
                run = pf.train(
                    model, data, budget=asked.budget, batch_size=ZOO[preset].training.get("batch_size"), seed=asked.seed,
                    out=f"{out}/run", validate_every=0, picture_every=0, tensorboard=False,
                )  # fmt: skip
                made = run.units.parse(run.sample(SAMPLES, seed=1))
                updates = run.result["steps"]
        except UserError as error:
            print(f"{name:24s} left out: {error}", flush=True)
            continue
        show(name, seen, space.extract(made), updates)
        rows.append(made[:12])
        labels.append(name)
    if asked.picture:
        write_picture(draw_strips(data.spec, torch.stack(rows), row_labels=labels), Path(asked.picture))


if __name__ == "__main__":
    main()
