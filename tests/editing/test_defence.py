"""A classifier attacked and defended where the manifold is known: a plane in 40 dimensions, and a circle."""

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.editing.defence import fgsm, project
from pushforward.editing.inversion import solve
from pushforward.randomness import as_rng


class Plane(nn.Module):
    """Data on a plane in 40 dimensions, x = A z with orthonormal columns: the projection is A A'."""

    def __init__(self):
        super().__init__()
        draws = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        self.a = torch.linalg.qr(draws).Q

    def decode(self, z, *, condition=None):
        return 3 * z @ self.a.T

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 2)


def linear_classifier(model):
    """Logits +-w x / 2, where w reads the first code and, as strongly in each number, what is no datum."""
    off = torch.ones(40) - model.a @ (model.a.T @ torch.ones(40))
    w = model.a[:, 0] + 0.5 * off
    return w, lambda x: torch.stack([-(x @ w) / 2, x @ w / 2], 1)


def test_the_step_is_the_sign_of_the_slope():
    """Of logits -+ w x / 2 the cross entropy is softplus(-(2 y - 1) w x): x moves by -epsilon (2 y - 1) sign(w), and the margin
    falls by epsilon |w|_1, as much as any step within epsilon can do."""
    w, classifier = linear_classifier(Plane())
    x = torch.randn(30, 40, generator=torch.Generator().manual_seed(1))
    y = (torch.arange(30) % 2).long()
    moved = fgsm(classifier, x, y, 0.25, bounds=None)
    side = (2 * y - 1).float()
    torch.testing.assert_close(moved, x - 0.25 * side[:, None] * w.sign())
    torch.testing.assert_close((moved - x) @ w * side, -0.25 * w.abs().sum().expand(30), rtol=1e-4, atol=1e-4)
    held = fgsm(classifier, x, y, 0.25, bounds=(-0.5, 0.5))
    torch.testing.assert_close(held, moved.clamp(-0.5, 0.5))
    assert fgsm(classifier, x.clamp(-1, 1), y, 5.0).abs().max() == 1  # the model's units of images
    with pytest.raises(pf.UserError, match="epsilon"):
        fgsm(classifier, x, y, -0.1)


def test_a_projection_onto_a_plane():
    model = Plane()
    x = 12 * torch.randn(20, 40, generator=torch.Generator().manual_seed(2))
    assert (x @ model.a / 3).abs().max() > 5  # however far the codes lie, no prior holds them back
    found = project(model, x, steps=300, starts=2)
    torch.testing.assert_close(found.x, x @ model.a @ model.a.T, atol=2e-2, rtol=0)
    outside = x - x @ model.a @ model.a.T
    torch.testing.assert_close(found.error, outside.square().mean(1), atol=1e-4, rtol=1e-3)
    held = project(model, x, steps=300, starts=2, prior=1.0).codes
    assert (held.norm(dim=1) < 0.8 * found.codes.norm(dim=1)).any()


def test_accuracy_comes_back_by_projection():
    """Data of the manifold are told apart by their first code. Measured: 1 clean, 0.1 attacked, 0.99 defended."""
    model = Plane()
    _, classifier = linear_classifier(model)
    z = model.draw_codes(100, generator=4)
    z = z[z[:, 0].abs() > 0.3]
    x, y = model.decode(z), (z[:, 0] > 0).long()

    def accuracy(x):
        return (classifier(x).argmax(1) == y).float().mean()

    attacked = fgsm(classifier, x, y, 0.2, bounds=None)
    assert accuracy(x) == 1 and accuracy(attacked) < 0.3
    defended = project(model, attacked, steps=150, starts=2).x
    assert accuracy(defended) > 0.9
    assert (defended - x).norm(dim=1).mean() < 0.5 * (attacked - x).norm(dim=1).mean()


class Circle(nn.Module):
    """x = (cos 3 z, sin 3 z): most starts on the other side stay there."""

    def decode(self, z, *, condition=None):
        return torch.cat([(3 * z).cos(), (3 * z).sin()], 1)

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 1)


def test_restarts_find_the_nearest_point_of_a_curve():
    """The nearest point of the circle is x / |x|. With a step or two a single start has not come round."""
    model = Circle()
    x = 1.3 * model.decode(torch.linspace(-1, 1, 30)[:, None])
    nearest = x / x.norm(dim=1, keepdim=True)
    ten = project(model, x, steps=100, starts=10).x
    torch.testing.assert_close(ten, nearest, atol=1e-2, rtol=0)
    off = [(project(model, x, steps=5, starts=starts).x - nearest).norm(dim=1).mean() for starts in (1, 10)]
    assert off[1] < 0.3 * off[0]
    restarts = solve(model, x, steps=5, starts=10, candidates=10, prior=0.0)  # each of them by chance, and each descends
    assert torch.equal(project(model, x, steps=5, starts=10).codes, restarts.codes)
