"""Do samples show what their captions say?

Caption retrieval: of ten captions, a sample's own and nine others by chance, is its own the one that fits it best? R@1 is the
share of samples of which it is: 0.1 by chance, and of held-out real images what can be reached. (Reed et al. 2016,
arXiv:1605.05396, ask people; R-precision of Xu et al. 2018, arXiv:1711.10485, asks a network, among 100.)

What fits is the inner product of two unit vectors, of an image and of a caption, by two encoders that are trained on real pairs
(Radford et al. 2021, arXiv:2103.00020): in a batch each image finds its caption and each caption its image,

    min  -1/2 E_i [log softmax_j(<u_i, v_j> / tau)_i + log softmax_j(<u_j, v_i> / tau)_i].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.errors import UserError
from pushforward.measures.intervals import bootstrap_mean
from pushforward.measures.measure import Measure, paired
from pushforward.nets.conv import ConvEncoder
from pushforward.nets.text import TextEncoder
from pushforward.randomness import mix, seeded

AMONG = 10
WIDTH = 64  # of the vectors of images and captions
SHARPEST = 100.0  # 1 / tau is at most this, as in CLIP


def retrieved(
    similarity: Float[np.ndarray, "n m"], own: Int[np.ndarray, "n"], among: int = AMONG, seed: int = 0
) -> Float[np.ndarray, "n"]:
    """Whether row i is most similar to its own caption own[i], of `among` different ones: 1 or 0, and 1/k where k tie.

    similarity: of each of n images to each of m captions, no two of which are the same. The others are drawn by (seed, i).
    Raises UserError where there are fewer captions than `among`.

    >>> retrieved(np.array([[0.9, 0.1], [0.8, 0.3], [0.5, 0.5]]), np.array([0, 1, 1]), among=2).tolist()
    [1.0, 0.0, 0.5]
    """
    captions = similarity.shape[1]
    if not 2 <= among <= captions:
        raise UserError(
            f"retrieval among {among} captions was asked for; there are {captions} different ones, and 2 are needed."
        )
    hits = np.empty(len(similarity))
    for i, (row, mine) in enumerate(zip(similarity, own, strict=True)):
        others = np.random.default_rng(mix(seed, 0x2E7, i)).permutation(captions - 1)[: among - 1]
        rivals = row[others + (others >= mine)]
        hits[i] = 0.0 if (rivals > row[mine]).any() else 1.0 / (1 + (rivals == row[mine]).sum())
    return hits


class Matcher(nn.Module):
    """Images (B, C, H, W) in [-1, 1] and captions (B, L) as unit vectors of one space, and how sharply they are compared.

    Args:
        shape: (C, H, W) of an image. vocabulary_size, length: of captions.
    """

    def __init__(self, shape: tuple[int, ...], vocabulary_size: int, length: int, width: int = 32):
        super().__init__()
        self.image = ConvEncoder(shape, WIDTH, width=width)
        self.text = TextEncoder(vocabulary_size, length, WIDTH)
        self.log_sharpness = nn.Parameter(torch.tensor(10.0).log())

    def images(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return F.normalize(self.image(x), dim=1)

    def captions(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        return F.normalize(self.text(ids), dim=1)

    def loss(self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b l"]) -> Float[Tensor, ""]:
        """InfoNCE in nats. Where captions come twice in the batch, each of them is right."""
        return info_nce(
            self.log_sharpness.exp().clamp(max=SHARPEST) * self.images(x) @ self.captions(ids).T,
            (ids[:, None] == ids).all(-1),
        )


def info_nce(logits: Float[Tensor, "b b"], same: Bool[Tensor, "b b"]) -> Float[Tensor, ""]:
    """-log of the probability that images (rows) give to their captions (columns), and these to those, in the mean. same: which
    captions are the same; they share what is given to them."""
    right = logits.masked_fill(~same, -torch.inf)
    found, placed = (right.logsumexp(side) - logits.logsumexp(side) for side in (1, 0))
    return -(found.mean() + placed.mean()) / 2


def fitted_matcher(
    x: Float[Tensor, "n c h w"],
    ids: Int[Tensor, "n l"],
    vocabulary_size: int,
    steps: int = 500,
    batch_size: int = 64,
    seed: int = 0,
    say: Callable[[str, float], None] = lambda what, fraction: None,
) -> Matcher:
    """A matcher of real pairs: images in [-1, 1] with their captions as token ids, filled up with 0."""
    with seeded(mix(seed, 0xC119)):
        matcher = Matcher(tuple(x.shape[1:]), vocabulary_size, ids.shape[1])
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=2e-3, weight_decay=0.05, foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(mix(seed, 0xC119))
    for step in range(steps):
        rows = torch.randint(len(x), (min(batch_size, len(x)),), generator=generator)
        optimizer.zero_grad()
        matcher.loss(x[rows], ids[rows]).backward()
        optimizer.step()
        schedule.step()
        say("learning what captions say", (step + 1) / steps)
    return matcher.eval()


def caption_hits(
    matcher: Matcher, x: Float[Tensor, "n c h w"], ids: Int[Tensor, "n l"], among: int = AMONG, seed: int = 0
) -> Float[np.ndarray, "n"]:
    """`retrieved` of images x and the captions that they were asked for, among the different ones of these."""
    different, own = ids.unique(dim=0, return_inverse=True)
    with torch.inference_mode():
        images = torch.cat([matcher.images(part) for part in x.split(512)])
        captions = torch.cat([matcher.captions(part) for part in different.split(512)])
    return retrieved((images @ captions.T).double().numpy(), own.numpy(), among, seed)


def retrieval_measures(
    samples: Sequence[float] | np.ndarray, real: Sequence[float] | np.ndarray, among: int, seed: int, how: str
) -> list[Measure]:
    """R@1 of samples beside that of held-out real images with their own captions. how: the matcher, in words."""
    ours, floor = (
        (float(hits.mean()), *bootstrap_mean(hits, seed)) for hits in (np.asarray(samples, float), np.asarray(real, float))
    )
    what = f"share of samples whose caption fits best of {among} (by chance {1 / among:.2f}), {how}"
    return [paired("caption retrieved (R@1)", ours, floor, "higher", "share", len(samples), what, "labels")]
