"""Pairs of images in two sub-folders, by their names: which belong together, and what is said where they do not."""

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward import UserError, load_data
from pushforward.data.batches import take


def write(path, value, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8) if mode == "L" else (6, 8, 3), value, np.uint8)).save(path)


@pytest.fixture()
def place(tmp_path):
    """Twelve pairs: the photograph of i is i, its map, in colour and with another ending, 100 + i."""
    for i in range(12):
        write(tmp_path / "aerial" / f"{i}.bmp", i)
        write(tmp_path / "map" / f"{i}.png", 100 + i, "RGB")
    return tmp_path


@pytest.mark.parametrize("options", [{}, {"image": "aerial"}])
def test_pairs_by_name(place, options):
    data = load_data(place, target_image="map", **options)
    assert data.spec.shape == (3, 6, 8) and data.spec.condition.kind == "image" and data.spec.condition.shape == (1, 6, 8)
    codes, given = take(data.train)
    assert (
        torch.equal(codes[:, 0, 0, 0], given[:, 0, 0, 0] + 100)
        and len(data.train) + len(data.validation) + len(data.test) == 12
    )
    back = take(load_data(place, image="map", target_image="aerial").train)
    assert torch.equal(back[0][:, 0, 0, 0] + 100, back[1][:, 0, 0, 0])


def test_pairs_in_parts(place, tmp_path_factory):
    there = tmp_path_factory.mktemp("parts")
    for i in range(10):
        part = "train" if i < 7 else "test"
        write(there / part / "aerial" / "town" / f"{i}.png", i)
        write(there / part / "map" / "town" / f"{i}.png", 100 + i)
    data = load_data(there, image="aerial", target_image="map")
    codes, given = take(data.test)
    assert sorted(given[:, 0, 0, 0].tolist()) == [7, 8, 9] and torch.equal(codes, given + 100)


def test_what_is_no_pair_is_said(place):
    (place / "map" / "5.png").unlink()
    with pytest.raises(
        UserError, match=r"aerial/ has 12 of train and map/ 11, and aerial/5 has no partner .* in map/ \(1 have none"
    ):
        load_data(place, target_image="map")
    write(place / "map" / "55.png", 0)
    with pytest.raises(UserError, match="aerial/ has 12 of train and map/ 12, and aerial/5 has no partner"):
        load_data(place, target_image="map")
    write(place / "map" / "5.png", 0)
    with pytest.raises(UserError, match="map/55 has no partner of its name in aerial/"):
        load_data(place, target_image="map")


def test_which_sub_folders(place):
    with pytest.raises(UserError, match="did you mean map"):
        load_data(place, target_image="maps")
    with pytest.raises(UserError, match="did you mean aerial"):
        load_data(place, image="areal", target_image="map")
    with pytest.raises(UserError, match="has no other"):
        load_data(place, image="map", target_image="map")
    write(place / "sketch" / "1.png", 0)
    with pytest.raises(UserError, match="has aerial, sketch beside it; say so by image="):
        load_data(place, target_image="map")
    assert load_data(place, image="aerial", target_image="map").spec.shape == (3, 6, 8)
    write(place / "map" / "5.gif", 0)
    with pytest.raises(UserError, match="5 is there twice in map/"):
        load_data(place, image="aerial", target_image="map")
    with pytest.raises(UserError, match="image='aerial' means nothing"):
        load_data(place, image="aerial")
    with pytest.raises(UserError, match="were given together"):
        load_data(place, target_image="map", label="folder")
