"""Training speed of GANs against torch-mimicry's: the same networks, batch and number of updates in one run.

    python benchmarks/gan.py                  # about three minutes

Both sides train mimicry's own networks (DCGAN with residual blocks; SNGAN, the same with a spectrally normalised critic), of
64 channels on 32 x 32 colour noise, batch 64, one thread, without pictures or checkpoints on the way. Theirs are the
`train_step` methods of its networks, called as its Trainer calls them but without its logging (which gives it a little); ours
is the loop of `pf.train` with these networks as modules of the user's own (their spectral norms ours), in full precision and in
the precision that it chooses by itself (half where that is faster). The time is that of the processor, in which a busy
machine shows little, per step (so many critic updates and one of the generator); rounds alternate, and each side's
fastest counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
import tempfile
import time
import types

import torch
from torch import Tensor, nn

import pushforward as pf

BATCH, CHANNELS, LATENT, RATE = 64, 64, 128, 2e-4
CASES = {"DCGAN": ("dcgan", 1), "SNGAN": ("sngan", 5)}  # critic updates a step


def mimicry(kind: str, plain: bool = False) -> tuple[nn.Module, nn.Module]:
    """Its generator and critic, without the rest of its package, which wants torchvision and TensorFlow. plain: those of
    SNGAN without its norms: its DCGAN has the same blocks."""
    if "torch_mimicry" not in sys.modules:
        found = importlib.util.find_spec("torch_mimicry")
        if found is None or not found.submodule_search_locations:
            raise SystemExit("this benchmark needs mimicry: pip install --no-deps torch-mimicry")
        package = sys.modules["torch_mimicry"] = types.ModuleType("torch_mimicry")
        package.__path__ = list(found.submodule_search_locations)
    from torch_mimicry.nets import dcgan, sngan

    torch.manual_seed(0)
    if kind == "dcgan" or plain:
        return dcgan.DCGANGenerator32(nz=LATENT, ngf=CHANNELS), dcgan.DCGANDiscriminator32(ndf=CHANNELS)
    return sngan.SNGANGenerator32(nz=LATENT, ngf=CHANNELS), sngan.SNGANDiscriminator32(ndf=CHANNELS)


class Generator(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z)


class Critic(Generator):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).squeeze(1)


def theirs(kind: str, critic_steps: int, images: Tensor, steps: int) -> float:
    """Seconds a step."""
    generator, critic = mimicry(kind)
    optimizers = [torch.optim.Adam(network.parameters(), RATE, betas=(0.0, 0.9)) for network in (critic, generator)]

    class Log:  # what its own log collects is read by nobody here, as between two of its lines
        def add_metric(self, *args: object, **kwargs: object) -> None:
            pass

    def run(count: int) -> None:
        for step in range(count):
            for update in range(critic_steps):
                rows = torch.randint(len(images), (BATCH,))
                batch = (images[rows].float() / 127.5 - 1, rows)
                common = {"log_data": Log(), "global_step": step, "device": torch.device("cpu"), "scaler": None}
                critic.train_step(real_batch=batch, netG=generator, optD=optimizers[0], **common)
                if update == critic_steps - 1:
                    generator.train_step(real_batch=batch, netD=critic, optG=optimizers[1], **common)

    run(2)
    began = time.process_time()
    run(steps)
    return (time.process_time() - began) / steps


def ours(kind: str, critic_steps: int, data: pf.Data, steps: int, precision: str) -> float:
    """Seconds a step: the difference of a long and a short run, so that starting and ending cost nothing."""

    def run(count: int) -> float:
        generator, critic = mimicry(kind, plain=True)
        model = pf.create(
            "gan",
            data.spec,
            latent_dim=LATENT,
            generator_network=Generator(generator),
            critic_network=Critic(critic),
            critic_steps=critic_steps,
            objective="hinge" if kind == "sngan" else "non-saturating",
            regulariser="spectral" if kind == "sngan" else "none",
            learning_rate=RATE,
            betas=(0.0, 0.9),
        )
        settings = {"steps": count, "batch_size": BATCH, "precision": precision, "validate_every": 0, "picture_every": 0}
        with tempfile.TemporaryDirectory() as directory:
            began = time.process_time()
            pf.train(model, data, out=directory + "/run", tensorboard=False, checkpoint_every=10**9, **settings)
            return time.process_time() - began

    return (run(steps + 2) - run(2)) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (2000, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = pf.load_data(images.numpy())
    print(f"{platform.machine()}, torch {torch.__version__}, one thread; batch {BATCH}, {CHANNELS} channels")
    for name, (kind, critic_steps) in CASES.items():
        found: dict[str, list[float]] = {"mimicry": [], "ours, fp32": [], "ours, auto": []}
        for _ in range(given.rounds):
            found["mimicry"].append(theirs(kind, critic_steps, images, given.steps))
            found["ours, fp32"].append(ours(kind, critic_steps, data, given.steps, "fp32"))
            found["ours, auto"].append(ours(kind, critic_steps, data, given.steps, "auto"))
        best = {side: min(times) for side, times in found.items()}
        for side, seconds in best.items():
            print(f"{name:6} {side:11} {1e3 * seconds:8.1f} ms a step   {best['mimicry'] / seconds:.2f} times mimicry's speed")


if __name__ == "__main__":
    main()
