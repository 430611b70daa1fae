"""What a generator leaves of a datum (AnoGAN): of a linear one it is known, and a trained one leaves more of no digits."""

from pathlib import Path

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.data.batches import take
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.editing.outliers import auroc, critic_features, nearest_classes, outlier_scores, residuals, rule, weakness
from pushforward.randomness import as_rng
from pushforward.training.runs import Run

A = torch.tensor([[1.0, 0.2], [-0.5, 1.5], [0.3, 0.4], [0.8, -1.0], [0.0, 0.6]])
F = torch.tensor([[2.0, 0.0, -1.0, 0.5, 0.0], [0.0, 3.0, 0.0, 0.0, 1.0]])


class Affine(nn.Module):
    """x = A z, and with class 1 the other way round."""

    def decode(self, z, *, condition=None):
        x = z @ A.T
        return x if condition is None else torch.where(condition[:, None] == 1, x.flip(1), x)

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 2)


def run_of(model, condition=None):
    columns = tuple(Column(name, "number") for name in "abcde")
    spec = DataSpec("point", (5,), columns=columns, condition=condition, name="toy")
    return Run(model.eval(), spec, Path("nowhere"), {"model": {"name": "toy"}, "result": {}})


def apart(n=6, seed=0):
    """Codes, and what is orthogonal to everything that A makes."""
    generator = torch.Generator().manual_seed(seed)
    z, noise = 0.5 * torch.randn(n, 2, generator=generator), torch.randn(n, 5, generator=generator)
    return z, noise - noise @ A @ torch.linalg.inv(A.T @ A) @ A.T


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.7, 1.0])
def test_a_linear_generator_leaves_what_it_cannot_make(weight):
    """Least squares finds the code, and A(x) = (1 - lambda) |r|_1 + lambda |F r|_1; descent is off by 0.01 or so."""
    z, left = apart()
    found = residuals(run_of(Affine()), z @ A.T + left, steps=300, features=lambda x, c: x @ F.T, weight=weight)
    expected = (1 - weight) * left.abs().sum(1) + weight * (left @ F.T).abs().sum(1)
    torch.testing.assert_close(found.score, expected, atol=0.05, rtol=0)
    torch.testing.assert_close(found.error, left.square().mean(1), atol=1e-2, rtol=0)
    assert "300 steps" in found.line()


def test_features_weigh_a_tenth_and_without_a_critic_nothing():
    z, left = apart()
    run, x = run_of(Affine()), z @ A.T + left
    assert critic_features(run.model) is None and rule(run) == "residual" and "no critic" in weakness(run, "residual")
    plain = outlier_scores(run, x, inversion_steps=300)
    torch.testing.assert_close(plain, left.abs().sum(1), atol=0.05, rtol=0)
    usual = residuals(run, x, steps=300, features=lambda x, c: x @ F.T).score
    torch.testing.assert_close(usual, 0.9 * plain + 0.1 * (left @ F.T).abs().sum(1), atol=0.05, rtol=0)
    with pytest.raises(pf.UserError, match="from 0 to 1"):
        residuals(run, x, weight=1.5)


def test_data_without_classes_are_given_the_nearest():
    """Halves of the data are of either class, of which nobody tells: they come back as well as if it were known."""
    run = run_of(Affine(), Condition("class", 2))
    z = 1.5 * torch.randn(40, 2, generator=torch.Generator().manual_seed(3))
    label = torch.arange(40) % 2
    x = run.model.decode(z, condition=label)
    assert (nearest_classes(run, x) == label).float().mean() > 0.9  # 64 codes are near, not at, each datum
    assert residuals(run, x, steps=200).score.median() < 0.05
    features = []
    residuals(run, x, condition=label, steps=5, features=lambda x, c: features.append(c) or x)
    assert all(torch.equal(told, label) for told in features) and len(features) == 2
    wrong = residuals(run, x, condition=1 - label, steps=200).score
    assert wrong.median() > 0.5


class Silent(nn.Module):
    def decode(self, z):
        return z


def test_who_says_nothing_and_who_is_asked_for_another_way():
    silent = run_of(Silent())
    with pytest.raises(pf.UserError, match="neither a density nor codes"):
        outlier_scores(silent, torch.zeros(2, 5))
    with pytest.raises(pf.UserError, match="cannot score by likelihood; try by=residual"):
        rule(run_of(Affine()), "likelihood")


SMALL = {"width": 8, "latent_dim": 8, "network": "mlp"}


def digits(label="auto"):
    return pf.load_data("digits") if label == "auto" else pf.load_data("digits", label=label)


def test_features_are_those_that_the_critic_looks_at():
    data = digits()
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, two = torch.full((6,), 1), torch.full((6,), 2)
    model = pf.create("gan", data.spec, **SMALL).train()
    features = critic_features(model)
    assert features is not None and not torch.equal(features(x, one), features(x, two))
    assert model.critic.training
    model.eval()
    assert torch.equal(features(x, one), model.critic(x, one).features)
    diffused = pf.create("diffusion-gan", data.spec, **SMALL).eval()
    told = critic_features(diffused)(x, one)
    assert torch.equal(told, diffused.critic(x, one, torch.zeros(6)).features)
    assert critic_features(pf.create("pacgan", data.spec, **SMALL)) is None  # which judges packs
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))
    assert critic_features(pf.create("gan", digits("none").spec, **SMALL, critic_network=own)) is None


def test_a_trained_gan_leaves_more_of_what_is_no_digit(tmp_path):
    """Held-out digits against the same pixels in another order, and upside down in black and white."""
    data = digits("none")
    model = pf.create("gan", data.spec, network="mlp", width=32, latent_dim=16)
    quick = {"tensorboard": False, "picture_every": 0, "precision": "fp32"}
    run = pf.train(model, data, steps=150, batch_size=64, out=str(tmp_path / "run"), **quick)
    assert rule(run) == "residual" and weakness(run, "residual") == ""
    x = take(data.held_out, 60)[0]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    ordinary = outlier_scores(run, x, inversion_steps=60)
    for strange in (x.flatten(1)[:, order].view_as(x), 16 - x):
        assert auroc(ordinary, outlier_scores(run, strange, inversion_steps=60)) > 0.98
