"""What a generator's z is made of: noise, and codes that may mean something.

    z = (n, one-hot c_1, one-hot c_2, ..., u),    n ~ N(0, I),    c_k one of K_k, all alike,    u ~ U(-1, 1)^m

InfoGAN asks the critic's features for the codes: Q(c, u | x) is a softmax for each c_k and a Gaussian for u, and the mean of

    -log Q(c, u | G(z)) >= H(c, u | x),    so that H(c, u) minus it is a lower bound of the mutual information I(c, u; x),

is added to both sides' losses. So a code is something that can be seen in x: a digit's class, its slant.

The first numbers of n may be a content, which fakes that are judged together share (contents.py).

Chen, Duan, Houthooft, Schulman, Sutskever and Abbeel 2016 (InfoGAN), arXiv:1606.03657.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from pushforward.errors import UserError
from pushforward.randomness import Rng


@dataclass(frozen=True)
class Latent:
    """The law of z (B, width). noise: numbers of n; categorical: values of each c_k; continuous: numbers of u; content: how
    many of n, the first ones, say what a datum is of, the others how it is seen (0: there is no such difference)."""

    noise: int
    categorical: tuple[int, ...] = ()
    continuous: int = 0
    content: int = 0

    def __post_init__(self) -> None:
        if self.noise < 1:
            raise UserError(f"latent_dim = {self.noise} was given; the noise of z has at least 1 number.")
        if any(size < 2 for size in self.categorical) or self.continuous < 0:
            raise UserError(
                f"categorical = {list(self.categorical)} and continuous = {self.continuous} were given; a categorical code has "
                "at least 2 values, and continuous is how many codes there are in [-1, 1]."
            )
        if self.content < 0 or (self.content and self.content >= self.noise):
            raise UserError(
                f"content = {self.content} and latent_dim = {self.noise} were given; content is how many of these numbers say "
                "what a datum is of, and at least 1 is left for how it is seen."
            )

    @property
    def coded(self) -> bool:
        """Whether there are codes beside the noise."""
        return bool(self.categorical) or self.continuous > 0

    @property
    def width(self) -> int:
        """Numbers of z."""
        return self.noise + sum(self.categorical) + self.continuous

    @property
    def heads(self) -> int:
        """Numbers in which Q says what it reads: logits of each c_k, mean and log-deviation of u."""
        return sum(self.categorical) + 2 * self.continuous

    def draw(self, n: int, rng: Rng) -> Float[Tensor, "n width"]:
        """z, row by row."""
        parts = [rng.randn(n, self.noise)]
        parts += [one_hot(rng.randint(size, n), size).float() for size in self.categorical]
        if self.continuous:
            parts.append(2 * rng.rand(n, self.continuous) - 1)
        return torch.cat(parts, 1)

    def draw_pairs(self, n: int, rng: Rng) -> Float[Tensor, "n width"]:
        """z of fakes to be judged: where there is a content, rows 2 i and 2 i + 1 have the same one."""
        z = self.draw(n, rng)
        if self.content:
            z[1::2, : self.content] = z[: n // 2 * 2 : 2, : self.content]
        return z

    def joined(self, content: Float[Tensor, "b width"], view: Float[Tensor, "b width"]) -> Float[Tensor, "b width"]:
        """z with the content of one and the view of the other."""
        return torch.cat([content[:, : self.content], view[:, self.content :]], 1)

    def truncated(self, z: Float[Tensor, "b width"], psi: float) -> Float[Tensor, "b width"]:
        """The noise scaled by psi, the codes as they are."""
        return torch.cat([psi * z[:, : self.noise], z[:, self.noise :]], 1)

    def surprise(self, z: Float[Tensor, "b width"], said: Float[Tensor, "b heads"]) -> Float[Tensor, ""]:
        """-log Q(c, u | x) in nats, on average over rows."""
        said, place, total = said.float(), self.noise, z.new_zeros((), dtype=torch.float32)
        read = 0
        for size in self.categorical:
            code = z[:, place : place + size].argmax(1)
            total = total + cross_entropy(said[:, read : read + size], code)
            place, read = place + size, read + size
        if self.continuous:
            u = z[:, place:].float()
            mean, spread = said[:, read:].chunk(2, 1)
            spread = torch.tanh(spread)  # deviations from 1/e to e: told exactly, a code has no bound and starves the others
            gaussian = 0.5 * ((u - mean) * torch.exp(-spread)).square() + spread + 0.5 * math.log(2 * math.pi)
            total = total + gaussian.sum(1).mean()
        return total

    @property
    def entropy(self) -> float:
        """H(c, u) in nats."""
        return sum(math.log(size) for size in self.categorical) + self.continuous * math.log(2)
