"""Metrics on features of images, feature extractors, and the protocol that travels with each number."""
