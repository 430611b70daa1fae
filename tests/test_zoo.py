"""Every name in the zoo: trains on tiny real data, samples, saves, loads, samples the same, keeps the contract."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pushforward as pf
from pushforward import zoo
from pushforward.models.contract import Density
from pushforward.training.settings import TrainingSettings

QUICK = {"steps": 3, "batch_size": 16, "tensorboard": False, "picture_every": 0, "precision": "fp32"}
TEXT = "the quick brown fox jumps over the lazy dog. " * 60
SMALL = {
    "flow-matching": {"width": 32, "depth": 1},
    "vae": {"width": 32},
    "gan": {"width": 8},
    "gpt": {"width": 32, "depth": 2, "heads": 2},
    "gmm": {"components": 2},
}


def data_of(kind, tmp_path):
    generator = np.random.default_rng(0)
    if kind == "image":
        return pf.load_data("digits")
    if kind == "tokens":
        path = tmp_path / "fox.txt"
        path.write_text(TEXT)
        return pf.load_data(str(path), context=16)
    if kind == "point":
        return pf.load_data("moons", n=400)
    if kind == "series":
        return pf.load_data(generator.normal(size=(300, 2)), series=8)
    path = tmp_path / "table.csv"
    rows = [f"{a:.3f},{i % 7},{'xyz'[i % 3]}" for i, a in enumerate(generator.normal(size=300))]
    path.write_text("a,count,kind\n" + "\n".join(rows))
    return pf.load_data(str(path))


PAIRS = [(name, kind) for name, line in zoo.ZOO.items() for kind in line.kinds]


@pytest.mark.parametrize("name, kind", PAIRS, ids=[f"{name}-{kind}" for name, kind in PAIRS])
def test_trains_samples_saves_loads(name, kind, tmp_path):
    data = data_of(kind, tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pf.create(name, data.spec, **SMALL.get(name, {}))
    run = pf.train(model, data, out=str(tmp_path / "run"), **QUICK)
    report = pf.check_model(run.model, data, strict=False)
    assert report.ok, str(report)
    again = pf.load(tmp_path / "run")
    codes = run.sample_codes(7, seed=3)
    assert torch.equal(codes, again.sample_codes(7, seed=3))
    # Chunks of another size: other matrix products, so equal up to float rounding (a level, at a boundary).
    chunked = run.sample_codes(7, seed=3, batch_size=2)
    close = (codes.float() - chunked.float()).abs() <= (1 if data.spec.kind in ("image", "table") else 1e-3)
    assert close.all() and (codes == chunked).float().mean() > (0.95 if data.spec.kind in ("image", "tokens") else 0)
    if isinstance(run.model, Density):
        x = run.sample(4, seed=1)
        found = run.log_prob(x if kind != "tokens" else list(x))
        assert found.value.shape == (4,) and found.value.isfinite().all()


def test_an_unknown_setting_names_the_nearest():
    data = pf.load_data("digits")
    with pytest.raises(pf.UserError, match="no setting 'latentdim'; did you mean latent_dim"):
        pf.create("vae", data.spec, latentdim=4)


def test_every_setting_is_explained():
    from docstring_parser import parse

    for name, line in zoo.ZOO.items():
        said = {p.arg_name for p in parse(line.load().__doc__ or "").params}
        assert set(zoo.options(name)) <= said, f"{name}: {set(zoo.options(name)) - said} unexplained"


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_name_what_exists(path):
    recipe = yaml.safe_load(path.read_text())
    options = zoo.options(recipe.pop("name"))
    assert set(recipe.pop("model", {})) <= set(options)
    from inspect import signature

    known = set(TrainingSettings.__dataclass_fields__) | set(signature(pf.load_data).parameters) | {"data", "evaluate"}
    assert set(recipe) <= known, set(recipe) - known


def test_docs_have_a_page_for_every_method():
    docs = Path(__file__).parents[1] / "docs"
    for name in zoo.ZOO:
        page = (docs / f"{name}.md").read_text()
        assert f"pushforward train {name}" in page and "![" in page
        for picture in [part.split(")")[0] for part in page.split("](")[1:] if part.split(")")[0].endswith(".png")]:
            assert (docs / picture).exists(), picture
