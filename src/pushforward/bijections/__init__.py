"""Invertible maps with their log-determinants: what flows, and posteriors that are flows, are made of."""
