"""Eight Gaussians to two moons by flow matching, beside torchcfm's: the same laws, network, batches and updates, in one run.

    python benchmarks/flow_matching.py [--steps 20000] [--seeds 10] [--points 10000]        # pip install torchcfm

The laws are those of torchcfm's examples: centres at a distance of 5 with a covariance of 0.1^(1/2) I, and scikit-learn's
moons with a noise of 0.2, times 3, less 1. The network is its MLP, three hidden layers of 64 SELUs, in both; both take 256
pairs an update at a rate of 1e-3, torchcfm in the loop of its example by Adam, the library by `pf.train`, with all that it does
in each update (averaged weights, a falling rate, records, checks). Speeds are of processor time, in short runs of both by
turns, the median update of each one's quickest run: beside torchcfm's loop as it is in the example, which draws its Gaussians
one by one, and beside the same loop with the draws made as quickly as ours.

Measured is the squared 2-Wasserstein distance, exactly, between fresh points carried by one step of Euler's method, by a
hundred, or by dopri5, and fresh moons, as published (Cheng and Schwing 2025, arXiv:2503.10636, figure 1: 10,000 points, batches
of 256 matched in 1,024, a network of 128 units; 6.232 and 0.120 with independent pairs, 0.072 and 0.050 with optimal transport,
by one step and adaptively). Its floor is that of two sets of fresh moons.
"""

from __future__ import annotations

import argparse
import functools
import importlib.machinery
import platform
import sys
import tempfile
import time
import types
from collections.abc import Callable

import numpy as np
import ot
import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.data.batches import STREAM, ArraySplit, Data
from pushforward.data.spec import Column, DataSpec
from pushforward.dynamics.ode import integrate
from pushforward.randomness import Rng, normals, uniforms

BATCH, RATE = 256, 1e-3
ROUNDS, ROUND = 4, 150  # of speed, and updates in each
SOLVERS = {"Euler 1": ("euler", 1), "Euler 100": ("euler", 100), "dopri5": ("dopri5", 1)}
SPEC = DataSpec("point", (2,), columns=(Column("x0", "number"), Column("x1", "number")), name="moons")  # units of their own

times: list[float] = []


def gaussians(u: Tensor, z: Tensor) -> Tensor:
    """Eight Gaussians from uniform numbers (N,) and normal ones (N, 2)."""
    angle = (8 * u).floor() * (torch.pi / 4)
    return 5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1**0.25 * z


def moons(u: Tensor, z: Tensor) -> Tensor:
    """Two moons from uniform numbers (N,) and normal ones (N, 2)."""
    upper, angle = u < 0.5, torch.pi * (2 * u % 1)
    outer = torch.stack([angle.cos(), angle.sin()], 1)
    inner = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    return 3 * (torch.where(upper[:, None], outer, inner) + 0.2 * z) - 1


def draw(law: Callable[[Tensor, Tensor], Tensor], n: int, key: int, first: int = 0) -> Tensor:
    """Points number `first` to `first` + n - 1 of a law."""
    indices = torch.arange(first, first + n)
    return law(uniforms(indices, 1, key, torch.float32)[:, 0], normals(indices, 2, key + 1))


class Moons:
    """A split that never ends; notes the processor time whenever a batch is asked for, once an update."""

    def __init__(self, key: int):
        self.key = key

    def __len__(self) -> int:
        return STREAM

    def fetch(self, indices: Tensor) -> tuple[Tensor, None]:
        times.append(time.process_time())
        generator = torch.Generator().manual_seed(int(indices[0]) % 2**31 + self.key)
        return moons(torch.rand(len(indices), generator=generator), torch.randn(len(indices), 2, generator=generator)), None


def source(n: int, rng: Rng) -> Tensor:
    """Eight Gaussians as a model asks for them."""
    return gaussians(rng.rand(n), rng.randn(n, 2))


class SELUs(nn.Module):
    """torchcfm's MLP."""

    def __init__(self, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        for before in (3, width, width):
            layers += [nn.Linear(before, width), nn.SELU()]
        self.net = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor, embedding: Tensor | None = None) -> Tensor:
        return self.net(torch.cat([x, t[:, None]], 1))


def ours(transport: bool, steps: int, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity learned, from t = 1 to t = 0."""
    torch.manual_seed(seed)
    coupling = "optimal-transport" if transport else "independent"
    model = pf.create("flow-matching", SPEC, coupling=coupling, source=source, net=SELUs(), learning_rate=RATE, dropout=0.0)
    data = Data(SPEC, Moons(seed), ArraySplit(draw(moons, 64, seed + 77)), ArraySplit(draw(moons, 64, seed + 78)))
    with tempfile.TemporaryDirectory() as out:
        run = pf.train(
            model, data, steps=steps, batch_size=BATCH, seed=seed, out=f"{out}/run", precision="fp32",
            validate_every=0, picture_every=0, tensorboard=False,
        )  # fmt: skip
    return run.model.denoiser().velocity


def theirs(transport: bool, steps: int, seed: int, own: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """The same by torchcfm, whose time runs the other way. own: with the example's own draws."""
    try:  # of its many dependencies, those of its pictures and solvers are not needed to train
        import torchdyn  # noqa: F401
    except ImportError:
        for name in ("torchdyn", "torchdyn.core", "torchdyn.datasets"):
            sys.modules.setdefault(name, _stub(name))
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher
    from torchcfm.models.models import MLP

    torch.manual_seed(seed)
    np.random.seed(seed)
    matcher = (ExactOptimalTransportConditionalFlowMatcher if transport else ConditionalFlowMatcher)(sigma=0.0)
    model = MLP(dim=2, time_varying=True)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for _ in range(steps):
        times.append(time.process_time())
        optimizer.zero_grad()
        x0 = one_by_one(BATCH) if own else gaussians(torch.rand(BATCH), torch.randn(BATCH, 2))
        x1 = moons(torch.rand(BATCH), torch.randn(BATCH, 2))
        t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
        vt = model(torch.cat([xt, t[:, None]], -1))
        loss = torch.mean((vt - ut) ** 2)
        loss.backward()
        optimizer.step()
    return lambda x, t: -model(torch.cat([x, 1 - t[:, None]], -1))


def one_by_one(n: int) -> Tensor:
    """Eight Gaussians as torchcfm's example draws them."""
    law = torch.distributions.MultivariateNormal(torch.zeros(2), 0.1**0.5 * torch.eye(2))
    angle = torch.arange(8) * (torch.pi / 4)
    centres, noise = 5 * torch.stack([angle.cos(), angle.sin()], 1), law.sample((n,))
    which = torch.multinomial(torch.ones(8), n, replacement=True)
    return torch.stack([centres[which[i]] + noise[i] for i in range(n)])


def _stub(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__getattr__ = lambda key: object  # type: ignore[method-assign]
    return module


def distance(a: Tensor, b: Tensor) -> float:
    """The squared 2-Wasserstein distance of two sets of as many points."""
    costs = torch.cdist(a.double(), b.double()).square().numpy()
    return float(ot.emd2([], [], costs, numItermax=100_000_000))


@torch.no_grad()
def measured(velocity: Callable[[Tensor, Tensor], Tensor], points: int, seed: int) -> dict[str, float]:
    """Distances from fresh moons by each solver, and that of moons from moons."""
    start, goal = draw(gaussians, points, 1_000 + 10 * seed), draw(moons, points, 1_003 + 10 * seed)
    found = {
        name: distance(integrate(velocity, start, torch.linspace(1, 0, steps + 1), method), goal)
        for name, (method, steps) in SOLVERS.items()
    }
    return {**found, "floor": distance(draw(moons, points, 1_006 + 10 * seed), goal)}


def speeds(transport: bool) -> list[float]:
    """Updates a second of processor time in the quickest round of each: ours, torchcfm's example, the same with quick draws."""
    runs = [ours, functools.partial(theirs, own=True), theirs]
    rounds: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for who, found in zip(runs, rounds, strict=True):
            times.clear()
            who(transport, ROUND, 0)
            found.append(1 / float(np.median(np.diff(times))))
    return list(map(max, rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--couplings", nargs="+", default=["plain", "transport"], choices=["plain", "transport"])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {asked.threads} thread(s)")
    for coupling in asked.couplings:
        transport = coupling == "transport"
        mine, example, drawn = speeds(transport)
        print(
            f"{coupling}: updates a second {mine:.0f}; torchcfm's example {example:.0f}, {mine / example:.2f} times; "
            f"with quick draws {drawn:.0f}, {mine / drawn:.2f} times",
            flush=True,
        )
        for name, who in (("pushforward", ours), ("torchcfm", theirs)):
            rows = [measured(who(transport, asked.steps, seed), asked.points, seed) for seed in range(asked.seeds)]
            figures = {key: np.array([row[key] for row in rows]) for key in rows[0]}
            said = ", ".join(f"{key} {value.mean():.3f} +- {value.std():.3f}" for key, value in figures.items())
            print(f"    {name}, {asked.steps} updates, {asked.seeds} seeds, {asked.points} points: {said}", flush=True)


if __name__ == "__main__":
    main()
