"""What models of exact likelihood learn by, where values alone would not show it: gradients, who trains what, and the rows of
conditions."""

import math

import pytest
import torch

from pushforward.bijections.coupling import Block, Checkerboard
from pushforward.bijections.shapes import Split
from pushforward.data.batches import Batch
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.distributions.mixed import MixedColumns
from pushforward.distributions.pixels import LogisticMixture
from pushforward.models.autoregressive.columns import MADE
from pushforward.models.autoregressive.pixels import PixelModel
from pushforward.models.flows.flow import Flow
from pushforward.models.flows.srflow import SRFlow
from pushforward.models.variational.posteriors import posterior
from pushforward.nets.pixel_rnn import DiagonalLayer, RowLayer
from pushforward.nets.transformer import Decoder
from pushforward.randomness import SampleRng, UpdateRng

CLASSES = Condition("class", 3, frequencies=(0.5, 0.3, 0.2))
PAIRS = DataSpec("image", (1, 8, 8), levels=17, condition=Condition("image", 16, shape=(1, 4, 4), levels=17))


def stirred(module, size=0.3):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module.double()


@pytest.mark.parametrize(
    "made",
    [
        lambda: MADE(DataSpec("point", (2,), CLASSES)),
        lambda: Flow(DataSpec("point", (2,), CLASSES)),
        lambda: Flow(DataSpec("image", (1, 4, 4), levels=4), dequantisation="variational"),
        lambda: SRFlow(PAIRS, steps=1, width=8),
        lambda: PixelModel(DataSpec("image", (1, 4, 4), CLASSES, levels=4), width=4, depth=2),
    ],
)
def test_players_train_all_that_there_is(made):
    model = made()
    owned = {id(p) for player in model.players() if player.loss is not None for p in player.parameters()}
    assert owned == {id(p) for p in model.parameters()}


def test_a_pixel_model_learns_what_its_density_says_of_each_class():
    made = stirred(PixelModel(DataSpec("image", (1, 4, 4), CLASSES, levels=256), width=4, depth=2), 0.2)
    x, classes = (torch.randint(256, (4, 1, 4, 4)) * 2.0 / 255 - 1).double(), torch.tensor([0, 1, 2, 2])
    loss = made.loss(Batch(x, classes), UpdateRng(torch.Generator()))
    loss.total.backward()
    assert all(bool(p.grad.any()) for p in made.embed.parameters() if p is not made.embed.null)
    exact = made.log_prob(x, condition=classes).value + 16 * math.log(2 / 255)
    torch.testing.assert_close(loss.terms["nats"], -exact.mean())
    nothing = torch.zeros_like(x).bool()
    drawn = made.sample(4, condition=classes, generator=3)
    assert torch.equal(made.complete(x, nothing, condition=classes, generator=3), drawn)


def test_levels_are_read_as_they_are():
    made, every = PixelModel(DataSpec("image", (1, 4, 4), levels=256), width=4, depth=2), torch.arange(256).view(-1, 1, 1, 1)
    assert torch.equal(made._levels(every.float() * (2 / 255) - 1), every)


def test_candidates_of_a_row_have_its_class():
    model = stirred(MADE(DataSpec("point", (1,), CLASSES), width=8), 0.5).eval()
    x, nothing, classes = torch.zeros(2, 1).double(), torch.zeros(2, 1).bool(), torch.tensor([0, 2])
    both = model.complete(x, nothing, condition=classes, generator=SampleRng(0), candidates=4)
    second = model.complete(x[1:], nothing[1:], condition=classes[1:], generator=SampleRng(0, first=1), candidates=4)
    torch.testing.assert_close(both[1:], second)


@pytest.mark.parametrize("make", [lambda: RowLayer(3, 3, 0.0), lambda: DiagonalLayer(3, 0.0)], ids=["row", "diagonal"])
def test_gradients_run_through_all_states(make):
    layer, x = stirred(make(), 0.1), torch.randn(1, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x, None), (x,))


def test_gradients_run_through_queries_keys_and_values():
    decoder = stirred(Decoder(5, 6, depth=1, heads=2, width=8))
    first, none = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True), torch.zeros(1, 0, dtype=torch.long)
    assert torch.autograd.gradcheck(lambda first: decoder(none, first=first), (first,))


def test_gradients_of_logistic_mixtures():
    """All their numbers, the coefficients between the channels too."""
    law = LogisticMixture(3, 16, 2)
    outputs = torch.randn(1, law.outputs, 1, 1, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([3, 9, 15]).view(1, 3, 1, 1)
    assert torch.autograd.gradcheck(lambda outputs: law.log_mass(outputs, x), (outputs,))


def test_learned_noise_hears_of_the_image():
    model = stirred(Flow(DataSpec("image", (1, 4, 4), levels=4), dequantisation="variational", steps=1, width=8), 0.1)
    x = torch.tensor([-1, -1 / 3, 1 / 3, 1], dtype=torch.float64)[torch.randint(4, (3, 1, 4, 4))]
    model.loss(Batch(x), UpdateRng(torch.Generator())).total.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.dequantiser.features.parameters())


@pytest.mark.parametrize("kind", ["iaf", "planar", "radial", "sylvester"])
def test_a_bent_posterior_speaks_to_the_encoder(kind):
    bent = stirred(posterior(kind, 3))
    said = torch.randn(2, bent.outputs, dtype=torch.float64, requires_grad=True)
    z, log_slopes = bent.draw(said, torch.randn(2, 4, 3, dtype=torch.float64))
    (z.sum() + log_slopes.sum()).backward()
    assert bool(said.grad[:, 6:].any(0).all())


def test_srflow_passes_its_options_on():
    options = {"steps": 1, "width": 8, "checkerboard": 1, "alpha": 0.2, "dequantisation": "variational"}
    model, flow = SRFlow(PAIRS, **options), Flow(PAIRS, **options)
    assert str(model.bijection) == str(flow.bijection) and model.dequantiser is not None and model.reach == flow.reach


def test_gradients_of_mixed_columns():
    columns = (Column("whole", "number", integer=True, scale=2.0), Column("number", "number"))
    law = MixedColumns(columns, 2)
    parameters = torch.randn(1, len(law.column_of_output), dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.5, -0.3]], dtype=torch.float64)
    still, unit = torch.zeros_like(x), torch.ones(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: law.log_prob(p, x, still, unit), (parameters,))


def test_checkerboards_take_turns_at_every_level_and_splits_hear_of_the_condition():
    spec = DataSpec("image", (1, 8, 8), CLASSES, levels=17)
    model = Flow(spec, steps=1, levels=2, checkerboard=2, width=8)
    kept = [part.kept.tolist() for part in model.bijection.modules() if isinstance(part, Checkerboard)]
    assert len(kept) == 4 and kept[0] != kept[1] and kept[2] != kept[3]
    split = next(part for part in model.bijection.modules() if isinstance(part, Split))
    assert any(block.context is not None for block in split.gaussian.network.modules() if isinstance(block, Block))
