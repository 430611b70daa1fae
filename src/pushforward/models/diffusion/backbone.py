"""The networks of this family by name, each called net(x_t, t, embedding), with sizes that suit the data.

mlp: residual blocks on flattened data. unet: residual blocks on a ladder of resolutions, attention at the coarse ones. dit: a
transformer of patches, in the sizes of Peebles and Xie (dit-S, dit-B, dit-L, dit-XL) and two for a processor (dit-nano,
dit-tiny).
"""

from __future__ import annotations

from torch import nn

from pushforward.data.spec import DataSpec
from pushforward.nets.choice import chosen_network
from pushforward.nets.dit import SIZES, DiT
from pushforward.nets.embeddings import TimedMLP
from pushforward.nets.unet import UNet, multipliers

TRANSFORMERS = {"dit": SIZES["tiny"], **{f"dit-{name}": size for name, size in SIZES.items()}}


def is_large(spec: DataSpec) -> bool:
    """Whether images have more than 32 pixels a side."""
    return spec.planar and max(spec.shape[1:]) > 32


def choose(network: str, spec: DataSpec, width: int | None) -> tuple[str, int, int]:
    """(kind, width, width of its embedding) of the network that was asked for, or of "auto": "unet" for images larger than 8x8,
    else "mlp". width: units of the MLP's layers, channels of the U-Net at full resolution, or None: what suits.

    Raises UserError for a kind that there is not, or that is not for such data.
    """
    kind = chosen_network(network, spec, planar=("unet", *TRANSFORMERS))
    usual = 256 if kind == "mlp" else 64 if is_large(spec) else 32
    width = width or (TRANSFORMERS[kind]["width"] if kind in TRANSFORMERS else usual)
    return kind, width, 4 * width if kind == "unet" else width


def backbone(
    spec: DataSpec,
    kind: str,
    width: int,
    depth: int | None,
    embedding: int,
    dropout: float,
    *,
    inputs: int | None = None,
    outputs: int | None = None,
    context: int | None = None,
) -> nn.Module:
    """A network of this kind, sizes as `choose` gives them. depth: residual blocks of the MLP (None: 3), of the U-Net at each
    resolution (1 up to 32x32, else 2), blocks of the transformer (of its size).

    Of planar networks, inputs and outputs: channels in and out, where they are not the data's; context: the width of vectors
    that are attended to.
    """
    if kind == "mlp":
        return TimedMLP(spec.dimensions, width, depth or 3, embedding, dropout)
    channels, *size = spec.shape
    if kind in TRANSFORMERS:
        heads = max(1, width * TRANSFORMERS[kind]["heads"] // TRANSFORMERS[kind]["width"])
        blocks = depth or TRANSFORMERS[kind]["depth"]
        return DiT(
            spec.shape,
            width=width,
            depth=blocks,
            heads=heads,
            embedding=embedding,
            dropout=dropout,
            inputs=inputs,
            outputs=outputs,
            context=context,
        )
    ladder = multipliers(*size)
    return UNet(
        channels,
        width=width,
        multipliers=ladder,
        depth=depth or (2 if is_large(spec) else 1),
        # attention costs the square of the number of places: from 16x16 down
        attention=[level for level in range(len(ladder)) if level and max(size) / 2**level <= 16],
        embedding=embedding,
        dropout=dropout,
        inputs=inputs,
        outputs=outputs,
        context=context,
    )
