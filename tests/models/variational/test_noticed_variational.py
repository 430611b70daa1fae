"""What models with latents do in places that a whole run hardly shows: black and white draws, codes, order and padding."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from pushforward.data.batches import Batch
from pushforward.data.spec import Column, DataSpec
from pushforward.distributions.likelihoods import fixed_binary
from pushforward.models.contract import Moment
from pushforward.models.variational.code_prior import CodePrior
from pushforward.models.variational.hierarchical import HierarchicalVAE
from pushforward.models.variational.posteriors import InverseAutoregressive
from pushforward.models.variational.quantised import FOLLOW, VQVAE
from pushforward.models.variational.vae import VAE
from pushforward.models.variational.vq_vae_2 import VQVAE2
from pushforward.randomness import SampleRng, UpdateRng

GREY = DataSpec("image", (1, 4, 6), levels=17)
IMAGES = DataSpec("image", (1, 8, 8), levels=17)


def stream(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def greys(rows: int, seed: int = 0) -> torch.Tensor:
    """Rows of 24 different grey levels each."""
    return torch.rand(rows, *GREY.shape, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def test_each_loss_draws_black_and_white_images_of_its_own(monkeypatch):
    """One grey image 500 times in a batch, in 8 losses: 4000 draws, whose means have standard errors of at most 0.008."""
    torch.manual_seed(0)
    model = VAE(GREY, latent_dim=2, width=8, depth=1, likelihood="bernoulli", binarise=True)
    seen, weigh = [], model.weigh

    def watched(x, *rest, **more):
        seen.append(x.clone())
        return weigh(x, *rest, **more)

    monkeypatch.setattr(model, "weigh", watched)
    grey = greys(1)
    for seed in (*range(8), 0):
        model.loss(Batch(grey.expand(500, -1, -1, -1)), stream(seed))
    *draws, again = seen
    assert torch.equal(again, draws[0]), "the draw is a function of the rng"
    for one, other in itertools.pairwise(draws):
        assert not torch.equal(one, other)
        assert not torch.equal(one[0], one[1]), "rows of a batch are drawn apart"
    white = torch.cat(draws)
    assert set(white.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close((white > 0).float().mean(0), (grey[0] + 1) / 2, rtol=0, atol=5 * 0.008)


@pytest.mark.parametrize("kind", [VAE, HierarchicalVAE])
def test_what_is_told_of_a_binarised_model_is_of_the_fixed_black_and_white_image(kind):
    torch.manual_seed(0)
    settings = {"dropout": 0.0} if kind is VAE else {"levels": 2}
    model = kind(GREY, latent_dim=2, width=8, likelihood="bernoulli", binarise=True, **settings).eval()
    with torch.no_grad():  # where a posterior starts at its prior nothing would depend on x
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    grey = greys(60)
    told, black = model.diagnose(grey), model.diagnose(fixed_binary(grey))
    model.binarise = False
    assert told == black
    assert abs(told["kl"] - model.diagnose(grey)["kl"]) > 1e-2 * told["kl"]


def test_the_top_codes_are_seen_where_the_bottom_ones_are_made():
    """Other entries of the top codebook, the encoder as it was: the bottom quantiser is given something else."""
    torch.manual_seed(0)
    model = VQVAE2(IMAGES, codes=8, code_dim=4, width=8, depth=1).eval()
    asked = []
    model.quantisers[1].register_forward_pre_hook(lambda module, given: asked.append(given[0].detach().clone()))
    features = []
    model.encoder.register_forward_hook(lambda module, given, made: features.append(made.detach().clone()))
    x = numbers(3, *IMAGES.shape).clamp(-1, 1)
    before = model.quantise(x)
    with torch.no_grad():  # entries dealt anew: the same codebook, other codes for the same vectors
        top = model.quantisers[0]
        wanted = top.codebook.clone()
        wanted[before[0].indices.flatten()] += 1.0
        top.codebook.copy_(wanted)
    after = model.quantise(x)
    assert torch.equal(*features)
    assert not torch.allclose(before[0].codes, after[0].codes)
    assert (asked[0] - asked[1]).abs().flatten(1).amax(1).min() > 1e-3


def test_each_fine_place_knows_the_coarse_code_above_it():
    """4 x 6 places over 2 x 3: copies of the coarse code are learned where each covers 2 x 2, whatever its neighbours are."""
    coarse = torch.randint(5, (1000, 2, 3), generator=torch.Generator().manual_seed(0))
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    prior = CodePrior(5, (4, 6), coarse=(5, (2, 3)))
    prior.observe(fine.flatten(1), None, coarse.flatten(1))
    new = torch.randint(5, (200, 2, 3), generator=torch.Generator().manual_seed(1))
    wanted = new.repeat_interleave(2, 1).repeat_interleave(2, 2)
    drawn = prior.sample(200, SampleRng(0), None, new.flatten(1)).view(200, 4, 6)
    # what the tables smooth away is 16 codes in 4800: every place is a copy but for a percent or so
    assert (drawn == wanted).float().mean(0).min() > 0.95


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_flow_with_open_gates_is_its_base_in_order(steps):
    """Whatever the shifts and the order inside, s = 1 leaves z as the base drew it, unit by unit; at creation each step
    keeps sigmoid(4) of it."""
    torch.manual_seed(0)
    flow = InverseAutoregressive(5, steps, 16).double()
    said, noise = numbers(3, flow.outputs).double(), numbers(3, 4, 5, seed=1).double()
    base, base_slope = flow.base.draw(said[:, :10], noise)
    z, slope = flow.draw(said, noise)
    torch.testing.assert_close(z, base / (1 + math.exp(-4)) ** steps)
    torch.testing.assert_close(slope, base_slope - steps * math.log1p(math.exp(-4)) + torch.zeros_like(z))
    with torch.no_grad():
        for step in flow.steps:
            bias = step.net.last.bias.view(2, 5)
            bias[0] = torch.linspace(-2, 2, 5)
            bias[1] = 60.0
    z, slope = flow.draw(said, noise)
    torch.testing.assert_close(z, base, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, base_slope.expand_as(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [VQVAE, VQVAE2])
def test_the_tables_on_the_way_forget_what_is_long_ago(kind):
    """After the same batch twice they hold 1 + FOLLOW of it, of which the codes of untrained weights are to vanish."""
    torch.manual_seed(0)
    model = kind(IMAGES, codes=8, code_dim=4, width=8, depth=1)
    batch = Batch(numbers(6, *IMAGES.shape).clamp(-1, 1))
    keep = model.loss(batch, stream()).keep
    tables = []
    for step in range(2):
        model.after_update(keep, Moment(step, 0.0, stream()))
        tables.append([table.clone() for prior in model.priors for table in (prior.counts, prior.pairs, prior.parents)])
    assert 0.9 < FOLLOW < 1
    assert all(prior.counts.sum() > 0 for prior in model.priors)
    for once, twice in zip(*tables, strict=True):
        torch.testing.assert_close(twice, (1 + FOLLOW) * once)


@pytest.mark.parametrize("kind", ["image", "field"])
def test_what_does_not_fit_is_padded_with_black_and_fields_with_their_mean(kind):
    """11 x 13 pixels in places of 2 x 2: the same features as with the last row and column written by hand."""
    torch.manual_seed(0)
    if kind == "image":
        spec, outside = DataSpec("image", (2, 11, 13), levels=256), -1.0
    else:
        spec = DataSpec("field", (2, 11, 13), columns=tuple(Column(str(i), "number") for i in range(2)))
        outside = 0.0
    model = HierarchicalVAE(spec, levels=3, width=8, latent_dim=2)
    x = numbers(3, *spec.shape).clamp(-0.9, 0.9)

    def by_hand(value: float) -> list[torch.Tensor]:
        return model.features(F.pad(x, (0, 1, 0, 1), value=value), None)

    with torch.no_grad():
        found, wanted, other = model.features(x, None), by_hand(outside), by_hand(0.5)
    for mine, theirs, wrong in zip(found, wanted, other, strict=True):
        assert torch.equal(mine, theirs) and not torch.allclose(mine, wrong)


@pytest.mark.parametrize("quantiser", ["ema", "gradient", "fsq"])
def test_the_reconstruction_teaches_the_top_by_both_of_its_ways(quantiser):
    """The top's codes reach the pixels through the bottom's encoder and beside the bottom's codes; each way has its share of
    the gradient, and the loss, whose own term is 0 here, has their sum."""
    torch.manual_seed(0)
    settings = {"levels": (5, 5)} if quantiser == "fsq" else {"codes": 8, "code_dim": 4, "beta": 0.0}
    model = VQVAE2(IMAGES, quantiser=quantiser, width=8, depth=1, **settings)
    x, weights = numbers(6, *IMAGES.shape).clamp(-1, 1), list(model.to_top.parameters())

    def pull(through_bottom: bool, beside: bool) -> torch.Tensor:
        top, bottom = (level.codes for level in model.quantise(x))
        codes = [top if beside else top.detach(), bottom if through_bottom else bottom.detach()]
        error = -model.likelihood.log_prob(model.output(codes), x).mean() / IMAGES.dimensions
        found = torch.autograd.grad(error, weights, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    first, second = pull(True, False), pull(False, True)
    assert first.abs().max() > 1e-5 and second.abs().max() > 1e-5
    # as vectors: single entries are sums that nearly cancel, in float32 and in an order that depends on the threads
    assert (pull(True, True) - (first + second)).norm() < 1e-4 * (first + second).norm()
    whole = torch.autograd.grad(model.loss(Batch(x), stream()).total, weights)
    assert (torch.cat([part.flatten() for part in whole]) - (first + second)).norm() < 1e-4 * (first + second).norm()
