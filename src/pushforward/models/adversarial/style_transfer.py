"""Style transfer by adaptive instance normalisation: an image is decoded from its own features, whose channels are given the
means and deviations that those of another image have.

f is an encoder whose maps keep their places, g a decoder. For a content c and a style s, with mean mu and deviation sigma of
each channel over its places,

    AdaIN(x, y) = sigma(y) (x - mu(x)) / sigma(x) + mu(y),       t = AdaIN(f(c), f(s)),       output g(t).

Where things are is in t as it is in f(c); textures and colours are in its statistics. g learns both,

    L = L_c + lambda L_s,    L_c = |f(g(t)) - t|^2,    L_s = sum_l |mu_l(g(t)) - mu_l(s)|^2 + |sigma_l(g(t)) - sigma_l(s)|^2,

l over the layers of f, and translates with any style that it has not seen. Between both is a line: alpha t + (1 - alpha) f(c).

The paper's f is VGG-19, trained on ImageNet. Here f is the encoder of an autoencoder of the data, |h(f(x)) - x|^2 with a
decoder h of its own: a player beside that of g, for which f is frozen. Any other encoder can be given, and then stays as it is.
Features of such encoders have no scale of their own, as VGG's have, so that L_c and each layer of L_s are divided by the
variance of the features. g has a third term, |g(f(x)) - x|^2, so that with alpha = 0 the output is a reconstruction.

The styles of a batch are its images: those of the other class where the data have two, else any. When all has been learned, the
mean statistics of each class are kept as the style of those who ask for no other.

There is no critic in it; it stands with pix2pix and CycleGAN because it does what they do, and takes what they take.

Huang and Belongie 2017, "Arbitrary style transfer in real-time with adaptive instance normalization", arXiv:1703.06868.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pushforward.data.batches import Batch
from pushforward.data.spec import DataSpec
from pushforward.errors import UserError
from pushforward.models.contract import Generator, Loss, OptimizerSettings, Player, Update, device_of
from pushforward.nets.conditioning import checked_classes
from pushforward.nets.translators import check_size, halved
from pushforward.randomness import Rng

EPS = 1e-5  # beside a variance


def statistics(h: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c 1 1"], Float[Tensor, "b c 1 1"]]:
    """The mean of each channel over its places, and its deviation."""
    h = h.float()
    variance, mean = torch.var_mean(h, (2, 3), correction=0, keepdim=True)
    return mean, (variance + EPS).sqrt()


def adain(
    h: Float[Tensor, "b c h w"], mean: Float[Tensor, "#b c 1 1"], deviation: Float[Tensor, "#b c 1 1"]
) -> Float[Tensor, "b c h w"]:
    """Features whose channels have this mean and deviation, and are else as they were.

    >>> h = torch.tensor([[[[0.0, 2.0, 4.0]]]])
    >>> adain(h, torch.tensor([[[[10.0]]]]), statistics(2 * h)[1]).round().flatten().tolist()
    [6.0, 10.0, 14.0]
    """
    own_mean, own_deviation = statistics(h)
    return deviation * ((h.float() - own_mean) / own_deviation) + mean


class Encoder(nn.Module):
    """Images (B, C, H, W) -> a map of features after each halving and, first, at full size; the last is what is restyled.

    Args:
        channels: of the images.
        width: channels at full size, doubled at each halving.
        halvings: how many.
    """

    def __init__(self, channels: int, width: int, halvings: int):
        super().__init__()
        self.layers = nn.ModuleList()
        for level in range(halvings + 1):
            outputs = width * 2**level
            halve = [nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)] if level else []
            self.layers.append(nn.Sequential(*halve, _mirrored(channels, outputs)))
            channels = outputs

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        found: list[Tensor] = []
        for layer in self.layers:
            found.append(layer(x if not found else torch.relu(found[-1])))
        return found


class Decoder(nn.Module):
    """The mirror image: features (B, channels, h, w) -> images (B, *shape) in [-1, 1], without any normalisation, which would
    take the style away. sizes: of the maps, from (H, W) to (h, w)."""

    def __init__(self, channels: int, shape: tuple[int, ...], width: int, sizes: list[tuple[int, int]]):
        super().__init__()
        self.layers = nn.ModuleList()
        for level in range(len(sizes) - 1, -1, -1):
            outputs = width * 2 ** max(0, level - 1)
            inner = nn.Sequential(_mirrored(channels, outputs), nn.ReLU())
            doubled = nn.Upsample(size=sizes[level - 1], mode="nearest") if level else _mirrored(outputs, shape[0])
            self.layers.append(nn.Sequential(inner, doubled))
            channels = outputs

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        for layer in self.layers:
            h = layer(h)
        return torch.tanh(h)


def _mirrored(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that keeps the size, and the scale of what rectified units give it."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


def _error(decoder: nn.Module | None, h: Tensor, x: Tensor) -> Tensor:
    """The mean square of what a decoder does not give back of images x of these features."""
    assert decoder is not None
    return (decoder(h).float() - x.float()).square().mean()


class StyleTransfer(nn.Module):
    """An encoder and a decoder of images in [-1, 1], with the style of one image given to another between them.

    Translates, with any image for the style; has no likelihood, and nothing to sample from but images.

    Args:
        spec: the data: images; with two classes each learns to take the style of the other.
        style_weight: of the statistics (lambda).
        reconstruction_weight: of the error of a reconstruction, in the decoder's loss.
        width: channels at full size of both networks, doubled at each halving.
        halvings: of the image, down to the features that are restyled: more restyle larger structures.
        learning_rate: of both players.
        encoder_network: your own module instead, which stays as it is: images (B, *shape) -> features (B, c, h, w), or a list
            of them, from fine to coarse.
    """

    style_mean: Tensor
    style_deviation: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        style_weight: float = 1.0,
        reconstruction_weight: float = 10.0,
        width: int = 16,
        halvings: int = 2,
        learning_rate: float = 1e-3,
        encoder_network: nn.Module | None = None,
    ):
        super().__init__()
        if spec.kind != "image":
            raise UserError(f"style transfer learns images, and '{spec.name}' holds {spec.kind}; load images.")
        if style_weight < 0 or reconstruction_weight < 0:
            raise UserError(
                f"style_weight = {style_weight} and reconstruction_weight = {reconstruction_weight} were given; they are >= 0."
            )
        check_size(*spec.shape[1:])
        most = len(halved(*spec.shape[1:])) - 1 - 2  # 4 places on the longer side are statistics of something
        if encoder_network is None and not 1 <= halvings <= most:
            raise UserError(f"halvings = {halvings} was given; images of {spec.shape[1]}x{spec.shape[2]} can have 1 to {most}.")
        self.spec = spec
        self.style_weight, self.reconstruction_weight = style_weight, reconstruction_weight
        self.optimizer = OptimizerSettings(learning_rate, kind="adam", clip=1.0)
        self.taught = encoder_network is None
        self.encoder = Encoder(spec.shape[0], width, halvings) if encoder_network is None else encoder_network
        if not self.taught:
            self.encoder.requires_grad_(False).eval()
        with torch.no_grad():
            channels, *size = self._features(torch.zeros(1, *spec.shape))[-1].shape[1:]
        finer = [side for side in halved(*spec.shape[1:]) if side != (*size,) and side[0] >= size[0] and side[1] >= size[1]]
        sizes = [*finer, (size[0], size[1])]
        self.decoder = Decoder(channels, spec.shape, width, sizes)
        self.reader = Decoder(channels, spec.shape, width, sizes) if self.taught else None  # h
        self.two = spec.classes == 2
        self.register_buffer("style_mean", torch.zeros(2 if self.two else 1, channels, 1, 1))
        self.register_buffer("style_deviation", torch.ones(2 if self.two else 1, channels, 1, 1))

    def players(self) -> list[Player]:
        """The encoder's turn, unless it was given, the decoder's, and at the end the mean styles."""
        decoder = Player("decoder", self.decoder, self.decoder_loss, optimizer=self.optimizer)
        styles = Player("mean style", self, update=self.keep_styles, at_end=True)
        if not self.taught:
            return [decoder, styles]
        decoder.validates = True
        own = [part for part in (self.encoder, self.reader) if part is not None]
        encoder = Player("encoder", own, self.encoder_loss, optimizer=self.optimizer, validates=False)
        return [encoder, decoder, styles]

    def encoder_loss(self, batch: Batch, rng: Rng) -> Loss:
        """Mean square of what the encoder's own decoder does not give back of a number, in the model's units."""
        error = _error(self.reader, self._features(batch.x)[-1], batch.x)
        return Loss(error)

    def decoder_loss(self, batch: Batch, rng: Rng) -> Loss:
        """Content, style and reconstruction, each image of the batch in the style of another."""
        with torch.no_grad():
            features = self._features(batch.x)
            partner = self.partners(batch, rng)
            styles = [statistics(h[partner]) for h in features]
            t = adain(features[-1], *styles[-1])
            scales = [h.float().var((0, 2, 3), correction=0).mean() + EPS for h in features]
        made = self._features(self.decoder(t.to(batch.x.dtype)))
        content = (made[-1].float() - t).square().mean() / scales[-1]
        style = content.new_zeros(())
        for h, wanted, scale in zip(made, styles, scales, strict=True):
            for found, aim in zip(statistics(h), wanted, strict=True):
                style = style + (found - aim).square().mean() / scale
        error = _error(self.decoder, features[-1], batch.x)
        terms = {"content": content.detach(), "style": style.detach(), "reconstruction": error.detach()}
        return Loss(content + self.style_weight * style + self.reconstruction_weight * error, terms)

    def partners(self, batch: Batch, rng: Rng) -> Int[Tensor, " b"]:
        """The row whose style each row takes: one of the other class by chance, where the data have two and the batch has such;
        else any other of the batch."""
        rows = len(batch)
        draws = rng.rand(rows, rows)
        if self.two:
            classes = self._classes(batch)
            return (draws + (classes[:, None] != classes)).argmax(1)
        return draws.fill_diagonal_(-1).argmax(1)

    def keep_styles(self, batches: Iterable[Batch], rng: Rng) -> Update:
        """The mean statistics of the features of each class."""
        sums = [torch.zeros_like(self.style_mean, dtype=torch.float64) for _ in range(2)]
        counts = torch.zeros(len(self.style_mean), dtype=torch.float64, device=self.style_mean.device)
        for batch in batches:
            own = nn.functional.one_hot(self._classes(batch), len(counts)).double()
            counts += own.sum(0)
            for total, found in zip(sums, statistics(self._features(batch.x)[-1]), strict=True):
                total += torch.einsum("bk,bcij->kcij", own, found.double())
        for kept, total in zip((self.style_mean, self.style_deviation), sums, strict=True):
            kept.copy_(total / counts.clamp(min=1).view(-1, 1, 1, 1))
        return Update({"images": float(counts.sum())}, finished=True)

    @torch.no_grad()
    def translate(
        self,
        x: Float[Tensor, "b *shape"],
        *,
        condition: Tensor | None = None,
        generator: Generator = None,
        style: Float[Tensor, "c h w"] | Float[Tensor, "n c h w"] | None = None,
        strength: float = 1.0,
    ) -> Float[Tensor, "b *shape"]:
        """Images x in another style. Nothing is random.

        style: an image in the model's units, of any height and width, for all x or one each; None: the mean style of the data,
        where these have two classes that of the other one than `condition` (None: than class 0). condition: the class (B,) of
        x.
        strength: from 0, a reconstruction, to 1; beyond it is exaggerated.
        """
        if tuple(x.shape[1:]) != tuple(self.spec.shape):
            raise UserError(f"images of shape {tuple(x.shape[1:])} were given; this model translates {tuple(self.spec.shape)}.")
        if not strength >= 0:
            raise UserError(f"strength = {strength} was given; it is 0 for none, 1 for the style as it is.")
        x = x.to(device_of(self))
        h = self._features(x)[-1].float()
        if style is None:
            domains = checked_classes(condition, len(x), 2) if self.two else None
            other = 1 - domains.to(x.device) if domains is not None else torch.full((len(x),), int(self.two), device=x.device)
            mean, deviation = self.style_mean[other], self.style_deviation[other]
        else:
            styles = style if style.dim() == 4 else style[None]
            if len(styles) not in (1, len(x)):
                raise UserError(f"{len(styles)} styles were given for {len(x)} images; give one for all, or one each.")
            mean, deviation = statistics(self._features(styles.to(x))[-1])
        t = adain(h, mean, deviation)
        return self.decoder((h + strength * (t - h)).to(x.dtype)).float()

    @torch.no_grad()
    def diagnose(self, x: Float[Tensor, "b *shape"], *, condition: Tensor | None = None) -> dict[str, float]:
        """reconstruction_error: the mean absolute error of a number at strength 0, in the model's units."""
        again = self.translate(x, strength=0.0)
        return {"reconstruction_error": float((again - x.float()).abs().mean())}

    def _features(self, x: Tensor) -> list[Tensor]:
        """The layers of f, the one that is restyled last."""
        found = self.encoder(x)
        found = [found] if isinstance(found, Tensor) else list(found)
        if any(h.dim() != 4 for h in found):
            shapes = ", ".join(str(tuple(h.shape[1:])) for h in found)
            raise UserError(f"the encoder gives features of shape {shapes}; maps are needed (channels, height, width).")
        return found

    def _classes(self, batch: Batch) -> Int[Tensor, " b"]:
        """The class of each row where there are two, else 0."""
        if not self.two:
            return torch.zeros(len(batch), dtype=torch.long, device=batch.x.device)
        if batch.condition is None:
            raise UserError("the model was built for images in two classes, and these data come without.")
        return batch.condition.long()
