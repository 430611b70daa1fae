"""Stabilisers: gradients by hand, what the best critic becomes, and what is refused."""

import math

import pytest
import torch
from torch import nn

from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.objectives import OBJECTIVES
from pushforward.models.adversarial.stabilisers import (
    SMOOTHED,
    STABILISERS,
    HistoricalAverage,
    feature_matching,
    flip_labels,
    instance_noise,
    pack,
    packed_shape,
    smooth_labels,
    smoothed_cross_entropy,
    stabilisers,
)
from pushforward.randomness import SampleRng

IMAGES = DataSpec("image", (1, 8, 8), condition=Condition("class", 3))
POINTS = DataSpec("point", (2,))


def slope(loss, l: float) -> float:
    leaf = torch.tensor([l], dtype=torch.float64, requires_grad=True)
    loss(leaf).backward()
    return leaf.grad.item()


def sigmoid(l: float) -> float:
    return 1 / (1 + math.exp(-l))


def test_feature_matching_by_hand():
    real = torch.tensor([[1.0, 0.0], [3.0, 4.0]], requires_grad=True)  # mean (2, 2)
    fake = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 2.0]], requires_grad=True)  # mean (0, 1)
    loss = feature_matching(real, fake)
    assert loss.item() == pytest.approx(4 + 1)
    loss.backward()
    # d/df_i of |mean real - mean fake|^2 is -2 (mean real - mean fake) / 3
    torch.testing.assert_close(fake.grad, torch.tensor([-4 / 3, -2 / 3]).expand(3, 2))
    assert real.grad is None


def test_features_of_any_shape_and_precision():
    real, fake = SampleRng(0).randn(2, 6, 3, 4, 4).unbind()
    expected = (real.flatten(1).mean(0) - fake.flatten(1).mean(0)).norm().square()
    torch.testing.assert_close(feature_matching(real, fake), expected)
    half = feature_matching(real.bfloat16(), fake.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=2e-2, atol=0)  # eight bits of mantissa


@pytest.mark.parametrize("l", [-40.0, -1.0, 0.0, 2.0, 40.0])
def test_slopes_of_the_smoothed_cross_entropy(l):
    nothing = torch.zeros(1)
    # of -alpha log D - (1 - alpha) log(1 - D) by l: D - alpha; of fakes: D, as without
    assert slope(lambda leaf: smoothed_cross_entropy(leaf, nothing, 0.9), l) == pytest.approx(sigmoid(l) - 0.9, abs=1e-6)
    assert slope(lambda leaf: smoothed_cross_entropy(nothing, leaf, 0.9), l) == pytest.approx(sigmoid(l), abs=1e-6)


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("p, q", [(0.7, 0.2), (0.1, 0.5), (0.3, 0.3)])
def test_the_best_critic_under_smooth_labels(name, p, q):
    objective, alpha = smooth_labels(name, 0.8), 0.8
    a = {"least-squares": 0.0, "least-squares-centred": -1.0}.get(name)
    if a is None:
        best = math.log(alpha * p / (p + q)) - math.log1p(-alpha * p / (p + q))
    else:
        best = (p * (alpha + (1 - alpha) * a) + q * a) / (p + q)
    zero = torch.zeros(1, dtype=torch.float64)
    real, fake = slope(lambda l: objective.critic(l, zero), best), slope(lambda l: objective.critic(zero, l), best)
    assert abs(p * real) > 0.01 and p * real + q * fake == pytest.approx(0, abs=1e-6)
    # the best critic's output where both are equally likely is the boundary
    assert (best > objective.boundary + 1e-9) == (p > q) and (best == pytest.approx(objective.boundary)) == (p == q)


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothing_leaves_the_generator_and_fakes_alone(name):
    real, fake = SampleRng(1).randn(2, 7).unbind()
    plain, smooth = OBJECTIVES[name], smooth_labels(name)
    assert torch.equal(smooth.generator(real, fake), plain.generator(real, fake))
    torch.testing.assert_close(smooth_labels(name, 1.0).critic(real, fake), plain.critic(real, fake))
    assert smooth_labels(name, 1.0).boundary == plain.boundary
    shift = [o.critic(real, fake + 1) - o.critic(real, fake) for o in (plain, smooth)]
    torch.testing.assert_close(*shift)
    assert smooth.critic(real, fake) != plain.critic(real, fake)


@pytest.mark.parametrize("name", ["least-squares", "least-squares-centred"])
def test_smooth_targets_of_least_squares_are_a_mixture_of_both(name):
    # alpha (l - b)^2 + (1 - alpha) (l - a)^2 and (l - alpha b - (1 - alpha) a)^2 have the same slope
    a, b = {"least-squares": (0, 1), "least-squares-centred": (-1, 1)}[name]
    zero = torch.zeros(1, dtype=torch.float64)
    for l in (-2.0, 0.3, 4.0):
        expected = slope(lambda x: (0.7 * (x - b).square() + 0.3 * (x - a).square()).mean() / 2, l)
        assert slope(lambda x: smooth_labels(name, 0.7).critic(x, zero), l) == pytest.approx(expected)


def test_flipped_labels_exchange_pairs_at_the_rate():
    real, fake = SampleRng(2).randn(2, 4000).unbind()
    one, other = flip_labels(real, fake, 0.1, SampleRng(0))
    exchanged = one == fake
    assert torch.equal(one[~exchanged], real[~exchanged]) and torch.equal(other, torch.where(exchanged, real, fake))
    # three standard errors of a share of 0.1 in 4000
    assert exchanged.float().mean().item() == pytest.approx(0.1, abs=0.015)
    for rate, expected in ((0.0, (real, fake)), (1.0, (fake, real))):
        assert all(map(torch.equal, flip_labels(real, fake, rate, SampleRng(0)), expected))


def test_flipped_labels_keep_rows_whole_and_the_gradient():
    real, fake = (x.clone().requires_grad_() for x in SampleRng(2).randn(2, 50, 3))
    one, other = flip_labels(real, fake, 0.5, SampleRng(1))
    exchanged = (one == fake).all(1)
    assert torch.equal((one == fake).any(1), exchanged) and 10 < exchanged.sum() < 40
    (one.sum() - 2 * other.sum()).backward()
    torch.testing.assert_close(real.grad[:, 0], torch.where(exchanged, -2.0, 1.0))
    torch.testing.assert_close(fake.grad[:, 0], torch.where(exchanged, 1.0, -2.0))


def test_the_best_critic_under_noisy_labels_is_that_of_the_mixtures():
    # In expectation the loss is (1 - e) L(real, fake) + e L(fake, real); at p and q its slope vanishes at log p' - log q'.
    e, p, q = 0.1, 0.6, 0.0
    best = math.log((1 - e) * p + e * q) - math.log((1 - e) * q + e * p)
    assert best == pytest.approx(math.log((1 - e) / e))  # finite although no fake is ever here
    n = 40_000
    leaf = torch.full((n,), best, dtype=torch.float64, requires_grad=True)
    far = torch.full((n,), -9.0, dtype=torch.float64)
    real, fake = flip_labels(leaf, far, e, SampleRng(3))
    (OBJECTIVES["minimax"].critic(real, fake)).backward()
    # each row's slope is -sigmoid(-l) or sigmoid(l), at most 1; three standard errors of the mean of 40,000
    assert leaf.grad.sum().item() == pytest.approx(0, abs=3 * math.sqrt(e * (1 - e) / n))


@pytest.mark.parametrize(
    "name, objective, reason",
    [
        ("label-smoothing", "wasserstein", "linear in the outputs"),
        ("label-smoothing", "hinge", "stays the same"),
        ("label-smoothing", "relativistic", "noisy-labels does that"),
        ("label-smoothing", "f-kl", "no target for real data"),
        ("noisy-labels", "wasserstein", "linear in the outputs"),
        ("noisy-labels", "hinge", "stays the same"),
        ("noisy-labels", "f-total-variation", "stays the same"),
    ],
)
def test_labels_are_refused_where_they_do_nothing(name, objective, reason):
    with pytest.raises(UserError, match=reason):
        stabilisers([name], objective, POINTS)
    if name == "label-smoothing":
        with pytest.raises(UserError, match=reason):
            smooth_labels(objective)


def test_wrong_labels_only_scale_a_linear_loss():
    # the reason that is given for refusing them
    real, fake = SampleRng(4).randn(2, 100_000).unbind()
    critic = OBJECTIVES["wasserstein"].critic
    flipped = critic(*flip_labels(real + 3, fake, 0.2, SampleRng(0)))
    # three standard errors: a flipped pair moves its term by 6 +- 2.8, at a share of 0.2
    torch.testing.assert_close(flipped, (1 - 2 * 0.2) * critic(real + 3, fake), atol=0.03, rtol=0)


def test_the_historical_mean_is_the_arithmetic_mean():
    network = nn.Linear(3, 2)
    history = HistoricalAverage(network.parameters())
    seen = [[p.detach().clone() for p in network.parameters()]]
    for step in range(20):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(SampleRng(step).randn(*parameter.shape))
        seen.append([p.detach().clone() for p in network.parameters()])
        history.after_update(network.parameters())
    for mean, values in zip(history.means(), zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(mean, torch.stack(values).mean(0))  # twenty roundings of float32
    assert history.count == 21 and not list(history.parameters())


def test_the_distance_from_the_mean_and_its_gradient():
    network = nn.Linear(2, 1)
    history = HistoricalAverage(network.parameters())
    assert history(network.parameters()).item() == 0
    with torch.no_grad():
        network.weight += torch.tensor([[1.0, -2.0]])
        network.bias += 3
    before = {name: buffer.clone() for name, buffer in history.named_buffers()}
    loss = history(network.parameters())
    loss.backward()
    assert loss.item() == pytest.approx(1 + 4 + 9)
    torch.testing.assert_close(network.weight.grad, torch.tensor([[2.0, -4.0]]))
    torch.testing.assert_close(network.bias.grad, torch.tensor([6.0]))
    assert all(torch.equal(buffer, before[name]) for name, buffer in history.named_buffers())  # a loss changes nothing


def test_the_mean_is_saved_and_loaded():
    one, other = (HistoricalAverage([nn.Parameter(torch.full((2,), v))]) for v in (1.0, 5.0))
    one.after_update([nn.Parameter(torch.zeros(2))])
    other.load_state_dict(one.state_dict())
    assert other.means()[0].tolist() == [0.5, 0.5] and other.count == 2


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5])
def test_a_game_that_circles_is_drawn_in(weight):
    # min_x max_y x y. Descent circles outwards, by 1 + rate^2 in the squared radius each step. With the mean m of z = x + i y,
    # z follows it as z = 2 w m / (2 w - i), and dm / dt = (z - m) / t makes |m| fall as t^(-1 / (1 + 4 w^2)).
    x, y = (nn.Parameter(torch.ones((), dtype=torch.float64)) for _ in range(2))
    history, radius = HistoricalAverage([x, y]), []
    for _ in range(800):
        penalty = weight * history([x, y])
        slopes = torch.autograd.grad(x * y + penalty, [x], retain_graph=True) + torch.autograd.grad(-x * y + penalty, [y])
        with torch.no_grad():
            x -= 0.1 * slopes[0]
            y -= 0.1 * slopes[1]
        history.after_update([x, y])
        radius.append(math.hypot(x.item(), y.item()))
    expected = 4 ** (-1 / (1 + 4 * weight**2)) if weight else (1 + 0.1**2) ** (600 / 2)
    assert radius[799] / radius[199] == pytest.approx(expected, rel=0.05)  # of order 1/t: the fast motion has died away


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_instance_noise_falls_to_nothing(progress):
    x = SampleRng(0).randn(64, 3, 8, 8)
    noise = instance_noise(x, 0.4, progress, SampleRng(1)) - x
    # 12,288 numbers: a relative standard error of a deviation of 0.6 %
    assert noise.std().item() == pytest.approx(0.4 * (1 - progress), rel=0.02)
    assert abs(noise.mean().item()) <= 3 * 0.4 / 12_288**0.5
    assert instance_noise(x.bfloat16(), 0.4, progress, SampleRng(1)).dtype == torch.bfloat16


def unpacked(packed, m: int, rows: int):
    return packed.unflatten(1, (m, -1)).flatten(0, 1)[:rows]


@pytest.mark.parametrize("shape", [(3, 4, 5), (2,), (6, 7)])
@pytest.mark.parametrize("m", [2, 3, 4])
def test_packs_hold_neighbours_and_can_be_unpacked(shape, m):
    x = SampleRng(0).randn(12, *shape)
    packed = pack(x, m)
    assert packed.shape == (12 // m, *packed_shape(shape, m))
    torch.testing.assert_close(packed[1], torch.cat([*x[m : 2 * m]]))
    assert torch.equal(unpacked(packed, m, 12), x)
    # Data exchanged within a pack exchange its groups of channels, and nothing between packs.
    order = torch.cat([torch.arange(m).flip(0), torch.arange(m, 12)])
    assert torch.equal(pack(x[order], m)[1:], packed[1:])
    assert torch.equal(unpacked(pack(x[order], m), m, 12), x[order])


@pytest.mark.parametrize("rows, m", [(1, 2), (1, 4), (5, 2), (7, 4)])
def test_a_last_pack_is_filled_with_the_first_rows(rows, m):
    x = SampleRng(0).randn(rows, 2)
    packed = pack(x, m)
    assert len(packed) == -(-rows // m) and torch.equal(unpacked(packed, m, rows), x)
    filled = packed.unflatten(1, (m, -1)).flatten(0, 1)
    assert all(torch.equal(row, x[i % rows]) for i, row in enumerate(filled))


def test_names_become_strengths():
    assert stabilisers(["packing", "label-smoothing"], "minimax", POINTS) == {"packing": 2, "label-smoothing": 0.9}
    assert stabilisers({"packing": 4.0, "instance-noise": 0.3}, "hinge", POINTS) == {"packing": 4, "instance-noise": 0.3}
    assert stabilisers([], "hinge", POINTS) == {}
    for name, row in STABILISERS.items():
        assert stabilisers([name], "non-saturating", IMAGES) == {name: row.strength}


@pytest.mark.parametrize(
    "given, objective, spec, sentence",
    [
        (["minibatch"], "hinge", POINTS, "no stabiliser 'minibatch'; did you mean minibatch-"),
        (["packs"], "hinge", POINTS, "did you mean packing"),
        ({"packing": 1}, "hinge", POINTS, "give a whole number from 2 to 16"),
        ({"packing": 2.5}, "hinge", POINTS, "give a whole number"),
        ({"noisy-labels": 0.6}, "minimax", POINTS, "share of wrong labels; give a number from 0 to 0.5"),
        ({"instance-noise": -1}, "hinge", POINTS, "give a number >= 0"),
        ({"instance-noise": math.nan}, "hinge", POINTS, "give a number >= 0"),
        (["augmentation"], "hinge", POINTS, "changes images"),
        (["adaptive-augmentation"], "wasserstein", IMAGES, "take augmentation"),
        (["augmentation", "adaptive-augmentation"], "hinge", IMAGES, "leave one of them out"),
        (["instance-noise", "diffusion"], "hinge", IMAGES, "both add noise"),
        (["diffusion"], "wasserstein", POINTS, "take instance-noise"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(given, objective, spec, sentence):
    with pytest.raises(UserError, match=sentence):
        stabilisers(given, objective, spec)
