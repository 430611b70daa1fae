"""How far apart two distributions are by the ratio of their densities: the f-divergences, in nats.

For a convex f with f(1) = 0 (Csiszar 1963; Ali and Silvey 1966),

    D_f(p || q) = sum_x q(x) f(p(x) / q(x)),   where q = 0 < p counts p f'(infinity).

Since f(u) = sup_t u t - f*(t), any function T bounds it from below (Nguyen et al. 2010), which is what an f-GAN's critic
climbs (Nowozin, Cseke and Tomioka 2016, arXiv:1606.00709):

    D_f(p || q) >= E_p[T] - E_q[f*(T)],   with equality at T = f'(p / q).

One table holds f, f*, f' and the output activation that keeps T where f* is finite. Three conventions differ from the
paper's: its Jensen-Shannon f lacks the factor 1/2 that makes D_f the divergence (and the activation, domain and f* follow);
total variation is half of sum |p - q|, so at most 1; Neyman's and Pearson's chi-squared are named by who is in the
denominator (Pearson: q).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pushforward.errors import UserError, nearest

Function = Callable[[Tensor], Tensor]
LOG2 = math.log(2)
FAR = 100  # of log p/q: beyond, e^-FAR/2 is nothing beside 1, and no f of e^FAR overflows yet


@dataclass(frozen=True)
class FDivergence:
    """One row of the table.

    f: on [0, inf). conjugate: f*(t), finite on the open interval `domain`. derivative: f'(u), the optimal T at u = p/q.
    activation: maps any output v of a critic into `domain`, rising (the larger, the more like p). composed: f*(activation(v))
    in closed form, for objectives of a critic's outputs: `conjugate` after `activation` overflows, or divides 0 by 0 in its
    gradient, where the activation rounds to the edge of the domain, at outputs that trained critics have. slope: f'(infinity),
    what a unit of mass of p costs where q has none.

    above, below: f(u)/u and f(u) as functions of g = log u, for g > FAR and g < -FAR, where they are not yet their limits
    slope and f(0), which None stands for.
    """

    name: str
    f: Function
    conjugate: Function
    derivative: Function
    domain: tuple[float, float]
    activation: Function
    composed: Function
    slope: float
    above: Function | None = None
    below: Function | None = None


def _below_zero(v: Tensor) -> Tensor:
    return -torch.exp(-v)


def _below_one(v: Tensor) -> Tensor:
    return 1 - torch.exp(-v)


def _pearson_conjugate(t: Tensor) -> Tensor:
    t = t.clamp(min=-2)  # below, u t - (u - 1)^2 is largest at u = 0
    return t**2 / 4 + t


_ALL = (-math.inf, math.inf)
F_DIVERGENCES: dict[str, FDivergence] = {
    row.name: row
    for row in (
        FDivergence(
            "kl",
            lambda u: torch.xlogy(u, u),
            lambda t: torch.exp(t - 1),
            lambda u: 1 + u.log(),
            _ALL,
            lambda v: v,
            lambda v: torch.exp(v - 1),
            math.inf,
            above=lambda g: g,
        ),
        FDivergence(
            "reverse-kl",
            lambda u: -u.log(),
            lambda t: -1 - torch.log(-t),
            lambda u: -1 / u,
            (-math.inf, 0.0),
            _below_zero,
            lambda v: v - 1,
            0.0,
            below=lambda g: -g,
        ),
        FDivergence(
            "pearson",
            lambda u: (u - 1) ** 2,
            _pearson_conjugate,
            lambda u: 2 * (u - 1),
            _ALL,
            lambda v: v,
            _pearson_conjugate,
            math.inf,
            above=torch.exp,
        ),
        FDivergence(
            "neyman",
            lambda u: (1 - u) ** 2 / u,
            lambda t: 2 - 2 * torch.sqrt(1 - t),
            lambda u: 1 - u**-2,
            (-math.inf, 1.0),
            _below_one,
            lambda v: 2 - 2 * torch.exp(-v / 2),
            1.0,
            below=lambda g: torch.exp(-g),
        ),
        FDivergence(
            "squared-hellinger",
            lambda u: (u.sqrt() - 1) ** 2,
            lambda t: t / (1 - t),
            lambda u: 1 - u**-0.5,
            (-math.inf, 1.0),
            _below_one,
            torch.expm1,
            1.0,
        ),
        FDivergence(
            "jensen-shannon",
            lambda u: (torch.xlogy(u, u) - (u + 1) * torch.log((u + 1) / 2)) / 2,
            lambda t: -torch.log(2 - torch.exp(2 * t)) / 2,
            lambda u: torch.log(2 * u / (1 + u)) / 2,
            (-math.inf, LOG2 / 2),
            lambda v: (LOG2 - F.softplus(-v)) / 2,
            lambda v: (F.softplus(v) - LOG2) / 2,
            LOG2 / 2,
        ),
        # f(1) = -log 4: 2 JS - log 4, what the first GAN's critic climbs, with T = log D and f*(T) = -log(1 - D).
        FDivergence(
            "gan",
            lambda u: torch.xlogy(u, u) - (u + 1) * torch.log(u + 1),
            lambda t: -torch.log(-torch.expm1(t)),
            lambda u: torch.log(u / (u + 1)),
            (-math.inf, 0.0),
            lambda v: -F.softplus(-v),
            F.softplus,
            0.0,
        ),
        FDivergence(
            "total-variation",
            lambda u: (u - 1).abs() / 2,
            lambda t: t,
            lambda u: torch.sign(u - 1) / 2,
            (-0.5, 0.5),
            lambda v: torch.tanh(v) / 2,
            lambda v: torch.tanh(v) / 2,
            0.5,
        ),
    )
}


def alpha_divergence(alpha: float) -> FDivergence:
    """f(u) = (u^a - 1 - a (u - 1)) / (a (a - 1)): KL as a -> 1, reverse KL as a -> 0, half of Pearson's at 2 and of Neyman's
    at -1, twice the squared Hellinger at 1/2.

    Raises UserError at 0 and 1, where it is a limit with a row of its own.
    """
    if alpha in (0, 1):
        name = "kl" if alpha == 1 else "reverse-kl"
        raise UserError(f"the alpha-divergence at {alpha} is a limit; ask for '{name}', which it is.")
    a, scale = alpha, alpha * (alpha - 1)
    edge = 1 / (1 - a)  # where 1 + (a - 1) t is 0: the upper end of the domain for a < 1; f* is constant below it for a > 1

    def conjugate(t: Tensor) -> Tensor:
        return ((1 + (a - 1) * t).clamp(min=0) ** (a / (a - 1)) - 1) / a

    return FDivergence(
        f"alpha={alpha:g}",
        lambda u: (u**a - 1 - a * (u - 1)) / scale,
        conjugate,
        lambda u: (u ** (a - 1) - 1) / (a - 1),
        _ALL if a > 1 else (-math.inf, edge),
        (lambda v: v) if a > 1 else lambda v: edge - F.softplus(-v),
        conjugate if a > 1 else lambda v: (((1 - a) * F.softplus(-v)) ** (a / (a - 1)) - 1) / a,
        math.inf if a > 1 else edge,
        above=lambda g: (torch.exp((a - 1) * g) - a) / scale,
        below=lambda g: (torch.exp(a * g) - 1 + a) / scale,
    )


def find_divergence(divergence: str | FDivergence) -> FDivergence:
    """A row by its name, or the row itself. Raises UserError for an unknown name."""
    if not isinstance(divergence, str):
        return divergence
    if divergence not in F_DIVERGENCES:
        raise UserError(f"there is no f-divergence '{divergence}'; {nearest(divergence, F_DIVERGENCES)}")
    return F_DIVERGENCES[divergence]


def checked_simplex(p: Tensor, name: str = "p") -> Tensor:
    """p as float64. Raises UserError unless it is non-negative and sums to 1 along the last axis (within 1e-4)."""
    p = p.double()
    total = p.sum(-1)
    if not bool((p >= 0).all()) or not torch.allclose(total, torch.ones_like(total), atol=1e-4):
        raise UserError(
            f"{name} is not a distribution: its smallest value is {p.min():.4g} and its sums go from {total.min():.4g} to "
            f"{total.max():.4g}; give non-negative probabilities that sum to 1 along the last axis (p / p.sum(-1))."
        )
    return p


def _pair(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    if p.shape[-1:] != q.shape[-1:]:
        raise UserError(
            f"p is over {p.shape[-1]} values and q over {q.shape[-1]}; put both on the same values, with 0 where one has none."
        )
    return checked_simplex(p, "p"), checked_simplex(q, "q")


def f_divergence(divergence: str | FDivergence, p: Float[Tensor, "*b k"], q: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """D_f(p || q) of discrete distributions, in float64: 0 log 0 is 0, and KL is infinite where q = 0 < p.

    >>> p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])
    >>> [round(float(f_divergence(name, p, q)), 4) for name in ("kl", "reverse-kl", "pearson", "total-variation")]
    [0.3466, inf, 0.5, 0.25]
    """
    row = find_divergence(divergence)
    p, q = _pair(p, q)
    shared = q > 0
    ratio = p / torch.where(shared, q, 1.0)
    within = torch.where(shared, q * row.f(torch.where(shared, ratio, 1.0)), 0.0)
    outside = torch.where(~shared & (p > 0), row.slope * p, 0.0)  # 0 inf is NaN, and not chosen
    return (within + outside).sum(-1)


def kl(p: Float[Tensor, "*b k"], q: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """KL(p || q) = sum p log(p / q), nats; `kl(q, p)` is the reverse one."""
    return f_divergence("kl", p, q)


def jensen_shannon(p: Float[Tensor, "*b k"], q: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats: 0 to log 2. Its square root is a metric.

    >>> float(jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))) == math.log(2)
    True
    """
    return f_divergence("jensen-shannon", p, q)


def total_variation(p: Float[Tensor, "*b k"], q: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """The largest difference of any event's probability, sum |p - q| / 2: 0 to 1."""
    return f_divergence("total-variation", p, q)


def hellinger(p: Float[Tensor, "*b k"], q: Float[Tensor, "*b k"]) -> Float[Tensor, "*b"]:
    """The Hellinger distance |sqrt p - sqrt q| / sqrt 2: 0 to 1."""
    return (f_divergence("squared-hellinger", p, q) / 2).sqrt()


def renyi(p: Float[Tensor, "*b k"], q: Float[Tensor, "*b k"], alpha: float) -> Float[Tensor, "*b"]:
    """Renyi's divergence log(sum p^a q^(1-a)) / (a - 1) of order a > 0, nats; it is KL at a = 1."""
    if alpha <= 0:
        raise UserError(f"Renyi's divergence of order {alpha} was asked for; its order is above 0.")
    if alpha == 1:
        return kl(p, q)
    p, q = _pair(p, q)
    # Where p = 0 the term is 0 whatever q is, infinite powers of q included.
    terms = torch.where(p > 0, alpha * p.log() + (1 - alpha) * q.log(), -math.inf)
    return torch.logsumexp(terms, -1) / (alpha - 1)


def variational_bound(
    divergence: str | FDivergence,
    t_p: Float[Tensor, " n"],
    t_q: Float[Tensor, " m"],
    p: Float[Tensor, " n"] | None = None,
    q: Float[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """E_p[T] - E_q[f*(T)] <= D_f(p || q), from T at draws of p and of q, or with their probabilities at all values.

    T must lie in the divergence's domain, which its activation sees to.
    """
    conjugate = find_divergence(divergence).conjugate(t_q)
    return (t_p.mean() if p is None else (p * t_p).sum()) - (conjugate.mean() if q is None else (q * conjugate).sum())


def monte_carlo(
    divergence: str | FDivergence,
    log_p: Function,
    log_q: Function,
    draws_p: Float[Tensor, "n *shape"],
    draws_q: Float[Tensor, "m *shape"],
) -> tuple[float, float]:
    """An unbiased estimate of D_f(p || q) with its standard error, from normalised log-densities and draws of both.

    log_p, log_q: (B, *shape) -> nats (B,). The draws are a stratified sample of the mixture (p + q) / 2, under which both
    densities have ratios of at most 2: E_q[f(p/q)] itself has infinite variance wherever q's tails are the lighter ones.
    Where the estimate is infinite (a density is 0 where the other is not, or exp overflows), its standard error is too.
    """
    row = find_divergence(divergence)
    means, variances = [], []
    for draws in (draws_p, draws_q):
        if len(draws) < 2:
            raise UserError("a Monte Carlo estimate with a standard error needs at least two draws of each side.")
        gap = log_p(draws).double() - log_q(draws).double()
        if bool(gap.isnan().any()):
            raise UserError("a log-density is NaN, or both are minus infinity at a draw of one of them; check them there.")
        weighed = 2 * torch.sigmoid(-gap) * row.f(gap.clamp(-FAR, FAR).exp())
        # q f(u) / m with m = (p + q) / 2 is 2 f(u) / (1 + u): beyond FAR, 2 f(u) / u or 2 f(u)
        above = row.above(gap) if row.above else gap.new_tensor(row.slope)
        below = row.below(gap) if row.below else row.f(torch.zeros_like(gap))
        weighed = torch.where(gap > FAR, 2 * above, torch.where(gap < -FAR, 2 * below, weighed))
        means.append(float(weighed.mean()))
        variances.append(float(weighed.var()) / len(draws))
    stderr = math.sqrt(sum(variances)) / 2 if math.isfinite(sum(means)) else math.inf  # inf - inf is NaN
    return sum(means) / 2, stderr
