"""The networks of StyleGAN and StyleGAN2, for images of 8 to 128 pixels a side, of any shape and number of channels.

A mapping network takes the latent z to a style w = f(z), and L layers of a synthesis network, which begins with a learned
constant, see one style each: coarse layers say what the image is of, fine ones its texture, and those of two images can be
mixed. What is left to chance inside an image comes from noise eps, one number a pixel, with a learned strength beta:

    h <- act(conv(h) + beta eps + b),        act(h) = sqrt(2) leaky_relu_0.2(h).

Either the weights see the style s = A w + 1 (StyleGAN2), divided by the deviation that they give to inputs of variance 1,

    W'_oik = s_i W_oik,    W''_oik = W'_oik / sqrt(sum_ik W'_oik^2),

computed as a scaling of inputs and outputs, so that all rows of a batch share one convolution:

    conv(W'', h)_o = d_o conv(W, s h)_o,    d_o = 1 / sqrt(sum_i s_i^2 sum_k W_oik^2);

or the maps themselves do, each normalised over its places (adaptive instance normalisation, StyleGAN):

    AdaIN(h, w)_i = s_i (h_i - mean_i) / deviation_i + t_i,    t = B w.

StyleGAN2 adds up images of all sizes (tRGB), StyleGAN makes one from its last maps.

All layers have an equalised learning rate (equalised.py), of multiplier 0.01 in the mapping network.
Truncation: w <- E[w | c] + psi (w - E[w | c]) gives up diversity for what is typical (of a class c: towards the mean of all it
would leave the class). Path length: a step in w of fixed length is to
change the image by a fixed amount whatever w and the direction are (`path_length`).

Sizes are planned as in dcgan.py; doubling is bilinear (StyleGAN2's filter 1 3 3 1) and is cut, so that every size comes out
exactly. Nothing is drawn in a forward pass: noise and partners for mixing come from the caller.

Karras, Laine and Aila 2019 (StyleGAN), arXiv:1812.04948; Karras, Laine, Aittala, Hellsten, Lehtinen and Aila 2020 (StyleGAN2),
arXiv:1912.04958; Karras, Aila, Laine and Lehtinen 2018 (equalised learning rate), arXiv:1710.10196; Huang and Belongie 2017
(AdaIN), arXiv:1703.06868; Karras et al. 2020 (the condition in the mapping network), arXiv:2006.06676.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.nets.dcgan import sizes
from pushforward.nets.equalised import EqualisedConv2d, EqualisedLinear
from pushforward.randomness import Rng

Modulation = Literal["weights", "adain"]

SLOW = 0.01  # learning rate of the mapping network relative to the others'
DRAWN = 256  # styles that each update draws for their mean
MEMORY = 0.005  # the share of those in the mean, once it has seen 1 / MEMORY updates


@runtime_checkable
class Drawing(Protocol):
    """What `after_update` is told (models/contract.py's Moment): here only its randomness counts."""

    @property
    def rng(self) -> Rng: ...


def activate(h: Tensor) -> Tensor:
    """sqrt(2) leaky_relu(h), slope 0.2: of a standard normal h the mean square is 1.04."""
    return F.leaky_relu(h, 0.2) * math.sqrt(2)


def normalised(z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Each row divided by its root mean square."""
    return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


def doubled(h: Float[Tensor, "b c h w"], height: int, width: int) -> Float[Tensor, "b c h2 w2"]:
    """Twice the size, by weights 3/4 and 1/4 of the nearest two along each axis, and cut to height and width."""
    return F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)[:, :, :height, :width]


class ModulatedConv2d(nn.Module):
    """h (B, inputs, H, W), w (B, style_dim) -> (B, outputs, H, W): each row by weights of its own, and no bias.

    demodulate: whether the outputs of inputs of variance 1 are of variance 1 whatever w is.
    """

    def __init__(self, inputs: int, outputs: int, style_dim: int, kernel: int = 3, demodulate: bool = True):
        super().__init__()
        self.demodulate = demodulate
        self.style = EqualisedLinear(style_dim, inputs, start=1.0)
        self.conv = EqualisedConv2d(inputs, outputs, kernel, bias=False)

    def forward(self, h: Float[Tensor, "b i h w"], w: Float[Tensor, "b d"]) -> Float[Tensor, "b o h w"]:
        s = self.style(w)
        h = self.conv(h * s[:, :, None, None].to(h.dtype))
        if not self.demodulate:
            return h
        with torch.autocast(h.device.type, enabled=False):  # sums of squares leave the range of half precision
            weight = self.conv.scale * self.conv.weight
            d = torch.rsqrt(s.to(weight.dtype).square() @ weight.square().sum((2, 3)).T + 1e-8)
        return h * d[:, :, None, None].to(h.dtype)


class AdaIN(nn.Module):
    """s (h - mean) / deviation + t over each map of each row, (s, t) affine in w and at first around (1, 0)."""

    def __init__(self, channels: int, style_dim: int):
        super().__init__()
        self.style = EqualisedLinear(style_dim, 2 * channels)

    def forward(self, h: Float[Tensor, "b c h w"], w: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        s, t = self.style(w)[:, :, None, None].to(h.dtype).chunk(2, 1)
        return F.instance_norm(h, eps=1e-8) * (1 + s) + t


class StyledLayer(nn.Module):
    """h (B, inputs, ...), w (B, style_dim), noise (B, 1, *size) or None (zero) -> (B, outputs, *size).

    Args:
        grow: whether h is doubled first. convolve: False where h, the learned constant, is only normalised (StyleGAN).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style_dim: int,
        size: tuple[int, int],
        modulation: Modulation,
        grow: bool = False,
        convolve: bool = True,
    ):
        super().__init__()
        self.size, self.grow = size, grow
        self.modulated = ModulatedConv2d(inputs, outputs, style_dim) if modulation == "weights" else None
        self.conv = EqualisedConv2d(inputs, outputs, bias=False) if modulation == "adain" and convolve else None
        self.norm = AdaIN(outputs, style_dim) if modulation == "adain" else None
        # One strength a layer in StyleGAN2, one a channel in StyleGAN.
        self.strength = nn.Parameter(torch.zeros(1 if modulation == "weights" else outputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(
        self, h: Float[Tensor, "b i h w"], w: Float[Tensor, "b d"], noise: Float[Tensor, "b 1 h2 w2"] | None = None
    ) -> Float[Tensor, "b o h2 w2"]:
        if self.grow:
            h = doubled(h, *self.size)
        if self.modulated is not None:
            h = self.modulated(h, w)
        elif self.conv is not None:
            h = self.conv(h)
        shift = self.bias if noise is None else self.bias + self.strength * noise
        h = activate(h + shift.to(h.dtype))
        return h if self.norm is None else self.norm(h, w)


class ToImage(nn.Module):
    """tRGB: h (B, inputs, H, W), w (B, style_dim) -> (B, outputs, H, W), one pixel at a time, without demodulation."""

    def __init__(self, inputs: int, outputs: int, style_dim: int):
        super().__init__()
        self.modulated = ModulatedConv2d(inputs, outputs, style_dim, kernel=1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))

    def forward(self, h: Float[Tensor, "b i h w"], w: Float[Tensor, "b d"]) -> Float[Tensor, "b o h w"]:
        h = self.modulated(h, w)
        return h + self.bias.to(h.dtype)


class MappingNetwork(nn.Module):
    """z (B, latent_dim), embedding (B, embedding) or None (the same as zeros) -> w (B, style_dim).

    z is divided by its root mean square, and so is a linear map of the embedding, which is put beside it (embedding = 0: no
    condition); `depth` layers with a learning rate 0.01 times that of others follow.
    """

    def __init__(self, latent_dim: int, style_dim: int, depth: int = 8, embedding: int = 0):
        super().__init__()
        if depth < 1:
            raise UserError(f"a mapping network of mapping_depth = {depth} maps nothing; give at least 1 (8 in the paper).")
        self.latent_dim = latent_dim
        self.condition = EqualisedLinear(embedding, style_dim, start=None) if embedding else None
        widths = [latent_dim + (style_dim if embedding else 0), *[style_dim] * depth]
        self.layers = nn.ModuleList(EqualisedLinear(a, b, multiplier=SLOW) for a, b in pairwise(widths))

    def forward(self, z: Float[Tensor, "b z"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b d"]:
        h = normalised(z)
        if self.condition is not None:
            told = z.new_zeros(len(z), self.condition.weight.shape[0])
            if embedding is not None:
                told = normalised(self.condition(embedding.to(z.dtype)))
            h = torch.cat([h, told], 1)
        elif embedding is not None:
            raise UserError("this network was built without a condition; build it with embedding = the width of its vector.")
        for layer in self.layers:
            h = activate(layer(h))
        return h


class StyleGenerator(nn.Module):
    """z (B, latent_dim), embedding (B, embedding) or None (the same as zeros) -> images (B, C, H, W), by L = `layers` styles.

    Args:
        shape: (C, H, W) of an image; latent_dim: of z; channels: at the finest size, doubling as sizes halve, up to eight
            times as many; embedding: width of the condition's vector, which the mapping network sees (0: none).
        bounded: whether images end in tanh; False for data that are not in [-1, 1].
        style_dim: of w. mapping_depth: layers of the mapping network.
        modulation: "weights" (StyleGAN2, with tRGB at each size) or "adain" (StyleGAN). kinds: of data (classes), of each of
            which the mean style is kept.

    >>> generator = StyleGenerator((1, 28, 23), 16, channels=4, style_dim=8)
    >>> w = generator.map(torch.randn(5, 16))
    >>> generator.layers, generator.spread(w).shape, generator.synthesise(generator.spread(w)).shape
    (6, torch.Size([5, 6, 8]), torch.Size([5, 1, 28, 23]))
    """

    mean_w: Tensor
    updates: Tensor
    mean_length: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        channels: int = 32,
        embedding: int = 0,
        bounded: bool = True,
        *,
        style_dim: int = 128,
        mapping_depth: int = 8,
        modulation: Modulation = "weights",
        kinds: int = 1,
    ):
        super().__init__()
        if modulation not in ("weights", "adain"):
            raise UserError(f"there is no modulation '{modulation}'; valid: weights (StyleGAN2), adain (StyleGAN)")
        plan = sizes(*shape[1:])[::-1]
        widths = [channels * min(2**level, 8) for level in reversed(range(len(plan)))]
        self.bounded, self.layers = bounded, 2 * len(plan)
        self.mapping = MappingNetwork(latent_dim, style_dim, mapping_depth, embedding)
        self.constant = nn.Parameter(torch.randn(widths[0], *plan[0]))
        layer = partial(StyledLayer, style_dim=style_dim, modulation=modulation)
        styled = [layer(widths[0], widths[0], size=plan[0])]
        if modulation == "adain":  # which spends a style on the constant itself; the last one of StyleGAN2 is tRGB's alone
            styled.insert(0, layer(widths[0], widths[0], size=plan[0], convolve=False))
        for (coarse, fine), size in zip(pairwise(widths), plan[1:], strict=True):
            styled += [layer(coarse, fine, size=size, grow=True), layer(fine, fine, size=size)]
        self.styled = nn.ModuleList(styled)
        self.to_images = nn.ModuleList(ToImage(c, shape[0], style_dim) for c in widths) if modulation == "weights" else None
        self.to_image = EqualisedConv2d(channels, shape[0], kernel=1) if modulation == "adain" else None
        self.noise_shapes = [(1, *one.size) for one in styled]
        self.register_buffer("mean_w", torch.zeros(kinds, style_dim))
        self.register_buffer("updates", torch.zeros(kinds))
        self.register_buffer("mean_length", torch.zeros(()))  # of the path length, moved by whoever takes it

    def map(self, z: Float[Tensor, "b z"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b d"]:
        """The style w of z."""
        return self.mapping(z, embedding)

    def spread(self, w: Float[Tensor, "b d"]) -> Float[Tensor, "b l d"]:
        """The same style for each layer."""
        return w[:, None].expand(-1, self.layers, -1)

    def mix(
        self, w1: Float[Tensor, "b d"], w2: Float[Tensor, "b d"], crossover: int | Int[Tensor, " b"]
    ) -> Float[Tensor, "b l d"]:
        """Layers below `crossover` (0 .. L, one for all rows or one each) see w1, the others w2."""
        if isinstance(crossover, int) and not 0 <= crossover <= self.layers:
            raise UserError(
                f"crossover = {crossover} is no layer of this network; give 0 (all of w2) to {self.layers} (all of w1)."
            )
        first = torch.arange(self.layers, device=w1.device) < torch.as_tensor(crossover, device=w1.device).view(-1, 1)
        return torch.where(first[:, :, None], self.spread(w1), self.spread(w2))

    def truncate(self, w: Float[Tensor, "b d"], psi: float, kind: Int[Tensor, " b"] | None = None) -> Float[Tensor, "b d"]:
        """E[w] + psi (w - E[w]) with the mean of each row's kind (None: of all); psi = 1: w itself, 0: the mean image."""
        mean = self.mean_w.mean(0).expand_as(w) if kind is None else self.mean_w[kind]
        return torch.lerp(mean.to(w.dtype), w, psi)

    def draw_noise(self, n: int, rng: Rng) -> list[Tensor]:
        """Standard normal noise (n, 1, H, W) for each shape of `noise_shapes`."""
        return [rng.randn(n, *shape) for shape in self.noise_shapes]

    def draw_mixing(self, n: int, rng: Rng, probability: float = 0.9) -> tuple[Tensor, Tensor]:
        """`mixed_with` of `forward`: z (n, latent_dim), and crossovers (n,), which with `probability` are uniform on 1 .. L - 1
        and else L (no mixing)."""
        z, crossover = rng.randn(n, self.mapping.latent_dim), 1 + rng.randint(self.layers - 1, n)
        return z, torch.where(rng.rand(n) < probability, crossover, self.layers)

    def synthesise(self, w: Float[Tensor, "b l d"], noise: list[Tensor] | None = None) -> Float[Tensor, "b c h w"]:
        """Images of one style a layer. noise: (B, 1, H, W) for each of `noise_shapes`; None: zero.

        Raises UserError for another number of styles, or noise of other shapes.
        """
        if w.shape[1] != self.layers:
            raise UserError(f"{w.shape[1]} styles were given to {self.layers} layers; give one each, such as spread(w).")
        if noise is not None and [drawn.shape for drawn in noise] != [(len(w), *shape) for shape in self.noise_shapes]:
            raise UserError(
                f"noise of shapes {[tuple(drawn.shape) for drawn in noise]} was given; this network takes {len(w)} rows "
                f"of each of {self.noise_shapes}, as draw_noise draws them."
            )
        h, x = self.constant.expand(len(w), -1, -1, -1), None
        styles = w.unbind(1)
        for index, layer in enumerate(self.styled):
            h = layer(h, styles[index], None if noise is None else noise[index])
            if self.to_images is not None and index % 2 == 0:
                own = self.to_images[index // 2](h, styles[index + 1])
                x = own if x is None else doubled(x, *own.shape[2:]) + own
        if self.to_image is not None:
            x = self.to_image(h)
        assert x is not None
        return torch.tanh(x) if self.bounded else x

    def forward(
        self,
        z: Float[Tensor, "b z"],
        embedding: Float[Tensor, "b e"] | None = None,
        noise: list[Tensor] | None = None,
        mixed_with: tuple[Tensor, int | Tensor] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """mixed_with: (z2 (B, latent_dim), crossover): layers from the crossover on see the style of z2."""
        w = self.map(z, embedding)
        if mixed_with is None:
            return self.synthesise(self.spread(w), noise)
        other, crossover = mixed_with
        return self.synthesise(self.mix(w, self.map(other, embedding), crossover), noise)

    @torch.no_grad()
    def after_update(
        self,
        moment: Drawing,
        embedding: Float[Tensor, "b e"] | None = None,
        kind: Int[Tensor, " b"] | None = None,
        z: Float[Tensor, "b z"] | None = None,
    ) -> None:
        """Moves `mean_w` towards the mean styles of freshly drawn z: at first the mean over all updates, then a moving one.

        embedding: of conditions as frequent as in the data, one z each, kind: which kind each is of; None: 256 z of one kind.
        z: freshly drawn, where it is not normal alone.
        """
        count = DRAWN if embedding is None else len(embedding)
        if z is None:
            z = moment.rng.randn(count, self.mapping.latent_dim)
        kind = torch.zeros(len(z), dtype=torch.long, device=self.mean_w.device) if kind is None else kind
        w = self.map(z.to(self.mean_w.dtype), embedding).to(self.mean_w.dtype)
        rows = torch.bincount(kind, minlength=len(self.mean_w)).to(w.dtype)
        mean = torch.zeros_like(self.mean_w).index_add_(0, kind, w) / rows.clamp(min=1)[:, None]
        self.updates += rows > 0
        rate = (1 / self.updates.clamp(min=1)).clamp(min=MEMORY) * (rows > 0)
        self.mean_w.lerp_(mean, rate[:, None])


def path_length(
    synthesise: Callable[[Tensor], Tensor],
    w: Float[Tensor, "b *l d"],
    x_noise: Float[Tensor, "b c *places"],
    mean: float | Float[Tensor, ""],
) -> tuple[Float[Tensor, ""], Float[Tensor, " b"]]:
    """E (|J^T y| - a)^2 with J = dx / dw and y ~ N(0, I) / sqrt(H W), and the lengths |J^T y|, detached.

    It is smallest where J is a multiple of an orthogonal map. With styles of several layers |J^T y| is the root of the mean
    over layers of each one's square. The paper's weight is 2, every fourth step (8 then); differentiable by all parameters.

    Args:
        synthesise: w -> x (B, C, *places), rows apart. w: styles, one or L a row. x_noise: standard normal, of x's shape.
        mean: a, the running mean of the lengths, which the caller moves: a <- a + 0.01 (mean of lengths - a), from 0.
    """
    if not w.requires_grad:
        w = w.detach().requires_grad_()
    with torch.enable_grad():
        x = synthesise(w).float()
        y = x_noise.to(x.dtype) / math.sqrt(x[0, 0].numel())
        (back,) = torch.autograd.grad((x * y).sum(), w, create_graph=True)
        squared = back.float().square().sum(-1).view(len(w), -1).mean(1)
        # The root's slope is infinite at 0.
        lengths = (squared + 1e-16).sqrt()
    return (lengths - mean).square().mean(), lengths.detach()


class DownBlock(nn.Module):
    """h (B, inputs, ...) -> (B, outputs, ...), at half the size, rounded up: (shortcut + convolutions) / sqrt(2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = EqualisedConv2d(inputs, inputs)
        self.conv2 = EqualisedConv2d(inputs, outputs)
        self.shortcut = EqualisedConv2d(inputs, outputs, kernel=1, bias=False)

    def forward(self, h: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        def halved(h: Tensor) -> Tensor:
            return F.avg_pool2d(h, 2, ceil_mode=True)

        # Averages before the second convolution: what a blur and a stride come to, for a quarter of the work.
        return (self.shortcut(halved(h)) + activate(self.conv2(halved(activate(self.conv1(h)))))) / math.sqrt(2)


class StyleCritic(nn.Module):
    """StyleGAN2's residual critic as a trunk: images (B, C, H, W), embedding (B, embedding) or None -> features (B, width).

    Args:
        shape: (C, H, W) of an image; channels: at the finest size, doubling as sizes halve, up to eight times as many.
        embedding: width of the condition's vector, which shifts the first maps (0: none; the papers' projection onto the
            features is the business of a head).
    """

    def __init__(self, shape: tuple[int, ...], channels: int = 32, embedding: int = 0):
        super().__init__()
        plan = sizes(*shape[1:])
        widths = [channels * min(2**level, 8) for level in range(len(plan))]
        self.width = widths[-1]
        self.enter = EqualisedConv2d(shape[0], channels, kernel=1)
        self.shift = EqualisedLinear(embedding, channels, start=None) if embedding else None
        self.blocks = nn.ModuleList(DownBlock(fine, coarse) for fine, coarse in pairwise(widths))
        self.last = EqualisedConv2d(self.width, self.width)
        self.leave = EqualisedLinear(self.width * math.prod(plan[-1]), self.width)

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b width"]:
        h = self.enter(x)
        if self.shift is not None and embedding is not None:
            h = h + self.shift(embedding)[:, :, None, None].to(h.dtype)
        h = activate(h)
        for block in self.blocks:
            h = block(h)
        return activate(self.leave(activate(self.last(h)).flatten(1)))
