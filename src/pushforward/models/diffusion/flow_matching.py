"""The name under which the zoo still knows the family."""

from pushforward.models.diffusion.diffusion import Diffusion as FlowMatching

__all__ = ["FlowMatching"]
