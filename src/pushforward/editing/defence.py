"""Adversarial data, and a generator as a defence: what a classifier sees is first put back onto the data's manifold.

The fast gradient sign method takes the step of length epsilon, in the largest norm, that raises a classifier's loss most to
first order:

    x' = x + epsilon sign(grad_x CE(f(x), y)).

Such a step leads away from the data, where f was never taught anything. Defense-GAN gives f the nearest datum that the
generator makes instead, from R random restarts of L steps of descent each:

    f(G(z*)),      z* = argmin_z |G(z) - x'|^2.

It helps as far as the generator is good, and costs a descent for each datum. It is no guarantee: an attacker who knows it can
aim through it (Athalye et al. 2018, arXiv:1802.00420).

Goodfellow et al. 2015, arXiv:1412.6572; Samangouei et al. 2018, arXiv:1805.06605.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pushforward.editing.inversion import Encoder, Inverted, solve
from pushforward.errors import UserError

Classifier = Callable[[Tensor], Tensor]


def fgsm(
    classifier: Classifier,
    x: Float[Tensor, "n *shape"],
    y: Int[Tensor, " n"],
    epsilon: float,
    bounds: tuple[float, float] | None = (-1.0, 1.0),
) -> Float[Tensor, "n *shape"]:
    """Data moved by epsilon against a classifier, in the units of x.

    classifier: x -> logits (n, K). bounds: what x is held within; images in the model's units are in [-1, 1], where an epsilon
    of 0.3 in units of [0, 1] is 0.6. None: no bounds.
    """
    if not epsilon >= 0:
        raise UserError(f"epsilon = {epsilon} was given; it is a length, 0 or more.")
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(classifier(at), y, reduction="sum"), at)
    moved = x.detach() + epsilon * slope.sign()
    return moved if bounds is None else moved.clamp(*bounds)


def project(
    model: Any,
    x: Float[Tensor, "n *shape"],
    *,
    condition: Tensor | None = None,
    steps: int = 200,
    starts: int = 10,
    seed: int = 0,
    prior: float = 0.0,
    encoder: Encoder | None = None,
    say: Callable[[str, float], None] | None = None,
) -> Inverted:
    """What the generator makes that is nearest to x (in the model's units): `.x`, with its codes and its distance.

    steps, starts: L and R; the restarts are random, as in the paper. prior: lambda of editing/inversion.py; the paper's 0 lets
    codes go where the generator, far from what it was trained on, draws the attack as well. encoder: what `fit_encoder` gives,
    in the place of one of the restarts.
    """
    return solve(
        model,
        x,
        condition=condition,
        steps=steps,
        starts=starts,
        candidates=starts,
        seed=seed,
        prior=prior,
        encoder=encoder,
        say=say,
    )
