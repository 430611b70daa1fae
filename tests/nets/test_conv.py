"""The convolutional encoder and decoder take any size, and treat every image alone."""

import pytest
import torch

from pushforward.nets.conv import ConvDecoder, ConvEncoder, pyramid

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 23), (4, 72, 72), (2, 16, 24), (1, 128, 9), (3, 5, 6), (1, 13, 128)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [0, 1])
def test_shapes(shape, depth):
    encoder = ConvEncoder(shape, 6, width=8, depth=depth, embedding=4, hidden=16)
    decoder = ConvDecoder(3, shape, width=8, depth=depth, embedding=4, hidden=16)
    for rows in (1, 3, shape[-1]):
        assert encoder(torch.randn(rows, *shape), torch.randn(rows, 4)).shape == (rows, 6)
        assert decoder(torch.randn(rows, 3), torch.randn(rows, 4)).shape == (rows, *shape)
    assert all(4 <= n <= 7 for n in pyramid(*shape[1:])[-1])


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_rows_do_not_meet_and_every_pixel_is_reached(shape):
    torch.manual_seed(0)
    encoder, decoder = ConvEncoder(shape, 6, width=8, depth=1), ConvDecoder(3, shape, width=8, depth=1)
    x, z = torch.randn(5, *shape, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    torch.testing.assert_close(encoder(x)[2:3], encoder(x[2:3]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder(z)[2:3], decoder(z[2:3]), rtol=1e-4, atol=1e-5)
    (seen,) = torch.autograd.grad(encoder(x).square().sum(), x)
    assert (seen != 0).all(), "a pixel that the encoder does not see"
    assert (decoder(z).std(0) > 0).all(), "a pixel that the code does not change"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    encoder, decoder = ConvEncoder((1, 8, 8), 6).to(dtype), ConvDecoder(3, (1, 8, 8)).to(dtype)
    assert decoder(encoder(torch.randn(2, 1, 8, 8, dtype=dtype))[:, :3]).dtype == dtype
