"""Generative adversarial networks: losses, penalties and augmentations."""
