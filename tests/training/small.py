"""Small models and data for the tests of the loop: one player, two players, closed form."""

from __future__ import annotations

import torch
from torch import nn

from pushforward.data.batches import ArraySplit, Data
from pushforward.data.spec import Column, DataSpec
from pushforward.models.contract import Loss, OptimizerSettings, Player, Update, device_of
from pushforward.randomness import as_rng


def points(n=512, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(n, 2, generator=generator) * torch.tensor([1.0, 0.5]) + torch.tensor([2.0, -1.0])
    spec = DataSpec("point", (2,), columns=(Column("a", "number"), Column("b", "number")), name="points")
    return Data(spec, ArraySplit(codes[: n - 128]), ArraySplit(codes[n - 128 :]), source={"source": "<array>"})


class Denoiser(nn.Module):
    """One player; noise and dropout, so that every kind of randomness is in its loss."""

    def __init__(self, spec, *, width=32, dropout=0.2, poison_at=None):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, 2))
        self.poison_at, self.calls = poison_at, 0
        self.name, self.settings = "denoiser", {}

    def loss(self, batch, rng):
        noise = rng.randn(*batch.x.shape)
        error = ((self.net(batch.x + noise) - noise) ** 2).mean()
        self.calls += self.training
        if self.poison_at is not None and self.training and self.calls in self.poison_at:
            error = error * torch.nan
        return Loss(error, {"error": error})

    def players(self):
        return [Player("denoiser", self.net, self.loss, optimizer=OptimizerSettings(1e-2))]

    def sample(self, n, *, condition=None, generator=None):
        return self.net(as_rng(generator, device_of(self)).randn(n, 2))


class Game(nn.Module):
    """Two players on two networks, the first with two updates a turn and a shared-module penalty every third step."""

    def __init__(self, spec):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))
        self.maker = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 2))
        self.name, self.settings = "game", {}

    def critic_loss(self, batch, rng):
        with torch.no_grad():
            fake = self.maker(rng.randn(len(batch), 2))
        loss = (nn.functional.softplus(-self.critic(batch.x)) + nn.functional.softplus(self.critic(fake))).mean()
        return Loss(loss)

    def penalty(self, batch, rng):
        x = batch.x.clone().requires_grad_()
        slope = torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)[0]
        return Loss(3 * slope.square().sum(1).mean())  # says nothing of the last bias

    def maker_loss(self, batch, rng):
        return Loss(nn.functional.softplus(-self.critic(self.maker(rng.randn(len(batch), 2)))).mean())

    def players(self):
        return [
            Player("critic", self.critic, self.critic_loss, repeat=2),
            Player("penalty", self.critic, self.penalty, every=3),
            Player("maker", self.maker, self.maker_loss),
        ]

    def sample(self, n, *, condition=None, generator=None):
        return self.maker(as_rng(generator, device_of(self)).randn(n, 2))


class Mean(nn.Module):
    """Closed form: the mean of the data, in one pass."""

    def __init__(self, spec):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.name, self.settings = "mean", {}

    def update(self, batches, rng):
        xs = [batch.x for batch in batches]
        self.mean.copy_(torch.cat(xs).mean(0))
        return Update({"norm": self.mean.norm().item()}, finished=True)

    def players(self):
        return [Player("mean", self, update=self.update)]

    def sample(self, n, *, condition=None, generator=None):
        return self.mean + as_rng(generator).randn(n, 2)
