"""Autoencoders: an encoder and a decoder that learn to give the data back, and a density of their codes."""
