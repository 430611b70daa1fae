"""How data and fakes are shown to the critic: augmented, then noisy or diffused, in both sides' turns alike.

What is done can grow as the critic gets surer of its data: the probability of augmentations (ADA), the last step of the
diffusion (Diffusion-GAN). Both are buffers that move after the critic's updates.

Zhao et al. 2020, arXiv:2006.10738; Karras et al. 2020, arXiv:2006.06676; Sonderby et al. 2017, arXiv:1610.04490; Wang et al.
2023, arXiv:2206.02262.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from pushforward.models.adversarial.diffused import AdaptiveDiffusion
from pushforward.models.adversarial.stabilisers import instance_noise
from pushforward.nets.augmentation import AdaptiveProbability, augment
from pushforward.randomness import Rng


class View(nn.Module):
    """What is done to x (B, *shape) ahead of the critic.

    Args:
        stabilisers: name -> strength; those that change data are taken.
        boundary: the output above which the critic says "real".
    """

    def __init__(self, stabilisers: Mapping[str, float], boundary: float | None):
        super().__init__()
        self.probability, self.sigma = stabilisers.get("augmentation", 0.0), stabilisers.get("instance-noise", 0.0)
        self.adaptive: AdaptiveProbability | None = None
        self.diffusion: AdaptiveDiffusion | None = None
        if "adaptive-augmentation" in stabilisers:
            self.adaptive = AdaptiveProbability(stabilisers["adaptive-augmentation"], boundary=boundary or 0.0)
        if "diffusion" in stabilisers:
            self.diffusion = AdaptiveDiffusion(stabilisers["diffusion"], boundary=boundary or 0.0)

    @property
    def adapts(self) -> bool:
        """Whether `after_update` wants to see the critic's logits for real data."""
        return self.adaptive is not None or self.diffusion is not None

    def times(self, rows: int, rng: Rng) -> Float[Tensor, " b"] | None:
        """How diffused each row is to be shown, a datum and the fake beside it alike."""
        return None if self.diffusion is None else self.diffusion.draw(rows, rng)

    def forward(
        self, x: Float[Tensor, "b *shape"], t: Float[Tensor, " b"] | None, progress: float, rng: Rng
    ) -> Float[Tensor, "b *shape"]:
        """x as it is shown, diffused to t."""
        if self.adaptive is not None or self.probability:
            x = augment(x, self.probability if self.adaptive is None else self.adaptive.p, rng)
        if self.sigma:
            x = instance_noise(x, self.sigma, progress, rng)
        return x if self.diffusion is None or t is None else self.diffusion.diffuse(x, t, rng)

    def after_update(self, real: Float[Tensor, " n"]) -> None:
        """real: the critic's logits for the real data of an update, as they were shown."""
        for part in (self.adaptive, self.diffusion):
            if part is not None:
                part.after_update(real)
