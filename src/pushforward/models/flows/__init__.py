"""Normalizing flows: bijections between data and noise, with the exact density of the data."""
