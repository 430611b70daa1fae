"""Masked autoregressive maps: each number bent by an increasing map whose parameters are a network's of those before it.

    y_i = f(x_i; params_i),    params_i = masked MLP(x)_i, a function of x_1 .. x_{i-1} (and a context).

The Jacobian is triangular, log |det| = sum_i log f'(x_i). y comes from one pass, and with it the density: MAF. x comes number
by number, in d steps that cost one pass together (`MaskedMLP.unroll`). Where draws are to be fast rather than densities, as in
posteriors, it is used the other way round: IAF, `Inverted(MaskedAutoregressive(...))`. Its forward pass takes the d steps.

    gated    y = s x + (1 - s) m,    s = sigmoid(a + 4)

is the map of IAF's paper: what a gated recurrent cell would do.

Papamakarios, Pavlakou and Murray 2017, "Masked autoregressive flow for density estimation", arXiv:1705.07057; Kingma, Salimans
et al. 2016, "Improved variational inference with inverse autoregressive flow", arXiv:1606.04934.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.bijections.base import Bijection
from pushforward.bijections.elementwise import Elementwise
from pushforward.distributions.likelihoods import wide
from pushforward.errors import UserError
from pushforward.nets.masked import MaskedMLP

OPEN = 4.0  # what is added to gates: with 0 from the network sigmoid(4) = 0.98 of x is kept


class Gated(Elementwise):
    """y = s x + (1 - s) m, s in (0, 1). With parameters of 0 it shrinks x to 0.98 of it."""

    parameters = 2

    def forward(self, x: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> tuple[Float[Tensor, "*x"], Float[Tensor, "*x"]]:
        shift, gate = wide(params).unbind(-1)
        gate = gate + OPEN
        return gate.sigmoid() * x + (-gate).sigmoid() * shift, F.logsigmoid(gate)

    def inverse(self, y: Float[Tensor, "*x"], params: Float[Tensor, "*x k"]) -> Float[Tensor, "*x"]:
        shift, gate = wide(params).unbind(-1)
        odds = (-gate - OPEN).exp()  # (1 - s) / s
        return y + odds * (y - shift)


class MaskedAutoregressive(Bijection):
    """x (B, d) <-> y (B, d), number i by `transform` with parameters from those before it, which are all 0 at first.

    Args:
        inputs: d.
        transform: what is done to each number.
        hidden: widths of the masked MLP's hidden layers.
        context: width of the context (B, context) that every number's parameters may depend on, 0: none.

    Raises UserError where x is no vector of d numbers, and where it was built for a context and is given none.
    """

    def __init__(
        self,
        inputs: int,
        transform: Elementwise,
        hidden: Sequence[int] = (256, 256),
        context: int = 0,
    ):
        super().__init__()
        self.transform = transform
        self.net = MaskedMLP(inputs, transform.parameters, hidden, context)
        nn.init.zeros_(self.net.last.weight)
        nn.init.zeros_(self.net.last.bias)

    def slopes(
        self, x: Float[Tensor, "b d"], context: Float[Tensor, "b e"] | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """y, and log dy_i / dx_i by number: the Jacobian's diagonal, whose sum is the log-determinant."""
        return self.transform.forward(x, self.net(x, self.beside(x, context)).mT)

    def forward(
        self, x: Float[Tensor, "b d"], context: Float[Tensor, "b e"] | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        y, log_slopes = self.slopes(x, context)
        return y, log_slopes.sum(1)

    def inverse(self, y: Float[Tensor, "b d"], context: Float[Tensor, "b e"] | None = None) -> Float[Tensor, "b d"]:
        context = self.beside(y, context)
        return self.net.unroll(lambda i, params: self.transform.inverse(y[:, i], params), len(y), context)

    def beside(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """What the network is to see beside x: the context, where it was built for one."""
        if x.dim() != 2 or x.shape[1] != self.net.inputs:
            raise UserError(
                f"data of shape {tuple(x.shape[1:])} were given to an autoregressive map of {self.net.inputs} numbers; flatten "
                "them, or build it for as many."
            )
        if not self.net.contexts:
            return None
        if context is None:
            raise UserError("an autoregressive map that was built for a context was given none; hand it one beside x.")
        return context
