"""Flows that begin at another law than the normal: what holds for them, and what is refused."""

import pytest
import torch
from torch import nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.sources import Rows, find_source
from pushforward.errors import UserError
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.randomness import SampleRng

PLANE = DataSpec("point", (2,), name="plane")
SHIFT = torch.tensor([3.0, -1.0])


class Constant(nn.Module):
    """The velocity of data that are the noise less SHIFT."""

    def forward(self, x, t, embedding=None):
        return SHIFT.to(x) + 0 * x


def shifted(source, **settings):
    return Diffusion(PLANE, net=Constant(), source=source, **settings)


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4", "dopri5", "ddim"])
def test_samples_are_the_source_carried_along(solver):
    model = shifted("moons")
    drawn = find_source("moons", PLANE).draw(50, SampleRng(4))
    assert torch.allclose(model.sample(50, generator=4, solver=solver, steps=3), drawn - SHIFT, atol=1e-4)
    assert torch.equal(model.draw_codes(50, generator=4), drawn)
    assert torch.allclose(model.encode(drawn - SHIFT), drawn, atol=1e-5)


def test_the_density_is_that_of_the_source_carried_along():
    model, source = shifted("moons"), find_source("moons", PLANE)
    z = source.draw(20, SampleRng(0))
    assert torch.allclose(model.log_prob(z - SHIFT).value, source.log_prob(z), atol=1e-4)


def test_the_loss_is_of_pairs_with_the_source():
    """Data that are the source's own rows less SHIFT: matched by optimal transport within the batch they are pairs again, and
    the constant velocity leaves nothing; with independent pairs the variance of both is left."""
    rows = torch.randn(64, 2)
    batch = Batch(rows - SHIFT)
    matched = shifted(lambda n, rng: rows.flip(0), coupling="optimal-transport")
    assert float(matched.loss(batch, SampleRng(0)).total) < 1e-10
    assert float(shifted(lambda n, rng: rows.flip(0)).loss(batch, SampleRng(0)).total) > 0.5
    x0, noise, condition = shifted(Rows(rows), coupling="sinkhorn").pairs(batch, SampleRng(0))
    assert torch.equal(x0, batch.x) and condition is None
    assert (noise[:, None] == rows).all(-1).any(1).all()
    assert (noise - x0 - SHIFT).norm(dim=1).mean() < 1 < (rows.flip(0) - x0 - SHIFT).norm(dim=1).mean()


def test_what_needs_a_normal_source_is_refused():
    model = shifted("moons")
    with pytest.raises(UserError, match="knows no score"):
        model.score(torch.zeros(2, 2), torch.full((2,), 0.5))
    for solver in ("ancestral", "euler-maruyama"):
        with pytest.raises(UserError, match=f"the solver {solver}"):
            model.sample(3, solver=solver)
    with pytest.raises(UserError, match="draws alone"):
        shifted(Rows(torch.zeros(5, 2))).log_prob(torch.zeros(2, 2))
    for path in ("edm", "variance-exploding"):
        with pytest.raises(UserError, match="path='linear'"):
            shifted("moons", path=path)
    with pytest.raises(UserError, match="sinkhorn"):
        Diffusion(PLANE, coupling="sinkhron")
    assert shifted("normal").sample(3, solver="ancestral").shape == (3, 2)
