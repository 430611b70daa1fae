"""Guided samples: each option of `sample` is its formula, the classifier of noisy data learns, and mistakes are said."""

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.loading import load_data
from pushforward.data.spec import Condition, DataSpec
from pushforward.dynamics.denoiser import bounded
from pushforward.dynamics.guidance import autoguided, guided_by, within
from pushforward.dynamics.paths import PATHS
from pushforward.dynamics.solvers import generate, time_grid
from pushforward.errors import UserError
from pushforward.models.checking import check_model
from pushforward.models.diffusion.classifier import NoisyClassifier
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.randomness import SampleRng, UpdateRng
from pushforward.training.train import train

NAMES = ("left", "right", "top")
CLASSES = DataSpec("point", (2,), condition=Condition("class", 3, names=NAMES, frequencies=(0.5, 0.2, 0.3)), name="three")
PLAIN = DataSpec("point", (2,), name="three")
MEANS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])
ASKED = torch.tensor([0, 1, 2, 1])


def randomised(model, seed=0):
    """Networks start at 0; give them something to say."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def diffusion(spec=CLASSES, seed=0, **settings):
    return randomised(Diffusion(spec, **{"width": 16, "depth": 1, **settings}), seed)


def classifier(spec=CLASSES, **settings):
    return randomised(NoisyClassifier(spec, **{"width": 16, "depth": 1, **settings}))


def drawn(model, denoiser, steps=3):
    noise = model.draw_codes(4, generator=SampleRng(2))
    with torch.no_grad():
        return generate(denoiser, noise, time_grid(model.span, steps, like=noise), "heun")


def sampled(model, **options):
    return model.sample(4, condition=ASKED if model.spec.condition else None, generator=SampleRng(2), steps=3, **options)


def test_each_option_is_its_formula():
    model, worse, judge = diffusion(), diffusion(seed=1), classifier()
    plain = model.denoiser(ASKED)
    away = torch.full((4,), 2)
    for options, denoiser in [
        ({"guidance": 3.0}, model.denoiser(ASKED, 3.0)),
        ({"guidance": 3.0, "guidance_rescale": 0.7}, model.denoiser(ASKED, 3.0, rescale=0.7)),
        ({"guidance": 3.0, "guidance_interval": (0.4, 0.9)}, within((0.4, 0.9), model.denoiser(ASKED, 3.0), plain)),
        ({"guidance": 3.0, "negative": "top"}, model.denoiser(ASKED, 3.0, negative=away)),
        ({"guidance": 3.0, "worse": worse}, autoguided(plain, worse.denoiser(ASKED), 3.0)),
        ({"guidance": 3.0, "classifier": judge}, guided_by(plain, judge, ASKED, 3.0)),
        ({"classifier": judge, "guidance_rescale": 0.5}, guided_by(plain, judge, ASKED, 1.0, rescale=0.5)),
    ]:
        made = sampled(model, **options)
        torch.testing.assert_close(made, drawn(model, denoiser))
        assert (made - sampled(model)).abs().max() > 1e-3, options
        frames = model.trajectory(4, frames=4, condition=ASKED, generator=SampleRng(2), steps=3, **options)
        assert torch.equal(frames[-1], made)
    torch.testing.assert_close(sampled(model, guidance=3.0, worse=model), sampled(model))
    assert torch.equal(sampled(model, guidance=3.0, negative=2), sampled(model, guidance=3.0, negative="top"))


def test_an_interval_that_no_step_meets_leaves_the_plain_samples():
    model = diffusion()
    assert torch.equal(sampled(model, guidance=5.0, guidance_interval=(0.05, 0.06)), sampled(model))


def test_without_condition_dropout_another_condition_or_model_can_be_gone_away_from():
    model = diffusion(condition_dropout=0.0)
    for option in ({"negative": 0}, {"worse": diffusion(seed=1, condition_dropout=0.0)}, {"classifier": classifier()}):
        assert (sampled(model, guidance=2.0, **option) - sampled(model)).abs().max() > 1e-3
    with pytest.raises(UserError, match="condition_dropout=0"):
        sampled(model, guidance=2.0)


def test_a_classifier_guides_what_knows_no_classes():
    model, judge = diffusion(PLAIN), classifier()
    made = model.sample(4, condition=ASKED, generator=SampleRng(2), steps=3, classifier=judge)
    torch.testing.assert_close(made, drawn(model, guided_by(model.denoiser(), judge, ASKED, 1.0)))
    # without a condition they are drawn as frequent as in the classifier's data, and row by row
    many = model.sample(6, generator=SampleRng(9), steps=2, classifier=judge)
    few = model.sample(2, generator=SampleRng(9, first=3), steps=2, classifier=judge)
    torch.testing.assert_close(few, many[3:5], rtol=1e-4, atol=1e-5)


def test_images_stay_among_images_when_guided():
    spec = DataSpec("image", (1, 4, 4), condition=Condition("class", 3), levels=256, name="tiny")
    model = diffusion(spec, path="ddpm", target="noise")
    assert model.blind
    made = sampled(model, guidance=3.0, guidance_rescale=0.7)
    torch.testing.assert_close(made, drawn(model, bounded(model.denoiser(ASKED, 3.0, rescale=0.7), -1.0, 1.0)))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"guidance": 2.0, "negative": 1, "worse": diffusion()}, "negative and worse were given"),
        ({"guidance": 2.0, "worse": diffusion(), "classifier": classifier()}, "worse and classifier were given"),
        ({"negative": 1}, "so negative would do nothing"),
        ({"guidance_interval": (0.1, 0.8), "guidance_rescale": 0.5}, "so guidance_interval and guidance_rescale would do"),
        ({"guidance": 2.0, "guidance_interval": (0.8, 0.1)}, "from t = 0.8 to t = 0.1"),
        ({"guidance": 2.0, "guidance_rescale": 2.0}, "rescaled by 2.0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": 2.0, "negative": 3}, "class 3 was asked for"),
        ({"guidance": 2.0, "negative": "below"}, "there is no class 'below'"),
        ({"guidance": 2.0, "worse": "runs/nowhere"}, "worse = 'runs/nowhere' was given, and that is no run"),
        ({"classifier": nn.Linear(2, 3)}, "classifier is a Linear; give a noisy-classifier"),
        ({"guidance": 2.0, "worse": classifier()}, "worse is a NoisyClassifier; give a model of diffusion"),
        ({"guidance": 2.0, "worse": diffusion(PLAIN)}, "worse knows no condition, and this model 3 classes"),
        ({"classifier": classifier(DataSpec("point", (2,), condition=Condition("class", 4)))}, "classifier knows 4 classes"),
        ({"classifier": classifier(DataSpec("point", (3,), condition=Condition("class", 3)))}, r"point data of shape \(3,\)"),
    ],
)
def test_what_cannot_guide_is_said(options, said):
    with pytest.raises(UserError, match=said):
        sampled(diffusion(), **options)


def test_a_negative_condition_needs_conditions():
    with pytest.raises(UserError, match="trained without one"):
        sampled(diffusion(PLAIN), guidance=2.0, negative=1)
    with pytest.raises(UserError, match="trained without a condition"):
        sampled(diffusion(PLAIN), guidance=2.0)


class Exact(nn.Module):
    """The classifier's network for Gaussians of variance 0.1 around MEANS: what it is to add to log p(c), by its formula."""

    def __init__(self, rates):
        super().__init__()
        self.rates = torch.tensor(rates)

    def forward(self, x, t):
        alpha, sigma = 1 - t[:, None], t[:, None]
        norm = (alpha**2 + sigma**2).sqrt()
        x_t = x * norm
        square = ((x_t[:, None] - alpha[..., None] * MEANS) ** 2).sum(2) - (x_t**2).sum(1, keepdim=True)
        return -square / (2 * (0.1 * alpha**2 + sigma**2)) / (alpha / norm)


def gaussians(rows, generator):
    c = torch.multinomial(torch.tensor([0.5, 0.2, 0.3]), rows, replacement=True, generator=generator)
    return Batch(MEANS[c] + 0.1**0.5 * torch.randn(rows, 2, generator=generator), c)


def posterior(x_t, t):
    """Of the classes, by Bayes."""
    alpha, sigma = 1 - t[:, None], t[:, None]
    variance = 0.1 * alpha**2 + sigma**2
    square = ((x_t[:, None] - alpha[..., None] * MEANS) ** 2).sum(2)
    return (torch.tensor([0.5, 0.2, 0.3]).log() - square / (2 * variance)).log_softmax(1)


def test_the_logits_can_be_exact_and_say_nothing_of_noise_alone():
    model = NoisyClassifier(CLASSES, net=Exact((0.5, 0.2, 0.3)))
    x, t = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 0.99, 64)
    torch.testing.assert_close(model.logits(x, t).log_softmax(1), posterior(x, t), rtol=1e-3, atol=1e-4)
    c = torch.arange(64) % 3
    torch.testing.assert_close(model.log_posterior(c, x, t), posterior(x, t)[torch.arange(64), c], rtol=1e-3, atol=1e-4)
    other = classifier()
    at_noise = other.logits(x, torch.ones(64))
    torch.testing.assert_close(at_noise, other.base.expand(64, 3))  # whatever the network says
    assert (other.logits(x, torch.full((64,), 0.5)) - other.base).abs().max() > 0.1
    learned = NoisyClassifier(CLASSES).base.softmax(0)
    torch.testing.assert_close(learned, torch.tensor([0.5, 0.2, 0.3]))  # those of the data at first


def test_it_learns_the_posterior():
    torch.manual_seed(0)
    model, stream = NoisyClassifier(CLASSES, width=32, depth=1, dropout=0.0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(gaussians(128, stream), UpdateRng(stream)).total.backward()
        optimizer.step()
    batch, t = gaussians(2000, stream), torch.rand(2000, generator=stream)
    x_t = (1 - t)[:, None] * batch.x + t[:, None] * torch.randn(2000, 2, generator=stream)
    with torch.no_grad():
        error = model.logits(x_t, t).softmax(1) - posterior(x_t, t).exp()
        loss = model.loss(batch, UpdateRng(stream))
    # seeds 0 to 3: a mean error of 0.021 to 0.028; without learning it is 0.235
    assert error.abs().mean() < 0.045
    told = (posterior(x_t, t).argmax(1) == batch.condition).float().mean()
    assert abs(loss.terms["accuracy"] - told) < 0.05  # two draws of 2,000: an error of 0.014
    assert model.classify(MEANS).tolist() == [0, 1, 2]


def test_a_learned_classifier_leads_exact_samples_to_their_class():
    """The denoiser is exact, the classifier's network, too; more guidance, more of the class."""
    model = Diffusion(PLAIN, net=Velocity())
    judge, c = NoisyClassifier(CLASSES, net=Exact((0.5, 0.2, 0.3))), torch.full((1000,), 1)
    right = []
    for guidance in (0.0, 1.0, 3.0):
        x = model.sample(1000, condition=c, generator=0, steps=16, classifier=judge, guidance=guidance)
        right.append((posterior(x, torch.zeros(1000)).argmax(1) == 1).float().mean())
        if guidance == 1.0:  # N((1, 0), 0.1), with errors of 0.01 in mean and 0.007 in deviation, and those of 16 steps
            assert (x.mean(0) - MEANS[1]).abs().max() < 0.06 and (x.std(0) - 0.1**0.5).abs().max() < 0.05
    assert abs(right[0] - 0.2) < 0.05 and right[1] > 0.97 and right[2] >= right[1]


class Velocity(nn.Module):
    """That of the three Gaussians together, on straight paths."""

    def forward(self, x, t, embedding=None):
        alpha, sigma = (1 - t)[:, None, None], t[:, None, None]
        residual = (x[:, None] - alpha * MEANS) / (0.1 * alpha**2 + sigma**2)
        each = sigma * residual - (MEANS + 0.1 * alpha * residual)
        return (posterior(x, t).exp()[..., None] * each).sum(1)


def test_images_attributes_and_any_path():
    data = load_data("digits")
    for settings in ({}, {"network": "unet", "width": 8}, {"path": "edm"}):
        assert check_model(NoisyClassifier(data.spec, **settings), data).ok
    spec = DataSpec("image", (3, 9, 12), condition=Condition("attributes", 2, frequencies=(0.5, 0.9)), name="odd")
    judge = classifier(spec, width=8)
    x, t, c = torch.randn(5, 3, 9, 12), torch.rand(5), torch.tensor([[0.0, 1.0]]).expand(5, 2)
    logits = judge.logits(x, t)
    expected = (-logits[:, 0]).sigmoid().log() + logits[:, 1].sigmoid().log()
    torch.testing.assert_close(judge.log_posterior(c, x, t), expected)
    assert judge.classify(x).shape == (5, 2) and set(judge.classify(x).unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(NoisyClassifier(spec).base.sigmoid(), torch.tensor([0.5, 0.9]))
    made = diffusion(spec, width=8).sample(2, condition=c[:2], steps=2, classifier=judge)
    assert made.shape == (2, 3, 9, 12) and made.isfinite().all()


def test_paths_of_large_noise_are_seen_at_a_variance_of_one():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, t):
            seen.append(x)
            return torch.zeros(len(x), 3)

    model = NoisyClassifier(CLASSES, path="edm", net=Spy())
    _, sigma, _, _ = PATHS["edm"](torch.ones(100))
    model.logits(sigma[:, None] * torch.randn(100, 2), torch.ones(100))
    assert abs(seen[0].std() - 1) < 0.25


@pytest.mark.parametrize(
    "spec, said", [(PLAIN, "come without"), (DataSpec("point", (2,), condition=Condition("vector", 3)), "of kind vector")]
)
def test_a_classifier_needs_classes(spec, said):
    with pytest.raises(UserError, match=said):
        NoisyClassifier(spec)


def test_a_classifier_of_other_classes_says_so():
    with pytest.raises(UserError, match="numbered 0 to 2"):
        classifier().log_posterior(torch.tensor([3]), torch.zeros(1, 2), torch.ones(1))
    with pytest.raises(UserError, match="for each of the 2 rows"):
        classifier().log_posterior(torch.tensor([1]), torch.zeros(2, 2), torch.ones(2))


def test_one_command_trains_it(tmp_path):
    run = train(NoisyClassifier(load_data("digits").spec, width=64, depth=1), "digits", steps=100, out=str(tmp_path / "run"))
    data = run.load_data()
    x, c = data.train.fetch(torch.arange(200))
    with torch.no_grad():
        told = run.model.classify(data.units.to_model(x)) == c
    assert told.float().mean() > 0.9  # 0.1 by chance
