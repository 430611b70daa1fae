"""The GAN as a model: the contract, who moves on whose turn, conditions, and that it learns."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.gan import GAN, draw_condition
from pushforward.models.adversarial.objectives import OBJECTIVES
from pushforward.models.adversarial.penalties import PENALTIES
from pushforward.models.contract import Moment, capabilities
from pushforward.nets.dcgan import DCGANGenerator
from pushforward.randomness import SampleRng, UpdateRng, seeded

CLASSES = Condition("class", 3, frequencies=(0.5, 0.5, 0.0))
ATTRIBUTES = Condition("attributes", 2, frequencies=(0.9, 0.0))


def build(shape=(1, 8, 8), kind="image", condition=None, **settings) -> GAN:
    with seeded(1):
        return GAN(DataSpec(kind, shape, condition=condition), **{"latent_dim": 5, "width": 8, **settings})


def conditions(condition: Condition | None, n: int) -> torch.Tensor | None:
    return None if condition is None else draw_condition(condition, n, SampleRng(3))


def data(model: GAN, n: int = 6) -> Batch:
    x = SampleRng(2).rand(n, *model.spec.shape) * 2 - 1
    return Batch(x, conditions(model.spec.condition, n))


def update_rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def train(model: GAN, batch_at, steps: int, learning_rate: float) -> None:
    """The loop in small: alternating turns, everything else frozen, a decaying learning rate, averaged weights at the end."""
    model.train()
    players = model.players()
    owned = [set(p.parameters()) for p in players]  # asked for before any is frozen
    optimizers = [torch.optim.Adam(p.parameters(), betas=p.optimizer.betas, foreach=True) for p in players]
    average = [parameter.detach().clone() for parameter in model.parameters()]
    for step in range(steps):
        for turn, (player, optimizer) in enumerate(zip(players, optimizers, strict=True)):
            for parameter in model.parameters():
                parameter.requires_grad_(parameter in owned[turn])
            rng = update_rng(2 * step + turn)
            optimizer.zero_grad()
            player.loss(batch_at(rng), rng).total.backward()
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 10 / (10 + min(step, 0.1 * steps)))
    with torch.no_grad():
        torch._foreach_copy_(list(model.parameters()), average)


CASES = {
    "dcgan": {},
    "odd sizes": {"shape": (1, 28, 23)},
    "rgba": {"shape": (4, 64, 64), "width": 4},
    "mlp image": {"shape": (2, 5, 6)},
    "point": {"shape": (2,), "kind": "point"},
    "series": {"shape": (4, 3), "kind": "series"},
    "classes": {"condition": CLASSES},
    "attributes": {"shape": (3, 32, 32), "condition": ATTRIBUTES},
    "classes of points": {"shape": (2,), "kind": "point", "condition": CLASSES},
}


@pytest.fixture(params=CASES)
def model(request) -> GAN:
    return build(**CASES[request.param])


def test_samples_have_the_shape_and_do_not_depend_on_their_neighbours(model):
    assert capabilities(model) == ["samples", "decodes"]
    # Running statistics that are not the initial ones, so that batch statistics would show.
    for _ in range(3):
        model.generator_loss(data(model), update_rng())
    many = model.sample(7, generator=SampleRng(5))
    assert many.shape == (7, *model.spec.shape) and many.dtype == torch.float32
    if model.spec.kind == "image":
        assert many.abs().max() <= 1
    # Equal but for the order of float32 sums, which may depend on the batch size: 1e-5 of values near 1.
    torch.testing.assert_close(model.sample(3, generator=SampleRng(5)), many[:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.sample(1, generator=SampleRng(5, first=4)), many[4:5], atol=1e-5, rtol=1e-5)
    assert torch.equal(model.sample(7, generator=5), many)
    assert model.training and model.generator.training  # sampling leaves the mode as it was


def test_sampling_changes_nothing(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.sample(4, generator=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_each_loss_moves_its_own_networks_only(model):
    critic, generator = model.players()
    assert (critic.name, generator.name) == ("critic", "generator")
    critics, generators = critic.parameters(), generator.parameters()
    assert not set(critics) & set(generators) and {*critics, *generators} == set(model.parameters())
    for player, own, others in ((critic, critics, generators), (generator, generators, critics)):
        model.zero_grad(set_to_none=True)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in own:
            parameter.requires_grad_(True)
        loss = player.loss(data(model), update_rng())
        assert loss.total.shape == () and all(not term.requires_grad for term in loss.terms.values())
        loss.total.backward()
        # Every parameter has a gradient (replicated training waits for each), no one of the other side has any.
        assert all(parameter.grad is not None for parameter in own)
        assert sum(parameter.grad.abs().sum() for parameter in own) > 0
        assert all(parameter.grad is None for parameter in others)


def test_the_critic_cannot_reach_the_generator_even_unfrozen(model):
    critic, generator = model.players()
    critic.loss(data(model), update_rng()).total.backward()
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_losses_are_functions_of_batch_and_rng(model):
    for player in model.players():
        losses = [player.loss(data(model), update_rng(seed)).total for seed in (3, 3, 4)]
        assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_the_critic_is_told_real_from_fake_the_right_way_round():
    # Labels, signs: a few updates of the critic alone must raise the real logits above the fake ones.
    model = build((2,), "point")
    critic = model.players()[0]
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for step in range(30):
        rng = update_rng(step)
        optimizer.zero_grad()
        loss = critic.loss(Batch(4 + rng.randn(64, 2)), rng)
        loss.total.backward()
        optimizer.step()
    assert loss.terms["real logit"] > 1 and loss.terms["fake logit"] < -1 and loss.terms["accuracy"] > 0.95


def test_objective_decides_what_a_sure_critic_teaches():
    # A critic that is sure of every fake (logit -40): non-saturating still teaches, minimax no more.
    sure = nn.Sequential(nn.Flatten(), nn.Linear(2, 1))
    nn.init.constant_(sure[1].bias, -40.0)
    size = {}
    for name in ("non-saturating", "minimax"):
        model = build((2,), "point", objective=name, critic_network=sure)
        model.players()[1].loss(Batch(torch.zeros(8, 2)), update_rng()).total.backward()
        size[name] = sum(parameter.grad.abs().sum().item() for parameter in model.generator.parameters())
    assert size["minimax"] < 1e-10 * size["non-saturating"]


def test_settings_reach_the_players():
    model = build(critic_steps=3, learning_rate=1e-3, critic_learning_rate=4e-3)
    critic, generator = model.players()
    assert (critic.repeat, generator.repeat) == (3, 1)
    assert (critic.optimizer.learning_rate, generator.optimizer.learning_rate) == (4e-3, 1e-3)
    assert critic.optimizer.betas == generator.optimizer.betas == (0.5, 0.999)
    assert build(learning_rate=3e-4).players()[0].optimizer.learning_rate == 3e-4


def test_optimiser_settings_reach_both_players():
    players = build(optimizer="rmsprop", betas=(0.0, 0.9), regulariser={"r1": {"weight": 1, "every": 4}}).players()
    assert [(p.optimizer.kind, p.optimizer.betas) for p in players] == [("rmsprop", (0.0, 0.9))] * 3
    assert build().players()[0].optimizer.kind == "adamw"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_plays_with_every_penalty(name):
    model = build((3,), "point", CLASSES, objective=name, regulariser=dict.fromkeys(PENALTIES, 0.1))
    critic, generator = model.players()
    loss = critic.loss(data(model), update_rng())
    assert loss.total.isfinite() and set(PENALTIES) <= set(loss.terms)
    assert ("accuracy" in loss.terms) == (name not in ("wasserstein", "relativistic"))
    assert generator.loss(data(model), update_rng()).total.isfinite()


def test_the_critics_loss_is_objective_plus_weighted_penalties():
    with_penalties = build((2,), "point", regulariser={"r1": 0.5, "zero-centred": 2.0})
    without = build((2,), "point", regulariser="none")
    loss, bare = (m.players()[0].loss(data(m), update_rng()) for m in (with_penalties, without))
    torch.testing.assert_close(loss.total, bare.total + 0.5 * loss.terms["r1"] + 2 * loss.terms["zero-centred"])


def test_a_penalty_with_an_interval_is_a_player_on_the_critic():
    model = build((2,), "point", regulariser={"r1": {"weight": 0.5, "every": 8}}, critic_steps=3)
    critic, lazy, generator = model.players()
    assert (critic.name, lazy.name, generator.name) == ("critic", "critic r1", "generator")
    assert (lazy.every, lazy.repeat, critic.every) == (8, 3, 1)
    assert all(a is b for a, b in zip(lazy.parameters(), critic.parameters(), strict=True))
    assert replace(lazy.optimizer, clip=None) == critic.optimizer
    loss = lazy.loss(data(model), update_rng())
    torch.testing.assert_close(loss.total, 8 * 0.5 * loss.terms["r1"])  # as heavy over eight steps as 0.5 at each
    assert "r1" not in critic.loss(data(model), update_rng()).terms
    each = build((2,), "point", regulariser={"r1": 0.5}).players()[0].loss(data(model), update_rng())
    torch.testing.assert_close(loss.terms["r1"], each.terms["r1"])


def test_clipping_holds_the_critics_weights_and_no_others():
    model = build((2,), "point", CLASSES, objective="wasserstein", regulariser="clipping")
    critic, generator = model.players()
    before = [parameter.clone() for parameter in generator.parameters()]
    with torch.no_grad():
        critic.after_update({}, Moment(0, 0.0, update_rng()))
    assert max(parameter.abs().max() for parameter in critic.parameters()) <= 0.01
    assert all(torch.equal(old, new) for old, new in zip(before, generator.parameters(), strict=True))
    assert generator.after_update is None and build().players()[0].after_update is None


def test_the_real_outputs_reach_a_relativistic_generator():
    model = build((2,), "point", objective="relativistic")
    batches = [Batch(data(model).x + shift) for shift in (0.0, 1.0)]
    losses = [model.generator_loss(batch, update_rng()).total for batch in batches]
    assert losses[0] != losses[1]
    other = build((2,), "point")
    assert other.generator_loss(batches[0], update_rng()).total == other.generator_loss(batches[1], update_rng()).total


def test_conditions_are_drawn_as_often_as_in_the_data():
    drawn = draw_condition(CLASSES, 4000, SampleRng(0))
    # Three standard errors of a share of 0.5 in 4000 draws: 0.024.
    assert (drawn == 0).float().mean().item() == pytest.approx(0.5, abs=0.024) and (drawn < 2).all()
    attributes = draw_condition(ATTRIBUTES, 4000, SampleRng(0))
    assert attributes[:, 0].mean().item() == pytest.approx(0.9, abs=0.015) and (attributes[:, 1] == 0).all()
    assert draw_condition(Condition("class", 4), 200, SampleRng(0)).unique().tolist() == [0, 1, 2, 3]


def test_a_conditional_gan_uses_its_condition_in_both_networks():
    model = build(condition=CLASSES)
    z, zero = model.draw_codes(4, generator=0), torch.zeros(4, dtype=torch.long)
    assert (model.decode(z, condition=zero) - model.decode(z, condition=zero + 1)).abs().max() > 1e-3
    assert torch.equal(model.decode(z), model.decode(z, condition=zero))  # none given: the most frequent
    x = data(model).x[:4]
    assert (model.judge(x, condition=zero) - model.judge(x, condition=zero + 1)).abs().max() > 1e-4
    assert torch.equal(model.sample(4, condition=zero, generator=0), model.decode(z, condition=zero))


def test_truncation_scales_z():
    model = build((2,), "point")
    z = model.draw_codes(5, generator=3)
    torch.testing.assert_close(model.sample(5, generator=3, truncation=0.5), model.decode(0.5 * z))


def test_decoding_is_differentiable():
    model = build()
    z = model.draw_codes(2, generator=0).requires_grad_()
    model.decode(z).square().sum().backward()
    assert z.grad.abs().min() > 0


@pytest.mark.parametrize("rows", [1, 8])
def test_batches_of_one_and_of_the_width(rows):
    model = build()
    for player in model.players():
        assert player.loss(data(model, rows), update_rng()).total.isfinite()


def test_your_own_networks():
    own = {"generator_network": nn.Linear(5, 2), "critic_network": nn.Linear(2, 1)}
    model = build((2,), "point", **own)
    assert model.sample(3).shape == (3, 2)
    assert all(player.loss(data(model), update_rng()).total.isfinite() for player in model.players())


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"objective": "hinje"}, "no objective 'hinje'"),
        ({"network": "dcgn"}, "did you mean dcgan"),
        ({"network": "dcgan", "shape": (2,), "kind": "point"}, "take network='mlp'"),
        ({"network": "dcgan", "shape": (1, 6, 6)}, "resize to 8x8"),
        ({"shape": (3, 200, 150)}, "resize to 128x128"),
        ({"condition": Condition("image", 1, shape=(1, 8, 8))}, "class, attributes"),
        ({"regulariser": {"r3": 1.0}}, "no regulariser 'r3'"),
        ({"objective": "wasserstein", "regulariser": "none"}, "no minimum while the critic's slope is free"),
        ({"regulariser": {"clipping": 0.0}}, "leaves the critic nothing"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(**settings)


def test_auto_takes_dcgan_for_images_and_mlp_otherwise():
    assert isinstance(build().generator, DCGANGenerator)
    assert not isinstance(build((1, 5, 5)).generator, DCGANGenerator)
    assert not isinstance(build((2,), "point").generator, DCGANGenerator)


def test_learns_the_mean_and_covariance_of_a_gaussian():
    root, mean = torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([1.0, -0.5])
    model = build((2,), "point", latent_dim=4, regulariser={"r1": 0.3})
    train(model, lambda rng: Batch(rng.randn(128, 2) @ root.T + mean), steps=1000, learning_rate=2e-3)
    x = model.sample(5000, generator=0)
    # 5000 samples: standard error 0.014 of a mean, 0.02 of a variance. The rest is the game's own wander.
    torch.testing.assert_close(x.mean(0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(x.T.cov(), root @ root.T, atol=0.15, rtol=0)


def test_relativistic_pairs_with_both_penalties_find_narrow_modes():
    # A ring of eight modes, standardised: deviation 0.05 on a circle of radius 1.41. Seeds 1, 2, 3: 77, 76, 78 % near a mode.
    angle = torch.arange(8) * torch.pi / 4
    centres = 2**0.5 * torch.stack([angle.cos(), angle.sin()], 1)
    with seeded(1):
        model = GAN(DataSpec("point", (2,)), width=16, objective="relativistic", regulariser=["r1", "r2"])
    train(model, lambda rng: Batch(centres[rng.randint(8, 128)] + 0.05 * rng.randn(128, 2)), 1000, model.learning_rate)
    distance, mode = torch.cdist(model.sample(2000, generator=0), centres).min(1)
    near = distance < 0.15  # three deviations: 98.9 % of the data, 9 % of a cloud that fills the circle
    assert near.float().mean() > 0.6
    assert (torch.bincount(mode[near], minlength=8) > 50).all()


def test_a_conditional_gan_puts_each_class_in_its_place():
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])
    model = build((2,), "point", condition=Condition("class", 3), latent_dim=4, regulariser={"r1": 1.0})

    def batch(rng):
        label = rng.randint(3, 96)
        return Batch(centres[label] + 0.2 * rng.randn(96, 2), label)

    train(model, batch, steps=700, learning_rate=2e-3)
    label = torch.arange(3).repeat(300)
    x = model.sample(900, condition=label, generator=0)
    assert (torch.cdist(x, centres).argmin(1) == label).float().mean() > 0.95
    for k in range(3):
        torch.testing.assert_close(x[label == k].mean(0), centres[k], atol=0.2, rtol=0)
        assert x[label == k].std(0).min() > 0.05  # z matters: no class has become a point (the data's deviation is 0.2)


def test_an_mlp_generator_starts_as_wide_as_the_data():
    # He's draw keeps E[h^2] = 1 through each ReLU, so that the linear output has E[x^2] = 2; 256 units: within 30 %. Part of
    # it is common to all samples; what is left must still be of the size of standardised data.
    model = build((64,), "point", width=32, latent_dim=64)
    x = model.sample(500, generator=0)
    assert x.square().mean().item() == pytest.approx(2, rel=0.3)
    assert x.std(0).mean() > 0.7


def norms_of(model):
    return [type(m).__name__ for m in model.critic.modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.GroupNorm))]


def test_a_penalty_on_single_slopes_takes_a_critic_without_batch_norm():
    spec = DataSpec("image", (1, 16, 16), levels=256)
    assert set(norms_of(GAN(spec, width=8))) == {"BatchNorm2d"}
    assert set(norms_of(GAN(spec, width=8, regulariser={"gradient-penalty": 10.0}))) == {"GroupNorm"}
    assert norms_of(GAN(spec, width=8, critic_norm="none")) == []
    with pytest.raises(UserError, match="slope of each datum by itself"):
        GAN(spec, width=8, regulariser={"dragan": 1.0}, critic_norm="batch")
    with pytest.raises(UserError, match="whose critic has no norms"):
        GAN(spec, network="mlp", critic_norm="layer")
