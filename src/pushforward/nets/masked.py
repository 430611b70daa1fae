"""Masked multi-layer perceptron: output i depends on inputs 0 .. i-1 only, so that d conditionals come from one pass.

Each hidden unit has a degree m in 0 .. d-1 and sees inputs 0 .. m-1; a connection between hidden units goes from a degree to
the same or a larger one; output i sees hidden units of degree at most i. The degrees are dealt in turn, so that they are
equally many.

Where input i is itself made of output i (a draw from the i-th conditional, the inverse of an autoregressive flow) there are d
steps, one after another; but a unit of degree m is known from step m on, so that each is computed once, and all the steps
together cost what one pass does.

Source: Germain et al. 2015, "MADE", arXiv:1502.03509.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.nets.mlp import ACTIVATIONS


class MaskedLinear(nn.Linear):
    """A linear layer whose weights (outputs, inputs) are multiplied by a mask of zeros and ones."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    @property
    def masked(self) -> Tensor:
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.masked, self.bias)


class MaskedMLP(nn.Module):
    """x (B, d), beside it a context (B, context) or None that every unit may see -> (B, outputs, d), with output [:, :, i]
    a function of x[:, :i] and the context.

    Args:
        inputs: d.
        outputs: numbers for each input.
        hidden: widths of the hidden layers (at least one; d units or more of each, or some inputs are not seen).
        context: width of the context, 0: none.
        activation: of the hidden layers, as in `nets.mlp`.
    """

    def __init__(
        self, inputs: int, outputs: int = 2, hidden: Sequence[int] = (256, 256), context: int = 0, activation: str = "silu"
    ):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        degrees = torch.arange(1, inputs + 1)  # an input's is one more than what it may inform: unit m sees degrees <= m
        layers = []
        for width in hidden:
            units = torch.arange(width) % inputs
            layers.append(MaskedLinear(units[:, None] >= degrees[None]))
            degrees = units
        self.layers = nn.ModuleList(layers)
        self.last = MaskedLinear(torch.arange(inputs).repeat(outputs)[:, None] >= degrees[None])
        self.contexts = nn.ModuleList(nn.Linear(context, width, bias=False) for width in hidden if context)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Float[Tensor, "b d"], context: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b k d"]:
        for i, layer in enumerate(self.layers):
            x = layer(x) if context is None else layer(x) + self.contexts[i](context)
            x = self.activation(x)
        return self.last(x).unflatten(1, (self.outputs, self.inputs))

    def unroll(
        self,
        following: Callable[[int, Float[Tensor, "b k"]], Float[Tensor, " b"]],
        rows: int,
        context: Float[Tensor, "b e"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """x (B, d) with x[:, i] = following(i, self(x, context)[:, :, i]), from the first to the last."""
        x = self.last.weight.new_zeros(rows, self.inputs)
        layers = cast(list[MaskedLinear], list(self.layers))
        # What each layer adds to its masked products: its bias and the context.
        added = [layer.bias[None] for layer in layers]
        if context is not None:
            added = [bias + layer(context) for bias, layer in zip(added, self.contexts, strict=True)]
        weights, last = [layer.masked for layer in layers], self.last.masked
        known = [x.new_zeros(rows, len(weight)) for weight in weights]
        for i in range(self.inputs):
            units = slice(i, None, self.inputs)  # of degree i; those above are still 0
            below = x
            for k, weight in enumerate(weights):
                h = self.activation(F.linear(below, weight[units]) + added[k][:, units])
                below = known[k] = known[k].slice_scatter(h, 1, i, None, self.inputs)
            output = F.linear(below, last[units], self.last.bias[units])
            x = x.select_scatter(following(i, output), 1, i)
        return x
