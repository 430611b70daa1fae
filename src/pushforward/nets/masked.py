"""Masked multi-layer perceptron: output i depends on inputs 0 .. i-1 only, so that d conditionals come from one pass; and the
invertible step that is made of one.

Each hidden unit has a degree m in 0 .. d-1 and sees inputs 0 .. m-1; a connection between hidden units goes from a degree to
the same or a larger one; output i sees hidden units of degree at most i. The degrees are dealt in turn, so that they are
equally many.

Sources: Germain et al. 2015, "MADE", arXiv:1502.03509; of the step Kingma, Salimans et al. 2016, "Improved variational
inference with inverse autoregressive flow", arXiv:1606.04934.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.distributions.likelihoods import wide
from pushforward.nets.mlp import ACTIVATIONS

OPEN = 4.0  # what is added to gates: with 0 from the network sigmoid(4) = 0.98 of x is kept


class MaskedLinear(nn.Linear):
    """A linear layer whose weights (outputs, inputs) are multiplied by a mask of zeros and ones."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


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


class AffineAutoregressive(nn.Module):
    """The bijection x -> y = s x + (1 - s) m with [m, s] = masked MLP(x, context), s in (0, 1): what stands before unit i
    stretches and shifts it, so that the Jacobian is triangular with diagonal s. It starts with shifts of 0 and s = 0.98.

    Args:
        inputs: d.
        hidden: widths of the masked MLP's hidden layers.
        context: width of the context, 0: none.
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (256, 256), context: int = 0):
        super().__init__()
        self.net = MaskedMLP(inputs, 2, hidden, context)
        for parameter in self.net.last.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "b d"], context: Float[Tensor, "b e"] | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """y, and log dy_i / dx_i by unit: their sum is the log-determinant of the Jacobian."""
        shift, gate = wide(self.net(x, context)).unbind(1)
        gate = gate + OPEN
        keep = torch.sigmoid(gate)
        return keep * x + (1 - keep) * shift, F.logsigmoid(gate)
