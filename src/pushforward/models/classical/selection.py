"""How many components: Schwarz's and Akaike's criteria, lower is better, for a mixture fitted to n rows,

    BIC = m log n - 2 log L,     AIC = 2 m - 2 log L     with m free parameters.

BIC is, to first order, minus twice the log-probability of the data given the number of components, so that with many rows it
finds the true one; AIC estimates the likelihood of new rows, and takes more components. Under a prior on the covariances the
likelihood is that of the posterior's mode (Fraley and Raftery 2007).

Schwarz 1978, Annals of Statistics 6; Akaike 1974, IEEE Trans. Automatic Control 19.
"""

from __future__ import annotations

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pushforward.models.classical import em
from pushforward.models.classical.em import Covariance, Mixture, Prior
from pushforward.randomness import Rng

Criterion = Literal["bic", "aic"]

PASSES = 200  # of EM for each


def free_numbers(components: int, q: int, covariance: Covariance) -> int:
    """How many numbers a mixture in q dimensions is free in.

    >>> free_numbers(2, 3, "full")  # two means, two covariances, one weight
    19
    """
    square = q * (q + 1) // 2
    spread = {"full": components * square, "tied": square, "diagonal": components * q, "spherical": components}[covariance]
    return components * q + spread + components - 1


def price(criterion: Criterion, rows: int) -> float:
    """What a free parameter costs in twice the log-likelihood."""
    return math.log(rows) if criterion == "bic" else 2.0


def selected(
    x: Float[Tensor, "n q"],
    criterion: Criterion,
    most: int,
    covariance: Covariance,
    floor: float,
    shrinkage: float | None,
    restarts: int,
    tolerance: float,
    rng: Rng,
) -> tuple[Mixture, Prior]:
    """The best of mixtures of 1, 2, 3, ... `most` components (or a tenth of the rows), each from `restarts` starts, and its
    prior. All are tried: the criterion can rise for long before it falls, as that of clusters at the corners of a cube
    does until each has its own."""
    best: tuple[float, Mixture, Prior] | None = None
    for components in range(1, min(most, em.supported(len(x))) + 1):
        begun, prior = em.start(x, components, covariance, floor, shrinkage, restarts, rng)
        mixture, likelihood = em.run(x, begun, prior, covariance, floor, PASSES, tolerance)
        score = price(criterion, len(x)) * free_numbers(components, x.shape[1], covariance) - 2 * likelihood
        if best is None or score < best[0]:
            best = score, mixture, prior
    assert best is not None
    return best[1], best[2]
