"""Data and short runs for the tests of autoencoders."""

from __future__ import annotations

import dataclasses
import functools
import tempfile

import torch

from pushforward.data.batches import ArraySplit, Data
from pushforward.data.loading import load_data
from pushforward.data.spec import Condition, DataSpec
from pushforward.randomness import UpdateRng, seeded
from pushforward.training.train import train


def stream(seed: int = 0) -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(seed))


@functools.cache
def digits() -> Data:
    return load_data("digits", label="none")


@functools.cache
def labelled() -> Data:
    return load_data("digits")


def known_classes(spec: DataSpec, classes: int) -> DataSpec:
    return dataclasses.replace(spec, condition=Condition("class", classes))


def few(data: Data, each: int, seed: int) -> Data:
    """`each` data of each class."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    label = data.train.condition[order]
    rows = torch.cat([order[label == c][:each] for c in label.unique()])
    return data.replace(train=ArraySplit(data.train.codes[rows], data.train.condition[rows]))


def fitted(kind, data: Data, *, steps: int, batch_size: int = 128, **settings):
    """A model of this kind trained by the library's loop."""
    with seeded(0):
        model = kind(data.spec, **settings)
    quiet = {"tensorboard": False, "precision": "fp32", "picture_every": 0, "validate_every": 0}
    with tempfile.TemporaryDirectory() as directory:
        return train(model, data, steps=steps, batch_size=batch_size, out=f"{directory}/run", **quiet).model


def mean_squared_error(model, split: ArraySplit, data: Data) -> float:
    """A number, over a whole split."""
    with torch.no_grad():
        return float(model.reconstruction_error(data.units.to_model(split.codes)).mean()) / data.spec.dimensions
