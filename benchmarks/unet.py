"""Training and sampling speed of a diffusion's U-Net against diffusers and denoising-diffusion-pytorch, in one run.

    python benchmarks/unet.py                          # about half an hour
    python benchmarks/unet.py --data cifar10 --updates 40

All sides train DDPM (the noise of 1000 levels, a mean squared error; ours of any t) on 32 x 32 colour images in batches of 64:
residual blocks of 64, 128 and 128 channels at 32, 16 and 8 pixels, two at each on the way down, attention at 16 and 8. Ours and
diffusers' are the same network layer for layer (7.3 million weights, 3.05 billion operations an image);
denoising-diffusion-pytorch, which keeps a block's channels until the next resolution, comes nearest with multipliers 1, 2 and 3
(7.3 million weights, 2.76 billion operations, which favours it a little).

Theirs are the loops of their documentation: diffusers' `UNet2DModel`, `DDPMScheduler` and AdamW under a cosine schedule, its
gradient clipped; the other's `GaussianDiffusion` as its `Trainer` drives it, with Adam, clipping and a moving average of the
weights. Ours is the loop of `pf.train` with all that belongs to it but validation and pictures. Each in full precision, as
theirs are without a GPU, and ours also in the precision that it chooses by itself; --half adds theirs within autocast. Sampling
is by 20 steps of DDIM, theirs by its `DDIMScheduler`.

One thread. The time is that of the processor, in which a busy machine shows little, over updates after the first few; rounds
alternate, and each side's fastest counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

import pushforward as pf
from pushforward.data.batches import take

WIDTH, RATE, STEPS = 64, 1e-4, 20
WARM = 2  # updates ahead of those that count

Stamps = list[float]


def smooth(count: int) -> Tensor:
    """Images with the large shapes and the small detail of photographs, roughly: uint8 (count, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    octaves = [torch.randn(count, 3, side, side, generator=generator) / side for side in (2, 4, 8, 16, 32)]
    image = torch.stack([F.interpolate(each, (32, 32), mode="bilinear") for each in octaves]).sum(0)
    return (255 * (2 * image).sigmoid()).to(torch.uint8)


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Batches in [0, 1], in an order of their own each time through."""
    data = torch.utils.data.TensorDataset(images.float() / 255)
    while True:
        for (batch,) in torch.utils.data.DataLoader(data, size, shuffle=True, drop_last=True):
            yield batch


def autocast(precision: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def diffusers_network() -> nn.Module:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(WIDTH, 2 * WIDTH, 2 * WIDTH),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=64,
        resnet_time_scale_shift="scale_shift",
    )


def diffusers_training(images: Tensor, batch: int, updates: int, precision: str) -> tuple[nn.Module, Stamps]:
    """The loop of its documentation's unconditional example."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup

    model, scheduler = diffusers_network(), DDPMScheduler(1000)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    rate = get_cosine_schedule_with_warmup(optimizer, 500, 10_000)
    stamps, source = [], batches(images, batch)
    for _ in range(updates + 1):
        stamps.append(time.process_time())
        clean = 2 * next(source) - 1
        noise = torch.randn_like(clean)
        levels = torch.randint(0, 1000, (len(clean),), dtype=torch.int64)
        noisy = scheduler.add_noise(clean, noise, levels)
        with autocast(precision):
            loss = F.mse_loss(model(noisy, levels, return_dict=False)[0], noise)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        loss.detach().item()
    return model, stamps


def lucidrains_training(images: Tensor, batch: int, updates: int, precision: str) -> tuple[nn.Module, Stamps]:
    """What denoising-diffusion-pytorch's `Trainer.train` does in an update, on tensors instead of a folder."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    torch.manual_seed(0)
    attention = {"full_attn": (False, True, True), "attn_heads": 2, "attn_dim_head": 64}
    network = Unet(dim=WIDTH, dim_mults=(1, 2, 3), channels=3, flash_attn=False, **attention)
    model = GaussianDiffusion(network, image_size=32, timesteps=1000)
    optimizer, average = torch.optim.Adam(model.parameters(), RATE, betas=(0.9, 0.99)), EMA(model, beta=0.995, update_every=10)
    stamps, source = [], batches(images, batch)
    for _ in range(updates + 1):
        stamps.append(time.process_time())
        with autocast(precision):
            loss = model(next(source))
        loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
    return network, stamps


class Enough(Exception):
    """All updates that were wanted are timed; what a run does at its end is not."""


def our_training(images: Tensor, batch: int, updates: int, precision: str) -> tuple[nn.Module, Stamps]:
    """`pf.train`, the time noted whenever its optimiser has moved the weights."""
    data = pf.load_data(images.numpy(), validation=0.0, test=0.0)
    torch.manual_seed(0)
    options = {"path": "variance-preserving", "target": "noise", "network": "unet", "width": WIDTH, "depth": 2, "dropout": 0.0}
    model = pf.create("flow-matching", data.spec, **options)
    stamps: Stamps = []

    def note(*_: object) -> None:
        stamps.append(time.process_time())
        if len(stamps) > updates:
            raise Enough

    hook = register_optimizer_step_post_hook(note)
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(Enough),
    ):
        pf.train(
            model, data, steps=updates + 2, batch_size=batch, out=directory + "/run", learning_rate=RATE, precision=precision,
            validate_every=0, picture_every=0, tensorboard=False,
        )  # fmt: skip
    hook.remove()
    return model, stamps


@torch.no_grad()
def diffusers_sampling(model: nn.Module, count: int) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(1000)
    scheduler.set_timesteps(STEPS)
    x = torch.randn(count, 3, 32, 32)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t).sample, t, x).prev_sample


def our_sampling(model: nn.Module, count: int) -> None:
    model.sample(count, steps=STEPS, solver="ddim", generator=0)  # type: ignore[operator]


def seconds(sample: Callable[[nn.Module, int], None], model: nn.Module, count: int, precision: str) -> float:
    begun = time.process_time()
    with autocast(precision):
        sample(model, count)
    return time.process_time() - begun


def side_by_side(source: str | None, batch: int, updates: int, rounds: int, count: int, half: bool) -> None:
    """All in turn, then their figures."""
    torch.set_num_threads(1)
    if source is None:
        images = smooth(2048)
    else:
        data = pf.load_data(source, label="none")
        images = take(data.train, min(len(data.train), 10_000))[0]
    if tuple(images.shape[1:]) != (3, 32, 32):
        raise SystemExit(f"images of 3 x 32 x 32 are wanted; {tuple(images.shape[1:])} were given.")
    sides: dict[str, tuple[Callable[[Tensor, int, int, str], tuple[nn.Module, Stamps]], str]] = {
        "diffusers, fp32": (diffusers_training, "fp32"),
        "denoising-diffusion-pytorch, fp32": (lucidrains_training, "fp32"),
        "pushforward, fp32": (our_training, "fp32"),
        "pushforward, its choice": (our_training, "auto"),
    }
    if half:
        sides["diffusers, bf16"] = (diffusers_training, "bf16")
        sides["denoising-diffusion-pytorch, bf16"] = (lucidrains_training, "bf16")
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, batches of {batch}")
    models: dict[str, nn.Module] = {}
    rates: dict[str, float] = {}
    for _ in range(rounds):
        for name, (train, precision) in sides.items():
            models[name], stamps = train(images, batch, WARM + updates, precision)
            rates[name] = max(rates.get(name, 0.0), batch * updates / (stamps[-1] - stamps[WARM]))
            print(f"    {name:36} {rates[name]:6.2f} images/s", flush=True)
    print("training")
    for name, rate in rates.items():
        weights = sum(parameter.numel() for parameter in models[name].parameters()) / 1e6
        against = [f"{rate / rates[peer]:.2f} x {peer}" for peer in list(sides)[:2]]
        print(f"{name:36} {weights:5.2f} M weights {rate:6.2f} images/s   {', '.join(against)}", flush=True)

    print(f"sampling, DDIM, {STEPS} steps, {count} images")
    theirs, mine = models["diffusers, fp32"].eval(), models["pushforward, fp32"].eval()
    samplers: dict[str, tuple[Callable[[nn.Module, int], None], nn.Module, str]] = {
        "diffusers, fp32": (diffusers_sampling, theirs, "fp32"),
        "pushforward, fp32": (our_sampling, mine, "fp32"),
        "diffusers, bf16": (diffusers_sampling, theirs, "bf16"),
        "pushforward, bf16": (our_sampling, mine, "bf16"),
    }
    drawn: dict[str, float] = {}
    for _ in range(1 + rounds):
        for name, (sample, model, precision) in samplers.items():
            drawn[name] = max(drawn.get(name, 0.0), count / seconds(sample, model, count, precision))
    for name, rate in drawn.items():
        print(f"{name:36} {rate:6.2f} images/s   {rate / drawn['diffusers, fp32']:.2f} x diffusers, fp32", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="what `pf.load_data` takes, 3 x 32 x 32; by default smooth noise")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--updates", type=int, default=10, help="that count, of each side in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=32, help="drawn at once")
    parser.add_argument("--half", action="store_true", help="also the peers within autocast to bf16")
    given = parser.parse_args()
    side_by_side(given.data, given.batch, given.updates, given.rounds, given.images, given.half)
