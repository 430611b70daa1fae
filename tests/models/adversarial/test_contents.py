"""Content and view: which data make pairs, what their critic says at its best, and that z learns the two apart."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.data.batches import Batch
from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.contents import pairs_of
from pushforward.models.adversarial.gan import GAN
from pushforward.models.adversarial.latent import Latent
from pushforward.models.adversarial.objectives import OBJECTIVES
from pushforward.models.contract import Moment
from pushforward.randomness import SampleRng, UpdateRng, seeded

CLASSES = Condition("class", 3, frequencies=(0.5, 0.25, 0.25))
POINTS, IMAGES = DataSpec("point", (2,), condition=CLASSES), DataSpec("image", (1, 9, 11), condition=CLASSES)


def build(spec=POINTS, **settings) -> GAN:
    with seeded(1):
        return GAN(spec, **{"latent_dim": 5, "content": 2, "width": 8, **settings})


def rng(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


# Pairs


@pytest.mark.parametrize(
    "n, classes, seed", [(2, 1, 0), (7, 1, 1), (64, 5, 2), (65, 5, 3), (40, 30, 4), (40, 150, 4), (9, 8, 5), (300, 3, 6)]
)
def test_pairs_are_of_one_class_and_use_each_row_once_while_they_can(n, classes, seed):
    labels = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed)) * 7 - 3
    pairs, share = pairs_of(labels, rng(seed))
    sizes = Counter(labels.tolist())
    partnered = sum(size for size in sizes.values() if size > 1)
    assert pairs.shape == (n // 2, 2) and float(share) == pytest.approx(partnered / n)
    assert (labels[pairs[:, 0]] == labels[pairs[:, 1]]).all() and (pairs[:, 0] != pairs[:, 1]).all()
    used = torch.bincount(pairs.flatten(), minlength=n)
    assert partnered
    apart = sum(size // 2 for size in sizes.values())  # the most pairs that share no row
    once = {frozenset(pair) for pair in pairs.tolist()}
    if apart == n // 2:
        assert used.max() == 1 and len(once) == n // 2
    else:  # all of them are there, and what fills the rest are pairs, too
        assert (used > 0).sum() >= 2 * apart
        odd_ones = sum(size % 2 for size in sizes.values() if size > 2)
        if apart + odd_ones >= n // 2:
            assert used.max() <= 2 and len(once) == n // 2


def test_pairs_of_the_last_odd_rows_come_before_repeated_ones():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2])  # two pairs without a common row; 7 // 2 = 3 are wanted
    for seed in range(20):
        pairs, _ = pairs_of(labels, rng(seed))
        assert len({frozenset(pair) for pair in pairs.tolist()}) == 3
        assert sorted(torch.bincount(pairs.flatten(), minlength=7).tolist()) == [0, 0, 1, 1, 1, 1, 2]


def test_partners_are_any_two_of_a_class_and_pairs_in_any_order():
    labels, seen = torch.tensor([0, 0, 0, 0, 1, 1]), Counter()
    firsts = Counter()
    for seed in range(1500):
        pairs, _ = pairs_of(labels, rng(seed))
        seen.update(frozenset(pair) for pair in pairs.tolist())
        firsts[int(labels[pairs[0, 0]])] += 1
    # Each of the six pairs of class 0 in a third of the draws: 500, with a deviation of 18
    assert all(420 < seen[frozenset((i, j))] < 580 for i in range(4) for j in range(i))
    assert seen[frozenset((4, 5))] == 1500
    assert 920 < firsts[0] < 1080  # two pairs of three are of class 0


def test_a_lone_row_goes_with_itself_and_has_no_share():
    for labels in ([4], [1, 2, 3], [5, 6]):
        pairs, share = pairs_of(torch.tensor(labels), rng())
        assert share == 0 and len(pairs) == max(len(labels) // 2, 1)
        assert (pairs[:, 0] == pairs[:, 1]).all() and len(pairs.unique()) == len(pairs)


# z


def test_neighbours_share_their_content_and_nothing_else():
    latent = Latent(5, content=2)
    for n in (6, 7, 1):
        z, alone = latent.draw_pairs(n, rng()), latent.draw(n, rng())
        assert torch.equal(z[: n // 2 * 2 : 2], alone[: n // 2 * 2 : 2]) and torch.equal(z[:, 2:], alone[:, 2:])
        assert torch.equal(z[1::2, :2], z[: n // 2 * 2 : 2, :2])
        assert len(z[:, 0].unique()) == (n + 1) // 2 and len(z[:, 4].unique()) == n
    assert torch.equal(Latent(5).draw_pairs(6, rng()), Latent(5).draw(6, rng()))
    a, b = latent.draw(3, rng(1)), latent.draw(3, rng(2))
    assert torch.equal(latent.joined(a, b), torch.cat([a[:, :2], b[:, 2:]], 1))


# The game


class Recorded(nn.Module):
    """The trunk of a critic that keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.net = nn.Linear(4, 1)

    def forward(self, x):
        self.seen.append(x.detach())
        return self.net(x).squeeze(1)


@pytest.mark.parametrize("turn", ["critic", "generator", "penalty"])
def test_every_turn_sees_real_pairs_of_a_class_and_fakes_of_one_content(turn):
    same = nn.Linear(2, 2, bias=False)

    class Codes(nn.Module):
        def forward(self, z):
            return z[:, [0, 4]] + 0 * same(z[:, :2])

    objective, penalty = ("relativistic", {"r2": {"weight": 1.0, "every": 4}, "r1": {"weight": 1.0, "every": 4}})
    model = build(
        objective=objective, regulariser=penalty, critic_network=(trunk := Recorded()), generator_network=Codes()
    )  # fmt: skip
    y = torch.arange(20) % 3
    batch = Batch(torch.stack([y.float(), torch.arange(20.0)], 1), y, torch.arange(20), step=1)
    players = {player.name: player for player in model.players()}
    trunk.requires_grad_(turn != "generator")
    if turn == "penalty":
        players["critic r2"].loss(batch, rng(1))
        players["critic r1"].loss(batch, rng(1))
        fake, real = trunk.seen
    elif turn == "critic":
        loss = players["critic"].loss(batch, rng(1))
        real, fake = trunk.seen
        assert float(loss.terms["paired"]) == 1
    else:
        players["generator"].loss(batch, rng(1))
        fake, real = trunk.seen
    assert real.shape == fake.shape == (10, 4)
    assert torch.equal(real[:, 0], real[:, 2]) and (real[:, 1] != real[:, 3]).all()
    assert torch.equal(fake[:, 0], fake[:, 2]) and (fake[:, 1] != fake[:, 3]).all()
    assert len(fake[:, 0].unique()) == 10


@pytest.mark.parametrize("accumulated", [False, True])
def test_a_batch_without_a_pair_teaches_nothing_and_breaks_nothing(accumulated):
    model = build(IMAGES, network="dcgan", stabilisers=["adaptive-augmentation", "diffusion"], regulariser="r1")
    x = SampleRng(2).rand(3, *IMAGES.shape) * 2 - 1
    batch = Batch(x[:1], torch.tensor([2])) if accumulated else Batch(x, torch.tensor([0, 1, 2]), torch.arange(3))
    with_pairs = model.players()[0].loss(Batch(x, torch.zeros(3, dtype=torch.long)), rng())
    for player in model.players():
        model.zero_grad(set_to_none=True)
        loss = player.loss(batch, rng())
        loss.total.backward()
        assert loss.total == 0 and loss.terms["paired"] == 0
        assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in player.parameters())
        assert any(parameter.grad is not None for parameter in player.parameters())
        if player.name == "critic":  # what micro-batches and processes join has the same names and sizes
            assert loss.terms.keys() == with_pairs.terms.keys()
            assert loss.keep["real"].shape == with_pairs.keep["real"].shape
        if player.after_update is not None:
            with torch.no_grad():
                player.after_update(dict(loss.keep), Moment(5, 0.25, rng(3)))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


SETTINGS = {
    **{name: {"objective": name} for name in OBJECTIVES},
    "gradient penalty": {"objective": "wasserstein", "regulariser": "gradient-penalty"},
    "all penalties": {"regulariser": {"dragan": 1.0, "one-sided-penalty": 1.0, "zero-centred": 1.0}},
    "spectral": {"objective": "hinge", "regulariser": "spectral"},
    "orthonormal": {"network": "orthonormal", "objective": "wasserstein"},
    "autoencoder": {"network": "autoencoder", "objective": "equilibrium"},
    "stabilisers": {"stabilisers": ["feature-matching", "pulling-away", "minibatch-deviation", "minibatch-discrimination",
                                    "historical-averaging", "diffusion", "noisy-labels"]},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("spec", [POINTS, IMAGES], ids=["points", "images"])
def test_it_goes_with_the_other_choices(spec, name):
    model, y = build(spec, width=4, **SETTINGS[name]), torch.tensor([0, 1, 2, 2, 1, 0, 1])
    batch = Batch(SampleRng(2).rand(7, *spec.shape) * 2 - 1, y, progress=0.5)
    for player in model.players():
        model.zero_grad(set_to_none=True)
        loss = player.loss(batch, rng())
        loss.total.backward()
        assert torch.isfinite(loss.total) and all(torch.isfinite(term).all() for term in loss.terms.values())
        assert sum(parameter.grad.abs().sum() for parameter in player.parameters() if parameter.grad is not None) > 0
        if player.after_update is not None:
            with torch.no_grad():
                player.after_update({k: rows.detach() for k, rows in loss.keep.items()}, Moment(5, 0.25, rng(3)))
    assert model.sample(3, generator=0).shape == (3, *spec.shape)


NO_CLASSES = replace(POINTS, condition=Condition("attributes", 2, frequencies=(0.5, 0.25)))


@pytest.mark.parametrize(
    "spec, settings, sentence",
    [
        (DataSpec("point", (2,)), {}, "has no condition; load the data with their classes"),
        (NO_CLASSES, {}, "has attributes; load the data with their classes"),
        *((POINTS, {"conditioning": how}, "a code in z where a condition would be a label")
          for how in ("concatenation", "projection", "classifier", "semi-supervised")),
        (POINTS, {"stabilisers": ["packing"]}, "judges pairs of one content already"),
        (POINTS, {"generators": 2}, "no generator and no code of its own"),
        (POINTS, {"categorical": (3,), "information": 0.0}, "no generator and no code of its own"),
        (POINTS, {"continuous": 1}, "no generator and no code of its own"),
        (POINTS, {"content": 5}, "at least 1 is left"),
        (POINTS, {"content": -1}, "at least 1 is left"),
        (POINTS, {"mismatched": True}, "that the critic is told"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_reason(spec, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        build(spec, **settings)


def test_style_mixing_is_refused():
    from pushforward.models.adversarial.style import StyleGAN

    spec = replace(IMAGES, shape=(1, 8, 8))
    with pytest.raises(UserError, match="see another content"):
        StyleGAN(spec, latent_dim=5, content=2, width=4, network="style", stabilisers=["style-mixing"])
    model = StyleGAN(spec, latent_dim=5, content=2, width=4, network="style")
    assert model.views(2, 3, generator=0).shape == (2, 3, 1, 8, 8)


def test_data_without_classes_and_models_without_content_say_so():
    with pytest.raises(UserError, match="these come without"):
        build().critic_loss(Batch(torch.zeros(4, 2)), rng())
    with pytest.raises(UserError, match="tells no content from a view"):
        build(content=0).views(2, 2)


def test_without_a_content_nothing_has_changed():
    model = build(content=0)
    assert model.conditioning == "concatenation" and not model.unconditional and model.critic.packs == 1
    assert "paired" not in model.critic_loss(Batch(torch.zeros(4, 2), torch.zeros(4).long()), rng()).terms
    assert build(content=0, conditioning="none").unconditional and build().unconditional


# What a model can do with it


def test_a_grid_of_views_is_what_decode_makes_of_joined_codes():
    model = build(IMAGES, network="dcgan")
    grid = model.views(3, 4, generator=7)
    assert grid.shape == (3, 4, *IMAGES.shape) and model.training
    # Images of tanh, in float32 sums whose order may depend on the batch's size: 1e-5
    torch.testing.assert_close(model.views(2, 4, generator=7)[:, :3], grid[:2, :3], atol=1e-5, rtol=1e-5)
    z, other = model.draw_codes(3, generator=1), model.draw_codes(4, generator=2)
    grid = model.views(z, other)
    for i in range(3):
        for j in range(4):
            expected = model.decode(torch.cat([z[i, :2], other[j, 2:]])[None])[0]
            torch.testing.assert_close(grid[i, j], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.views(z, z).diagonal().movedim(-1, 0), model.decode(z), atol=1e-5, rtol=1e-5)


def test_the_critic_judges_pairs_of_a_class_where_classes_are_given():
    model = build(critic_network=(trunk := Recorded()), regulariser="none")
    y = torch.arange(9) % 3
    x = torch.stack([y.float(), torch.arange(9.0)], 1)
    assert model.judge(x, condition=y).shape == (4,)
    assert torch.equal(trunk.seen[0][:, 0], trunk.seen[0][:, 2])
    assert torch.equal(model.judge(x, condition=y), model.judge(x, condition=y))
    model.judge(x)
    assert torch.equal(trunk.seen[-1][:4], x[:8].reshape(4, 4))


# Theory


def train(model: GAN, names: tuple[str, ...], batch_at, steps: int, learning_rate: float) -> None:
    """Turns of these players with a falling learning rate."""
    players = [player for player in model.players() if player.name in names]
    owned = [set(player.parameters()) for player in players]
    optimizers = [torch.optim.Adam(player.parameters(), betas=(0.5, 0.999), foreach=True) for player in players]
    for step in range(steps):
        for turn, (player, optimizer) in enumerate(zip(players, optimizers, strict=True)):
            for parameter in model.parameters():
                parameter.requires_grad_(parameter in owned[turn])
            draws = rng(2 * step + turn)
            optimizer.zero_grad()
            player.loss(batch_at(draws), draws).total.backward()
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            optimizer.step()


def test_the_best_critic_of_a_generator_without_content_says_what_one_view_tells_of_the_other():
    """x = y + s n, y = +-1: with the fakes x and x' independent, log p(x, x') / (p(x) p(x')) is log of the mean over y of
    N(x; y) N(x'; y), less the logs of the means over y of each."""
    s = 0.5

    class Independent(nn.Module):
        def forward(self, z):
            return z[:, 2:3].sign() + s * z[:, 3:4]

    spec = DataSpec("point", (1,), condition=Condition("class", 2))
    model = build(spec, generator_network=Independent(), regulariser="none", width=4)

    def batch_at(draws):
        y = draws.randint(2, 512)
        return Batch(2.0 * y[:, None] - 1 + s * draws.randn(512, 1), y)

    train(model, ("critic",), batch_at, 300, 1e-2)
    a = torch.linspace(-1.5, 1.5, 7)
    x, other = torch.cartesian_prod(a, a).unbind(1)
    near, far = (-(at[:, None] - torch.tensor([-1.0, 1.0])).square() / (2 * s**2) for at in (x, other))
    ratio = (near + far).logsumexp(1) - near.logsumexp(1) - far.logsumexp(1) + torch.tensor(2.0).log()
    said = model.judge(torch.stack([x, other], 1).reshape(-1, 1)).detach()
    # As probabilities: from 2e-5 where classes differ, of which there are too few pairs for a logit, to 2/3 where they agree.
    assert ratio.min() < -10 and ratio.max() > 0.69
    assert (said.sigmoid() - ratio.sigmoid()).abs().max() < 0.12
    assert torch.corrcoef(torch.stack([said, ratio]))[0, 1] > 0.97


def test_z_learns_content_and_view_apart():
    """Eight contents side by side in the first number, with deviations of 0.1, and a view N(0, 1) in the second."""
    centres = torch.linspace(-1.5, 1.5, 8)

    def batch_at(draws):
        y = draws.randint(8, 128)
        return Batch(torch.stack([centres[y] + 0.1 * draws.randn(128), draws.randn(128)], 1), y)

    model = build(DataSpec("point", (2,), condition=Condition("class", 8)), latent_dim=4)
    train(model, ("critic", "generator"), batch_at, 250, 3e-3)
    x = model.views(200, 60, generator=0)
    within, between = x.var(1).mean(0), x.mean(1).var(0)
    # In truth 0.01 and 0.96 of the content's number, 1 and 0 of the view's.
    assert within[0] < 0.04 and 0.6 < between[0] < 1.5
    assert 0.6 < within[1] < 1.5 and between[1] < 0.1
    # What a view is does not depend on the content: columns differ in the second number, and are alike over rows.
    assert x.mean(0).var(0)[1] > 10 * x.mean(0).var(0)[0]
    # Ordinary samples have both marginals.
    flat = model.sample(4000, generator=1)
    assert flat.mean(0).abs().max() < 0.3 and (flat.std(0) - 1).abs().max() < 0.25
    assert torch.corrcoef(flat.T)[0, 1].abs() < 0.2


def test_samples_of_a_content_each_are_not_judged_as_pairs(tmp_path):
    data = pf.load_data("digits", limit=200)
    quick = {"validate_every": 2, "picture_every": 0, "tensorboard": False, "out": str(tmp_path / "a")}
    run = pf.train(pf.create("gmv", data.spec, network="mlp", width=2), data, steps=2, batch_size=20, **quick)
    rows = [row for row in run.history if "watch/distance" in row]
    assert rows and "watch/critic gap" in rows[-1] and "watch/critic margin" not in rows[-1]
