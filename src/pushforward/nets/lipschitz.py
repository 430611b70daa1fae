"""Networks whose slope is bounded by how their layers are made, and the slope of any critic as measured.

Spectral normalisation divides a layer's weights by an estimate of their largest singular value,

    W / sigma,    sigma = u^T W v,    v = W^T u / |W^T u|,    u = W v / |W v|,

with one such power iteration after each update (`follow`): weights change little between updates, so u and v keep up.
A convolution counts as the matrix (outputs, inputs x kernel), as in the paper. That bounds a linear layer's slope by 1, but
that of a convolution only by sqrt(ceil(kernel / stride)) for each axis: a pixel is seen by so many patches.

An orthonormal layer keeps all singular values at 1, so that a chain of them loses no slope on the way. Any n x k matrix
(n >= k) with U its first k rows and V the others becomes one with orthonormal columns by Cayley's transform,

    A = U - U^H + V^H V,    Q = [(I - A) (I + A)^-1; -2 V (I + A)^-1],    Q^H Q = I;

I + A can always be inverted, as the Hermitian part of A is V^H V >= 0. A convolution on a torus is a matrix for each
frequency, and is orthonormal where each of those is. Between such layers ReLU would drop about half of the gradient;
GroupSort, which sorts the units within groups, permutes it and so keeps its norm, and with it such networks approximate
every function of slope <= 1.

All of this is computed in the precision of the weights, also within autocast. There the layers' products are rounded to
bfloat16, and slopes are bounded by 1 to about half a percent.

Miyato, Kataoka, Koyama and Yoshida 2018 (spectral normalisation), arXiv:1802.05957; Anil, Lucas and Grosse 2019 (GroupSort),
arXiv:1811.05381; Trockman and Kolter 2021 (Cayley transform, convolutions), arXiv:2104.07167.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pushforward.errors import UserError

Network = TypeVar("Network", bound=nn.Module)

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


class SpectralNorm(nn.Module):
    """W -> W / sigma, as a parametrisation (torch.nn.utils.parametrize). A pass leaves u and v as they are; see `follow`.

    Args:
        weight: as it is at the beginning, from which u and v start. axis: that of the outputs.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, axis: int = 0):
        super().__init__()
        self.axis = axis
        matrix = self.matrix(weight.detach())
        self.register_buffer("u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn_like(matrix[0]), dim=0))
        self.iterate(matrix, 15)

    def matrix(self, weight: Tensor) -> Float[Tensor, "outputs rest"]:
        """The weights as the matrix whose singular values are meant."""
        return weight.movedim(self.axis, 0).flatten(1)

    @torch.no_grad()
    def iterate(self, matrix: Float[Tensor, "outputs rest"], times: int) -> None:
        """Power iterations of u and v, in place: they are buffers, which DDP broadcasts and checkpoints hold."""
        for _ in range(times):
            self.u.copy_(F.normalize(matrix @ self.v, dim=0))
            self.v.copy_(F.normalize(matrix.mT @ self.u, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight / (self.u @ self.matrix(weight) @ self.v)


def spectral(network: Network) -> Network:
    """Puts spectral normalisation on every linear layer and convolution of a network, and returns the network.

    Weights that are parametrised already stay as they are. To be called after the weights are drawn.

    >>> layer = spectral(nn.Linear(4, 3))
    >>> round(torch.linalg.matrix_norm(layer.weight, 2).item(), 2)
    1.0

    Raises UserError for a layer whose weights are all zero, which no division makes 1.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, LAYERS) and not parametrize.is_parametrized(layer, "weight"):
            if not layer.weight.any():
                raise UserError(
                    f"the weights of layer '{name or type(layer).__name__}' are all 0, so that spectral normalisation cannot "
                    "divide them by their largest singular value; draw them at random first."
                )
            norm = SpectralNorm(layer.weight, axis=1 if isinstance(layer, TRANSPOSED) else 0)
            parametrize.register_parametrization(layer, "weight", norm)
    return network


@torch.no_grad()
def follow(network: nn.Module, iterations: int = 1) -> None:
    """Power iterations of each spectral norm in a network: what is to be done after each update of its weights."""
    for layer in network.modules():
        if isinstance(layer, LAYERS) and parametrize.is_parametrized(layer, "weight"):
            parametrized = cast(Any, layer.parametrizations)["weight"]
            for norm in parametrized:
                if isinstance(norm, SpectralNorm):
                    norm.iterate(norm.matrix(parametrized.original), iterations)


def cayley(raw: Tensor) -> Tensor:
    """Any matrices (..., n, k), real or complex -> ones with orthonormal columns (n >= k) or rows (n < k)."""
    if raw.shape[-2] < raw.shape[-1]:
        return cayley(raw.mH).mH
    k = raw.shape[-1]
    upper, lower = raw[..., :k, :], raw[..., k:, :]
    a = upper - upper.mH + lower.mH @ lower
    one = torch.eye(k, dtype=raw.dtype, device=raw.device)
    return torch.linalg.solve(one + a, torch.cat([one - a, -2 * lower], -2), left=False)


class OrthonormalLinear(nn.Module):
    """x (..., inputs) -> Q x + bias (..., outputs), where Q has orthonormal columns or rows, whichever are fewer."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        larger = max(inputs, outputs)
        self.raw = nn.Parameter(torch.randn(outputs, inputs) / math.sqrt(larger))
        # As large as the outputs are: with more, units that are sorted would never change places.
        self.bias = nn.Parameter((2 * torch.rand(outputs) - 1) / math.sqrt(larger))

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """Q."""
        with torch.autocast(self.raw.device.type, enabled=False):
            return cayley(self.raw)

    def forward(self, x: Float[Tensor, "*b inputs"]) -> Float[Tensor, "*b outputs"]:
        return F.linear(x, self.weight, self.bias)


class OrthonormalConv2d(nn.Module):
    """Convolution of images (B, inputs, H, W) of any size that keeps norms: circular, so that the left edge follows the right.

    With a stride s, blocks of s x s pixels become channels first, after zeros below and to the right where the size is no
    multiple of it. It keeps |x| where there are at least as many outputs as inputs x s^2, else the norm of the gradient.

    Args:
        inputs, outputs: channels. kernel: size of the kernel before Cayley's transform, whose result reaches further.
        stride: of both axes.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.stride, self.kernel = stride, kernel
        inputs *= stride**2
        larger = max(inputs, outputs)
        self.raw = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / (kernel * math.sqrt(larger)))
        self.bias = nn.Parameter((2 * torch.rand(outputs) - 1) / math.sqrt(larger))

    def forward(self, x: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        x = x.to(self.raw.dtype)  # Fourier transforms know no bfloat16
        x = F.pad(x, (0, -x.shape[3] % self.stride, 0, -x.shape[2] % self.stride))
        x = F.pixel_unshuffle(x, self.stride)
        size = x.shape[2:]
        centred = F.pad(self.raw, (0, size[1] - self.kernel, 0, size[0] - self.kernel))
        centred = centred.roll((-(self.kernel // 2),) * 2, (2, 3))
        weight = cayley(torch.fft.rfft2(centred).permute(2, 3, 0, 1))
        y = weight @ torch.fft.rfft2(x).permute(2, 3, 1, 0)
        return torch.fft.irfft2(y.permute(3, 2, 0, 1), s=size) + self.bias[:, None, None]


class GroupSort(nn.Module):
    """Sorts the units of x (B, C, ...), rising, within groups of `group` neighbours (2: MaxMin; C: all).

    >>> GroupSort(2)(torch.tensor([[3.0, 1.0, 0.0, 5.0]]))
    tensor([[1., 3., 0., 5.]])
    """

    def __init__(self, group: int = 2):
        super().__init__()
        if group < 2:
            raise UserError(f"groups of {group} units leave nothing to sort; give group = 2 or more.")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % self.group:
            raise UserError(f"{x.shape[1]} units were given to be sorted in groups of {self.group}; give a multiple of it.")
        return x.unflatten(1, (-1, self.group)).sort(2).values.flatten(1, 2)


class OrthonormalCritic(nn.Module):
    """The trunk of a critic: x (B, *shape), embedding (B, embedding) or None -> features (B, width), a map of slope <= 1 in x
    whatever the weights.

    Orthonormal layers with GroupSort after each: with an orthonormal head the critic of Kantorovich and Rubinstein's W1, which
    needs no penalty.

    Args:
        shape: of a datum; width: units of each hidden layer; embedding: width of the condition's vector, beside x (0: none);
            depth: hidden layers; group: units sorted together.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 128, embedding: int = 0, depth: int = 3, group: int = 2):
        super().__init__()
        if width % group:
            raise UserError(f"a critic of width {width} cannot sort its units in groups of {group}; give a multiple of it.")
        layers: list[nn.Module] = []
        inputs = math.prod(shape) + embedding
        for _ in range(depth):
            layers += [OrthonormalLinear(inputs, width), GroupSort(group)]
            inputs = width
        self.width = width
        self.net = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b width"]:
        x = x.flatten(1)
        return self.net(x if embedding is None else torch.cat([x, embedding.to(x.dtype)], 1))


def slope(critic: Callable[[Tensor], Tensor], x: Float[Tensor, "b *shape"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """|grad_x l(x)| of a critic at data: its mean and its largest, to be shown. Nothing is differentiated through it.

    A critic in training mode moves the statistics of its batch norms, as in any forward pass.
    """
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(x).sum(), x)
    lengths = gradient.flatten(1).norm(dim=1)
    return lengths.mean(), lengths.max()
