"""How a GAN's pieces are wired: what each side is shown, how heavy each piece is, what moves after whose update."""

import pytest
import torch

from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.models.adversarial.gan import GAN
from pushforward.models.adversarial.objectives import critic_terms
from pushforward.models.adversarial.style import StyleGAN
from pushforward.models.adversarial.views import View
from pushforward.models.contract import Moment
from pushforward.nets.adversaries import SeveralGenerators
from pushforward.nets.lipschitz import slope
from pushforward.nets.style import StyleGenerator
from pushforward.randomness import SampleRng, UpdateRng, seeded

CLASSES = Condition("class", 3, frequencies=(0.5, 0.25, 0.25))
POINTS = DataSpec("point", (2,), condition=CLASSES)
PLAIN = DataSpec("point", (2,))


def build(spec=POINTS, **settings) -> GAN:
    with seeded(1):
        return GAN(spec, **{"latent_dim": 5, "width": 4, **settings})


def data(spec=POINTS, n: int = 6, step: int = 1) -> Batch:
    condition = torch.arange(n) % 3 if spec.condition else None
    return Batch(SampleRng(2).rand(n, *spec.shape) * 2 - 1, condition, torch.arange(n), step=step, progress=0.0)


def rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def moment() -> Moment:
    return Moment(0, 0.0, rng())


def judged(model: GAN, loss):
    """What the critic was given and what it said while a loss was taken: ((x, condition, t), judgement) of each call."""
    seen = []
    hook = model.critic.register_forward_hook(lambda _, given, said: seen.append(((*given, None, None)[:3], said)))
    found = loss(data(model.spec), rng())
    hook.remove()
    return found, seen


@pytest.mark.parametrize("turn", [0, 1, 2], ids=["critic", "penalty", "generator"])
def test_data_and_fakes_are_shown_alike_in_every_turn(turn):
    """A generator whose fakes the critic sees without the noise (or augmentation) of its data learns to make noise."""
    lazy = {"weight": 1.0, "every": 4}
    model = build(stabilisers={"instance-noise": 1000.0}, regulariser={"r1": lazy, "r2": lazy})
    _, seen = judged(model, [model.players()[i] for i in (0, 2, 3)][turn].loss)
    assert seen and all(x.abs().mean() > 100 for (x, _, _), _ in seen)


def test_a_lazy_penalty_on_data_is_taken_where_they_are_shown():
    model = build(stabilisers={"instance-noise": 1000.0}, regulariser={"r1": {"weight": 1.0, "every": 4}})
    _, seen = judged(model, model.players()[1].loss)
    assert len(seen) == 1 and seen[0][0][0].abs().mean() > 100


def test_feature_matching_takes_the_objectives_place():
    model = build(stabilisers=["feature-matching"])
    loss = model.generator_loss(data(), rng())
    torch.testing.assert_close(loss.total.detach(), loss.terms["feature-matching"])
    half = build(stabilisers={"feature-matching": 0.25}).generator_loss(data(), rng())
    plain = build().generator_loss(data(), rng())
    torch.testing.assert_close(half.total, 0.75 * plain.total + 0.25 * half.terms["feature-matching"])


@pytest.mark.parametrize("packs", [1, 2])
def test_what_the_critic_says_of_data_moves_what_is_done_to_them(packs):
    model = build(PLAIN, stabilisers={"diffusion": 0.6} | ({"packing": packs} if packs > 1 else {}))
    share = model.view.diffusion.share
    said = torch.ones(512 // packs)
    with torch.no_grad():
        model.players()[0].after_update({"real": said, "fake": -said}, moment())
    assert share.p.item() == pytest.approx(512 / share.images)  # each datum of a pack counts


def test_wrong_labels_do_not_reach_what_moves_with_the_critic():
    model = build(PLAIN, stabilisers={"noisy-labels": 0.5, "diffusion": 0.6})
    loss, seen = judged(model, model.critic_loss)
    assert torch.equal(loss.keep["real"], seen[0][1].logit) and torch.equal(loss.keep["fake"], seen[1][1].logit)


def test_an_update_of_the_critic_moves_the_weight_of_fakes():
    model = build(PLAIN, objective="equilibrium", network="autoencoder")
    with torch.no_grad():
        model.players()[0].after_update({"real": torch.full((4,), -1.0), "fake": torch.full((4,), -0.2)}, moment())
    assert model.objective.k.item() == pytest.approx(1e-3 * (0.5 * 1.0 - 0.2))


def test_after_a_lazy_penalty_the_critics_norms_follow_and_nothing_else_moves():
    model = build(PLAIN, stabilisers=["diffusion"], regulariser={"spectral": 1, "r1": {"weight": 1.0, "every": 4}})
    lazy = model.players()[1]
    with torch.no_grad():
        for parameter in lazy.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
        before = {name: b.clone() for name, b in model.named_buffers()}
        lazy.after_update({}, moment())
    changed = {name.rsplit(".", 1)[1] for name, b in model.named_buffers() if not torch.equal(b, before[name])}
    assert changed == {"u", "v"}


def test_a_relativistic_generator_is_compared_with_the_datum_of_its_own_row():
    model = build(objective="relativistic", regulariser="none")
    _, seen = judged(model, model.generator_loss)
    (_, asked, _), (x, given, _) = seen[0][0], seen[1][0]
    assert torch.equal(x, data().x) and torch.equal(given, asked)


def test_mismatched_data_are_judged_as_diffused_as_they_are():
    model = build(stabilisers=["diffusion"], mismatched=True, regulariser="none")
    model.view.diffusion.share.p.fill_(1.0)
    batch = data()
    batch.condition = torch.tensor([0, 0, 1, 2, 2, 0])  # rows 2, 3 and 5 are beside another's
    seen = []
    model.critic.register_forward_hook(lambda _, given, said: seen.append(given))
    model.critic_loss(batch, rng())
    differ = batch.condition.roll(1) != batch.condition
    assert 0 < differ.sum() < len(batch) and len(set(seen[0][2].tolist())) > 2
    for whole, part in ((seen[0][0], seen[2][0]), (seen[0][2], seen[2][2])):
        assert torch.equal(part, whole[differ])


def test_the_logged_slope_is_the_mean_one_at_data():
    model = build(PLAIN, regulariser="none")
    batch = data(PLAIN, step=0)
    torch.testing.assert_close(
        model.critic_loss(batch, rng()).terms["slope"], slope(lambda x: model._logit(x, None, None), batch.x)[0]
    )
    assert "slope" not in model.critic_loss(data(PLAIN, step=1), rng()).terms


@pytest.mark.parametrize(
    ("settings", "name", "weight"),
    [
        ({"stabilisers": {"pulling-away": 0.3}}, "pulling-away", {"generator": 0.3}),
        ({"conditioning": "classifier", "class_weight": 0.3}, "classes", {"critic": 0.3, "generator": 0.3}),
        ({"stabilisers": {"historical-averaging": 0.3}}, "historical-averaging", {"critic": 0.3, "generator": 0.3}),
    ],
)
def test_a_piece_is_as_heavy_as_was_said(settings, name, weight):
    """A side's loss is that of the game by itself and the weighted piece."""
    model = build(regulariser="none", **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)  # away from the first weights, which histories begin with
    for side, loss in (("critic", model.critic_loss), ("generator", model.generator_loss)):
        found = loss(data(), rng())
        pieces, model.pieces = model.pieces, torch.nn.ModuleList()
        bare = loss(data(), rng())
        model.pieces = pieces
        assert (name in found.terms) == (side in weight)
        torch.testing.assert_close(found.total - bare.total, weight.get(side, 0.0) * found.terms.get(name, torch.zeros(())))


def test_the_codes_weight_is_that_of_their_surprise_on_both_sides():
    model = build(PLAIN, categorical=(4,), continuous=1, information=0.3, regulariser="none")
    for loss in (model.critic_loss, model.generator_loss):
        found = loss(data(PLAIN), rng())
        pieces, model.pieces = model.pieces, torch.nn.ModuleList()
        bare = loss(data(PLAIN), rng())
        model.pieces = pieces
        torch.testing.assert_close(found.total - bare.total, 0.3 * (model.latent.entropy - found.terms["information"]))


def test_a_history_is_that_of_each_sides_weights():
    model = build(PLAIN, stabilisers=["historical-averaging"])
    generator = model.players()[-1]
    with torch.no_grad():
        model.generator.net[0].weight.add_(1.0)
        generator.after_update({}, moment())
    means = dict(zip([id(p) for p in generator.parameters()], model.pieces[0].means[1].means(), strict=True))
    torch.testing.assert_close(means[id(model.generator.net[0].weight)], model.generator.net[0].weight - 0.5)
    assert model.pieces[0].means[0].count == 1


def test_noise_falls_with_the_run_and_augmentations_take_the_probability_that_was_found():
    x = torch.zeros(64, 1, 8, 8) + 0.5
    noisy = View({"instance-noise": 1.0}, 0.0)
    assert noisy(x, None, 0.0, rng()).std() > 0.9 and torch.equal(noisy(x, None, 1.0, rng()), x)
    adaptive = View({"adaptive-augmentation": 0.6}, 0.0)
    assert torch.equal(adaptive(x, None, 0.5, rng()), x)
    adaptive.adaptive.p.fill_(0.8)
    assert 0.8 < (adaptive(x, None, 0.5, rng()) != x).flatten(1).any(1).float().mean() <= 1


def test_all_that_adapts_moves_and_by_the_objectives_boundary():
    view = View({"adaptive-augmentation": 0.6, "diffusion": 0.6}, 0.5)
    view.after_update(torch.full((512,), 0.25))  # below the boundary: not sure at all
    assert view.adaptive.p == 0 and view.diffusion.share.p == 0
    view.after_update(torch.full((512,), 0.75))
    assert view.adaptive.p > 0 and view.diffusion.share.p > 0


def test_accuracy_counts_both_sides_by_the_boundary():
    terms = critic_terms(torch.tensor([0.4, 0.6, 0.7]), torch.tensor([0.1, 0.6]), 0.5)
    assert terms["accuracy"].item() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert "accuracy" not in critic_terms(torch.zeros(2), torch.zeros(2), None)


def styled(**settings):
    with seeded(1):
        return StyleGAN(
            DataSpec("image", (1, 8, 8)), latent_dim=5, width=4, network="style", stabilisers=["path-length"],
            network_options={"style_dim": 8, "mapping_depth": 2}, **settings,
        )  # fmt: skip


def test_the_path_length_is_not_cut_by_the_gradients_clip():
    players = styled().players()
    assert players[-1].name == "generator path-length" and players[-1].optimizer.clip == 0.0


def test_path_lengths_are_those_of_images_with_noise():
    model = styled()
    batch = Batch(torch.zeros(4, 1, 8, 8), step=1)
    before = model.path_loss(batch, rng()).keep["lengths"]
    with torch.no_grad():
        for layer in model.generator.styled:
            layer.strength.fill_(5.0)
    assert not torch.allclose(model.path_loss(batch, rng()).keep["lengths"], before)


def test_the_mean_style_of_a_class_that_did_not_come_stays():
    with seeded(1):
        generator = StyleGenerator((1, 8, 8), 5, 4, style_dim=8, kinds=2)
    for kinds in ((0, 1), (0, 0)):
        before = generator.mean_w.clone()
        generator.after_update(moment(), None, torch.tensor(kinds), SampleRng(4).randn(2, 5))
    assert before[1].any() and torch.equal(generator.mean_w[1], before[1])
    assert generator.updates.tolist() == [2, 1]


def test_each_row_is_made_by_the_generator_that_its_code_names():
    class Constant(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, z):
            return z + self.value

    which = torch.tensor([2, 0, 1, 1, 2, 0, 2])  # a permutation that is not its own inverse
    z = torch.cat([torch.arange(7.0)[:, None], torch.nn.functional.one_hot(which, 3)], 1)
    made = SeveralGenerators([Constant(100.0 * k) for k in range(3)], (1, 4))(z)
    torch.testing.assert_close(made[:, 0], torch.arange(7.0) + 100 * which)


def test_both_progressive_networks_grow_with_the_run():
    with seeded(1):
        model = GAN(DataSpec("image", (1, 16, 16)), latent_dim=5, width=4, network="progressive")
    with torch.no_grad():
        for player in model.players():
            player.after_update({}, Moment(5, 1.0, rng()))
    for network in (model.generator, model.critic.trunk):
        assert network.stage == network.finest > 0
