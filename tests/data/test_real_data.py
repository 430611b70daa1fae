"""Everything in a folder of real data loads with at most one option."""

import os
from pathlib import Path

import pytest
import torch

from pushforward.data.batches import Batches
from pushforward.data.inspection import describe
from pushforward.data.loading import load_data

ROOT = Path(os.environ.get("PUSHFORWARD_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason=f"no folder of real data at {ROOT} (set PUSHFORWARD_TEST_DATA)")

SOURCES = [
    ("mnist/mnist.npz", {}, (1, 28, 28)),
    ("fashion_mnist", {}, (1, 28, 28)),
    ("cifar10", {}, (3, 32, 32)),
    ("cifar10/lossless_4k.npz", {}, (3, 32, 32)),
    ("celeba_64", {"attributes": "Smiling,Male"}, (3, 64, 64)),
    ("maps_128", {"target_image": "map"}, (3, 128, 128)),
    ("twemoji", {"caption": "caption"}, (4, 72, 72)),
    ("orl_faces", {"label": "subject"}, (1, 28, 23)),
    ("coil20", {"label": "object"}, (1, 32, 32)),
    ("text/tinyshakespeare.txt", {}, (64,)),
    ("text/verne_fr", {}, (64,)),
]
CLASSES = {"mnist": 10, "cifar10": 10, "orl_faces": 40, "coil20": 20}


def check(path: Path, options: dict, **more):
    if not path.exists():
        pytest.skip(f"{path} is not there")
    data = load_data(path, **options, **more)
    batch = Batches(data.train, data.spec, 3, dequantise=True).at(0)
    assert tuple(batch.x.shape) == (3, *data.spec.shape) and torch.isfinite(batch.x.float()).all()
    assert describe(data).text()
    return data


@pytest.mark.parametrize("path, options, shape", SOURCES)
def test_images_and_text(path, options, shape):
    limit = {} if path.startswith("text") else {"limit": 300}
    data = check(ROOT / path, options, **limit)
    assert data.spec.shape == shape
    if path in CLASSES:
        assert data.spec.classes == CLASSES[path]


def files(folder: str) -> list[str]:
    return sorted(path.name for path in (ROOT / folder).glob("*.csv")) if ROOT.is_dir() else []


@pytest.mark.parametrize("name", files("tabular"))
def test_tables(name):
    assert check(ROOT / "tabular" / name, {}).spec.kind == "table"


@pytest.mark.parametrize("name", files("timeseries"))
def test_series(name):
    assert check(ROOT / "timeseries" / name, {"series": 24}).spec.shape[0] == 24
    assert check(ROOT / "timeseries" / name, {}).spec.kind == "table"
