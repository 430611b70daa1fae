"""The law of a pixel's channels given the pixels before it: what the outputs of an autoregressive network of images mean.

A law works on levels, integers 0 .. L - 1 (the ids of codes too), and gives masses. log p(pixel) is a sum over its channels in
order, each given those before it. `Bernoulli` and `Categorical` ask a network for numbers of each channel, which the network
makes of the channels before; `LogisticMixture` asks for all of a pixel's at once and couples the channels itself.

Sampling takes uniform numbers and makes levels of them, channel by channel, by the inverse of the cumulative distribution. A
temperature T divides logits (and multiplies the scales of logistics): below 1 sharper, above 1 flatter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.distributions.likelihoods import DiscretisedLogistic, pick, wide
from pushforward.errors import UserError

EDGE = 1e-7  # uniform numbers stay this far from 0 and 1, so that their logits are finite


class PixelLaw(nn.Module):
    """What they have in common.

    Args:
        channels: C, of a pixel.
        levels: L, values of each.
    """

    groups: int  # 1: a network gives `outputs` numbers a pixel; C: for each channel
    outputs: int
    draws: int = 1  # uniform numbers that a channel takes

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.channels, self.levels = channels, levels

    def log_mass(self, outputs: Float[Tensor, "b k h w"], levels: Int[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """log P(levels) in nats per image, k = groups * outputs, those of a group side by side."""
        raise NotImplementedError

    def draw(
        self,
        channel: int,
        outputs: Float[Tensor, "b k"],
        before: Int[Tensor, "b c"],
        uniforms: Float[Tensor, "b u"],
        temperature: float = 1.0,
    ) -> Int[Tensor, " b"]:
        """The level of a channel of one pixel: from the outputs of its group, the channels before it (of `before`, which holds
        all, the others are not looked at), and `draws` uniform numbers."""
        raise NotImplementedError


class Bernoulli(PixelLaw):
    """White (level 1) with probability sigmoid(output)."""

    outputs = 1

    def __init__(self, channels: int):
        super().__init__(channels, 2)
        self.groups = channels

    def log_mass(self, outputs: Float[Tensor, "b k h w"], levels: Int[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        logits = wide(outputs)
        return -F.binary_cross_entropy_with_logits(logits, levels.to(logits.dtype), reduction="none").flatten(1).sum(1)

    def draw(
        self,
        channel: int,
        outputs: Float[Tensor, "b k"],
        before: Int[Tensor, "b c"],
        uniforms: Float[Tensor, "b u"],
        temperature: float = 1.0,
    ) -> Int[Tensor, " b"]:
        return (uniforms[:, 0].double() < torch.sigmoid(outputs[:, 0].double() / temperature)).long()


class Categorical(PixelLaw):
    """Any masses: softmax of L outputs."""

    def __init__(self, channels: int, levels: int):
        super().__init__(channels, levels)
        self.groups, self.outputs = channels, levels

    def log_mass(self, outputs: Float[Tensor, "b k h w"], levels: Int[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        logits = wide(outputs).unflatten(1, (self.channels, self.levels)).transpose(1, 2)  # (B, L, C, H, W)
        return -F.cross_entropy(logits, levels, reduction="none").flatten(1).sum(1)

    def draw(
        self,
        channel: int,
        outputs: Float[Tensor, "b k"],
        before: Int[Tensor, "b c"],
        uniforms: Float[Tensor, "b u"],
        temperature: float = 1.0,
    ) -> Int[Tensor, " b"]:
        return pick(outputs, uniforms[:, 0], temperature)


class LogisticMixture(PixelLaw):
    """M discretised logistics with common weights for all channels, their means coupled linearly by the channels before.

    With x_c = 2 level / (L - 1) - 1 and components k,

        P(x) = sum_k pi_k prod_c mass(x_c; mu_kc + sum_{c' < c} tanh(a_kcc') x_c', s_kc),

    the edge levels taking the tails: for R, G, B the means mu_R, mu_G + alpha x_R, mu_B + beta x_R + gamma x_G of PixelCNN++.
    Of a pixel's M (1 + 2 C + C (C - 1) / 2) outputs the first are the weights' logits, then come means, log-scales and
    couplings, each by component.

    A channel given those before it is a mixture too, its weights those of the components given these; so channels can be
    drawn, or kept, one by one.

    Source: Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517.
    """

    groups = 1
    draws = 2

    def __init__(self, channels: int, levels: int, mixtures: int = 10):
        super().__init__(channels, levels)
        if levels < 3:
            raise UserError(
                f"a mixture of logistics is for ordered levels, 3 or more, and these have {levels}; use likelihood='bernoulli'."
            )
        if mixtures < 1:
            raise UserError(f"mixtures = {mixtures} was given; a mixture has 1 component or more.")
        self.mixtures, self.pairs = mixtures, channels * (channels - 1) // 2
        self.outputs = mixtures * (1 + 2 * channels + self.pairs)
        self.component = DiscretisedLogistic(levels)

    def components(
        self, outputs: Float[Tensor, "b k *places"], x: Float[Tensor, "b c *places"]
    ) -> tuple[Float[Tensor, "b m *places"], Float[Tensor, "b m c *places"], Float[Tensor, "b m c *places"]]:
        """Log-weights of the components, their means coupled by x, and what their log-scales are made of."""
        m, c = self.mixtures, self.channels
        weights, means, scales, couplings = wide(outputs).split([m, m * c, m * c, m * self.pairs], 1)
        means, scales, couplings = (part.unflatten(1, (m, -1)) for part in (means, scales, couplings))
        couplings, coupled, first = torch.tanh(couplings), [means[:, :, 0]], 0
        for channel in range(1, c):
            part = couplings[:, :, first : first + channel]
            coupled.append(means[:, :, channel] + (part * x[:, None, :channel]).sum(2))
            first += channel
        return weights.log_softmax(1), torch.stack(coupled, 2), scales

    def log_masses(
        self, means: Float[Tensor, "b m c *places"], scales: Float[Tensor, "b m c *places"], x: Float[Tensor, "b c *places"]
    ) -> Float[Tensor, "b m c *places"]:
        """log P(x_c | component, channels before) of each component and channel."""
        return self.component.log_mass(torch.stack([means, scales], 1), x[:, None].expand_as(means))

    def to_x(self, levels: Tensor, like: Tensor) -> Tensor:
        return levels.to(wide(like).dtype) * self.component.width - 1

    def log_mass(self, outputs: Float[Tensor, "b k h w"], levels: Int[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        x = self.to_x(levels, outputs)
        weights, means, scales = self.components(outputs, x)
        return (weights + self.log_masses(means, scales, x).sum(2)).logsumexp(1).flatten(1).sum(1)

    def draw(
        self,
        channel: int,
        outputs: Float[Tensor, "b k"],
        before: Int[Tensor, "b c"],
        uniforms: Float[Tensor, "b u"],
        temperature: float = 1.0,
    ) -> Int[Tensor, " b"]:
        x = self.to_x(before, outputs)
        weights, means, scales = self.components(outputs, x)
        weights = weights + self.log_masses(means, scales, x)[:, :, :channel].sum(2)
        chosen = pick(weights, uniforms[:, 0], temperature)[:, None]
        location, log_scale = self.component.location_and_log_scale(
            torch.stack([means[:, :, channel].gather(1, chosen)[:, 0], scales[:, :, channel].gather(1, chosen)[:, 0]], 1)
        )
        # p^(1/T) of a logistic, whose tails are exp(-|x| / s), has the scale T s (a Gaussian's sigma would be sqrt(T) s)
        drawn = location + temperature * log_scale.exp() * torch.logit(uniforms[:, 1].to(location.dtype), eps=EDGE)
        return ((drawn + 1) / self.component.width).round().clamp(0, self.levels - 1).long()
