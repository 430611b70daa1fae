"""Models with latent variables, trained on a bound of their likelihood."""
