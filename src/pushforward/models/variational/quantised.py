"""Autoencoders whose codes are integers: VQ-VAE, the discrete VAE, finite scalar quantisation (VQ-VAE-2: `vq_vae_2.py`).

An encoder maps x to a grid of vectors z, a quantiser (`nets/quantisers.py`) each of them to one of K codes, a decoder the
codes to p(x | codes). With sums over the numbers of a datum the objective is that of the papers,

    - log p(x | codes) + |sg(z) - e|^2 + beta |z - sg(e)|^2        (vq-vae: the second term by moving averages)
    - log p(x | codes) + beta KL(q(codes | x) || uniform)          (dvae)
    - log p(x | codes)                                             (fsq-vae)

all per number of x. In training dvae's codes are relaxed, mixtures of entries, and its objective bounds nothing; on held-out
data they are hard draws from q, one a place, so that for beta = 1 the objective's mean is at least -log p(x) of the model with
uniform codes, per number of x (in the model's units). The others' codes are hard in either.

What is drawn by the model itself comes from tables of its codes (`code_prior.py`) that are counted as it trains, and once more
with the averaged weights when it has. An image is worth more than that: train a `gpt` on `pf.codes_of(run)`.

van den Oord, Vinyals and Kavukcuoglu 2017, arXiv:1711.00937; Ramesh et al. 2021, arXiv:2102.12092;
Mentzer et al. 2023, arXiv:2309.15505.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.distributions import choice, likelihoods
from pushforward.distributions.likelihoods import Sigma
from pushforward.errors import UserError, nearest
from pushforward.models.classical.classes import class_count
from pushforward.models.contract import Generator, Loss, Moment, OptimizerSettings, Player, Update, device_of
from pushforward.models.variational.code_prior import CodePrior
from pushforward.nets.choice import chosen_network
from pushforward.nets.conditioning import checked_classes, draw_condition
from pushforward.nets.mlp import mlp
from pushforward.nets.quantisers import (
    FiniteScalarQuantiser,
    GumbelQuantiser,
    Quantised,
    Quantiser,
    VectorQuantiser,
    perplexity,
)
from pushforward.nets.spatial import SpatialDecoder, SpatialEncoder, grids
from pushforward.randomness import Rng, as_rng

Kind = Literal["ema", "gradient", "gumbel", "fsq"]

HAS: dict[str, tuple[str, ...]] = {  # which settings a quantiser has
    "ema": ("codes", "code_dim", "beta", "decay", "restart", "normalise"),
    "gradient": ("codes", "code_dim", "beta", "decay", "restart", "normalise"),
    "gumbel": ("codes", "code_dim", "beta"),
    "fsq": ("levels",),
}
FOLLOW = 0.99  # what an update leaves of the counts that follow the training
CHUNK = 128  # data encoded at a time when codes are counted


def make_quantiser(
    kind: Kind, codes: int, code_dim: int, levels: tuple[int, ...], beta: float, decay: float, restart: float, normalise: bool
) -> Quantiser:
    """The quantiser of this name. Raises UserError for an unknown one, and for what is asked of it that it does not have."""
    given = dict(codes=codes, code_dim=code_dim, levels=levels, beta=beta, decay=decay, restart=restart, normalise=normalise)
    if kind not in HAS:
        raise UserError(f"quantiser={kind!r} was given; {nearest(str(kind), HAS)}")
    usual = inspect.signature(VQVAE).parameters
    for name, value in given.items():
        if name not in HAS[kind] and value != usual[name].default:
            raise UserError(f"{name}={value} was given with quantiser={kind!r}, which has {', '.join(HAS[kind])}.")
    if kind == "fsq":
        return FiniteScalarQuantiser(levels)
    if kind == "gumbel":
        return GumbelQuantiser(codes, code_dim, beta=beta)
    options = dict(beta=beta, decay=decay, restart=restart)
    return VectorQuantiser(codes, code_dim, moving=kind == "ema", normalise=normalise, **options)


def default_halvings(spec: DataSpec) -> int:
    """Two for images of 16 pixels and more (codes of 4x4 pixels), else one."""
    return 2 if max(spec.shape[1:]) >= 16 else 1


class QuantisedAutoencoder(nn.Module):
    """What they have in common; abstract. A method says what its levels are (`quantise`), coarse first, and decodes them
    (`output`)."""

    def __init__(
        self,
        spec: DataSpec,
        quantisers: list[Quantiser],
        shapes: list[tuple[int, ...]],
        likelihood: likelihoods.Name | Literal["l2"],
        sigma: Sigma | float,
    ):
        super().__init__()
        self.spec, self.grids = spec, shapes
        self.classes = class_count(spec, "a quantised autoencoder")
        self.likelihood = choice.likelihood(likelihood, spec, sigma)
        self.quantisers = nn.ModuleList(quantisers)
        priors: list[CodePrior] = []
        for i, (quantiser, grid) in enumerate(zip(quantisers, shapes, strict=True)):
            coarse = (quantisers[i - 1].size, shapes[i - 1]) if i else None
            priors.append(CodePrior(quantiser.size, grid, self.classes, coarse))  # type: ignore[arg-type]
        self.priors = nn.ModuleList(priors)

    @property
    def code_count(self) -> int:
        """How many values an entry of a code may have: the vocabulary of a model of the codes."""
        return max(quantiser.size for _, quantiser, _ in self._levels())

    def quantise(self, x: Float[Tensor, "b *shape"], rng: Rng | None = None, progress: float = 1.0) -> list[Quantised]:
        """The codes of x, level by level."""
        raise NotImplementedError

    def output(self, codes: list[Tensor]) -> Float[Tensor, "b k *shape"]:
        """The likelihood's parameters, from the codes (B, D, *grid) of each level."""
        raise NotImplementedError

    # Learns

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The objective per number of x. Terms: mse (mean squared error of a number), of each level its own term and the
        perplexity of its codes in the batch."""
        x = batch.x
        found = self.quantise(x, rng, batch.progress if self.training else 1.0)
        parameters = self.output([level.codes for level in found])
        own = torch.stack([level.loss for level in found]).sum(0)
        total = (own - self.likelihood.log_prob(parameters, x)).mean() / self.spec.dimensions
        error = (self.likelihood.mean(parameters.detach()) - x.float()).square().mean()
        terms = {"mse": error, "quantiser": own.mean() / self.spec.dimensions}
        keep: dict[str, Tensor] = {}
        for i, (level, (name, quantiser, _)) in enumerate(zip(found, self._levels(), strict=True)):
            terms["perplexity" + name] = perplexity(level.indices, quantiser.size)
            kept = level.keep | {"indices": level.indices.flatten(1)}
            keep |= {f"{i}:{key}": rows for key, rows in kept.items()}
        if batch.condition is not None and self.classes > 1:
            keep["condition"] = batch.condition
        return Loss(total, terms, keep)

    def _levels(self) -> list[tuple[str, Quantiser, CodePrior]]:
        """Of each level what its figures end with, its quantiser and its tables."""
        names = [""] if len(self.grids) == 1 else ["_top", "_bottom"]
        return cast(list[tuple[str, Quantiser, CodePrior]], list(zip(names, self.quantisers, self.priors, strict=True)))

    def after_update(self, keep: dict[str, Tensor], moment: Moment) -> None:
        """Moves the codebooks, and the tables of codes, for pictures on the way."""
        for i, (_, quantiser, _) in enumerate(self._levels()):
            own = {key.removeprefix(f"{i}:"): rows for key, rows in keep.items() if key.startswith(f"{i}:")}
            quantiser.after_update(own, moment.rng)
        self._observe([keep[f"{i}:indices"] for i in range(len(self.grids))], keep.get("condition"), FOLLOW)

    def _observe(self, codes: list[Tensor], condition: Tensor | None, decay: float = 1.0) -> None:
        for i, (_, _, prior) in enumerate(self._levels()):
            prior.observe(codes[i], condition, codes[i - 1] if i else None, decay)

    def count_codes(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """Counts the codes of all training data anew."""
        seen = 0
        for _, _, prior in self._levels():
            prior.reset()
        first: tuple[list[Tensor], Tensor | None] | None = None
        for batch in batches:
            condition = batch.condition if self.classes > 1 else None
            for at in range(0, len(batch), CHUNK):
                codes = [level.indices.flatten(1) for level in self.quantise(batch.x[at : at + CHUNK])]
                asked = None if condition is None else condition[at : at + CHUNK]
                self._observe(codes, asked)
                first, seen = first or (codes, asked), seen + len(codes[0])
        assert first is not None  # a training set is never empty
        return Update({"data": float(seen), "nats": -float(self.log_prob_of_codes(*first).mean())}, finished=True)

    def log_prob_of_codes(self, codes: list[Tensor], condition: Tensor | None) -> Float[Tensor, " b"]:
        """log p(codes | class) under the tables, codes (B, P) of each level; in nats per datum."""
        parts = []
        for i, (_, _, prior) in enumerate(self._levels()):
            asked = condition if prior.classes > 1 else None
            parts.append(prior.log_prob(codes[i], asked, codes[i - 1] if i else None))
        return torch.stack(parts).sum(0)

    def players(self) -> list[Player]:
        """One that trains all networks, and one that counts codes when they are trained."""
        optimizer = OptimizerSettings(learning_rate=1e-3)  # no weight decay: it would shrink a codebook that has no gradient
        return [
            Player("autoencoder", self, loss=self.loss, optimizer=optimizer, after_update=self.after_update),
            Player("codes", self.priors, update=self.count_codes, at_end=True),
        ]

    # Encodes, Decodes, Samples

    def encode(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Int[Tensor, "b *grid"]:
        """The integers of x: (B, h, w) on a grid, (B, L) of vectors; of two levels (B, L), the coarse one first, each row by
        row. `condition` is not looked at."""
        found = [level.indices for level in self.quantise(x)]
        return found[0] if len(found) == 1 else torch.cat([level.flatten(1) for level in found], 1)

    def levels_of(self, z: Tensor) -> list[Tensor]:
        """The integers of each level, (B, *grid), from what `encode` gives or the same flattened.

        Raises UserError for what are no codes of this model.
        """
        sizes = [math.prod(grid) for grid in self.grids]
        if z.is_floating_point() or z.dim() < 2 or math.prod(z.shape[1:]) != sum(sizes):
            raise UserError(
                f"codes of type {z.dtype} and shape {tuple(z.shape[1:])} were given; {sum(sizes)} integers were expected."
            )
        parts = z.flatten(1).long().split(sizes, 1)
        for (_, quantiser, _), part in zip(self._levels(), parts, strict=True):
            if part.numel() and not 0 <= int(part.min()) <= int(part.max()) < quantiser.size:
                raise UserError(
                    f"codes from {int(part.min())} to {int(part.max())} were given; 0 to {quantiser.size} - 1 exist."
                )
        return [part.reshape(len(z), *grid) for part, grid in zip(parts, self.grids, strict=True)]

    def decode(self, z: Tensor, *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """The mean of p(x | codes) for integers as `encode` gives them, or the same flattened to (B, L).

        `condition` is not looked at. Raises UserError for what are no codes of this model.
        """
        levels = zip(self._levels(), self.levels_of(z), strict=True)
        codes = [quantiser.lookup(indices) for (_, quantiser, _), indices in levels]
        return self.likelihood.mean(self.output(codes))

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Int[Tensor, "n *grid"]:
        """Codes drawn from the tables, of the classes (n,) that are asked for, else of classes as frequent as in the data."""
        rng = as_rng(generator, device_of(self))
        condition = checked_classes(condition, n, self.classes)
        by_class = all(prior.classes > 1 for _, _, prior in self._levels())
        if condition is None and by_class and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, n, rng)
        asked = condition if self.classes > 1 else None
        found: list[Tensor] = []
        for i, (_, _, prior) in enumerate(self._levels()):
            found.append(prior.sample(n, rng, asked, found[i - 1] if i else None))
        return found[0].view(n, *self.grids[0]) if len(found) == 1 else torch.cat(found, 1)

    def sample(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n *shape"]:
        """Decodes codes drawn from the tables: right in small parts, loose as a whole (see the head of this file)."""
        return self.decode(self.draw_codes(n, condition=condition, generator=generator))

    @torch.no_grad()
    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """How the codes are used by data x, at least a hundred or so, and how well these come back.

        Of each level (`_top` and `_bottom`, if there are two): perplexity, of so many codes, and codes_used, those that come at
        all. mean_squared_error: of a number of x; psnr: in dB, its mean over x, of images (peak to peak 2).
        """
        found: list[list[Tensor]] = []
        errors: list[Tensor] = []
        for part in x.split(CHUNK):
            levels = self.quantise(part)
            found.append([level.indices.flatten(1) for level in levels])
            back = self.likelihood.mean(self.output([level.codes for level in levels]))
            errors.append((back - part.float()).square().flatten(1).mean(1))
        figures: dict[str, float] = {}
        for i, (name, quantiser, _) in enumerate(self._levels()):
            indices, size = torch.cat([part[i] for part in found]), quantiser.size
            figures |= {"perplexity" + name: float(perplexity(indices, size)), "codes" + name: float(size)}
            figures["codes_used" + name] = float(len(indices.unique()))
        error = torch.cat(errors)
        figures["mean_squared_error"] = float(error.mean())
        if self.spec.kind == "image":
            figures["psnr"] = float((10 * torch.log10(4 / error.clamp(min=1e-12))).mean())
        return figures


class VQVAE(QuantisedAutoencoder):
    """An autoencoder of images and vectors whose codes are integers: on a grid for images, a few for a vector.

    Args:
        spec: What a datum is; it may come in classes, which only the drawing of codes looks at.
        quantiser: ema (codebook by moving averages), gradient (by its loss), gumbel (discrete VAE) or fsq (rounded channels).
        codes: Entries of the codebook; of fsq it is the product of its levels.
        code_dim: Numbers in an entry.
        levels: Of fsq: the values that each channel takes.
        beta: Weight of the commitment; of gumbel that of the KL.
        decay: Of the moving averages.
        restart: An entry used less than this part of an even share is put where data are; 0: never.
        normalise: Entries on the unit sphere, compared by their angle (ema and gradient).
        network: auto (conv for images and fields (C, H, W) of 4 pixels or more, else mlp), conv or mlp.
        halvings: Of an image on the way to its codes; None: 2 for 16 pixels and more, else 1.
        positions: Codes of a vector (mlp).
        width: Channels of the conv, width of the mlp's layers; None: 64 or 256.
        depth: Residual blocks of the conv, hidden layers of the mlp.
        likelihood: What the decoder's output means: gaussian, logistic, bernoulli, categorical or auto.
        sigma: Of the gaussian likelihood: a number (0.5: twice the squared error), learned, global, column or pixel.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        quantiser: Kind = "ema",
        codes: int = 256,
        code_dim: int = 32,
        levels: tuple[int, ...] = (8, 6, 5),
        beta: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.05,
        normalise: bool = False,
        network: Literal["auto", "conv", "mlp"] = "auto",
        halvings: int | None = None,
        positions: int = 8,
        width: int | None = None,
        depth: int = 2,
        likelihood: likelihoods.Name = "gaussian",
        sigma: Sigma | float = 0.5,
    ):
        made = make_quantiser(quantiser, codes, code_dim, levels, beta, decay, restart, normalise)
        network = chosen_network(network, spec, least=4)
        halvings = default_halvings(spec) if halvings is None and network == "conv" else halvings or 0
        grid = grids(spec.shape[1], spec.shape[2], halvings)[-1] if network == "conv" else (positions,)
        super().__init__(spec, [made], [grid], likelihood, sigma)
        outputs = self.likelihood.channels
        if network == "conv":
            channels, *size = spec.shape
            width = 64 if width is None else width
            self.encoder: nn.Module = SpatialEncoder(spec.shape, made.inputs, halvings, width, depth)
            self.decoder: nn.Module = SpatialDecoder(made.outputs, (outputs * channels, *size), halvings, width, depth)
        else:
            if positions < 1:
                raise UserError(f"positions={positions} was given; a vector has at least one code.")
            hidden = [256 if width is None else width] * depth
            into, out = (
                mlp(spec.dimensions, made.inputs * positions, hidden),
                mlp(made.outputs * positions, outputs * spec.dimensions, hidden),
            )
            self.encoder = nn.Sequential(nn.Flatten(), into, nn.Unflatten(1, (made.inputs, positions)))
            self.decoder = nn.Sequential(nn.Flatten(), out)

    def quantise(self, x: Float[Tensor, "b *shape"], rng: Rng | None = None, progress: float = 1.0) -> list[Quantised]:
        return [self.quantisers[0](self.encoder(x), rng, progress)]

    def output(self, codes: list[Tensor]) -> Float[Tensor, "b k *shape"]:
        return self.decoder(codes[0]).reshape(len(codes[0]), self.likelihood.channels, *self.spec.shape)
