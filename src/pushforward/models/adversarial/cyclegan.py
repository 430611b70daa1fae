"""CycleGAN: learns from two sets of images without pairs (horses and zebras) to turn each into the other, so that the way there
and back again ends where it began.

The domains are the two classes of the data, X (class 0) and Y (class 1). G: X -> Y and F: Y -> X are one player, the critics
D_Y and D_X of their outputs another. With least squares for the game and L1 norms per number,

    critics      E_y (D_Y(y) - 1)^2 / 2 + E_x D_Y(G(x))^2 / 2                        and the same of D_X and F
    generators   E_x (D_Y(G(x)) - 1)^2 + E_y (D_X(F(y)) - 1)^2                       game
                 + lambda (E_x |F(G(x)) - x| + E_y |G(F(y)) - y|)                    cycle, lambda = 10
                 + lambda / 2 (E_y |G(y) - y| + E_x |F(x) - x|)                      identity.

A generator's side of `least-squares` in objectives.py has a factor 1/2 that the paper's has not, hence the weight 2 of the
game here. Means are over the rows of a batch that are of the domain. Where it has none of a domain, the terms of that are left
out (on the critics' side its logit counts as 0, a constant): all networks still have a gradient, G by the cycle of y, D_Y by
its fakes.

The critics see a history of fakes (Shrivastava et al. 2017): a pool holds 50 for each domain. Once it is full, a new fake is
with probability 1/2 put into a random place of the pool, and the one that was there is shown instead; else it is shown itself.
Which are exchanged is drawn in the critics' loss, which leaves the pool as it is; they move into it after the update.

The networks are Johnson et al.'s residual translator and critics of patches of at most 70 pixels (nets/translators.py). The
paper holds the learning rate for half of the run and then lets it fall to 0 linearly; here it falls linearly all the way.

Zhu, Park, Isola and Efros 2017, "Unpaired image-to-image translation using cycle-consistent adversarial networks",
arXiv:1703.10593; Shrivastava, Pfister, Tuzel, Susskind, Wang and Webb 2017, arXiv:1612.07828.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.adversarial.objectives import critic_terms
from pushforward.models.adversarial.objectives import objective as objective_of
from pushforward.models.contract import Generator, Loss, Moment, OptimizerSettings, Player, device_of
from pushforward.nets.conditioning import checked_classes
from pushforward.nets.translators import PatchCritic, translator
from pushforward.randomness import Rng


class ImagePool(nn.Module):
    """Fakes of each domain that are kept to be shown later, in buffers: part of a model's state.

    images (2, size, *shape): of each domain. held (2,): how many places are filled.
    """

    images: Tensor
    held: Tensor

    def __init__(self, size: int, shape: tuple[int, ...]):
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.zeros(2, size, *shape))
        self.register_buffer("held", torch.zeros(2, dtype=torch.long))

    def exchange(
        self, fakes: Float[Tensor, "b *shape"], domain: Int[Tensor, " b"], rng: Rng
    ) -> tuple[Float[Tensor, "b *shape"], Int[Tensor, " b"]]:
        """What is shown in the place of new fakes of these domains, and the place that each of them goes to: -1 where it is
        shown itself. Changes nothing."""
        coin, place = rng.rand(len(fakes)) < 0.5, rng.randint(self.size, len(fakes))
        swapped = coin & (self.held >= self.size)[domain]
        old = self.images[domain, place].to(fakes.dtype)
        return torch.where(swapped.view(-1, 1, 1, 1), old, fakes), torch.where(swapped, place, -1)

    def store(self, fakes: Float[Tensor, "b *shape"], domain: Int[Tensor, " b"], place: Int[Tensor, " b"]) -> None:
        """Puts fakes in their places, and into free ones while there are any, in the order of the rows."""
        own = nn.functional.one_hot(domain, 2)
        free = self.held[domain] + own.cumsum(0).gather(1, domain[:, None])[:, 0] - 1
        place = torch.where(place >= 0, place, free)
        # Of two rows for one place the later stays: writing both would leave it to chance on a GPU.
        same = (domain[:, None] == domain) & (place[:, None] == place)
        stays = (place < self.size) & ~same.triu(1).any(1)
        self.images[domain[stays], place[stays]] = fakes[stays].to(self.images.dtype)
        self.held.copy_((self.held + own.sum(0)).clamp(max=self.size))


class CycleGAN(nn.Module):
    """Two translators and two critics for two classes of images in [-1, 1], without pairs.

    Translates images of either class into the other; has no likelihood, and nothing to sample from but images.

    Args:
        spec: the data: images in two classes.
        cycle: weight of the mean absolute error there and back again; above 0.
        identity: weight of what a generator changes of images that are in its domain already; 0: none.
        adversarial: weight of the critics' verdict in the generators' loss; 2 makes up for the half in "least-squares".
        objective: of the game: "least-squares", "non-saturating", "hinge", or another that needs no pairs and no bound on the
            critics' slope.
        pool: fakes of each domain that are kept to be shown to the critics later; 0: none.
        network: of the generators: "residual" or "unet".
        width: channels of the finest maps of all networks (the paper: 64).
        blocks: residual blocks (network="residual"); None: 6 up to 128 pixels a side, else 9.
        critic_layers: strided convolutions of the critics: 1 to 5 for patches of 16, 34, 70, 142, 286 pixels; None: the most,
            up to 3, whose patches are no larger than the image.
        learning_rate: of both sides.
        betas: Adam's decays.
        generator_networks: your own modules instead, of class 0 to 1 and of 1 to 0: (B, *shape) -> (B, *shape).
        critic_networks: your own modules instead, of class 0 and of 1: (B, *shape) -> logits (B, ...).
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cycle: float = 10.0,
        identity: float = 5.0,
        adversarial: float = 2.0,
        objective: str = "least-squares",
        pool: int = 50,
        network: Literal["residual", "unet"] = "residual",
        width: int = 32,
        blocks: int | None = None,
        critic_layers: int | None = None,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        generator_networks: list[nn.Module] | None = None,
        critic_networks: list[nn.Module] | None = None,
    ):
        super().__init__()
        if spec.kind != "image" or spec.classes != 2:
            found = f"{spec.classes} classes" if spec.classes else "no classes"
            raise UserError(
                f"CycleGAN learns images in exactly two classes, and '{spec.name}' holds {spec.kind} in {found}; load images "
                "with a label of two values (two sub-folders), or take pix2pix for pairs."
            )
        if not cycle > 0 or min(identity, adversarial) < 0:
            raise UserError(
                f"cycle = {cycle}, identity = {identity} and adversarial = {adversarial} were given; cycle is above 0 "
                "(without it nothing ties an output to its input), the others at least 0."
            )
        if pool < 0:
            raise UserError(f"pool = {pool} was given; it is a number of images, 0 for none.")
        self.objective = objective_of(objective)
        if self.objective.paired:
            raise UserError(f"objective='{objective}' compares pairs, and the two domains have none; take 'least-squares'.")
        if self.objective.lipschitz and critic_networks is None:
            raise UserError(
                f"objective='{objective}' has no minimum while the critics' slopes are free, and these critics' are; "
                "take 'least-squares', 'non-saturating' or 'hinge'."
            )
        self.spec = spec
        self.cycle, self.identity, self.adversarial = cycle, identity, adversarial
        self.optimizer = OptimizerSettings(learning_rate, betas=betas, kind="adam", schedule="linear", warmup=0)
        channels, height, breadth = spec.shape
        size = (height, breadth)
        if generator_networks is None:
            generator_networks = [translator(network, channels, channels, size, width, blocks) for _ in range(2)]
        if critic_networks is None:
            critic_networks = [PatchCritic(channels, size, width, critic_layers) for _ in range(2)]
        if len(generator_networks) != 2 or len(critic_networks) != 2:
            raise UserError("CycleGAN has two generators and two critics; give two of your own networks of each sort.")
        self.generators = nn.ModuleList(generator_networks)  # [k] takes images of class k to the other
        self.critics = nn.ModuleList(critic_networks)  # [k] knows images of class k
        self.pool = ImagePool(pool, spec.shape)

    def players(self) -> list[Player]:
        """Both critics' turn, and both generators'."""
        critics = Player("critics", self.critics, self.critic_loss, optimizer=self.optimizer, validates=False)
        if self.pool.size:
            critics.after_update = self._remember
        return [
            critics,
            Player("generators", self.generators, self.generator_loss, optimizer=self.optimizer, validates=False),
        ]

    def critic_loss(self, batch: Batch, rng: Rng) -> Loss:
        """Each critic on its domain's images and on fakes, new ones and some of the pool."""
        domains = self._domains(batch)
        with torch.no_grad():
            fakes = self._across(batch.x, domains)
        shown, keep = fakes, dict[str, Tensor]()
        if self.pool.size:
            shown, place = self.pool.exchange(fakes, 1 - domains, rng)
            keep = {"fakes": fakes, "domain": 1 - domains, "place": place}
        total, real, fake = torch.zeros((), device=batch.x.device), list[Tensor](), list[Tensor]()
        for k in (0, 1):
            sides = []
            for found, rows in ((real, batch.x[domains == k]), (fake, shown[domains != k])):
                if len(rows):
                    sides.append(self.critics[k](rows))
                    found.append(sides[-1].detach().float().flatten())
                else:
                    sides.append(batch.x.new_zeros(1))
            total = total + self.objective.critic(*sides)
        return Loss(total, critic_terms(torch.cat(real), torch.cat(fake), self.objective.boundary), keep)

    def _remember(self, keep: dict[str, Tensor], moment: Moment) -> None:
        """New fakes go into the pool."""
        self.pool.store(keep["fakes"], keep["domain"], keep["place"])

    def generator_loss(self, batch: Batch, rng: Rng) -> Loss:
        """Game, cycle and identity of both directions. Terms: their means over the domains in the batch, without weights."""
        domains = self._domains(batch)
        game, cycle, identity = [], [], []
        for k in (0, 1):
            x = batch.x[domains == k]
            if not len(x):
                continue
            there, back = self.generators[k], self.generators[1 - k]
            fake = there(x)
            logits = self.critics[1 - k](fake)
            game.append(self.objective.generator(logits.new_empty(0), logits))
            cycle.append((back(fake).float() - x.float()).abs().mean())
            if self.identity:
                identity.append((back(x).float() - x.float()).abs().mean())
        sums = {"adversarial": torch.stack(game).sum(), "cycle": torch.stack(cycle).sum()}
        total = self.adversarial * sums["adversarial"] + self.cycle * sums["cycle"]
        if self.identity:
            sums["identity"] = torch.stack(identity).sum()
            total = total + self.identity * sums["identity"]
        return Loss(total, {name: value.detach() / len(game) for name, value in sums.items()})

    @torch.no_grad()
    def translate(
        self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, generator: Generator = None
    ) -> Float[Tensor, "b *shape"]:
        """Images x as images of the other class. Nothing is random.

        condition: the class (B,) that each x is of, as everywhere what belongs to x; one number for all. None: the model says
        itself which: a generator leaves images that are in its domain already as they are (identity), so that x is of the class
        whose generator changes it less, and the other one's output is given.
        """
        if tuple(x.shape[1:]) != tuple(self.spec.shape):
            raise UserError(f"images of shape {tuple(x.shape[1:])} were given; this model translates {tuple(self.spec.shape)}.")
        x = x.to(device_of(self))
        given = checked_classes(condition, len(x), 2)
        if given is not None:
            return self._across(x, given.to(x.device)).float()
        both = [generator(x).float() for generator in self.generators]
        first = self._of_first(x, *both)
        return torch.where(first.view(-1, 1, 1, 1), both[0], both[1])

    @torch.no_grad()
    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """cycle_error and identity_error: mean absolute errors of a number, in the model's units; domains_told: the share of
        images whose class `translate` finds by itself. Nothing where the classes of x are not given."""
        if condition is None:
            return {}
        back = self._across(self._across(x, condition), 1 - condition)
        both = [generator(x).float() for generator in self.generators]
        kept = self._across(x, 1 - condition)
        told = self._of_first(x, *both) == (condition == 0)
        errors = {"cycle_error": back, "identity_error": kept}
        found = {name: float((made.float() - x.float()).abs().mean()) for name, made in errors.items()}
        return found | {"domains_told": float(told.float().mean())}

    @staticmethod
    def _of_first(x: Tensor, second: Tensor, first: Tensor) -> Bool[Tensor, " b"]:
        """Whether the generator into the first class changes x less than that into the second."""
        changes = [(made - x.float()).abs().flatten(1).mean(1) for made in (first, second)]
        return changes[0] <= changes[1]

    def _across(self, x: Tensor, domains: Tensor) -> Tensor:
        """Each row as its generator takes it to the other domain."""
        made = torch.empty_like(x)
        for k in (0, 1):
            rows = domains == k
            if bool(rows.any()):
                made[rows] = self.generators[k](x[rows]).to(x.dtype)
        return made

    def _domains(self, batch: Batch) -> Int[Tensor, " b"]:
        if batch.condition is None:
            raise UserError("CycleGAN was built for images in two classes, and these data come without.")
        return batch.condition.long()
