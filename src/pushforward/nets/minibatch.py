"""Layers that let a critic see more than one datum, or a norm see a batch without tying its data to each other.

A critic that judges data one at a time cannot tell a generator that has collapsed from one that has not: each fake alone may
look real. Two layers show it how much the rows of a batch differ.

- `MinibatchDiscrimination`, with T a tensor (A, B, C) and f(x_i) the A features of row i:

      M_i = f(x_i) T in R^(B x C),    c_b(x_i, x_j) = exp(-|M_(i,b) - M_(j,b)|_1),    o(x_i)_b = sum_j c_b(x_i, x_j),

  given on as [f(x_i), o(x_i)]. The sum has j = i in it, so that o is from 1 (all differ) to the number of rows (all are equal).
  Salimans et al. 2016, arXiv:1606.03498.
- `MinibatchDeviation`: the standard deviation over a group of rows, averaged over features and places: one more feature,
  the same for the whole group. It has no parameters. Karras et al. 2018 (progressive growing), arXiv:1710.10196.

Batch norm makes each output a function of the whole batch, which generators show as a trait common to all images of a batch.
`VirtualBatchNorm` (Salimans et al. 2016) normalises each datum with the statistics of a fixed reference batch and the datum
itself: those of R + 1 data. The reference goes through the network ahead of the data, in the same call, so that its
statistics are those of the weights as they are. That is R more rows a call; the paper does so in the generator only.

Where a layer looks at several rows, "the slope at one datum" of a penalty is that of the sum of all the batch's logits.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.errors import UserError


class MinibatchDiscrimination(nn.Module):
    """Features (B, A) -> (B, A + kernels): with each kernel's closeness to all rows of the batch.

    Args:
        features: A. kernels: B of the paper, what is added. dimensions: C of the paper, those in which a kernel compares.
    """

    def __init__(self, features: int, kernels: int = 32, dimensions: int = 5):
        super().__init__()
        self.added = kernels
        # Rows of features of variance 1 are then about 1 apart in each kernel. Were they nearer, every o would be the number
        # of rows; farther, 1: with no slope in either.
        self.T = nn.Parameter(torch.randn(features, kernels, dimensions) / (dimensions * features**0.5))

    def closeness(self, f: Float[Tensor, "b a"]) -> Float[Tensor, "b kernels"]:
        """o(x_i), in float32."""
        M = torch.einsum("ia,akc->cki", f, self.T.to(f.dtype)).float().contiguous()
        # A dimension at a time, rows innermost: 2.5 times as fast on a CPU as all at once. torch.cdist has no slope of slopes.
        distance = torch.zeros((), device=f.device)
        for m in M:
            distance = distance + (m[:, :, None] - m[:, None]).abs()
        return torch.exp(-distance).sum(2).T

    def forward(self, f: Float[Tensor, "b a"]) -> Float[Tensor, "b out"]:
        return torch.cat([f, self.closeness(f).to(f.dtype)], 1)


class MinibatchDeviation(nn.Module):
    """Features (B, C, *places) -> (B, C + 1, *places): with the deviation within the row's group.

    Args:
        group: neighbouring rows that are compared; where the batch cannot be cut into such groups it is one group.
    """

    def __init__(self, group: int = 4):
        super().__init__()
        self.group, self.added = group, 1
        if group < 2:
            raise UserError(f"a group of {group} rows was asked for, which has no deviation; give at least 2, such as 4.")

    def deviation(self, h: Float[Tensor, "b *features"]) -> Float[Tensor, " b"]:
        """Mean over features of the deviation over the group, in float32."""
        group = self.group if len(h) % self.group == 0 else len(h)
        groups = h.float().flatten(1).unflatten(0, (-1, group))
        # The root has an infinite slope at 0, where equal rows are.
        deviation = (groups.var(1, correction=0) + 1e-8).sqrt().mean(1)
        return deviation.repeat_interleave(group)

    def forward(self, h: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c2 *places"]:
        plane = self.deviation(h).to(h.dtype).view(-1, *[1] * (h.dim() - 1)).expand(-1, 1, *h.shape[2:])
        return torch.cat([h, plane], 1)


class VirtualBatchNorm(nn.Module):
    """(R + B, C, *places) of which the first R rows are the reference -> the same shape, normalised and scaled.

    Row i of the data is normalised by mean and variance of the reference and itself; the reference by its own.

    Args:
        channels: C. reference: R, at least 1. eps: added to variances.
    """

    def __init__(self, channels: int, reference: int, eps: float = 1e-5):
        super().__init__()
        self.reference, self.eps = reference, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *places"]:
        R, rows = self.reference, h.float().flatten(2) if h.dim() > 2 else h.float()[:, :, None]
        variance, mean = torch.var_mean(rows[:R], (0, 2), correction=0)
        own_variance, own_mean = torch.var_mean(rows[R:], 2, correction=0)
        # Moments of the union of R data and one more, of equal size; differences of squares would cancel.
        joint_mean = (R * mean + own_mean) / (R + 1)
        apart = (R * (mean - joint_mean).square() + (own_mean - joint_mean).square()) / (R + 1)
        joint_variance = (R * variance + own_variance) / (R + 1) + apart
        mean = torch.cat([mean.expand(R, -1), joint_mean])[:, :, None]
        variance = torch.cat([variance.expand(R, -1), joint_variance])[:, :, None]
        normalised = (rows - mean) * torch.rsqrt(variance + self.eps)
        return (normalised * self.weight[:, None] + self.bias[:, None]).view(h.shape).to(h.dtype)


class WithReference(nn.Module):
    """A network with virtual batch norms, run on its reference batch ahead of each batch; only the batch's outputs come back.

    A second argument (the embedding of a condition) is zero for the reference, so that the reference does not depend on what
    is asked for beside it.

    Args:
        network: its batch norms are replaced, with the weights that they have. Raises UserError where there are none.
        reference: (R, ...), what the network takes, such as R draws of a generator's z; kept as a buffer, never changed.
    """

    reference: Tensor

    def __init__(self, network: nn.Module, reference: Float[Tensor, "r *shape"]):
        super().__init__()
        if not len(reference):
            raise UserError("the reference batch of virtual batch norm is empty; give at least one datum.")
        if not _virtualise(network, len(reference)):
            raise UserError(
                f"{type(network).__name__} has no batch norm that a virtual one could replace; "
                "leave virtual-batch-norm out, or take network='dcgan'."
            )
        self.network = network
        self.register_buffer("reference", reference.detach().clone())

    def forward(self, x: Float[Tensor, "b *shape"], embedding: Float[Tensor, "b e"] | None = None) -> Tensor:
        R = len(self.reference)
        both = torch.cat([self.reference.to(x.dtype), x])
        if embedding is None:
            return self.network(both)[R:]
        return self.network(both, torch.cat([embedding.new_zeros(R, embedding.shape[1]), embedding]))[R:]


def _virtualise(network: nn.Module, reference: int) -> int:
    """Replaces each batch norm inside by a virtual one with its weights, and says how many there were."""
    found = 0
    for name, module in network.named_children():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            norm = VirtualBatchNorm(module.num_features, reference, module.eps).to(device=_device(module))
            if module.affine:
                norm.weight, norm.bias = module.weight, module.bias
            setattr(network, name, norm)
            found += 1
        else:
            found += _virtualise(module, reference)
    return found


def _device(module: nn.Module) -> torch.device | None:
    tensor = next(module.parameters(), None)
    return None if tensor is None else tensor.device
