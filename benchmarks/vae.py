"""The VAE against pythae's: the same network, data and number of updates in one run; and the bound that a trained run reaches.

    python benchmarks/vae.py --data mnist                          # about three minutes
    python benchmarks/vae.py --data mnist --bound runs/vae-mnist   # the importance-weighted bound of 1000 test images, k = 5000

Both sides train a 784-200-200-50-200-200-784 tanh network with a Bernoulli likelihood on black and white images (levels above
half are white: pythae has no images drawn anew), with Adam at a constant rate of 1e-3, batches of 100, one thread, no averaged
weights, no pictures on the way. Theirs is its model with its `BaseTrainer`, ours is `pf.train`, told to keep its rate: in full
precision, as theirs, and in the precision that it chooses by itself (half where that is faster).
The bound is the ELBO of the same test images, from the same code for both; the time is that of the processor,
in which a busy machine shows little, from the call to its end, with all that belongs to a run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import platform
import tempfile
import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.data.batches import take
from pushforward.models.variational.elbo import iwae_bound
from pushforward.models.variational.posteriors import Diagonal
from pushforward.models.variational.vae import VAE
from pushforward.randomness import SampleRng

BATCH, LATENT, WIDTH, RATE = 100, 50, 200, 1e-3


def theirs(images: Tensor, epochs: int) -> tuple[nn.Module, nn.Module, float]:
    """pythae's VAE trained by its own trainer: encoder, decoder, seconds."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = trunk(784)
            self.mean, self.log_variance = nn.Linear(WIDTH, LATENT), nn.Linear(WIDTH, LATENT)

        def forward(self, x: Tensor) -> ModelOutput:
            h = self.body(x.flatten(1))
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(trunk(LATENT), nn.Linear(WIDTH, 784))

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z).sigmoid().reshape(-1, 1, 28, 28))

    torch.manual_seed(0)
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    model = PythaeVAE(config, encoder=Encoder(), decoder=Decoder())
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.WARNING)
        settings = BaseTrainerConfig(
            output_dir=directory,
            num_epochs=epochs,
            learning_rate=RATE,
            per_device_train_batch_size=BATCH,
            optimizer_cls="Adam",
            no_cuda=True,
            keep_best_on_train=False,
        )
        trainer = BaseTrainer(model, BaseDataset(images, torch.zeros(len(images))), training_config=settings)
        begun = time.process_time()
        trainer.train()
        seconds = time.process_time() - begun
        logging.disable(logging.NOTSET)
    return model.encoder, model.decoder, seconds


def trunk(inputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())


def ours(images: Tensor, steps: int, precision: str) -> tuple[VAE, float]:
    """The library's VAE trained by `pf.train`: the model and the seconds of its training."""
    data = pf.load_data((images * 255).to(torch.uint8).numpy(), validation=0.0, test=0.0)
    settings = {"latent_dim": LATENT, "network": "mlp", "width": WIDTH, "activation": "tanh", "dropout": 0.0}
    torch.manual_seed(0)
    model = pf.create("vae", data.spec, likelihood="bernoulli", **settings)
    constant = [
        replace(player, optimizer=replace(player.optimizer, schedule="constant", warmup=0)) for player in model.players()
    ]
    model.players = lambda: constant  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as directory:
        begun = time.process_time()
        run = pf.train(
            model, data, steps=steps, batch_size=BATCH, out=directory + "/run", learning_rate=RATE, clip=0, average_half_life=0,
            precision=precision, validate_every=0, picture_every=0, tensorboard=False,
        )  # fmt: skip
        seconds = time.process_time() - begun
    return run.model, seconds


@torch.no_grad()
def elbo(encode, decode, images: Tensor) -> tuple[float, float]:
    """The ELBO of images in [0, 1] in nats and its standard error: encode gives mean and log sigma, decode logits."""
    mean, log_sigma = encode(images)
    noise = torch.randn(16, *mean.shape, generator=torch.Generator().manual_seed(0))
    white = images.flatten(1)
    logits = [decode(mean + log_sigma.exp() * each) for each in noise]
    misses = [nn.functional.binary_cross_entropy_with_logits(out, white, reduction="none").sum(1) for out in logits]
    likelihood = -torch.stack(misses).mean(0)
    kl = (0.5 * (mean.square() + (2 * log_sigma).exp() - 1) - log_sigma).sum(1)
    value = likelihood - kl
    return value.mean().item(), value.std().item() / len(value) ** 0.5


def side_by_side(source: str, epochs: int) -> None:
    """Both in turn, then their figures."""
    torch.set_num_threads(1)
    data = pf.load_data(source, label="none", validation=0.0)
    images = (take(data.train, len(data.train))[0] > 127).float()
    test = (take(data.test, 2000)[0] > 127).float()
    steps = epochs * (len(images) // BATCH)
    encoder, decoder, seconds = theirs(images, epochs)
    encoder.eval()
    decoder.eval()

    def their_codes(x: Tensor) -> tuple[Tensor, Tensor]:
        said = encoder(x)
        return said.embedding, 0.5 * said.log_covariance

    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, {steps} updates of {BATCH}")
    say("pythae", elbo(their_codes, decoder.body, test), steps / seconds)
    for precision in ("fp32", "auto"):
        model, my_seconds = ours(images, steps, precision)
        model.eval()
        codes, decode = partial(codes_of, model), partial(logits_of, model)
        say(f"pushforward, {precision}", elbo(codes, decode, test), steps / my_seconds)
        print(f"    updates/s over theirs: {seconds / my_seconds:.2f}")


def codes_of(model: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log sigma of q(z | x) of images in [0, 1]."""
    assert isinstance(model.posterior, Diagonal)
    return model.posterior.read(model.infer(2 * x - 1, None))


def logits_of(model: VAE, z: Tensor) -> Tensor:
    """Of white pixels."""
    return model.parameters_of(z, None).flatten(1)


def say(name: str, bound: tuple[float, float], rate: float) -> None:
    """A row."""
    print(f"{name:18} ELBO {bound[0]:8.2f} +- {bound[1]:.2f} nats (2000 test images)   {rate:6.1f} updates/s", flush=True)


@torch.no_grad()
def bound(source: str, directory: str, images: int, draws: int) -> None:
    """L_k of black and white test images, each drawn once from its grey levels, with draws of their own for each image."""
    run = pf.load(directory)
    data = pf.load_data(source, label="none")
    model = run.model.eval()
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:images]
    x = data.units.to_model(data.test.fetch(order)[0])
    grey = (x + 1) / 2
    x = torch.where(SampleRng(1).rand(*x.shape) < grey, 1.0, -1.0)
    begun = time.perf_counter()
    with torch.no_grad():
        value = (iwae_bound(model, x, draws, 2, chunk=2500) + model.log_det).double().numpy()
    error = np.std(value) / len(value) ** 0.5
    print(f"L_{draws} of {len(value)} test images drawn black and white: {value.mean():.2f} +- {error:.2f} nats", end=" ")
    print(f"({time.perf_counter() - begun:.0f} s)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--bound", metavar="RUN")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=5000)
    given = parser.parse_args()
    if given.bound:
        bound(given.data, given.bound, given.images, given.draws)
    else:
        side_by_side(given.data, given.epochs)
