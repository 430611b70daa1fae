"""Measuring a run: what the measures look at, what they say in words, and one `evaluate`."""
