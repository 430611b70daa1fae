"""Zero-shot restoration beside priors that know no faces: PSNR on held-out images of a run, of which operators take something.

    pushforward train flow-matching --data faces.npz --out runs/faces
    python benchmarks/restoration.py runs/faces                             # minutes on one core
    python benchmarks/restoration.py runs/faces --n 16 --steps 100 --out restoration.png

What is measured is without noise; ddnm, ddrm, repaint and the others keep it exactly, pigdm and dps nearly. The others: total
variation, minimised over all images with these measurements (Chambolle and Pock 2011), the gradients of the colours taken
together; biharmonic inpainting (scikit-image) or, which keeps nothing exactly, bicubic enlarging; and EPLL, a mixture of
Gaussians over patches learned from the run's own training images, as a denoiser with a falling noise between projections on the
measurements, beginning at the result of total variation. `mean` is that of the samples, the estimate that PSNR asks for; a
sample looks sharper and is farther away.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import pushforward as pf
from pushforward.artefacts import write_picture
from pushforward.dynamics.operators import DownSample, Mask, Operator
from pushforward.editing.restoration import measured, parse_operator, restore
from pushforward.models.classical.patches import denoise, learn_prior
from pushforward.pictures.draw import draw_strips


def projected(operator: Operator, x: Tensor, y: Tensor) -> Tensor:
    """The image nearest to x of which y is measured."""
    return x + operator.pseudo_inverse(y - operator(x))


def total_variation(operator: Operator, y: Tensor, steps: int = 500) -> Tensor:
    """argmin of the total variation of x over A x = y, by the primal-dual method with steps 1 / 8^(1/2)."""
    x = before = projected(operator, operator.picture(y), y)
    dual, rate = x.new_zeros(2, *x.shape), 1 / math.sqrt(8)
    for _ in range(steps):
        ahead = 2 * x - before
        down, across = F.pad(ahead.diff(dim=2), (0, 0, 0, 1)), F.pad(ahead.diff(dim=3), (0, 1))
        dual = dual + rate * torch.stack([down, across])
        dual = dual / dual.square().sum((0, 2), keepdim=True).sqrt().clamp(min=1)
        vertical, horizontal = dual[0][:, :, :-1], dual[1][:, :, :, :-1]
        divergence = F.pad(vertical, (0, 0, 0, 1)) - F.pad(vertical, (0, 0, 1, 0))
        divergence = divergence + F.pad(horizontal, (0, 1)) - F.pad(horizontal, (1, 0))
        before, x = x, projected(operator, x + rate * divergence, y)
    return x


def patch_prior(images: Tensor) -> Callable[[Operator, Tensor, Tensor], Tensor]:
    """EPLL between projections, from a first guess x."""
    size = 5
    prior = learn_prior(list(images), size=size, components=30, patches=12_000)

    def epll(operator: Operator, y: Tensor, x: Tensor) -> Tensor:
        for sigma in torch.logspace(math.log10(0.3), -2, 8).tolist():
            x = torch.stack([denoise(image, sigma, prior, size=size) for image in x])
            x = projected(operator, x, y)
        return x

    return epll


def interpolated(operator: Operator, y: Tensor) -> Tensor | None:
    """Biharmonic inpainting, or bicubic enlarging."""
    if isinstance(operator, DownSample):
        return F.interpolate(y, size=operator.shape[1:], mode="bicubic")
    if not isinstance(operator, Mask):
        return None
    from skimage.restoration import inpaint_biharmonic

    hidden = (~operator.known[0]).numpy()
    filled = [inpaint_biharmonic(image.permute(1, 2, 0).numpy(), hidden, channel_axis=-1) for image in y]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image in filled])


def psnr(x: Tensor, true: Tensor) -> str:
    """Mean over images in [-1, 1] and its standard error, in dB."""
    value = 10 * torch.log10(4 / (x.clamp(-1, 1) - true).flatten(1).square().mean(1))
    return f"{value.mean().item():6.2f} +- {value.std().item() / math.sqrt(len(value)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of diffusion or flow matching on images")
    parser.add_argument("--data", help="a folder (or file) of held-out images instead of the run's own, of the same size")
    parser.add_argument("--operators", nargs="+", default=["mask:centre", "mask:0.7", "down-sample:2", "down-sample:4"])
    parser.add_argument("--methods", nargs="+", default=["pigdm", "ddnm", "ddrm", "dps", "repaint"])
    parser.add_argument("--n", type=int, default=16, help="images")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--resamplings", type=int, default=1, help="of repaint")
    parser.add_argument("--scale", type=float, default=1.0, help="of dps")
    parser.add_argument("--out", default="restoration.png")
    given = parser.parse_args()
    run = pf.load(given.run)
    data = run.load_data()
    held_out = (pf.load_data(given.data).train if given.data else data.held_out or data.train).fetch(torch.arange(given.n))[0]
    true = run.units.to_model(held_out)
    epll = patch_prior(run.units.to_model(data.train.fetch(torch.arange(min(len(data.train), 500)))[0]))
    print(f"{run}, {given.n} held-out images, {given.samples} samples in {given.steps} steps; PSNR in dB", flush=True)
    for words in given.operators:
        operator = parse_operator(words, tuple(run.spec.shape))
        y = measured(operator, true)
        found = {"true": true, "given": operator.picture(y), "tv": total_variation(operator, y)}
        found["epll"] = epll(operator, y, found["tv"])
        between = interpolated(operator, y)
        if between is not None:
            found["cubic"] = between
        seconds = {}
        for method in given.methods:
            own = {"scale": given.scale} if method == "dps" else {}
            again = given.resamplings if method == "repaint" else 1
            begun = time.perf_counter()
            made = restore(run, y, operator, method=method, samples=given.samples, steps=given.steps, resamplings=again, **own)
            seconds[method] = (time.perf_counter() - begun) / (given.n * given.samples)
            found[method], found[f"{method} mean"] = made.samples[:, 0], made.mean
        print(f"\n{words}", flush=True)
        for name, x in found.items():
            took = f"   {seconds[name]:.2f} s a sample" if name in seconds else ""
            print(f"  {name:<14} {psnr(x, true) if name != 'true' else ''}{took}")
        states = torch.stack([run.units.to_codes(x) for x in found.values()], 1)[:8]
        labels = ["mean" if name.endswith(" mean") else name for name in found]
        path = given.out.replace(".png", f"-{words.replace(':', '-')}.png")
        print(" ", write_picture(draw_strips(run.spec, states, column_labels=labels), path), flush=True)


if __name__ == "__main__":
    main()
