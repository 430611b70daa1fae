"""A run's log-density in the data's own units: sums and integrals are at most one, whatever the columns."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import pushforward as pf
from pushforward.data.spec import Column, DataSpec
from pushforward.models.contract import LogProb
from pushforward.training.runs import Run

QUICK = {"tensorboard": False, "picture_every": 0, "validate_every": 0, "precision": "fp32"}


class Uniform(torch.nn.Module):
    """The uniform density on the levels' boxes."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def log_prob(self, x, *, condition=None):
        width = 2 / (self.spec.levels - 1)
        inside = (x.abs() <= 1 + width / 2 + 1e-6).flatten(1).all(1)
        value = torch.where(inside, -self.spec.dimensions * math.log(2 + width), -torch.inf)
        return LogProb(value, "exact")


@pytest.mark.parametrize("levels, bits", [(256, 8), (17, math.log2(17)), (65536, 16)])
def test_a_uniform_image_model_has_exactly_its_bits(levels, bits, tmp_path):
    spec = DataSpec("image", (3, 4, 5), levels=levels)
    run = Run(Uniform(spec), spec, tmp_path, {"model": {"name": "uniform"}})
    codes = torch.randint(levels, (20, 3, 4, 5))
    found = run.log_prob_codes(codes)
    assert found.kind == "bound"
    torch.testing.assert_close(-found.value / (60 * math.log(2)), torch.full((20,), float(bits)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("name", ["gaussian", "gmm"])
def test_a_table_with_gaps_is_a_probability(name, scale, tmp_path):
    """Mass of 'missing' plus the integral over numbers is at most 1 (and near it), at every scale of the column."""
    rng = np.random.default_rng(0)
    v = rng.normal(0, scale, 4000)
    v[rng.random(4000) < 0.5] = np.nan
    data = pf.load_data(pd.DataFrame({"v": v}))
    run = pf.train(pf.create(name, data.spec), data, out=str(tmp_path / "run"), **QUICK)
    grid = np.linspace(-6 * scale, 6 * scale, 2001)
    density = run.log_prob(pd.DataFrame({"v": grid}))
    there = density.value.exp().sum().item() * (grid[1] - grid[0])
    missing = run.log_prob(pd.DataFrame({"v": [np.nan]})).value.exp().item()
    assert density.kind == "bound"
    assert 0.1 < there + missing < 1.02 and missing < 0.6, (there, missing)


@pytest.mark.parametrize("name", ["gaussian", "gmm", "vae", "flow-matching"])
def test_categories_sum_to_at_most_one(name, tmp_path):
    """The bound of each category's probability; before noise was added, an ODE's point density summed to thousands."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(list("abc"), 600, p=[0.5, 0.3, 0.2])
    data = pf.load_data(pd.DataFrame({"kind": kinds}))
    settings = {"gaussian": {}, "gmm": {}, "vae": {"width": 64}, "flow-matching": {"width": 64}}[name]
    torch.manual_seed(0)
    run = pf.train(pf.create(name, data.spec, **settings), data, steps=400, out=str(tmp_path / "run"), **QUICK)
    found = run.log_prob(pd.DataFrame({"kind": ["a", "b", "c"]}))
    assert found.value.exp().sum() < 1.05


@pytest.mark.parametrize("name", ["gaussian", "vae"])
def test_the_density_of_a_datum_does_not_depend_on_its_neighbours(name, tmp_path):
    data = pf.load_data("digits")
    torch.manual_seed(0)
    run = pf.train(pf.create(name, data.spec), data, steps=2, out=str(tmp_path / "run"), **QUICK)
    codes = data.test.codes[:9]
    together = run.log_prob_codes(codes).value
    alone = torch.cat([run.log_prob_codes(codes[i : i + 1]).value for i in range(9)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-2)  # float32 sums of 64 terms of hundreds of nats


def test_options_of_a_density_are_checked(tmp_path):
    spec = DataSpec("point", (2,), columns=(Column("a", "number"), Column("b", "number")))
    model = pf.create("vae", spec, width=8)
    run = Run(model.eval(), spec, tmp_path, {"model": {"name": "vae"}})
    x = np.zeros((3, 2), np.float32)
    assert run.log_prob(x, draws=2, chunk=3).value.shape == (3,)
    with pytest.raises(pf.UserError, match="no option for log_prob 'kraws'; did you mean draws"):
        run.log_prob(x, kraws=3)
    for options in ({"draws": 0}, {"chunk": -1}, {"noise_draws": 0}, {"batch_size": 0}):
        with pytest.raises(pf.UserError, match="at least 1"):
            run.log_prob(x, **options)
