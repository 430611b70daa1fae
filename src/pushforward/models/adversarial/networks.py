"""The pairs of networks that play, by name.

mlp              perceptrons, for any numbers
dcgan            strided convolutions with batch norms (Radford et al. 2016)
residual         residual blocks, class-conditional norms (SNGAN: Miyato et al. 2018)
self-attention   the same with self-attention at a middle size (SAGAN: Zhang et al. 2019)
biggan           the same with z in chunks and orthogonal weights (Brock et al. 2019)
progressive      both grow from the coarsest size to the finest while they train (Karras et al. 2018)
style            a mapping network and modulated convolutions (StyleGAN2: Karras et al. 2020)
orthonormal      a critic of slope <= 1 by its layers, beside dcgan's or mlp's generator (Anil et al. 2019)
autoencoder      a critic that says how badly it can give x back (EBGAN: Zhao et al. 2017), beside the same generators
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from pushforward.data.spec import DataSpec
from pushforward.errors import UserError, nearest
from pushforward.models.adversarial.critics import Conditioning
from pushforward.models.adversarial.penalties import Regulariser
from pushforward.models.adversarial.stabilisers import packed_shape
from pushforward.nets.adversaries import MLPCritic, MLPGenerator
from pushforward.nets.choice import LEAST
from pushforward.nets.dcgan import SMALLEST, DCGANCritic, DCGANGenerator
from pushforward.nets.energies import AutoencoderCritic
from pushforward.nets.lipschitz import OrthonormalCritic
from pushforward.nets.progressive import ProgressiveCritic, ProgressiveGenerator
from pushforward.nets.residual_gan import ResidualCritic, ResidualGenerator
from pushforward.nets.style import StyleCritic, StyleGenerator


@dataclass(frozen=True)
class Asked:
    """What networks are built for: the data, numbers of z and of both embeddings, channels, data judged together, norm of
    dcgan's critic, whether an energy is a mean absolute error, further options of the
    generator (of both networks that grow)."""

    spec: DataSpec
    latent_dim: int
    width: int
    embedding: int = 0
    told: int = 0
    packs: int = 1
    norm: str = "batch"
    absolute: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bounded(self) -> bool:
        """Whether data are in [-1, 1]."""
        return self.spec.kind == "image"

    @property
    def judged(self) -> tuple[int, ...]:
        """The shape of what the critic sees."""
        return packed_shape(self.spec.shape, self.packs)


@dataclass(frozen=True)
class Pair:
    """How a generator and a critic's trunk are built. planar: whether they are for images and fields (C, H, W) alone. options:
    that they have, and of which type. conditioning: how a condition reaches the critic where nothing is said.

    normed: whether the critic's norm can be chosen. energies: whether what it says are energies, not logits. lipschitz: whether
    its layers keep its slope at most 1. attends: whether it weighs attention by a free number. equalised: whether its layers
    are scaled by themselves. styled: whether the generator has a mapping network, and styles.
    """

    generator: Callable[[Asked], nn.Module]
    trunk: Callable[[Asked], nn.Module]
    planar: bool = True
    options: Mapping[str, type] = field(default_factory=dict)
    conditioning: Conditioning = "concatenation"
    normed: bool = False
    energies: bool = False
    lipschitz: bool = False
    attends: bool = False
    equalised: bool = False
    styled: bool = False


def _plain_generator(a: Asked) -> nn.Module:
    """dcgan's where the data are large enough images, else a perceptron."""
    return NETWORKS[plain(a.spec)].generator(a)


def plain(spec: DataSpec) -> str:
    """What network="auto" means."""
    return "dcgan" if spec.planar and min(spec.shape[1:]) >= SMALLEST else "mlp"


def _energy_width(a: Asked) -> int:
    """Channels of its convolutions, or units of its perceptrons."""
    return a.width if a.spec.planar and max(a.spec.shape[1:]) >= LEAST else 8 * a.width


def _middle(spec: DataSpec) -> int:
    """The side of the maps that attention looks at: half of the image, at most 32 pixels."""
    return min(32, (max(spec.shape[1:]) + 1) // 2)


NETWORKS: dict[str, Pair] = {
    "mlp": Pair(
        lambda a: MLPGenerator(a.spec.shape, a.latent_dim, 8 * a.width, a.embedding, bounded=a.bounded),
        lambda a: MLPCritic(a.judged, 8 * a.width, a.told),
        planar=False,
    ),
    "dcgan": Pair(
        lambda a: DCGANGenerator(a.spec.shape, a.latent_dim, a.width, a.embedding, bounded=a.bounded),
        lambda a: DCGANCritic(a.judged, a.width, a.told, a.norm),
        normed=True,
    ),
    "residual": Pair(
        lambda a: ResidualGenerator(a.spec.shape, a.latent_dim, a.width, a.embedding, a.bounded),
        lambda a: ResidualCritic(a.judged, a.width, a.told),
        conditioning="projection",
    ),
    "self-attention": Pair(
        lambda a: ResidualGenerator(
            a.spec.shape, a.latent_dim, a.width, a.embedding, a.bounded, attention=_middle(a.spec)
        ),
        lambda a: ResidualCritic(a.judged, a.width, a.told, attention=_middle(a.spec)),
        conditioning="projection",
        attends=True,
    ),
    "biggan": Pair(
        lambda a: ResidualGenerator(
            a.spec.shape, a.latent_dim, a.width, a.embedding, a.bounded,
            attention=_middle(a.spec), hierarchical=True, orthogonal=True,
        ),
        lambda a: ResidualCritic(a.judged, a.width, a.told, attention=_middle(a.spec), orthogonal=True),
        conditioning="projection",
        attends=True,
    ),
    "progressive": Pair(
        lambda a: ProgressiveGenerator(a.spec.shape, a.latent_dim, a.width, a.embedding, a.bounded, **a.options),
        lambda a: ProgressiveCritic(a.judged, a.width, a.told, **a.options),
        options={"complete": float},
        conditioning="projection",
        equalised=True,
    ),
    "style": Pair(
        lambda a: StyleGenerator(
            a.spec.shape, a.latent_dim, a.width, a.embedding, a.bounded,
            kinds=(a.spec.classes or 1) if a.embedding else 1, **a.options,
        ),
        lambda a: StyleCritic(a.judged, a.width, a.told),
        options={"style_dim": int, "mapping_depth": int, "modulation": str},
        conditioning="projection",
        equalised=True,
        styled=True,
    ),
    "orthonormal": Pair(
        _plain_generator,
        lambda a: OrthonormalCritic(a.judged, 8 * a.width, a.told),
        planar=False,
        lipschitz=True,
    ),
    "autoencoder": Pair(
        _plain_generator,
        lambda a: AutoencoderCritic(a.judged, _energy_width(a), a.told, norm=1 if a.absolute else 2, **a.options),
        planar=False,
        energies=True,
        options={"hidden": int},
    ),
}  # fmt: skip
PLAIN = NETWORKS["mlp"]  # a critic of which nothing is special


def chosen(network: str, spec: DataSpec) -> str:
    """The name, or for "auto" that of the networks that suit the data; raises UserError for one unknown or unfit."""
    if network == "auto":
        return plain(spec)
    if network not in NETWORKS:
        raise UserError(f"there is no network '{network}'; {nearest(network, ('auto', *NETWORKS))}")
    if NETWORKS[network].planar and not spec.planar:
        raise UserError(f"network='{network}' makes images, and '{spec.name}' holds {spec.kind}; take network='mlp'.")
    return network


def built(network: str, asked: Asked, generators: int = 1) -> tuple[list[nn.Module], nn.Module]:
    """The generators and the critic's trunk; raises UserError for an option that this network does not have."""
    pair = NETWORKS[network]
    for name, value in asked.options.items():
        if name not in pair.options:
            has = f"it has {', '.join(pair.options)}" if pair.options else "it has none"
            raise UserError(f"network='{network}' has no option '{name}'; {has}.")
        kind = pair.options[name]
        right = (
            isinstance(value, str) if kind is str else isinstance(value, (int, float)) and value > 0 and value == kind(value)
        )
        if not right:
            wanted = {str: "a name", int: "a whole number of at least 1", float: "a number above 0"}[kind]
            raise UserError(f"{name} = {value!r} was given to network='{network}'; it is {wanted}.")
    asked = replace(asked, options={name: pair.options[name](value) for name, value in asked.options.items()})
    return [pair.generator(asked) for _ in range(generators)], pair.trunk(asked)


def chosen_norm(asked: str, network: str, alone: Sequence[str], spectral: bool) -> str:
    """The norm of dcgan's critic. alone: regularisers that speak of the slope at each datum by itself, which a critic with
    batch norm does not have."""
    if asked == "auto":
        return "none" if spectral else "layer" if alone else "batch"
    if not NETWORKS[network].normed:
        raise UserError(f"critic_norm='{asked}' was given with network='{network}', whose critic has no norms; leave it away.")
    if asked == "batch" and alone:
        raise UserError(
            f"{alone[0]} speaks of the slope of each datum by itself, which a critic with critic_norm='batch' does not have; "
            "take 'layer' or 'none'."
        )
    return asked


def check_slope(regulariser: Regulariser, objective: str, lipschitz: bool, network: str, beside: Sequence[str]) -> None:
    """Raises UserError where the critic's slope is free and must not be, or is bounded in two ways that are at odds.

    lipschitz: whether the objective needs a bound. network: whose critic; "own": the user's. beside: what the critic's logit
    hears beside its trunk (layers that look at the batch, a projected condition).
    """
    pair = NETWORKS.get(network, PLAIN)
    if lipschitz and not (regulariser.bounds or pair.lipschitz or network == "own"):
        raise UserError(
            f"objective='{objective}' has no minimum while the critic's slope is free; take regulariser='gradient-penalty', "
            "'spectral' or 'clipping', or network='orthonormal'."
        )
    if pair.lipschitz and (regulariser or beside):
        away = "the regulariser" if regulariser else beside[0]
        raise UserError(f"network='{network}' has a slope of at most 1 by its layers, and by nothing else: leave {away} away.")
    if lipschitz and "minibatch-discrimination" in beside and not regulariser.penalties:
        raise UserError(
            "minibatch-discrimination has a slope that only a penalty bounds, as a Wasserstein critic needs; take "
            "regulariser='gradient-penalty'."
        )
    if lipschitz and pair.attends and regulariser.spectral and not regulariser.penalties:
        raise UserError(
            f"network='{network}' weighs its attention by a number that spectral norm leaves free; take "
            f"regulariser='gradient-penalty' with objective='{objective}'."
        )
    if regulariser.spectral and pair.equalised:
        raise UserError(
            f"network='{network}' scales its layers by itself, which spectral norm would undo; take regulariser='r1'."
        )
