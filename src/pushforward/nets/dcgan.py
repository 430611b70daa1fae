"""The two networks of DCGAN, for images of 8 to 128 pixels a side, of any shape and number of channels.

The rules of the paper: strided convolutions instead of pooling, transposed ones to grow; batch normalisation everywhere
but at the generator's output and the critic's input; ReLU in the generator, LeakyReLU(0.2) in the critic, tanh at the
end; weights drawn from N(0, 0.02). The number of channels doubles where the size halves, up to 8 times `width`.

Sizes are halved with rounding up (28 x 23, 14 x 12, 7 x 6). The critic pads an odd size by one row before its 4 x 4
convolution of stride 2; the generator doubles and cuts the odd row off: every size comes out exactly.

Radford, Metz and Chintala 2016, "Unsupervised representation learning with deep convolutional generative adversarial
networks", arXiv:1511.06434.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError

SMALLEST, LARGEST = 8, 128

# Slower than torch's 0.1: whoever samples uses averaged weights, whose statistics are closer to an average over the last
# hundred updates than to those of the last ten.
MOMENTUM = 0.02


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The heights and widths of an image from the finest to the coarsest: at least two halvings, until it fits 7 x 7.

    >>> sizes(28, 23)
    [(28, 23), (14, 12), (7, 6)]
    """
    if not (SMALLEST <= height <= LARGEST and SMALLEST <= width <= LARGEST):
        able = [min(max(side, SMALLEST), LARGEST) for side in (height, width)]
        raise UserError(
            f"this network makes images of {SMALLEST} to {LARGEST} pixels a side, not {height}x{width}; "
            f"resize to {able[0]}x{able[1]}, the nearest that it can make, or take the model 'gan' with network='mlp'."
        )
    plan = [(height, width)]
    while len(plan) < 3 or max(plan[-1]) > 7:
        plan.append(((plan[-1][0] + 1) // 2, (plan[-1][1] + 1) // 2))
    return plan


def initialise(network: nn.Module) -> None:
    """DCGAN's draw: weights from N(0, 0.02), those of batch norms from N(1, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


def normalisation(name: str, channels: int) -> nn.Module:
    """Of maps (B, channels, H, W): "batch", "layer" or "none"."""
    if name == "none":
        return nn.Identity()
    return nn.GroupNorm(1, channels) if name == "layer" else nn.BatchNorm2d(channels, momentum=MOMENTUM)


class DCGANGenerator(nn.Module):
    """z (B, latent_dim), embedding (B, embedding) or None -> images (B, C, H, W) in [-1, 1].

    Args:
        shape: (C, H, W) of an image; latent_dim: of z; width: channels at half the finest size; embedding: width of the
            condition's vector, which is concatenated with z (0: none); bounded: False for data that are not in [-1, 1].
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, width: int = 64, embedding: int = 0, bounded: bool = True):
        super().__init__()
        self.bounded = bounded
        plan = sizes(*shape[1:])
        channels = [shape[0], *(width * min(2**level, 8) for level in range(len(plan) - 1))]
        self.plan, self.channels = plan[::-1], channels[::-1]
        height, breadth = self.plan[0]
        self.enter = nn.Linear(latent_dim + embedding, self.channels[0] * height * breadth, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, momentum=MOMENTUM) for c in self.channels[:-1])
        last = len(plan) - 2  # the output has a bias, as no norm follows it
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1, bias=level == last)
            for level, (coarse, fine) in enumerate(pairwise(self.channels))
        )
        initialise(self)

    def forward(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b c h w"]:
        h = self.enter(z if embedding is None else torch.cat([z, embedding], 1))
        h = h.unflatten(1, (self.channels[0], *self.plan[0]))
        for norm, up, (height, width) in zip(self.norms, self.ups, self.plan[1:], strict=True):
            h = up(F.relu(norm(h)))[:, :, :height, :width]
        return torch.tanh(h) if self.bounded else h


class DCGANCritic(nn.Module):
    """The trunk of a critic: images (B, C, H, W), embedding (B, embedding) or None -> features (B, width), the last maps.

    Args:
        shape: (C, H, W) of an image; width: channels after the first convolution; embedding: width of the condition's
            vector (0: none). It shifts every channel after the first convolution: what concatenating it to the image as
            constant planes comes to, for a fraction of the work. norm: "batch" as in the paper, or "layer" (each image by
            itself, all channels together) or "none", where the critic is to judge each image whatever is beside it.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64, embedding: int = 0, norm: str = "batch"):
        super().__init__()
        self.plan = sizes(*shape[1:])
        channels = [shape[0], *(width * min(2**level, 8) for level in range(len(self.plan) - 1))]
        self.downs = nn.ModuleList(
            nn.Conv2d(fine, coarse, 4, stride=2, padding=1, bias=level == 0 or norm == "none")
            for level, (fine, coarse) in enumerate(pairwise(channels))
        )
        self.norms = nn.ModuleList([nn.Identity(), *(normalisation(norm, c) for c in channels[2:])])
        self.shift = nn.Linear(embedding, channels[1], bias=False) if embedding else None
        self.width = channels[-1] * math.prod(self.plan[-1])
        initialise(self)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b width"]:
        h = x
        for level, (down, norm, (height, width)) in enumerate(zip(self.downs, self.norms, self.plan, strict=False)):
            h = down(F.pad(h, (0, width % 2, 0, height % 2)))
            if level == 0 and self.shift is not None:
                h = h + self.shift(embedding)[:, :, None, None]
            h = F.leaky_relu(norm(h), 0.2)
        return h.flatten(1)
