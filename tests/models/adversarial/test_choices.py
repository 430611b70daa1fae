"""Any sensible combination of a GAN's choices plays; one that makes no sense is refused with the reason."""

import math

import pytest
import torch
from torch import nn

from pushforward.building import create
from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.games import ENERGIES
from pushforward.models.adversarial.gan import GAN
from pushforward.models.adversarial.networks import NETWORKS
from pushforward.models.adversarial.objectives import OBJECTIVES
from pushforward.models.adversarial.pieces import Recognition, Turn
from pushforward.models.adversarial.stabilisers import STABILISERS
from pushforward.models.adversarial.style import StyleGAN
from pushforward.models.contract import Moment
from pushforward.models.truncation import jacobian_norm
from pushforward.nets.lipschitz import slope
from pushforward.randomness import SampleRng, UpdateRng, seeded

CLASSES = Condition("class", 3, frequencies=(0.5, 0.25, 0.25))
ATTRIBUTES = Condition("attributes", 2, frequencies=(0.5, 0.25))
POINTS, IMAGES = DataSpec("point", (2,), condition=CLASSES), DataSpec("image", (1, 9, 11), condition=CLASSES)


def build(spec=POINTS, **settings) -> GAN:
    model = StyleGAN if settings.get("network") == "style" else GAN
    with seeded(1):
        return model(spec, **{"latent_dim": 5, "width": 4, **settings})


def data(spec: DataSpec, n: int = 6) -> Batch:
    x = SampleRng(2).rand(n, *spec.shape) * 2 - 1
    kind = spec.condition.kind if spec.condition else None
    condition = {"class": torch.arange(n) % 3, "attributes": (SampleRng(3).rand(n, 2) < 0.5).float(), None: None}[kind]
    return Batch(x, condition, torch.arange(n), progress=0.25)


def rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def play(model: GAN, moves: bool = True) -> None:
    """A turn of each player: finite, its own parameters get a gradient and no others; then what follows an update."""
    batch, players = data(model.spec), model.players()
    owned = [player.parameters() for player in players]
    for player, own in zip(players, owned, strict=True):
        ids = {id(p) for p in own}
        for parameter in model.parameters():
            parameter.grad = None
            parameter.requires_grad_(id(parameter) in ids)
        loss = player.loss(batch, rng())
        assert torch.isfinite(loss.total) and all(torch.isfinite(term).all() for term in loss.terms.values()), loss.terms
        assert not any(term.requires_grad for term in loss.terms.values())
        loss.total.backward()
        assert all(parameter.grad is None for parameter in model.parameters() if id(parameter) not in ids)
        assert sum(parameter.grad.abs().sum() for parameter in own if parameter.grad is not None) > 0
        if player.after_update is not None:
            with torch.no_grad():
                player.after_update({name: rows.detach() for name, rows in loss.keep.items()}, Moment(5, 0.25, rng(3)))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    known = model.spec.condition is not None and bool(model.generator_embedding)
    x = model.sample(3, condition=batch.condition[:3] if known and batch.condition is not None else None, generator=0)
    assert x.shape == (3, *model.spec.shape) and x.isfinite().all()


REGULARISERS = ("none", "r1", "r2", "gradient-penalty", "one-sided-penalty", "zero-centred", "dragan", "spectral", "clipping")


@pytest.mark.parametrize("regulariser", REGULARISERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_with_every_regulariser(objective, regulariser):
    if OBJECTIVES[objective].lipschitz and regulariser in ("none", "r1", "r2", "dragan"):  # free between data and fakes
        with pytest.raises(UserError, match="no minimum"):
            build(objective=objective, regulariser=regulariser)
    else:
        play(build(objective=objective, regulariser=regulariser))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("conditioning", ["concatenation", "projection", "classifier", "semi-supervised", "none"])
def test_every_network_with_every_conditioning(network, conditioning):
    settings = {"objective": "equilibrium"} if network == "autoencoder" else {}
    if network == "orthonormal" and conditioning == "projection":
        with pytest.raises(UserError, match="at most 1 by its layers"):
            build(IMAGES, network=network, conditioning=conditioning)
    elif network == "autoencoder" and conditioning in ("projection", "classifier", "semi-supervised"):
        with pytest.raises(UserError, match="attribute `width`"):
            build(IMAGES, network=network, conditioning=conditioning, **settings)
    else:
        play(build(IMAGES, network=network, conditioning=conditioning, **settings))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("stabiliser", STABILISERS)
def test_every_network_with_every_stabiliser(network, stabiliser):
    objective = "energy" if network == "autoencoder" else "non-saturating"
    try:
        model = build(IMAGES, network=network, objective=objective, stabilisers=stabiliser)
    except UserError as error:  # with a reason
        refused = {
            "virtual-batch-norm": "no batch norm",
            "label-smoothing": "no target for real data",
            "minibatch-discrimination": "attribute `width`",
            "minibatch-deviation": "attribute `width`",
            "adaptive-augmentation": "take augmentation",
            "diffusion": "take instance-noise",
            "style-mixing": "take the model 'stylegan'",
            "path-length": "take the model 'stylegan'",
        }
        if network == "orthonormal" and stabiliser.startswith("minibatch"):
            assert f"leave {stabiliser} away" in str(error)
            return
        assert refused[stabiliser] in str(error)
        if stabiliser in ("style-mixing", "path-length"):
            assert network != "style"
            return
        assert network == "autoencoder" or (stabiliser == "virtual-batch-norm" and network in ("mlp", "progressive", "style"))
    else:
        play(model)


def test_all_stabilisers_together():
    apart = ("adaptive-augmentation", "diffusion", "style-mixing", "path-length")
    names = [name for name in STABILISERS if name not in apart]
    play(build(IMAGES, network="dcgan", stabilisers=names, critic_norm="layer"))
    play(build(IMAGES, network="residual", objective="hinge", regulariser=["spectral", "r1"], conditioning="projection",
               stabilisers=["adaptive-augmentation", "diffusion", "packing", "feature-matching"], critic_steps=2))  # fmt: skip


@pytest.mark.parametrize("settings", [
    {"categorical": (4, 2), "continuous": 3},
    {"categorical": (4,), "conditioning": "none", "objective": "wasserstein", "regulariser": "gradient-penalty"},
    {"generators": 3},
    {"generators": 3, "categorical": (2,), "continuous": 1, "information": 0.5},
    {"generators": 2, "information": 0.0},
    {"mismatched": True},
    {"mismatched": True, "interpolated": 0.5, "conditioning": "projection", "objective": "least-squares"},
    {"conditioning": "semi-supervised", "labelled": 0.5, "stabilisers": ["feature-matching"]},
    {"schedule": "constant", "optimizer": "rmsprop"},
])  # fmt: skip
@pytest.mark.parametrize("spec", [POINTS, IMAGES], ids=["points", "images"])
def test_what_z_and_conditions_can_be(spec, settings):
    play(build(spec, **settings))


def test_attributes_are_a_condition_like_classes():
    for conditioning in ("concatenation", "projection", "classifier"):
        play(build(DataSpec("point", (2,), condition=ATTRIBUTES), conditioning=conditioning))


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"network": "autoencoder"}, "take 'energy' .EBGAN. or 'equilibrium'"),
        *(({"objective": name}, "take network='autoencoder'") for name in ENERGIES),
        ({"objective": "least-squares", "objective_options": {"d": 1.0}}, "it has a, b, c"),
        ({"objective_options": {"a": 1.0}}, "it has none"),
        ({"network_options": {"complete": 0.5}}, "it has none"),
        ({"network": "style"}, "makes images"),
        (
            {"objective": "least-squares", "objective_options": {"b": 0.9}, "stabilisers": ["label-smoothing"]},
            "leave one of them",
        ),
        ({"network": "orthonormal", "regulariser": "gradient-penalty"}, "slope of at most 1 by its layers"),
        ({"regulariser": ["spectral", "clipping"]}, "take one"),
        ({"critic_norm": "batch"}, "whose critic has no norms"),
        ({"conditioning": "classifier", "stabilisers": ["packing"]}, "a pack of several data has no class"),
        ({"categorical": (3,), "stabilisers": ["packing"]}, "no code of its own"),
        ({"categorical": (1,)}, "at least 2 values"),
        ({"latent_dim": 0}, "at least 1 number"),
        ({"generators": 0}, "at least 1"),
        ({"critic_steps": 0}, "at least 1"),
        ({"labelled": 0.0, "conditioning": "classifier"}, "a share of the data"),
        ({"interpolated": 1.5}, "a share of the rows"),
        ({"information": -1.0, "categorical": (3,)}, "weights are at least 0"),
        ({"information": 0.5}, "without codes in z; leave it away"),
        ({"class_weight": 2.0}, "without a critic that says classes"),
        ({"labelled": 0.5}, "without a critic that says classes"),
        ({"generators": 2, "stabilisers": ["virtual-batch-norm"]}, "one reference for one generator"),
        ({"network": "orthonormal", "stabilisers": ["minibatch-deviation"]}, "leave minibatch-deviation away"),
        ({"network": "orthonormal", "conditioning": "projection"}, "leave conditioning='projection' away"),
        (
            {"objective": "wasserstein", "regulariser": "spectral", "stabilisers": ["minibatch-discrimination"]},
            "that only a penalty bounds",
        ),
        ({"mismatched": True, "conditioning": "classifier"}, "that the critic is told"),
        ({"mismatched": True, "objective": "relativistic"}, "compares pairs"),
        ({"stabilisers": {"packing": 1}}, "from 2 to 16"),
        ({"stabilisers": ["pack"]}, "did you mean packing"),
        ({"stabilisers": ["augmentation"]}, "changes images"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(**settings)


@pytest.mark.parametrize("conditioning", ["concatenation", "projection", "classifier", "semi-supervised"])
def test_labels_asked_of_unlabelled_data_are_refused(conditioning):
    with pytest.raises(UserError, match="has no condition; load the data with their labels"):
        build(DataSpec("point", (2,)), conditioning=conditioning)


def test_without_labels_a_game_is_played_without_them():
    assert build(DataSpec("point", (2,))).unconditional
    assert build(DataSpec("image", (1, 8, 8)), network="residual").unconditional
    with pytest.raises(UserError, match="has no condition"):
        create("cgan", DataSpec("point", (2,)))


def test_a_condition_reaches_residual_networks_by_projection():
    model = build(IMAGES, network="residual")
    assert model.conditioning == "projection" and "projection" in model.critic.heads
    assert build().conditioning == "concatenation"


def shown_to(model: GAN, batch: Batch) -> torch.Tensor:
    return next(piece for piece in model.pieces if isinstance(piece, Recognition)).labels(batch)


def test_hidden_labels_are_the_same_ones_always_and_as_many_as_said():
    model = build(conditioning="semi-supervised", labelled=0.3)
    batch = Batch(torch.zeros(4000, 2), torch.arange(4000) % 3, torch.arange(4000))
    shown = shown_to(model, batch) >= 0
    assert shown.float().mean() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))
    part = Batch(batch.x[7:9], batch.condition[7:9], batch.index[7:9])
    assert torch.equal(shown_to(model, part) >= 0, shown[7:9])
    assert torch.equal(shown_to(model, batch)[shown], batch.condition[shown])


def test_the_generators_conditions_lie_between_those_of_two_rows():
    model = build(interpolated=0.5)
    wanted = model._wanted(data(POINTS, 400), rng())
    assert (wanted.weight == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(wanted.second, wanted.first.roll(1, 0)) and 0 < wanted.weight.max() < 1


def test_mismatched_data_count_as_fakes():
    """The critic's loss with them is that of a batch of fakes twice as large."""
    settings = {"objective": "least-squares", "regulariser": "none"}
    plain, matched = build(**settings), build(mismatched=True, **settings)
    batch = data(POINTS)
    with torch.no_grad():
        found, without = (model.critic_loss(batch, rng()).total for model in (matched, plain))
        real, wrong = (plain.critic(batch.x, c).logit for c in (batch.condition, batch.condition.roll(1, 0)))
    fake = 2 * without - (real - 1).square().mean()  # mean of squared logits of fakes
    expected = ((real - 1).square().mean() + (fake + wrong.square().mean()) / 2) / 2
    torch.testing.assert_close(found, expected)


def test_a_critic_without_features_or_gradients_is_refused():
    bare = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    spec = DataSpec("point", (2,))
    play(build(spec, critic_network=bare))
    with pytest.raises(UserError, match="logits alone"):
        build(spec, critic_network=bare, stabilisers=["feature-matching"])

    class Rounded(nn.Module):
        def forward(self, x):
            return x.detach().round().sum(1)

    with pytest.raises(UserError, match="have no gradient by x"):
        build(spec, critic_network=Rounded(), regulariser="r1").critic_loss(data(spec), rng())


@pytest.mark.parametrize("conditioning", ["concatenation", "projection", "classifier", "none"])
@pytest.mark.parametrize("choices", [{"network": "orthonormal"}, {"regulariser": "spectral"}], ids=["orthonormal", "spectral"])
def test_a_critic_of_bounded_slope_keeps_it_in_training(choices, conditioning):
    """After 60 updates at a high rate. Spectral norms are of each layer: projection adds a second head to the first (2), and u
    and v follow weights that move fast (10 %)."""
    if choices.get("network") == "orthonormal" and conditioning == "projection":
        pytest.skip("refused: two heads")
    model = build(objective="wasserstein", conditioning=conditioning, class_weight=1.0, **choices)
    critic = model.players()[0]
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    batch = data(POINTS, 30)
    for step in range(60):
        optimizer.zero_grad()
        loss = critic.loss(Batch(3 * batch.x, batch.condition, batch.index, step), rng(step))
        loss.total.backward()
        optimizer.step()
        if critic.after_update:
            critic.after_update({}, Moment(step, 0.0, rng(step)))
    _, most = slope(lambda x: model.judge(x, condition=batch.condition), 3 * batch.x)
    assert most < (2.2 if conditioning == "projection" else 1.1)


def test_a_fake_is_diffused_as_far_as_the_datum_beside_it():
    """So that what is between them, and the fakes of R2, are judged as diffused as they are."""
    model = build(stabilisers=["diffusion"], regulariser="r2")
    seen = []
    model.critic.register_forward_hook(lambda _, given, out: seen.append(given[2]))
    model.view.diffusion.share.p.fill_(1.0)
    model.critic_loss(data(POINTS), rng())
    assert len(seen) == 4 and all(torch.equal(t, seen[0]) for t in seen) and (seen[0] > 0).any()  # real, fake, r2, the slope


def test_semi_supervised_classes_see_the_layers_that_look_at_the_batch():
    model = build(conditioning="semi-supervised", stabilisers=["minibatch-discrimination"])
    with torch.no_grad():
        model.critic.heads["classes"].weight[:, -8:] = 1.0
    loss = model.critic_loss(data(POINTS), rng()).total
    loss.backward()
    assert model.critic.layers[0].T.grad.abs().max() > 0


def test_words_are_checked_wherever_they_come_from():
    import pushforward as pf

    spec = pf.load_data("digits").spec
    for setting, near in (({"conditioning": "projektion"}, "projection"), ({"schedule": "linaer"}, "linear")):
        with pytest.raises(UserError, match=near):
            pf.create("gan", spec, **setting)
    kept = pf.create("stylegan", spec, network_options={"style_dim": 16.0}, width=4, latent_dim=4)
    assert kept.settings["network_options"] == {"modulation": "adain", "style_dim": 16.0}
    assert kept.generator.to_image is not None  # still StyleGAN's, not StyleGAN2's
    for options in ({"style_dim": 0}, {"style_dim": 8.5}, {"style_dim": "x"}):
        with pytest.raises(UserError, match="a whole number of at least 1"):
            pf.create("stylegan", spec, network_options=options)


def test_a_model_that_knows_no_class_is_not_asked_for_one(tmp_path):
    import pushforward as pf

    data = pf.load_data("digits")
    quick = {"steps": 2, "batch_size": 16, "tensorboard": False, "picture_every": 0, "precision": "fp32"}
    run = pf.train(pf.create("infogan", data.spec, width=4), data, out=str(tmp_path / "run"), **quick)
    with pytest.raises(UserError, match="makes data without one; leave it away"):
        run.sample(3, condition=4)
    assert run.sample(3, seed=0).shape == (3, 1, 8, 8)


def test_a_lazy_penalty_is_not_cut_by_the_gradients_clip():
    """16 times as heavy at each 16th step: a turn of its own, whose clip would take that back."""
    players = build(regulariser={"r1": {"weight": 0.5, "every": 16}}).players()
    assert [player.optimizer.clip for player in players] == [None, 0.0, None]
    from pushforward.training.optimizers import make_optimizers

    made = make_optimizers(players, torch.device("cpu"))
    assert made["critic"] is made["critic r1"] is not made["generator"]


def test_data_beside_their_own_condition_are_no_mismatch():
    settings = {"objective": "least-squares", "regulariser": "none"}
    plain, matched = build(**settings), build(mismatched=True, **settings)
    batch = data(POINTS)
    batch.condition = torch.ones_like(batch.condition)  # all alike: there is nothing to mistake
    assert torch.equal(plain.critic_loss(batch, rng()).total, matched.critic_loss(batch, rng()).total)


def test_every_label_is_as_heavy_however_many_a_batch_has():
    """The mean of the loss over micro-batches is that of the whole, for a tenth of the labels."""
    model = build(conditioning="semi-supervised", labelled=0.2)
    piece = next(piece for piece in model.pieces if isinstance(piece, Recognition))
    n = 4096
    batch = Batch(SampleRng(2).rand(n, 2), torch.arange(n) % 3, torch.arange(n))
    shown = piece.labels(batch) >= 0
    means = []
    for size in (n, 4):
        values = []
        for start in range(0, n, size):
            part = Batch(*(rows[start : start + size] for rows in (batch.x, batch.condition, batch.index)))
            judged = model.critic(part.x)
            values.append(piece.critic(Turn(part, part.x, judged, judged))["classes"].value)
        means.append(torch.stack(values).mean().item())
    assert 0 < shown.float().mean() < 0.3 and means[0] == pytest.approx(means[1], rel=1e-4)


def test_what_is_kept_of_several_generators_is_measured_along_the_noise():
    """One-hot numbers are no directions that z takes."""
    model = build(generators=3, latent_dim=2)
    z = model.draw_codes(20, generator=0)
    alone = jacobian_norm(model.decode, z, numbers=2)
    each = torch.stack([torch.func.jvp(model.decode, (z,), (one.expand_as(z),))[1] for one in torch.eye(5)[:2]])
    torch.testing.assert_close(alone, each.square().sum((0, 2)).sqrt())
    assert model.sample(30, generator=0, keep=0.5).shape == (30, 2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"regulariser": "{r1: {weight: 1, every: x}}"}, "regulariser {r1.* could not be read"),
        ({"stabilisers": "{packing: x}"}, "stabilisers {packing.* could not be read"),
        ({"regulariser": {"clipping": {"weight": 1}}, "objective": "wasserstein"}, "it has one number, the largest weight"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0 was given"),
        ({"betas": (2.0, 0.9)}, r"betas = \[2.0, 0.9\] were given; each is at least 0 and below 1"),
        ({"betas": (0.5, 1.5), "optimizer": "rmsprop"}, "each is at least 0 and below 1"),
    ],
)
def test_numbers_that_are_none_are_named(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(**settings).players()
