"""The earth mover's distance of two sets of points, as a critic of slope at most 1 finds it (Kantorovich and Rubinstein):

    W_1(p, q) = max over f with |f(x) - f(y)| <= |x - y| of E_p f - E_q f.

What a Wasserstein GAN's critic climbs, here for itself, between data that do not move. Exact distances of small sets are in
`distributions/transport.py`.

Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875; Anil, Lucas and Grosse 2019, arXiv:1811.05381.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.nets.lipschitz import OrthonormalCritic, OrthonormalLinear
from pushforward.randomness import mix, seeded


@torch.enable_grad()
def critic_w1(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    seed: int = 0,
    width: int = 64,
    depth: int = 3,
    steps: int = 600,
    batch: int = 512,
    learning_rate: float = 1e-2,
) -> tuple[float, float, nn.Module]:
    """W_1 by Kantorovich and Rubinstein's dual: (estimate, its standard error, the critic).

    The critic f is trained on half of the rows; the estimate E f(x) - E f(y) is taken on the other half, where f has nothing
    learned by heart: in expectation it is a lower bound of the true distance, unlike that of two finite sets. As much too
    low as the critic is not optimal.
    """
    if min(len(x), len(y)) < 4:
        raise UserError(f"{len(x)} and {len(y)} points were given; a critic needs at least four on each side.")
    centre = torch.cat([x, y]).mean(0)
    scale = (torch.cat([x, y]) - centre).square().mean().sqrt().clamp(min=1e-12)  # W_1 scales with the data
    x, y = (((z - centre) / scale).detach().float() for z in (x, y))
    with seeded(mix(seed, 0xC717)):
        trunk = OrthonormalCritic((x.shape[1],), width, depth=depth)
        critic = nn.Sequential(trunk, OrthonormalLinear(width, 1), nn.Flatten(0)).to(x.device)
    generator = torch.Generator(x.device).manual_seed(mix(seed, 0xBA7C))
    sides = [z[torch.randperm(len(z), generator=generator, device=z.device)] for z in (x, y)]
    halves = [z[: len(z) // 2] for z in sides]
    optimiser = torch.optim.Adam(critic.parameters(), learning_rate, betas=(0.5, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        a, b = (z[torch.randint(len(z), (batch,), generator=generator, device=z.device)] for z in halves)
        values = critic(torch.cat([a, b]))
        loss = values[batch:].mean() - values[:batch].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        f, g = (critic(z[len(z) // 2 :]).double() * scale.double() for z in sides)
    stderr = (f.var() / len(f) + g.var() / len(g)).sqrt()
    return float(f.mean() - g.mean()), float(stderr), critic
