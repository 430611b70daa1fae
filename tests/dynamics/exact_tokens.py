"""A known law of two correlated tokens, what a perfect network says of it, and expectations over all that can be forgotten."""

import itertools

import numpy
import torch

from pushforward.dynamics.categorical import SCHEDULES, Process, absorbing_law, uniform_law

V, L = 4, 2
# Two correlated tokens.
LAW = torch.softmax(2.0 * torch.randn(V, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64), -1)
LAW = LAW * torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)[:, None]
POSSIBLE = torch.ones(L, V, dtype=torch.bool)


def process(name, schedule="linear"):
    law = absorbing_law(POSSIBLE) if name == "absorbing" else uniform_law(POSSIBLE)
    return Process(law.double(), SCHEDULES[schedule])


def matrix(made, s, t):
    """q(x_t | x_s) of one place: rows x_s."""
    alpha_s, alpha_t = made.schedule(torch.tensor([s, t], dtype=torch.float64))[0]
    kept, law = alpha_t / alpha_s, made.law[0]
    return kept * torch.eye(len(law), dtype=torch.float64) + (1 - kept) * law.expand(len(law), -1)


def joint(made):
    """The law of x0 over all states of each place."""
    states = made.law.shape[1]
    law = torch.zeros(states, states, dtype=torch.float64)
    law[:V, :V] = LAW
    return law


def states_of(made):
    return torch.tensor(list(itertools.product(range(made.law.shape[1]), repeat=L)))


def exact_p0(made, x_t, t):
    """log p(x0_i | x_t at the other places) of all rows, by enumeration: what a network is to learn."""
    q, law = matrix(made, 0.0, t), joint(made)
    first = torch.einsum("ab,bj->ja", law, q)[x_t[:, 1]]  # p(x0_1, x_t2)
    second = torch.einsum("ab,aj->jb", law, q)[x_t[:, 0]]
    both = torch.stack([first, second], 1)
    return (both / both.sum(-1, keepdim=True).clamp(min=1e-300)).clamp(min=1e-300).log()  # what is never met: anything


def times(t, rows):
    return torch.full((rows,), t, dtype=torch.float64)


def expected(made, t, bound, p0=None):
    """The expectation over x_t of `bound(x0, x_t, log_p0, t)` for every x0, (V, V), by enumeration."""
    x0 = torch.tensor(list(itertools.product(range(V), repeat=L)))
    x_t, q = states_of(made), matrix(made, 0.0, t)
    log_p0 = exact_p0(made, x_t, t) if p0 is None else p0[x_t[:, 0], x_t[:, 1]]
    pairs = [part.flatten(0, 1) for part in (x0[:, None].expand(-1, len(x_t), -1), x_t.expand(len(x0), -1, -1))]
    each = bound(*pairs, log_p0.repeat(len(x0), 1, 1), times(t, len(pairs[0]))).sum(1)
    chance = q[pairs[0], pairs[1]].prod(1)
    return torch.where(chance > 0, chance * each, 0).view(V, V, -1).sum(-1)


def step_bound(made, steps):
    def between(k):
        return expected(made, k / steps, lambda x0, x_t, p, t: made.step_bound(x0, x_t, p, t, 0 * t + (k - 1) / steps))

    return torch.stack([between(k) for k in range(1, steps + 1)]).sum(0)


def rate_bound(made, points=60, p0=None):
    nodes, weights = numpy.polynomial.legendre.leggauss(points)
    total = torch.zeros(V, V, dtype=torch.float64)
    for u, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        # t = u^2 (3 - 2 u): the integrand of the uniform process is like log t at the ends
        t, slope = float(u * u * (3 - 2 * u)), float(6 * u * (1 - u))
        total += weight * slope * expected(made, t, made.rate_bound, p0)
    return total
