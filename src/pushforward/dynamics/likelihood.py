"""Densities along an ODE: the instantaneous change of variables (Chen et al. 2018, arXiv:1806.07366).

Along dx/dt = v(x, t) the log-density of what is carried changes by d log p / dt = -div v. So, from data x at times[0] to
z at times[-1] where the density is known,

    log p(x) = log p(z) + int div v(x_t, t) dt.

The divergence is summed exactly, D products with the Jacobian, or estimated by Hutchinson's probe^T (dv/dx) probe with random
signs: unbiased, one product a probe (Grathwohl et al. 2019, arXiv:1810.01367).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.dynamics.ode import Method, Velocity, integrate
from pushforward.errors import UserError
from pushforward.randomness import Rng


def standard_normal(z: Float[Tensor, "b *shape"]) -> Float[Tensor, "b"]:
    """log N(z; 0, I), in nats.

    >>> standard_normal(torch.zeros(1, 2))
    tensor([-1.8379])
    """
    z = z.flatten(1)
    return -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def divergences(
    v: Float[Tensor, "b d"], x: Float[Tensor, "b d"], probes: Float[Tensor, "k b d"] | None, graph: bool = False
) -> Tensor:
    """The divergence of v, a function of x, row by row: exactly (B, 1), or with probes (K, B, D) of unit covariance its K
    Hutchinson estimates probe^T (dv/dx) probe (B, K), each unbiased. graph: whether it can be differentiated again."""
    if probes is None:
        axes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None, :].expand(-1, len(x), -1)
        products = torch.autograd.grad(v, x, axes, is_grads_batched=True, create_graph=graph)[0]
        return (axes * products).sum((0, 2))[:, None]
    each = [torch.autograd.grad(v, x, probe, create_graph=graph, retain_graph=True)[0] for probe in probes]
    return torch.stack([(probe * product).sum(1) for probe, product in zip(probes, each, strict=True)], 1)


def log_prob_along(
    velocity: Velocity,
    x: Float[Tensor, "b *shape"],
    times: Float[Tensor, "k"],
    *,
    base: Callable[[Tensor], Tensor] = standard_normal,
    method: str | Method = "rk4",
    probes: int | None = None,
    rng: Rng | None = None,
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """log p(x) and its standard error, in nats, of the law that `velocity` carries from `base` at times[-1] to x at times[0].

    Args:
        velocity: of x (B, *shape) and t (B,).
        x: data.
        times: of the ODE method's steps; their error is not in the standard error.
        base: the log-density (B,) of what x becomes.
        method: of the ODE.
        probes: None: the exact divergence, with standard error 0; else as many of Hutchinson's probes, at least 2.
        rng: which the probes are drawn from.

    Raises UserError for fewer than 2 probes.
    """
    rows, dimensions = len(x), x[0].numel()
    signs = None
    if probes is not None:
        if probes < 2:
            raise UserError(f"an estimate with its standard error needs at least 2 probes; {probes} was given.")
        if rng is None:
            raise UserError("probes are drawn at random; give an rng.")
        draws = rng.rand(rows, probes, dimensions)
        signs = torch.where(draws < 0.5, -1.0, 1.0).to(x).transpose(0, 1)

    def rates(state: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():  # Jacobians are needed whatever mode the caller is in
            at = state[:, :dimensions].detach().requires_grad_()
            v = velocity(at.reshape(x.shape), t).flatten(1)
            divergence = divergences(v, at, signs)
        return torch.cat([v, divergence], 1).detach()

    start = torch.cat([x.detach().flatten(1), x.new_zeros(rows, probes or 1)], 1)
    end = integrate(rates, start, times, method)
    z, integrals = end[:, :dimensions].float().reshape(x.shape), end[:, dimensions:].float()
    value = base(z)
    stderr = torch.zeros_like(value) if probes is None else integrals.std(1) / math.sqrt(probes)
    return value + integrals.mean(1), stderr
