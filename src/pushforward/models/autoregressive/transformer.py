"""GPT: a decoder-only transformer that learns tokens one after another. By the chain rule any distribution over sequences is

    log p(x) = sum_i log p(x_i | x_0 .. x_{i-1}),

and one causal network gives all the factors in one pass: its inputs are a learned begin vector and x_0 .. x_{L-2}, its
outputs the logits of x_0 .. x_{L-1}. Maximum likelihood is then the cross-entropy of each token,

    loss = -(1 / L) sum_i log p(x_i | x_<i)      (nats per token),

and as every factor is normalised, so is the whole: the density is exact. An embedded class is added to the begin vector, which
makes it log p(x | class). Sampling draws token after token, with the keys and values of the past kept.

Texts longer than the context slide a window over themselves: `sampling.py` has the rule.

Radford et al. 2019, Language models are unsupervised multitask learners; Vaswani et al. 2017, arXiv:1706.03762.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.autoregressive.sampling import Choice, generate, windows
from pushforward.models.contract import Generator, LogProb, Loss, OptimizerSettings, Player, device_of, evaluating
from pushforward.nets.conditioning import ConditionEmbedding, checked_condition, draw_condition, marginal
from pushforward.nets.transformer import Decoder, Norm, Perceptron, Positions
from pushforward.randomness import Rng, as_rng


class GPT(nn.Module):
    """Decoder-only transformer over sequences of tokens.

    Args:
        spec: of tokens, shape (L,), with a vocabulary.
        depth: blocks of attention and perceptron.
        heads: of attention, in each block; must divide the width.
        width: of the residual stream.
        dropout: rate; 0.1 to 0.2 where a small text is seen many times.
        context: positions that the network sees at once; None: all L of a training sequence.
        tied: whether the matrix that reads tokens also scores them.
        positions: how the network knows where a token stands: a learned vector, sinusoids, or rotary ones, of distances alone.
        norm: before each part of a block.
        perceptron: of each block; swiglu has as many parameters as gelu.
        bias: whether linear maps and layer norms have one.
        learning_rate: of AdamW.
        weight_decay: of AdamW (on matrices; biases and norms go without).
    """

    dequantise = False

    def __init__(
        self,
        spec: DataSpec,
        *,
        depth: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        context: int | None = None,
        tied: bool = True,
        positions: Positions = "rotary",
        norm: Norm = "layer",
        perceptron: Perceptron = "swiglu",
        bias: bool = True,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
    ):
        super().__init__()
        if spec.kind != "tokens" or spec.vocabulary is None:
            raise UserError(f"GPT learns tokens of a vocabulary; '{spec.name}' holds {spec.kind} without one.")
        length = spec.shape[0]
        context = length if context is None else context
        if not 1 <= context <= length:
            raise UserError(
                f"the context must be between 1 and the {length} tokens of a training sequence, {context} was given; "
                "for a longer one load the data in longer sequences."
            )
        self.spec, self.length, self.vocabulary = spec, length, spec.vocabulary.size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.network = Decoder(
            self.vocabulary,
            context,
            depth=depth,
            heads=heads,
            width=width,
            dropout=dropout,
            tied=tied,
            positions=positions,
            norm=norm,
            perceptron=perceptron,
            bias=bias,
        )
        self.begin: nn.Parameter | ConditionEmbedding
        if spec.condition is None:
            self.begin = nn.Parameter(torch.zeros(width))
            nn.init.normal_(self.begin, std=0.02)
        else:
            self.begin = ConditionEmbedding(spec.condition, width)
            nn.init.normal_(self.begin.null, std=0.02)
            nn.init.normal_(self.begin.embed.weight, std=0.02)  # type: ignore[arg-type]

    def token_log_probs(self, x: Int[Tensor, "b l"], *, condition: Tensor | None = None) -> Float[Tensor, "b l"]:
        """log p(x_i | x_<i, condition) in nats for every token of sequences of any length.

        Raises UserError for ids outside the vocabulary, and for a missing condition.
        """
        x = self._checked(x)
        return self._token_log_probs(x, checked_condition(self.spec.condition, condition, len(x), x.device, needed=True))

    def _token_log_probs(self, x: Int[Tensor, "b l"], condition: Tensor | None) -> Float[Tensor, "b l"]:
        begin = self._begin(len(x), condition)
        parts = []
        for start, first, end in windows(x.shape[1], self.network.context):
            logits = self.network(x[:, start : end - 1], first=begin)
            parts.append(_log_probs(logits[:, first - start : end - start], x[:, first:end]))
        return torch.cat(parts, 1)

    def log_prob(self, x: Int[Tensor, "b l"], *, condition: Tensor | None = None) -> LogProb:
        """log p(x | condition) in nats per sequence, exact. Sequences may have any length.

        Without a condition, a model of classes, or of at most 6 attributes, gives its exact marginal, log sum_c p(c) p(x | c).
        Raises UserError for ids outside the vocabulary, and for a missing condition of another kind.
        """
        x, known, rows = self._checked(x), self.spec.condition, len(x)
        condition = checked_condition(known, condition, rows, x.device)
        with evaluating(self):
            if known is None or condition is not None:
                return LogProb(self._token_log_probs(x, condition).sum(1), "exact")
            return LogProb(marginal(known, rows, x.device, lambda c: self._token_log_probs(x, c).sum(1)), "exact")

    @torch.inference_mode()
    def text_nats(
        self, tokens: Int[Tensor, "n"], *, stride: int | None = None, condition: Tensor | None = None, batch_size: int = 64
    ) -> float:
        """Mean nats per token of one long text, each token predicted once, by windows that move by `stride` tokens.

        The default, half the context, is `log_prob` of the whole text; smaller strides give each token a longer past and
        cost more passes. condition: (1,) or (1, A), of the whole text.
        """
        tokens, context = self._checked(tokens[None])[0], self.network.context
        condition = checked_condition(self.spec.condition, condition, 1, tokens.device, needed=True)
        if not len(tokens):
            raise UserError("the text has no tokens to measure.")
        groups: dict[tuple[int, int], list[int]] = {}  # windows of one shape go through the network together
        for start, first, end in windows(len(tokens), context, stride):
            groups.setdefault((first - start, end - start), []).append(start)
        total = 0.0
        with evaluating(self):
            for (first, end), starts in groups.items():
                for at in torch.tensor(starts, device=tokens.device).split(batch_size):
                    x = tokens[at[:, None] + torch.arange(end, device=tokens.device)]
                    rows = None if condition is None else condition.expand(len(x), *condition.shape[1:])
                    logits = self.network(x[:, :-1], first=self._begin(len(x), rows))
                    total += _log_probs(logits[:, first:], x[:, first:]).double().sum().item()
        return -total / len(tokens)

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Mean cross-entropy in nats per token."""
        nats = -self._token_log_probs(batch.x, batch.condition).mean()
        return Loss(nats, {"nats_per_token": nats.detach()})

    def players(self) -> list[Player]:
        """One: everything descends the cross-entropy. beta2 = 0.99, as averages over few tokens are noisy otherwise. The rate
        rises for a twentieth of the run, and falls to a tenth (as GPT-3's did, arXiv:2005.14165): the averaged weights are past
        its noise, and learning goes on."""
        settings = OptimizerSettings(
            self.learning_rate, betas=(0.9, 0.99), weight_decay=self.weight_decay, warmup=0.05, floor=0.1
        )
        return [Player("model", self, self.loss, optimizer=settings)]

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        length: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        cache: bool = True,
    ) -> Int[Tensor, "n l"]:
        """Draws n sequences of `length` tokens (None: as long as a training sequence).

        Args:
            condition: (n,) classes or (n, A) attributes; None draws them as often as they are in the data.
            length: tokens of each; None: those of a training sequence.
            temperature: below 1 sharpens, above 1 flattens.
            top_k: only the k likeliest tokens.
            top_p: only the fewest tokens that hold this much probability.
            min_p: only tokens at least so many times as likely as the likeliest one.
            repetition_penalty: above 1 makes what is in the text already less likely.
            cache: False computes the past anew for each token (slower, the same text).
        """
        length = self.length if length is None else length
        nothing = torch.zeros(n, 0, dtype=torch.long, device=device_of(self))
        return self.extend(
            nothing,
            length,
            condition=condition,
            generator=generator,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            cache=cache,
        )

    @torch.inference_mode()
    def extend(
        self,
        prefix: Int[Tensor, "b p"],
        length: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        cache: bool = True,
        watch: Callable[[Tensor], object] | None = None,
    ) -> Int[Tensor, "b n"]:
        """Continues each prefix by `length` tokens and returns both, n = p + length. Options as in `sample`.

        A prefix may have any length; beyond the context the network sees its end. watch: called after each token with the
        sequences so far (B, p + 1 .. n).
        """
        choice = Choice(temperature, top_k, top_p, min_p, repetition_penalty)
        if length < 0:
            raise UserError(f"a text cannot be continued by {length} tokens; give 0 or more.")
        prefix = self._checked(prefix)
        condition = checked_condition(self.spec.condition, condition, len(prefix), prefix.device)
        rng = as_rng(generator, device_of(self))
        if condition is None and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, len(prefix), rng)
        # All uniforms at once: a stream is opened once a row, not once a row and token.
        uniforms = rng.rand(len(prefix), length)
        with evaluating(self):
            begin = self._begin(len(prefix), condition)
            return generate(self.network, begin, prefix, uniforms, choice, cache=cache, watch=watch)

    def _begin(self, rows: int, condition: Tensor | None) -> Float[Tensor, "b 1 width"]:
        """The vector before the first token: what all sequences share, plus the embedded condition."""
        if isinstance(self.begin, nn.Parameter):
            return self.begin.expand(rows, 1, -1)
        return (self.begin(None, rows) + self.begin(condition, rows))[:, None]

    def _checked(self, x: Tensor) -> Tensor:
        """x as long ids on this device, or a UserError."""
        if x.dim() != 2 or x.is_floating_point():
            raise UserError(f"integer token ids of shape (B, length) are needed; {x.dtype} of {tuple(x.shape)} was given.")
        x = x.long().to(device_of(self))
        x = x.clone() if x.is_inference() else x  # a sample, whose density may then be differentiated
        wrong = [i for i in (int(x.min()), int(x.max())) if not 0 <= i < self.vocabulary] if x.numel() else []
        if wrong:
            raise UserError(f"token id {wrong[0]} was given; this model's vocabulary has ids 0 to {self.vocabulary - 1}.")
        return x


def _log_probs(logits: Float[Tensor, "b l k"], x: Int[Tensor, "b l"]) -> Float[Tensor, "b l"]:
    """log p of each token, in float32 at least."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return -F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").view(x.shape)
