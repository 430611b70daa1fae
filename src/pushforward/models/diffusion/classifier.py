"""A classifier of noisy data: what class a datum has, seen through any noise of a path, so that its slope guides a diffusion.

With x_t = alpha(t) x0 + sigma(t) noise a network learns p(c | x_t, t) by maximum likelihood,

    L = E_{t, x0, c, noise} -log p_theta(c | x_t, t),

and grad_x log p(c | x_t) added to the score of x_t makes it that of x_t given c (dynamics/guidance.py). Where alpha is small
x_t says little of c, and no slope may be invented: as log p(c | x_t) is log p(c) and something in proportion to alpha, so are
the logits, l_0 + alpha / sqrt(alpha^2 + sigma^2) l(x_t, t). Attributes are a yes or no each, independent given x_t.

The network sees x_t at a variance of about 1: it is the way down of a U-Net, and the mean over the last places, or residual
layers on flattened data. One path's classifier serves all: x_t of another is scaled to where it has as much noise.

Dhariwal and Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233; Song et al. 2021, arXiv:2011.13456.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.dynamics.paths import expand, find_path, interpolate
from pushforward.errors import UserError
from pushforward.models.contract import Loss, OptimizerSettings, Player
from pushforward.models.diffusion.backbone import is_large
from pushforward.nets.choice import chosen_network
from pushforward.nets.conditioning import checked_condition, condition_rates
from pushforward.nets.embeddings import TimeEmbedding
from pushforward.nets.mlp import ResidualMLP
from pushforward.nets.unet import Stage, group_norm, multipliers
from pushforward.randomness import Rng


class NoisyClassifier(nn.Module):
    """p(c | x_t) of classes, or of attributes, at every noise of a path. It learns, and guides: it draws nothing.

    Args:
        spec: what a datum is, with classes or attributes as condition.
        path: the noise that it is trained with, as of a diffusion; it guides those of any path.
        network: "mlp" (vectors, tiny images), "unet" (images), or "auto": "unet" for images larger than 8x8, else "mlp".
        width: units of the MLP's layers, or channels of the U-Net at full resolution (None: 256; 32 up to 32x32, else 64).
        depth: residual blocks of the MLP, or of the U-Net at each resolution (None: 2; 1).
        dropout: rate inside the residual blocks.
        net: your own network, any module called net(x_t, t), which gives (B, size) logits, or None.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        path: str = "linear",
        network: str = "auto",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.1,
        net: nn.Module | None = None,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.05,
    ):
        super().__init__()
        known = spec.condition
        if known is None or known.kind not in ("class", "attributes"):
            comes = f"come with a condition of kind {known.kind}" if known else "come without"
            raise UserError(
                f"a classifier learns classes or attributes, and the data '{spec.name}' {comes}; load them with label=...."
            )
        self.spec, self.known, self.path = spec, known, find_path(path)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        kind = chosen_network(network, spec, planar=("unet",))
        width = width or (256 if kind == "mlp" else 64 if is_large(spec) else 32)
        if net is None and kind == "mlp":
            net = FlatReader(spec.dimensions, known.size, width, depth or 2, dropout)
        elif net is None:
            net = Reader(spec.shape, known.size, width, depth or 1, dropout)
        rates = condition_rates(known).clamp(1e-6, 1 - 1e-6).float()
        self.net, self.base = net, nn.Parameter(rates.log() if known.kind == "class" else rates.logit())

    def logits(self, x_t: Float[Tensor, "b *shape"], t: Float[Tensor, "b"]) -> Float[Tensor, "b size"]:
        """Of the classes, or of a yes to each attribute."""
        alpha, sigma, _, _ = self.path(t)
        norm = (alpha**2 + sigma**2).sqrt()
        seen = self.net(x_t / expand(norm, x_t), t)
        return self.base + expand(alpha / norm, seen) * seen

    def log_posterior(self, condition: Tensor, x_t: Float[Tensor, "b *shape"], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """log p(c | x_t) of classes (B,) or attributes (B, A), nats. Raises UserError for others than it knows."""
        checked = checked_condition(self.known, condition, len(x_t), x_t.device, needed=True)
        assert checked is not None
        return -self._surprise(self.logits(x_t, t), checked)

    def classify(self, x: Float[Tensor, "b *shape"]) -> Tensor:
        """The likeliest class (B,), or attributes (B, A) of 0 and 1, of data without noise."""
        logits = self.logits(x, x.new_zeros(len(x)))
        return logits.argmax(1) if self.known.kind == "class" else (logits > 0).float()

    def loss(self, batch: Batch, rng: Rng) -> Loss:
        """Cross-entropy in nats, t uniform. Terms: accuracy, the share told right (of attributes, of all of them) at all t."""
        if batch.condition is None:
            raise UserError("a classifier learns from data in classes, and these come without; load them with label=....")
        t = rng.rand(len(batch))
        x_t = interpolate(self.path, batch.x, rng.randn_like(batch.x), t)
        logits = self.logits(x_t, t).float()
        told = logits.argmax(1) == batch.condition if self.known.kind == "class" else (logits > 0) == (batch.condition > 0)
        return Loss(self._surprise(logits, batch.condition).mean(), {"accuracy": told.float().mean()})

    def players(self) -> list[Player]:
        """One."""
        settings = OptimizerSettings(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        return [Player("classifier", self, self.loss, optimizer=settings)]

    def _surprise(self, logits: Tensor, condition: Tensor) -> Float[Tensor, "b"]:
        if self.known.kind == "class":
            return F.cross_entropy(logits, condition, reduction="none")
        return F.binary_cross_entropy_with_logits(logits, condition.to(logits), reduction="none").sum(1)


class FlatReader(nn.Module):
    """Residual layers on flattened data: x (B, *shape), t (B,) -> (B, outputs), 0 at first."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, dropout: float):
        super().__init__()
        self.time, self.net = TimeEmbedding(width), ResidualMLP(inputs, outputs, width, depth, width, dropout)
        nn.init.zeros_(self.net.leave[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net.leave[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Float[Tensor, "b"]) -> Float[Tensor, "b outputs"]:
        return self.net(x.flatten(1), self.time(t))


class Reader(nn.Module):
    """The way down of a U-Net and the mean over its last places: x (B, C, H, W), t (B,) -> (B, outputs), 0 at first."""

    def __init__(self, shape: tuple[int, ...], outputs: int, width: int, depth: int, dropout: float):
        super().__init__()
        channels, *size = shape
        ladder, embedding = multipliers(*size), 4 * width
        self.time, self.enter = TimeEmbedding(embedding), nn.Conv2d(channels, width, 3, padding=1)
        self.down, inputs = nn.ModuleList(), width
        for level, times in enumerate(ladder):
            if level:
                self.down.append(nn.Conv2d(inputs, inputs, 3, stride=2, padding=1))
            last = level == len(ladder) - 1
            for _ in range(depth):
                self.down.append(Stage(inputs, times * width, embedding, dropout, last, 64, None))
                inputs = times * width
        self.norm, self.leave = group_norm(inputs), nn.Linear(inputs, outputs)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, "b"]) -> Float[Tensor, "b outputs"]:
        embedded, h = self.time(t), self.enter(x)
        for layer in self.down:
            h = layer(h, embedded) if isinstance(layer, Stage) else layer(h)
        return self.leave(F.silu(self.norm(h)).mean((2, 3)))
