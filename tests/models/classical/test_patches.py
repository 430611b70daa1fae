"""Patches: extraction undone, the discarded spectrum, the Wiener estimate, and scikit-image's denoisers beaten."""

import numpy as np
import pytest
import torch
from skimage import color, data, img_as_float
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from pushforward.errors import UserError
from pushforward.models.classical import em, patches
from pushforward.models.classical.patches import Wiener, denoise, image_of, learn_prior, patches_of, projected
from pushforward.randomness import SampleRng


def grey(name: str) -> torch.Tensor:
    image = getattr(data, name)()
    return torch.from_numpy(img_as_float(color.rgb2gray(image) if image.ndim == 3 else image)).float()[None]


def noisy(clean: torch.Tensor, sigma: float) -> torch.Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1, 9, 14), (3, 8, 8), (2, 8, 21), (4, 17, 8)])
@pytest.mark.parametrize("stride", [1, 3])
def test_patches_there_and_back(shape, stride):
    image = torch.arange(float(np.prod(shape))).view(shape)
    found = patches_of(image, 8, stride)
    again = image_of(found, *shape[1:], stride)
    covered = image_of(torch.ones_like(found), *shape[1:], stride) > 0
    assert torch.allclose(again[covered], image[covered])
    assert covered.all() or stride == 3
    last = ((shape[1] - 8) // stride * stride, (shape[2] - 8) // stride * stride)
    assert torch.equal(found[-1], image[:, last[0] : last[0] + 8, last[1] : last[1] + 8])
    levels = patches_of(image.to(torch.uint8), 8, stride)
    assert levels.dtype == torch.uint8 and torch.equal(levels, found.to(torch.uint8))


@pytest.mark.parametrize("components", [1, 8, 63, 64])
def test_error_is_the_discarded_spectrum(components):
    every = patches_of(grey("camera")[:, 100:180, 150:230], 8, 2)
    kept, directions, discarded = projected(every, components)
    error = float((kept - every).double().square().flatten(1).sum(1).mean())
    assert error == pytest.approx(discarded, rel=1e-4, abs=1e-8)  # patches are float32
    values = np.linalg.eigvalsh(np.cov(every.flatten(1).double().numpy().T, bias=True))[::-1]
    assert discarded == pytest.approx(values[components:].sum(), rel=1e-6, abs=1e-9)
    flat = directions.flatten(1).double()
    np.testing.assert_allclose(flat @ flat.T, np.eye(components), atol=1e-5)


def test_estimate_is_the_conditional_mean():
    """Of one Gaussian: E[z | z + noise] by the joint covariance; its error is the trace of the conditional covariance."""
    q, noise, n = 5, 0.6, 100_000
    draw = torch.Generator().manual_seed(0)
    factor = torch.linalg.cholesky(torch.randn(12, q, generator=draw).double().T.cov())
    prior = em.Mixture(torch.ones(1).double(), torch.arange(5.0)[None].double(), factor[None])
    z = prior.means + torch.randn(n, q, generator=draw).double() @ factor.T
    found = Wiener(prior, noise)((z + noise**0.5 * torch.randn(n, q, generator=draw)).float())
    S = factor @ factor.T
    left = S - S @ torch.linalg.inv(S + noise * torch.eye(q)) @ S
    assert float((found - z).square().sum(1).mean()) == pytest.approx(float(left.trace()), rel=0.01)  # 100,000 draws: 0.3 %
    assert Wiener(prior, 1e-9)(z[:9].float()) == pytest.approx(z[:9].float(), abs=1e-4)


def test_component_is_the_most_probable():
    means = torch.tensor([[-3.0, 0.0], [3.0, 0.0]]).double()
    prior = em.Mixture(torch.tensor([0.5, 0.5]).double(), means, 0.01 * torch.eye(2).double().repeat(2, 1, 1))
    found = Wiener(prior, 1.0)(torch.tensor([[-2.0, 1.0], [0.5, -1.0]]))
    np.testing.assert_allclose(found, means, atol=1e-2)


def test_prior_of_a_noisy_image_is_freed_from_the_noise():
    """Patches that lie in a plane: what is learned from noisy ones is nearly flat outside of it."""
    rng, sigma = SampleRng(0), 0.5
    wave = torch.arange(96.0)
    clean = sum(
        float(a) * torch.sin(2 * torch.pi * wave[None] / 12 + wave[:, None] * float(b)) for a, b in rng.randn(3, 2).tolist()
    )[None]
    image = noisy(clean, sigma)
    dirty = learn_prior([image], size=4, components=1, patches=8000)
    freed = learn_prior([image], size=4, components=1, patches=8000, sigma=sigma)
    truth = learn_prior([clean], size=4, components=1, patches=8000)
    size = [(m.factor @ m.factor.mT)[0] for m in (dirty, freed, truth)]
    assert float((size[1] - size[2]).norm()) < 0.1 * float((size[0] - size[2]).norm())
    assert float(torch.linalg.eigvalsh(size[1])[0]) >= 0


@pytest.fixture(scope="module")
def prior():
    names = ("coffee", "chelsea", "coins", "rocket", "brick", "grass")
    return learn_prior([grey(name) for name in names], components=64, patches=20_000, passes=10)


@pytest.mark.parametrize("name", ["camera", "astronaut"])
def test_better_than_scikit_image(name, prior):
    """At sigma 25 of 255, on 128 x 128 pixels, with a prior from other pictures: at least 0.3 dB above the best that
    non-local means (over h) or total variation (over its weight) reach, both chosen knowing the truth."""
    sigma = 25 / 255
    clean = grey(name)[:, 100:228, 180:308]
    image = noisy(clean, sigma)

    def psnr(other) -> float:
        return peak_signal_noise_ratio(clean[0].numpy(), np.asarray(other), data_range=1)

    y = image[0].numpy()
    fast = {"fast_mode": True, "patch_size": 5, "patch_distance": 6, "sigma": sigma}
    peers = [psnr(denoise_nl_means(y, h=h * sigma, **fast)) for h in (0.6, 0.7, 0.8, 1.0)]
    peers += [psnr(denoise_tv_chambolle(y, weight=w)) for w in (0.06, 0.08, 0.1, 0.12)]
    assert psnr(denoise(image, sigma, prior)[0]) > max(peers) + 0.3


def test_a_single_image_suffices():
    sigma = 25 / 255
    clean = grey("camera")[:, 100:196, 180:276]
    image = noisy(clean, sigma)
    found = denoise(image, sigma, learn_prior([image], components=16, patches=6000, passes=8, sigma=sigma))
    gain = 10 * np.log10(float((image - clean).square().mean() / (found - clean).square().mean()))
    assert gain > 6.5  # 7.2 dB measured


@pytest.mark.parametrize("flat", [True, False])
def test_small_images_do_not_learn_their_noise(flat):
    """64 x 64 pixels of a picture, where 64 components would be 50 patches each, and 32 x 32 of grey, with the default prior:
    better than total variation (measured: 28.3 against 28.1 dB, and 32.0 against 30.1)."""
    sigma = 25 / 255
    clean = torch.full((1, 32, 32), 0.5) if flat else grey("camera")[:, 100:164, 200:264]
    image = noisy(clean, sigma)
    found = float((denoise(image, sigma) - clean).square().mean())
    rough = torch.from_numpy(denoise_tv_chambolle(image[0].numpy(), weight=0.1))
    assert found < float((rough - clean[0]).square().mean())


def test_integer_patches_are_projected_in_float32():
    whole = patches_of((255 * grey("camera")[:, :30, :30]).to(torch.uint8))
    for mine, theirs in zip(projected(whole, 5), projected(whole.float(), 5), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-4)
    assert projected(whole, 5)[1].flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * 5, abs=1e-5)


def test_bands_are_the_whole(monkeypatch):
    image = noisy(grey("camera")[:, :40, :33], 0.1)
    prior = learn_prior([image], components=3, size=5, patches=500, passes=2, sigma=0.1)
    whole = denoise(image, 0.1, prior, size=5)
    monkeypatch.setattr(patches, "BLOCK", 33 * 25 * 7)
    np.testing.assert_allclose(denoise(image, 0.1, prior, size=5), whole, atol=1e-5)


@pytest.mark.parametrize("needed", [(7, 9, 4, 24, 32), (12, 12, 8, 25, 128)])
def test_an_image_with_too_few_patches_is_an_error(needed):
    """It would come back nearly as it was: the prior would have learned the noise."""
    height, width, size, found, enough = needed
    image = torch.full((1, height, width), 0.5)
    with pytest.raises(UserError, match=rf"has {found} patches of {size} x {size}, .* needs {enough}: .*prior.* smaller size"):
        denoise(image, 0.1, size=size)
    given = learn_prior([torch.rand(1, 40, 40)], size=size, components=1)
    assert denoise(image, 0.1, given, size=size).shape == image.shape
    noise = noisy(image, 0.1)
    better = (denoise(noise, 0.1, size=3) - image).square().mean() / (noise - image).square().mean()
    assert float(better) < 0.2  # a smaller size takes 7 dB away
    with pytest.raises(UserError, match="no larger than its image"):
        denoise(image, 0.1, size=height + 1)


@pytest.mark.parametrize(("height", "size"), [(11, 4), (19, 8)])
def test_enough_patches_take_most_of_the_noise_away(height, size):
    """As few as it needs, of a flat image: at least 7 dB (measured: 8.6 and 10.8)."""
    image = torch.full((1, height, height), 0.5)
    noise = noisy(image, 0.1)
    assert float((denoise(noise, 0.1, size=size) - image).square().mean() / (noise - image).square().mean()) < 0.2


@pytest.mark.parametrize(("shape", "size"), [((3, 12, 19), 4), ((4, 8, 8), 2), ((1, 4, 40), 4)])
def test_any_shape_and_constant_images(shape, size):
    for image in (torch.rand(shape, generator=torch.Generator().manual_seed(0)), torch.full(shape, 0.3)):
        found = denoise(image, 0.1, size=size)
        assert found.shape == shape and found.isfinite().all()
    np.testing.assert_allclose(found, image, atol=1e-5)


def test_errors():
    image = torch.rand(1, 10, 12)
    with pytest.raises(UserError, match="10 x 12"):
        patches_of(image, 11)
    with pytest.raises(UserError, match="sigma=0"):
        denoise(image, 0.0)
    with pytest.raises(UserError, match="have 64"):
        denoise(image, 0.1, learn_prior([image], size=4, components=1))
    with pytest.raises(UserError, match="one image at least"):
        learn_prior([])
    with pytest.raises(UserError, match=r"\[1, 3\] channels"):
        learn_prior([image, torch.rand(3, 12, 12)])
    with pytest.raises(UserError, match="1 to as many"):
        projected(patches_of(image, 4), 17)
