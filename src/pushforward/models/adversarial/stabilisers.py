"""What is done to a game, beside its objective and its penalties, so that it settles or does not collapse: pure pieces that
a model combines, each by itself or with others, and the table of their names.

With f(x) the features ahead of the critic's last layer, l its logits, theta a player's weights:

    feature-matching      the generator minimises |E f(x) - E f(G(z))|^2 instead of its objective
    label-smoothing       the critic is to say "real with probability alpha" of data, and still "fake" of fakes (one-sided):
                          its best answer D = alpha p / (p + q) has no p where p is 0, as it would with soft fakes
    noisy-labels          data and a fake change places, with probability eps: the critic compares (1 - eps) p + eps q with
                          (1 - eps) q + eps p, and its best logit is never beyond +- log((1 - eps) / eps)
    historical-averaging  |theta - mean of theta at all updates so far|^2 is added to a player's loss
    instance-noise        x + sigma (1 - progress) n, n ~ N(0, I), for data and fakes: densities that overlap have a critic with
                          a slope, however thin the sets are that data and fakes lie on
    packing               the critic judges m data together, all real or all fake, as m times the channels: it compares p^m with
                          q^m, whose total variation grows faster with m where q lacks modes of p
    diffusion             data and fakes are diffused to a step that the critic is told and that grows as the critic gets surer
                          (diffused.py)
    style-mixing, path-length    of a style-based generator (style.py)
    pulling-away          the mean squared cosine of the features of two fakes is added to the generator's loss (energy.py)

A critic of C + 1 classes is in critics.py. Layers that look at a batch are in nets/minibatch.py, augmentations in
nets/augmentation.py. The averaged weights of the generator, with which a run samples, are the run's.

Salimans et al. 2016 (features, labels, averaging, classes, layers), arXiv:1606.03498; Sonderby et al. 2017 (noise),
arXiv:1610.04490; Lin et al. 2018 (PacGAN), arXiv:1712.04086; Goodfellow 2016 (why one-sided), arXiv:1701.00160; Chintala et
al. 2016 (noisy labels: github.com/soumith/ganhacks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError, nearest
from pushforward.models.adversarial.objectives import OBJECTIVES, Objective, least_squares
from pushforward.randomness import Rng


def feature_matching(real: Float[Tensor, "b *features"], fake: Float[Tensor, "b2 *features"]) -> Float[Tensor, ""]:
    """|E f(x) - E f(G(z))|^2, a generator's loss: no gradient goes to the features of real data.

    Of means over n rows it is larger by (tr S_f + tr S_g) / n, S the features' covariances: the larger the batch, the better.
    """
    return (real.detach().float().mean(0) - fake.float().mean(0)).square().sum()


def smoothed_cross_entropy(real: Float[Tensor, "*b"], fake: Float[Tensor, "*b"], alpha: float) -> Float[Tensor, ""]:
    """-E_real[alpha log D + (1 - alpha) log(1 - D)] - E_fake[log(1 - D)] in nats."""
    real = real.float()
    return (alpha * softplus(-real) + (1 - alpha) * softplus(real)).mean() + softplus(fake.float()).mean()


def _cross_entropy_smoothed(name: str, alpha: float) -> Objective:
    # D = alpha / 2 where p = q
    boundary = math.log(alpha / (2 - alpha))
    return replace(OBJECTIVES[name], critic=partial(smoothed_cross_entropy, alpha=alpha), boundary=boundary)


SMOOTHED: dict[str, Callable[[float], Objective]] = {
    "non-saturating": partial(_cross_entropy_smoothed, "non-saturating"),
    "minimax": partial(_cross_entropy_smoothed, "minimax"),
    # a mixture of squared errors with targets b and a is one with target alpha b + (1 - alpha) a, plus a constant
    "least-squares": lambda alpha: least_squares(0.0, alpha, 1.0),
    "least-squares-centred": lambda alpha: least_squares(-1.0, 2 * alpha - 1, 0.0),
}


def smooth_labels(objective: str, alpha: float = 0.9) -> Objective:
    """The objective whose critic is to be alpha sure of real data; its generator is as before.

    Only critics that are told labels have any to smooth; for the others a UserError says why not.

    >>> smooth_labels("least-squares", 0.9).boundary
    0.45
    """
    _refuse_labels("label-smoothing", objective)
    return SMOOTHED[objective](alpha)


def flip_labels(
    real: Float[Tensor, "b *k"], fake: Float[Tensor, "b *k"], rate: float, rng: Rng
) -> tuple[Float[Tensor, "b *k"], Float[Tensor, "b *k"]]:
    """The critic's outputs with row i of both exchanged, at this rate: what its loss is then given has some wrong labels.

    For the critic's loss only. In expectation any loss E A(l(x)) + E B(l(G)) becomes that of the mixed densities.
    """
    exchanged = (rng.rand(len(real)) < rate).view(-1, *[1] * (real.dim() - 1))
    return torch.where(exchanged, fake, real), torch.where(exchanged, real, fake)


def _refuse_labels(stabiliser: str, objective: str) -> None:
    """Raises UserError with the reason where labels of this objective cannot be soft or wrong to any avail."""
    unmoved = {
        "wasserstein": "its critic's loss is linear in the outputs, so that wrong labels only make it smaller",
        "equilibrium": "its critic's loss is linear in the outputs, so that wrong labels only make it smaller",
        "hinge": "its best critic sign(p - q) is within +-1 in any case and stays the same",
        "f-total-variation": "its best critic is bounded in any case and stays the same",
    }
    reason = unmoved.get(objective)
    if stabiliser == "label-smoothing" and reason is None and objective not in SMOOTHED:
        reason = "its critic has no target for real data that could be lowered"
        if objective == "relativistic":
            reason = "a label of its pairs is soft for both sides or none (noisy-labels does that)"
    if reason:
        raise UserError(f"{stabiliser} is not for objective='{objective}': {reason}. It is for {', '.join(SMOOTHED)}.")


class HistoricalAverage(nn.Module):
    """The mean of all weights that a player has had, and how far it is from there now.

    The weights at construction are the first of them. Build it when the networks are complete, hand the same parameters in the
    same order to `forward` (in the player's loss) and to `after_update`.
    """

    count: Tensor

    def __init__(self, parameters: Iterable[nn.Parameter]):
        super().__init__()
        self.sizes = 0
        for parameter in parameters:
            self.register_buffer(f"mean{self.sizes}", parameter.detach().float().clone())
            self.sizes += 1
        self.register_buffer("count", torch.ones(()))

    def means(self) -> list[Tensor]:
        """The mean of each parameter."""
        return [self.get_buffer(f"mean{i}") for i in range(self.sizes)]

    def forward(self, parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
        """|theta - mean|^2, summed over everything."""
        apart = [(p.float() - mean).square().sum() for p, mean in zip(parameters, self.means(), strict=True)]
        return torch.stack(apart).sum()

    @torch.no_grad()
    def after_update(self, parameters: Iterable[nn.Parameter]) -> None:
        """Takes the weights as they are into the mean."""
        self.count += 1
        for parameter, mean in zip(parameters, self.means(), strict=True):
            mean.lerp_(parameter.float(), 1 / self.count)


def instance_noise(x: Float[Tensor, "b *shape"], sigma: float, progress: float, rng: Rng) -> Float[Tensor, "b *shape"]:
    """x + sigma (1 - progress) n: all of sigma when the run begins, none at its end (progress: `Batch.progress`)."""
    return x + sigma * (1 - progress) * rng.randn_like(x)


def pack(x: Float[Tensor, "b c *places"], m: int) -> Float[Tensor, "packs mc *places"]:
    """Rows m by m as one, their channels (or features) one after the other: (B, C, H, W) -> (B / m, m C, H, W).

    For data, for fakes, and for the vectors of their conditions, in the same order. A last pack that is not full gets the
    first rows once more: a batch of any size can be judged.

    >>> pack(torch.tensor([[1.0], [2.0], [3.0]]), 2).tolist()
    [[1.0, 2.0], [3.0, 1.0]]
    """
    missing = -len(x) % m
    if missing:
        x = torch.cat([x, x[torch.arange(missing, device=x.device) % len(x)]])
    return x.unflatten(0, (-1, m)).flatten(1, 2)


def packed_shape(shape: Sequence[int], m: int) -> tuple[int, ...]:
    """What the critic of packs is built for.

    >>> packed_shape((3, 32, 32), 2)
    (6, 32, 32)
    """
    return (m * shape[0], *shape[1:])


@dataclass(frozen=True)
class Stabiliser:
    """strength: its one number when none is given; meaning: of that number; least, most: its range; reason: what it is for."""

    strength: float
    meaning: str
    least: float
    most: float
    reason: str
    whole: bool = False


STABILISERS: dict[str, Stabiliser] = {
    "feature-matching": Stabiliser(
        1.0, "its share of the generator's loss", 0, 1, "fakes are to have the critic's mean features, not to win"
    ),
    "label-smoothing": Stabiliser(
        0.9, "the critic's target for real data", 0.5, 1, "a critic that is never quite sure of data"
    ),
    "noisy-labels": Stabiliser(0.05, "the share of wrong labels", 0, 0.5, "a critic that is never quite sure of anything"),
    "historical-averaging": Stabiliser(
        1e-3, "the weight of |theta - mean|^2", 0, math.inf, "weights that circle round a point are drawn into it"
    ),
    "instance-noise": Stabiliser(
        0.1, "sigma when the run begins", 0, math.inf, "data and fakes overlap, so that the critic has a slope"
    ),
    "packing": Stabiliser(2, "data judged together", 2, 16, "a critic of several data sees that fakes are alike", whole=True),
    "minibatch-discrimination": Stabiliser(
        8, "kernels that compare rows", 1, 1024, "the critic is told how near a datum is to its batch", whole=True
    ),
    "minibatch-deviation": Stabiliser(4, "rows of a group", 2, 1024, "the critic is told how much a batch varies", whole=True),
    "virtual-batch-norm": Stabiliser(
        32, "rows of the reference", 1, 4096, "the generator's norms without what a batch has in common", whole=True
    ),
    "augmentation": Stabiliser(
        1.0, "the probability of each kind", 0, 1, "the critic cannot learn a small set of images by heart"
    ),
    "adaptive-augmentation": Stabiliser(
        0.6, "E[sign(l)] over data that is aimed at", 0, 0.99, "as much augmentation as the critic needs, found in training"
    ),
    "diffusion": Stabiliser(
        0.6, "E[sign(l)] over data that is aimed at", 0, 0.99, "as much noise as the critic needs, found in training"
    ),
    "style-mixing": Stabiliser(
        0.9, "the share of fakes with two styles", 0, 1, "layers of a style-based generator do not rely on each other"
    ),
    "path-length": Stabiliser(
        2.0, "the weight of (|J^T y| - a)^2", 0, math.inf, "a step in a style changes an image by the same amount everywhere"
    ),
    "pulling-away": Stabiliser(
        0.1, "the weight of the mean squared cosine", 0, math.inf, "fakes of one batch are to differ in the critic's features"
    ),
}

# Two that cannot both be, and why not
APART = {
    ("augmentation", "adaptive-augmentation"): "both set the probability of the same augmentations",
    ("instance-noise", "diffusion"): "both add noise to the same data",
}


def stabilisers(given: Sequence[str] | Mapping[str, float], objective: str, spec: DataSpec) -> dict[str, float]:
    """Of names, or of {name: strength}, the strength of each, for this objective and these data.

    >>> stabilisers(["packing"], "hinge", DataSpec("point", (2,)))
    {'packing': 2}

    Raises UserError for unknown names (with the nearest), strengths out of range, and what does not go together.
    """
    found: dict[str, float] = {}
    for name in given:
        if name not in STABILISERS:
            raise UserError(f"there is no stabiliser '{name}'; {nearest(name, STABILISERS)}")
        row = STABILISERS[name]
        strength = given[name] if isinstance(given, Mapping) else row.strength
        if not (math.isfinite(strength) and row.least <= strength <= row.most) or (row.whole and strength != int(strength)):
            number = "whole number" if row.whole else "number"
            bounds = f"from {row.least:g} to {row.most:g}" if math.isfinite(row.most) else f">= {row.least:g}"
            raise UserError(f"{name} was given {strength}, which is {row.meaning}; give a {number} {bounds}.")
        if name in ("label-smoothing", "noisy-labels"):
            _refuse_labels(name, objective)
        if name.endswith("augmentation") and not spec.planar:
            raise UserError(f"{name} changes images, and '{spec.name}' holds {spec.kind}; take instance-noise.")
        if name in ("adaptive-augmentation", "diffusion") and (
            objective not in OBJECTIVES or OBJECTIVES[objective].boundary is None
        ):
            other = "augmentation" if name == "adaptive-augmentation" else "instance-noise"
            raise UserError(
                f"{name} looks at which data the critic takes for real, and with objective='{objective}' it does not say; "
                f"take {other}."
            )
        found[name] = int(strength) if row.whole else strength
    for (one, other), reason in APART.items():
        if one in found and other in found:
            raise UserError(f"{one} and {other} do not go together: {reason}; leave one of them out.")
    return found
