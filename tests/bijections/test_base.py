import torch
from check_bijections import check, jacobian

from pushforward.bijections.base import Bijection, Chain, Inverted


class Cubed(Bijection):
    """y = x^3 + c x: c > 0 from the context or 1."""

    def forward(self, x, context=None):
        c = 1.0 if context is None else context
        return x**3 + c * x, (3 * x**2 + c).log().sum(1)

    def inverse(self, y, context=None):
        c, x = (1.0 if context is None else context), y.clone()
        for _ in range(200):  # Newton
            x = x - (x**3 + c * x - y) / (3 * x**2 + c)
        return x


class Turned(Bijection):
    """A quarter of a turn and a scale of 2."""

    def forward(self, x, context=None):
        return 2 * torch.stack([-x[:, 1], x[:, 0]], 1), x.new_full((len(x),), 4.0).log()

    def inverse(self, y, context=None):
        return torch.stack([y[:, 1], -y[:, 0]], 1) / 2


def points(n=4):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def test_a_chain_is_a_bijection_in_the_order_given():
    x = points().double()
    chain = Chain([Cubed(), Turned()])
    check(chain, x)
    torch.testing.assert_close(chain(x)[0], Turned()(Cubed()(x)[0])[0])


def test_the_context_reaches_all_parts():
    x, c = points(), torch.tensor([[0.5], [1.0], [2.0], [3.0]])
    check(Chain([Cubed(), Turned(), Cubed()]), x, c)
    chain = Chain([Cubed(), Cubed()]).double()
    assert not torch.allclose(chain(x.double(), c.double())[0], chain(x.double())[0])


def test_the_other_way_round():
    x = points()
    check(Inverted(Chain([Cubed(), Turned()])), x)
    twice = Inverted(Inverted(Cubed()))
    for found, expected in zip(twice(x.double()), Cubed()(x.double()), strict=True):
        torch.testing.assert_close(found, expected)


def test_log_determinants_are_single_at_least():
    chain = Chain([Turned()])
    assert chain(points().bfloat16())[1].dtype == torch.float32
    assert jacobian(lambda x: Turned()(x)[0], points()[0]).shape == (2, 2)


def test_starting_goes_through_the_chain():
    class Centred(Turned):
        def start(self, x, context=None):
            self.mean = x.mean(0)
            return self(x, context)[0]

    chain = Chain([Centred(), Centred()])
    x = points(100)
    chain.start(x)
    torch.testing.assert_close(chain.parts[1].mean, Turned()(x)[0].mean(0))
