"""What the two sides of an adversarial game want, as pure functions of the critic's logits.

With logits l, D = sigmoid(l) is the probability that x is real. Goodfellow et al. 2014 play

    min_G max_D  V = E_real[log D(x)] + E_fake[log(1 - D(x))],

whose best critic for a given generator is D* = p / (p + q), that is l* = log p - log q, where V = 2 JS(p, q) - log 4.
-log D = softplus(-l) and -log(1 - D) = softplus(l), so no sigmoid is ever taken and the gradients are right for any logit.

"minimax": the generator minimises V itself, E[log(1 - D)] = -E[softplus(l)]; its gradient by l, -sigmoid(l), vanishes
where the critic is sure that the sample is a fake. "non-saturating": it minimises E[-log D] = E[softplus(-l)] instead; its
gradient, -sigmoid(-l), is -1 there. Both have the same fixed point.

Goodfellow et al. 2014, "Generative adversarial nets", arXiv:1406.2661.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from pushforward.errors import UserError, nearest


@dataclass(frozen=True)
class Objective:
    """A pair of losses on logits of any shape, averaged over everything.

    critic: (real logits, fake logits) -> scalar, generator: (fake logits) -> scalar; each side minimises its own.
    """

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def cross_entropy(real: Float[Tensor, "*b"], fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """-V: the critic's -E_real[log D] - E_fake[log(1 - D)] in nats; log 4 where it cannot tell real from fake."""
    return softplus(-real.float()).mean() + softplus(fake.float()).mean()


def non_saturating(fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """The generator's -E_fake[log D] in nats."""
    return softplus(-fake.float()).mean()


def minimax(fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """The generator's share of V, E_fake[log(1 - D)], in nats."""
    return -softplus(fake.float()).mean()


OBJECTIVES: dict[str, Objective] = {
    "non-saturating": Objective(cross_entropy, non_saturating),
    "minimax": Objective(cross_entropy, minimax),
}


def objective(name: str) -> Objective:
    """The objective of a name; an unknown one is an error that says the nearest.

    >>> objective("minmax")
    Traceback (most recent call last):
    pushforward.errors.UserError: there is no objective 'minmax'; did you mean minimax?
    """
    if name not in OBJECTIVES:
        raise UserError(f"there is no objective '{name}'; {nearest(name, OBJECTIVES)}")
    return OBJECTIVES[name]
