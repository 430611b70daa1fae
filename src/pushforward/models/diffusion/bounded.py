"""What diffusions that are trained on the variational bound have in common: their density is that bound."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pushforward.models.contract import Generator, LogProb
from pushforward.models.diffusion.diffusion import Diffusion, as_log_prob


class BoundedDiffusion(Diffusion):
    """A diffusion whose `log_prob` is minus its bound. The ODE's is `Diffusion.log_prob(model, x)`."""

    @property
    def mass(self) -> bool:
        """Whether the bound is of a probability: that of the levels of an image."""
        return self.spec.kind == "image"

    def log_prob(  # type: ignore[override]
        self,
        x: Float[Tensor, "b *shape"],
        *,
        condition: Tensor | None = None,
        terms: int = 32,
        draws: int = 2,
        generator: Generator = 0,
    ) -> LogProb:
        """A lower bound on log p(x), nats: minus `bound`; of levels, as the density that is constant over each."""
        return as_log_prob(self.bound(x, condition=condition, terms=terms, draws=draws, generator=generator), self.spec)
