"""Which data does a model find strange? A score for each datum, higher is stranger.

likelihood: -log p(x), for models with a density. reconstruction: the mean squared error of decode(encode(x)), in the model's
units, for models with codes. residual: what a GAN, which has neither a density nor an encoder, cannot make of a datum
(AnoGAN): with z* found by inversion and f the critic's features,

    A(x) = (1 - lambda) |x - G(z*)|_1 + lambda |f(x) - f(G(z*))|_1,      lambda = 0.1.

None is infallible: likelihoods reward smooth images whatever they show (Nalisnick et al. 2019, arXiv:1810.09136), a decoder
with many units gives anything back, and a generator that leaves out some of the data finds those strange.

Schlegl et al. 2017 (AnoGAN), arXiv:1703.05921.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from pushforward.data.conditions import to_model
from pushforward.editing.codes import inversion_line
from pushforward.editing.inversion import CANDIDATES, STEPS, invert
from pushforward.errors import UserError
from pushforward.models.adversarial.critics import Critic
from pushforward.models.contract import Decodes, Density, Encodes, device_of, evaluating, takes_condition
from pushforward.randomness import SampleRng

if TYPE_CHECKING:
    from pushforward.training.runs import Run

By = Literal["auto", "likelihood", "reconstruction", "residual"]
Features = Callable[[Tensor, Tensor | None], Tensor]  # x (B, *shape) and its condition, as the model sees them -> (B, ...)
BLOCK = 256
FEATURED = 0.1  # lambda


def rule(run: Run, by: By = "auto") -> By:
    """What scores will be by. auto: the reconstruction where codes are smaller than data (else anything comes back), the
    likelihood otherwise; the residual of a model that has neither an encoder nor a density."""
    model, name = run.model, run.record["model"]["name"]
    able: dict[By, bool] = {
        "reconstruction": isinstance(model, Encodes) and isinstance(model, Decodes),
        "likelihood": isinstance(model, Density),
        "residual": isinstance(model, Decodes) and not isinstance(model, Encodes),
    }
    if by not in ("auto", *able):
        raise UserError(f"by = '{by}' was given; it is auto, likelihood, reconstruction or residual.")
    if not any(able.values()):
        raise UserError(f"'{name}' has neither a density nor codes, so it cannot say what is strange.")
    if by == "auto":
        if able["reconstruction"] and (not able["likelihood"] or _narrow(run)):
            return "reconstruction"
        return next(way for way in ("likelihood", "reconstruction", "residual") if able[way])
    if not able[by]:
        raise UserError(f"'{name}' cannot score by {by}; try by={next(way for way, can in able.items() if can)}.")
    return by


def weakness(run: Run, by: By) -> str:
    """What such scores cannot be trusted for, as a sentence; nothing where they are as good as such scores are."""
    if by == "residual" and critic_features(run.model) is None:
        return (
            f"'{run.record['model']['name']}' has no critic that says features of one datum: the score is what the generator "
            "leaves of the values alone."
        )
    if by != "reconstruction" or _narrow(run):
        return ""
    return (
        f"the codes of '{run.record['model']['name']}' have as many numbers as the data, or more, so that anything may come "
        "back: a low error says little. A model with narrower codes, or with a likelihood (gmm, vae), finds outliers better."
    )


def _narrow(run: Run) -> bool:
    """Whether a code has fewer numbers than a datum."""
    with torch.no_grad():
        code = run.model.draw_codes(1, generator=0)  # type: ignore[operator, union-attr]
    return code[0].numel() < run.spec.dimensions


def outlier_scores(
    run: Run,
    x: Num[Tensor, "n *shape"],
    *,
    by: By = "auto",
    condition: Tensor | None = None,
    inversion_steps: int = STEPS,
) -> Float[Tensor, " n"]:
    """A score for each datum (levels), higher is stranger: nats, the mean squared error in the model's units, or the residual
    after so many steps."""
    by = rule(run, by)
    if by == "likelihood":
        return -run.log_prob_codes(x, condition=condition).value
    if by == "residual":
        return residuals(run, x, condition=condition, steps=inversion_steps).score
    scores = []
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        asked = None if condition is None else condition[rows]
        again = run.units.parse(run.reconstruct(x[rows], condition=asked))
        difference = run.units.to_model(x[rows]).float() - run.units.to_model(again).float()
        scores.append(difference.flatten(1).square().mean(1))
    return torch.cat(scores)


@dataclass
class Residuals:
    """score (n,): A(x). error (n,): the mean squared error of G(z*), in the model's units, after `steps`."""

    score: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    steps: int

    def line(self) -> str:
        """How the codes were found, in words."""
        return inversion_line(self.error, self.steps)


def residuals(
    run: Run,
    x: Num[Tensor, "n *shape"],
    *,
    condition: Tensor | None = None,
    steps: int = STEPS,
    features: Features | None = None,
    weight: float = FEATURED,
) -> Residuals:
    """What a model that decodes cannot make of data (levels), with norms that are sums, as in the paper.

    condition: of the data; None: of a model that knows classes, for each datum the one whose codes come nearest. features:
    f above; None: the critic's, and of a model without one lambda = 0. weight: lambda.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"weight = {weight} was given; the features' share of the score is from 0 to 1.")
    device = device_of(run.model)
    features = features or critic_features(run.model)
    weight = weight if features is not None else 0.0
    if condition is None and run.spec.classes and takes_condition(run.model, run.spec):
        condition = nearest_classes(run, x)
    inverted = invert(run, x, condition=condition, steps=steps)
    scores = []
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        given = None if condition is None else to_model(run.spec.condition, condition[rows].to(device))
        data = run.units.to_model(x[rows].to(device)).float()
        with torch.no_grad():
            made = run.model.decode(inverted.codes[rows].to(device), condition=given).float()  # type: ignore[operator, union-attr]
            score = (1 - weight) * _distance(data, made)
            if features is not None:
                score = score + weight * _distance(features(data, given), features(made, given))
        scores.append(score.cpu())
    return Residuals(torch.cat(scores), inverted.error, steps)


def critic_features(model: object) -> Features | None:
    """What a GAN's critic looks at, f(x, condition) -> (B, width); None where it says logits alone, or judges several data
    at once."""
    critic = getattr(model, "critic", None)
    if not isinstance(critic, Critic) or not critic.featured or critic.packs > 1:
        return None

    def features(x: Tensor, condition: Tensor | None) -> Tensor:
        undiffused = None if critic.told.time is None else x.new_zeros(len(x))
        with evaluating(critic):
            found = critic(x, condition, undiffused).features
        assert found is not None
        return found

    return features


@torch.no_grad()
def nearest_classes(run: Run, x: Num[Tensor, "n *shape"], *, candidates: int = CANDIDATES, seed: int = 0) -> Int[Tensor, " n"]:
    """For each datum (levels) the class under which one of so many codes, the same for all data, decodes to what is nearest."""
    model, classes, device = run.model, run.spec.classes, device_of(run.model)
    assert isinstance(model, Decodes) and classes
    nearest = []
    data = run.units.to_model(x.to(device)).float().flatten(1)
    for k in range(classes):
        asked = torch.full((candidates,), k, device=device)
        z = model.draw_codes(candidates, condition=asked, generator=SampleRng(seed, device=device))
        made = model.decode(z, condition=asked).float().flatten(1)
        nearest.append(torch.cdist(data, made).amin(1))
    return torch.stack(nearest, 1).argmin(1).cpu()


def _distance(a: Tensor, b: Tensor) -> Float[Tensor, " n"]:
    """|a - b|_1 of each row."""
    return (a.float() - b.float()).flatten(1).abs().sum(1)


def auroc(ordinary: Float[Tensor, " n"], strange: Float[Tensor, " m"]) -> float:
    """The probability that a strange datum scores above an ordinary one (ties count half): 0.5 is chance.

    >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    0.875
    """
    from sklearn.metrics import roc_auc_score

    labels = torch.cat([torch.zeros(len(ordinary)), torch.ones(len(strange))])
    return float(roc_auc_score(labels.numpy(), torch.cat([ordinary, strange]).double().numpy()))
