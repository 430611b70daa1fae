"""Gaussian mixtures and principal directions against scikit-learn: the same data, start and number of passes, side by side.

    OMP_NUM_THREADS=2 python benchmarks/classical.py

Prints seconds (the fastest of alternating runs), the ratio (above 1: ours is faster) and both results.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Reference

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.models.classical.em import Covariance
from pushforward.models.classical.gaussian import Gaussian
from pushforward.models.classical.mixture import GaussianMixture
from pushforward.randomness import UpdateRng

SCIKIT: dict[Covariance, str] = {"full": "full", "diagonal": "diag", "tied": "tied", "spherical": "spherical"}


def side_by_side(name: str, ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> None:
    """Each returns the log-likelihood that it reached."""
    seconds: list[list[float]] = [[], []]
    results = [0.0, 0.0]
    for _ in range(repeats):
        for i, run in enumerate((ours, theirs)):
            begun = time.perf_counter()
            results[i] = run()
            seconds[i].append(time.perf_counter() - begun)
    a, b = (min(times) for times in seconds)
    print(f"{name:34s} {a:8.3f} {b:12.3f} {b / a:7.2f}   {results[0]:.8f} {results[1]:.8f}", flush=True)


def mixture(x: torch.Tensor, components: int, covariance: Covariance, passes: int, repeats: int) -> None:
    d = x.shape[1]
    model = GaussianMixture(DataSpec("point", (d,)), components=components, covariance=covariance, shrinkage=0.0, tolerance=0.0)
    (player,) = model.players()
    rng = UpdateRng(torch.Generator().manual_seed(0))
    player.update([Batch(x)], rng)  # k-means++ and one pass: where both begin
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    fitted, array = model.mixture(), x.numpy()
    if covariance in ("full", "tied"):
        precisions = torch.linalg.inv(fitted.factor @ fitted.factor.mT)
    else:
        precisions = fitted.factor.square().reciprocal().reshape((components, d) if covariance == "diagonal" else (components,))
    first = {
        "weights_init": fitted.weights.numpy().copy(),
        "means_init": (fitted.means + model.centre).numpy(),
        "precisions_init": precisions.numpy().copy(),
    }

    def ours() -> float:
        model.load_state_dict(begin)
        (player,) = model.players()
        for _ in range(passes):
            update = player.update([Batch(x)], rng)
        return update.terms["log_likelihood"]

    def theirs() -> float:
        reference = Reference(components, covariance_type=SCIKIT[covariance], tol=0.0, max_iter=passes, **first)
        return reference.fit(array).lower_bound_

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both stop after the same passes, converged or not
        side_by_side(f"mixture, {covariance}, {passes} passes", ours, theirs, repeats)


def principal(x: torch.Tensor, components: int, repeats: int) -> None:
    spec, array = DataSpec("point", (x.shape[1],)), x.numpy()

    def ours() -> float:
        (player,) = Gaussian(spec, components=components).players()
        return player.update([Batch(x)], UpdateRng(torch.Generator())).terms["log_likelihood"]

    def theirs() -> float:
        return float(PCA(components).fit(array).score(array))

    def alone() -> float:
        PCA(components, svd_solver="full" if len(x) < x.shape[1] else "auto").fit(array)
        return float("nan")

    name = f"gaussian {tuple(x.shape)}, k = {components}"
    side_by_side(f"{name}, with score", ours, theirs, repeats)
    side_by_side(f"{name}, fit", ours, alone, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draw = np.random.default_rng(0)
    n, d, components = 10_000, 50, 20
    x = 2 * draw.standard_normal((components, d))[draw.integers(components, size=n)]
    x = torch.from_numpy(x + draw.standard_normal((n, d)) @ draw.standard_normal((d, d)) / np.sqrt(d))
    print(f"{'':34s} {'ours, s':>8s} {'scikit-learn':>12s} {'ratio':>7s}   log-likelihood, nats a datum")
    for covariance in SCIKIT:
        mixture(x, components, covariance, options.passes, options.repeats)
    principal(x, 10, 5 * options.repeats)
    principal(torch.from_numpy(draw.standard_normal((400, 3000)) * np.linspace(3, 0.1, 3000)), 50, 5 * options.repeats)


if __name__ == "__main__":
    main()
