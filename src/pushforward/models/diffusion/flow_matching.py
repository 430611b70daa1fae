"""Flow matching: learns the velocity of a flow that carries noise to data along straight paths, and samples by following it.

Noise and data are joined by x_t = (1 - t) x0 + t noise, t in [0, 1], 0 = data, 1 = noise (the papers run the other way).
Each such line has velocity d x_t / dt = noise - x0. Many lines cross a point x at time t; their mean velocity there,

    v(x, t) = E[noise - x0 | x_t = x],

obeys the continuity equation d p_t / dt + div(p_t v) = 0 with the law p_t of x_t. So the ODE dx/dt = v(x, t), started from
noise at t = 1 and followed to t = 0, ends in the data's law. A conditional mean is what least squares finds:

    L = E_{t, x0, noise} | v_theta((1 - t) x0 + t noise, t, c) - (noise - x0) |^2,

whose gradient equals that of regressing v itself (Lipman et al. 2023, theorem 2). For a class c, some rows are trained with
no class, so that v_null + w (v_c - v_null) guides samples towards it (Ho and Salimans 2022, arXiv:2207.12598).
Along the ODE d log p / dt = -div v, which gives codes and densities.

Lipman et al. 2023, "Flow matching for generative modeling", arXiv:2210.02747; Liu et al. 2023, "Flow straight and fast",
arXiv:2209.03003; Albergo and Vanden-Eijnden 2023, arXiv:2209.15571.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.paths import Linear, interpolate
from pushforward.dynamics.solvers import Velocity, find_solver, integrate
from pushforward.dynamics.targets import convert
from pushforward.errors import UserError, nearest
from pushforward.models.contract import Generator, LogProb, Loss, OptimizerSettings, Player, device_of
from pushforward.nets.conditioning import ConditionEmbedding, draw_condition
from pushforward.nets.embeddings import TimedMLP
from pushforward.nets.unet import UNet, multipliers
from pushforward.randomness import Rng, as_rng

PATH = Linear()
EXACT_DIVERGENCE = 64  # dimensions up to which the divergence is summed exactly
EARLIEST = 1e-3  # a score is read no nearer to the data than this: it grows like 1 / t


def divergences(velocity: Tensor, x: Tensor, probes: Tensor | None) -> Tensor:
    """The divergence of velocity (B, D), a function of x (B, D), row by row: exactly (B, 1), or with probes (K, B, D) of
    unit covariance its K Hutchinson estimates probe^T (dv/dx) probe (B, K), each unbiased."""
    if probes is None:
        axes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None, :].expand(-1, len(x), -1)
        products = torch.autograd.grad(velocity, x, axes, is_grads_batched=True)[0]
        return (axes * products).sum((0, 2))[:, None]
    return torch.stack([(probe * torch.autograd.grad(velocity, x, probe, retain_graph=True)[0]).sum(1) for probe in probes], 1)


class FlowMatching(nn.Module):
    """Flow matching on straight paths, with classifier-free guidance where the data have a condition.

    Args:
        spec: what a datum and its condition are.
        network: "mlp" (vectors, tiny images), "unet" (images), or "auto": "unet" for images larger than 8x8, else "mlp".
        width: units of the MLP's layers, or channels of the U-Net at full resolution (None: 256; 32 up to 32x32, else 64).
        depth: residual blocks of the MLP, or of the U-Net at each resolution (None: 3; 1 up to 32x32, else 2).
        dropout: rate inside the residual blocks.
        condition_dropout: share of rows trained without their condition, needed for guidance and unconditional use.
        time_sampling: how t is drawn in training: "uniform", or "logit-normal" (more in the middle; Esser et al. 2024).
        net: your own velocity network, any module called net(x_t, t, embedding), embedding (B, 4 width) or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.1,
        condition_dropout: float = 0.1,
        time_sampling: str = "uniform",
        net: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
    ):
        super().__init__()
        self.spec, self.condition_dropout, self.time_sampling = spec, condition_dropout, time_sampling
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        if network not in ("auto", "mlp", "unet"):
            raise UserError(f"there is no network '{network}'; {nearest(network, ['auto', 'mlp', 'unet'])}")
        if network == "unet" and not spec.planar:
            raise UserError(f"a U-Net needs images or fields (C, H, W), '{spec.name}' holds {spec.kind}; use network='mlp'.")
        if time_sampling not in ("uniform", "logit-normal"):
            raise UserError(f"t cannot be drawn by '{time_sampling}'; {nearest(time_sampling, ['uniform', 'logit-normal'])}")
        if not 0 <= condition_dropout < 1:
            raise UserError(f"condition_dropout is a share from 0 up to (not including) 1; {condition_dropout} was given.")
        if network == "auto":
            network = "unet" if spec.planar and max(spec.shape[1:]) > 8 else "mlp"
        large = spec.planar and max(spec.shape[1:]) > 32
        width = width or (256 if network == "mlp" else 64 if large else 32)
        embedding = 4 * width if network == "unet" else width
        self.embed = ConditionEmbedding(spec.condition, embedding)
        if net is not None:
            self.net = net
        elif network == "mlp":
            self.net = TimedMLP(spec.dimensions, width, depth or 3, embedding, dropout)
        else:
            channels, *size = spec.shape
            ladder = multipliers(*size)
            # attention costs the square of the number of places: from 16x16 down
            attention = [level for level in range(len(ladder)) if level and max(size) / 2**level <= 16]
            self.net = UNet(
                channels,
                width=width,
                multipliers=ladder,
                depth=depth or (2 if large else 1),
                attention=attention,
                embedding=embedding,
                dropout=dropout,
            )

    def velocity(
        self,
        x: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        *,
        condition: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Float[Tensor, "b *shape"]:
        """v(x, t) for each row's condition; without one, and in rows where `drop` (B,) is true, of all data together."""
        return self.net(x, t, self.embed(condition, len(x), drop))

    def guided(self, condition: Tensor | None, guidance: float = 1.0) -> Velocity:
        """The velocity v_null + guidance (v_c - v_null) as a function of x and t: one evaluation where guidance is 1 or 0,
        else two in one batch."""
        if guidance == 1.0 or condition is None:
            return lambda x, t: self.velocity(x, t, condition=condition)
        if guidance == 0.0:
            return lambda x, t: self.velocity(x, t)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            drop = torch.arange(2 * len(x), device=x.device) < len(x)
            both = self.velocity(torch.cat([x, x]), torch.cat([t, t]), condition=torch.cat([condition, condition]), drop=drop)
            null, conditional = both.chunk(2)
            return null + guidance * (conditional - null)

        return velocity

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The conditional flow matching loss, a mean over rows and dimensions."""
        rows = len(batch)
        t = rng.rand(rows) if self.time_sampling == "uniform" else rng.randn(rows).sigmoid()
        noise = rng.randn_like(batch.x)
        drop = self.embed.hidden(rows, self.condition_dropout, rng)
        v = self.velocity(interpolate(PATH, batch.x, noise, t), t, condition=batch.condition, drop=drop)
        return Loss(((v.float() - (noise - batch.x).float()) ** 2).mean())

    def players(self) -> list[Player]:
        settings = OptimizerSettings(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        return [Player("velocity", self, self.loss, optimizer=settings)]

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int = 32,
        solver: str = "heun",
        guidance: float = 1.0,
    ) -> Tensor:
        """Draws x (n, *spec.shape): noise carried from t = 1 to t = 0 along the velocity.

        Args:
            n: how many.
            condition: classes (n,) or attributes (n, A); None draws them as frequent as in the data.
            generator: an Rng, a torch.Generator or a seed.
            steps: of the solver.
            solver: "euler", "heun", "rk4", or "dopri5" (adaptive).
            guidance: 1 follows the condition as learned, more exaggerates it, 0 ignores it.
        """
        return self._flow(n, condition, generator, steps, solver, guidance)

    @torch.no_grad()
    def trajectory(
        self,
        n: int,
        *,
        frames: int = 8,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int = 32,
        solver: str = "heun",
        guidance: float = 1.0,
    ) -> Tensor:
        """The way of `sample` from noise to data: (frames, n, *spec.shape), evenly spaced in t."""
        if frames < 2:
            raise UserError(f"a trajectory has at least 2 frames, its noise and its datum; {frames} were asked for.")
        steps = max(steps, frames - 1)
        states = self._flow(n, condition, generator, steps, solver, guidance, trajectory=True)
        return states[torch.linspace(0, steps, frames).round().long().to(states.device)]

    def _flow(
        self,
        n: int,
        condition: Tensor | None,
        generator: Generator,
        steps: int,
        solver: str,
        guidance: float,
        trajectory: bool = False,
    ) -> Tensor:
        if guidance != 1.0 and (self.spec.condition is None or not self.condition_dropout):
            why = (
                "without a condition" if self.spec.condition is None else "with condition_dropout=0, so knows no 'no condition'"
            )
            raise UserError(f"guidance is {guidance}, but this model was trained {why}; leave guidance at 1.")
        rng = as_rng(generator, device_of(self))
        noise = self.draw_codes(n, generator=rng)
        if condition is None and self.spec.condition is not None and self.spec.condition.kind != "vector":
            condition = draw_condition(self.spec.condition, n, rng)
        condition = self._checked(condition, n)
        times = self._times(steps, noise).flip(0)
        return integrate(self.guided(condition, guidance), noise, times, find_solver(solver), trajectory=trajectory)

    def score(self, x: Float[Tensor, "b *shape"], t: Float[Tensor, "b"], *, condition: Tensor | None = None) -> Tensor:
        """grad_x log p_t(x) = -E[noise | x_t = x] / t, from the velocity. Below t = 0.001 that of t = 0.001."""
        t = t.clamp(min=EARLIEST)
        v = self.velocity(x, t, condition=self._checked(condition, len(x)))
        return convert(PATH, "velocity", "score", x, v, t)

    def draw_codes(self, n: int, *, generator: Generator = None) -> Tensor:
        """Standard normal noise (n, *spec.shape): x at t = 1."""
        return as_rng(generator, device_of(self)).randn(n, *self.spec.shape)

    def encode(
        self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, steps: int = 32, solver: str = "heun"
    ) -> Float[Tensor, "b *shape"]:
        """Data to the noise that they come from, by the same ODE followed backwards (no condition: of all data together)."""
        velocity = self.guided(self._checked(condition, len(x)))
        return integrate(velocity, x, self._times(steps, x), find_solver(solver))

    def decode(
        self, z: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, steps: int = 32, solver: str = "heun"
    ) -> Float[Tensor, "b *shape"]:
        """Noise to data: the inverse of `encode`, and differentiable."""
        velocity = self.guided(self._checked(condition, len(z)))
        return integrate(velocity, z, self._times(steps, z).flip(0), find_solver(solver))

    def log_prob(
        self,
        x: Float[Tensor, "b *shape"],
        *,
        condition: Tensor | None = None,
        steps: int = 12,
        solver: str = "rk4",
        probes: int = 8,
        generator: Generator = 0,
    ) -> LogProb:
        """log p(x) = log N(z; 0, I) + int_0^1 div v(x_t, t) dt along the ODE from x to its noise z (Chen et al. 2018), nats.

        Up to 64 dimensions the divergence is exact and stderr 0; beyond it is Hutchinson's estimate with `probes` random
        signs (at least 2), fixed by `generator`, and stderr their spread. The ODE is solved in `steps` steps, shorter near the
        data where the velocity bends most; their error is not in stderr (on digits 0.15 nats of 30 with 8 steps, 0.01 with 16).
        Without a condition: the density of all data together, which condition_dropout taught.
        """
        if probes < 2:
            raise UserError(f"an estimate with its standard error needs at least 2 probes; {probes} was given.")
        rows, dimensions = len(x), self.spec.dimensions
        # Jacobians are needed whatever mode the caller is in, also for tensors born under inference_mode.
        with torch.inference_mode(False), torch.enable_grad():
            condition = self._checked(condition, rows)
            condition = None if condition is None else condition.clone()
            field = self.guided(condition)
            signs = None
            if dimensions > EXACT_DIVERGENCE:
                draws = as_rng(generator, x.device).rand(rows, probes, dimensions)
                signs = torch.where(draws < 0.5, -1.0, 1.0).to(x.dtype).transpose(0, 1)
            estimates = 1 if signs is None else probes

            def rates(state: Tensor, t: Tensor) -> Tensor:
                at = state[:, :dimensions].detach().clone().requires_grad_()
                v = field(at.reshape(x.shape), t).flatten(1)
                divergence = divergences(v, at, signs)
                return torch.cat([v, divergence], 1).detach()

            state = torch.cat([x.detach().clone().flatten(1), x.new_zeros(rows, estimates)], 1)
            state = integrate(rates, state, self._times(steps, x) ** 2, find_solver(solver))
        z, integrals = state[:, :dimensions].float(), state[:, dimensions:].float()
        base = -0.5 * (z**2).sum(1) - 0.5 * dimensions * math.log(2 * math.pi)
        stderr = torch.zeros_like(base) if estimates == 1 else integrals.std(1) / math.sqrt(estimates)
        return LogProb(base + integrals.mean(1), "estimate", stderr)

    def _times(self, steps: int, x: Tensor) -> Tensor:
        """From data to noise."""
        if steps < 1:
            raise UserError(f"steps is the number of the solver's steps, 1 or more; {steps} was given.")
        return torch.linspace(0, 1, steps + 1, dtype=x.dtype, device=x.device)

    def _checked(self, condition: Tensor | None, rows: int) -> Tensor | None:
        """The condition on the model's device, if it fits the rows and the data's condition."""
        known = self.spec.condition
        if condition is None:
            if known is not None and not self.condition_dropout:
                raise UserError("this model was trained with condition_dropout=0, so it needs a condition; give one.")
            return None
        if known is None:
            raise UserError("a condition was given, but this model was trained on data without one; leave it out.")
        condition = torch.as_tensor(condition, device=device_of(self))
        shape = (rows,) if known.kind == "class" else (rows, known.size)
        if tuple(condition.shape) != shape:
            raise UserError(f"the condition has shape {tuple(condition.shape)}; for {rows} rows it must be {shape}.")
        if known.kind == "class" and rows and not 0 <= int(condition.min()) <= int(condition.max()) < known.size:
            raise UserError(f"classes are 0 to {known.size - 1}; {int(condition.min())} to {int(condition.max())} were given.")
        return condition
