"""THE table: every method by name. A new method is one file and one line here.

A line says where the class is, which of its settings make the method, how long it trains by default, and where it comes
from. Classes are named, not imported, so that the table can be read without torch.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pushforward.data.spec import DataSpec, Kind
from pushforward.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Method:
    """One line of the zoo. `kinds`: the data that it learns. `training`: defaults of `pf.train` for it. `page`: of the docs,
    where that is not called as the method."""

    family: str
    path: str
    summary: str
    paper: str
    kinds: tuple[Kind, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    page: str = ""

    def load(self) -> type[nn.Module]:
        """The class."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(f"pushforward.models.{module}"), name)


VECTORS: tuple[Kind, ...] = ("point", "table", "series")
SIZES = ("latent_dim", "width", "heads", "code_dim")  # settings that cannot be 0
CONTINUOUS: tuple[Kind, ...] = ("image", "field", *VECTORS)

ZOO: dict[str, Method] = {
    "gaussian": Method(
        "classical",
        "classical.gaussian:Gaussian",
        "One Gaussian by maximum likelihood or posterior, if asked in its leading eigen-directions",
        "Tipping and Bishop 1999",
        CONTINUOUS,
        training={"steps": 1},
    ),
    "gmm": Method(
        "classical",
        "classical.mixture:GaussianMixture",
        "A mixture of Gaussians by expectation-maximisation",
        "Dempster, Laird and Rubin 1977",
        CONTINUOUS,
        training={"steps": 100},
    ),
    "autoencoder": Method(
        "autoencoders",
        "autoencoders.autoencoder:Autoencoder",
        "Autoencoder: give the data back from a narrow code; samples from a mixture fitted to the codes",
        "Hinton and Salakhutdinov 2006",
        CONTINUOUS,
        training={"steps": 2_500, "batch_size": 128},
    ),
    "linear-autoencoder": Method(
        "autoencoders",
        "autoencoders.autoencoder:Autoencoder",
        "Autoencoder with linear maps: principal components by gradient descent",
        "Baldi and Hornik 1989",
        CONTINUOUS,
        settings={"network": "linear", "codes": "gaussian"},
        training={"steps": 1_500, "batch_size": 128},
        page="autoencoder",
    ),
    "denoising-autoencoder": Method(
        "autoencoders",
        "autoencoders.denoising:DenoisingAutoencoder",
        "Give clean data back from noisy ones, and learn the score of the smoothed data",
        "Vincent et al. 2008; Alain and Bengio 2014, arXiv:1211.4246",
        CONTINUOUS,
        training={"steps": 2_500, "batch_size": 128},
        page="autoencoder",
    ),
    "rae-l2": Method(
        "autoencoders",
        "autoencoders.autoencoder:Autoencoder",
        "Regularised autoencoder: short codes and a decoder with small weights in the place of noise",
        "Ghosh et al. 2020, arXiv:1903.12436",
        CONTINUOUS,
        settings={"code_penalty": 1e-2, "decoder_penalty": 1e-3},
        training={"steps": 2_500, "batch_size": 128},
        page="autoencoder",
    ),
    "latent-gmm": Method(
        "autoencoders",
        "autoencoders.autoencoder:Autoencoder",
        "Autoencoder with a mixture of 40 Gaussians of its codes",
        "Ghosh et al. 2020, arXiv:1903.12436",
        CONTINUOUS,
        settings={"codes": "gmm", "components": 40},
        training={"steps": 2_500, "batch_size": 128},
        page="autoencoder",
    ),
    "glo": Method(
        "autoencoders",
        "autoencoders.glo:GLO",
        "Generative latent optimisation: a generator and a learned code for each datum, no encoder",
        "Bojanowski et al. 2018, arXiv:1707.05776",
        CONTINUOUS,
        training={"steps": 3_000, "batch_size": 128},
    ),
    "swae": Method(
        "autoencoders",
        "autoencoders.sliced_wasserstein:SlicedWassersteinAE",
        "Sliced-Wasserstein autoencoder: codes pressed to a prior by sorted shadows",
        "Kolouri et al. 2018, arXiv:1804.01947",
        CONTINUOUS,
        training={"steps": 2_500, "batch_size": 256},
    ),
    "vae": Method(
        "variational",
        "variational.vae:VAE",
        "Variational autoencoder: an encoder, a decoder and a bound on the likelihood",
        "Kingma and Welling 2014, arXiv:1312.6114",
        CONTINUOUS,
        training={"steps": 4_000, "batch_size": 128},
    ),
    "beta-vae": Method(
        "variational",
        "variational.vae:VAE",
        "VAE with a heavier KL: fewer, more independent latents",
        "Higgins et al. 2017",
        CONTINUOUS,
        settings={"beta": 4.0},
        training={"steps": 4_000, "batch_size": 128},
        page="vae",
    ),
    "iwae": Method(
        "variational",
        "variational.vae:VAE",
        "VAE trained on the importance-weighted bound",
        "Burda et al. 2016, arXiv:1509.00519",
        CONTINUOUS,
        settings={"objective": "iwae", "draws": 5},
        training={"steps": 4_000, "batch_size": 128},
    ),
    "iaf-vae": Method(
        "variational",
        "variational.vae:VAE",
        "VAE whose posterior is an inverse autoregressive flow",
        "Kingma et al. 2016, arXiv:1606.04934",
        CONTINUOUS,
        settings={"posterior": "iaf"},
        training={"steps": 4_000, "batch_size": 128},
        page="vae",
    ),
    "hierarchical-vae": Method(
        "variational",
        "variational.hierarchical:HierarchicalVAE",
        "VAE with levels of latents, coarse before fine",
        "Child 2021, arXiv:2011.10650",
        CONTINUOUS,
        settings={"free_bits": 1.0},
        training={"steps": 2_000, "batch_size": 64},
    ),
    "ladder-vae": Method(
        "variational",
        "variational.hierarchical:HierarchicalVAE",
        "Hierarchical VAE whose posterior is the prior times what the data say",
        "Sonderby et al. 2016, arXiv:1602.02282",
        CONTINUOUS,
        settings={"levels": 5, "posterior": "precision"},
        training={"steps": 2_000, "batch_size": 64},
        page="hierarchical-vae",
    ),
    "very-deep-vae": Method(
        "variational",
        "variational.hierarchical:HierarchicalVAE",
        "Hierarchical VAE with many levels",
        "Child 2021, arXiv:2011.10650",
        CONTINUOUS,
        settings={"levels": 12},
        training={"steps": 3_000, "batch_size": 64},
        page="hierarchical-vae",
    ),
    "vq-vae": Method(
        "variational",
        "variational.quantised:VQVAE",
        "VQ-VAE: an autoencoder whose codes are integers, its codebook learned by moving averages",
        "van den Oord et al. 2017, arXiv:1711.00937",
        CONTINUOUS,
        training={"steps": 4_000, "batch_size": 32},
    ),
    "vq-vae-2": Method(
        "variational",
        "variational.vq_vae_2:VQVAE2",
        "VQ-VAE-2: two grids of integer codes, coarse and fine",
        "Razavi et al. 2019, arXiv:1906.00446",
        ("image", "field"),
        training={"steps": 4_000, "batch_size": 32},
        page="vq-vae",
    ),
    "dvae": Method(
        "variational",
        "variational.quantised:VQVAE",
        "Discrete VAE: integer codes drawn by the Gumbel-softmax",
        "Jang et al. 2017, arXiv:1611.01144; Ramesh et al. 2021, arXiv:2102.12092",
        CONTINUOUS,
        settings={"quantiser": "gumbel", "beta": 0.1, "sigma": "learned"},
        training={"steps": 4_000, "batch_size": 32},
        page="vq-vae",
    ),
    "fsq-vae": Method(
        "variational",
        "variational.quantised:VQVAE",
        "Finite scalar quantisation: channels rounded to levels, no codebook",
        "Mentzer et al. 2023, arXiv:2309.15505",
        CONTINUOUS,
        settings={"quantiser": "fsq"},
        training={"steps": 4_000, "batch_size": 32},
        page="vq-vae",
    ),
    "gan": Method(
        "adversarial",
        "adversarial.gan:GAN",
        "Generative adversarial network, non-saturating, with DCGAN's networks for images",
        "Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2016, arXiv:1511.06434",
        CONTINUOUS,
        training={"steps": 2_500, "batch_size": 128},
    ),
    "lsgan": Method(
        "adversarial",
        "adversarial.gan:GAN",
        "GAN whose critic regresses targets for real data and fakes",
        "Mao et al. 2017, arXiv:1611.04076",
        CONTINUOUS,
        settings={"objective": "least-squares"},
        training={"steps": 2_500, "batch_size": 128},
        page="gan",
    ),
    "hinge-gan": Method(
        "adversarial",
        "adversarial.gan:GAN",
        "GAN with a margin: the critic rests where it is right by enough",
        "Lim and Ye 2017, arXiv:1705.02894",
        CONTINUOUS,
        settings={"objective": "hinge"},
        training={"steps": 2_500, "batch_size": 128},
        page="gan",
    ),
    "wgan-gp": Method(
        "adversarial",
        "adversarial.gan:GAN",
        "Wasserstein GAN: a critic whose slope is held at 1 by a penalty",
        "Arjovsky et al. 2017, arXiv:1701.07875; Gulrajani et al. 2017, arXiv:1704.00028",
        CONTINUOUS,
        settings={"objective": "wasserstein", "penalties": {"gradient-penalty": 10.0}, "critic_steps": 5, "betas": (0.0, 0.9)},
        training={"steps": 2_500, "batch_size": 64},
        page="gan",
    ),
    "dragan": Method(
        "adversarial",
        "adversarial.gan:GAN",
        "GAN whose critic has slope 1 around the data",
        "Kodali et al. 2017, arXiv:1705.07215",
        CONTINUOUS,
        settings={"penalties": {"dragan": 10.0}},
        training={"steps": 2_500, "batch_size": 128},
        page="gan",
    ),
    "flow-matching": Method(
        "diffusion",
        "diffusion.diffusion:Diffusion",
        "Flow matching: regress the velocity of straight paths from noise to data, sample by an ODE",
        "Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003",
        CONTINUOUS,
        training={"steps": 3_000, "batch_size": 128},
    ),
    "gpt": Method(
        "autoregressive",
        "autoregressive.transformer:GPT",
        "Decoder-only transformer: one token after another",
        "Radford et al. 2019",
        ("tokens",),
        training={"steps": 2_500, "batch_size": 32},
    ),
}


def method(name: str) -> Method:
    """The line of a name; an unknown name is an error that says the nearest ones."""
    if name not in ZOO:
        raise UserError(f"there is no model '{name}'; {nearest(name, ZOO)} (`pushforward models` lists them all)")
    return ZOO[name]


def options(name: str) -> dict[str, inspect.Parameter]:
    """The settings of a model with their defaults as this name sets them."""
    line = method(name)
    parameters = list(inspect.signature(line.load()).parameters.values())[1:]  # all but the spec
    return {p.name: p.replace(default=line.settings.get(p.name, p.default)) for p in parameters}


def check_kind(name: str, kind: Kind, data_name: str) -> None:
    """Raises UserError where the method cannot learn data of this kind."""
    if kind not in method(name).kinds:
        able = [other for other, entry in ZOO.items() if kind in entry.kinds]
        raise UserError(
            f"'{name}' learns {', '.join(method(name).kinds)}; '{data_name}' holds {kind}. "
            f"Try {', '.join(able) or 'other data'}."
        )


def check_settings(name: str, settings: dict[str, Any]) -> dict[str, inspect.Parameter]:
    """The settings that a method has; raises UserError for one that it has not, and for negative sizes."""
    valid = options(name)
    for key in settings:
        if key not in valid:
            raise UserError(f"'{name}' has no setting '{key}'; {nearest(key, valid)}")
        value = settings[key]
        if not isinstance(value, (int, float)) or value == valid[key].default:
            continue
        if isinstance(value, int) and value < 0:
            raise UserError(f"{key} = {value} was given; sizes and counts of '{name}' are not negative.")
        if key in SIZES and value == 0:
            raise UserError(f"{key} = 0 was given; it is at least 1.")
        if key.endswith("dropout") and not 0 <= value < 1:
            raise UserError(f"{key} = {value} was given; it is a rate, at least 0 and below 1.")
    return valid


def create(name: str, spec: DataSpec, **settings: Any) -> nn.Module:
    """Builds a model by name for data of this spec: `pf.create("vae", data.spec, latent_dim=16)`.

    settings: the model's own (`pushforward models NAME` lists them); a network may be any `torch.nn.Module` of yours.
    The model's `name` and `settings` (all of them, defaults too) build it again. Raises UserError for an unknown name or
    setting (with the nearest ones) and for data that the model cannot learn.
    """
    check_kind(name, spec.kind, spec.name)
    line, valid = method(name), check_settings(name, settings)
    whole = {key: p.default for key, p in valid.items() if p.default is not p.empty} | settings
    whole = {key: _as_annotated(value, valid[key]) for key, value in whole.items()}
    built = line.load()(spec, **whole)
    # All of them, so that a default that changes later changes no model of today; a network not given is no setting.
    kept = {key: value for key, value in whole.items() if value is not None or "Module" not in str(valid[key].annotation)}
    built.name, built.settings = name, kept  # type: ignore[assignment]
    return built


def _as_annotated(value: Any, parameter: inspect.Parameter) -> Any:
    """Tuples come back from yaml as lists."""
    said = str(parameter.annotation).lower()
    return tuple(value) if isinstance(value, list) and "tuple" in said and "list" not in said else value
