"""The U-Net and the embeddings: shapes at any size, values, what starts at zero."""

import math

import pytest
import torch
from torch import nn

from pushforward.errors import UserError
from pushforward.nets.embeddings import TimedMLP, TimeEmbedding, sinusoidal
from pushforward.nets.unet import Attention, Context, Doubled, ResidualBlock, UNet, group_norm, modulated, multipliers


def randomised(module):
    """Layers that start at 0 would hide what is behind them."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def small(shape, **options):
    return UNet(shape[0], width=8, multipliers=multipliers(*shape[1:]), depth=1, embedding=16, **options)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 23), (4, 72, 72), (1, 7, 5), (2, 3, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes(shape, batch):
    net = randomised(small(shape, attention=[1]))
    x, t, e = torch.randn(batch, *shape), torch.rand(batch), torch.randn(batch, 16)
    out = net(x, t, e)
    assert out.shape == x.shape and out.isfinite().all()
    assert net(x, t).shape == x.shape


def test_no_rows():
    assert small((1, 8, 8))(torch.zeros(0, 1, 8, 8), torch.zeros(0)).shape == (0, 1, 8, 8)


def test_outputs_and_depth():
    net = UNet(3, width=12, multipliers=(1, 2), depth=3, outputs=6)
    assert net(torch.randn(2, 3, 9, 12), torch.rand(2)).shape == (2, 6, 9, 12)


def test_starts_at_zero_and_blocks_as_their_shortcuts():
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    assert torch.equal(small((1, 8, 8))(x, t), torch.zeros_like(x))
    h = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualBlock(8, 8, 16)(h, torch.randn(2, 16)), h)
    assert torch.equal(Attention(8)(h), h)
    assert torch.equal(Context(8, 5)(h, torch.randn(2, 3, 5)), h)
    assert torch.equal(TimedMLP(64, 32, 2)(x, t), torch.zeros_like(x))


@pytest.mark.parametrize("net", [small((2, 12, 9)), TimedMLP(2 * 12 * 9, 16, 2, 16)], ids=["unet", "mlp"])
def test_rows_do_not_see_each_other_but_see_time_and_condition(net):
    net = randomised(net)
    x, t, e = torch.randn(4, 2, 12, 9), torch.rand(4), torch.randn(4, 16)
    out = net(x, t, e)
    torch.testing.assert_close(out[1:3], net(x[1:3], t[1:3], e[1:3]), rtol=1e-4, atol=1e-4)
    assert (net(x, t.flip(0), e) - out).abs().amax((1, 2, 3)).min() > 1e-3
    assert (net(x, t, e.flip(0)) - out).abs().amax((1, 2, 3)).min() > 1e-3


def test_every_parameter_is_used():
    net = randomised(small((1, 16, 16), attention=[1, 2]))
    net(torch.randn(2, 1, 16, 16), torch.rand(2), torch.randn(2, 16)).square().sum().backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not unused


def test_every_parameter_learns_after_three_updates():
    """At first the layers that start at 0 keep the others' gradients to themselves."""
    torch.manual_seed(0)
    net = small((1, 8, 8), attention=[1], context=5)
    x, t, e, c = torch.randn(4, 1, 8, 8), torch.rand(4), torch.randn(4, 16), torch.randn(4, 3, 5)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        (net(x, t, e, c) - x).square().mean().backward()
        optimizer.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@pytest.mark.parametrize("size", [(4, 6), (3, 1)])
def test_doubling_is_repetition_and_a_convolution(size):
    layer = randomised(Doubled(3)).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = nn.functional.conv2d(repeated, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    wanted = torch.randn_like(expected)
    got, exact = (torch.autograd.grad((out * wanted).sum(), [layer.weight, layer.bias]) for out in (layer(x), expected))
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-12)


def test_a_context_is_read_where_its_mask_is_true():
    net = randomised(small((2, 12, 9), attention=[1], context=5, head=4)).double()
    x, t, mask = (
        torch.randn(3, 2, 12, 9).double(),
        torch.rand(3).double(),
        torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0] * 4]).bool(),
    )
    context, other = torch.randn(2, 3, 4, 5).double()
    out = net(x, t, None, context, mask)
    changed = torch.where(mask[..., None], context, other)
    torch.testing.assert_close(net(x, t, None, changed, mask), out, rtol=0, atol=1e-10)
    torch.testing.assert_close(net(x[:1], t[:1], None, context[:1, :2]), out[:1], rtol=0, atol=1e-9)
    torch.testing.assert_close(net(x[2:], t[2:]), out[2:], rtol=0, atol=1e-9)  # nothing there is no context
    assert (net(x, t, None, other, mask) - out).abs().amax((1, 2, 3))[:2].min() > 1e-3
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(net(x, t, None, context[:, order], mask[:, order]), out, rtol=0, atol=1e-9)


def test_an_image_as_condition_and_a_variance_beside_the_mean():
    net = randomised(small((2, 12, 9), inputs=5, outputs=4))
    x, t, image = torch.randn(3, 2, 12, 9), torch.rand(3), torch.randn(3, 3, 12, 9)
    out = net(torch.cat([x, image], 1), t)
    assert out.shape == (3, 4, 12, 9)
    assert (net(torch.cat([x, image.flip(0)], 1), t)[::2] - out[::2]).abs().amax((1, 2, 3)).min() > 1e-3


def test_half_precision_is_close():
    torch.manual_seed(0)
    net = UNet(3, width=16, multipliers=(1, 2), depth=1, attention=[1], embedding=16, context=5)
    for parameter in net.parameters():
        if not parameter.any():  # what starts at 0 would hide what is behind it
            nn.init.normal_(parameter, std=0.1)
    x, t, c = torch.randn(4, 3, 12, 12), torch.rand(4), torch.randn(4, 3, 5)
    exact = net(x, t, None, c)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t, None, c)
    # 2^-8 a layer, over about ten
    assert (half.float() - exact).abs().max() < 0.06 * exact.abs().max()


def test_memory_format_does_not_matter():
    net = randomised(small((3, 12, 9), attention=[1]))
    x, t = torch.randn(2, 3, 12, 9), torch.rand(2)
    last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), t)
    torch.testing.assert_close(last, net.to(memory_format=torch.contiguous_format)(x, t), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels, head, heads", [(128, 64, 2), (128, 32, 4), (96, 64, 1)])
def test_heads(channels, head, heads):
    assert Attention(channels, head).heads == heads == Context(channels, 5, head).attend.heads


def test_attention_is_softmax_attention():
    layer = randomised(Attention(128))  # two heads of 64
    x = torch.randn(2, 128, 3, 2)
    places = layer.norm(x).reshape(2, 128, 6).mT
    q, k, v = (part.reshape(2, 6, 2, 64) for part in layer.qkv(places).chunk(3, 2))
    weights = torch.einsum("bihc,bjhc->bhij", q, k).div(8).softmax(-1)
    h = layer.leave(torch.einsum("bhij,bjhc->bihc", weights, v).reshape(2, 6, 128))
    torch.testing.assert_close(layer(x), x + h.mT.reshape(x.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"width": 0}, {"multipliers": ()}, {"multipliers": (1, 0)}, {"depth": 0}, {"head": 0}])
def test_sizes_of_nothing_are_refused(options):
    with pytest.raises(UserError, match="at least 1, as must be every one of the multipliers"):
        UNet(3, **options)


@pytest.mark.parametrize("channels, groups", [(32, 8), (64, 16), (128, 32), (256, 32), (6, 1), (3, 1), (12, 2), (8, 2)])
def test_groups_divide_the_channels(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_each_row_is_normed_by_itself_and_modulated():
    norm = randomised(group_norm(12)).double()
    x, scale, shift = (torch.randn(3, 12, *rest, dtype=torch.float64) for rest in ((5, 4), (), ()))
    expected = norm(x) * (1 + scale[..., None, None]) + shift[..., None, None]
    torch.testing.assert_close(modulated(norm, x, scale, shift), expected, rtol=0, atol=1e-12)


def test_sinusoidal_values():
    # 1000 t = 1 for t = 0.001; frequencies of width 4: 1 and 1 / 100
    got = sinusoidal(torch.tensor([0.0, 0.001, 1.0], dtype=torch.float64), 4)
    expected = [[math.cos(u), math.cos(u / 100), math.sin(u), math.sin(u / 100)] for u in (0.0, 1.0, 1000.0)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    assert sinusoidal(torch.ones(2, dtype=torch.bfloat16), 4).dtype == torch.float32


def test_time_embedding_adds_the_condition():
    embed = TimeEmbedding(8)
    t, e = torch.rand(3), torch.randn(3, 8)
    raw = embed.leave(nn.functional.silu(embed.enter(sinusoidal(t, 128))))
    torch.testing.assert_close(embed(t, e), nn.functional.silu(raw + e))
    torch.testing.assert_close(embed(t), embed(t, torch.zeros(3, 8)))
