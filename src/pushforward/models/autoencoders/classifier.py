"""A classifier that begins with an autoencoder's encoder: few labels suffice where many data without them have been seen.

The encoder was trained on all data, without labels; a linear layer on its codes is added, and both are trained on the few
data that have one. Codes are standardised by the mean and scale of the density that they came with.

Hinton and Salakhutdinov 2006, Science 313; Erhan et al. 2010, "Why does unsupervised pre-training help deep learning?",
JMLR 11.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.errors import UserError
from pushforward.models.autoencoders.autoencoder import DensityCodec
from pushforward.models.contract import Loss, OptimizerSettings, Player


class CodeClassifier(nn.Module):
    """Class logits from a copy of an autoencoder's encoder.

    `pf.train(CodeClassifier(autoencoder, classes=10), few_data, steps=300)` trains it, as any model.

    Args:
        autoencoder: Trained on data of the same shape.
        classes: How many there are.
        encoder_rate: The learning rate of the encoder, as a share of the new layer's; 0 leaves the encoder as it is.
    """

    def __init__(self, autoencoder: DensityCodec, classes: int, *, encoder_rate: float = 0.1):
        super().__init__()
        if classes < 2:
            raise UserError(f"classes={classes} was given; a classifier tells at least 2 apart.")
        if encoder_rate < 0:
            raise UserError(f"encoder_rate={encoder_rate} was given; it is a share of the learning rate, 0 or more.")
        if autoencoder.embed:
            raise UserError(
                "this encoder is told attributes beside a datum; train the autoencoder on data without (label=none)."
            )
        self.spec, self.encoder_rate, self.classes = autoencoder.spec, encoder_rate, classes
        self.encoder = copy.deepcopy(autoencoder.encoder)
        self.register_buffer("mean", autoencoder.codes.mean.clone())
        self.register_buffer("scale", autoencoder.codes.scale.clone())
        self.head = nn.Linear(autoencoder.latent_dim, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def logits(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b classes"]:
        """Of each datum's classes."""
        return self.head((self.encoder(x) - self.mean) / self.scale)

    def classify(self, x: Float[Tensor, "b *shape"]) -> Int[Tensor, " b"]:
        """The likeliest class of each datum."""
        return self.logits(x).argmax(1)

    def loss(self, batch: Batch, rng: object) -> Loss:
        """Cross-entropy in nats. Term `accuracy`: the share of the batch that is told right."""
        if batch.condition is None or batch.condition.is_floating_point():
            raise UserError("a classifier learns from data in classes, and these come without; load them with label=....")
        logits = self.logits(batch.x).float()
        right = (logits.argmax(1) == batch.condition).float().mean()
        return Loss(F.cross_entropy(logits, batch.condition), {"accuracy": right})

    def players(self) -> list[Player]:
        """The new layer, and, slower, the encoder."""
        rate = 1e-2
        players = [Player("head", self.head, loss=self.loss, optimizer=OptimizerSettings(rate, weight_decay=1e-2))]
        if self.encoder_rate:
            optimizer = OptimizerSettings(rate * self.encoder_rate, weight_decay=1e-2)
            players.append(Player("encoder", self.encoder, loss=self.loss, optimizer=optimizer))
        return players
