"""Measuring: pure functions on samples and features, then one `evaluate`."""
