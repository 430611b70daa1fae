"""pix2pix against L1 alone: the same generator, data and number of updates; what the critic of patches is worth.

    python benchmarks/pix2pix.py maps/train.parquet --test maps/test.parquet --image aerial --target-image map --steps 20000
    python benchmarks/pix2pix.py maps/train.parquet --steps 30 --limit 40 --width 8                     # a look whether it runs

Two figures of held-out pairs, of averaged weights and one draw of the noise for each input: L1, the mean absolute error of a
number (of images 2 from black to white), which L1 alone is made for; and the realism of patches, the Frechet distance between
features of real and of made patches of 32 x 32 pixels, cut at the same places. These are of the library's `encoder`
space (measures/features.py), a small network fitted to patches of the training outputs alone, the same for both. Beside it is
the floor: real patches of one half of the held-out images against those of the other; n is the number of patches of each side.
The time is that of the processor.

Isola et al. 2017, arXiv:1611.07004, table 1 has the same comparison: L1 alone is blurred, with the game an output looks real.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import pushforward as pf
from pushforward.artefacts import write_picture
from pushforward.data.batches import Data, take
from pushforward.measures.features import FeatureSpace, feature_space
from pushforward.measures.fidelity import frechet_distance
from pushforward.pictures.draw import draw_strips

PATCH = 32


def patches(images: Tensor) -> Tensor:
    """Squares of PATCH pixels side by side (n k, C, PATCH, PATCH)."""
    side = min(PATCH, *images.shape[2:])
    return images.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).contiguous()


def trained(data: Data, settings: dict, steps: int, batch_size: int, precision: str) -> tuple[pf.Run, float]:
    """A run of pix2pix and the seconds of its training."""
    torch.manual_seed(0)
    model = pf.create("pix2pix", data.spec, **settings)
    directory = tempfile.mkdtemp()
    begun = time.process_time()
    run = pf.train(
        model, data, steps=steps, batch_size=batch_size, out=f"{directory}/run", precision=precision,
        validate_every=0, picture_every=0, tensorboard=False,
    )  # fmt: skip
    return run, time.process_time() - begun


def measured(run: pf.Run, given: Tensor, true: Tensor, space: FeatureSpace) -> tuple[float, float, Tensor]:
    """L1, the Frechet distance of patches, and what was made."""
    made = torch.cat([run.units.parse(run.translate(part, seed=i)) for i, part in enumerate(given.split(25))])
    l1 = (run.units.to_model(made) - run.units.to_model(true)).abs().mean()
    return float(l1), frechet_distance(space.extract(patches(made)), space.extract(patches(true))), made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a parquet file, or a folder, of pairs")
    parser.add_argument("--test", default=None, help="the file of the held-out pairs, where they are in one of their own")
    parser.add_argument("--image", default="aerial")
    parser.add_argument("--target-image", default="map")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--adversarial", type=float, default=1.0, help="weight of the critic's verdict; that of L1 is 100")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", default=None, help="a .png of the first held-out images: given, both made, true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    pairs = {"image": asked.image, "target_image": asked.target_image, "limit": asked.limit}
    data = pf.load_data(asked.data, test_source=asked.test, **pairs)
    true, given = take(data.held_out, 300)
    spec = dataclasses.replace(data.spec, condition=None)
    known = patches(take(data.train, 400)[0])
    space = feature_space(dataclasses.replace(spec, shape=tuple(known.shape[1:])), known, space="encoder")
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {asked.threads} thread(s)")
    print(
        f"{len(data.train)} pairs to learn, {len(true)} held out, {asked.steps} updates of {asked.batch_size} at {asked.width}"
    )
    halves = [space.extract(patches(true[half::2])) for half in (0, 1)]
    columns = {}
    print(f"{'':10s}  {'L1':>8s}  {'Frechet of patches':>18s}  {'seconds':>8s}  n = {len(patches(true))}")
    for name, settings in (("pix2pix", {"adversarial": asked.adversarial}), ("L1 alone", {"adversarial": 0.0})):
        run, seconds = trained(data, {"width": asked.width, **settings}, asked.steps, asked.batch_size, asked.precision)
        l1, distance, columns[name] = measured(run, given, true, space)
        print(f"{name:10s}  {l1:8.4f}  {distance:18.3f}  {seconds:8.0f}")
    print(f"{'real':10s}  {0:8.4f}  {frechet_distance(*halves):18.3f}  {'':8s}  of half as many")
    if asked.picture:
        states = [given, *columns.values(), true]
        shown = torch.stack([state[:8].expand_as(true[:8]) for state in states], 1)
        write_picture(draw_strips(spec, shown, column_labels=["given", *columns, "true"]), Path(asked.picture))


if __name__ == "__main__":
    main()
