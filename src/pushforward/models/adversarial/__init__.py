"""Adversarial models: an objective on logits, networks, and two players."""
