"""What the two sides of an adversarial game want, as pure functions of the critic's outputs for real data and for fakes.

With logits l, D = sigmoid(l) is the probability that x is real. Goodfellow et al. 2014 play

    min_G max_D  V = E_real[log D(x)] + E_fake[log(1 - D(x))],

whose best critic for a given generator is D* = p / (p + q), that is l* = log p - log q, where V = 2 JS(p, q) - log 4.
-log D = softplus(-l) and -log(1 - D) = softplus(l), so no sigmoid is ever taken and the gradients are right for any logit.
Their generator saturates: the gradient of E[log(1 - D)] = -E[softplus(l)] by l, -sigmoid(l), vanishes where the critic is
sure that the sample is a fake. It minimises E[-log D] = E[softplus(-l)] instead, whose gradient, -sigmoid(-l), is -1 there.

                      critic minimises                                  generator             best critic, its loss
    minimax           E softplus(-l(x)) + E softplus(l(G))              -E softplus(l(G))     log p/q; log 4 - 2 JS
    non-saturating    the same                                          E softplus(-l(G))
    relativistic      E softplus(-(l(x) - l(G)))                        E softplus(l(x) - l(G))    log p/q + any constant
    least-squares     (E (l(x) - b)^2 + E (l(G) - a)^2) / 2             E (l(G) - c)^2 / 2    (b p + a q) / (p + q)
    hinge             E max(0, 1 - l(x)) + E max(0, 1 + l(G))           -E l(G)               sign(p - q); 2 - 2 TV
    wasserstein       E l(G) - E l(x), for l of slope <= 1              -E l(G)               -W1(p, q)
    f-...             E f*(T(G)) - E T(x), T = activation(l)            -E f*(T(G))           T = f'(p/q); -D_f(p, q)

Least squares with b - c = 1 and b - a = 2 gives the generator half of Pearson's chi-squared between p + q and 2q: those are
the values of "least-squares-centred" (a, b, c = -1, 1, 0); "least-squares" has 0, 1, 1, for which fakes are to pass as real.
An f-divergence's generator descends the divergence itself, and saturates where that is flat (JS). An energy E(x) enters as
the output l = -E(x).

What an objective needs beyond the critic's output (features, classes, codes) is a term of the model that has it. Heads on
the critic's trunk train with the critic as one player with the sum of the losses: two players cannot share parts.

Goodfellow et al. 2014, arXiv:1406.2661; Nowozin, Cseke and Tomioka 2016 (f-GAN), arXiv:1606.00709; Mao et al. 2017 (least
squares), arXiv:1611.04076; Arjovsky, Chintala and Bottou 2017 (Wasserstein), arXiv:1701.07875; Lim and Ye 2017 (hinge),
arXiv:1705.02894; Jolicoeur-Martineau 2019 (relativistic), arXiv:1807.00734.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from pushforward.distributions.divergences import F_DIVERGENCES, FDivergence, find_divergence
from pushforward.errors import UserError, nearest

Loss = Callable[[Tensor, Tensor], Tensor]  # (critic's outputs for real data, for fakes) -> scalar


@dataclass(frozen=True)
class Objective:
    """A pair of losses on the critic's outputs (of any shape), averaged over everything; each side minimises its own.

    critic, generator: (real, fake) -> scalar. boundary: the output above which the best critic says that x is more likely
    real than fake; None: there is none. paired: the generator's loss depends on the real outputs, and row i of both belong
    together. lipschitz: without a bound on the critic's slope its loss has no minimum.
    """

    critic: Loss
    generator: Loss
    boundary: float | None = 0.0
    paired: bool = False
    lipschitz: bool = False


def cross_entropy(real: Float[Tensor, "*r"], fake: Float[Tensor, "*f"]) -> Float[Tensor, ""]:
    """-V: the critic's -E_real[log D] - E_fake[log(1 - D)] in nats; log 4 where it cannot tell real from fake."""
    return softplus(-real.float()).mean() + softplus(fake.float()).mean()


def non_saturating(real: Tensor, fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """The generator's -E_fake[log D] in nats."""
    return softplus(-fake.float()).mean()


def minimax(real: Tensor, fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """The generator's share of V, E_fake[log(1 - D)], in nats."""
    return -softplus(fake.float()).mean()


def raise_fakes(real: Tensor, fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """The generator's -E_fake[l]."""
    return -fake.float().mean()


def relativistic_critic(real: Float[Tensor, "*b"], fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """-E log P(the real one of a pair is the real one), in nats."""
    return softplus(fake.float() - real.float()).mean()


def relativistic_generator(real: Float[Tensor, "*b"], fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """The critic's loss with the two exchanged."""
    return softplus(real.float() - fake.float()).mean()


def hinge_critic(real: Float[Tensor, "*r"], fake: Float[Tensor, "*f"]) -> Float[Tensor, ""]:
    """Real outputs are to be above 1, fake ones below -1."""
    return relu(1 - real.float()).mean() + relu(1 + fake.float()).mean()


def wasserstein_critic(real: Float[Tensor, "*r"], fake: Float[Tensor, "*f"]) -> Float[Tensor, ""]:
    """Minus the difference of the means: -W1 for the best critic of slope 1."""
    return fake.float().mean() - real.float().mean()


def least_squares(a: float, b: float, c: float) -> Objective:
    """a: the critic's target for fakes; b: for real data; c: the generator's for its fakes."""
    return Objective(
        lambda real, fake: ((real.float() - b).square().mean() + (fake.float() - a).square().mean()) / 2,
        lambda real, fake: (fake.float() - c).square().mean() / 2,
        boundary=(a + b) / 2,
    )


def f_objective(divergence: str | FDivergence) -> Objective:
    """The game whose value at the best critic is D_f(p || q), data against model.

    In float64, for outputs softly held within +-30: conjugates of almost optimal T are differences of almost equal numbers,
    and grow as exp(l). Any rising map into the domain of f* serves as an activation.
    """
    row = find_divergence(divergence)

    def t(output: Tensor) -> Tensor:
        return row.activation(30 * torch.tanh(output.double() / 30))

    def critic(real: Tensor, fake: Tensor) -> Tensor:
        return (row.conjugate(t(fake)).mean() - t(real).mean()).float()

    def generator(real: Tensor, fake: Tensor) -> Tensor:
        return -row.conjugate(t(fake)).mean().float()

    one = torch.ones((), dtype=torch.float64)
    # T = f'(1) where both are equally likely: at output 0, but for an activation that is the identity and f'(1) != 0 (KL)
    even = float(row.derivative(one))
    return Objective(critic, generator, boundary=0.0 if abs(float(row.activation(0 * one)) - even) < 1e-9 else even)


def critic_terms(real: Tensor, fake: Tensor, boundary: float | None) -> dict[str, Tensor]:
    """What the log says of a critic's turn: the mean outputs for data and fakes, and where there is a boundary how many of
    both are on their side of it."""
    real, fake = real.detach().float(), fake.detach().float()
    terms = {"real logit": real.mean(), "fake logit": fake.mean()}
    if boundary is not None:
        terms["accuracy"] = ((real > boundary).float().mean() + (fake < boundary).float().mean()) / 2
    return terms


OBJECTIVES: dict[str, Objective] = {
    "non-saturating": Objective(cross_entropy, non_saturating),
    "minimax": Objective(cross_entropy, minimax),
    "relativistic": Objective(relativistic_critic, relativistic_generator, boundary=None, paired=True),
    "least-squares": least_squares(0.0, 1.0, 1.0),
    "least-squares-centred": least_squares(-1.0, 1.0, 0.0),
    "hinge": Objective(hinge_critic, raise_fakes),
    "wasserstein": Objective(wasserstein_critic, raise_fakes, boundary=None, lipschitz=True),
    # "gan" of that table is "minimax"
    **{f"f-{name}": f_objective(row) for name, row in F_DIVERGENCES.items() if name != "gan"},
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
