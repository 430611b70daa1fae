"""Rectified flow: a flow learned again from its own pairs, which makes it straighter, to one step of it in the end.

A trained flow takes each noise to one datum, x0 = T(noise). The flow that is learned from these pairs in the place of
independent ones,

    L = E_{t, noise} | v_theta(x_t, t) - (noise - x0) |^2,    x_t = (1 - t) x0 + t noise,

carries the same law to the same law at a lower cost, whatever that is (any convex one), and along straighter lines: where no
two lines of the pairs cross, v is constant along each, and one step of Euler's method is exact (Liu et al. 2023,
arXiv:2209.03003). That is reflow; what it has learned can teach again. Distillation learns the one step alone, t = 1, which
is then x0 = noise - v_theta(noise, 1) (there section 3; Liu et al. 2024, arXiv:2309.06380).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.solvers import time_grid
from pushforward.dynamics.straightness import straightness
from pushforward.dynamics.times import Span
from pushforward.errors import UserError
from pushforward.models.contract import Decodes, Player, device_of, evaluating
from pushforward.models.diffusion.diffusion import Diffusion
from pushforward.nets.conditioning import draw_condition
from pushforward.progress import along
from pushforward.randomness import Rng, SampleRng, mix

HELD_OUT = 1_024  # pairs that are not learned from
AT_ONCE = 512  # pairs made in one batch
MEASURED = 256  # trajectories whose straightness is measured


class RectifiedFlow(Diffusion):
    """A flow along straight lines that learns the pairs of another, its teacher's.

    Args:
        spec: what a datum and its condition are.
        teacher: the directory of a run on these data whose model's codes are noise of their shape (flow matching, a diffusion,
            a rectified flow); `learn_from` takes the model itself. None: independent pairs, the first rectified flow.
        pairs: how many of its pairs are learned from: pair i is a function of its number.
        pair_steps: of the teacher's solver for each.
        distil: learn the one step from noise to data alone, in the place of the flow.
        network: "mlp", "unet", a transformer of patches, or "auto"; as of flow matching, as are all below.
        width: units of the MLP's layers, or channels of the U-Net at full resolution.
        depth: residual blocks of the MLP, or of the U-Net at each resolution.
        dropout: rate inside the residual blocks.
        condition_dropout: share of rows trained without their condition.
        net: your own network, any module called net(x_t, t, embedding), or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        solver: which samples are drawn by where none is named.
        steps: of that solver.
        spacing: of those steps.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        teacher: str | None = None,
        pairs: int = 10_000,
        pair_steps: int = 16,
        distil: bool = False,
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.0,
        condition_dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        solver: str = "euler",
        steps: int = 1,
        spacing: str = "uniform",
    ):
        super().__init__(
            spec, network=network, width=width, depth=depth, dropout=dropout, condition_dropout=condition_dropout, net=net,
            learning_rate=learning_rate, weight_decay=weight_decay, solver=solver, steps=steps, spacing=spacing,
        )  # fmt: skip
        if pairs < 1 or pair_steps < 1:
            raise UserError(f"pairs = {pairs} and pair_steps = {pair_steps} were given; each is at least 1.")
        self.teacher, self.count, self.pair_steps, self.distil = teacher, pairs, pair_steps, distil
        if distil:
            self.time_sampling = at_noise
        # not among the modules: a run keeps what was learned, not who taught it
        self._taught: list[nn.Module] = []
        self._pairs: tuple[Tensor, Tensor, Tensor | None] | None = None

    def learn_from(self, teacher: nn.Module) -> None:
        """Takes a trained model as its teacher, and its weights as the first ones where both are built alike."""
        spec = getattr(teacher, "spec", None)
        if not isinstance(teacher, Decodes) or spec is None:
            raise UserError(f"a {type(teacher).__name__} cannot teach a flow: its codes are to be noise of the data's shape.")
        if (spec.kind, tuple(spec.shape), spec.condition) != (self.spec.kind, tuple(self.spec.shape), self.spec.condition):
            raise UserError(
                f"the teacher knows {spec.kind} of shape {tuple(spec.shape)} ('{spec.name}'), these data are {self.spec.kind} "
                f"of shape {tuple(self.spec.shape)} ('{self.spec.name}'), or their conditions differ; train it on the data of "
                "its teacher."
            )
        self._taught, self._pairs = [teacher], None
        if isinstance(teacher, Diffusion):
            self.source = teacher.source
            known, mine = teacher.state_dict(), self.state_dict()
            alike = known.keys() == mine.keys() and all(known[name].shape == mine[name].shape for name in mine)
            if alike and (teacher.path, teacher.target) == (self.path, self.target):
                self.load_state_dict(known)

    def made(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The teacher's pairs: x0, noise and condition of `pairs` rows to learn from, then of those held out."""
        if self._pairs is None:
            teacher, total = self._taught[0].to(device_of(self)), self.count + HELD_OUT
            with torch.no_grad(), evaluating(teacher):
                parts = [
                    self._taught_rows(teacher, first, min(AT_ONCE, total - first))
                    for first in along(range(0, total, AT_ONCE), "the teacher's pairs")
                ]
            x0, noise = (torch.cat([part[at] for part in parts]) for at in (0, 1))  # type: ignore[misc]
            conditions = [part[2] for part in parts if part[2] is not None]
            self._pairs = x0, noise, torch.cat(conditions) if conditions else None
        return self._pairs

    def _taught_rows(self, teacher: Any, first: int, rows: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pairs number `first` to `first` + rows - 1."""
        rng, known = SampleRng(mix(0x2EC7), first, device_of(self)), self.spec.condition
        condition = None if known is None else draw_condition(known, rows, rng)
        noise = teacher.draw_codes(rows, condition=condition, generator=rng)
        if tuple(noise.shape[1:]) != tuple(self.spec.shape):
            raise UserError(
                f"the teacher's codes have shape {tuple(noise.shape[1:])}, its data {tuple(self.spec.shape)}; those of a flow "
                "have the shape of its data."
            )
        options = {"steps": self.pair_steps} if isinstance(teacher, Diffusion) else {}
        return teacher.decode(noise, condition=condition, **options), noise, condition

    def pairs(self, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor, Tensor | None]:
        """As many of the teacher's as there are data: those held out where the model is in eval mode."""
        if self._untaught:
            return super().pairs(batch, rng)
        x0, noise, condition = self.made()
        rows = rng.randint(self.count, len(batch)) if self.training else self.count + rng.randint(HELD_OUT, len(batch))
        return x0[rows], noise[rows], None if condition is None else condition[rows]

    def players(self) -> list[Player]:
        if not self._untaught:
            self.made()
        return super().players()

    @property
    def _untaught(self) -> bool:
        """Whether it learns from independent pairs. Raises UserError where a teacher is needed, and not there."""
        if not self._taught and (self.teacher or self.distil):
            raise UserError(
                f"{self.teacher or 'a teacher'} was to teach this model, and was not opened; open it and hand its model over: "
                "model.learn_from(pf.load('runs/flow-matching-digits').model)."
            )
        return not self._taught

    @torch.no_grad()
    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """The straightness S of the flow, a mean over the trajectories of at most 256 codes: 0 for straight lines."""
        given = None if condition is None else condition[:MEASURED]
        noise = self.draw_codes(len(x[:MEASURED]), generator=SampleRng(0x57A, device=x.device))
        denoiser, times = self.denoiser(self._checked(given, len(noise))), time_grid(self.span, 32, like=noise)
        return {"straightness": float(straightness(denoiser.velocity, noise, times).mean())}


def at_noise(path: Any, span: Span, rows: int, rng: Rng) -> Float[Tensor, "b"]:
    """t at the noise's end, always."""
    return torch.full((rows,), span[1], device=rng.device)
