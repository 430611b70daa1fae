"""What a classifier makes of the samples.

Classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545): a classifier learns to tell samples from real data;
its accuracy on data that it was not fitted on is 0.5 where the two cannot be told apart, and 1 where they always can.
Train on synthetic, test on real (Esteban et al. 2017, arXiv:1706.02633): a classifier of the labels fitted on samples, scored
on real data, beside one fitted on as many real data. Asked class recognised: a classifier fitted on real data finds in a
sample the class that was asked for.

One kind of classifier serves all: boosted trees up to 16 dimensions, above that a support vector machine on 64 principal
components.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pushforward.errors import UserError
from pushforward.measures.intervals import half_interval, wilson
from pushforward.measures.measure import Measure, paired
from pushforward.randomness import mix

FOLDS = 5
LARGEST_FIT = 5000
# The folds share data, so their guesses are not independent: on equal Gaussians (20 and 64 dimensions, 150 and 300 a side)
# the accuracy varies 1.25 times as much as the binomial law says.
SPREAD = 1.25**2


def classifier(dimensions: int, n: int, seed: int = 0) -> Any:
    """An unfitted scikit-learn classifier for `n` rows of `dimensions` numbers."""
    if dimensions <= 16:
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=seed % 2**31)
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    reduce = PCA(n_components=max(1, min(64, dimensions, n)), random_state=seed % 2**31)
    return make_pipeline(reduce, SVC(C=5.0, gamma="scale"))


def two_sample_accuracy(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], seed: int = 0) -> tuple[float, float, float]:
    """Accuracy of telling x from y, cross-validated over five folds, with its 95 % interval. Both sides weigh the same."""
    if min(len(x), len(y)) < 2 * FOLDS:
        raise UserError(f"telling two sets apart in {FOLDS} folds needs at least {2 * FOLDS} data on each side.")
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    n = min(len(x), len(y))
    rows = np.concatenate([x[:n], y[:n]])
    side = np.repeat([0, 1], n)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=mix(seed, 0xC257) % 2**31)
    guess = cross_val_predict(classifier(x.shape[1], 2 * n * (FOLDS - 1) // FOLDS, seed), rows, side, cv=folds)
    accuracy = float((guess == side).mean())
    return accuracy, *wilson(accuracy, int(2 * n / SPREAD))


def fit_labels(x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], seed: int = 0) -> Any:
    """A fitted classifier of the labels. Raises UserError where there is but one class."""
    if len(np.unique(labels)) < 2:
        raise UserError(f"a classifier needs two classes; there is only class {labels[0]}.")
    return classifier(x.shape[1], len(x), seed).fit(x, labels)


def recognised(found: Int[np.ndarray, "n"], asked: Int[np.ndarray, "n"]) -> tuple[tuple[float, float, float], int]:
    """The smallest share of recognised data over the classes asked for (with its interval), and which class it is."""
    shares = {c: (found[asked == c] == c).mean() for c in np.unique(asked)}
    worst = min(shares, key=lambda c: shares[c])
    return (float(shares[worst]), *wilson(shares[worst], int((asked == worst).sum()))), int(worst)


def _share(hits: np.ndarray) -> tuple[float, float, float]:
    return float(hits.mean()), *wilson(float(hits.mean()), len(hits))


def told_apart(
    samples: np.ndarray, train: np.ndarray, real: np.ndarray, seed: int, space: str, name: str = "told from real (C2ST)"
) -> list[Measure]:
    """The two-sample test, with the floor of training data against held-out data."""
    how = f"accuracy over {FOLDS} folds, {space}"
    ours, floor = two_sample_accuracy(samples, real, seed), two_sample_accuracy(train, real, seed)
    return [paired(name, ours, floor, "near 0.5", "accuracy", 2 * min(len(samples), len(real)), how, "two-sample")]


def transfer_measures(
    samples: np.ndarray,
    asked: np.ndarray,
    train: np.ndarray,
    train_labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
    seed: int,
    space: str,
) -> list[Measure]:
    """Train on synthetic, test on real: `asked` are the classes that the samples were asked for.

    The first n = len(samples) of `train` take the samples' place for the floor.
    """
    n = len(samples)
    ours = _share(fit_labels(samples, asked, seed).predict(real) == real_labels)
    floor = _share(fit_labels(train[:n], train_labels[:n], seed).predict(real) == real_labels)
    how = f"classifier fitted on {n} samples, scored on {len(real)} held-out data; beside it fitted on {n} real; {space}"
    return [paired("train on synthetic", ours, floor, "higher", "accuracy", n, how, "labels")]


def class_measures(
    samples: np.ndarray,
    asked: np.ndarray | None,
    train: np.ndarray,
    train_labels: np.ndarray,
    real: np.ndarray,
    real_labels: np.ndarray,
    names: tuple[str, ...],
    seed: int,
    space: str,
) -> list[Measure]:
    """Which classes a judge finds in the samples: those that were `asked` for, or (None) in the data's mix.

    The first n = len(samples) of `train` take the samples' place for the floors; the judge is fitted on (at most 5,000 of)
    the others, or on all where there are not as many again.
    """
    n = len(samples)
    apart = len(train) >= 2 * n
    judged = slice(n, n + LARGEST_FIT) if apart else slice(LARGEST_FIT)
    judge = fit_labels(train[judged], train_labels[judged], seed)
    found, found_real = judge.predict(samples), judge.predict(real)
    fitted = f"classifier fitted on {len(train[judged])} real data, {space}"
    if asked is None:
        size = int(max(train_labels.max(), found.max(), found_real.max())) + 1

        def mix_distance(a: np.ndarray, b: np.ndarray) -> float:
            shares = (np.bincount(side, minlength=size) / len(side) for side in (a, b))
            return float(np.abs(np.subtract(*shares)).sum() / 2)

        def interval(a: np.ndarray) -> tuple[float, float, float]:
            value, sizes = mix_distance(a, found_real), (len(a), len(found_real))
            return value, *half_interval(lambda i, j: mix_distance(a[i], found_real[j]), sizes, value, seed, low=0.0, high=1.0)

        # A judge that was fitted on these data knows them too well: there their own labels are taken.
        floor = interval(judge.predict(train[:n]) if apart else train_labels[:n])
        how = f"total variation of the classes found, {fitted}"
        return [paired("class mix distance", interval(found), floor, "lower", "share", n, how, "labels")]
    overall = paired(
        "asked class recognised",
        _share(found == asked),
        _share(found_real == real_labels),
        "higher",
        "share",
        n,
        f"{fitted}; beside it on held-out data",
        "labels",
    )
    worst, which = recognised(found, asked)
    worst_real, _ = recognised(found_real, real_labels)
    name = names[which] if which < len(names) else str(which)
    how = f"lowest over classes: '{name}'; {fitted}"
    return [overall, paired("worst class recognised", worst, worst_real, "higher", "share", n, how, "labels")]
