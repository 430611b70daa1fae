"""Solvers beside the schedulers of diffusers 0.42.1: the same network, times and noise, step by step.

diffusers counts k = 0 .. 999 where we have t = (k + 1) / 1000, and leaves it to a scheduler which k a number of steps has and
whether the last ends at sigma = 0: each comparison takes its k, and ends at t = 0. Their Euler and Heun go by x / alpha and
sigma / alpha, ours `ddim` and `edm`; their multistep schedulers fall to order 1 at the last step, as any step to sigma = 0.
"""

import importlib
from dataclasses import dataclass

import pytest
import torch

from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.exponential import DDIM, DPMSolverPP2M, DPMSolverPP2MSDE, UniPC
from pushforward.dynamics.paths import PATHS
from pushforward.dynamics.solvers import carry
from pushforward.dynamics.spacings import time_grid
from pushforward.dynamics.stochastic import EDM, Ancestral
from pushforward.randomness import Rng

START = torch.tensor([[0.9, -0.4], [0.1, -1.6]])


def guess(x, t):
    """A noise, as a network would have it, of x at t in [0, 1]."""
    return 0.8 * x + 0.3 * torch.sin(2 * x + 3 * t) - 0.1 * t


def net(x_t, t, *, condition=None, drop=None):
    return guess(x_t, t[:, None])


def drawn(number):
    """What is drawn the number-th time: as random as it need be."""
    return torch.sin(torch.arange(1.0, 5.0) * (number + 1.7) * 1.9).reshape(2, 2) * 1.4


class Given(Rng):
    def __init__(self):
        self.device, self.draws = torch.device("cpu"), 0

    def randn(self, *shape, dtype=torch.float32):
        self.draws += 1
        return drawn(self.draws - 1).to(dtype)

    def rand(self, *shape, dtype=torch.float32):
        raise NotImplementedError

    def shared(self, *shape):
        raise NotImplementedError


@dataclass(frozen=True)
class Peer:
    """ours, their scheduler and its settings, whether it goes by x / alpha."""

    solver: object
    scheduler: str
    settings: dict
    scaled: bool = False


PEERS = {
    "ddpm small": Peer(Ancestral(0.0), "DDPMScheduler", dict(variance_type="fixed_small", clip_sample=False)),
    "ddpm large": Peer(Ancestral(1.0), "DDPMScheduler", dict(variance_type="fixed_large", clip_sample=False)),
    "ddim": Peer(DDIM(), "DDIMScheduler", dict(clip_sample=False)),
    "ddim eta 1": Peer(DDIM(1.0), "DDIMScheduler", dict(clip_sample=False)),
    "euler": Peer(DDIM(), "EulerDiscreteScheduler", dict(timestep_spacing="leading"), True),
    "heun": Peer(EDM(), "HeunDiscreteScheduler", dict(timestep_spacing="leading"), True),
    "dpm++2m": Peer(DPMSolverPP2M(), "DPMSolverMultistepScheduler", dict(timestep_spacing="leading")),
    "dpm++2m-sde": Peer(
        DPMSolverPP2MSDE(),
        "DPMSolverMultistepScheduler",
        dict(timestep_spacing="leading", algorithm_type="sde-dpmsolver++"),
    ),
    "unipc": Peer(UniPC(), "UniPCMultistepScheduler", dict(timestep_spacing="leading")),
}
STEPS = 8


def numbers(peer):
    """The k at which the network is evaluated: every 125th from 0; the multistep schedulers' are every 111th, without 0."""
    return [k * 111 for k in range(8, 0, -1)] if "Multistep" in peer.scheduler else [k * 125 for k in range(7, -1, -1)]


def times_of(peer):
    return torch.tensor([(k + 1) / 1000 for k in numbers(peer)] + [0.0])


def ours(peer):
    """The states after each step (steps, 4)."""
    times = times_of(peer)
    denoiser = Denoiser(PATHS["ddpm"], "noise", net)
    return carry(denoiser, START, times, peer.solver, rng=Given(), trajectory=True)[1:].flatten(1)


def theirs(peer, monkeypatch):
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = getattr(schedulers, peer.scheduler)(
        num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, **peer.settings
    )
    module, draws = importlib.import_module(type(scheduler).__module__), iter(range(100))
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **options: drawn(next(draws)))
    scheduler.set_timesteps(STEPS)
    alphas = torch.cat([scheduler.alphas_cumprod, torch.ones(1)]).sqrt()
    wanted = numbers(peer)
    assert sorted({int(k) for k in scheduler.timesteps}, reverse=True) == wanted
    sample = START / alphas[wanted[0]] if peer.scaled else START
    options, states = (dict(eta=peer.solver.eta) if peer.scheduler == "DDIMScheduler" else {}), []
    for k in scheduler.timesteps:
        noise = guess(scheduler.scale_model_input(sample, k), (k + 1) / 1000)
        sample = scheduler.step(noise, k, sample, **options).prev_sample
        states.append(sample)
    if peer.scheduler == "HeunDiscreteScheduler":  # two evaluations a step, but for the last
        states = [*states[1:-1:2], states[-1]]
    if peer.scaled:
        states = [state * alphas[k] for state, k in zip(states, [*wanted[1:], -1], strict=True)]
    return torch.stack(states).flatten(1)


@pytest.mark.parametrize("name", PEERS)
def test_solvers_step_as_diffusers_did(name):
    """The states that diffusers 0.42.1 gave, to the fifth decimal."""
    assert (ours(PEERS[name]) - torch.tensor(STATES[name])).abs().max() < 2e-5


@pytest.mark.parametrize("name", PEERS)
def test_solvers_step_as_diffusers_does(name, monkeypatch):
    assert (ours(PEERS[name]) - theirs(PEERS[name], monkeypatch)).abs().max() < 2e-5


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "ddpm small"])
def test_times_are_those_of_leading_spacing(name):
    torch.testing.assert_close(time_grid((0.0, 1.0), STEPS, "leading"), times_of(PEERS[name]))


STATES = {
    # diffusers 0.42.1, float32: each row the two data after a step
    "ddpm small": [
        [1.55916, -0.60131, -0.26972, -0.29062],
        [0.72452, -1.78632, -0.26077, 0.57983],
        [1.55832, 0.33266, 0.36174, 0.68798],
        [2.11739, -0.85618, 1.08970, -0.46192],
        [1.01885, -0.17876, 1.61030, -0.86851],
        [0.74900, -0.03166, 1.54971, -0.12253],
        [0.45258, -0.06973, 1.20068, -0.09003],
        [0.44661, -0.06876, 1.18912, -0.08879],
    ],
    "ddpm large": [
        [1.55899, -0.60098, -0.27021, -0.28996],
        [0.71546, -1.79358, -0.25816, 0.59028],
        [1.56814, 0.36320, 0.39250, 0.71168],
        [2.17427, -0.90541, 1.22980, -0.52110],
        [0.82694, -0.12272, 1.97892, -1.01269],
        [0.60437, 0.10624, 2.04144, 0.02712],
        [0.81364, -0.44810, 1.59958, 0.48068],
        [0.80417, -0.44219, 1.58704, 0.47440],
    ],
    "ddim": [
        [1.89530, -0.90623, 0.12689, -1.72384],
        [2.61494, -1.22653, 0.01860, -1.70138],
        [2.94745, -1.22205, -0.21015, -1.64325],
        [3.07556, -1.11446, -0.40296, -1.53847],
        [2.94690, -0.92934, -0.43812, -1.34669],
        [2.56586, -0.67939, -0.35729, -1.04276],
        [2.02415, -0.40129, -0.22197, -0.65460],
        [2.01043, -0.39594, -0.21892, -0.64650],
    ],
    "ddim eta 1": [
        [1.55916, -0.60131, -0.26972, -0.29062],
        [0.72452, -1.78632, -0.26077, 0.57983],
        [1.55832, 0.33266, 0.36174, 0.68798],
        [2.11739, -0.85618, 1.08970, -0.46192],
        [1.01885, -0.17876, 1.61030, -0.86851],
        [0.74900, -0.03166, 1.54971, -0.12253],
        [0.45258, -0.06973, 1.20068, -0.09003],
        [0.44661, -0.06876, 1.18912, -0.08879],
    ],
    "euler": [
        [1.89530, -0.90623, 0.12689, -1.72384],
        [2.61494, -1.22653, 0.01860, -1.70138],
        [2.94745, -1.22205, -0.21015, -1.64325],
        [3.07556, -1.11446, -0.40296, -1.53847],
        [2.94690, -0.92934, -0.43812, -1.34669],
        [2.56586, -0.67939, -0.35729, -1.04276],
        [2.02415, -0.40129, -0.22197, -0.65460],
        [2.01043, -0.39594, -0.21892, -0.64650],
    ],
    "heun": [
        [0.97580, -0.40887, 0.01986, -1.54164],
        [1.28484, -0.44312, -0.13068, -1.51187],
        [1.61291, -0.48863, -0.23894, -1.46867],
        [1.89442, -0.50926, -0.30261, -1.38680],
        [2.04344, -0.47759, -0.31361, -1.23591],
        [1.97036, -0.39002, -0.26948, -0.99711],
        [1.60946, -0.26277, -0.18381, -0.68875],
        [1.59690, -0.25918, -0.18128, -0.68033],
    ],
    "dpm++2m": [
        [1.76510, -0.82961, 0.14253, -1.72057],
        [1.97634, -0.93643, 0.02607, -1.60328],
        [2.21841, -0.88707, -0.20838, -1.55230],
        [2.39696, -0.85521, -0.37493, -1.48105],
        [2.48356, -0.77272, -0.39053, -1.37222],
        [2.43824, -0.65592, -0.34531, -1.20484],
        [2.25700, -0.51452, -0.26301, -0.98287],
        [1.84525, -0.31675, -0.17555, -0.63431],
    ],
    "dpm++2m-sde": [
        [1.44515, -0.52935, -0.23859, -0.35192],
        [0.00720, -1.41989, -0.43817, 0.48748],
        [-0.53262, 0.94649, 0.46624, 1.09417],
        [0.05531, 0.24989, 1.65154, 0.29597],
        [-1.05277, -0.13138, 2.79166, -1.05658],
        [-0.32408, 0.04164, 2.27929, -0.05597],
        [0.16269, -0.34857, 1.82973, 0.30594],
        [0.05873, -0.22228, 1.49112, 0.14581],
    ],
    "unipc": [
        [1.76510, -0.82961, 0.14253, -1.72057],
        [1.71288, -0.80590, -0.00822, -1.54249],
        [2.29973, -0.91392, -0.24334, -1.58346],
        [2.43310, -0.90385, -0.32581, -1.52573],
        [2.65085, -0.87226, -0.34457, -1.43030],
        [2.58629, -0.75558, -0.33470, -1.26879],
        [2.41476, -0.60450, -0.26813, -1.04169],
        [1.95560, -0.37111, -0.17832, -0.68093],
    ],
}
