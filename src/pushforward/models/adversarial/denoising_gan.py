"""Denoising diffusion GAN: a diffusion in a few large steps, whose laws backwards in time are learned by a game.

Noise is added to data along a path, x_t = alpha(t) x0 + sigma(t) noise, t in [0, 1], 0 = data, 1 = noise. Of many small steps
the way back is a Gaussian, which a regression finds; of T large ones, from each time t of a grid to the next one s towards the
data, p(x_s | x_t) has many modes. It is made of a
generator's guess at the datum and of the diffusion's own posterior, a Gaussian of known mean and variance:

    x0' = G(x_t, z, t),  z ~ N(0, I),          x_s' ~ q(x_s | x_t, x0')

    q(x_s | x_t, x0) = N(alpha_s x0 + k (x_t - alpha_t x0) / sigma_t, c^2),
    r = alpha_t / alpha_s,   c^2 = (sigma_s / sigma_t)^2 (sigma_t^2 - r^2 sigma_s^2),   k^2 = sigma_s^2 - c^2

and a critic l(x_s, x_t, t) tells real pairs, x_s ~ q(x_s | x_t, x0) with x_t of a datum x0, from those with x_s' at the same
x_t. In turns, t uniform on the grid, with any of the games of objectives.py (a relativistic one compares x_s and x_s' of the
same x_t) and of the penalties on the slope by x_s of penalties.py; the paper's are

    critic     min  E[softplus(-l(x_s, x_t, t))] + E[softplus(l(x_s', x_t, t))] + gamma/2 E |grad_{x_s} l(x_s, x_t, t)|^2
    generator  min  E[softplus(-l(x_s', x_t, t))]

Each pair of laws overlaps, as x_s is noisy (but at s = 0, where x_s = x0) and x_t says much of it: that is to make the game
easier than a GAN's. Sampling takes T evaluations of G. On the VP path with T even steps the noise levels are the paper's. What
a step puts between two modes the later ones mend, but none the last: a grid finer towards the data leaves that one so
little noise that x_t says which mode it is.

MLPs are slow to learn what is much finer than their inputs' scale, such as narrow modes of standardised points. They are given
waves of the points beside them, sin 2^i x and cos 2^i x (Tancik et al. 2020); and there G's guess is that for Gaussian data of
variance 1, and what the network adds, as small as sigma is:

    G(x_t, z, t) = (alpha x_t + sigma sqrt(alpha^2 + sigma^2) F(x_t, z, t)) / (alpha^2 + sigma^2)          (Karras et al. 2022)

Xiao, Kreis and Vahdat 2022, "Tackling the generative learning trilemma with denoising diffusion GANs", arXiv:2112.07804;
Tancik et al. 2020, "Fourier features let networks learn high frequency functions", arXiv:2006.10739; Karras et al. 2022,
arXiv:2206.00364.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.denoiser import Denoiser
from pushforward.dynamics.paths import Path, expand, find_path, interpolate
from pushforward.dynamics.solvers import DDIM, generate, time_grid
from pushforward.errors import UserError
from pushforward.models.adversarial.networks import check_slope
from pushforward.models.adversarial.objectives import critic_terms
from pushforward.models.adversarial.objectives import objective as objective_of
from pushforward.models.adversarial.penalties import Penalty, lazy_players
from pushforward.models.adversarial.penalties import regulariser as regulariser_of
from pushforward.models.contract import Generator, Loss, Moment, OptimizerSettings, Player, device_of
from pushforward.nets.adversaries import keep_variance
from pushforward.nets.choice import chosen_network
from pushforward.nets.conditioning import ConditionEmbedding, draw_condition
from pushforward.nets.embeddings import TimeEmbedding
from pushforward.nets.lipschitz import follow, spectral
from pushforward.nets.mlp import Flat, mlp
from pushforward.nets.residual_gan import ResidualCritic
from pushforward.nets.unet import UNet, multipliers
from pushforward.randomness import Rng, as_rng

ANCESTRAL = DDIM(eta=1.0)  # x_s ~ q(x_s | x_t, x0), of whatever x0 its denoiser says
FLAT_EMBEDDING = 32  # what MLPs are told of t and the condition: numbers beside x


def waves(x: Float[Tensor, "b n"], octaves: int) -> Float[Tensor, "b m"]:
    """x (B, n), sin 2^i x and cos 2^i x for i = 0 .. octaves - 1: (B, n (1 + 2 octaves)).

    >>> waves(torch.zeros(1, 2), 1)
    tensor([[0., 0., 0., 0., 1., 1.]])
    """
    angles = (x[:, :, None] * 2.0 ** torch.arange(octaves, device=x.device)).flatten(1)
    return torch.cat([x, angles.sin(), angles.cos()], 1)


class DenoisingGenerator(nn.Module):
    """G: x_t (B, *shape), z (B, latent_dim), t (B,) and a condition -> x0 (B, *shape), images in [-1, 1] (tanh).

    An MLP is given z beside x_t and its waves. For a U-Net z has layers of its own and is added to the embedding of the
    condition, which with that of t modulates the norms. Where data are not bounded the network adds to the Gaussian guess.
    """

    def __init__(self, spec: DataSpec, network: str, latent_dim: int, width: int, depth: int, octaves: int, path: Path):
        super().__init__()
        self.bounded, self.flat, self.octaves, self.path = spec.kind == "image", network == "mlp", octaves, path
        embedding = FLAT_EMBEDDING if self.flat else 4 * width
        self.condition = ConditionEmbedding(spec.condition, embedding)
        if self.flat:
            self.time = TimeEmbedding(embedding)
            inputs = spec.dimensions * (1 + 2 * octaves) + latent_dim + embedding
            self.net: nn.Module = Flat(inputs, spec.dimensions, width, depth, activation="leaky-relu")
            keep_variance(self.net)
            return
        channels, *size = spec.shape
        ladder = multipliers(*size)
        coarse = [level for level in range(1, len(ladder)) if max(size) / 2**level <= 16]
        self.mapping = mlp(latent_dim, embedding, (embedding, embedding))
        self.net = UNet(channels, width=width, multipliers=ladder, depth=depth, attention=coarse, embedding=embedding)
        # Not at 0, as a denoiser begins: all samples would be one, and a critic pulls at them as at one.
        self.net.leave.reset_parameters()

    def forward(
        self, x_t: Float[Tensor, "b *shape"], z: Float[Tensor, "b d"], t: Float[Tensor, "b"], condition: Tensor | None = None
    ) -> Float[Tensor, "b *shape"]:
        told = self.condition.of(condition, len(x_t))
        if self.flat:
            seen = torch.cat([waves(x_t.flatten(1), self.octaves), z], 1)
            x0 = self.net(seen, self.time(t, told)).reshape(x_t.shape)
        else:
            style = self.mapping(z)
            x0 = self.net(x_t, t, style if told is None else style + told)
        if self.bounded:
            return torch.tanh(x0)
        alpha, sigma, _, _ = self.path(t)
        variance = alpha**2 + sigma**2
        return expand(alpha / variance, x_t) * x_t + expand(sigma / variance.sqrt(), x0) * x0


class DenoisingCritic(nn.Module):
    """l: x_s and x_t (B, *shape), t (B,) of x_t and a condition -> logits (B,): whether x_s comes of x_t as in the data."""

    def __init__(self, spec: DataSpec, network: str, width: int, depth: int, octaves: int):
        super().__init__()
        self.flat, self.octaves = network == "mlp", octaves
        embedding = FLAT_EMBEDDING if self.flat else 4 * width
        self.condition = ConditionEmbedding(spec.condition, embedding)
        self.time = TimeEmbedding(embedding)
        if self.flat:
            inputs = 2 * spec.dimensions * (1 + 2 * octaves) + embedding
            self.trunk: nn.Module = Flat(inputs, 1, width, depth, activation="leaky-relu")
            self.head: nn.Module = nn.Identity()
            keep_variance(self.trunk)
        else:
            trunk = ResidualCritic((2 * spec.shape[0], *spec.shape[1:]), width, embedding)
            self.trunk, self.head = trunk, nn.Linear(trunk.width, 1)

    def forward(
        self,
        x_s: Float[Tensor, "b *shape"],
        x_t: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b"]:
        told = self.time(t, self.condition.of(condition, len(x_t)))
        pair = torch.cat([x_s, x_t], 1)
        if self.flat:
            pair = waves(pair.flatten(1), self.octaves)
        return self.head(self.trunk(pair, told)).squeeze(1)


class DenoisingDiffusionGAN(nn.Module):
    """A diffusion of a few steps whose denoiser is the generator of a conditional GAN.

    Samples, and shows how they come about; has no likelihood, no codes. With a condition in the data it is conditional on it.

    Args:
        spec: what a datum and its condition are.
        steps: of the diffusion, and evaluations of the generator for a sample; 1 is a GAN of noise and data.
        path: from data to noise: "variance-preserving" (the paper's), "cosine", "trigonometric", "linear"; None: the paper's
            for images, else linear.
        spacing: of the times: "uniform" (the paper's), or "quadratic": shorter steps towards the data; None: uniform for
            images, else quadratic.
        latent_dim: dimension of z ~ N(0, I), drawn afresh at each step; None: 64 for images, else that of the data, at most 64.
        network: "mlp" (vectors, tiny images), "unet" (images of 8 to 128 pixels a side; its critic is a residual network), or
            "auto": "unet" for images larger than 8x8, else "mlp".
        width: units of the MLPs' layers, or channels at full resolution (None: 128; 32).
        depth: hidden layers of the MLPs, or residual blocks of the U-Net at each resolution (None: 3; 1).
        octaves: how many octaves of waves MLPs are given beside x_s and x_t; None: 6 for points, else 0.
        objective: what the two sides minimise: "non-saturating" (the paper's), "relativistic", "hinge", "least-squares",
            "wasserstein", or another of objectives.py.
        regulariser: of the critic's slope by x_s, a name, several, or name -> weight or name -> {weight, every}: with
            every = 16 a penalty is taken at each 16th step, 16 times as heavy. Names: r1, r2, gradient-penalty,
            one-sided-penalty, zero-centred, dragan, spectral, clipping, none; None: r1 (the paper's). Without a weight r1 and
            r2 have 0.05 for images, else 0.0003.
        learning_rate: of the generator; None: 5e-4 for images, else 2e-3.
        critic_learning_rate: of the critic; None: the generator's.
        betas: of Adam, both players'.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        steps: int = 4,
        path: str | None = None,
        spacing: str | None = None,
        latent_dim: int | None = None,
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        octaves: int | None = None,
        objective: str = "non-saturating",
        regulariser: str | list[str] | dict[str, float | dict[str, float]] | None = None,
        learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        betas: tuple[float, float] = (0.5, 0.9),
    ):
        super().__init__()
        if steps < 1:
            raise UserError(f"steps = {steps} was given; the diffusion has at least 1 step (4 is usual).")
        image = spec.kind == "image"
        if latent_dim is None:
            latent_dim = 64 if image else min(64, spec.dimensions)
        self.spec, self.steps, self.latent_dim = spec, steps, latent_dim
        self.path = find_path(path or ("variance-preserving" if image else "linear"))
        self.spacing = spacing or ("uniform" if image else "quadratic")
        self.times: Tensor
        self.register_buffer("times", time_grid((0.0, 1.0), steps, self.spacing).flip(0), persistent=False)
        network = chosen_network(network, spec, planar=("unet",))
        self.objective = objective_of(objective)
        # The penalties flatten the critic around the data: points' modes may be far finer than their standardised scale.
        self.regulariser = regulariser_of("r1" if regulariser is None else regulariser, fine=0.05 if image else 3e-4)
        check_slope(self.regulariser, objective, self.objective.lipschitz, network, [])
        if learning_rate is None:
            learning_rate = 5e-4 if image else 2e-3
        self.learning_rate, self.critic_learning_rate = learning_rate, critic_learning_rate or learning_rate
        self.betas = betas
        width = width or (128 if network == "mlp" else 32)
        depth = depth or (3 if network == "mlp" else 1)
        if octaves is None:
            octaves = 6 if spec.kind == "point" and network == "mlp" else 0
        if octaves < 0 or (octaves and network != "mlp"):
            raise UserError(f"octaves = {octaves} was given with network='{network}'; give 0 or, to an MLP, a count.")
        self.generator = DenoisingGenerator(spec, network, latent_dim, width, depth, octaves, self.path)
        self.critic = DenoisingCritic(spec, network, width, depth, octaves)
        if self.regulariser.spectral:
            spectral(self.critic)

    def players(self) -> list[Player]:
        """The critic's turn, that of its penalty where this has an interval, and the generator's."""
        critic = Player(
            "critic",
            self.critic,
            self.critic_loss,
            optimizer=OptimizerSettings(self.critic_learning_rate, betas=self.betas),
            after_update=self._after_critic if self.regulariser.spectral or self.regulariser.clip is not None else None,
            validates=False,
        )
        lazy = lazy_players(critic, self.regulariser, self.penalty_loss)
        generator = Player(
            "generator",
            self.generator,
            self.generator_loss,
            optimizer=OptimizerSettings(self.learning_rate, betas=self.betas),
            validates=False,
        )
        return [critic, *lazy, generator]

    def critic_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The critic against fakes that it cannot change, at the x_t and the conditions of real pairs."""
        x_s, x_t, t, s = self.pairs(batch.x, rng)
        with torch.no_grad():
            fake = self._fakes(x_t, t, s, batch.condition, rng)
        real_logits, fake_logits = (self.critic(x, x_t, t, batch.condition) for x in (x_s, fake))
        terms = critic_terms(real_logits, fake_logits, self.objective.boundary)
        total = self.objective.critic(real_logits, fake_logits)
        for penalty in self.regulariser.penalties:
            if penalty.every == 1:
                value = self._penalised(penalty, x_s, fake, x_t, t, batch.condition, rng)
                total, terms[penalty.name] = total + penalty.weight * value, value.detach()
        return Loss(total, terms)

    def penalty_loss(self, penalty: Penalty, batch: Batch, rng: Rng) -> Loss:
        """The penalty by itself, as heavy as it would be over the steps on which it is not taken."""
        x_s, x_t, t, s = self.pairs(batch.x, rng)
        with torch.no_grad():
            fake = self._fakes(x_t, t, s, batch.condition, rng)
        value = self._penalised(penalty, x_s, fake, x_t, t, batch.condition, rng)
        return Loss(penalty.weight * penalty.every * value, {penalty.name: value.detach()})

    def generator_loss(self, batch: Batch, rng: Rng) -> Loss:
        """The generator against the critic as it stands, at the x_t and the conditions of the batch."""
        x_s, x_t, t, s = self.pairs(batch.x, rng)
        fake_logits = self.critic(self._fakes(x_t, t, s, batch.condition, rng), x_t, t, batch.condition)
        real_logits = fake_logits.new_empty(0)  # not looked at
        if self.objective.paired:
            with torch.no_grad():
                real_logits = self.critic(x_s, x_t, t, batch.condition)
        return Loss(self.objective.generator(real_logits, fake_logits))

    def pairs(self, x0: Float[Tensor, "b *shape"], rng: Rng) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Real pairs of neighbouring states, x_s and x_t (B, *shape), and their times t, uniform on the grid but 0, and s."""
        k = rng.randint(self.steps, len(x0))
        t, s = self.times[k + 1], self.times[k]
        x_t = interpolate(self.path, x0, rng.randn_like(x0), t)
        return self.posterior(x_t, x0, t, s, rng), x_t, t, s

    def posterior(
        self,
        x_t: Float[Tensor, "b *shape"],
        x0: Float[Tensor, "b *shape"],
        t: Float[Tensor, "b"],
        s: Float[Tensor, "b"],
        rng: Rng,
    ) -> Float[Tensor, "b *shape"]:
        """x_s ~ q(x_s | x_t, x0): x0 itself at s = 0."""
        known = Denoiser(self.path, "x0", lambda x, t, /, *, condition=None, drop=None: x0)
        return ANCESTRAL.step(known, x_t, t, s, rng=rng)[0]

    def _fakes(self, x_t: Tensor, t: Tensor, s: Tensor, condition: Tensor | None, rng: Rng) -> Tensor:
        x0 = self.generator(x_t, rng.randn(len(x_t), self.latent_dim), t, condition)
        return self.posterior(x_t, x0, t, s, rng)

    def _penalised(
        self, penalty: Penalty, x_s: Tensor, fake: Tensor, x_t: Tensor, t: Tensor, condition: Tensor | None, rng: Rng
    ) -> Float[Tensor, ""]:
        return penalty.function(lambda x: self.critic(x, x_t, t, condition), x_s, fake, rng)

    def _after_critic(self, keep: dict[str, Tensor], moment: Moment) -> None:
        if self.regulariser.spectral:
            follow(self.critic)
        if (largest := self.regulariser.clip) is not None:
            for parameter in self.critic.parameters():
                parameter.clamp_(-largest, largest)

    def sample(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n *shape"]:
        """n data, in `steps` evaluations of the generator. condition: (n,) classes or (n, A) attributes; None: as frequent as
        in the training set."""
        return self._drawn(n, condition, generator)

    def trajectory(
        self, n: int, *, frames: int = 8, condition: Tensor | None = None, generator: Generator = None
    ) -> Float[Tensor, "frames n *shape"]:
        """The way of `sample` from noise to data, evenly spaced in its steps + 1 states: of more frames some are alike."""
        if frames < 2:
            raise UserError(f"a trajectory has at least 2 frames, its noise and its datum; {frames} were asked for.")
        states = self._drawn(n, condition, generator, trajectory=True)
        return states[torch.linspace(0, self.steps, frames).round().long().to(states.device)]

    @torch.no_grad()
    def _drawn(self, n: int, condition: Tensor | None, generator: Generator, trajectory: bool = False) -> Tensor:
        rng = as_rng(generator, device_of(self))
        if condition is None and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, n, rng)

        def guess(x_t: Tensor, t: Tensor, /, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
            return self.generator(x_t, rng.randn(len(x_t), self.latent_dim), t, condition)

        noise = rng.randn(n, *self.spec.shape)
        denoiser = Denoiser(self.path, "x0", guess).given(condition)
        times = time_grid((0.0, 1.0), self.steps, self.spacing, like=noise)
        return generate(denoiser, noise, times, ANCESTRAL, rng=rng, trajectory=trajectory)
