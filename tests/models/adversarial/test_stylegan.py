"""StyleGAN as a model: noise, styles and their spaces, truncation and mixing, and the path length as a player."""

import pytest
import torch

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.style import PATHS_EVERY, StyleGAN
from pushforward.models.contract import Moment, Spaces, capabilities
from pushforward.nets.style import DRAWN
from pushforward.randomness import SampleRng, UpdateRng, seeded

CLASSES = Condition("class", 3, frequencies=(0.5, 0.5, 0.0))


def build(condition=CLASSES, shape=(1, 9, 8), **settings) -> StyleGAN:
    with seeded(0):
        model = StyleGAN(
            DataSpec("image", shape, condition=condition),
            **{"latent_dim": 6, "width": 4, "network": "style", "stabilisers": ["style-mixing", "path-length"], **settings},
        )
        for name, parameter in model.generator.named_parameters():  # as trained: noise and conditions matter
            if "strength" in name or "noise" in name:
                parameter.data.fill_(0.3)
    return model


def data(model: StyleGAN, n: int = 8) -> Batch:
    x = SampleRng(2).rand(n, *model.spec.shape) * 2 - 1
    return Batch(x, torch.arange(n) % 2 if model.spec.condition else None)


def rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def test_samples_are_rows_with_noise_of_their_own():
    model = build()
    assert capabilities(model) == ["samples", "decodes"] and isinstance(model, Spaces)
    many = model.sample(6, generator=SampleRng(5))
    # Equal but for the order of float32 sums, which may depend on the batch size: 1e-5 of values near 1.
    torch.testing.assert_close(model.sample(2, generator=SampleRng(5, first=3)), many[3:5], atol=1e-5, rtol=1e-5)
    still = model.sample(6, generator=SampleRng(5), truncation=0.0, condition=torch.zeros(6, dtype=torch.long))
    assert (still[0] - still[1]).abs().max() > 1e-3  # of one style: what is left is noise
    with torch.no_grad():
        for name, parameter in model.generator.named_parameters():
            if "strength" in name or "noise" in name:
                parameter.fill_(0.0)
    still = model.sample(6, generator=SampleRng(5), truncation=0.0)
    torch.testing.assert_close(still, still[:1].expand(6, -1, -1, -1), atol=1e-5, rtol=1e-5)


def test_truncation_gives_up_diversity():
    model = build(condition=None, stabilisers=None)
    with torch.no_grad():
        model._after_generator({}, Moment(0, 0.0, rng()))
    spread = [model.sample(200, generator=1, truncation=psi).var(0).mean().item() for psi in (0.0, 0.3, 0.7, 1.0)]
    assert spread == sorted(spread) and spread[0] < 0.7 * spread[-1]


def test_the_spaces_decode_to_the_same_image():
    model = build()
    z, c = model.draw_codes(4, generator=3), torch.tensor([0, 1, 1, 2])
    expected = model.decode(z, condition=c)
    w = model.styles(z, condition=c)
    spaces = model.spaces()
    torch.testing.assert_close(spaces["w"].decode(w, condition=None), expected)
    torch.testing.assert_close(spaces["w+"].decode(model.generator.spread(w), condition=None), expected)
    assert spaces["w"].draw(5, generator=0).shape == w[:1].expand(5, -1).shape
    assert spaces["w+"].draw(5, generator=0).shape == (5, model.generator.layers, w.shape[1])
    torch.testing.assert_close(spaces["w"].draw(4, condition=c, generator=3), w)


def test_mixed_styles_are_coarse_of_the_one_and_fine_of_the_other():
    model = build(condition=None)
    a, b = model.draw_codes(3, generator=1), model.draw_codes(3, generator=2)
    torch.testing.assert_close(model.mix(a, b, model.generator.layers), model.decode(a))
    torch.testing.assert_close(model.mix(a, b, 0), model.decode(b))
    one = model.mix(a, b, 2)
    assert (one - model.decode(a)).abs().max() > 1e-3 and (one - model.decode(b)).abs().max() > 1e-3


def test_in_training_alone_styles_are_mixed_and_a_share_of_them():
    model = build(condition=None, stabilisers={"style-mixing": 1.0})
    z = model.draw_codes(8, generator=1)
    model.train()
    with torch.no_grad():
        mixed = model._generate(z, None, rng(4))
        model.eval()
        plain = model._generate(z, None, rng(4))
    assert (mixed - plain).flatten(1).abs().amax(1).min() > 1e-4  # every row has two styles


def test_the_path_length_is_a_player_of_the_generator():
    model = build()
    _, generator, paths = model.players()
    assert (paths.name, paths.every) == ("generator path-length", PATHS_EVERY)
    assert set(paths.parameters()) == set(generator.parameters())
    loss = paths.loss(data(model), rng())
    lengths = loss.keep["lengths"]
    assert lengths.shape == (4,) and not lengths.requires_grad
    weight = 2.0 * PATHS_EVERY
    torch.testing.assert_close(loss.total, weight * lengths.square().mean())  # the running mean begins at 0
    paths.after_update({"lengths": lengths}, Moment(0, 0.0, rng()))
    torch.testing.assert_close(model.generator.mean_length, 0.01 * lengths.mean())
    again = paths.loss(data(model), rng()).total
    torch.testing.assert_close(again, weight * (lengths - model.generator.mean_length).square().mean())
    assert [player.name for player in build(stabilisers=None).players()] == ["critic", "generator"]


def test_the_mean_styles_are_those_of_the_classes():
    model = build()
    player = model.players()[1]
    with torch.no_grad():
        for step in range(200):
            player.after_update({}, Moment(step, 0.0, rng(step)))
        for label in (0, 1):
            w = model.draw_styles(10_000, condition=torch.full((10_000,), label), generator=1)
            # 200 updates of 128 styles of each class, and 10,000 here: five standard errors of both
            tolerance = 5 * w.std(0) * (1 / 10_000 + 1 / (200 * DRAWN / 2)) ** 0.5
            assert ((model.generator.mean_w[label] - w.mean(0)).abs() < tolerance).all()
    assert (model.generator.mean_w[0] - model.generator.mean_w[1]).abs().max() > 5 * tolerance.max()
    assert not model.generator.mean_w[2].any()  # a class that never comes
    still = model.sample(4, condition=torch.tensor([0, 0, 1, 1]), truncation=0.0, generator=1)
    plain = model.decode_styles(model.generator.mean_w[:2])
    near = (still[:, None] - plain).flatten(2).norm(dim=2).argmin(1)
    assert near.tolist() == [0, 0, 1, 1]


def test_what_is_no_style_network_is_refused():
    with pytest.raises(UserError, match="take the model 'gan'"):
        build(network="dcgan")
    with pytest.raises(UserError, match="it has style_dim, mapping_depth, modulation"):
        build(network_options={"depth": 3})
    with pytest.raises(UserError, match="scales its layers by itself"):
        build(regulariser="spectral")
