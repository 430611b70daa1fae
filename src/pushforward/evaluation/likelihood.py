"""What probability the model gives to data that it has not seen.

`log_prob` is in nats per datum, higher is better. For integer data (images) bits per dimension = -log p / (D log 2): the
length of the best lossless code, lower is better; a uniform guess among 256 levels costs 8. The density of a dequantised
datum bounds the probability of the integer from below, so bits from continuous models are from above (Theis et al. 2016,
arXiv:1511.01844). For text nats per token. A likelihood is exact, a (lower) bound or an estimate: figures of different
kinds are not comparable without saying so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.measures.intervals import bootstrap_mean, half_interval
from pushforward.measures.measure import Measure

CHUNK = 256
ESTIMATES = 256


def bits_per_dimension(log_prob: float, dimensions: int) -> float:
    """Nats per datum to bits per dimension.

    >>> bits_per_dimension(-64 * math.log(256), 64)
    8.0
    """
    return -log_prob / (dimensions * math.log(2))


def log_probs(run: Any, codes: Tensor, condition: Tensor | None) -> tuple[Float[np.ndarray, "n"], str]:
    """Nats per datum and their kind, chunk by chunk; of a costly estimate only the first 256 data."""
    parts: list[Tensor] = []
    kind, done = "exact", 0
    while done < len(codes) and not (kind == "estimate" and done >= ESTIMATES):
        rows = slice(done, done + CHUNK)
        with torch.no_grad():
            answer = run.log_prob_codes(codes[rows], condition=None if condition is None else condition[rows])
        parts.append(answer.value.detach().double().cpu())
        kind, done = answer.kind, done + CHUNK
    values = torch.cat(parts).numpy()
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise UserError(f"{bad} of {len(values)} data have no finite log-probability under this model.")
    return values, kind


def membership(train: Float[np.ndarray, "n"], test: Float[np.ndarray, "m"]) -> float:
    """The area under the curve of the attack "a datum of high likelihood was trained on": 0.5 where it learns nothing.

    >>> membership(np.array([1.0, 2.0]), np.array([0.0, 0.5]))
    1.0
    """
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(train, test).statistic) / (len(train) * len(test))


def likelihood_measures(
    run: Any,
    spec: DataSpec,
    held: tuple[Tensor, Tensor | None],
    train: tuple[Tensor, Tensor | None],
    seed: int,
    log_density: Callable[[Tensor], Tensor] | None = None,
) -> list[Measure]:
    """Log-likelihood of held-out data in the units of this kind of data, and what it says about the training data.

    log_density: the data's own, where it is known; its mean is the best that any model can reach.
    """
    test, kind = log_probs(run, *held)
    seen, _ = log_probs(run, *train)
    mean, (low, high) = float(test.mean()), bootstrap_mean(test, seed)
    how = f"{kind}, {len(test)} held-out data" + ("" if held[1] is None else ", each given its condition")
    binarised = bool(getattr(run.model, "binarised", False))
    name = "log-likelihood of binarised pixels" if binarised else "log-likelihood"
    shared: dict[str, Any] = {"kind": kind, "n": len(test), "group": "likelihood"}
    floor: tuple[float | None, float | None, float | None] = (None, None, None)
    if log_density is not None:
        true = torch.as_tensor(log_density(held[0][: len(test)])).double().cpu().numpy()
        if np.isfinite(true).all():
            true_low, true_high = bootstrap_mean(true, seed)
            floor = (float(true.mean()), true_low, true_high)
            how += "; beside it the data's own log-density"
    measures = [Measure(name, mean, low, high, *floor, unit="nats per datum", better="higher", protocol=how, **shared)]

    def rescaled(name: str, unit: str, scale: Callable[[float], float]) -> Measure:
        return Measure(name, scale(mean), scale(high), scale(low), unit=unit, better="lower", protocol=how, **shared)

    if spec.kind == "image" and not binarised:
        measures.append(
            rescaled("bits per dimension", "bits per value", lambda nats: bits_per_dimension(nats, spec.dimensions))
        )
    if spec.kind == "tokens":
        length = held[0].shape[1]
        measures.append(rescaled("nats per token", "nats per token", lambda nats: -nats / length))
        if -low / length < 300:
            measures.append(rescaled("perplexity", "tokens", lambda nats: math.exp(-nats / length)))
    sizes = (len(seen), len(test))
    gap = float(seen.mean()) - mean
    reach = half_interval(lambda i, j: float(seen[i].mean() - test[j].mean()), sizes, gap, seed)
    attack = membership(seen, test)
    attack_reach = half_interval(lambda i, j: membership(seen[i], test[j]), sizes, attack, seed, low=0.0, high=1.0)
    gap_how = f"{kind}, {len(seen)} training data less {len(test)} held-out data; large: learned by heart"
    attack_how = f"area under the curve, likelihood of {len(seen)} training against {len(test)} held-out data"
    measures += [
        Measure(
            "train-test gap",
            gap,
            *reach,
            0.0,
            unit="nats per datum",
            better="near 0",
            kind=kind,
            n=sizes[0] + sizes[1],
            protocol=gap_how,
            group="likelihood",
        ),
        Measure(
            "membership attack",
            attack,
            *attack_reach,
            0.5,
            unit="area",
            better="near 0.5",
            n=sizes[0] + sizes[1],
            protocol=attack_how,
            group="memory",
        ),
    ]
    return measures


def true_density_measures(samples: Tensor, held: Tensor, log_density: Callable[[Tensor], Tensor], seed: int) -> list[Measure]:
    """Where the data's own density is known: how much of it the samples find themselves in."""
    ours = torch.as_tensor(log_density(samples)).double().cpu().numpy()
    real = torch.as_tensor(log_density(held)).double().cpu().numpy()
    edge = np.quantile(real, 0.01)
    likely, usual = (ours >= edge).astype(float), (real >= edge).astype(float)
    return [
        Measure(
            "samples where data are",
            float(likely.mean()),
            *bootstrap_mean(likely, seed),
            float(usual.mean()),
            *bootstrap_mean(usual, seed),
            unit="share",
            better="higher",
            n=len(ours),
            protocol="share above the 1 % quantile of the true log-density of data",
            group="fidelity",
        )
    ]
