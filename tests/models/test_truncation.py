"""Truncation by the Jacobian: on a bridge between two modes all is known in closed form."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import pushforward as pf
from pushforward.models.truncation import drawn_in, jacobian_norm, sweep, truncated_codes
from pushforward.randomness import SampleRng, as_rng

STEEP = 0.3


class Bridge(nn.Module):
    """G(z) = tanh(z / eps): two modes at -1 and 1 and a bridge between them. G'(z) = (1 - G^2) / eps falls with |z|, so that
    leaving out the steepest 1 - keep leaves |z| > c with P(|z| > c) = keep. Class 1: steepest at 2, where few codes are."""

    def decode(self, z, *, condition=None):
        shift = 0.0 if condition is None else 2.0 * condition[:, None]
        return ((z - shift) / STEEP).tanh()

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 1)


class Curved(nn.Module):
    """Several numbers in, several out, with a Jacobian that differs from code to code."""

    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def decode(self, z, *, condition=None):
        return (z.flatten(1) @ self.weight.to(z).T).sin().unflatten(1, (2, 3))

    def draw_codes(self, n, *, condition=None, generator=None):
        return as_rng(generator).randn(n, 2, 2)


def test_the_norm_is_that_of_the_jacobian():
    model = Curved()
    z = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.stack([torch.autograd.functional.jacobian(model.decode, row[None]).norm() for row in z])
    assert expected.std() > 0.1
    torch.testing.assert_close(jacobian_norm(model.decode, z), expected)
    torch.testing.assert_close(jacobian_norm(model.decode, z, probes=0), expected)


def test_hutchinsons_estimate_is_right_on_average():
    """Its square has no bias: with 4000 probes it is within 4 standard errors, sqrt(2 |J J'|^2 / 4000) at most."""
    model = Curved()
    z = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = jacobian_norm(model.decode, z, probes=0)
    found = jacobian_norm(model.decode, z, probes=4000)
    torch.testing.assert_close(found.square(), exact.square(), rtol=4 * (2 / 4000) ** 0.5, atol=0)
    few = jacobian_norm(model.decode, z, probes=2)
    assert not torch.allclose(few, exact, rtol=1e-2)
    torch.testing.assert_close(jacobian_norm(model.decode, z[1:2], probes=2), few[1:2])
    with pytest.raises(pf.UserError, match="probes"):
        jacobian_norm(model.decode, z, probes=-1)


@pytest.mark.parametrize("keep", [0.95, 0.8, 0.5])
def test_the_steepest_codes_are_left_out(keep):
    """The codes that are kept are N(0, 1) given |z| > c. The limit is the quantile of 512 draws: its share of codes is off by
    sqrt(keep (1 - keep) / 512) = 0.02 at most, c by that over the density 2 phi(c) = 0.6 to 0.8."""
    z = truncated_codes(Bridge(), 4000, keep=keep, generator=SampleRng(1))[:, 0]
    c = Normal(0.0, 1.0).icdf(torch.tensor(1 - keep / 2)).item()
    assert z.abs().min().item() == pytest.approx(c, abs=0.1)
    expected = ((2 / torch.pi) ** 0.5 * torch.exp(torch.tensor(-(c**2) / 2)) / keep).item()  # E[|z| given |z| > c]
    assert z.abs().mean().item() == pytest.approx(expected, abs=0.06)
    assert abs(z.mean().item()) < 0.08  # both modes stay


def test_precision_rises_as_codes_are_left_out():
    """A sample is good within 0.1 of a mode: |z| > b = eps artanh 0.9. Precision is min(1, P(|z| > b) / keep)."""
    shares = (1.0, 0.9, 0.8, 0.7, 0.5)
    x = sweep(Bridge(), 4000, keep=shares, seed=3)
    assert x.shape == (5, 4000, 1)
    precision = (x.abs() > 0.9).float().mean((1, 2))
    b = STEEP * torch.tensor(0.9).atanh()
    whole = 2 * Normal(0.0, 1.0).cdf(-b)
    expected = (whole / torch.tensor(shares)).clamp(max=1)
    assert whole < 0.7
    torch.testing.assert_close(precision, expected, atol=0.05, rtol=0)
    assert (precision.diff() > 0.02).all()


def test_drawing_codes_in_moves_them_onto_the_bridge():
    """What psi does to a mixture: |psi z| > b is rarer. The other half of the comparison of Tanielian et al."""
    x = sweep(Bridge(), 4000, psi=(1.0, 0.5), seed=3)
    b = STEEP * torch.tensor(0.9).atanh()
    expected = 2 * Normal(0.0, 1.0).cdf(-b / torch.tensor([1.0, 0.5]))
    torch.testing.assert_close((x.abs() > 0.9).float().mean((1, 2)), expected, atol=0.03, rtol=0)
    z = torch.tensor([[1.0, 3.0]])
    torch.testing.assert_close(drawn_in(z, 0.25, torch.tensor([1.0, -1.0])), torch.tensor([[1.0, 0.0]]))
    assert sweep(Bridge(), 3, keep=(0.9,), psi=(1.0, 0.0)).shape == (3, 3, 1)
    assert sweep(Bridge(), 3, psi=(0.0,)).abs().max() == 0


def test_no_code_depends_on_another():
    model = Bridge()
    many = truncated_codes(model, 50, keep=0.5, generator=SampleRng(2))
    torch.testing.assert_close(truncated_codes(model, 7, keep=0.5, generator=SampleRng(2)), many[:7], rtol=0, atol=0)
    torch.testing.assert_close(truncated_codes(model, 3, keep=0.5, generator=SampleRng(2, first=4)), many[4:7], rtol=0, atol=0)
    plain = model.draw_codes(50, generator=SampleRng(2))
    kept = (many == plain)[:, 0]
    assert 0.2 < kept.float().mean() < 0.8  # a flat code stays the one that was drawn
    assert torch.equal(truncated_codes(model, 50, keep=1.0, generator=SampleRng(2)), plain)


def test_what_is_flat_is_told_for_each_condition():
    """Of class 0 codes near 0 are left out, of class 1 those near 2."""
    condition = torch.tensor([0, 1] * 1000)
    z = truncated_codes(Bridge(), 2000, keep=0.7, condition=condition, generator=SampleRng(5))[:, 0]
    zero, one = z[::2], z[1::2]
    assert zero.abs().min() > 0.3 and one.abs().min() < 0.05
    c = torch.sort(Bridge().draw_codes(4000, generator=SampleRng(6))[:, 0].sub(2).abs()).values[1200]  # 30 % are nearer to 2
    assert (one - 2).abs().min().item() == pytest.approx(c.item(), abs=0.15)


def test_a_code_that_stays_too_steep_is_the_flattest_of_its_draws():
    """keep = 0.002 leaves the flattest of 512: most rows do not meet it in 64 draws, and are far out all the same."""
    z = truncated_codes(Bridge(), 200, keep=0.002, generator=SampleRng(1)).abs()
    assert z.median() > 2.2  # the largest of 64 has a median of 2.5


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: truncated_codes(Bridge(), 3, keep=0.0), "keep"),
        (lambda: truncated_codes(Bridge(), 3, keep=1.1), "keep"),
        (lambda: truncated_codes(nn.Linear(1, 1), 3), "no decoder"),
        (lambda: sweep(Bridge(), 3), "keep"),
    ],
)
def test_what_cannot_be_truncated(make, says):
    with pytest.raises(pf.UserError, match=says):
        make()
