"""Which likelihood suits which data, by name or by itself."""

from __future__ import annotations

from typing import get_args

from pushforward.data.spec import DataSpec
from pushforward.data.units import units
from pushforward.distributions.columns import Columns
from pushforward.distributions.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    Likelihood,
    Name,
    Sigma,
)
from pushforward.errors import UserError, nearest


def likelihood(name: str, spec: DataSpec, sigma: Sigma | float = "learned") -> Likelihood:
    """The likelihood of this name for such data; "auto": logistic for images; for tables, points and series categorical where
    some column holds categories, integers or gaps; Gaussian for the rest.

    Raises UserError for an unknown name, and for likelihoods of levels where the data have none.
    """
    vectors = spec.kind in ("table", "point", "series")
    if name == "auto":
        name = "logistic" if spec.kind == "image" else "categorical" if vectors and units(spec).discrete else "gaussian"
    if name == "gaussian":
        return Gaussian(spec.shape, sigma, channels_first=spec.kind in ("image", "field"))
    if name not in get_args(Name):
        raise UserError(f"there is no likelihood {name!r}; {nearest(name, get_args(Name))} (or 'auto')")
    if name == "categorical" and vectors:
        return Columns(spec)
    if spec.kind != "image":
        raise UserError(f"the {name} likelihood is for images, '{spec.name}' holds {spec.kind}; use likelihood='gaussian'.")
    levels = spec.levels or 256
    if name == "categorical" and levels > 256:
        raise UserError(
            f"a categorical likelihood has a logit for each level, and '{spec.name}' has {levels}: use likelihood='logistic'."
        )
    return {"bernoulli": Bernoulli, "logistic": DiscretisedLogistic, "categorical": Categorical}[name](levels)
