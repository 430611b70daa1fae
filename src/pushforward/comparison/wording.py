"""The sentences of the pages: what pictures, measures and kinds of likelihood say."""

from __future__ import annotations

# What the pictures of a run show, in the order of the page.
CAPTIONS = {
    "samples": "Samples of the trained model, not selected.",
    "trajectory": "How samples come about: from noise (t = 1) to data (t = 0).",
    "translations": "Held-out images, and what the model turns them into.",
    "reconstructions": "Data and what the model makes of their codes.",
    "neighbours": "Samples and the training data nearest to them: were they copied?",
    "interpolation": "From one datum to another through the latent space.",
    "training": "Raw values faint, their moving mean bold, the last mean at the right.",
}

# What a measure says, by the beginning of its name.
MEANINGS = {
    "fid": "Distance between the Gaussians fitted to features of samples and of held-out data; biased upwards at small n.",
    "frechet": "Distance between the Gaussians fitted to features of samples and of held-out data; biased upwards at small n.",
    "fréchet": "Distance between the Gaussians fitted to features of samples and of held-out data; biased upwards at small n.",
    "kid": "Distance between the features of samples and of held-out data (cubic MMD); unbiased, so it can be negative.",
    "mmd": "Distance between samples and held-out data by a kernel; unbiased, so it can be negative.",
    "precision": "Share of samples that lie where data lie: fidelity.",
    "recall": "Share of data that lie where samples lie: diversity.",
    "density": "How many data's neighbourhoods hold a sample, on average: fidelity, robust to outliers; can exceed 1.",
    "coverage": "Share of data with a sample in their neighbourhood: diversity.",
    "sliced wasserstein": "Mean distance that mass has to travel between samples and data, along random directions.",
    "wasserstein": "Distance that mass has to travel to turn the samples into held-out data.",
    "energy": "Energy distance between samples and held-out data.",
    "told from real": "How well a classifier tells samples from held-out data: 0.5 is not at all.",
    "train on synthetic": "Accuracy on real data of a classifier that was fitted on samples alone.",
    "asked class": "Share of samples that a classifier recognises as the class that was asked for.",
    "worst class": "The same for the class that is recognised least often.",
    "class mix": "How far the mix of classes among samples is from that of the data.",
    "nearest training": "How near samples are to training data, compared with new data; well below 1: copying.",
    "suspected copies": "Share of samples nearer to a training datum than new data ever are.",
    "membership": "Can the likelihood tell who was in the training set? 0.5: no.",
    "train-test gap": "How much likelier training data are than new data: what was learned by heart.",
    "samples where data are": "Share of samples where the data's own density is not negligible.",
    "log-likelihood": "How likely held-out data are under the model.",
    "bits per": "Bits to store held-out data with this model.",
    "nats per": "How surprised the model is by each token of held-out text.",
    "perplexity": "Between how many equally likely tokens the model hesitates on held-out text.",
    "distinct": "How varied the text is, or the rows of codes.",
    "copied": "How much of the samples stands in the training data just so.",
    "active units": "Latent dimensions that say something about a datum.",
    "codebook perplexity": "How many entries of the codebook are in use, as if equally often.",
    "kl per unit": "How much a latent dimension says about a datum, on average.",
    "parameters": "How many numbers were learned.",
    "model size": "Memory that the model takes.",
    "sampling speed": "How fast samples are made.",
    "training time": "How long the training took.",
    "updates": "How many times the weights were changed.",
    "examples seen": "How many data the training saw, repeats included.",
}

KINDS = {
    "exact": "Exact: the model's own likelihood",
    "bound": "Bound: the model's likelihood is at least this good; never ranked against exact figures",
    "estimate": "Estimate: with a numerical error of its own; never ranked against exact figures",
}


def meaning(name: str) -> str:
    """What a measure says, in one line, or nothing where it is not known.

    >>> meaning("coverage")
    'Share of data with a sample in their neighbourhood: diversity.'
    """
    return next((text for start, text in MEANINGS.items() if name.lower().startswith(start)), "")


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(7.25), duration(75), duration(7325)
    ('7.2 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
