"""Classifiers as judges: blind where there is nothing to see, sharp where there is."""

import numpy as np
import pytest

from pushforward.errors import UserError
from pushforward.measures.two_sample import class_measures, recognised, transfer_measures, two_sample_accuracy


def gaussian(n, d, seed, shift=0.0):
    return shift + np.random.default_rng(seed).standard_normal((n, d))


def test_two_halves_of_one_set_cannot_be_told_apart():
    """At most 5 of 40 intervals miss one half: it would be more in 1 of 70 experiments if each misses 5 %."""
    missed = 0
    for i in range(40):
        value, low, high = two_sample_accuracy(gaussian(150, 20, i), gaussian(150, 20, 100 + i), seed=i)
        missed += not low <= 0.5 <= high
        assert 0.3 < value < 0.7
    assert missed <= 5


def test_different_sets_are_told_apart():
    assert two_sample_accuracy(gaussian(150, 20, 0), gaussian(150, 20, 1, shift=2.0))[0] > 0.97
    # One mean, another spread: a straight line sees nothing here.
    x, y = gaussian(200, 20, 2), 3 * gaussian(200, 20, 3)
    assert two_sample_accuracy(x, y)[0] > 0.9
    # Trees, in two dimensions: a hole in the middle.
    z, other = gaussian(400, 2, 4), gaussian(400, 2, 5)
    assert two_sample_accuracy(z, other[np.linalg.norm(other, axis=1) > 1])[1] > 0.55


def test_too_few_to_tell():
    with pytest.raises(UserError, match="at least 10"):
        two_sample_accuracy(gaussian(5, 2, 0), gaussian(5, 2, 1))


def classes(n, seed, means=(0.0, 4.0, 8.0)):
    labels = np.arange(n) % len(means)
    return gaussian(n, 20, seed) + np.array(means)[labels][:, None], labels


def measures(samples, asked):
    train, real = classes(600, 1), classes(150, 2)
    found = class_measures(samples, asked, *train, *real, ("a", "b", "c"), 0, "values")
    if asked is not None:
        found += transfer_measures(samples, asked, *train, *real, 0, "values")
    return {m.name: m for m in found}


def test_a_good_conditional_model_teaches_and_is_recognised():
    found = measures(*classes(150, 3))
    assert found["train on synthetic"].value > 0.95 and found["train on synthetic"].real
    assert found["asked class recognised"].value > 0.95 and found["worst class recognised"].value > 0.9
    assert found["train on synthetic"].floor > 0.95


def test_a_swapped_class_is_the_worst_and_teaches_wrongly():
    samples, asked = classes(150, 3)
    samples = np.where((asked == 1)[:, None], gaussian(150, 20, 4), samples)  # 'b' comes out as 'a'
    found = measures(samples, asked)
    assert found["worst class recognised"].value < 0.1 and "'b'" in found["worst class recognised"].protocol
    assert found["asked class recognised"].value == pytest.approx(2 / 3, abs=0.05)
    assert found["train on synthetic"].value < found["train on synthetic"].floor - 0.1
    assert not found["train on synthetic"].real


def test_class_mix_of_an_unconditional_model():
    """The third class is never drawn: a total variation of one third."""
    found = measures(classes(150, 5, means=(0.0, 4.0))[0], None)
    mixing = found["class mix distance"]
    assert mixing.value == pytest.approx(1 / 3, abs=0.03) and not mixing.real
    assert measures(classes(150, 6)[0], None)["class mix distance"].real


def test_recognised_counts_by_class_asked_for():
    (share, low, high), worst = recognised(np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]))
    assert (share, worst) == (0.5, 1) and low < 0.5 < high


def test_one_class_is_a_sentence():
    samples = gaussian(20, 3, 0)
    one = np.zeros(20, dtype=int)
    with pytest.raises(UserError, match="two classes"):
        transfer_measures(samples, one, samples, one, samples, one, 0, "values")
    with pytest.raises(UserError, match="two classes"):
        class_measures(samples, one, samples, one, samples, one, (), 0, "values")
