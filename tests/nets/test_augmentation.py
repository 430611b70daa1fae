"""Augmentations: what each does to a pixel, its adjoint, how often; and the probability that finds itself."""

import pytest
import torch

from pushforward.errors import UserError
from pushforward.nets.augmentation import (
    AUGMENTATIONS,
    WINDOW,
    AdaptiveProbability,
    apply_augmentation,
    augment,
    colour,
    cutout,
    draw_augmentation,
    flip,
    translation,
    turn,
)
from pushforward.randomness import SampleRng

KINDS = tuple(AUGMENTATIONS)


def images(n: int = 16, shape=(3, 8, 8), dtype=torch.float64) -> torch.Tensor:
    return SampleRng(0).randn(n, *shape, dtype=dtype)


def uniform(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def test_colour_by_hand():
    x = images(1)
    grey, mean = x.mean(1, keepdim=True), x.mean()
    middle = (0.5, 0.5, 0.5)  # of all three: nothing happens
    torch.testing.assert_close(colour(x, uniform(*middle)), x)
    torch.testing.assert_close(colour(x, uniform(0.75, 0.5, 0.5)), x + 0.25)
    torch.testing.assert_close(colour(x, uniform(0.5, 0.0, 0.5)), grey.expand_as(x))
    torch.testing.assert_close(colour(x, uniform(0.5, 0.75, 0.5)), grey + 1.5 * (x - grey))
    torch.testing.assert_close(colour(x, uniform(0.5, 0.5, 0.0)), (x + mean) / 2)


@pytest.mark.parametrize("u, down", [(0.0, -1), (0.4, 0), (0.99, 1)])
def test_translation_moves_whole_pixels_and_leaves_zeros(u, down):
    x = images(1, (2, 8, 16))
    out = translation(x, uniform(u, 0.5))
    expected = x.roll(down, 2)
    if down:
        expected[:, :, 0 if down > 0 else -1] = 0
    assert torch.equal(out, expected)
    right = translation(x, uniform(0.5, 0.99))  # by two of sixteen
    assert torch.equal(right[..., 2:], x[..., :-2]) and (right[..., :2] == 0).all()


def test_translations_are_alike_and_stay_within_an_eighth():
    x = torch.zeros(9000, 1, 8, 8)
    x[:, :, 4, 4] = 1
    place = translation(x, SampleRng(1).rand(9000, 2)).mean(0)[0]
    # nine places alike; four standard errors of a share of 1/9 in 9000
    torch.testing.assert_close(place[3:6, 3:6], torch.full((3, 3), 1 / 9), atol=0.0133, rtol=0)
    assert place.sum().item() == pytest.approx(1, abs=1e-5)


def test_cutout_hides_a_rectangle_of_half_the_sides():
    x = torch.ones(1, 2, 8, 6)
    out = cutout(x, uniform(0.5, 0.5))  # centre at 4 of 0..8, and at 3 of 0..5
    hidden = out[0, 0] == 0
    assert torch.equal(out[0, 0], out[0, 1])
    assert hidden.any(1).nonzero().flatten().tolist() == [2, 3, 4, 5] and hidden.any(0).nonzero().flatten().tolist() == [
        2,
        3,
        4,
    ]
    assert hidden.sum() == 12
    corner = cutout(x, uniform(0.0, 0.0))[0, 0] == 0  # half of it is outside
    assert corner.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    share = (cutout(torch.ones(4000, 1, 8, 8), SampleRng(0).rand(4000, 2)) == 0).float().mean()
    # of each side: centres 0..8 hide 2, 3, 4, 4, 4, 4, 4, 3, 2 of 8, on average 30/72
    assert share.item() == pytest.approx((30 / 72) ** 2, abs=0.004)


def test_flips_and_turns():
    x = images(1)
    assert torch.equal(flip(x, uniform(0.2)), x) and torch.equal(flip(x, uniform(0.7)), x.flip(3))
    for k in range(4):
        assert torch.equal(turn(x, uniform(0.25 * k + 0.1)), x.rot90(k, (2, 3)))
    wide = images(1, (3, 4, 6))
    assert torch.equal(turn(wide, uniform(0.4)), wide) and torch.equal(turn(wide, uniform(0.6)), wide.flip(2, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 10), (2, 1, 1)])
def test_the_adjoint(kind, shape):
    # <A x, y> = <x, A* y>, with A* by autograd, A x = T(x) - T(0): T is linear up to a constant.
    x, y = images(12, shape), SampleRng(5).randn(12, *shape, dtype=torch.float64)
    drawn = draw_augmentation(12, 0.7, SampleRng(2), [kind])
    leaf = x.clone().requires_grad_()
    out = apply_augmentation(leaf, drawn)
    (back,) = torch.autograd.grad(out, leaf, y)
    linear = out - apply_augmentation(torch.zeros_like(x), drawn)
    torch.testing.assert_close((linear * y).sum((1, 2, 3)), (x * back).sum((1, 2, 3)))
    torch.testing.assert_close(apply_augmentation(3 * x, drawn) - 3 * linear, out - linear)


def test_the_adjoints_of_moves_undo_them():
    y = images(1)
    # the adjoint of a move is the move back; of a rectangle of zeros, itself
    for move, there, back in (
        (translation, uniform(0.99, 0.0), uniform(0.0, 0.99)),
        (flip, uniform(0.9), uniform(0.9)),
        (turn, uniform(0.3), uniform(0.8)),
        (cutout, uniform(0.3, 0.6), uniform(0.3, 0.6)),
    ):
        leaf = torch.zeros_like(y).requires_grad_()
        (slope,) = torch.autograd.grad(move(leaf, there), leaf, y)
        torch.testing.assert_close(slope, move(y, back))


def test_slopes_of_slopes_pass_through():
    # R1 on augmented data: d/dw of |grad_x w f(T(x))|^2
    x, w = images(4).requires_grad_(), torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((w * augment(x, 1.0, SampleRng(0), KINDS).square()).sum(), x, create_graph=True)
    slope.square().sum().backward()
    torch.testing.assert_close(w.grad, 2 * slope.square().sum().detach())


def test_nothing_happens_at_p_0():
    x = images()
    assert torch.equal(augment(x, 0.0, SampleRng(0), KINDS), x)
    assert torch.equal(augment(x, torch.zeros(()), SampleRng(0), KINDS), x)


@pytest.mark.parametrize("p", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_share_of_augmented_rows(kind, p):
    n = 3000
    changed = (augment(images(n), p, SampleRng(3), [kind]) != images(n)).flatten(1).any(1).float().mean().item()
    # of those chosen, half are not mirrored, a quarter not turned, a ninth not moved
    rate = p * {"flip": 1 / 2, "turn": 3 / 4, "translation": 8 / 9}.get(kind, 1.0)
    assert changed == pytest.approx(rate, abs=3 * (rate * (1 - rate) / n) ** 0.5 + 1e-12)


def test_kinds_are_chosen_independently():
    drawn = draw_augmentation(20_000, 0.3, SampleRng(0), ["flip", "cutout"])
    (one, _), (other, _) = drawn.kinds.values()
    both = (one & other).float().mean().item()
    assert both == pytest.approx(0.09, abs=3 * (0.09 * 0.91 / 20_000) ** 0.5)


def test_turns_can_be_undone_as_a_map_of_distributions():
    # The matrix of orientations, estimated, has eigenvalues 1 and 1 - p (three times).
    p, n = 0.4, 40_000
    x = torch.zeros(n, 1, 2, 2)
    x[:, 0, 0, 0] = 1  # which corner is lit says how an image was turned
    corners = augment(x, p, SampleRng(0), ["turn"]).mean(0)[0]
    rates = torch.stack([corners[0, 0], corners[1, 0], corners[1, 1], corners[0, 1]])  # counter-clockwise
    values = torch.linalg.eigvals(torch.stack([rates.roll(k) for k in range(4)])).abs().sort().values
    # four standard errors of a difference of shares
    torch.testing.assert_close(values, torch.tensor([1 - p, 1 - p, 1 - p, 1.0]), atol=0.015, rtol=0)


def test_one_draw_serves_several_images_and_is_a_function_of_the_rng():
    x = images()
    drawn = draw_augmentation(16, 0.5, SampleRng(4), KINDS)
    assert torch.equal(apply_augmentation(x, drawn), augment(x, 0.5, SampleRng(4), KINDS))
    assert not torch.equal(apply_augmentation(x, drawn), augment(x, 0.5, SampleRng(5), KINDS))
    # as much is drawn whatever p is
    rngs = SampleRng(4), SampleRng(4)
    for p, rng in zip((0.0, 1.0), rngs, strict=True):
        augment(x, p, rng, KINDS)
    assert torch.equal(rngs[0].rand(3), rngs[1].rand(3))


def test_rows_do_not_depend_on_each_other():
    x = images()
    assert torch.equal(augment(x[:1], 0.9, SampleRng(4), KINDS), augment(x, 0.9, SampleRng(4), KINDS)[:1])


def test_half_precision_stays_half():
    x = images(dtype=torch.float32)
    half = augment(x.bfloat16(), 1.0, SampleRng(0), KINDS)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), augment(x, 1.0, SampleRng(0), KINDS), atol=0.06, rtol=0.02)


def test_what_cannot_be_is_refused_with_a_sentence():
    with pytest.raises(UserError, match="did you mean translation"):
        draw_augmentation(2, 1.0, SampleRng(0), ["translate"])
    with pytest.raises(UserError, match="augmentations change images"):
        augment(torch.zeros(3, 2), 1.0, SampleRng(0))
    with pytest.raises(UserError, match="drawn for 4 images and given 3"):
        apply_augmentation(images(3), draw_augmentation(4, 1.0, SampleRng(0)))
    with pytest.raises(UserError, match="images a number above 0"):
        AdaptiveProbability(images=0)


def sure(share: float, n: int) -> torch.Tensor:
    """Logits of which this share are positive."""
    return torch.where(torch.arange(n) < round(share * n), 2.0, -3.0)


def test_the_probability_rises_and_falls_at_its_speed_in_images():
    adaptive = AdaptiveProbability(target=0.6, images=100 * WINDOW)
    for _ in range(10):
        adaptive.after_update(sure(0.9, WINDOW))  # r = 0.8
    assert adaptive.p.item() == pytest.approx(10 / 100)
    for _ in range(4):
        adaptive.after_update(sure(0.7, WINDOW))  # r = 0.4
    assert adaptive.p.item() == pytest.approx(6 / 100)
    for _ in range(10):
        adaptive.after_update(sure(0.7, WINDOW))
    assert adaptive.p.item() == 0
    for _ in range(100):
        adaptive.after_update(sure(1.0, WINDOW))
    assert adaptive.p.item() == pytest.approx(0.8)  # its largest


def test_r_is_of_many_data_however_small_a_batch():
    # Three of four data look real: r = 0.5 is below 0.6. Judged one at a time, p would rise three times of four.
    adaptive = AdaptiveProbability(images=10 * WINDOW)
    adaptive.p.fill_(0.5)
    for logit in sure(0.75, 4).repeat(WINDOW // 2):
        before = adaptive.p.clone()
        adaptive.after_update(logit[None])
        assert adaptive.p <= before
    assert adaptive.p.item() == pytest.approx(0.5 - 2 / 10)
    assert adaptive.seen == 0 and adaptive.signs == 0


def test_the_boundary_is_where_real_begins():
    adaptive = AdaptiveProbability(images=10 * WINDOW, boundary=0.5)
    adaptive.after_update(torch.full((WINDOW,), 0.4))  # positive, but nearer to a fake's target
    assert adaptive.p == 0
    adaptive.after_update(torch.full((WINDOW,), 0.6))
    assert adaptive.p.item() == pytest.approx(0.1)


def test_the_state_is_saved_and_resumed():
    one, other = AdaptiveProbability(images=10 * WINDOW), AdaptiveProbability(images=10 * WINDOW)
    one.after_update(sure(1.0, 100))
    other.load_state_dict(one.state_dict())
    for adaptive in (one, other):
        adaptive.after_update(sure(1.0, WINDOW - 100))
    assert one.p == other.p == pytest.approx(0.1) and not list(one.parameters())


def test_it_settles_where_the_critic_is_as_sure_as_aimed_at():
    # A critic that knows a datum with probability 1 - p / 2: r = 1 - p, which is 0.6 at p = 0.4.
    adaptive, rng = AdaptiveProbability(images=50 * WINDOW), SampleRng(0)
    for _ in range(200):
        known = rng.rand(WINDOW) < 1 - adaptive.p / 2
        adaptive.after_update(torch.where(known, 1.0, -1.0))
    assert adaptive.p.item() == pytest.approx(0.4, abs=0.1)  # steps of 0.02, r known to 0.05
