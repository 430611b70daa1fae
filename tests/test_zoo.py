"""Every name in the zoo: trains on tiny real data, samples, saves, loads, samples the same, keeps the contract."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pushforward as pf
from pushforward import building, zoo
from pushforward.data.batches import ArraySplit, take, take_conditions
from pushforward.data.conditions import can_be_drawn
from pushforward.data.spec import Condition
from pushforward.models.contract import Density, Samples, Translates
from pushforward.training.records import is_yours, plain_settings
from pushforward.training.settings import TrainingSettings

QUICK = {"steps": 3, "batch_size": 16, "tensorboard": False, "picture_every": 0, "precision": "fp32"}
TEXT = "the quick brown fox jumps over the lazy dog. " * 60
SMALL = {  # by class: the names that share one are as small
    "Diffusion": {"width": 32, "depth": 1, "steps": 6},
    "ImprovedDDPM": {"width": 32, "depth": 1, "levels": 20, "steps": 6},
    "VDM": {"width": 32, "depth": 1, "steps": 6},
    "ScoreMatching": {"width": 32, "depth": 1, "steps": 6},
    "RectifiedFlow": {"width": 32, "depth": 1, "steps": 6},
    "Consistency": {"width": 32, "depth": 1},
    "Cold": {"width": 32, "depth": 1, "steps": 6},
    "NoisyClassifier": {"width": 32, "depth": 1},
    "Palette": {"width": 16, "depth": 1, "steps": 6},
    "DiscreteDiffusion": {"width": 16, "depth": 1, "heads": 2},
    "EmbeddedDiffusion": {"width": 16, "depth": 1, "heads": 2},
    "VAE": {"width": 32},
    "HierarchicalVAE": {"width": 16, "levels": 2},
    "VQVAE": {"width": 16},
    "VQVAE2": {"width": 16},
    "Autoencoder": {"width": 32, "components": 2},
    "DenoisingAutoencoder": {"width": 32, "components": 2},
    "GLO": {"width": 32, "capacity": 4096},
    "SlicedWassersteinAE": {"width": 32},
    "GAN": {"width": 8},
    "StyleGAN": {"width": 4, "latent_dim": 8},
    "DenoisingDiffusionGAN": {"width": 16, "steps": 2},
    "Pix2Pix": {"width": 8},
    "CycleGAN": {"width": 4, "blocks": 1, "pool": 8},
    "StyleTransfer": {"width": 4, "halvings": 1},
    "GPT": {"width": 32, "depth": 2, "heads": 2},
    "GaussianMixture": {"components": 2},
}


PAIRED = {"Pix2Pix", "SRFlow", "Palette"}  # classes whose data are images given images
TWO_CLASSES = {"CycleGAN"}  # classes whose data are images of two classes


def class_of(name):
    return building.method(name).path.partition(":")[2]


def small(name):
    return SMALL.get(class_of(name), {})


def data_for(name, kind, tmp_path):
    """Data of a kind that a method learns."""
    if name == "diffusion-restoration":  # what is given is made of the image
        return pf.load_data("digits", label="none")
    if class_of(name) in PAIRED:
        return pairs_of_digits()
    if class_of(name) in TWO_CLASSES:
        codes, digits = take(pf.load_data("digits").train)
        return pf.load_data((codes[digits < 2].numpy(), digits[digits < 2].numpy()))
    data = data_of(kind, tmp_path)
    if class_of(name) == "PixelModel" and kind == "tokens":
        codes = replace(data.spec.vocabulary, kind="codes", tokens=(), grid=(4, 4))
        return data.replace(spec=replace(data.spec, vocabulary=codes), source={"source": "<codes>"})
    return data


def pairs_of_digits():
    """Digits and, given beside each, its negative."""
    data = pf.load_data("digits", label="none")
    splits = {part: ArraySplit(codes := take(getattr(data, part))[0], 16 - codes) for part in ("train", "validation", "test")}
    given = Condition("image", 1, shape=data.spec.shape, levels=data.spec.levels)
    return data.replace(spec=replace(data.spec, condition=given), source={"source": "<pairs>"}, **splits)


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
    if kind == "field":
        return pf.load_data(generator.normal(size=(200, 3, 8, 10)).astype("float32"), kind="field")
    if kind == "series":
        return pf.load_data(generator.normal(size=(300, 2)), series=8)
    path = tmp_path / "table.csv"
    rows = [f"{a:.3f},{i % 7},{'xyz'[i % 3]}" for i, a in enumerate(generator.normal(size=300))]
    path.write_text("a,count,kind\n" + "\n".join(rows))
    return pf.load_data(str(path))


def kinds_of(name):
    """All kinds of data for the first name of a class with its own networks; one for names that only set other choices. Of
    diffusions, whose classes differ in little else than the loss, numbers that are levels and numbers that are none."""
    line = zoo.ZOO[name]
    first = name == next(other for other, entry in zoo.ZOO.items() if entry.path == line.path)
    if line.family == "diffusion" and name not in ("flow-matching", "masked-diffusion"):
        several = first and name != "noisy-classifier"  # which wants labels
        return [kind for kind in line.kinds if kind in ("image", "point", "tokens")][: 2 if several else 1]
    return line.kinds if first or line.family not in ("adversarial", "diffusion") else line.kinds[:1]


PAIRS = [(name, kind) for name in zoo.ZOO for kind in kinds_of(name)]


@pytest.mark.parametrize("name, kind", PAIRS, ids=[f"{name}-{kind}" for name, kind in PAIRS])
def test_trains_samples_saves_loads(name, kind, tmp_path):
    data = data_for(name, kind, tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pf.create(name, data.spec, **small(name))
    run = pf.train(model, data, out=str(tmp_path / "run"), **QUICK)
    report = pf.check_model(run.model, data, strict=False)
    assert report.ok, str(report)
    again = pf.load(tmp_path / "run")
    if isinstance(run.model, Translates):
        translates_alike(run, again, data)
    if not isinstance(run.model, Samples):
        return
    asked = None if can_be_drawn(data.spec.condition) else take_conditions(data, 7, 0)
    codes = run.sample_codes(7, seed=3, condition=asked)
    assert torch.equal(codes, again.sample_codes(7, seed=3, condition=asked))
    # Chunks of another size: other matrix products, so equal up to float rounding (a level, at a boundary).
    chunked = run.sample_codes(7, seed=3, condition=asked, batch_size=2)
    close = (codes.float() - chunked.float()).abs() <= (1 if data.spec.kind in ("image", "table") else 1e-3)
    same = (codes == chunked).float().mean()  # of floats none need be: products of other shapes round otherwise
    assert close.all() and (same > 0.95 or data.spec.kind not in ("image", "tokens"))
    if isinstance(run.model, Density):
        told = None if asked is None else asked[:4]
        x = run.sample(4, seed=1, condition=told)
        found = run.log_prob(x if kind != "tokens" else list(x), condition=told)
        assert found.value.shape == (4,) and found.value.isfinite().all()


def translates_alike(run, again, data):
    """A run and the same one loaded translate held-out images to the same ones, which are codes of the data."""
    x, condition = take(data.held_out, 5)
    paired = class_of(run.record["model"]["name"]) in PAIRED and condition is not None
    given = {"x": condition} if paired else {"x": x, "condition": condition}
    made, once_more = (torch.as_tensor(np.asarray(one.translate(**given, seed=3))) for one in (run, again))
    assert torch.equal(made, once_more) and tuple(made.shape[1:]) == data.spec.shape
    assert 0 <= int(made.min()) <= int(made.max()) < data.spec.levels


@pytest.mark.parametrize("name", ["autoencoder", "denoising-autoencoder", "glo", "swae", "vae", "iwae", "iaf-vae", "vq-vae"])
def test_codes_larger_than_the_data_are_no_mistake(name, tmp_path):
    """Nine numbers for a point of two: it trains, samples and gives back what it can; only a linear one refuses, in words."""
    data = pf.load_data(data_of("point", tmp_path).train.fetch(torch.arange(200))[0].numpy())
    size = {"positions": 9} if name == "vq-vae" else {"latent_dim": 9}
    run = pf.train(pf.create(name, data.spec, **size, **small(name)), data, out=str(tmp_path / "run"), **QUICK)
    assert run.sample_codes(5, seed=0).isfinite().all()
    assert np.isfinite(np.asarray(run.reconstruct(run.sample_codes(5, seed=0)))).all()


def test_sizes_of_nothing_are_refused():
    data = pf.load_data("digits")
    for setting, said in (
        ({"latent_dim": 0}, "latent_dim = 0 was given; it is at least 1"),
        ({"width": 0}, "width = 0 was given"),
        ({"dropout": 1.0}, "a rate, at least 0 and below 1"),
        ({"condition_dropout": 2.0}, "a rate, at least 0 and below 1"),
        ({"condition_dropout": -0.5}, "a rate, at least 0 and below 1"),
    ):
        with pytest.raises(pf.UserError, match=said):
            pf.create("vae", data.spec, **setting)


def test_an_unknown_setting_names_the_nearest():
    data = pf.load_data("digits")
    with pytest.raises(pf.UserError, match="no setting 'latentdim'; did you mean latent_dim"):
        pf.create("vae", data.spec, latentdim=4)


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_a_run_holds_the_whole_model(name, tmp_path, monkeypatch):
    """A default that changes later changes no run of today: every setting is in run.yaml, as plain values."""
    data = data_for(name, zoo.ZOO[name].kinds[0], tmp_path)
    model = pf.create(name, data.spec, **small(name))
    networks = {key for key, p in building.options(name).items() if "Module" in str(p.annotation)}
    assert set(model.settings) == set(building.options(name)) - networks
    again = yaml.safe_load(yaml.safe_dump(plain_settings(model.settings)))
    later = dict.fromkeys(building.options(name), 10**9)  # nonsense, if any of it were used
    monkeypatch.setitem(zoo.ZOO, name, replace(zoo.ZOO[name], settings={k: later[k] for k in later if k not in networks}))
    rebuilt = pf.create(name, data.spec, **again)
    assert [p.shape for p in rebuilt.parameters()] == [p.shape for p in model.parameters()]
    assert rebuilt.settings == model.settings


def test_what_is_not_plain_is_named_at_any_depth():
    model = torch.nn.Identity()
    model.settings = {"a": (1, 2), "b": {"c": [torch.nn.SiLU(), 1.5]}, "d": torch.nn.ReLU(), "e": None}
    plain = {"a": [1, 2], "b": {"c": ["<your SiLU>", 1.5]}, "d": "<your ReLU>", "e": None}
    assert plain_settings(model.settings) == plain
    assert [key for key, value in plain.items() if is_yours(value)] == ["b", "d"]


def test_networks_of_your_own_are_asked_for_again(tmp_path):
    data = pf.load_data("moons", n=200)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 8))
    model = pf.create("vae", data.spec, width=16, latent_dim=4, encoder=encoder)
    run = pf.train(model, data, out=str(tmp_path / "run"), **QUICK)
    with pytest.raises(pf.UserError, match=r"pf.load\(path, encoder=\.\.\.\)"):
        pf.load(tmp_path / "run")
    with pytest.raises(pf.UserError, match="resume it with the model itself"):
        pf.train("vae", data, out=str(tmp_path / "run"), resume=True)
    again = pf.load(tmp_path / "run", encoder=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 8)))
    assert torch.equal(run.sample_codes(5, seed=1), again.sample_codes(5, seed=1))


def test_every_family_is_kept_apart():
    root = Path(__file__).parents[1]
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    kept = [contract for contract in contracts if contract["type"] in ("independence", "forbidden")]
    listed = {name for contract in kept for key in ("modules", "source_modules") for name in contract.get(key, [])}
    folders = {f"pushforward.models.{p.parent.name}" for p in (root / "src/pushforward/models").glob("*/__init__.py")}
    assert listed == folders


def test_every_setting_is_explained():
    from docstring_parser import parse

    for name, line in zoo.ZOO.items():
        said = {p.arg_name for p in parse(line.load().__doc__ or "").params}
        assert set(building.options(name)) <= said, f"{name}: {set(building.options(name)) - said} unexplained"


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_name_what_exists(path):
    recipe = yaml.safe_load(path.read_text())
    options = building.options(recipe.pop("name"))
    assert set(recipe.pop("model", {})) <= set(options)
    from inspect import signature

    known = set(TrainingSettings.__dataclass_fields__) | set(signature(pf.load_data).parameters) | {"data", "evaluate"}
    assert set(recipe) <= known, set(recipe) - known


def test_docs_have_a_page_for_every_method():
    docs = Path(__file__).parents[1] / "docs"
    for name, line in zoo.ZOO.items():
        page = (docs / f"{line.page or name}.md").read_text()
        assert f"pushforward train {name}" in page and "![" in page
        for picture in [part.split(")")[0] for part in page.split("](")[1:] if part.split(")")[0].endswith(".png")]:
            assert (docs / picture).exists(), picture
