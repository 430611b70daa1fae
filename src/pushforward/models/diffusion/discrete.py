"""Discrete diffusion: learns what stands at each place from data some of whose tokens have been forgotten, and samples by going
from all forgotten to none.

A process forgets tokens (`dynamics/categorical.py`): "uniform" puts any other in their place, "absorbing" a mask. A network
p_theta(x0_i | x_t) says at each place what it was; Bayes' rule adds what stands at the place itself, so that its logits need
not, and gives the step backwards. The loss is the variational bound on -log p(x), in T steps as D3PM's,

    L = sum_{i=1}^T E KL(q(x_{i-1} | x_i, x0) || p_theta(x_{i-1} | x_i)) + lambda E[ -log p_theta(x0 | x_t) ]

(Austin et al. 2021, arXiv:2107.03006), or in continuous time. Of the absorbing process that is MDLM's,

    L = int_0^1 -alpha' / (1 - alpha) E sum_{i masked} -log p_theta(x0_i | x_t) dt

(Sahoo et al. 2024, arXiv:2406.07524; Shi et al. 2024, arXiv:2406.04329). As all that matters is which places are masked, its
network is not told the time, and with n = how many of L are masked the integral is, whatever alpha,

    L = 1/L sum_{n=1}^L E L/n sum_{i masked} -log p_theta(x0_i | x_t),

the mean over all orders of the places of the chain rule (Ou et al. 2024, arXiv:2406.03736): that is what is drawn, since its
weights vary least.

Samples take any number of steps. Those of the absorbing process may as well reveal places one by one in a random order, which
is exact in as many steps as places (Zheng et al. 2024, arXiv:2409.02908), or first where the network is surest (MaskGIT: Chang
et al. 2022, arXiv:2202.04200). Data that are no tokens are made ones (`distributions/alphabets.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.distributions.alphabets import Cells, alphabet
from pushforward.distributions.likelihoods import wide
from pushforward.dynamics.categorical import NEVER, Process, absorbing_law, find_schedule, uniform_law
from pushforward.errors import UserError, checked_temperature, nearest
from pushforward.models.contract import (
    Generator,
    LogProb,
    Loss,
    OptimizerSettings,
    Player,
    Update,
    checked_mask,
    device_of,
    evaluating,
)
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, draw_condition
from pushforward.nets.token_transformer import TokenTransformer
from pushforward.randomness import Rng, as_rng, chosen

PROCESSES = ("uniform", "absorbing")
SAMPLERS = ("ancestral", "first-hitting", "confidence")
EDGE = 1e-5  # times stay this far from 0 and 1, where rates are infinite
MOST = 128  # steps where none are given: of places one by one as many as there are, up to this
GUMBEL = 4.5  # noise on the confidence that falls to 0 over the steps, as MaskGIT's code has it


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn; `DiscreteDiffusion.sample` says what each means."""

    steps: int | None = None
    sampler: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps = {self.steps} was given; samples take at least 1 step.")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise UserError(f"there is no sampler '{self.sampler}'; {nearest(self.sampler, SAMPLERS)}")
        checked_temperature(self.temperature)
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p} was given; it is above 0 and at most 1 (1: every token is allowed).")
        if not math.isfinite(self.guidance):
            raise UserError(f"guidance = {self.guidance} was given; 1 follows the condition as learned.")


class DiscreteDiffusion(nn.Module):
    """Diffusion of tokens, of the levels of images, and of tables whose numbers are put in bins.

    Args:
        spec: tokens of a vocabulary, images with at most 256 levels, tables or points.
        process: what becomes of a token: "absorbing" (a mask) or "uniform" (any other).
        schedule: the share alpha of tokens that still stand at t: "linear", "cosine", "cosine-squared".
        timesteps: T of a bound in discrete time; None: continuous time.
        cross_entropy: lambda, the weight of -log p(x0 | x_t) beside the bound (D3PM's 0.001 a step is 1 for T = 1000).
        bins: of each number of a table or point, at most.
        width: of the transformer.
        depth: its blocks.
        heads: of attention.
        dropout: rate, in each block.
        condition_dropout: share of rows trained without their condition, needed for guidance and unconditional use.
        net: your own network, any module called net(tokens, t, embedding) that gives logits (B, L, K), or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
    """

    dequantise = False
    mass = True

    def __init__(
        self,
        spec: DataSpec,
        *,
        process: str = "absorbing",
        schedule: str = "linear",
        timesteps: int | None = None,
        cross_entropy: float = 0.0,
        bins: int = 64,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        condition_dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
    ):
        super().__init__()
        if process not in PROCESSES:
            raise UserError(f"there is no process '{process}' of tokens; {nearest(process, PROCESSES)}")
        if timesteps is not None and timesteps < 1:
            raise UserError(f"timesteps = {timesteps} was given; the bound has at least 1 (None: continuous time).")
        if not (math.isfinite(cross_entropy) and cross_entropy >= 0):
            raise UserError(f"cross_entropy = {cross_entropy} was given; it is a weight of at least 0.")
        if not 0 <= condition_dropout < 1:
            raise UserError(f"condition_dropout is a share from 0 up to (not including) 1; {condition_dropout} was given.")
        self.spec, self.absorbing, self.timesteps = spec, process == "absorbing", timesteps
        self.schedule, self.cross_entropy, self.condition_dropout = find_schedule(schedule), cross_entropy, condition_dropout
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.alphabet = alphabet(spec, bins)
        self.embed = ConditionEmbedding(spec.condition, width)
        states = self.alphabet.size + self.absorbing
        self.net = TokenTransformer(self.alphabet, states, width, depth, heads, dropout) if net is None else net

    @property
    def forgetting(self) -> Process:
        """How tokens are forgotten."""
        possible = self.alphabet.possible
        return Process(absorbing_law(possible) if self.absorbing else uniform_law(possible), self.schedule)

    def predict(
        self,
        x_t: Int[Tensor, "b l"],
        t: Float[Tensor, "b"],
        *,
        condition: Tensor | None = None,
        drop: Tensor | None = None,
    ) -> Float[Tensor, "b l k"]:
        """log p of the token of x0 at each place before that place is looked at; without a condition, and in rows where `drop`
        (B,) is true, of all data together."""
        t = torch.zeros_like(t) if self.absorbing else t
        logits = wide(self.net(x_t, t, self.embed(condition, len(x_t), drop)))
        return logits.masked_fill(~self.alphabet.possible, NEVER).log_softmax(-1)

    # Learns

    def players(self) -> list[Player]:
        """One that descends the bound; of tables before it one that makes the bins."""
        settings = OptimizerSettings(self.learning_rate, weight_decay=self.weight_decay)
        model = Player("model", [self.net, self.embed], self.loss, optimizer=settings)
        return [Player("bins", self.alphabet, update=self.begin), model] if isinstance(self.alphabet, Cells) else [model]

    @torch.no_grad()
    def begin(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """Makes the bins of numbers."""
        assert isinstance(self.alphabet, Cells)
        self.alphabet.fit(batch.x for batch in batches)
        return Update({}, finished=True)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The bound and lambda times the cross-entropy, in nats per place; beside it the bound in nats per datum."""
        rows, x0 = len(batch), self.alphabet.tokens(batch.x)
        u = (rng.shared(1) + torch.arange(rows, device=x0.device) / rows) % 1  # one in each of as many equal parts
        drop = self.embed.hidden(rows, self.condition_dropout, rng)
        bound, surprise = self._bound(x0, u, rng.rand(*x0.shape), batch.condition, drop)
        nats = bound.sum(1).mean()
        total = nats / self.alphabet.places
        if self.cross_entropy:
            total = total + self.cross_entropy * surprise.mean()
        return Loss(total, {"nats": nats.detach()})

    def _bound(
        self,
        x0: Int[Tensor, "b l"],
        u: Float[Tensor, "b"],
        uniforms: Float[Tensor, "b l"],
        condition: Tensor | None,
        drop: Tensor | None = None,
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        """One draw of the bound, whose mean over u and uniforms on [0, 1) it is, and -log p(x0 | x_t), of each place."""
        process, places = self.forgetting, x0.shape[1]
        if self.absorbing and self.timesteps is None:
            masked, n = _first(uniforms, (u * places).long() + 1)
            x_t = torch.where(masked, self.alphabet.size, x0)
            log_p0 = self.predict(x_t, u, condition=condition, drop=drop)
            surprise = -log_p0.gather(-1, x0[..., None])[..., 0] * masked
            return surprise * (places / n)[:, None], surprise
        if self.timesteps is None:
            t = u.clamp(EDGE, 1 - EDGE)
        else:
            i = (u * self.timesteps).long().clamp(max=self.timesteps - 1) + 1
            t, s = i / self.timesteps, (i - 1) / self.timesteps
        x_t = process.forget(x0, t, uniforms)
        log_p0 = self._over_states(self.predict(x_t, t, condition=condition, drop=drop))
        with torch.autocast(x0.device.type, enabled=False):
            surprise = -process.denoised(x_t, log_p0, t).gather(-1, x0[..., None])[..., 0]
            if self.timesteps is None:
                return process.rate_bound(x0, x_t, log_p0, t), surprise
            return self.timesteps * process.step_bound(x0, x_t, log_p0, t, s), surprise

    def _over_states(self, log_p0: Float[Tensor, "b l k"]) -> Float[Tensor, "b l s"]:
        """With the mask, which no datum has."""
        return nn.functional.pad(log_p0, (0, 1), value=NEVER) if self.absorbing else log_p0

    # Density

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, condition: Tensor | None = None, draws: int = 32, generator: Generator = 0) -> LogProb:
        """A lower bound on log p(x) in nats, estimated by `draws` times and forgettings (an even number), fixed by `generator`,
        with the standard error of that. Without a condition: of all data together, which condition_dropout taught.

        Raises UserError for data of another kind, and for less than 2 draws.
        """
        if draws < 2 or draws % 2:
            raise UserError(f"draws = {draws} was given; an even number of at least 2 tells how far they are apart.")
        x = self.alphabet.checked(x)
        tokens, rng = self.alphabet.tokens(x), as_rng(generator, x.device)
        condition = self._condition(condition, len(x))
        parts = (torch.arange(draws, device=x.device) + rng.rand(len(x), draws)) / draws
        with evaluating(self):
            values = torch.stack(
                [self._bound(tokens, u, rng.rand(*tokens.shape), condition)[0].sum(1) for u in parts.unbind(1)], 1
            )
        # A draw in each of as many parts of the time: neighbours differ by their noise, and a little by their time.
        stderr = (values[:, ::2] - values[:, 1::2]).square().sum(1).sqrt() / draws
        return LogProb(-values.mean(1) - self.alphabet.log_volume(x, tokens), "bound", stderr)

    # Samples, Completes

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int | None = None,
        sampler: str | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draws x (n, *spec.shape).

        Args:
            n: how many.
            condition: classes (n,) or attributes (n, A); None draws them as frequent as in the data.
            generator: an Rng, a torch.Generator or a seed.
            steps: passes through the network; None: 128, or as many as places where those are revealed one by one.
            sampler: "ancestral": the process backwards. Of the absorbing process also "first-hitting": places in a random
                order, equally many in each step, exact where that is one; "confidence": the surest places first. None:
                "first-hitting" of the absorbing process, else "ancestral".
            temperature: below 1 sharpens what is said of each place, above 1 flattens it.
            top_p: only the fewest tokens that hold this much probability at each place.
            guidance: 1 follows the condition as learned, more exaggerates it, 0 ignores it.
        """
        chosen_options = Sampling(steps, sampler, temperature, top_p, guidance)
        return self._drawn(None, n, condition, as_rng(generator, device_of(self)), chosen_options)

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int | None = None,
        sampler: str | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        guidance: float = 1.0,
    ) -> Tensor:
        """x with what is not known drawn: a text's middle, the missing cells of rows, a part of an image.

        Of the absorbing process it is drawn given all that is known, wherever that stands. Of the uniform one what is known
        takes its own way from noise, and the rest sees it through that noise: an approximation, as RePaint's is without
        going back and forth (Lugmayr et al. 2022, arXiv:2201.09865).

        Args:
            x: data (B, *spec.shape); what stands where it is not known does not matter.
            known: booleans of x's shape, true where x is kept. Of a number with gaps its flag alone may be known.
            condition: as of `sample`. steps, sampler, temperature, top_p, guidance: as of `sample`.

        Raises UserError for data of another shape or kind.
        """
        if tuple(x.shape[1:]) != tuple(self.spec.shape):
            raise UserError(f"data of shape {tuple(x.shape[1:])} were given to complete; this model knows {self.spec.shape}.")
        x = x.to(device_of(self))
        known = checked_mask(known, x)
        agreeing = self.alphabet.agreeing(x, known)
        chosen_options = Sampling(steps, sampler, temperature, top_p, guidance)
        made = self._drawn(agreeing, len(x), condition, as_rng(generator, x.device), chosen_options)
        return torch.where(known, x, made)

    def _drawn(
        self, agreeing: Bool[Tensor, "b l k"] | None, n: int, condition: Tensor | None, rng: Rng, options: Sampling
    ) -> Tensor:
        """Data whose tokens are among those that agree with what is known."""
        sampler = options.sampler or ("first-hitting" if self.absorbing else "ancestral")
        if sampler != "ancestral" and not self.absorbing:
            raise UserError(
                f"sampler='{sampler}' reveals masked places, and this model's process is uniform; take 'ancestral'."
            )
        if options.guidance != 1 and (self.spec.condition is None or not self.condition_dropout):
            why = "without a condition" if self.spec.condition is None else "with condition_dropout=0"
            raise UserError(f"guidance is {options.guidance}, but this model was trained {why}; leave guidance at 1.")
        condition = checked_condition(self.spec.condition, condition, n, rng.device)
        if condition is None and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, n, rng)
        x = chosen(self.forgetting.law, rng.rand(n, self.alphabet.places, dtype=torch.float64))
        if self.absorbing and agreeing is not None:
            x = torch.where(agreeing.sum(-1) == 1, agreeing.long().argmax(-1), x)

        def told(x_t: Tensor, t: Tensor) -> Tensor:
            log_p0 = self._guided(x_t, t, condition, options.guidance)
            if agreeing is not None:
                log_p0 = log_p0.masked_fill(~agreeing, NEVER)
            return sharpened(log_p0, options.temperature, options.top_p)

        with evaluating(self):
            if sampler == "ancestral":
                x = self._ancestral(x, told, options.steps or MOST, rng)
            else:
                x = self._reveal(x, told, options.steps or MOST, rng, surest=sampler == "confidence")
        return self.alphabet.draw(x, rng)

    def _guided(self, x_t: Int[Tensor, "b l"], t: Tensor, condition: Tensor | None, guidance: float) -> Float[Tensor, "b l k"]:
        """log p_null + w (log p_c - log p_null), not normalised (Nisonoff et al. 2024, arXiv:2406.01572, of x0's law)."""
        if guidance == 1 or condition is None:
            return self.predict(x_t, t, condition=condition)
        if guidance == 0:
            return self.predict(x_t, t)
        rows = len(x_t)
        hidden = torch.arange(2 * rows, device=x_t.device) < rows
        both = self.predict(x_t.repeat(2, 1), t.repeat(2), condition=torch.cat([condition, condition]), drop=hidden)
        null, conditional = both.chunk(2)
        return null + guidance * (conditional - null)

    def _ancestral(
        self, x: Int[Tensor, "b l"], told: Callable[[Tensor, Tensor], Tensor], steps: int, rng: Rng
    ) -> Int[Tensor, "b l"]:
        """The process backwards, from t = 1 to t = 0."""
        process, one = self.forgetting, torch.ones(len(x), device=x.device)
        for k in range(steps, 0, -1):
            uniforms, t = rng.rand(*x.shape, dtype=torch.float64), k / steps * one
            if self.absorbing and not bool((x == self.alphabet.size).any()):
                continue
            log_p = process.posterior(x, self._over_states(told(x, t)), t, (k - 1) / steps * one)
            drawn = chosen(log_p.exp(), uniforms)
            # what is not masked stays, be it that it is known already where nothing can be by itself, at t = 1
            x = torch.where(x == self.alphabet.size, drawn, x) if self.absorbing else drawn
        return x

    def _reveal(
        self, x: Int[Tensor, "b l"], told: Callable[[Tensor, Tensor], Tensor], steps: int, rng: Rng, surest: bool
    ) -> Int[Tensor, "b l"]:
        """Masked places in an order: a random one, or the surest first, few at the beginning (MaskGIT's cosine)."""
        steps, nowhere = min(steps, x.shape[1]), torch.zeros(len(x), device=x.device)
        order, start = rng.rand(*x.shape), (x == self.alphabet.size).sum(1)
        for k in range(1, steps + 1):
            uniforms, noise = rng.rand(*x.shape, dtype=torch.float64), rng.rand(*x.shape)
            masked = x == self.alphabet.size
            share = math.cos(math.pi / 2 * k / steps) if surest else 1 - k / steps
            # rounding may not leave more than there is
            left = (start * share + 1e-4).floor().long() if k < steps else torch.zeros_like(start)
            reveal = masked.sum(1) - left
            if surest:
                reveal = torch.where(masked.any(1), reveal.clamp(min=1), 0)
            if not bool((reveal > 0).any()):
                continue
            log_p0 = told(x, nowhere)
            drawn = chosen(log_p0.exp(), uniforms)
            if surest:
                gumbel = -(-noise.clamp(min=1e-7).log()).clamp(min=1e-7).log()
                order = -log_p0.gather(-1, drawn[..., None])[..., 0] - GUMBEL * (1 - k / steps) * gumbel
            now, _ = _first(order.masked_fill(~masked, torch.inf), reveal)
            x = torch.where(now, drawn, x)
        return x

    def _condition(self, condition: Tensor | None, rows: int) -> Tensor | None:
        return checked_condition(self.spec.condition, condition, rows, device_of(self), needed=not self.condition_dropout)


def _first(values: Float[Tensor, "b l"], n: Int[Tensor, "b"]) -> tuple[Bool[Tensor, "b l"], Int[Tensor, "b"]]:
    """The n places of each row whose values are least, n at most all."""
    n = n.clamp(max=values.shape[1])
    return values.argsort(1).argsort(1) < n[:, None], n


def sharpened(log_p: Float[Tensor, "*b k"], temperature: float, top_p: float) -> Float[Tensor, "*b k"]:
    """log of p^(1/T), cut to the fewest tokens, likeliest first, that hold `top_p` of it, and normalised.

    >>> sharpened(torch.tensor([0.5, 0.3, 0.2]).log(), 1.0, 0.6).exp()
    tensor([0.6250, 0.3750, 0.0000])
    """
    log_p = (log_p / temperature).log_softmax(-1)
    if top_p == 1:
        return log_p
    ordered, order = log_p.sort(dim=-1, descending=True, stable=True)
    shares = ordered.exp()
    kept = shares.cumsum(-1) - shares < top_p
    cut = torch.zeros_like(kept).scatter(-1, order, kept)
    return log_p.masked_fill(~cut, NEVER).log_softmax(-1)
