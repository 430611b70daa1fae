"""Diffusion and flow matching: a time-dependent field learned by regression, samples by a differential equation."""
