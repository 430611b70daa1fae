"""What a critic says: heads by hand, how a condition reaches it, packs and layers that look at the batch."""

import pytest
import torch
from torch import nn

from pushforward.data.spec import Condition
from pushforward.errors import UserError
from pushforward.models.adversarial.critics import Critic, Told, real_logit, recognised
from pushforward.models.adversarial.stabilisers import pack
from pushforward.nets.adversaries import MLPCritic
from pushforward.nets.conditioning import Between
from pushforward.nets.dcgan import DCGANCritic
from pushforward.nets.minibatch import MinibatchDeviation, MinibatchDiscrimination
from pushforward.nets.residual_gan import ResidualCritic
from pushforward.randomness import SampleRng

CLASSES = Condition("class", 3)
ATTRIBUTES = Condition("attributes", 2)


def build(conditioning="concatenation", condition=CLASSES, packs=1, timed=False, trunk=None, **heads) -> Critic:
    torch.manual_seed(0)
    told = Told(condition, conditioning, timed)
    return Critic(trunk or MLPCritic((2 * packs,), 16, packs * told.width), told, packs=packs, **heads)


def points(n: int = 6, seed: int = 0) -> torch.Tensor:
    return SampleRng(seed).randn(n, 2)


def labels(n: int = 6) -> torch.Tensor:
    return torch.arange(n) % 3


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_binary_logit_of_c_plus_1_classes(scale):
    classes = scale * SampleRng(0).randn(9, 4, dtype=torch.float64)
    joint = torch.cat([classes, torch.zeros(9, 1, dtype=torch.float64)], 1).log_softmax(1)
    log_real = joint[:, :4].logsumexp(1)
    # in float32, of numbers up to 100
    torch.testing.assert_close(real_logit(classes).double(), log_real - joint[:, 4], atol=1e-4, rtol=1e-6)
    # -log p(y | real) is that of the first C of the C + 1
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    expected = -(joint.gather(1, labels[:, None])[:, 0] - log_real).mean()
    torch.testing.assert_close(recognised(classes, labels).double(), expected, atol=1e-4, rtol=1e-6)


def test_the_whole_loss_is_cross_entropy_over_c_plus_1_classes():
    # For labelled real data, -log p(y) = -log p(y | real) - log P(real): the paper's split of one into two.
    classes, labels = SampleRng(5).randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    whole = nn.functional.cross_entropy(torch.cat([classes, torch.zeros(6, 1)], 1), labels)
    parts = recognised(classes, labels) + nn.functional.softplus(-real_logit(classes)).mean()
    torch.testing.assert_close(whole, parts)


def test_rows_without_a_label_teach_no_class():
    classes = SampleRng(0).randn(4, 3).requires_grad_()
    loss = recognised(classes, torch.tensor([1, -1, 2, -1]))
    torch.testing.assert_close(loss, recognised(classes[::2], torch.tensor([1, 2])))
    loss.backward()
    assert (classes.grad[1::2] == 0).all() and (classes.grad[::2].abs().sum(1) > 0).all()
    assert recognised(classes, torch.full((4,), -1)).item() == 0


def test_attributes_are_recognised_each_by_itself():
    said, truth = SampleRng(0).randn(5, 2), (SampleRng(1).rand(5, 2) < 0.5).float()
    each = -(truth * said.sigmoid().log() + (1 - truth) * (1 - said.sigmoid()).log())
    torch.testing.assert_close(recognised(said, truth), each.sum(1).mean())


def test_the_projection_is_a_product_with_the_features():
    for trunk in (None, ResidualCritic((1, 8, 8), 4)):
        critic = build("projection", trunk=trunk)
        x = points() if trunk is None else SampleRng(0).randn(6, 1, 8, 8)
        said = critic(x, labels())
        e, f = critic.told.condition.embed.weight[labels()], said.features
        plain = critic.heads["logit"](f).squeeze(1)
        torch.testing.assert_close(said.logit, plain + (f @ critic.heads["projection"].weight * e).sum(1))
        torch.testing.assert_close(critic(x).logit, plain)  # of no condition it says what x alone says
        said.logit.square().sum().backward()
        assert all(p.grad is not None for p in critic.parameters())


def test_a_condition_is_told_where_it_is_concatenated_only():
    x = points()
    for conditioning, told in (("concatenation", True), ("projection", True), ("classifier", False), ("none", False)):
        critic = build(conditioning, classes=3 if conditioning == "classifier" else 0)
        differs = (critic(x, labels()).logit - critic(x, labels().roll(1)).logit).abs().max() > 1e-4
        assert bool(differs) == told, conditioning


def test_a_condition_between_two_is_that_of_the_embedding_between():
    critic = build("projection")
    x, weight = points(), torch.tensor([0.0, 1.0, 0.5, 0.25, 0.0, 1.0])
    first, second = labels(), labels().roll(1)
    logits = [critic(x, c).logit for c in (first, second, Between(first, second, weight))]
    torch.testing.assert_close(logits[2], (1 - weight) * logits[0] + weight * logits[1])  # linear in e


def test_the_semi_supervised_logit_is_that_of_its_classes():
    critic = build("semi-supervised", classes=3)
    said = critic(points(), labels())
    torch.testing.assert_close(said.logit, said.classes.logsumexp(1))
    assert "logit" not in critic.heads


def test_packs_are_judged_as_one():
    critic = build("concatenation", packs=2)
    x, y = points(6), labels()
    said = critic(x, y).logit
    assert said.shape == (3,)
    torch.testing.assert_close(said[1:2], critic(x[2:4], y[2:4]).logit)
    e = pack(critic.told(6, y, None)[0], 2)
    torch.testing.assert_close(said, critic.heads["logit"](critic.trunk(pack(x, 2), e)).squeeze(1))
    swapped = x[[1, 0, 2, 3, 4, 5]]
    assert (critic(swapped, y).logit != said).tolist() == [True, False, False]


def test_the_time_is_told():
    critic = build("none", timed=True)
    x = points()
    assert (critic(x, None, torch.zeros(6)).logit != critic(x, None, torch.full((6,), 0.5)).logit).all()


TRUNKS = {"dcgan": (lambda e: DCGANCritic((1, 8, 8), 4, e), (1, 8, 8)), "mlp": (lambda e: MLPCritic((2,), 16, e), (2,))}
LAYERS = {"minibatch-discrimination": 6, "minibatch-deviation": 4}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_layer_ahead_of_the_head_changes_the_logits_by_what_it_adds(trunk, layer):
    make, shape = TRUNKS[trunk]
    told = Told(CLASSES, "concatenation", False)
    torch.manual_seed(0)
    critic = Critic(make(told.width), told, layers={layer: LAYERS[layer]}).eval()
    x = SampleRng(0).randn(8, *shape)
    said = critic(x, labels(8))
    features, head = said.features, critic.heads["logit"]
    width = features.shape[1]
    # at first the critic without the layer
    torch.testing.assert_close(said.logit, features @ head.weight[0, :width] + head.bias)
    with torch.no_grad():
        head.weight[:, width:] = 1 + SampleRng(2).rand(1, head.in_features - width)
    expected = MinibatchDiscrimination(width, 6) if layer == "minibatch-discrimination" else MinibatchDeviation(4)
    if layer == "minibatch-discrimination":
        expected.T = critic.layers[0].T
    added = expected(features)[:, width:]
    new = critic(x, labels(8)).logit
    torch.testing.assert_close(new, said.logit + added @ head.weight[0, width:], atol=1e-5, rtol=1e-5)
    new.square().sum().backward()
    named = dict(critic.named_parameters())
    assert all(p.grad is not None for p in named.values())
    assert all(p.grad.abs().max() > 0 for name, p in named.items() if not name.endswith("null"))


def test_a_trunk_that_says_logits_has_no_heads():
    trunk = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    critic = build("none", trunk=trunk)
    x = points()
    assert torch.equal(critic(x).logit, trunk(x)) and critic(x).features is None and not critic.featured
    with pytest.raises(UserError, match="an attribute `width`"):
        build("classifier", trunk=trunk, classes=3)


def test_an_orthonormal_head_keeps_the_slope():
    from pushforward.nets.lipschitz import OrthonormalCritic, slope

    critic = build("none", trunk=OrthonormalCritic((2,), 16), orthonormal=True)
    mean, most = slope(lambda x: critic(x).logit, 3 * points(200))
    assert mean > 0.1 and most < 1 + 1e-5
