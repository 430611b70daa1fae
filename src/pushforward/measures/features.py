"""The space in which samples and data are compared.

Distances between pixels say little about images, so images are compared in the penultimate layer of a small network that
is trained once on the data themselves and kept on disk: an autoencoder, which also tells noise and
blur, and the labels where there are any.
Everything else is compared in the model's own units (standardised columns, one-hot categories). The usual Inception
features (Heusel et al. 2017) are there by name; they were learned on 299 x 299 photographs and know little of anything else.

The network is a function of (the data, this file's recipe); its hash is part of every protocol, because distances in
different spaces are not comparable.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.data.spec import DataSpec
from pushforward.data.units import units
from pushforward.errors import UserError, nearest
from pushforward.randomness import mix, seeded

SPACES = ("auto", "pixels", "classifier", "encoder", "inception")
RECIPE = 1  # counts up when what follows would train another network from the same data
WIDTH = 64
STEPS = 450  # at most; few data take half of them
BATCH = 64
NOISE = 0.5  # the standard deviation of the most noise, where images are in [-1, 1]
APPEARANCE = 10.0  # a squared error of 0.1 weighs as much as one nat of the labels
LARGEST_FIT = 20_000
ROUGH = 4.0  # times as much as a difference of means: the numbers are smaller


@dataclass
class FeatureSpace:
    """name, and hash of the network's weights ("" where there is none); `extract`: codes (n, ...) -> features (n, d)."""

    name: str
    hash: str
    extract: Callable[[Tensor], np.ndarray]


def matrix(spec: DataSpec, codes: Tensor) -> Float[np.ndarray, "n d"]:
    """Codes as rows of the model's own units (images in [-1, 1], standardised columns), float64."""
    return units(spec).to_model(codes.cpu()).flatten(1).double().numpy()


def values_name(spec: DataSpec) -> str:
    """What the model's own units are called."""
    return "pixels in [-1, 1]" if spec.kind == "image" else "standardised values"


def feature_space(
    spec: DataSpec,
    codes: Tensor,
    condition: Tensor | None = None,
    space: str = "auto",
    say: Callable[[str, float], None] = lambda what, fraction: None,
) -> FeatureSpace:
    """The feature space for data of this spec, fitted on training `codes` (n, ...) with their labels, if it has to be fitted.

    space: "auto": for images a classifier where there are classes or attributes, else an encoder; for other data their own
    units. "pixels": the own units of anything. "classifier", "encoder": that network. "inception": torch-fidelity's.
    Raises UserError for an unknown space and for one that these data have no use for.
    """
    if space not in SPACES:
        raise UserError(f"there is no feature space '{space}'; {nearest(space, SPACES)}")
    if spec.kind != "image" and space not in ("auto", "pixels"):
        raise UserError(f"'{space}' features are for images; '{spec.name}' holds {spec.kind}: use features='auto'.")
    labelled = condition is not None and len(torch.unique(condition, dim=0)) > 1 and _labels(spec) is not None
    if space == "auto":
        space = "pixels" if spec.kind != "image" else "classifier" if labelled else "encoder"
    if space == "pixels":
        return FeatureSpace(values_name(spec), "", lambda codes: matrix(spec, codes))
    if space == "inception":
        return _inception(spec)
    if space == "classifier" and not labelled:
        raise UserError(f"classifier features need at least two classes; '{spec.name}' has none: use features='encoder'.")
    network = Features(spec.shape, _labels(spec) if space == "classifier" else None)
    label = condition[:LARGEST_FIT] if condition is not None and space == "classifier" else None
    digest = _fitted(network, spec, codes[:LARGEST_FIT], label, space, say)

    to_model = units(spec).to_model

    def extract(codes: Tensor) -> np.ndarray:
        with torch.inference_mode():
            parts = [network.features(to_model(part)) for part in codes.cpu().split(512)]
        return torch.cat(parts).double().numpy()

    return FeatureSpace(f"{space} features", digest, extract)


def coarse_space(spec: DataSpec) -> FeatureSpace:
    """A space for images that nothing is fitted for: their means over a grid of 8 x 8 cells, and over 4 x 4 how much pixels
    differ from their surroundings, which tells noise and blur. Coarser than what a network knows, and made in milliseconds.
    """

    def extract(codes: Tensor) -> np.ndarray:
        parts = []
        for part in codes.cpu().split(512):
            x = units(spec).to_model(part)
            detail = (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).square()
            height, width = x.shape[2:]
            means = F.adaptive_avg_pool2d(x, (min(8, height), min(8, width)))
            rough = F.adaptive_avg_pool2d(detail, (min(4, height), min(4, width))).sqrt()
            parts.append(torch.cat([means.flatten(1), ROUGH * rough.flatten(1)], 1))
        return torch.cat(parts).double().numpy()

    return FeatureSpace("coarse means and roughness", "", extract)


def _labels(spec: DataSpec) -> int | None:
    """How many outputs a classifier of these data has."""
    return spec.condition.size if spec.condition and spec.condition.kind in ("class", "attributes") else None


class Features(nn.Module):
    """A small convolutional network: x (B, C, H, W) -> features (B, 64) -> x again, class logits where there are `labels`,
    and how much noise and blur was added to x.

    Networks that see nothing but clean images learn to look past noise and blur, which is what samples differ by: the last
    task keeps them in the features.
    """

    def __init__(self, shape: tuple[int, ...], labels: int | None):
        super().__init__()
        channels, height, width = shape
        first = 2 if min(height, width) >= 24 else 1  # small images keep their resolution longer
        final = [((size + first - 1) // first + 3) // 4 for size in (height, width)]
        pooled = (min(4, final[0]), min(4, final[1]))
        self.coarse = (min(height, 16), min(width, 16))  # what is drawn again
        layers: list[nn.Module] = []
        before = channels
        for stride, after in ((first, 24), (2, 48), (2, 64)):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU()]
            before = after
        layers += [nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), nn.Linear(pooled[0] * pooled[1] * before, WIDTH)]
        self.trunk = nn.Sequential(*layers)
        self.head = None if labels is None else nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, labels))
        self.damage = nn.Linear(WIDTH, 2)
        self.decoder = nn.Sequential(
            nn.SiLU(),
            nn.Linear(WIDTH, 32 * 16),
            nn.SiLU(),
            nn.Unflatten(1, (32, 4, 4)),
            nn.Upsample(size=self.coarse, mode="bilinear"),
            nn.Conv2d(32, 32, 3, 1, 1),
            nn.SiLU(),
            nn.Conv2d(32, channels, 3, 1, 1),
        )
        self.labels = labels
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("scale", torch.ones(WIDTH))

    def features(self, x: Tensor) -> Tensor:
        """Standardised on the data that the network was fitted on: the kernel of KID expects numbers of order 1."""
        return (self.trunk(x) - self.mean) / self.scale

    def loss(self, x: Tensor, label: Tensor | None, generator: torch.Generator) -> Tensor:
        z = self.trunk(x)
        again = F.mse_loss(self.decoder(z), F.adaptive_avg_pool2d(x, self.coarse))
        half = x[: (len(x) + 1) // 2]  # enough to learn what damage looks like
        amount = torch.rand(len(half), 2, generator=generator)
        noise, blur = amount[:, 0, None, None, None], amount[:, 1, None, None, None]
        spoilt = half + blur * (F.avg_pool2d(half, 3, 1, 1, count_include_pad=False) - half)
        spoilt = spoilt + NOISE * noise * torch.randn(half.shape, generator=generator)
        damage = F.mse_loss(self.damage(self.trunk(spoilt)), amount) + self.damage(z).square().mean()
        total = APPEARANCE * (again + damage)
        if self.head is None or label is None:
            return total
        if label.dim() == 1:
            return total + F.cross_entropy(self.head(z), label.long())
        return total + F.binary_cross_entropy_with_logits(self.head(z), label.float())


def _cache() -> Path:
    root = os.environ.get("PUSHFORWARD_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "pushforward") / "features"


def _fitted(
    network: Features,
    spec: DataSpec,
    codes: Tensor,
    condition: Tensor | None,
    space: str,
    say: Callable[[str, float], None],
) -> str:
    """Puts the weights for these data into `network`, from the disk or by training; the hash of what decides them."""
    content = hashlib.sha256(repr((RECIPE, space, spec.shape, spec.levels, network.labels, STEPS)).encode())
    for tensor in (codes, condition):
        if tensor is not None:
            content.update(str(tensor.dtype).encode() + tensor.cpu().contiguous().numpy().tobytes())
    digest = content.hexdigest()[:16]
    path = _cache() / f"{digest}.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
        network.eval()
        return digest
    seed = int(digest, 16)
    with seeded(seed % 2**63):
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.GroupNorm)):
                module.reset_parameters()
    codes, to_model = codes.cpu(), units(spec).to_model
    steps = min(STEPS, max(STEPS // 2, 20 * len(codes) // BATCH))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(mix(seed))
    for step in range(steps):
        rows = torch.randint(len(codes), (BATCH,), generator=generator)
        loss = network.loss(to_model(codes[rows]), None if condition is None else condition[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        say(f"fitting {space} features (once for these data)", step / steps)
    network.eval()
    with torch.no_grad():
        raw = torch.cat([network.trunk(to_model(part)) for part in codes.split(512)])
        network.mean.copy_(raw.mean(0))
        network.scale.copy_(raw.std(0, unbiased=False).clamp(min=1e-4))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(network.state_dict(), partial)
    os.replace(partial, path)
    return digest


def _inception(spec: DataSpec) -> FeatureSpace:
    """torch-fidelity's 2,048 Inception features of images as RGB, 8 bits (grey repeated, transparency left out)."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    except ImportError:
        raise UserError(
            "Inception features need torch-fidelity: pip install 'pushforward[inception]', or use features='auto'."
        ) from None
    except (OSError, RuntimeError, HTTPException) as error:  # no network, a full disk, a file that is cut short
        raise UserError(f"the weights of Inception could not be had ({error}); use features='auto'.") from error
    network.eval()

    def extract(codes: Tensor) -> np.ndarray:
        x = units(spec).to_model(codes.cpu())
        colour = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
        pixels = ((colour + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        with torch.inference_mode():
            return torch.cat([network(part)[0] for part in pixels.split(64)]).double().numpy()

    return FeatureSpace("inception features", "2015-12-05", extract)
