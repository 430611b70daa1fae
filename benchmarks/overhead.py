"""What the loop costs over a hand-written one, and what the measured precision gains. Everything side by side in one run.

    python benchmarks/overhead.py            # about two minutes

The hand-written loops are what a person would write: batch by index, loss, backward, fused AdamW; no log, no average, no
checks. Ours does all of these. Rounds alternate, so that a drifting machine moves both; the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from pushforward.data.batches import ArraySplit, Batch, Batches
from pushforward.data.spec import Column, DataSpec, Vocabulary
from pushforward.models.contract import Loss, Player
from pushforward.nets.mlp import mlp
from pushforward.randomness import Rng
from pushforward.training.loop import Loop
from pushforward.training.precision import choose_pace, hardware
from pushforward.training.settings import TrainingSettings

DIMENSIONS, BATCH, STEPS, ROUNDS = 64, 64, 1000, 7
SPEC = DataSpec("point", (DIMENSIONS,), columns=tuple(Column(f"x{i}", "number") for i in range(DIMENSIONS)))


class Regression(nn.Module):
    """One player: predict the noise that was added."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(DIMENSIONS, DIMENSIONS, (256, 256))

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        noise = rng.randn(*batch.x.shape)
        return Loss(((self.net(batch.x + noise) - noise) ** 2).mean())

    def players(self) -> list[Player]:
        return [Player("model", self.net, self.loss)]


class Duel(nn.Module):
    """Two players: a small GAN."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.maker = mlp(DIMENSIONS, 1, (256, 256)), mlp(16, DIMENSIONS, (256, 256))

    def critic_loss(self, batch: Batch, rng: Rng) -> Loss:
        with torch.no_grad():
            fake = self.maker(rng.randn(len(batch), 16))
        return Loss(nn.functional.softplus(-self.critic(batch.x)).mean() + nn.functional.softplus(self.critic(fake)).mean())

    def maker_loss(self, batch: Batch, rng: Rng) -> Loss:
        return Loss(nn.functional.softplus(-self.critic(self.maker(rng.randn(len(batch), 16)))).mean())

    def players(self) -> list[Player]:
        return [Player("critic", self.critic, self.critic_loss), Player("maker", self.maker, self.maker_loss)]


def by_hand_one(data: Tensor) -> Callable[[], None]:
    model = Regression()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def steps() -> None:
        for _ in range(STEPS):
            x = data[torch.randint(len(data), (BATCH,))]
            noise = torch.randn_like(x)
            loss = ((model.net(x + noise) - noise) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def by_hand_two(data: Tensor) -> Callable[[], None]:
    model = Duel()
    critic = torch.optim.AdamW(model.critic.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    maker = torch.optim.AdamW(model.maker.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    softplus = nn.functional.softplus

    def steps() -> None:
        for _ in range(STEPS):
            x = data[torch.randint(len(data), (BATCH,))]
            with torch.no_grad():
                fake = model.maker(torch.randn(BATCH, 16))
            critic.zero_grad()
            (softplus(-model.critic(x)).mean() + softplus(model.critic(fake)).mean()).backward()
            critic.step()
            maker.zero_grad()
            softplus(-model.critic(model.maker(torch.randn(BATCH, 16)))).mean().backward()
            maker.step()

    return steps


def ours(model: Regression | Duel, data: Tensor) -> Callable[[], None]:
    batches = Batches(ArraySplit(data), SPEC, BATCH)
    settings = TrainingSettings(tensorboard=False, validate_every=0, picture_every=0)
    directory = Path(tempfile.mkdtemp())

    def steps() -> None:
        loop = Loop(model, model.players(), batches, settings, steps=STEPS, directory=directory)
        loop.save = lambda: None  # type: ignore[method-assign]  # writing checkpoints is not a cost of a step
        loop.run()
        model.train()

    return steps


def overhead() -> None:
    torch.set_num_threads(1)  # as the library itself would choose for networks of this size, and for both sides
    data = torch.randn(20_000, DIMENSIONS)
    cases = {
        "one player": (by_hand_one(data), ours(Regression(), data)),
        "two players": (by_hand_two(data), ours(Duel(), data)),
    }
    for name, (theirs, mine) in cases.items():
        times: dict[str, list[float]] = {"hand": [], "ours": []}
        for _ in range(ROUNDS + 1):
            for key, steps in (("hand", theirs), ("ours", mine)):
                start = time.perf_counter()
                steps()
                times[key].append((time.perf_counter() - start) / STEPS * 1e6)
        ratios = [o / h for o, h in zip(times["ours"][1:], times["hand"][1:], strict=True)]
        print(
            f"{name:<12} by hand {statistics.median(times['hand'][1:]):7.0f} us/step   ours "
            f"{statistics.median(times['ours'][1:]):7.0f} us/step   overhead {100 * (statistics.median(ratios) - 1):+.1f} %"
        )


def gains() -> None:
    from pushforward import building

    torch.manual_seed(0)
    image = DataSpec("image", (3, 32, 32), levels=256)
    text = DataSpec("tokens", (128,), vocabulary=Vocabulary("characters", 65, tuple(map(chr, range(65)))))
    cases = {
        "U-Net 32x32": (building.create("flow-matching", image, network="unet"), torch.rand(32, 3, 32, 32) * 2 - 1),
        "transformer": (building.create("gpt", text, depth=4, width=256, heads=4), torch.randint(65, (16, 128))),
        "MLP": (building.create("flow-matching", SPEC), torch.randn(BATCH, DIMENSIONS)),
    }
    device = torch.device("cpu")
    for name, (model, x) in cases.items():
        from pushforward.randomness import UpdateRng, seed_everything

        players = model.players()  # type: ignore[operator]

        def losses(players=players, x=x) -> list[Tensor]:
            return [player.loss(Batch(x), UpdateRng(seed_everything(0, device))).total for player in players]

        pace = choose_pace(model, losses, device, {"benchmark": name, "at": time.time()})
        figures = "   ".join(f"{key} {1e3 * value:.1f} ms" for key, value in pace.measured.items())
        print(f"{name:<12} {figures}   chosen: {pace.precision}, {pace.threads} thread(s)")


if __name__ == "__main__":
    print(f"{hardware(torch.device('cpu'))}, torch {torch.__version__}")
    gains()
    overhead()
