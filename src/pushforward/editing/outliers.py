"""Which data does a model find strange? A score for each datum, higher is stranger.

likelihood: -log p(x), for models with a density. reconstruction: the mean squared error of decode(encode(x)), in the model's
units, for models with codes. Neither is infallible: likelihoods reward smooth images whatever they show (Nalisnick et al.
2019, arXiv:1810.09136), and a decoder with many units gives anything back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor

from pushforward.errors import UserError
from pushforward.models.contract import Decodes, Density, Encodes

if TYPE_CHECKING:
    from pushforward.training.runs import Run

By = Literal["auto", "likelihood", "reconstruction"]
BLOCK = 256


def rule(run: Run, by: By = "auto") -> By:
    """What scores will be by. auto: the reconstruction where codes are smaller than data (else anything comes back), the
    likelihood otherwise."""
    model, name = run.model, run.record["model"]["name"]
    able: dict[By, bool] = {
        "reconstruction": isinstance(model, Encodes) and isinstance(model, Decodes),
        "likelihood": isinstance(model, Density),
    }
    if by not in ("auto", *able):
        raise UserError(f"by = '{by}' was given; it is auto, likelihood or reconstruction.")
    if not any(able.values()):
        raise UserError(f"'{name}' has neither a density nor codes, so it cannot say what is strange.")
    if by == "auto":
        if able["reconstruction"] and (not able["likelihood"] or _narrow(run)):
            return "reconstruction"
        return "likelihood" if able["likelihood"] else "reconstruction"
    if not able[by]:
        raise UserError(f"'{name}' cannot score by {by}; try by={next(way for way, can in able.items() if can)}.")
    return by


def weakness(run: Run, by: By) -> str:
    """What such scores cannot be trusted for, as a sentence; nothing where they are as good as such scores are."""
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
    run: Run, x: Num[Tensor, "n *shape"], *, by: By = "auto", condition: Tensor | None = None
) -> Float[Tensor, " n"]:
    """A score for each datum (levels), higher is stranger: nats, or mean squared error in the model's units."""
    if rule(run, by) == "likelihood":
        return -run.log_prob_codes(x, condition=condition).value
    scores = []
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        asked = None if condition is None else condition[rows]
        again = run.units.parse(run.reconstruct(x[rows], condition=asked))
        difference = run.units.to_model(x[rows]).float() - run.units.to_model(again).float()
        scores.append(difference.flatten(1).square().mean(1))
    return torch.cat(scores)


def auroc(ordinary: Float[Tensor, " n"], strange: Float[Tensor, " m"]) -> float:
    """The probability that a strange datum scores above an ordinary one (ties count half): 0.5 is chance.

    >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    0.875
    """
    from sklearn.metrics import roc_auc_score

    labels = torch.cat([torch.zeros(len(ordinary)), torch.ones(len(strange))])
    return float(roc_auc_score(labels.numpy(), torch.cat([ordinary, strange]).double().numpy()))
