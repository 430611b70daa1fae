"""Diffusion-LM: continuous diffusion of the embeddings of tokens, which are learned with it.

Token w is the vector e_w of a table, whose rows have the norm sqrt(d). A text is x0 = (e_w1 .. e_wL), noise joins it along a
path as in any diffusion, and a transformer that sees both ways predicts x0, beside what is linear in x_t. x is rounded to
the likeliest token of p(w | x) = softmax(<x, e_w>), that of Gaussians of variance 1 around the rows. Both are learned at once,

    L = E | x0_theta(x_t, t) - x0 |^2 / d  -  E log p(w | x0 + noise),

where the second term, of the table alone, keeps its rows from falling together. In sampling each prediction may be rounded to
the nearest row, so that the way ends at words ("clamping").

Li et al. 2022, "Diffusion-LM improves controllable text generation", arXiv:2205.14217.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.denoiser import Denoiser, Net
from pushforward.dynamics.guidance import classifier_free
from pushforward.dynamics.paths import expand, find_path, interpolate
from pushforward.dynamics.solvers import Solver, find_solver, generate, time_grid
from pushforward.dynamics.targets import span
from pushforward.errors import UserError
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, device_of, evaluating
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, draw_condition
from pushforward.nets.dit import Trunk, modulated
from pushforward.nets.embeddings import TimeEmbedding
from pushforward.randomness import Rng, as_rng


class EmbeddedDiffusion(nn.Module):
    """Diffusion of the embeddings of sequences of tokens.

    Args:
        spec: of tokens, with a vocabulary.
        path: from embeddings to noise, by name.
        numbers: d, of a token's embedding.
        width: of the transformer.
        depth: its blocks.
        heads: of attention.
        dropout: rate, in each block.
        condition_dropout: share of rows trained without their condition, needed for guidance and unconditional use.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        path: str = "cosine",
        numbers: int = 32,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        condition_dropout: float = 0.1,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
    ):
        super().__init__()
        if spec.kind != "tokens" or spec.vocabulary is None:
            raise UserError(
                f"diffusion of embeddings is for tokens of a vocabulary, and '{spec.name}' holds {spec.kind}; take "
                "flow-matching."
            )
        if numbers < 1:
            raise UserError(f"numbers = {numbers} was given; an embedding has at least 1.")
        if not 0 <= condition_dropout < 1:
            raise UserError(f"condition_dropout is a share from 0 up to (not including) 1; {condition_dropout} was given.")
        self.spec, self.condition_dropout = spec, condition_dropout
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.path = find_path(path)
        self.span = span(self.path, "x0")
        self.rows = nn.Parameter(torch.randn(spec.vocabulary.size, numbers))
        self.embed = ConditionEmbedding(spec.condition, width)
        self.time = TimeEmbedding(width)
        self.enter = nn.Linear(numbers, width)
        self.where = nn.Parameter(0.1 * torch.randn(spec.shape[0], width))
        self.trunk = Trunk(width, depth, heads, width, dropout)
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, numbers)
        for layer in (self.modulation, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def table(self) -> Float[Tensor, "k d"]:
        """The embedding of each token."""
        return nn.functional.normalize(self.rows, dim=1) * math.sqrt(self.rows.shape[1])

    def rounding(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l k"]:
        """Logits of p(w | x)."""
        return x @ self.table.T

    def predict(
        self, x_t: Float[Tensor, "b l d"], t: Float[Tensor, "b"], *, condition: Tensor | None = None, drop: Tensor | None = None
    ) -> Float[Tensor, "b l d"]:
        """E[x0 | x_t]; without a condition, and in rows where `drop` (B,) is true, of all data together."""
        e = self.time(t, self.embed(condition, len(x_t), drop))
        h = self.trunk(self.enter(x_t) + self.where, e)
        alpha, sigma, _, _ = self.path(t)
        guess = expand(alpha / (alpha**2 + sigma**2), x_t) * x_t  # the best one that is linear, as embeddings have variance 1
        return guess + self.leave(modulated(h, *self.modulation(e).chunk(2, -1)))

    def players(self) -> list[Player]:
        """One: table and network descend together."""
        return [
            Player("model", self, self.loss, optimizer=OptimizerSettings(self.learning_rate, weight_decay=self.weight_decay))
        ]

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The squared error of x0, a mean over numbers, and the cross-entropy of rounding, over tokens."""
        tokens, rows, (first, last) = batch.x.long(), len(batch), self.span
        t = first + (last - first) * rng.rand(rows)
        x0 = self.table[tokens]
        x_t = interpolate(self.path, x0, rng.randn_like(x0), t)
        drop = self.embed.hidden(rows, self.condition_dropout, rng)
        predicted = self.predict(x_t, t, condition=batch.condition, drop=drop).float()
        error = (predicted - x0).square().mean()
        near = self.rounding(x0 + rng.randn_like(x0))
        surprise = nn.functional.cross_entropy(near.flatten(0, 1), tokens.flatten())
        return Loss(error + surprise, {"error": error.detach(), "rounding": surprise.detach()})

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        steps: int = 64,
        solver: str | Solver = "ancestral",
        guidance: float = 1.0,
        clamping: bool = False,
    ) -> Int[Tensor, "n l"]:
        """Draws tokens (n, L): noise carried to embeddings, and rounded.

        Args:
            n: how many.
            condition: classes (n,) or attributes (n, A); None draws them as frequent as in the data.
            generator: an Rng, a torch.Generator or a seed.
            steps: of the solver.
            solver: by name or one of `dynamics/solvers.py`.
            guidance: 1 follows the condition as learned, more exaggerates it, 0 ignores it.
            clamping: whether each prediction is rounded to the nearest embedding.
        """
        known, rng = self.spec.condition, as_rng(generator, device_of(self))
        if guidance != 1 and (known is None or not self.condition_dropout):
            why = "without a condition" if known is None else "with condition_dropout=0"
            raise UserError(f"guidance is {guidance}, but this model was trained {why}; leave guidance at 1.")
        condition = checked_condition(known, condition, n, rng.device)
        noise = rng.randn(n, self.spec.shape[0], self.rows.shape[1])
        if condition is None and known is not None:
            condition = draw_condition(known, n, rng)
        denoiser = classifier_free(Denoiser(self.path, "x0", self.predict), guidance)
        if clamping:
            denoiser = replace(denoiser, net=_Clamped(denoiser.net, self.table))
        with evaluating(self):
            times = time_grid(self.span, steps, like=noise)
            x = generate(denoiser.given(condition), noise, times, find_solver(solver), rng=rng)
        return self.rounding(x).argmax(-1)


@dataclass(frozen=True)
class _Clamped:
    """Predictions rounded to the nearest embedding of a table (K, d)."""

    net: Net
    table: Tensor

    def __call__(self, x_t: Tensor, t: Tensor, *, condition: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        return self.table[(self.net(x_t, t, condition=condition, drop=drop) @ self.table.T).argmax(-1)]
