"""The diffusion transformer and its trunk: where it starts, what it sees, and an independent implementation."""

import math

import pytest
import torch

from pushforward.errors import UserError
from pushforward.nets.cross_attention import CrossAttention
from pushforward.nets.dit import SIZES, Block, DiT, Trunk, grid_turn, patch_size, sequence_turn
from pushforward.nets.transformer import attended

WIDTH, HEADS, CONTEXT = 16, 2, 6


def randomised(module, scale=0.3):
    """Layers that start at 0 would hide what is behind them."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return module.eval()


def trunk(depth=2, **options):
    return randomised(Trunk(WIDTH, depth, HEADS, 12, **options).double())


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unturned(length):
    """Positions that turn nothing."""
    return torch.ones(length, WIDTH // HEADS // 2).double(), torch.zeros(length, WIDTH // HEADS // 2).double()


@pytest.mark.parametrize("context", [None, CONTEXT])
def test_the_trunk_starts_as_the_identity(context):
    net = Trunk(WIDTH, 3, HEADS, 12, context=context)
    h = torch.randn(2, 7, WIDTH)
    given = None if context is None else torch.randn(2, 5, context)
    assert torch.equal(net(h, torch.randn(2, 12), context=given), h)


def test_a_block_is_its_equations():
    """By plain operations on the weights, each head and position by itself, pairs of channels as complex numbers."""
    block = randomised(Block(WIDTH, HEADS, 12, context=CONTEXT).double())
    w = {name: parameter.detach() for name, parameter in block.named_parameters()}
    h, e, context = draw(2, 5, WIDTH), draw(2, 12, seed=2), draw(2, 4, CONTEXT, seed=3)
    mask = torch.tensor([[True, True, False, True], [False, True, True, False]])
    size = WIDTH // HEADS

    def linear(x, name):
        return torch.einsum("...i,oi->...o", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()

    def turn(x, position):
        z = torch.complex(x[: size // 2], x[size // 2 :])
        angle = position * torch.tensor([10000 ** (-2 * i / size) for i in range(size // 2)], dtype=torch.float64)
        z = z * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag])

    def heads(x):
        return x.split(size, -1)

    expected = []
    for row in range(2):
        s1, c1, g1, s2, c2, g2 = linear(e[row], "modulation").split(WIDTH)
        x = h[row]
        q, k, v = linear(norm(x) * (1 + c1) + s1, "attention.qkv").split(WIDTH, -1)
        out = []
        for a, b, c in zip(heads(q), heads(k), heads(v), strict=True):
            turned = [torch.stack([turn(u, i) for i, u in enumerate(part)]) for part in (a, b)]
            out.append((turned[0] @ turned[1].T / math.sqrt(size)).softmax(-1) @ c)
        x = x + g1 * linear(torch.cat(out, -1), "attention.project")
        seen = norm(context[row]) * w["cross.norm.weight"] + w["cross.norm.bias"]
        q = linear(norm(x), "cross.query")
        k, v = linear(seen[mask[row]], "cross.pairs").split(WIDTH, -1)
        out = [(a @ b.T / math.sqrt(size)).softmax(-1) @ c for a, b, c in zip(heads(q), heads(k), heads(v), strict=True)]
        x = x + linear(torch.cat(out, -1), "cross.project")
        u = linear(norm(x) * (1 + c2) + s2, "perceptron.0")
        u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        expected.append(x + g2 * linear(u, "perceptron.2"))
    got = block(h, e, sequence_turn(5, size, h), None, context, mask)
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-10)


def test_without_positions_places_may_be_permuted_and_with_them_not():
    net, h, e = trunk(), draw(2, 6, WIDTH), draw(2, 12, seed=2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain = net(h, e, unturned(6))
    torch.testing.assert_close(net(h[:, order], e, unturned(6)), plain[:, order], rtol=0, atol=1e-10)
    assert (net(h[:, order], e) - net(h, e)[:, order]).abs().max() > 1e-3


def test_only_distances_count():
    """The angles of places moved along together change nothing; of a sequence, and of a grid in both directions."""
    net, h, e = trunk(), draw(2, 6, WIDTH), draw(2, 12, seed=2)
    size = WIDTH // HEADS
    cosine, sine = sequence_turn(9, size, h)
    torch.testing.assert_close(net(h, e, (cosine[3:], sine[3:])), net(h, e), rtol=0, atol=1e-10)
    large = [each.unflatten(0, (5, 7)) for each in grid_turn(5, 7, size, h)]
    moved = tuple(each[2:4, 3:6].flatten(0, 1) for each in large)
    grid = grid_turn(2, 3, size, h)
    torch.testing.assert_close(net(h, e, moved), net(h, e, grid), rtol=0, atol=1e-10)
    assert (net(h, e, grid) - net(h, e)).abs().max() > 1e-4


def test_a_grid_turns_by_rows_and_by_columns():
    cosine, sine = grid_turn(2, 3, 8, torch.zeros(1, dtype=torch.float64))
    angle = torch.atan2(sine, cosine).reshape(2, 3, 4)
    frequencies = torch.tensor([1.0, 0.01], dtype=torch.float64)
    for row in range(2):
        for column in range(3):
            expected = torch.cat([row * frequencies, column * frequencies])
            torch.testing.assert_close(angle[row, column], expected, rtol=0, atol=1e-12)


def test_masked_places_are_not_seen():
    net, h, e = trunk(context=CONTEXT), draw(2, 6, WIDTH), draw(2, 12, seed=2)
    context, other = draw(2, 4, CONTEXT, seed=3), draw(2, 4, CONTEXT, seed=4)
    mask = torch.tensor([[True, True, False, False], [True, False, True, True]])
    seen = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    changed = h.clone()
    changed[0, 4:] = draw(2, WIDTH, seed=5)
    a = net(h, e, mask=seen, context=context, context_mask=mask)
    b = net(changed, e, mask=seen, context=torch.where(mask[..., None], context, other), context_mask=mask)
    torch.testing.assert_close(a[seen], b[seen], rtol=0, atol=1e-12)
    shorter = net(h[:1, :4], e[:1], context=context[:1, :2])
    torch.testing.assert_close(a[:1, :4], shorter, rtol=0, atol=1e-10)
    assert (net(h, e, mask=seen, context=other, context_mask=mask) - a).abs().max() > 1e-3
    none = net(h, e, context=context, context_mask=torch.zeros_like(mask))
    torch.testing.assert_close(none, net(h, e), rtol=0, atol=1e-12)


def test_attention_both_ways_is_a_softmax_over_what_is_there():
    q, k, v = draw(2, 3, 5, 4), draw(2, 3, 7, 4, seed=2), draw(2, 3, 7, 4, seed=3)
    there = torch.rand(2, 7, generator=torch.Generator().manual_seed(0)) < 0.6
    scores = torch.einsum("bhqc,bhkc->bhqk", q, k) / 2
    expected = scores.masked_fill(~there[:, None, None], -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attended(q, k, v, causal=False, there=there), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attended(q, k, v, causal=False), scores.softmax(-1) @ v, rtol=0, atol=1e-12)
    half = [each.bfloat16() for each in (q, k, v)]
    # bf16 has 8 bits: 2^-8 of weights and of values of size 2 or so
    torch.testing.assert_close(attended(*half, causal=False, there=there).double(), expected, rtol=0, atol=0.03)
    torch.testing.assert_close(attended(*half, causal=False).double(), scores.softmax(-1) @ v, rtol=0, atol=0.03)
    for parts in ((q, k, v), half):
        nothing = attended(*parts, causal=False, there=torch.zeros_like(there))
        torch.testing.assert_close(nothing.double(), v.mean(2, keepdim=True).expand_as(q), rtol=0, atol=0.03)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 23), (2, 7, 5), (4, 3, 1), (1, 40, 33)])
@pytest.mark.parametrize("patch", [None, 3])
def test_shapes(shape, patch):
    net = DiT(shape, patch=patch, width=WIDTH, depth=1, heads=HEADS)
    x, t, e = torch.randn(2, *shape), torch.rand(2), torch.randn(2, WIDTH)
    assert torch.equal(net(x, t, e), torch.zeros_like(x))
    out = randomised(net)(x, t, e)
    assert out.shape == x.shape and out.isfinite().all() and net(x, t).shape == x.shape
    more = DiT(shape, patch=patch, width=WIDTH, depth=1, heads=HEADS, inputs=shape[0] + 2, outputs=2 * shape[0])
    assert more(torch.randn(2, shape[0] + 2, *shape[1:]), t).shape == (2, 2 * shape[0], *shape[1:])


def test_a_patch_comes_back_where_it_was():
    """A layer in and a layer out that copy, and no block between: only the positions are added, and these to all alike."""
    net = DiT((2, 5, 7), patch=2, width=8, depth=1, heads=1, embedding=4)
    torch.nn.init.eye_(net.enter.weight)
    torch.nn.init.zeros_(net.enter.bias)
    torch.nn.init.eye_(net.leave.weight)
    x, t = torch.randn(2, 2, 5, 7), torch.rand(2)
    far = 1e4 * x  # beside which the positions are nothing; the norm of a patch divides it by its own size
    padded = torch.nn.functional.pad(far, (0, 1, 0, 1))
    patches = torch.nn.functional.unfold(padded, 2, stride=2)  # (B, C 2 2, places)
    scale = (patches.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = torch.nn.functional.fold((patches - patches.mean(1, keepdim=True)) / scale, (6, 8), 2, stride=2)
    torch.testing.assert_close(net(far, t), expected[..., :5, :7], rtol=0, atol=0.02)


def test_rows_do_not_see_each_other_but_see_time_and_condition():
    net = randomised(DiT((2, 9, 6), patch=2, width=WIDTH, depth=2, heads=HEADS, context=CONTEXT)).double()
    x, t, e, c = draw(4, 2, 9, 6), torch.rand(4).double(), draw(4, WIDTH, seed=2), draw(4, 3, CONTEXT, seed=3)
    out = net(x, t, e, c)
    torch.testing.assert_close(out[1:3], net(x[1:3], t[1:3], e[1:3], c[1:3]), rtol=0, atol=1e-9)
    for other in (net(x, t.flip(0), e, c), net(x, t, e.flip(0), c), net(x, t, e, c.flip(0)), net(x, t, e)):
        assert (other - out).abs().amax((1, 2, 3)).min() > 1e-3


def test_patches_know_their_places():
    """Of an image that is alike everywhere, too, where distances alone would say nothing."""
    net = randomised(DiT((1, 6, 8), patch=2, width=WIDTH, depth=1, heads=HEADS)).double()
    out = net(torch.ones(1, 1, 6, 8).double(), torch.rand(1).double())
    patches = torch.nn.functional.unfold(out, 2, stride=2)[0].T
    assert (torch.cdist(patches, patches) + torch.eye(12)).min() > 1e-3


def test_every_place_sees_every_place():
    net = randomised(DiT((1, 6, 6), patch=2, width=WIDTH, depth=1, heads=HEADS)).double()
    x = draw(1, 1, 6, 6).requires_grad_()
    for place in ((0, 0), (5, 5), (2, 3)):
        (gradient,) = torch.autograd.grad(net(x, torch.rand(1).double())[0, 0][place], x)
        assert (gradient.abs() > 0).all()


def test_every_parameter_learns_after_one_update():
    """At first only the zero layers have a gradient; they let it through after two updates, to everything."""
    torch.manual_seed(0)
    net = DiT((1, 6, 6), patch=2, width=WIDTH, depth=2, heads=HEADS, context=CONTEXT)
    x, t, e, c = torch.randn(4, 1, 6, 6), torch.rand(4), torch.randn(4, WIDTH), torch.randn(4, 3, CONTEXT)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x, t, e, c) - x).square().mean().backward()
        optimizer.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def test_half_precision_is_close():
    net = randomised(DiT((3, 16, 16), width=32, depth=3, heads=2, context=CONTEXT), 0.1)
    x, t, c = torch.randn(4, 3, 16, 16), torch.rand(4), torch.randn(4, 3, CONTEXT)
    exact = net(x, t, None, c)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t, None, c)
    # 2^-8 a product, over three blocks
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_it_learns_a_blob_at_a_place():
    """Noise to the mean of data that sit at one place: what positions are for."""
    torch.manual_seed(0)
    net = DiT((1, 8, 8), patch=2, width=32, depth=2, heads=2)
    target = torch.zeros(1, 8, 8)
    target[:, 1:4, 5:7] = 1.0
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(50):
        loss = (net(torch.randn(16, 1, 8, 8), torch.rand(16)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01  # a constant leaves 0.085


def test_sizes_and_patches():
    for size in SIZES.values():
        assert size["width"] % (4 * size["heads"]) == 0
    weights = [Block(size["width"], size["heads"], size["width"]) for size in (SIZES["nano"], SIZES["tiny"])]
    assert [sum(p.numel() for p in each.parameters()) for each in weights] == [18 * w * w + 15 * w for w in (64, 128)]
    assert [patch_size(n, n) for n in (8, 16, 17, 28, 32, 64, 256)] == [1, 1, 2, 2, 2, 4, 16]
    assert patch_size(40, 3) == 1 and patch_size(512, 4) == 4


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: Trunk(15, 1, 3, 8), r"width \(15\) must be a multiple of twice the heads \(3\)"),
        (lambda: Trunk(16, 0, 2, 8), "at least 1; 16, 0, 2 and 8"),
        (lambda: Trunk(16, 1, 2, 8, 1.0), r"\[0, 1\); 1.0"),
        (lambda: DiT((64,)), "takes images"),
        (lambda: DiT((1, 8, 8), patch=0), "at least 1 pixel wide; 0"),
        (lambda: DiT((1, 8, 8), width=18, heads=3), r"width \(18\) must be a multiple of four times the heads \(3\)"),
        (lambda: CrossAttention(16, 0, 2), "at least one number; 0"),
    ],
)
def test_bad_input(build, said):
    with pytest.raises(UserError, match=said):
        build()
