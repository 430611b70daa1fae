"""THE table: every method by name. A new method is one file and one line here.

A line says where the class is, which of its settings make the method, how long it trains by default, and where it comes
from. Classes are named, not imported, so that the table can be read without torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pushforward.data.spec import Kind

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Method:
    """One line of the zoo. `kinds`: the data that it learns. `training`: defaults of `pf.train` for it. `page`: of the docs,
    where that is not called as the method."""

    family: str
    path: str
    summary: str
    paper: str
    kinds: tuple[Kind, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    page: str = ""

    def load(self) -> type[nn.Module]:
        """The class."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(f"pushforward.models.{module}"), name)


VECTORS: tuple[Kind, ...] = ("point", "table", "series")
CONTINUOUS: tuple[Kind, ...] = ("image", "field", *VECTORS)
IMAGES: tuple[Kind, ...] = ("image", "field")


def _gan(
    summary: str,
    paper: str,
    *,
    page: str = "gan",
    kinds: tuple[Kind, ...] = CONTINUOUS,
    path: str = "adversarial.gan:GAN",
    steps: int = 2_500,
    batch_size: int = 128,
    **settings: Any,
) -> Method:
    """A line of the adversarial family, most of which are settings of one class."""
    return Method("adversarial", path, summary, paper, kinds, settings, {"steps": steps, "batch_size": batch_size}, page)


# What SNGAN, SAGAN and BigGAN have in common
SPECTRAL: dict[str, Any] = {
    "page": "gan-networks",
    "kinds": IMAGES,
    "steps": 3_000,
    "batch_size": 64,
    "objective": "hinge",
    "regulariser": "spectral",
    "critic_steps": 2,
    "learning_rate": 1e-3,
    "critic_learning_rate": 2e-3,
    "width": 16,
}

ZOO: dict[str, Method] = {
    "gaussian": Method(
        "classical",
        "classical.gaussian:Gaussian",
        "One Gaussian by maximum likelihood or posterior, if asked in its leading eigen-directions",
        "Tipping and Bishop 1999",
        CONTINUOUS,
        training={"steps": 1},
    ),
    "gmm": Method(
        "classical",
        "classical.mixture:GaussianMixture",
        "A mixture of Gaussians by expectation-maximisation",
        "Dempster, Laird and Rubin 1977",
        CONTINUOUS,
        training={"steps": 100},
    ),
    "autoencoder": Method(
        "autoencoders",
        "autoencoders.autoencoder:Autoencoder",
        "Autoencoder: give the data back from a narrow code; samples from a mixture fitted to the codes",
        "Hinton and Salakhutdinov 2006",
        CONTINUOUS,
        training={"steps": 2_500, "batch_size": 128},
    ),
    "linear-autoencoder": Method(
        "autoencoders",
        "autoencoders.autoencoder:Autoencoder",
        "Autoencoder with linear maps: principal components by gradient descent",
        "Baldi and Hornik 1989",
        CONTINUOUS,
        settings={"network": "linear", "codes": "gaussian"},
        training={"steps": 1_500, "batch_size": 128},
        page="autoencoder",
    ),
    "denoising-autoencoder": Method(
        "autoencoders",
        "autoencoders.denoising:DenoisingAutoencoder",
        "Give clean data back from noisy ones, and learn the score of the smoothed data",
        "Vincent et al. 2008; Alain and Bengio 2014, arXiv:1211.4246",
        CONTINUOUS,
        training={"steps": 2_500, "batch_size": 128},
        page="autoencoder",
    ),
    "rae-l2": Method(
        "autoencoders",
        "autoencoders.autoencoder:Autoencoder",
        "Regularised autoencoder: short codes and a decoder with small weights in the place of noise",
        "Ghosh et al. 2020, arXiv:1903.12436",
        CONTINUOUS,
        settings={"code_penalty": 1e-2, "decoder_penalty": 1e-3},
        training={"steps": 2_500, "batch_size": 128},
        page="autoencoder",
    ),
    "latent-gmm": Method(
        "autoencoders",
        "autoencoders.autoencoder:Autoencoder",
        "Autoencoder with a mixture of 40 Gaussians of its codes",
        "Ghosh et al. 2020, arXiv:1903.12436",
        CONTINUOUS,
        settings={"codes": "gmm", "components": 40},
        training={"steps": 2_500, "batch_size": 128},
        page="autoencoder",
    ),
    "glo": Method(
        "autoencoders",
        "autoencoders.glo:GLO",
        "Generative latent optimisation: a generator and a learned code for each datum, no encoder",
        "Bojanowski et al. 2018, arXiv:1707.05776",
        CONTINUOUS,
        training={"steps": 3_000, "batch_size": 128},
    ),
    "swae": Method(
        "autoencoders",
        "autoencoders.sliced_wasserstein:SlicedWassersteinAE",
        "Sliced-Wasserstein autoencoder: codes pressed to a prior by sorted shadows",
        "Kolouri et al. 2018, arXiv:1804.01947",
        CONTINUOUS,
        training={"steps": 2_500, "batch_size": 256},
    ),
    "vae": Method(
        "variational",
        "variational.vae:VAE",
        "Variational autoencoder: an encoder, a decoder and a bound on the likelihood",
        "Kingma and Welling 2014, arXiv:1312.6114",
        CONTINUOUS,
        training={"steps": 4_000, "batch_size": 128},
    ),
    "beta-vae": Method(
        "variational",
        "variational.vae:VAE",
        "VAE with a heavier KL: fewer, more independent latents",
        "Higgins et al. 2017",
        CONTINUOUS,
        settings={"beta": 4.0},
        training={"steps": 4_000, "batch_size": 128},
        page="vae",
    ),
    "iwae": Method(
        "variational",
        "variational.vae:VAE",
        "VAE trained on the importance-weighted bound",
        "Burda et al. 2016, arXiv:1509.00519",
        CONTINUOUS,
        settings={"objective": "iwae", "draws": 5},
        training={"steps": 4_000, "batch_size": 128},
    ),
    "iaf-vae": Method(
        "variational",
        "variational.vae:VAE",
        "VAE whose posterior is an inverse autoregressive flow",
        "Kingma et al. 2016, arXiv:1606.04934",
        CONTINUOUS,
        settings={"posterior": "iaf"},
        training={"steps": 4_000, "batch_size": 128},
        page="vae",
    ),
    "hierarchical-vae": Method(
        "variational",
        "variational.hierarchical:HierarchicalVAE",
        "VAE with levels of latents, coarse before fine",
        "Child 2021, arXiv:2011.10650",
        CONTINUOUS,
        settings={"free_bits": 1.0},
        training={"steps": 2_000, "batch_size": 64},
    ),
    "ladder-vae": Method(
        "variational",
        "variational.hierarchical:HierarchicalVAE",
        "Hierarchical VAE whose posterior is the prior times what the data say",
        "Sonderby et al. 2016, arXiv:1602.02282",
        CONTINUOUS,
        settings={"levels": 5, "posterior": "precision"},
        training={"steps": 2_000, "batch_size": 64},
        page="hierarchical-vae",
    ),
    "very-deep-vae": Method(
        "variational",
        "variational.hierarchical:HierarchicalVAE",
        "Hierarchical VAE with many levels",
        "Child 2021, arXiv:2011.10650",
        CONTINUOUS,
        settings={"levels": 12},
        training={"steps": 3_000, "batch_size": 64},
        page="hierarchical-vae",
    ),
    "vq-vae": Method(
        "variational",
        "variational.quantised:VQVAE",
        "VQ-VAE: an autoencoder whose codes are integers, its codebook learned by moving averages",
        "van den Oord et al. 2017, arXiv:1711.00937",
        CONTINUOUS,
        training={"steps": 4_000, "batch_size": 32},
    ),
    "vq-vae-2": Method(
        "variational",
        "variational.vq_vae_2:VQVAE2",
        "VQ-VAE-2: two grids of integer codes, coarse and fine",
        "Razavi et al. 2019, arXiv:1906.00446",
        ("image", "field"),
        training={"steps": 4_000, "batch_size": 32},
        page="vq-vae",
    ),
    "dvae": Method(
        "variational",
        "variational.quantised:VQVAE",
        "Discrete VAE: integer codes drawn by the Gumbel-softmax",
        "Jang et al. 2017, arXiv:1611.01144; Ramesh et al. 2021, arXiv:2102.12092",
        CONTINUOUS,
        settings={"quantiser": "gumbel", "beta": 0.1, "sigma": "learned"},
        training={"steps": 4_000, "batch_size": 32},
        page="vq-vae",
    ),
    "fsq-vae": Method(
        "variational",
        "variational.quantised:VQVAE",
        "Finite scalar quantisation: channels rounded to levels, no codebook",
        "Mentzer et al. 2023, arXiv:2309.15505",
        CONTINUOUS,
        settings={"quantiser": "fsq"},
        training={"steps": 4_000, "batch_size": 32},
        page="vq-vae",
    ),
    "gan": _gan(
        "Generative adversarial network, non-saturating, with DCGAN's networks for images",
        "Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2016, arXiv:1511.06434",
    ),
    "dcgan": _gan(
        "The same by name: a GAN of strided convolutions, for images",
        "Radford et al. 2016, arXiv:1511.06434",
        kinds=IMAGES,
        network="dcgan",
    ),
    "minimax-gan": _gan(
        "GAN whose generator goes down the critic's own value, which saturates: for study",
        "Goodfellow et al. 2014, arXiv:1406.2661",
        objective="minimax",
    ),
    "lsgan": _gan(
        "GAN whose critic regresses targets for real data and fakes",
        "Mao et al. 2017, arXiv:1611.04076",
        objective="least-squares",
    ),
    "hinge-gan": _gan(
        "GAN with a margin: the critic rests where it is right by enough",
        "Lim and Ye 2017, arXiv:1705.02894",
        objective="hinge",
    ),
    "relativistic-gan": _gan(
        "GAN whose critic tells which of two is the real one",
        "Jolicoeur-Martineau 2019, arXiv:1807.00734",
        objective="relativistic",
    ),
    "r3gan": _gan(
        "Relativistic pairs with both penalties of slopes at data and at fakes: few tricks, all modes",
        "Huang et al. 2025, arXiv:2501.05441",
        steps=5000,
        batch_size=256,
        objective="relativistic",
        regulariser=["r1", "r2"],
    ),
    "wgan": _gan(
        "Wasserstein GAN: a critic whose weights are clipped, five steps ahead",
        "Arjovsky et al. 2017, arXiv:1701.07875",
        batch_size=64,
        objective="wasserstein",
        regulariser="clipping",
        critic_steps=5,
        optimizer="rmsprop",
        betas=(0.0, 0.99),
        learning_rate=5e-05,
        schedule="constant",
    ),
    "wgan-gp": _gan(
        "Wasserstein GAN: a critic whose slope is held at 1 by a penalty",
        "Arjovsky et al. 2017, arXiv:1701.07875; Gulrajani et al. 2017, arXiv:1704.00028",
        batch_size=64,
        objective="wasserstein",
        regulariser="gradient-penalty",
        critic_steps=5,
        betas=(0.0, 0.9),
    ),
    "wgan-orthonormal": _gan(
        "Wasserstein GAN: a critic whose slope is at most 1 by its layers",
        "Anil et al. 2019, arXiv:1811.05381",
        batch_size=64,
        objective="wasserstein",
        network="orthonormal",
        critic_steps=5,
        betas=(0.0, 0.9),
    ),
    "dragan": _gan(
        "GAN whose critic has slope 1 around the data", "Kodali et al. 2017, arXiv:1705.07215", regulariser="dragan"
    ),
    **{
        f"fgan-{name}": _gan(f"GAN that goes down {said}", "Nowozin et al. 2016, arXiv:1606.00709", objective=f"f-{name}")
        for name, said in (
            ("kl", "the Kullback-Leibler divergence of data from model"),
            ("reverse-kl", "the Kullback-Leibler divergence of model from data"),
            ("pearson", "Pearson's chi-squared"),
            ("squared-hellinger", "the squared Hellinger distance"),
            ("jensen-shannon", "the Jensen-Shannon divergence"),
            ("total-variation", "total variation"),
        )
    },
    "sngan": _gan(
        "Residual networks, a spectrally normalised critic, classes by projection",
        "Miyato et al. 2018, arXiv:1802.05957",
        network="residual",
        betas=(0.0, 0.9),
        **SPECTRAL,
    ),
    "sagan": _gan(
        "The same with self-attention",
        "Zhang et al. 2019, arXiv:1805.08318",
        network="self-attention",
        betas=(0.0, 0.9),
        **SPECTRAL,
    ),
    "biggan": _gan(
        "The same with z in chunks for all blocks, and orthogonal weights",
        "Brock et al. 2019, arXiv:1809.11096",
        network="biggan",
        betas=(0.0, 0.999),
        **SPECTRAL,
    ),
    "progan": _gan(
        "A GAN that grows from coarse images to fine ones while it trains",
        "Karras et al. 2018, arXiv:1710.10196",
        page="gan-networks",
        kinds=IMAGES,
        steps=3000,
        batch_size=64,
        network="progressive",
        objective="wasserstein",
        regulariser="gradient-penalty",
        stabilisers=["minibatch-deviation"],
        learning_rate=0.002,
        betas=(0.0, 0.99),
        network_options={"complete": 0.4},
        width=16,
    ),
    "stylegan": _gan(
        "A generator with a style for each layer, by adaptive instance norms",
        "Karras et al. 2019, arXiv:1812.04948",
        page="stylegan",
        kinds=IMAGES,
        path="adversarial.style:StyleGAN",
        steps=3000,
        batch_size=64,
        network="style",
        network_options={"modulation": "adain"},
        stabilisers={"style-mixing": 0.9, "minibatch-deviation": 4},
        learning_rate=0.002,
        betas=(0.0, 0.99),
        schedule="constant",
    ),
    "stylegan2": _gan(
        "A generator with a style for each layer, by modulated weights, and path lengths",
        "Karras et al. 2020, arXiv:1912.04958",
        page="stylegan",
        kinds=IMAGES,
        path="adversarial.style:StyleGAN",
        steps=3000,
        batch_size=64,
        network="style",
        regulariser={"r1": {"weight": 0.5, "every": 16}},
        stabilisers={"style-mixing": 0.9, "path-length": 2.0, "minibatch-deviation": 4},
        learning_rate=0.002,
        betas=(0.0, 0.99),
        schedule="constant",
    ),
    "ebgan": _gan(
        "GAN whose critic is an autoencoder, low where data are, with a margin",
        "Zhao et al. 2017, arXiv:1609.03126",
        page="energy-gan",
        kinds=IMAGES,
        objective="energy",
        learning_rate=0.002,
        latent_dim=16,
        network_options={"hidden": 32},
        network="autoencoder",
        stabilisers=["pulling-away"],
    ),
    "began": _gan(
        "GAN whose critic is an autoencoder, held in equilibrium with the generator",
        "Berthelot et al. 2017, arXiv:1703.10717",
        page="energy-gan",
        kinds=IMAGES,
        objective="equilibrium",
        objective_options={"gamma": 1.0, "rate": 0.02},
        learning_rate=0.002,
        latent_dim=16,
        network_options={"hidden": 8},
        network="autoencoder",
    ),
    "cgan": _gan(
        "Conditional GAN: both networks are told the class",
        "Mirza and Osindero 2014, arXiv:1411.1784",
        page="conditional-gan",
        conditioning="concatenation",
    ),
    "acgan": _gan(
        "GAN whose critic says the class, too",
        "Odena et al. 2017, arXiv:1610.09585",
        page="conditional-gan",
        conditioning="classifier",
    ),
    "projection-gan": _gan(
        "Conditional GAN: the class is projected onto the critic's features",
        "Miyato and Koyama 2018, arXiv:1802.05637",
        page="conditional-gan",
        conditioning="projection",
    ),
    "infogan": _gan(
        "GAN with codes that can be seen in what it makes, found without labels",
        "Chen et al. 2016, arXiv:1606.03657",
        page="conditional-gan",
        conditioning="none",
        categorical=(10,),
        continuous=2,
        latent_dim=4,
    ),
    "semi-supervised-gan": _gan(
        "GAN whose critic classifies with few labels, fakes being one class more",
        "Salimans et al. 2016, arXiv:1606.03498",
        page="conditional-gan",
        conditioning="semi-supervised",
        labelled=0.1,
        stabilisers=["feature-matching"],
    ),
    "gmv": _gan(
        "GAN of content and view, learned from pairs of one class",
        "Chen et al. 2018, arXiv:1711.00305",
        page="conditional-gan",
        content=4,
        latent_dim=16,
        regulariser={"r1": 0.02},
    ),
    "pacgan": _gan(
        "GAN whose critic judges two data together",
        "Lin et al. 2018, arXiv:1712.04086",
        page="gan-stabilisers",
        stabilisers=["packing"],
    ),
    "improved-gan": _gan(
        "Feature matching, minibatch discrimination, one-sided labels, historical averages",
        "Salimans et al. 2016, arXiv:1606.03498",
        page="gan-stabilisers",
        stabilisers={
            "feature-matching": 0.5,
            "minibatch-discrimination": 8,
            "label-smoothing": 0.9,
            "historical-averaging": 0.001,
        },
    ),
    "diffaugment-gan": _gan(
        "GAN that sees augmented images alone: for small sets",
        "Zhao et al. 2020, arXiv:2006.10738",
        page="gan-stabilisers",
        kinds=IMAGES,
        stabilisers={"augmentation": 0.3},
    ),
    "ada-gan": _gan(
        "The same with as much augmentation as the critic needs",
        "Karras et al. 2020, arXiv:2006.06676",
        page="gan-stabilisers",
        kinds=IMAGES,
        stabilisers=["adaptive-augmentation"],
    ),
    "mgan": _gan(
        "Several generators, which the critic tells apart: for data in separate pieces",
        "Hoang et al. 2018, ICLR",
        page="gan-stabilisers",
        generators=8,
        information=0.1,
    ),
    "diffusion-gan": _gan(
        "GAN whose critic sees diffused data and fakes",
        "Wang et al. 2023, arXiv:2206.02262",
        page="diffusion-gan",
        stabilisers=["diffusion"],
    ),
    "text-gan": _gan(
        "Text to image: a GAN whose critic also refuses images beside another caption",
        "Reed et al. 2016, arXiv:1605.05396",
        page="text-gan",
        kinds=IMAGES,
        conditioning="projection",
        mismatched=True,
        interpolated=0.5,
    ),
    "pix2pix": _gan(
        "From pairs of images, turn the one into the other: a critic of patches, and L1",
        "Isola et al. 2017, arXiv:1611.07004",
        page="translation",
        kinds=("image",),
        path="adversarial.pix2pix:Pix2Pix",
        steps=20_000,
        batch_size=1,
    ),
    "cyclegan": _gan(
        "From two sets of images without pairs, turn each into the other and back",
        "Zhu et al. 2017, arXiv:1703.10593",
        page="translation",
        kinds=("image",),
        path="adversarial.cyclegan:CycleGAN",
        steps=20_000,
        batch_size=1,
    ),
    "style-transfer": _gan(
        "Give an image the statistics of another one's features, and decode it",
        "Huang and Belongie 2017, arXiv:1703.06868",
        page="translation",
        kinds=("image",),
        path="adversarial.style_transfer:StyleTransfer",
        steps=5_000,
        batch_size=8,
    ),
    "dd-gan": _gan(
        "A diffusion in four steps, each drawn by a conditional GAN",
        "Xiao et al. 2022, arXiv:2112.07804",
        page="diffusion-gan",
        path="adversarial.denoising_gan:DenoisingDiffusionGAN",
        steps=3_000,
    ),
    **{
        name: Method(
            "flows", "flows.flow:Flow", summary, paper, CONTINUOUS, settings, {"steps": 3_000, "batch_size": 128}, "flows"
        )
        for name, summary, paper, settings in (
            (
                "nice",
                "Flow of additive couplings",
                "Dinh et al. 2015, arXiv:1410.8516",
                {"transform": "additive", "mixing": "none"},
            ),
            (
                "realnvp",
                "Flow of affine couplings; of images by checkerboards and channels, level by level",
                "Dinh et al. 2017, arXiv:1605.08803",
                {"mixing": "none", "checkerboard": 3},
            ),
            (
                "glow",
                "Flow of affine couplings behind invertible linear maps, of images 1 x 1 convolutions",
                "Kingma and Dhariwal 2018, arXiv:1807.03039",
                {"mixing": "linear"},
            ),
            (
                "maf",
                "Masked autoregressive flow: a density in one pass",
                "Papamakarios et al. 2017, arXiv:1705.07057",
                {"form": "autoregressive", "steps": 5},
            ),
            (
                "iaf",
                "Inverse autoregressive flow: a sample in one pass",
                "Kingma et al. 2016, arXiv:1606.04934",
                {"form": "inverse-autoregressive", "steps": 5},
            ),
            (
                "nsf",
                "Flow of rational-quadratic splines",
                "Durkan et al. 2019, arXiv:1906.04032",
                {"transform": "spline", "steps": 4, "bins": 16},
            ),
            (
                "residual-flow",
                "Flow of residual blocks x + g(x), g a contraction",
                "Chen et al. 2019, arXiv:1906.02735",
                {"form": "residual"},
            ),
            (
                "ffjord",
                "Continuous flow: the way along a velocity, with an estimated trace",
                "Grathwohl et al. 2019, arXiv:1810.01367",
                {"form": "continuous", "steps": 1, "depth": 3, "learning_rate": 5e-3},
            ),
        )
    },
    "srflow": Method(
        "flows",
        "flows.srflow:SRFlow",
        "Flow of images given images: super-resolution with all its answers",
        "Lugmayr et al. 2020, arXiv:2006.14200",
        ("image",),
        training={"steps": 5_000, "batch_size": 32},
        page="flows",
    ),
    "gpt": Method(
        "autoregressive",
        "autoregressive.transformer:GPT",
        "Decoder-only transformer: one token after another",
        "Radford et al. 2019",
        ("tokens",),
        training={"steps": 2_500, "batch_size": 32},
    ),
    **{
        name: Method(
            "autoregressive",
            "autoregressive.pixels:PixelModel",
            summary,
            paper,
            ("image", "tokens"),
            {"learning_rate": 3e-3, **settings},
            {"steps": steps, "batch_size": 64},
            "pixelcnn",
        )
        for name, summary, paper, steps, settings in (
            (
                "pixelcnn",
                "Pixel after pixel, by masked convolutions",
                "van den Oord et al. 2016, arXiv:1601.06759",
                2_500,
                {"network": "pixelcnn"},
            ),
            (
                "gated-pixelcnn",
                "PixelCNN of gated layers in two stacks, without a blind spot",
                "van den Oord et al. 2016, arXiv:1606.05328",
                1_500,
                {"network": "gated"},
            ),
            (
                "pixelcnn++",
                "PixelCNN of residual blocks at several sizes, with a mixture of logistics for each pixel",
                "Salimans et al. 2017, arXiv:1701.05517",
                1_200,
                {"network": "plusplus"},
            ),
            (
                "row-lstm",
                "PixelRNN whose state runs down the rows",
                "van den Oord et al. 2016, arXiv:1601.06759",
                1_500,
                {"network": "row-lstm"},
            ),
            (
                "diagonal-bilstm",
                "PixelRNN whose states run along the diagonals",
                "van den Oord et al. 2016, arXiv:1601.06759",
                800,
                {"network": "diagonal-bilstm", "depth": 2},
            ),
        )
    },
    "made": Method(
        "autoregressive",
        "autoregressive.columns:MADE",
        "MADE: each column given those before it, by a mixture, a softmax or a mass",
        "Germain et al. 2015, arXiv:1502.03509; Uria et al. 2013, arXiv:1306.0186",
        VECTORS,
        training={"steps": 2_000, "batch_size": 128, "patience": 4},
    ),
    "flow-matching": Method(
        "diffusion",
        "diffusion.diffusion:Diffusion",
        "Flow matching: regress the velocity of straight paths from noise to data, sample by an ODE",
        "Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003",
        CONTINUOUS,
        training={"steps": 3_000, "batch_size": 128},
    ),
}
