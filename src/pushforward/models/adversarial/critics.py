"""What a critic says of x: linear heads on the features f(x) of its trunk, all of them one player.

    concatenation     l(x, c) = w . f(x, e(c)) + b: the trunk is told the condition's embedding e
    projection        l(x, c) = w . f(x) + b + <V e(c), f(x)>: what c adds, log p(c | x) - log q(c | x), taken as linear in f
    classifier        l(x) and log p(c | x), a softmax or (attributes) a logit each: AC-GAN, whose critic is not told c
    semi-supervised   C logits l_k say which class x has, and the (C+1)-th, "fake", is 0: P(real) = Z / (Z + 1) with
                      Z = sum_k exp(l_k), so that the logit is logsumexp_k l_k
    codes             Q(c, u | x) of InfoGAN (latent.py)

A trunk maps x (B, *shape) and what it is told (B, e) or nothing to features (B, width).

Mirza and Osindero 2014, arXiv:1411.1784; Miyato and Koyama 2018 (projection), arXiv:1802.05637; Odena, Olah and Shlens 2017
(AC-GAN), arXiv:1610.09585; Salimans et al. 2016 (semi-supervised), arXiv:1606.03498.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pushforward.data.spec import Condition, DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.stabilisers import pack
from pushforward.nets.conditioning import Between, ConditionEmbedding
from pushforward.nets.embeddings import TimeEmbedding
from pushforward.nets.energies import AutoencoderCritic
from pushforward.nets.lipschitz import OrthonormalLinear
from pushforward.nets.minibatch import MinibatchDeviation, MinibatchDiscrimination

Conditioning = Literal["concatenation", "projection", "classifier", "semi-supervised", "none"]

EMBEDDING = 32  # the width of a condition's vector
TIME = 32  # that of how diffused x is
CONDITIONS = ("class", "attributes", "vector", "text")


def real_logit(classes: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """log P(real) / P(fake) of a critic with C + 1 classes, of which the last, fake, has logit 0."""
    return classes.float().logsumexp(1)


def recognised(classes: Float[Tensor, "b c"], condition: Tensor) -> Float[Tensor, ""]:
    """-log p(c | x) in nats, a mean over rows with a label: classes 0 .. C - 1 (-1: none), or attributes (B, C) of 0 and 1."""
    if condition.dim() == 2:
        return binary_cross_entropy_with_logits(classes.float(), condition.float(), reduction="none").sum(1).mean()
    known = (condition >= 0).sum().clamp(min=1)
    return cross_entropy(classes.float(), condition.long(), ignore_index=-1, reduction="sum") / known


def check_conditioning(how: Conditioning, spec: DataSpec, packed: bool, asked_for: bool = True) -> None:
    """Raises UserError where data have no condition that could be used so, or packs (of several data) none of their own.
    asked_for: whether the user said how; else data without a condition are as well."""
    kind = spec.condition.kind if spec.condition else "no condition"
    needed = {
        "classifier": ("class", "attributes"),
        "semi-supervised": ("class",),
        "concatenation": CONDITIONS if asked_for else None,
        "projection": CONDITIONS if asked_for else None,
    }.get(how)
    if needed and kind not in needed:
        raise UserError(
            f"conditioning='{how}' needs {' or '.join(needed)}, and '{spec.name}' has {kind}; load the data with their labels, "
            "or leave conditioning away (the model 'gan' has none set)."
        )
    if packed and how in ("classifier", "semi-supervised"):
        raise UserError(f"a pack of several data has no class, as conditioning='{how}' wants; leave packing out.")


@dataclass
class Judgement:
    """logit (B,), and where the critic has them features (B, width), classes (B, C) and codes (B, heads) as it reads them."""

    logit: Tensor
    features: Tensor | None = None
    classes: Tensor | None = None
    codes: Tensor | None = None


def _head(inputs: int, outputs: int, orthonormal: bool, added: int = 0) -> nn.Module:
    """A linear layer, at the beginning without an opinion on the `added` features beside the trunk's."""
    if orthonormal:
        return OrthonormalLinear(inputs + added, outputs)
    layer = nn.Linear(inputs + added, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight[:, inputs:] = 0  # closeness is a number up to that of the rows: a fresh critic would be sure of something
    return layer


class Told(nn.Module):
    """What is said to a critic's trunk beside x, (B, width): the condition's embedding, and how diffused x is.
    vocabulary: how many tokens captions are made of."""

    def __init__(self, condition: Condition | None, conditioning: Conditioning, timed: bool, vocabulary: int = 0):
        super().__init__()
        self.conditioning = conditioning
        self.condition = ConditionEmbedding(
            condition if conditioning in ("concatenation", "projection") else None, EMBEDDING, CONDITIONS, vocabulary
        )
        self.time = TimeEmbedding(TIME) if timed else None
        self.projected = self.condition.width if conditioning == "projection" else 0
        self.width = (self.condition.width if conditioning == "concatenation" else 0) + (TIME if timed else 0)

    def forward(self, rows: int, condition: Tensor | Between | None, t: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """To be told, and to be projected."""
        e = self.condition.of(condition, rows)
        if e is None and self.conditioning == "concatenation":
            e = self.condition(None, rows)  # the null vector; None where the data have no condition
        told = [e] if e is not None and self.conditioning == "concatenation" else []
        if self.time is not None and t is not None:
            told.append(self.time(t))
        return torch.cat(told, 1) if told else None, e if self.projected else None


class Critic(nn.Module):
    """A trunk and its heads: x (B, *shape), its condition, how diffused it is, t (B,) -> Judgement of each row (or pack).

    Args:
        trunk: x and what it is told -> features (B, width), with their number in an attribute `width`; one without that says
            logits (B,) and has no heads, as an energy and its codes.
        told: what it is told. packs: rows that are judged together.
        classes: of the classifier (0: none). codes: numbers of Q (0: none).
        layers: that look at the features of the whole batch, name -> size (nets/minibatch.py).
        orthonormal: whether heads keep the slope, as the trunk does. bounded: whether what is projected has a length of at most
            1, so that a critic of bounded slope is no steeper for it than by the head's own bound.
    """

    def __init__(
        self,
        trunk: nn.Module,
        told: Told,
        *,
        packs: int = 1,
        classes: int = 0,
        codes: int = 0,
        layers: dict[str, int] | None = None,
        orthonormal: bool = False,
        bounded: bool = False,
    ):
        super().__init__()
        self.trunk, self.told, self.packs, self.bounded = trunk, told, packs, bounded
        self.semi_supervised = told.conditioning == "semi-supervised"
        self.width: int | None = getattr(trunk, "width", None)
        self.heads, self.layers = nn.ModuleDict(), nn.ModuleList()
        if self.width is None:
            if told.projected or classes or codes or layers:
                raise UserError(
                    f"{type(trunk).__name__} says logits, and a projection, classes, codes or a look at the whole batch need "
                    "the features before them; give it an attribute `width` and let it return features (B, width)."
                )
            return
        looking: list[MinibatchDiscrimination | MinibatchDeviation] = [
            MinibatchDiscrimination(self.width, size) if name == "minibatch-discrimination" else MinibatchDeviation(size)
            for name, size in (layers or {}).items()
        ]
        self.layers = nn.ModuleList(looking)
        added = sum(layer.added for layer in looking)
        if not self.semi_supervised:
            self.heads["logit"] = _head(self.width, 1, orthonormal, added)
        if told.projected:
            projection = self.heads["projection"] = nn.Linear(packs * told.projected, self.width, bias=False)
            nn.init.normal_(projection.weight, std=(2 / (self.width * projection.in_features)) ** 0.5)  # V e as large as w
        if classes:
            self.heads["classes"] = _head(self.width, classes, orthonormal, added if self.semi_supervised else 0)
        if codes:
            self.heads["codes"] = nn.Sequential(nn.Linear(self.width, 128), nn.LeakyReLU(0.1), nn.Linear(128, codes))

    @property
    def featured(self) -> bool:
        """Whether judgements have features."""
        return self.width is not None or isinstance(self.trunk, AutoencoderCritic)

    def forward(
        self, x: Float[Tensor, "b *shape"], condition: Tensor | Between | None = None, t: Float[Tensor, " b"] | None = None
    ) -> Judgement:
        told, projected = self.told(len(x), condition, t)
        if self.packs > 1:
            x = pack(x, self.packs)
            told, projected = (rows if rows is None else pack(rows, self.packs) for rows in (told, projected))
        if isinstance(self.trunk, AutoencoderCritic):
            return Judgement(*self.trunk.judged(x, told))
        f = self.trunk(x) if told is None else self.trunk(x, told)
        if self.width is None:
            return Judgement(f)
        seen = torch.cat([f, *(layer(f)[:, f.shape[1] :] for layer in self.layers)], 1) if self.layers else f
        classes = None
        if "classes" in self.heads:
            classes = self.heads["classes"](seen if self.semi_supervised else f)
        codes = self.heads["codes"](f) if "codes" in self.heads else None
        if self.semi_supervised:
            assert classes is not None
            return Judgement(real_logit(classes), f, classes, codes)
        logit = self.heads["logit"](seen).squeeze(1)
        if projected is not None:
            if self.bounded:
                projected = projected / projected.norm(dim=1, keepdim=True).clamp(min=1)
            logit = logit + (self.heads["projection"](projected) * f).sum(1)
        return Judgement(logit, f, classes, codes)
