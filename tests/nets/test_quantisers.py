"""Quantisers: gradients and objectives as in the papers, moving averages against the formula, integers against codes."""

import copy
import math

import pytest
import torch

from pushforward.errors import UserError
from pushforward.nets.quantisers import SHARP, FiniteScalarQuantiser, GumbelQuantiser, VectorQuantiser, perplexity
from pushforward.nets.spatial import SpatialDecoder, SpatialEncoder, grids
from pushforward.randomness import UpdateRng

GRID = (3, 2)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


ALL = {
    "ema": lambda: VectorQuantiser(7, 4),
    "gradient": lambda: VectorQuantiser(7, 4, moving=False),
    "sphere": lambda: VectorQuantiser(7, 4, normalise=True),
    "gumbel": lambda: GumbelQuantiser(7, 4),
    "fsq": lambda: FiniteScalarQuantiser((3, 4, 5)),
}


@pytest.mark.parametrize("name", ALL)
def test_integers_mean_the_codes_and_calling_changes_nothing(name):
    quantiser = ALL[name]().eval()
    before = copy.deepcopy(quantiser.state_dict())
    for batch, grid in ((5, GRID), (1, (4,)), (4, (4, 4))):  # a batch of one, one as large as the code, square and not
        found = quantiser(numbers(batch, quantiser.inputs, *grid), stream())
        assert found.indices.shape == (batch, *grid) and found.loss.shape == (batch,)
        assert found.codes.shape == (batch, quantiser.outputs, *grid)
        assert 0 <= int(found.indices.min()) <= int(found.indices.max()) < quantiser.size
        # straight-through is z + (e - z): equal up to its rounding in float32
        assert torch.allclose(quantiser.lookup(found.indices), found.codes, atol=1e-6)
    quantiser.train()
    quantiser(numbers(5, quantiser.inputs, *GRID), stream())
    assert all(torch.equal(before[key], value) for key, value in quantiser.state_dict().items())


@pytest.mark.parametrize("moving", [True, False])
def test_the_gradient_through_the_quantiser_is_the_identity(moving):
    """Exactly: what the decoder says of a code reaches z unchanged, and the codebook not at all."""
    quantiser, z, w = VectorQuantiser(7, 4, moving=moving), numbers(5, 4, *GRID).requires_grad_(), numbers(5, 4, *GRID, seed=1)
    (w * quantiser(z).codes).sum().backward()
    assert torch.equal(z.grad, w) and quantiser.codebook.grad is None


@pytest.mark.parametrize("moving", [True, False])
def test_the_loss_is_the_papers_with_its_stopped_gradients(moving):
    quantiser, z = VectorQuantiser(7, 4, moving=moving, beta=0.3), numbers(5, 4, *GRID).requires_grad_()
    found = quantiser(z)
    entries = quantiser.lookup(found.indices).detach()
    distance = (z - entries).square().sum((1, 2, 3))
    brute = torch.cdist(z.flatten(2).transpose(1, 2), quantiser.codebook).argmin(-1).view(5, *GRID)
    assert torch.equal(found.indices, brute)
    assert torch.allclose(found.loss, distance * (0.3 if moving else 1.3))
    found.loss.sum().backward()
    assert torch.allclose(z.grad, 2 * 0.3 * (z - entries).detach(), atol=1e-6)
    if moving:
        assert quantiser.codebook.grad is None
        return
    pull = torch.zeros(7, 4)
    for row, index in zip((entries - z).detach().movedim(1, -1).reshape(-1, 4), found.indices.flatten(), strict=True):
        pull[index] += 2 * row
    assert torch.allclose(quantiser.codebook.grad, pull, atol=1e-5)


def test_the_codebook_begins_at_data_and_follows_the_moving_averages():
    """Against the recursion of appendix A.1 in plain Python."""
    quantiser = VectorQuantiser(3, 2, decay=0.9, restart=0.0)
    first = quantiser(numbers(4, 2, 5))
    quantiser.after_update(first.keep, stream())
    rows = first.keep["z"].flatten(0, 1)
    assert all((rows == entry).all(1).any() for entry in quantiser.codebook), "entries are vectors of the first batch"
    assert len(quantiser.codebook.unique(dim=0)) == 3
    count = [0.1 * 20 / 3] * 3  # a fresh entry counts as a tenth of an even share
    sums = [quantiser.codebook[k].detach() * count[k] for k in range(3)]
    for seed in range(1, 4):
        found = quantiser(numbers(4, 2, 5, seed=seed))
        quantiser.after_update(found.keep, stream())
        rows, indices = found.keep["z"].flatten(0, 1), found.keep["indices"].flatten()
        for k in range(3):
            mine = rows[indices == k]
            count[k] = 0.9 * count[k] + 0.1 * len(mine)
            sums[k] = 0.9 * sums[k] + 0.1 * mine.sum(0)
        smooth = [(c + 1e-5) / (sum(count) + 3e-5) * sum(count) for c in count]
        wanted = torch.stack([s / c for s, c in zip(sums, smooth, strict=True)])
        assert torch.allclose(quantiser.codebook, wanted, atol=1e-5)


def test_moving_averages_end_at_the_means_of_clusters():
    """From a start with an entry in each cluster (like k-means, two in one would stay)."""
    centres = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
    quantiser = VectorQuantiser(3, 2, decay=0.8)
    for seed in range(60):
        which = torch.randint(3, (20, 30), generator=torch.Generator().manual_seed(seed))
        z = (centres[which] + 0.1 * numbers(20, 30, 2, seed=seed)).transpose(1, 2)
        quantiser.after_update(quantiser(z).keep, stream(seed + 1))
    found = torch.cdist(centres, quantiser.codebook).min(1).values
    assert (
        found.max() < 0.05
    )  # some 1800 vectors an entry in the average's memory: an error of 0.1 / 40 = 0.0025 in each number


@pytest.mark.parametrize("moving", [True, False])
def test_dead_entries_are_put_where_data_are_and_always_at_the_same(moving):
    """Two clusters; entries far from both come alive only by a restart."""
    torch.manual_seed(0)
    alive, dead = (VectorQuantiser(8, 2, moving=moving, decay=0.9, restart=restart) for restart in (0.1, 0.0))
    for quantiser in (alive, dead):
        quantiser.started.fill_(True)  # past the start from data
        with torch.no_grad():
            quantiser.codebook.copy_(torch.cat([torch.tensor([[1.0, 0.0]]), 50 + numbers(7, 2)]))
            quantiser.sums.copy_(quantiser.codebook)
    twin = copy.deepcopy(alive)
    for seed in range(60):
        z = numbers(6, 2, 4, seed=seed)
        for quantiser in (alive, dead, twin):
            quantiser.after_update(quantiser(z).keep, stream(seed))
    z = numbers(200, 2, 4)
    assert len(dead(z).indices.unique()) == 1 and len(alive(z).indices.unique()) == 8
    assert all(torch.equal(a, b) for a, b in zip(alive.state_dict().values(), twin.state_dict().values(), strict=True))


def test_fewer_vectors_than_entries_place_as_many_at_a_time():
    """8 vectors a batch, 50 entries that begin far away: after some updates all are among the data."""
    quantiser = VectorQuantiser(50, 3)
    with torch.no_grad():
        quantiser.codebook += 100
    for seed in range(30):
        quantiser.after_update(quantiser(numbers(2, 3, 4, seed=seed)).keep, stream())
    assert quantiser.codebook.abs().max() < 10


def test_entries_on_the_sphere_have_length_one():
    quantiser = VectorQuantiser(5, 3, normalise=True)
    for seed in range(4):
        found = quantiser(numbers(6, 3, 4, seed=seed))
        quantiser.after_update(found.keep, stream())
    assert torch.allclose(quantiser.entries().norm(dim=1), torch.ones(5))
    assert torch.allclose(quantiser(10 * numbers(6, 3, 4)).indices, quantiser(numbers(6, 3, 4)).indices)


@pytest.mark.parametrize("normalise", [False, True])
def test_close_entries_are_told_apart_under_autocast(normalise):
    """Entries a hundredth apart: products in bfloat16, of 8 bits, would confuse them."""
    quantiser = VectorQuantiser(7, 4, normalise=normalise)
    with torch.no_grad():
        quantiser.codebook.copy_(1 + 0.01 * numbers(7, 4))
    z = 1 + 0.01 * numbers(50, 4, *GRID, seed=1)
    rows = z.flatten(2).transpose(1, 2).double()
    rows = rows / rows.norm(dim=-1, keepdim=True) if normalise else rows
    wanted = torch.cdist(rows, quantiser.entries().double()).argmin(-1).view(50, *GRID)
    assert len(wanted.unique()) > 3
    for outside in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=outside):
            assert float((quantiser(z).indices == wanted).float().mean()) > 0.99  # ties of float32 may fall either way


def test_the_gumbel_loss_is_the_divergence_from_uniform():
    quantiser, z = GumbelQuantiser(7, 4, beta=0.5), numbers(5, 7, *GRID) / 2
    q = torch.distributions.Categorical(logits=SHARP * z.movedim(1, -1))
    uniform = torch.distributions.Categorical(logits=torch.zeros(7))
    wanted = 0.5 * torch.distributions.kl_divergence(q, uniform).sum((1, 2))
    assert torch.allclose(quantiser(z, stream()).loss, wanted, atol=1e-5)
    assert torch.allclose(quantiser(torch.zeros(1, 7, 2), stream()).loss, torch.zeros(1), atol=1e-5)
    sure = torch.zeros(1, 7, 2)
    sure[:, 3] = 100
    assert torch.allclose(quantiser(sure, stream()).loss, torch.tensor([0.5 * 2 * math.log(7)]))


def test_the_gumbel_loss_pulls_at_the_logits():
    """Its gradient is that of beta KL(q || uniform)."""
    quantiser, z = GumbelQuantiser(7, 4, beta=0.5), (numbers(5, 7, *GRID) / 2).requires_grad_()
    q = torch.distributions.Categorical(logits=SHARP * z.movedim(1, -1))
    uniform = torch.distributions.Categorical(logits=torch.zeros(7))
    (wanted,) = torch.autograd.grad(0.5 * torch.distributions.kl_divergence(q, uniform).sum(), z)
    (found,) = torch.autograd.grad(quantiser(z, stream()).loss.sum(), z)
    assert wanted.abs().max() > 0.1
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_cold_gumbel_softmax_draws_from_the_categorical():
    """The Gumbel-max theorem, at temperature 1e-3, where softmax is nearly a choice: 20,000 draws, standard errors < 0.0036."""
    quantiser = GumbelQuantiser(4, 4, temperature=(1.0, 1e-3))
    with torch.no_grad():
        quantiser.codebook.copy_(torch.eye(4))
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    codes = quantiser(logits[None, :, None].div(SHARP).expand(1, 4, 20_000), stream(), progress=1.0).codes
    assert torch.allclose(codes.mean((0, 2)), logits.softmax(0), atol=4 * 0.0036)
    assert torch.allclose(codes.max(1).values.mean(), torch.ones(()), atol=0.01)


def test_the_temperature_falls_from_the_first_to_the_last_and_eval_does_not_draw():
    quantiser = GumbelQuantiser(4, 3, temperature=(2.0, 0.25))
    path = [quantiser.temperature(p / 20) for p in range(21)]
    assert path[0] == pytest.approx(2.0) and path[15:] == pytest.approx([0.25] * 6)
    assert path == sorted(path, reverse=True)
    quantiser.eval()
    z = numbers(2, 4, 5)
    assert torch.equal(quantiser(z).indices, z.argmax(1))
    with pytest.raises(ValueError, match="rng"):
        quantiser.train()(z)


def test_a_gumbel_quantiser_draws_entries_on_held_out_data():
    """In eval mode with an rng: hard, with the probabilities of q, 20,000 draws, standard errors < 0.0036."""
    quantiser = GumbelQuantiser(4, 4).eval()
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    made = quantiser(logits[None, :, None].div(SHARP).expand(1, 4, 20_000), stream())
    share = made.indices.flatten().bincount(minlength=4) / 20_000
    assert torch.allclose(share, logits.softmax(0), atol=4 * 0.0036)
    assert torch.equal(made.codes, quantiser.lookup(made.indices))


@pytest.mark.parametrize("levels", [1003, 1004, 2002, 5001])
def test_finite_scalars_of_many_levels_stay_within_them(levels):
    quantiser = FiniteScalarQuantiser((levels, 3))
    z = torch.tensor([[-50.0, 50.0], [-50.0, 50.0]])[None]
    found = quantiser(z)
    assert found.indices.tolist() == [[0, quantiser.size - 1]]
    assert torch.allclose(found.codes, quantiser.lookup(found.indices), atol=1e-4)


@pytest.mark.parametrize("levels", [(3,), (8, 6, 5), (4, 4), (7, 5, 5, 5)])
def test_finite_scalars_count_every_code_once(levels):
    """index -> code -> index is the identity, all codes differ, and every one is the quantisation of some z."""
    quantiser = FiniteScalarQuantiser(levels)
    every = torch.arange(quantiser.size)
    codes = quantiser.lookup(every[:, None])[..., 0]
    assert quantiser.size == math.prod(levels) and len(codes.unique(dim=0)) == quantiser.size
    for i, n in enumerate(levels):
        assert len(codes[:, i].unique()) == n and float(codes[:, i].min()) == -1
    # f^-1 of each level (the ends a little inside, as tanh does not reach 1)
    bounded = (codes * quantiser.middle + quantiser.offset) / quantiser.reach
    z = torch.atanh(bounded.double().clamp(-1 + 1e-6, 1 - 1e-6)) - quantiser.shift
    found = quantiser(z.float()[..., None])
    assert torch.equal(found.indices[:, 0], every) and torch.allclose(found.codes[..., 0], codes, atol=1e-6)


def test_finite_scalars_begin_at_the_middle_and_pass_the_slope_of_tanh():
    quantiser = FiniteScalarQuantiser((4, 5))
    z = torch.zeros(1, 2, 1)
    assert torch.allclose(quantiser.reach * torch.tanh(quantiser.shift), quantiser.offset, atol=1e-6)
    assert torch.equal(quantiser(z).codes, torch.zeros(1, 2, 1)), "0 is the code of 0, for even levels too"
    z = numbers(3, 2, 4).requires_grad_()
    quantiser(z).codes.sum().backward()
    slope = quantiser.reach * (1 - torch.tanh(z.detach().transpose(1, 2) + quantiser.shift).square()) / quantiser.middle
    assert torch.allclose(z.grad, slope.transpose(1, 2), atol=1e-6)


def test_perplexity_counts_entries_used_alike():
    assert float(perplexity(torch.arange(12).view(3, 4), 16)) == pytest.approx(12)
    assert float(perplexity(torch.zeros(9, dtype=torch.long), 4)) == pytest.approx(1)


@pytest.mark.parametrize("size", [(8, 8), (17, 30), (5, 64), (4, 1)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_spatial_networks_take_images_of_any_size(size, channels):
    """Batch 1; the decoder gives back the size, odd or not."""
    halvings = 2 if max(size) > 7 else 1
    encoder = SpatialEncoder((channels, *size), 5, halvings, 8, 1)
    decoder = SpatialDecoder(5, (channels, *size), halvings, 8, 1)
    z = encoder(numbers(1, channels, *size))
    assert z.shape == (1, 5, *grids(*size, halvings)[-1]) and decoder(z).shape == (1, channels, *size)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda: VectorQuantiser(1, 4), "at least 2"),
        (lambda: VectorQuantiser(4, 4, decay=1.0), "decay=1.0"),
        (lambda: VectorQuantiser(4, 4, restart=2.0), "restart=2.0"),
        (lambda: GumbelQuantiser(4, 4, temperature=(1.0, 0.0)), "two positive numbers"),
        (lambda: FiniteScalarQuantiser((2, 5)), "at least 3 levels"),
        (lambda: FiniteScalarQuantiser(()), "at least 3 levels"),
        (lambda: grids(8, 8, 3), "at most 2"),
    ],
)
def test_nonsense_is_a_sentence(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        wrong()
