"""The Laplacian pyramid: an image as its details at every scale, each half as fine as the one before, and what is left.

Burt and Adelson 1983, "The Laplacian pyramid as a compact image code", IEEE Trans. Communications 31(4). The loss on it:
Ling and Okada 2006, "Diffusion distance for histogram comparison", CVPR; Bojanowski et al. 2018, arXiv:1707.05776.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SMALLEST = 4  # pixels of the shorter side that are halved no further


def blurred(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Convolved with the binomial kernel (1 4 6 4 1) / 16 along both axes, the border pixels repeated."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=x.shape[1])


def enlarged(x: Float[Tensor, "b c h w"], like: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c H W"]:
    """The way back from every other pixel to the size of `like`: put on the even pixels and blurred, with the weights of each
    pixel adding up to 1. A linear image stays linear, but for two pixels at the border."""
    there = torch.zeros_like(like[:1, :1])
    there[:, :, ::2, ::2] = 1
    spread = torch.zeros_like(like)
    spread[:, :, ::2, ::2] = x
    return blurred(spread) / blurred(there)


def laplacian_pyramid(x: Float[Tensor, "b c h w"]) -> list[Tensor]:
    """The details at each scale, finest first, and last the image that is left: enlarged and added up they give x again.

    >>> [tuple(band.shape[-2:]) for band in laplacian_pyramid(torch.zeros(1, 1, 28, 23))]
    [(28, 23), (14, 12), (7, 6), (4, 3)]
    """
    bands = []
    while min(x.shape[-2:]) >= SMALLEST:
        smaller = blurred(x)[:, :, ::2, ::2]
        bands.append(x - enlarged(smaller, x))
        x = smaller
    return [*bands, x]


def laplacian_error(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """sum_j 4^j |L_j(x) - L_j(y)|_1, each scale with the weight that its fewer pixels have lost."""
    return torch.stack([4**j * band.abs().flatten(1).sum(1) for j, band in enumerate(laplacian_pyramid(x - y))]).sum(0)
