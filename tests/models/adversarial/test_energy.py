"""Games of energies: the best energies of known laws, the equilibrium of BEGAN, codes that are pulled away, and autoencoders
as critics that learn."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from pushforward.errors import UserError
from pushforward.models.adversarial.energy import Equilibrium, margin_objective, pulling_away
from pushforward.nets.adversaries import MLPGenerator
from pushforward.nets.energies import AutoencoderCritic

# EBGAN

P, Q = torch.tensor([4, 3, 1, 2]), torch.tensor([1, 2, 4, 3])  # two laws on four points, in tenths
POINTS = torch.arange(4)


@pytest.mark.parametrize("margin", [0.5, 3.0])
def test_the_best_energy_is_the_margin_where_fakes_are_likelier_and_the_loss_is_that_of_total_variation(margin):
    """E = u^2 on four points, optimised freely: 0 where p > q, m where p < q, and a loss of m (1 - TV) = 0.6 m."""
    game = margin_objective(margin)
    u = torch.full((4,), 0.5 * margin**0.5, requires_grad=True)
    optimizer = torch.optim.Adam([u], lr=0.04 * margin**0.5)
    real, fake = POINTS.repeat_interleave(P), POINTS.repeat_interleave(Q)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.04 * margin**0.5 * (1 - step / 300)
        optimizer.zero_grad()
        game.critic(-u[real].square(), -u[fake].square()).backward()
        optimizer.step()
    energy = u.detach().square()
    torch.testing.assert_close(energy / margin, torch.tensor([0.0, 0.0, 1.0, 1.0]), atol=0.01, rtol=0)
    assert game.critic(-energy[real], -energy[fake]).item() == pytest.approx(0.6 * margin, rel=0.01)
    # The boundary tells on which side a point is.
    assert ((-energy > game.boundary) == (P > Q)).all()


def test_in_equilibrium_the_loss_is_the_margin_and_any_energy_below_it_serves():
    """Theorem 1 of the paper: with p = q the critic's loss is m whatever E in [0, m], and it is more for any E beyond."""
    game = margin_objective(2.0)
    for energy in (torch.zeros(50), torch.full((50,), 2.0), 2 * torch.rand(50)):
        assert game.critic(-energy, -energy).item() == pytest.approx(2.0, rel=1e-6)
    assert game.critic(torch.full((50,), -2.5), torch.full((50,), -2.5)).item() == pytest.approx(2.5)


def test_slopes_of_the_two_sides():
    real, fake = (torch.tensor(values, requires_grad=True) for values in ([-0.2, -5.0], [-0.5, -1.5]))
    game = margin_objective(1.0)
    game.critic(real, fake).backward()
    assert real.grad.tolist() == [-0.5, -0.5]  # energies of data fall, however high
    assert fake.grad.tolist() == [0.5, 0.0]  # those of fakes rise up to the margin
    fake.grad = None
    game.generator(real, fake).backward()
    assert fake.grad.tolist() == [-0.5, -0.5]  # and fall by the generator, beyond it too
    assert (game.paired, game.lipschitz, game.boundary) == (False, False, -0.5)


# BEGAN


def test_k_settles_where_fakes_have_the_share_gamma_of_the_energy_of_data():
    """A critic of two numbers a = E(x), b = E(G) that minimises a - k b + (a - 2)^2 / 2 + (b - 0.2)^2 / 2 has a = 1 and
    b = 0.2 + k: with gamma = 0.5, b = gamma a at k = 0.3."""
    game = Equilibrium(gamma=0.5, rate=0.05)
    energies = torch.tensor([2.0, 0.2], requires_grad=True)
    optimizer = torch.optim.SGD([energies], lr=0.2)
    for _ in range(800):
        optimizer.zero_grad()
        (game.critic(-energies[:1], -energies[1:]) + (energies - torch.tensor([2.0, 0.2])).square().sum() / 2).backward()
        optimizer.step()
        game.after_update(-energies[:1], -energies[1:])
    a, b = energies.tolist()
    assert (a, b, game.k.item()) == pytest.approx((1.0, 0.5, 0.3), abs=1e-4)
    assert b == pytest.approx(game.gamma * a, abs=1e-4)
    assert game.measure(-energies[:1], -energies[1:]).item() == pytest.approx(a, abs=1e-4)


def test_one_step_of_k_and_the_measure_by_hand():
    game = Equilibrium(gamma=0.7, rate=0.1)
    real, fake = -torch.tensor([1.0, 3.0]), -torch.tensor([0.5, 0.7, 0.9])  # means 2 and 0.7
    before = game.critic(real, fake)
    assert before.item() == pytest.approx(2.0) and game.generator(real, fake).item() == pytest.approx(0.7)
    assert game.k == 0  # losses change nothing
    game.after_update(real, fake)
    assert game.k.item() == pytest.approx(0.1 * (0.7 * 2 - 0.7))
    assert game.critic(real, fake).item() == pytest.approx(2 - 0.07 * 0.7)
    assert game.measure(real, fake).item() == pytest.approx(2 + 0.7)
    assert game.measure(fake, real).item() == pytest.approx(0.7 + (2 - 0.49))  # the difference counts on either side
    for _ in range(100):
        game.after_update(real, fake)
    assert game.k == 1  # no further
    for _ in range(100):
        game.after_update(fake, real)  # fakes worse than data: they need no pushing
    assert game.k == 0
    assert (game.paired, game.lipschitz, game.boundary) == (False, False, None)
    game.k.fill_(0.25)
    again = Equilibrium()
    again.load_state_dict(game.state_dict())
    assert again.k == 0.25


def test_a_generator_goes_downhill_and_a_critic_weighs_fakes_by_k():
    game = Equilibrium()
    game.k.fill_(0.25)
    real, fake = (torch.tensor([-1.0, -2.0], requires_grad=True) for _ in range(2))
    game.critic(real, fake).backward()
    assert real.grad.tolist() == [-0.5, -0.5] and fake.grad.tolist() == [0.125, 0.125]
    fake.grad = None
    game.generator(real, fake).backward()
    assert fake.grad.tolist() == [-0.5, -0.5]


def test_bfloat16_outputs_are_reduced_in_float32():
    outputs = -torch.linspace(0, 3, 999).bfloat16()
    for game in (margin_objective(1.0), Equilibrium()):
        for loss in (game.critic, game.generator):
            assert loss(outputs, outputs).dtype == torch.float32
            torch.testing.assert_close(loss(outputs, outputs), loss(outputs.float(), outputs.float()))


# Pulling away


def test_pulling_away_is_the_mean_squared_cosine_over_pairs():
    assert pulling_away(torch.ones(4, 3)).item() == pytest.approx(1)
    assert pulling_away(torch.tensor([[1.0, 2.0], [-2.0, -4.0]])).item() == pytest.approx(1)  # on a line: either way
    assert pulling_away(5 * torch.eye(4)).item() == pytest.approx(0)
    degrees = torch.tensor([0.0, 30.0, 90.0]) * math.pi / 180
    lengths = torch.tensor([[1.0], [0.2], [7.0]])
    codes = lengths * torch.stack([degrees.cos(), degrees.sin()], 1)
    assert pulling_away(codes).item() == pytest.approx((0.75 + 0.25 + 0) / 3)  # cos^2 of 30, 60 and 90 degrees
    assert pulling_away(torch.randn(1, 5)).item() == pytest.approx(0, abs=1e-6)  # no pairs
    codes = torch.randn(400, 8)
    assert pulling_away(codes).item() == pytest.approx(1 / 8, rel=0.1)  # of directions drawn at random
    assert pulling_away(torch.zeros(3, 2)).item() == 0


# The critic


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (2, 17, 9), (3, 32, 32)])
def test_an_energy_is_the_error_per_number_of_giving_x_back(shape, norm):
    critic = AutoencoderCritic(shape, 8, embedding=5, hidden=6, norm=norm).train()
    x, e = torch.randn(3, *shape), torch.randn(3, 5)
    logits, codes = critic.judged(x, e)
    assert codes.shape == (3, 6) and torch.equal(codes, critic.encoder(x, e)) and torch.equal(critic(x, e), logits)
    error = x.flatten(1) - critic.decoder(codes, e).flatten(1)
    expected = error.abs().mean(1) if norm == 1 else error.square().mean(1).sqrt()
    torch.testing.assert_close(logits, -expected)
    torch.testing.assert_close(critic(x[1:2], e[1:2]), logits[1:2])  # each row by itself
    assert (critic(x, e.flip(0)) - logits).abs()[[0, 2]].min() > 1e-6
    torch.testing.assert_close(critic(x), critic(x, torch.zeros_like(e)))
    (slope,) = torch.autograd.grad(critic(x.requires_grad_(), e).sum(), x, create_graph=True)
    slope.square().sum().backward()  # twice
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critic.encoder.parameters())


def test_the_error_of_a_datum_given_back_exactly_has_a_gradient():
    """The root's slope at 0 would be infinite, times 0."""
    critic = AutoencoderCritic((2,), 8, hidden=2)
    with torch.no_grad():
        critic.decoder.leave.weight.zero_(), critic.decoder.leave.bias.zero_()
    energy = -critic(torch.zeros(4, 2))
    energy.sum().backward()
    assert not energy.any() and all(p.grad.isfinite().all() for p in critic.parameters())


@pytest.mark.parametrize(
    "game, norm, hidden, bounded",
    [(margin_objective(0.5), 2, 32, True), (Equilibrium(gamma=1.0, rate=0.02), 1, 8, False)],
    ids=["ebgan", "began"],
)
def test_both_games_learn_digits(game, norm, hidden, bounded):
    """The energy distance of samples to data falls to less than half of that before training (seeds 0 and 1: to 0.13 and
    0.20 of it by EBGAN, to 0.25 and 0.35 by BEGAN, whose samples here are a few digits). The margin is twice the error of data.
    """
    torch.manual_seed(0)
    data = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    generator = MLPGenerator((1, 8, 8), 16, 64, 0, bounded)
    critic = AutoencoderCritic((1, 8, 8), 64, hidden=hidden, norm=norm)
    sides = [torch.optim.Adam(side.parameters(), lr=2e-3, betas=(0.5, 0.999)) for side in (critic, generator)]

    def distance() -> float:
        with torch.no_grad():
            x, y = generator(torch.randn(500, 16)).flatten(1), data[:500].flatten(1)
        return (2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).item()

    before = distance()
    for step in range(400):
        x, fake = data[torch.randint(len(data), (64,))], generator(torch.randn(64, 16))
        for side, loss, fakes in zip(sides, (game.critic, game.generator), (fake.detach(), fake), strict=True):
            side.param_groups[0]["lr"] = 2e-3 * (1 - step / 400)
            side.zero_grad()
            real_logits, fake_logits = critic(x), critic(fakes)
            loss(real_logits, fake_logits).backward()
            side.step()
        if isinstance(game, Equilibrium):
            game.after_update(real_logits, fake_logits)
    assert distance() < 0.5 * before


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="norm = 3"):
        AutoencoderCritic((2,), 8, norm=3)
    for margin in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="margin"):
            margin_objective(margin)
    for gamma in (0.0, 1.5, math.nan):
        with pytest.raises(UserError, match="gamma"):
            Equilibrium(gamma)
    with pytest.raises(UserError, match="rate = 0"):
        Equilibrium(rate=0)
