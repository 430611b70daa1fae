"""Diffusion of embeddings: rounding is Bayes' rule of Gaussians, sampling ends in words of the data, bad input in sentences."""

import pytest
import torch

import pushforward as pf
from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec, Vocabulary
from pushforward.errors import UserError
from pushforward.models.checking import check_model
from pushforward.models.diffusion.embedded import EmbeddedDiffusion
from pushforward.randomness import SampleRng, UpdateRng

WORDS = torch.tensor([[0, 1, 2], [3, 3, 0], [2, 0, 4]])


def spec(condition=None):
    return DataSpec("tokens", (3,), condition, vocabulary=Vocabulary("codes", 5))


def small(**settings):
    torch.manual_seed(0)
    return EmbeddedDiffusion(spec(settings.pop("condition", None)), numbers=8, width=32, depth=1, heads=2, **settings)


def test_rounding_is_the_posterior_of_unit_gaussians_around_the_rows():
    model = small()
    table, x = model.table, torch.randn(2, 3, 8)
    torch.testing.assert_close(table.square().sum(1), torch.full((5,), 8.0))
    apart = (x[:, :, None] - table).square().sum(-1)
    torch.testing.assert_close(model.rounding(x).log_softmax(-1), (-apart / 2).log_softmax(-1))


def test_the_first_guess_is_linear():
    """Of embeddings of variance 1 it misses sigma^2 / (alpha^2 + sigma^2): on average over t, by symmetry, a half."""
    model = small(path="linear")
    x_t, t = torch.randn(4, 3, 8), torch.tensor([0.1, 0.4, 0.6, 0.9])
    expected = ((1 - t) / ((1 - t) ** 2 + t**2))[:, None, None] * x_t
    torch.testing.assert_close(model.predict(x_t, t), expected)
    loss = model.loss(Batch(WORDS.repeat(400, 1)), SampleRng(0))
    torch.testing.assert_close(loss.terms["error"], torch.tensor(0.5), atol=0.03, rtol=0)
    assert 0 < loss.terms["rounding"] < torch.tensor(5.0).log()
    torch.testing.assert_close(loss.total, loss.terms["error"] + loss.terms["rounding"])


@pytest.fixture(scope="module")
def learned():
    model = small(condition=Condition("class", 3), condition_dropout=0.3)
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=1e-2), UpdateRng(torch.Generator().manual_seed(0))
    classes = torch.arange(3).repeat(40)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(Batch(WORDS[classes], classes), rng).total.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"clamping": True}, {"solver": "ddim", "steps": 20}, {"guidance": 2.0}])
def test_samples_are_words_of_their_class(learned, options):
    classes = torch.arange(3).repeat(40)
    made = learned.sample(120, condition=classes, generator=0, **options)
    assert (made == WORDS[classes]).all(1).float().mean() > 0.97


def test_samples_without_a_condition_are_all_words(learned):
    made = learned.sample(150, generator=1, guidance=0.0)
    which = (made[:, None] == WORDS).all(2)
    assert which.any(1).float().mean() > 0.75  # less than a third of the training was without
    assert (which.float().mean(0) > 0.2).all()


def test_the_table_does_not_collapse(learned):
    cosines = torch.nn.functional.normalize(learned.table, dim=1) @ torch.nn.functional.normalize(learned.table, dim=1).T
    assert (cosines - torch.eye(5)).max() < 0.8


def test_the_contract(tmp_path):
    (tmp_path / "hamlet.txt").write_text("to be or not to be, that is the question: " * 30)
    data = pf.load_data(str(tmp_path / "hamlet.txt"), context=12)
    check_model(EmbeddedDiffusion(data.spec, numbers=8, width=16, depth=1, heads=2), data)


def test_what_cannot_be():
    with pytest.raises(UserError, match="holds image; take flow-matching"):
        EmbeddedDiffusion(DataSpec("image", (1, 8, 8), levels=17))
    with pytest.raises(UserError, match="at least 1"):
        EmbeddedDiffusion(spec(), numbers=0)
    with pytest.raises(UserError, match="not including"):
        EmbeddedDiffusion(spec(), condition_dropout=1.0)
    with pytest.raises(UserError, match="there is no path"):
        EmbeddedDiffusion(spec(), path="crooked")
    with pytest.raises(UserError, match="trained without a condition"):
        small().sample(2, guidance=2.0)
    with pytest.raises(UserError, match="step"):
        small().sample(2, steps=0)
