"""What all models with latent variables share: a likelihood, a bound to climb, a condition beside, and draws from the prior.

A model adds two things: `parameters_of`, what its decoder says of x given codes drawn from N(0, I), and `weigh`, which draws
codes from its posterior and weighs them (`elbo.py`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.data.units import units
from pushforward.distributions.choice import likelihood
from pushforward.distributions.likelihoods import Bernoulli, Gaussian, Sigma, binary, fixed_binary
from pushforward.errors import UserError
from pushforward.models.contract import Generator, LogProb, Loss, OptimizerSettings, Player, device_of
from pushforward.models.variational.elbo import Elbo, ImportanceWeighted, iwae_bound
from pushforward.nets.conditioning import ConditionEmbedding, draw_condition, marginal
from pushforward.randomness import EVALUATION_SEED, Rng, as_rng

EMBEDDING = 64  # numbers that a condition becomes
LAST_WARMTH = 0.5  # a warm-up is over by this part of the run at the latest: most of a short one is under the full beta


class Variational(nn.Module):
    """A model with latent variables: abstract.

    Args:
        spec: what a datum is.
        likelihood_name, binarise, sigma: what the decoder's output means, as `VAE` explains them.
        objective: the bound to climb.
        beta_warmup: updates over which the weight of the KL grows from 0; half of the run where that is shorter.
        condition_dropout: rate at which conditions are hidden in training.
    """

    noise_size: int  # numbers of a code
    unit_name: str | None = None  # what a latent unit is called in the log, where each is told by itself
    learning_rate: float

    def __init__(
        self,
        spec: DataSpec,
        likelihood_name: str,
        binarise: bool,
        sigma: Sigma | float,
        objective: Elbo | ImportanceWeighted,
        beta_warmup: int,
        condition_dropout: float,
    ):
        super().__init__()
        self.spec, self.beta_warmup, self.condition_dropout = spec, beta_warmup, condition_dropout
        self.log_det = units(spec).log_det
        self.likelihood = likelihood(likelihood_name, spec, sigma)
        self.binarise, self.objective = binarise, objective
        if binarise and not isinstance(self.likelihood, Bernoulli):
            raise UserError("binarise draws black and white images, which are for likelihood='bernoulli'; set that too.")
        self.embed = ConditionEmbedding(spec.condition, EMBEDDING, ("class", "attributes", "vector", "image"))

    def weigh(
        self, x: Tensor, noise: Tensor, embedding: Tensor | None, closed: bool = False
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b j u"]]:
        """log p(x | z) of the draws that `noise` makes, and log q(z | x) - log p(z) by unit (its mean if `closed`)."""
        raise NotImplementedError

    def parameters_of(self, z: Float[Tensor, "b d"], embedding: Float[Tensor, "b e"] | None) -> Float[Tensor, "b k *shape"]:
        """What the decoder says of x given codes that are N(0, I) under the prior: the likelihood's parameters."""
        raise NotImplementedError

    @property
    def mass(self) -> bool:
        """Whether the likelihood gives integer levels themselves a probability."""
        return not isinstance(self.likelihood, Gaussian)

    @property
    def dequantise(self) -> bool:
        """Only a density on integer data needs noise."""
        return not self.mass and units(self.spec).discrete

    @property
    def binarised(self) -> bool:
        """Whether `log_prob` is of black and white pixels drawn from the grey ones, not of the data themselves."""
        return isinstance(self.likelihood, Bernoulli) and self.spec.levels != 2

    # Learns

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """The negative bound of a batch, in nats per datum."""
        rows = len(batch)
        embedding = self.embed(batch.condition, rows, self.embed.hidden(rows, self.condition_dropout, rng))
        x = binary(batch.x, rng.rand_like(batch.x)) if self.binarise else batch.x
        # validation is under the full beta, or its figures would not compare with each other
        warmth = 1.0
        if self.beta_warmup and self.training:
            warmth = min(1.0, max(batch.step / self.beta_warmup, batch.progress / LAST_WARMTH))
        return self.objective(self, x, rng, embedding, warmth, self._log_det(batch.x))

    def _log_det(self, x: Tensor) -> float | Tensor:
        """Mean of log |dx/dc| over these data."""
        if not any(column.missing for column in self.spec.columns):
            return self.log_det
        made = units(self.spec)
        return torch.as_tensor(made.log_dets(made.to_codes(x))).mean()

    def players(self) -> list[Player]:
        """One: encoder and decoder together."""
        optimizer = OptimizerSettings(learning_rate=self.learning_rate)
        return [Player("vae", self, loss=self.loss, optimizer=optimizer)]

    # Samples, Encodes, Decodes, Density

    def draw_codes(self, n: int, *, condition: Tensor | None = None, generator: Generator = None) -> Float[Tensor, "n d"]:
        """z ~ N(0, I), whatever the condition."""
        return as_rng(generator, device_of(self)).randn(n, self.noise_size)

    def decode(self, z: Float[Tensor, "b d"], *, condition: Tensor | None = None) -> Float[Tensor, "b *shape"]:
        """The mean of p(x | z)."""
        return self.likelihood.mean(self.parameters_of(z, self.embed(condition, len(z))))

    def sample(
        self,
        n: int,
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        temperature: float = 1.0,
        sample_likelihood: bool | None = None,
    ) -> Float[Tensor, "n *shape"]:
        """Decodes n draws of z.

        Args:
            temperature: the standard deviation of z.
            sample_likelihood: draw x ~ p(x | z) (True) or show its mean (False); None: means of images, where the likelihood is
                noise that no one wants to see, and draws of all else.
        """
        rng = as_rng(generator, device_of(self))
        z = temperature * rng.randn(n, self.noise_size)
        if condition is None and self.spec.condition is not None:
            condition = draw_condition(self.spec.condition, n, rng)
        parameters = self.parameters_of(z, self.embed(condition, n))
        if sample_likelihood is None:
            sample_likelihood = self.spec.kind != "image"
        return self.likelihood.sample(parameters, rng) if sample_likelihood else self.likelihood.mean(parameters)

    def log_prob(
        self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None, draws: int = 64, chunk: int | None = None
    ) -> LogProb:
        """The importance-weighted bound with `draws` draws, which are a function of (x, draws): so is the bound.

        Without a condition, where the data have classes or attributes, it is the mixture over them that `sample` draws from: a
        sum over all classes, or over all sets of attributes where these are at most 64, else over 64 that are drawn, the same
        for all data; as many times the work. Where a vector or an image is the condition it is what the model says with that
        hidden, as `condition_dropout` has taught it; where that is 0, x without it has no density. chunk: how many codes are
        decoded at a time; None: as many as make about 2 million numbers. With `binarise` it is the bound of one black and white
        image of each x, always the same.

        Raises UserError for less than one draw, and for a condition that is needed and not there.
        """
        if draws < 1 or (chunk is not None and chunk < 1):
            raise UserError(f"draws = {draws} and chunk = {chunk} were given; both are at least 1.")
        self.likelihood.check(x)
        x = fixed_binary(x) if self.binarise else x
        chunk = chunk or min(max(1, 2**21 // self.spec.dimensions), 2**14)
        known, rows = self.spec.condition, len(x)

        def bound(condition: Tensor | None) -> Tensor:
            return iwae_bound(self, x, draws, EVALUATION_SEED, self.embed(condition, rows), chunk)

        if condition is None and known is not None and known.kind in ("class", "attributes"):
            return LogProb(marginal(known, rows, x.device, bound, drawn=True), "bound")
        if condition is None and known is not None and not self.condition_dropout:
            raise UserError(
                f"this model knows the density of data given their {known.kind} alone, of which none was hidden in training "
                "(condition_dropout=0): give the condition."
            )
        return LogProb(bound(condition), "bound")
