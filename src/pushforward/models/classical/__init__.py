"""Densities in closed form: one Gaussian, and mixtures of them by expectation-maximisation."""
