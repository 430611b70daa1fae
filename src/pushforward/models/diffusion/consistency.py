"""Consistency models: a network learns where the flow from noise to data ends, from wherever it is, and jumps there at once.

Along the probability-flow ODE of a path f(x_t, t) is the same all the way and, at the first time, x: so

    L = E_{n, x0, noise} w d(f_theta(x_(n+1), t_(n+1)), f_theta-(x_n, t_n)),    d(a, b) = (|a - b|^2 + c^2)^(1/2) - c,

between neighbours of a grid of times, without a gradient of the second. x_n is where a trained flow leads from x_(n+1), by one
step of Heun's method: consistency distillation; theta- is then a moving average of theta (Song et al. 2023, arXiv:2303.01469).
Or both are the same x0 with the same noise: consistency training, which needs no teacher and has the same limit as the grid
grows finer; it does while training goes on, with theta- = theta, w = 1 / (r_(n+1) - r_n) and t_n log-normal (Song and Dhariwal
2023, arXiv:2310.14189). With r = sigma / alpha, and d the data's deviation,

    f(x_t, t) = c_skip x_t / alpha + c_out F_theta(x_t, t),
    c_skip = d^2 / ((r - r_0)^2 + d^2),    c_out = d (r - r_0) / (r^2 + d^2)^(1/2),

is x_t / alpha at the first time whatever F is, of any path (both papers: alpha = 1, r = sigma from 0.002 to 80). A jump from
noise is a sample; what it got wrong is mended by noise again, and a jump again.
"""

from __future__ import annotations

import copy
import functools
import math
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.paths import Path, expand, find_path, interpolate, noise_ratio, time_of
from pushforward.dynamics.targets import Residual
from pushforward.errors import UserError
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, device_of
from pushforward.models.diffusion.backbone import backbone, choose
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, draw_condition
from pushforward.randomness import Rng, as_rng

LEAST, MOST = 0.002, 80.0  # sigma / alpha between which the grid is, where the path has it
RHO = 7.0  # how much finer the grid is towards the data
MEAN, DEVIATION = -1.1, 2.0  # of log(sigma / alpha) in training, for data of deviation 1/2
HUBER = 0.00054  # c of d, for each dimension's root


class Consistency(nn.Module):
    """A consistency model, trained from data alone or distilled from a diffusion.

    Args:
        spec: what a datum and its condition are.
        path: from data to noise, by name, as of diffusion; a teacher's own.
        teacher: the directory of the run of a diffusion (or flow matching) on these data, to distil; `learn_from` takes the
            model itself. None: consistency training.
        levels: intervals of the grid of times at first.
        most_levels: at last, doubled on the way.
        target_decay: of the moving average that the loss compares with; 0: the network itself.
        network: "mlp" (vectors, tiny images), "unet" (images), a transformer of patches ("dit-nano" ..), or "auto".
        width: units of the MLP's layers, or channels of the U-Net at full resolution.
        depth: residual blocks of the MLP, or of the U-Net at each resolution.
        dropout: rate inside the residual blocks.
        condition_dropout: share of rows trained without their condition, needed for unconditional use.
        net: your own network, any module called net(x_t, t, embedding), or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        steps: jumps of a sample where no number is named.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        path: str = "edm",
        teacher: str | None = None,
        levels: int = 10,
        most_levels: int = 1280,
        target_decay: float = 0.0,
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.0,
        condition_dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        steps: int = 1,
    ):
        super().__init__()
        if not 1 <= levels <= most_levels:
            raise UserError(
                f"levels = {levels} and most_levels = {most_levels} were given; 1 <= levels <= most_levels is needed."
            )
        if not 0 <= target_decay < 1:
            raise UserError(f"target_decay = {target_decay} was given; it is at least 0 and below 1.")
        if not 0 <= condition_dropout < 1:
            raise UserError(f"condition_dropout is a share from 0 up to (not including) 1; {condition_dropout} was given.")
        self.spec, self.path, self.teacher = spec, find_path(path), teacher
        self.levels, self.most_levels, self.target_decay = levels, most_levels, target_decay
        self.dropout, self.condition_dropout = dropout, condition_dropout
        self.learning_rate, self.weight_decay, self.steps = learning_rate, weight_decay, checked_steps(steps)
        # standardised numbers have a deviation of 1; images, in [-1, 1], of about 1/2
        self.deviation = 0.5 if spec.planar else 1.0
        kind, width, embedding = choose(network, spec, width)
        self.embed = ConditionEmbedding(spec.condition, embedding)
        self.net = backbone(spec, kind, width, depth, embedding, dropout) if net is None else net
        self.followers: nn.ModuleList | None = None
        if target_decay:
            self.followers = nn.ModuleList([copy.deepcopy(self.embed), copy.deepcopy(self.net)]).requires_grad_(False)
        # not among the modules: a run keeps what was learned, not who taught it
        self._taught: list[Diffusion] = []

    def learn_from(self, teacher: nn.Module) -> None:
        """Takes a trained diffusion as its teacher, and its weights as the first ones where both are built alike."""
        if not isinstance(teacher, Diffusion):
            raise UserError(f"a {type(teacher).__name__} cannot teach a consistency model; a diffusion or flow matching can.")
        theirs, mine = teacher.spec, self.spec
        if (theirs.kind, tuple(theirs.shape), theirs.condition) != (mine.kind, tuple(mine.shape), mine.condition):
            raise UserError(
                f"the teacher knows {theirs.kind} of shape {tuple(theirs.shape)} ('{theirs.name}'), these data are {mine.kind} "
                f"of shape {tuple(mine.shape)} ('{mine.name}'), or their conditions differ; train it on its teacher's data."
            )
        if teacher.path != self.path:
            raise UserError(
                f"the teacher goes along {teacher.path}, this model along {self.path}; give the path of the teacher: "
                "path='linear' of flow-matching, 'edm' of edm."
            )
        self._taught = [teacher.eval()]
        if theirs.condition is not None and not teacher.condition_dropout:
            self.condition_dropout = 0.0  # it does not know data without one
        known = teacher.state_dict()
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("followers.")}
        alike = known.keys() == own.keys() and all(known[name].shape == own[name].shape for name in own)
        if alike and teacher.target == Residual(self.deviation):
            self.load_state_dict(known, strict=False)
            self._follow(0.0)

    def consistency(
        self,
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        *,
        condition: Tensor | None = None,
        drop: Tensor | None = None,
        following: bool = False,
    ) -> Float[Tensor, "b *shape"]:
        """f(x_t, t). following: of the moving average, where there is one."""
        embed, net = self.followers if following and self.followers is not None else (self.embed, self.net)
        alpha, sigma, _, _ = self.path(t)
        spread = self.deviation * alpha
        gap, scale = sigma - self.span[0] * alpha, (sigma**2 + spread**2).sqrt()
        predicted = net(x_t / expand(scale, x_t), t, embed(condition, len(x_t), drop))
        kept = self.deviation * spread / (gap**2 + spread**2)
        return expand(kept, x_t) * x_t + expand(self.deviation * gap / scale, x_t) * predicted

    @property
    def span(self) -> tuple[float, float]:
        """The least and the greatest sigma / alpha of the grid."""
        least, most = noise_ratio(self.path, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        return max(least, LEAST), min(most, MOST)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """w d, a mean over rows."""
        rows, x0 = len(batch), batch.x
        times, ratios = self._grid(self.intervals(batch.progress), x0)
        middle = MEAN + math.log(self.deviation / 0.5)
        cumulative = torch.special.ndtr((ratios.log() - middle) / DEVIATION)
        n = rng.categorical(cumulative.diff().expand(rows, -1))
        noise, drop = rng.randn_like(x0), self.embed.hidden(rows, self.condition_dropout, rng)
        late, early = times[n + 1].to(x0), times[n].to(x0)
        x_late = interpolate(self.path, x0, noise, late)
        with torch.no_grad():
            x_early = interpolate(self.path, x0, noise, early)
            weight = 1 / (ratios[n + 1] - ratios[n])
            if not self._untaught:
                x_early = heun(self._teacher(batch.condition, drop), x_late, late, early)
                weight = torch.ones_like(weight)
            # both see the same units dropped
            devices = [x0.device] if x0.device.type == "cuda" else []
            alike = torch.random.fork_rng(devices) if self.training and self.dropout else nullcontext()
            with alike:
                y = self.consistency(x_early, early, condition=batch.condition, drop=drop, following=True)
        made = self.consistency(x_late, late, condition=batch.condition, drop=drop)
        c = HUBER * math.sqrt(self.spec.dimensions)
        distances = ((made.float() - y.float()).flatten(1).square().sum(1) + c**2).sqrt() - c
        return Loss((weight.to(distances) * distances).mean())

    def intervals(self, progress: float) -> int:
        """Of the grid, that far (0 to 1) in training: doubled at equal distances."""
        doublings = int(math.log2(self.most_levels / self.levels))
        return min(self.levels * 2 ** int(progress * (doublings + 1)), self.most_levels)

    def _grid(self, intervals: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Times and sigma / alpha (intervals + 1,), rising, in float64."""
        times, ratios = grid(self.path, *self.span, intervals)  # type: ignore[arg-type]  # paths are hashable
        return times.to(like.device), ratios.to(like.device)

    def players(self) -> list[Player]:
        if not self._untaught:
            self._taught[0].to(device_of(self))
        settings = OptimizerSettings(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        after = None if self.followers is None else lambda kept, moment: self._follow(self.target_decay)
        return [Player("consistency", [self.embed, self.net], self.loss, optimizer=settings, after_update=after)]

    def _teacher(self, given: Tensor | None, hidden: Tensor | None) -> Denoiser:
        """The teacher's, at these conditions, hidden from it in these rows."""
        teacher = self._taught[0]

        def net(x_t: Tensor, t: Tensor, /, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
            return teacher.predict(x_t, t, condition=given, drop=hidden)

        return Denoiser(teacher.path, teacher.target, net)

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """The moving average takes 1 - decay of the networks."""
        if self.followers is not None:
            leaders = [*self.embed.parameters(), *self.net.parameters()]
            torch._foreach_lerp_(list(self.followers.parameters()), [p.detach() for p in leaders], 1 - decay)

    @property
    def _untaught(self) -> bool:
        """Whether it learns from data alone. Raises UserError where the teacher that was named is not there."""
        if not self._taught and self.teacher:
            raise UserError(
                f"{self.teacher} was to teach this model, and was not opened; open it and hand its model over: "
                f"model.learn_from(pf.load('{self.teacher}').model)."
            )
        return not self._taught

    @torch.no_grad()
    def sample(
        self, n: int, *, condition: Tensor | None = None, generator: Generator = None, steps: int | None = None
    ) -> Tensor:
        """Draws x (n, *spec.shape).

        Args:
            n: how many.
            condition: classes (n,) or attributes (n, A); None draws them as frequent as in the data.
            generator: an Rng, a torch.Generator or a seed.
            steps: jumps, each but the first from the last one's end with noise again, less each time.
        """
        return self._states(n, condition, generator, steps)[-1]

    @torch.no_grad()
    def trajectory(
        self,
        n: int,
        *,
        frames: int = 8,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int | None = None,
    ) -> Tensor:
        """Noise, and where each jump ended: (frames, n, *spec.shape). Arguments as of `sample`."""
        if frames < 2:
            raise UserError(f"a trajectory has at least 2 frames, its noise and its datum; {frames} were asked for.")
        steps = max(checked_steps(self.steps if steps is None else steps), frames - 1)
        states = torch.stack(self._states(n, condition, generator, steps))
        return states[torch.linspace(0, steps, frames).round().long().to(states.device)]

    def _states(self, n: int, condition: Tensor | None, generator: Generator, steps: int | None) -> list[Tensor]:
        steps = checked_steps(self.steps if steps is None else steps)
        rng = as_rng(generator, device_of(self))
        noise = self.draw_codes(n, generator=rng)
        if condition is None and self.spec.condition is not None and self.spec.condition.kind != "vector":
            condition = draw_condition(self.spec.condition, n, rng)
        condition = self._checked(condition, n)
        states = [noise, self.decode(noise, condition=condition)]
        for t in self._grid(steps, noise)[0][1:-1].flip(0):
            later = t.to(noise).expand(n)
            alpha, sigma, _, _ = self.path(later)
            fresh = (sigma**2 - (self.span[0] * alpha) ** 2).sqrt()
            x_t = expand(alpha, noise) * states[-1] + expand(fresh, noise) * rng.randn_like(noise)
            states.append(self._kept(self.consistency(x_t, later, condition=condition)))
        return states

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Tensor:
        """Standard normal noise (n, *spec.shape): x at t = 1."""
        return as_rng(generator, device_of(self)).randn(n, *self.spec.shape)

    def decode(self, z: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """Noise to data in one jump (no condition: of all data together); differentiable."""
        t = self._grid(1, z)[0][-1:].to(z).expand(len(z))
        x_t = expand(self.path(t)[1], z) * z
        return self._kept(self.consistency(x_t, t, condition=self._checked(condition, len(z))))

    def _kept(self, x: Tensor) -> Tensor:
        """Images within [-1, 1]."""
        return x.clamp(-1.0, 1.0) if self.spec.kind == "image" else x

    def _checked(self, condition: Tensor | None, rows: int) -> Tensor | None:
        return checked_condition(self.spec.condition, condition, rows, device_of(self), needed=not self.condition_dropout)


def checked_steps(steps: int) -> int:
    """Raises UserError for less than one."""
    if steps < 1:
        raise UserError(f"steps is the number of jumps from noise to data, 1 or more; {steps} was given.")
    return steps


@functools.lru_cache(maxsize=32)
def grid(path: Path, least: float, most: float, intervals: int) -> tuple[Tensor, Tensor]:
    """Rising times and their sigma / alpha, (intervals + 1,) in float64, evenly spaced in its seventh root (Karras et al. 2022,
    arXiv:2206.00364).

    >>> from pushforward.dynamics.paths import Linear
    >>> grid(Linear(), 0.002, 80.0, 2)[1]
    tensor([2.0000e-03, 2.5152e+00, 8.0000e+01], dtype=torch.float64)
    """
    low, high = least ** (1 / RHO), most ** (1 / RHO)
    ratios = torch.linspace(low, high, intervals + 1, dtype=torch.float64) ** RHO
    return time_of(path, ratios), ratios


def heun(
    denoiser: Denoiser, x: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], s: Float[Tensor, "b"]
) -> Float[Tensor, "b *shape"]:
    """From t to s along the ODE as one of x / alpha in r = sigma / alpha, d(x / alpha) / dr = E[noise | x_t], by Heun's method
    (Karras et al. 2022): rows each with times of their own."""
    (alpha_t, sigma_t, _, _), (alpha_s, sigma_s, _, _) = denoiser.path(t), denoiser.path(s)
    h, u = expand(sigma_s / alpha_s - sigma_t / alpha_t, x), x / expand(alpha_t, x)
    _, first = denoiser(x, t)
    _, second = denoiser(expand(alpha_s, x) * (u + h * first), s)
    return expand(alpha_s, x) * (u + h * (first + second) / 2)
