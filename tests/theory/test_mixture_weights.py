"""Song and Ermon 2019, section 3.2.2: the score does not see the weights of far modes; annealing does."""

import pytest
import torch

from pushforward.distributions.known import Mixture, two_far_modes
from pushforward.dynamics.langevin import annealed_langevin, geometric_ladder, langevin, mala
from pushforward.randomness import SampleRng, UpdateRng

CHAINS = 1500
# A share of 1,500 has a standard error of at most 1.3 %; four of them.
ERROR = 4 * 0.5 / CHAINS**0.5
MIXTURE = two_far_modes()


def updates() -> UpdateRng:
    return UpdateRng(torch.Generator().manual_seed(0))


def start() -> torch.Tensor:
    """Uniform on [-8, 8]^2, as in the paper."""
    return 16 * SampleRng(0).rand(CHAINS, 2) - 8


def light(x: torch.Tensor) -> float:
    """The share of points in the mode of weight 1/5."""
    return float((x.sum(1) < 0).float().mean())


def annealed(mixture=MIXTURE) -> torch.Tensor:
    """Scores of all noise levels in closed form."""
    sigmas = geometric_ladder(10, 0.1, 20)
    scores = {sigma: mixture.noised(sigma).score for sigma in sigmas}
    return annealed_langevin(lambda x, sigma: scores[sigma](x), start(), updates(), sigmas=sigmas, step=0.1, steps=100).x


@pytest.mark.parametrize("sampler", ["langevin", "mala"])
def test_plain_langevin_shares_the_points_by_where_they_start(sampler):
    """The basins of attraction are parted by the line x + y = -log(4) / 10 (nearly): about half of the square."""
    if sampler == "langevin":
        x = langevin(MIXTURE.score, start(), updates(), step=0.05, steps=600).x
    else:
        x = mala(MIXTURE.log_prob, MIXTURE.score, start(), updates(), step=0.05, steps=600).x
    assert abs(light(x) - 0.5) < 0.05 and light(x) > 0.4
    # within its mode each chain has come to the right law
    centred = x - torch.where(x.sum(1, keepdim=True) < 0, -5.0, 5.0)
    assert abs(float(centred.mean())) < 0.1 and abs(float(centred.var()) - 1) < 0.15


def test_annealed_langevin_gets_the_weights_right():
    x = annealed()
    assert abs(light(x) - 0.2) < ERROR
    # and the modes: N(+-5, 1 + 0.1^2)
    centred = x - torch.where(x.sum(1, keepdim=True) < 0, -5.0, 5.0)
    assert abs(float(centred.mean())) < 0.1 and abs(float(centred.var()) - 1) < 0.15
    assert abs(light(MIXTURE.sample(CHAINS, SampleRng(1))) - 0.2) < ERROR


def test_between_far_modes_the_score_does_not_know_the_weights():
    """Exchanging 1/5 and 4/5 leaves the score at a point of either mode as it was: the other's share is about e^-100."""
    other = Mixture.round([0.8, 0.2], [[-5.0, -5.0], [5.0, 5.0]], 1.0)
    x = MIXTURE.sample(500, SampleRng(2)).double()
    torch.testing.assert_close(MIXTURE.score(x), other.score(x), rtol=0, atol=1e-6)
    noisy, swapped = MIXTURE.noised(8.0), other.noised(8.0)
    assert float((noisy.score(x) - swapped.score(x)).norm(dim=1).min()) > 0.01  # with noise it does
