"""Patches of an image: as data for any model, on their leading eigen-patches, and as a prior that takes noise away.

A mixture of Gaussians over patches z (each channel's mean taken out) says how likely a patch is. Of an image y = x + noise of
standard deviation sigma, EPLL wants the image whose every patch P_i x is likely (half-quadratic splitting, weights beta):

    min_x  |x - y|^2 / (2 sigma^2) + sum_i { beta/2 |P_i x - z_i|^2 - log p(z_i) }     over x and z_i in turn, beta rising.

Given x, the component k of a patch is the most probable one under N(mu_k, Sigma_k + I/beta), and z_i its Wiener estimate
mu_k + Sigma_k (Sigma_k + I/beta)^-1 (P_i x - mu_k); given the z_i, each pixel is the mean of y, weighted by 1/sigma^2, and of
the patches over it, together weighted by beta, as the authors do.

A mixture learned from noisy patches has covariances Sigma_k + sigma^2 I. EM under the constraint that no variance is below
sigma^2 is maximum likelihood of that model (the floor of `em.maximisation`), and taking sigma^2 away leaves the Sigma_k of
clean patches.

Zoran and Weiss 2011, "From learning models of natural image patches to whole image restoration", ICCV.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import fold, unfold

from pushforward.errors import UserError
from pushforward.models.classical import em
from pushforward.models.classical.em import Mixture
from pushforward.models.classical.moments import Moments
from pushforward.randomness import UpdateRng

BETAS = (1.0, 4.0, 8.0, 16.0, 32.0)  # of Zoran and Weiss, in units of 1 / sigma^2
BLOCK = 2**24  # numbers in the largest temporary: 64 MiB
FLOOR = 1e-6  # smallest variance of a clean patch, relative to the mean variance
ENOUGH = 2  # noisy patches for each number in one: with fewer, what is learned from them is mostly their noise
GAIN = 1e-3  # nats a patch: a pass of EM that changes less is the last


def patches_of(image: Shaped[Tensor, "c h w"], size: int = 8, stride: int = 1) -> Shaped[Tensor, "n c {size} {size}"]:
    """All patches of an image, row by row, `stride` pixels apart, in the image's own type.

    Raises UserError for a patch that is larger than the image.

    >>> patches_of(torch.arange(12).view(1, 3, 4), size=2).shape
    torch.Size([6, 1, 2, 2])
    """
    if not 1 <= size <= min(image.shape[1:]) or stride < 1:
        raise UserError(
            f"patches of {size} x {size} pixels, {stride} apart, were asked for of an image of {image.shape[1]} x "
            f"{image.shape[2]}; a patch is no larger than its image and at least one pixel from the next."
        )
    found = image.unfold(1, size, stride).unfold(2, size, stride)  # (C, rows, columns, s, s)
    return found.permute(1, 2, 0, 3, 4).reshape(-1, len(image), size, size)


def image_of(
    patches: Float[Tensor, "n c s s"], height: int, width: int, stride: int = 1
) -> Float[Tensor, "c {height} {width}"]:
    """The image whose pixels are the means of the patches over them (0 where there is none): undoes `patches_of`."""
    columns, size = patches.flatten(1).T[None], patches.shape[2]
    total = fold(columns, (height, width), size, stride=stride)[0]
    return total / _counts(height, width, size, stride, total).clamp(min=1)


def _counts(height: int, width: int, size: int, stride: int, like: Tensor) -> Float[Tensor, "1 h w"]:
    """How many patches lie over each pixel."""
    ones = unfold(like.new_ones(1, 1, height, width), size, stride=stride)
    return fold(ones, (height, width), size, stride=stride)[0]


def projected(
    patches: Shaped[Tensor, "n c s s"], components: int
) -> tuple[Float[Tensor, "n c s s"], Float[Tensor, "k c s s"], float]:
    """Patches on their mean and `components` leading eigen-patches, those eigen-patches (orthonormal, by falling variance),
    and the sum of the discarded eigenvalues, which is the mean squared error a patch. Of integer patches in float32."""
    patches = patches if patches.is_floating_point() else patches.float()
    flat = patches.flatten(1)
    if not 1 <= components <= flat.shape[1]:
        raise UserError(f"{components} eigen-patches were asked for; patches of {flat.shape[1]} numbers have 1 to as many.")
    moments = Moments(flat[0])
    moments.add(flat)
    found = moments.principal(components)
    centred = flat.double() - found.mean
    kept = found.mean + centred @ found.directions.T @ found.directions
    discarded = (found.discarded or 0.0) * (flat.shape[1] - components)
    directions = found.directions.view(components, *patches.shape[1:])
    return kept.view_as(patches).to(patches.dtype), directions.to(patches.dtype), discarded


def learn_prior(
    images: Sequence[Float[Tensor, "c _h _w"]],
    *,
    size: int = 8,
    components: int = 64,
    patches: int = 40_000,
    passes: int = 30,
    sigma: float = 0.0,
    seed: int = 0,
) -> Mixture:
    """A mixture over the patches of images, each channel's mean taken out: weights (K,), means and Cholesky factors of the
    covariances in C size^2 dimensions.

    Args:
        images: of one number of channels, in the units of the images that are to be denoised.
        components: K, fewer where there are not four patches for each of a component's numbers of pixels: it would learn the
            noise of its own patches.
        patches: how many are learned from, drawn from all images alike.
        passes: of EM, fewer where one changes the log-posterior by less than 0.001 nats a patch.
        sigma: standard deviation of the noise in `images`, which the covariances are freed from.
    """
    if not images:
        raise UserError("no images were given; a patch prior is learned from one image at least.")
    if len({len(image) for image in images}) > 1:
        raise UserError(f"images of {sorted({len(image) for image in images})} channels were given; give them all one number.")
    generator = torch.Generator().manual_seed(seed)
    share, rows = -(-patches // len(images)), []
    for image in images:
        every = patches_of(image, size)
        chosen = torch.randperm(len(every), generator=generator)[:share]
        rows.append(_centred(every[chosen.to(every.device)].float())[0])
    x = torch.cat(rows)
    spread = float(x.double().square().mean())
    floor = max(sigma**2, FLOOR * spread, torch.finfo(torch.float32).tiny)
    mixture, prior = em.start(
        x, min(components, max(1, len(x) // (4 * x.shape[1]))), "full", floor, None, 1, UpdateRng(generator)
    )
    mixture, _ = em.run(x, mixture, prior, "full", floor, passes, GAIN)
    if sigma:
        identity = torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
        clean = mixture.factor @ mixture.factor.mT - sigma**2 * identity
        mixture = dataclasses.replace(mixture, factor=em.floored_cholesky(clean, FLOOR * sigma**2))
    return mixture


def _centred(patches: Float[Tensor, "n c s s"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c 1 1"]]:
    """Patches without the mean of each channel, flattened, and those means."""
    mean = patches.mean((2, 3), keepdim=True)
    return (patches - mean).flatten(1), mean


class Wiener:
    """The most probable component of each noisy patch and its estimate there, for noise of variance `noise`, in float32."""

    def __init__(self, prior: Mixture, noise: float):
        q = prior.means.shape[1]
        identity = torch.eye(q, dtype=torch.float64, device=prior.means.device)
        clean = prior.factor @ prior.factor.mT
        noisy = clean + noise * identity
        factor = torch.linalg.cholesky(noisy)
        single = Mixture(prior.weights.float(), prior.means.float(), factor.float())
        self.density, self.means = em.densities(single, "full"), prior.means.float()
        self.filters = torch.cholesky_solve(clean, factor).mT.float()  # Sigma (Sigma + noise I)^-1

    def __call__(self, x: Float[Tensor, "n q"]) -> Float[Tensor, "n q"]:
        components = len(self.means)
        label = torch.cat([self.density(part).argmax(1) for part in x.split(max(BLOCK // (components * x.shape[1]), 1))])
        out = torch.empty_like(x)
        for k in label.unique().tolist():
            rows = (label == k).nonzero()[:, 0]
            out[rows] = self.means[k] + (x[rows] - self.means[k]) @ self.filters[k].T
        return out


@torch.no_grad()
def denoise(
    image: Float[Tensor, "c h w"],
    sigma: float,
    prior: Mixture | None = None,
    *,
    size: int = 8,
    seed: int = 0,
) -> Float[Tensor, "c h w"]:
    """The image without its noise: expected patch log-likelihood, by half-quadratic splitting.

    Args:
        image: y, of any size and number of channels.
        sigma: standard deviation of its noise, in its units.
        prior: of patches (`learn_prior`), in the image's units; None learns one from the noisy image itself, which takes at
            least twice as many patches as a patch has numbers.
        size: of a patch, that of the prior.
    """
    if not sigma > 0:
        raise UserError(f"sigma={sigma} was given; it is the standard deviation of the noise, above 0.")
    y = image.float()
    channels, height, width = y.shape
    if prior is None:
        # With 2 to 3 patches for each number a flat image gets 8 to 11 dB better, with 1.6 of 4 x 4 pixels 6, with 0.4 four.
        found, needed = (height - size + 1) * (width - size + 1), ENOUGH * channels * size**2
        if 1 <= size <= min(height, width) and found < needed:
            raise UserError(
                f"the image of {height} x {width} pixels has {found} patches of {size} x {size}, and a prior learned "
                f"from them needs {needed}: fewer teach it their noise. "
                "Give a prior (learn_prior, from other images), or a smaller size."
            )
        prior = learn_prior([y], size=size, sigma=sigma, seed=seed)
    if prior.means.shape[1] != channels * size**2:
        raise UserError(
            f"the prior is of patches of {prior.means.shape[1]} numbers; patches of {size} x {size} pixels and {channels} "
            f"channels have {channels * size**2}. Learn it from images with as many channels, with the same size."
        )
    x = y
    # Bands of whole rows of patches keep the memory bounded, whatever the size of the image.
    step = max(BLOCK // (channels * size**2 * width), 1)
    bands = [slice(top, min(top + step - 1, height - size) + size) for top in range(0, height - size + 1, step)]
    count = _counts(height, width, size, 1, x)
    for beta in BETAS:
        wiener = Wiener(prior, sigma**2 / beta)
        total = torch.zeros_like(x)
        for band in bands:
            rough, mean = _centred(patches_of(x[:, band], size))
            smooth = wiener(rough).view(-1, channels, size, size) + mean
            total[:, band] += fold(smooth.flatten(1).T[None], (band.stop - band.start, width), size)[0]
        x = (y + beta * total / count) / (1 + beta)
    return x.to(image.dtype)
