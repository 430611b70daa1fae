"""What is measured of an image: operators A of y = A x + noise, each with its adjoint and its pseudo-inverse.

    <A x, y> = <x, A^T y>          A A^+ A = A          A^+ = A^T (A A^T)^+

Whoever inverts needs no more of A than A x, A^T y and functions f(A A^T) y of the matrix A A^T, which each of these knows in
the basis where it is diagonal: 1 / (r^2 e + s^2) of its eigenvalues e gives what Pi-GDM needs, 1 / e the pseudo-inverse.
Eigenvalues below SMALLEST of the largest are left alone by the pseudo-inverse: what they let through drowns in the rounding
of a picture file.

Images are (C, H, W), in [-1, 1] where that matters (JPEG). The rows of A sum to 1 (those of a mask to 0 or 1), so that a
measured picture is in the units of the picture.

JPEG is no linear map: rounding coefficients is a projection, A A x = A x, whose pseudo-inverse is the identity (Kawar et al.
2022, arXiv:2209.11888), and whose derivative is taken to be the identity, straight through.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pushforward.errors import UserError
from pushforward.randomness import SampleRng

SMALLEST = 1e-4  # of the largest eigenvalue of A A^T: a hundredth of the largest singular value of A
MOST = 4096  # numbers measured up to which the spectrum of a composition is computed, by one decomposition
LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as JPEG has them

Shape = tuple[int, ...]
Spectral = Callable[[Tensor], Tensor]


class Operator(ABC):
    """A measurement of images of one shape. shape: of x, (C, H, W). measured: of y."""

    shape: Shape
    measured: Shape

    @abstractmethod
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """A^T y."""

    @abstractmethod
    def spectral(self, f: Spectral, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """f(A A^T) y. f: of the eigenvalues, a tensor that can be broadcast against (b, ...), each number by itself."""

    def pseudo_inverse(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """A^+ y: of all x that explain y best, the smallest."""
        return self.adjoint(self.spectral(inverse, y))

    def picture(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        """y as an image of x's shape, to look at and to begin with."""
        return y

    def kept(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """y without what is beside the measurement: what a picture with a hole shows in the hole."""
        return y

    def _fits(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise UserError(
                f"images of shape {tuple(x.shape[1:])} were given to {self}, which measures (channels, height, width) = "
                f"{self.shape}; give images of that shape, or make the operator for theirs."
            )
        return x

    def __str__(self) -> str:
        return type(self).__name__.lower()


def inverse(eigenvalues: Tensor, smallest: float = SMALLEST) -> Tensor:
    """1 / e, and 0 where e is at most `smallest` of the largest: the spectrum of a pseudo-inverse."""
    kept = eigenvalues > smallest * eigenvalues.max()
    return torch.where(kept, 1 / eigenvalues.where(kept, torch.ones_like(eigenvalues)), 0.0)


def checked(shape: Shape) -> Shape:
    """The shape of an image, (C, H, W). Raises UserError for any other."""
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"data of shape {tuple(shape)} were given; operators measure images, (channels, height, width).")
    return tuple(shape)


class Mask(Operator):
    """Keeps the pixels that are known and puts 0 elsewhere. A = A^T = A^+.

    known: (C, H, W), true where an image is seen. Raises UserError where nothing is, or all.
    """

    def __init__(self, known: Bool[Tensor, "c h w"]):
        self.shape = self.measured = checked(tuple(known.shape))
        if known.all() or not known.any():
            raise UserError(
                f"a mask that hides {'nothing' if known.all() else 'all'} of an image was given; give one that hides a part."
            )
        self.known = known

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.where(self.known.to(x.device), self._fits(x), 0.0)

    def adjoint(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self(y)

    def spectral(self, f: Spectral, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return f(self.known.to(y)[None]) * y

    def picture(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self(y)

    def kept(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self(y)


def hidden_box(shape: Shape, top: int, left: int, height: int, width: int) -> Mask:
    """All but a box of an image of `shape`."""
    _, rows, columns = checked(shape)
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
        raise UserError(
            f"a box of {height} x {width} pixels from row {top} and column {left} was given; it is not within an image of "
            f"{rows} x {columns}."
        )
    known = torch.ones(shape, dtype=torch.bool)
    known[:, top : top + height, left : left + width] = False
    return Mask(known)


def hidden_half(shape: Shape, half: Literal["bottom", "top", "left", "right"]) -> Mask:
    """All but a half of an image; the middle one of an odd number of rows or columns is hidden."""
    _, rows, columns = checked(shape)
    tall, wide = rows - rows // 2, columns - columns // 2
    return {
        "bottom": lambda: hidden_box(shape, rows // 2, 0, tall, columns),
        "top": lambda: hidden_box(shape, 0, 0, tall, columns),
        "left": lambda: hidden_box(shape, 0, 0, rows, wide),
        "right": lambda: hidden_box(shape, 0, columns // 2, rows, wide),
    }[half]()


def hidden_pixels(shape: Shape, share: float, seed: int = 0) -> Mask:
    """All but a share of the pixels by chance, all channels of each: a function of the seed."""
    _, rows, columns = checked(shape)
    if not 0 < share < 1:
        raise UserError(f"{share} was given as the share of pixels to hide; it is between 0 and 1, such as 0.5.")
    order = SampleRng(seed).rand(1, rows * columns)[0].argsort()
    known = torch.ones(rows * columns, dtype=torch.bool)
    known[order[: max(1, round(share * rows * columns))]] = False
    return Mask(known.view(1, rows, columns).expand(shape).clone())


class DownSample(Operator):
    """The mean of each block of k x k pixels. A A^T = I / k^2, A^+ repeats a pixel k x k times."""

    def __init__(self, shape: Shape, factor: int):
        channels, height, width = self.shape = checked(shape)
        if factor < 2 or height % factor or width % factor:
            raise UserError(
                f"down-sampling by {factor} was asked for of images of {height} x {width} pixels; give a factor of at least 2 "
                "that divides both."
            )
        self.factor, self.measured = factor, (channels, height // factor, width // factor)

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _h _w"]:
        return F.avg_pool2d(self._fits(x), self.factor)

    def adjoint(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _h _w"]:
        return self.picture(y) / self.factor**2

    def spectral(self, f: Spectral, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return f(y.new_full((1, 1, 1, 1), self.factor**-2)) * y

    def picture(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _h _w"]:
        return y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)


class Grey(Operator):
    """A weighted mean w of the channels, by default luma's of three and else the plain mean. A A^T = |w|^2 I."""

    def __init__(self, shape: Shape, weights: tuple[float, ...] | None = None):
        channels, height, width = self.shape = checked(shape)
        if channels < 2:
            raise UserError("images of one channel were given, which are grey already; give images with colours.")
        weights = weights or (LUMA if channels == 3 else (1 / channels,) * channels)
        if len(weights) != channels or min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
            raise UserError(f"weights {weights} were given for {channels} channels; give one for each, which sum to 1.")
        self.weights, self.measured = weights, (1, height, width)

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        return (self._of(x) * self._fits(x)).sum(1, keepdim=True)

    def adjoint(self, y: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
        return self._of(y) * y

    def spectral(self, f: Spectral, y: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        return f(self._of(y).square().sum(1, keepdim=True)) * y

    def picture(self, y: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
        return y.expand(-1, self.shape[0], -1, -1)

    def _of(self, x: Tensor) -> Float[Tensor, "1 c 1 1"]:
        return x.new_tensor(self.weights).view(1, -1, 1, 1)


def gaussian_kernel(sigma: float) -> Float[Tensor, " k"]:
    """The weights of a Gaussian of standard deviation sigma (pixels) at whole pixels up to 3 sigma away, of sum 1."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise UserError(f"a blur of {sigma} pixels was asked for; it is a standard deviation, above 0.")
    reach = max(1, math.ceil(3 * sigma))
    weights = torch.exp(-torch.arange(-reach, reach + 1, dtype=torch.float64).square() / (2 * sigma**2))
    return weights / weights.sum()


def motion_kernel(length: float, angle: float = 0.0) -> Float[Tensor, "k k"]:
    """Weights (k, k) of sum 1 of a straight line of `length` pixels through the middle, `angle` degrees from the horizontal
    against the clock: points along it, each shared by the four pixels around it."""
    if not (math.isfinite(length) and length > 1 and math.isfinite(angle)):
        raise UserError(f"a motion of {length} pixels at {angle} degrees was given; its length is above 1.")
    reach = math.ceil((length - 1) / 2) + 1
    along = torch.linspace(-(length - 1) / 2, (length - 1) / 2, 8 * math.ceil(length) + 1, dtype=torch.float64)
    x, y = reach + along * math.cos(math.radians(angle)), reach - along * math.sin(math.radians(angle))
    weights, size = torch.zeros((2 * reach + 1) ** 2, dtype=torch.float64), 2 * reach + 1
    for row, part_y in ((y.floor(), 1 - y.frac()), (y.floor() + 1, y.frac())):
        for column, part_x in ((x.floor(), 1 - x.frac()), (x.floor() + 1, x.frac())):
            weights.index_add_(0, (row.clamp(0, size - 1) * size + column.clamp(0, size - 1)).long(), part_y * part_x)
    return (weights / weights.sum()).view(size, size)


class CircularBlur(Operator):
    """A convolution with a kernel of odd sides, the image continued by itself on all sides: diagonal in Fourier's basis, its
    singular values those of the kernel's transform."""

    def __init__(self, shape: Shape, kernel: Float[Tensor, "k l"]):
        _, height, width = self.shape = self.measured = checked(shape)
        rows, columns = kernel.shape
        if not (rows % 2 and columns % 2):
            raise UserError(f"a kernel of {rows} x {columns} was given; its sides are odd, so that it has a middle.")
        if rows > height or columns > width:
            raise UserError(
                f"a kernel of {rows} x {columns} pixels does not fit images of {height} x {width}; give a narrower blur."
            )
        whole = torch.zeros(height, width, dtype=torch.float64)
        whole[:rows, :columns] = kernel
        self.transform = torch.fft.rfft2(whole.roll((-(rows // 2), -(columns // 2)), (0, 1)))

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self._filtered(self._fits(x), self.transform)

    def adjoint(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self._filtered(y, self.transform.conj())

    def spectral(self, f: Spectral, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self._filtered(y, f(self.transform.abs().square().to(y)[None, None]))

    def _filtered(self, x: Tensor, by: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * by.to(x.device), s=self.shape[1:]).to(x.dtype)

    def __str__(self) -> str:
        return "blur"


class ReflectedBlur(Operator):
    """A separable convolution, the image mirrored at its edges (the edge pixel repeated): a matrix for the rows, one for the
    columns, each with its singular value decomposition.

    rows, columns: weights of odd length along the height and the width, which sum to 1.
    """

    def __init__(self, shape: Shape, rows: Float[Tensor, " k"], columns: Float[Tensor, " l"]):
        _, height, width = self.shape = self.measured = checked(shape)
        self.vertical, self.horizontal = _mirrored(rows, height), _mirrored(columns, width)
        down, across = (torch.linalg.eigh(matrix @ matrix.T) for matrix in (self.vertical, self.horizontal))
        self.basis = down.eigenvectors, across.eigenvectors
        self.eigenvalues = (down.eigenvalues[:, None] * across.eigenvalues).clamp(min=0)

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.vertical.to(x) @ self._fits(x) @ self.horizontal.T.to(x)

    def adjoint(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.vertical.T.to(y) @ y @ self.horizontal.to(y)

    def spectral(self, f: Spectral, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        down, across = (basis.to(y) for basis in self.basis)
        return down @ (f(self.eigenvalues.to(y)[None, None]) * (down.T @ y @ across)) @ across.T

    def __str__(self) -> str:
        return "blur"


def _mirrored(weights: Float[Tensor, " k"], size: int) -> Float[Tensor, "n n"]:
    """The matrix of a convolution of `size` numbers that are mirrored at both ends."""
    reach = len(weights) // 2
    if not len(weights) % 2:
        raise UserError(f"a kernel of {len(weights)} weights was given; their number is odd, so that it has a middle.")
    if reach >= size:
        raise UserError(f"a kernel of {len(weights)} pixels does not fit images of {size} pixels a side; give a narrower blur.")
    matrix = torch.zeros(size, size, dtype=torch.float64)
    at = torch.arange(size)
    for offset, weight in zip(range(reach, -reach - 1, -1), weights.double(), strict=True):
        seen = at + offset
        seen = torch.where(seen < 0, -1 - seen, torch.where(seen >= size, 2 * size - 1 - seen, seen))
        matrix[at, seen] += weight
    return matrix


class JPEG(Operator):
    """What JPEG keeps: 8 x 8 blocks of luma and chroma, their cosine coefficients rounded to multiples of the tables of the
    standard's Annex K, scaled by `quality` as libjpeg scales them. No chroma is left out (4:4:4), and nothing is clamped, so
    that what is kept is kept again. Of one channel or three, in [-1, 1]."""

    def __init__(self, shape: Shape, quality: int):
        channels, height, width = self.shape = self.measured = checked(shape)
        if not 1 <= quality <= 100:
            raise UserError(f"JPEG of quality {quality} was asked for; it is a whole number from 1 to 100.")
        if height % 8 or width % 8 or channels not in (1, 3):
            raise UserError(
                f"JPEG works in blocks of 8 x 8 pixels, of one channel or three; images of {channels} channel(s) and "
                f"{height} x {width} pixels were given."
            )
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        tables = torch.tensor([_LUMA_TABLE, *[_CHROMA_TABLE] * 2][:channels], dtype=torch.float64)
        self.quality, self.table = quality, ((tables * scale + 50) / 100).floor().clamp(1, 255).view(channels, 8, 8)

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        blocks, width = self._fits(x).unfold(2, 8, 8).unfold(3, 8, 8), x.shape[3]  # (b, c, rows, columns, 8, 8)
        cosines, colours, table = (m.to(x) for m in (_cosines(), self._colours(), self.table[:, None, None]))
        levels = torch.einsum("dc,bcrsij->bdrsij", colours, 127.5 * blocks) - _grey_offset(len(colours)).to(x)
        kept = (cosines @ levels @ cosines.T / table).round() * table
        levels = cosines.T @ kept @ cosines + _grey_offset(len(colours)).to(x)
        blocks = torch.einsum("cd,bdrsij->bcrsij", torch.linalg.inv(self._colours()).to(x), levels) / 127.5
        return blocks.transpose(3, 4).reshape(*x.shape[:3], width)

    def adjoint(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Straight through."""
        return y

    def spectral(self, f: Spectral, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return f(y.new_ones(1, 1, 1, 1)) * y

    def _colours(self) -> Float[Tensor, "c c"]:
        """Red, green and blue to luma and the chromas of blue and red."""
        if self.shape[0] == 1:
            return torch.ones(1, 1, dtype=torch.float64)
        luma = torch.tensor(LUMA, dtype=torch.float64)
        blue, red = (torch.eye(3, dtype=torch.float64)[k] - luma for k in (2, 0))
        return torch.stack([luma, blue / (2 * (1 - LUMA[2])), red / (2 * (1 - LUMA[0]))])

    def __str__(self) -> str:
        return f"JPEG of quality {self.quality}"


def _grey_offset(channels: int) -> Float[Tensor, "c 1 1 1 1"]:
    """Level 0 of a file is 127.5 below the middle of ours, 128 below that of its luma."""
    return torch.tensor([0.5, 0.0, 0.0][:channels], dtype=torch.float64).view(-1, 1, 1, 1, 1)


@functools.cache
def _cosines() -> Float[Tensor, "8 8"]:
    """The orthonormal cosine transform of 8 numbers."""
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


_LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80,
    62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98,
    112, 100, 103, 99,
)  # fmt: skip
_CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99,
    99, *[99] * 32,
)  # fmt: skip


class Composition(Operator):
    """`second` of what `first` measures, in its adjoint the other way round.

    Its spectrum is that of `second`, scaled, where A A^T of `first` is a number times the identity (down-sampling, grey);
    otherwise it is computed, from A A^T as a matrix, where no more than MOST numbers are measured. After JPEG nothing follows.
    """

    def __init__(self, first: Operator, second: Operator):
        if isinstance(first, JPEG):
            raise UserError("JPEG was given before another operator; it is no linear map, so let it be the last.")
        if second.shape != first.measured:
            raise UserError(
                f"{second} measures images of shape {second.shape}, but {first} gives {first.measured}; make it for that shape."
            )
        self.first, self.second = first, second
        self.shape, self.measured = first.shape, second.measured
        self.scale = _tight(first)
        size = math.prod(self.measured)
        if self.scale is None and not isinstance(second, JPEG) and size > MOST:
            raise UserError(
                f"the spectrum of {first} followed by {second} would be found from {size} measured numbers, more than {MOST}: "
                "down-sample (or make grey) first, or restore smaller images."
            )

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        return self.second(self.first(x))

    def adjoint(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        return self.first.adjoint(self.second.adjoint(y))

    def spectral(self, f: Spectral, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if isinstance(self.second, JPEG):
            return self.first.spectral(f, y)
        scale = self.scale
        if scale is not None:
            return self.second.spectral(lambda eigenvalues: f(scale * eigenvalues), y)
        eigenvalues, vectors = (part.to(y) for part in self._spectrum)
        weights = f(eigenvalues.view(1, *self.measured))
        return ((weights * (y.flatten(1) @ vectors).view_as(y)).flatten(1) @ vectors.T).view_as(y)

    def picture(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _c _h _w"]:
        return self.first.picture(self.second.picture(y))

    def kept(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.second.kept(y)

    @functools.cached_property
    def _spectrum(self) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
        """Eigenvalues and eigenvectors of A A^T."""
        units = torch.eye(math.prod(self.measured), dtype=torch.float64).view(-1, *self.measured)
        matrix = self(self.adjoint(units)).flatten(1)
        found = torch.linalg.eigh((matrix + matrix.T) / 2)
        return found.eigenvalues.clamp(min=0), found.eigenvectors

    def __str__(self) -> str:
        return f"{self.first} and then {self.second}"


def _tight(operator: Operator) -> float | None:
    """c where A A^T = c I by construction, else None."""
    if isinstance(operator, DownSample):
        return operator.factor**-2
    if isinstance(operator, Grey):
        return sum(weight**2 for weight in operator.weights)
    if isinstance(operator, Composition) and operator.scale is not None:
        last = _tight(operator.second)
        return None if last is None else operator.scale * last
    return None
