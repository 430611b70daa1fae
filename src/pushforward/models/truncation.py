"""Fewer but better samples from a decoder: codes that it stretches most are left out, or all are drawn in towards their mean.

A continuous G cannot push one normal distribution forward to two separate pieces: between them lies a bridge of samples that
are neither, made of few codes, and so of those where G is steep. With J the Jacobian dG/dz, the codes that are kept are

    { z : |J(z)|_F <= q },      q the `keep`-quantile of |J(z)|_F over z ~ p(z).

    |J|_F^2 = sum_i |J e_i|^2  (exact)  =  E |J^T v|^2,   v of independent signs  (Hutchinson's estimate).

The truncation trick draws codes in instead, z -> m + psi (z - m), which needs no Jacobian, and moves every sample.

Tanielian et al. 2020, arXiv:2006.04596; Hutchinson 1990; Brock et al. 2019, arXiv:1809.11096 (psi).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pushforward.errors import UserError
from pushforward.models.contract import Decodes, Generator, device_of
from pushforward.randomness import SampleRng, as_rng

EXACT = 32  # numbers of a code up to which the norm is computed in full
PROBES = 16  # signs of an estimate: off by about sqrt(2 / 16) of what one singular value contributes
POOL = 512  # draws that say where the quantile lies
ROUNDS = 64  # draws of a row before its flattest is taken
BLOCK = 256


def jacobian_norm(
    decode: Callable[[Tensor], Tensor],
    z: Float[Tensor, "n *code"],
    *,
    probes: int | None = None,
    numbers: int | None = None,
    seed: int = 0,
) -> Float[Tensor, " n"]:
    """|J(z)|_F of each code, of a decoder whose rows do not see each other.

    probes: signs of Hutchinson's estimate, the same for all rows; 0: exact, by one forward derivative for each number of a
    code; None: exact for codes of up to 32 numbers, else 16 probes. numbers: by how many of a code's numbers, the first ones,
    x is differentiated; None: all (what follows noise may be one-hot, which no path in z leads away from).
    """
    size = z[0].numel() if numbers is None else numbers
    probes = (0 if size <= EXACT else PROBES) if probes is None else probes
    if probes < 0:
        raise UserError(f"probes = {probes} was given; it must be 0 (exact) or more.")
    total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
    with torch.inference_mode(False), torch.enable_grad():
        at = z.detach().clone()
        if not probes:
            for i in range(size):
                along = torch.zeros_like(at).flatten(1)
                along[:, i] = 1
                slope: Tensor = torch.func.jvp(decode, (at,), (along.view_as(at),))[1]
                total += slope.detach().flatten(1).square().sum(1)
            return total.sqrt()
        x = decode(at.requires_grad_())
        rng = SampleRng(seed, device=z.device, alike=True)
        for k in range(probes):
            signs = rng.randn_like(x).sign()
            (slope,) = torch.autograd.grad(x, at, signs, retain_graph=k + 1 < probes)
            total += slope.flatten(1)[:, :size].square().sum(1) / probes
    return total.sqrt()


def truncated_codes(
    model: Any,
    n: int,
    *,
    keep: float = 0.9,
    condition: Tensor | None = None,
    generator: Generator = None,
    probes: int | None = None,
    numbers: int | None = None,
) -> Float[Tensor, "n *code"]:
    """n codes of which the decoder is among the `keep` least steep, for `model.decode(z, condition=condition)`.

    A row draws until its code is flat enough, so that row i does not depend on the others (after 64 draws, which a keep below
    0.1 may take, it is its flattest). What is flat is measured once for each distinct condition.

    Args:
        model: draws codes and decodes them, with a derivative.
        n: how many.
        keep: the share of codes that are kept, in (0, 1]; 1: all.
        condition: as the model sees it, a row each.
        generator: where codes come from.
        probes, numbers: as of `jacobian_norm`.
    """
    if not 0 < keep <= 1:
        raise UserError(f"keep = {keep} was given; it is the share of codes that are kept, above 0 and up to 1.")
    if not isinstance(model, Decodes):
        raise UserError(f"{type(model).__name__} has no decoder, and so no codes to leave out.")
    rng = as_rng(generator, device_of(model))  # type: ignore[arg-type]
    best = model.draw_codes(n, condition=condition, generator=rng)
    if keep == 1:
        return best
    limit = _limits(model, n, keep, condition, probes, numbers, best.device)
    least = _norms(model, best, condition, probes, numbers)
    for _ in range(ROUNDS - 1):
        rows = torch.nonzero(least > limit)[:, 0]
        if not len(rows):
            break
        z = model.draw_codes(n, condition=condition, generator=rng)[rows]  # all rows, so that each has its own draws
        norm = _norms(model, z, None if condition is None else condition[rows], probes, numbers)
        flatter = norm < least[rows]
        best[rows[flatter]], least[rows[flatter]] = z[flatter], norm[flatter]
    return best


def drawn_in(z: Float[Tensor, "n *code"], psi: float, mean: Float[Tensor, "*code"] | float = 0.0) -> Float[Tensor, "n *code"]:
    """m + psi (z - m): 1 leaves codes as they are, 0 makes all of them the mean.

    >>> drawn_in(torch.tensor([[2.0, -4.0]]), 0.5).tolist()
    [[1.0, -2.0]]
    """
    return mean + psi * (z - mean)


def sweep(
    model: Any,
    n: int,
    *,
    keep: Sequence[float] = (),
    psi: Sequence[float] = (),
    condition: Tensor | None = None,
    seed: int = 0,
) -> Float[Tensor, "k n *shape"]:
    """n samples, in the model's units, at each share of codes that are kept, then at each psi, all of the same seed.

    What belongs into a figure: precision against recall of each of the k, or a row of pictures for each datum.
    """
    if not (keep or psi):
        raise UserError("give a sequence of keep (shares of codes) or psi (factors of codes), or both.")
    device = device_of(model)
    plain = model.draw_codes(n, condition=condition, generator=SampleRng(seed, device=device))
    codes = [
        truncated_codes(model, n, keep=share, condition=condition, generator=SampleRng(seed, device=device)) for share in keep
    ] + [drawn_in(plain, factor) for factor in psi]
    with torch.no_grad():
        return torch.stack([model.decode(z, condition=condition) for z in codes])


def distinct(condition: Tensor | None, n: int, device: torch.device) -> tuple[list[Tensor | None], Int[Tensor, " n"]]:
    """The conditions that differ (a single None where there are none), and which of them each row has."""
    if condition is None:
        return [None], torch.zeros(n, dtype=torch.long, device=device)
    kinds, which = condition.unique(dim=0, return_inverse=True)
    return list(kinds), which


def _norms(model: Decodes, z: Tensor, condition: Tensor | None, probes: int | None, numbers: int | None) -> Float[Tensor, " n"]:
    parts = []
    for start in range(0, len(z), BLOCK):
        given = None if condition is None else condition[start : start + BLOCK]

        def decode(z: Tensor, given: Tensor | None = given) -> Tensor:
            return model.decode(z, condition=given)

        parts.append(jacobian_norm(decode, z[start : start + BLOCK], probes=probes, numbers=numbers))
    return torch.cat(parts)


def _limits(
    model: Decodes,
    n: int,
    keep: float,
    condition: Tensor | None,
    probes: int | None,
    numbers: int | None,
    device: torch.device,
) -> Float[Tensor, " n"]:
    """The quantile q for each row: of the codes that are drawn under its condition."""
    kinds, which = distinct(condition, n, device)
    limits = []
    for kind in kinds:
        given = None if kind is None else kind.expand(POOL, *kind.shape)
        rng = SampleRng(0x7A4, device=device)
        norms = _norms(model, model.draw_codes(POOL, condition=given, generator=rng), given, probes, numbers)
        limits.append(norms.quantile(keep))
    return torch.stack(limits)[which]
