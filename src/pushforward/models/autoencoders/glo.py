"""Generative latent optimisation: a generator without encoder or critic, and a learned code for each training datum.

    min over theta and z_1 .. z_N of  sum_i  |G(z_i) - x_i|^2 + pyramid Lap_1(G(z_i), x_i),        |z_i| = 1,

with Lap_1 the weighted L1 distance of Laplacian pyramids (`nets/pyramid.py`), which keeps edges that a squared error blurs
(images and fields only). After each update of theta the codes of its batch take a step down their own gradient and are put
back on the sphere. Steps are measured in the batch's typical gradient, so that one rate suits all data. Samples decode codes
from a density that is fitted to those of the training data, put on the sphere as well.

A datum that was not trained on is encoded by descent on its code: from the training code that is nearest in what it decodes to.

Bojanowski et al. 2018, "Optimizing the latent space of generative networks", arXiv:1707.05776.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.autoencoders.codec import (
    FLAT,
    RATES,
    Network,
    chosen_latent,
    make_decoder,
    spread,
    squared_error,
)
from pushforward.models.autoencoders.codes import CodeDensity, Codes
from pushforward.models.contract import Generator, Loss, Moment, OptimizerSettings, Player, device_of
from pushforward.nets.choice import chosen_network
from pushforward.nets.pyramid import laplacian_error
from pushforward.randomness import SampleRng, as_rng

FIRST = 0x610  # the seed of the first codes
STARTS = 256  # training codes that an inversion begins from
INVERSION = 0.1  # its first step


class GLO(nn.Module):
    """Generative latent optimisation for images or vectors. Classes are the business of the density of codes.

    Args:
        spec: What a datum is.
        latent_dim: Numbers in a code, a unit vector; None: 16, or as many as the data have.
        pyramid: Weight of the Laplacian-pyramid loss of images and fields.
        code_rate: Length of a code's first steps (it falls with the cosine of the run's progress); 0: codes stay random.
        capacity: Training data for whose codes there is room.
        inversion_steps: Updates of the code of a datum that was not trained on.
        network: auto (conv for images and fields (C, H, W) larger than 8 x 8, else mlp), linear, mlp or conv.
        width: Width of the mlp's layers, or channels of the conv's first stage; None: 256 or 32.
        depth: Hidden layers of the mlp, or residual blocks per stage of the conv; None: 2 or 0.
        codes: Where codes are drawn from: gaussian (one), class-gaussians (one a class) or gmm (a mixture).
        components: Gaussians in the mixture.
        generator: Your own module z (B, latent_dim) -> as many numbers as a datum has.
    """

    table: Tensor
    used: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        latent_dim: int | None = None,
        pyramid: float = 1.0,
        code_rate: float = 0.3,
        capacity: int = 2**16,
        inversion_steps: int = 30,
        network: Network = "auto",
        width: int | None = None,
        depth: int | None = None,
        codes: Codes = "gaussian",
        components: int = 10,
        generator: nn.Module | None = None,
    ):
        super().__init__()
        network = chosen_network(network, spec, flat=FLAT)
        if spec.condition and not spec.classes:
            raise UserError(
                f"glo can be conditioned on a class only, and '{spec.name}' comes with {spec.condition.kind}; "
                "load the data without it (label=none)."
            )
        if min(pyramid, code_rate) < 0 or min(capacity, inversion_steps) < 1:
            raise UserError("pyramid and code_rate are 0 or more, capacity and inversion_steps at least 1.")
        self.spec, self.latent_dim = spec, chosen_latent(latent_dim, spec, network)
        self.pyramid = pyramid if spec.planar else 0.0
        self.code_rate, self.inversion_steps, self.learning_rate = code_rate, inversion_steps, RATES[network]
        self.generator = generator or make_decoder(spec, self.latent_dim, network, width, depth)
        self.codes = CodeDensity(spec, self.latent_dim, codes, components)
        first = SampleRng(FIRST).randn(capacity, self.latent_dim)
        self.register_buffer("table", F.normalize(first, dim=1))
        self.register_buffer("used", torch.zeros((), dtype=torch.long))  # rows of the table that training has met

    def rows(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """The codes of training data."""
        if index.numel() and int(index.max()) >= len(self.table):
            raise UserError(
                f"datum {int(index.max())} has no code: capacity={len(self.table)}. Set capacity to the number of training "
                "data (--model.capacity); data without an end cannot be learned this way."
            )
        return self.table[index]

    def output(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b *shape"]:
        return self.generator(z).reshape(len(z), *self.spec.shape)

    def error(self, x: Float[Tensor, "b *shape"], y: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
        """What generator and codes want small, of each datum."""
        x, y = x.float(), y.float()
        return squared_error(x, y) + (self.pyramid * laplacian_error(x, y) if self.pyramid else 0.0)

    def loss(self, batch: Batch, rng: object) -> Loss:
        """The error of a batch: of training data by their own codes, of others by inversion. Term `mse`: a number's."""
        keep: dict[str, Tensor] = {}
        if batch.index is None or not self.training:
            z = self.encode(batch.x)
        else:
            z = self.rows(batch.index).requires_grad_()
            step = torch.zeros_like(z)
            if z.requires_grad and torch.is_grad_enabled():
                # the gradient is known after the loss, and what is done with it is the business of `after_update`
                z.register_hook(lambda gradient: step.copy_(gradient))
            keep = {"index": batch.index.to(z.device), "gradient": step}
        output = self.output(z)
        mse = squared_error(output.detach(), batch.x).mean() / self.spec.dimensions
        return Loss(self.error(output, batch.x).mean(), {"mse": mse}, keep)

    def move(self, keep: dict[str, Tensor], moment: Moment) -> None:
        """A step of the codes of a batch down their gradient along the sphere, and back onto it."""
        if not keep:
            return
        index, gradient = keep["index"], keep["gradient"].float()
        z = self.table[index]
        along = gradient - (gradient * z).sum(1, keepdim=True) * z
        typical = along.square().sum(1).mean().sqrt().clamp(min=1e-30)
        rate = self.code_rate * (1 + math.cos(math.pi * moment.progress)) / 2
        moved = F.normalize(z - rate * along / typical, dim=1)
        self.table[index] = moved
        self.used.copy_(torch.maximum(self.used, index.max() + 1))
        self.codes.follow(moved)

    def players(self) -> list[Player]:
        """The generator with the codes, and at the end the density of the codes."""
        optimizer = OptimizerSettings(learning_rate=self.learning_rate)
        fit = self.codes.fitting(lambda batch: self.encode(batch.x) if batch.index is None else self.rows(batch.index))
        return [
            Player("generator", self.generator, loss=self.loss, optimizer=optimizer, after_update=self.move),
            Player("codes", self.codes, update=fit, at_end=True),
        ]

    def encode(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b d"]:
        """The code on the sphere that decodes to the least error, by descent; the same at each call."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().float()
            # every so many-th of the codes that training has met, or of the first ones
            count = max(int(self.used), min(STARTS, len(self.table)))
            at = torch.linspace(0, count - 1, min(STARTS, count), device=x.device).long()
            starts = self.table[at]
            with torch.no_grad():
                far = torch.cdist(x.flatten(1), self.output(starts).float().flatten(1))
            z = starts[far.argmin(1)].clone()
            best, least = z, torch.full_like(z[:, 0], torch.inf)
            momentum, scale = torch.zeros_like(z), torch.zeros_like(z[:, :1])
            for step in range(self.inversion_steps + 1):
                z = z.detach().requires_grad_()
                error = self.error(self.output(z), x)
                better = error.detach() < least
                least, best = torch.where(better, error.detach(), least), torch.where(better[:, None], z.detach(), best)
                if step == self.inversion_steps:
                    break
                (gradient,) = torch.autograd.grad(error.sum(), z)
                # Adam with one scale a datum, along the sphere
                momentum = 0.8 * momentum + 0.2 * gradient
                scale = 0.95 * scale + 0.05 * gradient.square().sum(1, keepdim=True)
                unbiased = momentum / (1 - 0.8 ** (step + 1)), scale / (1 - 0.95 ** (step + 1))
                length = INVERSION * 0.5 * (1 + math.cos(math.pi * step / self.inversion_steps))
                z = F.normalize(z.detach() - length * unbiased[0] / unbiased[1].sqrt().clamp(min=1e-20), dim=1)
        return best.detach()

    def decode(self, z: Float[Tensor, "b d"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """The datum of each code; a code's length is of no matter."""
        return self.output(F.normalize(z, dim=1))

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n d"]:
        """Codes from their density, of the classes (n,) that are asked for, if any; on the sphere."""
        return F.normalize(self.codes.sample(n, condition, as_rng(generator, device_of(self))), dim=1)

    def sample(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n *shape"]:
        """Decodes codes from their density, of the classes (n,) that are asked for, if any."""
        return self.decode(self.draw_codes(n, condition=condition, generator=generator))

    def reconstruction_error(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, " b"]:
        """|decode(encode(x)) - x|^2 of each datum: large for what the generator cannot make."""
        with torch.no_grad():
            return squared_error(self.decode(self.encode(x)), x)

    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """Which units of the code vary over x, and the mean squared error of the reconstructions."""
        return spread(self.encode(x)) | {
            "mean_squared_error": float(self.reconstruction_error(x).mean()) / self.spec.dimensions
        }
