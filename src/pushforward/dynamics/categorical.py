"""Processes that forget tokens: each place of x_t still holds its token of x0 with probability alpha(t), else one drawn from a
law pi that knows nothing of it,

    q(x_t | x0)  = alpha_t [x_t = x0] + (1 - alpha_t) pi(x_t),        alpha_0 = 1, alpha_1 = 0
    q(x_t | x_s) = a [x_t = x_s] + (1 - a) pi(x_t),                   a = alpha_t / alpha_s,  s < t:

uniform pi is D3PM's uniform process, a pi that is all on one more token, "absorbed", its absorbing one (Austin et al. 2021,
arXiv:2107.03006). Places forget independently of each other.

Backwards, all follows from a law p0 of the token of x0 at each place *before what stands there is looked at*: one-hot where x0
is known, elsewhere a network's prediction from the other places. With p_t(x) = alpha_t p0(x) + (1 - alpha_t) pi(x), Bayes' rule

    p(x_s | x_t) = q(x_t | x_s) p_s(x_s) / p_t(x_t)

is q(x_s | x_t, x0) for a one-hot, and for a network D3PM's reverse kernel; of the absorbing process it is MDLM's, which keeps
what is not absorbed (Sahoo et al. 2024, arXiv:2406.07524; Shi et al. 2024, arXiv:2406.04329). In continuous time tokens
jump, forwards at the rates beta pi(y), beta = -alpha' / alpha, and backwards from x_t to y at

    r(y) = beta pi(x_t) p_t(y) / p_t(x_t)                             (Campbell et al. 2022, arXiv:2205.14987).

The variational bound -log p(x0) <= sum of KL(q(x_s | x_t, x0) || p(x_s | x_t)) over steps becomes an integral over t,

    int_0^1 E sum_{y != x_t} [ r_q(y) log(r_q(y) / r(y)) - r_q(y) + r(y) ] dt;

absorbed places alone count in that of the absorbing process, -alpha' / (1 - alpha) times their cross-entropy. There is no prior
term, as alpha_1 = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pushforward.dynamics.paths import expand
from pushforward.errors import UserError, nearest
from pushforward.randomness import chosen

NEVER = -1e9  # log-probability of what cannot be: exp gives 0, and unlike -inf it has gradients
LEAST = 1e-30  # alpha and 1 - alpha in logarithms

Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]
"""t -> (alpha, d_alpha), each of t's shape: the share of tokens that still stand, and its derivative by t."""


def linear(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = 1 - t: D3PM's of the absorbing process, MDLM's "log-linear"."""
    return 1 - t, -torch.ones_like(t)


def cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = 1 - sin(pi t / 2): much is forgotten early, the last tokens slowly, so that backwards the first ones come one by
    one (MaskGIT's: Chang et al. 2022, arXiv:2202.04200)."""
    angle = math.pi / 2 * t
    return 1 - angle.sin(), -math.pi / 2 * angle.cos()


def cosine_squared(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = cos(pi t / 2)^2, slow at both ends: D3PM's of the uniform process (of Nichol and Dhariwal 2021)."""
    angle = math.pi / 2 * (1 - t)
    return angle.sin() ** 2, -math.pi / 2 * (2 * angle).sin()


SCHEDULES: dict[str, Schedule] = {"linear": linear, "cosine": cosine, "cosine-squared": cosine_squared}


def find_schedule(name: str) -> Schedule:
    """A schedule by name. Raises UserError for an unknown one."""
    if name not in SCHEDULES:
        raise UserError(f"there is no schedule '{name}' of tokens; {nearest(name, SCHEDULES)}")
    return SCHEDULES[name]


def uniform_law(possible: Bool[Tensor, "l k"]) -> Float[Tensor, "l k"]:
    """pi of the uniform process: any of the tokens that are possible at a place.

    >>> uniform_law(torch.tensor([[True, True, False]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    return possible / possible.sum(1, keepdim=True)


def absorbing_law(possible: Bool[Tensor, "l k"]) -> Float[Tensor, "l k+1"]:
    """pi of the absorbing process: always the token k, which no datum has."""
    law = torch.zeros(len(possible), possible.shape[1] + 1, device=possible.device)
    law[:, -1] = 1
    return law


@dataclass(frozen=True)
class Process:
    """How tokens are forgotten. Tokens x are (B, L), laws and their logarithms (B, L, S), times (B,).

    law: pi of each place, (L, S). schedule: t -> (alpha, d_alpha).
    """

    law: Tensor
    schedule: Schedule

    def shares(self, t: Float[Tensor, "b"], like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and 1 - alpha_t, shaped to multiply what has rows like these."""
        alpha, _ = self.schedule(t.double())
        return expand(alpha.to(like.dtype), like), expand((1 - alpha).to(like.dtype), like)

    def forget(self, x0: Int[Tensor, "b l"], t: Float[Tensor, "b"], uniforms: Float[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """x_t ~ q(x_t | x0), one uniform number on [0, 1) for each place."""
        alpha = expand(self.schedule(t.double())[0], x0)
        rest = (uniforms.double() - alpha) / (1 - alpha).clamp(min=LEAST)
        return torch.where(uniforms < alpha, x0, chosen(self.law, rest.clamp(0, 1)))

    def known(self, x0: Int[Tensor, "b l"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b l s"]:
        """log p0 where x0 is known: one-hot."""
        one_hot = torch.full((*x0.shape, self.law.shape[1]), NEVER, dtype=dtype, device=x0.device)
        return one_hot.scatter_(-1, x0[..., None], 0.0)

    def marginal(self, log_p0: Float[Tensor, "b l s"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l s"]:
        """log p_t(x) = log(alpha_t p0(x) + (1 - alpha_t) pi(x))."""
        kept, lost = (share.clamp(min=LEAST).log() for share in self.shares(t, log_p0))
        return torch.logaddexp(kept + log_p0, lost + self.law.to(log_p0.dtype).log())

    def denoised(
        self, x_t: Int[Tensor, "b l"], log_p0: Float[Tensor, "b l s"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b l s"]:
        """log p(x0 | x_t) = log q(x_t | x0) + log p0(x0) - log p_t(x_t): what is expected of x0 once its place is looked at."""
        return self.posterior(x_t, log_p0, t, torch.zeros_like(t))

    def posterior(
        self, x_t: Int[Tensor, "b l"], log_p0: Float[Tensor, "b l s"], t: Float[Tensor, "b"], s: Float[Tensor, "b"]
    ) -> Float[Tensor, "b l s"]:
        """log p(x_s | x_t), s < t; what cannot be is -inf or `NEVER`."""
        kept = (self.shares(t, log_p0)[0] / self.shares(s, log_p0)[0].clamp(min=LEAST)).expand(*x_t.shape, 1)
        lost = (1 - kept) * self._there(x_t, log_p0)
        forwards = lost.expand_as(log_p0).scatter_add(-1, x_t[..., None], kept)  # q(x_t | x_s), of each x_s
        return forwards.log() + self.marginal(log_p0, s) - _at(self.marginal(log_p0, t), x_t)

    def log_ratios(
        self, x_t: Int[Tensor, "b l"], log_p0: Float[Tensor, "b l s"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b l s"]:
        """log(p_t(y) / p_t(x_t)): 0 at y = x_t, and where pi(x_t) = 0, as nothing jumps from there."""
        log_p_t = self.marginal(log_p0, t)
        return torch.where(self._there(x_t, log_p0) > 0, log_p_t - _at(log_p_t, x_t), 0.0)

    def rates(self, x_t: Int[Tensor, "b l"], log_p0: Float[Tensor, "b l s"], t: Float[Tensor, "b"]) -> Float[Tensor, "b l s"]:
        """r(y): how often, per unit of time, each place jumps backwards in time to y; 0 at y = x_t."""
        ratios = self.log_ratios(x_t, log_p0, t).exp().scatter(-1, x_t[..., None], 0.0)
        return self._beta(t, log_p0) * self._there(x_t, log_p0) * ratios

    def step_bound(
        self,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        log_p0: Float[Tensor, "b l s"],
        t: Float[Tensor, "b"],
        s: Float[Tensor, "b"],
    ) -> Float[Tensor, "b l"]:
        """KL(q(x_s | x_t, x0) || p(x_s | x_t)) of each place, nats; at s = 0 it is -log p(x0 | x_t)."""
        log_q = self.posterior(x_t, self.known(x0, log_p0.dtype), t, s)
        log_p = self.posterior(x_t, log_p0, t, s)
        q = log_q.exp()
        return torch.where(q > 0, q * (log_q - log_p), 0.0).sum(-1)

    def rate_bound(
        self, x0: Int[Tensor, "b l"], x_t: Int[Tensor, "b l"], log_p0: Float[Tensor, "b l s"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b l"]:
        """The integrand of the bound in continuous time, of each place, nats per unit of time."""
        log_q = self.log_ratios(x_t, self.known(x0, log_p0.dtype), t)
        log_p = self.log_ratios(x_t, log_p0, t)
        q = log_q.exp()
        each = (torch.where(q > 0, q * (log_q - log_p), 0.0) - q + log_p.exp()).sum(-1, keepdim=True)
        return (self._beta(t, log_p0) * self._there(x_t, log_p0) * each)[..., 0]

    def _there(self, x_t: Int[Tensor, "b l"], like: Tensor) -> Float[Tensor, "b l 1"]:
        """pi(x_t)."""
        return _at(self.law.to(like.dtype).expand(len(x_t), -1, -1), x_t)

    def _beta(self, t: Float[Tensor, "b"], like: Tensor) -> Float[Tensor, "b #l #s"]:
        """-alpha' / alpha, the rate of forgetting."""
        alpha, d_alpha = self.schedule(t.double())
        return expand((-d_alpha / alpha.clamp(min=LEAST)).to(like.dtype), like)


def _at(values: Float[Tensor, "b l s"], x: Int[Tensor, "b l"]) -> Float[Tensor, "b l 1"]:
    return values.gather(-1, x[..., None])
